#include "ebb/internal/checkpoint/sealed_file.h"

#include <cerrno>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::SealedFileId;
using internal::SealedReader;
using internal::SealedWriter;

constexpr SealedFileId kId{.store_id = 5, .stamp = 6};

absl::Status Write(internal::Directory& directory, std::uint64_t words, SealedFileId id = kId) {
  SealedWriter writer(directory, "file", id);
  if (absl::Status status = writer.Open(); !status.ok()) return status;
  for (std::uint64_t i = 0; i < words; ++i) {
    if (absl::Status status = writer.AppendWord(i * i); !status.ok()) return status;
  }
  return writer.Finish();
}

// OK when the first `words` words are there and right.
absl::Status Check(internal::Directory& directory, std::uint64_t words, SealedFileId id = kId) {
  SealedReader reader(directory, "file", id);
  if (absl::Status status = reader.Open(); !status.ok()) return status;
  for (std::uint64_t i = 0; i < words; ++i) {
    std::uint64_t word = 0;
    if (absl::Status status = reader.ReadWord(word); !status.ok()) return status;
    if (word != i * i) return absl::InternalError("wrong bytes");
  }
  return absl::OkStatus();
}

class SealedFileTest : public testing::Test {
 protected:
  SimFileSystem disk_{false};
  FaultFileSystem files_{disk_};
  std::unique_ptr<internal::Directory> directory_ = files_.OpenDirectory("d", true).directory;
};

TEST_F(SealedFileTest, BytesComeBackWhateverTheirNumber) {
  for (const std::uint64_t words : {0, 1, 509, 510, 511, 1020, 140000}) {
    ASSERT_TRUE(Write(*directory_, words).ok());
    const std::uint64_t blocks = (words + 509) / 510;
    EXPECT_EQ(disk_.Contents("d", "file").size(), blocks * 4096);
    EXPECT_TRUE(Check(*directory_, words).ok());
    SealedReader reader(*directory_, "file", kId);
    ASSERT_TRUE(reader.Open().ok());
    std::vector<std::byte> bytes(blocks * 4080 + 1);
    EXPECT_TRUE(FailsWith(reader.Read(bytes), StatusCode::kDataLoss, "too early"));
  }
}

TEST_F(SealedFileTest, EveryFlippedByteIsFound) {
  ASSERT_TRUE(Write(*directory_, 1000).ok());
  auto file = directory_->Open("file", {.write = true}).file;
  for (std::uint64_t offset = 0; offset < 8192; ++offset) {
    if (!IsInSample(offset)) continue;
    std::byte byte;
    ASSERT_EQ(file->ReadAt(offset, &byte, 1).count, 1U);
    byte ^= std::byte{16};
    ASSERT_EQ(file->WriteAt(offset, &byte, 1).count, 1U);
    const std::string place = "file at offset " + std::to_string(offset / 4096 * 4096);
    EXPECT_TRUE(FailsWith(Check(*directory_, 1000), StatusCode::kDataLoss, place)) << offset;
    byte ^= std::byte{16};
    ASSERT_EQ(file->WriteAt(offset, &byte, 1).count, 1U);
  }
  EXPECT_TRUE(Check(*directory_, 1000).ok());
}

TEST_F(SealedFileTest, AnotherStoresOrStampsBlocksAreDamage) {
  ASSERT_TRUE(Write(*directory_, 10).ok());
  EXPECT_TRUE(FailsWith(Check(*directory_, 10, {5, 7}), StatusCode::kDataLoss));
  EXPECT_TRUE(FailsWith(Check(*directory_, 10, {4, 6}), StatusCode::kDataLoss));
}

TEST_F(SealedFileTest, MissingAndShortFilesAreDamage) {
  EXPECT_TRUE(FailsWith(Check(*directory_, 1), StatusCode::kDataLoss, "file at offset 0"));
  ASSERT_TRUE(Write(*directory_, 1000).ok());
  ASSERT_EQ(directory_->Open("file", {.write = true}).file->Truncate(5000), 0);
  EXPECT_TRUE(FailsWith(Check(*directory_, 1000), StatusCode::kDataLoss, "file at offset 4096"));
}

// The name appears only with everything behind it.
TEST_F(SealedFileTest, ACrashLeavesTheWholeFileOrNone) {
  ASSERT_TRUE(Write(*directory_, 1000).ok());
  ASSERT_EQ(directory_->Sync(), 0);
  ASSERT_TRUE(Write(*directory_, 2000).ok());  // over the old one
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto after = disk_.Crash(seed);
    auto directory = after->OpenDirectory("d", false).directory;
    EXPECT_TRUE(Check(*directory, 1000).ok()) << seed;
  }
}

TEST_F(SealedFileTest, AFailureIsReportedAndLeavesNothing) {
  for (const CallKind kind : {CallKind::kOpen, CallKind::kTruncate, CallKind::kWrite,
                              CallKind::kSync, CallKind::kClose, CallKind::kRename}) {
    files_.Arm({.kind = kind, .error = ENOSPC});
    EXPECT_TRUE(FailsWith(Write(*directory_, 10), StatusCode::kResourceExhausted, "file.new"));
    std::vector<std::string> names;
    ASSERT_EQ(directory_->List(names), 0);
    EXPECT_TRUE(names.empty()) << static_cast<int>(kind);
  }
}

}  // namespace
}  // namespace ebb::test
