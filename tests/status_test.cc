#include "ebb/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

namespace ebb::test {
namespace {

using absl::StatusCode;

absl::Status Of(StatusCode code) { return absl::Status(code, "what happened"); }

// All codes but OK.
std::set<StatusCode> AllCodes() {
  std::set<StatusCode> codes;
  for (int code = 1; code <= 16; ++code) codes.insert(static_cast<StatusCode>(code));
  return codes;
}

template <typename Predicate>
std::set<StatusCode> CodesFor(Predicate predicate) {
  std::set<StatusCode> codes;
  for (const StatusCode code : AllCodes()) {
    if (predicate(Of(code))) codes.insert(code);
  }
  return codes;
}

class StatusTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(StatusTest, RecoverableIsWhatMayPassByItself) {
  EXPECT_EQ(CodesFor(IsRecoverable), (std::set{StatusCode::kResourceExhausted,
                                               StatusCode::kUnavailable, StatusCode::kAborted}));
}

TEST_F(StatusTest, CorruptionIsDataLossAlone) {
  EXPECT_EQ(CodesFor(IsCorruption), std::set{StatusCode::kDataLoss});
}

TEST_F(StatusTest, UserErrorIsWhatTheCallerCanAvoid) {
  EXPECT_EQ(CodesFor(IsUserError),
            (std::set{StatusCode::kInvalidArgument, StatusCode::kFailedPrecondition,
                      StatusCode::kUnimplemented}));
}

TEST_F(StatusTest, OkIsNoneOfThem) {
  EXPECT_FALSE(IsRecoverable(absl::OkStatus()));
  EXPECT_FALSE(IsCorruption(absl::OkStatus()));
  EXPECT_FALSE(IsUserError(absl::OkStatus()));
}

TEST_F(StatusTest, AbsenceIsAnAnswerAndNoneOfThem) {
  const absl::Status absent(StatusCode::kNotFound, {});
  EXPECT_FALSE(IsRecoverable(absent) || IsCorruption(absent) || IsUserError(absent));
}

TEST_F(StatusTest, MustLetsOkPassAndHandsOverTheValue) {
  Must(absl::OkStatus());
  EXPECT_EQ(Must(absl::StatusOr<int>(7)), 7);
  const auto owned = Must(absl::StatusOr<std::unique_ptr<int>>(std::make_unique<int>(8)));
  EXPECT_EQ(*owned, 8);
}

TEST_F(StatusTest, MustPrintsTheStatusAndStops) {
  EXPECT_DEATH(Must(absl::DataLossError("block 7")), "ebb::Must: DATA_LOSS: block 7");
  EXPECT_DEATH(Must(absl::StatusOr<int>(absl::NotFoundError("gone"))),
               "ebb::Must: NOT_FOUND: gone");
}

}  // namespace
}  // namespace ebb::test
