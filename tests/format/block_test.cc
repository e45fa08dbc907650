#include "ebb/internal/format/block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "ebb/internal/base/hash.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::CommitRecord;
using internal::DecodeCommitRecord;
using internal::DecodeSegmentHeader;
using internal::EncodeCommitRecord;
using internal::EncodeSegmentHeader;
using internal::kBlockPayloadBytes;
using internal::RecordHeader;
using internal::RecordKind;
using internal::RecordShape;
using internal::SealBlock;
using internal::SegmentHeader;
using internal::VerifyBlock;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kStore = 0x1122334455667788;
constexpr std::uint64_t kNumber = 77;
constexpr std::uint64_t kIncarnation = 0x99aabbccddeeff01;

struct Block {
  alignas(8) std::array<std::byte, 4096> bytes{};
  std::span<std::byte> span() { return bytes; }
  std::uint64_t WordAt(std::size_t offset) const {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + offset, 8);
    return word;
  }
};

Block PatternBlock() {
  Block block;
  for (std::size_t i = 0; i < kBlockPayloadBytes; ++i) {
    block.bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  }
  return block;
}

Block SealedBlock(std::uint64_t number) {
  Block block = PatternBlock();
  SealBlock(block.span(), kStore, number, kIncarnation);
  return block;
}

std::string Hex(std::span<const std::byte> bytes) {
  std::string hex;
  for (const std::byte byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[static_cast<unsigned>(byte) >> 4];
    hex += kDigits[static_cast<unsigned>(byte) & 15];
  }
  return hex;
}

// ---- Blocks ----

TEST(BlockTest, SealedBlockVerifiesAndReturnsItsIncarnation) {
  for (const std::uint64_t number : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 36}) {
    const Block block = SealedBlock(number);
    EXPECT_EQ(VerifyBlock(block.bytes, kStore, number), kIncarnation);
  }
}

TEST(BlockTest, SealingLeavesThePayloadAlone) {
  const Block block = SealedBlock(5);
  EXPECT_EQ(std::memcmp(block.bytes.data(), PatternBlock().bytes.data(), kBlockPayloadBytes), 0);
  EXPECT_EQ(block.WordAt(4080), kIncarnation);
}

// The witness of the format: blocks written by earlier versions must always verify.
TEST(BlockTest, ChecksumHasItsGoldenValue) {
  EXPECT_EQ(SealedBlock(0).WordAt(4088), 0x09688938027b0ccdU);
  EXPECT_EQ(SealedBlock(123456789).WordAt(4088), 0x5f25d0720b1f54e0U);
}

TEST(BlockTest, EverySingleBitFlipIsFound) {
  Block block = SealedBlock(7);
  std::uint64_t missed = 0;
  for (std::size_t bit = 0; bit < 8 * block.bytes.size(); ++bit) {
    const std::byte flip{static_cast<unsigned char>(1U << (bit % 8))};
    block.bytes[bit / 8] ^= flip;
    missed += VerifyBlock(block.bytes, kStore, 7).has_value();
    block.bytes[bit / 8] ^= flip;
  }
  EXPECT_EQ(missed, 0U);
  EXPECT_TRUE(VerifyBlock(block.bytes, kStore, 7).has_value());
}

TEST(BlockTest, BlockAtAnotherPlaceIsFound) {
  const Block block = SealedBlock(7);
  for (std::uint64_t number = 0; number < 1000; ++number) {
    EXPECT_EQ(VerifyBlock(block.bytes, kStore, number).has_value(), number == 7);
  }
  EXPECT_FALSE(VerifyBlock(block.bytes, kStore, ~std::uint64_t{0}).has_value());
}

TEST(BlockTest, BlockOfAnotherStoreIsFound) {
  const Block block = SealedBlock(7);
  EXPECT_FALSE(VerifyBlock(block.bytes, kStore + 1, 7).has_value());
  EXPECT_FALSE(VerifyBlock(block.bytes, 0, 7).has_value());
  // Store and number are not simply added or xored: one cannot make up for the other.
  EXPECT_FALSE(VerifyBlock(block.bytes, kStore ^ 7, 0).has_value());
  EXPECT_FALSE(VerifyBlock(block.bytes, kStore + 1, 6).has_value());
  EXPECT_FALSE(VerifyBlock(block.bytes, kStore ^ 1, 6).has_value());
}

// A power loss leaves sectors of the old block among sectors of the new one.
TEST(BlockTest, TornBlockIsFound) {
  const Block old_block = SealedBlock(7);
  Block new_block;
  new_block.bytes.fill(std::byte{0x42});
  SealBlock(new_block.span(), kStore, 7, kIncarnation + 1);
  for (unsigned mask = 1; mask < 255; ++mask) {
    Block torn = new_block;
    for (std::size_t sector = 0; sector < 8; ++sector) {
      if ((mask >> sector & 1) == 0) continue;
      std::memcpy(torn.bytes.data() + sector * 512, old_block.bytes.data() + sector * 512, 512);
    }
    EXPECT_FALSE(VerifyBlock(torn.bytes, kStore, 7).has_value()) << mask;
  }
}

TEST(BlockTest, ZerosDoNotVerify) {
  const Block zeros;
  EXPECT_FALSE(VerifyBlock(zeros.bytes, kStore, 0).has_value());
  EXPECT_FALSE(VerifyBlock(zeros.bytes, 0, 0).has_value());
}

// ---- Commit records ----

CommitRecord OpenRecord() {
  CommitRecord record;
  record.kind = RecordKind::kOpen;
  record.version = 0x0102030405060708;
  record.begin = Address(0x111111111118);
  record.begin_incarnation = 0x5857565554535251;
  record.durable = Address(0x222222222228);
  record.creation_exponent = 16;
  record.index_exponent = 20;
  record.previous_incarnation = 0x3132333435363738;
  record.cut_block = 0x4142434445464748;
  record.shift_tail = Address(0x333333333338);
  record.unix_us = 0x6162636465666768;
  return record;
}

void ExpectEqual(const CommitRecord& left, const CommitRecord& right) {
  EXPECT_EQ(left.kind, right.kind);
  EXPECT_EQ(left.version, right.version);
  EXPECT_EQ(left.begin, right.begin);
  EXPECT_EQ(left.durable, right.durable);
  EXPECT_EQ(left.creation_exponent, right.creation_exponent);
  EXPECT_EQ(left.index_exponent, right.index_exponent);
  EXPECT_EQ(left.previous_incarnation, right.previous_incarnation);
  EXPECT_EQ(left.cut_block, right.cut_block);
  EXPECT_EQ(left.shift_tail, right.shift_tail);
  EXPECT_EQ(left.unix_us, right.unix_us);
}

TEST(BlockTest, CommitRecordComesBack) {
  CommitRecord control;
  control.version = 9;
  for (const CommitRecord& record : {OpenRecord(), control}) {
    for (const std::uint64_t extent : {CommitRecord::kMinExtentBytes, std::uint64_t{4080}}) {
      Block block = PatternBlock();
      const auto payload = block.span().first(kBlockPayloadBytes);
      EncodeCommitRecord(record, kStore, kNumber, payload.last(extent));
      const auto decoded = DecodeCommitRecord(payload, kStore, kNumber);
      ASSERT_TRUE(decoded.has_value());
      ExpectEqual(*decoded, record);
    }
  }
}

TEST(BlockTest, CommitRecordIsARecordOfItsExtentWithZerosInFrontOfItsFields) {
  Block block = PatternBlock();
  const auto extent = block.span().first(kBlockPayloadBytes).last(1000);
  EncodeCommitRecord(OpenRecord(), kStore, kNumber, extent);
  const internal::Record record(extent.data(), RecordShape{});
  EXPECT_EQ(record.header().LoadAcquire().kind(), RecordKind::kOpen);
  EXPECT_TRUE(record.header().LoadAcquire().valid());
  EXPECT_EQ(record.ExtentOf(), 1000U);
  EXPECT_TRUE(record.WellFormed(1000));
  for (std::size_t i = 8; i < 1000 - CommitRecord::kFieldBytes; ++i) {
    ASSERT_EQ(extent[i], std::byte{0}) << i;
  }
  // The bytes in front of the record are not touched.
  EXPECT_EQ(std::memcmp(block.bytes.data(), PatternBlock().bytes.data(), 3080), 0);
}

TEST(BlockTest, CommitRecordHasItsGoldenBytes) {
  std::array<std::byte, CommitRecord::kMinExtentBytes> bytes;
  EncodeCommitRecord(OpenRecord(), kStore, kNumber, bytes);
  EXPECT_EQ(Hex(bytes),
            "8800000000002400"    // extent 136, valid, kind open
            "0000000000000000"    // reserved
            "0000000000000000"    // reserved
            "3833333333330000"    // the tail when the shift began
            "6867666564636261"    // time
            "5152535455565758"    // incarnation at begin
            "0000000000000000"    // checkpoint
            "0807060504030201"    // version
            "1811111111110000"    // begin
            "2822222222220000"    // durable
            "1000000014000000"    // index exponents
            "3837363534333231"    // previous incarnation
            "4847464544434241"    // cut
            "0000000000000000"    // reserved
            "0200000004000000"    // format version, kind
            "8000000000000000"    // length of the fields
            "c237bd53f91a0dca");  // "EBCOMMIT", mixed with the store's id
}

TEST(BlockTest, SessionsComeBackAsTheyWere) {
  std::vector<SessionReport> sessions;
  for (std::uint64_t i = 0; i < 20; ++i) sessions.push_back({std::string(i + 1, 's'), i * i});
  const auto all = internal::FitSessions(sessions, 4080);
  EXPECT_EQ(all.count, 20U);
  std::vector<std::byte> extent(all.bytes, std::byte{0xee});
  internal::EncodeSessions(77, sessions, extent);
  const auto record = internal::DecodeSessions(extent);
  ASSERT_TRUE(record.has_value());
  EXPECT_EQ(record->version, 77U);
  EXPECT_EQ(record->sessions, sessions);
  // No prefix of it passes, and no length is believed.
  for (std::size_t bytes = 0; bytes < extent.size(); bytes += 8) {
    EXPECT_FALSE(internal::DecodeSessions(std::span(extent).first(bytes)).has_value()) << bytes;
  }
  const auto some = internal::FitSessions(sessions, 100);
  EXPECT_EQ(some.count, 3U);
  EXPECT_EQ(some.bytes, 24U + 3 * 24);
}

TEST(BlockTest, EndOfABlockWithoutCommitRecordIsNone) {
  EXPECT_FALSE(DecodeCommitRecord(PatternBlock().span().first(4080), kStore, kNumber).has_value());
  EXPECT_FALSE(DecodeCommitRecord(Block().span().first(4080), kStore, kNumber).has_value());
  EXPECT_FALSE(DecodeCommitRecord(Block().span().first(127), kStore, kNumber).has_value());
}

// The end mark is mixed with the store's id, so that the value of a record cannot imitate it by
// chance, nor by copying a file of another store into this one.
TEST(BlockTest, CommitRecordOfAnotherStoreIsNone) {
  Block block;
  EncodeCommitRecord(OpenRecord(), kStore, kNumber, block.span().first(4080));
  EXPECT_FALSE(DecodeCommitRecord(block.span().first(4080), kStore ^ 1, kNumber).has_value());
  EXPECT_FALSE(DecodeCommitRecord(block.span().first(4080), kStore, kNumber + 1).has_value());
}

TEST(BlockTest, CommitRecordOfAnotherKindOrLengthIsNone) {
  constexpr std::size_t kKindOffset = 4080 - 20;
  constexpr std::size_t kLengthOffset = 4080 - 16;
  for (const std::size_t offset : {kKindOffset, kLengthOffset}) {
    Block block;
    EncodeCommitRecord(OpenRecord(), kStore, kNumber, block.span().first(4080));
    block.bytes[offset] = std::byte{1};
    EXPECT_FALSE(DecodeCommitRecord(block.span().first(4080), kStore, kNumber).has_value())
        << offset;
  }
}

TEST(BlockTest, CommitRecordWithoutRoomForItsFieldsIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::array<std::byte, CommitRecord::kMinExtentBytes - 8> bytes;
  EXPECT_DEATH(EncodeCommitRecord(OpenRecord(), kStore, kNumber, bytes), "internal error");
}

// ---- Segment headers ----

SegmentHeader Header() {
  SegmentHeader header;
  header.store_id = kStore;
  header.first_block = 0x40000;
  header.segment_blocks = 0x20000;
  header.page_shift = 20;
  header.shape = {8, RecordShape::kVariable};
  header.hash_version = internal::kHashVersion;
  header.codec_version = 3;
  header.creation_exponent = 16;
  header.optional_features = 0x8000000000000002;
  header.hash_seed = {0x0102030405060708, 0x1112131415161718};
  header.key_tag = internal::TypeTag("u64");
  header.value_tag = internal::TypeTag("string");
  header.created_unix_us = 0x0006400000000000;
  std::strcpy(header.writer.data(), "ebb 0.1.0");
  header.rest[0] = std::byte{0xaa};
  header.rest.back() = std::byte{0xbb};
  return header;
}

Block Encoded(const SegmentHeader& header) {
  Block block = PatternBlock();
  EncodeSegmentHeader(header, block.span());
  return block;
}

absl::Status DecodeStatus(const Block& block) {
  return DecodeSegmentHeader(block.bytes, "log-00000002.ebb").status();
}

TEST(BlockTest, SegmentHeaderComesBack) {
  const auto decoded = DecodeSegmentHeader(Encoded(Header()).bytes, "log-00000002.ebb");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, Header());  // unknown optional features and their bytes too
}

// The witness of format version 2: a later library reads exactly these bytes.
TEST(BlockTest, SegmentHeaderHasItsGoldenBytes) {
  const Block block = Encoded(Header());
  EXPECT_EQ(Hex(std::span(block.bytes).first(161)),
            "4542425345474d54"  // "EBBSEGMT"
            "0200000000000000"  // format version
            "8877665544332211"  // store id
            "0000040000000000"  // first block
            "0000020000000000"  // segment blocks
            "1400000000100000"  // page shift, block bytes
            "08000000ffffffff"  // key bytes, value bytes
            "0200000003000000"  // hash version, codec version
            "1000000000000000"
            "0000000000000000"                                                  // required features
            "0200000000000080"                                                  // optional features
            "08070605040302011817161514131211"                                  // hash seed
            "f32f36b9931448a2"                                                  // tag of u64
            "f174e7484619add8"                                                  // tag of string
            "0000000000400600"                                                  // created
            "65626220302e312e300000000000000000000000000000000000000000000000"  // "ebb 0.1.0"
            "aa");
  for (std::size_t i = 161; i < 4079; ++i) ASSERT_EQ(block.bytes[i], std::byte{0}) << i;
  EXPECT_EQ(block.WordAt(4088), 0x5f20531921b5ccccU);
}

// A store of format version 1, as the library of that version has made it.
TEST(BlockTest, AHeaderOfFormatVersion1IsRejectedAndBothVersionsAreNamed) {
  Block block;
  const std::uint64_t words[] = {
      0x544d474553424245, 1, kStore, 0x40000, 0x20000, 0x0000100000000014, 0xffffffff00000008,
      0x0000000300000001, 16};
  std::memcpy(block.bytes.data(), words, sizeof(words));
  const std::uint64_t checksum = 0xdac6ae1594fdcbea;
  std::memcpy(block.bytes.data() + 4088, &checksum, 8);
  const absl::Status status = DecodeStatus(block);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_THAT(status.ToString(),
              AllOf(HasSubstr("format version 1"), HasSubstr("format version 2")));
}

TEST(BlockTest, EverySingleBitFlipOfASegmentHeaderIsDataLoss) {
  Block block = Encoded(Header());
  std::uint64_t missed = 0;
  for (std::size_t bit = 0; bit < 8 * block.bytes.size(); ++bit) {
    const std::byte flip{static_cast<unsigned char>(1U << (bit % 8))};
    block.bytes[bit / 8] ^= flip;
    missed += !absl::IsDataLoss(DecodeStatus(block));
    block.bytes[bit / 8] ^= flip;
  }
  EXPECT_EQ(missed, 0U);
}

TEST(BlockTest, DamagedSegmentHeaderNamesFileAndOffset) {
  Block block = Encoded(Header());
  block.bytes[30] ^= std::byte{1};
  EXPECT_THAT(DecodeStatus(block).ToString(),
              AllOf(HasSubstr("log-00000002.ebb at offset 0"), HasSubstr("checksum")));
  EXPECT_THAT(DecodeStatus(Block()).ToString(),
              AllOf(HasSubstr("log-00000002.ebb at offset 0"), HasSubstr("not the header")));
}

TEST(BlockTest, UnknownFormatVersionIsUnimplemented) {
  for (const std::uint32_t version : {0U, internal::kFormatVersion + 1, 0xffffffffU}) {
    SegmentHeader header = Header();
    header.format_version = version;
    const absl::Status status = DecodeStatus(Encoded(header));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(status.ToString(), AllOf(HasSubstr("log-00000002.ebb"),
                                         HasSubstr("version " + std::to_string(version))));
  }
}

TEST(BlockTest, AnUnknownRequiredFeatureIsUnimplementedAndAnOptionalOneIsKept) {
  for (int bit = 0; bit < 64; ++bit) {
    SegmentHeader header = Header();
    header.required_features = std::uint64_t{1} << bit;
    EXPECT_EQ(DecodeStatus(Encoded(header)).code(), absl::StatusCode::kUnimplemented) << bit;
    header.required_features = 0;
    header.optional_features = std::uint64_t{1} << bit;
    EXPECT_EQ(*DecodeSegmentHeader(Encoded(header).bytes, "log"), header) << bit;
  }
}

// Fields that verify and yet make no sense must not become shifts and sizes.
TEST(BlockTest, SegmentHeaderFieldsOutOfRangeAreDataLoss) {
  const auto refused = [](auto change) {
    SegmentHeader header = Header();
    change(header);
    return absl::IsDataLoss(DecodeStatus(Encoded(header)));
  };
  EXPECT_FALSE(refused([](SegmentHeader&) {}));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.page_shift = 11; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.page_shift = 27; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.page_shift = -1; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.segment_blocks = 0; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.segment_blocks = 0x20001; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.segment_blocks = std::uint64_t{1} << 37; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.creation_exponent = 34; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.shape.key_bytes = 0; }));
  EXPECT_TRUE(refused([](SegmentHeader& h) { h.shape.value_bytes = 0; }));
}

}  // namespace
}  // namespace ebb::test
