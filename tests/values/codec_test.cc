// Codecs: the types that may be a key or a value, and a program's own types in whole stores.
//
// Hazard: 49 (callbacks, here also codecs, that throw or call back).
#include "ebb/codec.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "ebb/compressed.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

// A value with a codec: a name and numbers, each with a length in front.
struct Order {
  std::string customer;
  std::vector<std::uint32_t> items;
  bool operator==(const Order&) const = default;
};
// A key with a codec.
struct Place {
  std::string country;
  std::string town;
  auto operator<=>(const Place&) const = default;
};
// The same bytes in several versions and with a codec that rejects some.
template <std::uint32_t kCodecVersion>
struct Text {
  std::string text;
  bool operator==(const Text&) const = default;
};

inline void PutString(const std::string& text, std::string& out) {
  const auto bytes = static_cast<std::uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&bytes), sizeof bytes).append(text);
}
inline bool TakeString(std::string_view& in, std::string& text) {
  std::uint32_t bytes;
  if (in.size() < sizeof bytes) return false;
  std::memcpy(&bytes, in.data(), sizeof bytes);
  in.remove_prefix(sizeof bytes);
  if (in.size() < bytes) return false;
  text.assign(in.substr(0, bytes));
  in.remove_prefix(bytes);
  return true;
}

}  // namespace ebb::test

template <>
struct ebb::Codec<ebb::test::Order> {
  static constexpr std::uint32_t kVersion = 7;
  static void Encode(const test::Order& order, std::string& out) {
    if (order.customer == "throw") throw std::runtime_error("Encode");
    test::PutString(order.customer, out);
    out.append(reinterpret_cast<const char*>(order.items.data()), order.items.size() * 4);
  }
  static bool Decode(std::string_view in, test::Order& order) {
    if (!test::TakeString(in, order.customer) || in.size() % 4 != 0) return false;
    order.items.resize(in.size() / 4);
    if (!in.empty()) std::memcpy(order.items.data(), in.data(), in.size());
    return true;
  }
};
template <>
struct ebb::Codec<ebb::test::Place> {
  static void Encode(const test::Place& place, std::string& out) {
    test::PutString(place.country, out);
    test::PutString(place.town, out);
  }
  static bool Decode(std::string_view in, test::Place& place) {
    return test::TakeString(in, place.country) && test::TakeString(in, place.town) && in.empty();
  }
};
template <std::uint32_t kCodecVersion>
struct ebb::Codec<ebb::test::Text<kCodecVersion>> {
  static constexpr std::uint32_t kVersion = kCodecVersion;
  static void Encode(const test::Text<kCodecVersion>& text, std::string& out) { out += text.text; }
  static bool Decode(std::string_view in, test::Text<kCodecVersion>& text) {
    text.text = in;
    return in.find("bad") == in.npos;
  }
};

namespace ebb::test {
namespace {

// Plain structs of 8 bytes, two of them named.
struct Hits {
  std::uint32_t hits = 0;
  std::uint32_t bytes = 0;
};
struct Bytes {
  std::uint32_t bytes = 0;
  std::uint32_t hits = 0;
};
struct Nameless {
  std::uint64_t word = 0;
};

}  // namespace
}  // namespace ebb::test

template <>
inline constexpr std::string_view ebb::EbbTypeName<ebb::test::Hits> = "test.Hits";
template <>
inline constexpr std::string_view ebb::EbbTypeName<ebb::test::Bytes> = "test.Bytes";

namespace ebb::test {
namespace {

using absl::StatusCode;

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

// Keys are compared as bytes: keys that compare equal must have equal bytes.
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

TEST(CodecTest, TypesThatOwnMemoryAreRejected) {
  EXPECT_FALSE(ValueType<std::vector<int>>);
  EXPECT_FALSE(ValueType<std::unique_ptr<int>>);
  EXPECT_FALSE(ValueType<WithString>);
  EXPECT_FALSE(KeyType<std::vector<int>>);
}

// A read builds the value before it is filled.
TEST(CodecTest, TypesWithoutADefaultAreRejected) { EXPECT_FALSE(ValueType<NoDefault>); }

TEST(CodecTest, PlainTypesAreStoredAtTheirSize) {
  EXPECT_TRUE(Codec<Point>::kFixed);
  EXPECT_EQ(Codec<Point>::kFixedBytes, 8U);
  EXPECT_EQ(Codec<std::uint16_t>::kFixedBytes, 2U);
  EXPECT_EQ(Codec<Padded>::kFixedBytes, 16U);
  EXPECT_TRUE((std::is_same_v<ViewOf<Point>, Point>));
  EXPECT_TRUE((std::is_same_v<ViewOf<Padded>, const Padded&>));
}

TEST(CodecTest, StringsGoInAsViews) {
  EXPECT_FALSE(Codec<std::string>::kFixed);
  EXPECT_TRUE((std::is_same_v<ViewOf<std::string>, std::string_view>));
}

TEST(CodecTest, TypesWithACodecAreKeysAndValues) {
  EXPECT_TRUE(Coded<Order>);
  EXPECT_TRUE(ValueType<Order>);
  EXPECT_TRUE(KeyType<Place>);
  EXPECT_TRUE(ComparableValue<Order>);
  EXPECT_FALSE(Coded<std::string>);
  EXPECT_FALSE(Coded<Point>);
  EXPECT_FALSE(ComparableValue<Padded>);
  EXPECT_TRUE((std::is_same_v<ViewOf<Order>, const Order&>));
}

// ---- stores of types with codecs ----

using OrderStore = Store<Place, Order>;

Place PlaceOf(std::uint64_t i) { return {std::string(i % 7, 'c'), "town " + std::to_string(i)}; }
Order OrderOf(std::uint64_t i) {
  return {"customer " + std::to_string(i),
          std::vector<std::uint32_t>(i * 7 % 40, static_cast<std::uint32_t>(i))};
}

TEST(CodecTest, EveryOperationTakesThem) {
  auto store = Must(OpenTinyInMemory<OrderStore>());
  auto session = store.NewSession();
  const Place here{"x", "here"};
  EXPECT_EQ(session.Read(here).status(), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(session.Delete(here), absl::Status(StatusCode::kNotFound, ""));
  Must(session.InsertIfAbsent(here, OrderOf(5)));
  EXPECT_EQ(session.InsertIfAbsent(here, OrderOf(6)), absl::Status(StatusCode::kAlreadyExists, ""));
  EXPECT_EQ(Must(session.Read(here)), OrderOf(5));
  EXPECT_EQ(session.CompareExchange(here, OrderOf(6), OrderOf(7)),
            absl::Status(StatusCode::kAborted, ""));
  Must(session.CompareExchange(here, OrderOf(5), OrderOf(7)));
  Must(session.Rmw(here, [](Order& order) { order.items.push_back(99); }));
  Order read;
  Must(session.Read(here, read));
  Order expected = OrderOf(7);
  expected.items.push_back(99);
  EXPECT_EQ(read, expected);
  int visits = 0;
  Must(session.Read(here, [&](const Order& order) {
    EXPECT_EQ(order, expected);
    ++visits;
  }));
  EXPECT_EQ(visits, 1);
  EXPECT_FALSE(Must(session.Contains({"x", "there"})));
  Must(session.Rmw(
      {"x", "there"}, [](Order& order) { order.customer += "!"; }, OrderOf(3)));
  EXPECT_EQ(Must(store.Read({"x", "there"})).customer, "customer 3!");
  Must(session.Delete(here));
  EXPECT_FALSE(Must(session.Contains(here)));
  EXPECT_EQ(Must(store.ScanAll()).size(), 1U);
}

TEST(CodecTest, TheyComeBackFromTheDeviceAndAfterAReopening) {
  SimFileSystem files;
  std::map<Place, Order> model;
  {
    auto store = Must(OpenTiny<OrderStore>("db", &files));
    for (std::uint64_t i = 0; i < 3000; ++i) {
      const Place place = PlaceOf(i % 1000);
      if (i % 3 == 0) {
        Must(store.Rmw(place, [&](Order& order) { order.items.push_back(1); }));
        model[place].items.push_back(1);
      } else {
        model[place] = OrderOf(i);
        Must(store.Upsert(place, model[place]));
      }
    }
    ASSERT_GT(store.Metrics().device_reads, 100U);
    EXPECT_TRUE(Holds(store, model));
    Must(store.Close());
  }
  auto store = Must(OpenTiny<OrderStore>("db", &files));
  EXPECT_TRUE(Holds(store, model));
  const auto all = Must(store.ScanAll());
  EXPECT_EQ((std::map<Place, Order>(all.begin(), all.end())), model);
  EXPECT_EQ(all.size(), model.size());
}

TEST(CodecTest, AnotherVersionIsRejectedAndBothAreNamed) {
  SimFileSystem files;
  { Must(Must(OpenTiny<Store<Text<3>, Text<4>>>("db", &files)).Close()); }
  EXPECT_TRUE(FailsWith(OpenTiny<Store<Text<3>, Text<5>>>("db", &files).status(),
                        StatusCode::kFailedPrecondition,
                        "codecs of keys: version 3, values: version 4, and is opened with codecs "
                        "of keys: version 3, values: version 5"));
  EXPECT_TRUE(FailsWith(OpenTiny<StringStore>("db", &files).status(),
                        StatusCode::kFailedPrecondition, "keys: built in, values: built in"));
  EXPECT_TRUE(FailsWith(OpenTiny<Store<std::uint64_t, Text<4>>>("db", &files).status(),
                        StatusCode::kFailedPrecondition, "8 bytes"));
  Must(OpenTiny<Store<Text<3>, Text<4>>>("db", &files).status());
  // A codec that names none has the first.
  { Must(Must(OpenTiny<Store<Place, std::string>>("other", &files)).Close()); }
  Must(OpenTiny<Store<Text<1>, std::string>>("other", &files).status());
}

// The type that a store was created with, and whether it can be opened with another type.
template <typename Created, typename Opened>
absl::Status Reopened() {
  SimFileSystem files;
  { Must(Must(OpenTiny<Store<std::string, Created>>("db", &files)).Close()); }
  return OpenTiny<Store<std::string, Opened>>("db", &files).status();
}

// A double that was reopened as an integer read as 4614253070214989087.
TEST(CodecTest, ATypeOfTheSameSizeIsRejected) {
  const auto refused = [](const absl::Status& status, const std::string& names) {
    return FailsWith(status, StatusCode::kFailedPrecondition, names);
  };
  EXPECT_TRUE(refused(Reopened<double, std::uint64_t>(),
                      "created with values of f64, and is opened with values of u64"));
  EXPECT_TRUE(refused(Reopened<double, Nameless>(), "opened with values of a type without a name"));
  EXPECT_TRUE(refused(Reopened<std::int64_t, std::uint64_t>(), "values of i64"));
  EXPECT_TRUE(refused(Reopened<float, std::int32_t>(), "values of f32"));
  EXPECT_TRUE(refused(Reopened<bool, std::uint8_t>(), "values of bool"));
  EXPECT_TRUE(refused(Reopened<char, std::int8_t>(), "values of char"));
  EXPECT_TRUE(refused(Reopened<Color, std::uint8_t>(), "values of enum u8"));
  EXPECT_TRUE(refused(Reopened<std::uint8_t, Color>(), "opened with values of enum u8"));
  EXPECT_TRUE(refused(Reopened<Hits, Bytes>(), "opened with values of test.Bytes"));
  EXPECT_TRUE(refused(Reopened<Hits, Nameless>(), "of another type (of tag 0x"));
  EXPECT_TRUE(refused(Reopened<Nameless, std::uint64_t>(), "with values of a type without a name"));
  Must(Reopened<long, std::int64_t>());
  Must(Reopened<Hits, Hits>());
  Must(Reopened<Nameless, Nameless>());
  Must(Reopened<Nameless, Hits>());  // it has got its name since

  // Keys too.
  SimFileSystem files;
  { Must(Must(OpenTiny<Store<std::int64_t, std::string>>("db", &files)).Close()); }
  EXPECT_TRUE(refused(OpenTiny<U64StringStore>("db", &files).status(),
                      "created with keys of i64, and is opened with keys of u64"));
}

TEST(CodecTest, TypesHaveTheirNames) {
  const auto name = [](auto value) { return internal::NameOfType<decltype(value)>().name; };
  EXPECT_EQ(name(std::uint8_t{}), "u8");
  EXPECT_EQ(name(std::int16_t{}), "i16");
  EXPECT_EQ(name(std::uint32_t{}), "u32");
  EXPECT_EQ(name(std::int64_t{}), "i64");
  EXPECT_EQ(name(1LL), "i64");
  EXPECT_EQ(name(u'a'), "u16");
  EXPECT_EQ(name(1.0F), "f32");
  EXPECT_EQ(name(1.0), "f64");
  EXPECT_EQ(name(1.0L), "long double");
  EXPECT_EQ(name(std::string()), "string");
  EXPECT_EQ(name(Hits()), "test.Hits");
  EXPECT_EQ(name(Compressed<Hits>()), "test.Hits");  // its codec's version distinguishes them
  EXPECT_EQ(name(Compressed<std::string>()), "string");
  EXPECT_EQ(name(Order()), "");
}

// Each call is DataLoss, and nothing changes.
TEST(CodecTest, BytesThatTheCodecRejectsAreDataLoss) {
  auto store = Must(OpenTinyInMemory<Store<std::uint64_t, Text<1>>>());
  auto session = store.NewSession();
  Must(session.Upsert(1, {"good"}));
  Must(session.Upsert(2, {"bad text"}));
  const auto refused = [](const absl::Status& status) {
    return FailsWith(status, StatusCode::kDataLoss, "value of 8 bytes");
  };
  Text<1> read;
  int calls = 0;
  const std::uint64_t serial = session.serial();
  for (const bool frozen : {false, true}) {
    if (frozen) Must(CoreOf(store).log.FreezeTo(CoreOf(store).log.tail()));
    EXPECT_TRUE(refused(session.Read(2).status()));
    EXPECT_TRUE(refused(session.Read(2, read)));
    EXPECT_TRUE(refused(session.Read(2, [&](const Text<1>&) { ++calls; })));
    EXPECT_TRUE(refused(session.Rmw(2, [&](Text<1>&) { ++calls; })));
    EXPECT_TRUE(refused(store.ScanAll().status()));
  }
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(session.serial(), serial) << "a refused update took a number";
  EXPECT_EQ(store.Stats().pin_count, 0U);
  EXPECT_TRUE(Must(session.Contains(2)));
  Must(session.CompareExchange(2, {"bad text"}, {"mended"}));
  EXPECT_EQ(Must(session.Read(2)).text, "mended");
  EXPECT_EQ(Must(session.Read(1)).text, "good");
}

TEST(CodecTest, KeysThatTheCodecRejectsEndAScan) {
  auto store = Must(OpenTinyInMemory<Store<Text<1>, std::uint64_t>>());
  Must(store.Upsert({"bad key"}, 1));
  EXPECT_EQ(Must(store.Read({"bad key"})), 1U);
  EXPECT_TRUE(FailsWith(store.ScanAll().status(), StatusCode::kDataLoss, "key of 7 bytes"));
}

TEST(CodecTest, ACallFromACallbackLeavesTheCallInProgressAlone) {
  auto store = Must(OpenTinyInMemory<OrderStore>());
  auto session = store.NewSession();
  Must(session.Upsert(PlaceOf(1), OrderOf(1)));
  for (const bool present : {true, false}) {
    Must(session.Rmw(
        PlaceOf(present ? 1 : 3),
        [&](Order& order) {
          EXPECT_EQ(session.Upsert(PlaceOf(2), OrderOf(2)).code(), StatusCode::kFailedPrecondition);
          EXPECT_EQ(session.Read(PlaceOf(2)).status().code(), StatusCode::kFailedPrecondition);
          order.customer = "changed";
        },
        OrderOf(30)));
  }
  EXPECT_EQ(Must(session.Read(PlaceOf(1))).customer, "changed");
  EXPECT_EQ(Must(session.Read(PlaceOf(1))).items, OrderOf(1).items);
  EXPECT_EQ(Must(session.Read(PlaceOf(3))).items, OrderOf(30).items);
  EXPECT_FALSE(Must(session.Contains(PlaceOf(2))));
}

TEST(CodecTest, ACodecThatThrowsLeavesEverythingAsItWas) {
  auto store = Must(OpenTinyInMemory<OrderStore>());
  auto session = store.NewSession();
  Must(session.Upsert(PlaceOf(1), OrderOf(1)));
  const Order bomb{"throw", {}};
  EXPECT_THROW(static_cast<void>(session.Upsert(PlaceOf(1), bomb)), std::runtime_error);
  EXPECT_THROW(static_cast<void>(session.InsertIfAbsent(PlaceOf(2), bomb)), std::runtime_error);
  EXPECT_THROW(static_cast<void>(session.Rmw(PlaceOf(1), [&](Order& order) { order = bomb; })),
               std::runtime_error);
  EXPECT_EQ(Must(session.Read(PlaceOf(1))), OrderOf(1));
  Must(session.Rmw(PlaceOf(1), [&](Order& order) { order = OrderOf(9); }));
  EXPECT_EQ(Must(session.Read(PlaceOf(1))), OrderOf(9));
  EXPECT_FALSE(Must(session.Contains(PlaceOf(2))));
  Must(store.Close());
}

}  // namespace
}  // namespace ebb::test
