#include "ebb/internal/device/block_io.h"

#include "absl/status/status.h"

namespace ebb::internal {

// A block beyond the end of a file is no error here: a scan of the log reads up to the last block
// that exists. So after an OutOfRange the blocks are read one by one, to find the first that is
// missing.
absl::StatusOr<std::uint64_t> ReadBlocks(Device& device, std::uint64_t block,
                                         std::span<std::byte> bytes) {
  const std::uint64_t count = bytes.size() / kBlockBytes;
  absl::Status status = device.Read(block, bytes);
  if (status.ok()) return count;
  if (!absl::IsOutOfRange(status)) return status;
  for (std::uint64_t i = 0; i < count; ++i) {
    status = device.Read(block + i, bytes.subspan(i * kBlockBytes, kBlockBytes));
    if (absl::IsOutOfRange(status)) return i;
    if (!status.ok()) return status;
  }
  return count;
}

}  // namespace ebb::internal
