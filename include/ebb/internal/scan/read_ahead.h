// ReadAhead: pieces of the log that are read before they are needed, with overlapping reads.
//
//   ReadAhead ahead(core, 512);                        // at most 512 blocks ahead
//   while (ahead.Ask(next)) ...                        // in the meantime
//   ... work ...
//   auto piece = ahead.Take({first, end}, buffer);     // the first requested piece, or this one
//
// Thread safety: one thread; the pool's threads help. Progress: Take waits for the device. Ask does
// not, except for a piece that spans two files. Drop and the destructor wait for reads that have
// begun. Memory: the blocks ahead and a piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/device/block_queue.h"

namespace ebb::internal {

class ReadAhead {
 public:
  // Blocks of the log, from the first up to the end.
  struct Piece {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
  };

  ReadAhead(Core& core, std::uint64_t max_blocks);
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Begins to read `piece`. Returns false if that is impossible now: too much is ahead already, or
  // memory is short.
  bool Ask(Piece piece);
  // Forgets the requested pieces.
  void Drop();
  // Copies the payloads of the first requested piece, or of `piece` if there is none, one after the
  // other to `to`. Returns which piece it was. Errors: ResourceExhausted, and those of
  // LogReader::Verify.
  absl::StatusOr<Piece> Take(Piece piece, std::byte* to);

 private:
  static constexpr std::size_t kMaxPieces = BlockQueue::kDepth / 4;
  struct PieceBuffer {
    Piece piece;
    BlockRead read;
    bool ended = false;
    AlignedBuffer bytes;
    std::uint64_t capacity = 0;  // blocks
  };
  bool Begin(Piece piece);

  Core& core_;
  const std::uint64_t max_blocks_;
  std::uint64_t blocks_ = 0;                         // that are ahead
  std::uint64_t capacity_ = 0;                       // of all slots
  std::deque<std::unique_ptr<PieceBuffer>> asked_;   // in order
  std::vector<std::unique_ptr<PieceBuffer>> spare_;  // kept for their memory
  // Reads into the slots. Created for the first of them: blocks in memory need none.
  std::unique_ptr<BlockQueue> queue_;
};

}  // namespace ebb::internal
