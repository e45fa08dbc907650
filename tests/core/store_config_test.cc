// Store config: options that fit a store are used; one that does not is rejected by its name.
#include "ebb/internal/core/store_config.h"

#include <cstdint>
#include <string>

#include "ebb/ebb.h"
#include "ebb/internal/base/platform.h"
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
  const SegmentHeader header = Must(internal::NewHeader(options, {}, kTypes));
  EXPECT_EQ(header.page_shift, 22U);
  EXPECT_EQ(header.creation_exponent, 12U);
  EXPECT_EQ(header.segment_blocks, options.segment_bytes / 4096);
  Must(internal::CheckHeader(header, kTypes, options));
  const CoreConfig config = Must(internal::MakeConfig(header, options, {}));
  EXPECT_EQ(config.log.geometry.frame_count, 16U);
  EXPECT_EQ(config.index_exponent, 12);
  EXPECT_EQ(config.log.store_id, header.store_id);
  EXPECT_EQ(config.hash_seed, header.hash_seed);
  const SegmentHeader other = Must(internal::NewHeader(options, {}, kTypes));
  EXPECT_NE(other.store_id, header.store_id);
  EXPECT_NE(other.hash_seed.s0, header.hash_seed.s0);
  EXPECT_NE(other.hash_seed.s1, header.hash_seed.s1);
  internal::Environment environment;
  environment.hash_seed = internal::HashSeed{1, 0xfffff};
  EXPECT_EQ(Must(internal::NewHeader(options, environment, kTypes)).hash_seed,
            *environment.hash_seed);
}

TEST(StoreConfigTest, ANewStoreStatesItsTimeAndLibraryOfCreation) {
  const std::uint64_t before = internal::UnixUs();
  const SegmentHeader header = Must(internal::NewHeader({}, {}, kTypes));
  EXPECT_GE(header.created_unix_us, before);
  EXPECT_LE(header.created_unix_us, internal::UnixUs());
  EXPECT_EQ(std::string(header.writer.data()), internal::kLibraryName);
  EXPECT_EQ(internal::kLibraryName, "ebb " + std::to_string(EBB_VERSION_MAJOR) + "." +
                                        std::to_string(EBB_VERSION_MINOR) + "." +
                                        std::to_string(EBB_VERSION_PATCH));
  EXPECT_EQ(header.required_features, 0U);
  EXPECT_EQ(header.optional_features, 0U);
}

// A poor multiplier is drawn again: one in 500 random ones is.
TEST(StoreConfigTest, SeedsAreGood) {
  for (int i = 0; i < 3000; ++i) {
    const internal::HashSeed seed = Must(internal::NewHeader({}, {}, kTypes)).hash_seed;
    ASSERT_TRUE(seed.IsGood());
    ASSERT_EQ(seed.s1 & 1, 1U);
  }
  EXPECT_FALSE((internal::HashSeed{~std::uint64_t{0}, 0x7ffff}.IsGood()));
  EXPECT_FALSE((internal::HashSeed{0, ~std::uint64_t{0xffff}}.IsGood()));
}

// The whole table: header against type.
TEST(StoreConfigTest, TypesAreDistinguishedByTheirTags) {
  using internal::TypeName;
  constexpr TypeName kU64{"u64", true};
  constexpr TypeName kF64{"f64", true};
  constexpr TypeName kPoint{"Point", false};
  constexpr TypeName kNameless{};
  const struct {
    TypeName created;
    TypeName opened;
    bool opens;
  } cases[] = {
      {kU64, kU64, true},        {kU64, kF64, false},        {kU64, kPoint, false},
      {kU64, kNameless, false},  {kPoint, kPoint, true},     {kPoint, {"Size", false}, false},
      {kPoint, kU64, false},     {kPoint, kNameless, false}, {kNameless, kNameless, true},
      {kNameless, kPoint, true}, {kNameless, kU64, false},
  };
  for (const auto& one : cases) {
    for (const bool of_key : {false, true}) {
      StoredTypes created = kTypes;
      StoredTypes opened = kTypes;
      (of_key ? created.key : created.value) = one.created;
      (of_key ? opened.key : opened.value) = one.opened;
      const SegmentHeader header = Must(internal::NewHeader({}, {}, created));
      const absl::Status status = internal::CheckHeader(header, opened, {});
      EXPECT_EQ(status.ok(), one.opens) << one.created.name << ", " << one.opened.name;
      if (!one.opens) {
        EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition,
                              of_key ? "created with keys of" : "created with values of"));
      }
    }
  }
  const SegmentHeader header = Must(internal::NewHeader({}, {}, {kTypes.shape, 0, kU64, kF64}));
  EXPECT_TRUE(FailsWith(internal::CheckHeader(header, {kTypes.shape, 0, kU64, kU64}, {}),
                        StatusCode::kFailedPrecondition,
                        "created with values of f64, and is opened with values of u64"));
}

TEST(StoreConfigTest, AStoreOfOtherTypesIsRejected) {
  Options options;
  options.log_memory_bytes = std::uint64_t{64} << 20;
  const SegmentHeader header = Must(internal::NewHeader(options, {}, kTypes));
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
  SegmentHeader header = Must(internal::NewHeader(options, {}, kTypes));
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
