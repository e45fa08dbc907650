// JobLane: the long jobs of a store (checkpoint, collection, growth, backup, verification), one at
// a time, in the order in which they came.
//
//   LaneJob growth_(lane, [this] { ... });    // a member of its owner
//   growth_.Post();                           // the pool runs it when its turn has come
//
//   LaneTurn turn(lane);                      // a user's thread waits for its turn, and has it
//
// Users' threads and posted jobs stand in one queue. A posted job takes its turn in a thread of the
// pool, and only when the turn has come: until then no thread waits for it. So long jobs take one
// thread of the pool together, however many of them wait, and every other thread of the pool is
// free for short jobs (flushing, reading ahead). That is why a pool has one thread more than the
// option background_threads says. Commits need neither: they have their own thread (core.h).
//
// Argument: no deadlock. A thread in the queue holds no lock and no guard, and a job in its turn
//   never waits for another turn: it calls what it needs (a collection that needs a checkpoint)
//   inside its own. When a posted job is the first in the queue, users' threads behind it wait for
//   a thread of the pool to begin it. A job of the pool never waits for a turn, and what else it
//   waits for (the device, guards) does not depend on one, so a thread comes. Two pools never come:
//   one without threads, whose scripts begin jobs themselves, so there users' threads overtake
//   posted jobs; and one that is being stopped, before which Close drops the posted jobs.
// Argument: no job is lost. When a turn ends, or a job is posted to a lane that is free, and a
//   posted job is the first in the queue, the lane posts `next_`, which takes that job. Posting
//   allocates nothing, and a turn ends in a destructor, whatever a job throws.
//
// A long job that may be interrupted asks HasWaiters now and then and leaves its turn: a user's
// thread by Unlock and Lock, a posted job by posting itself again and returning. Both are then last
// in the queue, so each of the jobs that wait comes before it. (Nothing else uses this, so a
// collection is the only job that others can hold up, and only for as long as they take.)
//
// Close of the store takes a turn like every user: it first tells the running job to end soon.
//
// Thread safety: all methods, any thread. Posting never waits for a job. Lock, and Cancel of a job
// that runs, do.
#pragma once

#include <functional>
#include <mutex>

#include "ebb/internal/mutex.h"
#include "ebb/internal/thread_pool.h"

namespace ebb::internal {

class JobLane;

// A job that the pool runs in its turn. Like a PoolJob: at most one run is pending; one that is
// posted while it runs runs once more, last in the queue by then; one that throws has ended.
class LaneJob {
 public:
  LaneJob(JobLane& lane, std::function<void()> run);
  ~LaneJob() { Cancel(); }
  LaneJob(const LaneJob&) = delete;
  LaneJob& operator=(const LaneJob&) = delete;

  void Post();
  // Drops the pending run and waits for the current one. Not in a turn.
  void Cancel();

 private:
  friend class JobLane;
  JobLane& lane_;
  const std::function<void()> run_;
  bool is_running_ = false;  // guarded by the lane's mutex; and so is this:
  bool runs_again_ = false;
  struct Place {
    LaneJob* job = nullptr;  // null: of a user's thread
    bool is_waiting = false;
    Place* next = nullptr;
  } place_;
};

class ABSL_LOCKABLE JobLane {
 public:
  explicit JobLane(ThreadPool& pool);
  JobLane(const JobLane&) = delete;
  JobLane& operator=(const JobLane&) = delete;

  // The turn of a user's thread.
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION();
  void Unlock() ABSL_UNLOCK_FUNCTION();
  // Takes a turn if none is taken, before those that wait: for Close.
  bool TryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true);
  // In a posted job's turn, which the compiler cannot see.
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

  // Others wait for the turn to end.
  bool HasWaiters() const;
  // Drops the posted jobs that wait, and takes no more. Users' threads still have turns.
  void Close();

 private:
  friend class LaneJob;
  using Place = LaneJob::Place;
  void Append(Place& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remove(Place& place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The turn of a user's thread has come.
  bool IsNext(const Place& place) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Has the pool run the first in the queue, if it is a job and the lane is free.
  void PostNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RunNext();

  const bool users_overtake_;  // the pool has no threads
  mutable Mutex mu_;
  CondVar changed_;
  bool is_taken_ ABSL_GUARDED_BY(mu_) = false;  // it is somebody's turn
  bool is_closed_ ABSL_GUARDED_BY(mu_) = false;
  Place* first_ ABSL_GUARDED_BY(mu_) = nullptr;
  Place* last_ ABSL_GUARDED_BY(mu_) = nullptr;
  PoolJob next_;  // last: uses the others
};

// A turn of the calling thread, from construction to destruction.
class ABSL_SCOPED_LOCKABLE LaneTurn {
 public:
  explicit LaneTurn(JobLane& lane) ABSL_EXCLUSIVE_LOCK_FUNCTION(lane) : lane_(lane) {
    lane_.Lock();
  }
  // One that TryLock has taken.
  LaneTurn(JobLane& lane, std::adopt_lock_t) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lane) : lane_(lane) {}
  ~LaneTurn() ABSL_UNLOCK_FUNCTION() { lane_.Unlock(); }
  LaneTurn(const LaneTurn&) = delete;
  LaneTurn& operator=(const LaneTurn&) = delete;

 private:
  JobLane& lane_;
};

}  // namespace ebb::internal
