#include "ebb/internal/jobs/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/checkpoint/sealed_file.h"
#include "ebb/internal/checkpoint/store_files.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {
namespace {

constexpr const char* kBackupDirectory = "the backup's directory";

absl::Status SyncNames(Directory& directory) {
  const int error = directory.Sync();
  return error == 0 ? absl::OkStatus() : FileError("sync", kBackupDirectory, 0, error);
}

// Removes the files that a backup has written, but neither its marker nor the lock. Does not sync.
absl::Status RemoveFiles(Directory& directory) {
  const absl::StatusOr<std::vector<std::string>> names = ListNames(directory, kBackupDirectory);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (!IsDataFile(name)) continue;
    const int error = directory.Unlink(name);
    if (error != 0 && error != ENOENT) return FileError("unlink", name, 0, error);
  }
  return absl::OkStatus();
}

class BackupWriter {
 public:
  BackupWriter(Core& core, const BackupJob& job, BackupTarget& target)
      : core_(core), job_(job), target_(target.directory()) {}

  absl::StatusOr<BackupInfo> Run() {
    buffer_ = AllocateAligned(kReadBlocks * kBlockBytes);
    if (buffer_ == nullptr) return NoMemoryTo("make a backup");
    absl::StatusOr<Manifest> manifest =
        ReadManifest(*core_.files.directory, core_.config.log.store_id, job_.checkpoint_id);
    if (!manifest.ok()) return manifest.status();
    manifest_ = *std::move(manifest);
    // Walk of a Backup, 2. The order does not matter for a crash: the marker makes the directory
    // unusable as a store until all of this is durable.
    absl::Status status = CopyLog();
    if (status.ok()) status = CopyImage();
    if (status.ok()) status = CopyManifest();
    if (status.ok()) status = WriteEnd();
    if (!status.ok()) return status;
    return info_;
  }

 private:
  absl::Status CopyLog() {
    const Geometry& geometry = core_.log.geometry();
    const Address begin = core_.log.begin();
    // The first block holds only an open record, and no truncation removes it.
    const std::uint64_t first = begin == geometry.BlockStart(1) ? 0 : geometry.BlockOf(begin);
    // Up to the end of the checkpoint's own commit: later commits are not part of the backup.
    const std::uint64_t end = geometry.BlockOf(manifest_.durable);
    total_bytes_ =
        (end - first + 2) * kBlockBytes + manifest_.image_bytes + manifest_.manifest_bytes;
    info_.checkpoint_id = manifest_.id;
    info_.durable_address = manifest_.durable.value();
    for (std::uint64_t block = first; block < end;) {
      const std::uint64_t segment_end =
          (block / geometry.segment_blocks + 1) * geometry.segment_blocks;
      absl::Status status = CopySegment(block, std::min(segment_end, end));
      if (!status.ok()) return status;
      block = segment_end;
    }
    return absl::OkStatus();
  }

  // Copies blocks [block, end), all of one file.
  absl::Status CopySegment(std::uint64_t block, std::uint64_t end) {
    const std::uint64_t segment_blocks = core_.log.geometry().segment_blocks;
    const std::uint64_t number = block / segment_blocks;
    const std::string name = FileDevice::SegmentName(number);
    OpenedFile opened = target_.Open(name, {.create = true});
    if (opened.file == nullptr) return FileError("create", name, 0, opened.error);
    const std::span<std::byte> header(buffer_.get(), kBlockBytes);
    std::memset(header.data(), 0, header.size());
    // The header is encoded again, so a damaged header of the source is not copied.
    core_.files.write_header(number * segment_blocks, header);
    FullTransfer written = WriteFully(*opened.file, 0, header);
    while (written.error == 0 && block < end) {
      if (job_.stop()) return core_.ClosedError();
      const std::uint64_t count = std::min(kReadBlocks, end - block);
      const std::span<std::byte> bytes(buffer_.get(), count * kBlockBytes);
      if (absl::Status status = ReadLog(block, bytes); !status.ok()) return status;
      written = WriteFully(*opened.file, (1 + block % segment_blocks) * kBlockBytes, bytes);
      block += count;
      Progress(bytes.size());
    }
    if (written.error != 0) return FileError("write", name, written.moved, written.error);
    // Each file is durable before the marker is removed.
    if (const int error = opened.file->Sync(); error != 0) return FileError("sync", name, 0, error);
    if (const int error = opened.file->Close(); error != 0) {
      return FileError("close", name, 0, error);
    }
    ++info_.file_count;
    return absl::OkStatus();
  }

  absl::Status ReadLog(std::uint64_t block, std::span<std::byte> bytes) {
    Device& device = *core_.files.device;
    const auto count = ReadBlocks(device, block, bytes);
    if (!count.ok()) return count.status();
    for (std::uint64_t i = 0; i < bytes.size() / kBlockBytes; ++i) {
      const auto incarnation = i < *count ? VerifyBlock(bytes.subspan(i * kBlockBytes, kBlockBytes),
                                                        core_.config.log.store_id, block + i)
                                          : std::nullopt;
      // A block that does not agree with the manifest must not get into the backup.
      if (incarnation != IncarnationAt(manifest_.incarnations, block + i)) {
        return absl::DataLossError(
            fmt::format("{}: damaged: block {} does not hold the bytes that were written",
                        device.Describe(block + i), block + i));
      }
    }
    return absl::OkStatus();
  }

  // Copied payload by payload, so that each block is verified when it is read and sealed again when
  // it is written.
  absl::Status CopyImage() {
    const std::string name = ImageName(manifest_.id);
    const SealedFileId id{core_.config.log.store_id, manifest_.image_stamp};
    SealedReader reader(*core_.files.directory, name, id);
    SealedWriter writer(target_, name, id);
    absl::Status status = reader.Open();
    if (status.ok()) status = writer.Open();
    for (std::uint64_t left = manifest_.image_bytes / kBlockBytes; status.ok() && left != 0;) {
      if (job_.stop()) return core_.ClosedError();
      const std::uint64_t count = std::min(kReadBlocks, left);
      const std::span<std::byte> bytes(buffer_.get(), count * kBlockPayloadBytes);
      status = reader.Read(bytes);
      if (status.ok()) status = writer.Append(bytes);
      left -= count;
      Progress(count * kBlockBytes);
    }
    if (status.ok()) status = writer.Finish();
    ++info_.file_count;
    return status;
  }

  absl::Status CopyManifest() {
    absl::Status status = WriteManifest(target_, core_.config.log.store_id, manifest_);
    ++info_.file_count;
    if (status.ok()) Progress(manifest_.manifest_bytes);
    return status;
  }

  absl::Status WriteEnd() {
    // As the manifest states it, not as this store has it by now: the backup ends there.
    absl::Status status = WriteDurableEnd(target_, core_.config.log.store_id,
                                          core_.log.geometry().BlockOf(manifest_.durable));
    ++info_.file_count;
    if (status.ok()) Progress(2 * kBlockBytes);
    return status;
  }

  void Progress(std::uint64_t bytes) {
    info_.size_bytes += bytes;
    if (!job_.progress) return;
    const CallbackScope scope(&core_, CallbackKind::kBackup);
    job_.progress({info_.size_bytes, total_bytes_});
  }

  Core& core_;
  const BackupJob& job_;
  Directory& target_;
  AlignedBuffer buffer_;
  Manifest manifest_;
  std::uint64_t total_bytes_ = 0;
  BackupInfo info_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BackupTarget>> BackupTarget::Open(FileSystem& file_system,
                                                                 const std::string& path) {
  std::unique_ptr<BackupTarget> target(new BackupTarget);
  absl::Status status = target->OpenDirectories(file_system, path);
  if (status.ok()) status = target->Mark(path);
  if (!status.ok()) return status;
  return target;
}

absl::Status BackupTarget::OpenDirectories(FileSystem& file_system, const std::string& path) {
  absl::StatusOr<std::unique_ptr<Directory>> opened = OpenPath(file_system, path, /*create=*/true);
  if (!opened.ok()) return opened.status();
  directory_ = *std::move(opened);
  // A second descriptor, since a directory holds one lock, and the marker and the lock file are
  // two.
  opened = OpenPath(file_system, path, /*create=*/false);
  if (!opened.ok()) return opened.status();
  marker_directory_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status BackupTarget::Mark(const std::string& path) {
  absl::StatusOr<std::vector<std::string>> names = ListNames(*directory_, path);
  if (!names.ok()) return names.status();
  const auto is_there = [&](const std::string& name) {
    return std::find(names->begin(), names->end(), name) != names->end();
  };
  const bool was_marked = is_there(marker_name_);
  const auto foreign = std::find_if(names->begin(), names->end(), [&](const std::string& name) {
    return name != lock_name_ && name != marker_name_ && !(was_marked && IsDataFile(name));
  });
  if (foreign != names->end()) {
    // Nothing is created here. The lock distinguishes a store that is open from one that is closed.
    if (is_there(lock_name_)) {
      if (absl::Status status = LockDirectory(*directory_, path); !status.ok()) return status;
    }
    return absl::InvalidArgumentError(
        fmt::format("directory {} is not empty: it holds {}; choose an empty or new directory",
                    path, *foreign));
  }
  // The marker first: from here on, an opening of the directory as a store is rejected.
  if (const int error = marker_directory_->Lock(marker_name_, LockKind::kNameOnly); error != 0) {
    return error == EWOULDBLOCK
               ? absl::FailedPreconditionError(
                     fmt::format("{}: another backup into this directory is in progress", path))
               : FileError("create", path + "/" + marker_name_, 0, error);
  }
  const State marked = was_marked ? State::kWasMarked : State::kMarked;
  state_ = marked;
  // The marker must be durable before the first file of the backup.
  if (absl::Status status = SyncNames(*directory_); !status.ok()) return status;
  if (absl::Status status = LockDirectory(*directory_, path); !status.ok()) {
    // Unless another process holds it, the lock file may have been created here. It must not be
    // left without a marker.
    if (!absl::IsFailedPrecondition(status)) state_ = State::kWasMarked;
    return status;
  }
  state_ = State::kLocked;
  // Between the first check and the lock another opener, which saw no marker, may have created a
  // store.
  names = ListNames(*directory_, path);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (name == lock_name_ || name == marker_name_ || (was_marked && IsDataFile(name))) continue;
    state_ = marked;  // these files are not the backup's to remove
    return absl::InvalidArgumentError(fmt::format(
        "directory {} is not empty: it holds {}; choose an empty or new directory", path, name));
  }
  return was_marked ? RemoveFiles(*directory_) : absl::OkStatus();
}

absl::Status BackupTarget::Complete() {
  if (absl::Status status = SyncNames(*directory_); !status.ok()) return status;
  // Even a call that fails may have removed the marker. So from here on nothing is removed: the
  // directory is a complete backup, or marked.
  state_ = State::kDone;
  const int error = directory_->Unlink(marker_name_);
  return error == 0 ? SyncNames(*directory_) : FileError("unlink", marker_name_, 0, error);
}

BackupTarget::~BackupTarget() {
  try {
    TakeAway();
  } catch (const std::bad_alloc&) {  // the marker is still there
  }
}

// Removes an unfinished backup. The marker goes last, and only when all other files
// are durably removed.
void BackupTarget::TakeAway() {
  if (state_ != State::kMarked && state_ != State::kLocked) return;
  if (state_ == State::kLocked) {
    if (!RemoveFiles(*directory_).ok()) return;
    const int error = directory_->Unlink(lock_name_);
    if (error != 0 && error != ENOENT) return;
    if (!SyncNames(*directory_).ok()) return;
  }
  if (directory_->Unlink(marker_name_) == 0) static_cast<void>(directory_->Sync());
}

absl::StatusOr<BackupInfo> WriteBackup(Core& core, const BackupJob& job, BackupTarget& target) {
  absl::StatusOr<BackupInfo> info = BackupWriter(core, job, target).Run();
  if (!info.ok()) return info;
  if (absl::Status status = target.Complete(); !status.ok()) return status;
  return info;
}

}  // namespace ebb::internal
