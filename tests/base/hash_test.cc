#include "ebb/internal/base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using internal::HashBytes;
using internal::HashInteger;
using internal::HashSeed;
using internal::KeyHash;

std::uint64_t HashText(std::string_view text) { return HashBytes(text.data(), text.size()); }

// The folded multiply in 32-bit halves: the same function, written another way.
std::uint64_t FoldedMultiply(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t low = (a & 0xffffffff) * (b & 0xffffffff);
  const std::uint64_t cross1 = (a >> 32) * (b & 0xffffffff);
  const std::uint64_t cross2 = (a & 0xffffffff) * (b >> 32);
  const std::uint64_t middle = (low >> 32) + (cross1 & 0xffffffff) + (cross2 & 0xffffffff);
  const std::uint64_t high =
      (a >> 32) * (b >> 32) + (cross1 >> 32) + (cross2 >> 32) + (middle >> 32);
  return (middle << 32 | (low & 0xffffffff)) ^ high;
}

// ---- Values that are fixed permanently: the index of every store is built again from them ----

TEST(HashTest, VersionStandsForTheseValues) { EXPECT_EQ(internal::kHashVersion, 2U); }

// Headers of every version of the format are sealed with these.
TEST(HashTest, UnseededIntegersHaveTheirGoldenValues) {
  EXPECT_EQ(HashInteger(0), 0xc9d874ca57d9e055U);
  EXPECT_EQ(HashInteger(1), 0xf2f37271ad33e225U);
  EXPECT_EQ(HashInteger(42), 0x0b91aa8b621c7a50U);
  EXPECT_EQ(HashInteger(0x123456789abcdef0), 0x01f696c6caa31c76U);
  EXPECT_EQ(HashInteger(~std::uint64_t{0}), 0x8e1a4acd601c1d69U);
}

constexpr HashSeed kSeed{0x0123456789abcdef, 0xf0e1d2c3b4a59687};

TEST(HashTest, KeysHaveTheirGoldenValues) {
  const KeyHash hash(kSeed);
  EXPECT_EQ(hash.OfInteger(0), 0xaf319ae3d909e487U);
  EXPECT_EQ(hash.OfInteger(1), 0x04211c5cd3899906U);
  EXPECT_EQ(hash.OfInteger(~std::uint64_t{0}), 0xc4295c404568eb28U);
  std::string bytes(4096, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + 1);
  // One for each of the code paths of XXH3.
  const struct {
    std::size_t count;
    std::uint64_t hash;
  } vectors[] = {
      {0, 0xd2c0a163093cda51},    {3, 0xb58c81cfb7fedad5},   {8, 0x1e599bb345d6ea3c},
      {16, 0xdf31e24a7366090b},   {128, 0xff3faa6c59968239}, {240, 0x56ec1422b5a3b278},
      {4096, 0xd2372b08822ba6f0},
  };
  for (const auto& vector : vectors) {
    EXPECT_EQ(hash.OfBytes(bytes.data(), vector.count), vector.hash) << vector.count;
  }
}

TEST(HashTest, IntegersAreTwoFoldedMultiplies) {
  std::uint64_t key = 1;
  for (const HashSeed seed : {HashSeed{}, kSeed, HashSeed{1, 2}}) {
    const KeyHash hash(seed);
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t once = FoldedMultiply(key ^ seed.s0, seed.s1 | 1);
      EXPECT_EQ(hash.OfInteger(key), FoldedMultiply(once, seed.s1 | 1)) << key;
      key = key * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
    }
  }
}

// Every bit of the seed counts, for every kind of key.
TEST(HashTest, AnotherSeedIsAnotherHash) {
  const std::string text(300, 'x');
  const KeyHash hash(kSeed);
  for (int bit = 0; bit < 128; ++bit) {
    if (bit == 64) continue;  // s1 is used as an odd number
    HashSeed seed = kSeed;
    (bit < 64 ? seed.s0 : seed.s1) ^= std::uint64_t{1} << (bit % 64);
    const KeyHash other(seed);
    EXPECT_NE(other.OfInteger(42), hash.OfInteger(42)) << bit;
    for (const std::size_t count : {0, 1, 4, 9, 17, 129, 300}) {
      EXPECT_NE(other.OfBytes(text.data(), count), hash.OfBytes(text.data(), count)) << bit;
    }
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
  const KeyHash hash(kSeed);
  const unsigned char bytes[8] = {0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88};
  EXPECT_EQ(hash.Of(bytes, 1, true), hash.OfInteger(0xf1));
  EXPECT_EQ(hash.Of(bytes, 3, true), hash.OfInteger(0xd3e2f1));
  EXPECT_EQ(hash.Of(bytes, 4, true), hash.OfInteger(0xc4d3e2f1));
  EXPECT_EQ(hash.Of(bytes, 8, true), hash.OfInteger(0x8897a6b5c4d3e2f1));
}

TEST(HashTest, AllOtherKeysAreBytes) {
  const KeyHash hash(kSeed);
  const std::string text = "twelve bytes";
  EXPECT_EQ(hash.Of(text.data(), 12, true), hash.OfBytes(text.data(), 12));
  EXPECT_EQ(hash.Of(text.data(), 12, false), hash.OfBytes(text.data(), 12));
  EXPECT_EQ(hash.Of(text.data(), 8, false), hash.OfBytes("twelve b", 8));
  EXPECT_EQ(hash.Of(text.data(), 0, false), hash.OfBytes("", 0));
}

// ---- Quality (hazard 17: an identity hash gives every key the same tag) ----

std::uint64_t Random(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  return HashInteger(HashInteger(state));
}

// As NewHeader draws them, but the same in every run.
std::vector<HashSeed> Seeds(std::size_t count) {
  std::vector<HashSeed> seeds;
  for (std::uint64_t state = 1; seeds.size() < count;) {
    const HashSeed seed{Random(state), Random(state) | 1};
    if (seed.IsGood()) seeds.push_back(seed);
  }
  return seeds;
}

// How keys share the rows and the chains of an index: the mean length of the row of a key, and the
// most keys in one chain.
struct Sharing {
  double row = 0;
  std::uint32_t chain = 0;
};
// In an index of 512 rows. Its chains are those of the fewest buckets that a store can be created
// with, 1,024.
template <typename HashOf, typename Keys>
Sharing SharingOf(const Keys& keys, HashOf hash_of) {
  std::array<std::uint32_t, 512> rows{};
  std::vector<std::uint32_t> chains;
  for (const auto& key : keys) {
    const std::uint64_t hash = hash_of(key);
    ++rows[hash % rows.size()];
    chains.push_back(static_cast<std::uint32_t>(hash & ((1 << 25) - 1)));
  }
  Sharing sharing;
  for (const double row : rows) sharing.row += row * row / static_cast<double>(keys.size());
  std::sort(chains.begin(), chains.end());
  std::uint32_t run = 0;
  for (std::size_t i = 0; i < chains.size(); ++i) {
    run = i != 0 && chains[i] == chains[i - 1] ? run + 1 : 1;
    sharing.chain = std::max(sharing.chain, run);
  }
  return sharing;
}

// Bounds that 4,096 random keys keep for each of 1,000 seeds, and with room to spare. A device read
// is made for each record of a chain, so the chain's length bounds the reads of one look-up.
void ExpectRandom(const Sharing& sharing, const std::string& keys) {
  EXPECT_LE(sharing.row, 2 * 9.0) << keys;  // 9 for a random function
  EXPECT_LE(sharing.chain, 4U) << keys;     // 2 or 3
}

constexpr std::uint64_t kFloodKeys = 4096;

// Numbers as they come: counters, sizes, aligned addresses, page numbers in high bits. One fold
// instead of two fails here.
TEST(HashTest, NoSeedClustersIntegersThatSomeoneChooses) {
  std::vector<std::pair<std::string, std::vector<std::uint64_t>>> families;
  const auto add = [&](const std::string& name, auto make) {
    families.emplace_back(name, std::vector<std::uint64_t>());
    for (std::uint64_t i = 0; i < kFloodKeys; ++i) families.back().second.push_back(make(i));
  };
  for (const int shift : {0, 1, 8, 22, 32, 40, 48, 52}) {
    add("k << " + std::to_string(shift), [&](std::uint64_t i) { return i << shift; });
  }
  add("~k", [](std::uint64_t i) { return ~i; });
  add("k << 32 | k", [](std::uint64_t i) { return i << 32 | i; });
  const std::vector<HashSeed> seeds = Seeds(1000);
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    const KeyHash hash(seeds[i]);
    const auto& [name, keys] = families[i % families.size()];
    ExpectRandom(SharingOf(keys, [&](std::uint64_t key) { return hash.OfInteger(key); }), name);
  }
}

// Found in the field: all of these shared one chain at every size of the index, so that a read of
// one cost a device read for each of the others.
TEST(HashTest, NoSeedLetsChosenStringsShareAChain) {
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; i < kFloodKeys; ++i) {
    keys.push_back(KeyOfHash((i + 1) << 31 | 0x2345678));
    ASSERT_EQ(HashText(keys.back()) & 0x7fffffff, 0x2345678U);
  }
  for (const HashSeed seed : Seeds(1000)) {
    const KeyHash hash(seed);
    ExpectRandom(
        SharingOf(keys, [&](const std::string& key) { return hash.OfBytes(key.data(), 8); }),
        "chosen strings");
  }
}

const KeyHash& Hash() {
  static const KeyHash hash{HashSeed{}};
  return hash;
}

// How many of `bins` get a key when `count` keys are spread, and the most that one gets.
struct Spread {
  double used_share = 0;
  std::uint32_t most = 0;
};
template <typename BinOf>
Spread SpreadOf(std::uint64_t count, std::uint64_t stride, std::size_t bins, BinOf bin_of) {
  std::vector<std::uint32_t> counts(bins);
  for (std::uint64_t i = 0; i < count; ++i) ++counts[bin_of(Hash().OfInteger(i * stride))];
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
// An identity hash would use one bin for most of these.
void ExpectSpread(const Spread& spread, std::uint64_t stride) {
  EXPECT_GE(spread.used_share, 0.6) << "stride " << stride;
  EXPECT_LE(spread.most, 12U) << "stride " << stride;
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

// The tags of the keys of one bucket distinguish them, or different keys would share a chain. A
// random function of 2^16 keys to 2^31 chains puts one or two together.
TEST(HashTest, EvenlySpacedIntegersHaveChainsOfTheirOwn) {
  for (const std::uint64_t stride : Strides()) {
    std::vector<std::uint32_t> chains(std::size_t{1} << 16);
    for (std::size_t i = 0; i < chains.size(); ++i) {
      chains[i] = static_cast<std::uint32_t>(Hash().OfInteger(i * stride) & 0x7fffffff);
    }
    std::sort(chains.begin(), chains.end());
    const auto together = chains.end() - std::unique(chains.begin(), chains.end());
    EXPECT_LE(together, 40) << "stride " << stride;
  }
}

}  // namespace
}  // namespace ebb::test
