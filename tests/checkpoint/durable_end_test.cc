// The durable end: a log whose end is gone is never taken for an older state.
#include "ebb/internal/checkpoint/durable_end.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/open/offline_verifier.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::DurableEnd;
using internal::FoundDurableEnd;
using internal::kDurableEndName;
using internal::ReadDurableEnd;
using internal::WriteDurableEnd;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kStore = 77;

// Files of eight blocks.
absl::StatusOr<U64Store> Open(internal::FileSystem& files, Options options = TinyOptions()) {
  options.preallocate_bytes = 0;  // no file without a block behind the end
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 8;
  return OpenIn<U64Store>("db", environment, options);
}

std::string WordAt(const std::string& bytes, std::size_t offset) { return bytes.substr(offset, 8); }
std::uint64_t EndIn(const std::string& file, std::size_t block) {
  std::uint64_t end = 0;
  std::memcpy(&end, file.data() + block * kBlock + 4072, 8);
  return end;
}
std::uint64_t EndIn(const SimFileSystem& files, std::size_t block) {
  return EndIn(SnapshotOf(files, "db").at(kDurableEndName), block);
}
std::unique_ptr<SimFileSystem> With(const Snapshot& snapshot) {
  auto files = std::make_unique<SimFileSystem>(/*direct=*/false);
  static_cast<void>(files->OpenDirectory("db", true));
  Restore(snapshot, *files, "db");
  return files;
}
std::vector<std::string> ProblemsOf(internal::FileSystem& files) {
  return Must(internal::VerifyFiles(files, "db", {})).problems;
}
std::uint64_t EndBlockOf(U64Store& store) {
  const internal::HybridLog& log = CoreOf(store).log;
  return log.geometry().BlockOf(log.tail());
}

// ---- the file ----

class DurableEndTest : public testing::Test {
 protected:
  SimFileSystem files_;
  const std::unique_ptr<internal::Directory> directory_ =
      files_.OpenDirectory("db", true).directory;

  std::string File() const { return SnapshotOf(files_, "db").at(kDurableEndName); }
  FoundDurableEnd Read() { return Must(ReadDurableEnd(*directory_, kStore)); }
  std::unique_ptr<DurableEnd> OpenEnd(std::uint64_t end_block) {
    return Must(DurableEnd::Open(*directory_, kStore, end_block));
  }
};

TEST_F(DurableEndTest, HasItsBytes) {
  Must(WriteDurableEnd(*directory_, 0x1112131415161718, 0x0102030405));
  const std::string file = File();
  ASSERT_EQ(file.size(), 2 * kBlock);
  for (const std::size_t block : {0, 1}) {
    const std::string bytes = file.substr(block * kBlock, kBlock);
    EXPECT_EQ(bytes.substr(0, 4048), std::string(4048, '\0'));
    EXPECT_EQ(WordAt(bytes, 4048), "EDURABLE");
    EXPECT_EQ(bytes[4056], internal::kFormatVersion);
    EXPECT_EQ(bytes.substr(4057, 7), std::string(7, '\0'));
    EXPECT_EQ(WordAt(bytes, 4064), "\x18\x17\x16\x15\x14\x13\x12\x11");
    EXPECT_EQ(WordAt(bytes, 4072), std::string("\x05\x04\x03\x02\x01\0\0\0", 8));
    EXPECT_EQ(WordAt(bytes, 4080), std::string(8, '\0'));
    EXPECT_TRUE(internal::VerifyBlock(std::as_bytes(std::span(bytes)), 0x1112131415161718,
                                      (std::uint64_t{1} << 63) + block));
  }
}

TEST_F(DurableEndTest, BlocksAreWrittenInTurnAndTheLargerValueCounts) {
  Must(WriteDurableEnd(*directory_, kStore, 0));
  auto end = OpenEnd(3);
  EXPECT_THAT(Read().blocks, ElementsAre(3, 0));
  end->Advance(4);
  EXPECT_THAT(Read().blocks, ElementsAre(3, 4));
  end->Advance(4);
  end->Advance(2);
  EXPECT_THAT(Read().blocks, ElementsAre(3, 4)) << "it only grows";
  end->Advance(9);
  EXPECT_THAT(Read().blocks, ElementsAre(9, 4));
  EXPECT_EQ(Read().end_block, 9U);
  end = OpenEnd(10);
  EXPECT_THAT(Read().blocks, ElementsAre(9, 10)) << "the older one first, after reopening too";
}

TEST_F(DurableEndTest, NothingIsSyncedUntilItIsRequested) {
  Must(WriteDurableEnd(*directory_, kStore, 1));
  ASSERT_EQ(directory_->Sync(), 0);
  auto end = OpenEnd(5);
  end->Advance(6);
  const auto value_after_crash = [&](std::uint64_t seed) {
    const auto crashed = files_.Crash(seed);
    return Must(ReadDurableEnd(*crashed->OpenDirectory("db", false).directory, kStore)).end_block;
  };
  EXPECT_EQ(value_after_crash(kNothingSurvives), 1U);
  EXPECT_EQ(value_after_crash(kEverythingSurvives), 6U);
  Must(end->Sync());
  EXPECT_EQ(value_after_crash(kNothingSurvives), 6U);
  EXPECT_THAT(Read().blocks, ElementsAre(6, 6)) << "so damage to either costs nothing";
}

// Sectors survive one by one, in any mixture, and a block is still an old one or a new one.
TEST_F(DurableEndTest, ACrashLeavesAValueThatWasWritten) {
  Must(WriteDurableEnd(*directory_, kStore, 1));
  ASSERT_EQ(directory_->Sync(), 0);
  auto end = OpenEnd(2);
  for (std::uint64_t e = 3; e < 8; ++e) end->Advance(e);
  bool seen[8] = {};
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const auto crashed = files_.Crash(seed);
    const FoundDurableEnd found =
        Must(ReadDurableEnd(*crashed->OpenDirectory("db", false).directory, kStore));
    ASSERT_EQ(found.problem, "");
    ASSERT_GE(found.end_block, 1U);
    ASSERT_LE(found.end_block, 7U);
    seen[found.end_block] = true;
  }
  EXPECT_TRUE(seen[1] && seen[6] && seen[7]) << "the seeds show several";
}

TEST_F(DurableEndTest, OneDamagedBlockLeavesTheOtherAndIsWrittenAgain) {
  for (std::size_t block : {0, 1}) {
    Must(WriteDurableEnd(*directory_, kStore, 4));
    // In the part that is never written again, and at both ends.
    for (const std::size_t offset : {0, 600, 4072, 4095}) {
      Overwrite(files_, "db", kDurableEndName, block * kBlock + offset, "x");
      EXPECT_EQ(Read().problem, "");
      EXPECT_EQ(Read().end_block, 4U);
      EXPECT_EQ(Read().blocks[block], 0U);
    }
    auto end = OpenEnd(5);
    EXPECT_EQ(Read().blocks[block], 5U);
    Must(end->Sync());
    EXPECT_THAT(Read().blocks, ElementsAre(5, 5));
  }
}

TEST_F(DurableEndTest, AMissingFileAndOneThatDoesNotVerifyAreReportedAndCreatedAgain) {
  EXPECT_THAT(Read().problem, HasSubstr("durable.ebb is missing"));
  auto end = OpenEnd(7);
  EXPECT_EQ(Read().problem, "");
  EXPECT_THAT(Read().blocks, ElementsAre(7, 7));
  end.reset();
  const std::string whole = File();
  const std::string bad[] = {"",
                             whole.substr(0, 100),
                             whole.substr(0, kBlock - 1),
                             whole.substr(kBlock) + whole.substr(0, kBlock),  // exchanged
                             std::string(2 * kBlock, '\0'),
                             std::string(3 * kBlock, '\xff')};
  for (const std::string& bytes : bad) {
    Restore({{kDurableEndName, bytes}}, files_, "db");
    EXPECT_THAT(Read().problem, HasSubstr("durable.ebb at offset 0"));
    EXPECT_EQ(Read().end_block, 0U);
    end = OpenEnd(8);
    EXPECT_THAT(Read().blocks, ElementsAre(8, 8));
  }
  EXPECT_THAT(Must(ReadDurableEnd(*directory_, kStore + 1)).problem, HasSubstr("verifies"));
  EXPECT_EQ(Must(ReadDurableEnd(*directory_, std::nullopt)).end_block, 8U);
}

TEST_F(DurableEndTest, AFailedWriteIsMadeGoodAndAFailedSyncIsReported) {
  FaultFileSystem files(files_);
  const auto directory = files.OpenDirectory("db", false).directory;
  Must(WriteDurableEnd(*directory_, kStore, 1));
  ASSERT_EQ(directory_->Sync(), 0);
  auto end = Must(DurableEnd::Open(*directory, kStore, 2));
  files.Arm({.kind = CallKind::kWrite, .effect = Effect::kErrorAfter, .error = ENOSPC});
  end->Advance(3);
  end->Advance(4);
  EXPECT_EQ(files.FiredCount(), 1U);
  EXPECT_THAT(Read().blocks, ElementsAre(2, 4)) << "the block of the failed write first";
  files.Arm({.kind = CallKind::kSync});
  EXPECT_TRUE(FailsWith(end->Sync(), StatusCode::kUnavailable, "durable.ebb"));
  files_.FailNextSync(EIO, kNothingSurvives);
  EXPECT_TRUE(FailsWith(end->Sync(), StatusCode::kUnavailable, "durable.ebb"));
  // The kernel has dropped the dirty pages: they are written again before a sync is believed.
  Must(end->Sync());
  const auto crashed = files_.Crash(kNothingSurvives);
  EXPECT_EQ(EndIn(*crashed, 0), 4U);
  files.Arm({.kind = CallKind::kWrite, .error = ENOSPC});
  end->Advance(5);
  files.Arm({.kind = CallKind::kWrite, .error = ENOSPC});
  EXPECT_TRUE(FailsWith(end->Sync(), StatusCode::kResourceExhausted, "durable.ebb"));
  Must(end->Sync());
  EXPECT_THAT(Read().blocks, ElementsAre(5, 5));
}

// ---- stores ----

class DurableEndOfAStoreTest : public testing::Test {
 protected:
  // Several files, closed; the last commit is alone in the last of them.
  void MakeStore() {
    auto store = Must(Open(files_));
    for (std::uint64_t i = 0; i < 6000; ++i) {
      Must(store.Upsert(i, model_[i] = i));
      if (i % 1000 == 0) Must(store.Commit());
    }
    Must(store.Close());
    whole_ = SnapshotOf(files_, "db");
  }
  std::uint64_t LastFile() const {
    std::uint64_t last = 0;
    while (whole_.contains(SegmentFile(last + 1))) ++last;
    return last;
  }
  // Opening and verifying report that the end of the log is gone, and change nothing.
  static void ExpectLost(const Snapshot& snapshot, const std::string& what) {
    const auto files = With(snapshot);
    const absl::Status status = Open(*files).status();
    EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, ".ebb")) << what;
    EXPECT_THAT(ProblemsOf(*files), testing::SizeIs(testing::Ge(1U))) << what;
    Snapshot after = SnapshotOf(*files, "db");
    after.erase("LOCK");
    Snapshot before = snapshot;
    before.erase("LOCK");
    EXPECT_EQ(after, before) << what;
  }
  void ExpectWhole(internal::FileSystem& files,
                   const testing::Matcher<std::vector<std::string>>& notes) {
    auto store = Must(Open(files));
    EXPECT_THAT(store.recovery().notes, notes);
    EXPECT_TRUE(Holds(store, model_));
    EXPECT_TRUE(Verifies(store));
    Must(store.Close());
  }

  SimFileSystem files_{/*direct=*/false};
  U64Model model_;
  Snapshot whole_;
};

TEST_F(DurableEndOfAStoreTest, LostLastFilesAreNoticed) {
  MakeStore();
  ASSERT_GE(LastFile(), 3U);
  Snapshot left = whole_;
  for (std::uint64_t number = LastFile(); number != 0; --number) {
    left.erase(SegmentFile(number));
    ExpectLost(left, SegmentFile(number));
  }
  left.erase(SegmentFile(0));
  ExpectLost(left, "all files");
  left.erase("LOCK");
  Options options = TinyOptions();
  options.create_if_missing = false;
  EXPECT_TRUE(FailsWith(Open(*With(left), options).status(), StatusCode::kDataLoss,
                        "durable.ebb is there"));
}

TEST_F(DurableEndOfAStoreTest, ATruncatedTailIsNoticed) {
  MakeStore();
  const std::string last = SegmentFile(LastFile());
  const std::string bytes = whole_.at(last);
  for (std::size_t size = 0; size < bytes.size(); size += 1536) {
    if (!IsInSample(size / 1536)) continue;
    Snapshot cut = whole_;
    cut.at(last).resize(size);
    ExpectLost(cut, std::to_string(size));
    cut.at(last).resize(bytes.size());
    ExpectLost(cut, std::to_string(size) + " and zeros");
  }
  Snapshot longer = whole_;
  longer.at(last) += std::string(2 * kBlock, '\0');
  const auto files = With(longer);
  ExpectWhole(*files, IsEmpty());
}

TEST_F(DurableEndOfAStoreTest, CloseLeavesTheExactEndInBothBlocks) {
  SimFileSystem files;
  auto store = Must(Open(files));
  Must(store.Upsert(1, 1));
  Must(store.Commit());
  const std::uint64_t end = EndBlockOf(store);
  EXPECT_EQ(std::max(EndIn(files, 0), EndIn(files, 1)), end);
  EXPECT_EQ(std::min(EndIn(files, 0), EndIn(files, 1)), end - 1) << "of the open record";
  const std::string log = SnapshotOf(files, "db").at(SegmentFile(0));
  Must(store.Close());
  EXPECT_EQ(SnapshotOf(files, "db").at(SegmentFile(0)), log) << "there is nothing else to write";
  const auto crashed = files.Crash(kNothingSurvives);
  EXPECT_EQ(EndIn(*crashed, 0), end);
  EXPECT_EQ(EndIn(*crashed, 1), end);
}

TEST_F(DurableEndOfAStoreTest, ItsFailuresFailNoCommitAndItsSyncFailsClose) {
  FaultFileSystem files(files_);
  {
    auto store = Must(Open(files));
    files.Arm({.kind = CallKind::kWrite, .name_part = "durable", .sticky = true, .error = ENOSPC});
    for (std::uint64_t i = 0; i < 5; ++i) {
      Must(store.Upsert(i, model_[i] = i));
      Must(store.Commit());
    }
    EXPECT_EQ(files.FiredCount(), 5U);
    files.Disarm();
    files.Arm({.kind = CallKind::kSync, .name_part = "durable"});
    EXPECT_TRUE(FailsWith(store.Close(), StatusCode::kUnavailable, "durable.ebb"));
    Must(store.Close());  // it can be tried again: both blocks are written again
  }
  ExpectWhole(files_, IsEmpty());
}

TEST_F(DurableEndOfAStoreTest, ACheckpointSyncsIt) {
  {
    auto store = Must(Open(files_));
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, model_[i] = i));
    Must(store.Checkpoint());
  }
  const auto crashed = files_.Crash(kNothingSurvives);
  whole_ = SnapshotOf(*crashed, "db");
  // Without the checkpoints the file alone knows.
  std::erase_if(whole_, [](const auto& file) {
    return file.first.starts_with("manifest") || file.first.starts_with("index");
  });
  const auto files = With(whole_);
  ExpectWhole(*files, IsEmpty());
  whole_.erase(SegmentFile(LastFile()));
  ExpectLost(whole_, "after a checkpoint");
}

TEST_F(DurableEndOfAStoreTest, ABackupHasItsOwn) {
  std::uint64_t end = 0;
  {
    auto store = Must(Open(files_));
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, model_[i] = i));
    Must(store.Backup("copy"));
    end = EndBlockOf(store);
    Must(store.Upsert(1, 0));
    Must(store.Commit());
  }
  const auto crashed = files_.Crash(kNothingSurvives);
  whole_ = SnapshotOf(*crashed, "copy");
  EXPECT_EQ(EndIn(whole_.at(kDurableEndName), 0), end);
  EXPECT_EQ(EndIn(whole_.at(kDurableEndName), 1), end);
  const auto files = With(whole_);
  ExpectWhole(*files, IsEmpty());
  whole_.erase(SegmentFile(LastFile()));
  std::erase_if(whole_, [](const auto& file) { return file.first.starts_with("manifest"); });
  ExpectLost(whole_, "of a backup");
}

TEST_F(DurableEndOfAStoreTest, AMissingOrDamagedFileIsANoteAndAProblemUntilItIsCreatedAgain) {
  MakeStore();
  Snapshot bad = whole_;
  bad.erase(kDurableEndName);
  for (const char* what : {"is missing", "neither of its blocks verifies"}) {
    const auto files = With(bad);
    EXPECT_THAT(ProblemsOf(*files), ElementsAre(HasSubstr(what)));
    ExpectWhole(*files, ElementsAre(HasSubstr(what)));
    EXPECT_THAT(ProblemsOf(*files), IsEmpty());
    ExpectWhole(*files, IsEmpty());
    Snapshot after = SnapshotOf(*files, "db");
    after.erase(SegmentFile(LastFile()));
    ExpectLost(after, what);
    bad = whole_;
    bad[kDurableEndName][100] = bad[kDurableEndName][kBlock + 100] = 'x';
  }
  // One block alone is enough, and says as much.
  for (const std::size_t block : {0, 1}) {
    bad = whole_;
    bad[kDurableEndName][block * kBlock + 4072] ^= 1;
    const auto files = With(bad);
    EXPECT_THAT(ProblemsOf(*files), IsEmpty());
    ExpectWhole(*files, IsEmpty());
    bad.erase(SegmentFile(LastFile()));
    ExpectLost(bad, "one block");
  }
}

TEST_F(DurableEndOfAStoreTest, AStoreWhoseFileIsRemovedContinues) {
  auto store = Must(Open(files_));
  Must(store.Upsert(1, model_[1] = 1));
  const auto directory = files_.OpenDirectory("db", false).directory;
  ASSERT_EQ(directory->Unlink(kDurableEndName), 0);
  EXPECT_THAT(Must(store.Verify()).problems, ElementsAre(HasSubstr("durable.ebb is missing")));
  Must(store.Commit());
  Must(store.Checkpoint());
  Must(store.Close());
  ExpectWhole(files_, ElementsAre(HasSubstr("durable.ebb is missing")));
}

// Where the file cannot be made, the store opens without, and says so.
TEST_F(DurableEndOfAStoreTest, AStoreOpensWithoutOne) {
  MakeStore();
  whole_.erase(kDurableEndName);
  const auto sim = With(whole_);
  FaultFileSystem files(*sim);
  files.Arm({.kind = CallKind::kWrite, .name_part = "durable", .sticky = true, .error = ENOSPC});
  {
    auto store = Must(Open(files));
    EXPECT_THAT(store.recovery().notes, ElementsAre(HasSubstr("missing"), HasSubstr("failed")));
    EXPECT_TRUE(Holds(store, model_));
    Must(store.Upsert(1, model_[1] = 2));
    Must(store.Checkpoint());
    Must(store.Close());
  }
  files.Disarm();
  ExpectWhole(files, ElementsAre(HasSubstr("durable.ebb")));
  ExpectWhole(files, IsEmpty());
}

// A creation that was interrupted leaves E = 0 and no log.
TEST_F(DurableEndOfAStoreTest, AFileOfAStoreThatWasNeverMadeIsReplaced) {
  const auto directory = files_.OpenDirectory("db", true).directory;
  Must(WriteDurableEnd(*directory, 12345, 0));
  Options options = TinyOptions();
  options.create_if_missing = false;
  EXPECT_TRUE(FailsWith(Open(files_, options).status(), StatusCode::kNotFound));
  for (const std::string& bytes :
       {SnapshotOf(files_, "db").at(kDurableEndName), std::string(), std::string(kBlock, 'x')}) {
    Restore({{kDurableEndName, bytes}}, files_, "db");
    auto store = Must(Open(files_));
    EXPECT_TRUE(store.recovery().created);
    EXPECT_THAT(store.recovery().notes, IsEmpty());
    Must(store.Close());
    EXPECT_THAT(ProblemsOf(files_), IsEmpty());
  }
}

// A process that dies has written the data of its commits, without any sync of the file.
TEST_F(DurableEndOfAStoreTest, ItKnowsTheCommitsOfAProcessThatDied) {
  auto store = Must(Open(files_));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, model_[i] = i));
  Must(store.Commit());
  const auto left = files_.Kill();
  whole_ = SnapshotOf(*left, "db");
  EXPECT_THAT(ProblemsOf(*left), IsEmpty());
  ExpectWhole(*left, IsEmpty());
  whole_.erase(SegmentFile(LastFile()));
  ExpectLost(whole_, "of a process that died");
}

}  // namespace
}  // namespace ebb::test
