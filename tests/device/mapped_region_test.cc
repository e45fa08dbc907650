#include "ebb/internal/device/mapped_region.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace ebb::test {
namespace {

using internal::MappedRegion;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

// Pages of the region that have memory now.
std::size_t ResidentPages(const MappedRegion& region) {
  std::vector<unsigned char> resident((region.bytes() + kPage - 1) / kPage);
  EXPECT_EQ(::mincore(region.data(), region.bytes(), resident.data()), 0);
  return static_cast<std::size_t>(
      std::count_if(resident.begin(), resident.end(), [](unsigned char r) { return r & 1; }));
}

bool AllZero(const std::byte* bytes, std::size_t count) {
  return std::all_of(bytes, bytes + count, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(MappedRegionTest, MemoryIsZeroAndWritable) {
  const MappedRegion region(10 * kPage, false);
  ASSERT_NE(region.data(), nullptr);
  EXPECT_EQ(region.bytes(), 10 * kPage);
  EXPECT_TRUE(AllZero(region.data(), region.bytes()));
  std::memset(region.data(), 0x5a, region.bytes());
  EXPECT_EQ(region.data()[region.bytes() - 1], std::byte{0x5a});
}

TEST(MappedRegionTest, OnlyTouchedPagesAreResident) {
  const MappedRegion region(64 * kMiB, false);
  ASSERT_NE(region.data(), nullptr);
  EXPECT_EQ(ResidentPages(region), 0U);
  region.data()[5 * kMiB] = std::byte{1};
  region.data()[9 * kMiB] = std::byte{1};
  EXPECT_EQ(ResidentPages(region), 2U);
}

TEST(MappedRegionTest, PopulatedMemoryIsResidentAndKeepsItsBytes) {
  const MappedRegion region(64 * kMiB, false);
  ASSERT_NE(region.data(), nullptr);
  region.data()[5 * kMiB] = std::byte{1};
  region.Populate(4 * kMiB, 2 * kMiB);
  const std::size_t resident = ResidentPages(region);
  if (resident == 1) GTEST_SKIP() << "the kernel does not know the advice";
  EXPECT_EQ(resident, 2 * kMiB / 4096);
  EXPECT_EQ(region.data()[5 * kMiB], std::byte{1});
}

// Fails when GrowTo creates a new mapping, or when Reserve allocates memory.
TEST(MappedRegionTest, AReservedRegionGrowsWhereItLies) {
  MappedRegion region = MappedRegion::Reserve(std::size_t{1} << 36, false);
  ASSERT_NE(region.data(), nullptr);
  EXPECT_EQ(region.bytes(), 0U);
  std::byte* const data = region.data();
  for (const std::size_t bytes : {kPage, 4 * kMiB, 64 * kMiB}) {
    const std::size_t before = region.bytes();
    ASSERT_TRUE(region.GrowTo(bytes));
    ASSERT_EQ(region.data(), data);
    EXPECT_EQ(region.bytes(), bytes);
    EXPECT_TRUE(before == 0 || data[before - 1] == std::byte{7});
    EXPECT_EQ(data[bytes - 1], std::byte{0});
    data[bytes - 1] = std::byte{7};
  }
  EXPECT_LE(ResidentPages(region), 4U);
  EXPECT_FALSE(region.GrowTo(std::size_t{1} << 46));  // beyond the reservation
  EXPECT_EQ(region.bytes(), 64 * kMiB);
}

TEST(MappedRegionTest, ReleasedPagesGiveTheirMemoryBackAndReadAsZeros) {
  const MappedRegion region(8 * kPage, false);
  ASSERT_NE(region.data(), nullptr);
  std::memset(region.data(), 0x5a, region.bytes());
  ASSERT_EQ(ResidentPages(region), 8U);
  region.Release(2 * kPage, 3 * kPage);
  EXPECT_EQ(ResidentPages(region), 5U);
  EXPECT_TRUE(AllZero(region.data() + 2 * kPage, 3 * kPage));
  EXPECT_EQ(region.data()[2 * kPage - 1], std::byte{0x5a});
  EXPECT_EQ(region.data()[5 * kPage], std::byte{0x5a});
}

TEST(MappedRegionTest, LargeRegionsAreAlignedForHugePages) {
  for (const std::size_t bytes : {2 * kMiB, 3 * kMiB, 33 * kMiB}) {
    const MappedRegion region(bytes, true);
    ASSERT_NE(region.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region.data()) % (2 * kMiB), 0U);
    region.data()[0] = std::byte{1};
    region.data()[bytes - 1] = std::byte{1};  // the alignment took nothing from the end
  }
}

TEST(MappedRegionTest, HugePagesAreCountedWithinTheRegion) {
  const MappedRegion region(8 * kMiB, true);
  ASSERT_NE(region.data(), nullptr);
  std::memset(region.data(), 1, region.bytes());
  const std::uint64_t huge = region.huge_page_bytes();  // none where the kernel gives none
  EXPECT_LE(huge, region.bytes());
  EXPECT_EQ(huge % (2 * kMiB), 0U);
}

TEST(MappedRegionTest, NoHugePagesWhereNoneWereRequested) {
  const MappedRegion region(8 * kMiB, false);
  ASSERT_NE(region.data(), nullptr);
  std::memset(region.data(), 1, region.bytes());
  EXPECT_EQ(region.huge_page_bytes(), 0U);
}

TEST(MappedRegionTest, RegionThatCannotBeMappedIsNull) {
  const MappedRegion region(std::size_t{1} << 60, false);
  EXPECT_EQ(region.data(), nullptr);
  EXPECT_EQ(region.bytes(), 0U);
}

TEST(MappedRegionTest, DefaultRegionIsNull) {
  const MappedRegion region;
  EXPECT_EQ(region.data(), nullptr);
  EXPECT_EQ(region.bytes(), 0U);
}

TEST(MappedRegionTest, MovingHandsTheMemoryOver) {
  MappedRegion from(kPage, false);
  ASSERT_NE(from.data(), nullptr);
  std::byte* const data = from.data();
  data[7] = std::byte{9};
  MappedRegion to(std::move(from));
  EXPECT_EQ(to.data(), data);
  EXPECT_EQ(to.data()[7], std::byte{9});
  MappedRegion assigned(3 * kPage, false);
  assigned = std::move(to);
  EXPECT_EQ(assigned.data(), data);
  EXPECT_EQ(assigned.bytes(), kPage);
  EXPECT_EQ(assigned.data()[7], std::byte{9});
}

TEST(MappedRegionTest, DestructionUnmaps) {
  std::byte* address = nullptr;
  {
    const MappedRegion region(4 * kMiB, true);
    ASSERT_NE(region.data(), nullptr);
    address = region.data();
  }
  unsigned char resident = 0;
  EXPECT_EQ(::mincore(address, kPage, &resident), -1);  // ENOMEM: nothing is mapped there
}

}  // namespace
}  // namespace ebb::test
