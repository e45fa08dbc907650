#include "ebb/stats.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "ebb/store.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::StoreAccess;
using IntegerStore = Store<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t kKeys = 20000;  // 480,000 bytes in frames of 32 KiB

// Pages of one block and eight frames, so that boundaries move all the time.
IntegerStore TinyStore(const Options& options = {}) {
  internal::Environment environment;
  environment.in_memory = true;
  environment.page_shift = 12;
  environment.frame_count = 8;
  environment.index_exponent = 10;
  return Must(StoreAccess::Open<IntegerStore>("", options, environment));
}

std::vector<std::uint64_t> Boundaries(const StoreStats& stats) {
  return {stats.begin_address,          stats.head_address,      stats.flushed_until_address,
          stats.safe_read_only_address, stats.read_only_address, stats.tail_address};
}

TEST(StatsTest, NothingIsCountedBeforeAnything) {
  const StoreStats stats;
  EXPECT_EQ(Boundaries(stats), std::vector<std::uint64_t>(6, 0));
  EXPECT_FALSE(stats.direct_io || stats.membarrier);
}

TEST(StatsTest, FreshStoreReportsItsOptions) {
  IntegerStore store = TinyStore();
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.page_bytes, 4096U);
  EXPECT_EQ(stats.log_memory_bytes, 8U * 4096);
  EXPECT_EQ(stats.index_bucket_count, 1024U);
  EXPECT_EQ(stats.index_overflow_count, 0U);
  EXPECT_EQ(stats.index_memory_bytes, 65536U);
  EXPECT_EQ(stats.begin_address, stats.head_address);
  EXPECT_EQ(stats.read_only_address, stats.tail_address);
  EXPECT_FALSE(stats.direct_io);
}

// Every result is in order, and none is behind an earlier one, while everything moves.
TEST(StatsTest, BoundariesAreInOrderAndOnlyGrow) {
  IntegerStore store = TinyStore();
  constexpr int kWriters = 2;
  Atomic<int> running{kWriters};
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      auto session = store.NewSession();
      for (std::uint64_t i = 0; i < kKeys; ++i) {
        Must(session.Upsert(i * kWriters + static_cast<std::uint64_t>(writer), i));
      }
      running.fetch_sub(1, std::memory_order_release);
    });
  }
  std::vector<std::uint64_t> before(6, 0);
  int looks = 0;
  while (running.load(std::memory_order_acquire) > 0 || looks < 3) {
    const std::vector<std::uint64_t> now = Boundaries(store.Stats());
    for (std::size_t i = 0; i < now.size(); ++i) {
      EXPECT_GE(now[i], before[i]) << "boundary " << i << " went back";
      if (i > 0) {
        EXPECT_LE(now[i - 1], now[i]) << "boundaries " << i - 1 << " and " << i;
      }
    }
    before = now;
    ++looks;
  }
  for (std::thread& writer : writers) writer.join();
  before = Boundaries(store.Stats());
  EXPECT_GT(before[1], before[0]);  // the head has left the beginning
}

// ---- estimates ----

TEST(StatsTest, RegionsAddUpToTheLog) {
  IntegerStore store = TinyStore();
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.begin_address + stats.device_bytes, stats.head_address);
  EXPECT_EQ(stats.head_address + stats.read_only_bytes, stats.read_only_address);
  EXPECT_EQ(stats.read_only_address + stats.mutable_bytes, stats.tail_address);
  EXPECT_LE(stats.mutable_bytes + stats.read_only_bytes, stats.log_memory_bytes);
  EXPECT_GT(stats.device_bytes, 10 * stats.mutable_bytes);
}

// 1,024 buckets are all counted, and 2^25 chains are hardly ever shared. An index that grew in the
// meantime would be sampled, and two estimates could differ at random.
TEST(StatsTest, SmallStoresKnowTheirSizeNearlyExactly) {
  IntegerStore store = TinyStore({.index_auto_grow = false});
  EXPECT_EQ(store.ApproximateSize(), 0U);
  EXPECT_FALSE(Must(store.Contains(1)));
  EXPECT_EQ(store.Delete(1).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store.ApproximateSize(), 0U);
  for (std::uint64_t key = 0; key < 100; ++key) Must(store.Upsert(key, key));
  for (std::uint64_t key = 0; key < 50; ++key) Must(store.Upsert(key, key + 1));
  EXPECT_EQ(store.ApproximateSize(), 100U);
  for (std::uint64_t key = 0; key < 30; ++key) Must(store.Delete(key));
  EXPECT_EQ(store.ApproximateSize(), 70U) << "tombstones in memory do not count";
  EXPECT_EQ(store.Stats().index_entry_estimate, 100U);
  for (std::uint64_t key = 1000; key < kKeys; ++key) Must(store.Upsert(key, key));
  EXPECT_NEAR(static_cast<double>(store.ApproximateSize()), kKeys - 1000.0 + 100, 10.0)
      << "tombstones on the device count";
  EXPECT_EQ(store.Stats().index_bucket_count, 1024U);
  EXPECT_EQ(store.Stats().live_key_estimate, store.ApproximateSize());
  Must(store.Close());
  EXPECT_EQ(store.ApproximateSize(), 0U);
}

TEST(StatsTest, LargeStoresEstimateTheirSizeFromASample) {
  internal::Environment environment;
  environment.in_memory = true;
  environment.index_exponent = 14;  // 16,384 buckets, of which 1,024 are sampled
  auto store =
      Must(StoreAccess::Open<IntegerStore>("", {.log_memory_bytes = 8 << 20}, environment));
  constexpr std::uint64_t kMany = 65536;
  for (std::uint64_t key = 0; key < kMany; ++key) Must(store.Upsert(key, key));
  // 4,096 entries seen: one standard deviation is 1.6 %. Six are allowed: the hash seed is random.
  EXPECT_NEAR(static_cast<double>(store.ApproximateSize()), kMany, kMany * 0.096);
  for (std::uint64_t key = 0; key < kMany; key += 2) Must(store.Delete(key));
  EXPECT_NEAR(static_cast<double>(store.ApproximateSize()), kMany / 2, kMany * 0.068);
}

// ---- Size and IsEmpty ----

// A sample of 1,024 of 65,536 buckets would find none of them.
TEST(StatsTest, SmallStoresInAnIndexOfAnySizeAreCountedExactly) {
  for (const int exponent : {10, 16, 18}) {
    internal::Environment environment;
    environment.in_memory = true;
    environment.index_exponent = exponent;
    IntegerStore store = Must(StoreAccess::Open<IntegerStore>(
        "", {.log_memory_bytes = 4 << 20, .huge_pages = false}, environment));
    EXPECT_TRUE(Must(store.IsEmpty()));
    EXPECT_EQ(Must(store.Size()), 0U);
    std::uint64_t key = 0;
    for (const std::uint64_t count : {1, 2, 3, 10, 100, 1000, 9990}) {
      while (key < count) Must(store.Upsert(key++, 1));
      EXPECT_EQ(Must(store.Size()), count) << exponent;
      EXPECT_FALSE(Must(store.IsEmpty()));
      EXPECT_NEAR(static_cast<double>(store.ApproximateSize()), static_cast<double>(count),
                  static_cast<double>(count) * 0.13);
      EXPECT_NEAR(static_cast<double>(Must(store.EstimateGarbage()).live_records),
                  static_cast<double>(count), static_cast<double>(count) * 0.13);
      if (count > internal::Core::kMinEntries || exponent == 10) continue;
      EXPECT_EQ(store.Stats().index_entry_estimate, count);
      EXPECT_EQ(store.Stats().live_key_estimate, count);
    }
    while (key > 0) Must(store.Delete(--key));
    EXPECT_EQ(Must(store.Size()), 0U);
    EXPECT_EQ(store.ApproximateSize(), 0U);
    EXPECT_TRUE(Must(store.IsEmpty()));
  }
}

TEST(StatsTest, SizeIsExactWhileTheIndexGrows) {
  IntegerStore store = Must(IntegerStore::OpenInMemory(
      {.log_memory_bytes = 4 << 20, .index_bucket_count = 1024, .huge_pages = false}));
  for (std::uint64_t key = 1; key <= 9000; ++key) {
    Must(store.Upsert(key, key));
    if (key % 500 == 0) {
      EXPECT_EQ(Must(store.Size()), key);
    }
  }
  EXPECT_GT(store.Stats().index_bucket_count, 1024U);
}

// With two buckets at creation there are 65,536 chains, many of which these keys share. Each store
// samples a part of its index, whose error has a standard deviation of about 1.3 %. The mean of 32
// stores, each with a hash seed of its own, has 0.23 %.
TEST(StatsTest, KeysThatShareAChainAreAllowedFor) {
  constexpr int kStores = 32;
  double entries = 0;
  double keys = 0;
  for (int i = 0; i < kStores; ++i) {
    internal::Environment environment;
    environment.in_memory = true;
    environment.index_exponent = 1;
    auto store =
        Must(StoreAccess::Open<IntegerStore>("", {.log_memory_bytes = 1 << 20}, environment));
    for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
    entries += static_cast<double>(store.Stats().index_entry_estimate) / kStores;
    keys += static_cast<double>(store.ApproximateSize()) / kStores;
  }
  EXPECT_LT(entries, kKeys * 0.9);
  EXPECT_NEAR(keys, kKeys, kKeys * 0.02);
}

}  // namespace
}  // namespace ebb::test
