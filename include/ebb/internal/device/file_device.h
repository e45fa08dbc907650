// FileDevice: the blocks of the log in segment files.
//
// Segment k holds blocks [k * segment_blocks, (k + 1) * segment_blocks), after one header block.
//
//   log-00000000.ebb:  | header | block 0 | block 1 | ... | block segment_blocks - 1 |
//
// The caller's HeaderWriter writes the header when a segment is created, so this file does not know
// the format.
//
// Descriptors. A log may have more segments than a process may have descriptors. So about
// `open_files` segments are open at a time, and the others are reopened when they are needed.
//   - A file is closed only if it is idle: it has no write since its last successful sync and no
//     user, and is not one of the files at the tail (the one that is written and the next few). So
//     a commit opens no file. A user holds a shared_ptr, and new users come only under mu_.
//     Therefore, under mu_, a use count of one stays one until the file is closed.
//   - A file with unsynced writes is not closed, because the kernel reports a failed write only to
//     the descriptors that are open at that time. A later descriptor would sync without an error.
//   - If too many files have unsynced writes, the device syncs one itself. Such a sync holds
//     sync_mu_, so that Sync waits for it, and Sync returns its failure. So a file without the mark
//     `unsynced` had a sync that succeeded, or one whose failure Sync will still return.
//   - If no file can be closed, a read opens a descriptor for itself, and Locate returns no file.
//     So there is at most one additional descriptor for each reading thread.
//   - A file that is reopened must be the one that was closed (FileId): otherwise DataLoss.
//   - An open that fails for lack of descriptors is repeated as long as an idle file can be closed.
//
// Thread safety, progress and errors: as Device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

class FileDevice final : public Device {
 public:
  static constexpr std::size_t kOpenFiles = 64;
  struct Config {
    std::uint64_t segment_blocks = 0;
    bool direct_io = true;
    bool read_only = false;  // then only calls that read are allowed
    // Space that is reserved on the disk at a time, ahead of the writes; 0: none.
    std::uint64_t reserve_blocks = 0;
    std::size_t open_files = kOpenFiles;  // above zero; exceeded as described above
  };

  // `directory` outlives the device. Opens the segments that exist, creates none.
  static absl::StatusOr<std::unique_ptr<FileDevice>> Open(Directory& directory,
                                                          HeaderWriter write_header, Config config);
  // Return the name of a segment's file, and the number in such a name.
  static std::string SegmentName(std::uint64_t segment);
  static bool ParseSegmentName(const std::string& name, std::uint64_t& segment);

  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override;
  BlockLocation Locate(std::uint64_t block, std::uint64_t count) override;
  absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) override;
  absl::Status Reserve(std::uint64_t begin, std::uint64_t end) override;
  absl::Status Sync() override;
  absl::Status CheckNames(bool of_all) override;
  absl::Status WriteAgain(std::uint64_t begin, std::uint64_t end) override;
  absl::Status Truncate(std::uint64_t block) override;
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) override;
  std::uint64_t FreedAsOne(std::uint64_t log_blocks) const override {
    return punches_holes_.load(std::memory_order_relaxed)  // a hint
               ? 0
               : std::min(config_.segment_blocks, log_blocks);
  }
  std::uint64_t EndBlock() const override;
  std::vector<BlockRange> HeldBlocks() const override;
  std::string Describe(std::uint64_t block) const override;
  absl::Status Close() override;
  // True if every segment is open for direct I/O; false if there is none.
  bool direct() const override;

 private:
  struct Segment {
    std::uint64_t number = 0;
    std::shared_ptr<File> file;        // shared with its users; null: closed
    FileId id;                         // of the file, open or not
    std::uint64_t block_count = 0;     // whole blocks that the file's size covers
    std::uint64_t reserved_count = 0;  // blocks whose space is reserved on the disk
    std::uint64_t freed_count = 0;     // blocks at its front whose space has been freed
    bool direct = false;
    bool unsynced = false;
    bool written = false;   // by this device, and unsynced since
    bool unlinked = false;  // by the device itself, or about to be
    bool used = false;      // since the last search for an idle file
  };
  // Whether a file that was closed becomes one of the device's open ones.
  enum class Keep : std::uint8_t {
    kIfRoom,      // otherwise it is open for the caller alone
    kOnlyIfRoom,  // otherwise it is not opened
    kAlways,      // for a write
  };

  FileDevice(Directory& directory, HeaderWriter write_header, Config config)
      : directory_(directory), write_header_(std::move(write_header)), config_(config) {}
  absl::Status OpenSegment(std::uint64_t number);
  // Returns the segment's position in segments_, or the position where it belongs.
  std::size_t PlaceOf(std::uint64_t number) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns null if there is no such segment.
  Segment* Find(std::uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns its file, reopened if necessary; null if there is no such segment, or no room.
  absl::StatusOr<std::shared_ptr<File>> FindSegment(std::uint64_t number, Keep keep);
  absl::StatusOr<std::shared_ptr<File>> OpenAgain(std::uint64_t number, Keep keep);
  absl::StatusOr<std::shared_ptr<File>> FindOrCreateSegment(std::uint64_t number);
  // If no descriptor is available, closes idle files.
  OpenedFile OpenFile(const std::string& name, OpenFlags flags, Keep keep);
  // Returns whether another file may be opened, because few are open or an idle one was closed.
  bool MakeRoom(Keep keep);
  // Returns false if no file is idle. With kAlways, first syncs a file that is not idle only
  // because of its unsynced writes.
  bool CloseIdle(Keep keep);
  // Removes an idle file from its segment, so that the caller can close it without the lock.
  std::shared_ptr<File> TakeIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsAtTail(std::uint64_t number) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SyncOldest();
  absl::Status SyncSegment(std::uint64_t number, File& file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mu_);
  // Reserves space for the first `block_count` blocks of a segment, and some more if there is some.
  absl::Status ReserveIn(std::uint64_t number, std::uint64_t block_count);
  // Writes zeros to blocks [begin, end) of a segment, so that nothing else can use their space.
  static int WriteZeros(File& file, BlockRange blocks);
  absl::StatusOr<std::unique_ptr<File>> CreateSegment(std::uint64_t number);
  // Returns whether the segment is the tail's for the first time.
  bool NoteWritten(std::uint64_t number, std::uint64_t block_count);
  void NoteUnsynced(std::uint64_t number);
  // Returns DataLoss if someone else has removed the file. The device's own removals are marked
  // first.
  absl::Status CheckName(std::uint64_t number, const File& file);
  static absl::Status SyncErrorOf(const char* call, std::uint64_t number, int error) noexcept;
  absl::Status CutSegment(std::uint64_t number, std::uint64_t block_count);
  absl::StatusOr<std::uint64_t> FreeFront(std::uint64_t number, std::uint64_t block_count);

  Directory& directory_;
  const HeaderWriter write_header_;
  const Config config_;
  Atomic<bool> punches_holes_{true};  // until a file reports that it cannot

  // One creation at a time. Acquired before mu_, so that a thread that only needs an existing file
  // does not wait for the creation of another.
  Mutex create_mu_ ABSL_ACQUIRED_BEFORE(sync_mu_);
  Mutex sync_mu_ ABSL_ACQUIRED_BEFORE(mu_);              // held by a sync of files
  absl::Status sync_failure_ ABSL_GUARDED_BY(sync_mu_);  // for Sync to return
  mutable Mutex mu_;
  // Sorted by number, usually without gaps. Not indexed by number: a stray file name must not
  // decide how much memory is used.
  std::deque<Segment> segments_ ABSL_GUARDED_BY(mu_);
  std::vector<std::uint64_t> open_ ABSL_GUARDED_BY(mu_);  // numbers of the segments with a file
  std::size_t hand_ ABSL_GUARDED_BY(mu_) = 0;    // where the next search for an idle file begins
  std::uint64_t tail_ ABSL_GUARDED_BY(mu_) = 0;  // the last segment that was written to
  std::uint64_t first_unsynced_ ABSL_GUARDED_BY(mu_) = 0;  // none below has the mark
  bool directory_unsynced_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace ebb::internal
