// BackgroundJobs: the automatic checkpoints and collections, each at its interval. A collection
// also runs when the log has grown by enough, or when a periodic commit allows space to be freed.
//
// A job is a timer and a place in the lane (job_lane.h), both of which exist from the start. While
// the jobs are on, each has its timer set, or waits for its turn, or runs. The timer posts it to
// the lane. The end of each run, whatever the run threw, sets the timer again or posts the job
// again. So a lack of memory cannot end a recurring job; only Stop and a poisoned store do.
//
// Each job has its own flag by which Stop ends it early. Jobs that users have called continue.
//
// Thread safety: any thread may call all methods, except one in a turn of the lane. Progress: Stop
// waits for running jobs; Start waits for a Stop; the others hold a mutex briefly.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/jobs/job_lane.h"
#include "ebb/stats.h"

namespace ebb::internal {

class BackgroundJob {
 public:
  using IsStopping = std::function<bool()>;
  struct Work {
    // Called by the pool in a turn of the lane. It must end soon once IsStopping returns true.
    // kLater: it has left its turn to others and is to be called again after them.
    enum class Outcome : std::uint8_t { kDone, kLater };
    std::function<absl::StatusOr<Outcome>(LaneTurn&, const IsStopping&)> run;
    // Returns whether there may be something to do before the timer expires; empty: never.
    std::function<bool()> is_worth_a_look = {};
  };

  // Interval 0: never on. Nothing runs before Start.
  BackgroundJob(Core& core, JobLane& lane, std::chrono::milliseconds interval, Work work);
  void Start();
  // Returns when it is not running any more. One call of Start or Stop at a time.
  void Stop();
  // Makes the job run soon if it is on, is not running, and there may be something to do.
  void Look();

  BackgroundJobStats Stats() const;
  bool is_running() const;

 private:
  void SetTimer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TimeHasCome();
  void Run(LaneTurn& turn);
  bool Begin();
  void Note(const absl::StatusOr<Work::Outcome>& outcome);

  Core& core_;
  const std::chrono::milliseconds interval_;
  const Work work_;
  Atomic<bool> is_stopping_{false};
  mutable Mutex mu_;
  BackgroundJobStats stats_ ABSL_GUARDED_BY(mu_);  // except the text of the error
  absl::Status error_ ABSL_GUARDED_BY(mu_);        // of the last run that failed
  bool is_on_ ABSL_GUARDED_BY(mu_) = false;
  bool is_running_ ABSL_GUARDED_BY(mu_) = false;
  bool is_due_ ABSL_GUARDED_BY(mu_) = false;   // by the timer, since the last run
  bool is_left_ ABSL_GUARDED_BY(mu_) = false;  // the last run is to be continued
  Clock::time_point begun_;                    // of the run; used by the running thread
  LaneJob turn_;                               // these are last: they use the others
  PoolJob timer_;
};

class BackgroundJobs {
 public:
  // Sets HybridLog::OnGarbage, if there are files. The pool must be stopped before this ends.
  BackgroundJobs(Core& core, JobLane& lane, BackgroundJob::Work checkpoint,
                 BackgroundJob::Work collect);
  BackgroundJobs(const BackgroundJobs&) = delete;
  BackgroundJobs& operator=(const BackgroundJobs&) = delete;

  void Start();
  // Returns when no job is running any more.
  void Stop();
  BackgroundStats Stats() const;
  // Requests a collection by the pool if there may be something to collect or to free. Called at
  // each page turn, after each periodic commit, and when an update is rejected for lack of space.
  // Never waits for a job.
  void LookForGarbage() { collection_.Look(); }

 private:
  Mutex control_mu_;  // one Start or Stop at a time; the pool's threads do not acquire it
  Atomic<bool> is_on_{false};
  BackgroundJob checkpoint_;
  BackgroundJob collection_;
};

}  // namespace ebb::internal
