#include "ebb/internal/checkpoint/store_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/status.h"

namespace ebb::internal {
namespace {

absl::StatusOr<SegmentHeader> ReadSegmentHeader(Directory& directory, std::uint64_t number) {
  const std::string name = FileDevice::SegmentName(number);
  OpenedFile opened = directory.Open(name, {});
  if (opened.file == nullptr) return FileError("open", name, 0, opened.error);
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return FileError("read", name, 0, ENOMEM);
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  const FullTransfer read = ReadFully(*opened.file, 0, block);
  if (read.error != 0) return FileError("read", name, 0, read.error);
  if (read.moved < block.size()) {
    return absl::DataLossError(fmt::format(
        "{} at offset 0: the file ends after {} bytes of its header", name, read.moved));
  }
  return DecodeSegmentHeader(block, name);
}

absl::Status ForeignFile(std::uint64_t number) {
  return absl::DataLossError(
      fmt::format("{} at offset 0: the file belongs to another store or was renamed: its header "
                  "does not match its name and the other files",
                  FileDevice::SegmentName(number)));
}

// A manifest verifies by its checksum, but its fields are checked against each other before they
// are used: the scan must start at a possible place of a record, before the end of the checkpoint's
// commit, and the incarnation of the block there must be known.
bool IsPlausible(const Manifest& manifest, const Geometry& geometry) {
  const auto by_block = [](const IncarnationSpan& a, const IncarnationSpan& b) {
    return a.first_block < b.first_block;
  };
  const std::vector<IncarnationSpan>& incarnations = manifest.incarnations;
  return manifest.scan_from >= geometry.BlockStart(1) && manifest.scan_from < manifest.durable &&
         manifest.scan_from == geometry.Normalize(manifest.scan_from) &&
         manifest.scan_from.value() % 8 == 0 && manifest.durable.value() <= Address::kMask &&
         manifest.durable == geometry.BlockStart(geometry.BlockOf(manifest.durable)) &&
         !incarnations.empty() &&
         std::is_sorted(incarnations.begin(), incarnations.end(), by_block) &&
         incarnations.back().first_block <= geometry.BlockOf(manifest.scan_from);
}

}  // namespace

absl::Status NoStoreError(const std::string& path) {
  return absl::NotFoundError(fmt::format(
      "path {}: there is no store, and none is created, because create_if_missing is false or "
      "read_only is true",
      path));
}

bool IsDataFile(const std::string& name) {
  std::uint64_t number;
  return FileDevice::ParseSegmentName(name, number) || CheckpointOfFile(name).has_value() ||
         name == kDurableEndName;
}

// The directory is opened once; from here on every name is relative to it.
absl::StatusOr<std::unique_ptr<Directory>> OpenPath(FileSystem& file_system,
                                                    const std::string& path, bool create) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the path is empty or contains a zero byte");
  }
  OpenedDirectory opened = file_system.OpenDirectory(path, create);
  if (opened.error == ENOENT && create) {
    return absl::InvalidArgumentError(fmt::format(
        "path {}: its parent directory does not exist; create that first, since only the last "
        "directory of the path is created",
        path));
  }
  if (opened.error == ENOTDIR || opened.error == ENOENT || opened.error == ELOOP ||
      opened.error == ENAMETOOLONG) {
    return absl::InvalidArgumentError(
        fmt::format("path {}: {}", path, std::generic_category().message(opened.error)));
  }
  if (opened.directory == nullptr) return FileError("open", path, 0, opened.error);
  return std::move(opened.directory);
}

absl::Status LockDirectory(Directory& directory, const std::string& path, LockKind kind) {
  const int error = directory.Lock(kLockName, kind);
  if (error == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        fmt::format("{} is open already, here or in another process{}; close it there first", path,
                    kind == LockKind::kReader ? ", for writing" : ""));
  }
  if (error == 0) return absl::OkStatus();
  absl::Status status = FileError("lock", path + "/" + kLockName, 0, error);
  // A file system or directory that is not writable: point to the option that needs no write.
  if (kind != LockKind::kWriter || (error != EROFS && error != EACCES)) return status;
  return absl::Status(status.code(), std::string(status.message()) +
                                         "; Options::read_only opens a store that must not be "
                                         "written");
}

absl::StatusOr<std::unique_ptr<Directory>> OpenLocked(FileSystem& file_system,
                                                      const std::string& path, LockKind kind) {
  absl::StatusOr<std::unique_ptr<Directory>> directory =
      OpenPath(file_system, path, /*create=*/kind == LockKind::kWriter);
  if (!directory.ok()) return directory;
  if (absl::Status status = LockDirectory(**directory, path, kind); !status.ok()) return status;
  return directory;
}

absl::StatusOr<std::unique_ptr<Directory>> OpenLockedStore(FileSystem& file_system,
                                                           const std::string& path, LockKind kind) {
  // A check without creating anything: a wrong path must not leave a lock file behind.
  if (!path.empty() && file_system.OpenDirectory(path, /*create=*/false).error == ENOENT) {
    return NoStoreError(path);
  }
  absl::StatusOr<std::unique_ptr<Directory>> directory =
      OpenPath(file_system, path, /*create=*/false);
  if (!directory.ok()) return directory;
  const absl::StatusOr<std::vector<std::string>> names = ListNames(**directory, path);
  if (!names.ok()) return names.status();
  // A check without the lock: a store, its remains, or one that is being created would have any of
  // these files. FindSegments decides under the lock which of these it is.
  const bool may_be_store = std::any_of(names->begin(), names->end(), [](const std::string& name) {
    return IsDataFile(name) || name == kUnfinishedBackupName;
  });
  if (!may_be_store) return NoStoreError(path);
  if (absl::Status status = LockDirectory(**directory, path, kind); !status.ok()) return status;
  return directory;
}

// ---- the log ----

absl::StatusOr<FoundSegments> FindSegments(Directory& directory) {
  const absl::StatusOr<std::vector<std::string>> names = ListNames(directory);
  if (!names.ok()) return names.status();
  FoundSegments found;
  for (const std::string& name : *names) {
    // Without this a partial copy could be opened as if it were the whole log.
    if (name == kUnfinishedBackupName) {
      return absl::FailedPreconditionError(
          fmt::format("the directory holds {}: a backup into it was interrupted; make the "
                      "backup again, into this directory or another one",
                      name));
    }
    std::uint64_t number;
    if (FileDevice::ParseSegmentName(name, number)) found.numbers.push_back(number);
    // Other files are left alone, and the opening reports one of them.
    const bool is_ours = name == kLockName || name.ends_with(".ebb") || name.ends_with(".ebb.new");
    if (!is_ours && name != "lost+found") found.foreign = name;
  }
  std::sort(found.numbers.begin(), found.numbers.end());
  if (found.numbers.empty()) {
    // The first file's name is durable before there is a checkpoint or a commit, so a crash does
    // not leave this state either.
    const auto checkpoint = std::find_if(names->begin(), names->end(), [](const std::string& name) {
      return CheckpointOfFile(name).has_value();
    });
    const absl::StatusOr<FoundDurableEnd> end = ReadDurableEnd(directory, std::nullopt);
    if (!end.ok()) return end.status();
    const bool has_checkpoint = checkpoint != names->end();
    if (!has_checkpoint && end->end_block == 0) return found;
    return absl::DataLossError(
        fmt::format("the log's files, log-*.ebb, are missing, although {} is there",
                    has_checkpoint ? *checkpoint : kDurableEndName));
  }
  // A file whose header does not verify marks the end of the log, is damaged, or is no longer
  // needed. The scan decides that, as for any bad block.
  absl::Status first_bad;
  for (const std::uint64_t number : found.numbers) {
    absl::StatusOr<SegmentHeader> header = ReadSegmentHeader(directory, number);
    if (header.ok()) {
      // A file under another number would put its blocks at the addresses of others.
      if (header->first_block != number * header->segment_blocks) return ForeignFile(number);
      if (!found.header.has_value()) found.header = *header;
      found.header->first_block = header->first_block;  // they agree in all other fields
      if (*header != *found.header) return ForeignFile(number);
    } else if (absl::IsDataLoss(header.status())) {
      found.bad_headers[number] = std::string(header.status().message());
      first_bad.Update(header.status());
    } else {
      // An error of the device, not of the file.
      return header.status();
    }
  }
  if (!found.header.has_value()) return first_bad;
  return found;
}

// The order is that of "Creation" in src/README.md: the file log-00000000.ebb makes the directory a
// store, so it appears last, complete, by a rename.
absl::Status CreateFirstFile(Directory& directory, const SegmentHeader& header) {
  absl::Status status = WriteDurableEnd(directory, header.store_id, 0);
  if (!status.ok()) return status;
  // Its name first: a crash between the two files leaves a directory without a store, in which a
  // creation begins again.
  if (const int error = directory.Sync(); error != 0) {
    return FileError("create", kDurableEndName, 0, error);
  }
  const std::string name = FileDevice::SegmentName(0);
  const std::string unfinished = name + ".new";
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return FileError("create", unfinished, 0, ENOMEM);
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  EncodeSegmentHeader(header, block);
  OpenedFile opened = directory.Open(unfinished, {.create = true});
  if (opened.file == nullptr) return FileError("create", unfinished, 0, opened.error);
  // An earlier creation may have been interrupted.
  int error = opened.file->Truncate(0);
  if (error == 0) error = WriteFully(*opened.file, 0, block).error;
  if (error == 0) error = opened.file->Sync();
  if (error == 0) error = opened.file->Close();
  if (error == 0) error = directory.Rename(unfinished, name);
  if (error == 0) error = directory.Sync();
  return error == 0 ? absl::OkStatus() : FileError("create", name, 0, error);
}

HeaderWriter HeadersLike(const SegmentHeader& header) {
  return [header](std::uint64_t first_block, std::span<std::byte> block) {
    SegmentHeader next = header;
    next.first_block = first_block;
    EncodeSegmentHeader(next, block);
  };
}

// ---- checkpoints ----

absl::StatusOr<FoundCheckpoints> FindCheckpoints(Directory& directory, std::uint64_t store_id,
                                                 const Geometry& geometry) {
  const absl::StatusOr<std::vector<std::string>> names = ListNames(directory);
  if (!names.ok()) return names.status();
  FoundCheckpoints found;
  absl::StatusOr<FoundDurableEnd> end = ReadDurableEnd(directory, store_id);
  if (!end.ok()) return end.status();
  found.durable = geometry.BlockStart(end->end_block);
  if (!end->problem.empty()) found.notes.push_back(std::move(end->problem));
  for (const std::string& name : *names) {
    const auto id = CheckpointOfFile(name);
    if (!id.has_value()) continue;
    // Also ids of unfinished files: an id is never used twice.
    found.last_id = std::max(found.last_id, *id);
    if (name != ManifestName(*id)) continue;
    absl::StatusOr<Manifest> manifest = ReadManifest(directory, store_id, *id);
    // Neither of these errors is a statement about the file. An older checkpoint must not be used
    // instead.
    if (absl::IsUnimplemented(manifest.status()) || absl::IsResourceExhausted(manifest.status())) {
      return manifest.status();
    }
    if (!manifest.ok()) {
      found.notes.emplace_back(manifest.status().message());
    } else if (!IsPlausible(*manifest, geometry)) {
      found.notes.push_back(name + " at offset 0: fields are out of range");
    } else {
      // Each manifest that verifies states how far the log was durable, whether or not its image is
      // used.
      found.durable = std::max(found.durable, manifest->durable);
      found.manifests.push_back(*std::move(manifest));
    }
  }
  std::sort(found.manifests.begin(), found.manifests.end(),
            [](const Manifest& a, const Manifest& b) { return a.id < b.id; });
  return found;
}

}  // namespace ebb::internal
