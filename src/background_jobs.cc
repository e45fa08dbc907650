#include "ebb/internal/background_jobs.h"

#include <new>
#include <utility>

#include "ebb/internal/clock.h"

namespace ebb::internal {
namespace {

using std::chrono::milliseconds;

}  // namespace

BackgroundJobs::BackgroundJobs(Core& core, Work work)
    : core_(core), is_worth_a_look_(std::move(work.is_worth_a_look)) {
  checkpoint_.run = std::move(work.checkpoint);
  checkpoint_.interval = milliseconds(core.config.checkpoint_interval_ms);
  collection_.run = std::move(work.collect);
  collection_.interval = milliseconds(core.config.gc_interval_ms);
  if (core.has_files()) core.log.OnPageTurn([this] { LookForGarbage(); });
}

void BackgroundJobs::Start() {
  MutexLock lock(mu_);
  if (on_) return;
  on_ = true;
  stopping_.store(false, std::memory_order_relaxed);  // mu_ held
  for (Job* const job : {&checkpoint_, &collection_}) {
    job->stats.enabled = job->interval.count() != 0 && core_.has_files();
    if (job->stats.enabled) Schedule(*job, job->interval);
  }
}

void BackgroundJobs::Stop() {
  MutexLock lock(mu_);
  on_ = false;
  ++generation_;
  checkpoint_.stats.next_due_unix_ms = collection_.stats.next_due_unix_ms = 0;
  stopping_.store(true, std::memory_order_relaxed);  // seen a chunk later
  while (job_runs_) job_ended_.Wait(mu_);
  stopping_.store(false, std::memory_order_relaxed);  // for those of users
}

BackgroundStats BackgroundJobs::Stats() const {
  MutexLock lock(mu_);
  return {.running = on_,
          .active = job_runs_,
          .checkpoint = checkpoint_.stats,
          .gc = collection_.stats};
}

void BackgroundJobs::Schedule(Job& job, milliseconds delay) {
  job.stats.next_due_unix_ms = UnixMs() + static_cast<std::uint64_t>(delay.count());
  core_.pool.PostAfter(
      delay, [this, &job, generation = generation_] { Run(job, generation, /*by_timer=*/true); });
}

// A job that fails is tried again at its next interval; its statistics tell of it.
void BackgroundJobs::Run(Job& job, std::uint64_t generation, bool by_timer) {
  constexpr milliseconds kWhileAnotherRuns{20};
  {
    MutexLock lock(mu_);
    if (generation != generation_ || core_.health.poisoned()) return;
    if (job_runs_) {
      if (by_timer) Schedule(job, kWhileAnotherRuns);
      return;
    }
    job_runs_ = true;
    job.stats.last_begun_unix_ms = UnixMs();
  }
  const auto begun = std::chrono::steady_clock::now();
  const absl::Status status = job.run();
  MutexLock lock(mu_);
  job_runs_ = false;
  ++job.stats.run_count;
  job.stats.last_duration_ms = MillisecondsSince(begun);
  if (!status.ok()) {
    ++job.stats.failure_count;
    job.stats.last_error = status.ToString();
  }
  if (by_timer && generation == generation_) Schedule(job, job.interval);
  job_ended_.NotifyAll();
}

// When the log has grown by what is worth collecting, or a commit lets space be given back, the
// timer may be late.
void BackgroundJobs::LookForGarbage() {
  if (!is_worth_a_look_()) return;
  std::uint64_t generation = 0;
  Job* job = nullptr;
  {
    MutexLock lock(mu_);
    if (!on_ || !collection_.stats.enabled || job_runs_) return;
    generation = generation_;
    job = &collection_;
  }
  try {
    core_.pool.Post([this, generation, job] {
      if (is_worth_a_look_()) Run(*job, generation, /*by_timer=*/false);
    });
  } catch (const std::bad_alloc&) {  // the timer will come
  }
}

}  // namespace ebb::internal
