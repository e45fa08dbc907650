#include "ebb/internal/base/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "ebb/status.h"
#include "tests/support/allocation_count.h"

namespace ebb::test {
namespace {

using internal::Health;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(HealthTest, StoreIsHealthyUntilSomethingPoisonsIt) {
  const Health health;
  EXPECT_FALSE(health.poisoned());
  EXPECT_TRUE(health.status().ok());
}

TEST(HealthTest, PoisonIsUnavailableAndNamesTheCause) {
  Health health;
  health.Poison(absl::InternalError("sync of log-00000003.ebb failed"));
  EXPECT_TRUE(health.poisoned());
  EXPECT_EQ(health.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(health.status().ToString(),
              AllOf(HasSubstr("poisoned"), HasSubstr("sync of log-00000003.ebb failed")));
}

TEST(HealthTest, APoisonedStoreIsNotRecoverable) {
  Health health;
  health.Poison(absl::UnavailableError("sync of log-00000003.ebb failed"));
  EXPECT_FALSE(IsRecoverable(health.status()));
}

TEST(HealthTest, PoisonNeedsNoMemory) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  for (std::uint64_t number = 1;; ++number) {
    Health health;
    const absl::Status cause = absl::UnavailableError("sync of log-00000003.ebb failed");
    FailAllocation(number);
    health.Poison(cause);
    const bool met = FailAllocation(0);
    EXPECT_TRUE(health.poisoned());
    EXPECT_EQ(health.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(health.status().ToString(), HasSubstr("poisoned"));
    EXPECT_FALSE(IsRecoverable(health.status()));
    if (!met) break;
  }
}

TEST(HealthTest, EveryCallReportsTheFirstCausePermanently) {
  Health health;
  health.Poison(absl::UnavailableError("the first"));
  const absl::Status first = health.status();
  health.Poison(absl::UnavailableError("the second"));
  EXPECT_EQ(health.status(), first);
  EXPECT_THAT(health.status().ToString(), AllOf(HasSubstr("the first"), Not(HasSubstr("second"))));
}

TEST(HealthTest, AReadOnlyStoreRejectsChangesUntilSomethingWorseHappens) {
  Health health(/*read_only=*/true);
  EXPECT_TRUE(health.poisoned());
  EXPECT_EQ(health.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(health.status().ToString(), HasSubstr("read-only"));
  for (const char* cause : {"the first", "the second"}) {
    health.Poison(absl::UnavailableError(cause));
    EXPECT_TRUE(health.poisoned());
    EXPECT_EQ(health.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(health.status().ToString(), HasSubstr("the first"));
  }
}

TEST(HealthTest, ThreadsThatPoisonTogetherAgreeOnOneCause) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 200; ++round) {
    Health health;
    std::vector<std::string> heard(kThreads);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&health, &heard, i] {
        health.Poison(absl::UnavailableError("cause " + std::to_string(i)));
        heard[static_cast<std::size_t>(i)] = health.status().ToString();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& message : heard) EXPECT_EQ(message, heard[0]);
    EXPECT_THAT(heard[0], HasSubstr("cause "));
  }
}

}  // namespace
}  // namespace ebb::test
