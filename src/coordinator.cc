#include "ebb/internal/coordinator.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "ebb/internal/backup.h"
#include "ebb/internal/compaction.h"
#include "ebb/internal/index_growth.h"
#include "ebb/internal/index_image.h"
#include "ebb/internal/log_verifier.h"

namespace ebb::internal {
namespace {

bool IsDue(const GcOptions& options, const GcEstimate& estimate) {
  if (estimate.log_bytes == 0 || estimate.garbage_bytes < options.min_reclaim_bytes) return false;
  // 1 is not left to an estimate.
  return options.target_utilization >= 1 ||
         static_cast<double>(estimate.live_bytes) <
             options.target_utilization * static_cast<double>(estimate.log_bytes);
}

using Clock = std::chrono::steady_clock;

std::uint64_t MillisecondsSince(Clock::time_point begun) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count());
}

// A collection has gone through more than it may by now.
bool IsAhead(const GcOptions& options, const GcStats& now, Clock::time_point begun) {
  return options.max_bytes_per_second != 0 &&
         static_cast<double>(now.scanned_bytes) >
             std::chrono::duration<double>(Clock::now() - begun).count() *
                 static_cast<double>(options.max_bytes_per_second);
}

// The length of the log from which on there is enough to collect.
std::uint64_t DueBytes(const GcOptions& options, const GcEstimate& estimate) {
  const double due =
      static_cast<double>(estimate.live_bytes) / std::max(options.target_utilization, 0.01);
  return std::max(static_cast<std::uint64_t>(due), estimate.live_bytes + options.min_reclaim_bytes);
}

std::uint64_t UnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
}

}  // namespace

Coordinator::Coordinator(Core& core, Start start)
    : core_(core),
      slot_(core.epochs.AcquireSlot()),
      job_slot_(core.epochs.AcquireSlot()),
      commits_([this] { return RunCommit(); }),
      checkpoint_rounds_([this] { return RunCheckpoint(); }),
      checkpoint_id_(start.checkpoint_id),
      checkpoints_(std::move(start.checkpoints)),
      version_(start.version),
      durable_(start.durable),
      begin_(core.log.begin()),
      next_begin_(core.log.begin()),
      recorded_checkpoint_id_(start.checkpoint_id) {
  core_.counters.durable_address.store(start.durable.value(),
                                       std::memory_order_relaxed);  // statistics
  core_.make_durable = [this] { return commits_.Join(); };
  if (core_.config.durability == Durability::kAlways) core_.log.BlockUpdates();
  if (core_.config.index_auto_grow) core_.index.OnCrowded([this] { AskForGrowth(); });
  if (!core_.has_files()) return;
  if (core_.config.durability == Durability::kPeriodic) ScheduleCommit();
  checkpoint_job_.run = [this] { return checkpoint_rounds_.Join(); };
  checkpoint_job_.interval = std::chrono::milliseconds(core_.config.checkpoint_interval_ms);
  gc_job_.run = [this] { return Collect(core_.config.gc, Pace::kBraking).status(); };
  gc_job_.interval = std::chrono::milliseconds(core_.config.gc_interval_ms);
  core_.log.OnPageTurn([this] { LookForGarbage(); });
  StartBackground();
}

Coordinator::~Coordinator() {
  {
    MutexLock lock(close_mu_);
    if (!closed_) {
      ShutOut();
      static_cast<void>(LetGo());  // nobody is left to hear of it
    }
  }
  core_.epochs.ReleaseSlot(job_slot_);
  core_.epochs.ReleaseSlot(slot_);
}

// ---- commits ----

absl::Status Coordinator::Commit() {
  if (core_.epochs.closed()) return core_.ClosedError();
  return commits_.Join();
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

// A failed commit is tried again at the next interval; whoever waits for one hears of it.
void Coordinator::ScheduleCommit() {
  core_.pool.PostAfter(std::chrono::milliseconds(core_.config.commit_interval_ms), [this] {
    static_cast<void>(commits_.Join());
    if (!core_.health.poisoned()) ScheduleCommit();
  });
}

// Everything below durable_ is read-only, so whatever has changed since has moved the tail.
bool Coordinator::NothingToCommit() const {
  return settled_ && !owes_control_ && begin_ == next_begin_ && core_.log.tail() == durable_ &&
         !core_.sessions.HasChanges();
}

absl::Status Coordinator::CommitLocked(Manifest* manifest) {
  if (stopped_) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  // A control record that could not be written goes first: while that fails, one more for each
  // commit would only use up the log's memory.
  if (control_end_ > durable_) {
    if (absl::Status status = MakeDurable(); !status.ok()) return status;
  }
  if (manifest == nullptr && NothingToCommit()) return absl::OkStatus();
  changed_since_open_ = true;
  if (owes_control_) {
    if (absl::Status status = WriteControl(version_ - 1, false); !status.ok()) return status;
  }
  if (manifest != nullptr) recorded_checkpoint_id_ = manifest->id;
  if (begin_ != next_begin_) record_all_sessions_ = true;
  begin_ = next_begin_;
  ShiftVersion();
  if (absl::Status status = WriteControl(version_ - 1, false); !status.ok()) return status;
  if (manifest != nullptr) {
    manifest->version = version_ - 1;
    manifest->durable = durable_;
    manifest->sessions = core_.sessions.Recorded();
    manifest->incarnations = core_.log.incarnations();
  }
  return absl::OkStatus();
}

void Coordinator::ShiftVersion() {
  shift_tail_ = core_.log.tail();
  core_.log.BeginVersionShift();
  ++version_;
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>(version_ & 3));
  Backoff backoff;
  while (!core_.epochs.Drained(epoch)) backoff.Wait();
  core_.version_floor.store(shift_tail_.value(), std::memory_order_release);  // [drained]
  core_.drained_version.store(version_, std::memory_order_release);           // [drained]
}

absl::Status Coordinator::WriteControl(std::uint64_t version, bool clean) {
  HybridLog& log = core_.log;
  owes_control_ = true;  // also if memory runs out on the way
  settled_ = true;
  absl::Status status = AppendSessions(version);
  HybridLog::Extent extent;
  if (status.ok()) {
    CommitRecord record;
    record.kind = RecordKind::kControl;
    record.checkpoint_id = recorded_checkpoint_id_;
    record.version = version;
    record.clean = clean;
    record.begin = begin_;
    record.begin_incarnation = log.IncarnationAt(begin_);
    record.durable = durable_;
    record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
    record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
    const auto reserve = [&](const EpochGuard& guard) {
      return log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
    };
    status = Append(
        reserve,
        [&](std::span<std::byte> bytes) {
          const Address last = extent.start + (bytes.size() - 1);
          EncodeCommitRecord(record, core_.config.log.store_id, log.geometry().BlockOf(last),
                             bytes);
        },
        CommitRecord::kLeastExtentBytes, extent);
  }
  owes_control_ = !status.ok();
  // What is above the tail now was made after the drain, with or without a control record.
  const Address end =
      status.ok() ? log.geometry().Normalize(extent.start + extent.bytes) : log.tail();
  log.EndVersionShift(end);
  if (!status.ok()) return status;
  control_end_ = end;
  return MakeDurable();
}

absl::Status Coordinator::MakeDurable() {
  const Address end = control_end_;
  if (absl::Status status = core_.log.FlushTo(end); !status.ok()) return status;
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) {
    core_.health.Poison(status);
    core_.log.BlockUpdates();
    return core_.health.status();
  }
  durable_ = end;
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
      const Address start = core_.log.Allocate(fitting.bytes, guard, HybridLog::Space::kSpare);
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
        // Somebody else's record in between may be of the next version.
        settled_ = settled_ && extent.start == shift_tail_;
        shift_tail_ = log.geometry().Normalize(extent.start + extent.bytes);
        return absl::OkStatus();
      }
    }
    absl::Status status = log.WaitForPage(least_bytes, HybridLog::Space::kSpare);
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
  MutexLock lock(job_mu_);
  return RunCheckpointLocked();
}

absl::Status Coordinator::RunCheckpointLocked() {
  bool needed = false;
  absl::Status status = CheckpointIsNeeded(needed);
  if (status.ok() && needed) status = WriteCheckpoint();
  MutexLock list_lock(list_mu_);
  if (status.ok()) {
    checkpoint_stats_.completed_count += needed ? 1 : 0;
    core_.counters.checkpoints.fetch_add(needed ? 1 : 0, std::memory_order_relaxed);  // statistics
  } else {
    core_.counters.failed_checkpoints.fetch_add(1, std::memory_order_relaxed);  // statistics
    ++checkpoint_stats_.failed_count;
    checkpoint_stats_.last_error = status.ToString();
  }
  return status;
}

absl::Status Coordinator::CheckpointIsNeeded(bool& needed) {
  MutexLock lock(mu_);
  if (stopped_) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  MutexLock list_lock(list_mu_);
  needed = checkpoints_.empty() || !NothingToCommit() ||
           checkpoints_.back().durable_address != durable_.value();
  return absl::OkStatus();
}

absl::Status Coordinator::WriteCheckpoint() {
  if (checkpoint_id_ >= kMostCheckpointId) {  // by a file or record that is not ours
    return absl::ResourceExhaustedError("the ids of checkpoints are used up");
  }
  const Clock::time_point begun = Clock::now();
  Manifest manifest;
  manifest.id = ++checkpoint_id_;
  manifest.created_unix_ms = UnixMs();
  manifest.scan_from = core_.log.tail();
  const std::uint64_t epoch = core_.epochs.Bump();
  Backoff backoff;
  while (!core_.epochs.Drained(epoch)) backoff.Wait();
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // some buckets later is soon enough
  };
  absl::Status status = WriteIndexImage(core_, stop, manifest);
  if (status.ok()) {
    MutexLock lock(mu_);
    status = CommitLocked(&manifest);
  }
  // The image's name before the manifest's, so that a crash leaves no manifest without its image.
  if (status.ok()) status = SyncDirectory();
  if (status.ok()) {
    status = WriteManifest(*core_.files.directory, core_.config.log.store_id, manifest);
  }
  if (status.ok()) status = SyncDirectory();
  if (!status.ok()) return status;
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
  // The device shares the directory, and its next sync would not hear of this any more.
  core_.health.Poison(
      absl::UnavailableError(FileError("sync", "the store's directory", 0, error).message()));
  core_.log.BlockUpdates();
  return core_.health.status();
}

std::vector<CheckpointInfo> Coordinator::Checkpoints() const {
  MutexLock lock(list_mu_);
  return checkpoints_;
}

CheckpointStats Coordinator::GetCheckpointStats() const {
  const bool running = checkpoint_rounds_.running();
  MutexLock lock(list_mu_);
  CheckpointStats stats = checkpoint_stats_;
  stats.in_progress = running;
  stats.checkpoint_count = checkpoints_.size();
  for (const CheckpointInfo& info : checkpoints_) stats.total_size_bytes += info.size_bytes;
  stats.latest_checkpoint_id = checkpoints_.empty() ? 0 : checkpoints_.back().id;
  return stats;
}

absl::StatusOr<std::uint64_t> Coordinator::CleanUpCheckpoints(std::uint64_t kept) {
  if (kept == 0) {
    return absl::InvalidArgumentError("kept is 0: the newest checkpoint is never removed");
  }
  // Before any mutex: in a forked child nobody may be left to unlock it.
  if (core_.epochs.closed()) return core_.ClosedError();
  MutexLock lock(job_mu_);
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
      if (error == EISDIR) continue;  // no file, so none of ours
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
  MutexLock lock(job_mu_);
  try {
    return BackupLocked(path, progress);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for a backup");
  }
}

// Commits go on meanwhile. The lock keeps the checkpoint's files, and the log's front, where they
// are.
absl::StatusOr<BackupInfo> Coordinator::BackupLocked(
    const std::string& path, const std::function<void(const BackupProgress&)>& progress) {
  {
    MutexLock lock(mu_);
    if (stopped_) return core_.ClosedError();
  }
  auto directory = OpenBackupDirectory(*core_.files.file_system, path);
  if (!directory.ok()) return directory.status();
  if (absl::Status status = RunCheckpointLocked(); !status.ok()) return status;
  BackupJob job;
  {
    MutexLock lock(list_mu_);
    job.checkpoint_id = checkpoints_.back().id;
  }
  job.stop = [this] { return core_.epochs.closed(); };
  job.progress = progress;
  return WriteBackup(core_, job, **directory);
}

absl::StatusOr<VerifyReport> Coordinator::Verify(const VerifyOptions& options) {
  if (core_.epochs.closed()) return core_.ClosedError();
  MutexLock lock(job_mu_);
  {
    MutexLock commit_lock(mu_);
    if (stopped_) return core_.ClosedError();
  }
  try {
    return LogVerifier(core_, options, [this] { return core_.epochs.closed(); }).Run(Checkpoints());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to verify the store");
  }
}

// ---- jobs that come by themselves ----

void Coordinator::StartBackground() {
  MutexLock lock(background_mu_);
  if (background_on_) return;
  background_on_ = true;
  stop_jobs_.store(false, std::memory_order_relaxed);  // background_mu_ held
  for (Job* const job : {&checkpoint_job_, &gc_job_}) {
    job->stats.enabled = job->interval.count() != 0 && core_.has_files();
    if (job->stats.enabled) ScheduleJob(*job, job->interval);
  }
}

void Coordinator::StopBackground() {
  MutexLock lock(background_mu_);
  background_on_ = false;
  ++generation_;
  checkpoint_job_.stats.next_due_unix_ms = gc_job_.stats.next_due_unix_ms = 0;
  stop_jobs_.store(true, std::memory_order_relaxed);  // seen a chunk later
  while (job_runs_) job_ended_.Wait(background_mu_);
  stop_jobs_.store(false, std::memory_order_relaxed);  // for those of users
}

BackgroundStats Coordinator::GetBackgroundStats() const {
  MutexLock lock(background_mu_);
  return {.running = background_on_,
          .active = job_runs_,
          .checkpoint = checkpoint_job_.stats,
          .gc = gc_job_.stats};
}

void Coordinator::ScheduleJob(Job& job, std::chrono::milliseconds delay) {
  job.stats.next_due_unix_ms = UnixMs() + static_cast<std::uint64_t>(delay.count());
  core_.pool.PostAfter(delay, [this, &job, generation = generation_] {
    RunJob(job, generation, /*by_timer=*/true);
  });
}

// A job that fails is tried again at its next interval; its statistics tell of it.
void Coordinator::RunJob(Job& job, std::uint64_t generation, bool by_timer) {
  constexpr std::chrono::milliseconds kWhileAnotherRuns{20};
  {
    MutexLock lock(background_mu_);
    if (generation != generation_ || core_.health.poisoned()) return;
    if (job_runs_) {
      if (by_timer) ScheduleJob(job, kWhileAnotherRuns);
      return;
    }
    job_runs_ = true;
    job.stats.last_begun_unix_ms = UnixMs();
  }
  const Clock::time_point begun = Clock::now();
  const absl::Status status = job.run();
  MutexLock lock(background_mu_);
  job_runs_ = false;
  ++job.stats.run_count;
  job.stats.last_duration_ms = MillisecondsSince(begun);
  if (!status.ok()) {
    ++job.stats.failure_count;
    job.stats.last_error = status.ToString();
  }
  if (by_timer && generation == generation_) ScheduleJob(job, job.interval);
  job_ended_.NotifyAll();
}

// In the pool, after a page turn. When the log has grown by what is worth collecting, the timer may
// be late.
void Coordinator::LookForGarbage() {
  const auto is_early = [this] {
    return core_.log.tail().value() < gc_look_at_.load(std::memory_order_relaxed);  // a hint
  };
  if (is_early()) return;
  std::uint64_t generation = 0;
  Job* job = nullptr;
  {
    MutexLock lock(background_mu_);
    if (!background_on_ || !gc_job_.stats.enabled || job_runs_) return;
    generation = generation_;
    job = &gc_job_;
  }
  try {
    core_.pool.Post([this, is_early, generation, job] {
      if (!is_early()) RunJob(*job, generation, /*by_timer=*/false);
    });
  } catch (const std::bad_alloc&) {  // the timer will come
  }
}

// ---- garbage ----

absl::StatusOr<GcStats> Coordinator::CollectGarbage(const GcOptions& options) {
  return Collect(options, Pace::kFree);
}

absl::StatusOr<GcStats> Coordinator::Collect(const GcOptions& options, Pace pace) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  if (core_.epochs.closed()) return core_.ClosedError();
  MutexLock lock(job_mu_);
  if (closing_.load(std::memory_order_relaxed)) return core_.ClosedError();  // under job_mu_
  return CollectLocked(options, pace);
}

absl::StatusOr<GcStats> Coordinator::CollectLocked(const GcOptions& options, Pace pace) {
  const Clock::time_point begun = Clock::now();
  GcStats stats;
  stats.initial_begin_address = core_.log.begin().value();
  absl::Status status = core_.health.poisoned() ? core_.health.status() : absl::OkStatus();
  try {
    if (status.ok()) status = RunPasses(options, pace, stats);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("no memory to collect garbage");
  }
  core_.log.ReleaseBrake();
  if (!status.ok()) {
    // Not again at the next page turn: what failed may go on failing.
    gc_look_at_.store(core_.log.tail().value() + options.min_reclaim_bytes,
                      std::memory_order_relaxed);  // a hint
    return status;
  }
  stats.new_begin_address = core_.log.begin().value();
  stats.duration_ms = MillisecondsSince(begun);
  return stats;
}

absl::StatusOr<GcEstimate> Coordinator::EstimateGarbage() {
  if (core_.epochs.closed()) return core_.ClosedError();
  MutexLock lock(job_mu_);
  if (closing_.load(std::memory_order_relaxed)) return core_.ClosedError();  // under job_mu_
  return internal::EstimateGarbage(core_, *job_slot_);
}

absl::StatusOr<bool> Coordinator::ShouldCollect(const GcOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  absl::StatusOr<GcEstimate> estimate = EstimateGarbage();
  if (!estimate.ok()) return estimate.status();
  return IsDue(options, *estimate);
}

absl::Status Coordinator::RunPasses(const GcOptions& options, Pace pace, GcStats& stats) {
  const Clock::time_point begun = Clock::now();
  const Address end = core_.log.tail();
  bool stopped = false;
  const auto is_told_to_stop = [this] {
    return core_.epochs.closed() ||
           stop_jobs_.load(std::memory_order_relaxed);  // a chunk later is soon enough
  };
  bool frozen = false;
  while (!stopped && core_.log.begin() < end) {
    const GcEstimate estimate = internal::EstimateGarbage(core_, *job_slot_);
    if (!IsDue(options, estimate)) break;
    if (!frozen) core_.log.FreezeTo(end);
    frozen = true;
    const Address begin = core_.log.begin();
    const Address tail = core_.log.tail();
    const std::uint64_t scanned_before = stats.scanned_bytes;
    const auto stop = [&](const GcStats& now) {
      const std::uint64_t scanned = now.scanned_bytes - scanned_before;
      if (pace == Pace::kBraking) {
        core_.log.SetBrake(std::max(begin + DueBytes(options, estimate), tail + scanned / 4));
      }
      stopped = is_told_to_stop() || (options.progress && !options.progress(now));
      while (!stopped && IsAhead(options, now, begun)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        stopped = is_told_to_stop();
      }
      return stopped;
    };
    // What is young is mostly live: it is left for later, unless all is asked for.
    const std::uint64_t pass_bytes =
        options.target_utilization >= 1
            ? options.pass_bytes
            : std::min(options.pass_bytes, std::max(estimate.log_bytes / 2, kBlockBytes));
    absl::StatusOr<Address> until = Compaction(core_, *job_slot_, stats).Run(end, pass_bytes, stop);
    if (!until.ok()) return until.status();
    if (*until == begin) break;
    if (absl::Status status = MoveBegin(*until, stats); !status.ok()) return status;
    ++stats.pass_count;
    if (pace == Pace::kOnePass) break;
  }
  LookLater(options);
  return GiveBack(stats);  // also what a scan has held up
}

// Live bytes change slowly, so the log will be due when it has grown to what they allow.
void Coordinator::LookLater(const GcOptions& options) {
  const GcEstimate now = internal::EstimateGarbage(core_, *job_slot_);
  const std::uint64_t at = DueBytes(options, now);
  const std::uint64_t growth = at > now.log_bytes ? at - now.log_bytes : 0;
  gc_look_at_.store(core_.log.tail().value() + std::max(growth, options.min_reclaim_bytes / 4),
                    std::memory_order_relaxed);  // a hint
}

absl::Status Coordinator::MoveBegin(Address begin, GcStats& stats) {
  {
    MutexLock lock(mu_);
    if (stopped_) return core_.ClosedError();
    next_begin_ = std::max(next_begin_, begin);  // one whose commit has failed may be there
  }
  bool checkpoint = false;
  {
    MutexLock lock(list_mu_);
    checkpoint = !checkpoints_.empty() && checkpoints_.back().scan_address < begin.value();
  }
  absl::Status status = checkpoint ? WriteCheckpoint() : commits_.Join();
  if (status.ok()) status = core_.log.ShiftBegin(begin);
  if (!status.ok()) return status;
  {
    MutexLock lock(list_mu_);
    std::erase_if(checkpoints_, [begin](const CheckpointInfo& info) {
      return info.scan_address < begin.value();
    });
  }
  if (checkpoint) status = CleanUpLocked(core_.config.checkpoints_kept).status();
  if (status.ok()) status = GiveBack(stats);
  return status;
}

// Also what an earlier collection could not give back because a scan still read there.
absl::Status Coordinator::GiveBack(GcStats& stats) {
  const Address limit = core_.pins.Limit(core_.log.begin());
  absl::StatusOr<std::uint64_t> freed =
      core_.files.device->TruncateFront(core_.log.geometry().FrontBlock(limit));
  if (!freed.ok()) return freed.status();
  stats.freed_bytes += *freed;
  // An entry that leads below begin is one without a record, so there is no haste: a sweep of the
  // index waits until the log has given back as many bytes as it looks at.
  if (limit.value() < swept_.value() + core_.index.memory_bytes()) return absl::OkStatus();
  for (std::uint64_t bucket = 0; bucket < core_.index.bucket_count(); ++bucket) {
    stats.removed_entries += core_.index.SweepBucket(bucket, limit);
  }
  swept_ = limit;
  return absl::OkStatus();
}

// ---- growth ----

absl::Status Coordinator::GrowIndex() {
  if (core_.epochs.closed()) return core_.ClosedError();
  MutexLock lock(job_mu_);
  // Set before the index is left half-way, which is when nobody reads it any more. A checkpoint may
  // still wait for job_mu_, but it stops before it reads a bucket.
  const auto stop = [this] {
    return closing_.load(std::memory_order_relaxed);  // a chunk later is soon enough
  };
  return stop() ? core_.ClosedError() : internal::GrowIndex(core_, stop);
}

// In an operation, under its guard. One that fails is not tried again before the next opening.
void Coordinator::AskForGrowth() {
  if (growth_asked_.exchange(true, std::memory_order_relaxed)) return;  // whoever is first posts it
  try {
    core_.pool.Post([this] {
      while (core_.index.crowded()) {
        if (!GrowIndex().ok()) return;
      }
      growth_asked_.store(false, std::memory_order_relaxed);  // the next bucket taken asks again
    });
  } catch (const std::bad_alloc&) {
    growth_asked_.store(false, std::memory_order_relaxed);  // the same
  }
}

// ---- closing ----

absl::Status Coordinator::Close() {
  if (!core_.in_opening_process()) return core_.ClosedError();
  MutexLock lock(close_mu_);
  return closed_ ? close_status_ : CloseLocked();
}

absl::Status Coordinator::CloseLocked() {
  // While operations can go on: a pass of what is due, unless another job is at work. Without it
  // nothing is lost, only space, so nobody needs to hear of a failure.
  if (core_.has_files() && core_.config.gc_interval_ms != 0 && job_mu_.TryLock()) {
    static_cast<void>(CollectLocked(core_.config.gc, Pace::kOnePass));
    job_mu_.Unlock();
  }
  ShutOut();
  absl::Status status;
  if (core_.has_files()) {
    try {
      // Without it nothing is lost, only the next opening is longer.
      if (core_.config.checkpoint_interval_ms != 0) static_cast<void>(RunCheckpoint());
      MutexLock lock(mu_);
      status = CommitLocked(nullptr);
      // The mark commits the next version, in which nothing has happened.
      if (status.ok() && changed_since_open_) status = WriteControl(version_++, true);
    } catch (const std::bad_alloc&) {
      status = absl::ResourceExhaustedError("no memory to close the store");
    }
  }
  if (!status.ok() && !core_.health.poisoned()) return status;  // may be tried again
  status.Update(LetGo());
  close_status_ = status;
  return status;
}

void Coordinator::ShutOut() {
  const std::uint64_t epoch = core_.epochs.BumpClosed();
  Backoff backoff;
  while (!core_.epochs.Drained(epoch) || !core_.epochs.NoSlowCalls()) backoff.Wait();
}

absl::Status Coordinator::LetGo() {
  closing_.store(true, std::memory_order_relaxed);  // see WriteCheckpoint
  {
    MutexLock lock(mu_);  // a commit of the pool may still run
    stopped_ = true;
  }
  core_.log.StopMaintenance();
  core_.pool.Stop();
  MutexLock job_lock(job_mu_);  // a job of a user's thread may still run
  absl::Status status = core_.files.device->Close();
  if (core_.files.directory != nullptr) core_.files.directory->Unlock();
  core_.files = {};
  core_.log.ReleaseMemory();
  closed_ = true;
  return status;
}

}  // namespace ebb::internal
