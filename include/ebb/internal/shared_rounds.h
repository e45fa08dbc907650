// SharedRounds: work that serves everybody who waits for it.
//
// A caller needs a round of the work that begins after its call. Whoever finds none running runs
// one, for all who wait; the others wait for its end. So any number of callers share a round, and
// a caller waits for two at most: the one that runs and the next.
//
// A round that has begun ends, also when the work throws: `running_` and the counts are set by a
// destructor. Work that runs out of memory fails with NoMemory() for all who wait (no_memory.h).
//
// Thread safety: any thread. Progress: waits for the work.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "ebb/internal/mutex.h"

namespace ebb::internal {

class SharedRounds {
 public:
  explicit SharedRounds(std::function<absl::Status()> work) : work_(std::move(work)) {}

  // Returns after the end of a round that began after this call: OK if it, or a later one that has
  // ended meanwhile, was good; else how the last one failed.
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
