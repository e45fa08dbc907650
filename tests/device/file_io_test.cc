#include "ebb/internal/device/file_io.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "absl/status/status.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/status.h"
#include "tests/support/device_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"

namespace ebb::test {
namespace {

using internal::FileError;
using internal::FullTransfer;
using ::testing::HasSubstr;

class FileIoTest : public ::testing::Test {
 protected:
  SimFileSystem files_;
  DeviceRig rig_{files_};
};

// Every way in which a single transfer may stumble and continue, on direct and on buffered files.
TEST_F(FileIoTest, StumblingTransfersAreContinued) {
  const Fault stumbles[] = {
      {.effect = Effect::kError, .error = EINTR},
      {.effect = Effect::kError, .error = EAGAIN},
      {.effect = Effect::kShort, .short_by_bytes = 512},
      {.effect = Effect::kShort, .short_by_bytes = 1},
      {.effect = Effect::kShort, .short_by_bytes = 4096},
      {.effect = Effect::kShort, .short_by_bytes = 5000},
  };
  for (const bool direct : {true, false}) {
    for (const Fault& stumble : stumbles) {
      for (std::uint64_t skip = 0; skip < 3; ++skip) {
        SimFileSystem files(direct);
        DeviceRig rig(files);
        ASSERT_TRUE(rig.Write(0, 1).ok());
        EXPECT_EQ(rig.device().direct(), direct);
        Fault fault = stumble;
        fault.skip = skip;
        fault.kind = CallKind::kWrite;
        rig.faults().Arm(fault);
        fault.kind = CallKind::kRead;
        rig.faults().Arm(fault);
        EXPECT_TRUE(rig.Write(1, 7).ok());
        EXPECT_TRUE(rig.Check(0, 12).code() == absl::StatusCode::kOutOfRange);
        EXPECT_TRUE(rig.Check(0, 8).ok());
        EXPECT_EQ(rig.faults().FiredCount(), 2U)
            << direct << " " << fault.error << " " << fault.short_by_bytes << " " << skip;
      }
    }
  }
}

TEST_F(FileIoTest, TransferThatStumblesTwiceAtOnePlaceIsContinued) {
  ASSERT_TRUE(rig_.Write(0, 4).ok());
  for (const CallKind kind : {CallKind::kRead, CallKind::kWrite}) {
    for (int i = 0; i < 2; ++i) {
      rig_.faults().Arm({.kind = kind, .effect = Effect::kShort, .short_by_bytes = 512});
    }
  }
  EXPECT_TRUE(rig_.Write(0, 1, 2).ok());
  EXPECT_TRUE(rig_.Check(0, 1, 2).ok());
  EXPECT_EQ(rig_.faults().FiredCount(), 4U);
}

TEST_F(FileIoTest, WriteThatMovesNothingOnceIsContinued) {
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  rig_.faults().Arm(
      {.kind = CallKind::kWrite, .effect = Effect::kShort, .short_by_bytes = kAllBytes});
  EXPECT_TRUE(rig_.Write(1, 2).ok());
  EXPECT_TRUE(rig_.Check(0, 3).ok());
  EXPECT_EQ(rig_.faults().FiredCount(), 1U);
}

TEST_F(FileIoTest, TransfersThatNeverGetAnywhereEndWithAnError) {
  const Fault blocks[] = {
      {.sticky = true, .effect = Effect::kError, .error = EINTR},
      {.sticky = true, .effect = Effect::kError, .error = EAGAIN},
      {.sticky = true, .effect = Effect::kError, .error = EIO},
      {.sticky = true, .effect = Effect::kShort, .short_by_bytes = kAllBytes},
      {.sticky = true, .effect = Effect::kShort, .short_by_bytes = 512},
  };
  for (const bool direct : {true, false}) {
    for (const Fault& block : blocks) {
      SimFileSystem files(direct);
      DeviceRig rig(files);
      ASSERT_TRUE(rig.Write(0, 2).ok());
      Fault fault = block;
      fault.kind = CallKind::kWrite;
      rig.faults().Arm(fault);
      fault.kind = CallKind::kRead;
      rig.faults().Arm(fault);
      EXPECT_EQ(rig.Write(2, 1).code(), absl::StatusCode::kUnavailable);
      EXPECT_FALSE(rig.Check(0, 2).ok()) << fault.error << " " << fault.short_by_bytes;
      rig.faults().Disarm();
      EXPECT_TRUE(rig.Write(2, 1).ok());
      EXPECT_TRUE(rig.Check(0, 3).ok());
    }
  }
}

TEST_F(FileIoTest, ErrorsOfFilesFollowTheTableAndNameTheRemedy) {
  for (int error = 1; error < 140; ++error) {
    const internal::ErrorRule rule = internal::RuleOf(error);
    const absl::Status status = FileError("write", "f", 4096, error);
    EXPECT_EQ(status.code(), rule.code);
    EXPECT_EQ(IsRecoverable(status), rule.passes) << status;
    EXPECT_THAT(status.message(), HasSubstr(rule.advice));
    EXPECT_THAT(status.message(), HasSubstr(fmt::format("errno {}", error)));
    // After a failed sync nothing helps but to open the store again.
    const absl::Status sync = internal::SyncError("sync", "f", error);
    EXPECT_EQ(sync.code(), absl::StatusCode::kUnavailable);
    EXPECT_FALSE(IsRecoverable(sync));
  }
}

TEST_F(FileIoTest, ReadStopsAtTheEndOfTheFileAlsoInsideABlock) {
  for (const bool direct : {true, false}) {
    SimFileSystem files(direct);
    const auto directory = files.OpenDirectory("store", true).directory;
    const auto file = directory->Open("file", {.create = true, .direct = true}).file;
    ASSERT_EQ(file->direct(), direct);
    ASSERT_EQ(file->Truncate(6000), 0);
    const Blocks read(3);
    const FullTransfer transfer = internal::ReadFully(*file, 0, read.span());
    EXPECT_EQ(transfer.error, 0);
    EXPECT_EQ(transfer.moved, 6000U);
  }
}

}  // namespace
}  // namespace ebb::test
