// PageReader: brings pages of the log from the device into their frames for recovery, some of them
// ahead, in the pool and in the calling thread.
//
// Only what depends on nothing else is done here: blocks are read, their checksums verified, and
// payloads put in their places. Whether a block belongs to the log, its incarnation tells; that is
// for who reads the pages in order (log_scan.h).
//
// A page that nobody has begun to load is loaded by whoever needs it, so the reader also works
// with a pool that is busy or has no threads. Up to `kMostAhead` pages behind the newest one that
// was asked for may have been put into their frames.
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
#include "ebb/internal/core.h"

namespace ebb::internal {

class PageReader {
 public:
  static constexpr std::uint64_t kMostAhead = 2;  // a quarter of the least count of frames

  // Blocks from `first_block` up to, not including, `end_block`.
  struct Range {
    std::uint64_t first_block = 0;
    std::uint64_t end_block = 0;
  };
  PageReader(Core& core, Range range);
  ~PageReader();  // waits for those who help
  PageReader(const PageReader&) = delete;
  PageReader& operator=(const PageReader&) = delete;

  // Loads a page that lies in the range at least in part; pages in ascending order, without gaps.
  // The incarnations of its blocks within the range, from the first one on, up to the first that
  // is missing or does not verify. Unavailable when the device fails.
  absl::StatusOr<std::vector<std::uint64_t>> Load(std::uint64_t page);

 private:
  struct Shared;
  void LoadAhead(std::uint64_t page);

  const Range range_;
  const std::uint64_t blocks_per_page_;
  Core& core_;
  const std::unique_ptr<Shared> shared_;
  std::uint64_t requested_end_ = 0;  // pages below have been asked for
  std::deque<PoolJob> helpers_;      // last: they use the others
};

}  // namespace ebb::internal
