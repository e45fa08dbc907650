// MemoryDevice: the blocks of a store without files.
//
// Thread safety, progress and errors: as Device. No call waits for long: the lock is held while
// blocks are copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/device.h"

namespace ebb::internal {

class MemoryDevice final : public Device {
 public:
  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override;
  absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) override;
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Truncate(std::uint64_t block) override;
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) override;
  std::uint64_t EndBlock() const override;
  std::string Describe(std::uint64_t block) const override;
  absl::Status Close() override { return absl::OkStatus(); }
  bool direct() const override { return false; }

 private:
  mutable Mutex mu_;
  std::vector<AlignedBuffer> blocks_ ABSL_GUARDED_BY(mu_);
  std::uint64_t freed_end_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace ebb::internal
