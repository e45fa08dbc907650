#include "ebb/internal/base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>
#include <latch>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "tests/support/allocation_count.h"
#include "tests/support/step_sync.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::PoolJob;
using internal::ThreadPool;
using std::chrono::milliseconds;

TEST(ThreadPoolTest, PoolWithoutThreadsRunsAJobOnlyWhenAskedTo) {
  ThreadPool pool(0);
  std::vector<int> ran;
  PoolJob first(pool, [&] { ran.push_back(1); });
  PoolJob second(pool, [&] { ran.push_back(2); });
  first.Post();
  second.Post();
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
  std::deque<PoolJob> jobs;
  for (int i = 0; i < kJobs; ++i) {
    jobs.emplace_back(pool, [&ran, i] { ran.push_back(i); });
    jobs.back().Post();
  }
  PoolJob last(pool, [&] { done.count_down(); });
  last.Post();
  done.wait();
  ASSERT_EQ(ran.size(), static_cast<std::size_t>(kJobs));
  for (int i = 0; i < kJobs; ++i) EXPECT_EQ(ran[static_cast<std::size_t>(i)], i);
}

TEST(ThreadPoolTest, LaterJobsWaitForTheirTime) {
  const auto begin = std::chrono::steady_clock::now();
  std::latch done(2);
  std::vector<int> ran;
  ThreadPool pool(1);
  PoolJob late(pool, [&] {
    ran.push_back(30);
    done.count_down();
  });
  PoolJob early(pool, [&] {
    ran.push_back(10);
    done.count_down();
  });
  PoolJob at_once(pool, [&] { ran.push_back(0); });
  late.PostAfter(milliseconds(300));
  early.PostAfter(milliseconds(100));
  at_once.Post();
  done.wait();
  EXPECT_EQ(ran, (std::vector{0, 10, 30}));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(300));
}

TEST(ThreadPoolTest, LaterJobsAreDroppedByStop) {
  ThreadPool pool(1);
  PoolJob job(pool, [] { FAIL(); });
  job.PostAfter(std::chrono::hours(1));
  pool.Stop();
  EXPECT_FALSE(pool.RunOne());
}

// Each job waits for all of them, which ends only if every thread takes one.
TEST(ThreadPoolTest, ThreadsWorkSideBySide) {
  constexpr int kThreads = 3;
  std::latch all(kThreads);
  std::latch done(kThreads);
  ThreadPool pool(kThreads);
  std::deque<PoolJob> jobs;
  for (int i = 0; i < kThreads; ++i) {
    jobs.emplace_back(pool, [&] {
      all.arrive_and_wait();
      done.count_down();
    });
    jobs.back().Post();
  }
  done.wait();
}

TEST(ThreadPoolTest, CallerTakesJobsThatTheThreadsHaveNotBegun) {
  std::latch begun(1);
  std::latch release(1);
  bool helped = false;
  ThreadPool pool(1);
  PoolJob busy(pool, [&] {
    begun.count_down();
    release.wait();
  });
  PoolJob waiting(pool, [&] { helped = true; });
  busy.Post();
  begun.wait();
  waiting.Post();
  EXPECT_TRUE(pool.RunOne());  // the pool's only thread is busy
  EXPECT_TRUE(helped);
  release.count_down();
}

// ---- posting ----

TEST(ThreadPoolTest, AJobThatWaitsIsNotPostedTwiceAndKeepsItsEarlierTime) {
  ThreadPool pool(0);
  int count = 0;
  PoolJob job(pool, [&] { ++count; });
  job.Post();
  job.Post();
  job.PostAfter(milliseconds(0));  // later than at once
  EXPECT_TRUE(pool.RunOne());
  EXPECT_FALSE(pool.RunOne());
  EXPECT_EQ(count, 1);
  job.PostAfter(std::chrono::hours(1));
  EXPECT_FALSE(pool.RunOne());
  job.PostAfter(std::chrono::hours(2));
  job.Post();  // need not wait for its timer
  EXPECT_TRUE(pool.RunOne());
  EXPECT_FALSE(pool.RunOne());
  EXPECT_EQ(count, 2);
}

TEST(ThreadPoolTest, AJobThatIsPostedWhileItRunsRunsAgainAfterTheOthers) {
  ThreadPool pool(0);
  std::vector<int> ran;
  PoolJob other(pool, [&] { ran.push_back(2); });
  PoolJob* self = nullptr;
  PoolJob job(pool, [&] {
    ran.push_back(1);
    if (ran.size() > 1) return;
    self->Post();
    self->Post();
    other.Post();
  });
  self = &job;
  job.Post();
  while (pool.RunOne()) {
  }
  EXPECT_EQ(ran, (std::vector{1, 2, 1}));
}

// Never in two threads at the same time, however often it is posted.
TEST(ThreadPoolTest, AJobRunsInOneThreadAtATime) {
  ThreadPool pool(3);
  Atomic<int> running{0};
  Atomic<bool> at_once{false};
  Atomic<bool> has_run{false};
  int count = 0;  // without a lock, which ThreadSanitizer checks
  PoolJob job(pool, [&] {
    if (running.fetch_add(1, std::memory_order_relaxed) != 0) {
      at_once.store(true, std::memory_order_relaxed);
    }
    ++count;
    has_run.store(true, std::memory_order_relaxed);
    running.fetch_sub(1, std::memory_order_relaxed);
  });
  for (int i = 0; i < 5000 || !has_run.load(std::memory_order_relaxed); ++i) job.Post();
  pool.Stop();
  EXPECT_GE(count, 1);
  EXPECT_FALSE(at_once.load(std::memory_order_relaxed));
}

// Hazard 53: posting and running need no memory, so a lack of it cannot lose a job.
TEST(ThreadPoolTest, PostingAllocatesNothing) {
  ThreadPool pool(0);
  int count = 0;
  PoolJob job(pool, [&] { ++count; });
  PoolJob other(pool, [&] { ++count; });
  const std::uint64_t before = AllocationCount();
  for (int i = 0; i < 100; ++i) {
    job.PostAfter(std::chrono::hours(1));
    other.PostAfter(std::chrono::hours(2));
    job.Post();
    other.Post();
    while (pool.RunOne()) {
    }
    job.Post();
    job.Cancel();
  }
  EXPECT_EQ(AllocationCount(), before);
  EXPECT_EQ(count, 200);
}

// An idle thread that another one's job wakes must not be the only one to know of a timer.
TEST(ThreadPoolTest, ATimerComesInTimeWhileAnotherThreadIsBusy) {
  StepSync steps;
  ThreadPool pool(2);
  PoolJob busy(pool, [&] {
    steps.Announce(1);  // 1 ->
    steps.Await(3);     // 3 <-
  });
  PoolJob timer(pool, [&] { steps.Announce(2); });  // 2 ->
  timer.PostAfter(milliseconds(50));
  busy.Post();
  steps.Await(1);     // 1 <-
  steps.Await(2);     // 2 <- does not come if only the busy thread knows of it
  steps.Announce(3);  // 3 ->
}

// ---- exceptions ----

// Hazard 53: neither the thread nor the job's next run is lost, for any exception.
TEST(ThreadPoolTest, AJobThatThrowsLosesNeitherTheThreadNorItsTimer) {
  StepSync steps;
  ThreadPool pool(1);
  int count = 0;
  PoolJob* self = nullptr;
  PoolJob job(pool, [&] {
    self->PostAfter(milliseconds(1));
    switch (++count) {
      case 1:
        throw std::bad_alloc();
      case 2:
        throw std::runtime_error("of a callback");
      case 3:
        throw 3;
      case 4:
        steps.Announce(1);  // 1 ->
    }
  });
  self = &job;
  job.Post();
  steps.Await(1);  // 1 <-
  job.Cancel();
  EXPECT_GE(count, 4);
}

// ---- the end of a job ----

TEST(ThreadPoolTest, CancelDropsTheJobThatWaits) {
  ThreadPool pool(0);
  std::vector<int> ran;
  std::deque<PoolJob> jobs;
  for (int i = 0; i < 6; ++i) jobs.emplace_back(pool, [&ran, i] { ran.push_back(i); });
  for (PoolJob& job : jobs) job.Post();
  for (const std::size_t i : {0U, 3U, 5U}) jobs[i].Cancel();  // first, in the middle, last
  jobs[5].PostAfter(std::chrono::hours(1));
  jobs[5].Cancel();
  while (pool.RunOne()) {
  }
  EXPECT_EQ(ran, (std::vector{1, 2, 4}));
  jobs[0].Post();  // it can be posted again
  EXPECT_TRUE(pool.RunOne());
}

TEST(ThreadPoolTest, CancelWaitsForTheJobThatRuns) {
  StepSync steps;
  ThreadPool pool(1);
  bool ended = false;
  PoolJob* self = nullptr;
  PoolJob job(pool, [&] {
    self->Post();           // dropped, too
    steps.AnnounceOnce(1);  // 1 ->
    std::this_thread::sleep_for(milliseconds(30));
    ended = true;
  });
  self = &job;
  job.Post();
  steps.Await(1);  // 1 <-
  job.Cancel();
  EXPECT_TRUE(ended);
  EXPECT_FALSE(pool.RunOne());
}

TEST(ThreadPoolTest, AJobCanBeDestroyedAtAnyTime) {
  ThreadPool pool(2);
  for (int i = 0; i < 500; ++i) {
    int count = 0;  // the pool does not touch it any more when the job has been destroyed
    PoolJob job(pool, [&] { ++count; });
    job.Post();
    job.PostAfter(milliseconds(i % 2));
    if (i % 3 == 0) std::this_thread::yield();
  }
}

TEST(ThreadPoolTest, StopWaitsForTheJobThatRunsAndDropsTheOthers) {
  std::latch begun(1);
  Atomic<bool> ended{false};
  Atomic<bool> dropped_ran{false};
  ThreadPool pool(1);
  PoolJob running(pool, [&] {
    begun.count_down();
    std::this_thread::sleep_for(milliseconds(30));
    ended.store(true, std::memory_order_release);
  });
  PoolJob dropped(pool, [&] { dropped_ran.store(true, std::memory_order_release); });
  running.Post();
  begun.wait();
  dropped.Post();
  pool.Stop();
  EXPECT_TRUE(ended.load(std::memory_order_acquire));
  EXPECT_FALSE(pool.RunOne());
  EXPECT_FALSE(dropped_ran.load(std::memory_order_acquire));
}

TEST(ThreadPoolTest, StoppedPoolTakesNoJobs) {
  for (const unsigned threads : {0U, 2U}) {
    ThreadPool pool(threads);
    pool.Stop();
    pool.Stop();  // a second call changes nothing
    PoolJob job(pool, [] { FAIL() << "a stopped pool ran a job"; });
    job.Post();
    job.PostAfter(milliseconds(0));
    EXPECT_FALSE(pool.RunOne());
  }
}

// ---- threads ----

TEST(ThreadPoolTest, ThreadsThatCannotBeStartedStopThePool) {
  for (unsigned startable = 0; startable <= 4; ++startable) {
    ThreadPool pool(4, startable);
    EXPECT_EQ(pool.thread_count(), 4U);
    EXPECT_EQ(pool.started_count(), startable);
    EXPECT_EQ(pool.start_error() == std::errc::resource_unavailable_try_again, startable < 4);
    PoolJob job(pool, [] {});
    job.Post();
    if (startable < 4) EXPECT_FALSE(pool.RunOne());
  }
}

}  // namespace
}  // namespace ebb::test
