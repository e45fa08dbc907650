// I/O faults: every call of some workloads fails, each in every way.
//
// A workload runs once for each of its calls to the file system and each fault: the call fails, or
// does its work and then reports an error, or moves less than it was asked to; once, or permanently
// from there on. Then
//   - a failed call returns ResourceExhausted or Unavailable, and nothing else fails;
//   - a failed sync or close poisons the store: commits and closes keep failing with the first
//     cause, reads of records in memory continue;
//   - any other fault passes with its cause: the next commit covers everything that was accepted;
//   - acknowledged updates are there after reopening: as the process left them, and after power
//     losses. A commit that failed may be there as well.
//
// Hazards: 28 (errors of the device), 30 (short transfers), 31 (a second sync may lie), 32 (no
// space in mid-flush).
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/account.h"
#include "tests/support/allocation_count.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

bool IsIoFailure(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
}

// ---- faults ----

struct FaultRow {
  const char* name;
  Fault fault;
};

std::vector<FaultRow> Faults() {
  std::vector<FaultRow> rows;
  for (const bool sticky : {false, true}) {
    for (const int error : {EIO, ENOSPC}) {
      rows.push_back({error == EIO ? "EIO" : "ENOSPC", {.sticky = sticky, .error = error}});
      rows.push_back({error == EIO ? "EIO after its work" : "ENOSPC after its work",
                      {.sticky = sticky, .effect = Effect::kErrorAfter, .error = error}});
    }
    // Writes only: a read that moves nothing is the file's end.
    for (const std::size_t short_by : {std::size_t{512}, kAllBytes}) {
      rows.push_back({short_by == 512 ? "short write" : "write that moves nothing",
                      {.kind = CallKind::kWrite,
                       .sticky = sticky,
                       .effect = Effect::kShort,
                       .short_by_bytes = short_by}});
    }
  }
  rows.push_back(
      {"short read", {.kind = CallKind::kRead, .effect = Effect::kShort, .short_by_bytes = 512}});
  rows.push_back({"interrupted", {.error = EINTR}});
  return rows;
}

struct Counts {
  std::uint64_t runs = 0;
  std::uint64_t failed = 0;  // with at least one error reported
  std::uint64_t poisoned = 0;
  std::uint64_t resumed = 0;
  std::uint64_t reopenings = 0;
};

testing::AssertionResult Reopens(const SimFileSystem& files, const Account& account,
                                 Counts& counts) {
  constexpr std::uint64_t kPowerLosses = 4;
  counts.reopenings += kPowerLosses + 1;
  return ReopensRight(files, account, kPowerLosses);
}

// One run with one fault. False when the workload ends before the fault.
bool RunWithFault(const Workload& workload, const FaultRow& row, std::uint64_t call,
                  Counts& counts) {
  SCOPED_TRACE(std::string(workload.name) + ", call " + std::to_string(call) + ": " + row.name +
               (row.fault.sticky ? " from then on" : ""));
  SimFileSystem sim;
  FaultFileSystem files(sim);
  Fault fault = row.fault;
  fault.skip = call;
  files.Arm(fault);
  Account account;
  workload.run(account, files);
  if (files.FiredCount() == 0) return false;
  ++counts.runs;
  counts.failed += account.failures().empty() ? 0 : 1;
  for (const absl::Status& status : account.failures()) {
    EXPECT_TRUE(IsIoFailure(status)) << status;
  }
  EXPECT_TRUE(Reopens(sim, account, counts));

  files.Disarm();
  EXPECT_TRUE(account.ReadsGoOn());
  const std::size_t failures = account.failures().size();
  if (account.is_open()) {
    account.Upserts(3);
    account.Commit();
  } else if (account.close_has_failed()) {
    account.Close();
  }
  if (account.poisoned()) {
    ++counts.poisoned;
    if (account.is_open()) {
      EXPECT_EQ(account.failures().back(), account.cause());
    }
  } else if (!account.close_has_failed() || !account.has_let_go()) {
    EXPECT_EQ(account.failures().size(), failures) << account.failures().back();
    ++counts.resumed;
  }
  account.ReleaseResources();
  EXPECT_TRUE(Reopens(sim, account, counts));
  return true;
}

TEST(IoFaultTest, AnyCallThatFailsLosesNothingThatWasAcknowledged) {
  const WithoutClosingErrors quiet;
  Counts counts;
  const auto stride = static_cast<std::uint64_t>(1 / std::min(1.0, Scale()));
  // Each row begins at another call, lest a stride in step with the workload pass over all syncs.
  std::uint64_t first = Seed();
  for (const Workload& workload : Workloads()) {
    for (const FaultRow& row : Faults()) {
      std::uint64_t call = first++ % stride;
      while (RunWithFault(workload, row, call, counts)) {
        call += stride;
        if (testing::Test::HasFailure()) return;
      }
    }
  }
  std::printf("%llu faults, %llu told of, %llu poisoned the store, %llu passed; %llu reopenings\n",
              static_cast<unsigned long long>(counts.runs),
              static_cast<unsigned long long>(counts.failed),
              static_cast<unsigned long long>(counts.poisoned),
              static_cast<unsigned long long>(counts.resumed),
              static_cast<unsigned long long>(counts.reopenings));
  const auto scaled = [](double least) {
    return static_cast<std::uint64_t>(least * std::min(1.0, Scale()));
  };
  EXPECT_GE(counts.runs, scaled(2000));
  EXPECT_GE(counts.poisoned, scaled(100));
  EXPECT_GE(counts.resumed, scaled(100));
}

// A sync that fails has dropped the dirty pages, and the next one returns OK without them, while
// reads still show them. So nothing is acknowledged after it. A process that reopens the store, and
// reads data from the page cache that may be on no disk, must write that data again before it
// relies on it.
TEST(IoFaultTest, ASyncThatFailsIsNotBelievedLater) {
  const WithoutClosingErrors quiet;
  Counts counts;
  const std::uint64_t stride = Scale() < 1 ? 3 : 1;  // of the seeds
  for (const Workload& workload : Workloads()) {
    for (std::uint64_t sync = 0;; ++sync) {
      if (!IsInSample(sync)) continue;
      bool fired = false;
      for (std::uint64_t seed = (Seed() + sync) % stride; seed < 6; seed += stride) {
        SCOPED_TRACE(std::string(workload.name) + ", sync " + std::to_string(sync) + ", seed " +
                     std::to_string(seed));
        SimFileSystem sim;
        std::unique_ptr<SimFileSystem> left;
        sim.FailNextSync(EIO, seed, sync);
        Account account;
        workload.run(account, sim);
        if (account.failures().empty()) break;  // the fault was never met
        fired = true;
        ++counts.runs;
        counts.poisoned += account.poisoned() ? 1 : 0;
        for (const absl::Status& status : account.failures()) {
          EXPECT_TRUE(FailsWith(status, StatusCode::kUnavailable, "errno 5"));
        }
        EXPECT_TRUE(Reopens(sim, account, counts));

        left = sim.Kill();
        account.ReleaseResources();
        account.Open(*left);
        ASSERT_TRUE(account.is_open()) << account.failures().back();
        EXPECT_TRUE(Reopens(*left, account, counts)) << "what a reopening has shown";
        account.Upserts(2);
        account.Commit();
        EXPECT_TRUE(Reopens(*left, account, counts)) << "what a reopened store has committed";
        if (testing::Test::HasFailure()) return;
      }
      if (!fired) break;
    }
  }
  std::printf("%llu failed syncs, %llu of an open store; %llu reopenings\n",
              static_cast<unsigned long long>(counts.runs),
              static_cast<unsigned long long>(counts.poisoned),
              static_cast<unsigned long long>(counts.reopenings));
  EXPECT_GE(counts.runs, 100 / stride / Stride());
  EXPECT_GE(counts.poisoned, 50 / stride / Stride());
}

// ---- memory ----

// Every allocation of an opening fails in turn: the opening returns the error, and the next one
// finds the same state. On real files, since simulated ones allocate too.
TEST(IoFaultTest, AnOpeningWithoutMemoryCanBeRepeated) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const TempDir dir;
  Ledger ledger;
  {
    auto store = Must(OpenLedger(internal::PosixFileSystem(), dir / "left"));
    auto session = store.NewSession();
    Must(ledger.Upserts(session, 20));
    Must(Commit(store));
    Must(ledger.Deletes(session, 2));
    Must(store.Close());
  }
  const Snapshot left = SnapshotOf(dir / "left");
  const std::string path = dir / "db";
  std::uint64_t failures = 0;
  const std::uint64_t stride = Scale() < 1 ? 4 : 1;
  for (const bool creates : {true, false}) {
    for (std::uint64_t number = 1 + Seed() % stride;; number += stride) {
      SCOPED_TRACE("allocation " + std::to_string(number));
      Restore(creates ? Snapshot() : left, path);
      bool met = false;
      {
        FailAllocation(number);
        const absl::StatusOr<LedgerStore> store = OpenLedger(internal::PosixFileSystem(), path);
        met = FailAllocation(0);
        if (!store.ok()) {
          ++failures;
          EXPECT_TRUE(FailsWith(store.status(), StatusCode::kResourceExhausted));
        }
      }
      if (!met) break;
      auto store = Must(OpenLedger(internal::PosixFileSystem(), path));
      auto session = store.NewSession();
      ASSERT_EQ(Must(ReadLedger(session)), creates ? Ledger::State{} : ledger.After(ledger.size()));
    }
  }
  std::printf("%llu openings without memory\n", static_cast<unsigned long long>(failures));
  EXPECT_GE(failures, 20 / stride);
}

// A thread that waits for it gets the error, nothing is lost, and the next one continues.
TEST(IoFaultTest, JobsAndClosingWithoutMemory) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const TempDir dir;
  const std::string path = dir / "db";
  const std::function<absl::Status(LedgerStore&)> calls[] = {
      [](LedgerStore& store) { return store.Commit(); },
      [](LedgerStore& store) { return store.Checkpoint().status(); },
      [](LedgerStore& store) { return store.GrowIndex(); },
      [](LedgerStore& store) {
        return store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).status();
      },
      [](LedgerStore& store) { return store.Close(); },
  };
  std::uint64_t failures = 0;
  for (const auto& call : calls) {
    for (std::uint64_t number = 1;; ++number) {
      SCOPED_TRACE("allocation " + std::to_string(number));
      Restore(Snapshot(), path);
      Ledger ledger;
      bool met = false;
      {
        auto store = Must(OpenLedger(internal::PosixFileSystem(), path));
        auto session = Must(ledger.OpenSession(store, 0));
        Must(ledger.Upserts(session, 5));
        Must(store.Checkpoint());
        Must(ledger.Upserts(session, 5));
        FailAllocation(number);
        const absl::Status status = call(store);
        met = FailAllocation(0);
        if (!status.ok()) {
          ++failures;
          EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted));
        }
        if (!store.Commit().ok()) Must(store.Close());
        Restore(SnapshotOf(path), dir / "left");
      }
      auto store = Must(OpenLedger(internal::PosixFileSystem(), dir / "left"));
      EXPECT_TRUE(ledger.SerialsAre(store.recovery(), ledger.size()));
      auto session = store.NewSession();
      ASSERT_EQ(Must(ReadLedger(session)), ledger.After(ledger.size()));
      if (!met) break;
    }
  }
  std::printf("%llu calls without memory\n", static_cast<unsigned long long>(failures));
  EXPECT_GE(failures, 30U);
}

}  // namespace
}  // namespace ebb::test
