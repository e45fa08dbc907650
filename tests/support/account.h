// Account: a store that may fail at any call, and the facts that must be true of it afterwards.
//
//   SimFileSystem files;
//   Account account;
//   for (each fault) {
//     workload.run(account, files);  // continues after failures
//     for (const absl::Status& status : account.failures()) ...
//     EXPECT_TRUE(ReopensRight(files, account, 4));
//   }
//
// It records the operations that were accepted (ledger.h), the commits that were acknowledged, and
// the commits that failed but may have become durable. Its calls of the library are in a scope of
// allocation_scope.h, so that memory may run out in them.
//
// Thread safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/ledger.h"
#include "tests/support/sim_file_system.h"

namespace ebb::test {

// A tiny store with few blocks per file.
absl::StatusOr<LedgerStore> OpenLedger(internal::FileSystem& files, const std::string& path = "db");

// A store that could not be closed prints that to stderr, which would be thousands of lines. While
// this object lives those lines are left out, and all others are shown.
class WithoutClosingErrors {
 public:
  WithoutClosingErrors();
  ~WithoutClosingErrors();
  WithoutClosingErrors(const WithoutClosingErrors&) = delete;
  WithoutClosingErrors& operator=(const WithoutClosingErrors&) = delete;

 private:
  static ::ssize_t Show(void*, const char* text, std::size_t count);
  std::FILE* const saved_ = stderr;
};

class Account {
 public:
  // Reopens the store and continues from its state. Steps after a failed opening do nothing.
  void Open(internal::FileSystem& files);
  void Upserts(int count) { Operate(&Ledger::Upserts, count); }
  void Rmws(int count) { Operate(&Ledger::Rmws, count); }
  void Deletes(int count) { Operate(&Ledger::Deletes, count); }
  void AsyncRmws(int count) { Operate(&Ledger::AsyncRmws, count); }
  void BatchUpserts(int count) { Operate(&Ledger::BatchUpserts, count); }
  // Each compares the values read with those that the store must have.
  void AsyncReads();
  void BatchReads();
  void Scan();
  void Commit();
  void Checkpoint();
  // Scans the log once, some blocks at a time.
  void Collect();
  void Grow();
  void Verify();
  // Backs up into a new directory. If the call returns OK, the copy is opened and read.
  void Backup(internal::FileSystem& files);
  // Calls that return no status.
  void Look();
  void Close();
  void Reopen(internal::FileSystem& files);

  // Reads that find their record in memory, or on the device in order, continue.
  testing::AssertionResult ReadsGoOn();

  bool is_open() const { return store_.has_value() && !closed_; }
  bool close_has_failed() const { return store_.has_value() && closed_ && close_failed_; }
  // The files are closed, with or without success, so this cannot be repeated.
  bool has_let_go() { return CoreOf(*store_).files.device == nullptr; }
  bool poisoned() { return store_.has_value() && CoreOf(*store_).health.poisoned(); }
  absl::Status cause() { return CoreOf(*store_).health.status(); }
  const std::vector<absl::Status>& failures() const { return failures_; }
  LedgerStore& store() { return *store_; }
  // A reopening may find this state, with these serials.
  testing::AssertionResult MayBe(const Ledger::State& state, const RecoveryReport& report) const;
  void ReleaseResources();

 private:
  void Note(const absl::Status& status);
  std::optional<std::size_t> Find(const Ledger::State& state, const RecoveryReport& report) const;
  void Operate(absl::Status (Ledger::*operate)(LedgerStore::Session&, int), int count);
  void Promise(const absl::Status& status);
  void Compare(const Ledger::State& state, const char* by);

  std::optional<LedgerStore> store_;
  Ledger ledger_;
  std::size_t acknowledged_ = 0;
  std::vector<std::size_t> uncertain_;  // failed commits since the last good one
  std::vector<absl::Status> failures_;
  int backup_count_ = 0;
  bool closed_ = false;
  bool close_failed_ = false;
};

struct Workload {
  const char* name;
  std::function<void(Account&, internal::FileSystem&)> run;
};
// Commits, checkpoints, collections, reopenings.
std::span<const Workload> Workloads();

// Checks the state after reopenings: after the process alone has ended, and after some power
// losses.
testing::AssertionResult ReopensRight(const SimFileSystem& files, const Account& account,
                                      std::uint64_t power_losses);

}  // namespace ebb::test
