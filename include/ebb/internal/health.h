// Health: the first failure that the store cannot come back from by itself, for everybody to hear.
//
// A failed sync poisons: the kernel may have dropped the pages, and a second sync would answer OK
// over lost data, so it is never tried again. A poisoned store refuses commits and whatever needs
// the device to take more; reads of what is in memory go on. Only reopening helps.
//
// Thread safety: all methods, any thread. Progress: poisoned() wait-free, the others take mu_.
//
// Edges
//   [poison]  Poison: flag store, release -> poisoned(): load, acquire. The cause is read under
//   mu_.
#pragma once

#include "absl/status/status.h"
#include "ebb/internal/atomic.h"
#include "ebb/internal/mutex.h"

namespace ebb::internal {

class Health {
 public:
  bool poisoned() const { return poisoned_.load(std::memory_order_acquire); }  // [poison]
  // Keeps the first cause; `cause` is not OK.
  void Poison(const absl::Status& cause);
  // Unavailable with the first cause, or OK.
  absl::Status status() const;

 private:
  Atomic<bool> poisoned_{false};
  mutable Mutex mu_;
  absl::Status cause_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::internal
