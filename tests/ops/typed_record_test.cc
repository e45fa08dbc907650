// Typed keys and values in record bytes: conversions, comparisons, and both sides of the lock.
#include "ebb/internal/ops/typed_record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/base/hash.h"
#include "ebb/internal/device/memory_device.h"

namespace ebb::internal {
namespace {

// Large, so that a copy takes long enough to be disturbed.
using Wide = std::array<std::uint64_t, 256>;

constexpr RecordShape kStrings{RecordShape::kVariable, RecordShape::kVariable};
constexpr RecordShape kWides{8, sizeof(Wide)};

// Record memory as a frame has it: aligned, and not zero where nothing has been written.
class RecordMemory {
 public:
  explicit RecordMemory(RecordShape shape) : shape_(shape) { words_.fill(0xabababababababab); }
  Record record() { return Record(reinterpret_cast<std::byte*>(words_.data()), shape_); }

 private:
  RecordShape shape_;
  alignas(64) std::array<std::uint64_t, 512> words_;
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
  const internal::KeyHash hash{internal::HashSeed{}};
  EXPECT_EQ(KeyOf<std::uint64_t>::Hash(hash, 42), hash.OfInteger(42));
  EXPECT_EQ(KeyOf<std::uint16_t>::Hash(hash, 42), hash.OfInteger(42)) << "zero-extended";
  EXPECT_EQ(KeyOf<std::string>::Hash(hash, "key"), hash.OfBytes("key", 3));
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

TEST(TypedRecordTest, AWriteIsRejectedWhenTheSequenceMovedTheValueIsTooLongOrAFlagIsSet) {
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

// CopyLocked asks a log where read_only is.
class TypedRecordCopyTest : public ::testing::Test {
 protected:
  TypedRecordCopyTest()
      : epochs_(0),
        pool_(0),
        log_({.geometry = {}, .shape = kWides}, epochs_, health_, device_, pool_) {
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

TEST_F(TypedRecordCopyTest, ACopyIsNeverTornWhileAnotherThreadWrites) {
  RecordMemory memory(kWides);
  const Record record = memory.record();
  const std::uint64_t key = 7;
  record.Init(RecordHeader::Make(RecordKind::kRecord, kNoRecord, 1), &key, 8, sizeof(Wide),
              sizeof(Wide));
  const Wide zero{};
  CopyToLog(&zero, sizeof(zero), record.value());

  // The writer continues until the reader has seen enough different values.
  std::atomic<bool> enough{false};
  std::thread writer([&] {
    for (std::uint64_t i = 1; !enough.load(std::memory_order_relaxed); ++i) {
      Wide value;
      value.fill(i);
      while (WriteLocked(record, record.lock().LoadAcquire(), &value, sizeof(value)) !=
             WriteResult::kWritten) {
      }
    }
  });
  // At or above read_only the reader may take the lock, without which it could copy forever.
  const Address mutable_address = log_.read_only() + 8;
  std::uint64_t last = 0;
  int torn = 0;
  int backwards = 0;
  for (int different = 0; different < 3000;) {
    Wide copy;
    CopyLocked(log_, mutable_address, record, copy);
    torn += std::any_of(copy.begin(), copy.end(), [&](auto word) { return word != copy[0]; });
    backwards += copy[0] < last;
    different += copy[0] != last;
    last = copy[0];
  }
  enough.store(true, std::memory_order_relaxed);
  writer.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(backwards, 0);
  EXPECT_FALSE(record.lock().LoadAcquire().locked());
}

}  // namespace
}  // namespace ebb::internal
