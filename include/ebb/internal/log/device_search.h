// DeviceSearch: the search for a key in the part of a chain that is on the device, one read of
// blocks after the other. The caller performs the reads, so that searches can overlap.
//
//   search.Begin(part);
//   while (search.Step(reader, key, key_bytes)) Read(search.read());
//   ... search.status(), search.record() ...
//
// Records on the device do not change. So a result holds forever, until the log's begin has passed
// the searched part: then it is Aborted, and the operation must start again.
//
// Thread safety: one thread at a time, outside guards. Progress: Step never waits; each read
// advances it down the chain by a record, or to the rest of a long one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "ebb/internal/device/block_queue.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/log/log_reader.h"

namespace ebb::internal {

class DeviceSearch {
 public:
  // The part of a chain: from `from` down to `begin`, which was loaded before the entry.
  struct Part {
    Address from;
    Address begin;
  };

  void Begin(Part part);
  // Forgets part and result.
  void Clear() { state_ = State::kNothing; }
  // Does the same, and frees memory of more than `max_bytes`.
  void Trim(std::size_t max_bytes) {
    Clear();
    buffer_.Trim(max_bytes);
  }
  // Returns true if read() must be read before the next Step; false if the search has ended.
  bool Step(LogReader& reader, const void* key, std::size_t key_bytes);
  // Performs the whole search, one read after the other.
  void Run(LogReader& reader, const void* key, std::size_t key_bytes);
  BlockRead& read() { return read_; }

  std::size_t memory_bytes() const { return buffer_.bytes(); }
  bool under_way() const { return state_ == State::kUnderWay; }
  bool ended() const { return state_ == State::kEnded; }
  // Returns the status of a search that has ended: OK, DataLoss, Unavailable, ResourceExhausted;
  // Aborted, see above.
  const absl::Status& status() const { return status_; }
  // Returns whether it has ended successfully and began at `address`.
  bool Answers(Address address) const { return ended() && status_.ok() && part_.from == address; }
  Address from() const { return part_.from; }
  // Returns the newest record of the key, in this object's memory; it may be a tombstone. Nothing:
  // there is none.
  const std::optional<Record>& record() const { return record_; }

 private:
  enum class State : std::uint8_t { kNothing, kUnderWay, kEnded };
  // Continues with the blocks that have been read. Returns true if it needs more of them.
  absl::StatusOr<bool> Look(LogReader& reader, const void* key, std::size_t key_bytes);

  State state_ = State::kNothing;
  Part part_;
  Address at_;              // the record being read
  std::uint64_t have_ = 0;  // blocks of it that have been read and verified
  DeviceBuffer buffer_;
  BlockRead read_;
  absl::Status status_;
  std::optional<Record> record_;
};

}  // namespace ebb::internal
