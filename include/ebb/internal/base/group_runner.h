// GroupRunner: rounds of work that all waiting callers share.
//
// A caller needs a round of the work that begins after its call. A caller that finds no round
// running runs one, for all waiting callers; the others wait for its end. So any number of callers
// share a round, and a caller waits for at most two: the running one and the next.
//
// A round that has begun ends, even if the work throws: a destructor sets `running_` and the
// counts. Work that runs out of memory fails with NoMemory() for all waiting callers (no_memory.h).
//
// Thread safety: any thread. Progress: waits for the work.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "ebb/internal/base/mutex.h"

namespace ebb::internal {

class GroupRunner {
 public:
  explicit GroupRunner(std::function<absl::Status()> work) : work_(std::move(work)) {}

  // Returns after the end of a round that began after this call. Returns OK if it, or a later one
  // that has ended in the meantime, succeeded; otherwise the error of the last one.
  absl::Status Join();
  bool running() const;

 private:
  void RunRound() ABSL_LOCKS_EXCLUDED(mu_);

  const std::function<absl::Status()> work_;
  mutable Mutex mu_;
  CondVar ended_;
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  std::uint64_t begun_count_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t ended_count_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t last_good_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::internal
