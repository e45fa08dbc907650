// Compaction: copies the live records at the front of the log to its tail, so that the front can be
// given back.
//
// Lookup compaction, as in FASTER's later versions: a record is live if the walk from its index
// entry reaches exactly its address as the first record of its key (live_reader.h). A live record
// is appended again under the condition that it still is: the copy is published by a CAS of the
// entry that the decision was made on, or, if the chain has grown since, after what came above has
// been searched for the key. Tombstones are dropped: everything older than a tombstone is below it,
// and goes with it.
//
// Argument (nothing is lost, nothing comes back). Records below `until` are frozen: nobody changes
//   them, and every update that depends on one publishes its successor by a CAS of the same entry.
//   So of a copy and an update one comes first, and the other sees it: the copy finds the key above
//   and is dropped, or the update starts from the copy, which holds the same value. A blind upsert
//   that comes after the copy stands above it.
//   After the pass every key whose newest record was below the cursor, and no tombstone, has a
//   newer record above, published before the pass ended. An entry loaded from then on leads there.
//   So whoever loads begin after ShiftBegin, and then an entry, needs nothing below begin.
//   A version that begins after the pass holds all copies; its commit may state the new begin, and
//   no earlier one may. Only when that commit is durable does begin move in memory, and only then
//   are blocks given back (coordinator.h): a crash before it needs the old front, and one after it
//   does not.
//
// A pass that cannot go on for lack of space ends where all before has been decided. Copies have a
// slice of the space (hybrid_log.h). While updates are rejected for lack of space, a pass goes
// through at most half of what the slice holds, so that all of its copies fit.
//
// Thread safety: one thread at a time, without a guard; beside operations, commits and scans.
// Progress: waits for the device, and for pages like any append. Memory: a LiveReader's.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/internal/live_reader.h"
#include "ebb/internal/liveness.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class Compaction {
 public:
  // Whether to stop; called between chunks with what has been done.
  using Stop = std::function<bool(const GcStats&)>;

  // `slot` is the caller's, and outside a guard. Adds what it does to `stats`.
  Compaction(Core& core, EpochSlot& slot, GcStats& stats)
      : core_(core), slot_(slot), liveness_(core, slot), stats_(stats) {}

  // Copies what is live in `range`, for about `pass_bytes`; all before it is dead, and its end is a
  // start of a record at or below safe_read_only. Everything below what it returns is dead.
  // Aborted: the store was closed.
  absl::StatusOr<Address> Run(LogReader::Range range, std::uint64_t pass_bytes, const Stop& stop);

 private:
  absl::StatusOr<Address> RunPass(LogReader::Range range, std::uint64_t pass_bytes,
                                  const Stop& stop);
  absl::Status Copy(const LiveReader::Item& live);
  // What has become of an attempt, or what it needs.
  enum class Next { kDone, kWait, kMakeRoom, kDecide };
  Next TryCopy(const LiveReader::Item& live, std::uint64_t extent);
  // What a record's chain holds above the entry that it was found live on.
  enum class Above { kNothing, kSuccessor, kUnknown };
  Above LookAbove(const LiveReader::Item& live, IndexEntry entry, const EpochGuard& guard) const;

  Core& core_;
  EpochSlot& slot_;
  Liveness liveness_;
  GcStats& stats_;
};

}  // namespace ebb::internal
