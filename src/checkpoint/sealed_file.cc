#include "ebb/internal/checkpoint/sealed_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ebb/internal/device/file_io.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {
namespace {
constexpr std::size_t kBufferBlocks = 256;  // 1 MiB at a time
// Far from the numbers of log blocks, so that neither kind of block can pass for the other.
constexpr std::uint64_t kFirstNumber = std::uint64_t{1} << 62;
}  // namespace

// ---- writing ----

SealedWriter::SealedWriter(Directory& directory, std::string name, SealedFileId id)
    : directory_(directory),
      name_(std::move(name)),
      unfinished_name_(name_ + kUnfinishedSuffix),
      id_(id) {}

SealedWriter::~SealedWriter() {
  if (file_ == nullptr || finished_) return;
  file_ = nullptr;
  static_cast<void>(directory_.Unlink(unfinished_name_));  // best effort: it would be ignored
}

absl::Status SealedWriter::Open() {
  const std::string& unfinished = unfinished_name_;
  buffer_ = AllocateAligned(kBufferBlocks * kBlockBytes);
  if (buffer_ == nullptr) return FileError("create", unfinished, 0, ENOMEM);
  OpenedFile opened = directory_.Open(unfinished, {.create = true});
  if (opened.file == nullptr) return FileError("create", unfinished, 0, opened.error);
  file_ = std::move(opened.file);
  const int error = file_->Truncate(0);  // a crash may have left one
  return error == 0 ? absl::OkStatus() : FileError("truncate", unfinished, 0, error);
}

absl::Status SealedWriter::Append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    // Only when more bytes follow, so Finish finds room in the buffer to pad the last block.
    if (block_ == kBufferBlocks) {
      if (absl::Status status = WriteBuffer(); !status.ok()) return status;
    }
    const std::size_t count = std::min(bytes.size(), kBlockPayloadBytes - in_block_);
    std::memcpy(buffer_.get() + block_ * kBlockBytes + in_block_, bytes.data(), count);
    bytes = bytes.subspan(count);
    in_block_ += count;
    if (in_block_ == kBlockPayloadBytes) {
      ++block_;
      in_block_ = 0;
    }
  }
  return absl::OkStatus();
}

absl::Status SealedWriter::AppendWord(std::uint64_t word) {
  return Append(std::as_bytes(std::span(&word, 1)));
}

// Seals and writes the whole blocks of the buffer.
absl::Status SealedWriter::WriteBuffer() {
  for (std::size_t i = 0; i < block_; ++i) {
    SealBlock({buffer_.get() + i * kBlockBytes, kBlockBytes}, id_.store_id,
              kFirstNumber + written_blocks_ + i, id_.stamp);
  }
  const std::uint64_t offset = written_blocks_ * kBlockBytes;
  const FullTransfer transfer = WriteFully(*file_, offset, {buffer_.get(), block_ * kBlockBytes});
  if (transfer.error != 0) {
    return FileError("write", name_ + kUnfinishedSuffix, offset + transfer.moved, transfer.error);
  }
  written_blocks_ += block_;
  block_ = 0;
  return absl::OkStatus();
}

absl::Status SealedWriter::Finish() {
  // The last block is padded with zeros, since only whole blocks are sealed.
  if (in_block_ != 0) {
    std::memset(buffer_.get() + block_ * kBlockBytes + in_block_, 0,
                kBlockPayloadBytes - in_block_);
    ++block_;
    in_block_ = 0;
  }
  if (absl::Status status = WriteBuffer(); !status.ok()) return status;
  const std::string& unfinished = unfinished_name_;
  // The rename must not become durable before the contents. An error of this sync does not poison
  // the store: the file has no name yet, so nothing relies on it, and the next attempt writes a new
  // one.
  if (const int error = file_->Sync(); error != 0) return FileError("sync", unfinished, 0, error);
  if (const int error = file_->Close(); error != 0) return FileError("close", unfinished, 0, error);
  if (const int error = directory_.Rename(unfinished, name_); error != 0) {
    return FileError("rename", unfinished, 0, error);
  }
  // The name becomes durable when the caller syncs the directory.
  finished_ = true;
  return absl::OkStatus();
}

// ---- reading ----

SealedReader::SealedReader(Directory& directory, std::string name, SealedFileId id)
    : directory_(directory), name_(std::move(name)), id_(id) {}

absl::Status SealedReader::Open() {
  OpenedFile opened = directory_.Open(name_, {});
  if (opened.file == nullptr && opened.error == ENOENT) {
    return absl::DataLossError(fmt::format("{} at offset 0: the file is missing", name_));
  }
  if (opened.file == nullptr) return FileError("open", name_, 0, opened.error);
  file_ = std::move(opened.file);
  if (const int error = file_->Size(file_bytes_); error != 0) {
    return FileError("size", name_, 0, error);
  }
  buffer_ = AllocateAligned(kBufferBlocks * kBlockBytes);
  return buffer_ != nullptr ? absl::OkStatus() : FileError("read", name_, 0, ENOMEM);
}

// Only verified bytes leave the buffer: FillBuffer checks all of its blocks first.
absl::Status SealedReader::Read(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    if (block_ == block_count_) {
      if (absl::Status status = FillBuffer(); !status.ok()) return status;
    }
    const std::size_t count = std::min(bytes.size(), kBlockPayloadBytes - in_block_);
    std::memcpy(bytes.data(), buffer_.get() + block_ * kBlockBytes + in_block_, count);
    bytes = bytes.subspan(count);
    in_block_ += count;
    if (in_block_ == kBlockPayloadBytes) {
      ++block_;
      in_block_ = 0;
    }
  }
  return absl::OkStatus();
}

absl::Status SealedReader::ReadWord(std::uint64_t& word) {
  return Read(std::as_writable_bytes(std::span(&word, 1)));
}

absl::Status SealedReader::FillBuffer() {
  const std::uint64_t offset = next_block_ * kBlockBytes;
  const FullTransfer transfer =
      ReadFully(*file_, offset, {buffer_.get(), kBufferBlocks * kBlockBytes});
  if (transfer.error != 0) {
    return FileError("read", name_, offset + transfer.moved, transfer.error);
  }
  block_ = 0;
  // A ragged end is dropped: only whole blocks were written.
  block_count_ = transfer.moved / kBlockBytes;
  for (std::size_t i = 0; i < block_count_; ++i) {
    const auto stamp = VerifyBlock({buffer_.get() + i * kBlockBytes, kBlockBytes}, id_.store_id,
                                   kFirstNumber + next_block_ + i);
    // The stamp must match too: a block of an older file of this name has a valid checksum.
    if (stamp != id_.stamp) {
      // The message states the offset of this block.
      block_ = i;
      next_block_ += block_count_;
      return Damaged("a block fails its checksum");
    }
  }
  next_block_ += block_count_;
  return block_count_ != 0 ? absl::OkStatus() : Damaged("the file ends too early");
}

absl::Status SealedReader::Damaged(const char* what) const {
  return absl::DataLossError(fmt::format(
      "{} at offset {}: {}", name_, (next_block_ - block_count_ + block_) * kBlockBytes, what));
}

}  // namespace ebb::internal
