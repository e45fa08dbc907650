// ReadAhead: one piece of the log that the pool reads before it is needed. Who needs it reads it
// itself if the pool has not begun.
//
//   ReadAhead ahead(core);
//   auto piece = ahead.Take({first, end}, buffer);     // read now
//   ahead.Ask({end, end + 256});                       // meanwhile
//   ... work on the buffer ...
//   piece = ahead.Take({end, end + 256}, buffer);
//
// Thread safety: one thread; the pool's help. Progress: Take waits for the device, Ask never, the
// destructor for a read that has begun. Memory: the largest piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "ebb/internal/core.h"

namespace ebb::internal {

class ReadAhead {
 public:
  // Blocks of the log, from the first up to the end.
  struct Piece {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
  };

  explicit ReadAhead(Core& core);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Lets the pool read `piece`, unless another is asked for; nothing without threads.
  void Ask(Piece piece);
  // Forgets what was asked for.
  void Drop();
  // The payloads of what was asked for, or else of `piece`, one after the other in `to`; says which
  // it was. Errors: ResourceExhausted, and those of HybridLog::FetchBlocks.
  absl::StatusOr<Piece> Take(Piece piece, std::byte* to);

 private:
  struct Job;
  bool Prepare(Piece piece);

  Core& core_;
  const std::shared_ptr<Job> job_;  // with what the pool has not begun
};

}  // namespace ebb::internal
