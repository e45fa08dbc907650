// The contents of a store's directory: its lock, the files of its log, its checkpoints, and the
// durable end of the log (durable_end.h). This finds them, and creates the first.
//
// A header that does not verify may end the log, may be damaged, or may belong to a file that is
// not needed any more. Finding reports it, and the reader of the log decides.
//
// Thread safety: one opening at a time for a directory, which the lock enforces. Progress: waits
// for the device.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {

inline constexpr const char* kLockName = "LOCK";
// The file that marks a directory while a backup is copied into it (backup.h).
inline constexpr const char* kUnfinishedBackupName = "UNFINISHED-BACKUP";

// Returns whether a file of this name belongs to a store or a backup, complete or not. The lock is
// not one of them.
bool IsDataFile(const std::string& name);

// Opens a directory; `create` creates it if it is missing. Returns InvalidArgument for a bad path,
// also if it is missing.
absl::StatusOr<std::unique_ptr<Directory>> OpenPath(FileSystem& file_system,
                                                    const std::string& path, bool create);
// Locks it for a store: a writer creates the lock file. Returns FailedPrecondition if another
// writer, or for a writer any reader, has locked it.
absl::Status LockDirectory(Directory& directory, const std::string& path,
                           LockKind kind = LockKind::kWriter);
// Does both. A writer creates the directory if it is missing.
absl::StatusOr<std::unique_ptr<Directory>> OpenLocked(FileSystem& file_system,
                                                      const std::string& path,
                                                      LockKind kind = LockKind::kWriter);
// NotFound: Options::create_if_missing is false, or read_only is set.
absl::Status NoStoreError(const std::string& path);
// Does the same for a directory that must hold a store: returns NotFound if there is none, and then
// creates nothing.
absl::StatusOr<std::unique_ptr<Directory>> OpenLockedStore(FileSystem& file_system,
                                                           const std::string& path, LockKind kind);

// The files of the log.
struct FoundSegments {
  std::vector<std::uint64_t> numbers;   // ascending
  std::optional<SegmentHeader> header;  // of the first good file; nothing: there is no store yet
  std::map<std::uint64_t, std::string> bad_headers;  // segments, and the faults of them
  std::string foreign;  // a file that no store creates; empty: there is none
};
// Errors: FailedPrecondition (an unfinished backup); DataLoss (files of another store, no header
// verifies, or checkpoints or a durable end without a log).
absl::StatusOr<FoundSegments> FindSegments(Directory& directory);

// Creates the first files of a new store, which then exists: the durable end, then the log's file.
// That one gets its name only when its header is durable. So a file of that name without a header
// is never the result of a crash.
absl::Status CreateFirstFile(Directory& directory, const SegmentHeader& header);

// Writes the headers of further files.
HeaderWriter HeadersLike(const SegmentHeader& header);

// The checkpoints in the directory.
struct FoundCheckpoints {
  std::vector<Manifest> manifests;  // those that verify, in order of id
  std::uint64_t last_id = 0;        // of any file
  Address durable;                  // according to the manifests and the durable end
  std::vector<std::string> notes;
};
// Finds those of the store with this id and geometry. Errors: Unimplemented (a newer format),
// ResourceExhausted. A checkpoint or a durable end that does not verify is a note.
absl::StatusOr<FoundCheckpoints> FindCheckpoints(Directory& directory, std::uint64_t store_id,
                                                 const Geometry& geometry);

}  // namespace ebb::internal
