// Close under schedules: calls that are running, on their fast and slow paths, while the store
// releases its files and memory.
#include <gtest/gtest.h>

#include "tests/schedule/store_program.h"

namespace ebb::test {
namespace {

using Kind = HistoryOp::Kind;
using Result = HistoryOp::Result;

// After Close has returned every call is rejected.
template <typename Program>
void CheckRefused(Schedule& schedule, Program& program) {
  auto caller = program.NewCaller();
  for (const Kind kind : {Kind::kRead, Kind::kUpsert, Kind::kRmw, Kind::kDelete, Kind::kInsert}) {
    const std::size_t place = program.Do(caller, kind, 0);
    schedule.Check(program.history().op(place).result == Result::kRefused,
                   "a call after Close is not refused");
  }
}

void CountCalls(Schedule& schedule, StoreProgram<std::string>& program) {
  std::uint64_t refused = 0;
  for (std::size_t i = 0; i < program.history().size(); ++i) {
    if (program.history().op(i).result == Result::kRefused) ++refused;
  }
  // In addition to the two that made the keys and the five that came after Close.
  schedule.Count("calls that were refused", refused - 5);
  schedule.Count("calls that succeeded", program.history().size() - refused - 2);
}

void CloseOnDevice(Schedule& schedule) {
  StoreProgram<std::string> program(schedule, StoreWithKeysOnDevice(), false);
  if (!schedule.failure().empty()) return;
  AddKeysOnDevice(program);
  AddSessions(schedule, program, 2);
  schedule.Add([&] {
    schedule.Check(program.store().Close().ok(), "no close");
    CheckRefused(schedule, program);
  });
  schedule.Run();
  CountCalls(schedule, program);
  const std::unique_ptr<SimFileSystem> files = program.files().Crash(kNothingSurvives);
  if (const auto after = program.Reopen(*files)) program.CheckHistory(after->states);
}
TEST(CloseSchedules, CallsThatRunAreWaitedForAndKept) {
  Explored explored = Explore(30000, CloseOnDevice);
  explored.ExpectPerSchedule("calls that succeeded", 0.5);
  explored.ExpectPerSchedule("calls that were refused", 0.5);
}

// Without files there is nothing to keep, and the memory of the log is freed.
void CloseInMemory(Schedule& schedule) {
  StoreProgram<std::uint64_t> program(schedule, nullptr, false);
  if (!schedule.failure().empty()) return;
  {
    auto caller = program.NewCaller();
    program.Do(caller, Kind::kUpsert, 0);
  }
  AddSessions(schedule, program, 2);
  schedule.Add([&] {
    schedule.Check(program.store().Close().ok(), "no close");
    CheckRefused(schedule, program);
  });
  schedule.Run();
  program.CheckHistory(std::nullopt);
}
TEST(CloseSchedules, NothingIsReadFromMemoryThatWasFreed) { Explore(60000, CloseInMemory); }

}  // namespace
}  // namespace ebb::test
