// Coordinator: the jobs of a whole store: commit, checkpoint, collection, growth, backup,
// verification and close.
//
// Commit makes durable everything that has taken effect so far; the log is its own write-ahead log:
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
// Concurrent callers share commits and checkpoints (shared_rounds.h).
//
// A checkpoint writes an image of the index (index_image.h), then commits, then writes a manifest
// (manifest.h). Other commits may run while the image is written. Ids never repeat: the
// checkpoint's own control record, and every one after it, holds the newest id.
//
// Garbage collection (garbage_collector.h) works in passes. The commits that begin after a pass
// state the new begin. The first of them also states the serial of every named session, because the
// log's earlier statements may be below the new begin. When that commit is durable, the log's begin
// moves. Only a checkpoint's own commit states a begin above the scan address of the newest
// checkpoint before: it replaces the checkpoints that it makes useless.
//
// The durable end of the log is also written to a file of its own (durable_end.h): after each
// commit, and durably by checkpoints and by Close. So a loss of the log's end is detected.
//
// A failed write leaves the store as it is: the commit fails and can be tried again. A failed sync
// or barrier, and a file that was removed, poison it (health.h). Commits that have nothing to
// write, checkpoints and Close check for removed files too.
//
// Long jobs (checkpoint, collection, growth, backup, verification, clean-up) run one after the
// other, in the order of their requests. Each is a turn of lane_ (job_lane.h), taken by a user's
// thread or by the pool. So an image and a growth exclude each other. A job that needs another one
// calls it inside its own turn. The index grows (index_growth.h) when it is above its maximum load
// factor, or on request.
//
// Periodic commits have a dedicated thread (Core::commit_pool) and need no turn, so they run on
// time whatever the pool and the lane are doing. A commit may wait for another commit, a guard, and
// the device. The commit job is posted again when it ends, however it ends, until the store is
// poisoned or closed.
//
// Edges
//   [begin]  collector: collected_ store, release, after a pass -> commit: load, acquire, before
//            its bump: all copies of records below are in its version or an earlier one; and
//            commit: durable_begin_ store, release, after its sync -> collector: load, acquire,
//            before it moves the log's begin there
//
// Thread safety: any thread may call all methods. Progress: Commit, GrowIndex and Close wait for
// guards to end and for the device.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/shared_rounds.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/jobs/background_jobs.h"
#include "ebb/internal/jobs/garbage_collector.h"
#include "ebb/internal/jobs/job_lane.h"
#include "ebb/stats.h"
#include "ebb/verify.h"

namespace ebb::internal {

class Coordinator {
 public:
  // The results of opening.
  struct Start {
    std::uint64_t version = 1;                // the version in which operations begin
    Address durable;                          // everything below has been synced
    std::uint64_t checkpoint_id = 0;          // the newest ever begun
    std::vector<CheckpointInfo> checkpoints;  // those that verify
    std::unique_ptr<DurableEnd> durable_end;  // null: there is no such file
  };
  // Starts the automatic commits and checkpoints.
  Coordinator(Core& core, Start start);
  // Releases the resources that Close has not: sessions may still hold the core, but its files are
  // left alone.
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Makes every operation that returned before this call durable.
  absl::Status Commit();

  // Makes everything durable as Commit does, and the next opening short. Returns OK even if nothing
  // has changed since the last one.
  absl::StatusOr<CheckpointInfo> Checkpoint();
  // Returns them in order of id.
  std::vector<CheckpointInfo> Checkpoints() const;
  // Removes all but the newest `kept`, and the files of interrupted ones. Returns the number of
  // checkpoints removed.
  absl::StatusOr<std::uint64_t> CleanUpCheckpoints(std::uint64_t kept);
  CheckpointStats GetCheckpointStats() const;
  // Makes a checkpoint and copies it into `path`; see backup.h.
  absl::StatusOr<BackupInfo> Backup(const std::string& path,
                                    const std::function<void(const BackupProgress&)>& progress);
  // See log_verifier.h.
  absl::StatusOr<VerifyReport> Verify(const VerifyOptions& options);

  // Copies the live records at the beginning of the log, and frees the space before them, until
  // `options` are met. Scans the log at most once.
  absl::StatusOr<GcStats> CollectGarbage(
      const GcOptions& options, GarbageCollector::Pace pace = GarbageCollector::Pace::kFree);
  absl::StatusOr<GcEstimate> EstimateGarbage();
  absl::StatusOr<bool> ShouldCollect(const GcOptions& options);

  // Automatic checkpoints and collections: starts them, as opening does; or stops them, and returns
  // when none is running. Commits, growth, and calls of users continue.
  void StartBackground() { background_.Start(); }
  void StopBackground() {
    background_.Stop();
    core_.log.ReleaseBrake();
  }
  BackgroundStats GetBackgroundStats() const { return background_.Stats(); }

  // Doubles the index. ResourceExhausted: it has reached its maximum, or there is no memory.
  absl::Status GrowIndex();

  // Rejects new operations, waits for running ones, commits, and closes the files. After a
  // recoverable error (no space) nothing is lost: it can be called again, and operations are
  // rejected in the meantime. Once the store is closed, always returns the same status.
  absl::Status Close();
  // Does the same for a destructor. A completion callback may throw through Close, which the second
  // call then completes: each callback runs once.
  absl::Status CloseAtEnd();

 private:
  absl::Status RunCommit();
  // `manifest`, if not null, receives the results of the commit, and there is a commit even if
  // nothing has changed.
  absl::Status CommitLocked(Manifest* manifest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns whether all updates and serials are durable.
  bool ContentIsDurable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool NothingToCommit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) ABSL_LOCKS_EXCLUDED(list_mu_);
  absl::Status RunCheckpoint();
  absl::Status WriteCheckpoint() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  absl::Status CheckpointIsNeeded(bool& needed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  absl::Status RunCheckpointLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  absl::StatusOr<BackupInfo> BackupLocked(
      const std::string& path, const std::function<void(const BackupProgress&)>& progress)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  absl::StatusOr<std::uint64_t> CleanUpLocked(std::uint64_t kept)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  absl::Status SyncDirectory();
  // Returns the begin that a commit may state now.
  Address BeginToState(bool of_checkpoint) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_)
      ABSL_LOCKS_EXCLUDED(list_mu_);
  // Returns the begin that every opening would use now: never above the scan address of the newest
  // checkpoint.
  Address DurableBegin() const ABSL_LOCKS_EXCLUDED(list_mu_);
  // Moves the log's begin to DurableBegin.
  absl::Status FollowCommits() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // Makes a begin of at least `begin` durable first, and then moves the log's begin.
  absl::Status MoveBegin(Address begin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // An automatic collection, in its turn.
  absl::StatusOr<BackgroundJob::Work::Outcome> CollectInTurn(
      const BackgroundJob::IsStopping& is_stopping);
  // One pass before a store is closed, unless a job is running.
  void CollectBeforeClosing();
  GarbageCollector::Owner CollectorOwner();
  absl::Status GrowInTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // Requests that the pool grow the index until it is at most at its maximum load factor. Never
  // waits.
  void AskForGrowth();
  // The pool's turn for that.
  void GrowWhileCrowded();
  void ScheduleCommit();
  // A run of the thread of the periodic commits.
  void CommitInTime();
  absl::Status CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);
  // Rejects operations from now on and waits until none is left.
  void ShutOut();
  // Ends the jobs and releases files, lock and memory, whether everything has become durable or
  // not. Sessions can outlive this and find the store closed.
  absl::Status LetGo() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);
  // Returns an error if a commit that follows no record would use space that the commit of the next
  // record needs.
  absl::Status CheckIdleCommit(bool of_checkpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Bumps to the next version and waits until the last one has drained. After an error the store is
  // poisoned.
  absl::Status ShiftVersion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends the control record of a version, after the sessions' serials, and makes it durable.
  absl::Status WriteControl(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendControl(std::uint64_t version, HybridLog::Extent& extent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Flushes and syncs the log up to control_end_.
  absl::Status MakeDurable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendSessions(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends a record for which `reserve` finds room and which `encode` writes; sets `extent`.
  absl::Status Append(const std::function<HybridLog::Extent(const EpochGuard&)>& reserve,
                      const std::function<void(std::span<std::byte>)>& encode,
                      std::uint64_t least_bytes, HybridLog::Extent& extent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Core& core_;
  EpochSlot* const slot_;      // guarded by mu_
  EpochSlot* const job_slot_;  // guarded by lane_

  Mutex close_mu_;  // before mu_
  bool closed_ ABSL_GUARDED_BY(close_mu_) = false;
  absl::Status close_status_ ABSL_GUARDED_BY(close_mu_);

  SharedRounds checkpoint_rounds_;
  Atomic<bool> closing_{false};  // jobs end soon
  // the pool has to grow the index, or has failed to a moment ago
  Atomic<bool> growth_asked_{false};

  JobLane lane_;                                            // one long job at a time; before mu_
  std::uint64_t checkpoint_id_ ABSL_GUARDED_BY(lane_) = 0;  // the newest begun
  GarbageCollector collector_;                              // guarded by lane_, except worth_a_look
  // The state of checkpoints that is reported while one runs.
  mutable Mutex list_mu_;  // acquired last
  bool checkpoint_runs_ ABSL_GUARDED_BY(list_mu_) = false;
  std::vector<CheckpointInfo> checkpoints_ ABSL_GUARDED_BY(list_mu_);
  CheckpointStats checkpoint_stats_ ABSL_GUARDED_BY(list_mu_);  // except the text of the error
  absl::Status checkpoint_error_ ABSL_GUARDED_BY(list_mu_);     // of the last failure

  Mutex mu_;                                    // one commit at a time
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;   // nothing is written any more
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
  AtomicWord collected_;                                           // everything below is dead
  AtomicWord durable_begin_;  // in the last control record that is durable

  // These are last: they use the others, and their destructors wait for a run that has begun.
  PoolJob commit_job_;
  LaneJob growth_job_;
  PoolJob growth_timer_;  // until a growth that failed may be requested again
  BackgroundJobs background_;
};

}  // namespace ebb::internal
