#include "tests/support/store_kit.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <ostream>
#include <vector>

#include "ebb/internal/base/hash.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_device.h"

template class ebb::Session<std::uint64_t, std::uint64_t>;
template class ebb::Session<std::uint64_t, ebb::test::Triple>;
template class ebb::Session<std::uint64_t, std::string>;
template class ebb::Session<std::string, std::uint64_t>;
template class ebb::Session<std::string, std::string>;
template class ebb::Store<std::uint64_t, std::uint64_t>;
template class ebb::Store<std::uint64_t, ebb::test::Triple>;
template class ebb::Store<std::uint64_t, std::string>;
template class ebb::Store<std::string, std::uint64_t>;
template class ebb::Store<std::string, std::string>;

namespace ebb::test {

internal::Environment TinyEnvironment(internal::FileSystem* files) {
  internal::Environment environment;
  environment.file_system = files;
  environment.page_shift = 12;
  environment.frame_count = kTinyFrameCount;
  environment.segment_blocks = 16;
  environment.index_exponent = 1;
  environment.pool_threads = 0;
  environment.hash_seed = internal::HashSeed{};  // tests choose keys that share a chain
  return environment;
}

Options TinyOptions() {
  Options options;
  options.write_batch_bytes = 4096;
  options.direct_io = false;
  options.huge_pages = false;
  options.scan_ahead_bytes = 4096;
  options.index_auto_grow = false;
  return options;
}

std::vector<std::uint64_t> KeysUpTo(std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  std::iota(keys.begin(), keys.end(), 0);
  return keys;
}

void PrintTo(const Snapshot& snapshot, std::ostream* out) {
  for (const auto& [name, bytes] : snapshot) {
    *out << name << ": " << bytes.size() << " bytes, hash "
         << internal::HashBytes(bytes.data(), bytes.size()) << '\n';
  }
}

Snapshot SnapshotOf(const std::string& directory) {
  Snapshot snapshot;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.is_symlink() || !entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    snapshot[std::filesystem::relative(entry.path(), directory).string()] =
        std::string(std::istreambuf_iterator<char>(file), {});
  }
  return snapshot;
}

Snapshot SnapshotOf(const SimFileSystem& files, const std::string& directory) {
  Snapshot snapshot;
  std::vector<std::string> names;
  const internal::OpenedDirectory opened =
      const_cast<SimFileSystem&>(files).OpenDirectory(directory, /*create=*/false);
  if (opened.directory == nullptr || opened.directory->List(names) != 0) return snapshot;
  for (const std::string& name : names) {
    const SimBytes bytes = files.Contents(directory, name);
    snapshot[name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return snapshot;
}

void Restore(const Snapshot& snapshot, const std::string& directory) {
  std::filesystem::remove_all(directory);
  std::filesystem::create_directory(directory);
  for (const auto& [name, bytes] : snapshot) {
    std::ofstream file(directory + "/" + name, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good()) << name;
  }
}

void Restore(const Snapshot& snapshot, internal::FileSystem& files, const std::string& directory) {
  const internal::OpenedDirectory opened = files.OpenDirectory(directory, /*create=*/true);
  ASSERT_NE(opened.directory, nullptr);
  std::vector<std::string> names;
  ASSERT_EQ(opened.directory->List(names), 0);
  for (const std::string& name : names) ASSERT_EQ(opened.directory->Unlink(name), 0);
  for (const auto& [name, bytes] : snapshot) {
    const internal::OpenedFile file = opened.directory->Open(name, {.create = true});
    ASSERT_NE(file.file, nullptr) << name;
    if (!bytes.empty()) Overwrite(files, directory, name, 0, bytes);
  }
}

std::string SegmentFile(std::uint64_t number) { return internal::FileDevice::SegmentName(number); }

void Overwrite(internal::FileSystem& files, const std::string& directory, const std::string& name,
               std::uint64_t offset, const std::string& bytes) {
  const internal::OpenedDirectory opened = files.OpenDirectory(directory, /*create=*/false);
  ASSERT_NE(opened.directory, nullptr);
  const internal::OpenedFile file = opened.directory->Open(name, {.write = true});
  ASSERT_NE(file.file, nullptr) << name;
  const internal::Transfer transfer =
      file.file->WriteAt(offset, reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
  ASSERT_EQ(transfer.error, 0) << name;
  ASSERT_EQ(transfer.count, bytes.size()) << name;
}

}  // namespace ebb::test
