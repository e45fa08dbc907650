#include "ebb/internal/base/group_runner.h"

#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/base/atomic.h"
#include "gtest/gtest.h"
#include "tests/support/allocation_count.h"
#include "tests/support/step_sync.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::GroupRunner;

TEST(GroupRunnerTest, ALoneCallerRunsTheWorkEachTime) {
  int runs = 0;
  GroupRunner rounds([&] {
    ++runs;
    return absl::OkStatus();
  });
  EXPECT_TRUE(rounds.Join().ok());
  EXPECT_TRUE(rounds.Join().ok());
  EXPECT_EQ(runs, 2);
  EXPECT_FALSE(rounds.running());
}

// Callers that come while a round runs need the next one, and one is enough for all of them.
TEST(GroupRunnerTest, ARoundThatRunsAlreadyDoesNotCount) {
  StepSync steps;
  Atomic<int> runs{0};
  GroupRunner rounds([&] {
    if (runs.fetch_add(1, std::memory_order_acq_rel) == 0) {
      steps.Announce(1);  // 1 ->
      steps.Await(2);     // 2 <-
    }
    return absl::OkStatus();
  });
  std::thread first([&] { EXPECT_TRUE(rounds.Join().ok()); });
  steps.Await(1);  // 1 <-
  EXPECT_TRUE(rounds.running());
  Atomic<int> waiting{0};
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&] {
      waiting.fetch_add(1, std::memory_order_acq_rel);
      EXPECT_TRUE(rounds.Join().ok());
      EXPECT_GE(runs.load(std::memory_order_acquire), 2);
    });
  }
  while (waiting.load(std::memory_order_acquire) < 4) std::this_thread::yield();
  EXPECT_EQ(runs.load(std::memory_order_acquire), 1);
  steps.Announce(2);  // 2 ->
  first.join();
  for (std::thread& other : others) other.join();
  EXPECT_GE(runs.load(std::memory_order_acquire), 2);
  EXPECT_LE(runs.load(std::memory_order_acquire), 5);
}

TEST(GroupRunnerTest, AFailureIsTheAnswerOfItsRoundOnly) {
  int runs = 0;
  GroupRunner rounds(
      [&] { return ++runs == 2 ? absl::UnavailableError("second") : absl::OkStatus(); });
  EXPECT_TRUE(rounds.Join().ok());
  EXPECT_EQ(rounds.Join().message(), "second");
  EXPECT_TRUE(rounds.Join().ok());
}

// Otherwise every thread would wait forever for a round that no thread runs.
TEST(GroupRunnerTest, WorkWithoutMemoryEndsItsRound) {
  int runs = 0;
  GroupRunner rounds([&]() -> absl::Status {
    if (++runs != 1) return absl::OkStatus();
    FailAllocation(1);  // the handler's, if it allocates
    throw std::bad_alloc();
  });
  EXPECT_EQ(rounds.Join().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(FailAllocation(0));
  EXPECT_FALSE(rounds.running());
  EXPECT_TRUE(rounds.Join().ok());
}

TEST(GroupRunnerTest, WorkThatThrowsAnythingElseEndsItsRound) {
  int runs = 0;
  GroupRunner rounds([&]() -> absl::Status {
    if (++runs == 1) throw std::runtime_error("not ours");
    return absl::OkStatus();
  });
  EXPECT_THROW(static_cast<void>(rounds.Join()), std::runtime_error);
  EXPECT_FALSE(rounds.running());
  EXPECT_TRUE(rounds.Join().ok());
}

}  // namespace
}  // namespace ebb::test
