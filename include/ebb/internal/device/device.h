// Device: holds the blocks of the log. FileDevice keeps them in segment files (file_device.h),
// MemoryDevice in memory, for a store without files (memory_device.h).
//
// A block is 4 KiB and has a number; block n of the log is at a place that only the device knows.
// Buffers are aligned to 4 KiB and hold whole blocks. A device moves bytes and reports errors; it
// neither seals nor judges blocks (block.h does).
//
// Thread safety: Read and Write may run in any number of threads; two writes never overlap. Sync is
// called by one thread and covers the writes that had returned. TruncateFront is called by one
// thread. Truncate and Close are called by one thread while no other call runs. Progress: all may
// block.
//
// Space is reserved before it is written to, some of it ahead, so that a full disk is detected
// before anything is accepted (log_space.h).
//
// Errors: ResourceExhausted if there is no space (the same write may succeed later); Unavailable
// for any other failed call, and for every failed sync or close, whatever its cause; DataLoss for
// files that were removed or replaced while the device was open. Each has file, offset and cause
// (file_io.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ebb::internal {

class File;

inline constexpr std::size_t kBlockBytes = 4096;

// Aligned memory for device transfers.
struct AlignedFree {
  void operator()(std::byte* bytes) const;
};
using AlignedBuffer = std::unique_ptr<std::byte[], AlignedFree>;
AlignedBuffer AllocateAligned(std::size_t bytes);  // null if there is no memory

struct BlockRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// Fills one block with the header of the segment whose first block is `first_block`.
using HeaderWriter = std::function<void(std::uint64_t first_block, std::span<std::byte> block)>;

class Device {
 public:
  virtual ~Device() = default;
  // Reads blocks [block, block + bytes.size() / 4 KiB). OutOfRange if one of them was never
  // written.
  virtual absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) = 0;
  // The place of `count` blocks, for a ReadRing; no file if they are in none, or in two.
  struct BlockLocation {
    std::shared_ptr<File> file;
    std::uint64_t offset = 0;
  };
  virtual BlockLocation Locate(std::uint64_t /*block*/, std::uint64_t /*count*/) { return {}; }
  virtual absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) = 0;
  // Makes everything written before survive a power loss. The caller never retries after a failure.
  // DataLoss if a file that was synced, or the directory's lock, has been removed by someone else:
  // the bytes are durable, but no opening will find them.
  virtual absl::Status Sync() = 0;
  // Does the same check without a sync; with `of_all`, of every file.
  virtual absl::Status CheckNames(bool /*of_all*/) { return absl::OkStatus(); }
  // Reserves the space for blocks [begin, end), so that writing them does not fail for lack of it.
  // Space that was reserved before an error stays reserved. One thread at a time.
  virtual absl::Status Reserve(std::uint64_t /*begin*/, std::uint64_t /*end*/) {
    return absl::OkStatus();
  }
  // Writes blocks [begin, end) with the bytes that are read from them, and the headers of files
  // that begin there, so that the next Sync writes them to the device. A sync that failed before
  // this opening may have dropped them from the device while the page cache still shows them.
  virtual absl::Status WriteAgain(std::uint64_t /*begin*/, std::uint64_t /*end*/) {
    return absl::OkStatus();
  }
  // Removes every block at and after `block`, and syncs that and everything written before.
  virtual absl::Status Truncate(std::uint64_t block) = 0;
  // Frees the space of every block below `block`, as far as the device can. Returns the number of
  // bytes freed. From now on, reads there fail or find zeros. No block below may ever be needed
  // again: a power loss may undo the call in part.
  virtual absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) = 0;
  // Returns the number of blocks at the beginning of a log of `log_blocks` that are freed together
  // or not at all; 0 if each block can be freed alone. Does not wait.
  virtual std::uint64_t FreedAsOne(std::uint64_t /*log_blocks*/) const { return 0; }
  // Returns the last block that the device may hold, plus one; blocks below it may still be
  // invalid.
  virtual std::uint64_t EndBlock() const = 0;
  // Returns the blocks that the device may hold, in order; there can be gaps.
  virtual std::vector<BlockRange> HeldBlocks() const { return {{0, EndBlock()}}; }
  // Returns the place of a block, for error messages: "log-00000003.ebb at offset 8192".
  virtual std::string Describe(std::uint64_t block) const = 0;
  virtual absl::Status Close() = 0;
  virtual bool direct() const = 0;

 protected:
  // Returns the OutOfRange of a Read.
  absl::Status NotWritten(std::uint64_t block) const;
};

}  // namespace ebb::internal
