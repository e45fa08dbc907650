// Batches: many operations of one kind in one call. Used by Session's *Batch calls.
//
// A batch overlaps the waits of many items for memory and for the device. A group of 64 keys passes
// through three loops: hash, and prefetch the index bucket; find the entry, and prefetch the
// record; finish as the single operation does. The three loops share one guard. An item that the
// third loop cannot finish takes the slow path (operation.h), and the device reads of many such
// items overlap.
//
// Argument (reads). Each item returns the result of a single call at some moment of the batch, and
// items on one key keep their order:
//   A read loads its entry and its record under the guard, after the boundary, and looks at the
//   state word before it returns a result. These are the steps of a fast path in their order
//   (operation.h), interleaved with those of other items. A record that it finds on the device was
//   the newest when it looked. So that is its moment, however long the device takes.
//   An item that is not on the fast path repeats its lookup after the guard. So does every later
//   item of the group that has its hash, so that none of them returns a result of an earlier
//   moment. If an item must repeat its lookup after its device read, because the log's begin had
//   passed its record, all later items of the batch are executed again too. This is rare, so they
//   are simply called again.
//
// Argument (updates). Updates take effect strictly in item order, one after the other. Each takes
// its serial under the guard of its effect. So the updates of a batch keep the guarantee of the
// session's serials like single calls, wherever a commit divides them.
//   Fast path: an update loads its entry under the guard, after the boundary, and looks at the
//   state word before it has an effect: again the steps of a fast path. If its record has a
//   successor by then, the update's moment is just before that one was published, which is later
//   than its load. The serials of a run of such items are taken together, before their guard ends.
//   An item that is not on the fast path ends the guard and completes before the next item begins.
//   The items after it begin a new guard and load their entries again.
//   Only the device searches overlap. When an item needs one, SearchAhead walks the chains of the
//   next items in memory, and searches the device for all that continue there: at most 64, among at
//   most 1,024 items. A search has no effect. Its result is used only if the item, in its turn,
//   arrives at the address where the search began (DeviceSearch::Answers). This is the same
//   condition as for a single call, whose search may be as old. Otherwise the item searches again:
//   the record has moved or left memory since, or the search has failed.
//
// The first update that is rejected ends the batch: it and all later items get its status, have no
// effect, and take no serial. (With Durability::kAlways an update whose commit fails is rejected
// too, but has taken effect and a serial.) If a function of the user throws, the items before that
// one are done and numbered, and no others. An update that runs out of memory is rejected like any
// other.
//
// With Options::measure_latency the items are called and timed one by one. Items whose keys or
// values have a codec are also called one by one, and so are items inside callbacks, where each is
// checked as a single call.
//
// Thread safety and progress: as the single operations. A guard lasts for at most one group; Close
// waits for the batch.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/log/device_search.h"
#include "ebb/internal/ops/async.h"
#include "ebb/internal/ops/operation.h"
#include "ebb/internal/ops/pending_operations.h"
#include "ebb/internal/ops/session_state.h"

namespace ebb::internal {

// The device reads of one batch. It leaves none behind, even if a function of the user throws.
class BatchReads {
 public:
  // The maximum searches of a window. With 256 at once, each of them waits longer: on a disk with a
  // queue of 256, cold batches of 256 items took three to five times as long.
  static constexpr std::size_t kMaxSearches = 64;

  explicit BatchReads(SessionState& session) : session_(session) {}
  ~BatchReads() {
    if (scope_.has_value()) Drop();
  }
  BatchReads(const BatchReads&) = delete;
  BatchReads& operator=(const BatchReads&) = delete;

  // Called before the first item that is not on the fast path: Close waits from here to the end of
  // the batch.
  void Enter() {
    if (!scope_.has_value()) scope_.emplace(*session_.slot);
  }
  void Start(PendingOperations::Owned operation) {
    StartPending(session_, session_.batch, std::move(operation));
  }
  void Complete();

  // ---- searches for the items of a window, in item order ----

  void BeginWindow(std::size_t end);
  // Returns the first item after the last window.
  std::size_t window_end() const { return window_end_; }
  bool full() const { return searches_.size() == kMaxSearches; }
  // The key must outlive the window.
  void Search(std::size_t item, const void* key, std::size_t key_bytes, DeviceSearch::Part part);
  // Returns the item's search, which has ended successfully; or one that has not begun. Items must
  // be requested in order.
  DeviceSearch& SearchOf(std::size_t item);

 private:
  struct ItemSearch {
    std::size_t item;
    DeviceSearch search;
  };
  void Drop();

  SessionState& session_;
  std::optional<SlowScope> scope_;
  std::vector<ItemSearch> searches_;  // of the window
  std::size_t next_ = 0;              // in searches_
  std::size_t window_end_ = 0;
};

template <KeyType Key, ValueType Value>
class Batches {
  using Ops = Operations<Key, Value>;
  using K = KeyOf<Key>;
  static constexpr std::size_t kGroup = 64;     // a bit of a word for each
  static constexpr std::size_t kWindow = 1024;  // items, of which 64 at most need the device

 public:
  // In all of these, `key(i)` is the key of item i. `answer(i, outcome)` is called for each item,
  // in any order, under a guard or not, with an OpStatus or a Status. If it is called twice for a
  // read, the last call counts. They return true if all items were on the fast path, and so
  // OpStatus::kOk.

  // `consume(i, found)` as in Operations::Read.
  template <typename KeyAt, typename Consume, typename Answer>
  static bool Read(SessionState& session, std::size_t count, KeyAt key, Consume consume,
                   Answer answer) {
    if (session.slot->tally.recorder() != nullptr || !session.MayCallBack()) [[unlikely]] {
      for (std::size_t i = 0; i < count; ++i) {
        answer(i, Ops::Read(session, key(i), [&](const auto& found) { consume(i, found); }));
      }
      return false;
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(OpKind::kRead), count);
    BatchReads reads(session);
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
        const auto status = Ops::ReadInMemory(
            session, key(i), group.hashes[at], [&](const auto& found) { consume(i, found); },
            /*is_callback=*/false);
        if (status.has_value()) {
          answer(i, *status);
        } else {
          Receiver<Consume, Answer> receiver{i, consume, answer, again};
          StartRead(session, reads, key(i), group.hashes[at],
                    ReadForm<Ops, decltype(receiver)>(receiver));
        }
        rest |= group.LaterOfItsHash(at);
      }
    }
    reads.Complete();
    for (; again < count; ++again) {
      answer(again, Ops::ReadSlow(session, key(again), Ops::Hash(*session.core, key(again)),
                                  [&](const auto& found) { consume(again, found); }));
    }
    return all;
  }

  // `hit(i, probe)` performs the item's operation if it is on the fast path, and returns whether it
  // was, as Operations::FinishUpsert. `with_op(i, run)` returns `run(op)` for its update
  // (updates.h). Neither counts the operation as begun; `alone(i)` is the whole operation. Results
  // come in item order.
  template <OpKind kKind, typename KeyAt, typename Hit, typename WithOp, typename Alone,
            typename Answer>
  static bool Update(SessionState& session, std::size_t count, KeyAt key, Hit hit, WithOp with_op,
                     Alone alone, Answer answer) {
    if (session.slot->tally.recorder() != nullptr || !session.MayCallBack()) [[unlikely]] {
      return UpdateOneByOne(session, kKind, count, alone, answer);
    }
    session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(kKind), count);
    BatchReads reads(session);
    bool all = true;
    bool lacks_memory = false;
    for (std::size_t first = 0; first < count; first += kGroup) {
      Group group(first, count);
      group.Hash(*session.core, key);
      for (std::size_t at = 0;; ++at) {
        // An item without an entry is not on the fast path, and is not tried.
        if (at == 0 || (kCanHit<kKind> && at < group.count && group.heads[at] != 0)) {
          lacks_memory = !UpdateHits(session, group, at, hit, answer);
        }
        if (at == group.count) break;
        all = false;
        const std::size_t i = first + at;
        const OpStatus status =
            lacks_memory ? Ops::RefuseForMemory(session, kKind) : with_op(i, [&](auto& op) {
              return UpdateSlow(session, reads, {i, count}, key, group.hashes[at], op);
            });
        answer(i, status);
        if (status == OpStatus::kRefused) {
          RejectFrom(session, kKind, {i + 1, count}, answer);
          return false;
        }
      }
    }
    return all;
  }

  // Does the same, without overlap.
  template <typename Alone, typename Answer>
  static EBB_NOINLINE bool UpdateOneByOne(SessionState& session, OpKind kind, std::size_t count,
                                          Alone alone, Answer answer) {
    for (std::size_t i = 0; i < count; ++i) {
      OpStatus status;
      EBB_TRY { status = alone(i); }
      EBB_CATCH_NO_MEMORY {  // of a codec
        status = Ops::RefuseForMemory(session, kind);
      }
      answer(i, status);
      if (status == OpStatus::kRefused) {
        session.slot->tally.Add(Count::kBegun + static_cast<std::size_t>(kind), count - i - 1);
        RejectFrom(session, kind, {i + 1, count}, answer);
        break;
      }
    }
    return false;
  }

 private:
  // How much of a record is prefetched: all of it, except that of strings and large values only
  // some lines are.
  static constexpr std::size_t kAskedBytes = std::min<std::size_t>(
      Ops::kShape.has_lengths()
          ? 160
          : Ops::kShape.ExtentFor(Ops::kShape.key_bytes, Ops::kShape.value_bytes),
      256);
  // The other updates have no fast path (FinishRmw).
  template <OpKind kKind>
  static constexpr bool kCanHit = kKind == OpKind::kUpsert ||
                                  (kKind == OpKind::kRmw && !Ops::kShape.value_variable());

  // The items from `first` to before `end`.
  struct Items {
    std::size_t first;
    std::size_t end;
  };

  // Adjacent items, and the first two loops.
  struct Group {
    Group(std::size_t from, std::size_t batch_count)
        : first(from), count(std::min(kGroup, batch_count - from)) {}

    template <typename KeyAt>
    EBB_INLINE void Hash(const Core& core, const KeyAt& key) {
      for (std::size_t at = 0; at < count; ++at) {
        hashes[at] = Ops::Hash(core, key(first + at));
        core.index.Prefetch(hashes[at]);
      }
    }
    // Records below `floor` are not prefetched.
    template <bool kToWrite>
    EBB_INLINE void Find(const Core& core, const EpochGuard& guard, std::uint64_t floor) {
      const auto ask = [&](Address head) EBB_INLINE_LAMBDA {
        const std::byte* record = core.log.At(head, guard);
        for (std::size_t byte = 0; byte < kAskedBytes; byte += 64) {
          __builtin_prefetch(record + byte, kToWrite);
        }
        __builtin_prefetch(record + kAskedBytes - 1, kToWrite);
      };
      std::uint64_t further = 0;  // a bit for each item whose second bucket is being prefetched
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
    // Returns a bit for each later item of the same hash.
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
    void Notify(absl::Status outcome) { answer(item, std::move(outcome)); }
  };

  // Returns a bit for each item of the group that is not on the fast path. The functions are
  // copies. Of references, the compiler would load for each item again everything that a call that
  // is not inlined might change.
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
                          [&](const auto& found)
                              EBB_INLINE_LAMBDA { consume(i, found); }) == Try::kDone) [[likely]] {
        answer(i, OpStatus::kOk);
      } else {
        rest |= std::uint64_t{1} << at;
      }
    }
    return rest;
  }

  // The first turn allocates nothing, and usually there is no other.
  template <typename Form>
  static EBB_NOINLINE void StartRead(SessionState& session, BatchReads& reads, typename K::View key,
                                     std::uint64_t hash, Form form) {
    reads.Enter();
    session.search.Clear();
    if (form.Turn(session, key, hash, session.search) == AttemptResult::kDone) {
      return form.Notify(ToStatus(session, form.status()));
    }
    reads.Start(MakePending<Key>(session, OpKind::kRead, /*timed=*/false, key, form));
  }

  // Numbers the updates done under a guard before that ends, even if a function of the user throws.
  struct TakenSerials {
    SessionSerials& serials;
    const EpochGuard& guard;
    const std::size_t begin;
    const std::size_t& end;
    EBB_INLINE ~TakenSerials() {
      if (end != begin) serials.TakeMany(guard.version_bits(), end - begin);
    }
  };

  // Finishes items from `at` on, up to the first that is not on the fast path, and moves `at`
  // there. Returns false if that one ran out of memory, without effect.
  template <typename Hit, typename Answer>
  static EBB_INLINE bool UpdateHits(SessionState& session, Group& group, std::size_t& at, Hit hit,
                                    Answer answer) {
    EBB_TRY {
      FinishHits(session, group, at, hit, answer);
      return true;
    }
    EBB_CATCH_NO_MEMORY { return false; }
  }
  template <typename Hit, typename Answer>
  static EBB_INLINE void FinishHits(SessionState& session, Group& group, std::size_t& at, Hit hit,
                                    Answer answer) {
    Core& core = *session.core;
    EpochGuard guard(core.epochs, *session.slot);
    const TakenSerials taken{session.serials, guard, at, at};
    if (at == 0) [[likely]] {
      const std::uint64_t update_from = core.log.update_from();
      group.template Find<true>(core, guard, update_from);
      for (std::size_t i = group.first; at < group.count; ++at, ++i) {
        if (!hit(i, {core, guard, update_from, Address(group.heads[at])})) [[unlikely]]
          break;
        answer(i, OpStatus::kOk);
      }
    } else {
      for (; at < group.count; ++at) {
        if (!hit(group.first + at, Ops::ProbeFor(core, guard, group.hashes[at]))) break;
        answer(group.first + at, OpStatus::kOk);
      }
    }
  }

  // Performs the first of `items`, which is not on the fast path.
  template <typename KeyAt, typename Op>
  static EBB_NOINLINE OpStatus UpdateSlow(SessionState& session, BatchReads& reads, Items items,
                                          KeyAt key, std::uint64_t hash, Op& op) {
    EBB_TRY { return TryUpdateSlow(session, reads, items, key, hash, op); }
    EBB_CATCH_NO_MEMORY { return Ops::RefuseForMemory(session, Op::kKind); }
  }
  template <typename KeyAt, typename Op>
  static OpStatus TryUpdateSlow(SessionState& session, BatchReads& reads, Items items, KeyAt key,
                                std::uint64_t hash, Op& op) {
    reads.Enter();
    if constexpr (Op::kBlind) {
      if (!Ops::Fits(*session.core, key(items.first), op.value)) {
        return Ops::RefuseSizes(session, Op::kKind, key(items.first), op.value);
      }
    }
    DeviceSearch* search = &reads.SearchOf(items.first);
    AttemptResult step = Ops::TurnUpdate(session, key(items.first), hash, op, *search);
    if constexpr (!Op::kBlind) {
      if (step == AttemptResult::kOnDevice && items.first >= reads.window_end() &&
          items.first + 1 < items.end) {
        SearchAhead(session, reads, items, key);
        search = &reads.SearchOf(items.first);
        step = Ops::TurnUpdate(session, key(items.first), hash, op, *search);
      }
      if (step == AttemptResult::kOnDevice)
        Ops::Complete(session, key(items.first), hash, op, *search);
    }
    return op.status;
  }

  // Begins a window, and returns when its searches have ended.
  template <typename KeyAt>
  static void SearchAhead(SessionState& session, BatchReads& reads, Items items, KeyAt key) {
    const std::size_t end = std::min(items.end, items.first + kWindow);
    reads.BeginWindow(end);
    for (std::size_t first = items.first; first < end && !reads.full(); first += kGroup) {
      Group group(first, end);
      group.Hash(*session.core, key);
      Address begin;
      const std::uint64_t on_device = FindOnDevice(session, group, key, begin);
      for (std::uint64_t rest = on_device; rest != 0 && !reads.full(); rest &= rest - 1) {
        const auto at = static_cast<std::size_t>(std::countr_zero(rest));
        const auto& item_key = key(first + at);  // outlives the batch
        reads.Search(first + at, K::Data(item_key), K::Bytes(item_key),
                     {Address(group.heads[at]), begin});
      }
    }
    reads.Complete();
  }

  // Returns a bit for each item of the group whose chain continues on the device, at the item's
  // head.
  template <typename KeyAt>
  static std::uint64_t FindOnDevice(SessionState& session, Group& group, KeyAt key,
                                    Address& begin) {
    Core& core = *session.core;
    for (;;) {  // ends: each turn means that something was bumped
      EpochGuard guard(core.epochs, *session.slot);
      begin = core.log.begin();
      const Address head = core.log.head_acquire();
      group.template Find<false>(core, guard, head.value());
      std::uint64_t on_device = 0;
      for (std::size_t at = 0; at < group.count; ++at) {
        const Address address =
            Ops::Walk(core, guard, Address(group.heads[at]), head, key(group.first + at));
        group.heads[at] = address.value();
        on_device |= static_cast<std::uint64_t>(address < head && address >= begin) << at;
      }
      if (guard.Look()) return on_device;
    }
  }

  // Gives `items` the status of the update before them, which was rejected.
  template <typename Answer>
  static void RejectFrom(SessionState& session, OpKind kind, Items items, Answer answer) {
    session.slot->tally.Add(Count::kRefused + static_cast<std::size_t>(kind),
                            items.end - items.first);
    for (std::size_t i = items.first; i < items.end; ++i) answer(i, OpStatus::kRefused);
  }
};

// InvalidArgument: spans of a batch that differ in length.
absl::Status UnequalBatch(std::size_t keys, std::size_t values, std::size_t results);

}  // namespace ebb::internal
