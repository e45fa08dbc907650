#include "ebb/internal/scan/log_cursor.h"

#include <algorithm>
#include <cstring>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kCopyBlocks = 16;  // under one guard
constexpr std::uint64_t kPieces = 2;       // of the blocks read ahead

}  // namespace

LogCursor::LogCursor(Core& core, EpochSlot& slot, LogRange range, Config config)
    : core_(core),
      geometry_(core.log.geometry()),
      slot_(slot),
      end_(geometry_.Normalize(range.end)),
      end_block_(geometry_.BlockOf(end_) +
                 (geometry_.BlockStart(geometry_.BlockOf(end_)) == end_ ? 0 : 1)),
      config_(config),
      piece_blocks_(std::max<std::uint64_t>(1, config.ahead_bytes / kBlockBytes / kPieces)),
      ahead_(core, kPieces * piece_blocks_),
      cursor_(geometry_.Normalize(range.from)),
      first_block_(geometry_.BlockOf(cursor_)),
      next_block_(first_block_) {}

absl::StatusOr<std::span<const LogCursor::LoggedRecord>> LogCursor::Next() {
  return CatchNoMemory([this] { return NextChunk(); });
}

absl::StatusOr<std::span<const LogCursor::LoggedRecord>> LogCursor::NextChunk() {
  items_.clear();
  // Each turn after the first means that a chunk held no record, or only part of one.
  // A larger chunk is loaded each time, until a whole record fits.
  for (std::uint64_t bytes = config_.chunk_bytes; items_.empty() && cursor_ < end_;
       bytes += config_.chunk_bytes) {
    const Address before = cursor_;
    absl::Status status = Load(bytes);
    if (status.ok()) status = Parse();
    if (!status.ok()) return status;
    if (cursor_ != before) bytes = 0;
  }
  return items_;
}

// Drops the records already returned, and loads at least `bytes` from the next record on.
absl::Status LogCursor::Load(std::uint64_t bytes) {
  const std::uint64_t shown = std::min(geometry_.BlockOf(cursor_), next_block_) - first_block_;
  if (shown != 0) {
    std::memmove(bytes_.get(), bytes_.get() + shown * kBlockPayloadBytes,
                 (next_block_ - first_block_ - shown) * kBlockPayloadBytes);
    first_block_ += shown;
  }
  const std::uint64_t wanted = bytes / kBlockPayloadBytes + 1;
  if (!Reserve(wanted + std::max(kCopyBlocks, piece_blocks_))) return NoMemory();
  while (next_block_ < end_block_ && next_block_ - first_block_ < wanted) {
    // Memory first: CopyFromMemory fails only for blocks below head, which the device then has.
    if (CopyFromMemory()) continue;
    if (absl::Status status = ReadFromDevice(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

bool LogCursor::Reserve(std::uint64_t blocks) {
  blocks = std::min(blocks, end_block_ - first_block_);
  if (blocks <= capacity_) return true;
  AlignedBuffer grown = AllocateAligned(blocks * kBlockBytes);
  if (grown == nullptr) return false;
  if (bytes_ != nullptr) {
    std::memcpy(grown.get(), bytes_.get(), (next_block_ - first_block_) * kBlockPayloadBytes);
  }
  bytes_ = std::move(grown);
  capacity_ = blocks;
  return true;
}

// Copies some blocks of the next page that has any. Returns false if they are no longer in memory.
bool LogCursor::CopyFromMemory() {
  const std::uint64_t page_end =
      (next_block_ / geometry_.blocks_per_page() + 1) * geometry_.blocks_per_page();
  const std::uint64_t end = std::min({next_block_ + kCopyBlocks, page_end, end_block_});
  const Address start = geometry_.BlockStart(next_block_);
  // Other threads write beyond end_.
  const std::uint64_t bytes = std::min((end - next_block_) * kBlockPayloadBytes, end_ - start);
  EpochGuard guard(core_.epochs, slot_);
  // Under the guard: the frame stays as it is until the guard ends.
  if (start < core_.log.head_acquire()) return false;
  CopyFromLog(core_.log.At(start, guard), bytes,
              bytes_.get() + (next_block_ - first_block_) * kBlockPayloadBytes);
  next_block_ = end;
  return true;
}

// Returns the block before which everything is on the device, and stays there. Whole blocks are:
// head is within a block only after an opening, and then that block is there too.
std::uint64_t LogCursor::DeviceEnd() const {
  const Address head = core_.log.head_acquire();
  const std::uint64_t block = geometry_.BlockOf(head);
  return std::min(end_block_, geometry_.BlockStart(block) == head ? block : block + 1);
}

absl::Status LogCursor::ReadFromDevice() {
  const auto piece_from = [this](std::uint64_t block) {
    return ReadAhead::Piece{block, std::min(block + piece_blocks_, DeviceEnd())};
  };
  const absl::StatusOr<ReadAhead::Piece> piece = ahead_.Take(
      piece_from(next_block_), bytes_.get() + (next_block_ - first_block_) * kBlockPayloadBytes);
  // Pieces come in order, so this one continues the loaded blocks.
  EBB_CHECK(!piece.ok() || piece->first == next_block_);
  if (!piece.ok()) {
    ahead_.Drop();  // the next call begins again from here
    asked_end_ = next_block_;
    return piece.status();
  }
  next_block_ = piece->end;
  asked_end_ = std::max(asked_end_, next_block_);
  if (config_.ahead_bytes == 0) return absl::OkStatus();
  for (;;) {                                               // ends: the amount read ahead is limited
    const ReadAhead::Piece next = piece_from(asked_end_);  // the device's end moves
    if (next.first >= next.end || !ahead_.Ask(next)) return absl::OkStatus();
    asked_end_ = next.end;
  }
}

// Parses records from the loaded blocks, up to the first that is incomplete.
absl::Status LogCursor::Parse() {
  const RecordShape shape = core_.log.shape();
  while (cursor_ < end_ && geometry_.BlockOf(cursor_) < next_block_) {
    const std::uint64_t block = geometry_.BlockOf(cursor_);
    const std::uint64_t offset = geometry_.OffsetOf(cursor_);
    const std::uint64_t at =
        (block - first_block_) * kBlockPayloadBytes + offset % kBlockPayloadBytes;
    // A record ends with its page at the latest, and before end_.
    const std::uint64_t room = std::min(geometry_.payload_bytes() - offset, end_ - cursor_);
    const std::uint64_t loaded =
        std::min(room, (next_block_ - first_block_) * kBlockPayloadBytes - at);
    const Record record(bytes_.get() + at, shape);
    const RecordHeader header = record.header().LoadAcquire();
    const bool is_record = header.kind() == RecordKind::kRecord;
    const std::uint64_t least = is_record ? shape.prefix_bytes() : 8;
    // Not enough is loaded to know the record's length.
    if (loaded < least && loaded < room) break;
    const std::uint64_t extent = least <= room ? record.ExtentOf() : 0;
    // The record continues in a block that is not loaded yet.
    if (extent > loaded && extent <= room) break;
    if (extent == 0 || extent % 8 != 0 || !record.WellFormed(room)) {
      return core_.reader.Damaged(block, "holds a malformed record");
    }
    // Fillers, control records and records that never became valid are skipped.
    if (is_record && header.valid()) items_.push_back({cursor_, record});
    cursor_ = geometry_.Normalize(cursor_ + extent);
  }
  return absl::OkStatus();
}

}  // namespace ebb::internal
