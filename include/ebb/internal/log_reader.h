// LogReader: reads the frozen part of the log in order, into memory of its own, for scans and
// compaction. What is in memory is copied from there under a guard; what is below head is read
// from the device and verified, the next piece ahead in the pool.
//
//   LogReader reader(core, slot, {.from = begin, .end = tail}, {});
//   for (;;) {
//     absl::StatusOr<std::span<const LogReader::Item>> items = reader.Next();
//     if (!items.ok()) return items.status();
//     if (items->empty()) break;
//     ... records, until the next call ...
//   }
//
// Its memory is a chunk, or the longest record if that is longer, and what is read ahead.
//
// Thread safety: one thread, which is inside a slow call or a job for as long as Next runs; the
// pool's threads help. A guard is held for a copy of at most 16 blocks. Progress: Next waits for
// the device, the destructor for a read that has begun.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/internal/read_ahead.h"

namespace ebb::internal {

class LogReader {
 public:
  // Both are starts of records, or where the next one will be. All of it is below safe_read_only,
  // and nobody truncates it before the reader is gone.
  struct Range {
    Address from;
    Address end;
  };
  struct Config {
    std::uint64_t chunk_bytes = std::uint64_t{1} << 20;  // that Next shows at a time, at least
    std::uint64_t ahead_bytes = std::uint64_t{1} << 20;  // read ahead, in two pieces
  };
  struct Item {
    Address address;
    Record record;
  };

  // `slot` is the caller's, and outside a guard whenever Next is called.
  LogReader(Core& core, EpochSlot& slot, Range range, Config config);
  LogReader(const LogReader&) = delete;
  LogReader& operator=(const LogReader&) = delete;

  // The valid records of the next chunk, in order; none: that was all. They are there until the
  // next call. DataLoss for a damaged block, Unavailable, ResourceExhausted.
  absl::StatusOr<std::span<const Item>> Next();
  // Everything below has been shown.
  Address cursor() const { return cursor_; }

 private:
  absl::StatusOr<std::span<const Item>> NextChunk();
  absl::Status Load(std::uint64_t bytes);
  bool Reserve(std::uint64_t blocks);
  bool CopyFromMemory();
  absl::Status ReadFromDevice();
  std::uint64_t DeviceEnd() const;
  absl::Status Parse();

  Core& core_;
  const Geometry& geometry_;
  EpochSlot& slot_;
  const Address end_;
  const std::uint64_t end_block_;  // the first that is not needed
  const Config config_;
  std::uint64_t piece_blocks_ = 0;
  ReadAhead ahead_;

  Address cursor_;  // the next record
  // Payloads of the blocks [first_block_, next_block_), one after the other.
  AlignedBuffer bytes_;
  std::uint64_t capacity_ = 0;  // blocks
  std::uint64_t first_block_ = 0;
  std::uint64_t next_block_ = 0;
  std::uint64_t asked_end_ = 0;  // blocks below are here or asked for
  std::vector<Item> items_;
};

}  // namespace ebb::internal
