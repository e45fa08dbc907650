// Disk full: stores on disks with a limit, at every size of it.
//
// A load runs until the store says that there is no space; then reads still work, and what was
// committed is safe. Space is made, and the same store goes on where it stopped: nothing that it
// had accepted is lost. The limit may also be met while the store is created or writes a
// checkpoint, but not by a commit, nor by closing: the space of what has been accepted is taken
// before.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
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

}  // namespace
}  // namespace ebb::test
