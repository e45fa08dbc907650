// Core: the parts of one open store; its errors, its statistics, and the walk of a chain on the
// device.
#include "ebb/internal/core/core.h"

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/base/hash.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Core;

TEST(CoreTest, SizesAreJudgedByLimitsAndByThePage) {
  Options options = TinyOptions();
  options.max_key_bytes = 100;
  options.max_value_bytes = 4000;
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  auto store = Must(OpenIn<StringStore>("", environment, options));
  const Core& core = CoreOf(store);
  EXPECT_TRUE(core.CheckSizes(0, 0).ok());
  EXPECT_TRUE(core.CheckSizes(100, 3000).ok());
  EXPECT_TRUE(FailsWith(core.CheckSizes(101, 0), StatusCode::kInvalidArgument,
                        "key of 101 bytes: at most 100 are allowed (max_key_bytes)"));
  EXPECT_TRUE(FailsWith(core.CheckSizes(0, 4001), StatusCode::kInvalidArgument,
                        "value of 4001 bytes: at most 4000 are allowed (max_value_bytes)"));
  // 24 bytes of header, lengths and lock word; key and value each to the next multiple of 8.
  EXPECT_TRUE(core.CheckSizes(56, 4000).ok());
  EXPECT_TRUE(
      FailsWith(core.CheckSizes(57, 4000), StatusCode::kInvalidArgument, "a page (page_bytes"));
}

TEST(CoreTest, TooMuchMemoryIsRejectedByName) {
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  environment.frame_count = std::uint64_t{1} << 40;
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>("", environment).status(), StatusCode::kResourceExhausted,
                        "log_memory_bytes"));
}

TEST(CoreTest, StatsDescribeTheStore) {
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  environment.force_fallback = true;
  auto store = Must(OpenIn<U64Store>("", environment));
  StoreStats last = store.Stats();
  EXPECT_EQ(last.page_bytes, kTinyPageBytes);
  EXPECT_EQ(last.log_memory_bytes, kTinyMemoryBytes);
  EXPECT_EQ(last.index_bucket_count, 2U);
  EXPECT_EQ(last.index_overflow_count, 0U);
  EXPECT_EQ(last.index_memory_bytes, 128U);
  EXPECT_EQ(last.begin_address, kTinyPageBytes) << "behind the open record";
  EXPECT_EQ(last.tail_address, kTinyPageBytes);
  EXPECT_FALSE(last.direct_io);
  EXPECT_FALSE(last.membarrier);

  std::mt19937_64 random(1);
  for (int i = 0; i < 8000; ++i) {
    const std::uint64_t key = random() % 4000;
    if (i % 3 == 0) {
      const absl::StatusOr<std::uint64_t> read = store.Read(key);
      ASSERT_TRUE(read.ok() || absl::IsNotFound(read.status()));
    } else {
      Must(store.Upsert(key, key));
    }
    if (i % 97 != 0) continue;
    const StoreStats now = store.Stats();
    ASSERT_LE(now.begin_address, now.head_address);
    ASSERT_LE(now.head_address, now.flushed_until_address);
    ASSERT_LE(now.flushed_until_address, now.safe_read_only_address);
    ASSERT_LE(now.safe_read_only_address, now.read_only_address);
    ASSERT_LE(now.read_only_address, now.tail_address);
    ASSERT_GE(now.head_address, last.head_address);
    ASSERT_GE(now.flushed_until_address, last.flushed_until_address);
    ASSERT_GE(now.read_only_address, last.read_only_address);
    ASSERT_GE(now.tail_address, last.tail_address);
    ASSERT_LE(now.tail_address - now.head_address, kTinyMemoryBytes);
    last = now;
  }
  last = store.Stats();
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_GT(metrics.page_turns, 8U);
  EXPECT_GT(metrics.page_waits, 0U);
  EXPECT_GT(metrics.device_reads, 0U);
  EXPECT_EQ(metrics.device_read_bytes, 4096 * metrics.device_reads) << "small records, one block";
  EXPECT_GE(metrics.log_written_bytes, last.flushed_until_address - 2 * kTinyPageBytes);
  EXPECT_GT(last.index_overflow_count, 0U);
  EXPECT_EQ(last.index_memory_bytes, 64 * (2 + last.index_overflow_count));
  // A store that is closed still has a past.
  Must(store.Close());
  EXPECT_EQ(store.Metrics().page_turns, metrics.page_turns);
}

TEST(CoreTest, TwoBitsOfAVersionShowWhetherItHasDrained) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Core& core = CoreOf(store);
  EXPECT_TRUE(core.DrainedFor(1));
  for (std::uint64_t version = 2; version < 12; ++version) {
    Must(store.Upsert(version, version));
    Must(Commit(store));
    for (unsigned bits = 0; bits < 4; ++bits) {
      EXPECT_EQ(core.DrainedFor(bits), bits == version % 4) << version;
    }
    EXPECT_LE(core.VersionFloor(), core.log.tail());
  }
}

TEST(CoreTest, ErrorsNameTheMistakeOfTheCaller) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  const Core& core = CoreOf(store);
  EXPECT_TRUE(core.in_opening_process());
  EXPECT_TRUE(FailsWith(core.ClosedError(), StatusCode::kFailedPrecondition, "closed"));
}

}  // namespace
}  // namespace ebb::test
