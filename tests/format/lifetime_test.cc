// Dead records are no damage: recovery, both verifiers, checkpoints and backups share one
// definition.
//
// Hazard 55: an entry of an image that was right when it was written, and whose records a
// collection has dropped since.
#include "ebb/internal/format/lifetime.h"

#include <cstdint>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::BeginOfFiles;
using internal::Geometry;
using internal::HashIndex;
using internal::IsDead;
using testing::ElementsAre;
using testing::HasSubstr;

static_assert(IsDead(Address(4088), Address(4096)) && !IsDead(Address(4096), Address(4096)));
static_assert(BeginOfFiles(Geometry{}, Address()) == Geometry{}.BlockStart(1));
static_assert(BeginOfFiles(Geometry{}, Address(1 << 20)) == Address(1 << 20));

constexpr std::uint64_t kKeys = 600;        // of a round
constexpr std::uint64_t kKeyStride = 4000;  // from round to round

// A store whose checkpoints and collections alternate, and its expected values.
class LifetimeTest : public testing::Test {
 protected:
  absl::StatusOr<U64Store> Open(internal::FileSystem& files, const std::string& path = "db") {
    internal::Environment environment = TinyEnvironment(&files);
    environment.segment_blocks = 4;
    return OpenIn<U64Store>(path, environment, options_);
  }
  // New keys, and the deletion of the first half of them by tombstones; all on the device, below
  // other keys.
  void Write(U64Store& store) {
    const std::uint64_t first = round_++ * kKeyStride;
    std::uint64_t next = first;
    const auto put = [&] {
      Must(store.Upsert(next, model_[next] = next + round_));
      ++next;
    };
    const internal::HybridLog& log = CoreOf(store).log;
    const auto push_out = [&] {
      for (const Address end = log.tail(); log.safe_head() < end;) put();
    };
    while (next < first + kKeys) put();
    push_out();
    for (std::uint64_t key = first; key < first + kKeys / 2; ++key) {
      Must(store.Delete(key));
      model_.erase(key);
    }
    push_out();
    ASSERT_LT(next, first + kKeyStride);
  }
  // Only the part of the log below the newest checkpoint: that one stays, and its image leads to
  // keys whose tombstones are dropped.
  GcStats CollectBelowCheckpoint(U64Store& store, double target) {
    const std::uint64_t begin = store.Stats().begin_address;
    const std::uint64_t limit = store.ListCheckpoints().back().scan_address - begin;
    const std::uint64_t room = 6 * kTinyPageBytes;
    return Must(store.CollectGarbage(
        {.min_reclaim_bytes = 0,
         .target_utilization = target,
         .pass_bytes = 2 * kTinyPageBytes,
         .progress = [=](const GcStats& now) { return now.scanned_bytes + room < limit; }}));
  }
  void ExpectWhole(U64Store& store) {
    EXPECT_TRUE(Verifies(store));
    EXPECT_TRUE(HoldsSample(store));
  }
  // The directory verifies, and opens with everything.
  void ExpectWhole(internal::FileSystem& files, const std::string& path) {
    EXPECT_TRUE(Verifies(files, path));
    auto store = Open(files, path);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_TRUE(store->recovery().notes.empty());
    EXPECT_NE(store->recovery().checkpoint_id, 0U);
    ExpectWhole(*store);
    Must(store->Close());
    EXPECT_TRUE(Verifies(files, path));
  }
  // Some of the keys of every round; most are on the device.
  testing::AssertionResult HoldsSample(U64Store& store) const {
    for (std::uint64_t key = round_ % 29; key < round_ * kKeyStride; key += 29) {
      const absl::StatusOr<std::uint64_t> value = store.Read(key);
      const auto expected = model_.find(key);
      const bool holds = expected == model_.end() ? absl::IsNotFound(value.status())
                                                  : value.ok() && *value == expected->second;
      if (!holds) return testing::AssertionFailure() << "key " << key << ": " << value.status();
    }
    return testing::AssertionSuccess();
  }

  Options options_ = TinyOptions();
  U64Model model_;
  std::uint64_t round_ = 0;
};

TEST_F(LifetimeTest, AHealthyStoreVerifiesAfterEveryCheckpointAndCollection) {
  struct Variant {
    double target;
    std::uint32_t checkpoints_kept;
  };
  std::uint64_t variant = 0;
  for (const auto& [target, kept] : {Variant{1.0, 1}, Variant{0.95, 3}, Variant{0.9, 2}}) {
    // One variant under sanitizers.
    if (Stride() > 1 && variant++ != Seed() % 3) continue;
    SCOPED_TRACE(testing::Message() << "target " << target << ", " << kept << " kept");
    SimFileSystem files;
    options_.checkpoints_kept = kept;
    model_.clear();
    round_ = 0;
    std::uint64_t passes = 0;
    for (int life = 0; life < (kept == 1 ? 2 : 1); ++life) {
      auto store = Must(Open(files));
      for (int i = 0; i < 2; ++i) {
        Write(store);
        Must(store.Checkpoint());
        const GcStats stats = CollectBelowCheckpoint(store, target);
        passes += stats.new_begin_address > stats.initial_begin_address ? 1 : 0;
        ExpectWhole(store);
        ExpectWhole(*files.Crash(Seed() + static_cast<std::uint64_t>(i)), "db");
        const std::string copy = "copy" + std::to_string(round_);
        Must(store.Backup(copy));
        ExpectWhole(files, copy);
      }
      ExpectWhole(store);
      Must(store.Close());
      EXPECT_TRUE(Verifies(files, "db"));
    }
    EXPECT_GE(passes, 1U);
    ExpectWhole(files, "db");
  }
}

// The story of the bug: 300 keys were put and deleted below a checkpoint, and a collection dropped
// keys and tombstones. The image still had the entries of the tombstones, and Verify called that
// damage.
TEST_F(LifetimeTest, ImageEntriesOfDroppedTombstonesAreDead) {
  SimFileSystem files;
  auto store = Must(Open(files));
  Write(store);
  const CheckpointInfo checkpoint = Must(store.Checkpoint());
  const GcStats stats = CollectBelowCheckpoint(store, 1);
  ASSERT_GT(stats.dropped_records, kKeys / 2);
  ASSERT_LE(stats.new_begin_address, checkpoint.scan_address);
  ASSERT_EQ(store.ListCheckpoints().size(), 1U) << "the checkpoint is used still";
  ExpectWhole(store);
  Must(store.Close());
  ExpectWhole(files, "db");
}

// A manifest that a crash left, older than begin: no opening reads it, so it is not checked.
TEST_F(LifetimeTest, ACheckpointBelowBeginIsDead) {
  SimFileSystem files;
  Snapshot old;
  {
    auto store = Must(Open(files));
    Write(store);
    Must(store.Checkpoint());
    for (auto& [name, bytes] : SnapshotOf(files, "db")) {
      if (name.ends_with("-1.ebb")) old[name] = bytes;
    }
    Write(store);
    Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
    Must(store.Close());
  }
  ASSERT_EQ(old.size(), 2U);
  const internal::OpenedDirectory opened = files.OpenDirectory("db", false);
  for (auto& [name, bytes] : old) {
    ASSERT_NE(opened.directory->Open(name, {.create = true}).file, nullptr);
    Overwrite(files, "db", name, 0, bytes);
  }
  EXPECT_EQ(Must(internal::VerifyFiles(files, "db", {})).checkpoint_count, 1U);
  ExpectWhole(files, "db");
}

// ---- damaged records are not dead ----

TEST_F(LifetimeTest, AChainThatTheIndexHasLostIsReported) {
  SimFileSystem files;
  auto store = Must(Open(files));
  Write(store);
  Must(store.Commit());
  HashIndex& index = CoreOf(store).index;
  const HashIndex::EntrySlot slot = index.Find(TestHash(2 * kKeys / 3));
  ASSERT_FALSE(slot.entry.is_empty());
  slot.word->store(0, std::memory_order_release);
  EXPECT_THAT(Must(store.Verify()).problems, ElementsAre(HasSubstr("is in no chain")));
  slot.word->store(slot.entry.WithAddress(internal::kNoRecord).word(), std::memory_order_release);
  EXPECT_THAT(Must(store.Verify()).problems, ElementsAre(HasSubstr("is in no chain")));
  slot.word->store(slot.entry.word(), std::memory_order_release);
  EXPECT_TRUE(Verifies(store));
}

TEST_F(LifetimeTest, AChainThatAnImageLacksIsReported) {
  SimFileSystem files;
  auto store = Must(Open(files));
  Write(store);
  HashIndex& index = CoreOf(store).index;
  const HashIndex::EntrySlot slot = index.Find(TestHash(2 * kKeys / 3));
  slot.word->store(0, std::memory_order_release);
  const std::uint64_t id = Must(store.Checkpoint()).id;
  slot.word->store(slot.entry.word(), std::memory_order_release);
  const std::string what = "index-" + std::to_string(id) + ".ebb: 1 chains of the log are missing";
  EXPECT_THAT(Must(store.Verify()).problems, ElementsAre(what));
  Must(store.Close());
  EXPECT_THAT(Must(internal::VerifyFiles(files, "db", {})).problems, ElementsAre(what));
}

}  // namespace
}  // namespace ebb::test
