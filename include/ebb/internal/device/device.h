// Device: where blocks of the log go. FileDevice keeps them in segment files, MemoryDevice in
// memory for a store without files.
//
// A block is 4 KiB and has a number; block n of the log is at a place that only the device knows.
// Buffers are aligned to 4 KiB and hold whole blocks. A device moves bytes and reports errors; it
// neither seals nor judges blocks (block.h does).
//
// Thread safety: Read and Write may run in any number of threads; two writes never overlap. Sync
// is called by one thread and covers the writes that had returned; TruncateFront is called by one
// thread; Truncate and Close are called by one thread while nothing else runs. Progress: all may
// block.
//
// Space is reserved before it is written to, some of it ahead, so that a disk that is full is found
// out before anything is accepted (hybrid_log.h).
//
// Errors: ResourceExhausted when there is no space (the same write may succeed later),
// Unavailable for any other failed call, and for every failed sync or close whatever its cause,
// DataLoss for files that were removed or replaced while the device was open,
// with file, offset and cause. Short transfers are continued, EINTR and EAGAIN retried.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

inline constexpr std::size_t kBlockBytes = 4096;

// Aligned memory for device transfers.
struct AlignedFree {
  void operator()(std::byte* bytes) const;
};
using AlignedBuffer = std::unique_ptr<std::byte[], AlignedFree>;
AlignedBuffer AllocateAligned(std::size_t bytes);  // null when memory is out

struct BlockRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  // Reads blocks [block, block + bytes.size() / 4 KiB). OutOfRange when one was never written.
  virtual absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) = 0;
  // Where `count` blocks lie, for a ReadRing; no file when they are in none, or in two.
  struct Place {
    std::shared_ptr<File> file;
    std::uint64_t offset = 0;
  };
  virtual Place Locate(std::uint64_t /*block*/, std::uint64_t /*count*/) { return {}; }
  virtual absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) = 0;
  // Everything written before survives a power loss. A failure is never retried by the caller.
  // DataLoss when a file that was synced, or the directory's lock, has been removed by someone
  // else: the bytes are durable, but no opening will find them.
  virtual absl::Status Sync() = 0;
  // The same check without a sync; with `of_all`, of every file.
  virtual absl::Status CheckNames(bool /*of_all*/) { return absl::OkStatus(); }
  // Takes the space for blocks [begin, end), so that writing them does not fail for lack of it.
  // What was taken before an error stays. One thread at a time.
  virtual absl::Status Reserve(std::uint64_t /*begin*/, std::uint64_t /*end*/) {
    return absl::OkStatus();
  }
  // Writes blocks [begin, end) as they are read, and the headers of files that begin there, so that
  // the next Sync writes them out: a sync that failed in an earlier life may have dropped them from
  // the device while the page cache still shows them.
  virtual absl::Status WriteAgain(std::uint64_t /*begin*/, std::uint64_t /*end*/) {
    return absl::OkStatus();
  }
  // Removes every block at and after `block`, durably.
  virtual absl::Status Truncate(std::uint64_t block) = 0;
  // Gives back the space of every block below `block`, as far as the device can, and says how many
  // bytes that were. Reads there fail, or find zeros, from now on. Nothing below may be needed ever
  // again: a power loss may undo it in part.
  virtual absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) = 0;
  // How many blocks at the front of a log of `log_blocks` are given back at once or not at all; 0
  // if each block can be. Does not wait.
  virtual std::uint64_t FreedAsOne(std::uint64_t /*log_blocks*/) const { return 0; }
  // One more than the last block that the device may hold; blocks below may still be invalid.
  virtual std::uint64_t EndBlock() const = 0;
  // The blocks that the device may hold, in order; there can be gaps.
  virtual std::vector<BlockRange> HeldBlocks() const { return {{0, EndBlock()}}; }
  // Where a block is, for error messages: "log-00000003.ebb at offset 8192".
  virtual std::string Describe(std::uint64_t block) const = 0;
  virtual absl::Status Close() = 0;
  virtual bool direct() const = 0;
};

class MemoryDevice final : public Device {
 public:
  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override;
  absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) override;
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Truncate(std::uint64_t block) override;
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) override;
  std::uint64_t EndBlock() const override;
  std::string Describe(std::uint64_t block) const override;
  absl::Status Close() override { return absl::OkStatus(); }
  bool direct() const override { return false; }

 private:
  mutable Mutex mu_;
  std::vector<AlignedBuffer> blocks_ ABSL_GUARDED_BY(mu_);
  std::uint64_t freed_end_ ABSL_GUARDED_BY(mu_) = 0;
};

// Segment k holds blocks [k * segment_blocks, (k + 1) * segment_blocks) behind one header block.
//
//   log-00000000.ebb:  | header | block 0 | block 1 | ... | block segment_blocks - 1 |
//
// The header is written by the caller's image, so that this file knows no format: `header` is
// asked for the bytes of segment k's header block when the segment is created.
//
// Descriptors: a log may have more segments than a process may have descriptors, so about
// `open_files` segments are open at a time, and the others are opened again when they are needed.
//   - A file is closed only when it is idle: no write since its last successful sync, no user, and
//     not one of the files at the tail (the one that is written to and the next few), so that a
//     commit opens no file. A user holds a shared_ptr, and new users come only under mu_, so under
//     mu_ a use count of one stays one until the file is closed.
//   - Why not with unsynced writes: the kernel reports a failed write to the descriptors that are
//     open at that time. A later one would sync without an error.
//   - When too many files have unsynced writes, the device syncs one itself. Such a sync holds
//     sync_mu_, so that Sync waits for it, and Sync returns its failure: a mark that is off is of a
//     sync that has succeeded or whose failure is still to be returned.
//   - Without a file to close, a read opens a descriptor for itself, and Locate returns no file. So
//     at most one descriptor for each reading thread is added.
//   - A file that is opened again must be the one that was closed (FileId): otherwise DataLoss.
//   - An open that fails for lack of descriptors is repeated for as long as an idle file can be
//     closed.
class FileDevice final : public Device {
 public:
  static constexpr std::size_t kOpenFiles = 64;
  class HeaderSource {
   public:
    virtual ~HeaderSource() = default;
    // Fills one block with the header of the segment whose first block is `first_block`.
    virtual void WriteHeader(std::uint64_t first_block, std::span<std::byte> block) const = 0;
  };
  struct Config {
    std::uint64_t segment_blocks = 0;
    bool direct_io = true;
    bool read_only = false;  // then only calls that read are made
    // Space that is taken on the disk at a time, ahead of what is written; 0: none.
    std::uint64_t reserve_blocks = 0;
    std::size_t open_files = kOpenFiles;  // above zero; exceeded as described above
  };

  // `directory` and `headers` outlive the device. Opens the segments that exist, creates none.
  static absl::StatusOr<std::unique_ptr<FileDevice>> Open(Directory& directory,
                                                          const HeaderSource& headers,
                                                          Config config);
  // Names of the segment files, and the number of the segment that a name means.
  static std::string SegmentName(std::uint64_t segment);
  static bool ParseSegmentName(const std::string& name, std::uint64_t& segment);

  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override;
  Place Locate(std::uint64_t block, std::uint64_t count) override;
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
  // True when every segment is; false while there is none.
  bool direct() const override;

 private:
  struct Segment {
    std::uint64_t number = 0;
    std::shared_ptr<File> file;        // also with its users; null: closed
    FileId id;                         // of the file, open or not
    std::uint64_t block_count = 0;     // whole blocks that the file's size covers
    std::uint64_t reserved_count = 0;  // blocks that have their space on the disk
    std::uint64_t freed_count = 0;     // blocks at its front whose space has been given back
    bool direct = false;
    bool unsynced = false;
    bool written = false;   // by this device, and unsynced since
    bool unlinked = false;  // by the device itself, or about to be
    bool used = false;      // since the search for an idle file came by
  };
  // Whether a file that was closed becomes one of the device's open ones.
  enum class Keep : std::uint8_t {
    kIfRoom,      // otherwise it is open for the caller alone
    kOnlyIfRoom,  // otherwise it is not opened
    kAlways,      // for a write
  };

  FileDevice(Directory& directory, const HeaderSource& headers, Config config)
      : directory_(directory), headers_(headers), config_(config) {}
  absl::Status OpenSegment(std::uint64_t number);
  // The segment's place in segments_, or the place where it belongs.
  std::size_t PlaceOf(std::uint64_t number) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Null when there is no such segment.
  Segment* Find(std::uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Its file, opened again if need be. Null when there is no such segment, or no room.
  absl::StatusOr<std::shared_ptr<File>> FindSegment(std::uint64_t number, Keep keep);
  absl::StatusOr<std::shared_ptr<File>> OpenAgain(std::uint64_t number, Keep keep);
  absl::StatusOr<std::shared_ptr<File>> FindOrCreateSegment(std::uint64_t number);
  // Without a descriptor to be had, closes idle files.
  OpenedFile OpenFile(const std::string& name, OpenFlags flags, Keep keep);
  // True when another file may be opened, since an idle one was closed or since few are open.
  bool MakeRoom(Keep keep);
  // False when there is none. With kAlways, syncs one that is not idle for that reason alone.
  bool CloseIdle(Keep keep);
  // Takes an idle file from its segment, for the caller to close it without the lock.
  std::shared_ptr<File> TakeIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsAtTail(std::uint64_t number) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SyncOldest();
  absl::Status SyncSegment(std::uint64_t number, File& file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mu_);
  // Takes space for the first `block_count` blocks of a segment, and some more while there is some.
  absl::Status ReserveIn(std::uint64_t number, std::uint64_t block_count);
  // Writes zeros to blocks [begin, end) of a segment, where nothing else can take their space.
  static int WriteZeros(File& file, BlockRange blocks);
  absl::StatusOr<std::unique_ptr<File>> CreateSegment(std::uint64_t number);
  // True when the segment is the tail's for the first time.
  bool NoteWritten(std::uint64_t number, std::uint64_t block_count);
  void NoteUnsynced(std::uint64_t number);
  // DataLoss when someone else has removed the file. The device's own removals are marked first.
  absl::Status CheckName(std::uint64_t number, const File& file);
  static absl::Status SyncErrorOf(const char* call, std::uint64_t number, int error) noexcept;
  absl::Status CutSegment(std::uint64_t number, std::uint64_t block_count);
  absl::StatusOr<std::uint64_t> FreeFront(std::uint64_t number, std::uint64_t block_count);

  Directory& directory_;
  const HeaderSource& headers_;
  const Config config_;
  Atomic<bool> punches_holes_{true};  // until a file says that it cannot

  // One creation at a time; taken before mu_, so that nobody who only looks for a file waits for
  // the creation of another.
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

// Continues short transfers and retries EINTR and EAGAIN. 0 or an errno value; `moved` counts the
// bytes that arrived (less than asked for only at the end of the file or with an error).
struct FullTransfer {
  std::size_t moved = 0;
  int error = 0;
};
FullTransfer ReadFully(File& file, std::uint64_t offset, std::span<std::byte> bytes);
FullTransfer WriteFully(File& file, std::uint64_t offset, std::span<const std::byte> bytes);

// The Status of a failed call on a file: ResourceExhausted for lack of space, memory or
// descriptors, else Unavailable; the message names the call, the file, the offset and the cause.
absl::Status FileError(const char* call, const std::string& file, std::uint64_t offset, int error);
// The Status of a failed sync or close, always Unavailable: the kernel may have dropped pages, so
// it is never tried again. Throws nothing, because a store whose sync failed has to be poisoned
// also when there is no memory for the message.
absl::Status SyncError(const char* call, const char* file, int error) noexcept;

}  // namespace ebb::internal
