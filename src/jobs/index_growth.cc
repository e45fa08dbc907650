#include "ebb/internal/jobs/index_growth.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "absl/cleanup/cleanup.h"
#include "ebb/status.h"

namespace ebb::internal {
namespace {

absl::Status Refusal(const HashIndex& index, HashIndex::GrowthStart why) {
  const bool at_limit = why == HashIndex::GrowthStart::kAtLimit;
  const char* reason =
      at_limit ? "this is the maximum, set by max_index_bytes, physical memory, or 2^15 "
                 "times the index_bucket_count at creation"
               : "there is no memory for twice as many; free memory and call again";
  absl::Status status = absl::ResourceExhaustedError(
      fmt::format("the index has {} buckets: {}", index.bucket_count(), reason));
  return at_limit ? Lasting(std::move(status)) : status;
}

}  // namespace

absl::Status GrowIndex(Core& core, const std::function<bool()>& stop) {
  // An earlier growth may have stopped in the middle, when a barrier failed.
  if (core.epochs.broken()) return core.health.status();
  HashIndex& index = core.index;
  // Walk of a growth, 2: the first chunk drains.
  const HashIndex::GrowthStart start = index.BeginGrowth();
  if (start != HashIndex::GrowthStart::kStarted) return Refusal(index, start);
  std::uint64_t longest_us = 0;
  Clock::time_point begun = Clock::now();
  for (bool more = true; more;) {
    // Only between two chunks. The growth word then says that a chunk drains, so operations in it
    // wait, until Close, which is the reason to stop, rejects them.
    if (stop()) return core.ClosedError();
    // Walk of a growth, 3: afterwards no guard may still change the chunk.
    if (absl::Status status = core.log.Drain(); !status.ok()) return status;
    // Walk of a growth, 4.
    index.BeginSplit();
    more = index.FinishSplit();
    const Clock::time_point now = Clock::now();
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(now - begun);
    longest_us = std::max(longest_us, static_cast<std::uint64_t>(took.count()));
    begun = now;
  }
  // One more drain: afterwards no guard searches with the old mask.
  if (absl::Status status = core.log.Drain(); !status.ok()) return status;
  index.EndGrowth();
  Core::Counters& counters = core.counters;
  counters.index_growths.fetch_add(1, std::memory_order_relaxed);  // statistics
  // Only growths write this counter, one at a time.
  const std::uint64_t before = counters.longest_split_us.load(std::memory_order_relaxed);
  counters.longest_split_us.store(std::max(before, longest_us), std::memory_order_relaxed);  // same
  return absl::OkStatus();
}

IndexGrower::IndexGrower(Core& core, JobLane& lane, const Committer& committer,
                         GarbageCollector& collector)
    : core_(core),
      committer_(committer),
      collector_(collector),
      job_(lane, [this](LaneTurn& turn) { GrowWhileCrowded(turn); }),
      timer_(core.pool, [this] { is_asked_.store(false, std::memory_order_relaxed); }) {  // a hint
  if (core_.config.index_auto_grow) core_.index.OnCrowded([this] { Ask(); });
}

absl::Status IndexGrower::Grow(const LaneTurn&) {
  // Set before the index is left partly split, and then no job reads it any more. A checkpoint may
  // still wait for its turn, but it stops before it reads a bucket.
  const auto stop = [this] { return committer_.stopped(); };
  return stop() ? core_.ClosedError() : GrowIndex(core_, stop);
}

// Called in an operation, under its guard.
void IndexGrower::Ask() {
  if (is_asked_.exchange(true, std::memory_order_relaxed)) return;  // the first one posts it
  job_.Post();
}

// A growth that fails, for example for lack of memory, can be requested again a second later.
void IndexGrower::GrowWhileCrowded(const LaneTurn& turn) {
  bool has_failed = true;
  const absl::Cleanup end = [&] {
    if (has_failed) {
      timer_.PostAfter(std::chrono::seconds(1));
    } else if (core_.index.crowded()) {
      job_.Post();  // after the waiting jobs
    } else {
      // the next overflow bucket requests it again
      is_asked_.store(false, std::memory_order_relaxed);
    }
  };
  // Freeing entries is cheaper than growing, and enough while the number of keys stays the same.
  if (core_.index.crowded() && core_.has_files() && core_.config.gc_interval_ms != 0) {
    // If that fails, for example on a full disk, growing may still succeed.
    const auto is_stopping = [this] { return core_.epochs.closed(); };
    collector_.FreeEntries(turn, core_.config.gc, is_stopping).IgnoreError();
  }
  has_failed = core_.index.crowded() && !Grow(turn).ok();
}

}  // namespace ebb::internal
