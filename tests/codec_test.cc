#include "ebb/codec.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace ebb::test {
namespace {

struct Point {
  std::int32_t x;
  std::int32_t y;
};
struct Padded {
  std::uint8_t small;
  std::uint64_t large;
};
struct WithString {
  std::string text;
};
struct NoDefault {
  explicit NoDefault(int value) : number(value) {}
  int number;
};
enum class Color : std::uint8_t { kRed, kGreen };

TEST(CodecTest, IntegersEnumsAndPlainStructsAreKeys) {
  EXPECT_TRUE(KeyType<std::uint64_t>);
  EXPECT_TRUE(KeyType<std::int8_t>);
  EXPECT_TRUE(KeyType<Color>);
  EXPECT_TRUE(KeyType<Point>);
  EXPECT_TRUE((KeyType<std::array<std::uint8_t, 16>>));
  EXPECT_TRUE(KeyType<std::string>);
}

// Keys are compared as bytes: what compares equal must have equal bytes.
TEST(CodecTest, TypesWhoseEqualValuesMayDifferInBytesAreNoKeys) {
  EXPECT_FALSE(KeyType<double>);
  EXPECT_FALSE(KeyType<Padded>);
}

TEST(CodecTest, EveryTriviallyCopyableTypeIsAValue) {
  EXPECT_TRUE(ValueType<std::uint32_t>);
  EXPECT_TRUE(ValueType<double>);
  EXPECT_TRUE(ValueType<Padded>);
  EXPECT_TRUE(ValueType<std::string>);
}

TEST(CodecTest, TypesThatOwnMemoryAreRefused) {
  EXPECT_FALSE(ValueType<std::vector<int>>);
  EXPECT_FALSE(ValueType<std::unique_ptr<int>>);
  EXPECT_FALSE(ValueType<WithString>);
  EXPECT_FALSE(KeyType<std::vector<int>>);
}

// A read builds the value before it is filled.
TEST(CodecTest, TypesWithoutADefaultAreRefused) { EXPECT_FALSE(ValueType<NoDefault>); }

TEST(CodecTest, PlainTypesAreStoredAtTheirSize) {
  EXPECT_TRUE(Codec<Point>::kFixed);
  EXPECT_EQ(Codec<Point>::kFixedBytes, 8U);
  EXPECT_EQ(Codec<std::uint16_t>::kFixedBytes, 2U);
  EXPECT_EQ(Codec<Padded>::kFixedBytes, 16U);
  EXPECT_TRUE((std::is_same_v<Codec<Point>::View, const Point&>));
}

TEST(CodecTest, StringsGoInAsViews) {
  EXPECT_FALSE(Codec<std::string>::kFixed);
  EXPECT_TRUE((std::is_same_v<Codec<std::string>::View, std::string_view>));
}

}  // namespace
}  // namespace ebb::test
