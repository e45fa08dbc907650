#include "ebb/internal/format/address.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

namespace ebb::test {
namespace {

using internal::Address;
using internal::Geometry;
using internal::kBlockPayloadBytes;
using internal::kNoRecord;
using internal::RoundUp8;

// Every page size there is, the smallest of tests included.
std::vector<Geometry> AllGeometries() {
  std::vector<Geometry> all;
  for (int shift = 12; shift <= 26; ++shift) all.push_back({.page_shift = shift});
  return all;
}

TEST(AddressTest, ComparesAndMovesAsANumber) {
  const Address low(4080);
  EXPECT_EQ((low + 8).value(), 4088U);
  EXPECT_EQ((low + 8) - low, 8U);
  EXPECT_LT(low, low + 8);
  EXPECT_EQ(low, Address(4080));
  EXPECT_TRUE(Address().is_null());
  EXPECT_FALSE(low.is_null());
}

TEST(AddressTest, NoRecordLiesBelowEveryRecordAndIsNotNull) {
  EXPECT_FALSE(kNoRecord.is_null());
  EXPECT_LT(kNoRecord.value() + 8, kBlockPayloadBytes);  // inside the first block
}

TEST(AddressTest, RoundsUpToEight) {
  EXPECT_EQ(RoundUp8(0), 0U);
  EXPECT_EQ(RoundUp8(1), 8U);
  EXPECT_EQ(RoundUp8(8), 8U);
  EXPECT_EQ(RoundUp8(9), 16U);
  EXPECT_EQ(RoundUp8(0xffffffffU), 0x100000000U);  // a length of 32 bits does not wrap
}

TEST(AddressTest, PageIsPayloadAndAGapOfSixteenBytesABlock) {
  for (const Geometry& geometry : AllGeometries()) {
    EXPECT_EQ(geometry.page_bytes(), geometry.blocks_per_page() * 4096);
    EXPECT_EQ(geometry.page_bytes() - geometry.payload_bytes(), geometry.blocks_per_page() * 16);
  }
}

TEST(AddressTest, BlocksFollowEachOtherWithinAPageAndSkipItsGap) {
  for (const Geometry& geometry : AllGeometries()) {
    const std::uint64_t per_page = geometry.blocks_per_page();
    EXPECT_EQ(geometry.BlockStart(0).value(), 0U);
    EXPECT_EQ(geometry.BlockStart(per_page), geometry.PageStart(1));
    EXPECT_EQ(geometry.BlockStart(per_page - 1).value(), (per_page - 1) * kBlockPayloadBytes);
    if (per_page > 1) {
      EXPECT_EQ(geometry.BlockStart(1) - geometry.BlockStart(0), kBlockPayloadBytes);
    }
  }
}

TEST(AddressTest, BlockOfAnAddressIsTheOneWhosePayloadHoldsIt) {
  for (const Geometry& geometry : AllGeometries()) {
    for (const std::uint64_t block : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{15},
                                      std::uint64_t{16}, std::uint64_t{1} << 20}) {
      const Address start = geometry.BlockStart(block);
      EXPECT_EQ(geometry.BlockOf(start), block);
      EXPECT_EQ(geometry.BlockOf(start + (kBlockPayloadBytes - 8)), block);
      EXPECT_LT(geometry.OffsetOf(start), geometry.payload_bytes());
    }
  }
}

TEST(AddressTest, AddressIsItsPageAndItsOffset) {
  for (const Geometry& geometry : AllGeometries()) {
    const Address address = geometry.PageStart(77) + 24;
    EXPECT_EQ(geometry.PageOf(address), 77U);
    EXPECT_EQ(geometry.OffsetOf(address), 24U);
  }
}

TEST(AddressTest, EndOfThePayloadIsNormalizedToTheNextPage) {
  for (const Geometry& geometry : AllGeometries()) {
    const Address end = geometry.PageStart(3) + geometry.payload_bytes();
    EXPECT_EQ(geometry.Normalize(end), geometry.PageStart(4));
    const Address before = geometry.PageStart(3) + (geometry.payload_bytes() - 8);
    EXPECT_EQ(geometry.Normalize(before), before);
    EXPECT_EQ(geometry.Normalize(geometry.PageStart(4)), geometry.PageStart(4));
  }
}

TEST(AddressTest, PagesThatAreResidentTogetherHaveDifferentFrames) {
  for (const std::uint64_t frames : {4, 5, 8, 9, 12, 100}) {
    const Geometry geometry{.page_shift = 16, .frame_count = frames};
    EXPECT_GE(geometry.frame_slots(), frames);
    EXPECT_LT(geometry.frame_slots(), 2 * frames);
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{1000001}}) {
      std::set<std::uint64_t> places;
      for (std::uint64_t page = first; page < first + frames; ++page) {
        places.insert(geometry.PageStart(page).value() & geometry.frame_mask());
      }
      EXPECT_EQ(places.size(), frames);
      EXPECT_LE(*places.rbegin() + geometry.page_bytes(), geometry.frame_mask() + 1);
    }
  }
}

TEST(AddressTest, LastAddressOfTheLogHasFortyEightBits) {
  const Geometry geometry{.page_shift = 26};
  const std::uint64_t last_page = (std::uint64_t{1} << (Address::kBits - 26)) - 1;
  const Address last = geometry.PageStart(last_page) + (geometry.page_bytes() - 8);
  EXPECT_EQ(last.value() & Address::kMask, last.value());
  EXPECT_EQ(geometry.PageOf(last), last_page);
}

}  // namespace
}  // namespace ebb::test
