// Operations: one key, one session, one user thread. The work of Read, Upsert, Rmw, Delete,
// InsertIfAbsent and CompareExchange between the facade and the log.
//
// Every operation has two forms. The fast path (in names: the hit) is inline: enter the guard, load
// one boundary, find the entry and the record, look a second time, act. In every other case it
// returns without effect, and the operation starts again out of line (in names: Again): with the
// fast path that walks the chain, and then with the slow path, Attempt, which decides by the state
// of the key's newest record:
//
//   absent    the chain holds no record of the key, or a tombstone is the newest
//   mutable   at or above read_only, of the operation's own version, no flags: update in place
//   frozen    below safe_read_only, or of an older version that has drained, or on the device, or
//             a collection's copy, which nothing ever changes: may be copied, or superseded by an
//             operation that depends on it
//   unsettled anything else: only a blind Upsert may append above it; all others leave the guard,
//             help with the log's maintenance, and start again
//
// Argument (why no effect is lost or doubled).
//   Under the guard, the operation loads the state word, then boundaries, then entry, then header,
//   in this order, and then looks at the state word again. If it is equal, nothing was bumped in
//   between. So the boundaries are still those that decide, no record of a newer version is in the
//   chain, and a drain that begins later waits for this guard. Nothing is changed, returned or
//   appended before the look has succeeded. After a failed CAS the entry is loaded and the look
//   taken again.
//   A record is published by one CAS of the entry, from the value on which the decision was based.
//   So between decision and publication the chain has not grown; and a frozen record does not
//   change. Hence an operation that depends on the old record (Rmw, Delete, InsertIfAbsent,
//   CompareExchange) replaces exactly the record that it has read. In place that is one CAS of the
//   value, or a write under the lock with the sequence with which the value was read.
//   A blind Upsert may append above a record that another thread still updates in place: that
//   update began before the append was published, and takes its place before it.
//   A value that outgrows its record is sealed for its successor, under the record's lock, after
//   the successor's slot has been allocated. Writers recheck the seal under the lock; readers can
//   ignore it. If publication fails, the seal is removed again. A tombstone is set by CAS from a
//   header without flags, or appended above a frozen record. An update in place that had seen the
//   header without it comes before it.
//   The guard is left before a device read. Records on the device do not change. So the result of
//   the walk below an address holds forever, and it holds for the key while the walk in memory
//   still arrives at that address. The log's begin is loaded before the entry: see hybrid_log.h for
//   why a chain ends below it.
//
// After a failed publication the slot is used again only if the chain's new head is still below it,
// because previous addresses must fall. Otherwise it is abandoned as a record that is not valid.
//
// Argument (memory). Nothing allocates between an effect and the return, so std::bad_alloc means
//   that there was no effect: values are copied, functions run and messages are made before the CAS
//   or the write under the lock. From the allocation of a slot of the log, which must be filled
//   within its guard, up to the publication, nothing allocates either. The handlers are in the cold
//   members, and after fast paths that copy a string or call a function of the user.
//
// Thread safety: a session is used by one thread at a time; sessions work in parallel. Progress:
// fast paths are wait-free (reads of unlocked values), lock-free (updates) or wait for a record's
// lock (locked values). The slow path may wait for the device, for a page, or for a record to
// freeze.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "ebb/codec.h"
#include "ebb/internal/base/backoff.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/ops/session_state.h"
#include "ebb/internal/ops/typed_record.h"
#include "ebb/internal/ops/updates.h"
#include "ebb/status.h"

namespace ebb::internal {

// The result of one attempt under one guard.
enum class AttemptResult : std::uint8_t {
  kDone,     // with an OpStatus
  kRestart,  // the look did not succeed
  // another thread inserts the same tag, splits or sweeps its bucket chain, or holds a seal
  kContended,
  kUnsettled,  // the record is not frozen yet
  kPageFull,
  kOnDevice,  // the chain continues there
  kNoMemory,
  kTooLarge,
};

// How far a fast path follows the chain to which the index's hint led: to its first record, as the
// inlined form does, which therefore contains no call; or to the key's newest record in memory.
enum class Reach : std::uint8_t { kFirst, kChain };
// The result of a fast path. Only kDone has an effect. kWalk: the same with Reach::kChain may
// succeed. kMiss: it would not. kNothing: no fast path was tried, nor the operation counted.
enum class Try : std::uint8_t { kDone, kWalk, kMiss, kNothing };

inline OpStatus Refuse(SessionState& session, absl::Status why) {
  if (session.is_stand_in()) return OpStatus::kRefused;  // its error, which others read, says so
  session.slot->tally.Add(IsUserError(why)     ? Count::kUserErrors
                          : IsCorruption(why)  ? Count::kCorruptionErrors
                          : IsRecoverable(why) ? Count::kRecoverableErrors
                                               : Count::kLastingErrors,
                          1);
  session.error = std::move(why);
  return OpStatus::kRefused;
}

// Returns the status of an operation that has just ended.
inline absl::Status ToStatus(const SessionState& session, OpStatus status) {
  switch (status) {
    case OpStatus::kOk:
      break;
    case OpStatus::kNotFound:
      return absl::Status(absl::StatusCode::kNotFound, {});
    case OpStatus::kAlreadyExists:
      return absl::Status(absl::StatusCode::kAlreadyExists, {});
    case OpStatus::kAborted:
      return absl::Status(absl::StatusCode::kAborted, {});
    case OpStatus::kRefused:
      return session.error;
  }
  return absl::OkStatus();
}

// The operations of one pair of types. Static members only: a session is the first argument.
template <KeyType Key, ValueType Value>
class Operations {
  using K = KeyOf<Key>;
  using V = ValueOf<Value>;
  using U = Updates<Key, Value>;
  using RecordState = typename U::RecordState;
  using Decision = typename U::Decision;

 public:
  using KeyView = typename K::View;
  using ValueView = typename V::View;
  static constexpr RecordShape kShape = U::kShape;

  static EBB_INLINE std::uint64_t Hash(const Core& core, KeyView key) {
    return K::Hash(core.index.key_hash(), key);
  }

  // The result of a read. Frozen: no byte of it changes any more.
  struct Found {
    const HybridLog& log;
    Address address;
    Record record;
    bool frozen;
    bool is_hit;  // on the fast path
  };

  // The consumer of a read, called once with the record that was found. The slow path sees any
  // consumer as this type.
  using Consumer = absl::FunctionRef<void(const Found&)>;
  // Whether a consumer calls a function of the user. Its fast path runs only outside callbacks.
  template <typename Consume>
  static constexpr bool kIsCallback = requires {
    Consume::kIsCallback;
  };

  // A consumer that copies the value.
  struct Copier {
    SessionState& session;
    Value& value;

    EBB_INLINE void operator()(const Found& found) const {
      CopyValue(found, value);
      CountRead(session, value);
    }
  };
  // A consumer that calls a function of the user with the value.
  template <typename Fn>
  struct Visitor {
    static constexpr bool kIsCallback = true;
    SessionState& session;
    Fn& fn;

    EBB_INLINE void operator()(const Found& found) const {
      if constexpr (V::kFixed) {
        Value value;
        CopyValue(found, value);
        Call(found, value);
      } else if (found.frozen) {
        const std::string_view view = U::FrozenView(found.record);
        CountRead(session, view);
        Call(found, view);
      } else {
        CopyValue(found, session.scratch);
        CountRead(session, session.scratch);
        Call(found, ValueView(session.scratch));
        SessionState::Trim(session.scratch);
      }
    }
    EBB_INLINE void Call(const Found& found, const ValueView& value) const {
      if (found.is_hit) {
        const HitCallback scope(session.core, CallbackKind::kRead);
        fn(value);
      } else {
        const CallbackScope scope(session.core, CallbackKind::kRead);
        fn(value);
      }
    }
  };

  // The start of an update: the record to which the index's hint led.
  struct Probe {
    Core& core;
    const EpochGuard& guard;
    std::uint64_t update_from;  // loaded first
    Address address;
  };
  static EBB_INLINE Probe ProbeFor(Core& core, const EpochGuard& guard, std::uint64_t hash) {
    const std::uint64_t update_from = core.log.update_from();
    return {core, guard, update_from, core.index.FindHint(hash)};
  }

  // ---- reads ----

  // Calls `consume(found)` with the newest record of the key, under a guard, exactly once.
  template <typename Consume>
  static EBB_INLINE OpStatus Read(SessionState& session, KeyView key, const Consume& consume) {
    EBB_TRY {
      if (const Try tried = ReadHit(session, key, consume); tried != Try::kDone) [[unlikely]]
        return ReadAgain(session, key, consume, tried, kIsCallback<Consume>);
    }
    EBB_CATCH_NO_MEMORY { return RefuseForMemory(session, OpKind::kRead); }
    return OpStatus::kOk;
  }
  // Counts the read, and does it if it is a hit and not to be timed. Otherwise ReadAgain follows.
  template <typename Consume>
  static EBB_INLINE Try ReadHit(SessionState& session, KeyView key, const Consume& consume) {
    if (session.slot->tally.Begin(OpKind::kRead)) [[unlikely]]
      return Try::kWalk;
    return TryRead(session, key, Hash(*session.core, key), consume);
  }
  // The rest of a read that is no hit, from the start.
  static EBB_NOINLINE OpStatus ReadAgain(SessionState& session, KeyView key, Consumer consume,
                                         Try tried, bool is_callback) {
    const OpTimer timer = Continue(session, OpKind::kRead, tried);
    const std::uint64_t hash = Hash(*session.core, key);
    EBB_TRY {
      if (const auto status = ReadInMemory(session, key, hash, consume, is_callback))
        return *status;
    }
    EBB_CATCH_NO_MEMORY { return RefuseForMemory(session, OpKind::kRead); }
    return ReadSlow(session, key, hash, consume);
  }
  template <typename Consume>
  static EBB_INLINE Try TryRead(SessionState& session, KeyView key, std::uint64_t hash,
                                const Consume& consume) {
    Core& core = *session.core;
    if (!(kIsCallback<Consume> ? session.MayCallBack() : session.idle())) [[unlikely]]
      return Try::kMiss;
    EpochGuard guard(core.epochs, *session.slot);
    const Address head = core.log.head();
    return FinishRead(core, guard, key, core.index.FindHint(hash), head, consume);
  }
  // Does the same, starting at the index's hint.
  template <typename Consume>
  static EBB_INLINE Try FinishRead(Core& core, const EpochGuard& guard, KeyView key, Address hint,
                                   Address head, const Consume& consume) {
    Hit hit{hint};
    const Try tried = FindRecord<Reach::kFirst>(core, guard, key, head, hit);
    if (tried != Try::kDone) [[unlikely]]
      return tried;
    const Record record = hit.record();
    if (record.header().LoadAcquire().tombstone() || !guard.Look()) [[unlikely]]
      return Try::kMiss;
    consume(Found{core.log, hit.address, record, /*frozen=*/false, /*is_hit=*/true});
    return Try::kDone;
  }
  // The fast path of a read along the whole chain: returns kOk, or kNotFound if the key is
  // certainly absent. Nothing: the slow path must decide.
  static EBB_NOINLINE std::optional<OpStatus> ReadInMemory(SessionState& session, KeyView key,
                                                           std::uint64_t hash, Consumer consume,
                                                           bool is_callback) {
    Core& core = *session.core;
    if (!session.idle()) return std::nullopt;
    EpochGuard guard(core.epochs, *session.slot);
    const Address head = core.log.head();
    const Address address = Walk(core, guard, core.index.Find(hash).entry.address(), head, key);
    if (address < head) {
      if (address > kNoRecord || !guard.Look()) return std::nullopt;
      session.slot->tally.AddOf(Count::kNoOp, OpKind::kRead);
      return OpStatus::kNotFound;
    }
    const Record record(core.log.At(address, guard), kShape);
    if (record.header().LoadAcquire().tombstone() || !guard.Look()) return std::nullopt;
    if (is_callback && InCallback()) return std::nullopt;  // HitCallback does not nest
    consume(Found{core.log, address, record, /*frozen=*/false, /*is_hit=*/true});
    return OpStatus::kOk;
  }
  static OpStatus ReadSlow(SessionState& session, KeyView key, std::uint64_t hash,
                           Consumer consume) {
    if (!session.callable()) return RefuseReentered(session, OpKind::kRead);
    SlowScope scope(*session.slot);
    EBB_TRY {
      session.search.Clear();
      OpStatus status = OpStatus::kOk;
      while (TurnRead(session, key, hash, consume, session.search, status) ==
             AttemptResult::kOnDevice) {
        session.slot->tally.Add(Count::kDeviceWaits, 1);
        session.search.Run(session.core->reader, K::Data(key), K::Bytes(key));
      }
      session.search.Trim(SessionState::kRetainedBytes);
      return status;
    }
    EBB_CATCH_NO_MEMORY {
      session.search.Trim(SessionState::kRetainedBytes);
      return RefuseForMemory(session, OpKind::kRead);
    }
  }

  // ---- updates ----
  //
  // Two forms: the hit, to be inlined, which counts the update and does it if it is on the fast
  // path and not to be timed; and the whole operation, which continues after a hit that returned
  // `tried`.

  static EBB_INLINE bool Fits(const Core& core, KeyView key, ValueView value) {
    if constexpr (K::kFixed && V::kFixed) {
      return true;  // checked once, when the store was opened
    } else {
      return K::Bytes(key) <= core.config.max_key_bytes &&
             V::Bytes(value) <= core.config.max_value_bytes;
    }
  }

  static EBB_INLINE Try UpsertHit(SessionState& session, KeyView key, ValueView value) {
    if (session.slot->tally.Begin(OpKind::kUpsert)) [[unlikely]]
      return Try::kWalk;
    return TryUpsert<Reach::kFirst>(session, key, Hash(*session.core, key), value);
  }
  static EBB_NOINLINE OpStatus Upsert(SessionState& session, KeyView key, ValueView value,
                                      Try tried = Try::kNothing) {
    const OpTimer timer = Continue(session, OpKind::kUpsert, tried);
    if (!Fits(*session.core, key, value)) return RefuseSizes(session, OpKind::kUpsert, key, value);
    const std::uint64_t hash = Hash(*session.core, key);
    if (tried != Try::kMiss && TryUpsert<Reach::kChain>(session, key, hash, value) == Try::kDone) {
      return OpStatus::kOk;
    }
    typename U::UpsertOp op(value);
    return Update(session, key, hash, op);
  }
  template <Reach kReach>
  static EBB_INLINE Try TryUpsert(SessionState& session, KeyView key, std::uint64_t hash,
                                  ValueView value) {
    Core& core = *session.core;
    if (!Fits(core, key, value) || !session.idle()) [[unlikely]]
      return Try::kMiss;
    EpochGuard guard(core.epochs, *session.slot);
    const Try tried = FinishUpsert<kReach>(session, ProbeFor(core, guard, hash), key, value);
    if (tried == Try::kDone) [[likely]]
      session.serials.Take(guard.version_bits());
    return tried;
  }
  // Does the same, starting at the index's hint. The caller takes the serial.
  template <Reach kReach>
  static EBB_INLINE Try FinishUpsert(SessionState& session, const Probe& probe, KeyView key,
                                     ValueView value) {
    Hit hit{probe.address};
    const Try tried = FindMutable<kReach>(probe, key, hit);
    if (tried != Try::kDone) [[unlikely]]
      return tried;
    if (U::UpsertInPlace(hit.record(), value) != WriteResult::kWritten) [[unlikely]]
      return Try::kMiss;
    CountBytes(session, K::Bytes(key) + V::Bytes(value));
    return Try::kDone;
  }

  template <typename Fn>
  static EBB_INLINE Try RmwHit(SessionState& session, KeyView key, Fn& fn) {
    if (session.slot->tally.Begin(OpKind::kRmw)) [[unlikely]]
      return Try::kWalk;
    return TryRmw<Reach::kFirst>(session, key, Hash(*session.core, key), fn);
  }
  static EBB_NOINLINE OpStatus Rmw(SessionState& session, KeyView key, Edit<Value> fn,
                                   ValueView initial, Try tried = Try::kNothing) {
    const OpTimer timer = Continue(session, OpKind::kRmw, tried);
    const std::uint64_t hash = Hash(*session.core, key);
    EBB_TRY {
      if (tried != Try::kMiss && TryRmw<Reach::kChain>(session, key, hash, fn) == Try::kDone) {
        return OpStatus::kOk;
      }
    }
    EBB_CATCH_NO_MEMORY { return RefuseForMemory(session, OpKind::kRmw); }
    typename U::RmwOp op{{session}, fn, initial};
    return Update(session, key, hash, op);
  }
  template <Reach kReach, typename Fn>
  static EBB_INLINE Try TryRmw(SessionState& session, KeyView key, std::uint64_t hash, Fn& fn) {
    Core& core = *session.core;
    if (!V::kFixed || !session.MayCallBack()) [[unlikely]]
      return Try::kMiss;
    EpochGuard guard(core.epochs, *session.slot);
    const Try tried = FinishRmw<kReach>(session, ProbeFor(core, guard, hash), key, fn);
    if (tried == Try::kDone) [[likely]]
      session.serials.Take(guard.version_bits());
    return tried;
  }
  // Like FinishUpsert. Not inside a callback.
  template <Reach kReach, typename Fn>
  static EBB_INLINE Try FinishRmw(SessionState& session, const Probe& probe, KeyView key, Fn& fn) {
    // A value that may outgrow its record would be edited here in vain. (So would a value that
    // cannot be decoded: those have a codec, and are strings here.)
    if constexpr (!V::kFixed) {
      return Try::kMiss;
    } else {
      Hit hit{probe.address};
      const Try tried = FindMutable<kReach>(probe, key, hit);
      if (tried != Try::kDone) [[unlikely]]
        return tried;
      const HitCallback scope(&probe.core, CallbackKind::kUpdate);
      if constexpr (!kShape.locked()) {
        U::RmwUnlocked(hit.record(), fn);
      } else {
        Value copy;
        LockWord seen;
        const auto edit = [&] {
          fn(copy);
          return true;
        };
        if (U::EditLocked(probe.core, hit.address, hit.record(), copy, seen, edit) !=
            WriteResult::kWritten) {
          return Try::kMiss;
        }
      }
      CountBytes(session, K::Bytes(key) + sizeof(Value));
      return Try::kDone;
    }
  }

  static OpStatus CompareExchange(SessionState& session, KeyView key, ValueView expected,
                                  ValueView desired) {
    Core& core = *session.core;
    Tally& tally = session.slot->tally;
    const OpTimer timer(tally, OpKind::kCompareExchange, tally.Begin(OpKind::kCompareExchange));
    if (!Fits(core, key, desired)) {
      return RefuseSizes(session, OpKind::kCompareExchange, key, desired);
    }
    const std::uint64_t hash = Hash(*session.core, key);
    if constexpr (!kShape.locked()) {
      if (session.idle()) [[likely]] {
        EpochGuard guard(core.epochs, *session.slot);
        const Probe probe = ProbeFor(core, guard, hash);
        Hit hit{probe.address};
        if (FindMutable<Reach::kChain>(probe, key, hit) == Try::kDone) [[likely]] {
          const OpStatus status = U::CompareExchangeUnlocked(hit.record(), expected, desired);
          session.serials.Take(guard.version_bits());
          if (status == OpStatus::kOk) {
            CountBytes(session, K::Bytes(key) + sizeof(Value));
          } else {
            tally.AddOf(Count::kNoOp, OpKind::kCompareExchange);
          }
          return status;
        }
      }
    }
    typename U::CompareExchangeOp op{{session}, expected, desired};
    return Update(session, key, hash, op);
  }

  static OpStatus Delete(SessionState& session, KeyView key) {
    Tally& tally = session.slot->tally;
    const OpTimer timer(tally, OpKind::kDelete, tally.Begin(OpKind::kDelete));
    typename U::DeleteOp op;
    return Update(session, key, Hash(*session.core, key), op);
  }

  static OpStatus InsertIfAbsent(SessionState& session, KeyView key, ValueView value) {
    Tally& tally = session.slot->tally;
    const OpTimer timer(tally, OpKind::kInsert, tally.Begin(OpKind::kInsert));
    if (!Fits(*session.core, key, value)) {
      return RefuseSizes(session, OpKind::kInsert, key, value);
    }
    typename U::InsertOp op(value);
    return Update(session, key, Hash(*session.core, key), op);
  }

  // ---- slow paths, up to where they need the device ----
  //
  // They return kDone and the operation's outcome; or kOnDevice: `search` has begun, and when it
  // has ended, the operation continues from there, even if the chain has changed. They wait
  // themselves for everything else. To be called inside a SlowScope, outside guards.

  static AttemptResult TurnRead(SessionState& session, KeyView key, std::uint64_t hash,
                                Consumer consume, DeviceSearch& search, OpStatus& status) {
    const AttemptResult step = TryTurnRead(session, key, hash, consume, search, status);
    if (step == AttemptResult::kDone) CountSlowPath(session, OpKind::kRead, status);
    return step;
  }

  template <typename Op>
  static AttemptResult TurnUpdate(SessionState& session, KeyView key, std::uint64_t hash, Op& op,
                                  DeviceSearch& search) {
    const AttemptResult step = TryTurnUpdate(session, key, hash, op, search);
    if (step == AttemptResult::kDone) {
      CountSlowPath(session, Op::kKind, op.status);
      if (op.status == OpStatus::kOk) {
        CountBytes(session, K::Bytes(key) + (Op::kTombstone ? 0 : NewValueBytes(op)));
      }
      if constexpr (!V::kFixed) SessionState::Trim(session.scratch);
    }
    return step;
  }

  // Completes an update that has returned kOnDevice; waits for the device.
  template <typename Op>
  static EBB_NOINLINE void Complete(SessionState& session, KeyView key, std::uint64_t hash, Op& op,
                                    DeviceSearch& search) {
    do {
      session.slot->tally.Add(Count::kDeviceWaits, 1);
      search.Run(session.core->reader, K::Data(key), K::Bytes(key));
    } while (TurnUpdate(session, key, hash, op, search) == AttemptResult::kOnDevice);
  }

  // For values of one size it is enough to count reads.
  template <typename Bytes>
  static EBB_INLINE void CountRead(SessionState& session, const Bytes& bytes) {
    if constexpr (!V::kFixed) session.slot->tally.Add(Count::kReadBytes, bytes.size());
  }

  // Copies the value of a record that Read passed to its consumer.
  static EBB_INLINE void CopyValue(const Found& found, Value& out) {
    if constexpr (!kShape.locked()) {
      out = V::LoadUnlocked(found.record);
    } else if (found.frozen) {
      V::CopyFrozen(found.record, out);
    } else {
      CopyLocked(found.log, found.address, found.record, out);
    }
  }

  // Returns the first address at or below `from` that is below `floor` or holds a record of the
  // key.
  static EBB_NOINLINE Address Walk(const Core& core, const EpochGuard& guard, Address from,
                                   Address floor, KeyView key) noexcept {
    Address address = from;
    while (address >= floor) {  // ends: previous addresses fall
      const Record record(core.log.At(address, guard), kShape);
      const RecordHeader header = record.header().LoadAcquire();
      if (K::Equals(record, key)) break;
      address = header.prev();
    }
    return address;
  }

  static EBB_COLD OpStatus RefuseSizes(SessionState& session, OpKind kind, KeyView key,
                                       ValueView value) {
    CountSlowPath(session, kind, OpStatus::kRefused);
    return Refuse(session, CatchNoMemory([&] {
                    return session.core->CheckSizes(K::Bytes(key), V::Bytes(value));
                  }));
  }

  // Reports that memory ran out before the operation had any effect.
  static EBB_COLD OpStatus RefuseForMemory(SessionState& session, OpKind kind) {
    CountSlowPath(session, kind, OpStatus::kRefused);
    return Refuse(session, NoMemory());
  }

 private:
  // Counts an operation of which nothing has been tried. Times it, if operations are timed.
  static OpTimer Continue(SessionState& session, OpKind kind, Try tried) {
    Tally& tally = session.slot->tally;
    if (tried == Try::kNothing) tally.Begin(kind);
    return OpTimer(tally, kind, tally.recorder() != nullptr);
  }

  // Prefetches the rest of a record with a string value. Its address follows from the record's
  // first line; the lines after it are prefetched before that one has arrived.
  static EBB_INLINE void AskForRest(const std::byte* record) {
    if constexpr (kShape.has_lengths()) {
      __builtin_prefetch(record + 64);
      __builtin_prefetch(record + 128);
    }
  }

  // The record to which a fast path has come; at first only the address of the index's hint. Not a
  // result, because compilers keep an object that functions return by value in memory.
  struct Hit {
    Record record() const { return Record(bytes, kShape); }
    Address address;
    std::byte* bytes = nullptr;
  };
  // Looks for the key's record at or above `floor`. `hit` is it, if the result is kDone.
  template <Reach kReach>
  static EBB_INLINE Try FindRecord(const Core& core, const EpochGuard& guard, KeyView key,
                                   Address floor, Hit& hit) {
    if (hit.address < floor) [[unlikely]]
      return Try::kMiss;
    hit.bytes = core.log.At(hit.address, guard);
    AskForRest(hit.bytes);
    if (!K::Equals(hit.record(), key)) [[unlikely]] {
      if constexpr (kReach == Reach::kFirst) return Try::kWalk;
      hit.address = Walk(core, guard, hit.record().header().LoadAcquire().prev(), floor, key);
      if (hit.address < floor) return Try::kMiss;
      hit.bytes = core.log.At(hit.address, guard);
    }
    return Try::kDone;
  }
  // Does the same for a record that may be updated in place, and looks successfully.
  template <Reach kReach>
  static EBB_INLINE Try FindMutable(const Probe& probe, KeyView key, Hit& hit) {
    const Try tried =
        FindRecord<kReach>(probe.core, probe.guard, key, Address(probe.update_from), hit);
    if (tried != Try::kDone) [[unlikely]]
      return tried;
    if (hit.record().header().LoadAcquire().has_flags() || !probe.guard.Look()) [[unlikely]]
      return Try::kMiss;
    return Try::kDone;
  }

  // ---- slow paths ----

  static void CountSlowPath(SessionState& session, OpKind kind, OpStatus status) {
    Tally& tally = session.slot->tally;
    tally.AddOf(Count::kSlowPath, kind);
    if (status == OpStatus::kOk) return;
    tally.AddOf(status == OpStatus::kRefused ? Count::kRefused : Count::kNoOp, kind);
  }
  // Counts the bytes of an update with an effect. If all keys and values are of one size, the
  // operation counts imply them.
  static EBB_INLINE void CountBytes(SessionState& session, std::uint64_t bytes) {
    if constexpr (kShape.has_lengths()) session.slot->tally.Add(Count::kWrittenBytes, bytes);
  }
  static EBB_COLD OpStatus RefuseReentered(SessionState& session, OpKind kind) {
    CountSlowPath(session, kind, OpStatus::kRefused);
    return Refuse(session, session.BusyError());
  }

  static AttemptResult TryTurnRead(SessionState& session, KeyView key, std::uint64_t hash,
                                   Consumer consume, DeviceSearch& search, OpStatus& status) {
    Core& core = *session.core;
    Backoff backoff;
    // Each turn means that something was bumped in the meantime, or a part of the index is moved.
    for (;;) {
      if (core.epochs.closed()) {
        status = Refuse(session, core.ClosedError());
        return AttemptResult::kDone;
      }
      if (search.ended() && !absl::IsAborted(search.status())) {
        status = AnswerFromDevice(session, search, consume);
        if (core.config.promote_reads && status == OpStatus::kOk) {
          Promote(session, key, hash, search);
        }
        return AttemptResult::kDone;
      }
      DeviceSearch::Part on_device;
      {
        EpochGuard guard(core.epochs, *session.slot);
        on_device.begin = core.log.begin();
        const Address head = core.log.head_acquire();
        const Address safe_read_only = core.log.safe_read_only();
        const Address first = core.index.Find(hash).entry.address();
        const Address address = Walk(core, guard, first, head, key);
        if (!guard.Look()) {
          session.slot->tally.Add(Count::kRestarts, 1);
          continue;
        }
        if (address >= head) {
          const Record record(core.log.At(address, guard), kShape);
          status = OpStatus::kNotFound;
          if (record.header().LoadAcquire().tombstone()) return AttemptResult::kDone;
          consume(Found{core.log, address, record, address < safe_read_only, /*is_hit=*/false});
          status = OpStatus::kOk;
          return AttemptResult::kDone;
        }
        if (address < on_device.begin && address != kBeingMoved) {
          status = OpStatus::kNotFound;
          return AttemptResult::kDone;
        }
        on_device.from = address;
      }
      if (on_device.from == kBeingMoved) {
        session.slot->tally.Add(Count::kContendedWaits, 1);
        backoff.Wait();
        continue;
      }
      search.Begin(on_device);
      return AttemptResult::kOnDevice;
    }
  }

  // Appends a copy of the record that the search has found, as an Rmw without a change would. It
  // does so only above that very record, which is therefore still the newest, and above begin. If
  // anything else has happened to the key, it does nothing.
  static void Promote(SessionState& session, KeyView key, std::uint64_t hash,
                      DeviceSearch& search) {
    Core& core = *session.core;
    typename U::PromoteOp op(search.from());
    // The second time there is room, unless another thread's page turn used it.
    for (int attempt = 0; attempt < 2 && !core.health.poisoned(); ++attempt) {
      const AttemptResult step = Attempt(session, key, hash, op, search);
      if (step == AttemptResult::kDone && op.found != nullptr)
        session.slot->tally.Add(Count::kPromoted, 1);
      if (step != AttemptResult::kPageFull || !core.log.WaitForPage().ok()) return;
    }
  }

  static OpStatus AnswerFromDevice(SessionState& session, const DeviceSearch& search,
                                   Consumer consume) {
    if (!search.status().ok()) return Refuse(session, search.status());
    const std::optional<Record>& record = search.record();
    if (!record.has_value() || record->header().LoadAcquire().tombstone()) {
      return OpStatus::kNotFound;
    }
    Core& core = *session.core;
    EpochGuard guard(core.epochs, *session.slot);  // callbacks always run under one
    consume(Found{core.log, search.from(), *record, /*frozen=*/true, /*is_hit=*/false});
    session.slot->tally.Add(Count::kReadsFromDevice, 1);
    return OpStatus::kOk;
  }

  template <typename Op>
  static EBB_NOINLINE OpStatus Update(SessionState& session, KeyView key, std::uint64_t hash,
                                      Op& op) {
    if (!session.callable()) return RefuseReentered(session, Op::kKind);
    SlowScope scope(*session.slot);
    EBB_TRY {
      session.search.Clear();
      if (TurnUpdate(session, key, hash, op, session.search) == AttemptResult::kOnDevice) {
        Complete(session, key, hash, op, session.search);
        session.search.Trim(SessionState::kRetainedBytes);
      }
      return op.status;
    }
    EBB_CATCH_NO_MEMORY {
      session.search.Trim(SessionState::kRetainedBytes);
      return RefuseForMemory(session, Op::kKind);
    }
  }

  // op.status is the outcome when it is done.
  template <typename Op>
  static AttemptResult TryTurnUpdate(SessionState& session, KeyView key, std::uint64_t hash, Op& op,
                                     DeviceSearch& search) {
    Core& core = *session.core;
    const auto refuse = [&](absl::Status why) {
      op.status = Refuse(session, std::move(why));
      return AttemptResult::kDone;
    };
    Backoff backoff;
    // Each turn means that another thread made progress, or waits for one that will.
    for (;;) {
      if (core.epochs.closed()) return refuse(core.ClosedError());
      if (core.health.poisoned()) return refuse(core.health.status());
      if (search.ended() && absl::IsAborted(search.status())) search.Clear();
      if (search.ended() && !search.status().ok()) return refuse(search.status());
      switch (Attempt(session, key, hash, op, search)) {
        case AttemptResult::kDone:
          if (op.status == OpStatus::kOk) op.status = Acknowledge(session);
          return AttemptResult::kDone;
        case AttemptResult::kOnDevice:
          return AttemptResult::kOnDevice;
        case AttemptResult::kRestart:
          session.slot->tally.Add(Count::kRestarts, 1);
          break;
        case AttemptResult::kContended:
          session.slot->tally.Add(Count::kContendedWaits, 1);
          backoff.Wait();
          break;
        case AttemptResult::kUnsettled: {
          core.counters.fuzzy_waits.fetch_add(1, std::memory_order_relaxed);  // statistics
          // An error of the device does not matter for this wait: only a drain does.
          const absl::StatusOr<bool> moved = core.log.RunMaintenanceStep();
          if (!moved.ok() || !*moved) backoff.Wait();
          break;
        }
        case AttemptResult::kPageFull:
          if (absl::Status room = core.log.WaitForPage(
                  kShape.ExtentFor(K::Bytes(key), NewValueBytes(op)), kSpaceFor<Op>);
              !room.ok()) {
            return refuse(std::move(room));
          }
          break;
        case AttemptResult::kNoMemory:
          return refuse(absl::ResourceExhaustedError("no memory for the hash index"));
        case AttemptResult::kTooLarge:
          return refuse(core.CheckSizes(K::Bytes(key), NewValueBytes(op)));
      }
    }
  }

  // With Durability::kAlways there is no fast path, so every update comes here.
  static OpStatus Acknowledge(SessionState& session) {
    if (session.core->config.durability != Durability::kAlways) return OpStatus::kOk;
    absl::Status status = session.core->commits->Join();
    return status.ok() ? OpStatus::kOk : Refuse(session, std::move(status));
  }

  template <typename Op>
  static std::uint64_t NewValueBytes(Op& op) {
    if constexpr (Op::kTombstone) {
      return V::kFixed ? sizeof(Value) : 0;
    } else {
      return V::Bytes(op.NewValue());
    }
  }

  // The boundaries that decide which changes a record allows. Each is loaded once, after the guard
  // was entered and before the index entry.
  struct Bounds {
    Bounds(const Core& core, const EpochGuard& guard)
        : begin(core.log.begin()),
          head(core.log.head_acquire()),
          read_only(core.log.read_only()),
          safe_read_only(core.log.safe_read_only()),
          version_floor(core.VersionFloor()),
          version_bits(guard.version_bits()),
          drained(core.DrainedFor(version_bits)) {}

    RecordState Classify(Address address, RecordHeader header) const {
      const bool own_version = address >= version_floor && header.version_bits() == version_bits;
      if (header.tombstone()) return RecordState::kAbsent;
      if (header.copy() || address < safe_read_only || (!own_version && drained)) {
        return RecordState::kFrozen;
      }
      if (address >= read_only && own_version && !header.sealed()) return RecordState::kMutable;
      return RecordState::kUnsettled;
    }

    const Address begin;
    const Address head;
    const Address read_only;
    const Address safe_read_only;
    const Address version_floor;
    const unsigned version_bits;
    const bool drained;
  };

  template <typename Op>
  static constexpr Space kSpaceFor = Op::kTombstone ? Space::kDeletion : Space::kOrdinary;

  // kDone: `slot` is the key's, or empty for an operation that creates none. No entry is created
  // while there is no space for its record; otherwise rejected calls would make the index grow.
  template <typename Op>
  static AttemptResult FindSlot(Core& core, std::uint64_t hash, HashIndex::EntrySlot& slot) {
    switch (Op::kCreates && core.log.HasOrdinaryPage() ? core.index.FindOrCreate(hash, slot)
                                                       : core.index.FindForUpdate(hash, slot)) {
      case HashIndex::CreateResult::kFound:
        return AttemptResult::kDone;
      case HashIndex::CreateResult::kContended:
        return AttemptResult::kContended;
      case HashIndex::CreateResult::kNoMemory:
        return AttemptResult::kNoMemory;
    }
    return AttemptResult::kDone;
  }

  // One attempt, under one guard, without waiting.
  template <typename Op>
  static AttemptResult Attempt(SessionState& session, KeyView key, std::uint64_t hash, Op& op,
                               DeviceSearch& search) {
    Core& core = *session.core;
    EpochGuard guard(core.epochs, *session.slot);
    const Bounds bounds(core, guard);
    HashIndex::EntrySlot slot;
    if (const AttemptResult step = FindSlot<Op>(core, hash, slot); step != AttemptResult::kDone)
      return step;
    // A blind operation needs a record only to change it in place. Below this address no record can
    // be changed. The cache line that would show this would be most of the cost of the append.
    const Address floor =
        Op::kBlind ? std::max(bounds.read_only, bounds.version_floor) : bounds.head;

    Address own;  // our slot in the log, if an earlier turn has left us one
    std::uint64_t own_extent = 0;
    // Each turn after the first means that another record of the chain was published.
    for (;;) {
      const Address address = Walk(core, guard, slot.entry.address(), floor, key);
      std::optional<Record> record;
      RecordState where = RecordState::kAbsent;
      if (address >= floor) {
        record.emplace(core.log.At(address, guard), kShape);
        where = bounds.Classify(address, record->header().LoadAcquire());
      } else if (!Op::kBlind && address >= bounds.begin) {
        if (!search.Answers(address)) {
          search.Begin({address, bounds.begin});
          return AttemptResult::kOnDevice;
        }
        if (search.record().has_value() && !search.record()->header().LoadAcquire().tombstone()) {
          record.emplace(search.record()->bytes(), kShape);
          where = RecordState::kFrozen;
        }
      }
      if (!guard.Look()) return AttemptResult::kRestart;

      switch (op.Decide(where, address, record.has_value() ? &*record : nullptr)) {
        case Decision::kDone:
          if (Op::kNumbered && op.status != OpStatus::kRefused)
            session.serials.Take(guard.version_bits());
          return AttemptResult::kDone;
        case Decision::kWait:
          return AttemptResult::kUnsettled;
        case Decision::kAgain:
          return AttemptResult::kContended;
        case Decision::kAppend:
          break;
      }
      const std::uint64_t value_bytes = NewValueBytes(op);
      const std::uint64_t extent = kShape.ExtentFor(K::Bytes(key), value_bytes);
      if (K::Bytes(key) > core.config.max_key_bytes || value_bytes > core.config.max_value_bytes ||
          extent > core.log.geometry().payload_bytes()) {
        return AttemptResult::kTooLarge;
      }
      if (own <= slot.entry.address() || own_extent != extent) {
        if (Op::kCreates && slot.word == nullptr) return AttemptResult::kPageFull;
        own = core.log.Allocate(extent, guard, kSpaceFor<Op>);
        own_extent = extent;
        if (own.is_null()) return AttemptResult::kPageFull;
      }
      if (Append({core, guard, slot, own}, key, op, record.has_value() ? &*record : nullptr)) {
        session.slot->tally.Add(Count::kAppended, 1);
        if (Op::kNumbered) session.serials.Take(guard.version_bits());
        return AttemptResult::kDone;
      }
      if (!HashIndex::Reload(slot)) return AttemptResult::kContended;
    }
  }

  struct AppendTarget {
    Core& core;
    const EpochGuard& guard;
    const HashIndex::EntrySlot& slot;
    Address address;
  };
  // Writes the successor at `place` and publishes it. Returns false if the chain has grown in the
  // meantime, or the old record could not be sealed; then the new one is left well-formed and not
  // valid.
  template <typename Op>
  static bool Append(const AppendTarget& place, KeyView key, Op& op, const Record* old) {
    const Record record(place.core.log.At(place.address, place.guard), kShape);
    RecordHeader header = RecordHeader::Make(RecordKind::kRecord, place.slot.entry.address(),
                                             place.guard.version_bits());
    const auto value_bytes = static_cast<std::uint32_t>(NewValueBytes(op));
    record.Init(header, K::Data(key), static_cast<std::uint32_t>(K::Bytes(key)), value_bytes,
                value_bytes);
    if constexpr (Op::kTombstone) {
      header = header.With(RecordHeader::kTombstone);
      // A tombstone of a fixed-size value has room for one; it must not contain the frame's old
      // bytes.
      std::memset(record.value(), 0, RoundUp8(value_bytes));
    } else if constexpr (kShape.locked()) {
      const ValueView value = op.NewValue();
      CopyToLog(V::Data(value), V::Bytes(value), record.value());
    } else {
      WordAt(record.value())
          .store(V::ToWord(op.NewValue()), std::memory_order_relaxed);  // published below
    }
    if (!op.Seal(old)) return false;
    record.header().StoreRelaxed(header.With(RecordHeader::kValid));
    if (HashIndex::Publish(place.slot, place.address)) [[likely]]
      return true;
    record.header().StoreRelaxed(header);
    op.Unseal(old);
    place.core.counters.failed_cas.fetch_add(1, std::memory_order_relaxed);  // statistics
    return false;
  }
};

}  // namespace ebb::internal
