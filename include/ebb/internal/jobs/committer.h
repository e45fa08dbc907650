// Committer: makes everything durable that has taken effect so far. The log is its own write-ahead
// log:
//   1. note the tail; set update_from to infinity; bump the version v -> v+1; wait for the drain
//   2. write the serials of the named sessions in v (session_table.h); then reserve from the tail
//      to a block's end and write a control record of version v
//   3. raise update_from to its end; make everything below read-only; flush; sync
//
// Argument. Every operation that acted in v ended before the drain did (epoch.h). So its record is
//   below the control record, or it changed a record below it in place before read_only passed. The
//   flush copies the record after safe_read_only has passed, and the sync covers the flush.
//   An operation of v+1 never changes a record of v in place: between bump and drain update_from is
//   infinite and the slow path compares versions; after the drain update_from is at or above the
//   control record's end. An operation of v never links to a record of v+1: to meet one means that
//   the bump was published, so its second look fails. So the records of version <= v below the
//   control record are one state, whose chains contain nothing of v+1.
//   A commit is a prefix of every session, and contains everything on which its updates depend. But
//   it is no cut through one order of all operations: a read of v+1, or an InsertIfAbsent that
//   finds its key, may precede an update of v that the commit contains.
//   Nothing blocks: operations of v+1 continue while v drains, except those that must change a
//   record which an operation of v may still be changing.
//   Two bits of version distinguish records, because at most one version at a time has drained
//   without a control record: if its record could not be appended, the next commit appends it
//   first. An operation of v+1 may act between the bump and the reservation, and so below the
//   control record of v. A commit is skipped as needless only if that cannot have happened, nothing
//   has been appended since, and no session has taken a serial.
//
// Concurrent callers share a commit (Core::commits, group_runner.h). A checkpoint and Close each
// make a dedicated one.
//
// The begin of the log. Garbage collection (garbage_collector.h) states an address below which
// everything is dead. The commits that begin afterwards state it as the new begin of the log. The
// first of them also states the serial of every named session, because the log's earlier statements
// may be below the new begin. When that commit is durable, the log's begin may move. Only a
// checkpoint's own commit states a begin above the scan address of the newest checkpoint before: it
// replaces the checkpoints that it makes useless.
//
// The durable end of the log is also written to a file of its own (durable_end.h): after each
// commit, and durably by checkpoints and by Close. So a loss of the log's end is detected.
//
// A failed write leaves the store as it is: the commit fails and can be tried again. A failed sync
// or barrier, and a file that was removed, poison it (health.h). Commits that have nothing to
// write, checkpoints and Close check for removed files too.
//
// Edges
//   [begin]  collector: collected_ store, release, after a pass -> commit: load, acquire, before
//            its bump: all copies of records below are in its version or an earlier one; and
//            commit: durable_begin_ store, release, after its sync -> collector: load, acquire,
//            before it moves the log's begin there; and
//            checkpoint: scan_address_ store, release, when its files have durable names -> commit
//            and collector: load, acquire, before they state or move a begin up to there
//
// Thread safety: any thread may call all methods. Progress: a commit waits for guards to end and
// for the device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {

class DurableEnd;
struct FoundDurableEnd;
struct Manifest;

class Committer {
 public:
  // The results of opening.
  struct CommittedState {
    std::uint64_t version = 1;                // the version in which operations begin
    Address durable;                          // everything below has been synced
    std::uint64_t checkpoint_id = 0;          // the newest ever begun
    std::unique_ptr<DurableEnd> durable_end;  // null: there is no such file
  };
  // Sets Core::commits, where all callers that need no commit of their own join.
  Committer(Core& core, CommittedState start);
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // Commits, and then makes the durable end of the log exact. For a checkpoint: `manifest` receives
  // the results, and there is a commit even if nothing has changed. Null: for Close, which also
  // checks that no file was removed.
  absl::Status CommitExactly(Manifest* manifest);
  // Returns whether there is anything to commit, or something was committed after `durable`. Error:
  // Stop was called.
  absl::StatusOr<bool> HasNewsSince(Address durable);
  // Reads the file of the durable end, while no commit writes it.
  absl::StatusOr<FoundDurableEnd> ReadEnd();
  // Waits for a running commit. From then on nothing is written any more, and each commit fails.
  void Stop();
  // Returns whether Stop was called: jobs end soon.
  bool stopped() const {
    return stopped_.load(std::memory_order_relaxed);  // a little later is soon enough
  }

  // ---- the begin of the log ----

  static constexpr std::uint64_t kNoCheckpoint = ~std::uint64_t{0};
  // States that everything below is dead: the commits that begin from now on may state it.
  void StateBegin(Address begin) {
    collected_.store(begin.value(), std::memory_order_release);  // [begin]
  }
  // Sets the scan address of the newest checkpoint; kNoCheckpoint: there is none.
  void SetScanAddress(std::uint64_t address) {
    scan_address_.store(address, std::memory_order_release);  // [begin]
  }
  // Returns it; without a checkpoint, an address above all others.
  Address ScanAddress() const {
    return Address(scan_address_.load(std::memory_order_acquire));  // [begin]
  }
  // Returns the begin that every opening would use now: never above the scan address of the newest
  // checkpoint.
  Address DurableBegin() const;
  // Does the same after a commit that is in progress: it may state the begin.
  Address DurableBeginAfterCommit();

 private:
  absl::Status RunCommit();
  absl::Status CommitLocked(Manifest* manifest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns whether all updates and serials are durable.
  bool ContentIsDurable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool NothingToCommit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns the begin that a commit may state now.
  Address BeginToState(bool of_checkpoint) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns an error if a commit that follows no record would use space that the commit of the next
  // record needs.
  absl::Status CheckIdleCommit(bool of_checkpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Bumps to the next version and waits until the last one has drained. After an error the store is
  // poisoned.
  absl::Status ShiftVersion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends the control record of a version, after the sessions' serials, and makes it durable.
  absl::Status WriteControl(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendSessions(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendControl(std::uint64_t version, HybridLog::Extent& extent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends a record for which `reserve` finds room and which `encode` writes; sets `extent`.
  absl::Status Append(const std::function<HybridLog::Extent(const EpochGuard&)>& reserve,
                      const std::function<void(std::span<std::byte>)>& encode,
                      std::uint64_t min_bytes, HybridLog::Extent& extent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Flushes and syncs the log up to control_end_.
  absl::Status MakeDurable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Core& core_;
  Atomic<bool> stopped_{false};
  AtomicWord collected_;                    // everything below is dead
  AtomicWord durable_begin_;                // in the last control record that is durable
  AtomicWord scan_address_{kNoCheckpoint};  // of the newest checkpoint

  Mutex mu_;                                    // one commit at a time
  const OwnSlot slot_;                          // guarded by mu_
  std::uint64_t version_ ABSL_GUARDED_BY(mu_);  // in which operations act
  Address shift_tail_ ABSL_GUARDED_BY(mu_);     // the tail before the last bump
  Address shift_began_ ABSL_GUARDED_BY(mu_);    // the same, unchanged until the next bump
  // The version before version_ has drained, but its control record could not be appended.
  bool owes_control_ ABSL_GUARDED_BY(mu_) = false;
  // No operation of version_ has acted below durable_, as far as is known.
  bool settled_ ABSL_GUARDED_BY(mu_) = true;
  Address durable_ ABSL_GUARDED_BY(mu_);      // the end of the last durable commit or open record
  Address control_end_ ABSL_GUARDED_BY(mu_);  // of the last control record, durable or not
  Address begin_ ABSL_GUARDED_BY(mu_);        // of the log, in the control records
  bool record_all_sessions_ ABSL_GUARDED_BY(mu_) = false;
  std::uint64_t recorded_checkpoint_id_ ABSL_GUARDED_BY(mu_) = 0;  // in the control records
  std::unique_ptr<DurableEnd> durable_end_ ABSL_GUARDED_BY(mu_);   // null: there is no such file
};

}  // namespace ebb::internal
