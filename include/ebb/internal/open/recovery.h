// Recovery: restores the contents of a store's files (store_files.h), and begins its next
// incarnation.
//
// The log describes itself. Opening scans it from its begin, which the last commit record states
// (log_replay.h; truncated parts below are not read). It verifies every block, and keeps records
// pending until a control record of their version commits them. The scan ends at the first block
// that does not verify or belongs to another incarnation. Then it distinguishes two cases. If some
// later block holds a commit record that states an address above the bad block to be durable, the
// block has been damaged, and opening returns DataLoss with file and offset. Otherwise the block
// was never written completely, and the log ends after its last commit record.
//
// An incarnation is one opening for writing and everything written by it; its number is in every
// block (block.h). It ends where an open record begins that names it as its predecessor and this
// block as its cut. Any other block of another incarnation was left behind by a crash.
//
// Files are changed only after the scan has succeeded: an open record with a new incarnation is
// written after the last commit record, then the log after it is cut off, and both are synced. An
// interrupted opening leaves the same log for the next one.
//
// Argument (the record may come before the cut, as it must on a full disk: the cut frees space that
//   another program may take before the record is written). A crash in between leaves blocks of
//   older incarnations after the record. No scan accepts them, and none takes them for a sign of
//   damage: a commit record states as durable only the log up to the commit before it, or up to the
//   open record of its incarnation, and both lie below the cut, or the scan would have returned
//   DataLoss. A scan may start at the begin that one of them states, but not in the new open record
//   (log_replay.h); it ends there, and the next one starts below. A record that replaces an earlier
//   one is written only if nothing follows that. The cut is durable before the opening returns, so
//   no later commit has such blocks after it. The part that a salvage drops does contain statements
//   above the cut, so there the cut comes first.
//
// A read-only opening (Options::read_only) ends with the scan. The log ends at its last commit. An
// incarnation that no block states begins there, in memory only. It makes a difference for records
// of earlier incarnations: only an opening knows which of them count (log_verifier.cc). The store's
// health rejects changes (health.h). Nothing is written again or synced, so the contents may be in
// the page cache only.
//
// The pages scanned last stay in memory, as many as the budget holds, less those read ahead. The
// log below the start of a scan stays on the device.
//
// Salvage (Options::salvage). After a scan that ended with DataLoss, the log is scanned again
// without images, and the place where this scan ends is not treated as damage. The log is cut after
// the last commit that was found. Before that, the statements that more was durable are withdrawn:
// the durable end, then the manifests. Both come after the sync of the part that is kept, so the
// new durable end is true. A crash in between leaves a log that is damaged as before, or one that
// ends where it is to be cut.
//   The log's begin comes from the last commit record that verifies, although that may be in the
//   part that is dropped: the space below its begin may have been freed because of it. The begin
//   that the kept commit states counts if its block still exists.
//
// With a checkpoint (manifest.h) the scan begins where its image ends. If a checkpoint does not
// verify, the next older one is used; without any the whole log is read.
//
// Thread safety: one opening at a time for a directory, which the lock file enforces. Progress:
// reads the log in the pool, ahead of the calling thread, and both fill the index.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/core/store_config.h"
#include "ebb/internal/jobs/coordinator.h"
#include "ebb/options.h"

namespace ebb::internal {

class LogReplay;
struct FoundSegments;
struct FoundCheckpoints;

struct OpenedStore {
  std::shared_ptr<Core> core;
  std::unique_ptr<Coordinator> coordinator;
  RecoveryReport report;
};

// Opens the store at `path` for records of these types, or creates it if the options allow that.
// Errors: InvalidArgument (options), NotFound (no store, create_if_missing is false),
// FailedPrecondition (open elsewhere, other types or page size), Unimplemented (newer format),
// DataLoss, ResourceExhausted, Unavailable. After an error the directory is unchanged, except that
// a missing directory and lock file may have been created.
absl::StatusOr<OpenedStore> OpenStore(const std::string& path, const Options& options,
                                      StoredTypes types, const Environment& environment);

enum class ScanMode : std::uint8_t {
  kWithImages,  // from the end of the newest image that leads to the log's begin
  kLogAlone,
  kSalvage,  // the log only, up to the first bad block
};
// Scans the log into the index and the frames from its begin. Changes no file.
absl::Status ScanLog(Core& core, const FoundSegments& found, ScanMode mode,
                     const std::function<void(const RecoveryProgress&)>& progress,
                     FoundCheckpoints& checkpoints, std::optional<LogReplay>& scan);

}  // namespace ebb::internal
