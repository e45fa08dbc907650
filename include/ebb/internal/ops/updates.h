// Updates: the decision of each update about the record that it is shown, and changes of values in
// place.
//
// There is one struct for each update. operation.h shows it the newest record of its key, under a
// guard and after a successful look, and appends the record that it requests. Each struct has:
// kKind; kNumbered, whether it takes one of the session's serials; kCreates, whether it inserts an
// absent key; kBlind, whether it needs no record below; kTombstone; Decide; and the content for
// Append (NewValue, except for a tombstone).
//
// Argument: in operation.h, together with that of all other changes of a record.
//
// Edges
//   [value]  store or CAS of an unlocked value, release -> load, acquire. Everything that a thread
//            did before its write is visible to a thread that reads the value.
//
// Thread safety: an object is used by one thread; records are in memory, under its guard, or
// frozen. Progress: wait-free or lock-free for unlocked values; for locked values an upsert waits
// for the writer that holds the lock.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>

#include "ebb/codec.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/ops/session_state.h"
#include "ebb/internal/ops/typed_record.h"
#include "ebb/metrics.h"

namespace ebb::internal {

// The results of an Rmw's function. kRefused: it could not decode the value, and has set the
// session's error.
enum class Edited : std::uint8_t { kYes, kRefused };

// A reference to the function of an Rmw: two words. Everything below the fast paths sees the
// function as this type, so a further function compiles little more than its fast path.
template <typename Value>
class Edit {
 public:
  template <typename F>
  requires(!std::same_as<std::remove_cv_t<F>, Edit>) Edit(F& fn)
      : fn_(const_cast<void*>(reinterpret_cast<const volatile void*>(std::addressof(fn)))),
        call_([](void* object, Value& value) {
          F& edit = *reinterpret_cast<F*>(object);
          if constexpr (std::is_same_v<std::invoke_result_t<F&, Value&>, Edited>) {
            return edit(value);
          } else {
            static_cast<void>(edit(value));
            return Edited::kYes;
          }
        }) {}
  Edited operator()(Value& value) const { return call_(fn_, value); }

 private:
  void* fn_;
  Edited (*call_)(void*, Value&);
};

// The outcome of an operation. kRefused: the session's `error` has the reason.
enum class [[nodiscard]] OpStatus : std::uint8_t{kOk, kNotFound, kAlreadyExists, kAborted,
                                                 kRefused};

// The updates of one pair of types. Static members and types only.
template <KeyType Key, ValueType Value>
class Updates {
  using K = KeyOf<Key>;
  using V = ValueOf<Value>;

 public:
  using ValueView = typename V::View;
  static constexpr RecordShape kShape{
      K::kFixed ? static_cast<std::uint32_t>(Codec<Key>::kFixedBytes) : RecordShape::kVariable,
      V::kFixed ? static_cast<std::uint32_t>(Codec<Value>::kFixedBytes) : RecordShape::kVariable};

  // The state of the key's newest record (operation.h), and an update's decision about it.
  enum class RecordState : std::uint8_t { kAbsent, kMutable, kFrozen, kUnsettled };
  enum class Decision : std::uint8_t { kDone, kAppend, kWait, kAgain };

  struct PlainOp {
    static constexpr bool kNumbered = true;  // takes one of the session's serials
    OpStatus status = OpStatus::kOk;
    // Called before publication and after a failed one; only updates whose value may outgrow a
    // record need them.
    bool Seal(const Record*) const { return true; }
    void Unseal(const Record*) const {}
  };

  struct CopyingOp {
    static constexpr bool kNumbered = true;
    SessionState& session;
    OpStatus status = OpStatus::kOk;
    std::conditional_t<V::kFixed, Value, char> fixed{};
    LockWord seen{};        // the lock word under which a mutable value was copied
    bool outgrown = false;  // a mutable record is to be sealed for its successor

    Value& Copy() {
      if constexpr (V::kFixed) {
        return fixed;
      } else {
        return session.scratch;
      }
    }

    // Freezes the mutable record for the successor that is about to be published, if its value is
    // still the one that was copied.
    bool Seal(const Record* record) {
      if (!outgrown) return true;
      AtomicLockWord lock = record->lock();
      if (!lock.TryLock(seen)) return false;
      const RecordHeader header = record->header().LoadAcquire();
      const bool sealed = !header.has_flags() &&
                          record->header().CasAcqRel(header, header.With(RecordHeader::kSealed));
      lock.Unlock(seen);
      return sealed;
    }
    void Unseal(const Record* record) {
      if (!outgrown) return;
      const RecordHeader header = record->header().LoadAcquire();
      EBB_CHECK(record->header().CasAcqRel(header, header.Without(RecordHeader::kSealed)));
    }

    // Changes a mutable record with a locked value. Also done if `edit` refused.
    template <typename EditCopy>
    Decision ChangeLocked(Address address, const Record& record, EditCopy&& edit) {
      switch (EditLocked(*session.core, address, record, Copy(), seen, edit)) {
        case WriteResult::kWritten:
        case WriteResult::kChanged:
          break;
        case WriteResult::kTooSmall:
          outgrown = true;
          return Decision::kAppend;
        case WriteResult::kFlagged:
          return Decision::kAgain;
      }
      return Decision::kDone;
    }
  };

  struct UpsertOp : PlainOp {
    static constexpr OpKind kKind = OpKind::kUpsert;
    static constexpr bool kCreates = true;
    static constexpr bool kBlind = true;
    static constexpr bool kTombstone = false;
    explicit UpsertOp(ValueView new_value) : value(new_value) {}
    ValueView value;

    Decision Decide(RecordState where, Address, const Record* record) {
      if (where == RecordState::kMutable &&
          UpsertInPlace(*record, value) == WriteResult::kWritten) {
        return Decision::kDone;
      }
      return Decision::kAppend;
    }
    ValueView NewValue() const { return value; }
  };

  struct InsertOp : PlainOp {
    static constexpr OpKind kKind = OpKind::kInsert;
    static constexpr bool kCreates = true;
    static constexpr bool kBlind = false;
    static constexpr bool kTombstone = false;
    explicit InsertOp(ValueView new_value) : value(new_value) {}
    ValueView value;

    Decision Decide(RecordState where, Address, const Record*) {
      if (where == RecordState::kAbsent) return Decision::kAppend;
      this->status = OpStatus::kAlreadyExists;
      return Decision::kDone;
    }
    ValueView NewValue() const { return value; }
  };

  struct DeleteOp : PlainOp {
    static constexpr OpKind kKind = OpKind::kDelete;
    static constexpr bool kCreates = false;
    static constexpr bool kBlind = false;
    static constexpr bool kTombstone = true;

    Decision Decide(RecordState where, Address, const Record* record) {
      switch (where) {
        case RecordState::kAbsent:
          this->status = OpStatus::kNotFound;
          return Decision::kDone;
        case RecordState::kMutable: {
          const RecordHeader header = record->header().LoadAcquire();
          if (header.has_flags() ||
              !record->header().CasAcqRel(header, header.With(RecordHeader::kTombstone))) {
            return Decision::kAgain;
          }
          return Decision::kDone;
        }
        case RecordState::kFrozen:
          return Decision::kAppend;
        case RecordState::kUnsettled:
          return Decision::kWait;
      }
      return Decision::kWait;
    }
  };

  struct CompareExchangeOp : CopyingOp {
    static constexpr OpKind kKind = OpKind::kCompareExchange;
    static constexpr bool kCreates = false;
    static constexpr bool kBlind = false;
    static constexpr bool kTombstone = false;
    using CopyingOp::Copy;
    ValueView expected;
    ValueView desired;

    Decision Decide(RecordState where, Address address, const Record* record) {
      this->outgrown = false;
      switch (where) {
        case RecordState::kAbsent:
          return Answer(OpStatus::kNotFound);
        case RecordState::kFrozen:
          V::CopyFrozen(*record, Copy());
          return V::Equals(Copy(), expected) ? Decision::kAppend : Answer(OpStatus::kAborted);
        case RecordState::kMutable:
          return DecideMutable(address, *record);
        case RecordState::kUnsettled:
          return Decision::kWait;
      }
      return Decision::kWait;
    }
    Decision Answer(OpStatus answer) {
      this->status = answer;
      return Decision::kDone;
    }
    Decision DecideMutable(Address address, const Record& record) {
      if constexpr (kShape.locked()) {
        return this->ChangeLocked(address, record, [this] {
          const bool same = V::Equals(Copy(), expected);
          this->status = same ? OpStatus::kOk : OpStatus::kAborted;
          if (same) Copy() = Value(desired);
          return same;
        });
      } else {
        return Answer(CompareExchangeUnlocked(record, expected, desired));
      }
    }
    ValueView NewValue() const { return desired; }
  };

  struct RmwOp : CopyingOp {
    static constexpr OpKind kKind = OpKind::kRmw;
    static constexpr bool kCreates = true;
    static constexpr bool kBlind = false;
    static constexpr bool kTombstone = false;
    using CopyingOp::Copy;
    using CopyingOp::outgrown;
    using CopyingOp::seen;
    using CopyingOp::session;
    internal::Edit<Value> fn;
    ValueView initial;

    bool EditCopy() {
      const CallbackScope scope(session.core, CallbackKind::kUpdate);
      if (fn(Copy()) == Edited::kRefused) this->status = OpStatus::kRefused;
      return this->status == OpStatus::kOk;
    }
    Decision Decide(RecordState where, Address address, const Record* record) {
      outgrown = false;
      switch (where) {
        case RecordState::kAbsent:
          Copy() = Value(initial);
          return EditCopy() ? Decision::kAppend : Decision::kDone;
        case RecordState::kFrozen:
          V::CopyFrozen(*record, Copy());
          return EditCopy() ? Decision::kAppend : Decision::kDone;
        case RecordState::kMutable:
          return DecideMutable(address, *record);
        case RecordState::kUnsettled:
          return Decision::kWait;
      }
      return Decision::kWait;
    }
    Decision DecideMutable(Address address, const Record& record) {
      if constexpr (kShape.locked()) {
        return this->ChangeLocked(address, record, [this] { return EditCopy(); });
      } else {
        const CallbackScope scope(session.core, CallbackKind::kUpdate);
        RmwUnlocked(record, fn);
        return Decision::kDone;
      }
    }
    ValueView NewValue() { return Copy(); }
  };

  struct PromoteOp : PlainOp {
    static constexpr OpKind kKind = OpKind::kRead;
    static constexpr bool kNumbered = false;
    static constexpr bool kCreates = false;
    static constexpr bool kBlind = false;
    static constexpr bool kTombstone = false;
    explicit PromoteOp(Address from) : from_device(from) {}
    Address from_device;
    const Record* found = nullptr;
    std::conditional_t<V::kFixed, Value, char> fixed{};

    Decision Decide(RecordState where, Address address, const Record* record) {
      found = nullptr;
      if (where != RecordState::kFrozen || address != from_device) return Decision::kDone;
      found = record;
      if constexpr (V::kFixed) V::CopyFrozen(*record, fixed);
      return Decision::kAppend;
    }
    ValueView NewValue() const {
      if constexpr (V::kFixed) {
        return fixed;
      } else {
        return FrozenView(*found);
      }
    }
  };

  // ---- values in place ----

  // Returns the bytes of a frozen record's string value, in place.
  static std::string_view FrozenView(const Record& record) {
    return {reinterpret_cast<const char*>(record.value()),
            record.lock().LoadAcquire().value_bytes()};
  }

  // Changes a locked value in place: edits a copy, and writes the copy back if the value is still
  // the one that was copied under `seen`. kChanged: `edit` refused. kTooSmall: the edited copy does
  // not fit.
  template <typename EditCopy>
  static WriteResult EditLocked(const Core& core, Address address, const Record& record,
                                Value& copy, LockWord& seen, EditCopy&& edit) {
    for (;;) {  // lock-free: each turn means that another update took effect
      seen = CopyLocked(core.log, address, record, copy);
      if (!edit()) return WriteResult::kChanged;
      if (V::Bytes(copy) > core.config.max_value_bytes) return WriteResult::kTooSmall;
      const WriteResult result = WriteLocked(record, seen, V::Data(copy), V::Bytes(copy));
      if (result != WriteResult::kChanged) return result;
    }
  }

  static EBB_INLINE WriteResult UpsertInPlace(const Record& record, ValueView value) {
    if constexpr (kShape.locked()) {
      Spin spin;
      for (;;) {  // ends: each turn means that another writer has written, or is writing
        const WriteResult result =
            WriteLocked(record, record.lock().LoadAcquire(), V::Data(value), V::Bytes(value));
        if (result != WriteResult::kChanged) return result;
        spin.Wait();
      }
    } else {
      WordAt(record.value()).store(V::ToWord(value), std::memory_order_release);  // [value]
      return WriteResult::kWritten;
    }
  }

  template <typename Fn>
  static EBB_INLINE void RmwUnlocked(const Record& record, Fn& fn) {
    AtomicWord& word = WordAt(record.value());
    std::uint64_t seen = word.load(std::memory_order_acquire);  // [value]
    for (;;) {  // lock-free: a failure means that another update took effect
      Value value = V::FromWord(seen);
      fn(value);
      if (word.compare_exchange_weak(seen, V::ToWord(value), std::memory_order_acq_rel,  // [value]
                                     std::memory_order_acquire)) [[likely]] {
        return;
      }
    }
  }

  static OpStatus CompareExchangeUnlocked(const Record& record, ValueView expected,
                                          ValueView desired) {
    std::uint64_t word = V::ToWord(expected);
    return WordAt(record.value())
                   .compare_exchange_strong(word, V::ToWord(desired),
                                            std::memory_order_acq_rel,  // [value]
                                            std::memory_order_acquire)
               ? OpStatus::kOk
               : OpStatus::kAborted;
  }
};

}  // namespace ebb::internal
