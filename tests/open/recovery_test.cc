// Recovery: the state that a store finds when it is opened: its files after a close, after a crash,
// after an interrupted opening or creation; with other memory, other types, or damaged.
//
// Power losses are simulated (sim_file_system.h): any moment, and any subset of the unsynced
// sectors and names may survive it. Seeds are part of the failure message.
//
// Hazards: 28 (errors of the device), 34 (uncommitted records), 36 (versions after several
// reopenings), 37 (other memory; recovery interrupted by a crash).
#include "ebb/internal/open/recovery.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/base/hash.h"
#include "ebb/internal/format/block.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Environment;

// ---- progress ----

TEST(RecoveryTest, AnOpeningReportsItsProgress) {
  SimFileSystem files;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t i = 0; i < 5000; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  std::vector<RecoveryProgress> told;
  Options options = TinyOptions();
  options.recovery_progress = [&](const RecoveryProgress& progress) { told.push_back(progress); };
  auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
  EXPECT_GE(told.size(), 5000 * 24 / 4080U);
  for (std::size_t i = 1; i < told.size(); ++i) {
    EXPECT_GE(told[i].scanned_bytes, told[i - 1].scanned_bytes);
  }
  EXPECT_EQ(told.back().scanned_bytes, told.back().total_bytes);
  EXPECT_EQ(told.back().scanned_bytes, store.recovery().verified_bytes);
  EXPECT_EQ(store.recovery().replayed_records, 5000U);
}

// ---- close and reopen ----

TEST(RecoveryTest, AStoreIsClosedAndReopenedTimeAndAgain) {
  SimFileSystem files;
  StringModel model;
  std::vector<std::string> keys;
  for (int i = 0; i < 900; ++i) keys.push_back("key " + std::to_string(i));
  std::mt19937_64 random(17);
  struct Round {
    std::uint64_t frame_count;
    int index_exponent;
  };
  // Budgets from far less than the data to more than all of it; powers of two and not. The index
  // was created with two buckets.
  const Round rounds[] = {{8, 1}, {13, 4}, {200, 1}, {8, 9}, {9, 0}, {31, 2}, {8, 1}};
  for (const Round& round : rounds) {
    SCOPED_TRACE("frames " + std::to_string(round.frame_count) + ", index exponent " +
                 std::to_string(round.index_exponent));
    Environment environment = TinyEnvironment(&files);
    environment.frame_count = round.frame_count;
    environment.index_exponent = round.index_exponent;
    auto store = Must(OpenIn<StringStore>("db", environment));
    ASSERT_TRUE(HoldsOnly(store, model, keys));
    for (int i = 0; i < 1200; ++i) {
      const std::string& key = keys[random() % keys.size()];
      switch (random() % 4) {
        case 0:
          EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
          break;
        case 1:
          Must(store.Upsert(key, model[key] = std::string(random() % 120, 'u')));
          break;
        default:
          Must(store.Rmw(key, [](std::string& value) { value += "+"; }));
          model[key] += "+";
          break;
      }
    }
    ASSERT_TRUE(HoldsOnly(store, model, keys));
    Must(store.Close());
  }
}

// The same with the real file system, threads, direct transfers and public options only.
TEST(RecoveryTest, AStoreOnRealFilesIsReopenedWithOtherBudgets) {
  TempDir dir;
  U64Model model;
  for (int round = 0; round < 5; ++round) {
    Options options;
    options.log_memory_bytes = std::uint64_t{1} << (20 + round % 3);
    options.index_bucket_count = round == 0 ? 1024 : std::uint64_t{1024} << round;
    options.segment_bytes = 1 << 20;
    options.direct_io = round % 2 == 0;
    options.background_threads = 2;
    if (round > 2) options.page_bytes = 64 << 10;
    auto store = Must(U64Store::Open(dir / "db", options));
    ASSERT_TRUE(Holds(store, model)) << round;
    for (std::uint64_t i = 0; i < 15000; ++i) {
      const std::uint64_t key = i * 7 + static_cast<std::uint64_t>(round) * 1000;
      Must(store.Upsert(key, model[key] = i + 1));
    }
    Must(store.Close());
  }
  auto store = Must(U64Store::Open(dir / "db", {.log_memory_bytes = 1 << 20}));
  EXPECT_TRUE(Holds(store, model));
  EXPECT_EQ(store.Stats().page_bytes, 64U << 10);
  EXPECT_GT(SnapshotOf(dir / "db").size(), 3U) << "one segment only";
}

// Records that fit the budget are read from memory after a reopening, without a device read.
TEST(RecoveryTest, TheNewestPagesAreInMemoryAfterOpening) {
  SimFileSystem files;
  constexpr std::uint64_t kKeyCount = 3000;  // 18 pages
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t i = 0; i < kKeyCount; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  std::uint64_t last_reads = kKeyCount;
  for (const std::uint64_t frame_count : {8, 12, 18, 64}) {
    Environment environment = TinyEnvironment(&files);
    environment.frame_count = frame_count;
    auto store = Must(OpenIn<U64Store>("db", environment));
    for (std::uint64_t i = 0; i < kKeyCount; ++i) ASSERT_EQ(Must(store.Read(i)), i);
    const std::uint64_t reads = store.Metrics().device_reads;
    EXPECT_LT(reads, last_reads);
    EXPECT_EQ(reads == 0, frame_count == 64);
    last_reads = reads;
    // Records that were read back are read-only: the next update appends.
    const std::uint64_t tail = store.Stats().tail_address;
    Must(store.Upsert(kKeyCount - 1, kKeyCount - 1));
    EXPECT_GT(store.Stats().tail_address, tail);
    Must(store.Close());
  }
}

// ---- who may open ----

TEST(RecoveryTest, ASecondOpenerIsRejectedAndChangesNothing) {
  TempDir dir;
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  for (int i = 0; i < 300; ++i) Must(store.Upsert(std::to_string(i), std::string(50, 'x')));
  Must(Commit(store));
  for (int i = 0; i < 300; ++i) Must(store.Upsert(std::to_string(i), std::string(50, 'y')));
  const Snapshot before = SnapshotOf(dir / "db");
  EXPECT_TRUE(FailsWith(OpenTiny<StringStore>(dir / "db").status(), StatusCode::kFailedPrecondition,
                        "open already"));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const absl::Status status = OpenTiny<StringStore>(dir / "db").status();
    ::_exit(status.code() == StatusCode::kFailedPrecondition ? 0 : 1);
  }
  int result = -1;
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  EXPECT_EQ(result, 0);
  EXPECT_EQ(SnapshotOf(dir / "db"), before);
  EXPECT_EQ(Must(store.Read("7")), std::string(50, 'y'));
  Must(store.Close());
  Must(Must(OpenTiny<StringStore>(dir / "db")).Close());
}

template <typename StoreType>
absl::Status Reopen(const std::string& path, const Options& options = TinyOptions()) {
  return OpenIn<StoreType>(path, TinyEnvironment(), options).status();
}

TEST(RecoveryTest, OtherTypesAreRejectedByNameAndChangeNothing) {
  TempDir dir;
  {
    auto store = Must(OpenTiny<U64TripleStore>(dir / "db"));
    Must(store.Upsert(1, Triple{1, 2, 3}));
    Must(store.Close());
  }
  const Snapshot before = SnapshotOf(dir / "db");
  const auto refused = [](const absl::Status& status, const std::string& opened_with) {
    const testing::AssertionResult created = FailsWith(
        status, StatusCode::kFailedPrecondition, "created with keys: 8 bytes, values: 24 bytes");
    return created ? FailsWith(status, StatusCode::kFailedPrecondition, opened_with) : created;
  };
  EXPECT_TRUE(refused(Reopen<U64Store>(dir / "db"), "keys: 8 bytes, values: 8 bytes"));
  EXPECT_TRUE(refused(Reopen<U64StringStore>(dir / "db"), "keys: 8 bytes, values: string"));
  EXPECT_TRUE(refused(Reopen<StringStore>(dir / "db"), "keys: string, values: string"));
  EXPECT_TRUE(refused(Reopen<Store<std::uint32_t, Triple>>(dir / "db"), "keys: 4 bytes"));
  EXPECT_TRUE(refused(Reopen<Store<Key12, Triple>>(dir / "db"), "keys: 12 bytes"));
  EXPECT_EQ(SnapshotOf(dir / "db"), before);
  auto store = Must(OpenTiny<U64TripleStore>(dir / "db"));
  EXPECT_EQ(Must(store.Read(1)), (Triple{1, 2, 3}));
}

TEST(RecoveryTest, AnotherPageSizeIsRejectedByNameAndChangesNothing) {
  TempDir dir;
  Options options;
  options.log_memory_bytes = 4 << 20;
  options.page_bytes = 128 << 10;
  {
    auto store = Must(U64Store::Open(dir / "db", options));
    Must(store.Upsert(1, 2));
    Must(store.Close());
  }
  const Snapshot before = SnapshotOf(dir / "db");
  options.page_bytes = 64 << 10;
  EXPECT_TRUE(FailsWith(U64Store::Open(dir / "db", options).status(),
                        StatusCode::kFailedPrecondition,
                        "page_bytes is 65536: the store was created with 131072"));
  // Too little memory for the pages that the store has.
  options.page_bytes = 0;
  options.log_memory_bytes = 8 * (128 << 10) - 1;
  EXPECT_TRUE(FailsWith(U64Store::Open(dir / "db", options).status(), StatusCode::kInvalidArgument,
                        "log_memory_bytes"));
  // More index than its tags can be spread over, and more pages than a segment may have.
  options.log_memory_bytes = 4 << 20;
  EXPECT_EQ(SnapshotOf(dir / "db"), before);
  options.segment_bytes = 1 << 20;  // of new stores only
  auto store = Must(U64Store::Open(dir / "db", options));
  EXPECT_EQ(Must(store.Read(1)), 2U);
  EXPECT_EQ(store.Stats().page_bytes, 128U << 10);
}

TEST(RecoveryTest, AnIndexBeyondTheTagsIsRejected) {
  SimFileSystem files;
  { Must(Must(OpenTiny<U64Store>("db", &files)).Upsert(1, 2)); }
  const Snapshot before = SnapshotOf(files, "db");
  Environment environment = TinyEnvironment(&files);
  environment.index_exponent = 1 + 16;
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>("db", environment).status(), StatusCode::kInvalidArgument,
                        "index_bucket_count"));
  EXPECT_EQ(SnapshotOf(files, "db"), before);
  environment.index_exponent = 1 + 15;
  auto store = Must(OpenIn<U64Store>("db", environment));
  EXPECT_EQ(Must(store.Read(1)), 2U);
}

// ---- segment headers ----

using HeaderEdit = std::function<void(std::span<std::byte> block)>;

template <typename T>
HeaderEdit SetField(std::size_t offset, T value) {
  return [=](std::span<std::byte> block) {
    std::memcpy(block.data() + offset, &value, sizeof(value));
  };
}

// Changes the header block of a segment and makes its checksum right again.
void EditHeader(SimFileSystem& files, std::uint64_t segment, const HeaderEdit& edit) {
  std::string block = SnapshotOf(files, "db").at(SegmentFile(segment)).substr(0, 4096);
  const auto bytes = std::as_writable_bytes(std::span(block));
  edit(bytes);
  std::uint64_t store_id = 0;
  std::memcpy(&store_id, block.data() + 16, 8);
  internal::SealBlock(bytes, store_id, ~std::uint64_t{0}, 0);
  Overwrite(files, "db", SegmentFile(segment), 0, block);
}

struct HeaderCase {
  const char* name;
  std::uint64_t segment;
  HeaderEdit edit;
  StatusCode code;
  const char* message;
};

TEST(RecoveryTest, HeadersOfOtherFormatsOrStoresAreRejectedAndLeftAlone) {
  const HeaderCase cases[] = {
      {"format version", 0, SetField<std::uint32_t>(8, 1), StatusCode::kUnimplemented,
       "format version 1, but this library reads format version 2"},
      {"format version 0", 0, SetField<std::uint32_t>(8, 0), StatusCode::kUnimplemented,
       "format version 0"},
      {"feature", 0, SetField<std::uint64_t>(72, 0x10), StatusCode::kUnimplemented, "0x10"},
      {"feature of a later segment", 1, SetField<std::uint64_t>(72, 1), StatusCode::kUnimplemented,
       "log-00000001.ebb"},
      {"magic", 0, SetField<std::uint64_t>(0, 1), StatusCode::kDataLoss, "log-00000000.ebb at"},
      {"hash version", 0, SetField<std::uint32_t>(56, 77), StatusCode::kDataLoss,
       "log-00000001.ebb at offset 0"},  // it is not that of the other files
      {"hash seed", 1, SetField<std::uint64_t>(88, 77), StatusCode::kDataLoss, "log-00000001.ebb"},
      {"key type", 1, SetField<std::uint64_t>(104, 77), StatusCode::kDataLoss, "log-00000001.ebb"},
      {"page shift", 0, SetField<std::uint32_t>(40, 11), StatusCode::kDataLoss, "out of range"},
      {"page shift", 0, SetField<std::uint32_t>(40, 27), StatusCode::kDataLoss, "out of range"},
      {"no segment blocks", 0, SetField<std::uint64_t>(32, 0), StatusCode::kDataLoss,
       "out of range"},
      {"segment blocks", 0, SetField<std::uint64_t>(32, ~std::uint64_t{0}), StatusCode::kDataLoss,
       "out of range"},
      {"no key", 0, SetField<std::uint32_t>(48, 0), StatusCode::kDataLoss, "out of range"},
      {"no value", 0, SetField<std::uint32_t>(52, 0), StatusCode::kDataLoss, "out of range"},
      {"index exponent", 0, SetField<std::uint32_t>(64, 34), StatusCode::kDataLoss, "out of range"},
      {"first block", 1, SetField<std::uint64_t>(24, 0), StatusCode::kDataLoss,
       "log-00000001.ebb at offset 0"},
      {"store id", 1, SetField<std::uint64_t>(16, 4711), StatusCode::kDataLoss,
       "log-00000001.ebb at offset 0"},
      {"store id of all blocks", 0, SetField<std::uint64_t>(16, 4711), StatusCode::kDataLoss,
       "log-0000000"},
  };
  SimFileSystem closed(/*direct=*/false);
  {
    auto store = Must(OpenTiny<U64Store>("db", &closed));
    for (std::uint64_t i = 0; i < 6000; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  for (const HeaderCase& row : cases) {
    SCOPED_TRACE(row.name);
    const std::unique_ptr<SimFileSystem> files = closed.Kill();
    EditHeader(*files, row.segment, row.edit);
    const Snapshot before = SnapshotOf(*files, "db");
    EXPECT_TRUE(FailsWith(OpenTiny<U64Store>("db", files.get()).status(), row.code, row.message));
    EXPECT_EQ(SnapshotOf(*files, "db"), before);
  }
}

// Files that lost their ends or their beginnings: rejected, and left alone.
TEST(RecoveryTest, TruncatedAndMissingSegmentsAreRejectedAndLeftAlone) {
  SimFileSystem closed(/*direct=*/false);
  {
    auto store = Must(OpenTiny<U64Store>("db", &closed));
    for (std::uint64_t i = 0; i < 9000; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  const Snapshot whole = SnapshotOf(closed, "db");
  ASSERT_GE(whole.size(), 5U) << "lock and four segments";
  std::vector<std::pair<std::string, Snapshot>> cases;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{80}, std::size_t{512},
                                 std::size_t{4095}, std::size_t{4096}, std::size_t{8192}}) {
    for (const std::uint64_t segment : {0, 1}) {
      Snapshot cut = whole;
      cut[SegmentFile(segment)].resize(size);
      cases.emplace_back("segment " + std::to_string(segment) + " of " + std::to_string(size), cut);
    }
  }
  for (const std::uint64_t segment : {0, 1, 2}) {
    Snapshot missing = whole;
    missing.erase(SegmentFile(segment));
    cases.emplace_back("missing " + std::to_string(segment), missing);
    Snapshot zeros = whole;
    std::fill_n(zeros[SegmentFile(segment)].begin(), 4096, '\0');
    cases.emplace_back("blank header " + std::to_string(segment), zeros);
  }
  for (const auto& [name, snapshot] : cases) {
    SCOPED_TRACE(name);
    SimFileSystem files(/*direct=*/false);
    Restore(snapshot, files, "db");
    EXPECT_TRUE(
        FailsWith(OpenTiny<U64Store>("db", &files).status(), StatusCode::kDataLoss, "log-"));
    EXPECT_EQ(SnapshotOf(files, "db"), snapshot);
  }
}

// A store of one segment whose header has become zeros looks at first like a creation that was
// interrupted; but it holds a log, so it must not be taken for one and created again.
TEST(RecoveryTest, AStoreWithABlankHeaderIsNotCreatedAgain) {
  SimFileSystem files(/*direct=*/false);
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 1024;
  {
    auto store = Must(OpenIn<U64Store>("db", environment));
    for (std::uint64_t i = 0; i < 500; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  Overwrite(files, "db", SegmentFile(0), 0, std::string(4096, '\0'));
  const Snapshot before = SnapshotOf(files, "db");
  ASSERT_EQ(before.size(), 3U) << "lock, durable end and one segment";
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>("db", environment).status(), StatusCode::kDataLoss,
                        "log-00000000.ebb at offset 0"));
  EXPECT_EQ(SnapshotOf(files, "db"), before);
}

// A store of one segment whose file lost all but part of its header. (Of a whole number of blocks
// it could be a creation that was interrupted.)
TEST(RecoveryTest, AHeaderThatIsCutOffIsRejectedAndLeftAlone) {
  // A store whose header ends with a zero, so that the header does not show the part cut off last.
  Snapshot whole;
  do {
    SimFileSystem closed(/*direct=*/false);
    Must(Must(OpenTiny<U64Store>("db", &closed)).Upsert(1, 1));
    whole = SnapshotOf(closed, "db");
  } while (whole[SegmentFile(0)][4095] != 0);
  for (const std::size_t size : {1U, 80U, 512U, 4095U}) {
    Snapshot cut = whole;
    cut[SegmentFile(0)].resize(size);
    SimFileSystem files(/*direct=*/false);
    Restore(cut, files, "db");
    EXPECT_TRUE(FailsWith(OpenTiny<U64Store>("db", &files).status(), StatusCode::kDataLoss,
                          "log-00000000.ebb at offset 0"))
        << size;
    EXPECT_EQ(SnapshotOf(files, "db"), cut);
  }
}

// Inside the store, files are named without their directory. A program with several stores needs
// to know which one is damaged, and how to continue.
TEST(RecoveryTest, AnErrorOfOpeningNamesTheStoreAndTheRemedy) {
  SimFileSystem files(/*direct=*/false);
  { Must(Must(OpenTiny<U64Store>("clicks", &files)).Upsert(1, 1)); }
  Overwrite(files, "clicks", SegmentFile(0), 0, std::string(4096, '\0'));
  const absl::Status damaged = OpenTiny<U64Store>("clicks", &files).status();
  EXPECT_TRUE(FailsWith(damaged, StatusCode::kDataLoss, "opening clicks: log-00000000.ebb"));
  EXPECT_TRUE(FailsWith(damaged, StatusCode::kDataLoss, "Options::salvage"));
  // A message that has the path already is not given another one.
  const absl::Status missing = OpenTiny<U64Store>("absent/db", &files).status();
  EXPECT_EQ(missing.message().find("opening"), absl::string_view::npos) << missing;
}

// A segment under the name of another one, alone: no block of it is where it belongs.
TEST(RecoveryTest, ARenamedSegmentIsRejectedAndLeftAlone) {
  SimFileSystem closed(/*direct=*/false);
  {
    auto store = Must(OpenTiny<U64Store>("db", &closed));
    for (std::uint64_t i = 0; i < 6000; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  Snapshot renamed;
  renamed["LOCK"] = "";
  renamed[SegmentFile(0)] = SnapshotOf(closed, "db").at(SegmentFile(1));
  SimFileSystem files(/*direct=*/false);
  Restore(renamed, files, "db");
  EXPECT_TRUE(FailsWith(OpenTiny<U64Store>("db", &files).status(), StatusCode::kDataLoss,
                        "log-00000000.ebb at offset 0"));
  EXPECT_EQ(SnapshotOf(files, "db"), renamed);
}

// A partial restore of a backup may put files of two stores into one directory. None of them is
// taken for the leftovers of a crash and deleted.
TEST(RecoveryTest, FilesOfTwoStoresAreRejectedAndLeftAlone) {
  Snapshot stores[2];
  for (const int i : {0, 1}) {
    SimFileSystem files;
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t k = 0; k < (i == 0 ? 1000U : 9000U); ++k) Must(store.Upsert(k, k + i));
    Must(store.Close());
    stores[i] = SnapshotOf(files, "db");
  }
  Snapshot mixed = stores[1];
  mixed[SegmentFile(0)] = stores[0].at(SegmentFile(0));
  ASSERT_GE(mixed.size(), 4U);
  SimFileSystem files(/*direct=*/false);
  Restore(mixed, files, "db");
  EXPECT_TRUE(FailsWith(OpenTiny<U64Store>("db", &files).status(), StatusCode::kDataLoss, "log-"));
  EXPECT_EQ(SnapshotOf(files, "db"), mixed);
}

// Files of other programs in the directory are ignored.
TEST(RecoveryTest, ForeignFilesAreLeftAlone) {
  TempDir dir;
  const Snapshot foreign = {{"README", "mine"},
                            {"log-1.ebb", "not a segment's name"},
                            {"log-00000000.ebb.bak", "nor this"},
                            {"log-0000000x.ebb", "nor this"}};
  Restore(foreign, dir / "db");
  for (int round = 0; round < 2; ++round) {
    auto store = Must(OpenTiny<U64Store>(dir / "db"));
    Must(store.Upsert(1, 2));
    Must(store.Close());
    const Snapshot now = SnapshotOf(dir / "db");
    for (const auto& [name, bytes] : foreign) EXPECT_EQ(now.at(name), bytes);
  }
}

// ---- stores that were not closed ----

// A copy of the directory, made while the store is open: the last commit, without the writes since
// then.
TEST(RecoveryTest, ACopyOfAnOpenStoreIsItsLastCommit) {
  TempDir dir;
  auto store = Must(OpenTiny<U64Store>(dir / "db"));
  U64Model model;
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, model[i] = i));
  Must(Commit(store));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i * 2, 1));
  Restore(SnapshotOf(dir / "db"), dir / "copy");
  {
    auto copy = Must(OpenTiny<U64Store>(dir / "copy"));
    EXPECT_TRUE(HoldsOnly(copy, model, KeysUpTo(6000)));
    Must(copy.Upsert(1, 77));
    Must(copy.Close());
  }
  auto copy = Must(OpenTiny<U64Store>(dir / "copy"));
  model[1] = 77;
  EXPECT_TRUE(HoldsOnly(copy, model, KeysUpTo(6000)));
}

// Crash after crash: records that the first one made void stay void, although their blocks are
// still in the log below later records.
TEST(RecoveryTest, RecordsThatACrashMadeVoidStayVoid) {
  auto files = std::make_unique<SimFileSystem>();
  U64Model model;
  std::mt19937_64 random(23);
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    {
      auto store = Must(OpenTiny<U64Store>("db", files.get()));
      ASSERT_TRUE(HoldsOnly(store, model, KeysUpTo(1000)));
      for (int commit = 0; commit < round % 3; ++commit) {
        for (int i = 0; i < 200; ++i) {
          const std::uint64_t key = random() % 1000;
          if (random() % 4 == 0) {
            EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
          } else {
            Must(store.Upsert(key, model[key] = random()));
          }
        }
        Must(Commit(store));
      }
      // Lost: enough to be flushed in part.
      for (int i = 0; i < 1500; ++i) Must(store.Upsert(random() % 1000, 1));
      auto after = files->Crash(static_cast<std::uint64_t>(round));
      store = Must(OpenTinyInMemory<U64Store>());  // releases the old files
      files = std::move(after);
    }
  }
  auto store = Must(OpenTiny<U64Store>("db", files.get()));
  EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(1000)));
}

// ---- interrupted at any point ----

struct Seeds {
  // The two extremes, and some in between.
  static constexpr std::uint64_t kAll[] = {0, 1, 2, 3, 5, 8, 13, 21};
};

// Opens the files that a crash has left; then again, to see that the first opening changed nothing
// that it should not have; then writes, closes, and opens a third time.
template <typename StoreType, typename Key, typename Value, typename Keys>
testing::AssertionResult SurvivesAndWorks(SimFileSystem& files, Model<Key, Value> model,
                                          const Keys& keys) {
  for (int round = 0; round < 3; ++round) {
    absl::StatusOr<StoreType> store = OpenTiny<StoreType>("db", &files);
    if (!store.ok()) {
      return testing::AssertionFailure()
             << "opening " << round << ": " << store.status().ToString();
    }
    testing::AssertionResult holds = HoldsOnly(*store, model, keys);
    if (!holds) return holds << ", opening " << round;
    if (round == 1) {
      for (const Key& key : keys) {
        if (const absl::Status status = store->Upsert(key, model[key] = Value{}); !status.ok()) {
          return testing::AssertionFailure() << status.ToString();
        }
      }
    }
    if (const absl::Status status = store->Close(); !status.ok()) {
      return testing::AssertionFailure() << status.ToString();
    }
  }
  return testing::AssertionSuccess();
}

// A power loss at any point of a creation leaves nothing, or an empty store; in either case the
// store can be created and used.
TEST(RecoveryTest, AnInterruptedCreationCanBeRepeated) {
  SimFileSystem files;
  { auto store = Must(OpenTiny<U64Store>("db", &files)); }
  ASSERT_GE(files.CallCount(), 5U);
  for (std::size_t call = 0; call <= files.CallCount(); ++call) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      if (!IsInSample(call * 40 + seed)) continue;
      const std::unique_ptr<SimFileSystem> after = files.CrashAt(call, seed);
      ASSERT_TRUE(SurvivesAndWorks<U64Store>(*after, U64Model(), KeysUpTo(50)))
          << "crash after call " << call << " with seed " << seed;
    }
  }
}

// A store with some history: closed, reopened, written without a commit, and left by its process.
// The last commit ends at a segment's end if `at_segment_end`.
struct History {
  std::unique_ptr<SimFileSystem> files = std::make_unique<SimFileSystem>();
  U64Model model;

  explicit History(bool at_segment_end) {
    {
      auto store = Must(OpenTiny<U64Store>("db", files.get()));
      for (std::uint64_t i = 0; i < 500; ++i) Must(store.Upsert(i, model[i] = i));
      Must(store.Close());
    }
    auto store = Must(OpenTiny<U64Store>("db", files.get()));
    for (std::uint64_t i = 250; i < 600; ++i) Must(store.Upsert(i, model[i] = i * 3));
    Must(Commit(store));
    // A page is a block here, so each commit of one record is one block.
    const auto next_block = [&] {
      return internal::Address(store.Stats().tail_address).value() / kTinyPageBytes;
    };
    while (at_segment_end && next_block() % 16 != 0) {
      Must(store.Rmw(0, [](std::uint64_t& v) { ++v; }));
      ++model[0];
      Must(Commit(store));
    }
    std::unique_ptr<SimFileSystem> left;
    if (!at_segment_end) {
      for (std::uint64_t i = 0; i < 2000; ++i) Must(store.Upsert(i, 1));
    }
    left = files->Kill();
    store = Must(OpenTinyInMemory<U64Store>());
    files = std::move(left);
  }
};

// A power loss at any point of an opening: the next opening finds the same.
TEST(RecoveryTest, AnOpeningInterruptedByAPowerLossCanBeRepeated) {
  for (const bool at_segment_end : {false, true}) {
    const History history(at_segment_end);
    SimFileSystem& files = *history.files;
    const std::size_t first_call = files.CallCount();
    { auto store = Must(OpenTiny<U64Store>("db", &files)); }
    ASSERT_GE(files.CallCount(), first_call + 3);
    for (std::size_t call = first_call; call <= files.CallCount(); ++call) {
      for (const std::uint64_t seed : Seeds::kAll) {
        if (!IsInSample(call + seed)) continue;
        const std::unique_ptr<SimFileSystem> after = files.CrashAt(call, seed);
        ASSERT_TRUE(SurvivesAndWorks<U64Store>(*after, history.model, KeysUpTo(650)))
            << "crash after call " << call << " with seed " << seed
            << (at_segment_end ? ", at a segment's end" : "");
      }
    }
  }
}

// A process was killed between the write of a commit and its sync, so the commit is in the page
// cache only; an opening that shows it must have made it durable before anything that relies on it.
// A power loss at any point of that opening leaves this commit or the one before.
TEST(RecoveryTest, TheStateThatAnOpeningShowsIsDurable) {
  SimFileSystem written;
  U64Model before;
  U64Model after;
  {
    FaultFileSystem faults(written);
    auto store = Must(OpenTiny<U64Store>("db", &faults));
    for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, before[i] = i));
    Must(Commit(store));
    after = before;
    for (std::uint64_t i = 0; i < 4000; i += 2) Must(store.Upsert(i, after[i] = i + 7));
    faults.Arm({.kind = CallKind::kSync, .sticky = true});
    EXPECT_FALSE(Commit(store).ok());  // written, and never synced
    static_cast<void>(store.Close());
  }
  const std::unique_ptr<SimFileSystem> killed = written.Kill();
  const std::size_t first_call = killed->CallCount();
  {
    auto store = Must(OpenTiny<U64Store>("db", killed.get()));
    EXPECT_TRUE(HoldsOnly(store, after, KeysUpTo(4001)));
  }
  std::uint64_t older = 0;
  for (std::size_t call = first_call; call <= killed->CallCount(); ++call) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      if (!IsInSample(call * 12 + seed)) continue;
      const std::unique_ptr<SimFileSystem> crashed = killed->CrashAt(call, seed);
      auto store = OpenTiny<U64Store>("db", crashed.get());
      ASSERT_TRUE(store.ok()) << store.status() << " after call " << call << " with seed " << seed;
      if (HoldsOnly(*store, after, KeysUpTo(4001))) continue;
      ASSERT_TRUE(HoldsOnly(*store, before, KeysUpTo(4001))) << call << " with seed " << seed;
      ASSERT_LT(call, killed->CallCount()) << "the opening had returned; seed " << seed;
      ++older;
    }
  }
  EXPECT_GE(older, 1 / Stride());
}

// Every call of an opening fails in turn, with and without its effect: the opening returns an
// error, and the next one finds the same.
TEST(RecoveryTest, AnOpeningWhoseCallsFailCanBeRepeated) {
  std::uint64_t failures = 0;
  for (const bool at_segment_end : {false, true}) {
    const History history(at_segment_end);
    for (const Effect effect : {Effect::kError, Effect::kErrorAfter}) {
      for (std::uint64_t call = 0;; ++call) {
        if (!IsInSample(call)) continue;
        const std::unique_ptr<SimFileSystem> files = history.files->Kill();
        FaultFileSystem faults(*files);
        faults.Arm({.skip = call, .effect = effect, .error = EIO});
        const absl::Status status = OpenTiny<U64Store>("db", &faults).status();
        if (faults.FiredCount() == 0) break;
        // Only closing, after the store was opened, may fail without an error.
        if (!status.ok()) {
          ++failures;
          EXPECT_TRUE(FailsWith(status, StatusCode::kUnavailable, "errno 5")) << call;
        }
        faults.Disarm();
        ASSERT_TRUE(SurvivesAndWorks<U64Store>(*files, history.model, KeysUpTo(650)))
            << "call " << call << (at_segment_end ? ", at a segment's end" : "");
      }
    }
  }
  EXPECT_GE(failures, 30 / Stride());
}

TEST(RecoveryTest, ACreationWhoseCallsFailCanBeRepeated) {
  std::uint64_t failures = 0;
  for (const int error : {EIO, ENOSPC}) {
    for (std::uint64_t call = 0;; ++call) {
      SimFileSystem files;
      FaultFileSystem faults(files);
      faults.Arm({.skip = call, .error = error});
      const absl::Status status = OpenTiny<U64Store>("db", &faults).status();
      if (faults.FiredCount() == 0) break;
      failures += status.ok() ? 0 : 1;
      faults.Disarm();
      ASSERT_TRUE(SurvivesAndWorks<U64Store>(files, U64Model(), KeysUpTo(50))) << "call " << call;
    }
  }
  EXPECT_GE(failures, 12U);
}

// A killed process may have created the file of the next segment, and nothing in it.
TEST(RecoveryTest, AnEmptyFileOfTheNextSegmentIsTakenOver) {
  const History history(/*at_segment_end=*/true);
  SimFileSystem& files = *history.files;
  const Snapshot before = SnapshotOf(files, "db");
  std::uint64_t next = 0;
  while (before.count(SegmentFile(next)) != 0) ++next;
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{512}, std::size_t{4096}}) {
    SCOPED_TRACE(bytes);
    Snapshot with_file = before;
    with_file[SegmentFile(next)] = std::string(bytes, '\0');
    SimFileSystem restored(/*direct=*/false);
    Restore(with_file, restored, "db");
    EXPECT_TRUE(SurvivesAndWorks<U64Store>(restored, history.model, KeysUpTo(650)));
  }
}

// ---- no space ----

// The device is full at any write of a load: the load stops with an error, continues where it
// stopped once there is room, and loses nothing.
TEST(RecoveryTest, ALoadContinuesAfterNoSpaceAtAnyWrite) {
  std::uint64_t stops = 0;
  for (std::uint64_t write = 2;; ++write) {  // after header and open record
    if (!IsInSample(write)) continue;
    SimFileSystem files;
    FaultFileSystem faults(files);
    U64Model model;
    {
      auto store = Must(OpenTiny<U64Store>("db", &faults));
      faults.Arm({.kind = CallKind::kWrite, .skip = write - 2, .sticky = true, .error = ENOSPC});
      std::uint64_t refusals = 0;
      for (std::uint64_t i = 0; i < 2500; ++i) {
        absl::Status status = store.Upsert(i, model[i] = ~i);
        if (!status.ok()) {
          ++refusals;
          EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "log-"));
          EXPECT_TRUE(IsRecoverable(status));
          EXPECT_FALSE(Must(store.Contains(i)));
          EXPECT_EQ(Must(store.Read(i - 1)), ~(i - 1));
          faults.Disarm();
          status = store.Upsert(i, ~i);
        }
        Must(status);
      }
      stops += refusals;
      if (refusals == 0) {
        // Memory took the rest; Close will say so.
        const absl::Status status = store.Close();
        EXPECT_EQ(status.ok(), faults.FiredCount() == 0);
        faults.Disarm();
      }
      Must(store.Close());
      if (refusals == 0 && faults.FiredCount() == 0) break;
    }
    ASSERT_TRUE(SurvivesAndWorks<U64Store>(files, model, KeysUpTo(2501))) << "write " << write;
  }
  EXPECT_GE(stops, 5 / Stride());
}

// ---- any crash ----

// A run of writes, commits and reopenings; a power loss at every single call of it. The recovered
// state is that of a commit: not older than the last one that had returned, and whole.
TEST(RecoveryTest, APowerLossAtAnyCallLeavesACommittedState) {
  SimFileSystem files;
  struct Point {
    std::size_t calls;  // so many had been made when this state was promised
    U64Model model;
  };
  std::vector<Point> points = {{0, {}}};
  U64Model model;
  std::mt19937_64 random(31);
  for (int opening = 0; opening < 3; ++opening) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (int commit = 0; commit < 4; ++commit) {
      for (int i = 0; i < 250; ++i) {
        const std::uint64_t key = random() % 300;
        if (random() % 5 == 0) {
          EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
        } else {
          Must(store.Upsert(key, model[key] = random()));
        }
      }
      if (commit == 3) continue;  // left to Close
      Must(Commit(store));
      points.push_back({files.CallCount(), model});
    }
    Must(store.Close());
    points.push_back({files.CallCount(), model});
  }
  std::uint64_t newer = 0;
  for (std::size_t call = 0; call <= files.CallCount(); ++call) {
    std::size_t promised = 0;
    while (promised + 1 < points.size() && points[promised + 1].calls <= call) ++promised;
    for (const std::uint64_t seed : {0, 1, 2, 3, 4}) {
      if (!IsInSample(call * 5 + seed)) continue;
      const std::unique_ptr<SimFileSystem> after = files.CrashAt(call, seed);
      auto store = OpenTiny<U64Store>("db", after.get());
      ASSERT_TRUE(store.ok()) << store.status() << " after call " << call << " with seed " << seed;
      testing::AssertionResult holds = HoldsOnly(*store, points[promised].model, KeysUpTo(300));
      if (!holds && promised + 1 < points.size()) {
        // The commit in progress may have been whole already.
        holds = HoldsOnly(*store, points[promised + 1].model, KeysUpTo(300));
        newer += holds ? 1 : 0;
      }
      ASSERT_TRUE(holds) << " after call " << call << " with seed " << seed;
    }
  }
  EXPECT_GE(newer, 1 / Stride());
}

}  // namespace
}  // namespace ebb::test
