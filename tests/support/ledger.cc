#include "tests/support/ledger.h"

#include <algorithm>
#include <cstring>
#include <iterator>

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

void Ledger::Note(std::uint64_t key, std::uint32_t stamp) {
  operations_.push_back({key, stamp, session_});
  now_[key] = stamp;
}

absl::Status Ledger::Upserts(LedgerStore::Session& session, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const auto stamp = static_cast<std::uint32_t>(turn_);
    if (auto status = session.Upsert(key, LedgerValue(key, stamp)); !status.ok()) return status;
    Note(key, stamp);
  }
  return absl::OkStatus();
}

absl::Status Ledger::Rmws(LedgerStore::Session& session, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = KeyOfTurn(turn_++);
    const auto stamp = static_cast<std::uint32_t>(turn_);
    const std::string before = now_[key] == 0 ? std::string() : LedgerValue(key, now_[key]);
    bool as_expected = true;
    const absl::Status status = session.Rmw(key, [&](std::string& value) {
      as_expected = value == before;
      value = LedgerValue(key, stamp);
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
    const absl::Status status = session.Delete(key);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    if (status.ok() != (now_[key] != 0)) return absl::InternalError("a Delete met another state");
    Note(key, 0);
  }
  return absl::OkStatus();
}

absl::StatusOr<LedgerStore::Session> Ledger::OpenSession(LedgerStore& store, std::size_t which) {
  session_ = which;
  auto session = store.NewSession(kSessionNames[which]);
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
    const absl::Status status = session.Read(key, value);
    if (absl::IsNotFound(status)) continue;
    if (!status.ok()) return status;
    std::uint32_t stamp = 0;
    if (value.size() >= 8) std::memcpy(&stamp, value.data(), 4);
    if (stamp == 0 || value != LedgerValue(key, stamp)) {
      return absl::InternalError("wrong value of key " + std::to_string(key));
    }
    state[key] = stamp;
  }
  return state;
}

}  // namespace ebb::test
