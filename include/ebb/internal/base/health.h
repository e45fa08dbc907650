// Health: whether the open store may be changed, and if not, the reason: the first failure from
// which it cannot recover, or that it is open read-only. Every later call reports it.
//
// Three failures poison a store. A failed sync: the kernel may have dropped the pages, and a second
// sync would return OK over lost data, so it is never tried again. A file that was removed while
// the store was open (file_device.cc). A failed memory barrier (epoch.h). A poisoned store rejects
// updates, commits and all other calls that need the device to store more; reads continue. Only
// reopening helps.
//
// A store that is open read-only (Options::read_only) is in the same state from its opening on,
// with another cause. So fast paths decide nothing: no record can be updated in place
// (HybridLog::BlockUpdates), the slow path of every update checks poisoned() first, and commits,
// checkpoints, collections and background jobs check it before they write.
//
// Thread safety: any thread may call all methods. Progress: poisoned() is wait-free, the others
// acquire mu_.
//
// Edges
//   [poison]  Poison: flag store, release -> poisoned(): load, acquire. The cause is read under
//             mu_.
#pragma once

#include "absl/status/status.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"

namespace ebb::internal {

class Health {
 public:
  explicit Health(bool read_only = false);
  // Also true if the store is open read-only.
  bool poisoned() const { return poisoned_.load(std::memory_order_acquire); }  // [poison]
  // Keeps the first cause, `cause`, which is not OK. Throws nothing.
  void Poison(const absl::Status& cause);
  // Returns the first cause, as DataLoss if it was one and otherwise as Unavailable. If nothing has
  // failed, returns FailedPrecondition for a store that is open read-only, and otherwise OK.
  absl::Status status() const;

 private:
  Atomic<bool> poisoned_{false};
  mutable Mutex mu_;
  absl::Status cause_ ABSL_GUARDED_BY(mu_);
  bool has_failed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace ebb::internal
