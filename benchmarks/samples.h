// Samples: figures of one thing over the rounds of a run, and what is said of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace ebb::bench {

// One figure per round. Two series of one run are paired by position.
using Samples = std::vector<double>;

inline double Median(Samples samples) {
  if (samples.empty()) return 0.0;
  std::sort(samples.begin(), samples.end());
  const std::size_t middle = samples.size() / 2;
  if (samples.size() % 2 == 1) return samples[middle];
  return (samples[middle - 1] + samples[middle]) / 2.0;
}

inline double Least(const Samples& samples) {
  return samples.empty() ? 0.0 : *std::min_element(samples.begin(), samples.end());
}

inline double Most(const Samples& samples) {
  return samples.empty() ? 0.0 : *std::max_element(samples.begin(), samples.end());
}

// Round by round a / b; what the machine did to both in one round cancels out.
inline Samples PairedRatios(const Samples& a, const Samples& b) {
  Samples ratios;
  for (std::size_t round = 0; round < std::min(a.size(), b.size()); ++round) {
    ratios.push_back(a[round] / b[round]);
  }
  return ratios;
}

}  // namespace ebb::bench
