// PendingOperation: an operation that waits for the device while its session does other things.
// PendingOperations: the pending operations of one session, and the reads for which they wait.
//
// Life of an operation. Start runs it (Resume). Either it ends at once, or its search needs blocks;
// then it is kept, and a BlockQueue reads them. When a read has ended, CompleteOne resumes its
// operation: it ends, or needs more blocks. An operation that has ended leaves the list. The
// calling thread then runs its callback (Notify) outside locks, guards and slow scopes, so the
// callback may use the session. A block that is being read for one operation is not read again for
// another one.
//
// Argument (each callback runs exactly once, also if the store is closed). An operation is owned by
// the list, or by the call that took it out to run its callback. (If the function of an operation
// throws when it is resumed, the exception takes the place of the callback: the operation has no
// effect, and the exception leaves the call.) Close first drains slow calls. After the reads in
// flight have ended, it takes the remaining operations of every list and reports to each that the
// store is closed. A later call of the session finds the store closed and takes the remaining
// operations itself: mu_ decides between the two. While the store is open, only the owner uses mu_.
//
// User code and mu_. The function of an Rmw runs under mu_, inside a callback scope, so the calls
// that would acquire mu_ again are rejected; size() does not acquire it. Completion callbacks run
// without mu_, and so do the destructors of everything that they and the functions own. They may
// begin and complete other operations of the session, so no loop keeps a position in the list while
// one runs.
//
// An operation that runs out of memory, even in a function of the user, ends without effect, and
// its callback receives ResourceExhausted.
//
// Thread safety: one thread at a time, and Close concurrently with it. Progress: Start and
// CompleteOne may wait as a call on the slow path does, and with `wait` for the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/device/block_queue.h"
#include "ebb/internal/log/device_search.h"

namespace ebb::internal {

class PendingOperation {
 public:
  PendingOperation() = default;
  virtual ~PendingOperation() = default;
  PendingOperation(const PendingOperation&) = delete;
  PendingOperation& operator=(const PendingOperation&) = delete;
  // Continues as far as possible, in a SlowScope of its session. Returns true if it has ended,
  // false if search().read() must be read first.
  virtual bool Resume() = 0;
  // Ends it without effect.
  virtual void Refuse(absl::Status why) = 0;
  // Reports the outcome to the callback; once.
  virtual void Notify() = 0;
  DeviceSearch& search() { return search_; }

 private:
  friend class PendingOperations;
  DeviceSearch search_;
  std::size_t place_ = 0;             // in the list
  PendingOperation* next_ = nullptr;  // that wants the same block; or the next one that is ready
};

class PendingOperations {
 public:
  using Owned = std::unique_ptr<PendingOperation>;
  // The maximum number of kept operations: at this number, Start completes others first.
  static constexpr std::size_t kMax = BlockQueue::kDepth;

  explicit PendingOperations(SessionState& session);
  // Ends the remaining operations without running their callbacks.
  ~PendingOperations();
  PendingOperations(const PendingOperations&) = delete;
  PendingOperations& operator=(const PendingOperations&) = delete;

  void Start(Owned operation);
  // Runs the callback of one operation that has ended. Returns false if none has; with `wait`, if
  // none is left.
  bool CompleteOne(bool wait);
  // Runs the callbacks of all operations that have ended; with `wait`, until none is left. Returns
  // the number of callbacks run.
  std::size_t Complete(bool wait);
  std::size_t size() const {
    return size_.load(std::memory_order_relaxed);  // only the owner, until the store is closed
  }
  // Whether Start or CompleteOne is running a completion callback, which returns to this object.
  bool notifying() const { return notifying_ != 0; }
  // For the session's destructor: completes the remaining operations. Inside a callback of the
  // store, where nothing may wait, they end without effect instead. Throws nothing: prints the
  // exceptions of callbacks.
  void End();
  // Takes out all remaining operations, which end without effect with the status `why`. For Close,
  // and for a call that finds the store closed.
  std::vector<Owned> TakeAll(const absl::Status& why);
  // Runs all callbacks, even if one of them throws; then rethrows the exception.
  static void NotifyAll(const std::vector<Owned>& operations);

 private:
  // Takes out the next operation that has ended; null if none has. Also takes out one that throws,
  // which the caller destroys without mu_.
  void Next(bool wait, Owned& ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Notify(PendingOperation& operation);
  void Read(PendingOperation& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MakeReady(BlockRead& read) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Owned TakeOut(PendingOperation& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  SessionState& session_;
  mutable Mutex mu_;
  BlockQueue queue_ ABSL_GUARDED_BY(mu_);
  std::vector<Owned> operations_ ABSL_GUARDED_BY(mu_);
  Atomic<std::size_t> size_{0};                             // size of operations_
  std::size_t notifying_ = 0;                               // used by the owner
  PendingOperation* ready_ ABSL_GUARDED_BY(mu_) = nullptr;  // operations whose reads have ended
  // The blocks being read, each with the first operation that waits for it; the others are linked
  // to that one.
  std::unordered_map<std::uint64_t, PendingOperation*> reading_ ABSL_GUARDED_BY(mu_);
};

// Starts an operation in `list`, which is created if it does not exist yet. Rejects it if the store
// is closed, or if the call comes from a callback of the store.
void StartPending(SessionState& session, std::unique_ptr<PendingOperations>& list,
                  PendingOperations::Owned operation);

// Ends all pending operations of a store and runs their callbacks. To be called only when the store
// is closed and no slow call is left.
void AbandonPending(Core& core);

}  // namespace ebb::internal
