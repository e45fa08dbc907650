// What lies in a store's directory: its lock, the files of its log, its checkpoints, and how far
// the log was durable (durable_end.h). Finds them, and makes the first.
//
// A header that does not verify ends the log, or is damaged, or belongs to a file that is not
// needed any more: finding tells of it, and who reads the log decides.
//
// Thread safety: one opening at a time for a directory; the lock sees to it. Progress: waits for
// the device.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/block.h"
#include "ebb/internal/device.h"
#include "ebb/internal/file_system.h"
#include "ebb/internal/manifest.h"

namespace ebb::internal {

inline constexpr const char* kLockName = "LOCK";
// Stands in a directory while a backup is copied into it (backup.h).
inline constexpr const char* kUnfinishedBackupName = "UNFINISHED-BACKUP";

// Opens a directory; `create` creates it when it is absent. InvalidArgument for a bad path, also of
// one that is absent.
absl::StatusOr<std::unique_ptr<Directory>> OpenPath(FileSystem& file_system,
                                                    const std::string& path, bool create);
// Locks it for a store: a writer creates the lock file. FailedPrecondition when another writer, or
// for a writer any reader, has locked it.
absl::Status LockDirectory(Directory& directory, const std::string& path,
                           LockKind kind = LockKind::kWriter);
// Both. A writer creates the directory when it is absent.
absl::StatusOr<std::unique_ptr<Directory>> OpenLocked(FileSystem& file_system,
                                                      const std::string& path,
                                                      LockKind kind = LockKind::kWriter);
// NotFound: Options::create_if_missing is false, or read_only is set.
absl::Status NoStoreError(const std::string& path);
// The same for a directory that must hold a store: NotFound when there is none, and then nothing is
// created.
absl::StatusOr<std::unique_ptr<Directory>> OpenLockedStore(FileSystem& file_system,
                                                           const std::string& path,
                                                           LockKind kind);

// The files of the log.
struct FoundSegments {
  std::vector<std::uint64_t> numbers;   // ascending
  std::optional<SegmentHeader> header;  // of the first good one; nothing: there is no store yet
  std::map<std::uint64_t, std::string> bad_headers;  // segments, and what is wrong with them
  std::string foreign;  // a file that no store creates; empty: there is none
};
// FailedPrecondition for a backup that was not finished, DataLoss for files of another store, for
// headers of which none verifies, and for checkpoints or a durable end without a log.
absl::StatusOr<FoundSegments> FindSegments(Directory& directory);

// The first files of a new store, which then exists: the durable end, then the log's. That one gets
// its name only when its header is durable, so that a file of that name without a header is never
// the trace of a crash.
absl::Status CreateFirstFile(Directory& directory, const SegmentHeader& header);

// Headers of further files.
class SegmentHeaders final : public FileDevice::HeaderSource {
 public:
  explicit SegmentHeaders(const SegmentHeader& header) : header_(header) {}
  void WriteHeader(std::uint64_t first_block, std::span<std::byte> block) const override;

 private:
  const SegmentHeader header_;
};

// The checkpoints that the directory holds.
struct FoundCheckpoints {
  std::vector<Manifest> manifests;  // that verify, in order of id
  std::uint64_t last_id = 0;        // of any file
  Address durable;                  // as the manifests and the durable end state
  std::vector<std::string> notes;
};
// Those of the store with this id and geometry. Unimplemented for a newer format,
// ResourceExhausted; one that does not verify is a note, and so is a durable end.
absl::StatusOr<FoundCheckpoints> FindCheckpoints(Directory& directory, std::uint64_t store_id,
                                                 const Geometry& geometry);

}  // namespace ebb::internal
