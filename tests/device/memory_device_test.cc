#include "ebb/internal/device/memory_device.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "tests/support/device_kit.h"

namespace ebb::test {
namespace {

using internal::kBlockBytes;
using internal::MemoryDevice;

TEST(MemoryDeviceTest, HolesInMemoryWereNeverWritten) {
  MemoryDevice device;
  ASSERT_TRUE(device.Write(3, Blocks(3, 1).span()).ok());
  const Blocks read(1);
  EXPECT_EQ(device.Read(2, read.span()).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(device.Read(3, read.span()).ok());
}

}  // namespace
}  // namespace ebb::test
