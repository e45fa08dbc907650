#include "ebb/internal/jobs/job_lane.h"

#include <utility>

namespace ebb::internal {

// ---- posted jobs ----

LaneJob::LaneJob(JobLane& lane, std::function<void(LaneTurn&)> run)
    : lane_(lane), run_(std::move(run)) {
  place_.job = this;
}

void LaneJob::Post() {
  MutexLock lock(lane_.mu_);
  if (lane_.is_closed_ || place_.is_waiting) return;
  // A job never waits for its own turn while it has it: it gets another one afterwards.
  if (lane_.running_ == this) {
    runs_again_ = true;
    return;
  }
  lane_.Append(place_);
  lane_.PostNext();
}

void LaneJob::Cancel() {
  MutexLock lock(lane_.mu_);
  // Posted again in the meantime, or running: neither may be the case when this returns.
  for (;;) {
    if (place_.is_waiting) lane_.Remove(place_);
    runs_again_ = false;
    if (lane_.running_ != this) break;
    lane_.changed_.Wait(lane_.mu_);
  }
  // Threads of users after this job may be next now.
  lane_.PostNext();
  lane_.changed_.NotifyAll();
}

// ---- the lane ----

JobLane::JobLane(ThreadPool& pool)
    : users_overtake_(pool.thread_count() == 0), next_(pool, [this] { RunNext(); }) {}

void JobLane::Append(LanePlace& place) {
  place.is_waiting = true;
  place.next = nullptr;
  (first_ == nullptr ? first_ : last_->next) = &place;
  last_ = &place;
}

void JobLane::Remove(LanePlace& place) {
  LanePlace* before = nullptr;
  for (LanePlace* at = first_; at != &place; at = at->next) before = at;
  (before == nullptr ? first_ : before->next) = place.next;
  if (last_ == &place) last_ = before;
  place.is_waiting = false;
}

bool JobLane::IsNext(const LanePlace& place) const {
  // A pool without threads runs posted jobs only when a test lets it, so threads of users must not
  // wait for them.
  const LanePlace* first = first_;
  while (users_overtake_ && first->job != nullptr) first = first->next;
  return !is_taken_ && first == &place;
}

void JobLane::Lock() {
  MutexLock lock(mu_);
  LanePlace place;
  // A place on the stack, in the order of arrival: turns are granted first come, first served.
  Append(place);
  while (!IsNext(place)) changed_.Wait(mu_);
  Remove(place);
  is_taken_ = true;
}

bool JobLane::TryLock() {
  // Only if no job has its turn: it need not wait in the queue.
  MutexLock lock(mu_);
  return !std::exchange(is_taken_, true);
}

void JobLane::Unlock() {
  MutexLock lock(mu_);
  if (LaneJob* const job = std::exchange(running_, nullptr); job != nullptr) {
    if (std::exchange(job->runs_again_, false) && !is_closed_) Append(job->place_);
  }
  is_taken_ = false;
  PostNext();
  changed_.NotifyAll();
}

void JobLane::PostNext() {
  // A posted job is first: the pool runs it. A thread of a user finds out itself (IsNext).
  if (!is_taken_ && first_ != nullptr && first_->job != nullptr) next_.Post();
}

// Runs the first posted job. It may find none: a thread of a user has overtaken it, or the job was
// cancelled. Then the end of the turn posts it again.
void JobLane::RunNext() {
  LaneJob* job;
  {
    MutexLock lock(mu_);
    if (is_taken_ || first_ == nullptr || first_->job == nullptr) return;
    job = first_->job;
    Remove(job->place_);
    running_ = job;
    is_taken_ = true;
  }
  // Ends in a destructor, because every other job waits for the end of this turn.
  LaneTurn turn(*this, std::adopt_lock);
  job->run_(turn);
}

bool JobLane::HasWaiters() const {
  MutexLock lock(mu_);
  return first_ != nullptr;
}

// Posted jobs are dropped; threads of users keep their places, and find the store closed in their
// turn.
void JobLane::Close() {
  MutexLock lock(mu_);
  is_closed_ = true;
  LanePlace* next = nullptr;
  last_ = nullptr;
  for (LanePlace* at = std::exchange(first_, nullptr); at != nullptr; at = next) {
    next = at->next;
    at->is_waiting = false;
    if (at->job == nullptr) Append(*at);
  }
  changed_.NotifyAll();
}

}  // namespace ebb::internal
