// Salvage: the result of Options::salvage for a damaged store, and of a crash during it.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSegmentBlocks = 8;

absl::StatusOr<U64Store> Open(internal::FileSystem& files, bool salvage, bool read_only = false) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = kSegmentBlocks;
  Options options = TinyOptions();
  options.preallocate_bytes = 0;
  options.salvage = salvage;
  options.read_only = read_only;
  return OpenIn<U64Store>("db", environment, options);
}

// The values of a store at each of its commits, by the block after the commit.
struct Committed {
  std::uint64_t end_block = 0;
  U64Model model;
};

class SalvageTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kKeyCount = 400;

  // Two lives of some commits each, closed.
  void MakeStore(bool with_checkpoints) {
    U64Model model;
    std::mt19937_64 random(7);
    for (int life = 0; life < 2; ++life) {
      auto store = Must(Open(files_, false));
      committed_.push_back({EndBlockOf(store), model});
      for (int commit = 0; commit < 6; ++commit) {
        for (int i = 0; i < 500; ++i) {
          const std::uint64_t key = random() % kKeyCount;
          Must(store.Upsert(key, model[key] = random()));
        }
        Must(with_checkpoints && commit == 3 ? store.Checkpoint().status() : store.Commit());
        committed_.push_back({EndBlockOf(store), model});
      }
      Must(store.Close());
    }
    whole_ = SnapshotOf(files_, "db");
  }
  static std::uint64_t EndBlockOf(U64Store& store) {
    const internal::HybridLog& log = CoreOf(store).log;
    return log.geometry().BlockOf(log.tail());
  }
  // Of the last commit that ends at or before a block.
  const U64Model& ModelUpTo(std::uint64_t block) const {
    auto after = std::upper_bound(
        committed_.begin(), committed_.end(), block,
        [](std::uint64_t b, const Committed& commit) { return b < commit.end_block; });
    return std::prev(after)->model;
  }
  std::uint64_t end_block() const { return committed_.back().end_block; }
  static std::string FileOf(std::uint64_t block) { return SegmentFile(block / kSegmentBlocks); }
  static std::uint64_t OffsetOf(std::uint64_t block) {
    return (1 + block % kSegmentBlocks) * kBlock;
  }
  Snapshot Damaged(std::uint64_t block) const {
    Snapshot damaged = whole_;
    damaged.at(FileOf(block))[OffsetOf(block) + 99] ^= 4;
    return damaged;
  }
  static std::unique_ptr<SimFileSystem> With(const Snapshot& snapshot) {
    auto files = std::make_unique<SimFileSystem>(/*direct=*/false);
    static_cast<void>(files->OpenDirectory("db", true));
    Restore(snapshot, *files, "db");
    return files;
  }
  static testing::AssertionResult Has(U64Store& store, const U64Model& model) {
    std::vector<std::uint64_t> keys;
    for (std::uint64_t key = 0; key < kKeyCount; ++key) keys.push_back(key);
    return HoldsOnly(store, model, keys);
  }
  // It cannot be opened, is salvaged to `model`, and then is a store like any other.
  static void ExpectSalvaged(const Snapshot& damaged, const U64Model& model,
                             const testing::Matcher<std::vector<std::string>>& notes) {
    const auto files = With(damaged);
    EXPECT_TRUE(FailsWith(Open(*files, false).status(), StatusCode::kDataLoss));
    U64Model longer = model;
    {
      auto store = Must(Open(*files, true));
      EXPECT_THAT(store.recovery().notes, notes);
      EXPECT_TRUE(Has(store, model));
      EXPECT_TRUE(Verifies(store));
      for (std::uint64_t i = 0; i < 300; ++i) Must(store.Upsert(i, longer[i] = i));
      Must(store.Checkpoint());
      Must(store.Close());
    }
    EXPECT_TRUE(Verifies(*files, "db"));
    for (const bool salvage : {true, false}) {
      auto store = Must(Open(*files, salvage));
      EXPECT_THAT(store.recovery().notes, IsEmpty());
      EXPECT_TRUE(Has(store, longer));
    }
  }

  SimFileSystem files_{/*direct=*/false};
  std::vector<Committed> committed_;
  Snapshot whole_;
};

// Each block in turn: the recovered state is that of the last commit before it.
TEST_F(SalvageTest, ADamagedBlockLeavesTheLastCommitBeforeIt) {
  MakeStore(/*with_checkpoints=*/false);
  for (std::uint64_t block = 1; block < end_block(); ++block) {
    SCOPED_TRACE(block);
    ExpectSalvaged(
        Damaged(block), ModelUpTo(block),
        ElementsAre(AllOf(HasSubstr(FileOf(block)), HasSubstr("salvaged"), HasSubstr("bytes"))));
    if (HasFailure()) return;
  }
}

TEST_F(SalvageTest, AReaderSeesTheLastCommitBeforeTheDamageAndChangesNothing) {
  MakeStore(/*with_checkpoints=*/false);
  for (const std::uint64_t block : {std::uint64_t{2}, end_block() / 2, end_block() - 1}) {
    const auto files = With(Damaged(block));
    const Snapshot before = SnapshotOf(*files, "db");
    {
      auto store = Must(Open(*files, /*salvage=*/true, /*read_only=*/true));
      EXPECT_THAT(store.recovery().notes, ElementsAre(HasSubstr("salvaged")));
      EXPECT_TRUE(Has(store, ModelUpTo(block)));
      Must(store.Close());
    }
    EXPECT_EQ(SnapshotOf(*files, "db"), before);
    EXPECT_TRUE(FailsWith(Open(*files, false).status(), StatusCode::kDataLoss));
  }
}

TEST_F(SalvageTest, ALostEndLeavesTheLastCommitThatIsThere) {
  MakeStore(/*with_checkpoints=*/true);
  for (std::uint64_t first = (end_block() - 1) / kSegmentBlocks; first != 0; --first) {
    SCOPED_TRACE(first);
    Snapshot damaged = whole_;
    for (std::uint64_t number = first; damaged.erase(SegmentFile(number)) != 0;) ++number;
    ExpectSalvaged(damaged, ModelUpTo(first * kSegmentBlocks),
                   ElementsAre(HasSubstr(" states that it was durable")));
  }
}

TEST_F(SalvageTest, AMissingFileInBetweenLeavesTheLogBeforeIt) {
  MakeStore(/*with_checkpoints=*/false);
  whole_.erase(SegmentFile(1));
  ExpectSalvaged(whole_, ModelUpTo(kSegmentBlocks), ElementsAre(HasSubstr(SegmentFile(1) + " ")));
}

// An opening with its image does not read there, but sees that the file is missing.
TEST_F(SalvageTest, AMissingFileBelowACheckpointLeavesTheLogBeforeIt) {
  MakeStore(/*with_checkpoints=*/true);
  whole_.erase(SegmentFile(1));
  ExpectSalvaged(whole_, ModelUpTo(kSegmentBlocks), ElementsAre(HasSubstr(SegmentFile(1) + " ")));
}

TEST_F(SalvageTest, AStoreThatIsNotDamagedIsOpenedAsAlways) {
  MakeStore(/*with_checkpoints=*/true);
  auto store = Must(Open(files_, true));
  EXPECT_THAT(store.recovery().notes, IsEmpty());
  EXPECT_NE(store.recovery().checkpoint_id, 0U);
  EXPECT_TRUE(Has(store, committed_.back().model));
}

TEST_F(SalvageTest, NothingToSalvageIsDataLossAndChangesNothing) {
  MakeStore(/*with_checkpoints=*/false);
  Snapshot none = whole_;
  std::erase_if(none, [](const auto& file) { return file.first.starts_with("log-"); });
  Snapshot no_first = whole_;
  no_first.erase(SegmentFile(0));
  for (const Snapshot& damaged : {none, no_first, Damaged(0)}) {
    const auto files = With(damaged);
    EXPECT_TRUE(FailsWith(Open(*files, true).status(), StatusCode::kDataLoss));
    EXPECT_EQ(SnapshotOf(*files, "db"), damaged);
  }
}

// The front of the log has been released since the commit that is kept.
TEST_F(SalvageTest, RecordsThatACollectionHasMovedSinceAreReported) {
  constexpr std::uint64_t kKept = 4000;
  std::uint64_t kept_end = 0;
  {
    auto store = Must(Open(files_, false));
    for (std::uint64_t i = 0; i < kKept; ++i) Must(store.Upsert(i, i));
    Must(store.Commit());
    kept_end = EndBlockOf(store);
    for (std::uint64_t i = kKept; i < 2 * kKept; ++i) Must(store.Upsert(i, i));
    Must(store.CollectGarbage({.min_reclaim_bytes = 0,
                               .target_utilization = 1,
                               .pass_bytes = 4 * kBlock,
                               .progress = [](const GcStats& now) { return now.pass_count < 1; }}));
    const std::uint64_t begin = store.Stats().begin_address;
    ASSERT_GT(begin, kBlock);
    ASSERT_LT(begin, CoreOf(store).log.geometry().BlockStart(kept_end).value());
    Must(store.Close());
    whole_ = SnapshotOf(files_, "db");
  }
  const auto files = With(Damaged(kept_end + 1));
  auto store = Must(Open(*files, true));
  EXPECT_THAT(store.recovery().notes,
              ElementsAre(HasSubstr("damaged"), HasSubstr("garbage was collected")));
  std::uint64_t found = 0;
  for (std::uint64_t key = 0; key < 2 * kKept; ++key) {
    const absl::StatusOr<std::uint64_t> value = store.Read(key);
    if (absl::IsNotFound(value.status())) continue;
    EXPECT_EQ(Must(value), key);
    EXPECT_LT(key, kKept);
    ++found;
  }
  EXPECT_GT(found, 0U);
  EXPECT_LT(found, kKept);
  EXPECT_TRUE(Verifies(store));
}

// A power loss at each call of a salvage: the store is damaged as before, or opens as salvaged.
TEST_F(SalvageTest, ACrashLeavesItToBeSalvagedAgain) {
  MakeStore(/*with_checkpoints=*/true);
  Snapshot lost_end = whole_;
  lost_end.erase(FileOf(end_block() - 1));
  const std::uint64_t middle = committed_[12].end_block + 1;  // behind the last checkpoint
  for (const bool in_the_middle : {false, true}) {
    const Snapshot damaged = in_the_middle ? Damaged(middle) : lost_end;
    const U64Model& model =
        ModelUpTo(in_the_middle ? middle : (end_block() - 1) / kSegmentBlocks * kSegmentBlocks);
    const auto restored = With(damaged);
    SimFileSystem files(restored->DiskAt(restored->CallCount()).Crash(kEverythingSurvives),
                        /*direct=*/false);
    std::size_t opened = 0;
    {
      auto store = Must(Open(files, true));
      opened = files.CallCount();
    }
    bool was_salvaged = false;
    for (std::size_t call = 0; call <= opened; ++call) {
      for (std::uint64_t seed = 0; seed < 4; ++seed) {
        SCOPED_TRACE("call " + std::to_string(call) + ", seed " + std::to_string(seed));
        const auto crashed = files.CrashAt(call, seed);
        absl::StatusOr<U64Store> store = Open(*crashed, false);
        if (store.ok()) {
          was_salvaged = true;
        } else {
          ASSERT_TRUE(FailsWith(store.status(), StatusCode::kDataLoss));
          ASSERT_NE(call, opened);
          store = Open(*crashed, true);
        }
        ASSERT_TRUE(store.ok()) << store.status();
        ASSERT_TRUE(Has(*store, model)) << testing::PrintToString(store->recovery().notes);
      }
    }
    EXPECT_TRUE(was_salvaged);
  }
}

// The kept part may be in the page cache only, from a process that died: the durable end never
// states that it is durable before it is.
TEST_F(SalvageTest, ThePageCacheIsNotBelieved) {
  MakeStore(/*with_checkpoints=*/false);
  const std::uint64_t middle = committed_[9].end_block + 1;
  const auto files = With(Damaged(middle));  // nothing of it is synced
  std::size_t opened = 0;
  {
    auto store = Must(Open(*files, true));
    opened = files->CallCount();
  }
  const auto crashed = files->CrashAt(opened, kNothingSurvives);
  auto store = Must(Open(*crashed, false));
  EXPECT_TRUE(Has(store, ModelUpTo(middle)));
}

}  // namespace
}  // namespace ebb::test
