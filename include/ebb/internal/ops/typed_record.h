// Typed keys and values in records: how templates read and write the bytes that all other code
// treats as bytes. This is the only code that knows both a user's type and the layout of a record.
//
// KeyOf: hash and comparison. ValueOf: conversion between a value and its word or bytes.
// CopyLocked, WriteLocked: the two sides of a record's sequence lock (record.h).
//
// Thread safety: pure, or as stated; records in memory are accessed under a guard. Progress:
// CopyLocked waits for a writer that is copying; WriteLocked does not wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ebb/codec.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/hash.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/log/hybrid_log.h"

namespace ebb::internal {

// A key in the form that untyped code uses.
template <KeyType Key>
struct KeyOf {
  using View = ViewOf<Key>;
  static constexpr bool kFixed = Codec<Key>::kFixed;
  static const void* Data(const View& key) {
    if constexpr (kFixed) {
      return &key;
    } else {
      return key.data();
    }
  }
  static constexpr std::size_t Bytes(View key) {
    if constexpr (kFixed) {
      return sizeof(Key);
    } else {
      return key.size();
    }
  }
  static EBB_INLINE std::uint64_t Hash(const KeyHash& hash, View key) {
    return hash.Of(Data(key), Bytes(key), kFixed);
  }
  static EBB_INLINE bool Equals(const Record& record, View key) {
    if constexpr (!kFixed) {
      if (record.key_length() != key.size()) return false;
    }
    return std::memcmp(record.key(), Data(key), Bytes(key)) == 0;
  }
  static void CopyOut(const Record& record, Key& out) {
    if constexpr (kFixed) {
      std::memcpy(&out, record.key(), sizeof(Key));
    } else {
      out.assign(reinterpret_cast<const char*>(record.key()), record.key_length());
    }
  }
};

// A value in a record: unlocked (one atomic word) or locked (sequence and bytes).
template <ValueType Value>
struct ValueOf {
  using View = ViewOf<Value>;
  static constexpr bool kFixed = Codec<Value>::kFixed;
  static const void* Data(const View& value) {
    if constexpr (kFixed) {
      return &value;
    } else {
      return value.data();
    }
  }
  static constexpr std::size_t Bytes(View value) {
    if constexpr (kFixed) {
      return sizeof(Value);
    } else {
      return value.size();
    }
  }
  // Compares bytes.
  static bool Equals(View a, View b) {
    return Bytes(a) == Bytes(b) && std::memcmp(Data(a), Data(b), Bytes(a)) == 0;
  }
  // Returns the value as one word, zero-extended; only for unlocked values.
  static EBB_INLINE std::uint64_t ToWord(View value) {
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(Value) < 8 ? sizeof(Value) : 8);
    return word;
  }
  static EBB_INLINE Value FromWord(std::uint64_t word) {
    Value value;
    std::memcpy(&value, &word, sizeof(Value) < 8 ? sizeof(Value) : 8);
    return value;
  }
  // Copies `bytes` of record memory that another thread may be writing; the caller rechecks.
  static void CopyOut(const std::byte* from, std::uint32_t bytes, Value& out) {
    if constexpr (kFixed) {
      CopyFromLog(from, sizeof(Value), &out);
    } else {
      out.resize(bytes);
      CopyFromLog(from, bytes, out.data());
    }
  }
  static EBB_INLINE Value LoadUnlocked(const Record& record) {
    return FromWord(WordAt(record.value()).load(std::memory_order_acquire));  // [value]
  }
  // Copies the value of a record that no thread changes any more; locks and seals are ignored.
  static void CopyFrozen(const Record& record, Value& out) {
    if constexpr (!RecordShape{8, kFixed ? sizeof(Value) : RecordShape::kVariable}.locked()) {
      out = LoadUnlocked(record);
    } else {
      CopyOut(record.value(), record.lock().LoadAcquire().value_bytes(), out);
    }
  }
};

// After this many torn copies a reader acquires the record's lock.
inline constexpr int kOptimisticReads = 64;
// Waits between two checks of a lock whose holder only copies bytes. The holder may have been
// preempted, so this yields the processor from time to time.
class Spin {
 public:
  void Wait() {
    if (++count_ % 64 == 0) {
      Yield();
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  unsigned count_ = 0;
};

// Makes a consistent copy of the locked value of a record in memory. Returns the lock word under
// which it was copied. After some torn copies it acquires the lock, but only of a record at or
// above read_only: a record loaded under our guard cannot become safe_read_only before the guard
// ends, so no flush copies a held lock. Below read_only the only writers are those that were
// already there, and they end.
template <ValueType Value>
LockWord CopyLocked(const HybridLog& log, Address address, const Record& record, Value& out) {
  AtomicLockWord lock = record.lock();
  Spin spin;
  for (int tries = 0;; ++tries) {
    const LockWord seen = lock.LoadAcquire();
    if (seen.locked()) {
      spin.Wait();
      continue;
    }
    if (tries >= kOptimisticReads && address >= log.read_only()) {
      if constexpr (!ValueOf<Value>::kFixed) out.resize(seen.value_bytes());  // may throw: first
      if (!lock.TryLock(seen)) continue;
      ValueOf<Value>::CopyOut(record.value(), seen.value_bytes(), out);
      lock.Unlock(seen);
      return seen;
    }
    ValueOf<Value>::CopyOut(record.value(), seen.value_bytes(), out);
    if (lock.StillHolds(seen)) return seen;
  }
}

enum class WriteResult : std::uint8_t { kWritten, kChanged, kTooSmall, kFlagged };

// Writes a locked value in place if the lock word is still `seen` and no flag has been set.
EBB_INLINE WriteResult WriteLocked(const Record& record, LockWord seen, const void* bytes,
                                   std::size_t count) {
  if (count > record.capacity()) return WriteResult::kTooSmall;
  AtomicLockWord lock = record.lock();
  if (seen.locked() || !lock.TryLock(seen)) return WriteResult::kChanged;
  if (record.header().LoadAcquire().has_flags()) {
    lock.Unlock(seen);
    return WriteResult::kFlagged;
  }
  CopyToLog(bytes, count, record.value());
  lock.Unlock(seen.Written(static_cast<std::uint32_t>(count)));
  return WriteResult::kWritten;
}

}  // namespace ebb::internal
