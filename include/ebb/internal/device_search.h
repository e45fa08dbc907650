// DeviceSearch: the search for a key in the part of a chain that lies on the device, one read of
// blocks after the other. Who drives it reads, so that searches can overlap.
//
//   search.Begin(part);
//   while (search.Step(log, key, key_bytes)) Read(search.read());
//   ... search.status(), search.record() ...
//
// What lies on the device does not change, so an answer holds for ever, until the log's begin has
// passed over where it was looked for: then it is Aborted, and the operation must start again.
//
// Thread safety: one thread at a time, outside guards. Progress: Step never waits; each read takes
// it down the chain by a record, or lets it see the rest of a long one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "ebb/internal/address.h"
#include "ebb/internal/block_queue.h"
#include "ebb/internal/hybrid_log.h"
#include "ebb/internal/record.h"

namespace ebb::internal {

class DeviceSearch {
 public:
  // The part of a chain: from `from` down to `begin`, which was loaded before the entry.
  struct Part {
    Address from;
    Address begin;
  };

  void Begin(Part part);
  // Forgets part and answer.
  void Clear() { state_ = State::kNothing; }
  // The same, and frees memory of more than `max_bytes`.
  void Trim(std::size_t max_bytes) {
    Clear();
    buffer_.Trim(max_bytes);
  }
  // True when read() is to be read before the next Step; false when the search has ended.
  bool Step(HybridLog& log, const void* key, std::size_t key_bytes);
  // All of it, one read after the other.
  void Run(HybridLog& log, const void* key, std::size_t key_bytes);
  BlockRead& read() { return read_; }

  std::size_t memory_bytes() const { return buffer_.bytes(); }
  bool under_way() const { return state_ == State::kUnderWay; }
  bool ended() const { return state_ == State::kEnded; }
  // Of a search that has ended: DataLoss, Unavailable, ResourceExhausted; Aborted, see above.
  const absl::Status& status() const { return status_; }
  // True when it has ended, well, and looked from `address` on.
  bool Answers(Address address) const { return ended() && status_.ok() && part_.from == address; }
  Address from() const { return part_.from; }
  // The newest record of the key, in this object's memory; it may be a tombstone. Nothing: there is
  // none.
  const std::optional<Record>& record() const { return record_; }

 private:
  enum class State : std::uint8_t { kNothing, kUnderWay, kEnded };
  // Goes on with the blocks that are here: true when it wants more of them.
  absl::StatusOr<bool> Look(HybridLog& log, const void* key, std::size_t key_bytes);

  State state_ = State::kNothing;
  Part part_;
  Address at_;              // the record that is looked for
  std::uint64_t have_ = 0;  // blocks of it that are here, verified
  DeviceBuffer buffer_;
  BlockRead read_;
  absl::Status status_;
  std::optional<Record> record_;
};

}  // namespace ebb::internal
