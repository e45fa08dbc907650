// LiveReader: the records of a part of the log that are the newest of their keys, for scans and
// compaction. It joins LogReader, which reads, and Liveness, which decides.
//
//   LiveReader reader(core, slot, {.from = begin, .end = end}, {.below = end});
//   for (;;) {
//     absl::StatusOr<bool> more = reader.Step();
//     if (!more.ok()) return more.status();
//     if (!*more) break;
//     for (const LiveReader::Item& item : reader.live()) ... until the next step ...
//   }
//
// A record whose chain goes on with another one on the device is nearly always dead, but only the
// bytes there say so, and they are anywhere in the log above. To look after each chunk would be to
// read the log once for each. So the keys of such records are kept, as many as a quarter of
// the log's memory holds, and decided all together in one go through the log; those few that turn
// out to be live are read once more. Hence records are shown in no order. Tombstones are left out.
//
// Thread safety: one thread, which is inside a slow call or a job for as long as Step runs.
// Progress: Step waits for the device. Memory: a quarter of the log's, from 1 to 256 MiB, and two
// LogReaders.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/internal/liveness.h"
#include "ebb/internal/log_reader.h"

namespace ebb::internal {

class LiveReader {
 public:
  struct Config {
    Address below = Liveness::kEverything;  // see liveness.h
    std::string_view prefix{};              // of the keys to show; outlives the reader
    LogReader::Config reading{};
    std::uint64_t most_open_bytes = 0;  // kept before they are decided; 0: as said above
  };
  struct Item {
    Address address;
    Record record;
    IndexEntry head;  // of its chain, on which it was decided
  };

  // `slot` is the caller's, and outside a guard whenever Step is called.
  LiveReader(Core& core, EpochSlot& slot, LogReader::Range range, const Config& config);

  // Goes a piece further; false when all has been shown. Errors of LogReader and Liveness. Throws
  // bad_alloc.
  absl::StatusOr<bool> Step();
  // What the last step has found, perhaps nothing.
  std::span<const Item> live() const { return live_; }
  // Reads nothing new from now on; what has been read will still be decided.
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
  LogReader reader_;
  Liveness liveness_;
  const std::uint64_t most_open_bytes_;
  bool at_end_ = false;
  Address settled_;
  std::uint64_t read_records_ = 0;
  std::vector<Item> live_;
  std::vector<Liveness::Candidate> chunk_;
  // What could not be decided yet; then, while it is read again, what of it is live, by address.
  std::vector<Liveness::Open> open_;
  bool is_decided_ = false;
  std::size_t revisited_ = 0;              // of open_
  std::unique_ptr<LogReader> revisiting_;  // null: none is near
};

}  // namespace ebb::internal
