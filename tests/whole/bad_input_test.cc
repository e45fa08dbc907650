// Bad input: each thing that a caller can get wrong when opening a store, the status it gets and
// the field that the message names. Nothing is created and nothing is changed by any of it.
//
// Keys and values that are too long are in store_test.cc, damaged files in recovery_test.cc and
// log_replay_test.cc.
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "ebb/store.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kTiB = 1024 * 1024 * kMiB;
constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

// The smallest store there can be; each row changes something.
Options Smallest() {
  Options options;
  options.log_memory_bytes = kMiB;
  options.segment_bytes = kMiB;
  options.index_bucket_count = 1024;
  options.write_batch_bytes = 4 * kKiB;
  options.huge_pages = false;
  return options;
}

struct Row {
  const char* field;
  std::uint64_t value;
  Options options;
};

template <typename T>
Row Bad(const char* field, T Options::*member, std::uint64_t value, Options options = Smallest()) {
  options.*member = static_cast<T>(value);
  return {field, value, options};
}

std::vector<Row> BadRows() {
  std::vector<Row> rows;
  const auto bad = [&](const char* field, auto member, std::initializer_list<std::uint64_t> values,
                       const Options& options = Smallest()) {
    for (const std::uint64_t value : values) rows.push_back(Bad(field, member, value, options));
  };
  bad("log_memory_bytes", &Options::log_memory_bytes, {0, 1, kMiB - 1, kHuge, 1 << 19, 1 * kTiB});
  bad("page_bytes", &Options::page_bytes,
      {1, 4 * kKiB, 32 * kKiB, 64 * kKiB - 1, 64 * kKiB + 1, 96 * kKiB, 128 * kMiB, kHuge,
       std::uint64_t{1} << 63});
  // Fewer than eight pages in memory.
  bad("log_memory_bytes", &Options::page_bytes, {256 * kKiB, 64 * kMiB});
  bad("segment_bytes", &Options::segment_bytes,
      {0, 1, 64 * kKiB, kMiB - 1, kMiB + 1, 3 * kMiB, 2 * kTiB, kHuge});
  Options large_pages = Smallest();
  large_pages.log_memory_bytes = 16 * kMiB;
  large_pages.page_bytes = 2 * kMiB;
  bad("segment_bytes", &Options::segment_bytes, {kMiB}, large_pages);
  bad("index_bucket_count", &Options::index_bucket_count,
      {0, 1, 512, 1023, 1025, 3000, (std::uint64_t{1} << 31) + 1, std::uint64_t{1} << 32, kHuge});
  bad("background_threads", &Options::background_threads, {0, 33, 0xffffffff});
  bad("write_batch_bytes", &Options::write_batch_bytes,
      {0, 1, 4095, 4097, 6 * kKiB, 64 * kMiB + 4096, kHuge});
  bad("durability", &Options::durability, {4, 5, 255});
  bad("commit_interval_ms", &Options::commit_interval_ms, {0, 3'600'001, 0xffffffff});
  bad("checkpoint_interval_ms", &Options::checkpoint_interval_ms,
      {1, 99, 24 * 3'600'000 + 1, 0xffffffff});
  bad("scan_ahead_bytes", &Options::scan_ahead_bytes, {1, 4097, 64 * kMiB + 4096});
  bad("checkpoints_kept", &Options::checkpoints_kept, {0, 1001, 0xffffffff});
  bad("preallocate_bytes", &Options::preallocate_bytes, {1, 4095, 4097, kTiB + 4096, kHuge});
  // A page of 64 KiB holds 16 blocks of 4,080 bytes, and a record takes 24 in addition to key and
  // value.
  bad("max_key_bytes", &Options::max_key_bytes, {16 * 4080 - 23, kHuge});
  bad("max_value_bytes", &Options::max_value_bytes, {16 * 4080 - 23, kHuge});
  return rows;
}

TEST(BadInputTest, EachBadOptionIsRejectedByNameAndNothingIsCreated) {
  TempDir dir;
  const std::vector<Row> rows = BadRows();
  ASSERT_GE(rows.size(), 63U);
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(row.field) + " " + std::to_string(row.value));
    const auto refused = [&](const absl::Status& status) {
      return FailsWith(status, StatusCode::kInvalidArgument, std::string(row.field) + " is ");
    };
    EXPECT_TRUE(refused(Validate(row.options)));
    EXPECT_TRUE(refused(StringStore::Open(dir / "db", row.options).status()));
    EXPECT_TRUE(refused(StringStore::OpenInMemory(row.options).status()));
    EXPECT_TRUE(IsUserError(Validate(row.options)));
    EXPECT_FALSE(std::filesystem::exists(dir / "db"));
  }
}

TEST(BadInputTest, EachBadOptionLeavesAStoreThatExistsAsItIs) {
  TempDir dir;
  Must(Must(StringStore::Open(dir / "db", Smallest())).Upsert("key", "value"));
  const Snapshot before = SnapshotOf(dir / "db");
  for (const Row& row : BadRows()) {
    EXPECT_EQ(StringStore::Open(dir / "db", row.options).status().code(),
              StatusCode::kInvalidArgument)
        << row.field << " " << row.value;
  }
  EXPECT_EQ(SnapshotOf(dir / "db"), before);
  auto store = Must(StringStore::Open(dir / "db", Smallest()));
  EXPECT_EQ(Must(store.Read("key")), "value");
}

// The message names the given value and the allowed ones.
TEST(BadInputTest, MessagesNameValueAndRange) {
  Options options = Smallest();
  options.background_threads = 99;
  EXPECT_EQ(Validate(options).message(), "background_threads is 99: must be from 1 to 32");
  options = Smallest();
  options.page_bytes = 96 * kKiB;
  EXPECT_EQ(Validate(options).message(), "page_bytes is 98304: must be a power of two");
}

TEST(BadInputTest, TheEndsOfEachRangeAreAllowed) {
  std::vector<Row> rows;
  const auto good = [&](const char* field, auto member, std::initializer_list<std::uint64_t> values,
                        const Options& options = Smallest()) {
    for (const std::uint64_t value : values) rows.push_back(Bad(field, member, value, options));
  };
  Options roomy = Smallest();
  roomy.log_memory_bytes = 8 * 64 * kMiB;
  roomy.segment_bytes = 64 * kMiB;
  good("log_memory_bytes", &Options::log_memory_bytes, {kMiB, kMiB + 1});
  good("page_bytes", &Options::page_bytes, {0, 64 * kKiB, 128 * kKiB});
  good("page_bytes", &Options::page_bytes, {64 * kMiB}, roomy);
  good("segment_bytes", &Options::segment_bytes, {kMiB, kTiB});
  good("index_bucket_count", &Options::index_bucket_count, {1024, std::uint64_t{1} << 31});
  good("background_threads", &Options::background_threads, {1, 32});
  good("write_batch_bytes", &Options::write_batch_bytes, {4096, 8192, 64 * kMiB});
  good("durability", &Options::durability, {0, 1, 2, 3});
  good("commit_interval_ms", &Options::commit_interval_ms, {1, 3'600'000});
  good("checkpoint_interval_ms", &Options::checkpoint_interval_ms, {0, 100, 24 * 3'600'000});
  good("scan_ahead_bytes", &Options::scan_ahead_bytes, {0, 4096, 64 * kMiB});
  good("checkpoints_kept", &Options::checkpoints_kept, {1, 1000});
  good("preallocate_bytes", &Options::preallocate_bytes, {0, 4096, kTiB});
  good("max_key_bytes", &Options::max_key_bytes, {0, 1, 16 * 4080 - 24});
  good("max_value_bytes", &Options::max_value_bytes, {0, 1, 16 * 4080 - 24});
  for (const Row& row : rows) {
    EXPECT_TRUE(Validate(row.options).ok()) << row.field << " " << row.value;
  }
}

// Types that no page of this size can hold, or that the limits exclude, are rejected when the store
// is opened, and not by its first write.
template <std::size_t kBytes>
using Array = std::array<std::uint8_t, kBytes>;

template <typename Key, typename Value>
absl::Status OpenBoth(const std::string& path, const Options& options) {
  const absl::Status on_files = Store<Key, Value>::Open(path, options).status();
  const absl::Status in_memory = Store<Key, Value>::OpenInMemory(options).status();
  // The error of an opening names the path too.
  EXPECT_EQ(on_files.code(), in_memory.code());
  EXPECT_TRUE(absl::EndsWith(on_files.message(), in_memory.message())) << on_files;
  return on_files;
}

TEST(BadInputTest, TypesThatDoNotFitAreRejectedAndNothingIsCreated) {
  TempDir dir;
  const std::string path = dir / "db";
  const auto refused = [](const absl::Status& status, const char* field) {
    return FailsWith(status, StatusCode::kInvalidArgument, field);
  };
  // Header and lock word take 16 bytes of a page's 65,280.
  EXPECT_TRUE(refused(OpenBoth<std::uint64_t, Array<65280 - 16>>(path, Smallest()), "page_bytes"));
  EXPECT_TRUE(refused(OpenBoth<Array<65280>, std::uint64_t>(path, Smallest()), "page_bytes"));
  EXPECT_TRUE(refused(OpenBoth<Array<40000>, Array<40000>>(path, Smallest()), "page_bytes"));
  EXPECT_TRUE(refused(OpenBoth<std::string, Array<70000>>(path, Smallest()), "page_bytes"));
  Options options = Smallest();
  options.max_key_bytes = 7;
  EXPECT_TRUE(refused(OpenBoth<std::uint64_t, std::uint64_t>(path, options), "max_key_bytes is 7"));
  options = Smallest();
  options.max_value_bytes = 23;
  EXPECT_TRUE(refused(OpenBoth<std::uint64_t, Triple>(path, options), "max_value_bytes is 23"));
  EXPECT_FALSE(std::filesystem::exists(path));
  options.max_value_bytes = 24;
  EXPECT_TRUE((OpenBoth<std::uint64_t, Triple>(dir / "fits", options).ok()));
  EXPECT_TRUE((OpenBoth<std::uint64_t, Array<65280 - 24>>(dir / "page", Smallest()).ok()));
}

TEST(BadInputTest, BadPathsAreRejectedByNameAndNothingIsCreated) {
  TempDir dir;
  std::ofstream(dir / "file") << "not a directory";
  std::filesystem::create_symlink("loop", dir / "loop");
  struct PathRow {
    std::string path;
    const char* message;
  };
  const PathRow rows[] = {
      {"", "path"},
      {std::string("a\0b", 3), "path"},
      {dir / "no/such/parent", "path"},
      {dir / "file", "path"},
      {dir / "file/below", "path"},
      {dir / "loop", "path"},
      {dir / std::string(300, 'n'), "path"},
  };
  const Snapshot before = SnapshotOf(dir.path());
  for (const PathRow& row : rows) {
    EXPECT_TRUE(FailsWith(U64Store::Open(row.path, Smallest()).status(),
                          StatusCode::kInvalidArgument, row.message))
        << row.path;
  }
  EXPECT_EQ(SnapshotOf(dir.path()), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

// Things in the place of the store's own files.
TEST(BadInputTest, DirectoriesAndLinksInThePlaceOfFilesAreRejected) {
  for (const char* const name : {"LOCK", "log-00000000.ebb"}) {
    TempDir dir;
    std::filesystem::create_directories(dir / "db" + "/" + name);
    EXPECT_FALSE(U64Store::Open(dir / "db", Smallest()).ok()) << name;
    EXPECT_TRUE(std::filesystem::is_directory(dir / "db" + "/" + name));
  }
  TempDir dir;
  std::ofstream(dir / "elsewhere") << "precious";
  for (const char* const name : {"LOCK", "log-00000000.ebb"}) {
    std::filesystem::remove_all(dir / "db");
    std::filesystem::create_directory(dir / "db");
    std::filesystem::create_symlink(dir / "elsewhere", dir / "db" + "/" + name);
    EXPECT_FALSE(U64Store::Open(dir / "db", Smallest()).ok()) << name;
    EXPECT_EQ(SnapshotOf(dir.path()).at("elsewhere"), "precious");
  }
}

}  // namespace
}  // namespace ebb::test
