#include "ebb/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string_view>

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

// The whole table of status.h. A number that is not in it lasts.
TEST_F(StatusTest, EachErrorNumberHasItsRowOfTheTable) {
  const std::set<int> exhausted = {ENOSPC, EDQUOT, EFBIG, EMFILE, ENFILE, ENOMEM, ENOBUFS, ENOLCK};
  const std::set<int> denied = {EACCES, EPERM, EROFS};
  const std::set<int> passing = {EINTR,       EAGAIN,    EBUSY,       ETXTBSY,
                                 EIO,         EREMOTEIO, ETIMEDOUT,   ENETDOWN,
                                 ENETUNREACH, EHOSTDOWN, EHOSTUNREACH};
  for (int error = 0; error < 4096; ++error) {
    const internal::ErrorRule rule = internal::RuleOf(error);
    const bool is_exhausted = exhausted.contains(error);
    const bool is_denied = denied.contains(error);
    EXPECT_EQ(rule.code, is_exhausted ? StatusCode::kResourceExhausted
                         : is_denied  ? StatusCode::kPermissionDenied
                                      : StatusCode::kUnavailable)
        << error;
    EXPECT_EQ(rule.passes, is_exhausted || passing.contains(error)) << error;
    EXPECT_GE(std::string_view(rule.advice).size(), 10U);
  }
}

TEST_F(StatusTest, LastingErrorsAreNotRecoverable) {
  for (const StatusCode code : {StatusCode::kUnavailable, StatusCode::kResourceExhausted}) {
    EXPECT_TRUE(IsRecoverable(Of(code)));
    const absl::Status lasting = internal::Lasting(Of(code));
    EXPECT_FALSE(IsRecoverable(lasting));
    EXPECT_EQ(lasting.code(), code);
    EXPECT_EQ(lasting.message(), "what happened");
  }
}

TEST_F(StatusTest, ErrorsThatMayPassAreRecoverable) {
  EXPECT_EQ(CodesFor(IsRecoverable), (std::set{StatusCode::kResourceExhausted,
                                               StatusCode::kUnavailable, StatusCode::kAborted}));
}

TEST_F(StatusTest, CorruptionIsDataLossAlone) {
  EXPECT_EQ(CodesFor(IsCorruption), std::set{StatusCode::kDataLoss});
}

TEST_F(StatusTest, ErrorsThatTheCallerCanAvoidAreUserErrors) {
  EXPECT_EQ(CodesFor(IsUserError),
            (std::set{StatusCode::kInvalidArgument, StatusCode::kFailedPrecondition,
                      StatusCode::kPermissionDenied, StatusCode::kUnimplemented}));
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
