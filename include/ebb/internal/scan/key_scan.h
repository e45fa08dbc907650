// KeyScan: shows each key that is present once, with its newest value below an address.
//
// Beginning: end := the tail; everything below is frozen; the log's begin is pinned. A record in
// [begin, end) is shown if and only if it is the first of its key below `end` and no tombstone
// (liveness.h). So updates from before the scan began are shown, updates after its end was fixed
// are not, and updates concurrent with its beginning may or may not be.
//
// It advances by one piece at a time (live_record_reader.h). Between two pieces, and so while the
// user handles a record, a scan holds only its pin and its memory.
//
// Thread safety: one thread at a time; any number of scans. Progress: the constructor waits for
// guards to end, so it must not be called under one; Next waits for the device.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/format/record.h"

namespace ebb::internal {

class LiveRecordReader;

class KeyScan {
 public:
  // Shows only keys whose bytes begin with `prefix`.
  KeyScan(std::shared_ptr<Core> core, std::string prefix);
  ~KeyScan();
  KeyScan(const KeyScan&) = delete;
  KeyScan& operator=(const KeyScan&) = delete;

  // Moves to the next record. Returns false at the end and after an error, both permanently.
  bool Next();
  // Valid after Next returned true, until it is called again.
  const Record& record() const { return record_; }
  const absl::Status& status() const { return status_; }
  // Ends the scan: a codec rejects the record's bytes. Returns false, for Next to return.
  bool Fail(const char* what, std::size_t bytes);
  bool Fail(const absl::Status& status);

 private:
  absl::Status Begin();
  // Lets the reader advance until it has live records; it has none at the end.
  absl::Status LoadMore();
  void End();

  const std::shared_ptr<Core> core_;  // outlives the rest
  const std::string prefix_;
  EpochSlot* const slot_;  // not an OwnSlot: a forked child does not release it
  absl::Status status_;
  std::optional<Pins::Pin> pin_;
  Address end_;
  std::unique_ptr<LiveRecordReader> reader_;  // null: before the beginning or after the end
  std::size_t shown_ = 0;                     // of its live records
  Record record_{nullptr, {}};                // the last of these
};

}  // namespace ebb::internal
