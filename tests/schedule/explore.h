// Explore: a program under many schedules, each determined by its seed.
//
//   TEST(EpochSchedules, MemoryUnderAGuardStays) {
//     Explored explored = Explore(20000, [](Schedule& schedule) {
//       ... make the shared objects; schedule.Add(...) some; schedule.Run();
//       schedule.Check(what must hold, "what does not hold");
//     });
//     explored.ExpectPerSchedule("page turns", 1.0);
//   }
//
// The first schedule that fails ends the exploration, and its seed is printed.
//
//   EBB_SCHEDULE_SEED=17    runs that seed alone (choose the test by --gtest_filter)
//   EBB_SCHEDULE_SCALE=50   that many times as many schedules; see tests/support/scale.h
//   EBB_SCHEDULE_FIRST=n    the seeds from n on; default 1
//
// A schedule depends on its seed and on the program, not on the schedules before it.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>

#include "tests/schedule/scheduler.h"

namespace ebb::test {

struct Explored {
  std::uint64_t schedules = 0;
  std::uint64_t distinct = 0;  // that left other fibers, or at other steps, than those before
  std::uint64_t steps = 0;
  std::uint64_t switches = 0;
  std::map<std::string_view, std::uint64_t> counts;  // sums of Schedule::Count

  // Checks that the program reaches its purpose; not checked for a single seed.
  void ExpectPerSchedule(std::string_view what, double least);
};

// Runs `program` under `count` schedules, times the scale, and prints the totals. A test fails if
// any schedule does, or if less than a quarter of them were distinct.
Explored Explore(std::uint64_t count, const std::function<void(Schedule&)>& program);

// For programs with an intended bug: returns the number of schedules until it is found, or count +
// 1 if it is not found.
std::uint64_t FindFailure(std::uint64_t count, const std::function<void(Schedule&)>& program);

// True when one seed is replayed, so that least counts do not apply.
bool ReplaysOneSeed();

}  // namespace ebb::test
