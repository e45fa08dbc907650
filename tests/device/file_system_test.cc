#include "ebb/internal/device/file_system.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/device/device.h"
#include "tests/support/child_process.h"
#include "tests/support/temp_dir.h"

namespace {
std::function<void()> g_before_flock;
bool g_directories_have_locks = true;

bool IsDirectory(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}
}  // namespace

// Stands before the C library's function, to script events right before a lock file is locked, and
// to act as a file system that cannot lock directories.
extern "C" int flock(int fd, int operation) noexcept {
  if (IsDirectory(fd)) {
    if (!g_directories_have_locks) {
      errno = EBADF;
      return -1;
    }
  } else if (const auto before = g_before_flock; before && (operation & LOCK_EX) != 0) {
    before();
  }
  return static_cast<int>(::syscall(SYS_flock, fd, operation));
}

namespace ebb::test {
namespace {

using internal::Directory;
using internal::File;
using internal::LockKind;
using internal::OpenedDirectory;
using internal::OpenedFile;
using internal::PosixFileSystem;
using internal::Transfer;
using ::testing::UnorderedElementsAre;

std::unique_ptr<Directory> MustOpen(const std::string& path) {
  OpenedDirectory opened = PosixFileSystem().OpenDirectory(path, /*create=*/true);
  EXPECT_EQ(opened.error, 0) << path;
  return std::move(opened.directory);
}

std::unique_ptr<File> MustCreate(Directory& directory, const std::string& name) {
  OpenedFile opened = directory.Open(name, {.create = true});
  EXPECT_EQ(opened.error, 0) << name;
  return std::move(opened.file);
}

unsigned ModeOf(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 07777U : 0U;
}

const std::byte* BytesOf(const std::string& text) {
  return reinterpret_cast<const std::byte*>(text.data());
}

std::string ReadText(File& file, std::uint64_t offset, std::size_t count) {
  std::string text(count, '?');
  const Transfer transfer =
      file.ReadAt(offset, reinterpret_cast<std::byte*>(text.data()), text.size());
  EXPECT_EQ(transfer.error, 0);
  text.resize(transfer.count);
  return text;
}

void WriteText(File& file, std::uint64_t offset, const std::string& text) {
  const Transfer transfer = file.WriteAt(offset, BytesOf(text), text.size());
  EXPECT_EQ(transfer.error, 0);
  EXPECT_EQ(transfer.count, text.size());
}

// ---- Directories ----

TEST(FileSystemTest, OnlyTheOwnerMayUseCreatedFiles) {
  const TempDir temp;
  const mode_t old_mask = ::umask(0);
  const auto directory = MustOpen(temp / "store");
  const auto file = MustCreate(*directory, "file");
  EXPECT_EQ(directory->Lock("LOCK"), 0);
  ::umask(old_mask);
  EXPECT_EQ(ModeOf(temp / "store"), 0700U);
  EXPECT_EQ(ModeOf(temp / "store/file"), 0600U);
  EXPECT_EQ(ModeOf(temp / "store/LOCK"), 0600U);
}

TEST(FileSystemTest, AbsentDirectoryIsReportedUnlessItIsToBeCreated) {
  const TempDir temp;
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "store", false).error, ENOENT);
  EXPECT_FALSE(std::filesystem::exists(temp / "store"));
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "store", true).error, 0);
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "store", true).error, 0);
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "store", false).error, 0);
}

TEST(FileSystemTest, OnlyTheLastComponentIsCreated) {
  const TempDir temp;
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "a/b", true).error, ENOENT);
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "a", true).error, 0);
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "a//b//", true).error, 0);
  EXPECT_TRUE(std::filesystem::is_directory(temp / "a/b"));
}

TEST(FileSystemTest, RelativePathsFindTheirParent) {
  const TempDir temp;
  EXPECT_EQ(InChild([&] {
              if (::chdir(temp.path().c_str()) != 0) return 1;
              if (PosixFileSystem().OpenDirectory("store", true).error != 0) return 2;
              if (PosixFileSystem().OpenDirectory("./store/inner/", true).error != 0) return 3;
              return 0;
            }),
            0);
  EXPECT_TRUE(std::filesystem::is_directory(temp / "store/inner"));
  EXPECT_EQ(PosixFileSystem().OpenDirectory("", true).error, ENOENT);
  EXPECT_EQ(PosixFileSystem().OpenDirectory("/", true).error, 0);
}

// The parent is synced, so that the directory itself survives a power loss. That cannot be seen,
// but it can be seen that a parent which may not be opened is in the way of a creation, which is
// then taken back, and of nothing else.
TEST(FileSystemTest, DirectoryIsNotCreatedWhereItsParentCannotBeSynced) {
  const TempDir temp;
  ASSERT_EQ(::chmod(temp.path().c_str(), 0711), 0);
  ASSERT_EQ(::mkdir((temp / "parent").c_str(), 0700), 0);
  ASSERT_EQ(::mkdir((temp / "parent/old").c_str(), 0700), 0);
  const bool root = ::geteuid() == 0;
  constexpr uid_t kNobody = 65534;  // root may open everything, so it becomes another user
  if (root) {
    ASSERT_EQ(::chown((temp / "parent").c_str(), kNobody, ::getegid()), 0);
    ASSERT_EQ(::chown((temp / "parent/old").c_str(), kNobody, ::getegid()), 0);
  }
  ASSERT_EQ(::chmod((temp / "parent").c_str(), 0300), 0);
  EXPECT_EQ(InChild([&] {
              if (root && ::seteuid(kNobody) != 0) return 1;
              if (PosixFileSystem().OpenDirectory(temp / "parent/new", true).error != EACCES) {
                return 2;
              }
              if (PosixFileSystem().OpenDirectory(temp / "parent/old", true).error != 0) return 3;
              return 0;
            }),
            0);
  ASSERT_EQ(::chmod((temp / "parent").c_str(), 0700), 0);
  EXPECT_FALSE(std::filesystem::exists(temp / "parent/new"));
}

TEST(FileSystemTest, FileIsNoDirectory) {
  const TempDir temp;
  std::ofstream(temp / "file") << "text";
  EXPECT_EQ(PosixFileSystem().OpenDirectory(temp / "file", true).error, ENOTDIR);
}

TEST(FileSystemTest, DirectoryListsItsNamesEveryTime) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  std::vector<std::string> names = {"stale"};
  EXPECT_EQ(directory->List(names), 0);
  EXPECT_THAT(names, UnorderedElementsAre());
  MustCreate(*directory, "a");
  MustCreate(*directory, ".b");
  EXPECT_EQ(directory->List(names), 0);
  EXPECT_THAT(names, UnorderedElementsAre("a", ".b"));
  EXPECT_EQ(directory->List(names), 0);
  EXPECT_THAT(names, UnorderedElementsAre("a", ".b"));
}

TEST(FileSystemTest, RenameReplacesAndUnlinkRemoves) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  WriteText(*MustCreate(*directory, "old"), 0, "old");
  WriteText(*MustCreate(*directory, "new"), 0, "new");
  EXPECT_EQ(directory->Rename("new", "old"), 0);
  EXPECT_EQ(ReadText(*MustCreate(*directory, "old"), 0, 9), "new");
  EXPECT_EQ(directory->Rename("new", "old"), ENOENT);
  EXPECT_EQ(directory->Unlink("old"), 0);
  EXPECT_EQ(directory->Unlink("old"), ENOENT);
  EXPECT_EQ(directory->Sync(), 0);
  std::vector<std::string> names;
  EXPECT_EQ(directory->List(names), 0);
  EXPECT_THAT(names, UnorderedElementsAre());
}

TEST(FileSystemTest, NamesNeverLeadOutOfTheDirectory) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  MustOpen(temp / "store/inner");
  std::ofstream(temp / "outside") << "text";
  MustCreate(*directory, "inside");
  for (const std::string& name :
       {std::string("../outside"), std::string("inner/file"), temp / "outside", std::string(""),
        std::string("."), std::string(".."), std::string("in\0side", 7)}) {
    EXPECT_EQ(directory->Open(name, {.create = true}).error, EINVAL) << name;
    EXPECT_EQ(directory->Rename("inside", name), EINVAL) << name;
    EXPECT_EQ(directory->Rename(name, "inside"), EINVAL) << name;
    EXPECT_EQ(directory->Unlink(name), EINVAL) << name;
    EXPECT_EQ(directory->Lock(name), EINVAL) << name;
  }
  EXPECT_TRUE(std::filesystem::exists(temp / "outside"));
  EXPECT_TRUE(std::filesystem::is_empty(temp / "store/inner"));
}

// ---- Files ----

TEST(FileSystemTest, FileReturnsTheBytesThatWereWritten) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  const auto file = MustCreate(*directory, "file");
  WriteText(*file, 4, "five6");
  std::uint64_t size = 0;
  EXPECT_EQ(file->Size(size), 0);
  EXPECT_EQ(size, 9U);
  EXPECT_EQ(ReadText(*file, 0, 100), std::string("\0\0\0\0five6", 9));
  EXPECT_EQ(ReadText(*file, 9, 1), "");
  EXPECT_EQ(file->Truncate(5), 0);
  EXPECT_EQ(file->Truncate(7), 0);
  const int reserved = file->Reserve(7, 1 << 20);
  EXPECT_TRUE(reserved == 0 || reserved == EOPNOTSUPP) << reserved;
  EXPECT_EQ(file->Size(size), 0);
  EXPECT_EQ(size, 7U);
  EXPECT_EQ(ReadText(*file, 0, 100), std::string("\0\0\0\0f\0\0", 7));
  EXPECT_EQ(file->Sync(), 0);
  EXPECT_EQ(file->Close(), 0);
}

TEST(FileSystemTest, OpeningNeverTruncatesAndCreatesOnlyWhenAsked) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  EXPECT_EQ(directory->Open("file", {}).error, ENOENT);
  EXPECT_FALSE(std::filesystem::exists(temp / "store/file"));
  WriteText(*MustCreate(*directory, "file"), 0, "kept");
  EXPECT_EQ(ReadText(*MustCreate(*directory, "file"), 0, 9), "kept");
  EXPECT_EQ(ReadText(*directory->Open("file", {}).file, 0, 9), "kept");
}

TEST(FileSystemTest, SymbolicLinksAreNotFollowed) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  std::ofstream(temp / "outside") << "text";
  std::filesystem::create_symlink(temp / "outside", temp / "store/link");
  std::filesystem::create_symlink(temp / "absent", temp / "store/dangling");
  EXPECT_EQ(directory->Open("link", {}).error, ELOOP);
  EXPECT_EQ(directory->Open("dangling", {.create = true}).error, ELOOP);
  EXPECT_EQ(directory->Lock("link"), ELOOP);
  EXPECT_EQ(directory->Lock("dangling"), ELOOP);
  EXPECT_FALSE(std::filesystem::exists(temp / "absent"));
  EXPECT_EQ(directory->Unlink("link"), 0);
  EXPECT_TRUE(std::filesystem::exists(temp / "outside"));
}

TEST(FileSystemTest, OnlyRegularFilesAreOpenedAndNothingIsWaitedFor) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  ASSERT_EQ(::mkfifo((temp / "store/pipe").c_str(), 0600), 0);
  ASSERT_EQ(::mkdir((temp / "store/folder").c_str(), 0700), 0);
  EXPECT_EQ(directory->Open("pipe", {.create = true}).error, EINVAL);
  EXPECT_EQ(directory->Open("pipe", {.direct = true}).error, EINVAL);
  EXPECT_EQ(directory->Lock("pipe"), EINVAL);
  EXPECT_EQ(directory->Open("folder", {}).error, EISDIR);
}

TEST(FileSystemTest, DirectFilesSayThatTheyAre) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  EXPECT_FALSE(MustCreate(*directory, "file")->direct());
  OpenedFile opened = directory->Open("file", {.write = true, .direct = true});
  ASSERT_EQ(opened.error, 0);
  const internal::AlignedBuffer buffer = internal::AllocateAligned(4096);
  std::memset(buffer.get(), 'x', 4096);
  EXPECT_EQ(opened.file->WriteAt(0, buffer.get(), 4096).count, 4096U);
  // The kernel reports whether 4 KiB are enough; a direct file rejects unaligned transfers.
  const int unaligned_error = opened.file->WriteAt(1, buffer.get() + 1, 7).error;
  EXPECT_EQ(unaligned_error, opened.file->direct() ? EINVAL : 0);
  if (!opened.file->direct()) GTEST_SKIP() << "no direct transfers in " << temp.path();
}

TEST(FileSystemTest, FileSystemWithoutDirectTransfersIsUsedBuffered) {
  // procfs and sysfs have no direct transfers anywhere; every Linux has a file there that may be
  // rewritten with its own content.
  const OpenedDirectory opened = PosixFileSystem().OpenDirectory("/proc/self", false);
  if (opened.error != 0) GTEST_SKIP() << "no procfs";
  const OpenedFile file = opened.directory->Open("comm", {.direct = true});
  ASSERT_EQ(file.error, 0);
  EXPECT_FALSE(file.file->direct());
  EXPECT_FALSE(ReadText(*file.file, 0, 100).empty());
}

TEST(FileSystemTest, CallsReportTheirErrors) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  const auto file = MustCreate(*directory, "file");
  std::byte byte{1};
  const std::uint64_t absurd_offset = ~std::uint64_t{0};
  EXPECT_EQ(file->ReadAt(absurd_offset, &byte, 1).error, EINVAL);
  EXPECT_EQ(file->WriteAt(absurd_offset, &byte, 1).error, EINVAL);
  EXPECT_EQ(file->Truncate(absurd_offset), EINVAL);
  EXPECT_EQ(file->Close(), 0);
  std::uint64_t size = 0;
  EXPECT_EQ(file->Size(size), EBADF);
  EXPECT_EQ(file->Sync(), EBADF);
}

TEST(FileSystemTest, ProgramsThatAreStartedInheritNothing) {
  const TempDir temp;
  const auto directory = MustOpen(temp / "store");
  const auto file = MustCreate(*directory, "file");
  ASSERT_EQ(directory->Lock("LOCK"), 0);
  int ours = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    char target[4096];
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = ::readlink(link.c_str(), target, sizeof(target));
    if (length <= 0) continue;
    const std::string path(target, static_cast<std::size_t>(length));
    if (path.find(temp.path()) != 0) continue;
    ++ours;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << path;
  }
  EXPECT_EQ(ours, 4);  // the directory, and the same for its lock; the file; the lock file
}

TEST(FileSystemTest, NothingLeavesADescriptorOpen) {
  const auto count_descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) != -1 ? 1 : 0;
    return count;
  };
  const TempDir temp;
  ASSERT_EQ(::mkdir((temp / "pipes").c_str(), 0700), 0);
  ASSERT_EQ(::mkfifo((temp / "pipes/pipe").c_str(), 0600), 0);
  const int before = count_descriptors();
  {
    const auto directory = MustOpen(temp / "store");
    const auto left_open = MustCreate(*directory, "a");
    EXPECT_EQ(MustCreate(*directory, "b")->Close(), 0);
    std::vector<std::string> names;
    EXPECT_EQ(directory->List(names), 0);
    EXPECT_EQ(directory->Lock("LOCK"), 0);
    const auto second = MustOpen(temp / "store");
    EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
    EXPECT_EQ(MustOpen(temp / "pipes")->Open("pipe", {}).error, EINVAL);
  }
  EXPECT_EQ(count_descriptors(), before);
}

// ---- Locks ----

TEST(FileSystemTest, LockKeepsOutASecondOpenerInTheSameProcess) {
  const TempDir temp;
  const auto first = MustOpen(temp / "store");
  const auto second = MustOpen(temp / "store");
  EXPECT_EQ(first->Lock("LOCK"), 0);
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  // Opening and closing the lock file by another way does not give the lock up, as it would with
  // an fcntl lock.
  EXPECT_EQ(MustCreate(*first, "LOCK")->Close(), 0);
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(first->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(first->Lock("OTHER"), EWOULDBLOCK);  // one at a time, or the first would be forgotten
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  first->Unlock();
  first->Unlock();
  EXPECT_EQ(second->Lock("LOCK"), 0);
  EXPECT_EQ(first->Lock("LOCK"), EWOULDBLOCK);
}

TEST(FileSystemTest, LockKeepsOutOtherProcesses) {
  const TempDir temp;
  const auto try_lock = [&] { return MustOpen(temp / "store")->Lock("LOCK"); };
  auto directory = MustOpen(temp / "store");
  ASSERT_EQ(directory->Lock("LOCK"), 0);
  EXPECT_EQ(InChild(try_lock), EWOULDBLOCK);
  directory.reset();  // gives the lock up
  EXPECT_EQ(InChild(try_lock), 0);
  EXPECT_EQ(try_lock(), 0);  // the child's lock ended with the child
}

TEST(FileSystemTest, ForkedChildKeepsNoLockAliveAndTakesNoneAway) {
  const TempDir temp;
  auto directory = MustOpen(temp / "store");
  const auto second = MustOpen(temp / "store");
  ASSERT_EQ(directory->Lock("LOCK"), 0);
  EXPECT_EQ(InChild([&] {
              directory.reset();
              return 0;
            }),
            0);
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK) << "a child's destructor unlocked its parent";

  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ready[1]);
    char byte;
    static_cast<void>(!::read(ready[0], &byte, 1));  // until the parent closes its end
    ::_exit(0);
  }
  ::close(ready[0]);
  directory.reset();
  EXPECT_EQ(second->Lock("LOCK"), 0) << "the child's copy keeps the lock";
  ::close(ready[1]);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
}

// Where directories cannot be locked, the lock file alone must be enough.
class LockFileTest : public testing::Test {
 protected:
  LockFileTest() { g_directories_have_locks = false; }
  ~LockFileTest() override { g_directories_have_locks = true; }

  // Another process's part, by its system calls.
  int LockByHand() const {
    const int fd = ::open((temp_ / "store/LOCK").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT_EQ(::syscall(SYS_flock, fd, LOCK_EX | LOCK_NB), 0);
    return fd;
  }

  const TempDir temp_;
};

TEST_F(LockFileTest, ExcludesOthersAsWell) {
  const auto first = MustOpen(temp_ / "store");
  const auto second = MustOpen(temp_ / "store");
  ASSERT_EQ(first->Lock("LOCK"), 0);
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(second->Lock("LOCK", LockKind::kReader), EWOULDBLOCK);
  first->Unlock();
  ASSERT_EQ(second->Lock("LOCK", LockKind::kReader), 0);
  EXPECT_EQ(first->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(first->Lock("LOCK", LockKind::kReader), 0);
}

// A holder that created the store only to find that it cannot use it removes the lock file before
// it unlocks. An opener that had opened the file before then locks a file without a name, which the
// next opener does not see: both would be in.
TEST_F(LockFileTest, ALockOnARemovedFileDoesNotCount) {
  const auto waiter = MustOpen(temp_ / "store");
  const int holder = LockByHand();
  int newcomer = -1;
  g_before_flock = [&] {  // the waiter has opened the file and is about to lock it
    g_before_flock = nullptr;
    EXPECT_EQ(::unlink((temp_ / "store/LOCK").c_str()), 0);
    ::close(holder);
    newcomer = LockByHand();
  };
  EXPECT_EQ(waiter->Lock("LOCK"), EWOULDBLOCK);
  ASSERT_NE(newcomer, -1);
  ::close(newcomer);
  EXPECT_EQ(waiter->Lock("LOCK"), 0);
}

// The same without a newcomer: the waiter starts again and gets the lock.
TEST_F(LockFileTest, TheLockIsTakenOnTheFileThatBearsTheName) {
  const auto waiter = MustOpen(temp_ / "store");
  const int holder = LockByHand();
  g_before_flock = [&] {
    g_before_flock = nullptr;
    EXPECT_EQ(::unlink((temp_ / "store/LOCK").c_str()), 0);
    ::close(holder);
  };
  EXPECT_EQ(waiter->Lock("LOCK"), 0);
  EXPECT_TRUE(std::filesystem::exists(temp_ / "store/LOCK"));
  EXPECT_EQ(MustOpen(temp_ / "store")->Lock("LOCK"), EWOULDBLOCK);
}

TEST(FileSystemTest, RemovingTheLockFileAdmitsNoOtherProcess) {
  const TempDir temp;
  const auto first = MustOpen(temp / "store");
  const auto second = MustOpen(temp / "store");
  ASSERT_EQ(first->Lock("LOCK"), 0);
  EXPECT_FALSE(first->LockIsRemoved());
  EXPECT_EQ(first->Unlink("LOCK"), 0);
  EXPECT_TRUE(first->LockIsRemoved());
  EXPECT_EQ(second->Lock("LOCK"), EWOULDBLOCK);
  EXPECT_EQ(second->Lock("LOCK", LockKind::kReader), EWOULDBLOCK);
  EXPECT_EQ(InChild([&] { return MustOpen(temp / "store")->Lock("LOCK"); }), EWOULDBLOCK);
  first->Unlock();
  EXPECT_EQ(second->Lock("LOCK"), 0);
}

TEST(FileSystemTest, ReadersShareALockAndWriteNothing) {
  const TempDir temp;
  const auto first = MustOpen(temp / "store");
  const auto second = MustOpen(temp / "store");
  const auto writer = MustOpen(temp / "store");
  for (const bool lock_file_exists : {false, true}) {
    ASSERT_EQ(first->Lock("LOCK", LockKind::kReader), 0);
    EXPECT_EQ(first->Lock("LOCK", LockKind::kReader), EWOULDBLOCK);  // one at a time
    ASSERT_EQ(second->Lock("LOCK", LockKind::kReader), 0);
    EXPECT_EQ(std::filesystem::exists(temp / "store/LOCK"), lock_file_exists);
    EXPECT_EQ(writer->Lock("LOCK"), EWOULDBLOCK);
    first->Unlock();
    EXPECT_EQ(writer->Lock("LOCK"), EWOULDBLOCK);
    second->Unlock();
    EXPECT_EQ(writer->Lock("LOCK"), 0);  // creates the file
    EXPECT_EQ(first->Lock("LOCK", LockKind::kReader), EWOULDBLOCK);
    writer->Unlock();
  }
}

// The lock of a file next to it, as of a backup's marker, is not the directory's.
TEST(FileSystemTest, ANameIsLockedWithoutItsDirectory) {
  const TempDir temp;
  const auto first = MustOpen(temp / "store");
  const auto second = MustOpen(temp / "store");
  const auto third = MustOpen(temp / "store");
  ASSERT_EQ(first->Lock("MARKER", LockKind::kNameOnly), 0);
  EXPECT_EQ(second->Lock("MARKER", LockKind::kNameOnly), EWOULDBLOCK);
  EXPECT_EQ(second->Lock("LOCK"), 0);
  EXPECT_EQ(third->Lock("MARKER", LockKind::kNameOnly), EWOULDBLOCK);
}

// Kills a process that holds a lock while a child of its own lives on.
TEST(FileSystemTest, ALockEndsWithItsProcessWhateverChildrenItLeaves) {
  const TempDir temp;
  for (const LockKind kind : {LockKind::kWriter, LockKind::kReader, LockKind::kNameOnly}) {
    int ready[2];
    int end[2];
    ASSERT_EQ(::pipe(ready), 0);
    ASSERT_EQ(::pipe(end), 0);
    std::fflush(nullptr);
    const pid_t holder = ::fork();
    if (holder == 0) {
      const auto directory = MustOpen(temp / "store");
      if (directory->Lock("LOCK", kind) != 0) ::_exit(1);
      const bool is_child = ::fork() == 0;
      char byte = 'x';
      if (is_child) static_cast<void>(!::write(ready[1], &byte, 1));
      ::close(end[1]);
      static_cast<void>(!::read(end[0], &byte, 1));  // until the test closes its end
      ::_exit(0);
    }
    ::close(ready[1]);
    ::close(end[0]);
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);  // the child is there
    const LockKind conflicting = kind == LockKind::kNameOnly ? kind : LockKind::kWriter;
    EXPECT_EQ(MustOpen(temp / "store")->Lock("LOCK", conflicting), EWOULDBLOCK);
    ASSERT_EQ(::kill(holder, SIGKILL), 0);
    ASSERT_EQ(::waitpid(holder, nullptr, 0), holder);
    EXPECT_EQ(MustOpen(temp / "store")->Lock("LOCK", conflicting), 0) << "a child keeps the lock";
    ::close(end[1]);
    ::close(ready[0]);
  }
}

// Another thread may be at any point of taking a lock when a process forks.
TEST(FileSystemTest, AForkDuringLockingLeavesTheChildNoLockFile) {
  const TempDir temp;
  std::atomic<bool> stop{false};
  std::thread locker([&] {
    const auto directory = MustOpen(temp / "store");
    while (!stop.load(std::memory_order_relaxed)) {
      EXPECT_EQ(directory->Lock("LOCK"), 0);
      directory->Unlock();
    }
  });
  const std::string lock_file = temp / "store/LOCK";
  for (int i = 0; i < 40; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {  // makes system calls alone: the other thread may have held any mutex
      char link[64];
      char target[512];
      for (int fd = 3; fd < 64; ++fd) {
        std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        const ssize_t length = ::readlink(link, target, sizeof(target));
        if (length <= 0) continue;
        if (lock_file.compare(0, lock_file.size(), target, static_cast<std::size_t>(length)) == 0) {
          ::_exit(1);
        }
      }
      ::_exit(0);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "the child holds the lock file open";
  }
  stop.store(true, std::memory_order_relaxed);
  locker.join();
}

}  // namespace
}  // namespace ebb::test
