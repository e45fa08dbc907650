// The place of a block: block n is in segment n / segment_blocks, at file offset (1 + n %
// segment_blocks) * 4 KiB, after the segment's header block.
//
// Removed files: a file whose name someone else has removed (`rm -rf` of an open store) accepts
// writes and syncs as before, and all of its bytes are lost with its last descriptor. So each sync
// then checks the link count of the files that it has synced and of the lock file. If the device
// itself removes a segment, it marks it before the name is removed. The directory needs no check:
// it can be removed only when it is empty, so after the lock file.
//
// Syncs: a segment is marked when it was written since its last sync, the directory when a segment
// was created. A mark is cleared before the sync begins and set again if the sync fails. So a write
// that returns during a sync is never lost from the account. Every file that Open finds is marked:
// a process that was killed may have left its bytes only in the page cache, and nothing may be
// built on bytes read from there before they are durable.
#include "ebb/internal/device/file_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/internal/values/check.h"
#include "fmt/format.h"

namespace ebb::internal {
namespace {

constexpr const char* kLockFile = "the store's lock file";

// The number of files after the tail that stay open, as a fraction of all open ones.
constexpr std::size_t kShareAhead = 8;

absl::Status RemovedError(const std::string& file) {
  return absl::DataLossError(fmt::format(
      "{} was removed while the store was open: nothing more can be made durable; the store can "
      "still be read, so copy the records that you need before you close it",
      file));
}

absl::Status ReplacedError(const std::string& file) {
  return absl::DataLossError(fmt::format(
      "{} was replaced by another file while the store was open: put the original back, or close "
      "the store and open it again",
      file));
}

std::uint64_t BlocksIn(std::size_t bytes) { return bytes / kBlockBytes; }

}  // namespace

// ---- names ----

std::string FileDevice::SegmentName(std::uint64_t segment) {
  return fmt::format("log-{:08}.ebb", segment);
}

bool FileDevice::ParseSegmentName(const std::string& name, std::uint64_t& segment) {
  constexpr std::size_t kPrefixBytes = 4;
  constexpr std::size_t kDigitsMost = 10;
  // Digits are limited, so that `number` cannot overflow.
  std::uint64_t number = 0;
  std::size_t at = kPrefixBytes;
  for (; at < name.size() && at < kPrefixBytes + kDigitsMost; ++at) {
    if (name[at] < '0' || name[at] > '9') break;
    number = number * 10 + static_cast<std::uint64_t>(name[at] - '0');
  }
  // One spelling per number, so that two files can never claim the same blocks.
  if (number > std::numeric_limits<std::uint32_t>::max() || name != SegmentName(number)) {
    return false;
  }
  segment = number;
  return true;
}

std::string FileDevice::Describe(std::uint64_t block) const {
  return fmt::format("{} at offset {}", SegmentName(block / config_.segment_blocks),
                     (1 + block % config_.segment_blocks) * kBlockBytes);
}

// ---- opening ----

absl::StatusOr<std::unique_ptr<FileDevice>> FileDevice::Open(Directory& directory,
                                                             HeaderWriter write_header,
                                                             Config config) {
  EBB_CHECK(config.segment_blocks > 0);
  const absl::StatusOr<std::vector<std::string>> names = ListNames(directory);
  if (!names.ok()) return names.status();
  std::vector<std::uint64_t> numbers;
  for (const std::string& name : *names) {
    std::uint64_t number;
    if (ParseSegmentName(name, number)) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());

  std::unique_ptr<FileDevice> device(new FileDevice(directory, std::move(write_header), config));
  // All files are opened once, so that damage is found now. MakeRoom closes idle ones again.
  for (const std::uint64_t number : numbers) {
    if (absl::Status status = device->OpenSegment(number); !status.ok()) return status;
  }
  return device;
}

absl::Status FileDevice::OpenSegment(std::uint64_t number) {
  const std::string name = SegmentName(number);
  MakeRoom(Keep::kAlways);
  OpenedFile opened =
      OpenFile(name, {.write = !config_.read_only, .direct = config_.direct_io}, Keep::kAlways);
  if (opened.file == nullptr) return FileError("open", name, 0, opened.error);
  std::uint64_t size = 0;
  if (const int error = opened.file->Size(size); error != 0) {
    return FileError("size", name, 0, error);
  }
  // The first block is the header. A ragged last block was never completely written.
  const std::uint64_t whole_blocks = size / kBlockBytes;
  const std::uint64_t block_count =
      whole_blocks == 0 ? 0 : std::min(whole_blocks - 1, config_.segment_blocks);
  MutexLock lock(mu_);
  open_.push_back(number);
  const FileId id = opened.file->id();
  const bool direct = opened.file->direct();
  segments_.push_back({.number = number,
                       .file = std::move(opened.file),
                       .id = id,
                       .block_count = block_count,
                       .direct = direct,
                       .unsynced = true});
  directory_unsynced_ = true;
  return absl::OkStatus();
}

// ---- finding and creating segments ----

std::size_t FileDevice::PlaceOf(std::uint64_t number) const {
  if (segments_.empty() || number < segments_.front().number) return 0;
  // Without gaps below it, the position is the distance to the first number; with gaps, it is
  // before that.
  const std::uint64_t distance = number - segments_.front().number;
  if (distance < segments_.size() && segments_[distance].number == number) return distance;
  const auto place =
      std::lower_bound(segments_.begin(), segments_.end(), number,
                       [](const Segment& segment, std::uint64_t n) { return segment.number < n; });
  return static_cast<std::size_t>(place - segments_.begin());
}

FileDevice::Segment* FileDevice::Find(std::uint64_t number) {
  const std::size_t place = PlaceOf(number);
  if (place == segments_.size() || segments_[place].number != number) return nullptr;
  return &segments_[place];
}

// The descriptor cache. The common case is one lookup under mu_. The use count of the returned
// pointer keeps the file open.
absl::StatusOr<std::shared_ptr<File>> FileDevice::FindSegment(std::uint64_t number, Keep keep) {
  {
    MutexLock lock(mu_);
    Segment* const segment = Find(number);
    if (segment == nullptr) return std::shared_ptr<File>();
    segment->used = true;
    if (segment->file != nullptr) return segment->file;
  }
  return CatchNoMemory([&] { return OpenAgain(number, keep); });
}

// The file is opened without mu_, since opening may block in the kernel, and then everything is
// checked again.
absl::StatusOr<std::shared_ptr<File>> FileDevice::OpenAgain(std::uint64_t number, Keep keep) {
  const bool room = MakeRoom(keep);
  if (!room && keep == Keep::kOnlyIfRoom) return std::shared_ptr<File>();
  const std::string name = SegmentName(number);
  OpenedFile opened =
      OpenFile(name, {.write = !config_.read_only, .direct = config_.direct_io}, keep);
  std::shared_ptr<File> file = std::move(opened.file);
  MutexLock lock(mu_);
  Segment* const segment = Find(number);
  // The beginning of the log may have been truncated since.
  if (segment == nullptr || segment->unlinked) return std::shared_ptr<File>();
  // The order matters: only now is it certain that the device itself did not remove the file.
  if (opened.error == ENOENT) return RemovedError(name);
  if (file == nullptr) return FileError("open", name, 0, opened.error);
  // Another process has put a file of the same name there. Its bytes are not those that were
  // written.
  if (file->id() != segment->id) return ReplacedError(name);
  if (segment->file != nullptr) return segment->file;  // another thread was first
  // Otherwise the file stays the caller's own, and is closed with its last user.
  if (room || keep == Keep::kAlways) {
    open_.push_back(number);
    segment->file = file;
  }
  return file;
}

absl::StatusOr<std::shared_ptr<File>> FileDevice::FindOrCreateSegment(std::uint64_t number) {
  auto found = FindSegment(number, Keep::kAlways);
  if (!found.ok() || *found != nullptr) return found;
  // Other threads may need the same segment: the second search finds the file that one of them has
  // created.
  MutexLock create_lock(create_mu_);
  found = FindSegment(number, Keep::kAlways);
  if (!found.ok() || *found != nullptr) return found;
  // A new file is always kept open: it is about to be written to.
  MakeRoom(Keep::kAlways);
  absl::StatusOr<std::unique_ptr<File>> created = CreateSegment(number);
  if (!created.ok()) return created.status();
  const std::shared_ptr<File> file = *std::move(created);
  MutexLock lock(mu_);
  // Before the segment is known: the next Sync also syncs the directory, which makes the file's
  // name durable.
  directory_unsynced_ = true;
  open_.reserve(open_.size() + 1);  // may throw
  segments_.insert(segments_.begin() + static_cast<std::ptrdiff_t>(PlaceOf(number)),
                   {.number = number,
                    .file = file,
                    .id = file->id(),
                    .direct = file->direct(),
                    .unsynced = true,
                    .written = true});
  open_.push_back(number);
  first_unsynced_ = std::min(first_unsynced_, number);
  return file;
}

// ---- descriptors ----

// These files are about to be written, so that a commit need not open one (see Descriptors in
// file_device.h).
bool FileDevice::IsAtTail(std::uint64_t number) const {
  return number >= tail_ && number <= tail_ + config_.open_files / kShareAhead;
}

// A clock algorithm: files that were used since the last search are skipped once.
std::shared_ptr<File> FileDevice::TakeIdle() {
  // Two rounds: the first may only clear the marks `used`.
  for (std::size_t left = 2 * open_.size(); left != 0; --left, ++hand_) {
    hand_ %= open_.size();
    Segment& segment = *Find(open_[hand_]);
    // A written file must stay open until its sync, because a later descriptor would not report its
    // errors. A file with a user stays open for that user. No new user can come, since mu_ is held.
    if (segment.written || segment.file.use_count() > 1 || IsAtTail(segment.number)) continue;
    if (std::exchange(segment.used, false)) continue;
    open_[hand_] = open_.back();
    open_.pop_back();
    return std::move(segment.file);
  }
  return nullptr;
}

bool FileDevice::MakeRoom(Keep keep) {
  {
    MutexLock lock(mu_);
    if (open_.size() < config_.open_files) return true;
  }
  return CloseIdle(keep);
}

// At most one sync: if that frees no file, the device opens one more than its limit, so that a
// write never fails for it.
bool FileDevice::CloseIdle(Keep keep) {
  for (bool synced = false;; synced = true) {
    {
      std::shared_ptr<File> idle;  // closed without the lock
      MutexLock lock(mu_);
      idle = TakeIdle();
      if (idle != nullptr) return true;
    }
    if (synced || keep != Keep::kAlways) return false;
    // All files that could be closed have unsynced writes. A write must go on, so one of them is
    // synced here.
    SyncOldest();
  }
}

OpenedFile FileDevice::OpenFile(const std::string& name, OpenFlags flags, Keep keep) {
  for (;;) {  // ends: each turn closes a descriptor
    OpenedFile opened = directory_.Open(name, flags);
    if (opened.error != EMFILE && opened.error != ENFILE) return opened;
    if (!CloseIdle(keep)) return opened;
  }
}

void FileDevice::SyncOldest() {
  // A commit's Sync waits for this one, because the mark that is cleared below would make it skip
  // the file.
  MutexLock sync_lock(sync_mu_);
  std::uint64_t number = std::numeric_limits<std::uint64_t>::max();
  std::shared_ptr<File> file;
  {
    MutexLock lock(mu_);
    // The lowest number is the oldest segment, to which no more writes are likely.
    for (const std::uint64_t open : open_) {
      if (open < number && !IsAtTail(open) && Find(open)->written) number = open;
    }
    Segment* const oldest = Find(number);
    if (oldest == nullptr) return;
    // Before the sync, so that a write during it sets the mark again.
    oldest->unsynced = oldest->written = false;
    file = oldest->file;
  }
  // Sync returns this failure: its caller must learn that a sync failed.
  sync_failure_.Update(SyncSegment(number, *file));
}

// Returns the error of a segment's sync. Even the segment's name needs memory.
absl::Status FileDevice::SyncErrorOf(const char* call, std::uint64_t number, int error) noexcept {
  return CatchNoMemory([=] { return SyncError(call, SegmentName(number).c_str(), error); },
                       Fixed().failed_sync);
}

// To be called with the mark cleared; sets it again after a failure.
absl::Status FileDevice::SyncSegment(std::uint64_t number, File& file) {
  const int error = file.Sync();
  // The bytes are durable. But without a name no opening would find them.
  if (error == 0) return CheckName(number, file);
  NoteUnsynced(number);
  return SyncErrorOf("sync", number, error);
}

// Creates a segment. Its header is in place before the segment is known to any other thread, and so
// before any of its blocks. If the header cannot be written, the segment is removed: it holds
// nothing, and the next write creates it again.
absl::StatusOr<std::unique_ptr<File>> FileDevice::CreateSegment(std::uint64_t number) {
  const std::string name = SegmentName(number);
  const AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return FileError("create", name, 0, ENOMEM);
  const std::span<std::byte> header(buffer.get(), kBlockBytes);
  std::memset(header.data(), 0, header.size());
  write_header_(number * config_.segment_blocks, header);

  OpenedFile opened = OpenFile(name, {.create = true, .direct = config_.direct_io}, Keep::kAlways);
  if (opened.file == nullptr && directory_.LockIsRemoved()) return RemovedError(kLockFile);
  if (opened.file == nullptr) return FileError("create", name, 0, opened.error);
  // The file is empty unless an earlier attempt failed and its file could not be removed either.
  int error = opened.file->Truncate(0);
  if (error == 0) error = WriteFully(*opened.file, 0, header).error;
  // The header is not synced here: the Sync that makes the first block durable covers it.
  if (error != 0) {
    static_cast<void>(directory_.Unlink(name));  // best effort: the next attempt empties it
    return FileError("create", name, 0, error);
  }
  return std::move(opened.file);
}

// ---- transfers ----

absl::Status FileDevice::Read(std::uint64_t block, std::span<std::byte> bytes) {
  EBB_DCHECK(bytes.size() % kBlockBytes == 0);
  // One transfer per segment.
  while (!bytes.empty()) {
    const std::uint64_t number = block / config_.segment_blocks;
    const std::uint64_t index = block % config_.segment_blocks;
    const std::uint64_t count = std::min(BlocksIn(bytes.size()), config_.segment_blocks - index);
    const std::span<std::byte> piece = bytes.first(count * kBlockBytes);
    const absl::StatusOr<std::shared_ptr<File>> file = FindSegment(number, Keep::kIfRoom);
    if (!file.ok()) return file.status();
    // There is no such file, or it has been truncated since. The caller knows whether that is an
    // error (hybrid_log.h).
    if (*file == nullptr) return NotWritten(block);
    const FullTransfer transfer = ReadFully(**file, (1 + index) * kBlockBytes, piece);
    if (transfer.error != 0) {
      return FileError("read", SegmentName(number), (1 + index) * kBlockBytes + transfer.moved,
                       transfer.error);
    }
    // The file ends before the block: the log was never that long.
    if (transfer.moved < piece.size()) return NotWritten(block + BlocksIn(transfer.moved));
    block += count;
    bytes = bytes.subspan(piece.size());
  }
  return absl::OkStatus();
}

// The ring must not wait for an open, and only one file can be read at a time; otherwise the caller
// uses Read.
Device::BlockLocation FileDevice::Locate(std::uint64_t block, std::uint64_t count) {
  const std::uint64_t index = block % config_.segment_blocks;
  if (index + count > config_.segment_blocks) return {};
  auto file = FindSegment(block / config_.segment_blocks, Keep::kOnlyIfRoom);
  if (!file.ok()) return {};  // Read returns the error
  return {*std::move(file), (1 + index) * kBlockBytes};
}

absl::Status FileDevice::Write(std::uint64_t block, std::span<const std::byte> bytes) {
  EBB_DCHECK(bytes.size() % kBlockBytes == 0);
  while (!bytes.empty()) {
    const std::uint64_t number = block / config_.segment_blocks;
    const std::uint64_t index = block % config_.segment_blocks;
    const std::uint64_t count = std::min(BlocksIn(bytes.size()), config_.segment_blocks - index);
    const std::span<const std::byte> piece = bytes.first(count * kBlockBytes);
    absl::StatusOr<std::shared_ptr<File>> file = FindOrCreateSegment(number);
    if (!file.ok()) return file.status();
    const FullTransfer transfer = WriteFully(**file, (1 + index) * kBlockBytes, piece);
    // The mark comes after the write and before this call returns, so that the Sync of its commit
    // covers it. While the write ran, the pointer kept the file open.
    if (NoteWritten(number, index + BlocksIn(transfer.moved))) {
      // This segment is the new tail: open the next ones now, since commits must not open files.
      for (std::uint64_t ahead = 1; ahead <= config_.open_files / kShareAhead; ++ahead) {
        // If this error lasts, a later write returns it.
        static_cast<void>(FindSegment(number + ahead, Keep::kAlways));
      }
    }
    // The part before the error may be on disk. The caller writes all of it again.
    if (transfer.error != 0) {
      return FileError("write", SegmentName(number), (1 + index) * kBlockBytes + transfer.moved,
                       transfer.error);
    }
    block += count;
    bytes = bytes.subspan(piece.size());
  }
  return absl::OkStatus();
}

// Walk of a page, 1. Called before the log grants space.
absl::Status FileDevice::Reserve(std::uint64_t begin, std::uint64_t end) {
  if (config_.reserve_blocks == 0) return absl::OkStatus();
  while (begin < end) {
    const std::uint64_t number = begin / config_.segment_blocks;
    const std::uint64_t piece_end = std::min(end, (number + 1) * config_.segment_blocks);
    absl::Status status = ReserveIn(number, piece_end - number * config_.segment_blocks);
    if (!status.ok()) return status;
    begin = piece_end;
  }
  return absl::OkStatus();
}

absl::Status FileDevice::ReserveIn(std::uint64_t number, std::uint64_t block_count) {
  std::uint64_t reserved = 0;
  {
    MutexLock lock(mu_);
    const Segment* const segment = Find(number);
    // Blocks that the file's size covers were written, so they have their space.
    if (segment != nullptr) reserved = std::max(segment->reserved_count, segment->block_count);
  }
  if (block_count <= reserved) return absl::OkStatus();
  const absl::StatusOr<std::shared_ptr<File>> found = FindOrCreateSegment(number);
  if (!found.ok()) return found.status();
  File& file = **found;
  // Reserve some ahead, so that the next calls return at once.
  const std::uint64_t ahead = std::min(
      (block_count + config_.reserve_blocks - 1) / config_.reserve_blocks * config_.reserve_blocks,
      config_.segment_blocks);
  constexpr int kReserveAttempts = 100;
  int error = 0;
  // First with the part ahead; if the disk is too full for that, only the blocks requested.
  for (const std::uint64_t target : {ahead, block_count}) {
    int attempts = 0;
    do {
      error = file.Reserve((1 + reserved) * kBlockBytes, (target - reserved) * kBlockBytes);
    } while ((error == EINTR || error == EAGAIN) && ++attempts < kReserveAttempts);
    // ENOSYS comes from a kernel filter, EPERM from some network file systems.
    if (error == EOPNOTSUPP || error == ENOSYS || error == EPERM) {
      if (target != block_count) continue;  // zeros are written only where they are needed
      error = WriteZeros(file, {reserved, target});
      // The zeros may be lost in a power failure, but their space must be there, so the next Sync
      // writes them.
      NoteUnsynced(number);
    }
    if (error == 0) {
      MutexLock lock(mu_);
      segments_[PlaceOf(number)].reserved_count = target;
      return absl::OkStatus();
    }
    // For these errors a smaller reservation may succeed. Every other error is final.
    const bool less_may_do =
        error == ENOSPC || error == EDQUOT || error == EFBIG || error == EINTR || error == EAGAIN;
    if (!less_may_do) break;
  }
  return FileError("reserve", SegmentName(number), (1 + reserved) * kBlockBytes, error);
}

// Blocks that other threads may write at the same time are below: they had their space before.
int FileDevice::WriteZeros(File& file, BlockRange blocks) {
  constexpr std::uint64_t kBatchBlocks = 64;
  const AlignedBuffer zeros = AllocateAligned(kBatchBlocks * kBlockBytes);
  if (zeros == nullptr) return ENOMEM;
  std::memset(zeros.get(), 0, kBatchBlocks * kBlockBytes);
  for (std::uint64_t block = blocks.begin; block < blocks.end;) {
    const std::uint64_t count = std::min(kBatchBlocks, blocks.end - block);
    const FullTransfer transfer =
        WriteFully(file, (1 + block) * kBlockBytes, {zeros.get(), count * kBlockBytes});
    if (transfer.error != 0) return transfer.error;
    block += count;
  }
  return 0;
}

// To be called after a write. The marks are set under mu_, as Sync clears them.
bool FileDevice::NoteWritten(std::uint64_t number, std::uint64_t block_count) {
  MutexLock lock(mu_);
  Segment& segment = segments_[PlaceOf(number)];
  segment.block_count = std::max(segment.block_count, block_count);
  segment.unsynced = segment.written = true;
  first_unsynced_ = std::min(first_unsynced_, number);
  return number > std::exchange(tail_, std::max(tail_, number));
}

// ---- durability ----

void FileDevice::NoteUnsynced(std::uint64_t number) {
  MutexLock lock(mu_);
  Segment* const segment = Find(number);
  if (segment == nullptr) return;
  segment->unsynced = segment->written = true;
  first_unsynced_ = std::min(first_unsynced_, number);
}

// Walk of a Commit, 3. The order: take the marks, sync the files, check names, sync the directory.
// A write that returns after a mark was taken belongs to the next Sync.
absl::Status FileDevice::Sync() {
  MutexLock sync_lock(sync_mu_);
  // Every open file that has writes stays open until its sync. Closed files with the mark exist
  // only after an opening. They are synced by one call, since thousands of syncs would take
  // minutes.
  std::vector<std::pair<std::uint64_t, std::shared_ptr<File>>> files;
  bool sync_directory;
  {
    MutexLock lock(mu_);
    const std::size_t first = PlaceOf(first_unsynced_);
    files.reserve(segments_.size() - first);  // may throw, so before any mark is cleared
    for (std::size_t place = first; place < segments_.size(); ++place) {
      Segment& segment = segments_[place];
      if (segment.unsynced) files.emplace_back(segment.number, segment.file);
      // Cleared before the syncs: a write that comes during a sync may not be covered by it, and
      // sets the mark again.
      segment.unsynced = segment.written = false;
    }
    first_unsynced_ = std::numeric_limits<std::uint64_t>::max();
    sync_directory = std::exchange(directory_unsynced_, false);
  }
  // After a failure the other files are still synced, because their marks are cleared already.
  absl::Status first_failure = std::exchange(sync_failure_, absl::OkStatus());
  bool sync_closed = true;
  int closed_error = 0;
  for (const auto& [number, held] : files) {
    absl::StatusOr<std::shared_ptr<File>> file(held);
    if (held == nullptr) {
      // One syncfs for all closed files; the result holds for each of them.
      if (sync_closed) closed_error = directory_.SyncFiles();
      sync_closed = false;
      if (closed_error == 0) continue;
      // Where that is not allowed, each file is opened and synced on its own.
      file = closed_error == ENOSYS || closed_error == EPERM
                 ? FindSegment(number, Keep::kIfRoom)
                 : SyncError("sync", "the store's files", closed_error);
    }
    if (!file.ok()) {
      // A failure keeps the mark. But the caller poisons the store, so no later Sync will report
      // success for these bytes.
      NoteUnsynced(number);
      first_failure.Update(file.status());
    } else if (*file != nullptr) {
      first_failure.Update(SyncSegment(number, **file));
    }
  }
  // A file whose directory entry is gone is durable in vain: this is checked before success is
  // reported.
  first_failure.Update(CheckNames(false));
  // After the files: their names must not be durable before their headers are.
  if (sync_directory) {
    const int error = first_failure.ok() ? directory_.Sync() : 0;
    if (error != 0) first_failure.Update(SyncError("sync", "the store's directory", error));
    if (!first_failure.ok()) {
      // The directory still has entries that are not durable.
      MutexLock lock(mu_);
      directory_unsynced_ = true;
    }
  }
  return first_failure;
}

absl::Status FileDevice::CheckName(std::uint64_t number, const File& file) {
  if (!file.IsRemoved()) return absl::OkStatus();
  {
    MutexLock lock(mu_);
    const Segment* const segment = Find(number);
    // The beginning of the log may have been truncated since; the device's own removals are no
    // damage.
    if (segment == nullptr || segment->unlinked) return absl::OkStatus();
  }
  return RemovedError(SegmentName(number));
}

absl::Status FileDevice::CheckNames(bool of_all) {
  // The lock file is checked at each commit. Its loss means that another process may own the
  // directory by now.
  if (directory_.LockIsRemoved()) return RemovedError(kLockFile);
  if (!of_all) return absl::OkStatus();
  std::vector<std::uint64_t> numbers;
  {
    MutexLock lock(mu_);
    numbers.reserve(segments_.size());
    for (const Segment& segment : segments_) numbers.push_back(segment.number);
  }
  for (const std::uint64_t number : numbers) {
    const auto file = FindSegment(number, Keep::kIfRoom);
    if (absl::IsDataLoss(file.status())) return file.status();
    if (!file.ok() || *file == nullptr) continue;  // a lack of descriptors proves nothing
    if (absl::Status status = CheckName(number, **file); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Walk of a reopening, 4: an earlier process's sync may have failed, so that the page cache shows
// blocks which the disk does not have. Writing them again makes them dirty, so that the next Sync
// covers them.
absl::Status FileDevice::WriteAgain(std::uint64_t begin, std::uint64_t end) {
  constexpr std::uint64_t kBatchBlocks = 256;
  const AlignedBuffer buffer =
      AllocateAligned(std::clamp<std::uint64_t>(end - begin, 1, kBatchBlocks) * kBlockBytes);
  if (buffer == nullptr) return FileError("write", "the log", 0, ENOMEM);
  for (std::uint64_t block = begin; block < end;) {
    const std::uint64_t count = std::min(kBatchBlocks, end - block);
    const std::span<std::byte> bytes(buffer.get(), count * kBlockBytes);
    // The caller has verified these blocks; they are read again because it does not keep them.
    if (absl::Status status = Read(block, bytes); !status.ok()) return status;
    if (absl::Status status = Write(block, bytes); !status.ok()) return status;
    block += count;
  }
  const std::uint64_t segment_blocks = config_.segment_blocks;
  // The headers of the files that begin in the range may be as undurable as its blocks.
  for (std::uint64_t number = (begin + segment_blocks - 1) / segment_blocks;
       number * segment_blocks < end; ++number) {
    const std::span<std::byte> header(buffer.get(), kBlockBytes);
    std::memset(header.data(), 0, header.size());
    write_header_(number * segment_blocks, header);
    const auto file = FindSegment(number, Keep::kAlways);  // it holds a block of the range
    if (!file.ok()) return file.status();
    NoteUnsynced(number);
    const int error = WriteFully(**file, 0, header).error;
    if (error != 0) return FileError("write", SegmentName(number), 0, error);
  }
  return absl::OkStatus();
}

// Cuts the segment that holds the new end. A file that is shorter already keeps its size: it is
// never extended by zeros that no write put there.
absl::Status FileDevice::CutSegment(std::uint64_t number, std::uint64_t block_count) {
  const absl::StatusOr<std::shared_ptr<File>> found = FindSegment(number, Keep::kAlways);
  if (!found.ok()) return found.status();
  const std::shared_ptr<File>& file = *found;
  if (file == nullptr) return absl::OkStatus();
  const std::uint64_t cut_size = (1 + block_count) * kBlockBytes;
  std::uint64_t size = 0;
  if (const int error = file->Size(size); error != 0) {
    return FileError("size", SegmentName(number), 0, error);
  }
  if (size <= cut_size) return absl::OkStatus();
  // Before the truncation, so that the Sync at the end covers it even if it fails halfway.
  NoteUnsynced(number);
  if (const int error = file->Truncate(cut_size); error != 0) {
    return FileError("truncate", SegmentName(number), cut_size, error);
  }
  MutexLock lock(mu_);
  Segment& segment = segments_[PlaceOf(number)];
  segment.block_count = std::min(segment.block_count, block_count);
  // Truncation frees the reserved space after the end too.
  segment.reserved_count = 0;
  return absl::OkStatus();
}

// Removes the end of the log. A segment that keeps no block is deleted with its header. The last
// segment goes first, so that an interrupted truncation leaves a shorter log, not one with a gap.
absl::Status FileDevice::Truncate(std::uint64_t block) {
  const std::uint64_t kept_blocks = block % config_.segment_blocks;
  const std::uint64_t cut_number = block / config_.segment_blocks;
  const std::uint64_t first_deleted = kept_blocks == 0 ? cut_number : cut_number + 1;
  for (;;) {  // ends: each turn removes a segment
    std::string name;
    {
      MutexLock lock(mu_);
      if (segments_.empty() || segments_.back().number < first_deleted) break;
      name = SegmentName(segments_.back().number);
    }
    if (const int error = directory_.Unlink(name); error != 0 && error != ENOENT) {
      return FileError("unlink", name, 0, error);
    }
    MutexLock lock(mu_);
    std::erase(open_, segments_.back().number);
    segments_.pop_back();
    directory_unsynced_ = true;
  }
  if (kept_blocks != 0) {
    if (absl::Status status = CutSegment(cut_number, kept_blocks); !status.ok()) return status;
  }
  // Durable before anything is written after the cut: otherwise old blocks might reappear after new
  // ones.
  return Sync();
}

// Frees the beginning of the log, from the first segment up. The removal of names becomes durable
// with a later sync of the directory. Until then a power loss may bring some of them back, and the
// next opening removes them again.
absl::StatusOr<std::uint64_t> FileDevice::TruncateFront(std::uint64_t block) {
  std::uint64_t freed_bytes = 0;
  for (;;) {  // ends: each turn removes a segment
    std::uint64_t number = 0;
    {
      MutexLock lock(mu_);
      if (segments_.empty()) return freed_bytes;
      number = segments_.front().number;
      const bool goes = (number + 1) * config_.segment_blocks <= block;
      // Marked before the name is removed, so that a concurrent sync does not report the removal as
      // damage.
      if (goes) segments_.front().unlinked = true;
    }
    const std::uint64_t first = number * config_.segment_blocks;
    if (first >= block) return freed_bytes;
    // The segment that holds the new begin keeps its header: only a hole is punched.
    if (first + config_.segment_blocks > block) {
      absl::StatusOr<std::uint64_t> freed = FreeFront(number, block - first);
      if (!freed.ok()) return freed.status();
      return freed_bytes + *freed;
    }
    if (const int error = directory_.Unlink(SegmentName(number)); error != 0 && error != ENOENT) {
      return FileError("unlink", SegmentName(number), 0, error);
    }
    MutexLock lock(mu_);
    // No other thread changes the front: TruncateFront is called by one thread, and new segments
    // are at the end.
    const Segment& segment = segments_.front();
    freed_bytes += (1 + segment.block_count - segment.freed_count) * kBlockBytes;
    std::erase(open_, number);
    segments_.pop_front();
    directory_unsynced_ = true;
  }
}

absl::StatusOr<std::uint64_t> FileDevice::FreeFront(std::uint64_t number,
                                                    std::uint64_t block_count) {
  std::uint64_t freed = 0;
  {
    // The part below freed_count has been punched before.
    MutexLock lock(mu_);
    const Segment& segment = segments_[PlaceOf(number)];
    freed = segment.freed_count;
    block_count = std::min(block_count, segment.block_count);
  }
  if (block_count <= freed) return 0;
  const auto file = FindSegment(number, Keep::kAlways);
  if (!file.ok()) return file.status();
  const int error =
      (*file)->PunchHole((1 + freed) * kBlockBytes, (block_count - freed) * kBlockBytes);
  // The file system cannot punch holes: from now on FreedAsOne reports whole segments, and the log
  // sizes its slices by that.
  if (error == EOPNOTSUPP || error == ENOSYS || error == EPERM) {
    punches_holes_.store(false, std::memory_order_relaxed);  // a hint
    return 0;
  }
  if (error != 0) {
    return FileError("punch", SegmentName(number), (1 + freed) * kBlockBytes, error);
  }
  MutexLock lock(mu_);
  Segment& segment = segments_[PlaceOf(number)];
  segment.freed_count = block_count;
  // A hole that is not durable would only cost space, but the mark keeps the file open until its
  // sync.
  segment.unsynced = segment.written = true;
  first_unsynced_ = std::min(first_unsynced_, number);
  return (block_count - freed) * kBlockBytes;
}

// Returns the end of the last segment with blocks. Files that only have reserved space do not
// count.
std::uint64_t FileDevice::EndBlock() const {
  MutexLock lock(mu_);
  for (auto segment = segments_.rbegin(); segment != segments_.rend(); ++segment) {
    if (segment->block_count == 0) continue;
    return segment->number * config_.segment_blocks + segment->block_count;
  }
  return 0;
}

std::vector<BlockRange> FileDevice::HeldBlocks() const {
  MutexLock lock(mu_);
  std::vector<BlockRange> held;
  for (const Segment& segment : segments_) {
    const std::uint64_t first = segment.number * config_.segment_blocks;
    if (segment.block_count != 0) held.push_back({first, first + segment.block_count});
  }
  return held;
}

bool FileDevice::direct() const {
  MutexLock lock(mu_);
  return !segments_.empty() && std::all_of(segments_.begin(), segments_.end(),
                                           [](const Segment& segment) { return segment.direct; });
}

absl::Status FileDevice::Close() {
  MutexLock lock(mu_);
  absl::Status first_failure;
  for (Segment& segment : segments_) {
    const int error = segment.file != nullptr ? segment.file->Close() : 0;
    // If close is interrupted, the descriptor is closed all the same, and everything that must last
    // was synced before.
    if (error != 0 && error != EINTR) {
      first_failure.Update(SyncErrorOf("close", segment.number, error));
    }
  }
  segments_.clear();
  open_.clear();
  return first_failure;
}

}  // namespace ebb::internal
