// Ledger: a store of few keys in which every write is unique, and its contents after each of them.
//
//   Ledger ledger;
//   Must(ledger.Upserts(session, 12));
//   Must(ledger.Rmws(session, 3));
//   ...
//   EXPECT_EQ(Must(ReadLedger(session)), ledger.After(15));   // after its first fifteen operations
//
// A state gives for each key the stamp of its value, 0 if it is absent. No stamp is used twice,
// even after an undo. Values prove key and stamp, and fill a quarter of a block, so that a few of
// them turn pages.
//
// An operation that the store rejects leaves no trace in the ledger. Deletes of absent keys count
// as operations, as they do for the serials of named sessions. Each operation is made in one of two
// sessions, so that states can be compared with their serials:
//
//   auto session = Must(ledger.OpenSession(store, 1));       // named; the serial is as it must be
//   ...
//   EXPECT_TRUE(ledger.SerialsAre(store.recovery(), 15));
//
// Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

using LedgerStore = U64StringStore;

class Ledger {
 public:
  static constexpr std::uint64_t kKeyCount = 12;
  static constexpr const char* kSessionNames[] = {"one", "another"};
  using State = std::array<std::uint32_t, kKeyCount>;

  // Makes `count` operations, on keys in turn. The first error ends them; those before it stay.
  absl::Status Upserts(LedgerStore::Session& session, int count);
  absl::Status Rmws(LedgerStore::Session& session, int count);
  absl::Status Deletes(LedgerStore::Session& session, int count);
  // At most kKeyCount at once, on different keys. All of them are made, even if some fail.
  absl::Status AsyncRmws(LedgerStore::Session& session, int count);
  absl::Status BatchUpserts(LedgerStore::Session& session, int count);

  // Opens the named session `which` of a store that holds all operations; the following ones are
  // made in it. Internal if the session does not continue at the right serial.
  absl::StatusOr<LedgerStore::Session> OpenSession(LedgerStore& store, std::size_t which);
  // Returns how many of the first `count` operations were made in a session.
  std::uint64_t SerialAfter(std::size_t count, std::size_t which) const;
  testing::AssertionResult SerialsAre(const RecoveryReport& report, std::size_t count) const;

  std::size_t size() const { return operations_.size(); }
  // The state after the first `count` operations.
  State After(std::size_t count) const;
  // Forgets all but the first `count`, which a crash has left.
  void UndoTo(std::size_t count);

 private:
  struct Operation {
    std::uint64_t key = 0;
    std::uint32_t stamp = 0;  // 0: a delete
    std::size_t session = 0;
  };
  void Note(std::uint64_t key, std::uint32_t stamp);

  std::vector<Operation> operations_;
  std::uint64_t turn_ = 0;  // operations tried
  std::size_t session_ = 0;
  State now_{};
};

// Returns the value that the operation with this stamp gives to `key`.
std::string LedgerValue(std::uint64_t key, std::uint32_t stamp);
// Returns the stamp of the operation that wrote a value of `key`; 0: none did.
std::uint32_t LedgerStamp(std::uint64_t key, std::string_view value);
// Returns the contents of the store; Internal for a value that no operation writes, or the error of
// the first read that failed.
absl::StatusOr<Ledger::State> ReadLedger(LedgerStore::Session& session);

}  // namespace ebb::test
