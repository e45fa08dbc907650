// The ring of the kernel: right bytes, all depths, files that it cannot read.
#include "ebb/internal/device/uring.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "ebb/internal/device/device.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::File;
using internal::OpenUring;
using internal::ReadRing;

class UringTest : public testing::Test {
 protected:
  void SetUp() override {
    if (OpenUring(1) == nullptr) GTEST_SKIP() << "no io_uring here";
    directory_ = internal::PosixFileSystem().OpenDirectory(temp_ / "d", true).directory;
    file_ = directory_->Open("f", {.create = true, .direct = false}).file;
    std::array<std::byte, 1024> bytes;
    for (int i = 0; i < 64; ++i) {
      bytes.fill(static_cast<std::byte>(i));
      ASSERT_EQ(file_->WriteAt(static_cast<std::uint64_t>(i) * 1024, bytes.data(), 1024).count,
                1024U);
    }
  }
  TempDir temp_;
  std::unique_ptr<internal::Directory> directory_;
  std::unique_ptr<File> file_;
};

TEST_F(UringTest, ReadsEndWithTheBytesOfTheFile) {
  constexpr unsigned kDepth = 8;
  const auto ring = OpenUring(kDepth);
  EXPECT_FALSE(ring->Take(false).has_value());
  EXPECT_FALSE(ring->Take(true).has_value());
  std::array<std::array<std::byte, 1024>, kDepth> bytes;
  for (int turn = 0; turn < 50; ++turn) {
    std::set<void*> open;
    for (unsigned i = 0; i < kDepth; ++i) {
      ASSERT_TRUE(ring->Start(*file_, (turn + i) % 64 * 1024, bytes[i].data(), 1024, &bytes[i]));
      open.insert(&bytes[i]);
    }
    std::byte other;
    EXPECT_FALSE(ring->Start(*file_, 0, &other, 1, &other)) << "more than its depth";
    while (const auto ended = ring->Take(true)) {
      EXPECT_EQ(ended->transfer.error, 0);
      EXPECT_EQ(ended->transfer.count, 1024U);
      EXPECT_EQ(open.erase(ended->tag), 1U);
    }
    EXPECT_TRUE(open.empty());
    for (unsigned i = 0; i < kDepth; ++i) {
      EXPECT_EQ(bytes[i][1023], static_cast<std::byte>((turn + i) % 64));
    }
  }
}

TEST_F(UringTest, TheEndOfAFileIsShortAndAClosedFileAnError) {
  const auto ring = OpenUring(2);
  std::array<std::byte, 2048> bytes;
  ASSERT_TRUE(ring->Start(*file_, 63 * 1024, bytes.data(), 2048, &bytes));
  auto ended = ring->Take(true);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->transfer.count, 1024U);
  EXPECT_EQ(ended->transfer.error, 0);
  ASSERT_TRUE(ring->Start(*file_, 0, nullptr, 2048, &bytes));
  ended = ring->Take(true);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->transfer.error, EFAULT);
}

TEST_F(UringTest, AFileThatIsNoneOfTheSystemIsRejected) {
  SimFileSystem files;
  const auto directory = files.OpenDirectory("d", true).directory;
  const auto file = directory->Open("f", {.create = true, .direct = false}).file;
  std::byte byte;
  EXPECT_FALSE(OpenUring(2)->Start(*file, 0, &byte, 1, &byte));
}

}  // namespace
}  // namespace ebb::test
