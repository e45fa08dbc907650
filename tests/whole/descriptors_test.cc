// Stores with more segments than the process may have descriptors.
//
// Hazard 66.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "ebb/verify.h"
#include "tests/support/scale.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

// The process's limit on descriptors, lowered for a scope.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const struct rlimit lower { limit, before_.rlim_max };
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &lower), 0);
  }
  ~DescriptorLimit() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  struct rlimit before_ = {};
};

constexpr std::uint64_t kLimit = 128;
// In memory, where a sync costs nothing, if there is such a directory that the user may write to.
std::filesystem::path FastDirectory() {
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path();
}

// Values of half a block, and segments of one block: two keys for each file.
internal::Environment ManySegments() {
  internal::Environment environment = TinyEnvironment();
  environment.segment_blocks = 1;
  environment.index_exponent = 8;
  return environment;
}
std::string ValueOf(std::uint64_t key) {
  return std::string(1500, static_cast<char>('a' + key % 26));
}

std::uint64_t SegmentsIn(const std::string& path) {
  std::uint64_t count = 0;
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    count += file.path().filename().string().starts_with("log-") ? 1 : 0;
  }
  return count;
}

void ExpectAll(U64StringStore& store, std::uint64_t keys) {
  // Spread over the log, so that each read needs another file.
  for (std::uint64_t i = 0; i < keys; ++i) {
    const std::uint64_t key = i * 7919 % keys;
    const absl::StatusOr<std::string> value = store.Read(key);
    ASSERT_TRUE(value.ok()) << key << ": " << value.status();
    ASSERT_EQ(*value, ValueOf(key));
  }
}

TEST(DescriptorsTest, AStoreHasMoreSegmentsThanTheProcessMayHaveDescriptors) {
  const TempDir temp(FastDirectory());
  const std::string path = temp / "db";
  const auto keys = std::max<std::uint64_t>(1200, static_cast<std::uint64_t>(10'000 * Scale()));
  const DescriptorLimit limit(kLimit);
  {
    // No commit: the device must not collect files with unsynced writes.
    U64StringStore store = *OpenIn<U64StringStore>(path, ManySegments());
    for (std::uint64_t key = 0; key < keys; ++key) {
      ASSERT_TRUE(store.Upsert(key, ValueOf(key)).ok()) << key;
    }
    ExpectAll(store, keys);
    ASSERT_TRUE(store.Close().ok());
  }
  EXPECT_GT(SegmentsIn(path), 4 * kLimit);
  {
    auto store = OpenIn<U64StringStore>(path, ManySegments());
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectAll(*store, keys);
    const auto report = store->Verify();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->problem_count, 0U);
    ASSERT_TRUE(store->Checkpoint().ok());
    const auto backup = store->Backup(temp / "backup");
    ASSERT_TRUE(backup.ok()) << backup.status();
    for (std::uint64_t key = 0; key < keys / 2; ++key) ASSERT_TRUE(store->Delete(key).ok());
    ASSERT_TRUE(store->CollectGarbage().ok());
    ASSERT_TRUE(store->Close().ok());
  }
  const auto report = VerifyDirectory(temp / "backup", {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->problem_count, 0U);
  Options read_only = TinyOptions();
  read_only.read_only = true;
  auto copy = OpenIn<U64StringStore>(temp / "backup", ManySegments(), read_only);
  ASSERT_TRUE(copy.ok()) << copy.status();
  ExpectAll(*copy, keys);
}

}  // namespace
}  // namespace ebb::test
