// ThreadPool: a few threads that work concurrently with the callers, at once or at a later time.
//
//   PoolJob flush_(pool, [this] { Flush(); });          // a member of its owner
//   flush_.Post();                                      // runs once, soon
//   flush_.PostAfter(std::chrono::milliseconds(50));    // a timer
//
// No thread depends on the pool: a caller that needs the effect of a job does the same step itself.
// (JobLane is the exception; its header argues why that cannot deadlock.) A pool of 0 threads runs
// nothing until RunOne is called. Tests script it that way.
//
// Jobs are nodes that their owners hold. So posting never allocates and cannot fail, and a
// recurring job cannot be lost for lack of memory:
//   * At most one run of a job is pending. Posting it again keeps the earlier of the two times.
//   * A job never runs twice at the same time. A job that is posted while it runs, even by itself,
//     runs again afterwards, after the jobs that wait by then.
//   * A job that throws has ended, like one that returns: the thread continues, and a run that was
//     posted before the throw takes place. So a recurring job posts itself from a destructor
//     (absl::Cleanup) or before any call that may throw; its owner reports the failure.
//   * Cancel drops the pending run and waits for the current one. The destructor cancels, so a job
//     is never destroyed while the pool knows it. Neither may be called by the job itself, nor
//     under a lock that the job acquires. The pool outlives its jobs.
//
// A pool whose threads cannot all be started starts none: the constructor joins those that were
// started, start_error() is set, and the pool behaves as if it had been stopped.
//
// A forked child has none of the threads. It must not destroy the pool or a job.
//
// Thread safety: any thread may call all methods; Stop is idempotent. Progress: Post and PostAfter
// hold a mutex briefly and search the timers, of which there are few. Stop waits for running jobs
// and drops the waiting ones.
#pragma once

#include <chrono>
#include <functional>
#include <limits>
#include <system_error>
#include <vector>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/platform.h"

namespace ebb::internal {

class ThreadPool;

class PoolJob {
 public:
  // A `run` that captures up to two words allocates nothing.
  PoolJob(ThreadPool& pool, std::function<void()> run);
  ~PoolJob() { Cancel(); }
  PoolJob(const PoolJob&) = delete;
  PoolJob& operator=(const PoolJob&) = delete;

  void Post();
  // Does the same, but not before `delay` has passed.
  void PostAfter(std::chrono::milliseconds delay);
  void Cancel();

 private:
  friend class ThreadPool;
  ThreadPool& pool_;
  const std::function<void()> run_;
  // Guarded by the pool's mutex. `list_` is the list of the job; null: none.
  struct List {
    PoolJob* first = nullptr;
    PoolJob* last = nullptr;
    void InsertBefore(PoolJob* next, PoolJob& job);  // null: at the end
    void Remove(PoolJob& job);
  };
  List* list_ = nullptr;
  PoolJob* previous_ = nullptr;
  PoolJob* next_ = nullptr;
  Clock::time_point due_;  // of the pending run; the clock's minimum: at once
  bool is_running_ = false;
  bool runs_again_ = false;  // after the current run, at due_
};

class ThreadPool {
 public:
  // Starts at most `startable` threads: for tests of the failure to start one.
  explicit ThreadPool(unsigned thread_count,
                      unsigned startable = std::numeric_limits<unsigned>::max());
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned thread_count() const { return thread_count_; }
  // Returns why the thread after `started_count()` others could not be started; no error: all were.
  std::error_code start_error() const { return start_error_; }
  unsigned started_count() const { return started_count_; }

  // Runs the oldest waiting job that is due, in the calling thread. Returns false if there is none.
  bool RunOne();
  void Stop();

 private:
  friend class PoolJob;
  void Work();
  void PostAt(PoolJob& job, Clock::time_point due);
  void Cancel(PoolJob& job);
  void Link(PoolJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Null when no job is due.
  PoolJob* TakeJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Releases the mutex while the job runs.
  void Run(PoolJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  CondVar wake_;
  CondVar job_ended_;
  PoolJob::List ready_ ABSL_GUARDED_BY(mu_);  // first in, first out
  PoolJob::List later_ ABSL_GUARDED_BY(mu_);  // in order of their times
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  unsigned cancel_count_ ABSL_GUARDED_BY(mu_) = 0;  // threads that wait for a job's end
  const unsigned thread_count_;
  unsigned started_count_ = 0;
  std::error_code start_error_;
  std::vector<Thread> threads_;
};

}  // namespace ebb::internal
