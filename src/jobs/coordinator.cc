#include "ebb/internal/jobs/coordinator.h"

#include <chrono>
#include <cstdio>
#include <exception>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/backoff.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/jobs/log_verifier.h"
#include "ebb/internal/ops/pending_operations.h"

namespace ebb::internal {

Coordinator::Coordinator(Core& core, OpenedState start)
    : core_(core),
      slot_(core.epochs),
      lane_(core.pool),
      committer_(core, std::move(start.commits)),
      checkpointer_(core, lane_, committer_, start.commits.checkpoint_id,
                    std::move(start.checkpoints)),
      collector_(core, *slot_, committer_, checkpointer_),
      grower_(core, lane_, committer_, collector_),
      commit_timer_(core.commit_pool(), [this] { CommitInTime(); }),
      background_(core, lane_,
                  {.run = [this](LaneTurn& turn, const BackgroundJob::IsStopping&)
                       -> absl::StatusOr<BackgroundJob::Work::Outcome> {
                    absl::Status status = checkpointer_.Update(turn);
                    if (!status.ok()) return status;
                    return BackgroundJob::Work::Outcome::kDone;
                  }},
                  {.run =
                       [this](LaneTurn& turn, const BackgroundJob::IsStopping& is_stopping) {
                         return CollectInTurn(turn, is_stopping);
                       },
                   .is_worth_a_look =
                       [this] {
                         return collector_.worth_a_look() ||
                                core_.log.begin() < committer_.DurableBegin();
                       }}) {
  // With kAlways every update must wait for a commit, and a read-only store accepts none, so
  // neither has a fast path that updates in place.
  if (core_.config.durability == Durability::kAlways || core_.config.read_only) {
    core_.log.BlockUpdates();
  }
  if (!core_.has_files()) return;
  if (core_.config.durability == Durability::kPeriodic) ScheduleCommit();
  background_.Start();
}

Coordinator::~Coordinator() {
  MutexLock lock(close_mu_);
  if (close_status_.has_value()) return;
  // Opening failed after the coordinator existed, or the last Close failed: nothing is committed
  // here.
  DrainOperations();
  static_cast<void>(ReleaseResources());  // there is no caller to report to
}

template <typename Job>
auto Coordinator::InTurn(const Job& job) -> decltype(job(std::declval<LaneTurn&>())) {
  // Before any mutex: in a forked child no thread may be left to unlock it.
  if (absl::Status status = core_.CheckOpen(); !status.ok()) return status;
  LaneTurn turn(lane_);
  if (absl::Status status = core_.CheckOpen(); !status.ok()) return status;  // closed by now
  return CatchNoMemory([&] { return job(turn); });
}

// ---- commits and checkpoints ----

absl::Status Coordinator::Commit() {
  absl::Status status = core_.CheckOpen();
  return status.ok() ? core_.commits->Join() : status;
}

void Coordinator::ScheduleCommit() {
  commit_timer_.PostAfter(std::chrono::milliseconds(core_.config.commit_interval_ms));
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

absl::StatusOr<CheckpointInfo> Coordinator::Checkpoint() {
  if (absl::Status status = core_.CheckOpen(); !status.ok()) return status;
  return checkpointer_.Checkpoint();
}

absl::StatusOr<std::uint64_t> Coordinator::CleanUpCheckpoints(std::uint64_t kept) {
  if (kept == 0) {
    return absl::InvalidArgumentError(
        "kept is 0: it must be at least 1, because the newest checkpoint is never removed");
  }
  return InTurn([&](LaneTurn& turn) -> absl::StatusOr<std::uint64_t> {
    if (absl::Status status = core_.CheckWritable(); !status.ok()) return status;
    return checkpointer_.CleanUp(turn, kept);
  });
}

absl::StatusOr<BackupInfo> Coordinator::Backup(
    const std::string& path, const std::function<void(const BackupProgress&)>& progress) {
  return InTurn([&](LaneTurn& turn) { return checkpointer_.Backup(turn, path, progress); });
}

absl::StatusOr<VerifyReport> Coordinator::Verify(const VerifyOptions& options) {
  return InTurn([&](LaneTurn&) -> absl::StatusOr<VerifyReport> {
    // A growth may have stopped in the middle.
    if (core_.epochs.broken()) return core_.health.status();
    LogVerifier verifier(core_, options, [this] { return core_.epochs.closed(); });
    absl::StatusOr<VerifyReport> report = verifier.Run(checkpointer_.List());
    if (!report.ok() || !core_.has_files()) return report;
    const absl::StatusOr<FoundDurableEnd> end = committer_.ReadEnd();
    if (!end.ok()) return end.status();
    if (!end->problem.empty()) AddProblem(options, end->problem, *report);
    return report;
  });
}

// ---- garbage ----

absl::StatusOr<GcStats> Coordinator::CollectGarbage(const GcOptions& options,
                                                    GarbageCollector::Pace pace) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  return InTurn([&](LaneTurn& turn) {
    GarbageCollector::Call call{.turn = turn,
                                .pace = pace,
                                .is_stopping = [this] { return core_.epochs.closed(); },
                                .others_wait = [this] { return lane_.HasWaiters(); }};
    // A user's thread leaves the lane between two passes and queues up again, so that a long
    // collection does not delay a checkpoint.
    call.give_way = [&] {
      turn.GiveWay();
      return core_.CheckOpen();
    };
    return collector_.Collect(options, call);
  });
}

absl::StatusOr<BackgroundJob::Work::Outcome> Coordinator::CollectInTurn(
    LaneTurn& turn, const BackgroundJob::IsStopping& is_stopping) {
  GarbageCollector::Call call{
      .turn = turn,
      .pace = GarbageCollector::Pace::kAutomatic,
      .is_stopping = [this, &is_stopping] { return core_.epochs.closed() || is_stopping(); },
      .others_wait = [this] { return lane_.HasWaiters(); }};
  if (absl::Status status = core_.CheckOpen(); !status.ok()) return status;
  // Entries of deleted keys count too: the index must not grow because of them
  // (garbage_collector.h).
  if (collector_.entries_are_due()) {
    absl::Status status = collector_.FreeEntries(turn, core_.config.gc, call.is_stopping);
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
  GarbageCollector::Call call{.turn = turn,
                              .pace = GarbageCollector::Pace::kOnePass,
                              .is_stopping = [this] { return core_.epochs.closed(); }};
  GcOptions options = core_.config.gc;
  options.max_bytes_per_second = 0;  // otherwise Close would be as slow as that rate
  CatchNoMemory([&] { return collector_.Collect(options, call).status(); }).IgnoreError();
}

absl::StatusOr<GcEstimate> Coordinator::EstimateGarbage() {
  return InTurn([this](LaneTurn&) -> absl::StatusOr<GcEstimate> { return collector_.Estimate(); });
}

absl::StatusOr<bool> Coordinator::ShouldCollect(const GcOptions& options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  return InTurn([&](LaneTurn&) -> absl::StatusOr<bool> { return collector_.IsDue(options); });
}

absl::Status Coordinator::GrowIndex() {
  return InTurn([this](LaneTurn& turn) {
    absl::Status status = core_.CheckWritable();
    return status.ok() ? grower_.Grow(turn) : status;
  });
}

// ---- closing ----

absl::Status Coordinator::Close() {
  if (!core_.in_opening_process()) return core_.ClosedError();
  MutexLock lock(close_mu_);
  return close_status_.has_value() ? *close_status_ : CloseLocked();
}

void Coordinator::CloseAtEnd() {
  const auto report = [this](const char* exception) {
    std::fprintf(stderr,
                 "ebb: a callback threw while a destructor closed the store %s: %s; call Close "
                 "before, which throws the exception to its caller\n",
                 core_.name(), exception);
  };
  std::optional<absl::Status> status;
  try {
    status = Close();
  } catch (const std::exception& error) {
    report(error.what());
  } catch (...) {
    report("not a std::exception");
  }
  if (!status.has_value()) status = Close();
  if (status->ok()) return;
  std::fprintf(stderr,
               "ebb: a destructor could not close the store %s: %s; updates after its last commit "
               "may be lost; call Close before, to handle its errors\n",
               core_.name(), TextOf(*status).c_str());
}

absl::Status Coordinator::CloseLocked() {
  CollectBeforeClosing();  // while operations can continue
  DrainOperations();
  AbandonPending(core_);
  absl::Status status;
  if (core_.has_files() && !core_.config.read_only) {
    status = CatchNoMemory([this] {
      // Walk of a Close, 2. If it fails nothing is lost; only the next opening takes longer.
      if (core_.config.checkpoint_interval_ms != 0) {
        checkpointer_.Update(LaneTurn(lane_)).IgnoreError();
      }
      // Walk of a Close, 2 to 4.
      return committer_.CommitExactly(nullptr);
    });
  }
  if (!status.ok() && !core_.health.poisoned()) return status;  // may be tried again
  status.Update(ReleaseResources());
  close_status_ = status;
  return status;
}

void Coordinator::DrainOperations() {
  // If the drain fails, a guard may be left that reads memory, see ReleaseResources. Slow calls end
  // in any case.
  static_cast<void>(core_.log.WaitForDrain(core_.epochs.BumpClosed()));
  // Their number is counted without a barrier, so this wait ends even in a store whose barriers
  // fail.
  Backoff backoff;
  while (!core_.epochs.NoSlowCalls()) backoff.Wait();
}

absl::Status Coordinator::ReleaseResources() {
  // Walk of a Close, 5. Jobs check this in their turn and end, and a commit returns ClosedError.
  committer_.Stop();
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
  return status;
}

}  // namespace ebb::internal
