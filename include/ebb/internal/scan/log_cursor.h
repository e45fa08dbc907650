// LogCursor: reads the frozen part of the log in order, into its own memory, for scans and
// compaction. Records in memory are copied from there under a guard. Blocks below head are read
// from the device and verified, and the pool reads the next piece ahead.
//
//   LogCursor reader(core, slot, {.from = begin, .end = tail}, {});
//   for (;;) {
//     absl::StatusOr<std::span<const LogCursor::LoggedRecord>> items = reader.Next();
//     if (!items.ok()) return items.status();
//     if (items->empty()) break;
//     ... records, until the next call ...
//   }
//
// Its memory is a chunk, or the longest record if that is longer, and the pieces read ahead.
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
#include "ebb/internal/core/core.h"
#include "ebb/internal/scan/read_ahead.h"

namespace ebb::internal {

class LogCursor {
 public:
  // Each is the start of a record, or of the next one to be appended. The whole range is below
  // safe_read_only, and is not truncated before the reader is gone.
  struct LogRange {
    Address from;
    Address end;
  };
  struct Config {
    std::uint64_t chunk_bytes = std::uint64_t{1} << 20;  // that Next returns at a time, at least
    std::uint64_t ahead_bytes = std::uint64_t{1} << 20;  // read ahead, in two pieces
  };
  struct LoggedRecord {
    Address address;
    Record record;
  };

  // `slot` belongs to the caller, and is outside a guard whenever Next is called.
  LogCursor(Core& core, EpochSlot& slot, LogRange range, Config config);
  LogCursor(const LogCursor&) = delete;
  LogCursor& operator=(const LogCursor&) = delete;

  // Returns the valid records of the next chunk, in order; none at the end. They are valid until
  // the next call. Errors: DataLoss (a damaged block), Unavailable, ResourceExhausted.
  absl::StatusOr<std::span<const LoggedRecord>> Next();
  // Everything below has been returned.
  Address cursor() const { return cursor_; }

 private:
  absl::StatusOr<std::span<const LoggedRecord>> NextChunk();
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
  std::uint64_t asked_end_ = 0;  // blocks below are present or requested
  std::vector<LoggedRecord> items_;
};

}  // namespace ebb::internal
