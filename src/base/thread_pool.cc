#include "ebb/internal/base/thread_pool.h"

#include <algorithm>
#include <new>
#include <utility>

namespace ebb::internal {

// ---- jobs ----

PoolJob::PoolJob(ThreadPool& pool, std::function<void()> run) : pool_(pool), run_(std::move(run)) {}

void PoolJob::Post() { pool_.PostAt(*this, Clock::time_point::min()); }

void PoolJob::PostAfter(std::chrono::milliseconds delay) {
  pool_.PostAt(*this, Clock::now() + delay);
}

void PoolJob::Cancel() { pool_.Cancel(*this); }

void PoolJob::List::InsertBefore(PoolJob* next, PoolJob& job) {
  PoolJob* const previous = next == nullptr ? last : next->previous_;
  job.list_ = this;
  job.previous_ = previous;
  job.next_ = next;
  (previous == nullptr ? first : previous->next_) = &job;
  (next == nullptr ? last : next->previous_) = &job;
}

void PoolJob::List::Remove(PoolJob& job) {
  (job.previous_ == nullptr ? first : job.previous_->next_) = job.next_;
  (job.next_ == nullptr ? last : job.next_->previous_) = job.previous_;
  job.list_ = nullptr;
  job.previous_ = job.next_ = nullptr;
}

// ---- the pool ----

ThreadPool::ThreadPool(unsigned thread_count, unsigned startable) : thread_count_(thread_count) {
  threads_.reserve(thread_count);
  try {
    for (; started_count_ < thread_count; ++started_count_) {
      if (started_count_ == startable) {
        throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
      }
      threads_.emplace_back([this] { Work(); });
    }
  } catch (const std::system_error& error) {
    start_error_ = error.code();
  } catch (const std::bad_alloc&) {
    start_error_ = std::make_error_code(std::errc::not_enough_memory);
  }
  if (start_error_) Stop();
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::PostAt(PoolJob& job, Clock::time_point due) {
  {
    MutexLock lock(mu_);
    if (stopping_) return;
    const bool is_pending = job.list_ != nullptr || job.runs_again_;
    if (is_pending && job.due_ <= due) return;
    job.due_ = due;
    if (job.is_running_) {
      job.runs_again_ = true;
      return;
    }
    if (job.list_ != nullptr) job.list_->Remove(job);
    Link(job);
  }
  if (due == Clock::time_point::min()) wake_.NotifyOne();
}

// An idle thread waits for the first timer at most, so that no timer depends on one thread; when
// there is a new first one, all must learn of it.
void ThreadPool::Link(PoolJob& job) {
  if (job.due_ == Clock::time_point::min()) return ready_.InsertBefore(nullptr, job);
  PoolJob* next = later_.first;
  while (next != nullptr && next->due_ <= job.due_) next = next->next_;
  later_.InsertBefore(next, job);
  if (later_.first == &job) wake_.NotifyAll();
}

void ThreadPool::Cancel(PoolJob& job) {
  MutexLock lock(mu_);
  if (job.list_ != nullptr) job.list_->Remove(job);
  ++cancel_count_;
  while (job.is_running_) {
    job.runs_again_ = false;
    job_ended_.Wait(mu_);
  }
  --cancel_count_;
  if (job.list_ != nullptr) job.list_->Remove(job);  // it had ended before the wait did
}

PoolJob* ThreadPool::TakeJob() {
  while (later_.first != nullptr && later_.first->due_ <= Clock::now()) {
    PoolJob& due = *later_.first;
    later_.Remove(due);
    due.due_ = Clock::time_point::min();
    ready_.InsertBefore(nullptr, due);
  }
  PoolJob* const job = ready_.first;
  if (job == nullptr) return nullptr;
  ready_.Remove(*job);
  if (ready_.first != nullptr) wake_.NotifyOne();  // several may have become due at once
  return job;
}

void ThreadPool::Run(PoolJob& job) {
  job.is_running_ = true;
  mu_.Unlock();
  try {
    job.run_();
  } catch (...) {  // it has ended; its owner reports why
  }
  mu_.Lock();
  job.is_running_ = false;
  // This thread looks for the next job, so no other must be woken for it.
  if (std::exchange(job.runs_again_, false) && !stopping_) Link(job);
  if (cancel_count_ != 0) job_ended_.NotifyAll();
}

bool ThreadPool::RunOne() {
  MutexLock lock(mu_);
  PoolJob* const job = TakeJob();
  if (job == nullptr) return false;
  Run(*job);
  return true;
}

void ThreadPool::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    for (PoolJob::List* const list : {&ready_, &later_}) {
      while (list->first != nullptr) list->Remove(*list->first);
    }
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void ThreadPool::Work() {
  MutexLock lock(mu_);
  while (!stopping_) {
    if (PoolJob* const job = TakeJob(); job != nullptr) {
      Run(*job);
    } else if (later_.first == nullptr) {
      wake_.Wait(mu_);
    } else {
      wake_.WaitUntil(mu_, later_.first->due_);
    }
  }
}

}  // namespace ebb::internal
