#include "ebb/stats.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "ebb/internal/atomic.h"
#include "ebb/store.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::StoreAccess;
using IntegerStore = Store<std::uint64_t, std::uint64_t>;

constexpr std::uint64_t kKeys = 20000;  // 480,000 bytes in frames of 32 KiB

// Pages of one block and eight frames, so that boundaries move all the time.
IntegerStore TinyStore() {
  internal::Environment environment;
  environment.in_memory = true;
  environment.page_shift = 12;
  environment.frame_count = 8;
  environment.index_exponent = 10;
  return Must(StoreAccess::Open<IntegerStore>("", Options{}, environment));
}

std::vector<std::uint64_t> Boundaries(const StoreStats& stats) {
  return {stats.begin_address,          stats.head_address,      stats.flushed_until_address,
          stats.safe_read_only_address, stats.read_only_address, stats.tail_address};
}

TEST(StatsTest, NothingIsCountedBeforeAnything) {
  const StoreStats stats;
  EXPECT_EQ(Boundaries(stats), std::vector<std::uint64_t>(6, 0));
  EXPECT_EQ(stats.flushed_bytes + stats.device_read_count + stats.page_turn_count, 0U);
  EXPECT_FALSE(stats.direct_io || stats.membarrier);
}

TEST(StatsTest, FreshStoreTellsWhatItWasGiven) {
  IntegerStore store = TinyStore();
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.page_bytes, 4096U);
  EXPECT_EQ(stats.log_memory_bytes, 8U * 4096);
  EXPECT_EQ(stats.index_bucket_count, 1024U);
  EXPECT_EQ(stats.index_overflow_count, 0U);
  EXPECT_EQ(stats.index_memory_bytes, 65536U);
  EXPECT_EQ(stats.page_turn_count + stats.device_read_count + stats.failed_cas_count, 0U);
  EXPECT_EQ(stats.begin_address, stats.head_address);
  EXPECT_EQ(stats.read_only_address, stats.tail_address);
  EXPECT_FALSE(stats.direct_io);
}

TEST(StatsTest, CountersTellWhatHappened) {
  IntegerStore store = TinyStore();
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
  const StoreStats written = store.Stats();
  // 170 records of 24 bytes fill a page of one block.
  EXPECT_GE(written.page_turn_count, kKeys / 170 - 1);
  EXPECT_EQ(written.tail_address / 4096, written.page_turn_count + 1);  // page 0: the open record
  EXPECT_GE(written.page_wait_count, written.page_turn_count);
  EXPECT_GT(written.flushed_bytes, (written.page_turn_count - 8) * 4080);
  EXPECT_EQ(written.device_read_count, 0U);

  EXPECT_EQ(*store.Read(0), 0U);
  const StoreStats read = store.Stats();
  EXPECT_EQ(read.device_read_count, 1U);
  EXPECT_EQ(read.device_read_bytes, 4096U);
  EXPECT_EQ(read.tail_address, written.tail_address);

  EXPECT_EQ(*store.Read(kKeys - 1), kKeys - 1);  // still in memory
  EXPECT_EQ(store.Stats().device_read_count, 1U);
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

}  // namespace
}  // namespace ebb::test
