// Coordinator: the jobs that concern a whole store: commit, checkpoint and close.
//
// Commit makes everything that took effect so far durable; the log is its own write-ahead log:
//   1. note the tail; set update_from to infinity; bump the version v -> v+1; wait for the drain
//   2. write how far the named sessions came in v (session_table.h), then reserve from the tail to
//      a block's end and write a control record of version v
//   3. lift update_from to its end; make everything below read-only; flush; sync
//
// Argument. Every operation that acted in v ended before the drain did (epoch.h), so its record is
//   below the control record, or was changed in place below it before read_only passed; the flush
//   copies it after safe_read_only has passed, and the sync covers the flush. An operation of v+1
//   never changes a record of v in place: between bump and drain update_from is infinite and the
//   cold path compares versions; after the drain update_from is at or above the control record's
//   end. An operation of v never links to a record of v+1: meeting one means that the bump was
//   published, so its second look fails. So the records of version <= v below the control record
//   are one state, whose chains contain nothing of v+1.
//   A commit is a prefix of every session and closed under what depends on what, but no cut through
//   one order of all operations: a read of v+1, or an InsertIfAbsent that finds its key, may come
//   before an update of v that the commit keeps.
//   Nothing blocks: operations of v+1 go on while v drains, except those that must change a record
//   which an operation of v may still be changing.
//
// Commits and checkpoints are shared by those who wait (shared_rounds.h).
//
// A checkpoint writes an image of the index (index_image.h), then commits, then writes a manifest
// (manifest.h). Commits of others may run beside the image. Ids never repeat: the checkpoint's own
// control record, and every one after it, holds the newest id.
//
// Garbage collection (garbage_collector.h) works in passes. The commits that begin after one state
// the new begin, and the first of them also how far every named session has come, since what the
// log said of them may lie below; when it is durable, the log's begin moves. Only a checkpoint's
// own commit states a begin above where the newest one before would scan from: what it makes
// useless it replaces.
//
// How far the log is durable is also written to a file of its own (durable_end.h): after each
// commit, and durably by checkpoints and by Close. So a loss of the log's end is noticed.
//
//   Two bits of version tell records apart because at most one version at a time has drained
//   without a control record: when it could not be appended, the next commit appends it first.
//   An operation of v+1 may act between the bump and the reservation, so below the control record
//   of v. A commit is skipped as needless only if that cannot have happened, nothing has been
//   appended since, and no session has taken a serial.
//
// A failed write leaves the store as it is: the commit fails and can be tried again. A failed sync
// or barrier, and a file that was removed, poison it (health.h). Commits that have nothing to
// write, checkpoints and Close check for removed files too.
//
// Long jobs (checkpoint, collection, growth, backup, verification, clean-up) come one after the
// other, in their order: each is a turn of lane_ (job_lane.h), of a user's thread or of the pool.
// So an image and a growth exclude each other. A job that needs another one calls it inside its own
// turn. The index grows (index_growth.h) when it says that it is crowded, or on request.
//
// Periodic commits have a thread for themselves (Core::commit_pool) and need no turn, so they come
// in time whatever the pool and the lane are doing. A commit may wait for another commit, a
// guard, and the device. Their job is posted again when it ends, however it ends, until the store
// is poisoned or closed.
//
// Edges
//   [begin]  collector: collected_ store, release, after a pass -> commit: load, acquire, before
//   its
//            bump: all copies of what is below are in its version or before; and commit:
//            durable_begin_ store, release, after its sync -> collector: load, acquire, before it
//            moves the log's begin there
//
// Thread safety: all methods, any thread. Progress: Commit, GrowIndex and Close wait for guards to
// end and for the device.
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
#include "ebb/internal/background_jobs.h"
#include "ebb/internal/block.h"
#include "ebb/internal/core.h"
#include "ebb/internal/durable_end.h"
#include "ebb/internal/garbage_collector.h"
#include "ebb/internal/job_lane.h"
#include "ebb/internal/manifest.h"
#include "ebb/internal/mutex.h"
#include "ebb/internal/shared_rounds.h"
#include "ebb/stats.h"
#include "ebb/verify.h"

namespace ebb::internal {

class Coordinator {
 public:
  // What opening found out.
  struct Start {
    std::uint64_t version = 1;                // the version that operations begin in
    Address durable;                          // everything below has been synced
    std::uint64_t checkpoint_id = 0;          // the newest ever begun
    std::vector<CheckpointInfo> checkpoints;  // that are good
    std::unique_ptr<DurableEnd> durable_end;  // null: there is no such file
  };
  // Starts the commits and checkpoints that come by themselves.
  Coordinator(Core& core, Start start);
  // Gives up what Close has not: sessions may still hold the core, but its files are left alone.
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Makes every operation that returned before this call durable.
  absl::Status Commit();

  // Makes everything durable as Commit does, and the next opening short. Ok also when nothing has
  // changed since the last one.
  absl::StatusOr<CheckpointInfo> Checkpoint();
  // In order of id.
  std::vector<CheckpointInfo> Checkpoints() const;
  // Removes all but the newest `kept`, and what interrupted ones have left behind; says how many
  // checkpoints that were.
  absl::StatusOr<std::uint64_t> CleanUpCheckpoints(std::uint64_t kept);
  CheckpointStats GetCheckpointStats() const;
  // Makes a checkpoint and copies it into `path`; see backup.h.
  absl::StatusOr<BackupInfo> Backup(const std::string& path,
                                    const std::function<void(const BackupProgress&)>& progress);
  // See log_verifier.h.
  absl::StatusOr<VerifyReport> Verify(const VerifyOptions& options);

  // Copies what is live at the front of the log, and gives the front back, until `options` are met.
  // At most once through the log as it is now.
  absl::StatusOr<GcStats> CollectGarbage(
      const GcOptions& options, GarbageCollector::Pace pace = GarbageCollector::Pace::kFree);
  absl::StatusOr<GcEstimate> EstimateGarbage();
  absl::StatusOr<bool> ShouldCollect(const GcOptions& options);

  // Automatic checkpoints and collections: begins them, as opening does, or ends them, and returns
  // when none runs any more. Commits, growth, and the users' own calls continue.
  void StartBackground() { background_.Start(); }
  void StopBackground() {
    background_.Stop();
    core_.log.ReleaseBrake();
  }
  BackgroundStats GetBackgroundStats() const { return background_.Stats(); }

  // Doubles the index. ResourceExhausted when it cannot be larger, or there is no memory.
  absl::Status GrowIndex();

  // Refuses new operations, waits for those that run, commits, and closes the files. After an error
  // that may pass (no space) nothing is lost: it can be called again, and the store stays closed
  // to operations meanwhile. Once it has closed it answers the same status for ever.
  absl::Status Close();
  // The same for a destructor. A completion callback may throw through Close, which the second call
  // then completes: each callback runs once.
  absl::Status CloseAtEnd();

 private:
  absl::Status RunCommit();
  // `manifest`, when not null, is filled with what the commit has made durable, and then there is
  // one even if nothing has changed.
  absl::Status CommitLocked(Manifest* manifest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
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
  // The begin that a commit may state now.
  Address BeginToState(bool of_checkpoint) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_)
      ABSL_LOCKS_EXCLUDED(list_mu_);
  // As far as everybody who opens the store now would begin: never above where its newest
  // checkpoint scans from.
  Address DurableBegin() const ABSL_LOCKS_EXCLUDED(list_mu_);
  // Moves the log's begin there.
  absl::Status FollowCommits() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // Makes what is to be stated durable first, `begin` at least.
  absl::Status MoveBegin(Address begin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // A collection of the pool's, in its turn.
  absl::StatusOr<BackgroundJob::Work::Outcome> CollectInTurn(
      const BackgroundJob::IsStopping& is_stopping);
  // One pass before a store is closed, unless a job is at work.
  void CollectBeforeClosing();
  GarbageCollector::Owner CollectorOwner();
  absl::Status GrowInTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane_);
  // Has the pool grow the index until it is no longer crowded. Never waits.
  void AskForGrowth();
  // The pool's turn for that.
  void GrowWhileCrowded();
  void ScheduleCommit();
  // A run of the thread of the periodic commits.
  void CommitInTime();
  absl::Status CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);
  // Refuses operations from now on and waits until none is left.
  void ShutOut();
  // Ends the jobs and lets go of files, lock and memory, whatever has become durable. Sessions can
  // outlive this and find the store closed.
  absl::Status LetGo() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);
  // Bumps to the next version and waits until the last one has drained. After an error the store is
  // poisoned.
  absl::Status CheckIdleCommit(bool of_checkpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ShiftVersion() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends what ends a version and makes it durable.
  absl::Status WriteControl(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendControl(std::uint64_t version, HybridLog::Extent& extent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Flushes and syncs the log up to control_end_.
  absl::Status MakeDurable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendSessions(std::uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Appends a record that `reserve` finds room for and `encode` writes; sets `extent`.
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
  Atomic<bool> closing_{false};       // jobs end soon
  Atomic<bool> growth_asked_{false};  // the pool has it to do, or it failed a moment ago

  JobLane lane_;                                            // one long job at a time; before mu_
  std::uint64_t checkpoint_id_ ABSL_GUARDED_BY(lane_) = 0;  // the newest begun
  GarbageCollector collector_;                              // guarded by lane_, except worth_a_look
  // What is told of checkpoints while one runs.
  mutable Mutex list_mu_;  // taken last
  bool checkpoint_runs_ ABSL_GUARDED_BY(list_mu_) = false;
  std::vector<CheckpointInfo> checkpoints_ ABSL_GUARDED_BY(list_mu_);
  CheckpointStats checkpoint_stats_ ABSL_GUARDED_BY(list_mu_);  // but for the error's text
  absl::Status checkpoint_error_ ABSL_GUARDED_BY(list_mu_);     // the last

  Mutex mu_;                                    // one commit at a time
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;   // nothing is written any more
  std::uint64_t version_ ABSL_GUARDED_BY(mu_);  // that operations act in
  Address shift_tail_ ABSL_GUARDED_BY(mu_);     // the tail before the last bump
  Address shift_began_ ABSL_GUARDED_BY(mu_);    // the same, and stays so until the next one
  // The version before version_ has drained, but its control record could not be appended.
  bool owes_control_ ABSL_GUARDED_BY(mu_) = false;
  // No operation of version_ has acted below durable_, as far as that can be told.
  bool settled_ ABSL_GUARDED_BY(mu_) = true;
  Address durable_ ABSL_GUARDED_BY(mu_);      // the end of the last durable commit or open record
  Address control_end_ ABSL_GUARDED_BY(mu_);  // of the last control record, durable or not
  Address begin_ ABSL_GUARDED_BY(mu_);        // of the log, in the control records
  bool record_all_sessions_ ABSL_GUARDED_BY(mu_) = false;
  std::uint64_t recorded_checkpoint_id_ ABSL_GUARDED_BY(mu_) = 0;  // in the control records
  std::unique_ptr<DurableEnd> durable_end_ ABSL_GUARDED_BY(mu_);   // null: there is no such file
  AtomicWord collected_;      // everything below is dead
  AtomicWord durable_begin_;  // in the last control record that is durable

  // These are last: they use the others, and wait for a run that has begun when they end.
  PoolJob commit_job_;
  LaneJob growth_job_;
  PoolJob growth_timer_;  // until a growth that failed may be asked for again
  BackgroundJobs background_;
};

}  // namespace ebb::internal
