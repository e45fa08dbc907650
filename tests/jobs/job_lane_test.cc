// Job lane: long jobs of users' threads and of the pool, one at a time and in their order.
#include "ebb/internal/jobs/job_lane.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "tests/support/allocation_count.h"
#include "tests/support/step_sync.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::JobLane;
using internal::LaneJob;
using internal::LaneTurn;
using internal::PoolJob;
using internal::ThreadPool;

void RunAll(ThreadPool& pool) {
  while (pool.RunOne()) {
  }
}

void WaitForWaiters(const JobLane& lane) {
  while (!lane.HasWaiters()) std::this_thread::yield();
}

// Takes a turn, if there is one to be had, and ends it.
bool IsFree(JobLane& lane) {
  const bool is_free = lane.TryLock();
  if (is_free) lane.Unlock();
  return is_free;
}

TEST(JobLaneTest, PostedJobsRunInTheirOrderAndPostingAllocatesNothing) {
  ThreadPool pool(0);
  JobLane lane(pool);
  std::vector<int> ran;
  ran.reserve(8);
  LaneJob first(lane, [&](LaneTurn&) { ran.push_back(1); });
  LaneJob second(lane, [&](LaneTurn&) { ran.push_back(2); });
  const std::uint64_t before = AllocationCount();
  second.Post();
  first.Post();
  second.Post();  // it waits already
  EXPECT_TRUE(ran.empty());
  RunAll(pool);
  EXPECT_EQ(AllocationCount(), before);
  EXPECT_EQ(ran, (std::vector{2, 1}));
}

TEST(JobLaneTest, AJobThatPostsItselfComesAfterThoseThatWait) {
  ThreadPool pool(0);
  JobLane lane(pool);
  std::vector<int> ran;
  LaneJob other(lane, [&](LaneTurn&) { ran.push_back(2); });
  LaneJob* self = nullptr;
  LaneJob job(lane, [&](LaneTurn&) {
    ran.push_back(1);
    if (ran.size() > 1) return;
    EXPECT_FALSE(lane.HasWaiters());
    other.Post();
    EXPECT_TRUE(lane.HasWaiters());
    self->Post();
  });
  self = &job;
  job.Post();
  RunAll(pool);
  EXPECT_EQ(ran, (std::vector{1, 2, 1}));
}

// Users and posted jobs stand in one queue.
TEST(JobLaneTest, TurnsComeInTheOrderOfTheQueue) {
  StepSync steps;
  ThreadPool pool(2);
  JobLane lane(pool);
  std::vector<int> ran;  // in turns only, which ThreadSanitizer checks
  LaneJob posted(lane, [&](LaneTurn&) { ran.push_back(2); });
  std::thread user;
  {
    LaneTurn turn(lane);
    EXPECT_FALSE(lane.HasWaiters());
    user = std::thread([&] {
      LaneTurn his(lane);
      ran.push_back(1);
    });
    WaitForWaiters(lane);
    posted.Post();
  }
  LaneTurn turn(lane);  // behind both
  EXPECT_EQ(ran, (std::vector{1, 2}));
  user.join();
}

// However many long jobs wait, they take one thread of the pool together, and none while it is a
// user's turn.
TEST(JobLaneTest, JobsThatWaitTakeNoThreadOfThePool) {
  StepSync steps;
  ThreadPool pool(2);
  JobLane lane(pool);
  std::vector<int> ran;
  LaneJob longest(lane, [&](LaneTurn&) {
    steps.Announce(1);  // 1 ->
    steps.Await(3);     // 3 <-
    ran.push_back(1);
  });
  LaneJob second(lane, [&](LaneTurn&) { ran.push_back(2); });
  LaneJob third(lane, [&](LaneTurn&) {
    ran.push_back(3);
    steps.Announce(4);  // 4 ->
  });
  longest.Post();
  steps.Await(1);  // 1 <-
  second.Post();
  third.Post();
  PoolJob commit(pool, [&] { steps.Announce(2); });  // 2 ->
  commit.Post();
  steps.Await(2);     // 2 <- comes although three long jobs are there
  steps.Announce(3);  // 3 ->
  steps.Await(4);     // 4 <-
  LaneTurn turn(lane);
  EXPECT_EQ(ran, (std::vector{1, 2, 3}));
}

TEST(JobLaneTest, ATurnEndsWhateverTheJobThrows) {
  ThreadPool pool(0);
  JobLane lane(pool);
  int count = 0;
  LaneJob job(lane, [&](LaneTurn&) {
    ++count;
    throw std::runtime_error("of a callback");
  });
  LaneJob other(lane, [&](LaneTurn&) { ++count; });
  job.Post();
  other.Post();
  RunAll(pool);
  EXPECT_EQ(count, 2);
  ASSERT_TRUE(IsFree(lane));
  job.Post();
  RunAll(pool);
  EXPECT_EQ(count, 3);
}

// The script of a pool without threads must not wait for itself.
TEST(JobLaneTest, WithoutThreadsOfThePoolUsersOvertake) {
  ThreadPool pool(0);
  JobLane lane(pool);
  int count = 0;
  LaneJob job(lane, [&](LaneTurn&) { ++count; });
  job.Post();
  {
    LaneTurn turn(lane);
    EXPECT_EQ(count, 0);
    RunAll(pool);  // it is not its turn
    EXPECT_EQ(count, 0);
  }
  RunAll(pool);
  EXPECT_EQ(count, 1);
}

TEST(JobLaneTest, TryLockOvertakesThoseThatWaitButNotAJobThatRuns) {
  ThreadPool pool(0);
  JobLane lane(pool);
  bool locked = true;
  LaneJob job(lane, [&](LaneTurn&) { locked = IsFree(lane); });
  job.Post();
  ASSERT_TRUE(IsFree(lane));
  RunAll(pool);
  EXPECT_FALSE(locked);
}

TEST(JobLaneTest, CancelDropsTheJobThatWaitsAndWaitsForTheOneThatRuns) {
  StepSync steps;
  ThreadPool pool(1);
  JobLane lane(pool);
  bool ended = false;
  LaneJob* self = nullptr;
  LaneJob running(lane, [&](LaneTurn&) {
    self->Post();           // dropped
    steps.AnnounceOnce(1);  // 1 ->
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ended = true;
  });
  self = &running;
  LaneJob waiting(lane, [](LaneTurn&) { FAIL(); });
  running.Post();
  steps.Await(1);  // 1 <-
  waiting.Post();
  waiting.Cancel();
  running.Cancel();
  EXPECT_TRUE(ended);
  EXPECT_FALSE(lane.HasWaiters());
  LaneTurn turn(lane);
}

// A user's thread behind a job that is cancelled has its turn.
TEST(JobLaneTest, CancelLetsTheNextOnesCome) {
  ThreadPool pool(1);
  JobLane lane(pool);
  StepSync steps;
  PoolJob busy(pool, [&] {
    steps.Announce(1);  // 1 ->
    steps.Await(2);     // 2 <-
  });
  busy.Post();
  steps.Await(1);  // 1 <-
  LaneJob job(lane, [](LaneTurn&) { FAIL(); });
  job.Post();  // the pool's only thread is busy
  std::thread user([&] { LaneTurn turn(lane); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  job.Cancel();
  user.join();
  steps.Announce(2);  // 2 ->
}

TEST(JobLaneTest, AClosedLaneDropsPostedJobsAndLetsUsersIn) {
  ThreadPool pool(1);
  JobLane lane(pool);
  LaneJob job(lane, [](LaneTurn&) { FAIL(); });
  std::thread user;
  {
    LaneTurn turn(lane);
    job.Post();
    user = std::thread([&] { LaneTurn his(lane); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    lane.Close();
    job.Post();
    pool.Stop();
  }
  user.join();
  LaneTurn turn(lane);
  EXPECT_FALSE(lane.HasWaiters());
}

// Turns of six threads and three jobs never overlap, and all come.
TEST(JobLaneTest, ManyTurnsNeverOverlap) {
  constexpr int kTurns = 300;
  ThreadPool pool(3);
  JobLane lane(pool);
  int count = 0;  // without a lock, which ThreadSanitizer checks
  std::vector<int> runs(3);
  LaneJob* jobs[3] = {};
  const auto run = [&](std::size_t i) {
    ++count;
    if (++runs[i] < kTurns) jobs[i]->Post();
    if (runs[i] % 7 == 0) throw std::bad_alloc();
  };
  LaneJob a(lane, [&](LaneTurn&) { run(0); });
  LaneJob b(lane, [&](LaneTurn&) { run(1); });
  LaneJob c(lane, [&](LaneTurn&) { run(2); });
  jobs[0] = &a;
  jobs[1] = &b;
  jobs[2] = &c;
  for (LaneJob* const job : jobs) job->Post();
  std::vector<std::thread> users;
  for (int i = 0; i < 6; ++i) {
    users.emplace_back([&] {
      for (int turn = 0; turn < kTurns; ++turn) {
        LaneTurn taken(lane);
        ++count;
      }
    });
  }
  for (std::thread& user : users) user.join();
  for (bool all = false; !all; std::this_thread::yield()) {
    LaneTurn turn(lane);
    all = count == 9 * kTurns;
  }
}

}  // namespace
}  // namespace ebb::test
