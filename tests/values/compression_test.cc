// Compression: decompression returns the original bytes, or an error.
#include "ebb/internal/values/compression.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace ebb::test {
namespace {

using internal::Compress;
using internal::Decompress;

std::string Compressed(const std::string& bytes) {
  std::string out;
  Compress(bytes, out);
  return out;
}

// Texts, noise, one letter, of many lengths.
std::vector<std::string> Samples() {
  std::mt19937_64 random(41);
  std::vector<std::string> samples;
  for (std::size_t bytes : {0, 1, 4, 5, 6, 12, 13, 100, 1000, 4096, 70000, 1 << 20}) {
    std::string noise(bytes, ' ');
    for (char& c : noise) c = static_cast<char>(random());
    std::string text;
    while (text.size() < bytes) text += "the " + std::to_string(random() % 20) + "th word of it, ";
    text.resize(bytes);
    samples.insert(samples.end(), {noise, text, std::string(bytes, 'a')});
  }
  return samples;
}

TEST(CompressionTest, CompressedBytesDecompressToTheOriginal) {
  for (const std::string& sample : Samples()) {
    std::string out = "before";
    Compress(sample, out);
    ASSERT_EQ(out.substr(0, 6), "before") << "it appends";
    ASSERT_LE(out.size() - 6, sample.size() + 1);
    std::string back = "something else";
    ASSERT_TRUE(Decompress(std::string_view(out).substr(6), back)) << sample.size();
    ASSERT_EQ(back, sample);
  }
}

TEST(CompressionTest, BytesThatDoNotShrinkAreStoredUncompressed) {
  for (const std::string& sample : Samples()) {
    const std::string stored = Compressed(sample);
    if (stored[0] != 0) EXPECT_LT(stored.size(), sample.size());
    if (stored[0] == 0) EXPECT_EQ(stored.substr(1), sample);
  }
  if (!internal::CompressionIsBuilt().ok()) GTEST_SKIP() << "built without LZ4";
  EXPECT_LT(Compressed(std::string(1000, 'a')).size(), 50U);
}

TEST(CompressionTest, OtherBytesAreRejected) {
  std::string back;
  EXPECT_FALSE(Decompress("", back));
  EXPECT_FALSE(Decompress("\2abc", back));
  EXPECT_FALSE(Decompress("\1", back));
  EXPECT_FALSE(Decompress(std::string_view("\1\0\0\0\0", 5), back));
  EXPECT_TRUE(Decompress(std::string_view("\0", 1), back));
  EXPECT_EQ(back, "");
}

// Each cut and 20,000 changes: rejected, or some bytes of the claimed length; never more memory
// than a block of that size can mean.
TEST(CompressionTest, DamagedBlocksAreRejectedOrHarmless) {
  if (!internal::CompressionIsBuilt().ok()) GTEST_SKIP() << "built without LZ4";
  std::string sample;
  for (int i = 0; sample.size() < 3000; ++i) sample += "line " + std::to_string(i * i % 97) + "\n";
  const std::string stored = Compressed(sample);
  ASSERT_EQ(stored[0], 1);
  std::string back;
  for (std::size_t bytes = 0; bytes < stored.size(); ++bytes) {
    EXPECT_FALSE(Decompress(std::string_view(stored).substr(0, bytes), back)) << bytes;
  }
  std::mt19937_64 random(43);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = stored;
    damaged[1 + random() % (damaged.size() - 1)] = static_cast<char>(random());
    std::string fresh;
    if (!Decompress(damaged, fresh)) ++refused;
    ASSERT_LE(fresh.size(), 255 * damaged.size());
  }
  EXPECT_GT(refused, 2000);
  std::string huge = stored;
  const std::uint32_t count = 0x7e000000;
  std::memcpy(huge.data() + 1, &count, sizeof count);
  std::string fresh;
  EXPECT_FALSE(Decompress(huge, fresh));
  EXPECT_LT(fresh.capacity(), std::size_t{1} << 20) << "a length was believed";
}

}  // namespace
}  // namespace ebb::test
