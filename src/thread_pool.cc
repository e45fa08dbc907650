#include "ebb/internal/thread_pool.h"

#include <new>
#include <utility>

namespace ebb::internal {

ThreadPool::ThreadPool(unsigned thread_count) {
  threads_.reserve(thread_count);
  for (unsigned i = 0; i < thread_count; ++i) threads_.emplace_back([this] { Work(); });
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Post(std::function<void()> job) {
  {
    MutexLock lock(mu_);
    if (stopping_) return;
    jobs_.push_back(std::move(job));
  }
  wake_.NotifyOne();
}

void ThreadPool::PostAfter(std::chrono::milliseconds delay, std::function<void()> job) {
  {
    MutexLock lock(mu_);
    if (stopping_) return;
    later_.emplace(Clock::now() + delay, std::move(job));
  }
  wake_.NotifyOne();
}

std::function<void()> ThreadPool::TakeJob() {
  while (!later_.empty() && later_.begin()->first <= Clock::now()) {
    jobs_.push_back(std::move(later_.begin()->second));
    later_.erase(later_.begin());
  }
  if (jobs_.empty()) return {};
  std::function<void()> job = std::move(jobs_.front());
  jobs_.pop_front();
  if (!jobs_.empty()) wake_.NotifyOne();  // several may have become due at once
  return job;
}

bool ThreadPool::RunOne() {
  std::function<void()> job;
  {
    MutexLock lock(mu_);
    job = TakeJob();
  }
  if (!job) return false;
  job();
  return true;
}

void ThreadPool::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    jobs_.clear();
    later_.clear();
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void ThreadPool::Work() {
  for (;;) {
    std::function<void()> job;
    {
      MutexLock lock(mu_);
      while (!stopping_ && !(job = TakeJob())) {
        if (later_.empty()) {
          wake_.Wait(mu_);
        } else {
          wake_.WaitUntil(mu_, later_.begin()->first);
        }
      }
      if (stopping_) return;
    }
    // A job that runs out of memory ends there. Whoever needs its effect does the same and is told.
    try {
      job();
    } catch (const std::bad_alloc&) {
      continue;
    }
  }
}

}  // namespace ebb::internal
