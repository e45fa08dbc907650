// BackgroundJobs: the checkpoints and collections that come by themselves, each at its interval, a
// collection also when the log has grown by enough, or a periodic commit lets space be given back.
// At most one of them is at work at a time, so they take one thread of the pool.
//
// Thread safety: all methods, any thread. Progress: Stop waits for the job at work, which is told
// to end soon; the others take a mutex for a moment.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "ebb/internal/core.h"
#include "ebb/internal/mutex.h"
#include "ebb/stats.h"

namespace ebb::internal {

class BackgroundJobs {
 public:
  struct Work {
    std::function<absl::Status()> checkpoint;
    std::function<absl::Status()> collect;
    // Whether there may be something to collect or to give back.
    std::function<bool()> is_worth_a_look;
  };

  // Nothing comes before Start. `work` is called by the pool, which must be stopped before this
  // ends. Sets HybridLog::OnPageTurn.
  BackgroundJobs(Core& core, Work work);
  BackgroundJobs(const BackgroundJobs&) = delete;
  BackgroundJobs& operator=(const BackgroundJobs&) = delete;

  void Start();
  // Returns when no job is at work any more.
  void Stop();
  BackgroundStats Stats() const;
  // Has the pool collect if there may be something to collect or to give back. Called at each turn
  // of a page, and after each periodic commit. Never waits for a job.
  void LookForGarbage();
  // The job at work shall end soon.
  bool stopping() const {
    return stopping_.load(std::memory_order_relaxed);
  }  // a bit later will do

 private:
  struct Job {
    std::function<absl::Status()> run;
    std::chrono::milliseconds interval{0};
    BackgroundJobStats stats;
  };
  void Schedule(Job& job, std::chrono::milliseconds delay) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(Job& job, std::uint64_t generation, bool by_timer);

  Core& core_;
  const std::function<bool()> is_worth_a_look_;
  mutable Mutex mu_;
  CondVar job_ended_;
  Job checkpoint_ ABSL_GUARDED_BY(mu_);
  Job collection_ ABSL_GUARDED_BY(mu_);
  bool on_ ABSL_GUARDED_BY(mu_) = false;
  bool job_runs_ ABSL_GUARDED_BY(mu_) = false;
  // Jobs of an earlier one are not run any more.
  std::uint64_t generation_ ABSL_GUARDED_BY(mu_) = 0;
  Atomic<bool> stopping_{false};
};

}  // namespace ebb::internal
