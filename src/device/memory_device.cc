#include "ebb/internal/device/memory_device.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/values/check.h"
#include "fmt/format.h"

namespace ebb::internal {

absl::Status MemoryDevice::Read(std::uint64_t block, std::span<std::byte> bytes) {
  EBB_DCHECK(bytes.size() % kBlockBytes == 0);
  MutexLock lock(mu_);
  for (; !bytes.empty(); ++block, bytes = bytes.subspan(kBlockBytes)) {
    if (block >= blocks_.size() || blocks_[block] == nullptr) return NotWritten(block);
    std::memcpy(bytes.data(), blocks_[block].get(), kBlockBytes);
  }
  return absl::OkStatus();
}

absl::Status MemoryDevice::Write(std::uint64_t block, std::span<const std::byte> bytes) {
  EBB_DCHECK(bytes.size() % kBlockBytes == 0);
  MutexLock lock(mu_);
  const std::uint64_t end = block + bytes.size() / kBlockBytes;
  try {
    if (end > blocks_.size()) blocks_.resize(end);
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
  for (; !bytes.empty(); ++block, bytes = bytes.subspan(kBlockBytes)) {
    if (blocks_[block] == nullptr) blocks_[block] = AllocateAligned(kBlockBytes);
    if (blocks_[block] == nullptr) return NoMemory();
    std::memcpy(blocks_[block].get(), bytes.data(), kBlockBytes);
  }
  return absl::OkStatus();
}

absl::Status MemoryDevice::Truncate(std::uint64_t block) {
  MutexLock lock(mu_);
  if (block < blocks_.size()) blocks_.resize(block);
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> MemoryDevice::TruncateFront(std::uint64_t block) {
  // Blocks are freed one by one, and block numbers stay valid: a freed block reads as never
  // written.
  MutexLock lock(mu_);
  std::uint64_t freed_bytes = 0;
  const std::uint64_t end = std::min<std::uint64_t>(block, blocks_.size());
  for (; freed_end_ < end; ++freed_end_) {
    freed_bytes += blocks_[freed_end_] != nullptr ? kBlockBytes : 0;
    blocks_[freed_end_] = nullptr;
  }
  return freed_bytes;
}

std::uint64_t MemoryDevice::EndBlock() const {
  MutexLock lock(mu_);
  return blocks_.size();
}

std::string MemoryDevice::Describe(std::uint64_t block) const {
  return fmt::format("memory at offset {}", block * kBlockBytes);
}

}  // namespace ebb::internal
