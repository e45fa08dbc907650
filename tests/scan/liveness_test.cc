// Liveness: the results agree with the whole log, read record by record: of all records of a key
// below an address the highest one is live, and no other.
//
// Everything runs in one thread, in tiny stores without a pool, whose two buckets make chains of
// many keys.
//
// Hazards: 14 (an index that grows), 17 (keys that share a tag), 43 and 45 (another key on the same
// chain, chains that grow), 51 (the newest record is requested for a fixed end).
#include "ebb/internal/scan/liveness.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/scan/log_cursor.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::Liveness;
using internal::LogCursor;
using internal::OwnSlot;

std::string KeyBytes(const internal::Record& record) {
  return {reinterpret_cast<const char*>(record.key()), record.key_length()};
}

struct Entry {
  Address address;
  std::string key;
};

// The records in the log below `end`, in order.
std::vector<Entry> EverythingBelow(internal::Core& core, Address end) {
  OwnSlot slot(core.epochs);
  LogCursor reader(core, *slot, {core.log.begin(), end}, {});
  std::vector<Entry> entries;
  for (;;) {
    const auto items = Must(reader.Next());
    if (items.empty()) return entries;
    for (const auto& item : items) entries.push_back({item.address, KeyBytes(item.record)});
  }
}

// Decides all records below `end`, in batches as large as a reader shows at a time, and compares.
void ExpectTheHighestAreLive(internal::Core& core, Address end, Address below,
                             std::uint64_t chunk_bytes) {
  std::map<std::string, Address> newest;
  for (const Entry& entry : EverythingBelow(core, end)) {
    if (entry.address < below) newest[entry.key] = entry.address;
  }
  OwnSlot slot(core.epochs);
  LogCursor reader(core, *slot, {core.log.begin(), std::min(end, below)}, {chunk_bytes, 0});
  Liveness liveness(core, *slot);
  std::size_t live_count = 0;
  for (;;) {
    const auto items = Must(reader.Next());
    if (items.empty()) break;
    std::vector<Liveness::Candidate> candidates;
    for (const auto& item : items) candidates.push_back({item.record, item.address});
    Must(liveness.Decide(candidates, below));
    for (const Liveness::Candidate& candidate : candidates) {
      const bool expected = newest.at({reinterpret_cast<const char*>(candidate.key),
                                       candidate.key_length}) == candidate.address;
      ASSERT_EQ(candidate.live(), expected) << candidate.address.value();
      ASSERT_GE(candidate.head.address(), candidate.address);
      if (candidate.live()) ++live_count;
    }
  }
  EXPECT_EQ(live_count, newest.size());
}

void Freeze(internal::Core& core) { Must(core.log.FreezeTo(core.log.tail())); }

// A record that was allocated and never published.
Address AppendUnpublished(internal::Core& core, internal::EpochSlot& slot, std::uint64_t key) {
  constexpr internal::RecordShape kShape{8, 8};
  internal::EpochGuard guard(core.epochs, slot);
  const Address address = core.log.Allocate(kShape.ExtentFor(8, 8), guard);
  const internal::Record record(core.log.At(address, guard), kShape);
  record.Init(internal::RecordHeader::Make(internal::RecordKind::kRecord, internal::kNoRecord, 1)
                  .With(internal::RecordHeader::kValid),
              &key, 8, 8, 8);
  return address;
}

TEST(LivenessTest, TheHighestRecordOfEachKeyIsLiveAndNoOther) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  internal::Core& core = CoreOf(store);
  std::mt19937_64 random(3);
  std::vector<Address> ends;
  for (int i = 0; i < 6000; ++i) {
    const std::uint64_t key = random() % 300;
    if (random() % 10 == 0) {
      static_cast<void>(store.Delete(key));  // absent ones too
    } else {
      Must(store.Upsert(key, random()));
    }
    if (i % 1500 == 700) {
      Freeze(core);
      ends.push_back(core.log.tail());
    }
  }
  Freeze(core);
  const Address tail = core.log.tail();
  ASSERT_GT(core.log.head_acquire(), core.log.begin()) << "nothing is on the device";
  ExpectTheHighestAreLive(core, tail, Liveness::kEverything, 1 << 20);
  ExpectTheHighestAreLive(core, tail, Liveness::kEverything, 4096);
  for (const Address end : ends) ExpectTheHighestAreLive(core, tail, end, 1 << 14);
}

TEST(LivenessTest, KeysAndRecordsThatCrossBlocksAreCompared) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 15;
  auto store = Must(OpenIn<StringStore>("db", environment));
  std::mt19937_64 random(5);
  const auto key = [](std::uint64_t i) {
    return std::string(i * 37 % 9000, 'k') + std::to_string(i);  // of up to three blocks
  };
  for (int i = 0; i < 500; ++i) {
    Must(store.Upsert(key(random() % 60), std::string(random() % 5000, 'v')));
  }
  internal::Core& core = CoreOf(store);
  Freeze(core);
  ASSERT_GT(core.log.head_acquire(), core.log.begin());
  ExpectTheHighestAreLive(core, core.log.tail(), Liveness::kEverything, 1 << 16);
  ExpectTheHighestAreLive(core, core.log.tail(), core.log.head_acquire(), 1 << 16);
}

// Records that no chain leads to: a crash has left records of a commit that never came.
TEST(LivenessTest, ARecordInNoChainIsDead) {
  SimFileSystem files;
  auto store = Must(OpenTinyInMemory<U64Store>());
  internal::Core& core = CoreOf(store);
  Must(store.Upsert(1, 10));
  OwnSlot slot(core.epochs);
  const Address lost = AppendUnpublished(core, *slot, 2);
  Must(store.Upsert(3, 30));
  Freeze(core);
  LogCursor reader(core, *slot, {core.log.begin(), core.log.tail()}, {});
  Liveness liveness(core, *slot);
  const auto items = Must(reader.Next());
  ASSERT_EQ(items.size(), 3U);
  std::vector<Liveness::Candidate> candidates;
  for (const auto& item : items) candidates.push_back({item.record, item.address});
  Must(liveness.Decide(candidates, Liveness::kEverything));
  EXPECT_TRUE(candidates[0].live());
  EXPECT_EQ(candidates[1].address, lost);
  EXPECT_FALSE(candidates[1].live());
  EXPECT_TRUE(candidates[2].live());
}

TEST(LivenessTest, NeighboursOnTheDeviceAreReadTogether) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 16;
  environment.index_exponent = 14;  // nearly every key has a chain of its own
  auto store = Must(OpenIn<U64Store>("db", environment));
  constexpr std::uint64_t kKeyCount = 20000;
  for (std::uint64_t i = 0; i < kKeyCount; ++i) Must(store.Upsert(i, 1));
  Freeze(CoreOf(store));  // nothing is updated in place
  const Address middle = CoreOf(store).log.tail();
  for (std::uint64_t i = 0; i < kKeyCount; ++i) Must(store.Upsert(i * 7 % kKeyCount, 2));
  for (std::uint64_t i = 0; i < 2 * kKeyCount; ++i) Must(store.Upsert(kKeyCount + i, 3));
  internal::Core& core = CoreOf(store);
  Freeze(core);
  ASSERT_GT(core.log.head_acquire(), middle + 2 * 24 * kKeyCount / 2);
  // All of the first are dead, and their successors lie in another order after them.
  OwnSlot slot(core.epochs);
  LogCursor reader(core, *slot, {core.log.begin(), middle}, {1 << 20, 1 << 20});
  const auto items = Must(reader.Next());
  ASSERT_EQ(items.size(), kKeyCount);
  std::vector<Liveness::Candidate> candidates;
  for (const auto& item : items) candidates.push_back({item.record, item.address});
  const std::uint64_t reads_before = store.Metrics().device_reads;
  Liveness liveness(core, *slot);
  Must(liveness.Decide(candidates, Liveness::kEverything));
  for (const auto& candidate : candidates) ASSERT_FALSE(candidate.live());
  const std::uint64_t reads = store.Metrics().device_reads - reads_before;
  EXPECT_GE(reads, 1U);
  EXPECT_LE(reads, 20U) << "480 KB of records in windows of a megabyte, and a few shared chains";
}

// A key that is updated all the time has ever more records above the end of a scan. Each of its
// dead ones below would walk past all of them.
TEST(LivenessTest, TheWayPastNewerRecordsIsWalkedOnce) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.index_exponent = 10;
  auto store = Must(OpenIn<U64Store>("db", environment));
  internal::Core& core = CoreOf(store);
  const auto update_all = [&](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      for (std::uint64_t key = 0; key < 100; ++key) Must(store.Upsert(key, key));
      Freeze(core);
    }
  };
  update_all(50);
  const Address below = core.log.tail();
  update_all(300);
  OwnSlot slot(core.epochs);
  LogCursor reader(core, *slot, {core.log.begin(), below}, {4096, 0});
  Liveness liveness(core, *slot);
  const std::uint64_t reads = store.Metrics().device_reads;
  std::size_t decided = 0;
  std::size_t live = 0;
  for (auto items = Must(reader.Next()); !items.empty(); items = Must(reader.Next())) {
    std::vector<Liveness::Candidate> candidates;
    for (const auto& item : items) candidates.push_back({item.record, item.address});
    Must(liveness.Decide(candidates, below));
    for (const auto& candidate : candidates) live += candidate.live() ? 1 : 0;
    decided += candidates.size();
  }
  EXPECT_EQ(decided, 5000U);
  EXPECT_EQ(live, 100U);
  EXPECT_LT(store.Metrics().device_reads - reads, 1500U);
}

TEST(LivenessTest, ADamagedBlockIsDataLossAndNamesItsPlace) {
  SimFileSystem files(/*direct=*/false);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  internal::Core& core = CoreOf(store);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    if (i % 1000 == 0) Freeze(core);
    Must(store.Upsert(i % 1000, i));
  }
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  // Every candidate of the first chunk needs a block behind it; all of those are damaged.
  OwnSlot slot(core.epochs);
  LogCursor reader(core, *slot, {core.log.begin(), core.log.tail()}, {4096, 0});
  const auto items = Must(reader.Next());
  const std::uint64_t last = core.log.geometry().BlockOf(core.log.head_acquire());
  for (std::uint64_t block = 3; block < last; ++block) {
    Overwrite(files, "db", SegmentFile(block / 16), (1 + block % 16) * 4096 + 100, "damage");
  }
  std::vector<Liveness::Candidate> candidates;
  for (const auto& item : items) candidates.push_back({item.record, item.address});
  Liveness liveness(core, *slot);
  EXPECT_TRUE(FailsWith(liveness.Decide(candidates, Liveness::kEverything), StatusCode::kDataLoss,
                        ".ebb at offset"));
}

// 14. An entry that is not found while it may be moving is searched for again: to take it for
//     absent would
// lose the record that its entry leads to.
TEST(LivenessTest, EntriesThatTheIndexMayBeMovingAreAwaited) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  internal::Core& core = CoreOf(store);
  OwnSlot slot(core.epochs);
  std::uint64_t key = 2;
  while (TestHash(key) % 2 != 0) ++key;  // of the bucket that is split first
  const Address lost = AppendUnpublished(core, *slot, key);
  Freeze(core);
  const auto drain = [&] {
    const std::uint64_t epoch = core.epochs.Bump();
    while (!core.epochs.Drained(epoch)) std::this_thread::yield();
  };
  ASSERT_EQ(core.index.BeginGrowth(), internal::HashIndex::GrowthStart::kStarted);
  drain();
  core.index.BeginSplit();
  LogCursor reader(core, *slot, {core.log.begin(), core.log.tail()}, {});
  const auto items = Must(reader.Next());
  ASSERT_EQ(items.size(), 1U);
  std::vector<Liveness::Candidate> candidates = {{items[0].record, lost}};
  std::atomic<bool> done{false};
  std::thread asker([&] {
    Liveness liveness(core, *slot);
    Must(liveness.Decide(candidates, Liveness::kEverything));
    done.store(true, std::memory_order_release);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(done.load(std::memory_order_acquire));
  while (core.index.FinishSplit()) {
    drain();
    core.index.BeginSplit();
  }
  drain();
  core.index.EndGrowth();
  asker.join();
  EXPECT_FALSE(candidates[0].live());
}

TEST(LivenessTest, NothingToDecideIsFine) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  OwnSlot slot(CoreOf(store).epochs);
  Liveness liveness(CoreOf(store), *slot);
  Must(liveness.Decide({}, Liveness::kEverything));
}

}  // namespace
}  // namespace ebb::test
