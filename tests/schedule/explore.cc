#include "tests/schedule/explore.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <unordered_set>

#include "tests/support/scale.h"

namespace ebb::test {
namespace {

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string ProgramName() {
  const testing::TestInfo* const info = testing::UnitTest::GetInstance()->current_test_info();
  return std::string(info->test_suite_name()) + "." + info->name();
}

// How many steps a schedule has when no fiber is left early; the largest of a few, since a program
// may choose its steps.
std::uint64_t ExpectedSteps(const std::function<void(Schedule&)>& program) {
  std::uint64_t most = 16;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    Schedule schedule(seed, 1, Schedule::Kind::kStraight);
    program(schedule);
    most = std::max(most, schedule.steps());
  }
  return most;
}

}  // namespace

std::uint64_t FindFailure(std::uint64_t count, const std::function<void(Schedule&)>& program) {
  const std::uint64_t expected_steps = ExpectedSteps(program);
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    Schedule schedule(seed, expected_steps);
    program(schedule);
    if (!schedule.failure().empty()) return seed;
  }
  return count + 1;
}

bool ReplaysOneSeed() { return std::getenv("EBB_SCHEDULE_SEED") != nullptr; }

void Explored::ExpectPerSchedule(std::string_view what, double least) {
  if (ReplaysOneSeed() || testing::Test::HasFailure()) return;
  EXPECT_GE(static_cast<double>(counts[what]), least * static_cast<double>(schedules)) << what;
}

Explored Explore(std::uint64_t count, const std::function<void(Schedule&)>& program) {
  const std::string name = ProgramName();
  const auto start = std::chrono::steady_clock::now();
  NoteForCrashes(name.c_str(), 0);
  const std::uint64_t expected_steps = ExpectedSteps(program);
  std::uint64_t first = FromEnvironment("EBB_SCHEDULE_FIRST", 1);
  count = static_cast<std::uint64_t>(std::max(1.0, static_cast<double>(count) * ScheduleScale()));
  if (ReplaysOneSeed()) {
    first = FromEnvironment("EBB_SCHEDULE_SEED", 1);
    count = 1;
  }

  Explored explored;
  std::unordered_set<std::uint64_t> traces;
  for (std::uint64_t seed = first; seed < first + count && !testing::Test::HasFailure(); ++seed) {
    NoteForCrashes(name.c_str(), seed);
    Schedule schedule(seed, expected_steps);
    program(schedule);
    ++explored.schedules;
    explored.steps += schedule.steps();
    explored.switches += schedule.switches();
    traces.insert(schedule.trace());
    for (const auto& [what, number] : schedule.counts()) explored.counts[what] += number;
    if (!schedule.failure().empty()) {
      ADD_FAILURE() << "the schedule of seed " << seed << " fails: " << schedule.failure()
                    << "\nEBB_SCHEDULE_SEED=" << seed << " replays it";
    }
  }
  explored.distinct = traces.size();
  NoteForCrashes("no program", 0);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("schedules: %s: %llu, %llu distinct, %.1f steps and %.1f switches each, %.0f/s\n",
              name.c_str(), static_cast<unsigned long long>(explored.schedules),
              static_cast<unsigned long long>(explored.distinct),
              static_cast<double>(explored.steps) / static_cast<double>(explored.schedules),
              static_cast<double>(explored.switches) / static_cast<double>(explored.schedules),
              static_cast<double>(explored.schedules) / seconds);
  for (const auto& [what, number] : explored.counts) {
    std::printf("schedules:   %.*s: %llu\n", static_cast<int>(what.size()), what.data(),
                static_cast<unsigned long long>(number));
  }
  if (!ReplaysOneSeed() && !testing::Test::HasFailure()) {
    EXPECT_EQ(explored.schedules, count);
    EXPECT_GE(explored.distinct, count / 4) << "the program leaves too little to the schedule";
  }
  return explored;
}

}  // namespace ebb::test
