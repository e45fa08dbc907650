#include "latency.h"

#include <algorithm>
#include <cmath>

namespace ebb::bench {

double Latencies::MiddleOf(std::size_t bucket) {
  if (bucket < kSteps) return static_cast<double>(bucket);
  const auto power = static_cast<int>(bucket / kSteps) - 1;
  const auto step = static_cast<double>(kSteps + bucket % kSteps);
  return std::ldexp(step + 0.5, power);
}

void Latencies::Merge(const Latencies& other) {
  for (std::size_t bucket = 0; bucket < kBucketCount; ++bucket) {
    counts_[bucket] += other.counts_[bucket];
  }
  most_ = std::max(most_, other.most_);
}

double Latencies::ByCalls(double beyond) const {
  std::uint64_t total = 0;
  for (const std::uint64_t count : counts_) total += count;
  const double allowed = static_cast<double>(total) * beyond;
  double above = 0.0;
  for (std::size_t bucket = kBucketCount; bucket-- > 0;) {
    above += static_cast<double>(counts_[bucket]);
    if (above > allowed) return MiddleOf(bucket);
  }
  return 0.0;
}

// A call of length t is met, with more than x of it left, by the moments of its first t - x. So
// the moments that wait longer than x are the sum of t - x over the calls longer than x: from the
// longest call down, count * (t - x) of those met so far is linear in x between two buckets.
double Latencies::ByMoments(double beyond) const {
  double all_time = 0.0;
  for (std::size_t bucket = 0; bucket < kBucketCount; ++bucket) {
    all_time += static_cast<double>(counts_[bucket]) * MiddleOf(bucket);
  }
  const double allowed = all_time * beyond;
  double calls = 0.0;
  double time = 0.0;  // of these calls
  for (std::size_t bucket = kBucketCount; bucket-- > 0;) {
    const double length = MiddleOf(bucket);
    if (time - calls * length > allowed) return (time - allowed) / calls;
    calls += static_cast<double>(counts_[bucket]);
    time += static_cast<double>(counts_[bucket]) * length;
  }
  return 0.0;
}

}  // namespace ebb::bench
