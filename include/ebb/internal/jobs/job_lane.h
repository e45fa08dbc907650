// JobLane: runs the long jobs of a store (checkpoint, collection, growth, backup, verification) one
// at a time, in the order of their requests.
//
//   LaneJob growth_(lane, [this](LaneTurn& turn) { ... });  // a member of its owner
//   growth_.Post();                           // the pool runs it when its turn has come
//
//   LaneTurn turn(lane);                      // a user's thread waits for its turn, and has it
//
// A function that may only be called in a turn takes it as an argument. There is no other way to
// have one.
//
// Users' threads and posted jobs are in one queue. A posted job runs in a thread of the pool, and
// only when its turn has come: until then no thread waits for it. So all long jobs together use one
// thread of the pool, however many of them wait, and every other thread of the pool is free for
// short jobs (flushing, reading ahead). That is why a pool has one thread more than
// Options::background_threads. Commits need neither: they have a dedicated thread (core.h).
//
// Argument: no deadlock. A thread in the queue holds no lock and no guard. A job in its turn never
//   waits for another turn: it calls the jobs that it needs (for example a collection that needs a
//   checkpoint) inside its own. If a posted job is the first in the queue, users' threads after it
//   wait until a thread of the pool begins it. A job of the pool never waits for a turn, and
//   everything else that it waits for (the device, guards) does not depend on one, so a thread
//   becomes free. In two kinds of pools none does. One has no threads, and scripts begin its jobs
//   themselves; there users' threads overtake posted jobs. The other is being stopped; before that,
//   Close drops the posted jobs.
// Argument: no job is lost. Whenever a turn ends, or a job is posted to a free lane, and a posted
//   job is the first in the queue, the lane posts `next_`, which takes that job. Posting allocates
//   nothing, and a turn ends in a destructor, whatever a job throws.
//
// A long job that may be interrupted calls HasWaiters from time to time and leaves its turn: a
// user's thread by LaneTurn::GiveWay, a posted job by posting itself again and returning. Both are
// then last in the queue, so each of the waiting jobs comes before it. (Only collections do this,
// so a collection is the only job that others can delay, and only for as long as they run.)
//
// Close of the store takes a turn like every user. First it requests that the running job end soon.
//
// Thread safety: any thread may call all methods. Posting never waits for a job; Lock does, and so
// does Cancel of a running job.
#pragma once

#include <functional>
#include <mutex>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/thread_pool.h"

namespace ebb::internal {

class JobLane;
class LaneTurn;

// A job that the pool runs in its turn. Like a PoolJob: at most one run is pending. A job that is
// posted while it runs, runs again, last in the queue by then. A job that throws has ended.
class LaneJob {
 public:
  LaneJob(JobLane& lane, std::function<void(LaneTurn&)> run);
  ~LaneJob() { Cancel(); }
  LaneJob(const LaneJob&) = delete;
  LaneJob& operator=(const LaneJob&) = delete;

  void Post();
  // Drops the pending run and waits for the current one. Not to be called in a turn.
  void Cancel();

 private:
  friend class JobLane;
  JobLane& lane_;
  const std::function<void(LaneTurn&)> run_;
  bool runs_again_ = false;  // guarded by the lane's mutex; and so is this:
  struct LanePlace {
    LaneJob* job = nullptr;  // null: a user's thread
    bool is_waiting = false;
    LanePlace* next = nullptr;
  } place_;
};

class JobLane {
 public:
  explicit JobLane(ThreadPool& pool);
  JobLane(const JobLane&) = delete;
  JobLane& operator=(const JobLane&) = delete;

  // Takes a turn for a user's thread.
  void Lock();
  // Ends the turn of a user's thread or of a posted job.
  void Unlock();
  // Takes a turn if none is taken, before the waiting jobs: for Close.
  bool TryLock();

  // Returns whether others wait for the turn to end.
  bool HasWaiters() const;
  // Drops the waiting posted jobs and accepts no more. Users' threads still have turns.
  void Close();

 private:
  friend class LaneJob;
  using LanePlace = LaneJob::LanePlace;
  void Append(LanePlace& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remove(LanePlace& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns whether the turn of a user's thread has come.
  bool IsNext(const LanePlace& place) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Posts the first job of the queue to the pool, if it is a posted one and the lane is free.
  void PostNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RunNext();

  const bool users_overtake_;  // the pool has no threads
  mutable Mutex mu_;
  CondVar changed_;
  bool is_taken_ ABSL_GUARDED_BY(mu_) = false;  // a turn is taken
  bool is_closed_ ABSL_GUARDED_BY(mu_) = false;
  LaneJob* running_ ABSL_GUARDED_BY(mu_) = nullptr;  // the posted job whose turn it is, or null
  LanePlace* first_ ABSL_GUARDED_BY(mu_) = nullptr;
  LanePlace* last_ ABSL_GUARDED_BY(mu_) = nullptr;
  PoolJob next_;  // last: uses the others
};

// A turn of the calling thread, from construction to destruction.
class LaneTurn {
 public:
  explicit LaneTurn(JobLane& lane) : lane_(lane) { lane_.Lock(); }
  // Adopts a turn that has been taken.
  LaneTurn(JobLane& lane, std::adopt_lock_t) : lane_(lane) {}
  ~LaneTurn() { lane_.Unlock(); }
  LaneTurn(const LaneTurn&) = delete;
  LaneTurn& operator=(const LaneTurn&) = delete;

  // Lets the waiting jobs run, and returns in another turn. Not for posted jobs.
  void GiveWay() {
    lane_.Unlock();
    lane_.Lock();
  }

 private:
  JobLane& lane_;
};

}  // namespace ebb::internal
