// ReadAhead: pieces of the log that are read before they are needed, beside each other.
//
//   ReadAhead ahead(core, 512);                        // at most 512 blocks ahead
//   while (ahead.Ask(next)) ...                        // meanwhile
//   ... work ...
//   auto piece = ahead.Take({first, end}, buffer);     // what was asked first, or else this
//
// Thread safety: one thread; the pool's help. Progress: Take waits for the device; Ask does not,
// but for a piece that lies in two files; Drop and the destructor wait for what has begun. Memory:
// the blocks ahead and a piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "ebb/internal/block_queue.h"
#include "ebb/internal/core.h"

namespace ebb::internal {

class ReadAhead {
 public:
  // Blocks of the log, from the first up to the end.
  struct Piece {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
  };

  ReadAhead(Core& core, std::uint64_t most_blocks);
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Begins to read `piece`. False: not now; too much is ahead already, or memory is short.
  bool Ask(Piece piece);
  // Forgets what was asked for.
  void Drop();
  // The payloads of what was asked for first, or else of `piece`, one after the other in `to`; says
  // which it was. Errors: ResourceExhausted, and those of HybridLog::TakeBlocks.
  absl::StatusOr<Piece> Take(Piece piece, std::byte* to);

 private:
  static constexpr std::size_t kMostPieces = BlockQueue::kDepth / 4;
  struct Slot {
    Piece piece;
    BlockRead read;
    bool ended = false;
    AlignedBuffer bytes;
    std::uint64_t capacity = 0;  // blocks
  };
  bool Begin(Piece piece);

  Core& core_;
  const std::uint64_t most_blocks_;
  std::uint64_t blocks_ = 0;                  // that are ahead
  std::uint64_t capacity_ = 0;                // of all slots
  std::deque<std::unique_ptr<Slot>> asked_;   // in order
  std::vector<std::unique_ptr<Slot>> spare_;  // for their memory
  // Reads into the slots. Made by the first of them: what is in memory needs none.
  std::unique_ptr<BlockQueue> queue_;
};

}  // namespace ebb::internal
