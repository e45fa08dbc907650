// What every device promises, and the buffers of transfers.
#include "ebb/internal/device/device.h"

#include <gtest/gtest.h>

#include <cstring>

#include "absl/status/status.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/device/memory_device.h"
#include "tests/support/device_kit.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::AlignedBuffer;
using internal::AllocateAligned;
using internal::Device;
using internal::FileDevice;
using internal::kBlockBytes;
using internal::MemoryDevice;

void ExpectDeviceKeepsBlocks(Device& device) {
  const Blocks read(3);
  EXPECT_EQ(device.EndBlock(), 0U);
  EXPECT_EQ(device.Read(0, read.span().first(kBlockBytes)).code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(device.Write(0, Blocks(0, 7).span()).ok());
  ASSERT_TRUE(device.Write(8, Blocks(8, 2).span()).ok());
  ASSERT_TRUE(device.Write(5, Blocks(5, 1, 2).span()).ok());
  ASSERT_TRUE(device.Write(8, Blocks(8, 1).span()).ok());
  EXPECT_EQ(device.EndBlock(), 10U);

  ASSERT_TRUE(device.Read(2, read.span()).ok());
  EXPECT_TRUE(read == Blocks(2, 3));
  ASSERT_TRUE(device.Read(5, read.span().first(kBlockBytes)).ok());
  EXPECT_EQ(std::memcmp(read.span().data(), Blocks(5, 1, 2).span().data(), kBlockBytes), 0);
  EXPECT_EQ(device.Read(8, read.span()).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(device.Read(99, read.span()).code(), absl::StatusCode::kOutOfRange);

  ASSERT_TRUE(device.Sync().ok());
  ASSERT_TRUE(device.Truncate(6).ok());
  EXPECT_EQ(device.EndBlock(), 6U);
  ASSERT_TRUE(device.Read(3, read.span()).ok());
  EXPECT_EQ(device.Read(4, read.span()).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(device.Read(8, read.span().first(kBlockBytes)).code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(device.Truncate(99).ok());
  EXPECT_EQ(device.EndBlock(), 6U);
  ASSERT_TRUE(device.Truncate(0).ok());
  EXPECT_EQ(device.EndBlock(), 0U);
  ASSERT_TRUE(device.Write(0, Blocks(0, 1, 3).span()).ok());
  EXPECT_EQ(device.EndBlock(), 1U);
  EXPECT_TRUE(device.Close().ok());
}

TEST(DeviceTest, MemoryKeepsBlocks) {
  MemoryDevice device;
  ExpectDeviceKeepsBlocks(device);
  EXPECT_FALSE(device.direct());
  EXPECT_EQ(device.Describe(2), "memory at offset 8192");
}

TEST(DeviceTest, SimulatedFilesKeepBlocks) {
  SimFileSystem files;
  DeviceRig rig(files);
  ExpectDeviceKeepsBlocks(rig.device());
}

TEST(DeviceTest, RealFilesKeepBlocks) {
  const TempDir temp;
  DeviceRig rig(internal::PosixFileSystem(), temp / "store");
  ExpectDeviceKeepsBlocks(rig.device());
}

TEST(DeviceTest, BufferedFilesKeepBlocks) {
  const TempDir temp;
  const auto opened = internal::PosixFileSystem().OpenDirectory(temp / "store", true);
  ASSERT_EQ(opened.error, 0);
  auto device = FileDevice::Open(*opened.directory, [](auto...) {},
                                 {.segment_blocks = kSegmentBlocks, .direct_io = false});
  ASSERT_TRUE(device.ok());
  ASSERT_TRUE((*device)->Write(0, Blocks(0, 1).span()).ok());
  EXPECT_FALSE((*device)->direct());
  ASSERT_TRUE((*device)->Truncate(0).ok());
  ExpectDeviceKeepsBlocks(**device);
}

TEST(DeviceTest, BuffersAreAlignedAndAbsurdOnesAreRejected) {
  for (const std::size_t bytes : {0UL, 1UL, 4096UL, 12289UL}) {
    const AlignedBuffer buffer = AllocateAligned(bytes);
    ASSERT_NE(buffer, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.get()) % kBlockBytes, 0U);
    std::memset(buffer.get(), 1, bytes);
  }
  EXPECT_EQ(AllocateAligned(~std::size_t{0}), nullptr);
}

}  // namespace
}  // namespace ebb::test
