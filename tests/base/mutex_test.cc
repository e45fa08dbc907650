#include "ebb/internal/base/mutex.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace ebb::test {
namespace {

using internal::Mutex;
using internal::MutexLock;

bool OtherThreadCanLock(Mutex& mu) {
  bool locked = false;
  std::thread([&] {
    if (!mu.TryLock()) return;
    locked = true;
    mu.Unlock();
  }).join();
  return locked;
}

TEST(MutexTest, ScopeHoldsTheLockAndGivesItUpAtItsEnd) {
  Mutex mu;
  {
    MutexLock lock(mu);
    EXPECT_FALSE(OtherThreadCanLock(mu));
  }
  EXPECT_TRUE(OtherThreadCanLock(mu));
}

TEST(MutexTest, OnlyOneThreadIsInside) {
  constexpr int kRounds = 20000;
  Mutex mu;
  int counter = 0;  // guarded by mu
  const auto work = [&] {
    for (int i = 0; i < kRounds; ++i) {
      MutexLock lock(mu);
      ++counter;
    }
  };
  std::thread first(work);
  std::thread second(work);
  first.join();
  second.join();
  EXPECT_EQ(counter, 2 * kRounds);
}

TEST(MutexTest, AWaiterHearsOfTheChange) {
  Mutex mu;
  internal::CondVar changed;
  int turn = 0;  // guarded by mu
  std::thread other([&] {
    MutexLock lock(mu);
    while (turn != 1) changed.Wait(mu);
    turn = 2;
    changed.NotifyAll();
  });
  {
    MutexLock lock(mu);
    turn = 1;
    changed.NotifyAll();
    while (turn != 2) changed.Wait(mu);
    EXPECT_FALSE(OtherThreadCanLock(mu));
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    while (std::chrono::steady_clock::now() < until) changed.WaitUntil(mu, until);
  }
  other.join();
}

}  // namespace
}  // namespace ebb::test
