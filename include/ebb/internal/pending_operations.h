// PendingOperation: an operation that waits for the device, while its session does other things.
// PendingOperations: those of one session, and the reads that they wait for.
//
// Life of one. Start runs it (Go). Either it ends at once, or its search wants blocks; then it is
// kept, and a BlockQueue reads them. When a read has ended, its operation goes on, from under
// CompleteOne: it ends, or wants more blocks. Who has ended leaves the list and is told (Tell), by
// whoever called, outside locks, guards and slow scopes; so what it tells may use the session.
// A block that is being read for one is not read again for another that wants it.
//
// Argument (each is told exactly once, also when the store is closed). An operation is owned by the
// list or by the call that took it out to tell it. (One whose own function throws, when it goes on,
// is told by that: it has no effect, and the exception leaves the call.) Close shuts slow calls out
// first; then it takes what is left in every list, after the reads under way have ended, and tells
// it that the store is closed. A call of the session that comes later finds the store closed, and
// takes what is left itself: mu_ decides between the two. With the store open, mu_ is the owner's
// alone.
//
// User code and mu_. The function of an Rmw runs under mu_, inside a callback scope, so the calls
// that would take mu_ again are rejected; size() does not take it. Completion callbacks, and the
// destructors of what they and the functions own, run without mu_. They may begin and complete
// other operations of the session, so no loop keeps a position in the list while one runs.
//
// An operation that runs out of memory, also in a function of the user's, ends without effect, and
// its callback is given ResourceExhausted.
//
// Thread safety: one thread at a time, Close beside it. Progress: Start and CompleteOne may wait as
// a call of the general form does, and for the device if told to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/atomic.h"
#include "ebb/internal/block_queue.h"
#include "ebb/internal/core.h"
#include "ebb/internal/device_search.h"
#include "ebb/internal/mutex.h"

namespace ebb::internal {

class PendingOperation {
 public:
  PendingOperation() = default;
  virtual ~PendingOperation() = default;
  PendingOperation(const PendingOperation&) = delete;
  PendingOperation& operator=(const PendingOperation&) = delete;
  // Goes on as far as it can, in a SlowScope of its session: true when it has ended, false when
  // search().read() is to be read first.
  virtual bool Go() = 0;
  // Ends it without effect.
  virtual void Refuse(absl::Status why) = 0;
  // Tells how it has ended; once.
  virtual void Tell() = 0;
  DeviceSearch& search() { return search_; }

 private:
  friend class PendingOperations;
  DeviceSearch search_;
  std::size_t place_ = 0;             // in the list
  PendingOperation* next_ = nullptr;  // that wants the same block; that is ready, too
};

class PendingOperations {
 public:
  using Owned = std::unique_ptr<PendingOperation>;
  // More are not kept: Start completes others first.
  static constexpr std::size_t kMost = BlockQueue::kDepth;

  explicit PendingOperations(SessionState& session);
  // What is left ends without being told.
  ~PendingOperations();
  PendingOperations(const PendingOperations&) = delete;
  PendingOperations& operator=(const PendingOperations&) = delete;

  void Start(Owned operation);
  // Tells one that has ended. False when none has; with `wait`, when none is left.
  bool CompleteOne(bool wait);
  // All that have ended; with `wait`, until none is left. How many were told.
  std::size_t Complete(bool wait);
  std::size_t size() const {
    return size_.load(std::memory_order_relaxed);  // the owner's, until the store is closed
  }
  // True while Start or CompleteOne runs a completion callback, which returns to this object.
  bool notifying() const { return notifying_ != 0; }
  // For the session's destructor: completes all that are left. Inside a callback of the store,
  // where nothing may wait, they end without effect instead. Throws nothing: prints what a
  // callback has thrown.
  void End();
  // All that are left, without effect: `why`. For Close, and for whoever finds the store closed.
  std::vector<Owned> TakeAll(const absl::Status& why);
  // Also when one of them throws; then it is thrown on afterwards.
  static void TellAll(const std::vector<Owned>& operations);

 private:
  // Takes the next that has ended; null when none has. Also takes one that throws, which the caller
  // destroys without mu_.
  void Next(bool wait, Owned& ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Notify(PendingOperation& operation);
  void Read(PendingOperation& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MakeReady(BlockRead& read) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Owned TakeOut(PendingOperation& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  SessionState& session_;
  mutable Mutex mu_;
  BlockQueue queue_ ABSL_GUARDED_BY(mu_);
  std::vector<Owned> operations_ ABSL_GUARDED_BY(mu_);
  Atomic<std::size_t> size_{0};                             // of operations_
  std::size_t notifying_ = 0;                               // the owner's
  PendingOperation* ready_ ABSL_GUARDED_BY(mu_) = nullptr;  // their reads have ended
  // Single blocks that are being read, and for whom first; the others hang on that one.
  std::unordered_map<std::uint64_t, PendingOperation*> reading_ ABSL_GUARDED_BY(mu_);
};

// Starts an operation in `list`, which is created if it does not exist yet. Rejected when the store
// is closed, or when the call comes from a callback of the store.
void StartPending(SessionState& session, std::unique_ptr<PendingOperations>& list,
                  PendingOperations::Owned operation);

// Ends what is in all lists of a store and tells it. Only when the store is closed and no slow call
// is left.
void AbandonPending(Core& core);

}  // namespace ebb::internal
