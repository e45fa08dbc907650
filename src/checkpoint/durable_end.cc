#include "ebb/internal/checkpoint/durable_end.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "ebb/internal/device/file_io.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kEndMagic = 0x454c424152554445;  // "EDURABLE"
// Far from the numbers of all other blocks, so that no kind of block can pass for another.
constexpr std::uint64_t kFirstEndNumber = std::uint64_t{1} << 63;
constexpr std::size_t kSectorBytes = 512;
constexpr std::size_t kLastSector = kBlockBytes - kSectorBytes;

// The end of a block's payload, as the header draws it.
struct Fields {
  std::uint64_t magic = kEndMagic;
  std::uint64_t format_version = kFormatVersion;
  std::uint64_t store_id = 0;
  std::uint64_t end_block = 0;
};
constexpr std::size_t kFieldsOffset = kBlockPayloadBytes - sizeof(Fields);
static_assert(kFieldsOffset >= kLastSector, "one sector holds all that ever changes");

void Encode(std::uint64_t store_id, std::uint64_t end_block, std::size_t number,
            std::span<std::byte> block) {
  const Fields fields{.store_id = store_id, .end_block = end_block};
  std::memset(block.data(), 0, block.size());
  std::memcpy(block.data() + kFieldsOffset, &fields, sizeof(fields));
  // Of no incarnation: the file belongs to the store, and each opening continues it.
  SealBlock(block, store_id, kFirstEndNumber + number, 0);
}

// Returns E, or nothing if the block does not verify. Without a known store, its own id is used.
std::optional<std::uint64_t> Decode(std::span<const std::byte> block, std::size_t number,
                                    std::optional<std::uint64_t> store_id) {
  Fields fields;
  std::memcpy(&fields, block.data() + kFieldsOffset, sizeof(fields));
  // The number is part of the checksum, so a copy of the other block does not verify here. An end
  // that is no address of the log is not believed, even with a checksum.
  const bool verifies =
      fields.magic == kEndMagic && fields.format_version == kFormatVersion &&
      fields.store_id == store_id.value_or(fields.store_id) &&
      VerifyBlock(block, fields.store_id, kFirstEndNumber + number) == std::uint64_t{0} &&
      fields.end_block <= Address::kMask / kBlockBytes;
  return verifies ? std::optional(fields.end_block) : std::nullopt;
}

absl::Status Failed(const char* call, int error) {
  return FileError(call, kDurableEndName, 0, error);
}

}  // namespace

absl::StatusOr<FoundDurableEnd> ReadDurableEnd(Directory& directory,
                                               std::optional<std::uint64_t> store_id) {
  FoundDurableEnd found;
  OpenedFile opened = directory.Open(kDurableEndName, {});
  if (opened.file == nullptr && opened.error != ENOENT) return Failed("open", opened.error);
  if (opened.file == nullptr) {
    // Not an error: the log itself is complete. But its loss would not be noticed, which the caller
    // reports.
    found.problem = fmt::format(
        "{} is missing: a loss of the end of the log would not have been noticed (opening the "
        "store for writing creates the file again)",
        kDurableEndName);
    return found;
  }
  const AlignedBuffer buffer = AllocateAligned(2 * kBlockBytes);
  if (buffer == nullptr) return Failed("read", ENOMEM);
  const std::span<std::byte> bytes(buffer.get(), 2 * kBlockBytes);
  const FullTransfer read = ReadFully(*opened.file, 0, bytes);
  if (read.error != 0) return Failed("read", read.error);
  // A file that ends before its second block, for example after a crash while it was created, is
  // read as far as it goes.
  bool any = false;
  for (std::size_t i = 0; i < found.blocks.size() && (i + 1) * kBlockBytes <= read.moved; ++i) {
    const auto end_block = Decode(bytes.subspan(i * kBlockBytes, kBlockBytes), i, store_id);
    any = any || end_block.has_value();
    found.blocks[i] = end_block.value_or(0);
  }
  // The larger of those that verify counts; a torn write leaves the other one.
  found.end_block = std::max(found.blocks[0], found.blocks[1]);
  if (!any) {
    found.problem = fmt::format(
        "{} at offset 0: neither of its blocks verifies: a loss of the end of the log would not "
        "have been noticed (opening the store for writing replaces the blocks)",
        kDurableEndName);
  }
  return found;
}

// Both blocks at once, for creation, salvage and backups; the caller syncs the directory.
absl::Status WriteDurableEnd(Directory& directory, std::uint64_t store_id,
                             std::uint64_t end_block) {
  const AlignedBuffer buffer = AllocateAligned(2 * kBlockBytes);
  if (buffer == nullptr) return Failed("create", ENOMEM);
  const std::span<std::byte> bytes(buffer.get(), 2 * kBlockBytes);
  Encode(store_id, end_block, 0, bytes.first(kBlockBytes));
  Encode(store_id, end_block, 1, bytes.last(kBlockBytes));
  OpenedFile opened = directory.Open(kDurableEndName, {.create = true});
  if (opened.file == nullptr) return Failed("create", opened.error);
  if (const int error = WriteFully(*opened.file, 0, bytes).error; error != 0) {
    return Failed("write", error);
  }
  // Durable before this returns: a salvage then cuts the log down to this end, and a backup removes
  // its marker.
  if (const int error = opened.file->Sync(); error != 0) {
    return SyncError("sync", kDurableEndName, error);
  }
  const int error = opened.file->Close();
  return error == 0 ? absl::OkStatus() : SyncError("close", kDurableEndName, error);
}

absl::StatusOr<std::unique_ptr<DurableEnd>> DurableEnd::Open(Directory& directory,
                                                             std::uint64_t store_id,
                                                             std::uint64_t end_block) {
  absl::StatusOr<FoundDurableEnd> found = ReadDurableEnd(directory, store_id);
  if (!found.ok()) return found.status();
  if (!found->problem.empty()) {
    // Missing or damaged: start again with the end that the opening found.
    absl::Status status = WriteDurableEnd(directory, store_id, end_block);
    if (!status.ok()) return status;
    if (const int error = directory.Sync(); error != 0) {
      return SyncError("sync", "the store's directory", error);
    }
    found->end_block = end_block;
    found->blocks = {end_block, end_block};
  }
  std::unique_ptr<DurableEnd> end(new DurableEnd(store_id));
  end->end_block_ = found->end_block;
  end->blocks_ = found->blocks;
  end->buffer_ = AllocateAligned(kBlockBytes);
  if (end->buffer_ == nullptr) return Failed("open", ENOMEM);
  OpenedFile opened = directory.Open(kDurableEndName, {.write = true});
  if (opened.file == nullptr) return Failed("open", opened.error);
  end->file_ = std::move(opened.file);
  // Without a sync: the open record is durable, and an older end only notices less ("Order of
  // writes").
  end->Advance(end_block);
  return end;
}

void DurableEnd::Advance(std::uint64_t end_block) {
  if (end_block <= end_block_) return;
  end_block_ = end_block;
  // Alternately into the block with the lower value, so that a torn write never destroys the only
  // good one. An error is ignored: the statement stays lower, so a loss of the newest commits would
  // not be noticed.
  static_cast<void>(Write(blocks_[0] <= blocks_[1] ? 0 : 1));
}

int DurableEnd::Write(std::size_t block) {
  Encode(store_id_, end_block_, block, {buffer_.get(), kBlockBytes});
  // All changing bytes are in one sector, so after the first write only that sector is written. The
  // count of a block is 0 while its write is in progress.
  const std::size_t from = std::exchange(blocks_[block], 0) != 0 ? kLastSector : 0;
  unsynced_ = true;  // even if the write fails, since it may have changed bytes
  const std::span<const std::byte> bytes(buffer_.get() + from, kBlockBytes - from);
  const int error = WriteFully(*file_, block * kBlockBytes + from, bytes).error;
  if (error == 0) blocks_[block] = end_block_;
  return error;
}

absl::Status DurableEnd::Sync() {
  // Walk of a Close, 4. Both blocks get the newest end.
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const int error = blocks_[i] == end_block_ ? 0 : Write(i);
    if (error != 0) return Failed("write", error);
  }
  if (!unsynced_) return absl::OkStatus();
  if (const int error = file_->Sync(); error != 0) {
    blocks_ = {};  // the kernel may have dropped the written bytes
    return SyncError("sync", kDurableEndName, error);
  }
  unsynced_ = false;
  return absl::OkStatus();
}

}  // namespace ebb::internal
