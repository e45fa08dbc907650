#include "tests/support/fault_file_system.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/device/device.h"
#include "tests/support/sim_file_system.h"

namespace ebb::test {
namespace {

using internal::Directory;
using internal::File;
using internal::Transfer;

class FaultFileSystemTest : public ::testing::Test {
 protected:
  std::unique_ptr<File> Create(const std::string& name) {
    return directory_->Open(name, {.create = true}).file;
  }
  static Transfer Write(File& file, const std::string& text) {
    return file.WriteAt(0, reinterpret_cast<const std::byte*>(text.data()), text.size());
  }
  static Transfer Read(File& file, std::string& text) {
    return file.ReadAt(0, reinterpret_cast<std::byte*>(text.data()), text.size());
  }
  std::string Contents(const std::string& name) {
    const SimBytes bytes = base_.Contents("store", name);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  SimFileSystem base_;
  FaultFileSystem files_{base_};
  std::unique_ptr<Directory> directory_ = files_.OpenDirectory("store", true).directory;
};

TEST_F(FaultFileSystemTest, PassesEverythingThroughAndCountsIt) {
  const auto file = Create("a");
  EXPECT_EQ(Write(*file, "text").count, 4U);
  std::string text(9, '?');
  EXPECT_EQ(Read(*file, text).count, 4U);
  EXPECT_EQ(text.substr(0, 4), "text");
  std::uint64_t size = 0;
  EXPECT_EQ(file->Size(size), 0);
  EXPECT_EQ(size, 4U);
  EXPECT_EQ(file->Truncate(2), 0);
  EXPECT_EQ(file->Reserve(0, 9), 0);
  EXPECT_EQ(file->PunchHole(4096, 4096), 0);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(file->Close(), 0);
  EXPECT_EQ(directory_->Open("absent", {}).error, ENOENT);
  EXPECT_EQ(directory_->Rename("a", "b"), 0);
  EXPECT_EQ(directory_->Unlink("absent"), ENOENT);
  EXPECT_EQ(directory_->Sync(), 0);
  std::vector<std::string> names;
  EXPECT_EQ(directory_->List(names), 0);
  EXPECT_EQ(names, std::vector<std::string>{"b"});
  EXPECT_EQ(directory_->Lock("b"), 0);
  EXPECT_EQ(files_.OpenDirectory("store", false).directory->Lock("b"), EWOULDBLOCK);
  directory_->Unlock();
  EXPECT_EQ(files_.OpenDirectory("absent", false).error, ENOENT);
  EXPECT_EQ(Contents("b"), "te");

  for (std::size_t i = 0; i < kCallKindCount; ++i) {
    const auto kind = static_cast<CallKind>(i);
    std::uint64_t expected = 1;
    if (kind == CallKind::kOpen || kind == CallKind::kLock) expected = 2;
    if (kind == CallKind::kOpenDirectory) expected = 3;
    EXPECT_EQ(files_.Count(kind), expected) << NameOf(kind);
  }
  EXPECT_EQ(files_.Count(), 19U);
  EXPECT_EQ(files_.FiredCount(), 0U);
  files_.ResetCounts();
  EXPECT_EQ(files_.Count(), 0U);
}

TEST_F(FaultFileSystemTest, TheCallThatIsMeantFailsOnceAndDoesNothing) {
  const auto file = Create("a");
  files_.Arm({.kind = CallKind::kWrite, .skip = 1, .error = ENOSPC});
  EXPECT_EQ(Write(*file, "one").error, 0);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(Write(*file, "two").error, ENOSPC);
  EXPECT_EQ(Contents("a"), "one");
  EXPECT_EQ(Write(*file, "six").error, 0);
  EXPECT_EQ(files_.FiredCount(), 1U);
}

TEST_F(FaultFileSystemTest, StickyFaultContinuesUntilDisarmed) {
  const auto file = Create("a");
  files_.Arm({.kind = CallKind::kSync, .skip = 1, .sticky = true});
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(file->Sync(), EIO);
  EXPECT_EQ(file->Sync(), EIO);
  files_.Disarm();
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(files_.FiredCount(), 2U);
}

TEST_F(FaultFileSystemTest, EveryKindOfCallCanFail) {
  const auto file = Create("a");
  std::uint64_t size;
  std::vector<std::string> names;
  std::string text = "text";
  for (std::size_t i = 0; i < kCallKindCount; ++i) {
    const auto kind = static_cast<CallKind>(i);
    files_.Disarm();
    files_.Arm({.kind = kind, .sticky = true, .error = EDOM});
    std::set<CallKind> failed;
    const auto note = [&](CallKind which, int error) {
      if (error == EDOM) failed.insert(which);
    };
    note(CallKind::kOpenDirectory, files_.OpenDirectory("store", false).error);
    note(CallKind::kOpen, directory_->Open("a", {}).error);
    note(CallKind::kRead, Read(*file, text).error);
    note(CallKind::kWrite, Write(*file, text).error);
    note(CallKind::kSync, file->Sync());
    note(CallKind::kTruncate, file->Truncate(1));
    note(CallKind::kReserve, file->Reserve(0, 1));
    note(CallKind::kPunchHole, file->PunchHole(4096, 4096));
    note(CallKind::kSize, file->Size(size));
    note(CallKind::kList, directory_->List(names));
    note(CallKind::kRename, directory_->Rename("a", "a"));
    note(CallKind::kUnlink, directory_->Unlink("absent"));
    note(CallKind::kSyncDirectory, directory_->Sync());
    note(CallKind::kLock, directory_->Lock("LOCK"));
    directory_->Unlock();
    note(CallKind::kClose, file->Close());
    EXPECT_EQ(failed, std::set<CallKind>{kind}) << NameOf(kind);
  }
}

TEST_F(FaultFileSystemTest, FaultOnAnyCallStrikesTheNextOne) {
  const auto file = Create("a");
  files_.Arm({.skip = 2});
  EXPECT_EQ(Write(*file, "one").error, 0);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Rename("a", "b"), EIO);
  EXPECT_TRUE(base_.Exists("store", "a"));
  EXPECT_EQ(file->Sync(), 0);
}

TEST_F(FaultFileSystemTest, FaultCanBeKeptToSomeNames) {
  const auto log = Create("log-1");
  const auto other = Create("other");
  files_.Arm({.kind = CallKind::kSync, .name_part = "log-"});
  EXPECT_EQ(other->Sync(), 0);
  EXPECT_EQ(log->Sync(), EIO);
}

TEST_F(FaultFileSystemTest, WorkCanBeDoneAndStillBeReportedAsFailed) {
  const auto file = Create("a");
  for (const CallKind kind : {CallKind::kWrite, CallKind::kRename, CallKind::kOpen}) {
    files_.Arm({.kind = kind, .effect = Effect::kErrorAfter});
  }
  EXPECT_EQ(Write(*file, "one").error, EIO);
  EXPECT_EQ(Contents("a"), "one");
  EXPECT_EQ(directory_->Rename("a", "b"), EIO);
  EXPECT_TRUE(base_.Exists("store", "b"));
  EXPECT_EQ(directory_->Open("c", {.create = true}).error, EIO);
  EXPECT_TRUE(base_.Exists("store", "c"));
}

TEST_F(FaultFileSystemTest, ShortTransfersMoveNoMoreThanTheySay) {
  const auto file = Create("a");
  files_.Arm({.kind = CallKind::kWrite, .effect = Effect::kShort, .short_by_bytes = 3});
  files_.Arm({.kind = CallKind::kRead, .effect = Effect::kShort, .short_by_bytes = 2});
  EXPECT_EQ(Write(*file, "abcdefgh").count, 5U);
  EXPECT_EQ(Contents("a"), "abcde");
  std::string text(5, '?');
  EXPECT_EQ(Read(*file, text).count, 3U);
  EXPECT_EQ(text.substr(0, 3), "abc");
  EXPECT_NE(text.substr(3), "de") << "bytes that did not arrive must not be there";
  files_.Arm({.kind = CallKind::kWrite, .effect = Effect::kShort, .short_by_bytes = kAllBytes});
  const Transfer none = Write(*file, "xyz");
  EXPECT_EQ(none.count, 0U);
  EXPECT_EQ(none.error, 0);
  EXPECT_EQ(Contents("a"), "abcde");
}

TEST_F(FaultFileSystemTest, ShortWriteOfADirectFileStopsAtAWholeBlock) {
  const auto file = directory_->Open("a", {.create = true, .direct = true}).file;
  ASSERT_TRUE(file->direct());
  const internal::AlignedBuffer buffer = internal::AllocateAligned(8192);
  files_.Arm({.kind = CallKind::kWrite, .effect = Effect::kShort, .short_by_bytes = 512});
  EXPECT_EQ(file->WriteAt(0, buffer.get(), 8192).count, 8192U - 512);
  EXPECT_EQ(Contents("a").size(), 4096U);
}

TEST_F(FaultFileSystemTest, OneBitOfAReadIsWrong) {
  const auto file = Create("a");
  EXPECT_EQ(Write(*file, "aaaa").count, 4U);
  files_.Arm({.kind = CallKind::kRead, .effect = Effect::kFlipBit, .flip_bit = 4 * 8 + 17});
  std::string text(9, '?');
  EXPECT_EQ(Read(*file, text).count, 4U);
  EXPECT_EQ(text.substr(0, 4), "aaca");
  EXPECT_EQ(Read(*file, text).count, 4U);
  EXPECT_EQ(text.substr(0, 4), "aaaa");
}

TEST_F(FaultFileSystemTest, FirstArmedFaultThatFitsDecides) {
  const auto file = Create("a");
  files_.Arm({.kind = CallKind::kSync, .error = ENOSPC});
  files_.Arm({.sticky = true, .error = EIO});
  EXPECT_EQ(file->Sync(), ENOSPC);
  EXPECT_EQ(file->Sync(), EIO);
  EXPECT_EQ(files_.FiredCount(), 2U);
}

TEST_F(FaultFileSystemTest, HeldCallsWaitUntilTheyAreReleasedAndOthersDoNot) {
  const auto file = Create("a");
  files_.Hold(CallKind::kWrite);
  std::thread writer([&] { EXPECT_EQ(Write(*file, "late").count, 4U); });
  ASSERT_TRUE(files_.WaitUntilHeld(CallKind::kWrite, 1));
  EXPECT_EQ(Contents("a"), "");
  EXPECT_EQ(file->Sync(), 0);
  files_.Release(CallKind::kWrite);
  writer.join();
  EXPECT_EQ(Contents("a"), "late");
  EXPECT_EQ(Write(*file, "free").count, 4U);
}

}  // namespace
}  // namespace ebb::test
