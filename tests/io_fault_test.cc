// I/O faults: every call of some workloads fails, each in every way.
//
// A workload runs once for each of its calls to the file system and each fault: the call fails, or
// does its work and then reports an error, or moves less than it was asked to; once, or for ever
// from there on. Then
//   - what fails says ResourceExhausted or Unavailable, and nothing else fails;
//   - a failed sync or close poisons the store: commits and closes go on failing with the first
//     cause, reads of what is in memory go on;
//   - any other fault passes with its cause: the next commit covers everything that was accepted;
//   - what a commit has acknowledged is there after reopening: as the process left it, and after
//     power losses. A commit that failed may be there as well.
//
// Hazards: 28 (errors of the device), 30 (short transfers), 31 (a second sync may lie), 32 (no
// space in mid-flush).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
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

absl::StatusOr<LedgerStore> Open(internal::FileSystem& files, const std::string& path = "db") {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  return OpenIn<LedgerStore>(path, environment);
}

bool IsIoFailure(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
}

// A store that could not be closed says so on stderr, which would be thousands of lines here. While
// this lives they are left out, and all others shown.
class WithoutClosingErrors {
 public:
  WithoutClosingErrors() {
    stderr = ::fopencookie(nullptr, "w", {.read = nullptr, .write = Show, .seek = {}, .close = {}});
    EXPECT_NE(stderr, nullptr);
  }
  ~WithoutClosingErrors() { std::fclose(std::exchange(stderr, saved_)); }
  WithoutClosingErrors(const WithoutClosingErrors&) = delete;
  WithoutClosingErrors& operator=(const WithoutClosingErrors&) = delete;

 private:
  static ::ssize_t Show(void*, const char* text, std::size_t count) {
    const std::string_view shown(text, count);
    if (shown.find("closing a store failed") != std::string_view::npos) {
      return static_cast<::ssize_t>(count);
    }
    return ::write(STDERR_FILENO, text, count);
  }

  std::FILE* const saved_ = stderr;
};

// ---- a session with a store that may fail ----

// Does what it can and keeps account: the operations that were accepted, the commits that were
// acknowledged, those that may have come through.
class Account {
 public:
  // Goes on from what is found there. Steps after a failed opening do nothing.
  void Open(internal::FileSystem& files) {
    absl::StatusOr<LedgerStore> opened = test::Open(files);
    if (!opened.ok()) return Note(opened.status());
    auto session = opened->NewSession();
    const absl::StatusOr<Ledger::State> state = ReadLedger(session);
    if (!state.ok()) return Note(state.status());
    const std::optional<std::size_t> found = Find(*state, opened->recovery());
    if (!found.has_value()) return Note(absl::InternalError("a state that cannot be"));
    ledger_.UndoTo(*found);
    acknowledged_ = *found;
    uncertain_.clear();
    closed_ = false;
    store_.emplace(*std::move(opened));
  }
  void Upserts(int count) { Operate(&Ledger::Upserts, count); }
  void Rmws(int count) { Operate(&Ledger::Rmws, count); }
  void Deletes(int count) { Operate(&Ledger::Deletes, count); }
  void Commit() {
    if (is_open()) Promise(store_->Commit());
  }
  void Checkpoint() {
    if (is_open()) Promise(store_->Checkpoint().status());
  }
  // Once through the log, some blocks at a time.
  void Collect() {
    if (!is_open()) return;
    const auto stats = store_->CollectGarbage(
        {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 6 * 4096});
    // With nothing to look at there was no commit.
    if (!stats.ok() || stats->pass_count != 0) Promise(stats.status());
  }
  void Close() {
    if (!store_.has_value()) return;
    closed_ = true;
    close_failed_ = false;
    const absl::Status status = store_->Close();
    close_failed_ = !status.ok();
    Promise(status);
  }
  void Reopen(internal::FileSystem& files) {
    Close();
    store_.reset();  // lets go of the files, whatever came of the close
    Open(files);
  }

  // Reads that find their record in memory, or the device in order, go on.
  testing::AssertionResult ReadsGoOn() {
    if (!store_.has_value() || closed_) return testing::AssertionSuccess();
    auto session = store_->NewSession();
    const absl::StatusOr<Ledger::State> state = ReadLedger(session);
    if (!state.ok()) return testing::AssertionFailure() << state.status();
    if (*state != ledger_.After(ledger_.size()))
      return testing::AssertionFailure() << "another state";
    return testing::AssertionSuccess();
  }

  bool is_open() const { return store_.has_value() && !closed_; }
  bool close_has_failed() const { return store_.has_value() && closed_ && close_failed_; }
  // The files are closed, with or without success: this cannot be repeated.
  bool has_let_go() { return CoreOf(*store_).files.device == nullptr; }
  bool poisoned() { return store_.has_value() && CoreOf(*store_).health.poisoned(); }
  absl::Status cause() { return CoreOf(*store_).health.status(); }
  const std::vector<absl::Status>& failures() const { return failures_; }
  // The state may be found after reopening, with these serials.
  testing::AssertionResult MayBe(const Ledger::State& state, const RecoveryReport& report) const {
    if (Find(state, report).has_value()) return testing::AssertionSuccess();
    return testing::AssertionFailure()
           << "not the state of the commit after " << acknowledged_ << " operations, nor after "
           << testing::PrintToString(uncertain_);
  }
  void LetGo() { store_.reset(); }

 private:
  void Note(absl::Status status) { failures_.push_back(std::move(status)); }
  std::optional<std::size_t> Find(const Ledger::State& state, const RecoveryReport& report) const {
    const auto is = [&](std::size_t count) {
      return state == ledger_.After(count) && ledger_.SerialsAre(report, count);
    };
    if (is(acknowledged_)) return acknowledged_;
    for (const std::size_t count : uncertain_) {
      if (is(count)) return count;
    }
    return std::nullopt;
  }
  void Operate(absl::Status (Ledger::*operate)(LedgerStore::Session&, int), int count) {
    if (!is_open()) return;
    auto session = ledger_.OpenSession(*store_, 0);
    if (!session.ok()) return Note(session.status());
    for (int i = 0; i < count; ++i) {
      if (absl::Status status = (ledger_.*operate)(*session, 1); !status.ok()) Note(status);
    }
  }
  void Promise(const absl::Status& status) {
    if (!status.ok()) {
      uncertain_.push_back(ledger_.size());
      return Note(status);
    }
    acknowledged_ = ledger_.size();
    uncertain_.clear();
  }

  std::optional<LedgerStore> store_;
  Ledger ledger_;
  std::size_t acknowledged_ = 0;
  std::vector<std::size_t> uncertain_;  // failed commits since
  std::vector<absl::Status> failures_;
  bool closed_ = false;
  bool close_failed_ = false;
};

// ---- workloads ----

struct Workload {
  const char* name;
  std::function<void(Account&, internal::FileSystem&)> run;
};

const Workload kWorkloads[] = {
    {"a new store, committed and closed",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.Upserts(10);
       account.Commit();
       account.Rmws(3);
       account.Deletes(2);
       account.Close();
     }},
    {"more than memory, by small commits",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       for (int i = 0; i < 4; ++i) {
         account.Upserts(12);
         account.Commit();
         account.Rmws(2);
         account.Commit();
       }
       account.Upserts(30);
       account.Deletes(3);
       account.Rmws(6);  // from the device, some
       account.Commit();
       account.Close();
     }},
    {"checkpoints, and reopened by them",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.Upserts(12);
       account.Checkpoint();
       account.Rmws(3);
       account.Checkpoint();
       account.Reopen(files);
       account.Upserts(6);
       account.Checkpoint();
       account.Deletes(2);
       account.Close();
     }},
    {"collected, with and without a checkpoint",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.Upserts(40);
       account.Deletes(3);
       account.Collect();
       account.Rmws(3);
       account.Checkpoint();
       account.Upserts(12);
       account.Collect();
       account.Reopen(files);
       account.Upserts(6);
       account.Close();
     }},
    {"reopened twice",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.Upserts(30);
       account.Reopen(files);
       account.Rmws(5);
       account.Commit();
       account.Upserts(12);
       account.Reopen(files);
       account.Deletes(2);
       account.Close();
     }},
};

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
  std::uint64_t failed = 0;  // with at least one error told
  std::uint64_t poisoned = 0;
  std::uint64_t resumed = 0;
  std::uint64_t reopenings = 0;
};

// What every reopening finds: after the process alone has ended, and after power losses.
testing::AssertionResult ReopensRight(const SimFileSystem& files, const Account& account,
                                      Counts& counts) {
  for (int after = 0; after < 5; ++after) {
    const auto left = after == 4 ? files.Kill() : files.Crash(static_cast<std::uint64_t>(after));
    ++counts.reopenings;
    absl::StatusOr<LedgerStore> store = Open(*left);
    if (!store.ok()) return testing::AssertionFailure() << "opening: " << store.status();
    auto session = store->NewSession();
    const absl::StatusOr<Ledger::State> state = ReadLedger(session);
    if (!state.ok()) return testing::AssertionFailure() << "reading: " << state.status();
    if (testing::AssertionResult may_be = account.MayBe(*state, store->recovery()); !may_be)
      return may_be;
    if (absl::Status status = store->Close(); !status.ok()) {
      return testing::AssertionFailure() << "closing: " << status;
    }
  }
  return testing::AssertionSuccess();
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
  EXPECT_TRUE(ReopensRight(sim, account, counts));

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
  account.LetGo();
  EXPECT_TRUE(ReopensRight(sim, account, counts));
  return true;
}

TEST(IoFaultTest, AnyCallThatFailsLosesNothingThatWasAcknowledged) {
  const WithoutClosingErrors quiet;
  Counts counts;
  const auto stride = static_cast<std::uint64_t>(1 / std::min(1.0, Scale()));
  // Each row begins at another call, lest a stride in step with the workload pass over all syncs.
  std::uint64_t first = Seed();
  for (const Workload& workload : kWorkloads) {
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

// A sync that fails has dropped what was dirty, and the next one answers OK without it, while reads
// still show it. So nothing is acknowledged after it; and whoever reopens the store, and reads from
// the page cache what may be on no disk, must not build upon it before it has been written again.
TEST(IoFaultTest, ASyncThatFailsIsNotBelievedLater) {
  const WithoutClosingErrors quiet;
  Counts counts;
  for (const Workload& workload : kWorkloads) {
    for (std::uint64_t sync = 0;; ++sync) {
      bool fired = false;
      for (std::uint64_t seed = 0; seed < 6; ++seed) {
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
        EXPECT_TRUE(ReopensRight(sim, account, counts));

        left = sim.Kill();
        account.LetGo();
        account.Open(*left);
        ASSERT_TRUE(account.is_open()) << account.failures().back();
        EXPECT_TRUE(ReopensRight(*left, account, counts)) << "what a reopening has shown";
        account.Upserts(2);
        account.Commit();
        EXPECT_TRUE(ReopensRight(*left, account, counts)) << "what a reopened store has committed";
        if (testing::Test::HasFailure()) return;
      }
      if (!fired) break;
    }
  }
  std::printf("%llu failed syncs, %llu of an open store; %llu reopenings\n",
              static_cast<unsigned long long>(counts.runs),
              static_cast<unsigned long long>(counts.poisoned),
              static_cast<unsigned long long>(counts.reopenings));
  EXPECT_GE(counts.runs, 100U);
  EXPECT_GE(counts.poisoned, 50U);
}

// ---- memory ----

// Every allocation of an opening fails in turn: the opening says so, and the next one finds what
// was there. On real files, since simulated ones allocate too.
TEST(IoFaultTest, AnOpeningWithoutMemoryCanBeRepeated) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const TempDir dir;
  Ledger ledger;
  {
    auto store = Must(Open(internal::PosixFileSystem(), dir / "left"));
    auto session = store.NewSession();
    Must(ledger.Upserts(session, 20));
    Must(Commit(store));
    Must(ledger.Deletes(session, 2));
    Must(store.Close());
  }
  const Snapshot left = SnapshotOf(dir / "left");
  const std::string path = dir / "db";
  std::uint64_t failures = 0;
  for (const bool creates : {true, false}) {
    for (std::uint64_t number = 1;; ++number) {
      SCOPED_TRACE("allocation " + std::to_string(number));
      Restore(creates ? Snapshot() : left, path);
      bool met = false;
      {
        FailAllocation(number);
        const absl::StatusOr<LedgerStore> store = Open(internal::PosixFileSystem(), path);
        met = FailAllocation(0);
        if (!store.ok()) {
          ++failures;
          EXPECT_TRUE(FailsWith(store.status(), StatusCode::kResourceExhausted));
        }
      }
      if (!met) break;
      auto store = Must(Open(internal::PosixFileSystem(), path));
      auto session = store.NewSession();
      ASSERT_EQ(Must(ReadLedger(session)), creates ? Ledger::State{} : ledger.After(ledger.size()));
    }
  }
  std::printf("%llu openings without memory\n", static_cast<unsigned long long>(failures));
  EXPECT_GE(failures, 20U);
}

// Whoever waits for it hears of it, nothing is lost, and the next one goes on.
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
        auto store = Must(Open(internal::PosixFileSystem(), path));
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
      auto store = Must(Open(internal::PosixFileSystem(), dir / "left"));
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
