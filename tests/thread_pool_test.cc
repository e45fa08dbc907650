#include "ebb/internal/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "ebb/internal/atomic.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::ThreadPool;

TEST(ThreadPoolTest, PoolWithoutThreadsRunsAJobOnlyWhenAskedTo) {
  ThreadPool pool(0);
  std::vector<int> ran;
  pool.Post([&] { ran.push_back(1); });
  pool.Post([&] { ran.push_back(2); });
  EXPECT_TRUE(ran.empty());
  EXPECT_TRUE(pool.RunOne());
  EXPECT_EQ(ran, (std::vector{1}));  // the oldest, and only that
  EXPECT_TRUE(pool.RunOne());
  EXPECT_EQ(ran, (std::vector{1, 2}));
  EXPECT_FALSE(pool.RunOne());
}

TEST(ThreadPoolTest, OneThreadRunsJobsInTheirOrder) {
  constexpr int kJobs = 1000;
  std::vector<int> ran;
  std::latch done(1);
  ThreadPool pool(1);
  for (int i = 0; i < kJobs; ++i) {
    pool.Post([&ran, i] { ran.push_back(i); });
  }
  pool.Post([&] { done.count_down(); });
  done.wait();
  ASSERT_EQ(ran.size(), static_cast<std::size_t>(kJobs));
  for (int i = 0; i < kJobs; ++i) EXPECT_EQ(ran[static_cast<std::size_t>(i)], i);
}

TEST(ThreadPoolTest, LaterJobsWaitForTheirTime) {
  const auto begin = std::chrono::steady_clock::now();
  std::latch done(2);
  std::vector<int> ran;
  ThreadPool pool(1);
  pool.PostAfter(std::chrono::milliseconds(30), [&] {
    ran.push_back(30);
    done.count_down();
  });
  pool.PostAfter(std::chrono::milliseconds(10), [&] {
    ran.push_back(10);
    done.count_down();
  });
  pool.Post([&] { ran.push_back(0); });
  done.wait();
  EXPECT_EQ(ran, (std::vector{0, 10, 30}));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(30));
}

TEST(ThreadPoolTest, LaterJobsAreDroppedByStop) {
  ThreadPool pool(1);
  pool.PostAfter(std::chrono::hours(1), [] { FAIL(); });
  pool.Stop();
  EXPECT_FALSE(pool.RunOne());
}

// Each job waits for all of them, which ends only if every thread takes one.
TEST(ThreadPoolTest, ThreadsWorkSideBySide) {
  constexpr int kThreads = 3;
  std::latch all(kThreads);
  std::latch done(kThreads);
  ThreadPool pool(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    pool.Post([&] {
      all.arrive_and_wait();
      done.count_down();
    });
  }
  done.wait();
}

TEST(ThreadPoolTest, CallerTakesJobsThatTheThreadsHaveNotBegun) {
  std::latch begun(1);
  std::latch release(1);
  bool helped = false;
  ThreadPool pool(1);
  pool.Post([&] {
    begun.count_down();
    release.wait();
  });
  begun.wait();
  pool.Post([&] { helped = true; });
  EXPECT_TRUE(pool.RunOne());  // the pool's only thread is busy
  EXPECT_TRUE(helped);
  release.count_down();
}

TEST(ThreadPoolTest, JobMayPostAJob) {
  std::latch done(1);
  ThreadPool pool(1);
  pool.Post([&] { pool.Post([&] { done.count_down(); }); });
  done.wait();
}

TEST(ThreadPoolTest, StopWaitsForTheJobThatRunsAndDropsTheOthers) {
  std::latch begun(1);
  Atomic<bool> ended{false};
  Atomic<bool> dropped_ran{false};
  ThreadPool pool(1);
  pool.Post([&] {
    begun.count_down();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ended.store(true, std::memory_order_release);
  });
  begun.wait();
  pool.Post([&] { dropped_ran.store(true, std::memory_order_release); });
  pool.Stop();
  EXPECT_TRUE(ended.load(std::memory_order_acquire));
  EXPECT_FALSE(pool.RunOne());
  EXPECT_FALSE(dropped_ran.load(std::memory_order_acquire));
}

TEST(ThreadPoolTest, StoppedPoolTakesNoJobs) {
  for (const unsigned threads : {0U, 2U}) {
    ThreadPool pool(threads);
    pool.Stop();
    pool.Stop();  // once more changes nothing
    pool.Post([] { FAIL() << "a stopped pool ran a job"; });
    EXPECT_FALSE(pool.RunOne());
  }
}

// What a job holds on to is let go even if the job never runs.
TEST(ThreadPoolTest, DroppedJobsAreDestroyed) {
  const auto held = std::make_shared<int>(1);
  {
    ThreadPool pool(0);
    pool.Post([held] {});
    EXPECT_EQ(held.use_count(), 2);
  }
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace ebb::test
