// Store config: what fits a store is taken over, what does not is refused by the name of its
// option.
#include "ebb/internal/store_config.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::CoreConfig;
using internal::SegmentHeader;
using internal::StoredTypes;

constexpr StoredTypes kTypes{.shape = {8, 8}};

TEST(StoreConfigTest, ANewStoreIsAsItsOptionsSay) {
  Options options;
  options.log_memory_bytes = std::uint64_t{64} << 20;
  options.index_bucket_count = 4096;
  const SegmentHeader header = internal::NewHeader(options, {}, kTypes);
  EXPECT_EQ(header.page_shift, 22U);
  EXPECT_EQ(header.creation_exponent, 12U);
  EXPECT_EQ(header.segment_blocks, options.segment_bytes / 4096);
  Must(internal::CheckHeader(header, kTypes, options));
  const CoreConfig config = Must(internal::MakeConfig(header, options, {}));
  EXPECT_EQ(config.log.geometry.frame_count, 16U);
  EXPECT_EQ(config.index_exponent, 12);
  EXPECT_EQ(config.log.store_id, header.store_id);
  EXPECT_NE(internal::NewHeader(options, {}, kTypes).store_id, header.store_id);
}

TEST(StoreConfigTest, WhatAStoreIsNotIsRefused) {
  Options options;
  options.log_memory_bytes = std::uint64_t{64} << 20;
  const SegmentHeader header = internal::NewHeader(options, {}, kTypes);
  EXPECT_TRUE(FailsWith(internal::CheckHeader(header, {.shape = {8, 16}}, options),
                        StatusCode::kFailedPrecondition, "16 bytes"));
  EXPECT_TRUE(FailsWith(internal::CheckHeader(header, {kTypes.shape, 1}, options),
                        StatusCode::kFailedPrecondition, "codecs"));
  SegmentHeader hashed = header;
  ++hashed.hash_version;
  EXPECT_TRUE(FailsWith(internal::CheckHeader(hashed, kTypes, options), StatusCode::kUnimplemented,
                        "key hash"));
  Options pages = options;
  pages.page_bytes = 65536;
  EXPECT_TRUE(FailsWith(internal::CheckHeader(header, kTypes, pages),
                        StatusCode::kFailedPrecondition, "page_bytes"));
  Options small = options;
  small.log_memory_bytes = std::uint64_t{8} << 20;
  EXPECT_TRUE(FailsWith(internal::MakeConfig(header, small, {}).status(),
                        StatusCode::kInvalidArgument, "log_memory_bytes"));
  Options keys = options;
  keys.max_key_bytes = 4;
  EXPECT_TRUE(FailsWith(internal::MakeConfig(header, keys, {}).status(),
                        StatusCode::kInvalidArgument, "max_key_bytes"));
  Options buckets = options;
  buckets.index_bucket_count = std::uint64_t{1} << 31;
  SegmentHeader tiny = header;
  tiny.creation_exponent = 10;
  EXPECT_TRUE(FailsWith(internal::MakeConfig(tiny, buckets, {}).status(),
                        StatusCode::kInvalidArgument, "index_bucket_count"));
}

// Files are not trusted with memory: any program can write a header that verifies.
TEST(StoreConfigTest, FilesMayNotDemandAnIndexThatIsTooLarge) {
  Options options;
  SegmentHeader header = internal::NewHeader(options, {}, kTypes);
  header.creation_exponent = 33;  // 512 GiB
  EXPECT_TRUE(FailsWith(internal::MakeConfig(header, options, {}).status(),
                        StatusCode::kResourceExhausted, "max_index_bytes"));
  EXPECT_FALSE(IsRecoverable(internal::MakeConfig(header, options, {}).status()));
  header.creation_exponent = 17;  // 8 MiB
  Must(internal::MakeConfig(header, options, {}).status());
  options.max_index_bytes = (8 << 20) - 1;
  EXPECT_TRUE(FailsWith(internal::MakeConfig(header, options, {}).status(),
                        StatusCode::kResourceExhausted, "131072 index buckets, 8388608 bytes"));
  options.max_index_bytes = 8 << 20;
  const CoreConfig config = Must(internal::MakeConfig(header, options, {}));
  EXPECT_EQ(config.max_index_bytes, 8U << 20);
}

}  // namespace
}  // namespace ebb::test
