#include "ebb/internal/shared_rounds.h"

#include <new>

namespace ebb::internal {

absl::Status SharedRounds::Join() {
  mu_.Lock();
  const std::uint64_t needed = begun_count_ + 1;
  while (ended_count_ < needed) {  // ends: two rounds at most
    if (running_) {
      ended_.Wait(mu_);
      continue;
    }
    running_ = true;
    ++begun_count_;
    mu_.Unlock();
    absl::Status status;
    try {
      status = work_();
    } catch (const std::bad_alloc&) {  // those who wait must hear of it
      status = absl::ResourceExhaustedError("no memory for a commit or a checkpoint");
    }
    mu_.Lock();
    running_ = false;
    ended_count_ = begun_count_;
    if (status.ok()) {
      last_good_ = ended_count_;
    } else {
      failure_ = std::move(status);
    }
    ended_.NotifyAll();
  }
  absl::Status result = last_good_ >= needed ? absl::OkStatus() : failure_;
  mu_.Unlock();
  return result;
}

bool SharedRounds::running() const {
  MutexLock lock(mu_);
  return running_;
}

}  // namespace ebb::internal
