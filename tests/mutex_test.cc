#include "ebb/internal/mutex.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace ebb::test
