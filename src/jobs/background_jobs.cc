#include "ebb/internal/jobs/background_jobs.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"

namespace ebb::internal {

using std::chrono::milliseconds;

// ---- one job ----

BackgroundJob::BackgroundJob(Core& core, JobLane& lane, milliseconds interval, Work work)
    : core_(core),
      interval_(interval),
      work_(std::move(work)),
      turn_(lane, [this](LaneTurn& turn) { Run(turn); }),
      timer_(core.pool, [this] { TimeHasCome(); }) {}

void BackgroundJob::Start() {
  MutexLock lock(mu_);
  stats_.enabled = interval_.count() != 0 && core_.has_files();
  if (is_on_ || !stats_.enabled) return;
  is_on_ = true;
  SetTimer();
}

void BackgroundJob::Stop() {
  {
    MutexLock lock(mu_);
    is_on_ = is_due_ = is_left_ = false;
    stats_.next_due_unix_ms = 0;
  }
  // A run checks this once per chunk; Cancel waits for its end.
  is_stopping_.store(true, std::memory_order_relaxed);  // seen a chunk later
  timer_.Cancel();
  turn_.Cancel();
  is_stopping_.store(false, std::memory_order_relaxed);  // for the run after the next Start
}

// Called by page turns, commits and rejected updates. Only posts a turn.
void BackgroundJob::Look() {
  if (!work_.is_worth_a_look || !work_.is_worth_a_look()) return;
  {
    MutexLock lock(mu_);
    if (!is_on_ || is_running_) return;
  }
  turn_.Post();
}

BackgroundJobStats BackgroundJob::Stats() const {
  MutexLock lock(mu_);
  BackgroundJobStats stats = stats_;
  if (!error_.ok()) stats.last_error = TextOf(error_);  // as much as there is memory for
  return stats;
}

bool BackgroundJob::is_running() const {
  MutexLock lock(mu_);
  return is_running_;
}

// Sets the timer. If it is set already, it stays as it is.
void BackgroundJob::SetTimer() {
  timer_.PostAfter(interval_);
  stats_.next_due_unix_ms = UnixMs() + static_cast<std::uint64_t>(interval_.count());
}

void BackgroundJob::TimeHasCome() {
  {
    MutexLock lock(mu_);
    if (!is_on_) return;
    is_due_ = true;
  }
  // Walk of a Checkpoint, 1: the job waits for its turn without occupying a thread of the pool.
  turn_.Post();
}

// Returns false if the job must not run, or no longer. Checked again in the turn: the reason may
// have gone while it waited.
bool BackgroundJob::Begin() {
  const bool is_worth_a_look = work_.is_worth_a_look && work_.is_worth_a_look();
  MutexLock lock(mu_);
  if (!is_on_ || core_.health.poisoned()) return false;
  if (!is_due_ && !is_left_ && !is_worth_a_look) return false;
  // A run that left the lane and returns continues the same run, so its time is not measured again.
  if (!is_left_) {
    begun_ = Clock::now();
    stats_.last_begun_unix_ms = UnixMs();
  }
  is_due_ = is_left_ = false;
  is_running_ = true;
  return true;
}

// Runs the job in its turn. If it fails, it runs again at its next interval, and its statistics
// report the failure.
void BackgroundJob::Run(LaneTurn& turn) {
  if (!Begin()) return;
  // In a destructor, so that no exception ends the series of runs.
  const absl::Cleanup end = [this] {
    MutexLock lock(mu_);
    is_running_ = false;
    if (!is_on_) return;
    // It has left the lane for other jobs: queue up again after them.
    if (is_left_) {
      turn_.Post();
    } else {
      SetTimer();
    }
  };
  const auto is_stopping = [this] {
    return is_stopping_.load(std::memory_order_relaxed);  // a little later is soon enough
  };
  try {
    Note(CatchNoMemory([&] { return work_.run(turn, is_stopping); }));
  } catch (...) {  // thrown by a callback
    Note(absl::Status(absl::StatusCode::kUnknown, ""));
  }
}

void BackgroundJob::Note(const absl::StatusOr<Work::Outcome>& outcome) {
  MutexLock lock(mu_);
  is_left_ = outcome.ok() && *outcome == Work::Outcome::kLater;
  if (is_left_) return;
  ++stats_.run_count;
  stats_.last_duration_ms = MillisecondsSince(begun_);
  if (outcome.ok()) return;
  ++stats_.failure_count;
  error_ = outcome.status();
}

// ---- both ----

BackgroundJobs::BackgroundJobs(Core& core, JobLane& lane, BackgroundJob::Work checkpoint,
                               BackgroundJob::Work collect)
    : checkpoint_(core, lane, milliseconds(core.config.checkpoint_interval_ms),
                  std::move(checkpoint)),
      collection_(core, lane, milliseconds(core.config.gc_interval_ms), std::move(collect)) {
  if (core.has_files()) core.log.OnGarbage([this] { LookForGarbage(); });
}

void BackgroundJobs::Start() {
  MutexLock lock(control_mu_);
  is_on_.store(true, std::memory_order_relaxed);  // statistics
  checkpoint_.Start();
  collection_.Start();
}

void BackgroundJobs::Stop() {
  MutexLock lock(control_mu_);
  is_on_.store(false, std::memory_order_relaxed);  // statistics
  collection_.Stop();
  checkpoint_.Stop();
}

BackgroundStats BackgroundJobs::Stats() const {
  return {.running = is_on_.load(std::memory_order_relaxed),  // statistics
          .active = checkpoint_.is_running() || collection_.is_running(),
          .checkpoint = checkpoint_.Stats(),
          .gc = collection_.Stats()};
}

}  // namespace ebb::internal
