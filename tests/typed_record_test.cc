// Typed keys and values in record bytes: conversions, comparisons, and both sides of the lock.
#include "ebb/internal/typed_record.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/hash.h"

namespace ebb::internal {
namespace {

struct Triple {
  std::uint64_t a = 0, b = 0, c = 0;
};

constexpr RecordShape kStrings{RecordShape::kVariable, RecordShape::kVariable};
constexpr RecordShape kTriples{8, sizeof(Triple)};

// Record memory as a frame has it: aligned, and not zero where nobody has written.
class RecordMemory {
 public:
  explicit RecordMemory(RecordShape shape) : shape_(shape) { words_.fill(0xabababababababab); }
  Record record() { return Record(reinterpret_cast<std::byte*>(words_.data()), shape_); }

 private:
  RecordShape shape_;
  alignas(64) std::array<std::uint64_t, 64> words_;
};

Record MakeString(RecordMemory& memory, const std::string& key, std::uint32_t capacity,
                  const std::string& value) {
  const Record record = memory.record();
  record.Init(RecordHeader::Make(RecordKind::kRecord, kNoRecord, 1), key.data(),
              static_cast<std::uint32_t>(key.size()), capacity,
              static_cast<std::uint32_t>(value.size()));
  CopyToLog(value.data(), value.size(), record.value());
  return record;
}

TEST(TypedRecordTest, KeysHashByTheirBytesAndFixedOnesAsIntegers) {
  EXPECT_EQ(KeyOf<std::uint64_t>::Hash(42), HashInteger(42));
  EXPECT_EQ(KeyOf<std::uint16_t>::Hash(42), HashInteger(42)) << "zero-extended";
  EXPECT_EQ(KeyOf<std::string>::Hash("key"), HashBytes("key", 3));
}

TEST(TypedRecordTest, StringKeysAreEqualOnlyIfLengthAndBytesAre) {
  RecordMemory memory(kStrings);
  const Record record = MakeString(memory, "abcdefghi", 8, "v");
  EXPECT_TRUE(KeyOf<std::string>::Equals(record, "abcdefghi"));
  EXPECT_FALSE(KeyOf<std::string>::Equals(record, "abcdefgh"));
  EXPECT_FALSE(KeyOf<std::string>::Equals(record, std::string("abcdefghi\0", 10)));
  EXPECT_FALSE(KeyOf<std::string>::Equals(record, "abcdefghj"));
}

TEST(TypedRecordTest, SmallValuesSurviveTheirWordWithoutNeighbours) {
  EXPECT_EQ(ValueOf<std::uint8_t>::ToWord(0xfe), 0xfeu);
  EXPECT_EQ(ValueOf<std::uint8_t>::FromWord(0x12345678fe), 0xfe);
  EXPECT_EQ(ValueOf<std::int32_t>::FromWord(ValueOf<std::int32_t>::ToWord(-5)), -5);
  EXPECT_EQ(ValueOf<double>::FromWord(ValueOf<double>::ToWord(0.1)), 0.1);
}

TEST(TypedRecordTest, AWriteIsRefusedWhenTheSequenceMovedTheValueIsTooLongOrAFlagIsSet) {
  RecordMemory memory(kStrings);
  const Record record = MakeString(memory, "k", 8, "first");
  const LockWord seen = record.lock().LoadAcquire();
  EXPECT_EQ(WriteLocked(record, seen, "123456789", 9), WriteResult::kTooSmall);
  EXPECT_EQ(WriteLocked(record, seen, "12345678", 8), WriteResult::kWritten);
  EXPECT_EQ(WriteLocked(record, seen, "x", 1), WriteResult::kChanged) << "the sequence has moved";

  const RecordHeader header = record.header().LoadAcquire();
  ASSERT_TRUE(record.header().CasAcqRel(header, header.With(RecordHeader::kSealed)));
  EXPECT_EQ(WriteLocked(record, record.lock().LoadAcquire(), "x", 1), WriteResult::kFlagged);
  EXPECT_FALSE(record.lock().LoadAcquire().locked()) << "a refused writer holds no lock";
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(record.value()), 8), "12345678");
}

TEST(TypedRecordTest, AShorterValueKeepsTheCapacityForALongerOne) {
  RecordMemory memory(kStrings);
  const Record record = MakeString(memory, "k", 8, "12345678");
  ASSERT_EQ(WriteLocked(record, record.lock().LoadAcquire(), "ab", 2), WriteResult::kWritten);
  EXPECT_EQ(record.lock().LoadAcquire().value_bytes(), 2u);
  EXPECT_EQ(record.capacity(), 8u);
  EXPECT_EQ(WriteLocked(record, record.lock().LoadAcquire(), "abcdefgh", 8), WriteResult::kWritten);
}

// A log is only asked for read_only by a reader that has been disturbed many times; these values
// are copied by optimism or not at all.
class CopyTest : public ::testing::Test {
 protected:
  CopyTest()
      : epochs_(0),
        pool_(0),
        log_({.geometry = {}, .shape = kTriples}, epochs_, health_, device_, pool_) {
    const Geometry geometry;
    log_.Restore({.begin = geometry.BlockStart(1),
                  .head = geometry.BlockStart(1),
                  .tail = geometry.BlockStart(1),
                  .incarnations = {{0, 1}}});
  }

  EpochManager epochs_;
  Health health_;
  MemoryDevice device_;
  ThreadPool pool_;
  HybridLog log_;
};
using TypedRecordCopyTest = CopyTest;

TEST_F(TypedRecordCopyTest, ACopyIsNeverTornWhileAnotherThreadWrites) {
  RecordMemory memory(kTriples);
  const Record record = memory.record();
  const std::uint64_t key = 7;
  record.Init(RecordHeader::Make(RecordKind::kRecord, kNoRecord, 1), &key, 8, sizeof(Triple),
              sizeof(Triple));
  const Triple zero;
  CopyToLog(&zero, sizeof(zero), record.value());

  constexpr std::uint64_t kWrites = 200000;
  std::thread writer([&] {
    for (std::uint64_t i = 1; i <= kWrites; ++i) {
      const Triple value{i, i, i};
      while (WriteLocked(record, record.lock().LoadAcquire(), &value, sizeof(value)) !=
             WriteResult::kWritten) {
      }
    }
  });
  // Addresses at or above read_only allow the lock; those below do not.
  const Address mutable_address = log_.read_only() + 8;
  const Address read_only_address = kNoRecord;
  std::uint64_t last = 0;
  for (std::uint64_t turn = 0; last < kWrites; ++turn) {
    Triple copy;
    CopyLocked(log_, turn % 2 == 0 ? mutable_address : read_only_address, record, copy);
    ASSERT_EQ(copy.a, copy.b);
    ASSERT_EQ(copy.b, copy.c);
    ASSERT_GE(copy.a, last) << "values go forward only";
    last = copy.a;
  }
  writer.join();
  EXPECT_FALSE(record.lock().LoadAcquire().locked());
}

}  // namespace
}  // namespace ebb::internal
