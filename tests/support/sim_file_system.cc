#include "tests/support/sim_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ebb/internal/base/hash.h"
#include "ebb/internal/values/check.h"
#include "tests/support/allocation_scope.h"

namespace ebb::test {

using internal::MutexLock;
using internal::Transfer;

namespace {
constexpr std::uint64_t kDiskBlockBytes = 4096;  // of the simulated file system, and for alignment
}  // namespace

// Picks among the changes that may survive. Seeds 0 and 1 are the two extremes; every other seed
// first draws how likely an unsynced change is to survive, then draws for each. Given picks are
// used up in turn.
class SimDisk::Chooser {
 public:
  explicit Chooser(std::uint64_t seed) : seed_(seed), state_(seed) {
    survival_percent_ = Next() % 101;
  }
  explicit Chooser(std::span<const std::size_t> picks) : picks_(picks), has_picks_(true) {}

  // 0: the state of the last sync; i: the state after the i-th change since.
  std::size_t Pick(std::size_t change_count) {
    if (change_count == 0) return 0;
    if (has_picks_) {
      EBB_CHECK(next_pick_ < picks_.size() && picks_[next_pick_] <= change_count);
      return picks_[next_pick_++];
    }
    if (seed_ == kNothingSurvives) return 0;
    if (seed_ == kEverythingSurvives) return change_count;
    if (Next() % 100 >= survival_percent_) return 0;
    return 1 + Next() % change_count;
  }

 private:
  std::uint64_t Next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  const std::span<const std::size_t> picks_;
  const bool has_picks_ = false;
  std::size_t next_pick_ = 0;
  const std::uint64_t seed_ = 0;
  std::uint64_t state_ = 0;
  std::uint64_t survival_percent_ = 0;
};

// ---- SimDisk: changes ----

SimDisk::Sector SimDisk::SectorOf(const SimBytes& bytes, std::uint64_t sector) {
  Sector content(kSectorBytes, std::byte{0});
  const std::uint64_t begin = sector * kSectorBytes;
  if (begin < bytes.size()) {
    std::memcpy(content.data(), bytes.data() + begin,
                std::min<std::uint64_t>(kSectorBytes, bytes.size() - begin));
  }
  return content;
}

void SimDisk::PutSector(SimBytes& bytes, std::uint64_t sector, const Sector& content) {
  const std::uint64_t begin = sector * kSectorBytes;
  if (begin >= bytes.size()) return;
  std::memcpy(bytes.data() + begin, content.data(),
              std::min<std::uint64_t>(kSectorBytes, bytes.size() - begin));
}

void SimDisk::NoteSectors(File& file, std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t sector = begin / kSectorBytes; sector * kSectorBytes < end; ++sector) {
    file.changed_sectors[sector].push_back(SectorOf(file.cached, sector));
  }
}

void SimDisk::Resize(File& file, std::uint64_t size) {
  const std::uint64_t old_size = file.cached.size();
  if (size == old_size) return;
  file.cached.resize(size, std::byte{0});
  file.changed_sizes.push_back(size);
  file.punched_sectors.erase(file.punched_sectors.lower_bound(size / kSectorBytes),
                             file.punched_sectors.end());
  // The part that was cut off is zeros from now on, if the file grows again.
  if (size < old_size) NoteSectors(file, size, old_size);
}

void SimDisk::Write(File& file, std::uint64_t offset, const SimBytes& bytes) {
  if (bytes.empty()) return;
  const std::uint64_t size = file.cached.size();
  if (offset + bytes.size() > size) {
    Resize(file, offset + bytes.size());
  } else if (offset + bytes.size() > file.durable.size() && file.changed_sizes.empty()) {
    // A failed sync has lost the size too; data behind the durable one makes it dirty again.
    file.changed_sizes.push_back(size);
  }
  std::memcpy(file.cached.data() + offset, bytes.data(), bytes.size());
  NoteSectors(file, offset, offset + bytes.size());
  if (file.punched_sectors.empty()) return;
  file.punched_sectors.erase(
      file.punched_sectors.lower_bound(offset / kSectorBytes),
      file.punched_sectors.lower_bound((offset + bytes.size() - 1) / kSectorBytes + 1));
}

void SimDisk::MarkClean(File& file) {
  file.changed_sectors.clear();
  file.changed_sizes.clear();
}

void SimDisk::SetName(Folder& folder, const std::string& name, Entry entry) {
  if (entry.has_value()) {
    folder.cached[name] = *entry;
  } else {
    folder.cached.erase(name);
  }
  folder.changed_names[name].push_back(entry);
}

void SimDisk::Apply(const SimCall& call) {
  switch (call.kind) {
    case SimCall::Kind::kMakeDirectory:
      folders_[call.directory];
      return;
    case SimCall::Kind::kCreate:
      files_[call.file];
      next_file_ = std::max(next_file_, call.file + 1);
      SetName(folders_.at(call.directory), call.name, call.file);
      return;
    case SimCall::Kind::kWrite:
      Write(files_.at(call.file), call.offset, call.bytes);
      return;
    case SimCall::Kind::kTruncate:
      files_.at(call.file).reserved_end = 0;
      Resize(files_.at(call.file), call.offset);
      return;
    case SimCall::Kind::kSync: {
      // Only dirty data is written: data that a failed sync has dropped stays lost.
      File& file = files_.at(call.file);
      Chooser choose(kEverythingSurvives);
      file.durable = Survivor(file, choose);
      MarkClean(file);
      return;
    }
    case SimCall::Kind::kFailedSync: {
      File& file = files_.at(call.file);
      Chooser choose(call.offset);
      file.durable = Survivor(file, choose);
      MarkClean(file);
      return;
    }
    case SimCall::Kind::kRename: {
      Folder& folder = folders_.at(call.directory);
      const std::uint64_t file = folder.cached.at(call.name);
      SetName(folder, call.name, std::nullopt);
      SetName(folder, call.new_name, file);
      return;
    }
    case SimCall::Kind::kUnlink:
      SetName(folders_.at(call.directory), call.name, std::nullopt);
      return;
    case SimCall::Kind::kSyncDirectory: {
      Folder& folder = folders_.at(call.directory);
      folder.durable = folder.cached;
      folder.changed_names.clear();
      return;
    }
  }
}

// ---- SimDisk: crashes ----

SimBytes SimDisk::Survivor(const File& file, Chooser& choose) {
  SimBytes bytes = file.durable;
  const std::size_t size_choice = choose.Pick(file.changed_sizes.size());
  if (size_choice > 0) bytes.resize(file.changed_sizes[size_choice - 1], std::byte{0});
  for (const auto& [sector, contents] : file.changed_sectors) {
    const std::size_t choice = choose.Pick(contents.size());
    if (choice > 0) PutSector(bytes, sector, contents[choice - 1]);
  }
  return bytes;
}

std::set<std::uint64_t> SimDisk::NamedFiles() const {
  std::set<std::uint64_t> named;
  for (const auto& [path, folder] : folders_) {
    for (const auto& [name, file] : folder.durable) named.insert(file);
    for (const auto& [name, entries] : folder.changed_names) {
      for (const Entry& entry : entries) {
        if (entry.has_value()) named.insert(*entry);
      }
    }
  }
  return named;
}

SimDisk SimDisk::CrashBy(Chooser& choose) const {
  SimDisk after;
  after.next_file_ = next_file_;
  for (const auto& [path, folder] : folders_) {
    Folder& survivor = after.folders_[path];
    survivor.durable = folder.durable;
    for (const auto& [name, entries] : folder.changed_names) {
      const std::size_t choice = choose.Pick(entries.size());
      if (choice == 0) continue;
      const Entry& entry = entries[choice - 1];
      if (entry.has_value()) {
        survivor.durable[name] = *entry;
      } else {
        survivor.durable.erase(name);
      }
    }
    survivor.cached = survivor.durable;
  }
  for (const std::uint64_t id : NamedFiles()) {
    File& survivor = after.files_[id];
    survivor.durable = Survivor(files_.at(id), choose);
    survivor.cached = survivor.durable;
  }
  return after;
}

SimDisk SimDisk::Crash(std::uint64_t seed) const {
  Chooser choose(seed);
  return CrashBy(choose);
}

SimDisk SimDisk::Crash(std::span<const std::size_t> picks) const {
  Chooser choose(picks);
  return CrashBy(choose);
}

// In the order in which CrashBy picks.
std::vector<SimChange> SimDisk::UnsyncedChanges() const {
  std::vector<SimChange> changes;
  for (const auto& [path, folder] : folders_) {
    for (const auto& [name, entries] : folder.changed_names) {
      changes.push_back({.kind = SimChange::Kind::kName, .count = entries.size()});
    }
  }
  for (const std::uint64_t id : NamedFiles()) {
    const File& file = files_.at(id);
    if (!file.changed_sizes.empty()) {
      changes.push_back(
          {.kind = SimChange::Kind::kSize, .count = file.changed_sizes.size(), .file = id});
    }
    for (const auto& [sector, contents] : file.changed_sectors) {
      changes.push_back({.count = contents.size(), .file = id, .sector = sector});
    }
  }
  return changes;
}

// ---- SimDisk: questions ----

bool SimDisk::HasDirectory(const std::string& directory) const {
  return folders_.count(directory) != 0;
}

std::optional<std::uint64_t> SimDisk::Find(const std::string& directory,
                                           const std::string& name) const {
  const auto folder = folders_.find(directory);
  if (folder == folders_.end()) return std::nullopt;
  const auto entry = folder->second.cached.find(name);
  if (entry == folder->second.cached.end()) return std::nullopt;
  return entry->second;
}

std::vector<std::string> SimDisk::List(const std::string& directory) const {
  std::vector<std::string> names;
  for (const auto& [name, file] : folders_.at(directory).cached) names.push_back(name);
  return names;
}

const SimBytes& SimDisk::Contents(std::uint64_t file) const { return files_.at(file).cached; }

std::uint64_t SimDisk::UsedBytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [path, folder] : folders_) {
    for (const auto& [name, file] : folder.cached) bytes += SpaceOf(file);
  }
  return bytes;
}

std::uint64_t SimDisk::SpaceOf(std::uint64_t file) const {
  const File& holder = files_.at(file);
  return std::max<std::uint64_t>(holder.cached.size(), holder.reserved_end) -
         holder.punched_sectors.size() * kSectorBytes;
}

std::uint64_t SimDisk::EndOf(std::uint64_t file) const {
  return std::max<std::uint64_t>(files_.at(file).cached.size(), files_.at(file).reserved_end);
}

void SimDisk::Reserve(std::uint64_t file, std::uint64_t end) { files_.at(file).reserved_end = end; }

void SimDisk::NotePunched(std::uint64_t file, std::uint64_t begin, std::uint64_t end) {
  std::set<std::uint64_t>& punched = files_.at(file).punched_sectors;
  for (std::uint64_t sector = begin / kSectorBytes; sector < end / kSectorBytes; ++sector) {
    punched.insert(sector);
  }
}

std::uint64_t SimDisk::Hash() const {
  std::uint64_t hash = 0;
  const auto mix = [&](const void* bytes, std::size_t count) {
    hash = internal::HashInteger(hash ^ internal::HashBytes(bytes, count)) + count;
  };
  for (const auto& [path, folder] : folders_) {
    mix(path.data(), path.size());
    for (const auto& [name, file] : folder.cached) {
      const SimBytes& bytes = files_.at(file).cached;
      mix(name.data(), name.size());
      mix(bytes.data(), bytes.size());
    }
  }
  return hash;
}

// ---- Handles ----

class SimFileSystem::SimFile final : public internal::File {
 public:
  SimFile(SimFileSystem& owner, std::uint64_t file, internal::OpenFlags flags)
      : owner_(owner),
        file_(file),
        writes_(flags.write || flags.create),
        direct_(flags.direct && owner.direct_) {}

  Transfer ReadAt(std::uint64_t offset, std::byte* bytes, std::size_t count) override {
    const OutsideLibrary outside;
    if (!Aligned(offset, bytes, count)) return {0, EINVAL};
    MutexLock lock(owner_.mu_);
    const SimBytes& contents = owner_.now_.Contents(file_);
    if (offset >= contents.size()) return {0, 0};
    const std::size_t moved = std::min<std::size_t>(count, contents.size() - offset);
    std::memcpy(bytes, contents.data() + offset, moved);
    return {moved, 0};
  }
  Transfer WriteAt(std::uint64_t offset, const std::byte* bytes, std::size_t count) override {
    const OutsideLibrary outside;
    if (!writes_) return {0, EBADF};
    if (!Aligned(offset, bytes, count)) return {0, EINVAL};
    return owner_.Write(file_, offset, bytes, count);
  }
  int Sync() override {
    const OutsideLibrary outside;
    return owner_.Sync(file_);
  }
  int Truncate(std::uint64_t size) override {
    const OutsideLibrary outside;
    if (!writes_) return EINVAL;
    MutexLock lock(owner_.mu_);
    owner_.Record({.kind = SimCall::Kind::kTruncate, .file = file_, .offset = size});
    return 0;
  }
  int Reserve(std::uint64_t offset, std::uint64_t bytes) override {
    const OutsideLibrary outside;
    if (!writes_) return EBADF;
    return owner_.Reserve(file_, offset + bytes);
  }
  // To a power loss it is a write of zeros, of which any part may survive.
  int PunchHole(std::uint64_t offset, std::uint64_t bytes) override {
    const OutsideLibrary outside;
    if (!writes_) return EBADF;
    MutexLock lock(owner_.mu_);
    if (!owner_.space_rules_.can_punch) return EOPNOTSUPP;
    const std::uint64_t size = owner_.now_.Contents(file_).size();
    const std::uint64_t end = std::min(size, offset + bytes);
    if (offset >= end) return 0;
    owner_.Record({.kind = SimCall::Kind::kWrite,
                   .file = file_,
                   .offset = offset,
                   .bytes = SimBytes(end - offset)});
    owner_.now_.NotePunched(file_, offset, end);
    owner_.TakeFreeSpace();
    return 0;
  }
  int Size(std::uint64_t& size) override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    size = owner_.now_.Contents(file_).size();
    return 0;
  }
  int Close() override { return 0; }
  internal::FileId id() const override { return {.inode = file_}; }
  bool direct() const override { return direct_; }

 private:
  bool Aligned(std::uint64_t offset, const std::byte* bytes, std::size_t count) const {
    return !direct_ ||
           (offset | count | reinterpret_cast<std::uintptr_t>(bytes)) % kDiskBlockBytes == 0;
  }

  SimFileSystem& owner_;
  const std::uint64_t file_;
  const bool writes_;
  const bool direct_;
};

class SimFileSystem::SimDirectory final : public internal::Directory {
 public:
  SimDirectory(SimFileSystem& owner, std::string path) : owner_(owner), path_(std::move(path)) {}
  ~SimDirectory() override { Unlock(); }

  internal::OpenedFile Open(const std::string& name, internal::OpenFlags flags) override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    std::optional<std::uint64_t> file = owner_.now_.Find(path_, name);
    if (!file.has_value()) {
      if (!flags.create) return {nullptr, ENOENT};
      file = owner_.now_.next_file();
      owner_.Record(
          {.kind = SimCall::Kind::kCreate, .directory = path_, .name = name, .file = *file});
    }
    return {std::make_unique<SimFile>(owner_, *file, flags), 0};
  }

  int List(std::vector<std::string>& names) override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    names = owner_.now_.List(path_);
    return 0;
  }

  int Rename(const std::string& from, const std::string& to) override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    if (!owner_.now_.Find(path_, from).has_value()) return ENOENT;
    if (from == to) return 0;
    owner_.Record(
        {.kind = SimCall::Kind::kRename, .directory = path_, .name = from, .new_name = to});
    return 0;
  }

  int Unlink(const std::string& name) override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    if (!owner_.now_.Find(path_, name).has_value()) return ENOENT;
    owner_.Record({.kind = SimCall::Kind::kUnlink, .directory = path_, .name = name});
    return 0;
  }

  int Sync() override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    owner_.Record({.kind = SimCall::Kind::kSyncDirectory, .directory = path_});
    return 0;
  }

  int SyncFiles() override {
    const OutsideLibrary outside;
    std::vector<std::uint64_t> files;
    {
      MutexLock lock(owner_.mu_);
      for (const std::string& name : owner_.now_.List(path_)) {
        files.push_back(*owner_.now_.Find(path_, name));
      }
    }
    for (const std::uint64_t file : files) {
      if (const int error = owner_.Sync(file); error != 0) return error;
    }
    return 0;
  }

  int Lock(const std::string& name, internal::LockKind kind) override {
    const OutsideLibrary outside;
    const bool reads = kind == internal::LockKind::kReader;
    const int error = reads ? 0 : Open(name, {.create = true}).error;
    if (error != 0) return error;
    MutexLock lock(owner_.mu_);
    if (!lock_.empty()) return EWOULDBLOCK;
    const std::string key = path_ + "/" + name;
    int& holders = owner_.locks_[key];
    if (reads ? holders == kWriter : holders != 0) return EWOULDBLOCK;
    holders += reads ? 1 : kWriter;
    lock_ = key;
    return 0;
  }

  void Unlock() override {
    const OutsideLibrary outside;
    MutexLock lock(owner_.mu_);
    if (lock_.empty()) return;
    int& holders = owner_.locks_[lock_];
    holders -= holders == kWriter ? kWriter : 1;
    lock_.clear();
  }

 private:
  static constexpr int kWriter = -1;  // else as many readers

  SimFileSystem& owner_;
  const std::string path_;
  std::string lock_;
};

// ---- SimFileSystem ----

SimFileSystem::SimFileSystem(bool direct) : SimFileSystem(SimDisk(), direct) {}
SimFileSystem::SimFileSystem(SimDisk disk, bool direct)
    : direct_(direct), first_(disk), now_(std::move(disk)) {}
SimFileSystem::~SimFileSystem() = default;

internal::OpenedDirectory SimFileSystem::OpenDirectory(const std::string& path, bool create) {
  const OutsideLibrary outside;
  MutexLock lock(mu_);
  if (!now_.HasDirectory(path)) {
    if (!create) return {nullptr, ENOENT};
    Record({.kind = SimCall::Kind::kMakeDirectory, .directory = path});
  }
  return {std::make_unique<SimDirectory>(*this, path), 0};
}

void SimFileSystem::Record(SimCall call) {
  now_.Apply(call);
  calls_.push_back(std::move(call));
  TakeFreeSpace();
}

void SimFileSystem::TakeFreeSpace() {
  if (space_rules_.is_raced) capacity_bytes_ = std::min(capacity_bytes_, now_.UsedBytes());
}

Transfer SimFileSystem::Write(std::uint64_t file, std::uint64_t offset, const std::byte* bytes,
                              std::size_t count) {
  MutexLock lock(mu_);
  const std::uint64_t size = now_.EndOf(file);
  // Counting walks every file; without a limit there is no need to.
  const bool limited = capacity_bytes_ != kNoLimit;
  const std::uint64_t used_bytes = limited ? now_.UsedBytes() : 0;
  const std::uint64_t free_bytes = capacity_bytes_ - std::min(capacity_bytes_, used_bytes);
  const std::uint64_t end_limit = size + free_bytes;
  if (offset + count > size && end_limit >= size && offset + count > end_limit) {
    count = offset < end_limit ? end_limit - offset : 0;
    count -= count % kDiskBlockBytes;
    if (count == 0) return {0, space_rules_.error};
  }
  if (offset + count > space_rules_.max_file_bytes) return {0, EFBIG};
  Record({.kind = SimCall::Kind::kWrite,
          .file = file,
          .offset = offset,
          .bytes = SimBytes(bytes, bytes + count)});
  return {count, 0};
}

std::uint64_t SimFileSystem::UsedBytes() const {
  MutexLock lock(mu_);
  return now_.UsedBytes();
}

int SimFileSystem::Reserve(std::uint64_t file, std::uint64_t end) {
  MutexLock lock(mu_);
  const std::uint64_t space = now_.EndOf(file);
  if (end <= space) return 0;
  const bool limited = capacity_bytes_ != kNoLimit;
  if (!space_rules_.can_reserve) return EOPNOTSUPP;
  if (end > space_rules_.max_file_bytes) return EFBIG;
  if (limited && now_.UsedBytes() + (end - space) > capacity_bytes_) return space_rules_.error;
  now_.Reserve(file, end);
  return 0;
}

int SimFileSystem::Sync(std::uint64_t file) {
  MutexLock lock(mu_);
  int error = 0;
  if (next_sync_error_ != 0 && next_sync_skip_-- == 0) error = std::exchange(next_sync_error_, 0);
  Record({.kind = error == 0 ? SimCall::Kind::kSync : SimCall::Kind::kFailedSync,
          .file = file,
          .offset = next_sync_seed_});
  return error;
}

std::size_t SimFileSystem::CallCount() const {
  MutexLock lock(mu_);
  return calls_.size();
}

SimCall SimFileSystem::Call(std::size_t index) const {
  MutexLock lock(mu_);
  return calls_.at(index);
}

std::unique_ptr<SimFileSystem> SimFileSystem::Crash(std::uint64_t seed) const {
  MutexLock lock(mu_);
  return std::make_unique<SimFileSystem>(now_.Crash(seed), direct_);
}

SimDisk SimFileSystem::DiskAt(std::size_t call_count) const {
  MutexLock lock(mu_);
  EBB_CHECK(call_count <= calls_.size());
  SimDisk disk = first_;
  for (std::size_t i = 0; i < call_count; ++i) disk.Apply(calls_[i]);
  return disk;
}

std::unique_ptr<SimFileSystem> SimFileSystem::CrashAt(std::size_t call_count,
                                                      std::uint64_t seed) const {
  return std::make_unique<SimFileSystem>(DiskAt(call_count).Crash(seed), direct_);
}

std::unique_ptr<SimFileSystem> SimFileSystem::Kill() const {
  MutexLock lock(mu_);
  return std::make_unique<SimFileSystem>(now_, direct_);
}

void SimFileSystem::FailNextSync(int error, std::uint64_t seed, std::uint64_t skip) {
  MutexLock lock(mu_);
  next_sync_error_ = error;
  next_sync_seed_ = seed;
  next_sync_skip_ = skip;
}

void SimFileSystem::SetCapacityBytes(std::uint64_t bytes) {
  MutexLock lock(mu_);
  capacity_bytes_ = bytes;
}

void SimFileSystem::SetSpaceRules(const SpaceRules& rules) {
  MutexLock lock(mu_);
  space_rules_ = rules;
}

bool SimFileSystem::Exists(const std::string& directory, const std::string& name) const {
  MutexLock lock(mu_);
  return now_.Find(directory, name).has_value();
}

SimBytes SimFileSystem::Contents(const std::string& directory, const std::string& name) const {
  MutexLock lock(mu_);
  const std::optional<std::uint64_t> file = now_.Find(directory, name);
  return file.has_value() ? now_.Contents(*file) : SimBytes();
}

}  // namespace ebb::test
