// Lifetime: which parts of a log count. This is the one definition of live, dead and damaged that
// operations, recovery, verifiers, scans, collections and backups share.
//
// Everything depends on an address, the log's begin.
//
//   open store  `HybridLog::begin()`. It moves only in `Checkpointer::FollowCommits`, which is part
//               of a job, so it is constant during any other job (a verification, a backup, a
//               checkpoint).
//   files       The begin that the last commit record of the committed log states
//               (`LogReplay::begin()`), or the first address that a record can have.
//
// The begin of an open store is never above the begin of its last durable commit record.
//
//   dead      Everything below begin: records, whatever their bytes are or whether they still
//             exist. A reference to an address below begin refers to nothing, and is no damage.
//             This holds for entries of the index, entries of a checkpoint's image, previous
//             addresses of records, and for a checkpoint whose scan would start below begin.
//             At or above begin: records that are not valid (record.h), and records that an opening
//             found uncommitted ("void", log_replay.h).
//   live      A valid record at or above begin that is neither void nor followed by a newer record
//             of its key; see liveness.h.
//   damaged   A reference to an address at or above begin that does not lead to a valid record of
//             its chain; a chain that passes over one of its records, unless that one is void; a
//             block at or above begin, and below an address that some commit record or checkpoint
//             states to be durable, that does not verify.
//
// Argument (nothing below begin counts). A collection scans a part of the log. It copies the newest
//   record of every key of that part, unless that record is a tombstone, before it states the end
//   of the part as begin (compaction.h). So each key whose newest record was below begin has a
//   newer record above it, or is absent. An index entry keeps its old address, now below begin,
//   exactly if no record of its chain was copied and none has been published since: then all its
//   keys are absent. An image that was written before the collection has many such entries; it was
//   right when it was written, and the rule keeps it right.
//
// Recovery loads an image before it knows the log's begin for certain: the last commit record of
// the files may turn out to be uncommitted, and then the begin is lower than it states. Therefore
// `LoadIndexImage` keeps entries below that statement. They are harmless after the scan, because
// every reader of an entry applies this rule, and are swept with the others (hash_index.h).
//
// Thread safety: functions without state.
#pragma once

#include <algorithm>

#include "ebb/internal/format/address.h"

namespace ebb::internal {

// Returns whether the record at `address`, or the scan of a checkpoint from there, is dead in a log
// that begins at `begin`.
constexpr bool IsDead(Address address, Address begin) { return address < begin; }

// Returns the begin of a log in files whose last commit record states `stated`, which is null if
// there is none. The first block holds only an open record.
constexpr Address BeginOfFiles(const Geometry& geometry, Address stated) {
  return std::max(stated, geometry.BlockStart(1));
}

}  // namespace ebb::internal
