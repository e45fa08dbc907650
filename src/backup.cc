#include "ebb/internal/backup.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "ebb/internal/block.h"
#include "ebb/internal/callback_scope.h"
#include "ebb/internal/manifest.h"
#include "ebb/internal/page_reader.h"
#include "ebb/internal/sealed_file.h"
#include "ebb/internal/store_files.h"

namespace ebb::internal {
namespace {

class BackupWriter {
 public:
  BackupWriter(Core& core, const BackupJob& job, Directory& target)
      : core_(core), job_(job), target_(target) {}

  absl::StatusOr<BackupInfo> Run() {
    try {
      absl::Status status = Copy();
      if (status.ok()) return info_;
      TakeAway();
      return status;
    } catch (...) {  // of the progress function, or for lack of memory
      TakeAway();
      throw;
    }
  }

 private:
  absl::Status Copy() {
    buffer_ = AllocateAligned(kReadBlocks * kBlockBytes);
    if (buffer_ == nullptr) return absl::ResourceExhaustedError("no memory for a backup");
    absl::StatusOr<Manifest> manifest =
        ReadManifest(*core_.files.directory, core_.config.log.store_id, job_.checkpoint_id);
    if (!manifest.ok()) return manifest.status();
    manifest_ = *std::move(manifest);
    absl::Status status = Mark();
    if (status.ok()) status = CopyLog();
    if (status.ok()) status = CopyImage();
    if (status.ok()) status = CopyManifest();
    if (status.ok()) status = SyncNames();
    if (status.ok()) status = Unmark();
    return status;
  }

  absl::Status Mark() {
    made_.emplace_back(kUnfinishedBackupName);
    OpenedFile opened = target_.Open(kUnfinishedBackupName, {.create = true});
    if (opened.file == nullptr) return FileError("create", made_.back(), 0, opened.error);
    return SyncNames();
  }
  absl::Status Unmark() {
    if (const int error = target_.Unlink(kUnfinishedBackupName); error != 0) {
      return FileError("unlink", kUnfinishedBackupName, 0, error);
    }
    return SyncNames();
  }
  absl::Status SyncNames() {
    const int error = target_.Sync();
    return error == 0 ? absl::OkStatus() : FileError("sync", "the backup's directory", 0, error);
  }

  absl::Status CopyLog() {
    const Geometry& geometry = core_.log.geometry();
    const Address begin = core_.log.begin();
    // The first block holds an open record and nothing that anybody could have truncated.
    const std::uint64_t first = begin == geometry.BlockStart(1) ? 0 : geometry.BlockOf(begin);
    const std::uint64_t end = geometry.BlockOf(manifest_.durable);
    total_bytes_ = (end - first) * kBlockBytes + manifest_.image_bytes + manifest_.manifest_bytes;
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

  // Blocks [block, end), all of one file.
  absl::Status CopySegment(std::uint64_t block, std::uint64_t end) {
    const std::uint64_t segment_blocks = core_.log.geometry().segment_blocks;
    const std::uint64_t number = block / segment_blocks;
    const std::string name = FileDevice::SegmentName(number);
    made_.push_back(name);
    OpenedFile opened = target_.Open(name, {.create = true});
    if (opened.file == nullptr) return FileError("create", name, 0, opened.error);
    const std::span<std::byte> header(buffer_.get(), kBlockBytes);
    std::memset(header.data(), 0, header.size());
    core_.files.headers->WriteHeader(number * segment_blocks, header);
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
      if (incarnation != IncarnationAt(manifest_.incarnations, block + i)) {
        return absl::DataLossError(fmt::format("{}: damaged: block {} is not what was written",
                                               device.Describe(block + i), block + i));
      }
    }
    return absl::OkStatus();
  }

  // Payload by payload, so that each block is verified on the one side and sealed on the other.
  absl::Status CopyImage() {
    const std::string name = ImageName(manifest_.id);
    made_.push_back(name);
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
    made_.push_back(ManifestName(manifest_.id));
    absl::Status status = WriteManifest(target_, core_.config.log.store_id, manifest_);
    ++info_.file_count;
    if (status.ok()) Progress(manifest_.manifest_bytes);
    return status;
  }

  void Progress(std::uint64_t bytes) {
    info_.size_bytes += bytes;
    if (!job_.progress) return;
    const CallbackScope scope(&core_, CallbackKind::kBackup);
    job_.progress({info_.size_bytes, total_bytes_});
  }

  // Best effort; the marker goes last, and only when everything else has gone.
  void TakeAway() {
    for (; !made_.empty(); made_.pop_back()) {
      const int error = target_.Unlink(made_.back());
      if (error != 0 && error != ENOENT) return;
    }
    static_cast<void>(target_.Sync());
  }

  Core& core_;
  const BackupJob& job_;
  Directory& target_;
  AlignedBuffer buffer_;
  Manifest manifest_;
  std::vector<std::string> made_;  // in order
  std::uint64_t total_bytes_ = 0;
  BackupInfo info_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Directory>> OpenBackupDirectory(FileSystem& file_system,
                                                               const std::string& path) {
  absl::StatusOr<std::unique_ptr<Directory>> directory = OpenLocked(file_system, path);
  if (!directory.ok()) return directory;
  std::vector<std::string> names;
  if (const int error = (*directory)->List(names); error != 0) {
    return FileError("listing", path, 0, error);
  }
  for (const std::string& name : names) {
    if (name != kLockName) {
      return absl::InvalidArgumentError(
          fmt::format("directory {} is not empty: it holds {}", path, name));
    }
  }
  return directory;
}

absl::StatusOr<BackupInfo> WriteBackup(Core& core, const BackupJob& job, Directory& target) {
  return BackupWriter(core, job, target).Run();
}

}  // namespace ebb::internal
