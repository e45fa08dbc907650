#include "ebb/internal/scan/read_ahead.h"

#include <cstring>
#include <utility>

#include "ebb/internal/base/no_memory.h"

namespace ebb::internal {

ReadAhead::ReadAhead(Core& core, std::uint64_t max_blocks) : core_(core), max_blocks_(max_blocks) {}

void ReadAhead::Drop() {
  // Waits for the reads in flight, whose memory is reused.
  if (queue_ != nullptr) queue_->Drop();
  for (std::unique_ptr<PieceBuffer>& slot : asked_) spare_.push_back(std::move(slot));
  asked_.clear();
  blocks_ = 0;
}

bool ReadAhead::Ask(Piece piece) {
  // A limit for the number of pieces and for their memory. The caller asks again when it has taken
  // one.
  if (asked_.size() == kMaxPieces || blocks_ + (piece.end - piece.first) > max_blocks_ ||
      !Begin(piece)) {
    return false;
  }
  queue_->Submit();
  return true;
}

bool ReadAhead::Begin(Piece piece) {
  const std::uint64_t blocks = piece.end - piece.first;
  if (queue_ == nullptr) queue_.reset(new BlockQueue(core_.NewBlockQueue()));
  if (spare_.empty()) {
    // Room for all slots, so that returning one never allocates.
    spare_.reserve(asked_.size() + 1);
    spare_.push_back(std::make_unique<PieceBuffer>());
  }
  PieceBuffer& slot = *spare_.back();
  // The slot's memory is too small: free it, and that of other spare slots, before allocating a
  // larger one.
  if (slot.capacity < blocks) {
    capacity_ -= std::exchange(slot.capacity, 0);
    slot.bytes = nullptr;
    for (; capacity_ + blocks > max_blocks_ && spare_.size() > 1; spare_.erase(spare_.begin()))
      capacity_ -= spare_.front()->capacity;
    slot.bytes = AllocateAligned(blocks * kBlockBytes);
    if (slot.bytes != nullptr) {
      std::memset(slot.bytes.get(), 0, blocks * kBlockBytes);  // see block_queue.h
    }
    if (slot.bytes == nullptr) return false;
    capacity_ += slot.capacity = blocks;
  }
  slot.piece = piece;
  slot.ended = false;
  slot.read.block = piece.first;
  slot.read.bytes = {slot.bytes.get(), blocks * kBlockBytes};
  slot.read.owner = &slot;
  asked_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  blocks_ += blocks;
  queue_->Start(slot.read);
  return true;
}

absl::StatusOr<ReadAhead::Piece> ReadAhead::Take(Piece piece, std::byte* to) {
  // Nothing was read ahead, or there was no memory for it: read this piece now.
  if (asked_.empty() && !Begin(piece)) {
    return NoMemory();
  }
  // Pieces are taken in the order in which they were requested, not in which they end.
  PieceBuffer& slot = *asked_.front();
  while (!slot.ended) static_cast<PieceBuffer*>(queue_->Take(/*wait=*/true)->owner)->ended = true;
  const std::uint64_t blocks = slot.piece.end - slot.piece.first;
  spare_.push_back(std::move(asked_.front()));
  asked_.pop_front();
  blocks_ -= blocks;
  // Only now are the blocks verified, in the caller's thread.
  if (absl::Status status = core_.reader.Verify(slot.read); !status.ok()) return status;
  // Payloads are joined, so that records that cross blocks are contiguous.
  for (std::uint64_t i = 0; i < blocks; ++i) {
    std::memcpy(to + i * kBlockPayloadBytes, slot.bytes.get() + i * kBlockBytes,
                kBlockPayloadBytes);
  }
  return slot.piece;
}

}  // namespace ebb::internal
