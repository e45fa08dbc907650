// SimFileSystem: files in memory that can lose power.
//
// Every call that changes something is recorded. From the recording the state after any number of
// calls can be built, and from that a crash: what a power loss at that moment may leave behind.
//
//   - A file's sectors of 512 bytes survive one by one. Each unsynced one comes back as it was at
//     the last sync or after any of the writes since. A sector never tears.
//   - A file's size comes back as any of the sizes it had since the last sync; so a file may have
//     grown without its data (zeros), or have its data cut off.
//   - Each name comes back as it was at the last sync of the directory or after any change since,
//     independently of all other names: a rename may leave both names, or neither.
//   - A file's sync does not make its name durable, nor the directory's sync its bytes.
//   - A sync that is told to fail keeps an arbitrary subset and forgets that the rest was dirty:
//     later syncs succeed without it, while reads still show it. That is what Linux does.
//
// This is harsher than real file systems in one point: what a truncation cut off may come back
// inside a file that has grown again.
//
// Everything is chosen by a seed: 0 lets nothing unsynced survive, 1 everything, any other a
// random part, of a size that is random too. The same recording and seed give the same state. Or
// one by one: UnsyncedChanges says what there is to choose, and picks decide each.
//
// A crash is a new SimFileSystem, so that the old one and a store that still uses it go on
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

// One recorded call. Only what the kind needs is set.
struct SimCall {
  enum class Kind {
    kMakeDirectory,  // directory
    kCreate,         // directory, name, file
    kWrite,          // file, offset, bytes
    kTruncate,       // file, offset: the new size
    kSync,           // file
    kFailedSync,     // file, offset: the seed of what survives
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
  std::size_t count = 0;  // so often
};

// The state of a disk and of the cache above it. Plain data; changed by calls only.
class SimDisk {
 public:
  void Apply(const SimCall& call);
  SimDisk Crash(std::uint64_t seed) const;

  // What a crash has to choose about, always in the same order.
  std::vector<SimChange> UnsyncedChanges() const;
  // The crash after which change i is as it was after `picks[i]` of its changes; 0: at its last
  // sync. As many picks as there are changes.
  SimDisk Crash(std::span<const std::size_t> picks) const;
  // Of all names and of what reads show of their files.
  std::uint64_t Hash() const;

  bool HasDirectory(const std::string& directory) const;
  std::optional<std::uint64_t> Find(const std::string& directory, const std::string& name) const;
  std::vector<std::string> List(const std::string& directory) const;
  const SimBytes& Contents(std::uint64_t file) const;
  std::uint64_t next_file() const { return next_file_; }
  std::uint64_t UsedBytes() const;
  // What a file takes of the disk: its size, or more that was reserved for it. Not recorded, and
  // forgotten by a crash.
  std::uint64_t SpaceOf(std::uint64_t file) const;
  // Behind which it has no space.
  std::uint64_t EndOf(std::uint64_t file) const;
  void Reserve(std::uint64_t file, std::uint64_t end);
  void NotePunched(std::uint64_t file, std::uint64_t begin, std::uint64_t end);

 private:
  using Sector = std::vector<std::byte>;  // of 512 bytes
  struct File {
    SimBytes cached;   // what reads show
    SimBytes durable;  // what the last sync left
    std::uint64_t reserved_end = 0;
    std::set<std::uint64_t> punched_sectors;  // that take no space
    // Since the last sync: what each changed sector was after each change, and each size.
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
  // Files that a crash can leave a name of.
  std::set<std::uint64_t> NamedFiles() const;

  std::map<std::uint64_t, File> files_;  // also unlinked ones, which handles may still use
  std::map<std::string, Folder> folders_;
  std::uint64_t next_file_ = 1;
};

class SimFileSystem final : public internal::FileSystem {
 public:
  // `direct`: files that are opened for direct transfers are, and refuse unaligned ones.
  explicit SimFileSystem(bool direct = true);
  // Of a disk as it is, what is unsynced included.
  explicit SimFileSystem(SimDisk disk, bool direct = true);
  ~SimFileSystem() override;

  // Directories are durable as soon as they exist, as the interface demands.
  internal::OpenedDirectory OpenDirectory(const std::string& path, bool create) override;

  // Changing calls since this object was made.
  std::size_t CallCount() const;
  SimCall Call(std::size_t index) const;

  // The disk right after the first `call_count` calls.
  SimDisk DiskAt(std::size_t call_count) const;
  // A power loss now, or right after the first `call_count` calls.
  std::unique_ptr<SimFileSystem> Crash(std::uint64_t seed) const;
  std::unique_ptr<SimFileSystem> CrashAt(std::size_t call_count, std::uint64_t seed) const;
  // The end of the process alone: caches stay, locks go.
  std::unique_ptr<SimFileSystem> Kill() const;

  // The next sync of a file fails with `error`, or the one after `skip` others; `seed` chooses what
  // of it survives.
  void FailNextSync(int error, std::uint64_t seed, std::uint64_t skip = 0);
  // Writes beyond this sum of file sizes are cut short after a whole block, then fail with ENOSPC.
  void SetCapacityBytes(std::uint64_t bytes);
  // Other ways to run out of space.
  struct SpaceRules {
    int error = ENOSPC;  // of a disk that is full, or for example EDQUOT
    // Longer files are EFBIG, as with RLIMIT_FSIZE.
    std::uint64_t max_file_bytes = ~std::uint64_t{0};
    bool can_reserve = true;  // otherwise EOPNOTSUPP
    bool can_punch = true;    // likewise
  };
  void SetSpaceRules(const SpaceRules& rules);
  std::uint64_t UsedBytes() const;

  bool Exists(const std::string& directory, const std::string& name) const;
  // What reads show; empty when there is no such file.
  SimBytes Contents(const std::string& directory, const std::string& name) const;

 private:
  class SimDirectory;
  class SimFile;

  void Record(SimCall call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  internal::Transfer Write(std::uint64_t file, std::uint64_t offset, const std::byte* bytes,
                           std::size_t count);
  int Sync(std::uint64_t file);
  int Reserve(std::uint64_t file, std::uint64_t end);

  const bool direct_;
  mutable internal::Mutex mu_;
  SimDisk first_ ABSL_GUARDED_BY(mu_);  // before the first recorded call
  SimDisk now_ ABSL_GUARDED_BY(mu_);
  std::vector<SimCall> calls_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int> locks_ ABSL_GUARDED_BY(mu_);  // "directory/name": who holds it
  int next_sync_error_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t next_sync_seed_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t next_sync_skip_ ABSL_GUARDED_BY(mu_) = 0;
  std::uint64_t capacity_bytes_ ABSL_GUARDED_BY(mu_) = ~std::uint64_t{0};
  SpaceRules space_rules_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::test
