// For tests of devices: blocks whose content shows where they belong, and a file device on a file
// system with faults.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_system.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"

namespace ebb::test {

inline constexpr std::uint64_t kSegmentBlocks = 4;

// Blocks of memory whose content shows where they belong and who wrote them.
class Blocks {
 public:
  explicit Blocks(std::size_t count)
      : bytes_(internal::AllocateAligned(count * internal::kBlockBytes)), count_(count) {
    std::memset(bytes_.get(), 0xcd, count * internal::kBlockBytes);
  }
  Blocks(std::uint64_t first, std::size_t count, unsigned generation = 1) : Blocks(count) {
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t at = 0; at < internal::kBlockBytes; at += 8) {
        const std::uint64_t word = ((first + i) << 32) | (at << 8) | generation;
        std::memcpy(bytes_.get() + i * internal::kBlockBytes + at, &word, 8);
      }
    }
  }
  std::span<std::byte> span() const { return {bytes_.get(), count_ * internal::kBlockBytes}; }
  bool operator==(const Blocks& other) const {
    return count_ == other.count_ &&
           std::memcmp(bytes_.get(), other.bytes_.get(), count_ * internal::kBlockBytes) == 0;
  }

 private:
  internal::AlignedBuffer bytes_;
  std::size_t count_;
};

// Every byte of segment k's header is k + 1, and the first block is remembered.
class Headers {
 public:
  void Write(std::uint64_t first_block, std::span<std::byte> block) {
    std::memset(block.data(), static_cast<int>(1 + first_block / kSegmentBlocks), block.size());
    std::lock_guard lock(mu_);
    asked_.push_back(first_block);
  }
  std::vector<std::uint64_t> asked() const {
    std::lock_guard lock(mu_);
    return asked_;
  }

 private:
  mutable std::mutex mu_;
  std::vector<std::uint64_t> asked_;
};

// A file device in directory "store" of some file system, with faults in between.
class DeviceRig {
 public:
  explicit DeviceRig(internal::FileSystem& base, const std::string& path = "store",
                     std::size_t open_files = internal::FileDevice::kOpenFiles)
      : faults_(base), open_files_(open_files) {
    internal::OpenedDirectory opened = faults_.OpenDirectory(path, /*create=*/true);
    EXPECT_EQ(opened.error, 0);
    directory_ = std::move(opened.directory);
    Reopen();
  }

  void Reopen() {
    device_.reset();
    auto device = TryOpen();
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  absl::StatusOr<std::unique_ptr<internal::FileDevice>> TryOpen(std::uint64_t reserve_blocks = 0) {
    const auto write = [this](std::uint64_t first_block, std::span<std::byte> block) {
      headers_.Write(first_block, block);
    };
    return internal::FileDevice::Open(*directory_, write,
                                      {.segment_blocks = kSegmentBlocks,
                                       .direct_io = true,
                                       .reserve_blocks = reserve_blocks,
                                       .open_files = open_files_});
  }

  absl::Status Write(std::uint64_t block, std::size_t count, unsigned generation = 1) {
    return device_->Write(block, Blocks(block, count, generation).span());
  }
  // OK when the blocks hold the bytes that Write put there.
  absl::Status Check(std::uint64_t block, std::size_t count, unsigned generation = 1) {
    const Blocks read(count);
    if (absl::Status status = device_->Read(block, read.span()); !status.ok()) return status;
    if (read == Blocks(block, count, generation)) return absl::OkStatus();
    return absl::DataLossError("other bytes");
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    EXPECT_EQ(directory_->List(names), 0);
    std::sort(names.begin(), names.end());
    return names;
  }
  std::uint64_t SizeOf(const std::string& name) {
    std::uint64_t size = 0;
    EXPECT_EQ(directory_->Open(name, {}).file->Size(size), 0);
    return size;
  }

  FaultFileSystem& faults() { return faults_; }
  internal::FileDevice& device() { return *device_; }
  internal::Directory& directory() { return *directory_; }
  const Headers& headers() const { return headers_; }

 private:
  FaultFileSystem faults_;
  const std::size_t open_files_;
  std::unique_ptr<internal::Directory> directory_;
  Headers headers_;
  std::unique_ptr<internal::FileDevice> device_;
};

}  // namespace ebb::test
