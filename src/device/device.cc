#include "ebb/internal/device/device.h"

#include <algorithm>
#include <limits>
#include <new>

namespace ebb::internal {

void AlignedFree::operator()(std::byte* bytes) const {
  ::operator delete(bytes, std::align_val_t(kBlockBytes));
}

AlignedBuffer AllocateAligned(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() - kBlockBytes) return nullptr;
  const std::size_t block_count = std::max<std::size_t>(1, (bytes + kBlockBytes - 1) / kBlockBytes);
  return AlignedBuffer(static_cast<std::byte*>(
      ::operator new(block_count* kBlockBytes, std::align_val_t(kBlockBytes), std::nothrow)));
}

absl::Status Device::NotWritten(std::uint64_t block) const {
  return absl::OutOfRangeError(Describe(block) + " was never written");
}

}  // namespace ebb::internal
