// LiveScan: shows each key that is there, once, with its newest value below an address.
//
// Beginning: end := the tail; everything below is frozen; the log's begin is pinned. A record in
// [begin, end) is shown if and only if it is the first of its key below `end` and no tombstone
// (liveness.h). So what came before the scan began is shown, what came after its end was taken is
// not, and what ran beside its beginning may or may not be.
//
// A chunk of the log at a time is read, and decided; between two chunks, so also while its user
// looks at a record, a scan holds nothing but its pin and its memory.
//
// Thread safety: one thread at a time; any number of scans. Progress: the constructor waits for
// guards to end, so it must not be called under one; Next waits for the device.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/core.h"
#include "ebb/internal/liveness.h"
#include "ebb/internal/log_reader.h"

namespace ebb::internal {

class LiveScan {
 public:
  // Of keys whose bytes begin with `prefix`.
  LiveScan(std::shared_ptr<Core> core, std::string prefix);
  ~LiveScan();
  LiveScan(const LiveScan&) = delete;
  LiveScan& operator=(const LiveScan&) = delete;

  // Moves to the next record; false at the end and after an error, both of which last.
  bool Next();
  // After Next said true, and until it is called again.
  const Record& record() const { return live_[shown_ - 1]; }
  const absl::Status& status() const { return status_; }
  // Ends it: a codec does not take what the record holds. False, for Next to return.
  bool Fail(const char* what, std::size_t bytes);

 private:
  absl::Status Begin();
  // Sets live_; empty at the end.
  absl::Status LoadChunk();
  absl::Status DecideChunk(std::span<const LogReader::Item> items);
  void End();

  const std::shared_ptr<Core> core_;  // outlives the rest
  const std::string prefix_;
  EpochSlot* const slot_;
  absl::Status status_;
  std::optional<Address> pin_;
  Address end_;
  std::unique_ptr<LogReader> reader_;  // null: before the beginning or after the end
  Liveness liveness_;
  std::vector<Liveness::Candidate> candidates_;
  std::vector<Record> live_;
  std::size_t shown_ = 0;
};

}  // namespace ebb::internal
