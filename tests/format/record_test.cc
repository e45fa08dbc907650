#include "ebb/internal/format/record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace ebb::test {
namespace {

using internal::Address;
using internal::Atomic;
using internal::AtomicLockWord;
using internal::AtomicRecordHeader;
using internal::CopyFromLog;
using internal::CopyToLog;
using internal::LockWord;
using internal::Record;
using internal::RecordHeader;
using internal::RecordKind;
using internal::RecordShape;
using internal::RoundUp8;
using internal::WordAt;

constexpr std::uint32_t kVariable = RecordShape::kVariable;

// Record memory of exactly `bytes`, so that AddressSanitizer sees an access outside of it.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : words_(std::make_unique<std::uint64_t[]>(bytes / 8)) {}
  std::byte* data() const { return reinterpret_cast<std::byte*>(words_.get()); }

 private:
  std::unique_ptr<std::uint64_t[]> words_;
};

// ---- The header word ----

TEST(RecordTest, HeaderBitsAreWhereTheFormatSays) {
  const RecordHeader record = RecordHeader::Make(RecordKind::kRecord, Address(0x123456789ab8), 2);
  EXPECT_EQ(record.word(), 0x000a123456789ab8U);
  EXPECT_EQ(record.With(RecordHeader::kValid).word(), 0x000e123456789ab8U);
  EXPECT_EQ(record.With(RecordHeader::kTombstone).word(), 0x000a123456789ab9U);
  EXPECT_EQ(record.With(RecordHeader::kSealed).word(), 0x000a123456789abaU);
  EXPECT_EQ(record.With(RecordHeader::kCopy).word(), 0x000a123456789abcU);
  EXPECT_EQ(RecordHeader::MakeExtent(RecordKind::kFiller, 64).word(), 0x0010000000000040U);
  EXPECT_EQ(RecordHeader::MakeExtent(RecordKind::kControl, 4080).word(), 0x0018000000000ff0U);
  EXPECT_EQ(RecordHeader::MakeExtent(RecordKind::kOpen, 4080).word(), 0x0020000000000ff0U);
}

TEST(RecordTest, HeaderReturnsTheFieldsThatWereStored) {
  for (const Address prev : {Address(0), Address(8), Address(0xfffffffffff8)}) {
    for (unsigned version = 0; version < 4; ++version) {
      const RecordHeader header = RecordHeader::Make(RecordKind::kRecord, prev, version);
      EXPECT_EQ(header.prev(), prev);
      EXPECT_EQ(header.version_bits(), version);
      EXPECT_EQ(header.kind(), RecordKind::kRecord);
      EXPECT_FALSE(header.valid() || header.has_flags());  // born invalid
    }
  }
}

TEST(RecordTest, HeaderFlagsDoNotTouchTheRest) {
  const RecordHeader header = RecordHeader::Make(RecordKind::kRecord, Address(0xfffffffffff8), 3);
  const std::uint64_t bits[] = {RecordHeader::kTombstone, RecordHeader::kSealed,
                                RecordHeader::kCopy, RecordHeader::kValid};
  for (const std::uint64_t bit : bits) {
    const RecordHeader with = header.With(bit);
    EXPECT_EQ(with.prev(), header.prev());
    EXPECT_EQ(with.version_bits(), 3U);
    EXPECT_EQ(with.kind(), RecordKind::kRecord);
    EXPECT_EQ(with.Without(bit).word(), header.word());
  }
  EXPECT_TRUE(header.With(RecordHeader::kTombstone).tombstone());
  EXPECT_TRUE(header.With(RecordHeader::kSealed).sealed());
  EXPECT_TRUE(header.With(RecordHeader::kSealed).has_flags());
  EXPECT_TRUE(header.With(RecordHeader::kCopy).copy());
  EXPECT_TRUE(header.With(RecordHeader::kCopy).has_flags());  // so no fast path touches it
  EXPECT_TRUE(header.With(RecordHeader::kValid).valid());
  EXPECT_FALSE(header.With(RecordHeader::kValid).has_flags());  // compared on the fast path
}

TEST(RecordTest, HeaderKeepsOnlyTwoBitsOfTheVersion) {
  EXPECT_EQ(RecordHeader::Make(RecordKind::kRecord, Address(8), 6).word(),
            RecordHeader::Make(RecordKind::kRecord, Address(8), 2).word());
}

TEST(RecordTest, ZeroWordIsNoRecord) {
  EXPECT_EQ(RecordHeader().kind(), RecordKind::kNone);
  EXPECT_FALSE(RecordHeader().valid());
}

TEST(RecordTest, HeaderChangesOnlyFromTheValueThatWasRead) {
  const Memory memory(8);
  AtomicRecordHeader header(memory.data());
  const RecordHeader plain =
      RecordHeader::Make(RecordKind::kRecord, Address(8), 0).With(RecordHeader::kValid);
  header.StoreRelaxed(plain);
  const RecordHeader sealed = plain.With(RecordHeader::kSealed);
  EXPECT_TRUE(header.CasAcqRel(plain, sealed));
  EXPECT_FALSE(header.CasAcqRel(plain, plain.With(RecordHeader::kTombstone)));
  EXPECT_EQ(header.LoadAcquire().word(), sealed.word());
  EXPECT_TRUE(header.CasAcqRel(sealed, plain));  // the sealer's successor was not published
  EXPECT_TRUE(header.CasAcqRel(plain, plain.With(RecordHeader::kTombstone)));
  EXPECT_FALSE(header.CasAcqRel(plain, sealed));
}

// Tombstone and seal are set from a header without either, so of all who try only one succeeds.
TEST(RecordTest, OneThreadSetsTombstoneOrSeal) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 500;
  const Memory memory(8 * kRounds);
  const RecordHeader plain = RecordHeader::Make(RecordKind::kRecord, Address(8), 0);
  for (int i = 0; i < kRounds; ++i) AtomicRecordHeader(memory.data() + 8 * i).StoreRelaxed(plain);

  Atomic<int> won{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const std::uint64_t bit = t % 2 == 0 ? RecordHeader::kTombstone : RecordHeader::kSealed;
      for (int i = 0; i < kRounds; ++i) {
        if (AtomicRecordHeader(memory.data() + 8 * i).CasAcqRel(plain, plain.With(bit))) {
          won.fetch_add(1, std::memory_order_relaxed);  // read after the joins
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won.load(std::memory_order_relaxed), kRounds);
  for (int i = 0; i < kRounds; ++i) {
    const RecordHeader header = AtomicRecordHeader(memory.data() + 8 * i).LoadAcquire();
    EXPECT_NE(header.tombstone(), header.sealed());
  }
}

// ---- The lock word ----

TEST(RecordTest, LockWordHoldsASequenceAndALength) {
  const LockWord initial = LockWord::Initial(77);
  EXPECT_EQ(initial.word(), 77U);
  EXPECT_FALSE(initial.locked());
  EXPECT_TRUE(initial.Locked().locked());
  EXPECT_EQ(initial.Locked().value_bytes(), 77U);
  const LockWord written = initial.Written(0xffffffff);
  EXPECT_EQ(written.word(), 0x00000002ffffffffU);
  EXPECT_FALSE(written.locked());
  EXPECT_EQ(written.value_bytes(), 0xffffffffU);
}

TEST(RecordTest, SequenceWrapsWithoutTouchingTheLength) {
  const LockWord last(0xfffffffe00000005);
  EXPECT_TRUE(last.Locked().locked());
  EXPECT_EQ(last.Locked().value_bytes(), 5U);
  EXPECT_EQ(last.Written(9).word(), 9U);
  EXPECT_FALSE(last.Written(9).locked());
}

TEST(RecordTest, LockIsTakenOnlyFromTheWordThatWasSeen) {
  const Memory memory(8);
  AtomicLockWord lock(memory.data());
  const LockWord seen = LockWord::Initial(24);
  lock.StoreRelaxed(seen);
  EXPECT_TRUE(lock.StillHolds(seen));
  EXPECT_TRUE(lock.TryLock(seen));
  EXPECT_FALSE(lock.StillHolds(seen));  // a reader's copy from before is worth nothing
  EXPECT_FALSE(lock.TryLock(seen));     // another thread has it
  lock.Unlock(seen.Written(24));
  EXPECT_FALSE(lock.TryLock(seen));     // another thread had it
  EXPECT_FALSE(lock.StillHolds(seen));  // the same length, and yet another value
  EXPECT_TRUE(lock.TryLock(lock.LoadAcquire()));
}

// Writers count under the lock and stamp all words of the value; readers judge their copies only
// by the word before and after.
TEST(RecordTest, WritersExcludeEachOtherAndReadersSeeNoTornValue) {
  constexpr std::size_t kWords = 6;
  constexpr int kWriters = 2;
  constexpr std::uint64_t kRounds = 10000;
  const Memory memory(8 + kWords * 8);
  std::byte* const value = memory.data() + 8;
  AtomicLockWord(memory.data()).StoreRelaxed(LockWord::Initial(kWords * 8));
  Atomic<bool> done{false};

  const auto write = [&] {
    AtomicLockWord lock(memory.data());
    for (std::uint64_t written = 0; written < kRounds;) {
      const LockWord seen = lock.LoadAcquire();
      if (seen.locked() || !lock.TryLock(seen)) {
        std::this_thread::yield();
        continue;
      }
      const std::uint64_t next = WordAt(value).load(std::memory_order_relaxed) + 1;
      const std::vector<std::uint64_t> words(kWords, next);
      CopyToLog(words.data(), kWords * 8, value);
      lock.Unlock(seen.Written(kWords * 8));
      ++written;
    }
  };
  std::uint64_t good_copies = 0;
  std::uint64_t torn_copies = 0;
  std::thread reader([&] {
    const AtomicLockWord lock(memory.data());
    while (!done.load(std::memory_order_acquire) || good_copies == 0) {
      const LockWord seen = lock.LoadAcquire();
      std::uint64_t copy[kWords];
      CopyFromLog(value, sizeof(copy), copy);
      if (seen.locked() || !lock.StillHolds(seen)) continue;
      ++good_copies;
      torn_copies += std::count(copy, copy + kWords, copy[0]) != kWords;
    }
  });
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) writers.emplace_back(write);
  for (std::thread& writer : writers) writer.join();
  done.store(true, std::memory_order_release);
  reader.join();
  EXPECT_EQ(torn_copies, 0U);
  EXPECT_EQ(WordAt(value).load(std::memory_order_relaxed), kWriters * kRounds);
}

// ---- Shapes ----

struct ShapeCase {
  RecordShape shape;
  bool locked;
  std::uint32_t lock_offset;
  std::uint32_t key_offset;
  std::uint64_t key_length;
  std::uint64_t capacity;
  std::uint64_t value_offset;
  std::uint64_t extent;
};

TEST(RecordTest, PartsOfARecordAreWhereTheFormatSays) {
  const ShapeCase cases[] = {
      {{8, 8}, false, 8, 8, 8, 8, 16, 24},
      {{8, 1}, false, 8, 8, 8, 1, 16, 24},
      {{8, 2}, false, 8, 8, 8, 2, 16, 24},
      {{8, 4}, false, 8, 8, 8, 4, 16, 24},
      {{1, 8}, false, 8, 8, 1, 8, 16, 24},
      {{16, 8}, false, 8, 8, 16, 8, 24, 32},
      {{12, 4}, false, 8, 8, 12, 4, 24, 32},
      // Locked values: a lock word in front of the key.
      {{8, 24}, true, 8, 16, 8, 24, 24, 48},
      {{8, 3}, true, 8, 16, 8, 3, 24, 32},
      {{8, 5}, true, 8, 16, 8, 5, 24, 32},
      {{8, 9}, true, 8, 16, 8, 9, 24, 40},
      {{8, 16}, true, 8, 16, 8, 16, 24, 40},
      // Strings: a word of lengths behind the header.
      {{kVariable, 8}, false, 16, 16, 5, 8, 24, 32},
      {{kVariable, 8}, false, 16, 16, 0, 8, 16, 24},
      {{kVariable, 24}, true, 16, 24, 9, 24, 40, 64},
      {{8, kVariable}, true, 16, 24, 8, 0, 32, 32},
      {{8, kVariable}, true, 16, 24, 8, 100, 32, 136},
      {{kVariable, kVariable}, true, 16, 24, 0, 0, 24, 24},
      {{kVariable, kVariable}, true, 16, 24, 3, 5, 32, 40},
      // Lengths of 32 bits do not wrap.
      {{kVariable, kVariable}, true, 16, 24, 0xffffffff, 0xffffffff, 0x100000018, 0x200000018},
  };
  for (const ShapeCase& c : cases) {
    SCOPED_TRACE(testing::Message()
                 << "key " << c.shape.key_bytes << " value " << c.shape.value_bytes << " lengths "
                 << c.key_length << " " << c.capacity);
    EXPECT_EQ(c.shape.locked(), c.locked);
    EXPECT_EQ(c.shape.lock_offset(), c.lock_offset);
    EXPECT_EQ(c.shape.key_offset(), c.key_offset);
    EXPECT_EQ(c.shape.ValueOffset(c.key_length), c.value_offset);
    EXPECT_EQ(c.shape.ExtentFor(c.key_length, c.capacity), c.extent);
    EXPECT_EQ(c.shape.has_lengths(),
              c.shape.key_bytes == kVariable || c.shape.value_bytes == kVariable);
    EXPECT_EQ(c.shape.prefix_bytes(), c.shape.has_lengths() ? 16U : 8U);
  }
}

// Every pair of key and value type that there is, with a few lengths where a string has a choice.
struct RecordCase {
  RecordShape shape;
  std::uint32_t key_length;
  std::uint32_t capacity;
};
std::vector<RecordCase> AllRecordCases() {
  const std::uint32_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 24, 100, kVariable};
  const std::vector<std::uint32_t> lengths = {0, 1, 7, 8, 9, 31};
  std::vector<RecordCase> cases;
  for (const std::uint32_t key : sizes) {
    for (const std::uint32_t value : sizes) {
      for (const std::uint32_t key_length :
           key == kVariable ? lengths : std::vector<std::uint32_t>{key}) {
        for (const std::uint32_t capacity :
             value == kVariable ? lengths : std::vector<std::uint32_t>{value}) {
          cases.push_back({{key, value}, key_length, capacity});
        }
      }
    }
  }
  return cases;
}

Record MakeRecord(const RecordCase& c, std::byte* bytes, const std::string& key) {
  const Record record(bytes, c.shape);
  record.Init(RecordHeader::Make(RecordKind::kRecord, Address(4080), 1), key.data(), c.key_length,
              c.capacity, c.capacity);
  return record;
}

TEST(RecordTest, RecordOfEveryShapeHasItsPartsInItsExtent) {
  for (const RecordCase& c : AllRecordCases()) {
    const std::uint64_t extent = c.shape.ExtentFor(c.key_length, c.capacity);
    EXPECT_EQ(extent % 8, 0U);
    const Memory memory(extent);
    std::memset(memory.data(), 0xee, extent);
    const std::string key(c.key_length, 'k');
    const Record record = MakeRecord(c, memory.data(), key);
    EXPECT_EQ(record.key_length(), c.key_length);
    EXPECT_EQ(record.capacity(), c.capacity);
    EXPECT_EQ(record.ExtentOf(), extent);
    EXPECT_EQ(std::memcmp(record.key(), key.data(), key.size()), 0);
    EXPECT_EQ(record.value() + RoundUp8(c.capacity), memory.data() + extent);
    EXPECT_FALSE(record.header().LoadAcquire().valid());
    if (c.shape.locked()) {
      EXPECT_EQ(record.lock().LoadAcquire().word(), c.capacity);
    }
    EXPECT_TRUE(record.WellFormed(extent));
    EXPECT_TRUE(record.WellFormed(extent + 8));
    EXPECT_FALSE(record.WellFormed(extent - 8));
  }
}

// The frame may hold anything from before; equal records must have equal bytes.
TEST(RecordTest, KeysArePaddedWithZeros) {
  for (const RecordCase& c : AllRecordCases()) {
    const std::uint64_t extent = c.shape.ExtentFor(c.key_length, c.capacity);
    const Memory memory(extent);
    std::memset(memory.data(), 0xee, extent);
    const Record record = MakeRecord(c, memory.data(), std::string(c.key_length, 'k'));
    for (std::uint64_t i = c.key_length; i < RoundUp8(c.key_length); ++i) {
      EXPECT_EQ(record.key()[i], std::byte{0});
    }
  }
}

TEST(RecordTest, BytesOfARecordAreTheFormat) {
  const RecordCase c{{kVariable, kVariable}, 3, 5};
  const Memory memory(40);
  const Record record = MakeRecord(c, memory.data(), "abc");
  CopyToLog("hello", 5, record.value());
  record.header().StoreRelaxed(record.header().LoadAcquire().With(RecordHeader::kValid));
  constexpr std::array<unsigned char, 40> kGolden = {
      0xf0, 0x0f, 0,   0,   0,   0, 0x0d, 0,  // previous 4080, version 1, valid, kind record
      3,    0,    0,   0,   5,   0, 0,    0,  // key length, capacity
      5,    0,    0,   0,   0,   0, 0,    0,  // value length, sequence
      'a',  'b',  'c', 0,   0,   0, 0,    0,  //
      'h',  'e',  'l', 'l', 'o', 0, 0,    0,
  };
  EXPECT_EQ(std::memcmp(memory.data(), kGolden.data(), kGolden.size()), 0);
}

TEST(RecordTest, FillersStateTheirExtentForEveryShape) {
  for (const RecordShape shape : {RecordShape{8, 8}, RecordShape{kVariable, kVariable}}) {
    const Memory memory(8);  // the smallest filler has no room for anything else
    const Record filler(memory.data(), shape);
    filler.header().StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, 8));
    EXPECT_EQ(filler.ExtentOf(), 8U);
    EXPECT_TRUE(filler.WellFormed(8));
    filler.header().StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, 16));
    EXPECT_FALSE(filler.WellFormed(8));
    EXPECT_TRUE(filler.WellFormed(16));
    filler.header().StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, 0));
    EXPECT_FALSE(filler.WellFormed(8));  // a walk would never get past it
  }
}

// ---- Nonsense that verifies ----

TEST(RecordTest, ZerosAreNotWellFormed) {
  for (const RecordShape shape : {RecordShape{8, 8}, RecordShape{kVariable, kVariable}}) {
    const Memory memory(64);
    EXPECT_FALSE(Record(memory.data(), shape).WellFormed(64));
  }
}

// Bits and kinds that only a later version, with a feature in the segment header, can have written.
TEST(RecordTest, ReservedBitsAndKindsAreNotWellFormed) {
  const Memory memory(24);
  const Record record(memory.data(), RecordShape{8, 8});
  const auto well_formed = [&](RecordHeader header) {
    record.header().StoreRelaxed(header);
    return record.WellFormed(24);
  };
  const RecordHeader plain =
      RecordHeader::Make(RecordKind::kRecord, Address(8), 1).With(RecordHeader::kValid);
  EXPECT_TRUE(well_formed(plain));
  EXPECT_TRUE(well_formed(plain.With(RecordHeader::kCopy)));
  for (int bit = 54; bit < 64; ++bit) {
    EXPECT_FALSE(well_formed(plain.With(std::uint64_t{1} << bit))) << bit;
    const RecordHeader filler = RecordHeader::MakeExtent(RecordKind::kFiller, 16);
    EXPECT_FALSE(well_formed(filler.With(std::uint64_t{1} << bit))) << bit;
  }
  for (unsigned kind = 1; kind < 8; ++kind) {
    EXPECT_EQ(well_formed(RecordHeader::MakeExtent(static_cast<RecordKind>(kind), 16)), kind < 6)
        << kind;
  }
}

TEST(RecordTest, LengthsThatDoNotFitAreNotWellFormed) {
  const RecordCase c{{kVariable, kVariable}, 3, 5};
  const auto with = [&](std::uint32_t key_length, std::uint32_t capacity, LockWord lock) {
    const Memory memory(40);
    const Record record = MakeRecord(c, memory.data(), "abc");
    std::memcpy(memory.data() + 8, &key_length, 4);
    std::memcpy(memory.data() + 12, &capacity, 4);
    record.lock().StoreRelaxed(lock);
    return record.WellFormed(40);
  };
  EXPECT_TRUE(with(3, 5, LockWord::Initial(5)));
  EXPECT_TRUE(with(3, 5, LockWord::Initial(0)));
  EXPECT_FALSE(with(3, 5, LockWord::Initial(6)));           // longer than its capacity
  EXPECT_FALSE(with(3, 5, LockWord::Initial(5).Locked()));  // no thread can free it
  EXPECT_FALSE(with(9, 5, LockWord::Initial(5)));
  EXPECT_FALSE(with(3, 9, LockWord::Initial(5)));
  EXPECT_FALSE(with(0xffffffff, 5, LockWord::Initial(5)));
  EXPECT_FALSE(with(3, 0xffffffff, LockWord::Initial(5)));
  EXPECT_FALSE(with(0xfffffff8, 0xfffffff8, LockWord::Initial(5)));
}

TEST(RecordTest, FixedValueOfAnotherLengthIsNotWellFormed) {
  const RecordCase c{{8, 24}, 8, 24};
  const Memory memory(48);
  const Record record = MakeRecord(c, memory.data(), "12345678");
  EXPECT_TRUE(record.WellFormed(48));
  record.lock().StoreRelaxed(LockWord::Initial(23));
  EXPECT_FALSE(record.WellFormed(48));
}

// Random bytes with plausible small numbers among them, in memory that ends where the room does.
TEST(RecordTest, RandomBytesAreReadWithinTheirRoomOnly) {
  std::mt19937_64 random(20240517);
  const RecordShape shapes[] = {{8, 8},         {8, 24},        {3, 5},
                                {kVariable, 8}, {8, kVariable}, {kVariable, kVariable}};
  std::uint64_t accepted = 0;
  for (int round = 0; round < 60000; ++round) {
    const RecordShape shape = shapes[random() % 6];
    const std::uint64_t room = 8 * (1 + random() % 10);
    const Memory memory(room);
    for (std::uint64_t at = 0; at < room; at += 8) {
      const std::uint64_t small = (random() % 64) << 32 | random() % 64;
      const std::uint64_t word = random() % 2 == 0 ? random() : small;
      std::memcpy(memory.data() + at, &word, 8);
    }
    if (random() % 4 != 0) {
      const auto kind = static_cast<RecordKind>(random() % 5);
      const std::uint64_t header = RecordHeader::Make(kind, Address(random() % 12 * 8), 0).word();
      std::memcpy(memory.data(), &header, 8);
    }
    const Record record(memory.data(), shape);
    if (!record.WellFormed(room)) continue;
    ++accepted;
    EXPECT_LE(record.ExtentOf(), room);
    EXPECT_GE(record.ExtentOf(), 8U);
    if (record.header().LoadAcquire().kind() != RecordKind::kRecord) continue;
    EXPECT_LE(record.key() + record.key_length(), memory.data() + room);
    EXPECT_LE(record.value() + record.capacity(), memory.data() + room);
    if (shape.locked()) {
      EXPECT_LE(record.lock().LoadAcquire().value_bytes(), record.capacity());
    }
  }
  EXPECT_GT(accepted, 1000U);  // or the nonsense was too wild to test anything
}

}  // namespace
}  // namespace ebb::test
