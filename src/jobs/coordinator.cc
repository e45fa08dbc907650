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
  core_.commits = std::make_unique<SharedRounds>([this] { return RunCommit(); });
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

// A failed commit is tried again at the next interval; a caller that waits for one gets its error.
void Coordinator::CommitInTime() {
  const absl::Cleanup again = [this] {
    if (!core_.health.poisoned()) ScheduleCommit();
  };
  static_cast<void>(core_.commits->Join());
  background_.LookForGarbage();
}

// Everything below durable_ is read-only, so every change since has moved the tail.
bool Coordinator::NothingToCommit() const {
  return settled_ && !owes_control_ && begin_ == BeginToState(false) &&
         core_.log.tail() == durable_ && !core_.sessions.HasChanges();
}

absl::Status Coordinator::CommitLocked(Manifest* manifest) {
  if (stopped_) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  // A control record that could not be written is written first. While that fails, another one for
  // each commit would only use up the log's memory.
  if (control_end_ > durable_) {
    if (absl::Status status = MakeDurable(); !status.ok()) return status;
  }
  if (manifest == nullptr && NothingToCommit()) return core_.CheckFiles(false);
  if (absl::Status status = CheckIdleCommit(manifest != nullptr); !status.ok()) return status;
  if (owes_control_) {
    if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  }
  if (manifest != nullptr) recorded_checkpoint_id_ = manifest->id;
  const Address begin = BeginToState(manifest != nullptr);
  if (begin_ != begin) record_all_sessions_ = true;
  begin_ = begin;
  if (absl::Status status = ShiftVersion(); !status.ok()) return status;
  if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  if (manifest != nullptr) {
    manifest->version = version_ - 1;
    manifest->durable = durable_;
    manifest->sessions = core_.sessions.Recorded();
    manifest->incarnations = core_.log.incarnations();
  }
  return absl::OkStatus();
}

// A commit that follows no record must not use up the space that the commit of the next record
// needs, but the commit of Close may. A commit that only states serials, or belongs to a
// checkpoint, can wait for space.
absl::Status Coordinator::CheckIdleCommit(bool of_checkpoint) {
  if (owes_control_ || core_.log.tail() != durable_ || core_.epochs.closed()) {
    return absl::OkStatus();
  }
  const bool is_needed = !settled_ || begin_ != BeginToState(false);
  return core_.log.CheckIdleCommit(!of_checkpoint && is_needed);
}

absl::Status Coordinator::ShiftVersion() {
  shift_tail_ = shift_began_ = core_.log.tail();
  core_.log.BeginVersionShift();
  ++version_;
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>(version_ & 3));
  if (absl::Status status = core_.WaitForDrain(epoch); !status.ok()) return status;
  core_.version_floor.store(shift_tail_.value(), std::memory_order_release);  // [drained]
  core_.drained_version.store(version_, std::memory_order_release);           // [drained]
  return absl::OkStatus();
}

absl::Status Coordinator::WriteControl(std::uint64_t version) {
  HybridLog& log = core_.log;
  owes_control_ = true;
  settled_ = true;
  HybridLog::Extent extent;
  absl::Status status;
  try {
    status = AppendSessions(version);
    if (status.ok()) status = AppendControl(version, extent);
  } catch (const std::bad_alloc&) {
    status = NoMemory();
  }
  owes_control_ = !status.ok();
  // Records above the tail now were created after the drain, with or without a control record.
  const Address end =
      status.ok() ? log.geometry().Normalize(extent.start + extent.bytes) : log.tail();
  log.EndVersionShift(end);
  if (!status.ok()) return status;
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
  record.begin = begin_;
  record.begin_incarnation = log.IncarnationAt(begin_);
  record.durable = durable_;
  record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
  const auto reserve = [&](const EpochGuard& guard) {
    return log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
  };
  const auto encode = [&](std::span<std::byte> bytes) {
    const Address last = extent.start + (bytes.size() - 1);
    EncodeCommitRecord(record, core_.config.log.store_id, log.geometry().BlockOf(last), bytes);
  };
  return Append(reserve, encode, CommitRecord::kLeastExtentBytes, extent);
}

absl::Status Coordinator::MakeDurable() {
  const Address end = control_end_;
  if (absl::Status status = core_.log.FlushTo(end); !status.ok()) return status;
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) return core_.Poison(status);
  durable_ = end;
  if (durable_end_ != nullptr) durable_end_->Advance(core_.log.geometry().BlockOf(end));
  durable_begin_.store(begin_.value(), std::memory_order_release);               // [begin]
  core_.counters.commits.fetch_add(1, std::memory_order_relaxed);                // statistics
  core_.counters.durable_address.store(end.value(), std::memory_order_relaxed);  // statistics
  return absl::OkStatus();
}

absl::Status Coordinator::AppendSessions(std::uint64_t version) {
  const std::vector<SessionReport> changes =
      core_.sessions.Changes(static_cast<unsigned>(version & 3), record_all_sessions_);
  const std::uint64_t room = core_.log.geometry().payload_bytes();
  for (std::span<const SessionReport> rest = changes; !rest.empty();) {
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
      EpochGuard guard(core_.epochs, *slot_);
      extent = reserve(guard);
      if (extent.bytes != 0) {
        encode({log.At(extent.start, guard), extent.bytes});
        // Another thread's record in between may be of the next version.
        settled_ = settled_ && extent.start == shift_tail_;
        shift_tail_ = log.geometry().Normalize(extent.start + extent.bytes);
        return absl::OkStatus();
      }
    }
    absl::Status status = log.WaitForPage(least_bytes, HybridLog::Space::kCommit);
    if (!status.ok()) return status;
  }
}

// ---- checkpoints ----

absl::StatusOr<CheckpointInfo> Coordinator::Checkpoint() {
  if (core_.epochs.closed()) return core_.ClosedError();
  if (absl::Status status = checkpoint_rounds_.Join(); !status.ok()) return status;
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
  if (core_.config.read_only && is_covered()) return absl::OkStatus();
  if (core_.health.poisoned()) return core_.health.status();
  if (absl::Status status = core_.CheckFiles(true); !status.ok()) return status;
  needed = !NothingToCommit() || !is_covered();
  return absl::OkStatus();
}

absl::Status Coordinator::WriteCheckpoint() {
  if (checkpoint_id_ >= kMostCheckpointId) {  // from a file or record that ebb did not write
    return Lasting(absl::ResourceExhaustedError("the ids of checkpoints are used up"));
  }
  {
    MutexLock lock(list_mu_);
    checkpoints_.reserve(checkpoints_.size() + 1);  // may throw: before there is another
  }
  const auto begun = std::chrono::steady_clock::now();
  Manifest manifest;
  manifest.id = ++checkpoint_id_;
  manifest.created_unix_ms = UnixMs();
  manifest.scan_from = core_.log.tail();
  absl::Status status = core_.WaitForDrain(core_.epochs.Bump());
  if (!status.ok()) return status;
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // some buckets later is soon enough
  };
  status = WriteIndexImage(core_, stop, manifest);
  if (status.ok()) {
    MutexLock lock(mu_);
    status = CommitLocked(&manifest);
    if (status.ok() && durable_end_ != nullptr) status = durable_end_->Sync();
  }
  // The image's name before the manifest's, so that a crash leaves no manifest without its image.
  if (status.ok()) status = SyncDirectory();
  if (status.ok()) {
    status = WriteManifest(*core_.files.directory, core_.config.log.store_id, manifest);
  }
  if (status.ok()) status = SyncDirectory();
  if (!status.ok()) {
    // Failed attempts must not fill the disk with images. Of a poisoned store nothing is removed:
    // the manifest may have its name already.
    if (!core_.health.poisoned()) {
      static_cast<void>(core_.files.directory->Unlink(ImageName(manifest.id)));  // best effort
    }
    return status;
  }
  {
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
  // The device shares the directory, and its next sync would not report this error any more.
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
    return absl::InvalidArgumentError("kept is 0: the newest checkpoint is never removed");
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
  // Manifests first, so that a crash leaves no manifest without its image.
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
  // A growth may have been left half-way.
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
  if (collector_.entries_are_due()) {
    absl::Status status = collector_.FreeEntries(core_.config.gc, call.is_stopping);
    if (!status.ok()) return status;
  }
  const absl::StatusOr<GcStats> stats = collector_.Collect(core_.config.gc, call);
  if (!stats.ok()) return stats.status();
  return call.has_left ? BackgroundJob::Work::Outcome::kLater : BackgroundJob::Work::Outcome::kDone;
}

// If it fails nothing is lost, only space is kept, so no caller needs the error.
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
  const Address collected(collected_.load(std::memory_order_acquire));  // [begin]
  MutexLock lock(list_mu_);
  return of_checkpoint || checkpoints_.empty()
             ? collected
             : std::max(begin_, std::min(collected, Address(checkpoints_.back().scan_address)));
}

Address Coordinator::DurableBegin() const {
  const Address begin(durable_begin_.load(std::memory_order_acquire));  // [begin]
  MutexLock lock(list_mu_);
  return checkpoints_.empty() ? begin : std::min(begin, Address(checkpoints_.back().scan_address));
}

absl::Status Coordinator::FollowCommits() {
  const Address begin = DurableBegin();
  if (begin <= core_.log.begin()) return absl::OkStatus();
  if (absl::Status status = core_.log.ShiftBegin(begin); !status.ok()) return status;
  std::size_t useless = 0;
  {
    MutexLock lock(list_mu_);
    useless = std::erase_if(checkpoints_, [begin](const CheckpointInfo& info) {
      return IsDead(Address(info.scan_address), begin);
    });
  }
  return useless == 0 ? absl::OkStatus() : CleanUpLocked(core_.config.checkpoints_kept).status();
}

absl::Status Coordinator::MoveBegin(Address begin) {
  {
    MutexLock lock(mu_);  // a commit in progress may be the one
  }
  if (DurableBegin() >= begin) return FollowCommits();
  bool checkpoint = false;
  {
    MutexLock lock(list_mu_);
    checkpoint = !checkpoints_.empty() && checkpoints_.back().scan_address < begin.value();
  }
  absl::Status status = checkpoint ? WriteCheckpoint() : core_.commits->Join();
  // No slice of the space has room for an image. The log alone holds everything, too.
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
  // Set before the index is left half-way, and then no job reads it any more. A checkpoint may
  // still wait for its turn, but it stops before it reads a bucket.
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // a chunk later is soon enough
  };
  return stop() ? core_.ClosedError() : internal::GrowIndex(core_, stop);
}

// In an operation, under its guard.
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
  if (core_.index.crowded() && core_.has_files() && core_.config.gc_interval_ms != 0) {
    // Where that fails, for example on a full disk, growing may not.
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
      // Without it nothing is lost; only the next opening takes longer.
      if (core_.config.checkpoint_interval_ms != 0) static_cast<void>(RunCheckpoint());
      MutexLock lock(mu_);
      status = CommitLocked(nullptr);
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
  // Without a drain a guard may be left that reads memory, see LetGo; slow calls end in any case.
  static_cast<void>(core_.WaitForDrain(core_.epochs.BumpClosed()));
  Backoff backoff;
  while (!core_.epochs.NoSlowCalls()) backoff.Wait();
}

absl::Status Coordinator::LetGo() {
  closing_.store(true, std::memory_order_relaxed);  // see WriteCheckpoint
  {
    MutexLock lock(mu_);  // a commit may still run
    stopped_ = true;
    durable_end_ = nullptr;
  }
  core_.log.StopMaintenance();
  core_.commit_thread.Stop();
  lane_.Close();
  core_.pool.Stop();
  LaneTurn turn(lane_);  // a job of a user's thread may still run
  absl::Status status = core_.files.device->Close();
  if (core_.files.directory != nullptr) core_.files.directory->Unlock();
  core_.files = {};
  if (!core_.epochs.broken()) core_.log.ReleaseMemory();
  closed_ = true;
  return status;
}

}  // namespace ebb::internal
