#include "tests/support/ledger.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include "tests/support/allocation_scope.h"

namespace ebb::test {

namespace {
std::uint64_t KeyOfTurn(std::uint64_t turn) { return turn * 5 % Ledger::kKeyCount; }
}  // namespace

std::string LedgerValue(std::uint64_t key, std::uint32_t stamp) {
  const std::uint64_t seed = key << 32 | stamp;
  // Longer than the last value of its key, mostly, so that few are updated in place.
  std::string value(800 + stamp % 40 * 16, '\0');
  std::memcpy(value.data(), &seed, 8);
  for (std::size_t at = 8; at + 8 <= value.size(); at += 8) {
    const std::uint64_t word = (seed + at) * 0x9e3779b97f4a7c15;
    std::memcpy(value.data() + at, &word, 8);
  }
  return value;
}

std::uint32_t LedgerStamp(std::uint64_t key, std::string_view value) {
  std::uint32_t stamp = 0;
  if (value.size() >= 8) std::memcpy(&stamp, value.data(), 4);
  return stamp != 0 && value == LedgerValue(key, stamp) ? stamp : 0;
}

void Ledger::Note(std::uint64_t key, std::uint32_t stamp) {
  operations_.push_back({key, stamp, session_});
  now_[key] = stamp;
}

absl::Status Ledger::Upserts(LedgerStore::Session& session, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const auto stamp = static_cast<std::uint32_t>(turn_);
    const std::string value = LedgerValue(key, stamp);
    const absl::Status status = Inside([&] { return session.Upsert(key, value); });
    if (!status.ok()) return status;
    Note(key, stamp);
  }
  return absl::OkStatus();
}

absl::Status Ledger::Rmws(LedgerStore::Session& session, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const auto stamp = static_cast<std::uint32_t>(turn_);
    const std::string before = now_[key] == 0 ? std::string() : LedgerValue(key, now_[key]);
    const std::string after = LedgerValue(key, stamp);
    bool as_expected = true;
    const absl::Status status = Inside([&] {
      return session.Rmw(key, [&](std::string& value) {
        as_expected = value == before;
        value = after;
      });
    });
    if (!status.ok()) return status;
    if (!as_expected) return absl::InternalError("an Rmw met another value");
    Note(key, stamp);
  }
  return absl::OkStatus();
}

absl::Status Ledger::Deletes(LedgerStore::Session& session, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const absl::Status status = Inside([&] { return session.Delete(key); });
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    if (status.ok() != (now_[key] != 0)) return absl::InternalError("a Delete met another state");
    Note(key, 0);
  }
  return absl::OkStatus();
}

// They take effect in the order of the calls that report them, if at all.
absl::Status Ledger::AsyncRmws(LedgerStore::Session& session, int count) {
  absl::Status first;
  int told = 0;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const auto stamp = static_cast<std::uint32_t>(turn_);
    auto edit = [after = LedgerValue(key, stamp)](std::string& value) { value = after; };
    auto done = [this, &first, &told, key, stamp](absl::Status status) {
      const OutsideLibrary outside;
      ++told;
      first.Update(status);
      if (status.ok()) Note(key, stamp);
    };
    Inside([&] { session.RmwAsync(key, std::move(edit), done); });
  }
  Inside([&] { session.CompletePending(); });
  return told == count ? first : absl::InternalError("operations were not told");
}

absl::Status Ledger::BatchUpserts(LedgerStore::Session& session, int count) {
  const auto size = static_cast<std::size_t>(count);
  std::vector<std::uint64_t> keys(size);
  std::vector<std::uint32_t> stamps(size);
  std::vector<std::string> values(size);
  std::vector<absl::Status> results(size);
  for (std::size_t i = 0; i < size; ++i) {
    keys[i] = KeyOfTurn(turn_++);
    stamps[i] = static_cast<std::uint32_t>(turn_);
    values[i] = LedgerValue(keys[i], stamps[i]);
  }
  const std::vector<std::string_view> views(values.begin(), values.end());
  Inside([&] { session.UpsertBatch(keys, views, results); });
  absl::Status first;
  for (std::size_t i = 0; i < size; ++i) {
    first.Update(results[i]);
    if (results[i].ok()) Note(keys[i], stamps[i]);
  }
  return first;
}

absl::StatusOr<LedgerStore::Session> Ledger::OpenSession(LedgerStore& store, std::size_t which) {
  session_ = which;
  auto session = Inside([&] { return store.NewSession(kSessionNames[which]); });
  if (session.ok() && session->serial() != SerialAfter(size(), which)) {
    return absl::InternalError("a session goes on with serial " +
                               std::to_string(session->serial()));
  }
  return session;
}

std::uint64_t Ledger::SerialAfter(std::size_t count, std::size_t which) const {
  std::uint64_t serial = 0;
  for (std::size_t i = 0; i < count; ++i) serial += operations_[i].session == which ? 1 : 0;
  return serial;
}

testing::AssertionResult Ledger::SerialsAre(const RecoveryReport& report, std::size_t count) const {
  for (std::size_t which = 0; which < std::size(kSessionNames); ++which) {
    const auto found = std::find_if(report.sessions.begin(), report.sessions.end(),
                                    [&](auto& s) { return s.name == kSessionNames[which]; });
    const std::uint64_t serial = found == report.sessions.end() ? 0 : found->serial;
    if (serial != SerialAfter(count, which)) {
      return testing::AssertionFailure() << "session '" << kSessionNames[which] << "' has serial "
                                         << serial << ", not " << SerialAfter(count, which);
    }
  }
  return testing::AssertionSuccess();
}

Ledger::State Ledger::After(std::size_t count) const {
  State state{};
  for (std::size_t i = 0; i < count; ++i) state[operations_[i].key] = operations_[i].stamp;
  return state;
}

void Ledger::UndoTo(std::size_t count) {
  now_ = After(count);
  operations_.resize(count);
}

absl::StatusOr<Ledger::State> ReadLedger(LedgerStore::Session& session) {
  Ledger::State state{};
  std::string value;
  for (std::uint64_t key = 0; key < Ledger::kKeyCount; ++key) {
    const absl::Status status = Inside([&] { return session.Read(key, value); });
    if (absl::IsNotFound(status)) continue;
    if (!status.ok()) return status;
    const std::uint32_t stamp = LedgerStamp(key, value);
    if (stamp == 0) {
      return absl::InternalError("wrong value of key " + std::to_string(key));
    }
    state[key] = stamp;
  }
  return state;
}

}  // namespace ebb::test
