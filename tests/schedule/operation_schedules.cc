// Operations under schedules: sessions that act on two keys of one chain, or on one key, in a store
// in memory; alone, or while its index grows.
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

// The same with others in their row, so that entries move when it is split.
template <typename Value>
void OperationsBesideGrowth(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<Value> program(schedule, nullptr, false);
  if (!schedule.failure().empty()) return;
  auto& store = program.store();
  for (std::uint64_t id = kFirstFillKey; id < kFirstFillKey + random.Below(40); ++id) {
    Must(store.Upsert(id, Value{}));
  }
  if (random.Below(4) != 0) {
    auto caller = program.NewCaller();
    program.Do(caller, HistoryOp::Kind::kUpsert, 0);
  }
  AddSessions(schedule, program, 2 + random.Below(2), 2, 1 + random.Below(kHistoryKeys));
  const std::uint64_t doublings = 1 + random.Below(2);
  schedule.Add([&, doublings] {
    for (std::uint64_t i = 0; i < doublings; ++i) Must(store.GrowIndex());
  });
  schedule.Run();
  program.CheckHistory(program.States(store));
  program.Count();
}
TEST(OperationSchedules, UnlockedValuesAreRegistersWhileTheIndexGrows) {
  Explore(30000, OperationsBesideGrowth<std::uint64_t>);
}
TEST(OperationSchedules, LockedValuesAreRegistersWhileTheIndexGrows) {
  Explore(30000, OperationsBesideGrowth<std::string>);
}

}  // namespace
}  // namespace ebb::test
