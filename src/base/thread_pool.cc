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

// The list is intrusive, so posting a job allocates nothing and cannot fail.
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
  // Before the first thread is started: a vector that grew later could throw and leave it running.
  threads_.reserve(thread_count);
  try {
    for (; started_count_ < thread_count; ++started_count_) {
      if (started_count_ == startable) {
        throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
      }
      threads_.emplace_back([this] { Work(); });
    }
  } catch (const std::system_error& error) {
    // Only some of the threads could be started. The pool ends again, and the store reports the
    // error.
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
    // It is pending already and will run at least as early.
    if (is_pending && job.due_ <= due) return;
    job.due_ = due;
    if (job.is_running_) {
      // A job never runs twice at the same time: the running thread posts it again when it ends
      // (Run).
      job.runs_again_ = true;
      return;
    }
    if (job.list_ != nullptr) job.list_->Remove(job);
    Link(job);
  }
  if (due == Clock::time_point::min()) wake_.NotifyOne();
}

// Lists a job. An idle thread waits at most until the first timer is due, so that no timer depends
// on one thread. If the new job is the first timer, all threads must learn of it.
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
  // A thread may be in the job's function. The job may be destroyed after this call, so wait for
  // its end.
  while (job.is_running_) {
    job.runs_again_ = false;
    job_ended_.Wait(mu_);
  }
  --cancel_count_;
  if (job.list_ != nullptr) job.list_->Remove(job);  // posted while this waited
}

PoolJob* ThreadPool::TakeJob() {
  // Timers that are due join the jobs that are ready, after those that were posted before.
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
  // Without the mutex, so that the job can post jobs, itself included.
  mu_.Unlock();
  try {
    job.run_();
  } catch (...) {  // it has ended; its owner reports the error
  }
  mu_.Lock();
  job.is_running_ = false;
  // This thread takes the next job itself, so no other thread must be woken.
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
    // Jobs that have not begun are dropped; the threads end after their present job.
    for (PoolJob::List* const list : {&ready_, &later_}) {
      while (list->first != nullptr) list->Remove(*list->first);
    }
  }
  wake_.NotifyAll();
  for (Thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void ThreadPool::Work() {
  MutexLock lock(mu_);
  while (!stopping_) {
    // A thread waits without a limit only if there is no timer; see Link.
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
