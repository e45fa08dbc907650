// Pins: nothing at or above the lowest is truncated; there are never too many.
#include "ebb/internal/log/pins.h"

#include <optional>

#include "gtest/gtest.h"
#include "tests/support/log_rig.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::Pins;

TEST(PinsTest, TheLowestPinLimitsUntilItIsRemoved) {
  LogRig rig({});
  Pins pins;
  const Address begin = rig.log().begin();
  EXPECT_EQ(pins.Limit(Address(1 << 20)), Address(1 << 20));
  EXPECT_EQ(pins.GetReport().count, 0U);
  EXPECT_TRUE(pins.GetReport().lowest.is_null());
  const std::optional<Pins::Pin> first = pins.Add(rig.log());
  const std::optional<Pins::Pin> second = pins.Add(rig.log());
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(first->address, begin);
  EXPECT_EQ(pins.GetReport().count, 2U);
  EXPECT_EQ(pins.GetReport().lowest, begin);
  pins.Remove(*first);
  EXPECT_EQ(pins.Limit(Address(1 << 20)), begin);
  EXPECT_EQ(pins.Limit(Address(8)), Address(8));
  pins.Remove(*second);
  EXPECT_EQ(pins.Limit(Address(1 << 20)), Address(1 << 20));
}

TEST(PinsTest, OneMoreThanTheMaximumIsRejected) {
  LogRig rig({});
  Pins pins;
  std::optional<Pins::Pin> last;
  for (std::size_t i = 0; i < Pins::kMax; ++i) {
    last = pins.Add(rig.log());
    ASSERT_TRUE(last.has_value());
  }
  EXPECT_FALSE(pins.Add(rig.log()).has_value());
  pins.Remove(*last);
  EXPECT_TRUE(pins.Add(rig.log()).has_value());
}

}  // namespace
}  // namespace ebb::test
