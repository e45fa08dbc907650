// Keys and key streams: what every benchmark reads and writes, prepared before any clock starts.
//
// A key space has `key_count` ids, 0 to key_count - 1. An id becomes an 8-byte key by a bijection
// that leaves no pattern, and a 16-byte key by writing that in hexadecimal. Values name their key,
// so that each read can be checked.
//
// Uniform streams draw ids evenly. Zipfian streams draw a rank with probability 1 / rank^0.99 and
// map it to an id by one random permutation of all ids: the hot keys are spread over index and log
// (a scrambled distribution), and every stream of one key space has the same hot keys.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace ebb::bench {

// A product of two words; not in the standard, hence the mark.
__extension__ typedef unsigned __int128 WideWord;

// SplitMix64: one add and a mix, good enough for benchmarks and the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t Next();
  std::uint64_t Below(std::uint64_t bound);  // even in [0, bound), bound > 0
  double Unit();                             // even in [0, 1)

 private:
  std::uint64_t state_;
};

// Ranks 1 to n with probability proportional to 1 / rank^theta, theta > 0 and not 1. Exact, in
// constant time and without tables: rejection-inversion after Hoermann and Derflinger (1996).
class Zipfian {
 public:
  Zipfian(std::uint64_t rank_count, double theta);
  std::uint64_t Next(Random& random) const;

 private:
  double Integral(double x) const;  // of x^-theta
  double InverseIntegral(double y) const;
  double Density(double x) const;

  double rank_count_;
  double theta_;
  double integral_first_;
  double integral_last_;
  double accept_below_;
};

enum class Distribution { kUniform, kZipfian };
inline constexpr double kZipfianTheta = 0.99;
const char* NameOf(Distribution distribution);

struct StreamSpec {
  std::uint64_t key_count = 0;
  std::uint64_t length = 0;  // ids per stream
  Distribution distribution = Distribution::kUniform;
  int stream_count = 1;  // one for each thread
};
// Streams of ids; the same spec gives the same streams.
std::vector<std::vector<std::uint64_t>> MakeIdStreams(const StreamSpec& spec);

// The 8-byte key of an id: a bijection of 64-bit numbers.
std::uint64_t KeyOf(std::uint64_t id);
// The same streams as 8-byte keys.
std::vector<std::vector<std::uint64_t>> MakeKeyStreams(const StreamSpec& spec);

// An 8-byte value holds the low half of its key, and above it whatever the writers count. Upserts
// and rmws of the benchmarks keep the low half, so every read can be checked at any time.
inline constexpr std::uint64_t kCountOne = std::uint64_t{1} << 32;
inline std::uint64_t ValueOf(std::uint64_t key, std::uint64_t count = 0) {
  return (key & (kCountOne - 1)) | (count * kCountOne);
}
inline bool IsValueOf(std::uint64_t key, std::uint64_t value) {
  return static_cast<std::uint32_t>(key ^ value) == 0;
}

struct StringKey {
  char bytes[16];
  std::string_view view() const { return {bytes, sizeof(bytes)}; }
};
StringKey StringKeyOf(std::uint64_t id);
std::vector<std::vector<StringKey>> MakeStringKeyStreams(const StreamSpec& spec);

// A string value of 100 bytes is its key, repeated.
inline constexpr std::size_t kStringValueBytes = 100;
struct StringValue {
  char bytes[kStringValueBytes];
  std::string_view view() const { return {bytes, sizeof(bytes)}; }
};
inline StringValue StringValueOf(const StringKey& key) {
  StringValue value;
  constexpr std::size_t kKeyBytes = sizeof(key.bytes);
  std::size_t at = 0;
  for (; at + kKeyBytes <= kStringValueBytes; at += kKeyBytes) {
    std::memcpy(value.bytes + at, key.bytes, kKeyBytes);
  }
  std::memcpy(value.bytes + at, key.bytes, kStringValueBytes - at);
  return value;
}
// Looks at the length and at both ends.
inline bool IsStringValueOf(const StringKey& key, std::string_view value) {
  constexpr std::size_t kTail = kStringValueBytes % sizeof(key.bytes);
  return value.size() == kStringValueBytes &&
         std::memcmp(value.data(), key.bytes, sizeof(key.bytes)) == 0 &&
         std::memcmp(value.data() + kStringValueBytes - kTail, key.bytes, kTail) == 0;
}

}  // namespace ebb::bench
