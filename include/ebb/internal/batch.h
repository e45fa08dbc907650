// Batches: many operations of one kind at once, so that the lines of memory which one of them
// would wait for are on their way for all. What Session's *Batch calls do.
//
// A group of keys goes through three loops: hash, and ask for the bucket; find the entry, and ask
// for the record; finish as the single operation does. Its keys share one guard.
//
// Argument. Each item is answered as if it had been called alone, at some moment of the batch, and
// items on one key in their order:
//   A read loads its entry and its record under the guard, after the boundary, and looks at the
//   state word before it answers: the steps of a hit in their order (operation.h), only with those
//   of others in between. One that is no hit is read again by the general form after the guard, and
//   with it every later item of the group that has its hash, so that none of them is answered from
//   an earlier moment.
//   An update uses nothing of the first two loops but the hash: they only warm the cache. The
//   third finishes the items one after the other; one that is no hit ends the guard, goes through
//   the general form, and the rest begin a guard of their own.
//
// With Options::measure_latency the items are called one by one, each timed.
//
// Thread safety and progress: as the single operations. A guard lasts for a group at most.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "ebb/internal/operation.h"

namespace ebb::internal {

template <KeyType Key, ValueType Value>
class Batches {
  using Ops = Operations<Key, Value>;
  using K = KeyOf<Key>;
  static constexpr std::size_t kGroup = 32;  // a bit of a word for each

 public:
  // In all of them `key(i)` is the key of item i, and `answer(i, status)` is called for each, in
  // any order, without a guard or under one; if a read is answered twice, the last answer counts.

  // `consume(i, found)` as in Operations::Read.
  template <typename KeyAt, typename Consume, typename Answer>
  static void Read(SessionState& session, std::size_t count, KeyAt key, Consume consume,
                   Answer answer) {
    if (session.slot->tally.recorder() != nullptr) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) {
        answer(i, Ops::Read(session, key(i), [&](const auto& found) { consume(i, found); }));
      }
      return;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(OpKind::kRead), count);
    for (std::size_t first = 0; first < count; first += kGroup) {
      ReadGroup(
          session, std::min(kGroup, count - first), [&](std::size_t i) { return key(first + i); },
          [&](std::size_t i, const auto& found) { consume(first + i, found); },
          [&](std::size_t i, OpStatus status) { answer(first + i, status); });
    }
  }

  // `hit(i, hash, guard)` is the item's operation if it is a hit, and says so; `general(i, hash)`
  // is what it does else. Both without counting that it has begun; `alone(i)` is all of it.
  template <typename KeyAt, typename Hit, typename General, typename Alone, typename Answer>
  static void Update(SessionState& session, OpKind kind, std::size_t count, KeyAt key, Hit hit,
                     General general, Alone alone, Answer answer) {
    if (session.slot->tally.recorder() != nullptr || !session.idle()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) answer(i, alone(i));
      return;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(kind), count);
    for (std::size_t first = 0; first < count; first += kGroup) {
      const std::size_t end = std::min(count, first + kGroup);
      Hashes hashes;
      Ask(
          session, end - first, [&](std::size_t i) { return key(first + i); }, hashes);
      for (std::size_t i = first; i < end; ++i) {
        {
          EpochGuard guard(session.core->epochs, *session.slot);
          for (; i < end && hit(i, hashes[i - first], guard); ++i) answer(i, OpStatus::kOk);
        }
        if (i < end) answer(i, general(i, hashes[i - first]));
      }
    }
  }

 private:
  using Hashes = std::array<std::uint64_t, kGroup>;

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
      const Address address = core.index.Find(hashes[i]).entry.address();
      if (address.value() >= update_from) __builtin_prefetch(core.log.At(address, guard), 1);
    }
  }

  template <typename KeyAt, typename Consume, typename Answer>
  static void ReadGroup(SessionState& session, std::size_t count, KeyAt key, Consume consume,
                        Answer answer) {
    Core& core = *session.core;
    Hashes hashes;
    for (std::size_t i = 0; i < count; ++i) {
      hashes[i] = K::Hash(key(i));
      core.index.Prefetch(hashes[i]);
    }
    std::uint32_t rest = ~std::uint32_t{0} >> (kGroup - count);  // no hits
    if (session.idle()) [[likely]] {
      EpochGuard guard(core.epochs, *session.slot);
      const Address head = core.log.head();
      std::array<Address, kGroup> heads;
      for (std::size_t i = 0; i < count; ++i) {
        heads[i] = core.index.Find(hashes[i]).entry.address();
        if (heads[i] >= head) __builtin_prefetch(core.log.At(heads[i], guard));
      }
      for (std::size_t i = 0; i < count; ++i) {
        OpStatus status = OpStatus::kOk;
        if (Ops::FinishRead(
                session, guard, key(i), heads[i], head,
                [&](const auto& found) { consume(i, found); }, status)) [[likely]] {
          rest &= ~(std::uint32_t{1} << i);
          answer(i, status);
        }
      }
    }
    while (rest != 0) [[unlikely]] {
        const auto i = static_cast<std::size_t>(std::countr_zero(rest));
        answer(i, Ops::ReadSlow(session, key(i), hashes[i],
                                [&](const auto& found) { consume(i, found); }));
        rest &= rest - 1;
        for (std::size_t later = i + 1; later < count; ++later) {
          if (hashes[later] == hashes[i]) rest |= std::uint32_t{1} << later;
        }
      }
  }
};

}  // namespace ebb::internal
