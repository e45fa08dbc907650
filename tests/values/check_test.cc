#include "ebb/internal/values/check.h"

#include <gtest/gtest.h>

namespace ebb::test {
namespace {

class CheckTest : public ::testing::Test {
 protected:
  // Other suites of this binary leave no threads behind, but the death test must not rely on it.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(CheckTest, ConditionThatHoldsIsEvaluatedOnce) {
  int evaluated = 0;
  EBB_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

TEST_F(CheckTest, FailureStopsTheProgramAndPrintsConditionAndPlace) {
  const int answer = 41;
  EXPECT_DEATH(EBB_CHECK(answer == 42),
               "ebb: internal error: .*check_test\\.cc:[0-9]+: answer == 42 does not hold");
}

TEST_F(CheckTest, FailureStopsTheProgramAtOnce) {
  EXPECT_EXIT(
      {
        EBB_CHECK(false);
        std::_Exit(0);
      },
      ::testing::KilledBySignal(SIGABRT), "false does not hold");
}

// A check is an expression: it needs no braces after an if.
TEST_F(CheckTest, CheckIsOneStatement) {
  bool other = false;
  if (other)
    EBB_CHECK(false);
  else
    other = true;
  EXPECT_TRUE(other);
}

#if defined(EBB_CHECKED) || !defined(NDEBUG)
TEST_F(CheckTest, DebugCheckIsOnInCheckedBuilds) {
  EXPECT_DEATH(EBB_DCHECK(1 + 1 == 3), "1 \\+ 1 == 3 does not hold");
}
#else
TEST_F(CheckTest, DebugCheckCostsNothingInReleaseBuilds) {
  [[maybe_unused]] int evaluated = 0;
  EBB_DCHECK(++evaluated == 2);
  EXPECT_EQ(evaluated, 0);
}
#endif

}  // namespace
}  // namespace ebb::test
