// Verification of a directory that no process has open.
//
// features.md: Verify() offline on a directory.
#include "ebb/internal/open/offline_verifier.h"

#include <cerrno>
#include <cstdint>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/jobs/backup.h"
#include "ebb/verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::VerifyFiles;
using testing::ElementsAre;
using testing::HasSubstr;

// Three incarnations, two checkpoints, closed.
void MakeStore(internal::FileSystem& files, U64Model& model) {
  for (std::uint64_t life = 0; life < 3; ++life) {
    Options options = TinyOptions();
    options.preallocate_bytes = 0;  // no file without a block
    auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
    for (std::uint64_t i = 0; i < 2000; ++i) Must(store.Upsert(i, model[i] = i * life));
    Must(store.Checkpoint());
    for (std::uint64_t i = 0; i < 300; ++i) Must(store.Upsert(i, model[i] = life));
    Must(store.Close());
  }
}

// Each call in turn: the result is the error, or no problem, since the call was repeated.
TEST(OfflineVerifierTest, LackOfDescriptorsIsNoProblemOfTheStore) {
  SimFileSystem sim;
  U64Model model;
  MakeStore(sim, model);
  for (std::uint64_t call = 0;; ++call) {
    FaultFileSystem files(sim);
    files.Arm({.skip = call, .error = EMFILE});
    const absl::StatusOr<VerifyReport> report = VerifyFiles(files, "db", {});
    if (files.FiredCount() == 0) {
      EXPECT_GT(call, 50U);
      break;
    }
    if (report.ok()) {
      EXPECT_THAT(report->problems, testing::IsEmpty()) << call;
    } else {
      EXPECT_EQ(report.status().code(), StatusCode::kResourceExhausted) << report.status();
    }
  }
}

TEST(OfflineVerifierTest, AWholeStoreHasNoProblemsAndIsLeftAsItIs) {
  SimFileSystem files;
  U64Model model;
  MakeStore(files, model);
  const Snapshot before = SnapshotOf(files, "db");
  std::vector<VerifyProgress> steps;
  const VerifyReport report = Must(VerifyFiles(
      files, "db", {.progress = [&](const VerifyProgress& step) { steps.push_back(step); }}));
  EXPECT_TRUE(report.ok()) << testing::PrintToString(report.problems);
  EXPECT_GE(report.record_count, 3U * 2300);
  EXPECT_GE(report.block_count, report.record_count * 24 / 4080);
  EXPECT_GT(report.entry_count, 1900U);
  EXPECT_EQ(report.checkpoint_count, 2U);
  EXPECT_FALSE(steps.empty());
  EXPECT_EQ(SnapshotOf(files, "db"), before);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_TRUE(Holds(store, model));
}

TEST(OfflineVerifierTest, ACrashLeavesNoProblems) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Must(store.Upsert(i % 700, i));
    if (i % 500 == 0) Must(store.Commit());
  }
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const auto crashed = files.Crash(seed);
    const VerifyReport report = Must(VerifyFiles(*crashed, "db", {}));
    EXPECT_TRUE(report.ok()) << seed << testing::PrintToString(report.problems);
  }
}

TEST(OfflineVerifierTest, WorksOnRealFiles) {
  const TempDir dir;
  {
    auto store = Must(Store<>::Open(dir / "db", {.log_memory_bytes = 1 << 20}));
    for (int i = 0; i < 5000; ++i) Must(store.Upsert("key" + std::to_string(i), "value"));
    Must(store.Close());
  }
  const VerifyReport report = Must(VerifyDirectory(dir / "db"));
  EXPECT_TRUE(report.ok());
  EXPECT_EQ(report.record_count, 5000U);
}

TEST(OfflineVerifierTest, EveryBadBlockIsReported) {
  SimFileSystem files;
  U64Model model;
  MakeStore(files, model);
  for (const std::uint64_t offset : {2 * 4096, 3 * 4096, 9 * 4096}) {
    Overwrite(files, "db", SegmentFile(1), offset + 50, "damage");
  }
  Overwrite(files, "db", SegmentFile(0), 4096 + 10, "damage");
  EXPECT_THAT(Must(VerifyFiles(files, "db", {})).problems,
              ElementsAre(SegmentFile(0) + " at offset 4096: block 0 fails its checksum",
                          SegmentFile(1) + " at offset 8192: block 17 fails its checksum",
                          SegmentFile(1) + " at offset 12288: block 18 fails its checksum",
                          SegmentFile(1) + " at offset 36864: block 24 fails its checksum"));
}

// For each changed byte: a problem is reported, or the store opens with everything it had.
TEST(OfflineVerifierTest, AFlippedBitIsReportedOrDoesNotMatter) {
  SimFileSystem files;
  U64Model model;
  MakeStore(files, model);
  Snapshot whole = SnapshotOf(files, "db");
  whole.erase("LOCK");
  const std::uint64_t block_count = Must(VerifyFiles(files, "db", {})).block_count;
  std::mt19937_64 random(11);
  std::uint64_t told = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    auto file = whole.begin();
    std::advance(file, random() % whole.size());
    const std::size_t at = random() % file->second.size();
    if (!IsInSample(i)) continue;
    Snapshot damaged = whole;
    damaged[file->first][at] = static_cast<char>(file->second[at] ^ (1 << random() % 8));
    SimFileSystem copy;
    Restore(damaged, copy, "db");
    const absl::StatusOr<VerifyReport> report = VerifyFiles(copy, "db", {});
    if (!report.ok() || !report->ok()) {
      ++told;
      continue;
    }
    // Only the blocks after the last commit do not matter, and one block of the durable end, as the
    // other counts.
    std::uint64_t segment = 0;
    if (internal::FileDevice::ParseSegmentName(file->first, segment)) {
      const std::uint64_t block = segment * 16 + (at < 4096 ? 0 : at / 4096 - 1);
      ASSERT_GE(block, block_count) << file->first << " at " << at;
    } else {
      ASSERT_EQ(file->first, internal::kDurableEndName);
    }
    auto store = OpenTiny<U64Store>("db", &copy);
    ASSERT_TRUE(store.ok()) << file->first << " at " << at << ": " << store.status();
    EXPECT_TRUE(store->recovery().notes.empty()) << file->first << " at " << at;
    EXPECT_TRUE(Holds(*store, model)) << file->first << " at " << at;
  }
  EXPECT_GT(told, 250 / Stride());
}

TEST(OfflineVerifierTest, DamagedCheckpointsAreReported) {
  SimFileSystem files;
  U64Model model;
  MakeStore(files, model);
  Overwrite(files, "db", internal::ManifestName(2), 8, "x");
  Overwrite(files, "db", internal::ImageName(3), 4096 * 2 + 8, "x");
  EXPECT_THAT(Must(VerifyFiles(files, "db", {})).problems,
              ElementsAre(HasSubstr(internal::ManifestName(2) + " at offset 0"),
                          HasSubstr(internal::ImageName(3) + " at offset 8192")));
}

TEST(OfflineVerifierTest, AMissingFileIsReported) {
  SimFileSystem files;
  U64Model model;
  MakeStore(files, model);
  ASSERT_EQ(files.OpenDirectory("db", false).directory->Unlink(SegmentFile(0)), 0);
  EXPECT_THAT(Must(VerifyFiles(files, "db", {})).problems,
              ElementsAre(HasSubstr(SegmentFile(0) + " is missing")));
}

TEST(OfflineVerifierTest, ADirectoryWithoutAStoreOrInUseIsRejected) {
  SimFileSystem files;
  EXPECT_TRUE(FailsWith(VerifyFiles(files, "none", {}).status(), StatusCode::kInvalidArgument));
  EXPECT_FALSE(files.OpenDirectory("none", false).directory != nullptr) << "nothing is made";
  static_cast<void>(files.OpenDirectory("empty", true));
  EXPECT_TRUE(FailsWith(VerifyFiles(files, "empty", {}).status(), StatusCode::kInvalidArgument,
                        "no store"));
  auto store = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_TRUE(FailsWith(VerifyFiles(files, "db", {}).status(), StatusCode::kFailedPrecondition,
                        "open already"));
  const internal::OpenedDirectory backup = files.OpenDirectory("half", true);
  static_cast<void>(backup.directory->Open(internal::kUnfinishedBackupName, {.create = true}));
  EXPECT_TRUE(FailsWith(VerifyFiles(files, "half", {}).status(), StatusCode::kFailedPrecondition,
                        "interrupted"));
}

}  // namespace
}  // namespace ebb::test
