// LogFlusher: seals the blocks of a log that are final, writes them to the device, and moves
// flushed_until over them.
//
// Argument: two chunks may be in flight, so that one is copied and sealed while the other is
//   written. flushed_until moves over them in order, over each only once it is written. If one
//   fails, flushed_until stays before it, and the chunks after it are written again: nothing has
//   relied on them.
//   Flushers wait for the end of a taken chunk, so each one must end. If an exception leaves the
//   write, the destructor of TakenChunk ends the chunk as failed.
//
// Thread safety: any thread may call everything except Restore. Progress: FlushChunk waits for the
// device; flushed_until is wait-free.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/format/address.h"

namespace ebb::internal {

class HybridLog;

class LogFlusher {
 public:
  // `log` and `device` outlive the flusher. Writes at most `batch_bytes` at a time. Check ok() for
  // memory.
  LogFlusher(const HybridLog& log, std::uint64_t store_id, std::uint64_t batch_bytes,
             Device& device);
  bool ok() const { return has_buffers_; }
  // To be called before any other thread knows the log.
  void Restore(Address flushed_until);

  // Writes the next chunk below safe_read_only, if there is one. Returns whether flushed_until
  // moved, or another chunk ended in the meantime.
  absl::StatusOr<bool> FlushChunk();
  // Always the start of a block.
  Address flushed_until() const {
    return Address(flushed_until_.load(std::memory_order_acquire));  // [boundary]
  }
  std::uint64_t flushed_bytes() const {
    return flushed_bytes_.load(std::memory_order_relaxed);  // statistics
  }

 private:
  // Blocks in flight to the device.
  struct WriteChunk {
    std::uint64_t first_block = 0;
    std::uint64_t end_block = 0;
    AlignedBuffer buffer;
  };
  struct TakenChunk;
  bool TakeChunk(WriteChunk& chunk, bool& waited);
  absl::StatusOr<bool> EndChunk(WriteChunk& chunk, absl::Status written);

  const HybridLog& log_;
  const std::uint64_t store_id_;
  const std::uint64_t batch_bytes_;
  Device& device_;
  bool has_buffers_ = true;
  AtomicWord flushed_until_{0};
  AtomicWord flushed_bytes_{0};

  Mutex mu_;
  CondVar changed_;
  // Null while a chunk uses it.
  std::array<AlignedBuffer, 2> buffers_ ABSL_GUARDED_BY(mu_);
  std::size_t chunks_under_way_ ABSL_GUARDED_BY(mu_) = 0;
  bool chunk_failed_ ABSL_GUARDED_BY(mu_) = false;  // one of those in flight together
  Address taken_until_ ABSL_GUARDED_BY(mu_);        // the next chunk begins here or above
};

}  // namespace ebb::internal
