// SessionTable: the entries that the log receives for named sessions, and when.
#include "ebb/internal/core/session_table.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::SessionSerials;
using internal::SessionTable;
using Reports = std::vector<SessionReport>;
constexpr std::uint64_t kForgotten = SessionTable::kForgotten;

class SessionTableTest : public testing::Test {
 protected:
  // The entries that the commit of `version` writes.
  Reports Commit(unsigned version) {
    Reports changes = table_.Changes(version & 3);
    table_.SetRecorded(changes);
    return changes;
  }

  SessionTable table_;
  SessionSerials a_;
  SessionSerials b_;
};

TEST_F(SessionTableTest, SerialsBelongToTheVersionOfTheirEffect) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  a_.Take(1);
  a_.Take(1);
  a_.Take(2);  // during the commit of 1
  EXPECT_EQ(Commit(1), (Reports{{"a", 2}}));
  EXPECT_EQ(Commit(2), (Reports{{"a", 3}}));
  EXPECT_EQ(Commit(3), Reports{});
}

// The word of a parity may be of a version long past; a serial recorded since then is larger.
TEST_F(SessionTableTest, AVersionWithoutUpdatesTakesNothingBack) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  a_.Take(1);
  EXPECT_EQ(Commit(1), (Reports{{"a", 1}}));
  a_.Take(2);
  EXPECT_EQ(Commit(2), (Reports{{"a", 2}}));
  EXPECT_EQ(Commit(3), Reports{});
  EXPECT_EQ(table_.Recorded(), (Reports{{"a", 2}}));
}

TEST_F(SessionTableTest, ASessionThatEndedIsStillRecorded) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  a_.Take(1);
  a_.Take(2);
  table_.Leave("a");
  EXPECT_EQ(Commit(1), (Reports{{"a", 1}}));
  ASSERT_TRUE(table_.Enter("a", b_).ok());
  EXPECT_EQ(b_.taken(), 2U);
  b_.Take(2);
  EXPECT_EQ(Commit(2), (Reports{{"a", 3}}));
}

TEST_F(SessionTableTest, OneSessionOfAName) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  EXPECT_TRUE(FailsWith(table_.Enter("a", b_), StatusCode::kFailedPrecondition, "'a'"));
  EXPECT_TRUE(FailsWith(table_.Enter("", b_), StatusCode::kInvalidArgument, "0 bytes"));
  EXPECT_TRUE(table_.Enter(std::string(255, 'x'), b_).ok());
  SessionSerials c;
  EXPECT_TRUE(
      FailsWith(table_.Enter(std::string(256, 'x'), c), StatusCode::kInvalidArgument, "256"));
}

TEST_F(SessionTableTest, ForgottenNamesStartAgainFromZero) {
  EXPECT_TRUE(FailsWith(table_.Forget("a"), StatusCode::kNotFound, "'a'"));
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  a_.Take(1);
  EXPECT_TRUE(FailsWith(table_.Forget("a"), StatusCode::kFailedPrecondition, "'a'"));
  table_.Leave("a");
  EXPECT_EQ(Commit(1), (Reports{{"a", 1}}));
  EXPECT_TRUE(table_.Forget("a").ok());
  EXPECT_TRUE(table_.HasChanges());
  EXPECT_EQ(Commit(2), (Reports{{"a", kForgotten}}));
  EXPECT_FALSE(table_.HasChanges());
  EXPECT_EQ(table_.Recorded(), Reports{});
  ASSERT_TRUE(table_.Enter("a", b_).ok());
  EXPECT_EQ(b_.taken(), 0U);
}

TEST_F(SessionTableTest, ANameForgottenAndUsedAgainBeforeTheCommitIsRecordedAsNew) {
  table_.Restore({{"a", 100}});
  ASSERT_TRUE(table_.Forget("a").ok());
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  const Reports changes = table_.Changes(1);
  EXPECT_EQ(changes, (Reports{{"a", 0}}));
  a_.Take(2);
  table_.SetRecorded(changes);
  EXPECT_EQ(Commit(2), (Reports{{"a", 1}}));
}

// A name can begin again between the collection of a commit's entries and their recording.
TEST_F(SessionTableTest, ACommitDoesNotGiveANewSessionTheSerialsOfTheOldOne) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  for (int i = 0; i < 5; ++i) a_.Take(1);
  table_.Leave("a");
  const Reports changes = table_.Changes(1);
  EXPECT_EQ(changes, (Reports{{"a", 5}}));
  ASSERT_TRUE(table_.Forget("a").ok());
  ASSERT_TRUE(table_.Enter("a", b_).ok());
  b_.Take(2);
  table_.SetRecorded(changes);
  EXPECT_EQ(Commit(2), (Reports{{"a", 1}}));
}

// Also one that the log does not know until that commit has written it there.
TEST_F(SessionTableTest, ANameForgottenDuringTheCommitThatRecordsItIsForgotten) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  a_.Take(1);
  table_.Leave("a");
  const Reports changes = table_.Changes(1);
  ASSERT_TRUE(table_.Forget("a").ok());
  table_.SetRecorded(changes);
  EXPECT_TRUE(table_.HasChanges());
  EXPECT_EQ(Commit(2), (Reports{{"a", kForgotten}}));
  EXPECT_EQ(table_.Recorded(), Reports{});
  EXPECT_TRUE(FailsWith(table_.Forget("a"), StatusCode::kNotFound));
}

TEST_F(SessionTableTest, ASessionThatHasDoneNothingIsNoChange) {
  ASSERT_TRUE(table_.Enter("a", a_).ok());
  EXPECT_FALSE(table_.HasChanges());
  EXPECT_EQ(Commit(1), Reports{});
}

TEST_F(SessionTableTest, RestoredSessionsContinue) {
  table_.Restore({{"a", 7}, {"b", 9}});
  EXPECT_EQ(table_.Recorded(), (Reports{{"a", 7}, {"b", 9}}));
  EXPECT_FALSE(table_.HasChanges());
  ASSERT_TRUE(table_.Enter("b", b_).ok());
  EXPECT_EQ(b_.taken(), 9U);
  b_.Take(3);
  EXPECT_EQ(Commit(3), (Reports{{"b", 10}}));
}

}  // namespace
}  // namespace ebb::test
