// Batches: many operations of one kind at once, so that the lines of memory which one of them
// would wait for are on their way for all. What Session's *Batch calls do.
//
// A group of keys goes through three loops: hash, and ask for the bucket; find the entry, and ask
// for the record; finish as the single operation does. Its keys share one guard. What is no hit
// becomes a pending operation (async.h), so that what the whole batch needs from the device is read
// at the same time; the batch ends when all of them have.
//
// Argument. Each item is answered as if it had been called alone, at some moment of the batch, and
// items on one key in their order:
//   A read loads its entry and its record under the guard, after the boundary, and looks at the
//   state word before it answers: the steps of a hit in their order (operation.h), only with those
//   of others in between. What it finds on the device was the newest when it looked, so that is its
//   moment, however long the device takes. One that is no hit looks again after the guard, and with
//   it every later item of the group that has its hash, so that none of them is answered from an
//   earlier moment. The same holds for the whole rest of the batch after one that has looked once
//   more when the device had answered, because the log's begin had passed its record: they are
//   rare, and what follows them is simply called again.
//   An update loads its entry under the guard, too, after the boundary, and looks at the state word
//   before it has an effect: again the steps of a hit. Should its record have a successor by then,
//   its moment is the one before that was published, which is later than its load. The third loop
//   finishes the items one after the other, so their serials and their effects on one key follow
//   their order. One that is no hit ends the guard and goes through the general form; the rest
//   begin a guard of their own and load their entries once more. One that had no entry goes through
//   the general form at once, whoever may have made one since. One that has the hash of another
//   that is pending waits for all that are.
//
// With Options::measure_latency the items are called one by one, each timed; and inside callbacks,
// where each is checked like a single call.
//
// Thread safety and progress: as the single operations. A guard lasts for a group at most; Close
// waits for the batch.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_set>
#include <utility>

#include "ebb/internal/async.h"
#include "ebb/internal/callback_scope.h"
#include "ebb/internal/operation.h"
#include "ebb/internal/pending_operations.h"

namespace ebb::internal {

template <KeyType Key, ValueType Value>
class Batches {
  using Ops = Operations<Key, Value>;
  using K = KeyOf<Key>;
  static constexpr std::size_t kGroup = 64;  // a bit of a word for each

 public:
  // In all of them `key(i)` is the key of item i, and `answer(i, outcome)` is called for each, in
  // any order, without a guard or under one, with an OpStatus or a Status; if a read is answered
  // twice, the last answer counts. True when all were hits, and so OpStatus::kOk.

  // `consume(i, found)` as in Operations::Read.
  template <typename KeyAt, typename Consume, typename Answer>
  static bool Read(SessionState& session, std::size_t count, KeyAt key, Consume consume,
                   Answer answer) {
    if (session.slot->tally.recorder() != nullptr || InCallback()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) {
        answer(i, Ops::Read(session, key(i), [&](const auto& found) { consume(i, found); }));
      }
      return false;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(OpKind::kRead), count);
    Misses misses(session);
    bool all = true;
    std::size_t again = count;  // items from here on are called again
    for (std::size_t first = 0; first < count; first += kGroup) {
      Group group(first, count);
      group.Hash(*session.core, key);
      std::uint64_t rest = ReadHits(session, group, key, consume, answer);
      all = all && rest == 0;
      for (; rest != 0; rest &= rest - 1) {
        const auto at = static_cast<std::size_t>(std::countr_zero(rest));
        const std::size_t i = first + at;
        if (Ops::IsAbsent(session, key(i), group.hashes[at])) {
          answer(i, OpStatus::kNotFound);
        } else {
          Receiver<Consume, Answer> receiver{i, consume, answer, again};
          misses.Run(OpKind::kRead, key(i), group.hashes[at],
                     ReadForm<Ops, decltype(receiver)>(receiver));
        }
        rest |= group.LaterOfItsHash(at);
      }
    }
    misses.Complete();
    for (; again < count; ++again) {
      answer(again, Ops::ReadSlow(session, key(again), K::Hash(key(again)),
                                  [&](const auto& found) { consume(again, found); }));
    }
    return all;
  }

  // `hit(i, lead)` is the item's operation if it is a hit, and says so, as
  // Operations::FinishUpsert; `make(i)` gives what makes it for the general form (UpdateForm). Both
  // without counting that it has begun; `alone(i)` is all of it.
  template <typename KeyAt, typename Hit, typename MakeAt, typename Alone, typename Answer>
  static bool Update(SessionState& session, OpKind kind, std::size_t count, KeyAt key, Hit hit,
                     MakeAt make, Alone alone, Answer answer) {
    if (session.slot->tally.recorder() != nullptr || InCallback()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) answer(i, alone(i));
      return false;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(kind), count);
    Misses misses(session);
    bool all = true;
    for (std::size_t first = 0; first < count; first += kGroup) {
      Group group(first, count);
      group.Hash(*session.core, key);
      for (std::size_t at = 0;; ++at) {
        // What has no entry is no hit, and is not tried.
        if (at == 0 || (at < group.count && group.heads[at] != 0)) {
          at = UpdateHits(session, group, at, misses, hit, answer);
        }
        if (at == group.count) break;
        all = false;
        const std::size_t i = first + at;
        if (misses.Pending(group.hashes[at])) misses.Complete();
        auto done = [i, &answer](absl::Status outcome) { answer(i, std::move(outcome)); };
        auto made = make(i);
        misses.Run(kind, key(i), group.hashes[at],
                   UpdateForm<Ops, decltype(made), decltype(done)>(std::move(made), done));
      }
    }
    misses.Complete();
    return all;
  }

 private:
  // How much of a record is asked for: all of it, but of strings and large values only what some
  // lines hold.
  static constexpr std::size_t kAskedBytes = std::min<std::size_t>(
      Ops::kShape.has_lengths()
          ? 160
          : Ops::kShape.ExtentFor(Ops::kShape.key_bytes, Ops::kShape.value_bytes),
      256);

  // Items that lie next to each other, and the first two loops.
  struct Group {
    Group(std::size_t from, std::size_t batch_count)
        : first(from), count(std::min(kGroup, batch_count - from)) {}

    template <typename KeyAt>
    EBB_INLINE void Hash(const Core& core, const KeyAt& key) {
      for (std::size_t at = 0; at < count; ++at) {
        hashes[at] = K::Hash(key(first + at));
        core.index.Prefetch(hashes[at]);
      }
    }
    // Records below `floor` are not asked for.
    template <bool kToWrite>
    EBB_INLINE void Find(const Core& core, const EpochGuard& guard, std::uint64_t floor) {
      const auto ask = [&](Address head) EBB_INLINE_LAMBDA {
        const std::byte* record = core.log.At(head, guard);
        for (std::size_t byte = 0; byte < kAskedBytes; byte += 64) {
          __builtin_prefetch(record + byte, kToWrite);
        }
        __builtin_prefetch(record + kAskedBytes - 1, kToWrite);
      };
      std::uint64_t further = 0;  // a bit for each; their second bucket is on its way
      for (std::size_t at = 0; at < count; ++at) {
        const Address head = core.index.FindHintNear(hashes[at]);
        heads[at] = head.value();
        if (head.value() >= floor) {
          ask(head);
        } else if (head == kFurther) {
          further |= std::uint64_t{1} << at;
        }
      }
      for (; further != 0; further &= further - 1) {
        const auto at = static_cast<std::size_t>(std::countr_zero(further));
        const Address head = core.index.FindHint(hashes[at]);
        heads[at] = head.value();
        if (head.value() >= floor) ask(head);
      }
    }
    // A bit for each.
    std::uint64_t LaterOfItsHash(std::size_t at) const {
      std::uint64_t later = 0;
      for (std::size_t other = at + 1; other < count; ++other) {
        later |= static_cast<std::uint64_t>(hashes[other] == hashes[at]) << other;
      }
      return later;
    }

    const std::size_t first;
    const std::size_t count;
    std::array<std::uint64_t, kGroup> hashes;
    std::array<std::uint64_t, kGroup> heads;  // addresses of the records that entries lead to
  };

  // What of a batch is no hit. None is left behind, also when a function of the user throws.
  class Misses {
   public:
    explicit Misses(SessionState& session) : session_(session) {}
    ~Misses() {
      if (scope_.has_value() && session_.batch != nullptr) {
        static_cast<void>(session_.batch->TakeAll(session_.core->ClosedError()));
      }
    }
    Misses(const Misses&) = delete;
    Misses& operator=(const Misses&) = delete;

    // The first turn costs no memory, and mostly there is no other.
    template <typename Form>
    EBB_NOINLINE void Run(OpKind kind, typename K::View key, std::uint64_t hash, Form form) {
      if (!scope_.has_value()) scope_.emplace(*session_.slot);
      session_.search.Clear();
      if (form.Turn(session_, key, hash, session_.search) == Step::kDone) {
        return form.Tell(ToStatus(session_, form.status()));
      }
      hashes_.insert(hash);
      StartPending(session_, session_.batch,
                   MakePending<Key>(session_, kind, /*timed=*/false, key, form));
    }
    // Whether one with this hash may be pending.
    bool Pending(std::uint64_t hash) const { return !hashes_.empty() && hashes_.contains(hash); }
    bool any_pending() const { return !hashes_.empty(); }
    void Complete() {
      if (!scope_.has_value()) return;
      if (session_.batch != nullptr) session_.batch->Complete(/*wait=*/true);
      hashes_.clear();
    }

   private:
    SessionState& session_;
    std::optional<SlowScope> scope_;  // from the first on
    std::unordered_set<std::uint64_t> hashes_;
  };

  template <typename Consume, typename Answer>
  struct Receiver {
    std::size_t item;
    Consume& consume;
    Answer& answer;
    std::size_t& again;
    template <typename Found>
    void Take(SessionState&, const Found& found) {
      consume(item, found);
    }
    void Again() { again = std::min(again, item + 1); }
    void Tell(absl::Status outcome) { answer(item, std::move(outcome)); }
  };

  // A bit for each item of the group that is no hit. The functions are copies: what a call that is
  // not inlined might change is loaded again for each item.
  template <typename KeyAt, typename Consume, typename Answer>
  static EBB_INLINE std::uint64_t ReadHits(SessionState& session, Group& group, KeyAt key,
                                           Consume consume, Answer answer) {
    Core& core = *session.core;
    EpochGuard guard(core.epochs, *session.slot);
    const Address head = core.log.head();
    group.template Find<false>(core, guard, head.value());
    std::uint64_t rest = 0;
    for (std::size_t at = 0; at < group.count; ++at) {
      const std::size_t i = group.first + at;
      if (Ops::FinishRead(core, guard, key(i), Address(group.heads[at]), head,
                          [&](const auto& found) EBB_INLINE_LAMBDA { consume(i, found); }))
          [[likely]] {
        answer(i, OpStatus::kOk);
      } else {
        rest |= std::uint64_t{1} << at;
      }
    }
    return rest;
  }

  // Numbers what has been done under a guard before that ends, also when a function of the user
  // throws.
  struct TakenSerials {
    SessionSerials& serials;
    const EpochGuard& guard;
    const std::size_t begin;
    const std::size_t& end;
    EBB_INLINE ~TakenSerials() {
      if (end != begin) serials.TakeMany(guard.version_bits(), end - begin);
    }
  };

  // Finishes items from `at` on, up to the first that is no hit or waits for another.
  template <typename Hit, typename Answer>
  static EBB_INLINE std::size_t UpdateHits(SessionState& session, Group& group, std::size_t at,
                                           const Misses& misses, Hit hit, Answer answer) {
    Core& core = *session.core;
    EpochGuard guard(core.epochs, *session.slot);
    const TakenSerials taken{session.serials, guard, at, at};
    const std::uint64_t update_from = core.log.update_from();
    const bool first = at == 0;
    if (first) group.template Find<true>(core, guard, update_from);
    if (first && !misses.any_pending()) [[likely]] {
      for (std::size_t i = group.first; at < group.count; ++at, ++i) {
        if (!hit(i, {core, guard, update_from, Address(group.heads[at])})) [[unlikely]]
          break;
        answer(i, OpStatus::kOk);
      }
    } else {
      for (; at < group.count; ++at) {
        const std::uint64_t hash = group.hashes[at];
        if (misses.Pending(hash)) break;
        if (!hit(group.first + at, Ops::LeadTo(core, guard, hash))) break;
        answer(group.first + at, OpStatus::kOk);
      }
    }
    return at;
  }
};

}  // namespace ebb::internal
