// Index growth: doubles the index of a store concurrently with its operations (hash_index.h has the
// argument).
//
// One epoch is drained for each chunk of buckets. Operations that would change the index in that
// chunk wait for it, outside their guards. Reads that find nothing there wait while it is moved. No
// other operation waits. Nothing is written to the device: the size only concerns memory, and an
// opening chooses its own.
//
// An interrupted growth leaves an index in which every key is found, but whose bucket chains can no
// longer be listed one after the other. So it is interrupted only if the store is closed
// permanently, or if drains never end any more (EpochManager::broken). Then no job that lists
// bucket chains runs again, and neither does a growth.
//
// Thread safety: one thread at a time, without a guard. May run concurrently with operations and
// commits, but not with jobs that iterate over all buckets (images, sweeps). Progress: waits for
// guards to end.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/jobs/committer.h"
#include "ebb/internal/jobs/garbage_collector.h"
#include "ebb/internal/jobs/job_lane.h"

namespace ebb::internal {

// Errors: ResourceExhausted (the index has reached its maximum, or there is no memory);
// ClosedError() if `stop` returns true, which is called between chunks; the status of the store's
// health if a drain never ends.
absl::Status GrowIndex(Core& core, const std::function<bool()>& stop);

// Grows the index in turns of the lane: on request, and when it is above its maximum load factor.
class IndexGrower {
 public:
  // Sets HashIndex::OnCrowded, if the index grows automatically.
  IndexGrower(Core& core, JobLane& lane, const Committer& committer, GarbageCollector& collector);
  IndexGrower(const IndexGrower&) = delete;
  IndexGrower& operator=(const IndexGrower&) = delete;

  absl::Status Grow(const LaneTurn& turn);

 private:
  // Requests that the pool grow the index until it is at most at its maximum load factor. Never
  // waits.
  void Ask();
  // The pool's turn for that.
  void GrowWhileCrowded(const LaneTurn& turn);

  Core& core_;
  const Committer& committer_;
  GarbageCollector& collector_;
  Atomic<bool> is_asked_{false};  // the pool has to grow the index, or has failed to a moment ago
  // These are last: their destructors wait for a run that has begun.
  LaneJob job_;
  PoolJob timer_;  // until a growth that failed may be requested again
};

}  // namespace ebb::internal
