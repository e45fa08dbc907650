#include "ebb/internal/base/tally.h"

namespace ebb::internal {

// ---- latencies ----

void LatencyHistogram::Subtract(const LatencyHistogram& earlier) {
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] -= earlier.counts[i];
  sum_ns -= earlier.sum_ns;
  // A maximum cannot be subtracted: Summarize takes account of that.
}

LatencySummary LatencyHistogram::Summarize() const {
  LatencySummary summary;
  std::size_t last = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    summary.count += counts[i];
    if (counts[i] != 0) last = i;
  }
  if (summary.count == 0) return summary;
  summary.sum_ns = sum_ns;
  // max_ns may be of a latency that has been subtracted.
  summary.max_ns = std::min(max_ns, LatencyBuckets::UpperEnd(last));
  if (last + 1 == counts.size()) summary.max_ns = max_ns;  // longer than any bucket
  struct Percentile {
    std::uint64_t per_mille;
    std::uint64_t* ns;
  };
  const Percentile wanted[] = {{500, &summary.p50_ns},
                               {950, &summary.p95_ns},
                               {990, &summary.p99_ns},
                               {999, &summary.p999_ns}};
  std::size_t index = 0;
  std::uint64_t below = counts[0];  // the latencies in buckets up to `index`
  for (const auto& [per_mille, ns] : wanted) {
    // The smallest latency that this share of all latencies does not exceed.
    const std::uint64_t rank = std::max<std::uint64_t>(
        1, summary.count / 1000 * per_mille + (summary.count % 1000 * per_mille + 999) / 1000);
    while (below < rank) below += counts[++index];
    *ns = std::min(LatencyBuckets::UpperEnd(index), summary.max_ns);
  }
  return summary;
}

void LatencyRecorder::AddTo(LatencyHistograms& sums) const {
  for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
    const Kind& from = kinds_[kind];
    LatencyHistogram& sum = sums[kind];
    for (std::size_t i = 0; i < from.counts.size(); ++i) sum.counts[i] += from.counts[i].Load();
    sum.sum_ns += from.sum_ns.Load();
    sum.max_ns = std::max(sum.max_ns, from.max_ns.Load());
  }
}

// ---- counts ----

Tally::~Tally() { delete recorder(); }

void Tally::StartTiming() {
  if (recorder() != nullptr) return;
  auto* const made = new (std::nothrow) LatencyRecorder;
  // Without memory, operations are only counted, not timed.
  if (made == nullptr) return;
  recorder_.store(made, std::memory_order_release);  // [recorder]
  // After the recorder: Begin returns true as soon as a count is negative.
  for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
    counts_[Count::kBegun + kind].MakeNegative();
  }
}

// Adds from the last place down. An operation counts its beginning at a lower place than its end,
// so no sum contains more ends than beginnings.
void Tally::AddTo(TallySums& sums) const {
  for (std::size_t place = Count::kCount; place-- != 0;) {
    sums[place] += counts_[place].Load() & ~Counter::kNegative;
  }
}

}  // namespace ebb::internal
