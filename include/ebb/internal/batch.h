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
//   An update uses nothing of the first two loops but the hash: they only warm the cache. The
//   third finishes the items one after the other; one that is no hit ends the guard, goes through
//   the general form, and the rest begin a guard of their own. One that has the hash of another
//   that is pending waits for all that are.
//
// With Options::measure_latency the items are called one by one, each timed.
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
#include "ebb/internal/operation.h"
#include "ebb/internal/pending_operations.h"

namespace ebb::internal {

template <KeyType Key, ValueType Value>
class Batches {
  using Ops = Operations<Key, Value>;
  using K = KeyOf<Key>;
  static constexpr std::size_t kGroup = 32;  // a bit of a word for each

 public:
  // In all of them `key(i)` is the key of item i, and `answer(i, outcome)` is called for each, in
  // any order, without a guard or under one, with an OpStatus or a Status; if a read is answered
  // twice, the last answer counts.

  // `consume(i, found)` as in Operations::Read.
  template <typename KeyAt, typename Consume, typename Answer>
  static void Read(SessionState& session, std::size_t count, KeyAt key, Consume consume,
                   Answer answer) {
    if (session.slot->tally.recorder() != nullptr || !session.idle()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) {
        answer(i, Ops::Read(session, key(i), [&](const auto& found) { consume(i, found); }));
      }
      return;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(OpKind::kRead), count);
    Misses misses(session);
    std::size_t again = count;  // items from here on are called again
    for (std::size_t first = 0; first < count; first += kGroup) {
      const auto miss = [&](std::size_t i, std::uint64_t hash) {
        Receiver<Consume, Answer> receiver{i, consume, answer, again};
        misses.Run(OpKind::kRead, key(i), hash, ReadForm<Ops, decltype(receiver)>(receiver));
      };
      ReadGroup(session, first, std::min(kGroup, count - first), key, consume, answer, miss);
    }
    misses.Complete();
    for (; again < count; ++again) {
      answer(again, Ops::ReadSlow(session, key(again), K::Hash(key(again)),
                                  [&](const auto& found) { consume(again, found); }));
    }
  }

  // `hit(i, hash, guard)` is the item's operation if it is a hit, and says so; `make(i)` gives what
  // makes it for the general form (UpdateForm). Both without counting that it has begun; `alone(i)`
  // is all of it.
  template <typename KeyAt, typename Hit, typename MakeAt, typename Alone, typename Answer>
  static void Update(SessionState& session, OpKind kind, std::size_t count, KeyAt key, Hit hit,
                     MakeAt make, Alone alone, Answer answer) {
    if (session.slot->tally.recorder() != nullptr || !session.idle()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) answer(i, alone(i));
      return;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(kind), count);
    Misses misses(session);
    for (std::size_t first = 0; first < count; first += kGroup) {
      const std::size_t end = std::min(count, first + kGroup);
      Hashes hashes;
      Ask(
          session, end - first, [&](std::size_t i) { return key(first + i); }, hashes);
      for (std::size_t i = first; i < end; ++i) {
        {
          EpochGuard guard(session.core->epochs, *session.slot);
          for (; i < end; ++i) {
            const std::uint64_t hash = hashes[i - first];
            if (misses.Pending(hash) || !hit(i, hash, guard)) break;
            answer(i, OpStatus::kOk);
          }
        }
        if (i == end) break;
        const std::uint64_t hash = hashes[i - first];
        if (misses.Pending(hash)) misses.Complete();
        auto done = [i, &answer](absl::Status outcome) { answer(i, std::move(outcome)); };
        auto made = make(i);
        misses.Run(kind, key(i), hash,
                   UpdateForm<Ops, decltype(made), decltype(done)>(std::move(made), done));
      }
    }
    misses.Complete();
  }

 private:
  using Hashes = std::array<std::uint64_t, kGroup>;

  // What of a batch is no hit. None is left behind, also when a function of the user throws.
  class Misses {
   public:
    explicit Misses(SessionState& session) : session_(session) {}
    ~Misses() {
      if (scope_.has_value() && session_.batch != nullptr) {
        static_cast<void>(session_.batch->TakeAll());
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
                   MakePending<Key>(session_, kind, /*timed=*/false, key, std::move(form)));
    }
    // Whether one with this hash may be pending.
    bool Pending(std::uint64_t hash) const { return !hashes_.empty() && hashes_.contains(hash); }
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

  // The first two loops of a group of updates.
  template <typename KeyAt>
  static EBB_INLINE void Ask(SessionState& session, std::size_t count, KeyAt key, Hashes& hashes) {
    Core& core = *session.core;
    for (std::size_t i = 0; i < count; ++i) {
      hashes[i] = K::Hash(key(i));
      core.index.Prefetch(hashes[i]);
    }
    EpochGuard guard(core.epochs, *session.slot);
    const std::uint64_t update_from = core.log.update_from();
    for (std::size_t i = 0; i < count; ++i) {
      const Address address = core.index.FindHint(hashes[i]);
      if (address.value() >= update_from) __builtin_prefetch(core.log.At(address, guard), 1);
    }
  }

  // `count` items from `first` on; `miss(i, hash)` for each that only the general form can answer.
  template <typename KeyAt, typename Consume, typename Answer, typename Miss>
  static EBB_INLINE void ReadGroup(SessionState& session, std::size_t first, std::size_t count,
                                   const KeyAt& key, Consume& consume, Answer& answer,
                                   const Miss& miss) {
    Core& core = *session.core;
    Hashes hashes;
    for (std::size_t i = 0; i < count; ++i) {
      hashes[i] = K::Hash(key(first + i));
      core.index.Prefetch(hashes[i]);
    }
    std::uint32_t rest = ~std::uint32_t{0} >> (kGroup - count);  // no hits
    {
      EpochGuard guard(core.epochs, *session.slot);
      const Address head = core.log.head();
      std::array<Address, kGroup> heads;
      for (std::size_t i = 0; i < count; ++i) {
        heads[i] = core.index.FindHint(hashes[i]);
        if (heads[i] >= head) __builtin_prefetch(core.log.At(heads[i], guard));
      }
      for (std::size_t i = 0; i < count; ++i) {
        if (Ops::FinishRead(core, guard, key(first + i), heads[i], head,
                            [&](const auto& found) { consume(first + i, found); })) [[likely]] {
          rest &= ~(std::uint32_t{1} << i);
          answer(first + i, OpStatus::kOk);
        }
      }
    }
    while (rest != 0) {
      const auto i = static_cast<std::size_t>(std::countr_zero(rest));
      if (Ops::IsAbsent(session, key(first + i), hashes[i])) {
        answer(first + i, OpStatus::kNotFound);
      } else {
        miss(first + i, hashes[i]);
      }
      rest &= rest - 1;
      for (std::size_t later = i + 1; later < count; ++later) {
        if (hashes[later] == hashes[i]) rest |= std::uint32_t{1} << later;
      }
    }
  }
};

}  // namespace ebb::internal
