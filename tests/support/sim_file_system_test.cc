#include "tests/support/sim_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ebb/internal/device/device.h"

namespace ebb::test {
namespace {

using internal::Directory;
using internal::File;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr std::uint64_t kSeedCount = 300;

class SimFileSystemTest : public ::testing::Test {
 protected:
  std::unique_ptr<File> Create(const std::string& name) {
    return directory_->Open(name, {.create = true}).file;
  }
  static void Write(File& file, std::uint64_t offset, char fill, std::size_t count) {
    const SimBytes bytes(count, static_cast<std::byte>(fill));
    const internal::Transfer transfer = file.WriteAt(offset, bytes.data(), bytes.size());
    EXPECT_EQ(transfer.error, 0);
    EXPECT_EQ(transfer.count, count);
  }
  // One character a sector: the one that fills it, '0' for zeros, '!' for a torn one.
  static std::string SectorsOf(const SimFileSystem& files, const std::string& name) {
    const SimBytes bytes = files.Contents("store", name);
    std::string sectors;
    for (std::size_t at = 0; at < bytes.size(); at += kSectorBytes) {
      char fill = static_cast<char>(bytes[at]);
      for (std::size_t i = at; i < std::min(bytes.size(), at + kSectorBytes); ++i) {
        if (bytes[i] != bytes[at]) fill = '!';
      }
      sectors += fill == 0 ? '0' : fill;
    }
    return sectors;
  }
  // All the states that a file is seen in after a crash now.
  std::set<std::string> Crashes(const std::string& name) const {
    std::set<std::string> states;
    for (std::uint64_t seed = 0; seed < kSeedCount; ++seed) {
      const auto crashed = files_.Crash(seed);
      states.insert(crashed->Exists("store", name) ? SectorsOf(*crashed, name) : "absent");
    }
    return states;
  }
  // All the lists of names that are seen after a crash now.
  std::set<std::vector<std::string>> NameCrashes() const {
    std::set<std::vector<std::string>> states;
    for (std::uint64_t seed = 0; seed < kSeedCount; ++seed) {
      std::vector<std::string> names;
      EXPECT_EQ(files_.Crash(seed)->OpenDirectory("store", false).directory->List(names), 0);
      states.insert(names);
    }
    return states;
  }

  SimFileSystem files_;
  std::unique_ptr<Directory> directory_ = files_.OpenDirectory("store", true).directory;
};

TEST_F(SimFileSystemTest, BehavesLikeAFileSystemWhileThePowerIsOn) {
  EXPECT_EQ(files_.OpenDirectory("other", false).error, ENOENT);
  EXPECT_EQ(directory_->Open("a", {}).error, ENOENT);
  const auto a = Create("a");
  Write(*a, 600, 'x', 10);
  std::uint64_t size = 0;
  EXPECT_EQ(a->Size(size), 0);
  EXPECT_EQ(size, 610U);
  SimBytes read(100);
  EXPECT_EQ(a->ReadAt(605, read.data(), 100).count, 5U);
  EXPECT_EQ(read[4], std::byte{'x'});
  EXPECT_EQ(a->ReadAt(700, read.data(), 100).count, 0U);
  EXPECT_EQ(a->Truncate(605), 0);
  EXPECT_EQ(a->Truncate(607), 0);
  EXPECT_EQ(a->ReadAt(604, read.data(), 100).count, 3U);
  EXPECT_THAT(std::vector<std::byte>(read.begin(), read.begin() + 3),
              ElementsAre(std::byte{'x'}, std::byte{0}, std::byte{0}));

  EXPECT_EQ(directory_->Rename("a", "b"), 0);
  EXPECT_EQ(directory_->Rename("a", "b"), ENOENT);
  Write(*a, 0, 'y', 1);  // the handle still is the file
  EXPECT_EQ(files_.Contents("store", "b")[0], std::byte{'y'});
  Create("c");
  std::vector<std::string> names;
  EXPECT_EQ(directory_->List(names), 0);
  EXPECT_THAT(names, UnorderedElementsAre("b", "c"));
  EXPECT_EQ(directory_->Unlink("b"), 0);
  EXPECT_EQ(directory_->Unlink("b"), ENOENT);
  Write(*a, 0, 'z', 1);
  EXPECT_EQ(a->ReadAt(0, read.data(), 1).count, 1U);
  EXPECT_FALSE(files_.Exists("store", "b"));
}

TEST_F(SimFileSystemTest, LocksExcludeUntilTheyAreGivenUpOrTheirOwnerEnds) {
  auto second = files_.OpenDirectory("store", false).directory;
  EXPECT_EQ(directory_->Lock("LOCK"), 0);
  EXPECT_EQ(directory_->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(directory_->Lock("OTHER"), EWOULDBLOCK);
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(files_.Kill()->OpenDirectory("store", false).directory->Lock("LOCK"), 0);
  directory_->Unlock();
  EXPECT_EQ(second->Lock("LOCK"), 0);
  EXPECT_EQ(directory_->Lock("LOCK"), EWOULDBLOCK);
  second.reset();
  EXPECT_EQ(directory_->Lock("LOCK"), 0);
}

TEST_F(SimFileSystemTest, SyncedBytesUnderASyncedNameSurviveEveryCrash) {
  const auto file = Create("file");
  Write(*file, 0, 'a', 3 * kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  EXPECT_THAT(Crashes("file"), ElementsAre("aaa"));
}

TEST_F(SimFileSystemTest, AnySubsetOfUnsyncedSectorsSurvives) {
  const auto file = Create("file");
  Write(*file, 0, 'a', 3 * kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'b', 3 * kSectorBytes);
  EXPECT_THAT(Crashes("file"),
              UnorderedElementsAre("aaa", "aab", "aba", "abb", "baa", "bab", "bba", "bbb"));
}

TEST_F(SimFileSystemTest, SectorMayComeBackAsAnyOfItsWritesSinceTheSync) {
  const auto file = Create("file");
  Write(*file, 0, 'a', kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'b', kSectorBytes);
  Write(*file, 0, 'c', kSectorBytes);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("a", "b", "c"));
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("c"));
}

TEST_F(SimFileSystemTest, SizeAndBytesSurviveIndependently) {
  const auto file = Create("file");
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'a', kSectorBytes);
  Write(*file, kSectorBytes, 'b', kSectorBytes);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("", "0", "a", "00", "a0", "0b", "ab"));
}

TEST_F(SimFileSystemTest, TruncationIsAsUncertainAsAWriteUntilItIsSynced) {
  const auto file = Create("file");
  Write(*file, 0, 'a', 2 * kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  EXPECT_EQ(file->Truncate(kSectorBytes), 0);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("a", "aa", "a0"));
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(file->Truncate(2 * kSectorBytes), 0);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("a", "a0"));
}

TEST_F(SimFileSystemTest, NamesSurviveIndependentlyUntilTheDirectoryIsSynced) {
  Create("a");
  Create("b");
  EXPECT_THAT(NameCrashes(), UnorderedElementsAre(ElementsAre(), ElementsAre("a"), ElementsAre("b"),
                                                  ElementsAre("a", "b")));
  EXPECT_EQ(directory_->Sync(), 0);
  EXPECT_THAT(NameCrashes(), UnorderedElementsAre(ElementsAre("a", "b")));
  EXPECT_EQ(directory_->Unlink("a"), 0);
  EXPECT_EQ(directory_->Rename("b", "c"), 0);
  EXPECT_EQ(NameCrashes().size(), 8U);
  EXPECT_EQ(directory_->Sync(), 0);
  EXPECT_THAT(NameCrashes(), UnorderedElementsAre(ElementsAre("c")));
}

TEST_F(SimFileSystemTest, SyncOfAFileDoesNotKeepItsName) {
  const auto file = Create("file");
  Write(*file, 0, 'a', kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_THAT(Crashes("file"), UnorderedElementsAre("absent", "a"));
}

TEST_F(SimFileSystemTest, RenameOntoAnotherFileLeavesOneOfTheTwoUnderTheName) {
  const auto old_file = Create("manifest");
  Write(*old_file, 0, 'o', kSectorBytes);
  EXPECT_EQ(old_file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  const auto new_file = Create("temporary");
  Write(*new_file, 0, 'n', kSectorBytes);
  EXPECT_EQ(directory_->Rename("temporary", "manifest"), 0);
  EXPECT_THAT(Crashes("manifest"), UnorderedElementsAre("o", "", "0", "n"));
  EXPECT_EQ(new_file->Sync(), 0);
  EXPECT_THAT(Crashes("manifest"), UnorderedElementsAre("o", "n"));
  EXPECT_EQ(directory_->Sync(), 0);
  EXPECT_THAT(Crashes("manifest"), UnorderedElementsAre("n"));
}

// On Linux a failed fsync marks the pages clean: the next one returns OK, reads show the bytes, and
// a power loss takes them away.
TEST_F(SimFileSystemTest, FailedSyncLosesBytesAndTheNextOneSucceeds) {
  const auto file = Create("file");
  Write(*file, 0, 'a', 2 * kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'b', 2 * kSectorBytes);
  files_.FailNextSync(EIO, kNothingSurvives);
  EXPECT_EQ(file->Sync(), EIO);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(SectorsOf(files_, "file"), "bb");
  EXPECT_THAT(Crashes("file"), ElementsAre("aa"));
  Write(*file, 0, 'c', kSectorBytes);
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_THAT(Crashes("file"), ElementsAre("ca"));
}

TEST_F(SimFileSystemTest, SeedsZeroAndOneAreTheExtremes) {
  const auto file = Create("file");
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'a', 3 * kSectorBytes);
  Create("new");
  const auto nothing = files_.Crash(kNothingSurvives);
  EXPECT_EQ(SectorsOf(*nothing, "file"), "");
  EXPECT_FALSE(nothing->Exists("store", "new"));
  const auto everything = files_.Crash(kEverythingSurvives);
  EXPECT_EQ(SectorsOf(*everything, "file"), "aaa");
  EXPECT_TRUE(everything->Exists("store", "new"));
}

TEST_F(SimFileSystemTest, SameSeedGivesTheSameState) {
  const auto file = Create("file");
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'a', 20 * kSectorBytes);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(SectorsOf(*files_.Crash(seed), "file"), SectorsOf(*files_.Crash(seed), "file"));
  }
  EXPECT_GT(Crashes("file").size(), 100U);
}

TEST_F(SimFileSystemTest, EveryMomentOfTheRecordingCanBeCrashedAt) {
  const auto file = Create("file");
  EXPECT_EQ(directory_->Sync(), 0);
  for (const char fill : {'a', 'b', 'c'}) {
    Write(*file, 0, fill, kSectorBytes);
    EXPECT_EQ(file->Sync(), 0);
  }
  // 0: directory, 1: file, 2: directory synced, then three times a write and a sync.
  ASSERT_EQ(files_.CallCount(), 9U);
  EXPECT_EQ(files_.Call(3).kind, SimCall::Kind::kWrite);
  EXPECT_EQ(files_.Call(8).kind, SimCall::Kind::kSync);
  EXPECT_EQ(files_.CrashAt(0, kEverythingSurvives)->OpenDirectory("store", false).error, ENOENT);
  const auto state = [&](std::size_t calls, std::uint64_t seed) {
    return SectorsOf(*files_.CrashAt(calls, seed), "file");
  };
  EXPECT_EQ(state(4, kNothingSurvives), "");
  EXPECT_EQ(state(4, kEverythingSurvives), "a");
  EXPECT_EQ(state(5, kNothingSurvives), "a");
  EXPECT_EQ(state(6, kNothingSurvives), "a");
  EXPECT_EQ(state(6, kEverythingSurvives), "b");
  EXPECT_EQ(state(9, kNothingSurvives), "c");
}

TEST_F(SimFileSystemTest, CrashedSystemContinuesAndCanCrashAgain) {
  const auto file = Create("file");
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'a', kSectorBytes);
  const auto once = files_.Crash(kEverythingSurvives);
  const auto directory = once->OpenDirectory("store", false).directory;
  const auto again = directory->Open("file", {.write = true}).file;
  Write(*again, kSectorBytes, 'b', kSectorBytes);
  EXPECT_EQ(SectorsOf(files_, "file"), "a") << "the crash is a copy";
  EXPECT_EQ(SectorsOf(*once, "file"), "ab");
  EXPECT_EQ(SectorsOf(*once->Crash(kNothingSurvives), "file"), "a");
  EXPECT_EQ(Create("other") != nullptr, true);
  const auto fresh = directory->Open("fresh", {.create = true}).file;
  Write(*fresh, 0, 'f', kSectorBytes);
  EXPECT_EQ(SectorsOf(*once, "file"), "ab") << "a new file is another file";
}

TEST_F(SimFileSystemTest, KilledProcessLeavesTheCacheButNotTheDisk) {
  const auto file = Create("file");
  EXPECT_EQ(directory_->Sync(), 0);
  Write(*file, 0, 'a', kSectorBytes);
  const auto killed = files_.Kill();
  EXPECT_EQ(SectorsOf(*killed, "file"), "a");
  EXPECT_EQ(SectorsOf(*killed->Crash(kNothingSurvives), "file"), "");
  const auto directory = killed->OpenDirectory("store", false).directory;
  EXPECT_EQ(directory->Open("file", {}).file->Sync(), 0);
  EXPECT_EQ(SectorsOf(*killed->Crash(kNothingSurvives), "file"), "a");
}

TEST_F(SimFileSystemTest, FullDiskCutsAWriteShortAndThenRejects) {
  const auto file = Create("file");
  files_.SetCapacityBytes(10000);
  const SimBytes bytes(20000, std::byte{'a'});
  EXPECT_EQ(file->WriteAt(0, bytes.data(), bytes.size()).count, 8192U);
  EXPECT_EQ(file->WriteAt(8192, bytes.data(), 4096).error, ENOSPC);
  EXPECT_EQ(file->WriteAt(0, bytes.data(), 8192).count, 8192U) << "rewriting needs no space";
  EXPECT_EQ(file->Truncate(0), 0);
  EXPECT_EQ(file->WriteAt(0, bytes.data(), 8192).count, 8192U);
}

TEST_F(SimFileSystemTest, DirectFilesRejectUnalignedTransfers) {
  const internal::AlignedBuffer buffer = internal::AllocateAligned(3 * 4096);
  const auto file = directory_->Open("file", {.create = true, .direct = true}).file;
  ASSERT_TRUE(file->direct());
  EXPECT_EQ(file->WriteAt(0, buffer.get(), 4096).count, 4096U);
  EXPECT_EQ(file->WriteAt(512, buffer.get(), 4096).error, EINVAL);
  EXPECT_EQ(file->WriteAt(0, buffer.get(), 512).error, EINVAL);
  EXPECT_EQ(file->WriteAt(0, buffer.get() + 512, 4096).error, EINVAL);
  EXPECT_EQ(file->ReadAt(512, buffer.get(), 4096).error, EINVAL);
  SimFileSystem buffered(/*direct=*/false);
  const auto directory = buffered.OpenDirectory("store", true).directory;
  EXPECT_FALSE(directory->Open("file", {.create = true, .direct = true}).file->direct());
}

}  // namespace
}  // namespace ebb::test
