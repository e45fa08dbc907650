#include "ebb/internal/base/group_runner.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/no_memory.h"

namespace ebb::internal {

absl::Status GroupRunner::Join() {
  mu_.Lock();
  // A round that has begun may have missed changes of this caller, so it needs the next one.
  const std::uint64_t needed = begun_count_ + 1;
  while (ended_count_ < needed) {  // ends: two rounds at most
    if (running_) {
      ended_.Wait(mu_);
      continue;
    }
    running_ = true;
    ++begun_count_;
    // The work runs without the mutex, so that further callers can queue up for the next round.
    mu_.Unlock();
    RunRound();
    mu_.Lock();
  }
  // A later round that succeeded covers this one. After a failure, the caller gets the error of the
  // last failed round.
  absl::Status result = last_good_ >= needed ? absl::OkStatus() : failure_;
  mu_.Unlock();
  return result;
}

// Runs a round, which ends even if the work throws, because all other callers wait for its end.
void GroupRunner::RunRound() {
  absl::Status status = NoMemory();  // unless the work returns another status
  const absl::Cleanup end = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    MutexLock lock(mu_);
    running_ = false;
    ended_count_ = begun_count_;
    if (status.ok()) {
      last_good_ = ended_count_;
    } else {
      failure_ = std::move(status);
    }
    ended_.NotifyAll();
  };
  status = CatchNoMemory(work_);
}

bool GroupRunner::running() const {
  MutexLock lock(mu_);
  return running_;
}

}  // namespace ebb::internal
