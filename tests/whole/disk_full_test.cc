// Disk full: stores on disks with a limit, at every size of it.
//
// A load runs until the store reports that there is no space; then reads still work, and committed
// data is safe. Space is made, and the same store continues where it stopped: nothing that it had
// accepted is lost. The limit may also be met while the store is created or writes a checkpoint,
// but not by a commit, nor by closing: the space of accepted updates is reserved before.
//
// A disk that stays full: callers keep calling, on disks of all sizes. After any rejection, a
// commit succeeds; a collection makes room for updates when there is garbage, also after a
// checkpoint; deletions and collections empty a disk that is full of live records; openings and
// closings use up nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
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

constexpr int kOperations = 150;

absl::StatusOr<LedgerStore> Open(SimFileSystem& files) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  return OpenIn<LedgerStore>("db", environment);
}

class DiskFullTest : public testing::Test {
 protected:
  void ExpectNoSpace(const absl::Status& status) {
    EXPECT_TRUE(FailsWith(status, absl::StatusCode::kResourceExhausted, ".ebb"));
    EXPECT_TRUE(IsRecoverable(status));
  }
  // A power loss now leaves the state after `operations`, or after one of the commits that were
  // tried since.
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

  struct Counts {
    std::uint64_t quotas = 0;
    std::uint64_t creations = 0;  // that were rejected
    std::uint64_t writes = 0;
    std::uint64_t commits = 0;
    std::uint64_t checkpoints = 0;
    std::uint64_t closes = 0;
    std::uint64_t unmet = 0;
  };

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
    files.SetCapacityBytes(SimFileSystem::kNoLimit);
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
    files.SetCapacityBytes(SimFileSystem::kNoLimit);
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
    files.SetCapacityBytes(SimFileSystem::kNoLimit);
    Must(store.Close());
  }
  counts_.unmet += met ? 0 : 1;
  ExpectAfterCrash(files, ledger_.size(), ledger_.size());
}

TEST_F(DiskFullTest, WritingContinuesOnceThereIsSpaceAfterEveryLimit) {
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
  // Accepted updates have their space.
  EXPECT_EQ(counts_.commits, 0U);
  EXPECT_EQ(counts_.closes, 0U);
  EXPECT_GE(counts_.checkpoints, 1U);
}

// ---- a disk that stays full ----

// Why there is no space. kOtherWriter: another program takes most of the blocks that are freed.
enum class Way { kFull, kQuota, kNoHoles, kNoReservations, kFileLimit, kOtherWriter };
constexpr const char* kWays[] = {"full",           "quota",      "no holes",
                                 "no reservation", "file limit", "other writer"};

struct FullDisk {
  Way way = Way::kFull;
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
    environment.segment_blocks = disk_.way == Way::kNoHoles     ? 8
                                 : disk_.way == Way::kFileLimit ? 1024
                                                                : 64;
    Options options = TinyOptions();
    options.preallocate_bytes = 4096;
    options.promote_reads = disk_.seed % 3 == 0;
    if (disk_.seed % 5 == 0) options.durability = Durability::kAlways;
    return OpenIn<U64StringStore>("db", environment, options);
  }
  // Not every disk has room for an empty store.
  bool Begin(const FullDisk& disk) {
    disk_ = disk;
    random_.seed(disk.seed);
    model_.clear();
    writes_ = 0;
    files_.emplace();
    SimFileSystem::SpaceRules rules;
    if (disk.way == Way::kQuota) rules.error = EDQUOT;
    rules.can_punch = disk.way != Way::kNoHoles;
    rules.can_reserve = disk.way != Way::kNoReservations;
    if (disk.way == Way::kFileLimit) {
      rules.max_file_bytes = disk.blocks * 4096;
    } else {
      files_->SetCapacityBytes(disk.blocks * 4096);
    }
    files_->SetSpaceRules(rules);
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
  // Three keys in a row. All of them, or none from the first rejection on.
  void UpsertBatch(std::uint64_t key) {
    const std::string values[] = {NewValue(), NewValue(), NewValue()};
    const std::uint64_t keys[] = {key, key + 1, key + 2};
    const std::string_view views[] = {values[0], values[1], values[2]};
    absl::Status results[3];
    auto session = store_->NewSession();
    static_cast<void>(session.UpsertBatch(keys, views, results));
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(results[i].ok() || absl::IsResourceExhausted(results[i])) << results[i];
      EXPECT_TRUE(i == 0 || results[i - 1].ok() || !results[i].ok()) << "a prefix";
      if (results[i].ok()) model_[keys[i]] = values[i];
      rejections_ += results[i].ok() ? 0 : 1;
    }
  }
  // An update by a named session, whose records commits have to repeat.
  void UpsertNamed(std::uint64_t key) {
    auto session = store_->NewSession("session " + std::to_string(key % 5));
    EXPECT_TRUE(session.ok() || absl::IsResourceExhausted(session.status())) << session.status();
    if (!session.ok()) return;
    std::string value = NewValue();
    const absl::Status status = session->Upsert(key, value);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    if (status.ok()) model_[key] = std::move(value);
    rejections_ += status.ok() ? 0 : 1;
  }
  void ReadNear(std::uint64_t key) {
    const auto found = model_.lower_bound(key);
    if (found != model_.end()) EXPECT_EQ(Must(store_->Read(found->first)), found->second);
  }
  void BackUp() {
    const absl::Status status = store_->Backup("copy " + std::to_string(++writes_)).status();
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
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
    auto opened = TryOpen(*files_);
    if (!opened.ok()) {
      std::fprintf(stderr, "a disk of %llu blocks (%s), pages of 2^%d, values of %llu, seed %llu\n",
                   static_cast<unsigned long long>(disk_.blocks),
                   kWays[static_cast<int>(disk_.way)], disk_.page_shift,
                   static_cast<unsigned long long>(disk_.value_bytes),
                   static_cast<unsigned long long>(disk_.seed));
    }
    store_.emplace(Must(std::move(opened)));
  }
  std::uint64_t LiveBytes() const {
    std::uint64_t bytes = 0;
    for (const auto& [key, value] : model_) bytes += 40 + value.size();
    return bytes;
  }
  // Another program takes all blocks that are free now.
  void TakeFreeSpace() { files_->SetCapacityBytes(files_->UsedBytes()); }
  // Only the store uses the disk now. A file of maximum length stays full after any collection,
  // since the log never reuses a place in it.
  void MakeSpaceOutside() {
    if (disk_.way == Way::kOtherWriter) files_->SetCapacityBytes(disk_.blocks * 4096);
    if (disk_.way == Way::kFileLimit) files_->SetSpaceRules({});
  }
  // For live records, a page for updates and all slices; see hybrid_log.h.
  std::uint64_t BlocksNeeded() {
    const std::uint64_t page = std::uint64_t{1} << (disk_.page_shift - 12);
    const std::uint64_t live = LiveBytes() / 4080 + 2 * page;
    const std::uint64_t waste = CoreOf(*store_).log.space().ForCollection().waste_blocks;
    const auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(waste * live)));
    // Where holes cannot be punched: a file at each end, and the waste in each file of live
    // records.
    const std::uint64_t whole_files = disk_.way == Way::kNoHoles ? 16 + waste * (live / 8 + 1) : 0;
    const std::uint64_t slices = 4 * waste + 8 + 2 * (2 * page + 2 * waste) + 3 * root;
    const std::uint64_t wasted = 3 * waste;                  // by going through all of it
    return live + page + slices + wasted + whole_files + 8;  // headers and small files
  }
  bool MakesRoom(std::uint64_t keys);
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

// A third of the disk is live at most, so a few collections make room.
bool FullDiskTest::MakesRoom(std::uint64_t keys) {
  if (disk_.way == Way::kOtherWriter || disk_.way == Way::kFileLimit) {
    for (int i = 0; i < 3; ++i) {
      Collect();
      if (disk_.way == Way::kOtherWriter) TakeFreeSpace();
      static_cast<void>(Upsert(random_() % keys));
      EXPECT_TRUE(Commit(*store_).ok());
    }
    MakeSpaceOutside();
  }
  for (int i = 0; i < 4; ++i) {
    Collect();
    if (Upsert(random_() % keys)) return true;
  }
  return false;
}

void FullDiskTest::RunOn(const FullDisk& disk) {
  SCOPED_TRACE("a disk of " + std::to_string(disk.blocks) + " blocks, " +
               kWays[static_cast<int>(disk.way)] + ", pages of 2^" +
               std::to_string(disk.page_shift) + ", values of " + std::to_string(disk.value_bytes) +
               ", seed " + std::to_string(disk.seed));
  if (!Begin(disk)) return;
  const std::uint64_t keys = 1 + disk.blocks * 4096 / (disk.value_bytes + 64) / 6;
  const int rounds = disk.way == Way::kFileLimit ? 1 : 12;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    // Until it is full, and on.
    std::uint64_t wants = 40;
    for (std::uint64_t i = 0; wants != 0 && i < 20 * keys + 1000; ++i) {
      if (!Upsert(random_() % keys)) --wants;
      if (random_() % 16 == 0) Delete(random_() % keys);
      if (random_() % 16 == 0) UpsertBatch(random_() % keys);
      if (random_() % 16 == 0) UpsertNamed(random_() % keys);
      if (random_() % 16 == 0) ReadNear(random_() % keys);
      if (disk.way == Way::kOtherWriter && random_() % 16 == 0) TakeFreeSpace();
      if (random_() % 32 == 0) ASSERT_TRUE(Commit(*store_).ok()) << "round " << round;
      if (random_() % 256 == 0) static_cast<void>(store_->Checkpoint());
    }
    ASSERT_TRUE(Commit(*store_).ok()) << "round " << round;
    if (round == 5) BackUp();
    if (round % 3 == 1) Reopen();
    if (round % 4 == 3) ExpectModel();
    const bool has_room = MakesRoom(keys);
    EXPECT_TRUE(has_room || BlocksNeeded() > disk.blocks)
        << "round " << round << ", " << LiveBytes() << " live bytes, log of "
        << store_->Stats().tail_address - store_->Stats().begin_address << ", needs "
        << BlocksNeeded();
    rescues_ += has_room ? 1 : 0;
  }
  ASSERT_TRUE(Commit(*store_).ok());
  const auto crashed = files_->Crash(disk.seed);
  store_.reset();
  store_.emplace(Must(TryOpen(*crashed)));
  ExpectModel();
  EXPECT_TRUE(store_->Close().ok());
  store_.reset();
}

TEST_F(FullDiskTest, CommitsContinueAndCollectionsMakeRoomOnDisksOfAllSizes) {
  const auto step = static_cast<std::uint64_t>(1 / std::clamp(Scale(), 0.02, 1.0));
  for (const Way way : {Way::kFull, Way::kQuota, Way::kNoHoles, Way::kNoReservations,
                        Way::kFileLimit, Way::kOtherWriter}) {
    rejections_ = rescues_ = 0;
    std::uint64_t disks = 0;
    std::uint64_t kind = static_cast<std::uint64_t>(way);
    for (const int page_shift : {12, 14}) {
      for (const std::uint64_t value_bytes : {40, 900}) {
        // Under sanitizers one kind of records and pages for each way.
        if (step >= 50 && (++kind + Seed()) % 4 != 0) continue;
        for (std::uint64_t blocks = 110 + Seed() % step; blocks < 235 && !HasFailure();
             blocks += step, ++disks) {
          RunOn({way, page_shift, blocks, value_bytes, Seed() + blocks});
        }
      }
    }
    std::printf("%s: %llu disks, %llu rejections, %llu times room was made\n",
                kWays[static_cast<int>(way)], static_cast<unsigned long long>(disks),
                static_cast<unsigned long long>(rejections_),
                static_cast<unsigned long long>(rescues_));
    EXPECT_GE(rescues_, disks);
  }
}

TEST_F(FullDiskTest, DeletionsAndCollectionsEmptyADiskOfLiveRecords) {
  for (const std::uint64_t value_bytes : {40, 900}) {
    ASSERT_TRUE(Begin({Way::kFull, 14, 400, value_bytes, Seed()}));
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

// Another program has taken most of the space of the slices while the store was closed. The rest,
// which is less than the slice of the collections, is enough for collections that make room.
TEST_F(FullDiskTest, APartOfASliceIsBetterThanNone) {
  ASSERT_TRUE(Begin({Way::kFull, 14, 400, 100, 1}));
  for (std::uint64_t i = 0, wants = 100; wants != 0; ++i) {
    wants -= Upsert(i % 1000) ? 0 : 1;
    if (i % 500 == 0) ASSERT_TRUE(Commit(*store_).ok());
  }
  EXPECT_TRUE(store_->Close().ok());
  store_.reset();
  files_->SetCapacityBytes(files_->UsedBytes() - std::uint64_t{90} * 4096);
  store_.emplace(Must(TryOpen(*files_)));
  EXPECT_FALSE(Upsert(1));
  EXPECT_GT(CoreOf(*store_).log.space().ForCollection().slice_blocks, 4U);
  for (int i = 0; i < 8 && !Upsert(1); ++i) Collect();
  EXPECT_TRUE(Upsert(1));
  ExpectModel();
  EXPECT_TRUE(store_->Close().ok());
  store_.reset();
}

// Another program takes each block in the moment in which it becomes free. So an opening, which
// cuts off the records without a commit, can only use the space that it still has.
TEST_F(FullDiskTest, AnOpeningNeedsNoSpaceThatItFrees) {
  for (const int page_shift : {12, 14}) {
    ASSERT_TRUE(Begin({Way::kFull, page_shift, 400, 100, 1}));
    State committed;
    std::uint64_t writes = 0;
    for (int wants = 100; wants != 0; ++writes) {
      wants -= Upsert(writes % 1000) ? 0 : 1;
      if (writes % 700 != 0 || wants != 100) continue;
      ASSERT_TRUE(Commit(*store_).ok());
      committed = model_;
    }
    ASSERT_FALSE(committed == model_);
    auto killed = files_->Kill();
    killed->SetCapacityBytes(files_->UsedBytes());
    killed->SetSpaceRules({.is_raced = true});
    store_.reset();
    files_.reset();
    model_ = committed;
    for (int i = 0; i < 10; ++i) {
      auto opened = TryOpen(*killed);
      ASSERT_TRUE(opened.ok()) << opened.status();
      store_.emplace(*std::move(opened));
      ExpectModel();
      if (i % 2 == 0) EXPECT_TRUE(store_->Close().ok());
      if (i != 9) store_.reset();
    }
    EXPECT_FALSE(Upsert(1));
    killed->SetSpaceRules({});
    killed->SetCapacityBytes(std::uint64_t{800} * 4096);
    EXPECT_TRUE(Upsert(1));
    EXPECT_TRUE(Commit(*store_).ok());
    ExpectModel();
    EXPECT_TRUE(store_->Close().ok());
    store_.reset();
  }
}

// The image of a new checkpoint has no place on a full disk, and the old one holds the log's front.
TEST_F(FullDiskTest, ACheckpointDoesNotKeepGarbage) {
  ASSERT_TRUE(Begin({Way::kFull, 14, 600, 100, 5 * (Seed() % 1000000) + 1}));  // not kAlways
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
  ASSERT_TRUE(Begin({Way::kFull, 14, 300, 100, 15 * (Seed() % 1000000) + 3}));  // promotes reads
  {
    auto session = Must(store_->NewSession("named"));
    Must(session.Upsert(1 << 20, model_[1 << 20] = "of a named session"));
  }
  for (std::uint64_t i = 0, wants = 100; wants != 0; ++i) wants -= Upsert(i) ? 0 : 1;
  ASSERT_TRUE(Commit(*store_).ok());
  const int rounds = std::max(40, static_cast<int>(300 * std::min(1.0, 5 * Scale())));
  for (int i = 0; i < rounds && !HasFailure(); ++i) Reopen();
  ExpectModel();
  auto opened = store_->NewSession("named");
  ASSERT_TRUE(opened.ok()) << opened.status();
  auto session = *std::move(opened);
  int deferred = 0;
  for (int i = 0; i < 300; ++i) {
    EXPECT_FALSE(session.CompareExchange(1, "not this", "nor this").ok());
    const absl::Status status = Commit(*store_);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    deferred += status.ok() ? 0 : 1;
  }
  EXPECT_GT(deferred, 0);
  // Serials that nothing depends on wait for space, at Close too; deletions still have theirs.
  deferred = 0;
  for (int i = 0; i < 60; ++i) {
    const absl::Status status = store_->Close();
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    deferred += status.ok() ? 0 : 1;
    store_.reset();
    store_.emplace(Must(TryOpen(*files_)));
    auto again = Must(store_->NewSession("named"));
    EXPECT_FALSE(again.CompareExchange(1, "not this", "nor this").ok());
  }
  EXPECT_GT(deferred, 0);
  EXPECT_TRUE(Delete(1));
  EXPECT_TRUE(Commit(*store_).ok());
  ExpectModel();
}

// ---- addresses, which no collection renews ----

// 1,024 pages of a block each: a store that has used 99 % of its addresses rejects updates. It can
// be read, committed, collected, closed and opened, and says how far it has come.
TEST(AddressSpaceTest, AStoreAtItsEndCanStillBeReadAndCopied) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 64;
  environment.address_bits = 22;
  auto store = Must(OpenIn<U64StringStore>("db", environment));
  std::uint64_t updates = 0;
  absl::Status status;
  const std::string value(1000, 'v');
  double share = 0;
  while ((status = store.Upsert(updates % 50, value)).ok()) {
    ++updates;
    if (updates % 20 == 0) Must(store.Commit());
    if (updates % 500 != 0) continue;
    Must(store.CollectGarbage({.min_reclaim_bytes = 0}));
    EXPECT_GT(store.Stats().address_space_share, share);
    share = store.Stats().address_space_share;
  }
  share = store.Stats().address_space_share;
  EXPECT_TRUE(FailsWith(status, absl::StatusCode::kResourceExhausted, "new store"));
  EXPECT_FALSE(IsRecoverable(status));
  EXPECT_GT(share, 0.985);
  EXPECT_LT(share, 0.995);
  Must(store.Commit());  // or a key could be deleted in place
  EXPECT_TRUE(absl::IsResourceExhausted(store.Delete(1)));
  for (int turn = 0; turn < 2; ++turn) {
    Must(store.Commit());
    EXPECT_EQ(Must(store.Size()), 50U);
    EXPECT_TRUE(Must(store.Verify()).ok());
    Must(store.Close());
    store = Must(OpenIn<U64StringStore>("db", environment));
    ASSERT_EQ(store.recovery().notes.size(), 1U);
    EXPECT_THAT(store.recovery().notes[0], testing::HasSubstr("addresses"));
    EXPECT_FALSE(store.Upsert(1, value).ok());
  }
}

}  // namespace
}  // namespace ebb::test
