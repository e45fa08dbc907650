// Compaction and its use by the coordinator: live records survive, the front is released. The store
// verifies after each collection.
#include "ebb/internal/jobs/compaction.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/jobs/coordinator.h"
#include "tests/support/collection_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_hash.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

TEST(CompactionTest, LiveRecordsAreCopiedAndTheFrontIsFreed) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t turn = 0; turn < 150; ++turn) {
    for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, turn);
  }
  for (std::uint64_t key = 0; key < 30; key += 3) Remove(store, model, key);
  Must(store.Commit());
  const std::uint64_t used = files.UsedBytes();
  const StoreStats before = store.Stats();
  const GcStats stats = Must(store.CollectGarbage(kCollectEverything));
  EXPECT_EQ(stats.initial_begin_address, before.begin_address);
  EXPECT_EQ(stats.new_begin_address, store.Stats().begin_address);
  EXPECT_GE(stats.new_begin_address, before.tail_address);
  EXPECT_EQ(stats.copied_records, model.size());
  EXPECT_EQ(stats.scanned_records, stats.copied_records + stats.dropped_records);
  EXPECT_EQ(stats.removed_entries, 10U);  // of the deleted keys
  EXPECT_GT(stats.pass_count, 1U);
  EXPECT_LT(files.UsedBytes(), used / 3);
  EXPECT_GE(stats.freed_bytes, used / 2);
  ExpectHolds(store, model, 40);
  // A second round finds only live records, and ends.
  EXPECT_EQ(Must(store.CollectGarbage(kCollectEverything)).copied_records, model.size());
  ExpectHolds(store, model, 40);
  EXPECT_TRUE(Verifies(store));
  Must(store.Close());
  EXPECT_TRUE(Verifies(files, "db"));
  auto again = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  ExpectHolds(again, model, 40);
}

// The newest record of a key of 8 bytes, which is in memory: its address and its header.
struct Newest {
  internal::Address address;
  internal::RecordHeader header;
};
Newest NewestOf(internal::Core& core, std::uint64_t key) {
  internal::EpochSlot* const slot = core.epochs.AcquireSlot();
  Newest newest{core.index.Find(TestHash(key)).entry.address(), {}};
  for (bool is_of_key = false; !is_of_key;) {
    const internal::EpochGuard guard(core.epochs, *slot);
    if (newest.address < core.log.head()) break;
    const internal::Record record(core.log.At(newest.address, guard), core.log.shape());
    newest.header = record.header().LoadAcquire();
    is_of_key = std::memcmp(record.key(), &key, 8) == 0;
    if (!is_of_key) newest.address = newest.header.prev();
  }
  core.epochs.ReleaseSlot(slot);
  return newest;
}

// Each kind of update.
template <typename StoreType, typename Value>
void UpdateSomehow(StoreType& store, std::uint64_t key, const Value& old, const Value& value) {
  switch (key % 5) {
    case 0:
      Must(store.Upsert(key, value));
      break;
    case 1:
      Must(store.Rmw(key, [&](Value& changed) { changed = value; }));
      break;
    case 2:
      Must(store.CompareExchange(key, old, value));
      break;
    case 3:
      Must(store.Delete(key));
      break;
    default: {
      const std::array keys{key};
      const std::array values{value};
      std::array<absl::Status, 1> results;
      EXPECT_EQ(store.NewSession().UpsertBatch(keys, values, results), 1U);
      Must(results[0]);
    }
  }
}

// An update in place within a copy's own version would be hidden from a reader that skips copies;
// and a Delete that waits for the copy to freeze would wait forever.
template <typename StoreType, typename Make>
void ExpectCopiesStay(Make make) {
  SimFileSystem files;
  auto store = Must(OpenIn<StoreType>("db", SmallFiles(&files)));
  for (std::uint64_t i = 0; i < 2000; ++i) Must(store.Upsert(i % 40, make(i)));
  for (std::uint64_t key = 0; key < 40; ++key) Must(store.Upsert(key, make(key)));
  Must(store.Commit());
  internal::Core& core = CoreOf(store);
  // A pass without its commit, which would freeze the copies.
  const internal::LogCursor::LogRange all{core.log.begin(), core.log.tail()};
  Must(core.log.FreezeTo(all.end));
  internal::EpochSlot* const slot = core.epochs.AcquireSlot();
  GcStats stats;
  {
    internal::Compaction compaction(core, *slot, stats);
    Must(
        compaction.Run(all, std::uint64_t{1} << 28, [](const GcStats&) { return false; }).status());
  }
  core.epochs.ReleaseSlot(slot);
  ASSERT_EQ(stats.copied_records, 40U);
  for (std::uint64_t key = 0; key < 40; ++key) {
    const Newest copy = NewestOf(core, key);
    ASSERT_TRUE(copy.header.copy() && copy.header.valid());
    ASSERT_GE(copy.address, core.log.read_only()) << "it is frozen for another reason";
    EXPECT_TRUE(absl::IsAlreadyExists(store.InsertIfAbsent(key, make(key))));
    UpdateSomehow(store, key, make(key), make(key + 1));
    const Newest successor = NewestOf(core, key);
    ASSERT_GT(successor.address, copy.address) << key;
    EXPECT_FALSE(successor.header.copy());
    EXPECT_EQ(successor.header.tombstone(), key % 5 == 3);
    if (key % 5 != 3) {
      EXPECT_EQ(Must(store.Read(key)), make(key + 1));
      Must(store.Upsert(key, make(key + 2)));  // the successor is updated in place again
      EXPECT_EQ(NewestOf(core, key).address, successor.address);
      EXPECT_EQ(Must(store.Read(key)), make(key + 2));
    }
  }
  EXPECT_TRUE(Verifies(store));
  Must(store.Close());
}

TEST(CompactionTest, ACopyIsNeverChangedInPlace) {
  ExpectCopiesStay<U64Store>([](std::uint64_t number) { return number; });
  if (HasFatalFailure()) return;
  ExpectCopiesStay<U64TripleStore>([](std::uint64_t number) { return Triple{number, 1, number}; });
}

// Random operations, in a store whose log is many times its memory, with the log alone and with
// checkpoints; each kind of opening finds the same values.
TEST(CompactionTest, RandomUpdatesLoseNoKeyAndBringNoneBack) {
  for (const bool checkpoints : {false, true}) {
    SimFileSystem files;
    GarbageModel model;
    std::mt19937_64 random(Seed());
    const auto rounds = static_cast<int>(60 * std::min(1.0, Scale() * 5));
    for (int round = 0; round < rounds; ++round) {
      auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
      ExpectHolds(store, model, 64);
      const int steps = static_cast<int>(random() % 150);
      for (int step = 0; step < steps; ++step) {
        const std::uint64_t key = random() % 64;
        switch (random() % 12) {
          case 0:
            Remove(store, model, key);
            break;
          case 1:
            if (checkpoints && random() % 4 == 0) Must(store.Checkpoint());
            break;
          case 2:
            if (random() % 8 != 0) break;
            Must(store.CollectGarbage({.min_reclaim_bytes = 0,
                                       .target_utilization = random() % 2 == 0 ? 1 : 0.6,
                                       .pass_bytes = 4096 * (1 + random() % 20)}));
            ExpectHolds(store, model, 64);
            EXPECT_TRUE(Verifies(store));
            break;
          case 3:
            Must(store.Rmw(key, [&](std::string& value) {
              value += "+";
              if (value.size() > 900) value.clear();
              model[key] = value;
            }));
            break;
          default:
            Write(store, model, key, static_cast<std::uint64_t>(round * 1000 + step));
        }
      }
      if (random() % 3 == 0) Must(store.CollectGarbage(kCollectEverything));
      ExpectHolds(store, model, 64);
      EXPECT_TRUE(Verifies(store));
      Must(store.Close());
      EXPECT_TRUE(Verifies(files, "db"));
      if (HasFailure()) return;
    }
  }
}

TEST(CompactionTest, AStoreInMemoryGivesMemoryBack) {
  GarbageModel model;
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  for (std::uint64_t turn = 0; turn < 20; ++turn) {
    for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, turn);
  }
  EXPECT_GT(Must(store.CollectGarbage(kCollectEverything)).freed_bytes, 10U * 4096);
  ExpectHolds(store, model, 40);
}

// Named sessions of which the log says nothing above the new begin are known after a reopening.
TEST(CompactionTest, SessionsSurviveTheLossOfTheirRecords) {
  SimFileSystem files;
  {
    auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
    {
      auto session = Must(store.NewSession("early"));
      for (std::uint64_t key = 0; key < 7; ++key) Must(session.Upsert(key, "x"));
    }
    Must(store.Commit());
    for (std::uint64_t turn = 0; turn < 20; ++turn) {
      for (std::uint64_t key = 0; key < 30; ++key)
        Must(store.Upsert(key, CollectedValue(key, turn)));
    }
    Must(store.Commit());
    Must(store.CollectGarbage(kCollectEverything));
    Must(store.Close());
  }
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  ASSERT_EQ(store.recovery().sessions.size(), 1U);
  EXPECT_EQ(store.recovery().sessions[0].name, "early");
  EXPECT_EQ(store.recovery().sessions[0].serial, 7U);
}

// A checkpoint that would have to scan a released part of the log is replaced by one that does not.
TEST(CompactionTest, ACheckpointOfTheOldFrontIsReplaced) {
  SimFileSystem files;
  GarbageModel model;
  {
    auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
    for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, 1);
    const std::uint64_t first = Must(store.Checkpoint()).id;
    for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, 2);
    Must(store.CollectGarbage(kCollectEverything));
    ASSERT_FALSE(store.ListCheckpoints().empty());
    EXPECT_GT(store.ListCheckpoints().front().id, first);
    Must(store.Close());
  }
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  EXPECT_NE(store.recovery().checkpoint_id, 0U);
  EXPECT_TRUE(store.recovery().notes.empty());
  EXPECT_TRUE(Verifies(store));
  ExpectHolds(store, model, 40);
}

// Hazard 33: the part that a scan still reads is not released until the scan has ended.
TEST(CompactionTest, AScanKeepsTheFrontWhereItIs) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t key = 0; key < 100; ++key) Write(store, model, key, 1);
  GarbageModel shown;
  {
    auto scan = store.NewScan();
    ASSERT_TRUE(scan.Next());
    shown[scan.key()] = scan.value();
    GarbageModel later = model;
    for (std::uint64_t key = 0; key < 100; ++key) Write(store, later, key, 2);
    const std::uint64_t used = files.UsedBytes();
    const GcStats stats = Must(store.CollectGarbage(kCollectEverything));
    EXPECT_GT(stats.new_begin_address, stats.initial_begin_address);
    EXPECT_EQ(stats.freed_bytes, 0U);
    EXPECT_TRUE(Verifies(store));
    EXPECT_GE(files.UsedBytes(), used);
    while (scan.Next()) shown[scan.key()] = scan.value();
    Must(scan.status());
    EXPECT_EQ(shown, model);
    model = later;
  }
  EXPECT_GT(Must(store.CollectGarbage(kCollectEverything)).freed_bytes, 0U);
  ExpectHolds(store, model, 110);
}

// A scan finds a key by the tombstone that came after it: the entry leads to the tombstone, below
// which the walk continues. A collection drops the tombstone and moves begin above it, but the
// entry must stay as long as the scan's pin is below it. The index is swept when the lowest pin has
// moved far enough, so an older scan delays that until the tombstones have been dropped.
TEST(CompactionTest, AScanFindsKeysWhoseTombstonesAreCollected) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, 1);
  auto older = std::make_optional(store.NewScan());
  Must(store.CollectGarbage(kCollectEverything));
  auto scan = store.NewScan();
  const GarbageModel expected = model;
  for (std::uint64_t key = 0; key < 60; key += 2) Remove(store, model, key);
  EXPECT_EQ(Must(store.CollectGarbage(kCollectEverything)).dropped_records, 60U)
      << "30 records and their tombstones";
  older.reset();
  Must(store.CollectGarbage(kCollectEverything));
  GarbageModel shown;
  while (scan.Next()) shown[scan.key()] = scan.value();
  Must(scan.status());
  EXPECT_EQ(shown, expected);
  EXPECT_TRUE(Verifies(store));
}

// A full disk is given space back: keys can be deleted as far as there is space, and collected.
TEST(CompactionTest, AFullDiskCanBeGivenSpaceBack) {
  SimFileSystem files;
  GarbageModel model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  for (std::uint64_t turn = 0; turn < 40; ++turn) {
    for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, turn);
  }
  files.SetCapacityBytes(files.UsedBytes());
  absl::Status status;
  for (std::uint64_t turn = 10; status.ok() && turn < 1000; ++turn) {
    for (std::uint64_t key = 0; status.ok() && key < 30; ++key) {
      status = store.Upsert(key, CollectedValue(key, turn));
      if (status.ok()) model[key] = CollectedValue(key, turn);
    }
  }
  ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
  Must(store.Commit());
  const GcStats stats = Must(store.CollectGarbage(kCollectEverything));
  EXPECT_GT(stats.freed_bytes, files.UsedBytes() / 2);
  ExpectHolds(store, model, 40);
  for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, 2000);
  Must(store.Close());
  auto again = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
  ExpectHolds(again, model, 40);
}

// A pass that runs out of space keeps the records it has not copied. 48,000 keys were written
// twice. The chains below superseded records of a pass are looked up when there are 32,768 such
// records, so the pass has a settled part: old records. Then the disk fills up while it copies new
// ones. Nothing below the returned address is live.
TEST(CompactionTest, APassThatRunsOutOfSpaceEndsBeforeTheFirstRecordNotCopied) {
  constexpr std::uint64_t kKeys = 48000;
  SimFileSystem files;
  internal::Environment environment = SmallFiles(&files);
  environment.index_exponent = 8;
  auto store = Must(OpenIn<U64Store>("db", environment));
  for (std::uint64_t turn = 0; turn < 2; ++turn) {
    for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key + turn));
  }
  Must(store.Commit());
  internal::Core& core = CoreOf(store);
  const internal::LogCursor::LogRange all{core.log.begin(), core.log.tail()};
  Must(core.log.FreezeTo(all.end));
  internal::EpochSlot* const slot = core.epochs.AcquireSlot();
  GcStats stats;
  internal::Address until;
  {
    files.SetCapacityBytes(files.UsedBytes() + 40 * 4096);
    internal::Compaction compaction(core, *slot, stats);
    until = Must(compaction.Run(all, std::uint64_t{1} << 28, [](const GcStats&) { return false; }));
    files.SetCapacityBytes(~std::uint64_t{0});
  }
  EXPECT_GT(stats.copied_records, 1000U);
  EXPECT_LT(stats.copied_records, kKeys) << "there was space for all";
  EXPECT_GT(until, all.from);
  EXPECT_LT(until, all.from + stats.scanned_bytes) << "it ended where it had read to";
  internal::LiveRecordReader reader(core, *slot, {.from = all.from, .end = until}, {});
  std::uint64_t live = 0;
  while (Must(reader.Step())) live += reader.live().size();
  EXPECT_EQ(live, 0U);
  core.epochs.ReleaseSlot(slot);
  Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
  for (std::uint64_t key = 0; key < kKeys; key += 7) {
    ASSERT_EQ(Must(store.Read(key)), key + 1) << key;
  }
  EXPECT_TRUE(Verifies(store));
}

// Each call that a collection makes fails once, and permanently: nothing is lost, and the next one
// does the work.
TEST(CompactionTest, AFailedCallLosesNothing) {
  std::uint64_t run = 0;
  std::uint64_t failed = 0;
  for (const bool checkpoints : {false, true}) {
    for (const CallKind kind : {CallKind::kWrite, CallKind::kRead, CallKind::kUnlink,
                                CallKind::kPunchHole, CallKind::kReserve, CallKind::kRename}) {
      for (std::uint64_t skip = 0; skip < 12; ++skip) {
        if (!IsInSample(run++)) continue;
        SimFileSystem files;
        FaultFileSystem faults(files);
        GarbageModel model;
        {
          auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&faults)));
          for (std::uint64_t turn = 0; turn < 6; ++turn) {
            for (std::uint64_t key = 0; key < 30; ++key) Write(store, model, key, turn);
            if (turn == 2 && checkpoints) Must(store.Checkpoint());
          }
          for (std::uint64_t key = 0; key < 30; key += 4) Remove(store, model, key);
          Must(store.Commit());
          faults.Arm({.kind = kind, .skip = skip, .sticky = skip % 2 == 1, .error = EIO});
          const absl::StatusOr<GcStats> stats = store.CollectGarbage(kCollectEverything);
          failed += stats.ok() ? 0 : 1;
          faults.Disarm();
          ExpectHolds(store, model, 40);
          if (skip % 4 == 0) {
            EXPECT_TRUE(Verifies(store));
          }
          if (skip % 3 == 0) {
            Must(store.CollectGarbage(kCollectEverything));
            ExpectHolds(store, model, 40);
          }
          if (skip % 2 == 0) Must(store.Close());
        }
        if (skip % 4 <= 1) {
          EXPECT_TRUE(Verifies(files, "db"));
        }
        auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files)));
        ExpectHolds(store, model, 40);
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GE(failed, Stride() == 1 ? 20U : 1U);
}

// ---- during everything else ----

constexpr std::uint64_t kThreads = 3;
constexpr std::uint64_t kKeysOfAThread = 40;

// The work of thread `id`: it owns keys, and knows their values.
void UseOwnKeys(U64StringStore& store, std::uint64_t id, std::uint64_t turns, GarbageModel& model,
                std::mt19937_64& random) {
  auto session = store.NewSession();
  for (std::uint64_t turn = 0; turn < turns; ++turn) {
    const std::uint64_t key = random() % kKeysOfAThread * kThreads + id;
    switch (random() % 6) {
      case 0:
        ASSERT_EQ(session.Delete(key).ok(), model.erase(key) == 1);
        break;
      case 1: {
        const auto value = session.Read(key);
        ASSERT_EQ(value.ok(), model.count(key) == 1) << value.status();
        if (value.ok()) {
          ASSERT_EQ(*value, model[key]);
        }
        break;
      }
      case 2:
        Must(session.Rmw(key, [&](std::string& value) {
          value = CollectedValue(key, turn) + std::to_string(value.size());
          model[key] = value;
        }));
        break;
      default:
        Must(session.Upsert(key, model[key] = CollectedValue(key, turn)));
    }
  }
}

TEST(CompactionTest, OperationsContinueDuringIt) {
  const TempDir dir;
  internal::Environment environment = TinyEnvironment();
  environment.segment_blocks = 16;
  environment.pool_threads = 2;
  auto store = Must(OpenIn<U64StringStore>(dir / "db", environment));
  const auto turns = static_cast<std::uint64_t>(2000 * std::min(1.0, Scale() * 2));
  std::vector<GarbageModel> models(kThreads);
  std::atomic<bool> done{false};
  std::atomic<int> collections{0};
  std::thread collector([&] {
    while (!done.load()) {
      Must(store.CollectGarbage(
          {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 1 << 18}));
      ++collections;
    }
  });
  std::thread committer([&] {
    for (int i = 0; !done.load(); ++i) {
      Must(store.Commit());
      if (i % 8 == 0) Must(store.Checkpoint());
      if (i % 32 == 31) {
        EXPECT_TRUE(Verifies(store));
      }
    }
  });
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t id = 0; id < kThreads; ++id) {
      threads.emplace_back([&, id] {
        std::mt19937_64 random(Seed() + id);
        // However slow the collections are, the log is no longer than the writes of two rounds.
        for (int round = 0; round < 10; ++round) {
          const int seen = collections.load();
          UseOwnKeys(store, id, turns, models[id], random);
          while (collections.load() == seen && !testing::Test::HasFailure()) {
            std::this_thread::yield();
          }
        }
      });
    }
  }
  done = true;
  collector.join();
  committer.join();
  GarbageModel all;
  for (const GarbageModel& model : models) all.insert(model.begin(), model.end());
  ExpectHolds(store, all, kThreads * kKeysOfAThread);
  EXPECT_TRUE(Verifies(store));
  Must(store.Close());
  EXPECT_TRUE(IsWhole(VerifyDirectory(dir / "db")));
  auto again = Must(OpenIn<U64StringStore>(dir / "db", environment));
  ExpectHolds(again, all, kThreads * kKeysOfAThread);
}

}  // namespace
}  // namespace ebb::test
