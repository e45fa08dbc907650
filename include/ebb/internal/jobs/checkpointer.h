// Checkpointer: writes, lists and removes checkpoints, and moves the log's begin as far as they
// allow.
//
// A checkpoint writes an image of the index (index_image.h), then commits, then writes a manifest
// (manifest.h). Other commits may run while the image is written. Ids never repeat: the
// checkpoint's own control record, and every one after it, holds the newest id.
//
// An opening scans the log from the scan address of the newest checkpoint that verifies. So the
// log's begin moves beyond that address only when another checkpoint replaces it (committer.h).
//
// Concurrent callers share checkpoints (group_runner.h).
//
// Thread safety: any thread may call all methods; those with a LaneTurn run one at a time.
// Progress: those wait for guards to end and for the device, Checkpoint also for its turn; the
// others acquire mu_.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/group_runner.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/jobs/committer.h"
#include "ebb/internal/jobs/job_lane.h"
#include "ebb/stats.h"

namespace ebb::internal {

class Checkpointer {
 public:
  // `newest_id`: the newest ever begun. `found`: the checkpoints that verify, in order of id.
  Checkpointer(Core& core, JobLane& lane, Committer& committer, std::uint64_t newest_id,
               std::vector<CheckpointInfo> found);

  // Makes everything durable as a commit does, and the next opening short. Returns the newest
  // checkpoint, also if nothing has changed since.
  absl::StatusOr<CheckpointInfo> Checkpoint();
  // Does the same in the caller's turn.
  absl::Status Update(const LaneTurn& turn);
  // Makes a checkpoint and copies it into `path`; see backup.h. Commits continue in the meantime.
  // The turn keeps the checkpoint's files, and the beginning of the log, in place.
  absl::StatusOr<BackupInfo> Backup(const LaneTurn& turn, const std::string& path,
                                    const std::function<void(const BackupProgress&)>& progress);
  // Removes all but the newest `kept`, and the files of interrupted ones. Returns the number of
  // checkpoints removed.
  absl::StatusOr<std::uint64_t> CleanUp(const LaneTurn& turn, std::uint64_t kept);
  // Returns them in order of id.
  std::vector<CheckpointInfo> List() const;
  CheckpointStats Stats() const;

  // Moves the log's begin to Committer::DurableBegin.
  absl::Status FollowCommits(const LaneTurn& turn);
  // Makes a begin of at least `begin` durable first, and then moves the log's begin.
  absl::Status MoveBegin(const LaneTurn& turn, Address begin);

 private:
  absl::StatusOr<bool> IsNeeded();
  absl::Status Write(const LaneTurn& turn);
  absl::Status WriteFiles(Manifest& manifest);
  absl::Status SyncDirectory();
  // Returns the newest checkpoint, or one with zeros.
  CheckpointInfo Newest() const;
  void PublishScanAddress() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Core& core_;
  Committer& committer_;
  GroupRunner rounds_;
  std::uint64_t newest_id_;  // the newest begun; used in turns
  Atomic<bool> is_running_{false};
  mutable Mutex mu_;
  std::vector<CheckpointInfo> list_ ABSL_GUARDED_BY(mu_);
  CheckpointStats stats_ ABSL_GUARDED_BY(mu_);  // except the text of the error
  absl::Status error_ ABSL_GUARDED_BY(mu_);     // of the last failure
};

}  // namespace ebb::internal
