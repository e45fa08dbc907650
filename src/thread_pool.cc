#include "ebb/internal/thread_pool.h"

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
  wake_.notify_one();
}

bool ThreadPool::RunOne() {
  std::function<void()> job;
  {
    MutexLock lock(mu_);
    if (jobs_.empty()) return false;
    job = std::move(jobs_.front());
    jobs_.pop_front();
  }
  job();
  return true;
}

void ThreadPool::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    jobs_.clear();
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

// The analysis does not follow std::unique_lock.
void ThreadPool::Work() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mu_.native());
      wake_.wait(lock,
                 [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace ebb::internal
