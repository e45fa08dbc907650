// Sealed files: a stream of bytes in blocks of 4 KiB, each with its own checksum (block.h).
//
// Manifests and images of the index are such files. A file is written under a temporary name and
// gets its own only when it is complete and synced. So a file of that name that does not verify has
// been damaged. A crash can leave the temporary file behind; it is ignored.
//
// Thread safety: one thread uses an object. Errors: as devices; DataLoss with file and offset for a
// block that does not verify or is missing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

// The identity to which the checksums of a file's blocks are bound.
struct SealedFileId {
  std::uint64_t store_id = 0;
  std::uint64_t stamp = 0;  // random, or a number that distinguishes files of the same name
};

class SealedWriter {
 public:
  static constexpr const char* kUnfinishedSuffix = ".new";

  SealedWriter(Directory& directory, std::string name, SealedFileId id);
  // Removes an unfinished file.
  ~SealedWriter();
  SealedWriter(const SealedWriter&) = delete;
  SealedWriter& operator=(const SealedWriter&) = delete;

  // Call Open first and Append any number of times. After an error nothing else may be called.
  absl::Status Open();
  absl::Status Append(std::span<const std::byte> bytes);
  absl::Status AppendWord(std::uint64_t word);
  // Fills the last block with zeros, syncs, and gives the file its name. Does not sync the
  // directory.
  absl::Status Finish();
  std::uint64_t file_bytes() const { return written_blocks_ * kBlockBytes; }

 private:
  absl::Status WriteBuffer();

  Directory& directory_;
  const std::string name_;
  const std::string unfinished_name_;  // for the destructor, which must not allocate
  const SealedFileId id_;
  std::unique_ptr<File> file_;
  AlignedBuffer buffer_;
  std::uint64_t written_blocks_ = 0;
  std::size_t block_ = 0;     // of the buffer, being filled
  std::size_t in_block_ = 0;  // bytes of its payload
  bool finished_ = false;
};

class SealedReader {
 public:
  SealedReader(Directory& directory, std::string name, SealedFileId id);

  absl::Status Open();
  // Reads the next bytes of the stream.
  absl::Status Read(std::span<std::byte> bytes);
  absl::Status ReadWord(std::uint64_t& word);
  std::uint64_t file_bytes() const { return file_bytes_; }
  // Returns DataLoss for the bytes read last.
  absl::Status Damaged(const char* what) const;

 private:
  absl::Status FillBuffer();

  Directory& directory_;
  const std::string name_;
  const SealedFileId id_;
  std::unique_ptr<File> file_;
  AlignedBuffer buffer_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t next_block_ = 0;  // of the file, after the buffer
  std::size_t block_count_ = 0;   // in the buffer
  std::size_t block_ = 0;         // being read
  std::size_t in_block_ = 0;
};

}  // namespace ebb::internal
