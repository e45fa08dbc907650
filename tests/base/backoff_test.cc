#include "ebb/internal/base/backoff.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <set>
#include <thread>

namespace ebb::test {
namespace {

using internal::Backoff;

std::array<unsigned, 32> FirstWaits() {
  Backoff backoff;
  std::array<unsigned, 32> waits{};
  for (unsigned& wait : waits) wait = backoff.Wait();
  return waits;
}

// Two threads that hinder each other must not stay in step.
TEST(BackoffTest, ThreadsWaitForDifferentTimes) {
  std::array<std::array<unsigned, 32>, 4> waits{};
  for (auto& of_thread : waits) std::thread([&of_thread] { of_thread = FirstWaits(); }).join();
  for (const auto& of_thread : waits) {
    EXPECT_GT(std::set<unsigned>(of_thread.begin(), of_thread.end()).size(), 8U);
    for (const unsigned wait : of_thread) EXPECT_LT(wait, 64U);
  }
  EXPECT_EQ(std::set(waits.begin(), waits.end()).size(), waits.size());
  EXPECT_NE(FirstWaits(), FirstWaits());  // in one thread too
}

// A preempted guard holder needs a core.
TEST(BackoffTest, LongWaitsSleep) {
  Backoff backoff;
  for (int i = 0; i < 32; ++i) backoff.Wait();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 8; ++i) backoff.Wait();
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::microseconds(8 * 25));
}

}  // namespace
}  // namespace ebb::test
