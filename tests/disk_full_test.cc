// Disk full: stores on disks with a limit, at every size of it.
//
// A load runs until the store says that there is no space; then reads still work, and what was
// committed is safe. Space is made, and the same store goes on where it stopped: nothing that it
// had accepted is lost. The limit may also be met while the store is created or writes a
// checkpoint, but not by a commit, nor by closing: the space of what has been accepted is taken
// before.
//
// A disk that stays full: callers keep calling, on disks of all sizes. Whatever is rejected, a
// commit succeeds; a collection makes room for updates when there is garbage, also behind a
// checkpoint; deletions and collections empty a disk that is full of live records; openings and
// closings use up nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};
constexpr int kOperations = 150;

absl::StatusOr<LedgerStore> Open(SimFileSystem& files) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  return OpenIn<LedgerStore>("db", environment);
}

struct Counts {
  std::uint64_t quotas = 0;
  std::uint64_t creations = 0;  // that were refused
  std::uint64_t writes = 0;
  std::uint64_t commits = 0;
  std::uint64_t checkpoints = 0;
  std::uint64_t closes = 0;
  std::uint64_t unmet = 0;
};

class DiskFullTest : public testing::Test {
 protected:
  void ExpectNoSpace(const absl::Status& status) {
    EXPECT_TRUE(FailsWith(status, absl::StatusCode::kResourceExhausted, ".ebb"));
    EXPECT_TRUE(IsRecoverable(status));
  }
  // What a power loss now leaves is the state after `operations`, or after one of the commits that
  // were tried since.
  void ExpectAfterCrash(const SimFileSystem& files, std::size_t from, std::size_t to) {
    for (const std::uint64_t seed : {0, 1, 2}) {
      const auto crashed = files.Crash(seed);
      auto store = Must(Open(*crashed));
      auto session = store.NewSession();
      const Ledger::State state = Must(ReadLedger(session));
      EXPECT_TRUE(state == ledger_.After(from) || state == ledger_.After(to)) << "seed " << seed;
    }
  }
  void RunWithQuota(std::uint64_t quota_bytes, int commit_every);

  Ledger ledger_;
  Counts counts_;
};

void DiskFullTest::RunWithQuota(std::uint64_t quota_bytes, int commit_every) {
  SCOPED_TRACE("a disk of " + std::to_string(quota_bytes) + ", a commit every " +
               std::to_string(commit_every));
  ++counts_.quotas;
  ledger_ = {};
  SimFileSystem files;
  files.SetCapacityBytes(quota_bytes);
  absl::StatusOr<LedgerStore> opened = Open(files);
  bool met = !opened.ok();
  if (met) {
    ++counts_.creations;
    ExpectNoSpace(opened.status());
    files.SetCapacityBytes(kNoLimit);
    opened = Open(files);
  }
  LedgerStore store = Must(std::move(opened));
  std::size_t committed = 0;
  // A call has failed: nothing is lost, and there is space now.
  const auto meet = [&](const absl::Status& status, LedgerStore::Session& session,
                        std::uint64_t& count) {
    ++count;
    met = true;
    ExpectNoSpace(status);
    EXPECT_EQ(Must(ReadLedger(session)), ledger_.After(ledger_.size()));
    ExpectAfterCrash(files, committed, ledger_.size());
    files.SetCapacityBytes(kNoLimit);
  };
  {
    auto session = store.NewSession();
    for (int i = 0; i < kOperations; ++i) {
      const absl::Status wrote =
          i % 4 == 3 ? ledger_.Rmws(session, 1) : ledger_.Upserts(session, 1);
      if (!wrote.ok()) {
        meet(wrote, session, counts_.writes);
        Must(ledger_.Upserts(session, 1));
      }
      if (i % commit_every != 0) continue;
      if (absl::Status status = Commit(store); !status.ok()) {
        meet(status, session, counts_.commits);
        Must(Commit(store));
        ExpectAfterCrash(files, ledger_.size(), ledger_.size());
      }
      committed = ledger_.size();
      if (i % 3 != 0) continue;
      if (absl::Status status = store.Checkpoint().status(); !status.ok()) {
        meet(status, session, counts_.checkpoints);
        Must(store.Checkpoint());
      }
    }
  }
  if (absl::Status status = store.Close(); !status.ok()) {
    ++counts_.closes;
    met = true;
    ExpectNoSpace(status);
    files.SetCapacityBytes(kNoLimit);
    Must(store.Close());
  }
  counts_.unmet += met ? 0 : 1;
  ExpectAfterCrash(files, ledger_.size(), ledger_.size());
}

TEST_F(DiskFullTest, WritingGoesOnOnceThereIsSpaceWhateverTheLimitWas) {
  const auto step = static_cast<std::uint64_t>(1 / std::min(1.0, Scale()));
  for (const int commit_every : {1, 2, 3, 5, 10, 20, 40, 70}) {
    counts_.unmet = 0;
    for (std::uint64_t blocks = Seed() % step; counts_.unmet == 0 && !HasFailure();
         blocks += step) {
      RunWithQuota(blocks * 4096, commit_every);
    }
  }
  std::printf(
      "%llu limits, met by %llu creations, %llu writes, %llu commits, %llu checkpoints, %llu "
      "closes\n",
      static_cast<unsigned long long>(counts_.quotas),
      static_cast<unsigned long long>(counts_.creations),
      static_cast<unsigned long long>(counts_.writes),
      static_cast<unsigned long long>(counts_.commits),
      static_cast<unsigned long long>(counts_.checkpoints),
      static_cast<unsigned long long>(counts_.closes));
  EXPECT_GE(counts_.quotas, static_cast<std::uint64_t>(500 * std::min(1.0, Scale())));
  EXPECT_GE(counts_.writes, 5U);
  // What was accepted has its space.
  EXPECT_EQ(counts_.commits, 0U);
  EXPECT_EQ(counts_.closes, 0U);
  EXPECT_GE(counts_.checkpoints, 1U);
}

// ---- a disk that stays full ----

struct FullDisk {
  int page_shift = 12;
  std::uint64_t blocks = 0;
  std::uint64_t value_bytes = 0;
  std::uint64_t seed = 0;
};

class FullDiskTest : public testing::Test {
 protected:
  using State = std::map<std::uint64_t, std::string>;

  absl::StatusOr<U64StringStore> TryOpen(SimFileSystem& files) {
    internal::Environment environment = TinyEnvironment(&files);
    environment.page_shift = disk_.page_shift;
    environment.segment_blocks = 64;
    Options options = TinyOptions();
    options.preallocate_bytes = 4096;
    return OpenIn<U64StringStore>("db", environment, options);
  }
  // Not every disk has room for an empty store.
  bool Begin(const FullDisk& disk) {
    disk_ = disk;
    random_.seed(disk.seed);
    model_.clear();
    writes_ = 0;
    files_.emplace();
    files_->SetCapacityBytes(disk.blocks * 4096);
    auto opened = TryOpen(*files_);
    if (!opened.ok()) return false;
    store_.emplace(*std::move(opened));
    return true;
  }
  std::string NewValue() {
    std::string value(disk_.value_bytes / 2 + random_() % (disk_.value_bytes / 2 + 1) + 24, 'v');
    const std::string name = std::to_string(++writes_);
    return value.replace(0, name.size(), name);
  }
  bool Upsert(std::uint64_t key) {
    std::string value = NewValue();
    const absl::Status status = store_->Upsert(key, value);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    if (status.ok()) model_[key] = std::move(value);
    rejections_ += status.ok() ? 0 : 1;
    return status.ok();
  }
  bool Delete(std::uint64_t key) {
    const absl::Status status = store_->Delete(key);
    EXPECT_TRUE(status.ok() || absl::IsNotFound(status) || absl::IsResourceExhausted(status));
    if (status.ok()) model_.erase(key);
    return !absl::IsResourceExhausted(status);
  }
  void Collect() {
    const absl::Status status = store_->CollectGarbage().status();
    EXPECT_TRUE(status.ok()) << status;
  }
  void ExpectModel() {
    ASSERT_TRUE(Holds(*store_, model_));
    std::uint64_t count = 0;
    auto scan = store_->NewScan();
    while (scan.Next()) ++count;
    Must(scan.status());
    EXPECT_EQ(count, model_.size());
  }
  void Reopen() {
    EXPECT_TRUE(store_->Close().ok());
    store_.reset();
    store_.emplace(Must(TryOpen(*files_)));
  }
  std::uint64_t LiveBytes() const {
    std::uint64_t bytes = 0;
    for (const auto& [key, value] : model_) bytes += 40 + value.size();
    return bytes;
  }
  void RunOn(const FullDisk& disk);

  FullDisk disk_;
  std::mt19937_64 random_;
  State model_;
  std::uint64_t writes_ = 0;
  std::uint64_t rejections_ = 0;
  std::uint64_t rescues_ = 0;
  std::optional<SimFileSystem> files_;
  std::optional<U64StringStore> store_;
};

void FullDiskTest::RunOn(const FullDisk& disk) {
  SCOPED_TRACE("a disk of " + std::to_string(disk.blocks) + " blocks, pages of 2^" +
               std::to_string(disk.page_shift) + ", values of " + std::to_string(disk.value_bytes) +
               ", seed " + std::to_string(disk.seed));
  if (!Begin(disk)) return;
  const std::uint64_t keys = 1 + disk.blocks * 4096 / (disk.value_bytes + 64) / 6;
  for (int round = 0; round < 12 && !HasFailure(); ++round) {
    // Until it is full, and on.
    std::uint64_t wants = 40;
    for (std::uint64_t i = 0; wants != 0 && i < 20 * keys + 1000; ++i) {
      if (!Upsert(random_() % keys)) --wants;
      if (random_() % 16 == 0) Delete(random_() % keys);
      if (random_() % 32 == 0) ASSERT_TRUE(Commit(*store_).ok()) << "round " << round;
      if (random_() % 256 == 0) static_cast<void>(store_->Checkpoint());
    }
    ASSERT_TRUE(Commit(*store_).ok()) << "round " << round;
    if (round % 3 == 1) Reopen();
    if (round % 4 == 3) ExpectModel();
    // A third of the disk is live at most.
    bool room = false;
    for (int i = 0; i < 4 && !room; ++i) {
      Collect();
      room = Upsert(random_() % keys);
    }
    EXPECT_TRUE(room) << "round " << round << ", " << LiveBytes() << " live bytes, log of "
                      << store_->Stats().tail_address - store_->Stats().begin_address;
    rescues_ += room ? 1 : 0;
  }
  ASSERT_TRUE(Commit(*store_).ok());
  const auto crashed = files_->Crash(disk.seed);
  store_.reset();
  store_.emplace(Must(TryOpen(*crashed)));
  ExpectModel();
  EXPECT_TRUE(store_->Close().ok());
  store_.reset();
}

TEST_F(FullDiskTest, CommitsGoOnAndCollectionsMakeRoomOnDisksOfAllSizes) {
  const auto step = static_cast<std::uint64_t>(1 / std::clamp(Scale(), 0.05, 1.0));
  std::uint64_t disks = 0;
  for (const int page_shift : {12, 14}) {
    for (const std::uint64_t value_bytes : {40, 900}) {
      for (std::uint64_t blocks = 90 + Seed() % step; blocks < 215 && !HasFailure();
           blocks += step, ++disks) {
        RunOn({page_shift, blocks, value_bytes, Seed() + blocks});
      }
    }
  }
  std::printf("%llu disks, %llu rejections, %llu times room was made\n",
              static_cast<unsigned long long>(disks), static_cast<unsigned long long>(rejections_),
              static_cast<unsigned long long>(rescues_));
  EXPECT_GT(rescues_, disks);
}

TEST_F(FullDiskTest, DeletionsAndCollectionsEmptyADiskOfLiveRecords) {
  for (const std::uint64_t value_bytes : {40, 900}) {
    ASSERT_TRUE(Begin({14, 400, value_bytes, Seed()}));
    std::uint64_t key = 0;
    for (int wants = 100; wants != 0; ++key) wants -= Upsert(key) ? 0 : 1;
    int rounds = 0;
    for (; !model_.empty() && rounds < 150 && !HasFailure(); ++rounds) {
      while (!model_.empty() && Delete(model_.begin()->first)) {
      }
      ASSERT_TRUE(Commit(*store_).ok());
      Collect();
    }
    EXPECT_TRUE(model_.empty()) << model_.size() << " of " << key << " keys are left";
    if (!Upsert(1)) Collect();
    EXPECT_TRUE(Upsert(1));
    ExpectModel();
    EXPECT_TRUE(store_->Close().ok());
    store_.reset();
  }
}

// The image of a new checkpoint has no place on a full disk, and the old one holds the log's front.
TEST_F(FullDiskTest, ACheckpointDoesNotKeepGarbage) {
  ASSERT_TRUE(Begin({14, 600, 100, Seed()}));
  for (std::uint64_t key = 0; key < 3000; ++key) ASSERT_TRUE(Upsert(key));
  Must(store_->Checkpoint());
  for (std::uint64_t i = 0, wants = 100; wants != 0; ++i) {
    wants -= Upsert(i % 100) ? 0 : 1;
    if (i % 50 == 0) ASSERT_TRUE(Commit(*store_).ok());  // or they are changed in place
  }
  Collect();
  EXPECT_TRUE(Upsert(1));
  Must(Commit(*store_));
  Reopen();
  ExpectModel();
  store_.reset();
}

TEST_F(FullDiskTest, OpeningsClosingsAndCallsWithoutEffectUseUpNothing) {
  ASSERT_TRUE(Begin({14, 300, 100, Seed()}));
  { const auto session = Must(store_->NewSession("named")); }
  for (std::uint64_t i = 0, wants = 100; wants != 0; ++i) wants -= Upsert(i) ? 0 : 1;
  Must(Commit(*store_));
  for (int i = 0; i < 300; ++i) Reopen();
  ExpectModel();
  auto session = Must(store_->NewSession("named"));
  int deferred = 0;
  for (int i = 0; i < 300; ++i) {
    EXPECT_FALSE(session.CompareExchange(1, "not this", "nor this").ok());
    const absl::Status status = Commit(*store_);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    deferred += status.ok() ? 0 : 1;
  }
  EXPECT_GT(deferred, 0);
  // Serials that nothing depends on wait for space; deletions still have theirs.
  EXPECT_TRUE(Delete(1));
  EXPECT_TRUE(Commit(*store_).ok());
}

}  // namespace
}  // namespace ebb::test
