// Clock: milliseconds of the world and of a stretch.
#include "ebb/internal/base/clock.h"

#include <chrono>

#include "gtest/gtest.h"

namespace ebb::test {
namespace {

TEST(ClockTest, BothCountMilliseconds) {
  const std::uint64_t before = internal::UnixMs();
  EXPECT_GT(before, std::uint64_t{1600000000} * 1000);
  EXPECT_LT(before, std::uint64_t{9000000000} * 1000);
  const auto begun = std::chrono::steady_clock::now() - std::chrono::seconds(5);
  EXPECT_GE(internal::MillisecondsSince(begun), 5000U);
  EXPECT_LT(internal::MillisecondsSince(begun), 3600000U);
  EXPECT_GE(internal::UnixMs(), before);
}

}  // namespace
}  // namespace ebb::test
