// LiveRecordReader: the records of a part of the log that are the newest of their keys, for scans
// and compaction. It combines LogCursor, which reads, and Liveness, which decides.
//
//   LiveRecordReader reader(core, slot, {.from = begin, .end = end}, {.below = end});
//   for (;;) {
//     absl::StatusOr<bool> more = reader.Step();
//     if (!more.ok()) return more.status();
//     if (!*more) break;
//     for (const LiveRecordReader::LiveRecord& live : reader.live()) ... until the next step ...
//   }
//
// A record whose chain continues with another record on the device is nearly always dead. But only
// the bytes there prove it, and they can be anywhere in the log above. A check after each chunk
// would read the log once for each chunk. So the keys of such records are kept, as many as a
// quarter of the log's memory holds, and decided together in one pass over the log. The few that
// turn out to be live are read again. So records are shown in no particular order. Tombstones are
// omitted.
//
// Thread safety: one thread, which is inside a slow call or a job for as long as Step runs.
// Progress: Step waits for the device. Memory: a quarter of the log's, from 1 to 256 MiB, and two
// LogCursors.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/scan/liveness.h"
#include "ebb/internal/scan/log_cursor.h"

namespace ebb::internal {

class LiveRecordReader {
 public:
  struct Config {
    Address below = Liveness::kEverything;  // see liveness.h
    std::string_view prefix{};              // of the keys to show; outlives the reader
    LogCursor::Config reading{};
    std::uint64_t max_open_bytes = 0;  // kept before they are decided; 0: as described above
  };
  struct LiveRecord {
    Address address;
    Record record;
    IndexEntry head;  // of its chain; the decision is based on it
  };

  // `slot` belongs to the caller, and is outside a guard whenever Step is called.
  LiveRecordReader(Core& core, EpochSlot& slot, LogCursor::LogRange range, const Config& config);

  // Advances by one piece. Returns false if everything has been shown. Errors: those of LogCursor
  // and Liveness. Throws bad_alloc.
  absl::StatusOr<bool> Step();
  // Returns the live records of the last step, perhaps none.
  std::span<const LiveRecord> live() const { return live_; }
  // Reads no new records from now on; those that have been read will still be decided.
  void EndHere() { at_end_ = true; }

  // Everything below has been read, and everything below `settled` decided and shown.
  Address cursor() const { return reader_.cursor(); }
  Address settled() const { return settled_; }
  std::uint64_t read_records() const { return read_records_; }

 private:
  absl::Status ReadChunk();
  absl::Status SettleOpen();
  absl::Status RevisitChunk();

  Core& core_;
  EpochSlot& slot_;
  const Config config_;
  LogCursor reader_;
  Liveness liveness_;
  const std::uint64_t max_open_bytes_;
  bool at_end_ = false;
  Address settled_;
  std::uint64_t read_records_ = 0;
  std::vector<LiveRecord> live_;
  std::vector<Liveness::Candidate> chunk_;
  // The undecided records; later, while they are read again, those that are live, by address.
  std::vector<Liveness::Open> open_;
  bool is_decided_ = false;
  std::size_t revisited_ = 0;              // of open_
  std::unique_ptr<LogCursor> revisiting_;  // null: no undecided record is near
};

}  // namespace ebb::internal
