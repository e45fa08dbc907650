// ThreadPool: the few threads that work beside the callers, at once or at a time to come.
//
// Nobody waits for it: whoever needs a job's effect does the same step itself. A pool of 0
// threads runs nothing until RunOne is called, which is how tests script it.
//
// Thread safety: all methods, any thread; Stop is idempotent. Progress: Post takes a mutex for a
// moment; Stop waits for the job that runs and drops the ones that wait.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "ebb/internal/mutex.h"

namespace ebb::internal {

class ThreadPool {
 public:
  explicit ThreadPool(unsigned thread_count);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Post(std::function<void()> job);
  // The same, not before `delay` has passed.
  void PostAfter(std::chrono::milliseconds delay, std::function<void()> job);
  // Runs the oldest waiting job that is due, in the calling thread; false when there is none.
  bool RunOne();
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;
  void Work();
  // An empty function when no job is due.
  std::function<void()> TakeJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  CondVar wake_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mu_);
  std::multimap<Clock::time_point, std::function<void()>> later_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace ebb::internal
