#include "ebb/internal/log/log_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ebb/internal/format/block.h"
#include "ebb/status.h"
#include "tests/support/log_rig.h"

namespace ebb::test {
namespace {

using internal::DeviceBuffer;
using internal::Geometry;
using internal::HybridLog;
using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::LockWord;
using internal::RecordHeader;
using internal::RecordKind;
using internal::RecordShape;
using internal::SealBlock;
using internal::VerifyBlock;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(LogReaderTest, BufferGrowsAndKeepsTheRequestedBlocks) {
  DeviceBuffer buffer;
  std::byte* const small = buffer.Reserve(1, 0);
  ASSERT_NE(small, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(small) % kBlockBytes, 0U);
  std::memset(small, 0x5a, kBlockBytes);
  std::byte* const large = buffer.Reserve(4, 1);
  ASSERT_NE(large, nullptr);
  EXPECT_EQ(large[0], std::byte{0x5a});
  EXPECT_EQ(large[kBlockBytes - 1], std::byte{0x5a});
  std::memset(large, 0x77, 4 * kBlockBytes);
  EXPECT_EQ(buffer.Reserve(3, 3), large);  // large enough: nothing moves
}

TEST(LogReaderTest, RecordsOfEveryLengthAndPlaceComeBackFromTheDevice) {
  const Geometry four_blocks{.page_shift = 14, .frame_count = 8};
  LogRig rig(LogRig::FromPageOne(four_blocks));
  std::mt19937_64 random(7);
  std::vector<Written> all;
  std::uint64_t max_blocks = 0;
  for (int i = 0; i < 800; ++i) {
    const std::uint64_t max = i % 20 == 0 ? 4 * kBlockPayloadBytes : 700;
    const auto value_bytes = static_cast<std::uint32_t>(random() % (max - 64));
    all.push_back(
        Must(rig.Append(rig.slot(), static_cast<std::uint32_t>(random() % 30), value_bytes)));
    max_blocks = std::max(max_blocks, four_blocks.BlockOf(all.back().address + value_bytes) -
                                          four_blocks.BlockOf(all.back().address));
  }
  EXPECT_EQ(max_blocks, 3U);
  rig.Evict();
  for (const Written& written : all) {
    ASSERT_LT(written.address, rig.log().head_acquire());
    EXPECT_TRUE(rig.Holds(written));
  }
  EXPECT_GE(rig.reader().counters().device_reads.load(std::memory_order_relaxed), all.size());
}

// A block ends between the header and the lengths, which are needed to know how much more to read.
TEST(LogReaderTest, LengthsMayBeInTheNextBlock) {
  const Geometry four_blocks{.page_shift = 14, .frame_count = 8};
  for (const std::uint64_t extent :
       {std::uint64_t{32}, std::uint64_t{4088}, std::uint64_t{4096}, std::uint64_t{8168}}) {
    LogRig rig(LogRig::FromPageOne(four_blocks));
    Must(rig.AppendExtent(kBlockPayloadBytes - 8));
    const Written written = Must(rig.AppendExtent(extent));
    ASSERT_EQ(rig.geometry().OffsetOf(written.address), kBlockPayloadBytes - 8);
    rig.Evict();
    EXPECT_TRUE(rig.Holds(written)) << extent;
  }
}

TEST(LogReaderTest, RecordsOfFixedSizesComeBackFromTheDevice) {
  const RecordShape shapes[] = {{8, 8},
                                {4, 1},
                                {8, 24},
                                {16, 8},
                                {3, 5000},
                                {8, LogRig::kVariable},
                                {LogRig::kVariable, 8},
                                {LogRig::kVariable, 24}};
  for (const RecordShape shape : shapes) {
    LogRig::Setup setup = LogRig::FromPageOne(LogRig::kTwoBlocks);
    setup.shape = shape;
    LogRig rig(setup);
    std::vector<Written> all;
    while (rig.TailPage() < 20) {
      const auto length = static_cast<std::uint32_t>(all.size() % 50);
      all.push_back(Must(rig.Append(rig.slot(), shape.key_variable() ? length : shape.key_bytes,
                                    shape.value_variable() ? length : shape.value_bytes)));
    }
    Must(rig.HelpUntilIdle());
    EXPECT_GT(rig.log().head_acquire(), rig.geometry().PageStart(10));
    for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
  }
}

TEST(LogReaderTest, ReadCountsItsBlocks) {
  LogRig rig(LogRig::FromPageOne(LogRig::kTwoBlocks));
  Must(rig.AppendExtent(kBlockPayloadBytes - 8));
  const Written written = Must(rig.AppendExtent(64));
  Must(rig.FlushAll());
  Must(rig.ReadRecord(written.address).status());
  EXPECT_EQ(rig.reader().counters().device_read_bytes.load(std::memory_order_relaxed),
            2 * kBlockBytes);
}

// ---- Damage ----

// A log with one record of 6,000 bytes in blocks 2 and 3, flushed.
class LogReaderDamageTest : public ::testing::Test {
 protected:
  LogReaderDamageTest() : written_(Must(rig_.AppendExtent(6000))) { Must(rig_.FlushAll()); }

  std::string ExpectDataLoss() {
    const absl::Status status = rig_.ReadRecord(written_.address).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    return status.ToString();
  }
  void Flip(std::uint64_t block, std::size_t byte) {
    ScriptDevice::Block bytes = *rig_.device().Get(block);
    bytes[byte] ^= std::byte{0x10};
    rig_.device().Put(block, bytes);
  }
  // Puts 8 bytes into the record's first block and seals it again.
  void Forge(std::size_t offset, std::uint64_t word) {
    ScriptDevice::Block bytes = *rig_.device().Get(2);
    std::memcpy(bytes.data() + offset, &word, 8);
    SealBlock(bytes, LogRig::kStoreId, 2, LogRig::kIncarnation);
    rig_.device().Put(2, bytes);
  }

  LogRig rig_{LogRig::FromPageOne(LogRig::kTwoBlocks)};
  Written written_;
};

TEST_F(LogReaderDamageTest, IntactRecordIsRead) {
  EXPECT_TRUE(rig_.ReadRecord(written_.address).ok());
}

TEST_F(LogReaderDamageTest, FlippedBitIsDataLossWithItsPlace) {
  Flip(2, 100);
  EXPECT_THAT(ExpectDataLoss(), AllOf(HasSubstr("script at offset 8192"), HasSubstr("block 2"),
                                      HasSubstr("checksum")));
}

TEST_F(LogReaderDamageTest, FlippedBitInALaterBlockOfTheRecordIsDataLossWithItsPlace) {
  Flip(3, 4095);
  EXPECT_THAT(ExpectDataLoss(), HasSubstr("script at offset 12288"));
}

TEST_F(LogReaderDamageTest, MissingBlockIsDataLoss) {
  rig_.device().Erase(3);
  EXPECT_THAT(ExpectDataLoss(), AllOf(HasSubstr("script at offset"), HasSubstr("missing")));
}

TEST_F(LogReaderDamageTest, BlockOfAnotherPlaceIsDataLoss) {
  rig_.device().Put(2, *rig_.device().Get(3));
  EXPECT_THAT(ExpectDataLoss(), HasSubstr("checksum"));
}

// A block that was written before a crash cut the log here is whole and right, and yet not ours.
TEST_F(LogReaderDamageTest, BlockOfAnotherIncarnationIsDataLoss) {
  ScriptDevice::Block bytes = *rig_.device().Get(2);
  SealBlock(bytes, LogRig::kStoreId, 2, LogRig::kIncarnation + 1);
  rig_.device().Put(2, bytes);
  EXPECT_THAT(ExpectDataLoss(), HasSubstr("earlier incarnation"));
}

TEST_F(LogReaderDamageTest, PlacesThatNoRecordCanHaveAreDataLoss) {
  const internal::Geometry& geometry = rig_.geometry();
  for (const internal::Address place :
       {written_.address + 4, geometry.PageStart(1) + geometry.payload_bytes(),
        geometry.PageStart(2) + (geometry.page_bytes() - 8)}) {
    const absl::Status status = rig_.ReadRecord(place).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << place.value();
    EXPECT_THAT(status.ToString(), HasSubstr("no record can have")) << place.value();
  }
}

// Blocks that verify and hold nonsense, made by an attacker who can compute checksums.
TEST_F(LogReaderDamageTest, ForgedRecordsAreDataLoss) {
  const RecordHeader good =
      RecordHeader::Make(RecordKind::kRecord, internal::kNoRecord, 0).With(RecordHeader::kValid);
  const std::uint64_t lengths = 8 | std::uint64_t{6000 - LogRig::kOverheadBytes} << 32;
  const struct {
    std::size_t offset;
    std::uint64_t word;
  } forgeries[] = {
      {0, good.Without(RecordHeader::kValid).word()},
      {0, RecordHeader::MakeExtent(RecordKind::kFiller, 6000).With(RecordHeader::kValid).word()},
      {0, RecordHeader::MakeExtent(RecordKind::kControl, 6000).With(RecordHeader::kValid).word()},
      {0, 0},
      // A chain that leads to itself or upwards would be walked forever.
      {0, good.With(written_.address.value()).word()},
      {0, good.With(written_.address.value() + 64).word()},
      {8, 0xffffffffffffffff},
      {8, 8 | std::uint64_t{8160} << 32},
      {8, 8160},
      {16, LockWord::Initial(5968).Locked().word()},
      {16, LockWord::Initial(5969).word()},
  };
  for (const auto& forgery : forgeries) {
    Forge(forgery.offset, forgery.word);
    EXPECT_THAT(ExpectDataLoss(), HasSubstr("script at offset 8192"))
        << forgery.offset << " " << forgery.word;
    Forge(0, good.word());
    Forge(8, lengths);
    Forge(16, LockWord::Initial(5968).word());
    EXPECT_TRUE(rig_.Holds(written_));
  }
}

TEST(LogReaderTest, EachHistoryIsReadWithItsOwnIncarnation) {
  const Geometry geometry{.page_shift = 12, .frame_count = 8};
  const auto position = [&](std::uint64_t old_incarnation) {
    return HybridLog::Position{.begin = geometry.PageStart(1),
                               .head = geometry.PageStart(9),
                               .tail = geometry.PageStart(9),
                               .incarnations = {{0, old_incarnation}, {9, 1234}}};
  };
  LogRig old_log({.geometry = geometry});
  std::vector<Written> all;
  while (old_log.TailPage() < 9) all.push_back(Must(old_log.AppendExtent(1360)));
  Must(old_log.FlushAll());

  LogRig new_log({.geometry = geometry, .position = position(LogRig::kIncarnation)});
  LogRig wrong_log({.geometry = geometry, .position = position(LogRig::kIncarnation + 1)});
  for (std::uint64_t block = 1; block < 9; ++block) {
    new_log.device().Put(block, *old_log.device().Get(block));
    wrong_log.device().Put(block, *old_log.device().Get(block));
  }
  for (const Written& written : all) {
    if (written.address >= geometry.PageStart(9)) continue;
    EXPECT_TRUE(new_log.Holds(written));
    EXPECT_TRUE(absl::IsDataLoss(wrong_log.ReadRecord(written.address).status()));
  }
  Must(new_log.AppendExtent(64));
  Must(new_log.FlushAll());
  EXPECT_EQ(VerifyBlock(*new_log.device().Get(9), LogRig::kStoreId, 9), 1234U);
}

// Hazard 28: a failed read is reported to its caller once, and does no harm.
TEST(LogReaderTest, FailedReadIsReportedAndTheNextOneSucceeds) {
  LogRig rig({});
  const Written written = Must(rig.AppendExtent(64));
  rig.Evict();
  const absl::Status error = absl::UnavailableError("read failed");
  rig.device().FailReads(1, error);
  EXPECT_EQ(rig.ReadRecord(written.address).status(), error);
  EXPECT_TRUE(rig.Holds(written));
}

}  // namespace
}  // namespace ebb::test
