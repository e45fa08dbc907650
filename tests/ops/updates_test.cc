// The decision of each update for a record that is absent, mutable, frozen or unsettled. (Whole
// operations, in all interleavings, are in operation_test and schedule/.)
#include "ebb/internal/ops/updates.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace ebb::test {
namespace {

using internal::Address;
using internal::OpStatus;
using internal::Record;
using internal::RecordHeader;
using internal::RecordKind;
using internal::WriteResult;
using Numbers = internal::Updates<std::uint64_t, std::uint64_t>;
using Strings = internal::Updates<std::uint64_t, std::string>;
using RecordState = Numbers::RecordState;
using Decision = Numbers::Decision;

constexpr Address kPlace{4096};

// A record of key 7 in memory of its own.
template <typename Updates>
class Shown {
 public:
  explicit Shown(std::uint32_t value_bytes, std::uint64_t word = 0)
      : record_(reinterpret_cast<std::byte*>(words_.data()), Updates::kShape) {
    const std::uint64_t key = 7;
    record_.Init(RecordHeader::Make(RecordKind::kRecord, Address(), 0).With(RecordHeader::kValid),
                 &key, sizeof(key), value_bytes, value_bytes);
    internal::WordAt(record_.value()).store(word, std::memory_order_relaxed);
  }
  Shown(const Shown&) = delete;
  Shown& operator=(const Shown&) = delete;
  const Record& operator*() const { return record_; }
  const Record* operator->() const { return &record_; }
  const Record* get() const { return &record_; }

 private:
  std::array<std::uint64_t, 64> words_{};
  Record record_;
};

std::uint64_t NumberIn(const Shown<Numbers>& shown) {
  return internal::ValueOf<std::uint64_t>::LoadUnlocked(*shown);
}

TEST(UpdatesTest, AnUpsertWritesMutableRecordsAndAppendsAboveAllOthers) {
  const Shown<Numbers> shown(8, 1);
  const std::uint64_t two = 2;  // an update does not own its value
  Numbers::UpsertOp op(two);
  for (const RecordState where :
       {RecordState::kAbsent, RecordState::kFrozen, RecordState::kUnsettled}) {
    EXPECT_EQ(op.Decide(where, kPlace, shown.get()), Decision::kAppend);
    EXPECT_EQ(NumberIn(shown), 1U);
  }
  EXPECT_EQ(op.Decide(RecordState::kMutable, kPlace, shown.get()), Decision::kDone);
  EXPECT_EQ(NumberIn(shown), 2U);
  EXPECT_EQ(op.status, OpStatus::kOk);
}

TEST(UpdatesTest, AnUpsertThatOutgrowsItsRecordAppends) {
  const Shown<Strings> shown(8);
  const std::string_view nine = "nine long";
  Strings::UpsertOp longer(nine);
  EXPECT_EQ(longer.Decide(Strings::RecordState::kMutable, kPlace, shown.get()),
            Strings::Decision::kAppend);
  Strings::UpsertOp fitting(nine.substr(0, 8));
  EXPECT_EQ(fitting.Decide(Strings::RecordState::kMutable, kPlace, shown.get()),
            Strings::Decision::kDone);
  EXPECT_EQ(Strings::FrozenView(*shown), "nine lon");
  // Nor is one written that a successor is being made for.
  shown->header().StoreRelaxed(shown->header().LoadAcquire().With(RecordHeader::kSealed));
  Strings::UpsertOp late(nine.substr(0, 4));
  EXPECT_EQ(late.Decide(Strings::RecordState::kMutable, kPlace, shown.get()),
            Strings::Decision::kAppend);
  EXPECT_EQ(Strings::FrozenView(*shown), "nine lon");
}

TEST(UpdatesTest, AnInsertAppendsOnlyWhereThereIsNone) {
  const Shown<Numbers> shown(8, 1);
  const std::uint64_t two = 2;
  EXPECT_EQ(Numbers::InsertOp(two).Decide(RecordState::kAbsent, Address(), nullptr),
            Decision::kAppend);
  for (const RecordState where :
       {RecordState::kMutable, RecordState::kFrozen, RecordState::kUnsettled}) {
    Numbers::InsertOp op(two);
    EXPECT_EQ(op.Decide(where, kPlace, shown.get()), Decision::kDone);
    EXPECT_EQ(op.status, OpStatus::kAlreadyExists);
    EXPECT_EQ(NumberIn(shown), 1U);
  }
}

TEST(UpdatesTest, ADeleteMarksMutableRecordsAndWaitsForUnsettledOnes) {
  const Shown<Numbers> shown(8, 1);
  Numbers::DeleteOp op;
  EXPECT_EQ(op.Decide(RecordState::kFrozen, kPlace, shown.get()), Decision::kAppend);
  EXPECT_EQ(op.Decide(RecordState::kUnsettled, kPlace, shown.get()), Decision::kWait);
  EXPECT_FALSE(shown->header().LoadAcquire().tombstone());
  EXPECT_EQ(op.Decide(RecordState::kMutable, kPlace, shown.get()), Decision::kDone);
  EXPECT_TRUE(shown->header().LoadAcquire().tombstone());
  // A flag that came since it was classified.
  EXPECT_EQ(op.Decide(RecordState::kMutable, kPlace, shown.get()), Decision::kAgain);
  EXPECT_EQ(op.status, OpStatus::kOk);
  EXPECT_EQ(op.Decide(RecordState::kAbsent, Address(), nullptr), Decision::kDone);
  EXPECT_EQ(op.status, OpStatus::kNotFound);
}

// Copies from the device only the very record that was read there.
TEST(UpdatesTest, APromotionCopiesOnlyTheRecordThatWasRead) {
  const Shown<Numbers> shown(8, 5);
  for (const RecordState where :
       {RecordState::kAbsent, RecordState::kMutable, RecordState::kUnsettled}) {
    Numbers::PromoteOp op(kPlace);
    EXPECT_EQ(op.Decide(where, kPlace, shown.get()), Decision::kDone);
    EXPECT_EQ(op.found, nullptr);
  }
  Numbers::PromoteOp op(kPlace);
  EXPECT_EQ(op.Decide(RecordState::kFrozen, kPlace + 64, shown.get()), Decision::kDone);
  EXPECT_EQ(op.found, nullptr);
  EXPECT_EQ(op.Decide(RecordState::kFrozen, kPlace, shown.get()), Decision::kAppend);
  EXPECT_EQ(op.NewValue(), 5U);
}

TEST(UpdatesTest, UnlockedValuesChangeByOneCas) {
  const Shown<Numbers> shown(8, 10);
  EXPECT_EQ(Numbers::CompareExchangeUnlocked(*shown, 11, 12), OpStatus::kAborted);
  EXPECT_EQ(NumberIn(shown), 10U);
  EXPECT_EQ(Numbers::CompareExchangeUnlocked(*shown, 10, 12), OpStatus::kOk);
  EXPECT_EQ(NumberIn(shown), 12U);
  // Another's update between the load and the CAS is not lost: the function runs again.
  int runs = 0;
  auto add = [&](std::uint64_t& value) {
    if (++runs == 1) internal::WordAt(shown->value()).store(100, std::memory_order_relaxed);
    ++value;
  };
  Numbers::RmwUnlocked(*shown, add);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(NumberIn(shown), 101U);
}

}  // namespace
}  // namespace ebb::test
