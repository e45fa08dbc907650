// Index growth: doubles the index of a store beside its operations (hash_index.h says why that is
// right).
//
// One epoch is drained for each chunk of buckets. Operations that would change the index in that
// chunk wait for it, outside their guards; reads that find nothing there wait while it is moved;
// nobody else does. Nothing is written to the device: the size is a matter of memory, and an
// opening finds its own.
//
// An interrupted growth leaves an index in which everything is found, but whose rows can no longer
// be listed one after the other. So it is interrupted only when the store is closed for good, or
// when no drain can be waited for any more (EpochManager::broken): then no job that lists rows runs
// again, and neither does a growth.
//
// Thread safety: one thread at a time, without a guard; beside operations and commits, but not
// beside whoever goes through all buckets (images, sweeps). Progress: waits for guards to end.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "ebb/internal/core.h"

namespace ebb::internal {

// ResourceExhausted: the index is as large as it can become, or there is no memory. Aborted when
// `stop` says so, which is asked between chunks. The status of the store's health when a drain
// cannot be waited for.
absl::Status GrowIndex(Core& core, const std::function<bool()>& stop);

}  // namespace ebb::internal
