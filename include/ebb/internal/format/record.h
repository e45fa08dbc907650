// Record: the bytes at an address. RecordShape: the positions of its parts, for one pair of types.
//
//   +0   header word                                  always
//   +8   key length (32) | value capacity (32)        only if key or value is a string
//   +..  sequence (32)   | value length (32)          only if the value is locked
//   +..  key bytes, padded to 8
//   +..  value bytes (their capacity), padded to 8
//
// A fixed value of 1, 2, 4 or 8 bytes is unlocked: one atomic word. Every other value is locked:
// its record contains a sequence lock. Key bytes never change after publication. The extent of a
// record never changes either: it follows from the shape, the key length and the capacity.
//
// The header word:
//
//   bit 0        tombstone   final: nothing changes a record after its tombstone
//   bit 1        sealed      frozen for a successor that copies it
//   bit 2        copy        made by a collection: frozen from the start, wherever it is
//   bits 3..47   previous address of the chain (8-byte aligned, so its low bits are free);
//                in fillers, control and open records: the extent in bytes
//   bits 48..49  version, its low two bits
//   bit 50       valid       set just before publication, cleared again if that failed
//   bits 51..53  kind        0 never; 1 record, 2 filler, 3 control, 4 open, 5 sessions;
//                            6 and 7 are reserved
//   bits 54..63  reserved    zero
//
// Reserved bits and kinds get a meaning only together with a required feature of the segment header
// (block.h). So a record with any of them is malformed for this version.
//
// A copy repeats a record from elsewhere in the log and is not an update of its key. A reader that
// skips copies would take an update in place for a part of the copy and lose it. Therefore the
// first update of a key after its copy appends.
//
// Legal changes of a published header: none -> tombstone, none -> sealed, sealed -> none (the
// sealer's successor was not published). Tombstone and seal are set by a CAS from a header without
// any flag. So a record never has both, and a copy has neither.
//
// The sequence lock (after H.-J. Boehm, "Can seqlocks get along with programming language memory
// models?", MSPC 2012): a writer makes the sequence odd by a CAS, rechecks the header, writes, and
// stores the next even sequence. A reader loads the word, copies, and loads the word again. If both
// loads return the same even word, no writer has been active in between. The sequence has 32 bits:
// to miss a writer, a reader would have to sleep through 2^31 writes.
//
// Edges
//   [locked]  Lock: CAS, acquire -> Unlock: store, release. Writers see each other's bytes.
//   [copied]  StillHolds: the relaxed loads of the copy, an acquire fence, then the second load of
//             the lock word; for ThreadSanitizer, a read-modify-write of the word. -> TryLock: the
//             CAS of the odd sequence, a release fence, then the writer's stores. A reader that has
//             copied a byte of a write sees its odd sequence or a later one.
//   [header]  header CAS, acq_rel -> header load, acquire: a seal is seen before the effects of
//             code that relies on it.
//
// Thread safety: as stated. Records are in log memory and are accessed only under a guard.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

enum class RecordKind : std::uint8_t {
  kNone = 0,
  kRecord = 1,
  kFiller = 2,
  kControl = 3,
  kOpen = 4,
  kSessions = 5
};

class RecordHeader {
 public:
  static constexpr std::uint64_t kTombstone = 1;
  static constexpr std::uint64_t kSealed = 2;
  static constexpr std::uint64_t kCopy = 4;
  static constexpr std::uint64_t kFlags = 7;
  static constexpr std::uint64_t kPrevMask = Address::kMask & ~kFlags;
  static constexpr int kVersionShift = 48;
  static constexpr std::uint64_t kValid = std::uint64_t{1} << 50;
  static constexpr int kKindShift = 51;
  static constexpr std::uint64_t kReserved = ~std::uint64_t{0} << 54;

  constexpr RecordHeader() = default;
  constexpr explicit RecordHeader(std::uint64_t word) : word_(word) {}
  static constexpr RecordHeader Make(RecordKind kind, Address prev, unsigned version_bits) {
    return RecordHeader(prev.value() | std::uint64_t{version_bits & 3} << kVersionShift |
                        std::uint64_t{static_cast<unsigned>(kind)} << kKindShift);
  }
  // A record that only fills space. It has its extent in place of the previous address.
  static constexpr RecordHeader MakeExtent(RecordKind kind, std::uint64_t extent_bytes) {
    return Make(kind, Address(extent_bytes), 0);
  }

  constexpr std::uint64_t word() const { return word_; }
  constexpr Address prev() const { return Address(word_ & kPrevMask); }
  constexpr std::uint64_t extent_bytes() const { return word_ & kPrevMask; }
  constexpr unsigned version_bits() const { return (word_ >> kVersionShift) & 3; }
  constexpr bool valid() const { return (word_ & kValid) != 0; }
  constexpr RecordKind kind() const { return static_cast<RecordKind>((word_ >> kKindShift) & 7); }
  constexpr bool tombstone() const { return (word_ & kTombstone) != 0; }
  constexpr bool sealed() const { return (word_ & kSealed) != 0; }
  constexpr bool copy() const { return (word_ & kCopy) != 0; }
  constexpr bool has_reserved() const {
    return (word_ & kReserved) != 0 || kind() > RecordKind::kSessions;
  }
  constexpr bool has_flags() const { return (word_ & kFlags) != 0; }
  constexpr RecordHeader With(std::uint64_t bits) const { return RecordHeader(word_ | bits); }
  constexpr RecordHeader Without(std::uint64_t bits) const { return RecordHeader(word_ & ~bits); }

 private:
  std::uint64_t word_ = 0;
};
static_assert(sizeof(RecordHeader) == 8);
static_assert((RecordHeader::kPrevMask & RecordHeader::kFlags) == 0,
              "flags live in the bits that an aligned address leaves free");

// The header in its record.
class AtomicRecordHeader {
 public:
  explicit AtomicRecordHeader(std::byte* at) : word_(WordAt(at)) {}
  RecordHeader LoadAcquire() const {
    return RecordHeader(word_.load(std::memory_order_acquire));  // [header]
  }
  // Used by the record's creator before publication, which orders this store.
  void StoreRelaxed(RecordHeader header) { word_.store(header.word(), std::memory_order_relaxed); }
  bool CasAcqRel(RecordHeader expected, RecordHeader desired) {
    std::uint64_t word = expected.word();
    return word_.compare_exchange_strong(word, desired.word(), std::memory_order_acq_rel,
                                         std::memory_order_relaxed);  // [header]
  }

 private:
  AtomicWord& word_;
};

// A lock word: sequence (high 32) | value length (low 32).
class LockWord {
 public:
  constexpr LockWord() = default;
  constexpr explicit LockWord(std::uint64_t word) : word_(word) {}
  static constexpr LockWord Initial(std::uint32_t value_bytes) { return LockWord(value_bytes); }
  constexpr std::uint64_t word() const { return word_; }
  constexpr std::uint32_t value_bytes() const { return static_cast<std::uint32_t>(word_); }
  constexpr bool locked() const { return (word_ >> 32 & 1) != 0; }
  constexpr LockWord Locked() const { return LockWord(word_ + (std::uint64_t{1} << 32)); }
  // Returns the word after a write of a value of `value_bytes`. The receiver is the word before the
  // lock.
  constexpr LockWord Written(std::uint32_t value_bytes) const {
    return LockWord(((word_ >> 32) + 2) << 32 | value_bytes);
  }

 private:
  std::uint64_t word_ = 0;
};

class AtomicLockWord {
 public:
  explicit AtomicLockWord(std::byte* at) : word_(WordAt(at)) {}
  LockWord LoadAcquire() const {
    return LockWord(word_.load(std::memory_order_acquire));  // [locked]
  }
  void StoreRelaxed(LockWord value) { word_.store(value.word(), std::memory_order_relaxed); }
  // Returns false if the word is no longer `seen`, which must be unlocked.
  bool TryLock(LockWord seen) {
    EBB_DCHECK(!seen.locked());
    std::uint64_t word = seen.word();
    if (!word_.compare_exchange_strong(word, seen.Locked().word(), std::memory_order_acquire,
                                       std::memory_order_relaxed)) {  // [locked]
      return false;
    }
#ifndef EBB_TSAN
    // The bytes written next must not become visible before the odd sequence. (The stores of the
    // value are atomic, so ThreadSanitizer reports nothing without this fence.)
    std::atomic_thread_fence(std::memory_order_release);  // [copied]
#endif
    return true;
  }
  void Unlock(LockWord next) { word_.store(next.word(), std::memory_order_release); }  // [locked]
  // Called after a copy: returns whether the word was `seen` all the time.
  bool StillHolds(LockWord seen) const {
#ifdef EBB_TSAN
    return const_cast<AtomicWord&>(word_).fetch_add(0, std::memory_order_acq_rel) ==  // [copied]
           seen.word();
#else
    std::atomic_thread_fence(std::memory_order_acquire);          // [copied]
    return word_.load(std::memory_order_relaxed) == seen.word();  // ordered by the fence above
#endif
  }

 private:
  AtomicWord& word_;
};

// The positions of a record's parts. Constant for a pair of types: templates use it as a constant
// expression, recovery and tools read it from the segment header.
struct RecordShape {
  static constexpr std::uint32_t kVariable = 0xffffffff;
  std::uint32_t key_bytes = 8;    // or kVariable
  std::uint32_t value_bytes = 8;  // or kVariable

  constexpr bool operator==(const RecordShape&) const = default;
  constexpr bool key_variable() const { return key_bytes == kVariable; }
  constexpr bool value_variable() const { return value_bytes == kVariable; }
  constexpr bool has_lengths() const { return key_variable() || value_variable(); }
  constexpr bool locked() const {
    return value_bytes != 1 && value_bytes != 2 && value_bytes != 4 && value_bytes != 8;
  }
  constexpr std::uint32_t lock_offset() const { return has_lengths() ? 16 : 8; }
  constexpr std::uint32_t key_offset() const { return lock_offset() + (locked() ? 8 : 0); }
  constexpr std::uint64_t ValueOffset(std::uint64_t key_length) const {
    return key_offset() + RoundUp8(key_length);
  }
  // Returns the bytes that a record of this key length and value capacity occupies.
  constexpr std::uint64_t ExtentFor(std::uint64_t key_length, std::uint64_t capacity) const {
    return ValueOffset(key_length) + RoundUp8(capacity);
  }
  // The number of leading bytes that ExtentOf reads.
  constexpr std::uint64_t prefix_bytes() const { return has_lengths() ? 16 : 8; }
};

// A view of a record's bytes in a frame or in a buffer.
class Record {
 public:
  Record(std::byte* bytes, RecordShape shape) : bytes_(bytes), shape_(shape) {}

  AtomicRecordHeader header() const { return AtomicRecordHeader(bytes_); }
  AtomicLockWord lock() const { return AtomicLockWord(bytes_ + shape_.lock_offset()); }
  std::uint32_t key_length() const { return shape_.key_variable() ? Load32(8) : shape_.key_bytes; }
  std::uint32_t capacity() const {
    return shape_.value_variable() ? Load32(12) : shape_.value_bytes;
  }
  const std::byte* key() const { return bytes_ + shape_.key_offset(); }
  EBB_INLINE std::byte* value() const { return bytes_ + shape_.ValueOffset(key_length()); }
  std::byte* bytes() const { return bytes_; }

  // Returns the bytes from this header to the next one, for every kind.
  std::uint64_t ExtentOf() const {
    const RecordHeader header(Load64(0));
    return header.kind() == RecordKind::kRecord ? shape_.ExtentFor(key_length(), capacity())
                                                : header.extent_bytes();
  }
  // Returns whether this is a whole record (or filler) within `room` bytes whose lengths agree and
  // whose lock is free. Bytes from a file can be wrong even if their checksum is right, because
  // anyone can compute checksums. Reads at most the ExtentOf bytes that are within `room`.
  bool WellFormed(std::uint64_t room) const {
    const RecordHeader header(Load64(0));
    if (header.has_reserved()) return false;
    if (header.kind() != RecordKind::kRecord) {
      return header.kind() != RecordKind::kNone && header.extent_bytes() >= 8 &&
             header.extent_bytes() <= room;
    }
    if (room < shape_.key_offset() || ExtentOf() > room) return false;
    if (!shape_.locked()) return true;
    const LockWord lock_word(Load64(shape_.lock_offset()));
    return !lock_word.locked() && lock_word.value_bytes() <= capacity() &&
           (shape_.value_variable() || lock_word.value_bytes() == shape_.value_bytes);
  }
  // Initializes the record: invalid, with all lengths and the key. The caller writes the value
  // next.
  EBB_INLINE void Init(RecordHeader header, const void* key, std::uint32_t key_length,
                       std::uint32_t capacity, std::uint32_t value_length) const {
    this->header().StoreRelaxed(header);
    if (shape_.has_lengths()) {
      const std::uint32_t lengths[2] = {key_length, capacity};
      std::memcpy(bytes_ + 8, lengths, 8);
    }
    if (shape_.locked()) lock().StoreRelaxed(LockWord::Initial(value_length));
    // The last word first, so that the padding is zero instead of an earlier content of the frame.
    if (key_length % 8 != 0) {
      std::memset(bytes_ + shape_.ValueOffset(key_length) - 8, 0, 8);
    }
    std::memcpy(bytes_ + shape_.key_offset(), key, key_length);
  }

 private:
  std::uint32_t Load32(std::size_t offset) const {
    std::uint32_t word;
    std::memcpy(&word, bytes_ + offset, 4);
    return word;
  }
  std::uint64_t Load64(std::size_t offset) const {
    // only this thread has the record, or its bytes are frozen
    return WordAt(bytes_ + offset).load(std::memory_order_relaxed);
  }

  std::byte* bytes_;
  RecordShape shape_;
};

}  // namespace ebb::internal
