#include "ebb/internal/jobs/checkpointer.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/format/lifetime.h"
#include "ebb/internal/jobs/backup.h"
#include "ebb/status.h"

namespace ebb::internal {

Checkpointer::Checkpointer(Core& core, JobLane& lane, Committer& committer, std::uint64_t newest_id,
                           std::vector<CheckpointInfo> found)
    : core_(core),
      committer_(committer),
      rounds_([this, &lane] { return Update(LaneTurn(lane)); }),
      newest_id_(newest_id),
      list_(std::move(found)) {
  MutexLock lock(mu_);
  PublishScanAddress();
}

void Checkpointer::PublishScanAddress() {
  committer_.SetScanAddress(list_.empty() ? Committer::kNoCheckpoint : list_.back().scan_address);
}

absl::StatusOr<CheckpointInfo> Checkpointer::Checkpoint() {
  if (absl::Status status = rounds_.Join(); !status.ok()) return status;
  return Newest();  // a round that succeeded has left at least one
}

absl::Status Checkpointer::Update(const LaneTurn& turn) {
  is_running_.store(true, std::memory_order_relaxed);  // statistics
  const absl::Cleanup end = [this] {
    is_running_.store(false, std::memory_order_relaxed);  // statistics
  };
  absl::StatusOr<bool> needed = IsNeeded();
  absl::Status status = needed.status();
  // A checkpoint that fails for lack of memory can be tried again; the log alone is complete.
  if (status.ok() && *needed) status = CatchNoMemory([&] { return Write(turn); });
  MutexLock lock(mu_);
  if (status.ok()) {
    stats_.completed_count += *needed ? 1 : 0;
    core_.counters.checkpoints.fetch_add(*needed ? 1 : 0, std::memory_order_relaxed);  // statistics
  } else {
    core_.counters.failed_checkpoints.fetch_add(1, std::memory_order_relaxed);  // statistics
    ++stats_.failed_count;
    error_ = status;
  }
  return status;
}

absl::StatusOr<bool> Checkpointer::IsNeeded() {
  const absl::StatusOr<bool> needed = committer_.HasNewsSince(Address(Newest().durable_address));
  if (!needed.ok()) return needed;
  // A read-only store cannot write a checkpoint, but the newest one may cover all of it.
  if (core_.config.read_only && !*needed) return false;
  if (core_.health.poisoned()) return core_.health.status();
  // Checked even if nothing has changed: the caller relies on the files of the log.
  if (absl::Status status = core_.CheckFiles(true); !status.ok()) return status;
  return needed;
}

absl::Status Checkpointer::Write(const LaneTurn& turn) {
  if (newest_id_ >= kMaxCheckpointId) {  // from a file or record that ebb did not write
    return Lasting(absl::ResourceExhaustedError(
        "the store has used all ids of checkpoints; copy all keys into a new store"));
  }
  {
    MutexLock lock(mu_);
    list_.reserve(list_.size() + 1);  // may throw: before there is another
  }
  const auto begun = Clock::now();
  Manifest manifest;
  manifest.id = ++newest_id_;
  if (absl::Status status = WriteFiles(manifest); !status.ok()) {
    // Failed attempts must not fill the disk with images. In a poisoned store nothing is removed:
    // the manifest may have its name already.
    if (!core_.health.poisoned()) {
      static_cast<void>(core_.files.directory->Unlink(ImageName(manifest.id)));  // best effort
    }
    return status;
  }
  {
    // Only now may a collection rely on this checkpoint: its files have durable names.
    MutexLock lock(mu_);
    list_.push_back(DescribeCheckpoint(manifest));
    PublishScanAddress();
    stats_.last_duration_ms = MillisecondsSince(begun);
    core_.counters.checkpoint_ms.fetch_add(stats_.last_duration_ms,
                                           std::memory_order_relaxed);  // statistics
    core_.counters.checkpoint_bytes.fetch_add(manifest.image_bytes + manifest.manifest_bytes,
                                              std::memory_order_relaxed);  // statistics
  }
  return CleanUp(turn, core_.config.checkpoints_kept).status();
}

absl::Status Checkpointer::WriteFiles(Manifest& manifest) {
  manifest.created_unix_ms = UnixMs();
  // T0: a reopening scans the log from here. Every entry that the image lacks is of a record at or
  // above it.
  manifest.scan_from = core_.log.tail();
  // Walk of a Checkpoint, 1. After the drain no thread can still publish a record below T0, so the
  // image, which is written bucket by bucket during operations, has the entries of all of them.
  absl::Status status = core_.log.Drain();
  if (!status.ok()) return status;
  // Walk of a Checkpoint, 2.
  status = WriteIndexImage(
      core_, [this] { return committer_.stopped(); }, manifest);
  // Walk of a Checkpoint, 3. The control record states the id, and makes everything to which the
  // image leads durable.
  if (status.ok()) status = committer_.CommitExactly(&manifest);
  // Walk of a Checkpoint, 4. The image's name becomes durable before the manifest's, so that a
  // crash leaves no manifest without its image.
  if (status.ok()) status = SyncDirectory();
  if (status.ok()) {
    status = WriteManifest(*core_.files.directory, core_.config.log.store_id, manifest);
  }
  return status.ok() ? SyncDirectory() : status;
}

absl::Status Checkpointer::SyncDirectory() {
  const int error = core_.files.directory->Sync();
  if (error == 0) return absl::OkStatus();
  // The device shares the directory, and its next sync would no longer report this error.
  return core_.Poison(SyncError("sync", "the store's directory", error));
}

std::vector<CheckpointInfo> Checkpointer::List() const {
  MutexLock lock(mu_);
  return list_;
}

CheckpointInfo Checkpointer::Newest() const {
  MutexLock lock(mu_);
  return list_.empty() ? CheckpointInfo() : list_.back();
}

CheckpointStats Checkpointer::Stats() const {
  const bool in_progress =
      rounds_.running() || is_running_.load(std::memory_order_relaxed);  // statistics
  MutexLock lock(mu_);
  CheckpointStats stats = stats_;
  if (!error_.ok()) stats.last_error = TextOf(error_);
  stats.in_progress = in_progress;
  stats.checkpoint_count = list_.size();
  for (const CheckpointInfo& info : list_) stats.total_size_bytes += info.size_bytes;
  stats.latest_checkpoint_id = list_.empty() ? 0 : list_.back().id;
  return stats;
}

absl::StatusOr<std::uint64_t> Checkpointer::CleanUp(const LaneTurn&, std::uint64_t kept) {
  std::uint64_t removed_count = 0;
  std::set<std::string> kept_names;
  {
    // The list first: from here on no call relies on the files that are removed below, even if
    // removing them fails.
    MutexLock lock(mu_);
    removed_count = list_.size() - std::min<std::uint64_t>(list_.size(), kept);
    list_.erase(list_.begin(), list_.begin() + static_cast<std::ptrdiff_t>(removed_count));
    PublishScanAddress();
    for (const CheckpointInfo& info : list_) {
      kept_names.insert({ManifestName(info.id), ImageName(info.id)});
    }
  }
  Directory& directory = *core_.files.directory;
  const absl::StatusOr<std::vector<std::string>> names = ListNames(directory);
  if (!names.ok()) return names.status();
  // Walk of a Checkpoint, 5. Manifests first, so that a crash leaves no manifest without its image.
  // The sync in between is due even if this call has removed no manifest: an earlier call that
  // failed may have.
  bool is_synced = false;
  for (const bool manifests : {true, false}) {
    for (const std::string& name : *names) {
      const auto id = CheckpointOfFile(name);
      if (!id.has_value() || kept_names.contains(name)) continue;
      if ((name == ManifestName(*id)) != manifests) continue;
      if (!manifests && !std::exchange(is_synced, true)) {
        if (absl::Status status = SyncDirectory(); !status.ok()) return status;
      }
      const int error = directory.Unlink(name);
      if (error == EISDIR) continue;  // not a file, so not one of the store's
      if (error != 0 && error != ENOENT) return FileError("unlink", name, 0, error);
    }
  }
  return removed_count;
}

absl::StatusOr<BackupInfo> Checkpointer::Backup(
    const LaneTurn& turn, const std::string& path,
    const std::function<void(const BackupProgress&)>& progress) {
  // The target first: a directory that is in use is rejected before a checkpoint is written.
  auto target = BackupTarget::Open(*core_.files.file_system, path);
  if (!target.ok()) return target.status();
  if (absl::Status status = Update(turn); !status.ok()) return status;
  const BackupJob job{.checkpoint_id = Newest().id,
                      .stop = [this] { return core_.epochs.closed(); },
                      .progress = progress};
  return WriteBackup(core_, job, **target);
}

// ---- the begin of the log ----

absl::Status Checkpointer::FollowCommits(const LaneTurn& turn) {
  const Address begin = committer_.DurableBegin();
  if (begin <= core_.log.begin()) return absl::OkStatus();
  // Walk of a garbage collection, 4. The log evicts the part below and moves its begin. Only then
  // may its blocks go.
  if (absl::Status status = core_.log.ShiftBegin(begin); !status.ok()) return status;
  std::size_t useless = 0;
  {
    // Checkpoints whose scan would begin below the new begin are useless.
    MutexLock lock(mu_);
    useless = std::erase_if(list_, [begin](const CheckpointInfo& info) {
      return IsDead(Address(info.scan_address), begin);
    });
  }
  return useless == 0 ? absl::OkStatus() : CleanUp(turn, core_.config.checkpoints_kept).status();
}

absl::Status Checkpointer::MoveBegin(const LaneTurn& turn, Address begin) {
  if (committer_.DurableBeginAfterCommit() >= begin) return FollowCommits(turn);
  // Only a checkpoint can move begin beyond the scan address of the one before: it replaces it.
  const bool needs_checkpoint = committer_.ScanAddress() < begin;
  absl::Status status = needs_checkpoint ? Write(turn) : core_.commits->Join();
  // No slice of the space has room for an image. The log alone is complete, so the checkpoints can
  // be removed.
  if (needs_checkpoint && absl::IsResourceExhausted(status) && core_.log.space().is_short()) {
    status = CleanUp(turn, 0).status();
    if (status.ok() && committer_.DurableBegin() < begin) status = core_.commits->Join();
  }
  return status.ok() ? FollowCommits(turn) : status;
}

}  // namespace ebb::internal
