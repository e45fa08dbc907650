// Backup: copies what a checkpoint consists of into another directory, which then is a store.
//
// These are the blocks of the log from its begin to the end of the checkpoint's commit, the image
// of the index and the manifest. None of them changes any more, and each is verified on its way.
// What is behind the commit belongs to later ones and is left out; so the copy, when it is opened,
// is the store as that commit left it.
//
// A prefix of a log is a log too, of an older state. So that the trace of a backup that was
// interrupted is not taken for a store, a file of its own stands in the directory from before the
// first byte to after the last sync, and nothing that holds it is opened.
//
// Syncs, in order: the marker's name; each file as it is complete; all names; the marker's removal.
//
// Thread safety: one thread; nothing may truncate the log or remove the checkpoint meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/internal/file_system.h"
#include "ebb/stats.h"

namespace ebb::internal {

inline constexpr const char* kUnfinishedBackupName = "UNFINISHED-BACKUP";

// The directory, locked; made when it is absent. InvalidArgument when there is anything in it,
// FailedPrecondition when it is in use.
absl::StatusOr<std::unique_ptr<Directory>> OpenBackupDirectory(FileSystem& file_system,
                                                               const std::string& path);

struct BackupJob {
  std::uint64_t checkpoint_id = 0;
  std::function<bool()> stop;
  std::function<void(const BackupProgress&)> progress;  // may be empty
};
// After an error the directory is empty again, or marked.
absl::StatusOr<BackupInfo> WriteBackup(Core& core, const BackupJob& job, Directory& target);

}  // namespace ebb::internal
