// LogReader: reads back records that are only on the device.
//
// The log states which blocks it has written, so a block that is missing, that fails its checksum,
// or that is of an older incarnation of the store is damage (DataLoss), never an end.
//
// Thread safety: any thread may call all methods, each with its own DeviceBuffer. Progress: only
// Read and ReadRecord wait, for the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/device/block_queue.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/log/hybrid_log.h"

namespace ebb::internal {

// A session's memory for records that are read from the device. It grows to the largest size that
// was needed.
class DeviceBuffer {
 public:
  // Returns memory for at least `blocks` blocks, with the contents of the first `keep` blocks; null
  // if there is no memory.
  std::byte* Reserve(std::size_t blocks, std::size_t keep);
  std::size_t bytes() const { return blocks_ * kBlockBytes; }
  // Frees the memory if it is more than `max_bytes`.
  void Trim(std::size_t max_bytes) {
    if (bytes() <= max_bytes) [[likely]]
      return;
    bytes_ = nullptr;
    blocks_ = 0;
  }

 private:
  AlignedBuffer bytes_;
  std::size_t blocks_ = 0;
};

class LogReader {
 public:
  // The arguments outlive the reader.
  LogReader(const HybridLog& log, std::uint64_t store_id, Device& device)
      : log_(log), store_id_(store_id), device_(device) {}

  const HybridLog& log() const { return log_; }

  // Reads blocks below head; a BlockQueue may do this instead. Then call Verify.
  void Read(BlockRead& read) const { read.status = device_.Read(read.block, read.bytes); }
  // Returns OK if the blocks that were read are those that the log wrote there; DataLoss with file
  // and offset if not; the error of the read.
  absl::Status Verify(const BlockRead& read);
  // Sets `next` to the blocks of the record at `address` that must be read after its first `have`
  // blocks, which are in `buffer`. Returns false if these are all. DataLoss: the record cannot be
  // there.
  absl::StatusOr<bool> NextRead(Address address, DeviceBuffer& buffer, std::uint64_t have,
                                BlockRead& next) const;
  // Returns the record at `address`, whose `have` blocks are in `buffer`. Moves the payloads of the
  // blocks together, so call it only once after a read. DataLoss: there is no record.
  absl::StatusOr<Record> RecordIn(Address address, DeviceBuffer& buffer, std::uint64_t have) const;
  // Reads and verifies all blocks of one record. The result points into `buffer`.
  absl::StatusOr<Record> ReadRecord(Address address, DeviceBuffer& buffer);
  // Returns the DataLoss that states the fault of a block and its place.
  absl::Status Damaged(std::uint64_t block, const char* what) const;

  struct Counters {
    AtomicWord device_reads{0};
    AtomicWord device_read_bytes{0};
  };
  const Counters& counters() const { return counters_; }

 private:
  // Returns the number of blocks of the record at `address`, as far as its first blocks, `blocks`,
  // show it.
  absl::StatusOr<std::uint64_t> BlocksOf(Address address, std::span<const std::byte> blocks) const;

  const HybridLog& log_;
  const std::uint64_t store_id_;
  Device& device_;
  Counters counters_;
};

}  // namespace ebb::internal
