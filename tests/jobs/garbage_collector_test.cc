// Garbage collection as users meet it: when it is due, when it ends, how fast it is.
#include "ebb/internal/jobs/garbage_collector.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>

#include "tests/support/collection_kit.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

TEST(GarbageCollectorTest, AllThatIsLiveEndsAfterOneRound) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t key = 0; key < 200; ++key) Write(store, model, key, 0);
  // Hazard 47. It is not due by any target below 1, and with 1 it still ends.
  EXPECT_FALSE(Must(store.ShouldCollect({.min_reclaim_bytes = 0, .target_utilization = 0.3})));
  EXPECT_EQ(Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 0.3}))
                .scanned_records,
            0U);
  EXPECT_EQ(Must(store.CollectGarbage(kCollectEverything)).copied_records, 200U);
  ExpectHolds(store, model, 210);
}

// Each collection leaves the lane after a pass, so two of them alternate, and each finds that the
// other has passed its end. Both end after at most one round of their own.
TEST(GarbageCollectorTest, TwoAtATimeEnd) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t key = 0; key < 400; ++key) Write(store, model, key, 0);
  const std::uint64_t log_bytes = Must(store.EstimateGarbage()).log_bytes;
  std::atomic<std::uint64_t> scanned{0};
  const auto collect = [&] {
    GcOptions options = kCollectEverything;
    options.pass_bytes = 4096;
    std::uint64_t before = 0;
    options.progress = [&](const GcStats& now) {
      scanned += now.scanned_bytes - std::exchange(before, now.scanned_bytes);
      return scanned < 20 * log_bytes;  // a test that fails must end
    };
    Must(store.CollectGarbage(options));
  };
  for (int round = 0; round < 5; ++round) {
    scanned = 0;
    std::thread other(collect);
    collect();
    other.join();
    EXPECT_LT(scanned, 4 * log_bytes);
  }
  ExpectHolds(store, model, 400);
}

TEST(GarbageCollectorTest, OptionsAreChecked) {
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  for (const double target : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_TRUE(FailsWith(store.CollectGarbage({.target_utilization = target}).status(),
                          StatusCode::kInvalidArgument, "target_utilization"));
  }
  EXPECT_TRUE(FailsWith(store.CollectGarbage({.pass_bytes = 1}).status(),
                        StatusCode::kInvalidArgument, "pass_bytes"));
  EXPECT_TRUE(FailsWith(store.ShouldCollect({.pass_bytes = 0}).status(),
                        StatusCode::kInvalidArgument, "pass_bytes"));
  Must(store.Close());
  EXPECT_EQ(store.CollectGarbage().status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store.EstimateGarbage().status().code(), StatusCode::kFailedPrecondition);
}

TEST(GarbageCollectorTest, TheEstimateIsNear) {
  SimFileSystem files;
  GarbageModel model;
  internal::Environment environment = TinyEnvironment(&files);
  environment.index_exponent = 10;
  environment.frame_count = 64;
  auto store = Must(OpenIn<U64StringStore>("db", environment));
  for (std::uint64_t turn = 0; turn < 4; ++turn) {
    for (std::uint64_t key = 0; key < 1000; ++key) {
      Must(store.Upsert(key, model[key] = std::string(100 + 8 * turn, 'v')));
    }
  }
  const GcEstimate estimate = Must(store.EstimateGarbage());
  EXPECT_NEAR(static_cast<double>(estimate.live_records), 1000, 20);
  EXPECT_NEAR(static_cast<double>(estimate.live_bytes) / static_cast<double>(estimate.log_bytes),
              0.27, 0.04);
  EXPECT_EQ(estimate.garbage_bytes, estimate.log_bytes - estimate.live_bytes);
}

// The records in memory need not be like the rest. By sizes in memory alone the share would be 0.1;
// the sample of 64 records on the device has a standard deviation of 0.2, and depends on the hash.
TEST(GarbageCollectorTest, TheEstimateKnowsTheSizesOnTheDevice) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.index_exponent = 8;
  auto store = Must(OpenIn<U64StringStore>("db", environment));
  for (std::uint64_t key = 0; key < 400; ++key) Must(store.Upsert(key, std::string(900, 'l')));
  for (std::uint64_t key = 400; key < 1500; ++key) Must(store.Upsert(key, "s"));
  const GcEstimate estimate = Must(store.EstimateGarbage());
  EXPECT_GT(static_cast<double>(estimate.live_bytes),
            0.6 * static_cast<double>(estimate.log_bytes));
}

TEST(GarbageCollectorTest, ItsUserCanEndIt) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t turn = 0; turn < 3; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
  }
  GcOptions options = kCollectEverything;
  int calls = 0;
  options.progress = [&](const GcStats& stats) {
    EXPECT_GT(stats.scanned_bytes, 0U);
    return ++calls < 3;
  };
  const GcStats stats = Must(store.CollectGarbage(options));
  EXPECT_EQ(calls, 3);
  EXPECT_GT(stats.new_begin_address, stats.initial_begin_address);
  EXPECT_LT(stats.new_begin_address, store.Stats().tail_address);
  ExpectHolds(store, model, 310);
}

TEST(GarbageCollectorTest, ItTakesAsLongAsItsRateRequires) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t turn = 0; turn < 3; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
  }
  GcOptions options = kCollectEverything;
  const std::uint64_t log_bytes = Must(store.EstimateGarbage()).log_bytes;
  options.max_bytes_per_second = log_bytes * 10;
  const GcStats stats = Must(store.CollectGarbage(options));
  EXPECT_GE(stats.duration_ms, 90U);  // the last block is not full
  ExpectHolds(store, model, 310);
  // Close does not wait for one that never ends.
  std::atomic<bool> begun{false};
  options.max_bytes_per_second = 1;
  options.progress = [&](const GcStats&) { return begun = true; };
  std::thread collector([&] { EXPECT_FALSE(store.CollectGarbage(options).ok()); });
  while (!begun) std::this_thread::yield();
  Must(store.Close());
  collector.join();
}

// A background collection makes no commit of its own while the log is not too long, and releases
// the space that the commits of others allow.
TEST(GarbageCollectorTest, ItSharesTheCommitsOfOthers) {
  SimFileSystem files;
  GarbageModel model;
  Options options = Collecting();
  options.commit_interval_ms = 3'600'000;
  options.gc.pass_bytes = 1 << 14;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
  internal::ThreadPool& pool = CoreOf(store).pool;
  const auto begin = [&] { return store.Stats().begin_address; };
  const std::uint64_t first = begin();
  std::uint64_t key = 0;
  std::uint64_t turn = 0;
  const auto write_until = [&](const auto& done) {
    for (; key % 10 != 0 || !done(); turn += key == 299 ? 1 : 0, key = (key + 1) % 300) {
      Write(store, model, key, turn);
      while (pool.RunOne()) {
      }
      ASSERT_LT(turn, 100U);
    }
  };
  write_until([&] { return store.Metrics().collection_scanned_bytes != 0; });
  EXPECT_EQ(store.Metrics().commits, 0U);
  EXPECT_EQ(begin(), first);
  // The next check releases the space that a commit has stated; that makes no commit either.
  Must(store.Commit());
  EXPECT_EQ(begin(), first);
  write_until([&] { return begin() != first; });
  EXPECT_EQ(store.Metrics().commits, 1U);
  // No session commits, so in the end it does.
  const std::uint64_t second = begin();
  write_until([&] { return begin() != second; });
  EXPECT_EQ(store.Metrics().commits, 2U);
  // With a checkpoint, a begin above where it scans from waits for the next one.
  const CheckpointInfo checkpoint = Must(store.Checkpoint());
  const std::uint64_t commits = store.Metrics().commits;
  write_until([&] { return begin() > checkpoint.scan_address; });
  EXPECT_EQ(store.ListCheckpoints().size(), 1U);
  EXPECT_GT(store.ListCheckpoints().front().id, checkpoint.id);
  EXPECT_GT(store.Metrics().commits, commits);
  ExpectHolds(store, model, 310);
}

// Also in a store that is not written any more, and long before the next look by the clock.
TEST(GarbageCollectorTest, APeriodicCommitIsFollowedAutomatically) {
  SimFileSystem files;
  GarbageModel model;
  Options options = Collecting();
  options.commit_interval_ms = 1;
  options.gc_interval_ms = 86'400'000;
  options.gc.pass_bytes = 1 << 14;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
  internal::ThreadPool& pool = CoreOf(store).pool;
  const std::uint64_t first = store.Stats().begin_address;
  for (std::uint64_t key = 0; store.Metrics().collections == 0; ++key) {
    ASSERT_LT(key, 100'000U);
    Write(store, model, key % 300, key / 300);
    while (store.Metrics().collections == 0 && pool.RunOne()) {
    }
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (store.Stats().begin_address == first && std::chrono::steady_clock::now() < until) {
    if (!pool.RunOne()) std::this_thread::yield();
  }
  EXPECT_GT(store.Stats().begin_address, first);
  ExpectHolds(store, model, 310);
}

// Collects as the background job does, eight times. Returns how often that scanned anything. With
// `timers`, a commit and a checkpoint follow each collection that did something.
int CollectRepeatedly(U64StringStore& store, const GcOptions& options, bool timers) {
  int collections = 0;
  for (int i = 0; i < 8; ++i) {
    const GcStats stats = Must(internal::StoreAccess::GetCoordinator(store).CollectGarbage(
        options, internal::GarbageCollector::Pace::kAutomatic));
    collections += stats.scanned_bytes != 0 ? 1 : 0;
    if (!timers || stats.scanned_bytes + stats.freed_bytes == 0) continue;
    Must(store.Commit());
    Must(store.Checkpoint());
  }
  return collections;
}

// Any store rewrites itself twice at most once its updates have ended.
TEST(GarbageCollectorTest, AnIdleStoreComesToRest) {
  struct Shape {
    const char* name;
    std::uint64_t keys;
    std::uint64_t value_bytes;
    std::uint64_t sessions;
    double target;
    bool timers = false;
  };
  for (const Shape& shape :
       {Shape{"values of half a page", 60, 2100, 0, 0.8},
        Shape{"values of a page", 60, 3900, 0, 0.9}, Shape{"a third of a page", 60, 1370, 0, 0.9},
        Shape{"small values", 2000, 20, 0, 0.9}, Shape{"many sessions", 20, 100, 600, 0.5},
        Shape{"everything", 100, 500, 0, 1.0}, Shape{"few keys, timers", 8, 100, 0, 0.5, true},
        Shape{"timers", 60, 1370, 0, 0.9, true},
        Shape{"sessions, timers", 20, 100, 600, 0.5, true}}) {
    SCOPED_TRACE(shape.name);
    SimFileSystem files;
    GarbageModel model;
    Options options = Collecting();
    options.durability = shape.timers ? Durability::kPeriodic : Durability::kManual;
    options.commit_interval_ms = 3'600'000;
    options.gc.min_reclaim_bytes = 1;
    options.gc.target_utilization = shape.target;
    auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
    for (std::uint64_t i = 0; i < shape.sessions; ++i) {
      static_cast<void>(
          Must(store.NewSession("a session's name " + std::to_string(i))).Upsert(0, "x"));
    }
    for (int turn = 0; turn < 2; ++turn) {
      for (std::uint64_t key = 0; key < shape.keys; ++key) {
        Must(store.Upsert(key, model[key] = std::string(shape.value_bytes, 'v')));
      }
      Must(store.Commit());
    }
    EXPECT_LE(CollectRepeatedly(store, options.gc, shape.timers), 2);
    const std::uint64_t tail = store.Stats().tail_address;
    EXPECT_EQ(CollectRepeatedly(store, options.gc, shape.timers), 0);
    EXPECT_EQ(store.Stats().tail_address, tail) << "not even a commit";
    EXPECT_TRUE(Holds(store, model));
  }
}

// A queue: each key is put once and deleted soon, in memory or when its record is on the device.
TEST(GarbageCollectorTest, ShortLivedKeysAreGarbageWhereverTheirTombstonesAre) {
  std::uint64_t shape = 0;
  for (const std::uint64_t lag : {10, 400}) {
    for (const std::size_t value_bytes : {8, 300, 2000}) {
      // Two of the six in the short form.
      if (Scale() < 1 && shape++ % 3 != Seed() % 3) continue;
      SCOPED_TRACE(std::to_string(lag) + " keys of " + std::to_string(value_bytes));
      SimFileSystem files;
      Options options = Collecting();
      options.commit_interval_ms = 3'600'000;
      auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
      internal::ThreadPool& pool = CoreOf(store).pool;
      const std::uint64_t record_bytes = value_bytes + 40;
      const std::uint64_t live_bytes = lag * (value_bytes > 1000 ? 2 * value_bytes : record_bytes);
      const std::uint64_t allowed = 14 * live_bytes / 5 + (std::uint64_t{1} << 17);
      std::uint64_t max = 0;
      const std::string value(value_bytes, 'v');
      for (std::uint64_t key = 0; key * record_bytes < 4 * allowed; ++key) {
        Must(store.Upsert(key, value));
        if (key >= lag) Must(store.Delete(key - lag));
        while (pool.RunOne()) {
        }
        const internal::HybridLog& log = CoreOf(store).log;
        max = std::max(max, log.tail() - log.begin());
      }
      EXPECT_LE(max, allowed) << live_bytes << " bytes are live";
      EXPECT_TRUE(Must(store.Verify()).ok());
    }
  }
}

TEST(GarbageCollectorTest, ClosingRunsACollectionThatIsDue) {
  SimFileSystem files;
  GarbageModel model;
  std::uint64_t used = 0;
  Options options = Collecting();
  options.gc.pass_bytes = 1 << 20;
  {
    auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
    for (std::uint64_t turn = 0; turn < 4; ++turn) {
      for (std::uint64_t key = 0; key < 300; ++key) Write(store, model, key, turn);
    }
    used = files.UsedBytes();
    Must(store.Close());
  }
  EXPECT_LT(files.UsedBytes(), used * 3 / 4);
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
  ExpectHolds(store, model, 310);
}

}  // namespace
}  // namespace ebb::test
