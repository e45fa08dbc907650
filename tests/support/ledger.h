// Ledger: a store of few keys in which every write is unique, and what it holds after each of them.
//
//   Ledger ledger;
//   Must(ledger.Upserts(session, 12));
//   Must(ledger.Rmws(session, 3));
//   ...
//   EXPECT_EQ(Must(ReadLedger(session)), ledger.After(15));   // after its first fifteen operations
//
// A state says for each key the stamp of its value, 0 when it is absent. No stamp is given twice,
// whatever is undone. Values prove key and stamp, and fill a quarter of a block, so that a few of
// them turn pages.
//
// An operation that the store refuses leaves no trace in the ledger. Deletes of absent keys count
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

  // So many operations, on keys in turn. The first error ends them; those before it stay.
  absl::Status Upserts(LedgerStore::Session& session, int count);
  absl::Status Rmws(LedgerStore::Session& session, int count);
  absl::Status Deletes(LedgerStore::Session& session, int count);
  // At most kKeyCount at once, on different keys, and all of them, whichever fail.
  absl::Status AsyncRmws(LedgerStore::Session& session, int count);
  absl::Status BatchUpserts(LedgerStore::Session& session, int count);

  // The named session `which` of a store that holds all operations; following ones are made in it.
  // Internal when it does not go on where it should.
  absl::StatusOr<LedgerStore::Session> OpenSession(LedgerStore& store, std::size_t which);
  // How many of the first `count` operations were made in a session.
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

// The value that the operation with this stamp gives to `key`.
std::string LedgerValue(std::uint64_t key, std::uint32_t stamp);
// Of what operation a value of `key` is; 0: of none.
std::uint32_t LedgerStamp(std::uint64_t key, std::string_view value);
// What the store holds; Internal for a value that no operation makes, or the error of the first
// read that failed.
absl::StatusOr<Ledger::State> ReadLedger(LedgerStore::Session& session);

}  // namespace ebb::test
