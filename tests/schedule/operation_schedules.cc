// Operations under schedules: sessions that act on two keys of one chain, or on one key, and
// nothing else, in a store in memory.
#include <gtest/gtest.h>

#include "tests/schedule/store_program.h"

namespace ebb::test {
namespace {

template <typename Value>
void Operations(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<Value> program(schedule, nullptr, false);
  if (!schedule.failure().empty()) return;
  if (random.Below(4) != 0) {
    auto caller = program.NewCaller();
    program.Do(caller, HistoryOp::Kind::kUpsert, 0);
  }
  const std::size_t keys = 1 + random.Below(kHistoryKeys);
  AddSessions(schedule, program, 2 + random.Below(2), 2 + random.Below(2), keys);
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  program.Count();
}
TEST(OperationSchedules, UnlockedValuesAreRegisters) {
  Explored explored = Explore(50000, Operations<std::uint64_t>);
  explored.ExpectPerSchedule("lost publications", 0.005);
}
TEST(OperationSchedules, LockedValuesAreRegisters) {
  Explored explored = Explore(50000, Operations<std::string>);
  explored.ExpectPerSchedule("lost publications", 0.005);
}

}  // namespace
}  // namespace ebb::test
