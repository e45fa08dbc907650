// The file system of the operating system, by POSIX calls.
//
// Every name is opened below one directory descriptor, never through a symbolic link, and only a
// regular file is accepted. So a process that can write to the directory cannot make the store
// read, change or wait for anything elsewhere. Files are created with mode 0600, a directory with
// 0700.
//
// No descriptor of the library is 0, 1 or 2 (AboveStandard). Programs may start with those closed,
// for example daemons, and the next line printed to stderr would go into the file.
//
// Direct transfers are switched on after the open (the flag may be changed on an open file). So a
// file system without them costs no second open, and no incompletely created file is left. Memory,
// offsets and lengths of 4 KiB satisfy every device with blocks up to that size. If the kernel
// reports that a file needs more, the file is used buffered.
//
// Locks are acquired by flock, because an fcntl lock does not exclude a second opener in the same
// process and is lost when any descriptor of the file is closed. A directory has two locks:
//   - one on the directory itself, so that removing the lock file does not admit another opener. It
//     is left out where directories cannot be locked;
//   - one on the lock file, which every opener of a network file system sees.
// Each has a dedicated descriptor, because flock belongs to the open file, which all copies of a
// descriptor share, including those in forked children. The child half of a fork handler closes the
// child's copies of both. It finds all of them: a mutex is held from the open of these descriptors
// until they are in the list of locked directories, and across fork. So a lock ends with its
// process, whether or not that process has left children. (No handler runs when a program calls
// clone itself; such a child still never unlocks, because the owner's process id is compared.)
#include "ebb/internal/device/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/uring.h"

namespace ebb::internal {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;
constexpr unsigned kDirectAlignmentBytes = 4096;

// Returns the result of a call that returns -1 on failure, as the error number of the interface.
int ErrorOf(int result) { return result == -1 ? errno : 0; }

// A descriptor that is closed by its destructor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { static_cast<void>(Close()); }

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void Release() { fd_ = -1; }
  int Close() { return open() ? ErrorOf(::close(std::exchange(fd_, -1))) : 0; }

 private:
  int fd_ = -1;
};

struct OpenedDescriptor {
  Descriptor fd;
  int error = 0;
};

OpenedDescriptor OpenRetrying(int directory, const char* name, int flags, mode_t mode) {
  for (;;) {  // ends: a signal interrupts each call at most once
    const int fd = AboveStandard(::openat(directory, name, flags | O_CLOEXEC, mode));
    if (fd >= 0) return {Descriptor(fd), 0};
    if (errno != EINTR) return {Descriptor(), errno};
  }
}

// Returns whether the name is one component, and does not lead out of the directory.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

struct OpenedRegularFile {
  Descriptor fd;
  int error = 0;
  bool counts_links = false;  // the file system reported that the file has a name
  FileId id = {};
};

std::int64_t BirthTimeOf([[maybe_unused]] int fd) {
#if defined(STATX_BTIME)
  constexpr std::int64_t kNsPerSecond = 1'000'000'000;
  struct statx status;
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &status) == 0 &&
      (status.stx_mask & STATX_BTIME) != 0) {
    return status.stx_btime.tv_sec * kNsPerSecond + status.stx_btime.tv_nsec;
  }
#endif
  return 0;
}

OpenedRegularFile OpenRegularFile(int directory, const std::string& name, OpenFlags how) {
  if (!IsPlainName(name)) return {Descriptor(), EINVAL};
  const int access = how.create ? O_RDWR | O_CREAT : how.write ? O_RDWR : O_RDONLY;
  // O_NONBLOCK: a pipe or device planted under this name must not make the open wait.
  const int flags = access | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  OpenedDescriptor opened = OpenRetrying(directory, name.c_str(), flags, kFileMode);
  if (opened.error != 0) return {Descriptor(), opened.error};
  struct stat status;
  if (::fstat(opened.fd.get(), &status) != 0) return {Descriptor(), errno};
  if (!S_ISREG(status.st_mode)) return {Descriptor(), S_ISDIR(status.st_mode) ? EISDIR : EINVAL};
  const FileId id{status.st_dev, status.st_ino, BirthTimeOf(opened.fd.get())};
  return {std::move(opened.fd), 0, status.st_nlink != 0, id};
}

// Returns whether the file had a name when it was opened and has none now. A failed call proves
// nothing.
bool HasLostItsName(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && status.st_nlink == 0;
}

// Returns 0, EWOULDBLOCK, or the reason why the file cannot be locked.
int TryFlock(const Descriptor& file, LockKind kind) {
  const int how = (kind == LockKind::kReader ? LOCK_SH : LOCK_EX) | LOCK_NB;
  int error = 0;
  do {
    error = ErrorOf(::flock(file.get(), how));
  } while (error == EINTR);  // ends: a signal interrupts each call at most once
  return error;
}

// Returns whether direct transfers aligned to 4 KiB are sufficient. "Unknown" counts as yes: then
// the flag itself is rejected where direct transfers do not exist.
bool AllowsDirect([[maybe_unused]] int fd) {
#if defined(STATX_DIOALIGN)
  struct statx status;
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    return status.stx_dio_offset_align != 0 &&
           status.stx_dio_offset_align <= kDirectAlignmentBytes &&
           status.stx_dio_mem_align <= kDirectAlignmentBytes;
  }
#endif
  return true;
}

// Sets the flags that an open file keeps. Returns whether its transfers are now direct.
bool SetTransferMode(int fd, [[maybe_unused]] bool want_direct) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags == -1) return false;
  const int plain_flags = flags & ~O_NONBLOCK;
#if defined(O_DIRECT)
  if (want_direct && AllowsDirect(fd) && ::fcntl(fd, F_SETFL, plain_flags | O_DIRECT) == 0) {
    return true;
  }
#endif
  static_cast<void>(::fcntl(fd, F_SETFL, plain_flags));  // the flag means nothing to a file
  return false;
}

// Returns whether a file must not become so long (RLIMIT_FSIZE). A write beyond the limit would
// raise SIGXFSZ, and space reserved with FALLOC_FL_KEEP_SIZE is not compared with it.
bool IsAboveLimit(std::uint64_t size) {
  struct rlimit limit;
  return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
         size > limit.rlim_cur;
}

class PosixFile final : public File {
 public:
  PosixFile(OpenedRegularFile opened, bool direct)
      : fd_(std::move(opened.fd)),
        direct_(direct),
        counts_links_(opened.counts_links),
        id_(opened.id) {}

  Transfer ReadAt(std::uint64_t offset, std::byte* bytes, std::size_t count) override {
    const ssize_t moved = ::pread(fd_.get(), bytes, count, static_cast<off_t>(offset));
    return moved < 0 ? Transfer{0, errno} : Transfer{static_cast<std::size_t>(moved), 0};
  }
  Transfer WriteAt(std::uint64_t offset, const std::byte* bytes, std::size_t count) override {
    if (IsAboveLimit(offset + count)) return {0, EFBIG};
    const ssize_t moved = ::pwrite(fd_.get(), bytes, count, static_cast<off_t>(offset));
    return moved < 0 ? Transfer{0, errno} : Transfer{static_cast<std::size_t>(moved), 0};
  }
  int Sync() override { return ErrorOf(::fdatasync(fd_.get())); }
  int Truncate(std::uint64_t size) override {
    return ErrorOf(::ftruncate(fd_.get(), static_cast<off_t>(size)));
  }
  int Reserve([[maybe_unused]] std::uint64_t offset,
              [[maybe_unused]] std::uint64_t bytes) override {
    if (IsAboveLimit(offset + bytes)) return EFBIG;
#if defined(FALLOC_FL_KEEP_SIZE)
    return ErrorOf(::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                               static_cast<off_t>(bytes)));
#else
    return EOPNOTSUPP;
#endif
  }
  int PunchHole([[maybe_unused]] std::uint64_t offset,
                [[maybe_unused]] std::uint64_t bytes) override {
#if defined(FALLOC_FL_PUNCH_HOLE)
    return ErrorOf(::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(offset), static_cast<off_t>(bytes)));
#else
    return EOPNOTSUPP;
#endif
  }
  int Size(std::uint64_t& size) override {
    struct stat status;
    if (::fstat(fd_.get(), &status) != 0) return errno;
    size = static_cast<std::uint64_t>(status.st_size);
    return 0;
  }
  bool IsRemoved() const override { return counts_links_ && HasLostItsName(fd_.get()); }
  FileId id() const override { return id_; }
  int Close() override { return fd_.Close(); }
  bool direct() const override { return direct_; }
  int descriptor() const override { return fd_.get(); }

 private:
  Descriptor fd_;
  const bool direct_;
  const bool counts_links_;
  const FileId id_;
};

class PosixDirectory final : public Directory {
 public:
  explicit PosixDirectory(Descriptor fd) : fd_(std::move(fd)) {}
  ~PosixDirectory() override { Unlock(); }

  OpenedFile Open(const std::string& name, OpenFlags flags) override {
    OpenedRegularFile opened = OpenRegularFile(fd_.get(), name, flags);
    if (opened.error != 0) return {nullptr, opened.error};
    const bool direct = SetTransferMode(opened.fd.get(), flags.direct);
    return {std::make_unique<PosixFile>(std::move(opened), direct), 0};
  }

  int List(std::vector<std::string>& names) override;

  int Rename(const std::string& from, const std::string& to) override {
    if (!IsPlainName(from) || !IsPlainName(to)) return EINVAL;
    return ErrorOf(::renameat(fd_.get(), from.c_str(), fd_.get(), to.c_str()));
  }

  int Unlink(const std::string& name) override {
    if (!IsPlainName(name)) return EINVAL;
    return ErrorOf(::unlinkat(fd_.get(), name.c_str(), 0));
  }

  int Sync() override { return ErrorOf(::fsync(fd_.get())); }
#if defined(__linux__)
  // Syncs the whole file system. Since Linux 5.8 the call reports writes that failed.
  int SyncFiles() override { return ErrorOf(::syncfs(fd_.get())); }
#endif

  int Lock(const std::string& name, LockKind kind) override;
  void Unlock() override;
  bool LockIsRemoved() const override {
    return lock_.open() && lock_counts_links_ && HasLostItsName(lock_.get());
  }
  void CloseLocks() {
    static_cast<void>(lock_.Close());
    static_cast<void>(directory_lock_.Close());
  }

 private:
  int LockSelf(LockKind kind);
  int LockFile(const std::string& name, LockKind kind);
  bool IsStillNamed(const Descriptor& file, const std::string& name) const;

  Descriptor fd_;
  Descriptor directory_lock_;  // a second descriptor of the directory
  Descriptor lock_;            // of the lock file
  bool lock_counts_links_ = false;
  pid_t lock_owner_ = 0;
};

// Mutex and list; see above.
struct LockedDirectories {
  Mutex mu;
  std::vector<PosixDirectory*> list;
};

LockedDirectories& Locked() {
  static LockedDirectories* const locked = [] {
    auto* made = new LockedDirectories;  // never destroyed: stores may outlive statics
    pthread_atfork([]() ABSL_NO_THREAD_SAFETY_ANALYSIS { Locked().mu.Lock(); },
                   []() ABSL_NO_THREAD_SAFETY_ANALYSIS { Locked().mu.Unlock(); },
                   []() ABSL_NO_THREAD_SAFETY_ANALYSIS {
                     for (PosixDirectory* directory : Locked().list) directory->CloseLocks();
                     Locked().list.clear();
                     Locked().mu.Unlock();
                   });
    return made;
  }();
  return *locked;
}
// Created while the program starts, when no thread forks. A child that found it incompletely
// created would wait forever.
[[maybe_unused]] const LockedDirectories& g_locked_made_early = Locked();

int PosixDirectory::List(std::vector<std::string>& names) {
  names.clear();
  // A second descriptor, because a copy of the first would share its reading position.
  OpenedDescriptor opened = OpenRetrying(fd_.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (opened.error != 0) return opened.error;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(opened.fd.get()), ::closedir);
  if (stream == nullptr) return errno;
  opened.fd.Release();  // the stream closes it
  errno = 0;
  while (const dirent* const entry = ::readdir(stream.get())) {
    std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
    errno = 0;  // the end and an error both return null; only an error sets it
  }
  return errno;
}

bool PosixDirectory::IsStillNamed(const Descriptor& file, const std::string& name) const {
  struct stat locked;
  struct stat named;
  return ::fstat(file.get(), &locked) == 0 &&
         ::fstatat(fd_.get(), name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

int PosixDirectory::Lock(const std::string& name, LockKind kind) {
  const MutexLock guard(Locked().mu);
  std::vector<PosixDirectory*>& list = Locked().list;
  if (std::find(list.begin(), list.end(), this) != list.end()) return EWOULDBLOCK;
  list.push_back(this);  // may throw, so before anything is locked
  int error = kind == LockKind::kNameOnly ? 0 : LockSelf(kind);
  if (error == 0) error = LockFile(name, kind);
  lock_owner_ = ::getpid();
  if (error != 0) {
    CloseLocks();
    list.pop_back();
  }
  return error;
}

int PosixDirectory::LockSelf(LockKind kind) {
  OpenedDescriptor opened = OpenRetrying(fd_.get(), ".", O_RDONLY | O_DIRECTORY, 0);
  if (opened.error != 0) return opened.error;
  const int error = TryFlock(opened.fd, kind);
  if (error == 0) directory_lock_ = std::move(opened.fd);
  return error == EWOULDBLOCK ? error : 0;  // any other: directories cannot be locked here
}

// A lock file that was unlinked between our open and our lock excludes no opener, so the name is
// compared afterwards.
int PosixDirectory::LockFile(const std::string& name, LockKind kind) {
  constexpr int kAttemptLimit = 100;
  for (int attempt = 0; attempt < kAttemptLimit; ++attempt) {
    const bool writes = kind != LockKind::kReader;
    OpenedRegularFile opened =
        OpenRegularFile(fd_.get(), name, {.write = writes, .create = writes});
    if (opened.error == ENOENT && !writes) return 0;
    if (opened.error != 0) return opened.error;
    if (const int error = TryFlock(opened.fd, kind); error != 0) return error;
    if (IsStillNamed(opened.fd, name)) {
      lock_ = std::move(opened.fd);
      lock_counts_links_ = opened.counts_links;
      return 0;
    }
  }
  return EWOULDBLOCK;  // another process creates and removes the file all the time
}

// Closing alone would not release the locks while a child created by clone lives. And such a child
// must not release its parent's locks when it destroys its copy.
void PosixDirectory::Unlock() {
  const MutexLock guard(Locked().mu);
  if (std::erase(Locked().list, this) == 0) return;
  for (const Descriptor* held : {&lock_, &directory_lock_}) {
    if (held->open() && lock_owner_ == ::getpid()) static_cast<void>(::flock(held->get(), LOCK_UN));
  }
  CloseLocks();
}

// "a/b/" -> "a", "b" -> ".", "/b" -> "/"
std::string ParentOf(const std::string& path) {
  const std::size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return path.empty() ? "." : "/";
  const std::size_t slash = path.find_last_of('/', last);
  if (slash == std::string::npos) return ".";
  const std::size_t parent_last = path.find_last_not_of('/', slash);
  return parent_last == std::string::npos ? "/" : path.substr(0, parent_last + 1);
}

int SyncDirectory(const std::string& path) {
  OpenedDescriptor opened = OpenRetrying(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0);
  if (opened.error != 0) return opened.error;
  return ErrorOf(::fsync(opened.fd.get()));
}

// A parent that we may not open, or that lies on another kind of file system, need not be synced
// for a directory that existed before.
bool MayBeIgnored(int error) {
  return error == EACCES || error == EPERM || error == EINVAL || error == EROFS;
}

class PosixFiles final : public FileSystem {
 public:
  OpenedDirectory OpenDirectory(const std::string& path, bool create) override {
    bool created = false;
    OpenedDescriptor opened = OpenRetrying(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0);
    if (opened.error == ENOENT && create) {
      if (::mkdir(path.c_str(), kDirectoryMode) == 0) {
        created = true;
      } else if (errno != EEXIST) {
        return {nullptr, errno};
      }
      opened = OpenRetrying(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, 0);
    }
    if (opened.error != 0) return {nullptr, opened.error};
    if (create) {
      // Also if the directory existed: its creator may have been killed before this sync.
      const int error = SyncDirectory(ParentOf(path));
      if (created && error != 0) static_cast<void>(::rmdir(path.c_str()));  // as it was before
      if (error != 0 && (created || !MayBeIgnored(error))) return {nullptr, error};
    }
    return {std::make_unique<PosixDirectory>(std::move(opened.fd)), 0};
  }
  std::unique_ptr<ReadRing> OpenReadRing(unsigned depth) override { return OpenUring(depth); }
};

}  // namespace

int AboveStandard(int fd) {
  if (fd < 0 || fd > STDERR_FILENO) return fd;
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  const int error = errno;
  static_cast<void>(::close(fd));
  errno = error;
  return moved;
}

FileSystem& PosixFileSystem() {
  static PosixFiles* const files = new PosixFiles;  // never destroyed: stores may outlive statics
  return *files;
}

}  // namespace ebb::internal
