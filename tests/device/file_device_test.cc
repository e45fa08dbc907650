#include "ebb/internal/device/file_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/device/file_system.h"
#include "tests/support/device_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::BlockRange;
using internal::Device;
using internal::FileDevice;
using internal::kBlockBytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return status.ToString(); }

class FileDeviceTest : public ::testing::Test {
 protected:
  SimFileSystem files_;
  DeviceRig rig_{files_};
};

TEST_F(FileDeviceTest, DeviceIsDirectWhenEverySegmentIs) {
  EXPECT_FALSE(rig_.device().direct());
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  EXPECT_TRUE(rig_.device().direct());
  rig_.Reopen();
  EXPECT_TRUE(rig_.device().direct());
}

// Listings come in any order: that of creation, its reverse, or none that one could name.
TEST_F(FileDeviceTest, SegmentsAreFoundInAnyOrderOfListing) {
  const TempDir temp;
  DeviceRig rig(internal::PosixFileSystem(), temp / "store");
  for (const std::uint64_t segment : {5U, 0U, 9U, 2U, 7U, 1U, 8U}) {
    ASSERT_TRUE(rig.Write(segment * kSegmentBlocks, 1).ok());
  }
  for (int round = 0; round < 2; ++round) {
    for (const std::uint64_t segment : {5U, 0U, 9U, 2U, 7U, 1U, 8U}) {
      EXPECT_TRUE(rig.Check(segment * kSegmentBlocks, 1).ok()) << segment;
    }
    EXPECT_EQ(rig.device().EndBlock(), 9 * kSegmentBlocks + 1);
    rig.Reopen();
  }
}

TEST_F(FileDeviceTest, HeldBlocksOmitMissingFiles) {
  ASSERT_TRUE(rig_.Write(1, 2).ok());
  ASSERT_TRUE(rig_.Write(7 * kSegmentBlocks, 1).ok());
  const std::vector<BlockRange> held = rig_.device().HeldBlocks();
  ASSERT_EQ(held.size(), 2U);
  EXPECT_EQ(held[0].begin, 0U);
  EXPECT_EQ(held[0].end, 3U);
  EXPECT_EQ(held[1].begin, 7 * kSegmentBlocks);
  EXPECT_EQ(held[1].end, rig_.device().EndBlock());
}

TEST_F(FileDeviceTest, TheFrontIsFreedByFilesAndInsideOne) {
  ASSERT_TRUE(rig_.Write(0, 3 * kSegmentBlocks).ok());
  const std::uint64_t used = files_.UsedBytes();
  EXPECT_EQ(*rig_.device().TruncateFront(0), 0U);
  EXPECT_EQ(*rig_.device().TruncateFront(1), kBlockBytes);
  EXPECT_EQ(*rig_.device().TruncateFront(1), 0U);
  EXPECT_EQ(files_.UsedBytes(), used - kBlockBytes);
  EXPECT_THAT(rig_.Names(),
              ElementsAre("log-00000000.ebb", "log-00000001.ebb", "log-00000002.ebb"));
  EXPECT_TRUE(rig_.Check(1, 3 * kSegmentBlocks - 1).ok());

  // Two files except for a block; the part released before does not count again.
  EXPECT_EQ(*rig_.device().TruncateFront(2 * kSegmentBlocks + 1),
            (2 * kSegmentBlocks + 2) * kBlockBytes);
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000002.ebb"));
  EXPECT_TRUE(rig_.Check(2 * kSegmentBlocks + 1, kSegmentBlocks - 1).ok());
  EXPECT_EQ(rig_.device().EndBlock(), 3 * kSegmentBlocks);
  ASSERT_TRUE(rig_.Write(3 * kSegmentBlocks, 1).ok());
  rig_.Reopen();
  EXPECT_TRUE(rig_.Check(2 * kSegmentBlocks + 1, kSegmentBlocks).ok());

  rig_.faults().Arm({.kind = CallKind::kPunchHole, .error = EOPNOTSUPP});
  EXPECT_EQ(*rig_.device().TruncateFront(2 * kSegmentBlocks + 2), 0U);
  rig_.faults().Arm({.kind = CallKind::kPunchHole});
  EXPECT_THAT(MessageOf(rig_.device().TruncateFront(2 * kSegmentBlocks + 2).status()),
              HasSubstr("UNAVAILABLE: punch of log-00000002.ebb"));
  rig_.faults().Arm({.kind = CallKind::kUnlink});
  EXPECT_THAT(MessageOf(rig_.device().TruncateFront(3 * kSegmentBlocks).status()),
              HasSubstr("UNAVAILABLE: unlink of log-00000002.ebb"));
}

// ---- Names and places ----

TEST_F(FileDeviceTest, SegmentNamesAreReadBack) {
  for (const std::uint64_t number : {0ULL, 7ULL, 99999999ULL, 100000000ULL, 4294967295ULL}) {
    std::uint64_t parsed = 1;
    EXPECT_TRUE(FileDevice::ParseSegmentName(FileDevice::SegmentName(number), parsed));
    EXPECT_EQ(parsed, number);
  }
  EXPECT_EQ(FileDevice::SegmentName(42), "log-00000042.ebb");
}

TEST_F(FileDeviceTest, OtherSpellingsAreNoSegments) {
  for (const std::string name :
       {"", "log-", "log-.ebb", "log-1.ebb", "log-0000001.ebb", "log-000000001.ebb", "log-00000001",
        "log-00000001.ebb~", "log-0000000a.ebb", "Log-00000001.ebb", "xlog-00000001.ebb",
        "log--0000001.ebb", "log-+0000001.ebb", "log- 0000001.ebb", "log-4294967296.ebb",
        "log-99999999999999999999.ebb", "log-18446744073709551616.ebb"}) {
    std::uint64_t parsed = 77;
    EXPECT_FALSE(FileDevice::ParseSegmentName(name, parsed)) << name;
    EXPECT_EQ(parsed, 77U) << name;
  }
}

TEST_F(FileDeviceTest, BlocksFollowTheHeaderOfTheirSegment) {
  ASSERT_TRUE(rig_.Write(2, 5).ok());
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000000.ebb", "log-00000001.ebb"));
  EXPECT_EQ(rig_.device().Describe(2), "log-00000000.ebb at offset 12288");
  EXPECT_EQ(rig_.device().Describe(4), "log-00000001.ebb at offset 4096");
  const SimBytes first = files_.Contents("store", "log-00000000.ebb");
  const SimBytes second = files_.Contents("store", "log-00000001.ebb");
  ASSERT_EQ(first.size(), 5 * kBlockBytes);
  ASSERT_EQ(second.size(), 4 * kBlockBytes);
  EXPECT_EQ(first[0], std::byte{1});
  EXPECT_EQ(second[kBlockBytes - 1], std::byte{2});
  const auto holds = [](const SimBytes& bytes, std::size_t at, std::uint64_t block) {
    return std::memcmp(bytes.data() + at, Blocks(block, 1).span().data(), kBlockBytes) == 0;
  };
  EXPECT_TRUE(holds(first, 12288, 2));
  EXPECT_TRUE(holds(first, 16384, 3));
  EXPECT_TRUE(holds(second, 4096, 4));
  EXPECT_TRUE(holds(second, 12288, 6));
}

TEST_F(FileDeviceTest, TransfersAreSplitAtSegmentsHoweverTheyAreCut) {
  ASSERT_TRUE(rig_.Write(0, 3).ok());
  ASSERT_TRUE(rig_.Write(3, 10).ok());
  for (std::uint64_t first = 0; first < 13; ++first) {
    for (std::size_t count = 1; first + count <= 13; ++count) {
      EXPECT_TRUE(rig_.Check(first, count).ok()) << first << " " << count;
    }
  }
  EXPECT_EQ(rig_.device().EndBlock(), 13U);
}

TEST_F(FileDeviceTest, HeaderIsRequestedOnceAndWrittenBeforeAnyBlock) {
  ASSERT_TRUE(rig_.Write(4, 1).ok());
  ASSERT_TRUE(rig_.Write(5, 1).ok());
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  EXPECT_THAT(rig_.headers().asked(), ElementsAre(4U, 0U));
  std::set<std::uint64_t> seen;
  for (std::size_t i = 0; i < files_.CallCount(); ++i) {
    const SimCall call = files_.Call(i);
    if (call.kind != SimCall::Kind::kWrite) continue;
    if (seen.insert(call.file).second) {
      EXPECT_EQ(call.offset, 0U);
      EXPECT_EQ(call.bytes.size(), kBlockBytes);
    } else {
      EXPECT_GE(call.offset, kBlockBytes);
    }
  }
  EXPECT_EQ(seen.size(), 2U);
}

TEST_F(FileDeviceTest, MissingSegmentIsAbsentAndTheOthersAreFound) {
  ASSERT_TRUE(rig_.Write(0, 4).ok());
  ASSERT_TRUE(rig_.Write(8, 1).ok());
  ASSERT_TRUE(rig_.Write(20, 2).ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(rig_.Check(0, 4).ok());
    EXPECT_TRUE(rig_.Check(8, 1).ok());
    EXPECT_TRUE(rig_.Check(20, 2).ok());
    for (const std::uint64_t block : {4U, 7U, 9U, 12U, 19U, 22U, 24U}) {
      EXPECT_EQ(rig_.Check(block, 1).code(), absl::StatusCode::kOutOfRange) << block;
    }
    const absl::Status status = rig_.Check(2, 4);
    EXPECT_THAT(MessageOf(status), HasSubstr("log-00000001.ebb at offset 4096"));
    EXPECT_EQ(rig_.device().EndBlock(), 22U);
    rig_.Reopen();
  }
  ASSERT_TRUE(rig_.Write(12, 1).ok());
  EXPECT_TRUE(rig_.Check(12, 1).ok());
  EXPECT_TRUE(rig_.Check(20, 2).ok());
}

TEST_F(FileDeviceTest, StrayNamesAreLeftAlone) {
  for (const std::string name : {"notes.txt", "log-1.ebb", "log-00000001.ebb.bak"}) {
    EXPECT_EQ(rig_.directory().Open(name, {.create = true}).error, 0);
  }
  rig_.Reopen();
  EXPECT_EQ(rig_.device().EndBlock(), 0U);
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  ASSERT_TRUE(rig_.device().Truncate(0).ok());
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000001.ebb.bak", "log-1.ebb", "notes.txt"));
}

TEST_F(FileDeviceTest, StrayNumberCostsNoMemoryAndNoTime) {
  EXPECT_EQ(rig_.directory().Open("log-4294967295.ebb", {.create = true}).error, 0);
  rig_.Reopen();
  EXPECT_EQ(rig_.device().EndBlock(), 0U);  // it holds no block
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  EXPECT_TRUE(rig_.Check(0, 1).ok());
}

TEST_F(FileDeviceTest, FilesOfOddSizesHoldTheirWholeBlocks) {
  const auto set_size = [&](std::uint64_t size) {
    ASSERT_EQ(rig_.directory().Open("log-00000000.ebb", {.create = true}).file->Truncate(size), 0);
    rig_.Reopen();
  };
  set_size(0);
  EXPECT_EQ(rig_.device().EndBlock(), 0U);
  set_size(4095);
  EXPECT_EQ(rig_.device().EndBlock(), 0U);
  set_size(3 * kBlockBytes - 1);
  EXPECT_EQ(rig_.device().EndBlock(), 1U);
  EXPECT_TRUE(rig_.device().Read(0, Blocks(1).span()).ok());
  EXPECT_EQ(rig_.device().Read(1, Blocks(1).span()).code(), absl::StatusCode::kOutOfRange);
  set_size(100 * kBlockBytes);  // more than a segment holds
  EXPECT_EQ(rig_.device().EndBlock(), kSegmentBlocks);
}

// ---- Truncation ----

TEST_F(FileDeviceTest, TruncationDeletesLaterSegmentsAndCutsTheLast) {
  ASSERT_TRUE(rig_.Write(0, 14).ok());
  ASSERT_TRUE(rig_.device().Truncate(6).ok());
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000000.ebb", "log-00000001.ebb"));
  EXPECT_EQ(rig_.SizeOf("log-00000001.ebb"), 3 * kBlockBytes);
  EXPECT_TRUE(rig_.Check(0, 6).ok());
  ASSERT_TRUE(rig_.device().Truncate(4).ok());
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000000.ebb"));
  EXPECT_EQ(rig_.device().EndBlock(), 4U);
  ASSERT_TRUE(rig_.Write(4, 8, 2).ok());
  EXPECT_TRUE(rig_.Check(4, 8, 2).ok());
}

TEST_F(FileDeviceTest, TruncationNeverExtendsAFile) {
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  ASSERT_TRUE(rig_.device().Truncate(3).ok());
  EXPECT_EQ(rig_.SizeOf("log-00000000.ebb"), 2 * kBlockBytes);
  EXPECT_EQ(rig_.device().EndBlock(), 1U);
}

TEST_F(FileDeviceTest, TruncationCutsAPieceOfABlock) {
  ASSERT_TRUE(rig_.Write(0, 3).ok());
  const auto file = rig_.directory().Open("log-00000000.ebb", {.write = true}).file;
  ASSERT_EQ(file->Truncate(4 * kBlockBytes - 100), 0);
  rig_.Reopen();
  EXPECT_EQ(rig_.device().EndBlock(), 2U);
  ASSERT_TRUE(rig_.device().Truncate(2).ok());
  EXPECT_EQ(rig_.SizeOf("log-00000000.ebb"), 3 * kBlockBytes);
}

TEST_F(FileDeviceTest, TruncationIsDurableWhenItReturns) {
  ASSERT_TRUE(rig_.Write(0, 14).ok());
  ASSERT_TRUE(rig_.device().Sync().ok());
  ASSERT_TRUE(rig_.device().Truncate(6).ok());
  const auto crashed = files_.Crash(kNothingSurvives);
  DeviceRig after(*crashed);
  EXPECT_EQ(after.device().EndBlock(), 6U);
  EXPECT_TRUE(after.Check(0, 6).ok());
}

TEST_F(FileDeviceTest, InterruptedTruncationCanBeRepeatedAfterAnyCrash) {
  ASSERT_TRUE(rig_.Write(0, 14).ok());
  ASSERT_TRUE(rig_.device().Sync().ok());
  const std::size_t before = files_.CallCount();
  ASSERT_TRUE(rig_.device().Truncate(6).ok());
  for (std::size_t calls = before; calls <= files_.CallCount(); ++calls) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto crashed = files_.CrashAt(calls, seed);
      DeviceRig after(*crashed);
      ASSERT_TRUE(after.device().Truncate(6).ok());
      EXPECT_EQ(after.device().EndBlock(), 6U);
      EXPECT_TRUE(after.Check(0, 6).ok()) << calls << " seed " << seed;
    }
  }
}

// ---- Syncs ----

TEST_F(FileDeviceTest, SyncCoversEachWrittenSegmentAndTheDirectoryOfANewOneOnce) {
  FaultFileSystem& calls = rig_.faults();
  ASSERT_TRUE(rig_.device().Sync().ok());
  calls.ResetCounts();
  ASSERT_TRUE(rig_.Write(0, 12).ok());
  ASSERT_TRUE(rig_.device().Sync().ok());
  EXPECT_EQ(calls.Count(CallKind::kSync), 3U);
  EXPECT_EQ(calls.Count(CallKind::kSyncDirectory), 1U);
  ASSERT_TRUE(rig_.device().Sync().ok());
  EXPECT_EQ(calls.Count(CallKind::kSync), 3U);
  ASSERT_TRUE(rig_.Write(5, 1).ok());
  ASSERT_TRUE(rig_.device().Sync().ok());
  EXPECT_EQ(calls.Count(CallKind::kSync), 4U);
  EXPECT_EQ(calls.Count(CallKind::kSyncDirectory), 1U);
}

TEST_F(FileDeviceTest, SyncedBlocksSurviveEveryCrashAndUnsyncedOnesMayNot) {
  int lost = 0;
  ASSERT_TRUE(rig_.Write(0, 6).ok());
  ASSERT_TRUE(rig_.device().Sync().ok());
  ASSERT_TRUE(rig_.Write(6, 6).ok());
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const auto crashed = files_.Crash(seed);
    DeviceRig after(*crashed);
    EXPECT_TRUE(after.Check(0, 6).ok()) << "seed " << seed;
    lost += after.Check(6, 6).ok() ? 0 : 1;
  }
  EXPECT_GT(lost, 50);
  EXPECT_LT(lost, 100);
}

// A killed process leaves blocks in the page cache. The next one reads them from there and builds
// on them; so its first sync must cover them, although it has not written them.
TEST_F(FileDeviceTest, FirstSyncCoversTheWritesOfAKilledProcess) {
  ASSERT_TRUE(rig_.Write(0, 6).ok());
  const auto killed = files_.Kill();
  {
    DeviceRig next(*killed);
    ASSERT_TRUE(next.Check(0, 6).ok());
    ASSERT_TRUE(next.device().Sync().ok());
  }
  const auto crashed = killed->Crash(kNothingSurvives);
  DeviceRig after(*crashed);
  EXPECT_TRUE(after.Check(0, 6).ok());
}

TEST_F(FileDeviceTest, FailedSyncIsReportedAndNeverLooksLikeLackOfSpace) {
  for (const int error : {EIO, ENOSPC, EDQUOT}) {
    ASSERT_TRUE(rig_.Write(0, 1).ok());
    rig_.faults().Arm({.kind = CallKind::kSync, .error = error});
    const absl::Status status = rig_.device().Sync();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("sync"), HasSubstr("log-00000000.ebb")));
  }
  EXPECT_EQ(rig_.faults().FiredCount(), 3U);
  ASSERT_TRUE(rig_.Write(4, 1).ok());
  rig_.faults().Arm({.kind = CallKind::kSyncDirectory});
  EXPECT_EQ(rig_.device().Sync().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rig_.faults().FiredCount(), 4U);
}

TEST_F(FileDeviceTest, FailedSyncForgetsNothing) {
  ASSERT_TRUE(rig_.Write(0, 12).ok());
  rig_.faults().Arm({.kind = CallKind::kSync, .skip = 1});
  EXPECT_FALSE(rig_.device().Sync().ok());
  rig_.faults().ResetCounts();
  EXPECT_TRUE(rig_.device().Sync().ok());
  EXPECT_EQ(rig_.faults().Count(CallKind::kSync), 1U);
  EXPECT_EQ(rig_.faults().Count(CallKind::kSyncDirectory), 1U);
}

TEST_F(FileDeviceTest, WriteDuringASyncIsCoveredByTheNext) {
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  rig_.faults().Hold(CallKind::kSync);
  std::thread syncer([&] { EXPECT_TRUE(rig_.device().Sync().ok()); });
  ASSERT_TRUE(rig_.faults().WaitUntilHeld(CallKind::kSync, 1));
  ASSERT_TRUE(rig_.Write(1, 1).ok());
  EXPECT_TRUE(rig_.Check(0, 2).ok());  // nor do reads wait for a sync
  rig_.faults().Release(CallKind::kSync);
  syncer.join();
  rig_.faults().ResetCounts();
  ASSERT_TRUE(rig_.device().Sync().ok());
  EXPECT_EQ(rig_.faults().Count(CallKind::kSync), 1U);
}

TEST_F(FileDeviceTest, FailedCloseIsReportedAndAnInterruptedOneIsNot) {
  ASSERT_TRUE(rig_.Write(0, 12).ok());
  rig_.faults().Arm({.kind = CallKind::kClose, .skip = 1, .error = ENOSPC});
  const absl::Status status = rig_.device().Close();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr("log-00000001.ebb"));
  EXPECT_EQ(rig_.faults().Count(CallKind::kClose), 3U);
  EXPECT_TRUE(rig_.device().Close().ok()) << "nothing is closed twice";
  EXPECT_EQ(rig_.faults().Count(CallKind::kClose), 3U);
  rig_.Reopen();
  rig_.faults().Arm({.kind = CallKind::kClose, .error = EINTR});
  EXPECT_TRUE(rig_.device().Close().ok());
  EXPECT_EQ(rig_.faults().FiredCount(), 2U);
}

// ---- Failed calls ----

TEST_F(FileDeviceTest, FailedTransferNamesCallFileOffsetAndCause) {
  ASSERT_TRUE(rig_.Write(0, 8).ok());
  rig_.faults().Arm({.kind = CallKind::kRead, .skip = 1});
  EXPECT_THAT(MessageOf(rig_.Check(3, 3)),
              AllOf(HasSubstr("UNAVAILABLE: read of log-00000001.ebb at offset 4096 failed"),
                    HasSubstr("Input/output error"), HasSubstr("errno 5")));
  EXPECT_TRUE(rig_.Check(3, 3).ok());
  rig_.faults().Arm({.kind = CallKind::kWrite});
  EXPECT_THAT(MessageOf(rig_.Write(6, 1)),
              HasSubstr("UNAVAILABLE: write of log-00000001.ebb at offset 12288 failed"));
  EXPECT_EQ(rig_.faults().FiredCount(), 2U);
}

TEST_F(FileDeviceTest, FullDiskIsReportedAsSuchAndWritingContinuesWhenThereIsSpace) {
  ASSERT_TRUE(rig_.Write(0, 2).ok());
  files_.SetCapacityBytes(4 * kBlockBytes + 1000);
  EXPECT_EQ(rig_.Write(2, 2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(rig_.Check(0, 3).ok());  // one of the two found room
  EXPECT_EQ(rig_.device().EndBlock(), 3U);
  EXPECT_EQ(rig_.Write(4, 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000000.ebb"));
  files_.SetCapacityBytes(100 * kBlockBytes);
  EXPECT_TRUE(rig_.Write(2, 3).ok());
  EXPECT_TRUE(rig_.Check(0, 5).ok());
}

TEST_F(FileDeviceTest, SpaceIsReservedAheadAndItsLackIsFoundBeforeAnythingIsWritten) {
  std::unique_ptr<FileDevice> device = *rig_.TryOpen(3);
  files_.SetCapacityBytes(6 * kBlockBytes);
  ASSERT_TRUE(device->Reserve(0, 1).ok());
  EXPECT_EQ(files_.UsedBytes(), 4 * kBlockBytes);  // header, and three blocks at a time
  EXPECT_EQ(rig_.SizeOf("log-00000000.ebb"), kBlockBytes);
  files_.SetCapacityBytes(4 * kBlockBytes);
  const std::uint64_t calls = rig_.faults().Count(CallKind::kReserve);
  ASSERT_TRUE(device->Reserve(1, 3).ok());
  EXPECT_EQ(rig_.faults().Count(CallKind::kReserve), calls);
  ASSERT_TRUE(device->Write(0, Blocks(0, 3).span()).ok());
  EXPECT_EQ(device->Reserve(3, 4).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig_.SizeOf("log-00000000.ebb"), 4 * kBlockBytes);
  // Not enough to reserve some ahead, only for the needed blocks, in two files.
  files_.SetCapacityBytes(7 * kBlockBytes);
  EXPECT_TRUE(device->Reserve(3, 5).ok());
  EXPECT_EQ(files_.UsedBytes(), 7 * kBlockBytes);
  // Where files cannot reserve, writes detect a full disk.
  files_.SetCapacityBytes(100 * kBlockBytes);
  rig_.faults().Arm({.kind = CallKind::kReserve, .error = EOPNOTSUPP});
  EXPECT_TRUE(device->Reserve(8, 9).ok());
  rig_.faults().Arm({.kind = CallKind::kReserve, .error = EIO});
  EXPECT_THAT(MessageOf(device->Reserve(12, 13)),
              HasSubstr("UNAVAILABLE: reserve of log-00000003.ebb"));
}

TEST_F(FileDeviceTest, AReservationThatIsInterruptedOrTooLargeIsTriedAgain) {
  std::unique_ptr<FileDevice> device = *rig_.TryOpen(3);
  for (const int error : {EINTR, EAGAIN, EFBIG}) {
    rig_.faults().Arm({.kind = CallKind::kReserve, .error = error});
    const std::uint64_t block = static_cast<std::uint64_t>(error) * 4;
    EXPECT_TRUE(device->Reserve(block, block + 1).ok());
  }
  EXPECT_EQ(rig_.faults().FiredCount(), 3U);
  rig_.faults().Arm({.kind = CallKind::kReserve, .sticky = true, .error = EINTR});
  EXPECT_EQ(device->Reserve(0, 1).code(), absl::StatusCode::kUnavailable);
}

TEST_F(FileDeviceTest, SegmentWithoutAHeaderIsRemovedAndCreatedAgain) {
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  rig_.faults().Arm({.kind = CallKind::kWrite, .error = ENOSPC});
  EXPECT_EQ(rig_.Write(4, 1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(rig_.Names(), ElementsAre("log-00000000.ebb"));

  // And when it cannot be taken away, nothing of it remains in the next attempt.
  rig_.faults().Arm({.kind = CallKind::kWrite, .effect = Effect::kErrorAfter});
  rig_.faults().Arm({.kind = CallKind::kUnlink});
  EXPECT_EQ(rig_.Write(4, 1).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rig_.SizeOf("log-00000001.ebb"), kBlockBytes);
  const auto file = rig_.directory().Open("log-00000001.ebb", {.write = true}).file;
  ASSERT_EQ(file->Truncate(5 * kBlockBytes), 0);
  EXPECT_TRUE(rig_.Write(4, 1).ok());
  EXPECT_EQ(rig_.SizeOf("log-00000001.ebb"), 2 * kBlockBytes);
  EXPECT_TRUE(rig_.Check(4, 1).ok());
  EXPECT_EQ(rig_.faults().FiredCount(), 3U);
}

TEST_F(FileDeviceTest, FailuresToOpenAreReported) {
  ASSERT_TRUE(rig_.Write(0, 8).ok());
  rig_.faults().Arm({.kind = CallKind::kList});
  EXPECT_EQ(rig_.TryOpen().status().code(), absl::StatusCode::kUnavailable);
  rig_.faults().Arm({.kind = CallKind::kOpen, .skip = 1, .error = EMFILE});
  EXPECT_EQ(rig_.TryOpen().status().code(), absl::StatusCode::kResourceExhausted);
  rig_.faults().Arm({.kind = CallKind::kSize, .skip = 1});
  EXPECT_THAT(MessageOf(rig_.TryOpen().status()), HasSubstr("size of log-00000001.ebb"));
  EXPECT_EQ(rig_.faults().FiredCount(), 3U);
}

TEST_F(FileDeviceTest, FailuresToTruncateAreReportedAndTruncationCanBeRepeated) {
  ASSERT_TRUE(rig_.Write(0, 12).ok());
  for (const CallKind kind : {CallKind::kUnlink, CallKind::kSize, CallKind::kTruncate,
                              CallKind::kSync, CallKind::kSyncDirectory}) {
    rig_.faults().Arm({.kind = kind});
    EXPECT_EQ(rig_.device().Truncate(6).code(), absl::StatusCode::kUnavailable) << NameOf(kind);
  }
  EXPECT_EQ(rig_.faults().FiredCount(), 5U);
  EXPECT_TRUE(rig_.device().Truncate(6).ok());
  EXPECT_EQ(rig_.device().EndBlock(), 6U);
  EXPECT_TRUE(rig_.Check(0, 6).ok());
}

// ---- Threads ----

TEST_F(FileDeviceTest, WritersThatMeetAtANewSegmentCreateItOnce) {
  rig_.faults().Hold(CallKind::kOpen);
  std::vector<std::thread> writers;
  for (std::uint64_t block = 0; block < kSegmentBlocks; ++block) {
    writers.emplace_back([this, block] { EXPECT_TRUE(rig_.Write(block, 1).ok()); });
  }
  EXPECT_TRUE(rig_.faults().WaitUntilHeld(CallKind::kOpen, 1));
  rig_.faults().Release(CallKind::kOpen);
  for (std::thread& writer : writers) writer.join();
  EXPECT_THAT(rig_.headers().asked(), ElementsAre(0U));
  EXPECT_TRUE(rig_.Check(0, kSegmentBlocks).ok());
}

TEST_F(FileDeviceTest, ReadersDoNotWaitForTheCreationOfASegment) {
  ASSERT_TRUE(rig_.Write(0, 1).ok());
  rig_.faults().Hold(CallKind::kOpen);
  std::thread writer([&] { EXPECT_TRUE(rig_.Write(4, 1).ok()); });
  ASSERT_TRUE(rig_.faults().WaitUntilHeld(CallKind::kOpen, 1));
  EXPECT_TRUE(rig_.Check(0, 1).ok());
  EXPECT_EQ(rig_.Check(4, 1).code(), absl::StatusCode::kOutOfRange);
  rig_.faults().Release(CallKind::kOpen);
  writer.join();
  EXPECT_TRUE(rig_.Check(4, 1).ok());
}

TEST_F(FileDeviceTest, ReadersAndWritersOfDifferentBlocksDoNotDisturbEachOther) {
  constexpr std::uint64_t kBlockCount = 64;
  std::thread writer([&] {
    for (std::uint64_t block = 0; block < kBlockCount; ++block) {
      EXPECT_TRUE(rig_.Write(block, 1).ok());
    }
  });
  std::uint64_t found = 0;
  while (found < kBlockCount) {
    const absl::Status status = rig_.Check(found, 1);
    ASSERT_TRUE(status.ok() || status.code() == absl::StatusCode::kOutOfRange) << status;
    if (status.ok()) ++found;
  }
  writer.join();
}

// ---- Descriptors ----

constexpr std::size_t kFewFiles = 4;
constexpr std::uint64_t kManySegments = 300;

class DescriptorTest : public ::testing::Test {
 protected:
  // The first block of every segment.
  void WriteAll(std::uint64_t segments) {
    for (std::uint64_t number = 0; number < segments; ++number) {
      ASSERT_TRUE(rig_.Write(number * kSegmentBlocks, 1).ok());
    }
  }
  SimFileSystem files_;
  DeviceRig rig_{files_, "store", kFewFiles};
};

TEST_F(DescriptorTest, FewFilesAreOpenHoweverManySegmentsThereAre) {
  WriteAll(kManySegments);
  EXPECT_LE(rig_.faults().OpenFileCount(), kFewFiles);
  ASSERT_TRUE(rig_.device().Sync().ok());
  rig_.Reopen();
  EXPECT_LE(rig_.faults().OpenFileCount(), kFewFiles);
  ASSERT_TRUE(rig_.device().Sync().ok());
  for (std::uint64_t number = 0; number < kManySegments; ++number) {
    EXPECT_TRUE(rig_.Check(number * kSegmentBlocks, 1).ok());
  }
  EXPECT_TRUE(rig_.device().CheckNames(/*of_all=*/true).ok());
  EXPECT_LE(rig_.faults().OpenFileCount(), kFewFiles);
  EXPECT_EQ(rig_.faults().UnsyncedCloseCount(), 0U);
}

// Four threads write, read and sync; each has blocks of its own, whose content it knows exactly.
// The front is truncated below them. All that was synced is there after a crash.
TEST_F(DescriptorTest, ThreadsThatUseManySegmentsReadTheirOwnBlocks) {
  constexpr unsigned kThreads = 4;
  constexpr int kSteps = 1500;
  WriteAll(kManySegments);
  std::vector<unsigned> generations(kManySegments, 1);
  std::atomic<std::uint64_t> front{0};
  const auto run = [&](unsigned thread) {
    std::mt19937_64 random(thread);
    for (int step = 0; step < kSteps; ++step) {
      const std::uint64_t number = random() % (kManySegments / kThreads) * kThreads + thread;
      const std::uint64_t block = number * kSegmentBlocks;
      if (thread == 0 && step % 50 == 0) {
        EXPECT_TRUE(rig_.device().Sync().ok());
      } else if (thread == 1 && step % 20 == 0) {
        EXPECT_TRUE(rig_.device().TruncateFront(++front * kSegmentBlocks).ok());
      } else if (number < kManySegments / 2) {  // read alone, since they may be truncated
        const absl::Status status = rig_.Check(block, 1);
        if (number >= front) {
          EXPECT_TRUE(status.ok()) << status;
        } else {
          EXPECT_TRUE(status.ok() || absl::IsOutOfRange(status)) << status;
        }
      } else if (random() % 2 == 0) {
        EXPECT_TRUE(rig_.Write(block, 1, ++generations[number]).ok());
      } else {
        EXPECT_TRUE(rig_.Check(block, 1, generations[number]).ok()) << number;
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < kThreads; ++thread) threads.emplace_back(run, thread);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(rig_.faults().UnsyncedCloseCount(), 0U);
  ASSERT_TRUE(rig_.device().Sync().ok());
  const auto crashed = files_.Crash(kNothingSurvives);
  DeviceRig after(*crashed, "store", kFewFiles);
  for (std::uint64_t number = front; number < kManySegments; ++number) {
    EXPECT_TRUE(after.Check(number * kSegmentBlocks, 1, generations[number]).ok()) << number;
  }
}

TEST_F(DescriptorTest, FailureOfTheDevicesOwnSyncIsReturnedByTheNextSync) {
  rig_.faults().Arm({.kind = CallKind::kSync});
  WriteAll(2 * kFewFiles);
  ASSERT_EQ(rig_.faults().FiredCount(), 1U) << "a sync of its own, for lack of files to close";
  EXPECT_EQ(rig_.device().Sync().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(rig_.faults().UnsyncedCloseCount(), 0U);
}

TEST_F(DescriptorTest, SyncWaitsForTheDevicesOwnSyncAndReturnsItsFailure) {
  WriteAll(kFewFiles);
  rig_.faults().Hold(CallKind::kSync);
  rig_.faults().Arm({.kind = CallKind::kSync});
  std::thread writer([&] { EXPECT_TRUE(rig_.Write(kFewFiles * kSegmentBlocks, 1).ok()); });
  ASSERT_TRUE(rig_.faults().WaitUntilHeld(CallKind::kSync, 1));
  std::atomic<bool> returned{false};
  std::thread syncer([&] {
    EXPECT_EQ(rig_.device().Sync().code(), absl::StatusCode::kUnavailable);
    returned = true;
  });
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(rig_.Check(0, 1).ok());  // reads do not wait
  EXPECT_FALSE(returned);
  rig_.faults().Release(CallKind::kSync);
  writer.join();
  syncer.join();
}

TEST_F(DescriptorTest, ReplacedAndRemovedFilesAreNeverRead) {
  const std::uint64_t other = kManySegments / 2;
  WriteAll(kManySegments);
  ASSERT_TRUE(rig_.device().Sync().ok());
  ASSERT_EQ(rig_.directory().Unlink(FileDevice::SegmentName(1)), 0);
  ASSERT_EQ(rig_.directory().Rename(FileDevice::SegmentName(other), FileDevice::SegmentName(2)), 0);
  for (const auto& [number, part] : {std::pair<std::uint64_t, const char*>{1, "removed"},
                                     {2, "replaced by another file"},
                                     {other, "removed"}}) {
    for (const absl::Status& status :
         {rig_.Check(number * kSegmentBlocks, 1), rig_.Write(number * kSegmentBlocks, 1)}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(part), HasSubstr("log-")));
    }
    EXPECT_EQ(rig_.device().Locate(number * kSegmentBlocks, 1).file, nullptr);
  }
  EXPECT_EQ(rig_.device().CheckNames(/*of_all=*/true).code(), absl::StatusCode::kDataLoss);
}

// A real file system gives the inode number of a removed file to the next one.
TEST_F(DescriptorTest, AFileWithTheSameInodeIsAnotherOne) {
  const TempDir temp;
  DeviceRig rig(internal::PosixFileSystem(), temp / "store", 1);
  for (std::uint64_t number = 0; number < 4; ++number) {
    ASSERT_TRUE(rig.Write(number * kSegmentBlocks, 1).ok());
  }
  ASSERT_TRUE(rig.device().Sync().ok());
  const auto before = rig.directory().Open(FileDevice::SegmentName(0), {}).file->id();
  ASSERT_TRUE(rig.Check(kSegmentBlocks, 1).ok());  // closes the others
  ASSERT_EQ(rig.directory().Unlink(FileDevice::SegmentName(0)), 0);
  const auto made = rig.directory().Open(FileDevice::SegmentName(0), {.create = true});
  if (made.file->id() == before) GTEST_SKIP() << "no birth times in " << temp.path();
  EXPECT_EQ(rig.Check(0, 1).code(), absl::StatusCode::kDataLoss);
}

TEST_F(DescriptorTest, OpeningWithoutADescriptorClosesAnIdleFileOrNamesTheRemedy) {
  WriteAll(kManySegments);
  ASSERT_TRUE(rig_.device().Sync().ok());
  for (const int error : {EMFILE, ENFILE}) {
    const std::size_t open = rig_.faults().OpenFileCount();
    rig_.faults().Arm({.kind = CallKind::kOpen, .error = error});
    EXPECT_TRUE(rig_.Check(kSegmentBlocks * (error == EMFILE ? 10 : 20), 1).ok());
    EXPECT_LE(rig_.faults().OpenFileCount(), open);
    rig_.faults().Arm({.kind = CallKind::kOpen, .error = error});
    EXPECT_TRUE(rig_.Write(kSegmentBlocks * (kManySegments + (error == EMFILE ? 0 : 1)), 1).ok());
  }
  rig_.faults().Arm({.kind = CallKind::kOpen, .sticky = true, .error = EMFILE});
  const absl::Status status = rig_.Check(kSegmentBlocks * 30, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(MessageOf(status), HasSubstr("ulimit -n"));
  rig_.faults().Disarm();
  EXPECT_TRUE(rig_.Check(kSegmentBlocks * 30, 1).ok());
}

TEST_F(DescriptorTest, AWriteWithoutADescriptorSyncsAndClosesAFile) {
  DeviceRig rig(files_, "other");  // may keep more files open than there are
  for (std::uint64_t number = 0; number < 20; ++number) {
    if (number == 19) rig.faults().Arm({.kind = CallKind::kOpen, .error = EMFILE});
    ASSERT_TRUE(rig.Write(number * kSegmentBlocks, 1).ok());
  }
  EXPECT_EQ(rig.faults().FiredCount(), 1U);
  EXPECT_EQ(rig.faults().Count(CallKind::kSync), 1U);
  EXPECT_EQ(rig.faults().OpenFileCount(), 19U);
  EXPECT_EQ(rig.faults().UnsyncedCloseCount(), 0U);
}

// The kernel may read the result of Locate at any time until its user has dropped it.
TEST_F(DescriptorTest, AFileInUseIsNotClosed) {
  WriteAll(kManySegments);
  ASSERT_TRUE(rig_.device().Sync().ok());
  std::vector<Device::BlockLocation> places;
  for (std::uint64_t number = 0; number < 3 * kFewFiles; ++number) {
    Device::BlockLocation place = rig_.device().Locate(number * kSegmentBlocks, 1);
    if (place.file != nullptr) places.push_back(std::move(place));
  }
  EXPECT_GE(places.size(), kFewFiles - 1);
  EXPECT_LE(places.size(), kFewFiles);
  for (std::uint64_t number = 0; number < kManySegments; ++number) {
    EXPECT_TRUE(rig_.Check(number * kSegmentBlocks, 1).ok()) << "opened for this read alone";
  }
  EXPECT_LE(rig_.faults().OpenFileCount(), kFewFiles + 1);
  for (const Device::BlockLocation& place : places) EXPECT_GT(place.file.use_count(), 1);
  places.clear();
  EXPECT_NE(rig_.device().Locate(100 * kSegmentBlocks, 1).file, nullptr);
}

TEST_F(DescriptorTest, AFileThatIsTruncatedWhileItIsOpenedIsNoLoss) {
  WriteAll(kManySegments);
  ASSERT_TRUE(rig_.device().Sync().ok());
  rig_.faults().Hold(CallKind::kOpen);
  std::thread reader([&] { EXPECT_EQ(rig_.Check(0, 1).code(), absl::StatusCode::kOutOfRange); });
  ASSERT_TRUE(rig_.faults().WaitUntilHeld(CallKind::kOpen, 1));
  EXPECT_TRUE(rig_.device().TruncateFront(2 * kSegmentBlocks).ok());
  rig_.faults().Release(CallKind::kOpen);
  reader.join();
}

TEST_F(DescriptorTest, TheTailAndTheFilesAfterItStayOpen) {
  constexpr std::size_t kOpenFiles = 32;
  DeviceRig rig(files_, "other", kOpenFiles);
  std::unique_ptr<FileDevice> device = *rig.TryOpen(kSegmentBlocks);
  ASSERT_TRUE(device->Reserve(0, 2 * kOpenFiles * kSegmentBlocks).ok());
  for (std::uint64_t number = 0; number < kOpenFiles; ++number) {
    ASSERT_TRUE(device->Write(number * kSegmentBlocks, Blocks(1).span()).ok());
    ASSERT_TRUE(device->Sync().ok());
    const std::uint64_t opens = rig.faults().Count(CallKind::kOpen);
    for (std::uint64_t ahead = 0; ahead <= kOpenFiles / 8; ++ahead) {
      EXPECT_NE(device->Locate((number + ahead) * kSegmentBlocks, 1).file, nullptr);
    }
    EXPECT_EQ(rig.faults().Count(CallKind::kOpen), opens);
  }
}

}  // namespace
}  // namespace ebb::test
