// Compaction: copies the live records at the beginning of the log to its tail, so that the space
// before them can be freed.
//
// Lookup compaction, as in FASTER's later versions: a record is live if the walk from its index
// entry reaches exactly its address as the first record of its key (live_record_reader.h). A live
// record is appended again under the condition that it is still live. The copy is published by a
// CAS of the entry on which the decision was based. If the chain has grown since, the newer records
// are first searched for the key. Tombstones are dropped: everything older than a tombstone is
// below it, and disappears with it.
//
// Argument (nothing is lost, nothing returns). Records below `until` are frozen: no thread changes
//   them, and every update that depends on one publishes its successor by a CAS of the same entry.
//   So of a copy and an update one comes first, and the other sees it: the copy finds the key above
//   and is dropped, or the update starts from the copy, which holds the same value. A blind upsert
//   that comes after the copy is above it.
//   A copy is frozen from the start (record.h): no update in place can be mistaken for it.
//   After the pass, every key whose newest record was below the cursor and no tombstone has a newer
//   record above, published before the pass ended. An entry loaded from then on leads there. So a
//   thread that loads begin after ShiftBegin, and then an entry, needs nothing below begin.
//   A version that begins after the pass holds all copies; its commit may state the new begin, and
//   no earlier one may. Only when that commit is durable does begin move in memory, and only then
//   are blocks freed (committer.h). A crash before that needs the old part of the log, and one
//   after it does not.
//
// A pass that cannot continue for lack of space ends where everything before has been decided.
// Copies have a slice of the space (log_space.h). While updates are rejected for lack of space, a
// pass scans at most half as many bytes as the slice holds, so that all of its copies fit.
//
// Thread safety: one thread at a time, without a guard; concurrently with operations, commits and
// scans. Progress: waits for the device, and for pages like any append. Memory: a
// LiveRecordReader's.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/scan/live_record_reader.h"
#include "ebb/internal/scan/liveness.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class Compaction {
 public:
  // Returns whether to stop; called between chunks with the counts so far.
  using Stop = std::function<bool(const GcStats&)>;

  // `slot` belongs to the caller, and is outside a guard. Adds its counts to `stats`.
  Compaction(Core& core, EpochSlot& slot, GcStats& stats)
      : core_(core), slot_(slot), liveness_(core, slot), stats_(stats) {}

  // Copies the live records in `range`, for about `pass_bytes`. Everything before the range is
  // dead, and its end is the start of a record at or below safe_read_only. Returns the address
  // below which everything is dead now. Errors: ClosedError() (the store was closed); those of
  // reads and appends.
  absl::StatusOr<Address> Run(LogCursor::LogRange range, std::uint64_t pass_bytes,
                              const Stop& stop);

 private:
  absl::StatusOr<Address> RunPass(LogCursor::LogRange range, std::uint64_t pass_bytes,
                                  const Stop& stop);
  absl::Status Copy(const LiveRecordReader::LiveRecord& live);
  // The result of an attempt, or its next need.
  enum class Next { kDone, kWait, kMakeRoom, kDecide };
  Next TryCopy(const LiveRecordReader::LiveRecord& live, std::uint64_t extent);
  // The contents of a record's chain above the entry on which it was found live.
  enum class Above { kNothing, kSuccessor, kUnknown };
  Above LookAbove(const LiveRecordReader::LiveRecord& live, IndexEntry entry,
                  const EpochGuard& guard) const;

  Core& core_;
  EpochSlot& slot_;
  Liveness liveness_;
  GcStats& stats_;
};

}  // namespace ebb::internal
