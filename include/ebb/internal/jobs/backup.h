// Backup: copies the parts of a checkpoint into another directory, which then is a store.
//
// The parts are the blocks of the log from its begin to the end of the checkpoint's commit, the
// image of the index and the manifest. None of them changes any more, and each is verified while it
// is copied. The copy's durable end (durable_end.h) is written as the manifest states it. Blocks
// after the commit belong to later commits and are not copied. So the copy, when it is opened, is
// the store as that commit left it.
//
// A prefix of a log is also a log, of an older state. So a partial copy must never look like a
// store. A marker, a separate file, is in the directory from before the first file to after the
// last sync, and Open fails on a directory that holds it. In any state that an error, a crash or a
// kill leaves behind, the directory
//   - is empty, or
//   - holds the marker, and then any part of a copy, or
//   - holds a complete copy without the marker.
// The marker's name is durable before the lock file exists, because a directory with nothing but a
// lock file opens as a new store. When a copy is removed, the marker is removed last, after the
// removal of all other names is durable. Once its removal has been tried at the end of a copy,
// nothing else is removed.
//
// Two backups into one directory exclude each other by a lock on the marker. A store that is
// created there at the same time either sees the marker, or its files are seen by the listing that
// follows the backup's own lock. A backup into a marked directory removes the files of the
// unfinished one and begins again.
//
// Syncs, in order: the marker's name; each file as it is complete; all names; the marker's removal.
//
// Thread safety: one thread; nothing may truncate the log or remove the checkpoint in the meantime.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/checkpoint/store_files.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/stats.h"

namespace ebb::internal {

// The directory of a backup: marked and locked. Its destructor empties it again unless Complete was
// called; if that fails, the directory stays marked.
class BackupTarget {
 public:
  // Creates the directory if it is missing. Errors: InvalidArgument (it holds anything except an
  // unfinished backup), FailedPrecondition (it is in use).
  static absl::StatusOr<std::unique_ptr<BackupTarget>> Open(FileSystem& file_system,
                                                            const std::string& path);
  ~BackupTarget();
  BackupTarget(const BackupTarget&) = delete;
  BackupTarget& operator=(const BackupTarget&) = delete;

  Directory& directory() { return *directory_; }
  // To be called when all files are there and synced: makes their names durable and removes the
  // marker.
  absl::Status Complete();

 private:
  enum class State : std::uint8_t {
    kUntouched,
    kWasMarked,  // or may hold more than the marker: nothing is removed after an error
    kMarked,     // by this backup, and holds nothing else of it
    kLocked,     // and marked; all files are a backup's
    kDone,
  };

  BackupTarget() = default;
  absl::Status OpenDirectories(FileSystem& file_system, const std::string& path);
  absl::Status Mark(const std::string& path);
  void TakeAway();

  // Not literals, so that no removal allocates memory.
  const std::string marker_name_ = kUnfinishedBackupName;
  const std::string lock_name_ = kLockName;
  std::unique_ptr<Directory> marker_directory_;  // holds the lock on the marker
  std::unique_ptr<Directory> directory_;         // holds the lock of the new store
  State state_ = State::kUntouched;
};

struct BackupJob {
  std::uint64_t checkpoint_id = 0;
  std::function<bool()> stop;
  std::function<void(const BackupProgress&)> progress;  // may be empty
};
// Copies the checkpoint into `target` and completes it. An exception from `progress` passes
// through.
absl::StatusOr<BackupInfo> WriteBackup(Core& core, const BackupJob& job, BackupTarget& target);

}  // namespace ebb::internal
