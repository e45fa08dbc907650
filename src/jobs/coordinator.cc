#include "ebb/internal/jobs/coordinator.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/clock.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/format/lifetime.h"
#include "ebb/internal/jobs/backup.h"
#include "ebb/internal/jobs/index_growth.h"
#include "ebb/internal/jobs/log_verifier.h"
#include "ebb/internal/ops/pending_operations.h"
#include "ebb/status.h"

namespace ebb::internal {

Coordinator::Coordinator(Core& core, Start start)
    : core_(core),
      slot_(core.epochs.AcquireSlot()),
      job_slot_(core.epochs.AcquireSlot()),
      checkpoint_rounds_([this] { return RunCheckpoint(); }),
      lane_(core.pool),
      checkpoint_id_(start.checkpoint_id),
      collector_(core, *job_slot_, CollectorOwner()),
      checkpoints_(std::move(start.checkpoints)),
      version_(start.version),
      durable_(start.durable),
      begin_(core.log.begin()),
      recorded_checkpoint_id_(start.checkpoint_id),
      durable_end_(std::move(start.durable_end)),
      collected_(core.log.begin().value()),
      durable_begin_(core.log.begin().value()),
      commit_job_(core.commit_pool(), [this] { CommitInTime(); }),
      growth_job_(lane_, [this] { GrowWhileCrowded(); }),
      growth_timer_(core.pool,
                    [this] { growth_asked_.store(false, std::memory_order_relaxed); }),  // a hint
      background_(core, lane_,
                  {.run = [this](const BackgroundJob::IsStopping&)
                       -> absl::StatusOr<BackgroundJob::Work::Outcome> {
                    lane_.AssertHeld();
                    if (absl::Status status = RunCheckpointLocked(); !status.ok()) return status;
                    return BackgroundJob::Work::Outcome::kDone;
                  }},
                  {.run =
                       [this](const BackgroundJob::IsStopping& is_stopping) {
                         return CollectInTurn(is_stopping);
                       },
                   .is_worth_a_look =
                       [this] {
                         return collector_.worth_a_look() || core_.log.begin() < DurableBegin();
                       }}) {
  core_.counters.durable_address.store(start.durable.value(),
                                       std::memory_order_relaxed);  // statistics
  // Commit, WaitDurable, updates with kAlways and the periodic commit all join here: a commit that
  // begins after the call covers it, however many callers wait.
  core_.commits = std::make_unique<SharedRounds>([this] { return RunCommit(); });
  // With kAlways every update must wait for a commit, and a read-only store accepts none, so
  // neither has a fast path that updates in place.
  if (core_.config.durability == Durability::kAlways || core_.config.read_only) {
    core_.log.BlockUpdates();
  }
  if (core_.config.index_auto_grow) core_.index.OnCrowded([this] { AskForGrowth(); });
  if (!core_.has_files()) return;
  if (core_.config.durability == Durability::kPeriodic) ScheduleCommit();
  background_.Start();
}

Coordinator::~Coordinator() {
  {
    MutexLock lock(close_mu_);
    if (!closed_) {
      // Opening failed after the coordinator existed, or the last Close failed: nothing is
      // committed here.
      ShutOut();
      static_cast<void>(LetGo());  // there is no caller to report to
    }
  }
  core_.epochs.ReleaseSlot(job_slot_);
  core_.epochs.ReleaseSlot(slot_);
}

// ---- commits ----

absl::Status Coordinator::Commit() {
  if (core_.epochs.closed()) return core_.ClosedError();
  return core_.commits->Join();
}

absl::Status Coordinator::RunCommit() {
  absl::Status status;
  {
    MutexLock lock(mu_);
    status = CommitLocked(nullptr);
  }
  if (!status.ok()) {
    core_.counters.failed_commits.fetch_add(1, std::memory_order_relaxed);  // statistics
  }
  return status;
}

void Coordinator::ScheduleCommit() {
  commit_job_.PostAfter(std::chrono::milliseconds(core_.config.commit_interval_ms));
}

// A failed commit is repeated at the next interval; a caller that waits for one gets its error.
void Coordinator::CommitInTime() {
  // An exception must not end the periodic commits, so the timer is set in a destructor. A poisoned
  // store never commits again.
  const absl::Cleanup again = [this] {
    if (!core_.health.poisoned()) ScheduleCommit();
  };
  static_cast<void>(core_.commits->Join());
  // A commit may have freed the space of a collection that waits for it (garbage_collector.h).
  background_.LookForGarbage();
}

// Everything below durable_ is read-only, so every change since then has moved the tail. An
// operation of version_ may have acted below durable_ if settled_ is false; then a commit is needed
// although the tail has not moved.
bool Coordinator::ContentIsDurable() const {
  return settled_ && !owes_control_ && core_.log.tail() == durable_ && !core_.sessions.HasChanges();
}

bool Coordinator::NothingToCommit() const {
  return ContentIsDurable() && begin_ == BeginToState(false);
}

absl::Status Coordinator::CommitLocked(Manifest* manifest) {
  if (stopped_) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  // A control record that could not be written to the device is written first. While that fails,
  // each commit would only append another one, and use up the log's memory.
  if (control_end_ > durable_) {
    if (absl::Status status = MakeDurable(); !status.ok()) return status;
  }
  // There is nothing to write, but the caller relies on the files: check that they still have their
  // names.
  if (manifest == nullptr && NothingToCommit()) return core_.CheckFiles(false);
  if (absl::Status status = CheckIdleCommit(manifest != nullptr); !status.ok()) return status;
  // The last version has drained, but its control record could not be appended. It comes before the
  // next bump, because two bits distinguish only the versions of one drain at a time.
  if (owes_control_) {
    if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  }
  // From here on even a failed checkpoint has used its id: each later control record states it, so
  // ids never repeat.
  if (manifest != nullptr) recorded_checkpoint_id_ = manifest->id;
  // Walk of a garbage collection, 3. Loaded before the bump ([begin]): the copies of all live
  // records below are in the version that this commit ends, or in an older one.
  const Address begin = BeginToState(manifest != nullptr);
  // The statements about sessions below the new begin will be lost, so this commit repeats them
  // all.
  if (begin_ != begin) record_all_sessions_ = true;
  begin_ = begin;
  if (absl::Status status = ShiftVersion(); !status.ok()) return status;
  if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  // For a checkpoint: the manifest describes exactly the state of this control record.
  if (manifest != nullptr) {
    manifest->version = version_ - 1;
    manifest->durable = durable_;
    manifest->sessions = core_.sessions.Recorded();
    manifest->incarnations = core_.log.incarnations();
  }
  return absl::OkStatus();
}

// A commit that follows no record must not use up the space that the commit of the next record
// needs. One that only states serials, or belongs to a checkpoint, can wait for space; so can a new
// begin when the store is closed, since the next process collects again.
absl::Status Coordinator::CheckIdleCommit(bool of_checkpoint) {
  if (owes_control_ || core_.log.tail() != durable_) return absl::OkStatus();
  const bool closed = core_.epochs.closed();
  if (closed && !settled_) return absl::OkStatus();  // it settles a record, which left the space
  const bool is_needed = !settled_ || (!closed && begin_ != BeginToState(false));
  return core_.log.CheckIdleCommit(!of_checkpoint && is_needed);
}

absl::Status Coordinator::ShiftVersion() {
  // Walk of a Commit, 2. The tail is loaded before the bump, so that every record of the new
  // version is at or above it.
  shift_tail_ = shift_began_ = core_.log.tail();
  // Before the bump is published: an operation of the new version must find no record to update in
  // place that an operation of the old one may still be changing.
  core_.log.BeginVersionShift();
  ++version_;
  // The bump. From here on operations act in the new version; the drain ends the old one.
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>(version_ & 3));
  // Afterwards no operation of the old version is left, so its records below the control record are
  // complete.
  if (absl::Status status = core_.WaitForDrain(epoch); !status.ok()) return status;
  // The floor first: an operation that sees the new drained_version also sees the floor from which
  // it compares versions.
  core_.version_floor.store(shift_tail_.value(), std::memory_order_release);  // [drained]
  core_.drained_version.store(version_, std::memory_order_release);           // [drained]
  return absl::OkStatus();
}

// Walk of a Commit, 3.
absl::Status Coordinator::WriteControl(std::uint64_t version) {
  HybridLog& log = core_.log;
  // If an append below fails, this stays true and the next commit begins with the record that is
  // missing.
  owes_control_ = true;
  // Append sets it to false if a record of the next version may lie below the control record.
  settled_ = true;
  HybridLog::Extent extent;
  absl::Status status;
  try {
    // The serials precede the control record that makes them valid.
    status = AppendSessions(version);
    if (status.ok()) status = AppendControl(version, extent);
  } catch (const std::bad_alloc&) {
    // Lack of memory is like lack of space: the version has drained and its control record is owed.
    status = NoMemory();
  }
  owes_control_ = !status.ok();
  // Records above the current tail were created after the drain, with or without a control record.
  const Address end =
      status.ok() ? log.geometry().Normalize(extent.start + extent.bytes) : log.tail();
  // Even after an error: otherwise updates in place would stay forbidden until a commit succeeds.
  log.EndVersionShift(end);
  if (!status.ok()) return status;
  // Set before the write: if that fails, the next commit writes the same record (CommitLocked) and
  // appends no other.
  control_end_ = end;
  return MakeDurable();
}

absl::Status Coordinator::AppendControl(std::uint64_t version, HybridLog::Extent& extent) {
  HybridLog& log = core_.log;
  CommitRecord record;
  record.kind = RecordKind::kControl;
  record.checkpoint_id = recorded_checkpoint_id_;
  record.version = version;
  record.shift_tail = shift_began_;
  record.unix_us = UnixUs();
  // A scan that starts at begin must know the incarnation of its first block.
  record.begin = begin_;
  record.begin_incarnation = log.IncarnationAt(begin_);
  // The end of the last commit that is durable: recovery uses it to distinguish the end of the log
  // from damage.
  record.durable = durable_;
  record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
  // Up to the end of a block, so that the block can be sealed and flushed at once.
  const auto reserve = [&](const EpochGuard& guard) {
    return log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
  };
  const auto encode = [&](std::span<std::byte> bytes) {
    // The number of the record's last block is part of its magic, so that a copy elsewhere is no
    // control record.
    const Address last = extent.start + (bytes.size() - 1);
    EncodeCommitRecord(record, core_.config.log.store_id, log.geometry().BlockOf(last), bytes);
  };
  return Append(reserve, encode, CommitRecord::kLeastExtentBytes, extent);
}

// The order is the protocol: flush, then sync, then report. Nothing is called durable before the
// sync returns.
absl::Status Coordinator::MakeDurable() {
  const Address end = control_end_;
  // A failed write leaves the store as it is; the next commit repeats it.
  if (absl::Status status = core_.log.FlushTo(end); !status.ok()) return status;
  // A failed sync is never repeated: the kernel may have dropped the dirty pages, and a second sync
  // would succeed without them. So the store is poisoned.
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) return core_.Poison(status);
  durable_ = end;
  // Buffered and after the sync, so it never states more than is durable. It may state less; then a
  // loss between the two is not detected.
  if (durable_end_ != nullptr) durable_end_->Advance(core_.log.geometry().BlockOf(end));
  // Now a collection may move the log's begin there (FollowCommits).
  durable_begin_.store(begin_.value(), std::memory_order_release);               // [begin]
  core_.counters.commits.fetch_add(1, std::memory_order_relaxed);                // statistics
  core_.counters.durable_address.store(end.value(), std::memory_order_relaxed);  // statistics
  return absl::OkStatus();
}

absl::Status Coordinator::AppendSessions(std::uint64_t version) {
  // The names whose serial has changed in this version, or all names after begin has moved.
  const std::vector<SessionReport> changes =
      core_.sessions.Changes(static_cast<unsigned>(version & 3), record_all_sessions_);
  const std::uint64_t room = core_.log.geometry().payload_bytes();
  for (std::span<const SessionReport> rest = changes; !rest.empty();) {
    // A list that is longer than a page is divided. An incomplete list is never used, because no
    // control record follows it.
    const SessionsExtent fitting = FitSessions(rest, room);
    const auto reserve = [&](const EpochGuard& guard) {
      const Address start = core_.log.Allocate(fitting.bytes, guard, HybridLog::Space::kCommit);
      return HybridLog::Extent{start, start.is_null() ? 0 : fitting.bytes};
    };
    HybridLog::Extent extent;
    absl::Status status = Append(
        reserve,
        [&](std::span<std::byte> bytes) {
          EncodeSessions(version, rest.first(fitting.count), bytes);
        },
        fitting.bytes, extent);
    if (!status.ok()) return status;
    rest = rest.subspan(fitting.count);
  }
  // Only after all records have been appended: after an error the next commit states the same
  // serials again.
  core_.sessions.SetRecorded(changes);
  record_all_sessions_ = false;
  return absl::OkStatus();
}

absl::Status Coordinator::Append(const std::function<HybridLog::Extent(const EpochGuard&)>& reserve,
                                 const std::function<void(std::span<std::byte>)>& encode,
                                 std::uint64_t least_bytes, HybridLog::Extent& extent) {
  HybridLog& log = core_.log;
  for (;;) {  // ends: each turn after the first starts with room in the page
    {
      // Claim and encoding are in one guard, so that safe_read_only cannot pass the record before
      // it is written.
      EpochGuard guard(core_.epochs, *slot_);
      extent = reserve(guard);
      if (extent.bytes != 0) {
        encode({log.At(extent.start, guard), extent.bytes});
        // A record that another thread appended in between may be of the next version.
        settled_ = settled_ && extent.start == shift_tail_;
        shift_tail_ = log.geometry().Normalize(extent.start + extent.bytes);
        return absl::OkStatus();
      }
    }
    // Outside the guard: the wait may need this thread's guard to end.
    absl::Status status = log.WaitForPage(least_bytes, HybridLog::Space::kCommit);
    if (!status.ok()) return status;
  }
}

// ---- checkpoints ----

absl::StatusOr<CheckpointInfo> Coordinator::Checkpoint() {
  if (core_.epochs.closed()) return core_.ClosedError();
  if (absl::Status status = checkpoint_rounds_.Join(); !status.ok()) return status;
  // A round that succeeded has left at least one checkpoint.
  MutexLock lock(list_mu_);
  return checkpoints_.back();
}

absl::Status Coordinator::RunCheckpoint() {
  LaneTurn turn(lane_);
  return RunCheckpointLocked();
}

absl::Status Coordinator::RunCheckpointLocked() {
  const auto set_runs = [this](bool runs) {
    MutexLock lock(list_mu_);
    checkpoint_runs_ = runs;
  };
  set_runs(true);
  const absl::Cleanup end = [&] { set_runs(false); };
  bool needed = false;
  absl::Status status = CheckpointIsNeeded(needed);
  try {
    if (status.ok() && needed) status = WriteCheckpoint();
  } catch (const std::bad_alloc&) {
    // A checkpoint that fails for lack of memory can be tried again; the log alone is complete.
    status = NoMemory();
  }
  MutexLock list_lock(list_mu_);
  if (status.ok()) {
    checkpoint_stats_.completed_count += needed ? 1 : 0;
    core_.counters.checkpoints.fetch_add(needed ? 1 : 0, std::memory_order_relaxed);  // statistics
  } else {
    core_.counters.failed_checkpoints.fetch_add(1, std::memory_order_relaxed);  // statistics
    ++checkpoint_stats_.failed_count;
    checkpoint_error_ = status;
  }
  return status;
}

absl::Status Coordinator::CheckpointIsNeeded(bool& needed) {
  MutexLock lock(mu_);
  if (stopped_) return core_.ClosedError();
  const auto is_covered = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    MutexLock list_lock(list_mu_);
    return !checkpoints_.empty() && checkpoints_.back().durable_address == durable_.value();
  };
  // A read-only store cannot write a checkpoint, but the newest one may cover all of it.
  if (core_.config.read_only && is_covered()) return absl::OkStatus();
  if (core_.health.poisoned()) return core_.health.status();
  // Checked even if nothing has changed: the caller relies on the files of the log.
  if (absl::Status status = core_.CheckFiles(true); !status.ok()) return status;
  needed = !NothingToCommit() || !is_covered();
  return absl::OkStatus();
}

absl::Status Coordinator::WriteCheckpoint() {
  if (checkpoint_id_ >= kMostCheckpointId) {  // from a file or record that ebb did not write
    return Lasting(absl::ResourceExhaustedError(
        "the store has used all ids of checkpoints; copy all keys into a new store"));
  }
  {
    MutexLock lock(list_mu_);
    checkpoints_.reserve(checkpoints_.size() + 1);  // may throw: before there is another
  }
  const auto begun = std::chrono::steady_clock::now();
  Manifest manifest;
  manifest.id = ++checkpoint_id_;
  manifest.created_unix_ms = UnixMs();
  // T0: a reopening scans the log from here. Every entry that the image lacks is of a record at or
  // above it.
  manifest.scan_from = core_.log.tail();
  // Walk of a Checkpoint, 1. After the drain no thread can still publish a record below T0, so the
  // image, which is written bucket by bucket during operations, has the entries of all of them.
  absl::Status status = core_.WaitForDrain(core_.epochs.Bump());
  if (!status.ok()) return status;
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // some buckets later is soon enough
  };
  // Walk of a Checkpoint, 2.
  status = WriteIndexImage(core_, stop, manifest);
  if (status.ok()) {
    MutexLock lock(mu_);
    // Walk of a Checkpoint, 3. The control record states the id, and makes everything to which the
    // image leads durable.
    status = CommitLocked(&manifest);
    // Unlike a commit, a checkpoint waits for the durable end: a manifest must not state more than
    // it.
    if (status.ok() && durable_end_ != nullptr) status = durable_end_->Sync();
  }
  // Walk of a Checkpoint, 4. The image's name becomes durable before the manifest's, so that a
  // crash leaves no manifest without its image.
  if (status.ok()) status = SyncDirectory();
  if (status.ok()) {
    status = WriteManifest(*core_.files.directory, core_.config.log.store_id, manifest);
  }
  if (status.ok()) status = SyncDirectory();
  if (!status.ok()) {
    // Failed attempts must not fill the disk with images. In a poisoned store nothing is removed:
    // the manifest may have its name already.
    if (!core_.health.poisoned()) {
      static_cast<void>(core_.files.directory->Unlink(ImageName(manifest.id)));  // best effort
    }
    return status;
  }
  {
    // Only now may a collection rely on this checkpoint: its files have durable names.
    MutexLock lock(list_mu_);
    checkpoints_.push_back(DescribeCheckpoint(manifest));
    checkpoint_stats_.last_duration_ms = MillisecondsSince(begun);
    core_.counters.checkpoint_ms.fetch_add(checkpoint_stats_.last_duration_ms,
                                           std::memory_order_relaxed);  // statistics
    core_.counters.checkpoint_bytes.fetch_add(manifest.image_bytes + manifest.manifest_bytes,
                                              std::memory_order_relaxed);  // statistics
  }
  return CleanUpLocked(core_.config.checkpoints_kept).status();
}

absl::Status Coordinator::SyncDirectory() {
  const int error = core_.files.directory->Sync();
  if (error == 0) return absl::OkStatus();
  // The device shares the directory, and its next sync would no longer report this error.
  return core_.Poison(SyncError("sync", "the store's directory", error));
}

std::vector<CheckpointInfo> Coordinator::Checkpoints() const {
  MutexLock lock(list_mu_);
  return checkpoints_;
}

CheckpointStats Coordinator::GetCheckpointStats() const {
  const bool requested = checkpoint_rounds_.running();
  MutexLock lock(list_mu_);
  CheckpointStats stats = checkpoint_stats_;
  if (!checkpoint_error_.ok()) stats.last_error = TextOf(checkpoint_error_);
  stats.in_progress = requested || checkpoint_runs_;
  stats.checkpoint_count = checkpoints_.size();
  for (const CheckpointInfo& info : checkpoints_) stats.total_size_bytes += info.size_bytes;
  stats.latest_checkpoint_id = checkpoints_.empty() ? 0 : checkpoints_.back().id;
  return stats;
}

absl::StatusOr<std::uint64_t> Coordinator::CleanUpCheckpoints(std::uint64_t kept) {
  if (kept == 0) {
    return absl::InvalidArgumentError(
        "kept is 0: it must be at least 1, because the newest checkpoint is never removed");
  }
  // Before any mutex: in a forked child no thread may be left to unlock it.
  if (core_.epochs.closed()) return core_.ClosedError();
  if (absl::Status status = core_.CheckWritable(); !status.ok()) return status;
  LaneTurn turn(lane_);
  {
    MutexLock commit_lock(mu_);
    if (stopped_) return core_.ClosedError();
  }
  return CleanUpLocked(kept);
}

absl::StatusOr<std::uint64_t> Coordinator::CleanUpLocked(std::uint64_t kept) {
  std::uint64_t removed_count = 0;
  std::set<std::string> kept_names;
  {
    // The list first: from here on no call relies on the files that are removed below, even if
    // removing them fails.
    MutexLock lock(list_mu_);
    removed_count = checkpoints_.size() - std::min<std::uint64_t>(checkpoints_.size(), kept);
    checkpoints_.erase(checkpoints_.begin(),
                       checkpoints_.begin() + static_cast<std::ptrdiff_t>(removed_count));
    for (const CheckpointInfo& info : checkpoints_) {
      kept_names.insert({ManifestName(info.id), ImageName(info.id)});
    }
  }
  Directory& directory = *core_.files.directory;
  std::vector<std::string> names;
  if (const int error = directory.List(names); error != 0) {
    return FileError("listing", "the store's directory", 0, error);
  }
  // Walk of a Checkpoint, 5. Manifests first, so that a crash leaves no manifest without its image.
  for (const bool manifests : {true, false}) {
    bool unlinked = false;
    for (const std::string& name : names) {
      const auto id = CheckpointOfFile(name);
      if (!id.has_value() || kept_names.contains(name)) continue;
      if ((name == ManifestName(*id)) != manifests) continue;
      const int error = directory.Unlink(name);
      if (error == EISDIR) continue;  // not a file, so not one of the store's
      if (error != 0 && error != ENOENT) {
        return FileError("unlink", name, 0, error);
      }
      unlinked = true;
    }
    // Without this sync a crash could bring a manifest back whose image is gone.
    if (manifests && unlinked) {
      if (absl::Status status = SyncDirectory(); !status.ok()) return status;
    }
  }
  return removed_count;
}

// ---- backups ----

absl::StatusOr<BackupInfo> Coordinator::Backup(
    const std::string& path, const std::function<void(const BackupProgress&)>& progress) {
  if (core_.epochs.closed()) return core_.ClosedError();
  LaneTurn turn(lane_);
  try {
    return BackupLocked(path, progress);
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

// Commits continue in the meantime. The turn keeps the checkpoint's files, and the beginning of the
// log, in place.
absl::StatusOr<BackupInfo> Coordinator::BackupLocked(
    const std::string& path, const std::function<void(const BackupProgress&)>& progress) {
  {
    MutexLock lock(mu_);
    if (stopped_) return core_.ClosedError();
  }
  // The target first: a directory that is in use is rejected before a checkpoint is written.
  auto target = BackupTarget::Open(*core_.files.file_system, path);
  if (!target.ok()) return target.status();
  if (absl::Status status = RunCheckpointLocked(); !status.ok()) return status;
  BackupJob job;
  {
    MutexLock lock(list_mu_);
    job.checkpoint_id = checkpoints_.back().id;
  }
  job.stop = [this] { return core_.epochs.closed(); };
  job.progress = progress;
  return WriteBackup(core_, job, **target);
}

absl::StatusOr<VerifyReport> Coordinator::Verify(const VerifyOptions& options) {
  if (core_.epochs.closed()) return core_.ClosedError();
  LaneTurn turn(lane_);
  {
    MutexLock commit_lock(mu_);
    if (stopped_) return core_.ClosedError();
  }
  // A growth may have stopped in the middle.
  if (core_.epochs.broken()) return core_.health.status();
  try {
    LogVerifier verifier(core_, options, [this] { return core_.epochs.closed(); });
    absl::StatusOr<VerifyReport> report = verifier.Run(Checkpoints());
    if (!report.ok() || !core_.has_files()) return report;
    MutexLock commit_lock(mu_);  // so that the file is not written in the meantime
    const absl::StatusOr<FoundDurableEnd> end =
        ReadDurableEnd(*core_.files.directory, core_.config.log.store_id);
    if (!end.ok()) return end.status();
    if (!end->problem.empty()) AddProblem(options, end->problem, *report);
    return report;
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

// ---- garbage ----

GarbageCollector::Owner Coordinator::CollectorOwner() {
  return {.state_begin =
              [this](Address begin) {
                collected_.store(begin.value(), std::memory_order_release);  // [begin]
              },
          .follow_commits =
              [this] {
                lane_.AssertHeld();
                return FollowCommits();
              },
          .move_begin =
              [this](Address begin) {
                lane_.AssertHeld();
                return MoveBegin(begin);
              }};
}

absl::StatusOr<GcStats> Coordinator::CollectGarbage(const GcOptions& options,
                                                    GarbageCollector::Pace pace) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  if (core_.epochs.closed()) return core_.ClosedError();
  LaneTurn turn(lane_);
  if (closing_.load(std::memory_order_relaxed)) return core_.ClosedError();  // in our turn
  GarbageCollector::Call call{.pace = pace,
                              .is_stopping = [this] { return core_.epochs.closed(); },
                              .others_wait = [this] { return lane_.HasWaiters(); }};
  // A user's thread leaves the lane between two passes and queues up again, so that a long
  // collection does not delay a checkpoint.
  call.give_way = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    lane_.Unlock();
    lane_.Lock();
    return closing_.load(std::memory_order_relaxed) ? core_.ClosedError()  // in our turn
                                                    : absl::OkStatus();
  };
  return collector_.Collect(options, call);
}

absl::StatusOr<BackgroundJob::Work::Outcome> Coordinator::CollectInTurn(
    const BackgroundJob::IsStopping& is_stopping) {
  GarbageCollector::Call call{
      .pace = GarbageCollector::Pace::kByItself,
      .is_stopping = [this, &is_stopping] { return core_.epochs.closed() || is_stopping(); },
      .others_wait = [this] { return lane_.HasWaiters(); }};
  if (core_.epochs.closed()) return core_.ClosedError();
  // Entries of deleted keys count too: the index must not grow because of them
  // (garbage_collector.h).
  if (collector_.entries_are_due()) {
    absl::Status status = collector_.FreeEntries(core_.config.gc, call.is_stopping);
    if (!status.ok()) return status;
  }
  const absl::StatusOr<GcStats> stats = collector_.Collect(core_.config.gc, call);
  if (!stats.ok()) return stats.status();
  return call.has_left ? BackgroundJob::Work::Outcome::kLater : BackgroundJob::Work::Outcome::kDone;
}

// If it fails, nothing is lost and only space is kept, so no caller needs the error.
void Coordinator::CollectBeforeClosing() {
  if (!core_.has_files() || core_.config.gc_interval_ms == 0 || !lane_.TryLock()) return;
  LaneTurn turn(lane_, std::adopt_lock);
  GarbageCollector::Call call{.pace = GarbageCollector::Pace::kOnePass,
                              .is_stopping = [this] { return core_.epochs.closed(); }};
  try {
    GcOptions options = core_.config.gc;
    options.max_bytes_per_second = 0;  // otherwise Close would be as slow as that rate
    static_cast<void>(collector_.Collect(options, call));
  } catch (const std::bad_alloc&) {
  }
}

absl::StatusOr<GcEstimate> Coordinator::EstimateGarbage() {
  if (core_.epochs.closed()) return core_.ClosedError();
  LaneTurn turn(lane_);
  if (closing_.load(std::memory_order_relaxed)) return core_.ClosedError();  // in our turn
  return collector_.Estimate();
}

absl::StatusOr<bool> Coordinator::ShouldCollect(const GcOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  if (core_.epochs.closed()) return core_.ClosedError();
  LaneTurn turn(lane_);
  if (closing_.load(std::memory_order_relaxed)) return core_.ClosedError();  // in our turn
  return collector_.IsDue(options);
}

Address Coordinator::BeginToState(bool of_checkpoint) const {
  // [begin] The acquire load comes before the bump of the commit that states the result.
  const Address collected(collected_.load(std::memory_order_acquire));  // [begin]
  MutexLock lock(list_mu_);
  // A commit without a checkpoint must not state a begin above the scan address of the newest
  // checkpoint: an opening would start there, in a part of the log that is gone.
  return of_checkpoint || checkpoints_.empty()
             ? collected
             : std::max(begin_, std::min(collected, Address(checkpoints_.back().scan_address)));
}

// A begin counts only when both the control record and the newest checkpoint allow it.
Address Coordinator::DurableBegin() const {
  const Address begin(durable_begin_.load(std::memory_order_acquire));  // [begin]
  MutexLock lock(list_mu_);
  return checkpoints_.empty() ? begin : std::min(begin, Address(checkpoints_.back().scan_address));
}

absl::Status Coordinator::FollowCommits() {
  const Address begin = DurableBegin();
  if (begin <= core_.log.begin()) return absl::OkStatus();
  // Walk of a garbage collection, 4. The log evicts the part below and moves its begin. Only then
  // may its blocks go.
  if (absl::Status status = core_.log.ShiftBegin(begin); !status.ok()) return status;
  std::size_t useless = 0;
  {
    // Checkpoints whose scan would begin below the new begin are useless.
    MutexLock lock(list_mu_);
    useless = std::erase_if(checkpoints_, [begin](const CheckpointInfo& info) {
      return IsDead(Address(info.scan_address), begin);
    });
  }
  return useless == 0 ? absl::OkStatus() : CleanUpLocked(core_.config.checkpoints_kept).status();
}

absl::Status Coordinator::MoveBegin(Address begin) {
  {
    MutexLock lock(mu_);  // a commit in progress may state it
  }
  if (DurableBegin() >= begin) return FollowCommits();
  bool checkpoint = false;
  {
    MutexLock lock(list_mu_);
    checkpoint = !checkpoints_.empty() && checkpoints_.back().scan_address < begin.value();
  }
  // Only a checkpoint can move begin beyond the scan address of the one before: it replaces it.
  absl::Status status = checkpoint ? WriteCheckpoint() : core_.commits->Join();
  // No slice of the space has room for an image. The log alone is complete, so the checkpoints can
  // be removed.
  if (checkpoint && absl::IsResourceExhausted(status) && core_.log.is_short_of_space()) {
    status = CleanUpLocked(0).status();
    if (status.ok() && DurableBegin() < begin) status = core_.commits->Join();
  }
  return status.ok() ? FollowCommits() : status;
}

// ---- growth ----

absl::Status Coordinator::GrowIndex() {
  if (core_.epochs.closed()) return core_.ClosedError();
  if (absl::Status status = core_.CheckWritable(); !status.ok()) return status;
  LaneTurn turn(lane_);
  return GrowInTurn();
}

absl::Status Coordinator::GrowInTurn() {
  // Set before the index is left partly split, and then no job reads it any more. A checkpoint may
  // still wait for its turn, but it stops before it reads a bucket.
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // a chunk later is soon enough
  };
  return stop() ? core_.ClosedError() : internal::GrowIndex(core_, stop);
}

// Called in an operation, under its guard.
void Coordinator::AskForGrowth() {
  if (growth_asked_.exchange(true, std::memory_order_relaxed)) return;  // the first one posts it
  growth_job_.Post();
}

// A growth that fails, for example for lack of memory, can be requested again a second later.
void Coordinator::GrowWhileCrowded() {
  lane_.AssertHeld();
  bool has_failed = true;
  const absl::Cleanup end = [&] {
    if (has_failed) {
      growth_timer_.PostAfter(std::chrono::seconds(1));
    } else if (core_.index.crowded()) {
      growth_job_.Post();  // after the waiting jobs
    } else {
      // the next overflow bucket requests it again
      growth_asked_.store(false, std::memory_order_relaxed);
    }
  };
  // Freeing entries is cheaper than growing, and enough while the number of keys stays the same.
  if (core_.index.crowded() && core_.has_files() && core_.config.gc_interval_ms != 0) {
    // If that fails, for example on a full disk, growing may still succeed.
    collector_.FreeEntries(core_.config.gc, [this] { return core_.epochs.closed(); }).IgnoreError();
  }
  has_failed = core_.index.crowded() && !GrowInTurn().ok();
}

// ---- closing ----

absl::Status Coordinator::Close() {
  if (!core_.in_opening_process()) return core_.ClosedError();
  MutexLock lock(close_mu_);
  return closed_ ? close_status_ : CloseLocked();
}

absl::Status Coordinator::CloseAtEnd() {
  try {
    return Close();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ebb: a callback threw while a store was closed: %s\n", error.what());
  } catch (...) {
    std::fputs("ebb: a callback threw while a store was closed\n", stderr);
  }
  return Close();
}

absl::Status Coordinator::CloseLocked() {
  CollectBeforeClosing();  // while operations can continue
  ShutOut();
  AbandonPending(core_);
  absl::Status status;
  if (core_.has_files() && !core_.config.read_only) {
    try {
      // Walk of a Close, 2. If it fails nothing is lost; only the next opening takes longer.
      if (core_.config.checkpoint_interval_ms != 0) static_cast<void>(RunCheckpoint());
      MutexLock lock(mu_);
      status = CommitLocked(nullptr);
      // There was no space to state a new begin: the next process collects again.
      if (absl::IsResourceExhausted(status) && ContentIsDurable()) status = absl::OkStatus();
      // Walk of a Close, 3 and 4. The last chance to report a removed file.
      if (status.ok()) status = core_.CheckFiles(true);
      if (status.ok() && durable_end_ != nullptr) status = durable_end_->Sync();
    } catch (const std::bad_alloc&) {
      status = NoMemory();
    }
  }
  if (!status.ok() && !core_.health.poisoned()) return status;  // may be tried again
  status.Update(LetGo());
  close_status_ = status;
  return status;
}

void Coordinator::ShutOut() {
  // If the drain fails, a guard may be left that reads memory, see LetGo. Slow calls end in any
  // case.
  static_cast<void>(core_.WaitForDrain(core_.epochs.BumpClosed()));
  // Their number is counted without a barrier, so this wait ends even in a store whose barriers
  // fail.
  Backoff backoff;
  while (!core_.epochs.NoSlowCalls()) backoff.Wait();
}

absl::Status Coordinator::LetGo() {
  // Walk of a Close, 5. Jobs check this flag in their turn and end.
  closing_.store(true, std::memory_order_relaxed);  // see WriteCheckpoint
  // From here on a commit returns ClosedError (stopped_).
  {
    MutexLock lock(mu_);  // a commit may still run
    stopped_ = true;
    durable_end_ = nullptr;
  }
  // The order follows the dependencies: no job may be posted again after its pool or lane has
  // ended, and the files are closed only when no job can use them.
  core_.log.StopMaintenance();
  core_.commit_thread.Stop();
  lane_.Close();
  core_.pool.Stop();
  LaneTurn turn(lane_);  // a job of a user's thread may still run
  absl::Status status = core_.files.device->Close();
  // The lock goes after the files: a process that gets it finds files that no other one writes.
  if (core_.files.directory != nullptr) core_.files.directory->Unlock();
  core_.files = {};
  // After a failed barrier a fast path may still read frames; then the Core frees them with the
  // last session.
  if (!core_.epochs.broken()) core_.log.ReleaseMemory();
  closed_ = true;
  return status;
}

}  // namespace ebb::internal
