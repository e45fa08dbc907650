#include "tests/support/account.h"

#include <unistd.h>

#include <string_view>
#include <utility>

#include "tests/support/allocation_scope.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

absl::StatusOr<LedgerStore> OpenLedger(internal::FileSystem& files, const std::string& path) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  return OpenIn<LedgerStore>(path, environment);
}

WithoutClosingErrors::WithoutClosingErrors() {
  stderr = ::fopencookie(nullptr, "w", {.read = nullptr, .write = Show, .seek = {}, .close = {}});
  EXPECT_NE(stderr, nullptr);
}

WithoutClosingErrors::~WithoutClosingErrors() { std::fclose(std::exchange(stderr, saved_)); }

::ssize_t WithoutClosingErrors::Show(void*, const char* text, std::size_t count) {
  const std::string_view shown(text, count);
  if (shown.find("a destructor could not close the store") != std::string_view::npos) {
    return static_cast<::ssize_t>(count);
  }
  return ::write(STDERR_FILENO, text, count);
}

// ---- steps ----

void Account::Open(internal::FileSystem& files) {
  absl::StatusOr<LedgerStore> opened = Inside([&] { return OpenLedger(files); });
  if (!opened.ok()) return Note(opened.status());
  std::optional<LedgerStore> store(*std::move(opened));
  const absl::StatusOr<Ledger::State> state = [&] {
    auto session = Inside([&] { return store->NewSession(); });
    return ReadLedger(session);
  }();
  std::optional<std::size_t> found;
  if (state.ok()) found = Find(*state, store->recovery());
  if (!found.has_value()) {
    Note(state.ok() ? absl::InternalError("a state that cannot be") : state.status());
    return Inside([&] { store.reset(); });
  }
  ledger_.UndoTo(*found);
  acknowledged_ = *found;
  uncertain_.clear();
  closed_ = false;
  store_.emplace(*std::move(store));
}

void Account::Operate(absl::Status (Ledger::*operate)(LedgerStore::Session&, int), int count) {
  if (!is_open()) return;
  absl::StatusOr<LedgerStore::Session> session = ledger_.OpenSession(*store_, 0);
  if (!session.ok()) return Note(session.status());
  const bool together = operate == &Ledger::AsyncRmws || operate == &Ledger::BatchUpserts;
  for (int i = 0; i < (together ? 1 : count); ++i) {
    Note((ledger_.*operate)(*session, together ? count : 1));
  }
  Inside([&] { static_cast<void>(LedgerStore::Session(*std::move(session))); });
}

void Account::Compare(const Ledger::State& state, const char* by) {
  if (state != ledger_.After(ledger_.size())) {
    Note(absl::InternalError(std::string("another state, by ") + by));
  }
}

void Account::AsyncReads() {
  if (!is_open()) return;
  Ledger::State state{};
  absl::Status status;
  {
    auto session = Inside([&] { return store_->NewSession(); });
    std::uint64_t told = 0;
    for (std::uint64_t key = 0; key < Ledger::kKeyCount; ++key) {
      Inside([&] {
        session.ReadAsync(key, [&, key](absl::StatusOr<std::string> value) {
          const OutsideLibrary outside;
          ++told;
          if (value.ok()) {
            state[key] = LedgerStamp(key, *value);
          } else if (!absl::IsNotFound(value.status())) {
            status.Update(value.status());
          }
        });
      });
    }
    Inside([&] { session.CompletePending(); });
    if (told != Ledger::kKeyCount) status.Update(absl::InternalError("reads were not told"));
  }
  if (status.ok()) return Compare(state, "asynchronous reads");
  Note(status);
}

void Account::BatchReads() {
  if (!is_open()) return;
  Ledger::State state{};
  std::vector<std::uint64_t> keys(Ledger::kKeyCount);
  std::vector<std::string> values(keys.size());
  std::vector<absl::Status> results(keys.size());
  for (std::uint64_t key = 0; key < keys.size(); ++key) keys[key] = key;
  {
    auto session = Inside([&] { return store_->NewSession(); });
    Inside([&] { session.ReadBatch(keys, values, results); });
  }
  absl::Status status;
  for (std::uint64_t key = 0; key < keys.size(); ++key) {
    if (results[key].ok()) {
      state[key] = LedgerStamp(key, values[key]);
    } else if (!absl::IsNotFound(results[key])) {
      status.Update(results[key]);
    }
  }
  if (status.ok()) return Compare(state, "a batch");
  Note(status);
}

void Account::Scan() {
  if (!is_open()) return;
  Ledger::State state{};
  auto scan = Inside([&] { return store_->NewScan(); });
  while (Inside([&] { return scan.Next(); }))
    state[scan.key()] = LedgerStamp(scan.key(), scan.value());
  if (scan.status().ok()) return Compare(state, "a scan");
  Note(scan.status());
}

void Account::Commit() {
  if (is_open()) Promise(Inside([&] { return store_->Commit(); }));
}

void Account::Checkpoint() {
  if (is_open()) Promise(Inside([&] { return store_->Checkpoint().status(); }));
}

void Account::Collect() {
  if (!is_open()) return;
  const auto stats = Inside([&] {
    return store_->CollectGarbage(
        {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 6 * 4096});
  });
  // With nothing to look at there was no commit.
  if (!stats.ok() || stats->pass_count != 0) Promise(stats.status());
}

void Account::Grow() {
  if (is_open()) Note(Inside([&] { return store_->GrowIndex(); }));
}

void Account::Verify() {
  if (!is_open()) return;
  const auto report = Inside([&] { return store_->Verify(); });
  if (!report.ok()) return Note(report.status());
  if (report->problem_count != 0) Note(absl::InternalError("a healthy store has problems"));
}

void Account::Backup(internal::FileSystem& files) {
  if (!is_open()) return;
  const std::string path = "copy" + std::to_string(backup_count_++);
  const auto info = Inside([&] { return store_->Backup(path); });
  if (!info.ok()) {
    uncertain_.push_back(ledger_.size());
    return Note(info.status());
  }
  Promise(absl::OkStatus());
  auto copy = Must(OpenLedger(files, path));
  auto session = copy.NewSession();
  const absl::StatusOr<Ledger::State> state = ReadLedger(session);
  if (!state.ok()) return Note(state.status());
  Compare(*state, "a backup");
}

void Account::Look() {
  if (!store_.has_value()) return;
  const InLibrary in_library;
  static_cast<void>(store_->Stats());
  static_cast<void>(store_->Metrics());
  static_cast<void>(store_->GetCheckpointStats());
  static_cast<void>(store_->GetBackgroundStats());
  static_cast<void>(store_->ListCheckpoints());
  static_cast<void>(store_->ApproximateSize());
}

void Account::Close() {
  if (!store_.has_value()) return;
  closed_ = true;
  close_failed_ = false;
  const absl::Status status = Inside([&] { return store_->Close(); });
  close_failed_ = !status.ok();
  Promise(status);
}

void Account::Reopen(internal::FileSystem& files) {
  Close();
  ReleaseResources();  // of the files, even if the close failed
  Open(files);
}

void Account::ReleaseResources() {
  Inside([&] { store_.reset(); });
}

// ---- the account ----

testing::AssertionResult Account::ReadsGoOn() {
  if (!store_.has_value() || closed_) return testing::AssertionSuccess();
  auto session = store_->NewSession();
  const absl::StatusOr<Ledger::State> state = ReadLedger(session);
  if (!state.ok()) return testing::AssertionFailure() << state.status();
  if (*state != ledger_.After(ledger_.size())) {
    return testing::AssertionFailure() << "another state";
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult Account::MayBe(const Ledger::State& state,
                                        const RecoveryReport& report) const {
  if (Find(state, report).has_value()) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << "not the state of the commit after " << acknowledged_ << " operations, nor after "
         << testing::PrintToString(uncertain_);
}

void Account::Note(const absl::Status& status) {
  if (!status.ok()) failures_.push_back(status);
}

std::optional<std::size_t> Account::Find(const Ledger::State& state,
                                         const RecoveryReport& report) const {
  const auto is = [&](std::size_t count) {
    return state == ledger_.After(count) && ledger_.SerialsAre(report, count);
  };
  if (is(acknowledged_)) return acknowledged_;
  for (const std::size_t count : uncertain_) {
    if (is(count)) return count;
  }
  return std::nullopt;
}

void Account::Promise(const absl::Status& status) {
  if (!status.ok()) {
    uncertain_.push_back(ledger_.size());
    return Note(status);
  }
  acknowledged_ = ledger_.size();
  uncertain_.clear();
}

testing::AssertionResult ReopensRight(const SimFileSystem& files, const Account& account,
                                      std::uint64_t power_losses) {
  for (std::uint64_t after = 0; after <= power_losses; ++after) {
    const auto left = after == power_losses ? files.Kill() : files.Crash(after);
    absl::StatusOr<LedgerStore> store = OpenLedger(*left);
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

// ---- workloads ----

namespace {
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
}  // namespace

std::span<const Workload> Workloads() { return kWorkloads; }

}  // namespace ebb::test
