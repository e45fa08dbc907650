// History: the calls of fibers to a store and their results, and whether a register for each key
// explains them.
//
// A value is a number whose hexadecimal digits are the operations that it has seen: Upsert and
// InsertIfAbsent number n set it to n, Rmw number n appends the digit n, and CompareExchange number
// n, if the value is the expected one, sets it to the digit n twice. So a value shows the order of
// the updates it is made of, and a lost one is missing.
//
// Explains() searches for an order of the operations on each key (after Wing and Gong, "Testing and
// verifying concurrent objects", 1993). In this order, an operation that ended before another began
// comes first, each operation has the result that it had, and the key ends as given. Keys can be
// checked one by one, because linearizability is local.
//
// ExplainsCrash() requires more. It searches for a prefix of the operations of each session. The
// prefixes contain every operation that had to survive, and none that had not begun. Their effect
// on each key is the state that the crash left. None of their operations comes after a change by an
// operation outside the prefixes. (Nothing is promised of an operation outside them that only read:
// during a commit of version v, an operation of v + 1 may still see the value that a change of v,
// which survives, is about to replace.)
//
// Thread safety: one thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "ebb/internal/values/check.h"

namespace ebb::test {

inline constexpr std::size_t kHistoryKeys = 2;
// The number of each key, or absent.
using KeyStates = std::array<std::optional<std::uint64_t>, kHistoryKeys>;

struct HistoryOp {
  enum class Kind { kRead, kUpsert, kRmw, kDelete, kInsert, kCompareExchange };
  enum class Result { kPending, kOk, kNotFound, kAlreadyExists, kAborted, kRefused };
  Kind kind = Kind::kRead;
  std::size_t key = 0;
  std::size_t session = 0;
  std::uint64_t number = 0;  // its digit, from 1 on
  std::uint64_t begin = 0;
  std::uint64_t end = ~std::uint64_t{0};
  Result result = Result::kPending;
  std::uint64_t read = 0;    // the value that a read found or a CompareExchange expected
  std::size_t batch = 0;     // not 0: those with the same number are a batch, in this order
  std::uint64_t serial = 0;  // of an asynchronous update, as its callback received it
};

class History {
 public:
  static constexpr std::size_t kMaxOps = 15;  // digits
  using Mask = std::uint32_t;                 // of operations

  struct Crash {
    Mask survives = 0;  // had ended before the commit began
    Mask begun = 0;     // before the crash
    KeyStates states;
    // How many updates of each session the store says that it has kept; empty: it was not asked.
    std::vector<std::uint64_t> serials = {};
  };
  std::size_t session_count() const { return session_count_; }

  // Returns the operation's place.
  std::size_t Begin(std::size_t session, HistoryOp::Kind kind, std::size_t key) {
    HistoryOp op;
    op.kind = kind;
    op.key = key;
    op.session = session;
    op.number = ops_.size() + 1;
    op.begin = ++clock_;
    session_count_ = std::max(session_count_, session + 1);
    ops_.push_back(op);
    EBB_CHECK(ops_.size() <= kMaxOps);
    return ops_.size() - 1;
  }
  void End(std::size_t place, HistoryOp::Result result, std::uint64_t read = 0) {
    ops_[place].end = ++clock_;
    ops_[place].result = result;
    ops_[place].read = read;
  }
  // The result of one that has ended, where it is known later than the end.
  void Amend(std::size_t place, HistoryOp::Result result, std::uint64_t read) {
    ops_[place].result = result;
    ops_[place].read = read;
  }
  const HistoryOp& op(std::size_t place) const { return ops_[place]; }
  void SetBatch(std::size_t place, std::size_t batch) { ops_[place].batch = batch; }
  void SetSerial(std::size_t place, std::uint64_t serial) { ops_[place].serial = serial; }
  std::size_t size() const { return ops_.size(); }
  Mask Begun() const { return (Mask{1} << ops_.size()) - 1; }
  Mask Ended() const {
    Mask mask = 0;
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].result != HistoryOp::Result::kPending) mask |= Mask{1} << i;
    }
    return mask;
  }

  // `last`: nothing when the final values of the keys are unknown.
  bool Explains(const std::optional<KeyStates>& last) const {
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      Search search{.key = key, .last = last};
      if (!Go(search, 0, std::nullopt, false)) return false;
    }
    return true;
  }
  bool ExplainsCrash(const std::optional<KeyStates>& last, const Crash& crash) const {
    return TryPrefixes(last, crash, 0, 0);
  }
  // For messages.
  std::string Describe() const;

 private:
  using State = std::optional<std::uint64_t>;
  struct Search {
    std::size_t key;
    const std::optional<KeyStates>& last;
    const Crash* crash = nullptr;
    Mask kept = 0;                                      // the survivors of the crash, if any
    std::set<std::tuple<Mask, State, bool>> seen = {};  // that led nowhere
  };

  // Each way to keep first operations of the sessions from `session` on, added to `kept` of others.
  bool TryPrefixes(const std::optional<KeyStates>& last, const Crash& crash, std::size_t session,
                   Mask kept) const {
    if (session == session_count_) {
      if ((crash.survives & ~kept) != 0) return false;
      for (std::size_t key = 0; key < kHistoryKeys; ++key) {
        Search search{.key = key, .last = last, .crash = &crash, .kept = kept};
        if (!Go(search, 0, std::nullopt, false)) return false;
      }
      return true;
    }
    if (IsAsynchronous(session)) {
      for (std::size_t i = 0; i < ops_.size(); ++i) {
        if (ops_[i].session != session || ops_[i].serial > crash.serials[session]) continue;
        if ((crash.begun >> i & 1) == 0) return false;
        kept |= Mask{1} << i;
      }
      return TryPrefixes(last, crash, session + 1, kept);
    }
    std::uint64_t updates = 0;
    const auto right = [&] { return crash.serials.empty() || updates == crash.serials[session]; };
    if (right() && TryPrefixes(last, crash, session + 1, kept)) return true;
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].session != session) continue;
      if ((crash.begun >> i & 1) == 0) break;
      kept |= Mask{1} << i;
      if (ops_[i].kind != HistoryOp::Kind::kRead) ++updates;
      if (right() && TryPrefixes(last, crash, session + 1, kept)) return true;
    }
    return false;
  }

  bool IsAsynchronous(std::size_t session) const {
    return std::any_of(ops_.begin(), ops_.end(), [session](const HistoryOp& op) {
      return op.session == session && op.serial != 0;
    });
  }

  // The next operation of an order in which those of `done` have left `state`. `crashed`: one that
  // was not kept has changed it.
  bool Go(Search& search, Mask done, const State& state, bool crashed) const {
    if (!search.seen.insert({done, state, crashed}).second) return false;
    bool all = true;
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].key != search.key || (done >> i & 1) != 0) continue;
      all = false;
      if (!MayBeNext(i, done)) continue;
      State after = state;
      if (!Apply(ops_[i], after)) continue;
      const bool kept = (search.kept >> i & 1) != 0;
      if (kept && crashed) continue;
      const bool crashes = search.crash != nullptr && !kept && !crashed && after != state;
      if (crashes && state != search.crash->states[search.key]) continue;
      if (Go(search, done | Mask{1} << i, after, crashed || crashes)) return true;
    }
    if (!all) return false;
    if (search.crash != nullptr && !crashed && state != search.crash->states[search.key]) {
      return false;
    }
    return !search.last.has_value() || state == (*search.last)[search.key];
  }
  bool MayBeNext(std::size_t place, Mask done) const {
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].key == ops_[place].key && (done >> i & 1) == 0 && i != place &&
          (ops_[i].end < ops_[place].begin ||
           (i < place && ops_[i].batch != 0 && ops_[i].batch == ops_[place].batch))) {
        return false;
      }
    }
    return true;
  }
  // False when the operation cannot have had its result here.
  static bool Apply(const HistoryOp& op, State& state) {
    using Kind = HistoryOp::Kind;
    using Result = HistoryOp::Result;
    if (op.result == Result::kRefused) return true;
    switch (op.kind) {
      case Kind::kRead:
        return state.has_value() ? op.result == Result::kOk && op.read == *state
                                 : op.result == Result::kNotFound;
      case Kind::kUpsert:
        state = op.number;
        return op.result == Result::kOk;
      case Kind::kRmw:
        state = state.value_or(0) << 4 | op.number;
        return op.result == Result::kOk;
      case Kind::kDelete: {
        const bool present = state.has_value();
        state.reset();
        return op.result == (present ? Result::kOk : Result::kNotFound);
      }
      case Kind::kInsert: {
        const bool present = state.has_value();
        if (!present) state = op.number;
        return op.result == (present ? Result::kAlreadyExists : Result::kOk);
      }
      case Kind::kCompareExchange: {
        if (!state.has_value()) return op.result == Result::kNotFound;
        const bool same = *state == op.read;
        if (same) state = op.number << 4 | op.number;
        return op.result == (same ? Result::kOk : Result::kAborted);
      }
    }
    return false;
  }

  std::uint64_t clock_ = 0;
  std::size_t session_count_ = 0;
  std::vector<HistoryOp> ops_;
};

inline std::string DescribeStates(const KeyStates& states) {
  std::string text;
  char digits[32];
  for (std::size_t key = 0; key < kHistoryKeys; ++key) {
    if (states[key].has_value()) {
      std::snprintf(digits, sizeof digits, "%llx", static_cast<unsigned long long>(*states[key]));
    }
    text += " key " + std::to_string(key) + (states[key].has_value() ? " = " : " is absent");
    if (states[key].has_value()) text += digits;
  }
  return text;
}

inline std::string History::Describe() const {
  static constexpr const char* kKinds[] = {"Read",   "Upsert",         "Rmw",
                                           "Delete", "InsertIfAbsent", "CompareExchange"};
  static constexpr const char* kResults[] = {"pending", "OK",      "absent",
                                             "present", "aborted", "refused"};
  std::string text;
  for (const HistoryOp& op : ops_) {
    char line[128];
    std::snprintf(line, sizeof line, "\n  %3llu..%-3llu %llx: session %d: %s key %d: %s %llx",
                  static_cast<unsigned long long>(op.begin),
                  static_cast<unsigned long long>(op.end),
                  static_cast<unsigned long long>(op.number), static_cast<int>(op.session),
                  kKinds[static_cast<int>(op.kind)], static_cast<int>(op.key),
                  kResults[static_cast<int>(op.result)], static_cast<unsigned long long>(op.read));
    text += line;
  }
  return text;
}

}  // namespace ebb::test
