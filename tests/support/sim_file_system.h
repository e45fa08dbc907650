// SimFileSystem: files in memory that can lose power.
//
// Every call that changes something is recorded. From the recording, the state after any number of
// calls can be built, and from that a crash: a state that a power loss at that moment may leave
// behind.
//
//   - A file's sectors of 512 bytes survive one by one. Each unsynced one comes back as it was at
//     the last sync or after any of the writes since. A sector never tears.
//   - A file's size comes back as any of the sizes it had since the last sync; so a file may have
//     grown without its data (zeros), or have its data cut off.
//   - Each name comes back as it was at the last sync of the directory or after any change since,
//     independently of all other names: a rename may leave both names, or neither.
//   - A file's sync does not make its name durable, nor the directory's sync its bytes.
//   - A sync that was set to fail keeps an arbitrary subset and forgets that the rest was dirty:
//     later syncs succeed without it, while reads still show it. Linux behaves in this way.
//
// This is harsher than real file systems in one point: bytes that a truncation cut off may come
// back inside a file that has grown again.
//
// Everything is chosen by a seed: 0 lets nothing unsynced survive, 1 everything, and any other seed
// a random part of random size. The same recording and seed give the same state. Or one by one:
// UnsyncedChanges returns the choices, and picks decide each.
//
// A crash is a new SimFileSystem, so that the old one and a store that still uses it continue
// undisturbed. Locks belong to the file system object; a new one has none.
//
// Thread safety: all methods, any thread. Progress: one lock around everything.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::test {

inline constexpr std::uint64_t kNothingSurvives = 0;
inline constexpr std::uint64_t kEverythingSurvives = 1;
inline constexpr std::size_t kSectorBytes = 512;

using SimBytes = std::vector<std::byte>;

// One recorded call. Only the fields that the kind needs are set.
struct SimCall {
  enum class Kind {
    kMakeDirectory,  // directory
    kCreate,         // directory, name, file
    kWrite,          // file, offset, bytes
    kTruncate,       // file, offset: the new size
    kSync,           // file
    kFailedSync,     // file, offset: the seed of the choice
    kRename,         // directory, name, new_name
    kUnlink,         // directory, name
    kSyncDirectory,  // directory
  };
  Kind kind = Kind::kWrite;
  std::string directory = {};
  std::string name = {};
  std::string new_name = {};
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  SimBytes bytes = {};
};

// A name, size or sector that has changed since its last sync.
struct SimChange {
  enum class Kind { kName, kSize, kSector };
  Kind kind = Kind::kSector;
  std::size_t count = 0;   // the number of its changes
  std::uint64_t file = 0;  // not of a name
  std::uint64_t sector = 0;
};

// The state of a disk and of the cache above it. Plain data; changed by calls only.
class SimDisk {
 public:
  void Apply(const SimCall& call);
  SimDisk Crash(std::uint64_t seed) const;

  // Returns the choices of a crash, always in the same order.
  std::vector<SimChange> UnsyncedChanges() const;
  // Returns the crash after which change i is in the state after `picks[i]` of its changes; 0: at
  // its last sync. There are as many picks as changes.
  SimDisk Crash(std::span<const std::size_t> picks) const;
  // Hashes all names and the bytes that reads show of their files.
  std::uint64_t Hash() const;

  bool HasDirectory(const std::string& directory) const;
  std::optional<std::uint64_t> Find(const std::string& directory, const std::string& name) const;
  std::vector<std::string> List(const std::string& directory) const;
  const SimBytes& Contents(std::uint64_t file) const;
  std::uint64_t next_file() const { return next_file_; }
  std::uint64_t UsedBytes() const;
  // The space of a file on the disk: its size, or more that was reserved for it. Not recorded, and
  // forgotten by a crash.
  std::uint64_t SpaceOf(std::uint64_t file) const;
  // The end of its space.
  std::uint64_t EndOf(std::uint64_t file) const;
  void Reserve(std::uint64_t file, std::uint64_t end);
  void NotePunched(std::uint64_t file, std::uint64_t begin, std::uint64_t end);

 private:
  using Sector = std::vector<std::byte>;  // of 512 bytes
  struct File {
    SimBytes cached;   // the bytes that reads show
    SimBytes durable;  // the bytes at the last sync
    std::uint64_t reserved_end = 0;
    std::set<std::uint64_t> punched_sectors;  // that use no space
    // Since the last sync: the bytes of each changed sector after each change, and each size.
    std::map<std::uint64_t, std::vector<Sector>> changed_sectors;
    std::vector<std::uint64_t> changed_sizes;
  };
  using Entry = std::optional<std::uint64_t>;  // the file of a name, or none
  struct Folder {
    std::map<std::string, std::uint64_t> cached;
    std::map<std::string, std::uint64_t> durable;
    std::map<std::string, std::vector<Entry>> changed_names;  // since the last sync
  };
  class Chooser;

  void Resize(File& file, std::uint64_t size);
  void Write(File& file, std::uint64_t offset, const SimBytes& bytes);
  void NoteSectors(File& file, std::uint64_t begin, std::uint64_t end);
  static Sector SectorOf(const SimBytes& bytes, std::uint64_t sector);
  static void PutSector(SimBytes& bytes, std::uint64_t sector, const Sector& content);
  static void MarkClean(File& file);
  static void SetName(Folder& folder, const std::string& name, Entry entry);
  static SimBytes Survivor(const File& file, Chooser& choose);
  SimDisk CrashBy(Chooser& choose) const;
  // Files of which a crash can leave a name.
  std::set<std::uint64_t> NamedFiles() const;

  std::map<std::uint64_t, File> files_;  // also unlinked ones, which handles may still use
  std::map<std::string, Folder> folders_;
  std::uint64_t next_file_ = 1;
};

class SimFileSystem final : public internal::FileSystem {
 public:
  // `direct`: files that are opened for direct transfers are direct, and reject unaligned ones.
  explicit SimFileSystem(bool direct = true);
  // Begins with a disk as it is, including unsynced changes.
  explicit SimFileSystem(SimDisk disk, bool direct = true);
  ~SimFileSystem() override;

  // Directories are durable as soon as they exist, as the interface demands.
  internal::OpenedDirectory OpenDirectory(const std::string& path, bool create) override;

  // The number of changing calls since this object was created.
  std::size_t CallCount() const;
  SimCall Call(std::size_t index) const;

  // The disk right after the first `call_count` calls.
  SimDisk DiskAt(std::size_t call_count) const;
  // A power loss now, or right after the first `call_count` calls.
  std::unique_ptr<SimFileSystem> Crash(std::uint64_t seed) const;
  std::unique_ptr<SimFileSystem> CrashAt(std::size_t call_count, std::uint64_t seed) const;
  // Returns the state after the end of the process alone: caches stay, locks are released.
  std::unique_ptr<SimFileSystem> Kill() const;

  // The next sync of a file, or the one after `skip` others, fails with `error`; `seed` chooses the
  // part of it that survives.
  void FailNextSync(int error, std::uint64_t seed, std::uint64_t skip = 0);
  // Writes beyond this sum of file sizes are cut short after a whole block, then fail with ENOSPC.
  static constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};
  void SetCapacityBytes(std::uint64_t bytes);
  // Other ways to run out of space.
  struct SpaceRules {
    int error = ENOSPC;  // of a disk that is full, or for example EDQUOT
    // Longer files are EFBIG, as with RLIMIT_FSIZE.
    std::uint64_t max_file_bytes = ~std::uint64_t{0};
    bool can_reserve = true;  // otherwise EOPNOTSUPP
    bool can_punch = true;    // likewise
    // Another program takes every block as soon as it is free.
    bool is_raced = false;
  };
  void SetSpaceRules(const SpaceRules& rules);
  std::uint64_t UsedBytes() const;

  bool Exists(const std::string& directory, const std::string& name) const;
  // Returns the bytes that reads show; empty if there is no such file.
  SimBytes Contents(const std::string& directory, const std::string& name) const;

 private:
  class SimDirectory;
  class SimFile;

  void Record(SimCall call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeFreeSpace() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  internal::Transfer Write(std::uint64_t file, std::uint64_t offset, const std::byte* bytes,
                           std::size_t count);
  int Sync(std::uint64_t file);
  int Reserve(std::uint64_t file, std::uint64_t end);

  const bool direct_;
  mutable internal::Mutex mu_;
  SimDisk first_ ABSL_GUARDED_BY(mu_);  // before the first recorded call
  SimDisk now_ ABSL_GUARDED_BY(mu_);
  std::vector<SimCall> calls_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> locks_ ABSL_GUARDED_BY(mu_);  // "directory/name": the holder
  int next_sync_error_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t next_sync_seed_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t next_sync_skip_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t capacity_bytes_ ABSL_GUARDED_BY(mu_) = kNoLimit;
  SpaceRules space_rules_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::test
