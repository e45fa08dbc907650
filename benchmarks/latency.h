// Latencies: how long single calls took, in buckets that grow with them; exact to a sixteenth.
//
// Two ways to read one. By calls: the share of calls that took longer. By moments: the share of
// moments at which a caller who comes just then would wait longer. They differ where calls stall:
// a loop that makes its next call when the last has returned meets a stall once, however long it
// is, and so leaves out all who would have come meanwhile (coordinated omission). A caller at a
// random moment meets it as often as it is long, and waits for what is left of it; this is what
// adding the missing calls one by one comes to.
//
// Thread safety: one thread; merge when the threads have ended.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace ebb::bench {

class Latencies {
 public:
  void Add(std::uint64_t nanoseconds) {
    ++counts_[BucketOf(nanoseconds)];
    if (nanoseconds > most_) most_ = nanoseconds;
  }
  void Merge(const Latencies& other);

  // Nanoseconds that all but a share of `beyond` of the calls, or of the moments, stay below.
  double ByCalls(double beyond) const;
  double ByMoments(double beyond) const;
  double Most() const { return static_cast<double>(most_); }

 private:
  // Below 16 each number has its bucket; above, each power of two has sixteen.
  static constexpr std::uint64_t kSteps = 16;
  static constexpr std::size_t kBucketCount = 61 * kSteps;

  static std::size_t BucketOf(std::uint64_t nanoseconds) {
    if (nanoseconds < kSteps) return static_cast<std::size_t>(nanoseconds);
    const auto power = static_cast<std::uint64_t>(std::bit_width(nanoseconds)) - 5;
    return static_cast<std::size_t>(power * kSteps + (nanoseconds >> power));
  }
  static double MiddleOf(std::size_t bucket);

  std::vector<std::uint64_t> counts_ = std::vector<std::uint64_t>(kBucketCount);
  std::uint64_t most_ = 0;
};

}  // namespace ebb::bench
