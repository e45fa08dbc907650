// PageLoader: reads pages of the log from the device into their frames for recovery, some of them
// ahead, in the pool and in the calling thread.
//
// It does only work that depends on nothing else: it reads blocks, verifies their checksums, and
// copies payloads into place. Whether a block belongs to the log depends on its incarnation; the
// code that reads the pages in order checks that (log_replay.h).
//
// A page that no thread has begun to load is loaded by the thread that needs it, so the reader also
// works with a pool that is busy or has no threads. Up to `kMaxAhead` pages after the newest
// requested one may have been loaded into their frames.
//
// Thread safety: one thread calls; the pool's threads help. Progress: waits for the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"

namespace ebb::internal {

class PageLoader {
 public:
  static constexpr std::uint64_t kMaxAhead = 2;  // a quarter of the minimum number of frames

  // Blocks from `first_block` up to, but not including, `end_block`.
  struct PageRange {
    std::uint64_t first_block = 0;
    std::uint64_t end_block = 0;
  };
  PageLoader(Core& core, PageRange range);
  ~PageLoader();  // waits for the helping threads
  PageLoader(const PageLoader&) = delete;
  PageLoader& operator=(const PageLoader&) = delete;

  // Loads a page that is at least partly in the range; pages must be requested in ascending order,
  // without gaps. Returns the incarnations of its blocks within the range, from the first one on,
  // up to the first that is missing or does not verify. Errors: Unavailable if the device fails.
  absl::StatusOr<std::vector<std::uint64_t>> Load(std::uint64_t page);

 private:
  struct Shared;
  void LoadAhead(std::uint64_t page);

  const PageRange range_;
  const std::uint64_t blocks_per_page_;
  Core& core_;
  const std::unique_ptr<Shared> shared_;
  std::uint64_t requested_end_ = 0;  // pages below have been requested
  std::deque<PoolJob> helpers_;      // last: they use the others
};

}  // namespace ebb::internal
