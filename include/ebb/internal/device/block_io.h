// Reads of many blocks at a time, for jobs that read a log or its files in order.
//
// Thread safety and progress: as Device::Read. Errors: the same, except at the end of a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "ebb/internal/device/device.h"

namespace ebb::internal {

// How much is read at a time: 1 MiB.
inline constexpr std::uint64_t kReadBlocks = 256;
// How many of the blocks that `bytes` has room for there are from `block` on; a file can end early.
absl::StatusOr<std::uint64_t> ReadBlocks(Device& device, std::uint64_t block,
                                         std::span<std::byte> bytes);

}  // namespace ebb::internal
