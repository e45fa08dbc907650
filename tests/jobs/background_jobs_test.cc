// Background jobs: automatic collections and checkpoints. (Checkpoints: checkpointer_test.)
#include "ebb/internal/jobs/background_jobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "tests/support/allocation_count.h"
#include "tests/support/collection_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/step_sync.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

// Hazard 46: a collection that fails is not tried again at every page turn.
TEST(BackgroundJobsTest, AFailedCollectionIsNotTriedAgainAtOnce) {
  SimFileSystem files;
  FaultFileSystem faults(files);
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&faults), Collecting()));
  faults.Arm({.kind = CallKind::kRead, .sticky = true, .error = EIO});
  for (std::uint64_t turn = 0; turn < 8; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) {
      Write(store, model, key, turn);
      while (CoreOf(store).pool.RunOne()) {
      }
    }
  }
  faults.Disarm();
  const BackgroundJobStats gc = store.GetBackgroundStats().gc;
  EXPECT_GE(gc.failure_count, 2U);
  // One for each 64 KiB of log, of which each page is 4.
  EXPECT_LE(gc.failure_count, store.Metrics().page_turns / 16 + 2);
  EXPECT_NE(gc.last_error.find("UNAVAILABLE"), std::string::npos) << gc.last_error;
  ExpectHolds(store, model, 310);
}

TEST(BackgroundJobsTest, CollectionsRunAutomaticallyWhenDueAndCanBeStopped) {
  const TempDir dir;
  internal::Environment environment = TinyEnvironment();
  environment.segment_blocks = 16;
  environment.pool_threads = 2;
  Options options = Collecting();
  options.commit_interval_ms = 20;  // updates wait for commits that give space back
  auto store = Must(OpenIn<U64StringStore>(dir / "db", environment, options));
  EXPECT_TRUE(store.GetBackgroundStats().running);
  EXPECT_TRUE(store.GetBackgroundStats().gc.enabled);
  GarbageModel model;
  std::uint64_t most = 0;
  for (std::uint64_t turn = 0; turn < 300; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
    const StoreStats stats = store.Stats();
    most = std::max(most, stats.tail_address - stats.begin_address);
  }
  // Without, it would be 6 MB; live are 20 KB.
  EXPECT_LT(most, 3U << 20);
  EXPECT_GE(store.GetBackgroundStats().gc.run_count, 3U);
  EXPECT_EQ(store.GetBackgroundStats().gc.failure_count, 0U);
  Must(store.StopBackground());
  const BackgroundStats stopped = store.GetBackgroundStats();
  EXPECT_FALSE(stopped.running);
  EXPECT_FALSE(stopped.active);
  const std::uint64_t begin = store.Stats().begin_address;
  for (std::uint64_t turn = 0; turn < 50; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
  }
  EXPECT_EQ(store.Stats().begin_address, begin);
  Must(store.StartBackground());
  for (std::uint64_t turn = 0; turn < 2000 && store.Stats().begin_address == begin; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
  }
  EXPECT_GT(store.Stats().begin_address, begin);
  ExpectHolds(store, model, 70);
}

// ---- one lane, and a thread for commits ----

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// The threads that the options say, on simulated files.
internal::Environment WithThreads(SimFileSystem* files) {
  internal::Environment environment = SmallFiles(files);
  environment.segment_blocks = 64;
  environment.pool_threads = -1;
  return environment;
}

// Notes the longest time between two commits, and how late the machine itself is.
class CommitWatch {
 public:
  explicit CommitWatch(U64StringStore& store) : store_(store) {}

  void Look() {
    const Clock::time_point now = Clock::now();
    latest_ = std::max(latest_, now - last_look_);
    last_look_ = now;
    const std::uint64_t count = store_.Metrics().commits;
    if (count != last_count_) last_commit_ = now;
    last_count_ = count;
    longest_ = std::max(longest_, now - last_commit_);
  }
  std::uint64_t count() const { return last_count_; }
  double longest_ms() const { return Ms(longest_); }
  // Of a thread that wants to run every few milliseconds.
  double lateness_ms() const { return Ms(latest_); }

 private:
  static double Ms(Clock::duration duration) {
    return std::chrono::duration<double, std::milli>(duration).count();
  }

  U64StringStore& store_;
  Clock::time_point last_look_ = Clock::now();
  Clock::time_point last_commit_ = last_look_;
  Clock::duration latest_{};
  Clock::duration longest_{};
  std::uint64_t last_count_ = 0;
};

// Hazard 53: with the smallest pool, a collection that is slowed down, a backup that takes long, a
// growth and a checkpoint are there at the same time.
TEST(BackgroundJobsTest, CommitsStayInTimeDuringAllLongJobs) {
  constexpr int kIntervalMs = 300;
  SimFileSystem files;
  Options options = Collecting();
  options.background_threads = 1;
  options.commit_interval_ms = kIntervalMs;
  options.checkpoint_interval_ms = 100;
  options.gc.max_bytes_per_second = 1 << 16;
  options.gc.min_reclaim_bytes = 4 << 20;
  options.index_auto_grow = true;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", WithThreads(&files), options));
  EXPECT_TRUE(store.StopBackground().ok());
  // Enough to collect, and so little that updates are not slowed down for it.
  for (std::uint64_t i = 0; i < 2200; ++i) {
    Must(store.Upsert(i % 20, model[i % 20] = std::string(2000, static_cast<char>('a' + i % 26))));
  }
  EXPECT_TRUE(store.StartBackground().ok());
  while (store.GetBackgroundStats().gc.last_begun_unix_ms == 0) std::this_thread::yield();
  StepSync steps;
  std::thread backup([&] {
    Must(store.Backup("copy", [&](const BackupProgress&) {
      if (steps.AnnounceOnce(1)) steps.Await(2);  // 1 -> 2 <-
    }));
  });
  steps.Await(1);  // 1 <- it has its turn, during the collection
  CommitWatch watch(store);
  const Clock::time_point begun = Clock::now();
  const std::uint64_t growths = store.Stats().index_growth_count;
  std::uint64_t key = 1000;
  const auto write_for = [&](milliseconds time) {
    while (Clock::now() - begun < time) {
      Write(store, model, ++key, 0);  // the index becomes too small
      watch.Look();
      std::this_thread::sleep_for(milliseconds(2));
    }
  };
  write_for(milliseconds(5 * kIntervalMs));
  EXPECT_EQ(store.Stats().index_growth_count, growths);  // it waits, and so does a checkpoint
  EXPECT_GE(watch.count(), 1U);
  steps.Announce(2);  // 2 ->
  write_for(milliseconds(8 * kIntervalMs));
  backup.join();
  EXPECT_GT(store.Stats().index_growth_count, growths);
  EXPECT_GE(store.GetBackgroundStats().checkpoint.run_count, 1U);
  EXPECT_GE(store.Metrics().collection_scanned_bytes, 1U);
  EXPECT_LE(watch.longest_ms(), 2 * kIntervalMs + 4 * watch.lateness_ms());
  Must(store.Close());
  auto reopened = Must(OpenIn<U64StringStore>("db", WithThreads(&files), options));
  ExpectHolds(reopened, model, 210);
}

// One that would take half a minute leaves the lane to a checkpoint and comes back.
TEST(BackgroundJobsTest, ASlowCollectionDoesNotDelayACheckpoint) {
  SimFileSystem files;
  Options options = Collecting();
  options.background_threads = 1;
  options.gc.max_bytes_per_second = 1 << 14;
  options.gc.pass_bytes = 1 << 20;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", WithThreads(&files), options));
  EXPECT_TRUE(store.StopBackground().ok());  // it would slow down the updates
  for (std::uint64_t turn = 0; turn < 8; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
  }
  EXPECT_TRUE(store.StartBackground().ok());
  while (!store.GetBackgroundStats().active) std::this_thread::yield();
  for (int i = 0; i < 3; ++i) {
    Must(store.Checkpoint());
    Must(store.GrowIndex());
    EXPECT_EQ(store.GetBackgroundStats().gc.run_count, 0U);  // it has not ended
  }
  EXPECT_TRUE(store.StopBackground().ok());
  EXPECT_FALSE(store.GetBackgroundStats().active);
  ExpectHolds(store, model, 310);
}

// A user's collection, too: between its passes a checkpoint comes.
TEST(BackgroundJobsTest, ACollectionLeavesTheLaneBetweenPasses) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t turn = 0; turn < 4; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
  }
  StepSync steps;
  std::atomic<bool> has_checkpoint{false};
  std::thread checkpointer;
  bool came_between = false;
  GcOptions options = kCollectEverything;
  options.progress = [&](const GcStats&) {
    if (steps.AnnounceOnce(1)) steps.Await(2);  // 1 -> 2 <-
    std::this_thread::sleep_for(milliseconds(2));
    came_between = came_between || has_checkpoint;
    return true;
  };
  std::thread collector([&] { EXPECT_GE(Must(store.CollectGarbage(options)).pass_count, 3U); });
  steps.Await(1);  // 1 <-
  checkpointer = std::thread([&] {
    Must(store.Checkpoint());
    has_checkpoint = true;
  });
  while (!store.GetCheckpointStats().in_progress) std::this_thread::yield();
  steps.Announce(2);  // 2 ->
  collector.join();
  checkpointer.join();
  EXPECT_TRUE(came_between);
  ExpectHolds(store, model, 310);
}

// StopBackground drops the checkpoint that waits for the collection, and returns at once.
TEST(BackgroundJobsTest, StopBackgroundLeavesAUsersCollectionAlone) {
  SimFileSystem files;
  Options options = TinyOptions();
  options.background_threads = 1;
  options.checkpoint_interval_ms = 100;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", WithThreads(&files), options));
  for (std::uint64_t turn = 0; turn < 4; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
  }
  const std::uint64_t log_bytes = Must(store.EstimateGarbage()).log_bytes;
  StepSync steps;
  GcOptions everything = kCollectEverything;
  everything.progress = [&](const GcStats&) {
    if (steps.AnnounceOnce(1)) steps.Await(2);  // 1 -> 2 <-
    return true;
  };
  std::thread collector([&] {
    EXPECT_GE(Must(store.CollectGarbage(everything)).scanned_bytes, log_bytes / 4096 * 4000);
  });
  steps.Await(1);                                  // 1 <-
  std::this_thread::sleep_for(milliseconds(300));  // the checkpoint is due, and waits
  EXPECT_TRUE(store.StopBackground().ok());
  EXPECT_FALSE(store.GetBackgroundStats().active);
  steps.Announce(2);  // 2 ->
  collector.join();
  ExpectHolds(store, model, 310);
}

// ---- unavailable resources ----

TEST(BackgroundJobsTest, AThreadThatCannotBeStartedFailsTheOpening) {
  SimFileSystem files;
  Options options = TinyOptions();
  internal::Environment environment = WithThreads(&files);
  GarbageModel model;
  {
    auto store = Must(OpenIn<U64StringStore>("db", environment, options));
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, 0);
    Must(store.Close());
  }
  for (const Durability durability : {Durability::kPeriodic, Durability::kManual}) {
    options.durability = durability;
    for (const std::uint32_t background_threads : {1U, 3U}) {
      options.background_threads = background_threads;
      const int count =
          static_cast<int>(background_threads) + (durability == Durability::kPeriodic ? 2 : 1);
      for (int startable = 0; startable < count; ++startable) {
        environment.startable_threads = startable;
        const auto store = OpenIn<U64StringStore>("db", environment, options);
        EXPECT_TRUE(
            FailsWith(store.status(), absl::StatusCode::kResourceExhausted,
                      "thread " + std::to_string(startable + 1) + " of " + std::to_string(count)));
      }
      environment.startable_threads = count;
      auto store = Must(OpenIn<U64StringStore>("db", environment, options));
      ExpectHolds(store, model, 310);
      Must(store.Close());
    }
  }
}

// Hazard 53: a recurring job that throws keeps its timer, and its flags are as after any run.
TEST(BackgroundJobsTest, AJobThatThrowsComesAgainAtItsTime) {
  SimFileSystem files;
  Options options = TinyOptions();
  options.durability = Durability::kManual;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
  internal::Core& core = CoreOf(store);
  internal::JobLane lane(core.pool);
  using Job = internal::BackgroundJob;
  int count = 0;
  Job job(core, lane, milliseconds(1),
          {.run = [&](internal::LaneTurn&,
                      const Job::IsStopping& is_stopping) -> absl::StatusOr<Job::Work::Outcome> {
            EXPECT_FALSE(is_stopping());
            switch (++count) {
              case 1:
                throw std::bad_alloc();
              case 2:
                throw std::runtime_error("of a callback");
              case 3:
                return absl::UnavailableError("of the device, with a text that needs memory");
              case 4:
                return Job::Work::Outcome::kLater;  // comes again without a timer
            }
            return Job::Work::Outcome::kDone;
          }});
  job.Start();
  const auto run_until = [&](int wanted) {
    const Clock::time_point until = Clock::now() + std::chrono::seconds(30);
    while (count < wanted && Clock::now() < until) {
      if (!core.pool.RunOne()) std::this_thread::yield();
      EXPECT_FALSE(job.is_running());
    }
    EXPECT_GE(count, wanted);
  };
  run_until(3);
  EXPECT_EQ(job.Stats().run_count, 3U);
  EXPECT_EQ(job.Stats().failure_count, 3U);
  EXPECT_NE(job.Stats().last_error.find("of the device"), std::string::npos);
  if (kAllocationsCanFail) {
    FailAllocations({.count = kAllOfThem});
    const BackgroundJobStats stats = Inside([&] { return job.Stats(); });
    EXPECT_GE(StopFailing(), 1U);
    EXPECT_EQ(stats.failure_count, 3U);  // without its text
  }
  EXPECT_NE(job.Stats().next_due_unix_ms, 0U);
  run_until(4);
  EXPECT_EQ(job.Stats().run_count, 3U);  // it has not ended
  EXPECT_TRUE(core.pool.RunOne());
  EXPECT_EQ(count, 5);
  EXPECT_EQ(job.Stats().run_count, 4U);
  run_until(7);
  const bool is_free = lane.TryLock();  // no turn was left over
  EXPECT_TRUE(is_free);
  if (is_free) lane.Unlock();
  job.Stop();
  EXPECT_EQ(job.Stats().next_due_unix_ms, 0U);
  std::this_thread::sleep_for(milliseconds(5));
  const int stopped = count;
  while (core.pool.RunOne()) {
  }
  EXPECT_EQ(count, stopped);
  job.Start();
  run_until(stopped + 2);
}

}  // namespace
}  // namespace ebb::test
