// The oracle: histories that a store could have had, and ones that it could not.
#include "tests/schedule/history.h"

#include <gtest/gtest.h>

namespace ebb::test {
namespace {

using Kind = HistoryOp::Kind;
using Result = HistoryOp::Result;

// Operation n is at place n - 1.
void Do(History& history, std::size_t session, Kind kind, std::size_t key, Result result,
        std::uint64_t read = 0) {
  history.End(history.Begin(session, kind, key), result, read);
}
KeyStates Keys(std::optional<std::uint64_t> first, std::optional<std::uint64_t> second) {
  return {first, second};
}

TEST(HistoryTest, OneAfterTheOtherHasOneExplanation) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);
  Do(history, 1, Kind::kRmw, 0, Result::kOk);
  Do(history, 0, Kind::kRead, 0, Result::kOk, 0x12);
  Do(history, 0, Kind::kInsert, 0, Result::kAlreadyExists);
  Do(history, 1, Kind::kDelete, 1, Result::kNotFound);
  EXPECT_TRUE(history.Explains(Keys(0x12, {})));
  EXPECT_TRUE(history.Explains(std::nullopt));
  EXPECT_FALSE(history.Explains(Keys(0x1, {}))) << "a lost update";
  EXPECT_FALSE(history.Explains(Keys(0x12, 5))) << "a value from nowhere";
  Do(history, 1, Kind::kRead, 0, Result::kOk, 0x1);
  EXPECT_FALSE(history.Explains(Keys(0x12, {}))) << "a stale read";
}

TEST(HistoryTest, AComparisonSeesTheStoredValue) {
  History history;
  Do(history, 0, Kind::kCompareExchange, 0, Result::kNotFound, 0x1);
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);                // 2
  Do(history, 0, Kind::kCompareExchange, 0, Result::kOk, 0x2);  // 3
  Do(history, 0, Kind::kCompareExchange, 0, Result::kAborted, 0x2);
  EXPECT_TRUE(history.Explains(Keys(0x33, {})));
  EXPECT_FALSE(history.Explains(Keys(0x44, {}))) << "a comparison that failed took effect";
  Do(history, 0, Kind::kCompareExchange, 0, Result::kAborted, 0x33);
  EXPECT_FALSE(history.Explains(std::nullopt)) << "it was what it expected";
}

TEST(HistoryTest, OperationsAtTheSameTimeMayHaveEitherOrder) {
  History history;
  const std::size_t first = history.Begin(0, Kind::kRmw, 0);
  const std::size_t second = history.Begin(1, Kind::kRmw, 0);
  history.End(first, Result::kOk);
  history.End(second, Result::kOk);
  EXPECT_TRUE(history.Explains(Keys(0x12, {})));
  EXPECT_TRUE(history.Explains(Keys(0x21, {})));
  EXPECT_FALSE(history.Explains(Keys(0x1, {})));
}

TEST(HistoryTest, ARejectedOperationHasNoEffect) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kRefused);
  EXPECT_TRUE(history.Explains(Keys({}, {})));
  EXPECT_FALSE(history.Explains(Keys(0x1, {})));
}

TEST(HistoryTest, ACrashLeavesAPrefixOfEachSession) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);  // 1
  Do(history, 0, Kind::kUpsert, 1, Result::kOk);  // 2
  Do(history, 1, Kind::kRmw, 0, Result::kOk);     // 3
  const KeyStates last = Keys(0x13, 0x2);
  const auto explains = [&](History::Mask survives, History::Mask begun, KeyStates states) {
    return history.ExplainsCrash(last, {.survives = survives, .begun = begun, .states = states});
  };
  EXPECT_TRUE(explains(0, 7, Keys({}, {})));
  EXPECT_TRUE(explains(0, 7, Keys(0x1, {})));
  EXPECT_TRUE(explains(3, 7, Keys(0x1, 0x2)));
  EXPECT_TRUE(explains(1, 7, Keys(0x13, {}))) << "the other session's second is no part of it";
  EXPECT_FALSE(explains(0, 7, Keys({}, 0x2))) << "a second operation without the first";
  EXPECT_FALSE(explains(0, 7, Keys(0x3, 0x2))) << "an update of what is not there";
  EXPECT_FALSE(explains(3, 7, Keys(0x1, {}))) << "what was committed is lost";
  EXPECT_FALSE(explains(0, 3, Keys(0x13, 0x2))) << "what had not begun is there";
}

TEST(HistoryTest, ASerialNamesThePrefix) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);        // 1
  Do(history, 0, Kind::kRead, 0, Result::kOk, 0x1);     // 2
  Do(history, 0, Kind::kDelete, 1, Result::kNotFound);  // 3
  const auto explains = [&](std::uint64_t serial) {
    return history.ExplainsCrash(
        Keys(0x1, {}), {.survives = 0, .begun = 7, .states = Keys(0x1, {}), .serials = {serial}});
  };
  EXPECT_FALSE(explains(0));
  EXPECT_TRUE(explains(1));
  EXPECT_TRUE(explains(2)) << "an update that found nothing to do has a number";
  EXPECT_FALSE(explains(3)) << "a read has none";
}

// During a commit, an operation after it may read a value that one before it is about to change.
TEST(HistoryTest, ALostReadExcludesNothing) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);               // 1
  const std::size_t change = history.Begin(1, Kind::kRmw, 0);  // 2
  Do(history, 2, Kind::kUpsert, 1, Result::kOk);               // 3
  Do(history, 2, Kind::kRead, 0, Result::kOk, 0x1);            // 4
  history.End(change, Result::kOk);
  EXPECT_TRUE(history.ExplainsCrash(Keys(0x12, 0x3),
                                    {.survives = 1, .begun = 15, .states = Keys(0x12, {})}));
}

// But one that is kept has seen nothing that is not.
TEST(HistoryTest, KeptOperationsDependOnNoLostOne) {
  History history;
  Do(history, 0, Kind::kUpsert, 0, Result::kOk);     // 1
  Do(history, 1, Kind::kRead, 0, Result::kOk, 0x1);  // 2
  Do(history, 1, Kind::kUpsert, 1, Result::kOk);     // 3
  EXPECT_FALSE(
      history.ExplainsCrash(Keys(0x1, 0x3), {.survives = 0, .begun = 7, .states = Keys({}, 0x3)}));
}

}  // namespace
}  // namespace ebb::test
