// Coordinator: the life of an open store. It owns the committer, the checkpointer, the collector
// and the grower, runs the jobs that users request, starts the timers of the others, and closes the
// store.
//
// Long jobs (checkpoint, collection, growth, backup, verification, clean-up) run one after the
// other, in the order of their requests. Each is a turn of the lane (job_lane.h), taken by a user's
// thread or by the pool. So an image and a growth exclude each other. A job that needs another one
// calls it inside its own turn.
//
// Periodic commits have a dedicated thread (Core::commit_pool) and need no turn, so they run on
// time whatever the pool and the lane are doing. A commit may wait for another commit, a guard, and
// the device. The commit timer is set again when a commit ends, however it ends, until the store is
// poisoned or closed.
//
// A store is closed in two steps. EpochManager::BumpClosed rejects operations and new jobs of users
// (Core::CheckOpen). After the last commit, Committer::Stop rejects commits and ends all jobs. If
// that commit fails for lack of space, the second step does not happen, and Close may be called
// again.
//
// Thread safety: any thread may call all methods. Progress: Commit, GrowIndex and Close wait for
// guards to end and for the device.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/jobs/background_jobs.h"
#include "ebb/internal/jobs/checkpointer.h"
#include "ebb/internal/jobs/committer.h"
#include "ebb/internal/jobs/garbage_collector.h"
#include "ebb/internal/jobs/index_growth.h"
#include "ebb/internal/jobs/job_lane.h"
#include "ebb/stats.h"
#include "ebb/verify.h"

namespace ebb::internal {

class Coordinator {
 public:
  // The results of opening.
  struct OpenedState {
    Committer::CommittedState commits;
    std::vector<CheckpointInfo> checkpoints;  // those that verify
  };
  // Starts the automatic commits and checkpoints.
  Coordinator(Core& core, OpenedState start);
  // Releases the resources that Close has not: sessions may still hold the core, but its files are
  // left alone.
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  // Makes every operation that returned before this call durable.
  absl::Status Commit();

  // See checkpointer.h.
  absl::StatusOr<CheckpointInfo> Checkpoint();
  std::vector<CheckpointInfo> Checkpoints() const { return checkpointer_.List(); }
  absl::StatusOr<std::uint64_t> CleanUpCheckpoints(std::uint64_t kept);
  CheckpointStats GetCheckpointStats() const { return checkpointer_.Stats(); }
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
    core_.log.ReleaseThrottle();
  }
  BackgroundStats GetBackgroundStats() const { return background_.Stats(); }

  // Doubles the index. ResourceExhausted: it has reached its maximum, or there is no memory.
  absl::Status GrowIndex();

  // Rejects new operations, waits for running ones, commits, and closes the files. After a
  // recoverable error (no space) nothing is lost: it can be called again, and operations are
  // rejected in the meantime. Once the store is closed, always returns the same status.
  absl::Status Close();
  // Does the same for a destructor: prints an error. A completion callback may throw through Close,
  // which the second call then completes: each callback runs once.
  void CloseAtEnd();

 private:
  // Runs `job` in a turn of the lane, unless the store is closed by then.
  template <typename Job>
  auto InTurn(const Job& job) -> decltype(job(std::declval<LaneTurn&>()));
  // An automatic collection, in its turn.
  absl::StatusOr<BackgroundJob::Work::Outcome> CollectInTurn(
      LaneTurn& turn, const BackgroundJob::IsStopping& is_stopping);
  // One pass before a store is closed, unless a job is running.
  void CollectBeforeClosing();
  void ScheduleCommit();
  // A run of the thread of the periodic commits.
  void CommitInTime();
  absl::Status CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);
  // Rejects operations from now on and waits until none is left.
  void DrainOperations();
  // Ends the jobs and releases files, lock and memory, whether everything has become durable or
  // not. Sessions can outlive this and find the store closed.
  absl::Status ReleaseResources() ABSL_EXCLUSIVE_LOCKS_REQUIRED(close_mu_);

  Core& core_;
  const OwnSlot slot_;  // of the jobs; used in turns

  Mutex close_mu_;
  std::optional<absl::Status> close_status_ ABSL_GUARDED_BY(close_mu_);  // once it is closed

  JobLane lane_;  // one long job at a time
  Committer committer_;
  Checkpointer checkpointer_;
  GarbageCollector collector_;  // used in turns, except worth_a_look

  // These are last: they use the others, and their destructors wait for a run that has begun.
  IndexGrower grower_;
  PoolJob commit_timer_;
  BackgroundJobs background_;
};

}  // namespace ebb::internal
