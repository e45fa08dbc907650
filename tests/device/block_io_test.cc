// ReadBlocks: as many blocks as there are, whole, from where the file still has some.
#include "ebb/internal/device/block_io.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/device/memory_device.h"
#include "gtest/gtest.h"

namespace ebb::test {
namespace {

using internal::AllocateAligned;
using internal::kBlockBytes;
using internal::MemoryDevice;
using internal::ReadBlocks;

// Blocks [0, count), each full of its number.
void Fill(MemoryDevice& device, int count) {
  const auto block = AllocateAligned(kBlockBytes);
  for (int i = 0; i < count; ++i) {
    std::memset(block.get(), i, kBlockBytes);
    ASSERT_TRUE(device.Write(static_cast<std::uint64_t>(i), {block.get(), kBlockBytes}).ok());
  }
}

TEST(BlockIoTest, ReadsTheExistingPartOfABlockRange) {
  MemoryDevice device;
  Fill(device, 5);
  const auto bytes = AllocateAligned(4 * kBlockBytes);
  for (std::uint64_t first = 0; first < 8; ++first) {
    const auto count = ReadBlocks(device, first, {bytes.get(), 4 * kBlockBytes});
    ASSERT_TRUE(count.ok()) << count.status();
    ASSERT_EQ(*count, first < 5 ? std::min<std::uint64_t>(4, 5 - first) : 0);
    for (std::uint64_t i = 0; i < *count; ++i) {
      EXPECT_EQ(bytes[i * kBlockBytes + 17], static_cast<std::byte>(first + i));
    }
  }
}

// All reads fail.
class BrokenDevice final : public internal::Device {
 public:
  absl::Status Read(std::uint64_t, std::span<std::byte>) override {
    return absl::UnavailableError("broken");
  }
  absl::Status Write(std::uint64_t, std::span<const std::byte>) override { return {}; }
  absl::Status Sync() override { return {}; }
  absl::Status Truncate(std::uint64_t) override { return {}; }
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t) override { return std::uint64_t{0}; }
  std::uint64_t EndBlock() const override { return 9; }
  std::string Describe(std::uint64_t) const override { return "here"; }
  absl::Status Close() override { return {}; }
  bool direct() const override { return false; }
};

TEST(BlockIoTest, AnErrorIsNoEnd) {
  BrokenDevice device;
  const auto bytes = AllocateAligned(kBlockBytes);
  EXPECT_TRUE(absl::IsUnavailable(ReadBlocks(device, 0, {bytes.get(), kBlockBytes}).status()));
}

}  // namespace
}  // namespace ebb::test
