// Recovery: finds or creates a store's files and gets back what they hold.
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
// The pages scanned last stay in memory, as many as the budget holds less those read ahead. What
// is below the start of a scan stays on the device.
//
// With a checkpoint (manifest.h) the scan begins where its image ends. One that does not verify is
// passed over for the next older one; without any the whole log is read.
//
// Thread safety: one opening at a time for a directory; the lock file sees to it. Progress: reads
// the log in the pool, ahead of the calling thread, which fills the index.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "ebb/internal/coordinator.h"
#include "ebb/internal/core.h"
#include "ebb/options.h"
#include "ebb/verify.h"

namespace ebb::internal {

// What tests put in the place of the machine. Production code uses the default.
struct Environment {
  FileSystem* file_system = nullptr;  // null: the real one
  bool in_memory = false;             // no files at all
  bool force_fallback = false;        // guards without membarrier
  // Sizes below what options allow; 0: by the options.
  int page_shift = 0;
  std::uint64_t frame_count = 0;
  std::uint64_t segment_blocks = 0;
  int index_exponent = -1;
  int address_bits = 0;
  int pool_threads = -1;
};

// What the files say about keys and values.
struct StoredTypes {
  RecordShape shape;
  std::uint32_t codec_word = 0;  // codec.h; 0: both are built in
};

struct OpenedStore {
  std::shared_ptr<Core> core;
  std::unique_ptr<Coordinator> coordinator;
  RecoveryReport report;
};

inline constexpr const char* kLockName = "LOCK";
// The directory with its lock. InvalidArgument for a bad path, FailedPrecondition when it is open
// already.
absl::StatusOr<std::unique_ptr<Directory>> OpenLocked(FileSystem& file_system,
                                                      const std::string& path, bool create = true);

// Opens the store at `path` for records of these types, or creates it. Errors: InvalidArgument
// (options), FailedPrecondition (opened elsewhere, other types or page size), Unimplemented (newer
// format), DataLoss, ResourceExhausted, Unavailable. After an error the directory is as it was, but
// that a directory and a lock file that did not exist may have been made.
absl::StatusOr<OpenedStore> OpenStore(const std::string& path, const Options& options,
                                      StoredTypes types, const Environment& environment);

// VerifyDirectory in any file system.
absl::StatusOr<VerifyReport> VerifyFiles(FileSystem& file_system, const std::string& path,
                                         const VerifyOptions& options);

}  // namespace ebb::internal
