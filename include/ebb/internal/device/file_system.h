// FileSystem: the only interface through which the store accesses files.
//
// Three small interfaces: a file system opens a directory, a directory opens files, a file moves
// bytes. Results are those of the system calls: a count or an error number. Short transfers and
// EINTR are passed through, so that a simulation below this interface can produce every one of
// them. The loops that continue a transfer are above it, in file_io.cc.
//
// Where the kernel has one, there is also a ring of reads that overlap. It may reject any read.
//
// Thread safety: ReadAt and WriteAt of one File may run in several threads at once; everything
// else is called by one thread at a time. Progress: every call may block in the kernel.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace ebb::internal {

// The result of a transfer: `count` bytes moved if `error` is 0, otherwise an errno value.
struct Transfer {
  std::size_t count = 0;
  int error = 0;
};

// The identity of a descriptor's file. The birth time distinguishes a file from a later one with
// the same inode number.
struct FileId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;  // 0 if the file system does not know it
  bool operator==(const FileId&) const = default;
};

class File {
 public:
  virtual ~File() = default;  // closes without reporting; Close() reports
  virtual Transfer ReadAt(std::uint64_t offset, std::byte* bytes, std::size_t count) = 0;
  virtual Transfer WriteAt(std::uint64_t offset, const std::byte* bytes, std::size_t count) = 0;
  [[nodiscard]] virtual int Sync() = 0;                        // fdatasync
  [[nodiscard]] virtual int Truncate(std::uint64_t size) = 0;  // cuts or extends with zeros
  // Reserves space on the disk for the range, so that writes to it do not fail for lack of space.
  // Does not change the size. EOPNOTSUPP if the file cannot do that.
  [[nodiscard]] virtual int Reserve(std::uint64_t offset, std::uint64_t bytes) = 0;
  // Frees the space of a range, which then reads as zeros. Does not change the size. EOPNOTSUPP if
  // the file cannot do that.
  [[nodiscard]] virtual int PunchHole(std::uint64_t offset, std::uint64_t bytes) = 0;
  [[nodiscard]] virtual int Size(std::uint64_t& size) = 0;
  // Returns whether the file has lost its last name since it was opened, so that its bytes cannot
  // be found again. False if that is unknown.
  virtual bool IsRemoved() const { return false; }
  virtual FileId id() const { return {}; }
  [[nodiscard]] virtual int Close() = 0;  // at most once; no other call afterwards
  virtual bool direct() const = 0;        // transfers bypass the page cache and must be aligned
  virtual int descriptor() const { return -1; }  // of an open file of the system, or -1
};

// Reads that are in flight at the same time: a queue of the kernel, for one user at a time.
class ReadRing {
 public:
  struct Ended {
    void* tag = nullptr;
    Transfer transfer;
  };
  virtual ~ReadRing() = default;  // when no read is in flight
  // Accepts a read, which begins at the latest at the next Submit or Take. The ring uses the file
  // and the memory until the read has ended. Returns false, and accepts nothing, if there is no
  // room or the ring cannot read the file.
  virtual bool Start(File& file, std::uint64_t offset, std::byte* bytes, std::size_t count,
                     void* tag) = 0;
  virtual void Submit() = 0;
  // Returns a read that has ended, in any order; with `wait`, waits for one if any is in flight. A
  // read that the kernel does not begin has ended too, with its error.
  virtual std::optional<Ended> Take(bool wait) = 0;
};

struct OpenFlags {
  bool write = false;   // for reading and writing; otherwise only for reading
  bool create = false;  // create when absent, mode 0600; never truncates; implies `write`
  bool direct = false;  // try to bypass the page cache; falls back to buffered
};

// The kind of a lock on a directory: its holder, and the object that is locked.
enum class LockKind : std::uint8_t {
  kWriter,    // excludes all others: the directory itself, and a file, which is created when absent
  kReader,    // shared with other readers: the same two, but no byte is written
  kNameOnly,  // excludes all others that lock the same name: the file alone, created when absent
};

struct OpenedFile {
  std::unique_ptr<File> file;
  int error = 0;  // errno when `file` is null; ENOENT when absent and not created
};

class Directory {
 public:
  virtual ~Directory() = default;
  // Opens regular files only, no symbolic links.
  virtual OpenedFile Open(const std::string& name, OpenFlags flags) = 0;
  [[nodiscard]] virtual int List(std::vector<std::string>& names) = 0;
  [[nodiscard]] virtual int Rename(const std::string& from, const std::string& to) = 0;
  [[nodiscard]] virtual int Unlink(const std::string& name) = 0;
  [[nodiscard]] virtual int Sync() = 0;  // makes creations, renames and unlinks durable
  // Syncs all files, including those that are not open. ENOSYS if they must be synced one by one.
  [[nodiscard]] virtual int SyncFiles() { return ENOSYS; }
  // Locks the directory, by the lock file `name`, for the life of this object or until Unlock. One
  // lock at a time. EWOULDBLOCK if it conflicts with a lock that this process or another holds. A
  // forked child never holds the lock. A reader that finds no lock file creates none. Then, on a
  // file system that cannot lock directories, nothing excludes a later writer.
  [[nodiscard]] virtual int Lock(const std::string& name, LockKind kind = LockKind::kWriter) = 0;
  virtual void Unlock() = 0;
  // Returns whether the locked file has lost its name since, so that it may no longer exclude
  // others. A directory can be removed only after all its files, so this also detects that the
  // directory is gone.
  virtual bool LockIsRemoved() const { return false; }
};

struct OpenedDirectory {
  std::unique_ptr<Directory> directory;
  int error = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // With `create`, creates the last component (mode 0700) if it is absent, and then syncs its
  // parent.
  virtual OpenedDirectory OpenDirectory(const std::string& path, bool create) = 0;
  // Opens a ring with room for `depth` reads; null if there is none.
  virtual std::unique_ptr<ReadRing> OpenReadRing(unsigned /*depth*/) { return nullptr; }
};

// Moves a descriptor that was just created to a number above 2, so that it does not take the place
// of a closed standard input, output or error. Returns the new number (`fd` itself when it is above
// 2 already), or -1 with errno set, and then `fd` is closed. -1 stays -1, so calls can be nested:
// AboveStandard(open(...)).
int AboveStandard(int fd);

// Returns the system's file system; it lives for the whole process.
FileSystem& PosixFileSystem();

}  // namespace ebb::internal
