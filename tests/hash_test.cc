#include "ebb/internal/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace ebb::test {
namespace {

using internal::HashBytes;
using internal::HashInteger;
using internal::HashKey;

std::uint64_t HashText(std::string_view text) { return HashBytes(text.data(), text.size()); }

// The folded multiply in 32-bit halves: the same function, written another way.
std::uint64_t FoldedMultiply(std::uint64_t key) {
  const std::uint64_t a = key ^ 0x9e3779b97f4a7c15;
  const std::uint64_t b = 0xd6e8feb86659fd93;
  const std::uint64_t low = (a & 0xffffffff) * (b & 0xffffffff);
  const std::uint64_t cross1 = (a >> 32) * (b & 0xffffffff);
  const std::uint64_t cross2 = (a & 0xffffffff) * (b >> 32);
  const std::uint64_t middle = (low >> 32) + (cross1 & 0xffffffff) + (cross2 & 0xffffffff);
  const std::uint64_t high =
      (a >> 32) * (b >> 32) + (cross1 >> 32) + (cross2 >> 32) + (middle >> 32);
  return (middle << 32 | (low & 0xffffffff)) ^ high;
}

// ---- Values that are fixed for ever: the index of every store is built again from them ----

TEST(HashTest, VersionStandsForTheseValues) { EXPECT_EQ(internal::kHashVersion, 1U); }

TEST(HashTest, IntegersHaveTheirGoldenValues) {
  EXPECT_EQ(HashInteger(0), 0xc9d874ca57d9e055U);
  EXPECT_EQ(HashInteger(1), 0xf2f37271ad33e225U);
  EXPECT_EQ(HashInteger(42), 0x0b91aa8b621c7a50U);
  EXPECT_EQ(HashInteger(0x123456789abcdef0), 0x01f696c6caa31c76U);
  EXPECT_EQ(HashInteger(~std::uint64_t{0}), 0x8e1a4acd601c1d69U);
}

TEST(HashTest, IntegersAreOneFoldedMultiply) {
  std::uint64_t key = 1;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(HashInteger(key), FoldedMultiply(key)) << key;
    key = key * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
  }
}

// Vectors of the reference implementation of XXH3-64 with seed 0, one for each of its code paths.
TEST(HashTest, BytesAreXxh3) {
  EXPECT_EQ(HashText(""), 0x2d06800538d394c2U);
  EXPECT_EQ(HashText("a"), 0xe6c632b61e964e1fU);
  EXPECT_EQ(HashText("abc"), 0x78af5f94892f3950U);
  EXPECT_EQ(HashText("message digest"), 0x160d8e9329be94f9U);
  EXPECT_EQ(HashText("abcdefghijklmnopqrstuvwxyz"), 0x810f9ca067fbb90cU);

  std::string bytes(4096, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + 1);
  const struct {
    std::size_t count;
    std::uint64_t hash;
  } vectors[] = {
      {1, 0xe12ef9d2eb86ceeb},    {3, 0x5c83885a0fb5d516},   {4, 0x244f36de481e7522},
      {8, 0x96cc97a6768fd7a9},    {9, 0x4781d83b8e99d495},   {16, 0x913bd4a8038027a7},
      {17, 0x2bf6f66973a6179d},   {128, 0xc4399c7829d0628f}, {129, 0x8433489056750b32},
      {240, 0x3c0bb96864e543a1},  {241, 0xbff7215089202d8f}, {1024, 0xac8e32e4ea3ba062},
      {4096, 0x99e3c931dab3e711},
  };
  for (const auto& vector : vectors) {
    EXPECT_EQ(HashBytes(bytes.data(), vector.count), vector.hash) << vector.count;
  }
}

TEST(HashTest, BytesNeedNoAlignment) {
  alignas(8) char bytes[40];
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::memcpy(bytes + shift, "abcdefghijklmnopqrstuvwxyz", 26);
    EXPECT_EQ(HashBytes(bytes + shift, 26), 0x810f9ca067fbb90cU);
  }
}

// ---- Which hash a key gets ----

TEST(HashTest, FixedKeysUpToEightBytesAreIntegersExtendedByZeros) {
  const unsigned char bytes[8] = {0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88};
  EXPECT_EQ(HashKey(bytes, 1, true), HashInteger(0xf1));
  EXPECT_EQ(HashKey(bytes, 3, true), HashInteger(0xd3e2f1));
  EXPECT_EQ(HashKey(bytes, 4, true), HashInteger(0xc4d3e2f1));
  EXPECT_EQ(HashKey(bytes, 8, true), HashInteger(0x8897a6b5c4d3e2f1));
}

TEST(HashTest, AllOtherKeysAreBytes) {
  const std::string text = "twelve bytes";
  EXPECT_EQ(HashKey(text.data(), 12, true), HashText(text));
  EXPECT_EQ(HashKey(text.data(), 12, false), HashText(text));
  EXPECT_EQ(HashKey(text.data(), 8, false), HashText("twelve b"));
  EXPECT_EQ(HashKey(text.data(), 0, false), HashText(""));
}

// ---- Quality (hazard 17: an identity hash gives every key the same tag) ----

// How many of `bins` get a key when `count` keys are spread, and the most that one gets.
struct Spread {
  double used_share = 0;
  std::uint32_t most = 0;
};
template <typename BinOf>
Spread SpreadOf(std::uint64_t count, std::uint64_t stride, std::size_t bins, BinOf bin_of) {
  std::vector<std::uint32_t> counts(bins);
  for (std::uint64_t i = 0; i < count; ++i) ++counts[bin_of(HashInteger(i * stride))];
  const auto unused = std::count(counts.begin(), counts.end(), 0U);
  return {1 - static_cast<double>(unused) / static_cast<double>(bins),
          *std::max_element(counts.begin(), counts.end())};
}

// Numbers as they come: counters, sizes, aligned addresses, page numbers in high bits.
const std::vector<std::uint64_t>& Strides() {
  static const std::vector<std::uint64_t> strides = [] {
    std::vector<std::uint64_t> all = {3, 10, 1000};
    for (int shift = 0; shift <= 48; ++shift) all.push_back(std::uint64_t{1} << shift);
    return all;
  }();
  return strides;
}

// A random function of as many keys as bins uses 63 % of the bins and puts about 8 in the fullest.
// One multiply does as well for small strides, and is allowed less for keys that differ in their
// high bits alone; an identity hash would use one bin for most of these.
void ExpectSpread(const Spread& spread, std::uint64_t stride) {
  const bool small = stride <= 4096;
  EXPECT_GE(spread.used_share, small ? 0.5 : 0.2) << "stride " << stride;
  EXPECT_LE(spread.most, 14U) << "stride " << stride;
}

TEST(HashTest, EvenlySpacedIntegersSpreadOverBuckets) {
  for (const int exponent : {10, 16}) {
    SCOPED_TRACE(exponent);
    const std::uint64_t buckets = std::uint64_t{1} << exponent;
    for (const std::uint64_t stride : Strides()) {
      ExpectSpread(SpreadOf(buckets, stride, buckets,
                            [&](std::uint64_t hash) { return hash & (buckets - 1); }),
                   stride);
    }
  }
}

TEST(HashTest, EvenlySpacedIntegersSpreadOverTags) {
  constexpr std::uint64_t kTags = 1 << 15;
  for (const int creation_exponent : {1, 10, 16}) {
    SCOPED_TRACE(creation_exponent);
    for (const std::uint64_t stride : Strides()) {
      ExpectSpread(
          SpreadOf(kTags, stride, kTags,
                   [&](std::uint64_t hash) { return hash >> creation_exponent & (kTags - 1); }),
          stride);
    }
  }
}

// The tags of the keys of one bucket tell them apart, or different keys would share a chain. A
// random function of 2^16 keys to 2^31 chains puts one or two together.
TEST(HashTest, EvenlySpacedIntegersHaveChainsOfTheirOwn) {
  for (const std::uint64_t stride : Strides()) {
    std::vector<std::uint32_t> chains(std::size_t{1} << 16);
    for (std::size_t i = 0; i < chains.size(); ++i) {
      chains[i] = static_cast<std::uint32_t>(HashInteger(i * stride) & 0x7fffffff);
    }
    std::sort(chains.begin(), chains.end());
    const auto together = chains.end() - std::unique(chains.begin(), chains.end());
    EXPECT_LE(together, 40) << "stride " << stride;
  }
}

}  // namespace
}  // namespace ebb::test
