// Recovery: gets back what a store's files hold (store_files.h), and begins its next history.
//
// The log describes itself. Opening scans it from its begin, which the last commit record states
// (log_scan.h; what was truncated below is not looked at): every block is verified, and
// records are kept pending until a control record of their version commits them. The scan ends at
// the first block that does not verify or belongs to another history. Then it tells two cases
// apart: if some later block holds a commit record that states an address above the bad block to
// be durable, the block has been damaged, and opening answers DataLoss with file and offset;
// otherwise the block was never written whole, and the log ends after its last commit record.
//
// A history is named by its incarnation (block.h). It ends where an open record begins that names
// it as its predecessor and this block as its cut; anything else of another incarnation is what a
// crash left behind.
//
// Only when the scan has succeeded is anything changed: what lies behind the last commit record is
// cut off, and an open record with a new incarnation is written and synced. An interrupted opening
// leaves the same log to be opened again.
//
// A read-only opening (Options::read_only) ends with the scan. The log ends at its last commit. A
// history that no block states begins there, in memory alone: of records of earlier ones, only an
// opening knows which count (log_verifier.cc). The store's health rejects changes (health.h).
// Nothing is written again or synced, so what is shown may be in the page cache alone.
//
// The pages scanned last stay in memory, as many as the budget holds less those read ahead. What
// is below the start of a scan stays on the device.
//
// Salvage (Options::salvage). After a scan that ended with DataLoss the log is scanned again,
// without images, and what ends it is no damage. The log is cut behind the last commit that was
// found. Before that, what states that more was durable is taken back: the durable end, then the
// manifests. Both come after the sync of what is kept, so that the new durable end is true. A crash
// in between leaves a log that is damaged as before, or one that ends where it is to be cut.
//   Where the log begins, the last commit record says that verifies, although it may be among what
//   is
// dropped: the front may have been given back for its sake. The begin that the commit that is kept
// states counts if its block is still there.
//
// With a checkpoint (manifest.h) the scan begins where its image ends. One that does not verify is
// passed over for the next older one; without any the whole log is read.
//
// Thread safety: one opening at a time for a directory; the lock file sees to it. Progress: reads
// the log in the pool, ahead of the calling thread, and both fill the index.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/coordinator.h"
#include "ebb/internal/core.h"
#include "ebb/internal/store_config.h"
#include "ebb/options.h"

namespace ebb::internal {

class LogScan;
struct FoundSegments;
struct FoundCheckpoints;

struct OpenedStore {
  std::shared_ptr<Core> core;
  std::unique_ptr<Coordinator> coordinator;
  RecoveryReport report;
};

// Opens the store at `path` for records of these types, or creates it if the options allow that.
// Errors: InvalidArgument (options), NotFound (no store, create_if_missing is false),
// FailedPrecondition (opened elsewhere, other types or page size), Unimplemented (newer
// format), DataLoss, ResourceExhausted, Unavailable. After an error the directory is as it was, but
// that a directory and a lock file that did not exist may have been made.
absl::StatusOr<OpenedStore> OpenStore(const std::string& path, const Options& options,
                                      StoredTypes types, const Environment& environment);

enum class ScanMode : std::uint8_t {
  kWithImages,  // from where the newest image ends that leads to the log's begin
  kLogAlone,
  kSalvage,  // the log alone, up to the first bad block
};
// Scans the log into the index and the frames from where it begins. Changes no file.
absl::Status ScanLog(Core& core, const FoundSegments& found, ScanMode mode,
                     const std::function<void(const RecoveryProgress&)>& progress,
                     FoundCheckpoints& checkpoints, std::optional<LogScan>& scan);

}  // namespace ebb::internal
