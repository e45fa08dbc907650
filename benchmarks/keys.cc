#include "keys.h"

#include <cmath>
#include <numeric>
#include <utility>

namespace ebb::bench {
namespace {

constexpr std::uint64_t kPermutationSeed = 0x6b79656261746168;
constexpr std::uint64_t kStreamSeed = 0x2545f4914f6cdd1d;

std::uint64_t Mix(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
  word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
  return word ^ (word >> 31);
}

std::vector<std::uint64_t> RandomPermutation(std::uint64_t count) {
  std::vector<std::uint64_t> ids(count);
  std::iota(ids.begin(), ids.end(), std::uint64_t{0});
  Random random(kPermutationSeed);
  for (std::uint64_t left = count; left > 1; --left) {
    std::swap(ids[left - 1], ids[random.Below(left)]);
  }
  return ids;
}

}  // namespace

std::uint64_t Random::Next() {
  state_ += 0x9e3779b97f4a7c15;
  return Mix(state_);
}

std::uint64_t Random::Below(std::uint64_t bound) {
  // The bias is at most bound / 2^64.
  return static_cast<std::uint64_t>((WideWord{Next()} * bound) >> 64);
}

double Random::Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

Zipfian::Zipfian(std::uint64_t rank_count, double theta)
    : rank_count_(static_cast<double>(rank_count)),
      theta_(theta),
      integral_first_(Integral(1.5) - 1.0),
      integral_last_(Integral(rank_count_ + 0.5)),
      accept_below_(2.0 - InverseIntegral(Integral(2.5) - Density(2.0))) {}

// The area under the density is drawn evenly; a rank is taken when the point lies in its own bar,
// which holds almost always.
std::uint64_t Zipfian::Next(Random& random) const {
  while (true) {
    const double y = integral_last_ + random.Unit() * (integral_first_ - integral_last_);
    const double x = InverseIntegral(y);
    const double rank = std::fmin(std::fmax(std::floor(x + 0.5), 1.0), rank_count_);
    if (rank - x <= accept_below_ || y >= Integral(rank + 0.5) - Density(rank)) {
      return static_cast<std::uint64_t>(rank);
    }
  }
}

double Zipfian::Integral(double x) const {
  return (std::pow(x, 1.0 - theta_) - 1.0) / (1.0 - theta_);
}

double Zipfian::InverseIntegral(double y) const {
  return std::pow(y * (1.0 - theta_) + 1.0, 1.0 / (1.0 - theta_));
}

double Zipfian::Density(double x) const { return std::pow(x, -theta_); }

const char* NameOf(Distribution distribution) {
  return distribution == Distribution::kUniform ? "uniform" : "zipf";
}

std::vector<std::vector<std::uint64_t>> MakeIdStreams(const StreamSpec& spec) {
  const bool zipfian = spec.distribution == Distribution::kZipfian;
  const Zipfian ranks(spec.key_count, kZipfianTheta);
  const std::vector<std::uint64_t> id_of_rank =
      zipfian ? RandomPermutation(spec.key_count) : std::vector<std::uint64_t>();
  std::vector<std::vector<std::uint64_t>> streams;
  for (int stream = 0; stream < spec.stream_count; ++stream) {
    Random random(kStreamSeed + static_cast<std::uint64_t>(stream));
    std::vector<std::uint64_t>& ids = streams.emplace_back(spec.length);
    for (std::uint64_t& id : ids) {
      id = zipfian ? id_of_rank[ranks.Next(random) - 1] : random.Below(spec.key_count);
    }
  }
  return streams;
}

std::uint64_t KeyOf(std::uint64_t id) { return Mix(id + 0x9e3779b97f4a7c15); }

std::vector<std::vector<std::uint64_t>> MakeKeyStreams(const StreamSpec& spec) {
  std::vector<std::vector<std::uint64_t>> streams = MakeIdStreams(spec);
  for (std::vector<std::uint64_t>& stream : streams) {
    for (std::uint64_t& id : stream) id = KeyOf(id);
  }
  return streams;
}

StringKey StringKeyOf(std::uint64_t id) {
  StringKey key;
  std::uint64_t word = KeyOf(id);
  for (char& digit : key.bytes) {
    digit = "0123456789abcdef"[word >> 60];
    word <<= 4;
  }
  return key;
}

std::vector<std::vector<StringKey>> MakeStringKeyStreams(const StreamSpec& spec) {
  std::vector<std::vector<StringKey>> streams;
  for (const std::vector<std::uint64_t>& ids : MakeIdStreams(spec)) {
    std::vector<StringKey>& keys = streams.emplace_back();
    keys.reserve(ids.size());
    for (const std::uint64_t id : ids) keys.push_back(StringKeyOf(id));
  }
  return streams;
}

}  // namespace ebb::bench
