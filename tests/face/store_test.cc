// One thread, one store: the effect of each call, for each kind of key and value; and the ends of a
// store's life: close, destruction, moves, threads that come and go, forks.
//
// Hazards: 5 (a thread ends without notice), 49 (a callback throws or calls back).
#include "ebb/store.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/allocation_count.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

// ---- every kind of key and value ----

// The i-th key and the i-th value of a type. Strings grow and shrink with i.
template <typename T>
struct Sample {
  static T Make(std::uint64_t i) { return static_cast<T>(i * 0x9e3779b97f4a7c15 >> 3); }
};
template <>
struct Sample<std::string> {
  static std::string Make(std::uint64_t i) {
    return std::to_string(i) + std::string(i * 7 % 60, static_cast<char>('a' + i % 26));
  }
};
template <>
struct Sample<Triple> {
  static Triple Make(std::uint64_t i) { return {i, ~i, i * i}; }
};
template <>
struct Sample<Key12> {
  static Key12 Make(std::uint64_t i) {
    const auto word = static_cast<std::uint32_t>(i);
    return {word % 5, word, ~word};
  }
};

template <typename KeyType, typename ValueType>
struct Pair {
  using Key = KeyType;
  using Value = ValueType;
  using StoreType = Store<Key, Value>;
  static Key MakeKey(std::uint64_t i) {
    if constexpr (std::is_integral_v<Key>) {
      return static_cast<Key>(i);
    } else {
      return Sample<Key>::Make(i);
    }
  }
  static Value MakeValue(std::uint64_t i) { return Sample<Value>::Make(i); }
};

template <typename P>
class StoreTest : public ::testing::Test {};

using Pairs =
    ::testing::Types<Pair<std::uint64_t, std::uint64_t>, Pair<std::string, std::string>,
                     Pair<std::string, std::uint64_t>, Pair<std::uint64_t, Triple>,
                     Pair<std::uint64_t, std::uint8_t>, Pair<std::uint64_t, std::uint16_t>,
                     Pair<std::uint64_t, std::uint32_t>, Pair<Key12, std::uint64_t>,
                     Pair<Key12, std::string>, Pair<std::uint8_t, std::array<char, 3>>>;

template <>
struct Sample<std::array<char, 3>> {
  static std::array<char, 3> Make(std::uint64_t i) {
    return {static_cast<char>(i), static_cast<char>(i >> 8), '\0'};
  }
};

// Names instead of numbers would hold commas and spaces.
TYPED_TEST_SUITE(StoreTest, Pairs);

TYPED_TEST(StoreTest, TheResultOfEachCallFollowsFromTheStateOfTheKey) {
  auto store = Must(OpenTinyInMemory<typename TypeParam::StoreType>());
  const auto key = TypeParam::MakeKey(1);
  const auto other = TypeParam::MakeKey(2);
  const auto first = TypeParam::MakeValue(10);
  const auto second = TypeParam::MakeValue(11);
  typename TypeParam::Value into{};

  // Absent.
  EXPECT_EQ(store.Read(key).status(), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(store.Read(key, into), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(store.Delete(key), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_FALSE(Must(store.Contains(key)));

  // Present.
  Must(store.InsertIfAbsent(key, first));
  EXPECT_EQ(store.InsertIfAbsent(key, second), absl::Status(StatusCode::kAlreadyExists, ""));
  EXPECT_EQ(Must(store.Read(key)), first);
  Must(store.Upsert(key, second));
  Must(store.Read(key, into));
  EXPECT_EQ(into, second);
  EXPECT_TRUE(Must(store.Contains(key)));
  EXPECT_FALSE(Must(store.Contains(other)));

  // Absent again, and present again, by every way there is.
  Must(store.Delete(key));
  EXPECT_FALSE(Must(store.Contains(key)));
  EXPECT_EQ(store.Delete(key), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(store.Read(key).status(), absl::Status(StatusCode::kNotFound, ""));
  Must(store.InsertIfAbsent(key, first));
  EXPECT_EQ(Must(store.Read(key)), first);
  Must(store.Delete(key));
  Must(store.Upsert(key, second));
  EXPECT_EQ(Must(store.Read(key)), second);
  Must(store.Delete(key));
  Must(store.Rmw(
      key, [](auto&) {}, first));
  EXPECT_EQ(Must(store.Read(key)), first);
}

TYPED_TEST(StoreTest, RmwEditsACopyOfTheValueOrOfTheInitialOne) {
  using Value = typename TypeParam::Value;
  auto store = Must(OpenTinyInMemory<typename TypeParam::StoreType>());
  const auto key = TypeParam::MakeKey(1);
  std::vector<Value> seen;
  const auto step = [&](std::uint64_t next) {
    return [&seen, next](Value& value) {
      seen.push_back(value);
      value = TypeParam::MakeValue(next);
    };
  };
  Must(store.Rmw(key, step(1)));
  Must(store.Rmw(key, step(2)));
  Must(store.Delete(key));
  Must(store.Rmw(key, step(3), TypeParam::MakeValue(30)));
  Must(store.Rmw(key, step(4), TypeParam::MakeValue(30)));
  EXPECT_EQ(seen, (std::vector<Value>{Value{}, TypeParam::MakeValue(1), TypeParam::MakeValue(30),
                                      TypeParam::MakeValue(3)}));
  EXPECT_EQ(Must(store.Read(key)), TypeParam::MakeValue(4));
}

// Any mix of calls, on keys in memory and on the device, against a map; then again after reopening.
TYPED_TEST(StoreTest, AnyMixOfCallsHasTheResultsOfAMap) {
  using Value = typename TypeParam::Value;
  constexpr std::uint64_t kSeed = 20240607;
  constexpr std::uint64_t kKeyCount = sizeof(typename TypeParam::Key) == 1 ? 250 : 3000;
  constexpr int kCallCount = 15000;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  SimFileSystem files(/*direct=*/true);
  std::map<std::uint64_t, Value> model;
  {
    auto store = Must(OpenTiny<typename TypeParam::StoreType>("db", &files));
    for (int call = 0; call < kCallCount; ++call) {
      const std::uint64_t i = random() % kKeyCount;
      const auto key = TypeParam::MakeKey(i);
      const Value value = TypeParam::MakeValue(random());
      const bool present = model.count(i) != 0;
      switch (random() % 6) {
        case 0: {
          const auto read = store.Read(key);
          ASSERT_EQ(read.ok(), present) << read.status();
          if (present) {
            ASSERT_EQ(*read, model[i]) << call;
          }
          break;
        }
        case 1:
          Must(store.Upsert(key, value));
          model[i] = value;
          break;
        case 2: {
          const absl::Status status = store.InsertIfAbsent(key, value);
          ASSERT_EQ(status.code(), present ? StatusCode::kAlreadyExists : StatusCode::kOk);
          if (!present) model[i] = value;
          break;
        }
        case 3: {
          const absl::Status status = store.Delete(key);
          ASSERT_EQ(status.code(), present ? StatusCode::kOk : StatusCode::kNotFound);
          model.erase(i);
          break;
        }
        default: {
          const Value expected = present ? model[i] : Value{};
          Must(store.Rmw(key, [&](Value& v) {
            EXPECT_EQ(v, expected);
            v = value;
          }));
          model[i] = value;
          break;
        }
      }
    }
    EXPECT_GT(store.Metrics().device_reads, kKeyCount == 250 ? 0U : 100U);
    Must(store.Close());
  }
  auto store = Must(OpenTiny<typename TypeParam::StoreType>("db", &files));
  for (std::uint64_t i = 0; i < kKeyCount; ++i) {
    const auto read = store.Read(TypeParam::MakeKey(i));
    ASSERT_EQ(read.ok(), model.count(i) != 0) << i << ": " << read.status();
    if (read.ok()) {
      ASSERT_EQ(*read, model[i]) << i;
    }
  }
}

// ---- forms of Read ----

// Writes other keys until `key`'s record has left memory.
void PushOutStrings(StringStore& store) {
  PushOut(store, [&](std::uint64_t i) {
    Must(store.Upsert("filler " + std::to_string(i), std::string(200, 'f')));
  });
}

TEST(StoreTest, ReadReusesTheMemoryOfTheCallersString) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  Must(store.Upsert("short", "abc"));
  Must(store.Upsert("long", std::string(900, 'x')));
  std::string value;
  value.reserve(1000);
  const char* const memory = value.data();
  for (int round = 0; round < 2; ++round) {  // in memory, then on the device
    Must(store.Read("long", value));
    EXPECT_EQ(value, std::string(900, 'x'));
    Must(store.Read("short", value));
    EXPECT_EQ(value, "abc");
    EXPECT_EQ(value.data(), memory);
    PushOutStrings(store);
  }
  EXPECT_GT(store.Metrics().device_reads, 0U);
}

TEST(StoreTest, VisitorSeesThePresentValueOnceWhereverItIs) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  Must(store.Upsert("key", "value"));
  std::vector<std::string> seen;
  const auto visit = [&](std::string_view value) { seen.emplace_back(value); };
  Must(store.Read("key", visit));  // mutable
  Must(Commit(store));
  Must(store.Read("key", visit));  // read-only in memory
  PushOutStrings(store);
  Must(store.Read("key", visit));  // on the device
  EXPECT_EQ(seen, (std::vector<std::string>{"value", "value", "value"}));
  EXPECT_EQ(store.Read("absent", visit).code(), StatusCode::kNotFound);
  Must(store.Delete("key"));
  EXPECT_EQ(store.Read("key", visit).code(), StatusCode::kNotFound);
  EXPECT_EQ(seen.size(), 3U);
}

TEST(StoreTest, VisitorOfAFixedValueGetsTheValue) {
  auto store = Must(OpenTinyInMemory<U64TripleStore>());
  Must(store.Upsert(5, Triple{1, 2, 3}));
  int count = 0;
  Must(store.Read(5, [&](const Triple& value) {
    EXPECT_EQ(value, (Triple{1, 2, 3}));
    ++count;
  }));
  EXPECT_EQ(count, 1);
}

// An absent key costs nothing but the look: not in memory, and not behind a device read either.
TEST(StoreTest, AbsentKeysAllocateNothing) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  Must(session.Upsert("deleted", "value"));
  Must(session.Delete("deleted"));
  std::string value;
  const auto look = [&] {
    std::uint64_t wrong = 0;
    wrong += session.Read("absent").status().code() != StatusCode::kNotFound;
    wrong += session.Read("absent", value).code() != StatusCode::kNotFound;
    wrong += session.Read("deleted", value).code() != StatusCode::kNotFound;
    wrong += session.Delete("absent").code() != StatusCode::kNotFound;
    wrong += session.Contains("absent").value();
    wrong += store.Read("absent", value).code() != StatusCode::kNotFound;
    return wrong;
  };
  EXPECT_EQ(look(), 0U);  // the thread's own session is made here
  const std::uint64_t before = AllocationCount();
  const std::uint64_t wrong = look();
  EXPECT_EQ(AllocationCount(), before);
  EXPECT_EQ(wrong, 0U);

  PushOutStrings(store);
  EXPECT_EQ(look(), 0U);  // the sessions' device buffers are made here
  const std::uint64_t reads = store.Metrics().device_reads;
  const std::uint64_t before_device = AllocationCount();
  const std::uint64_t wrong_device = look();
  EXPECT_EQ(AllocationCount(), before_device);
  EXPECT_EQ(wrong_device, 0U);
  EXPECT_GT(store.Metrics().device_reads, reads) << "no tombstone was read from the device";

  // The count does count.
  const std::string present = std::string(100, 'x');
  EXPECT_GT(AllocationCount(), before_device + (present.empty() ? 1 : 0));
}

// ---- Rmw ----

TEST(StoreTest, RmwGrowsAndShrinksStrings) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  std::string expected;
  for (int i = 0; i < 300; ++i) {
    const std::size_t length = static_cast<std::size_t>(i * 37 % 500);
    Must(store.Rmw("key", [&](std::string& value) {
      EXPECT_EQ(value, expected);
      value.assign(length, static_cast<char>('a' + i % 26));
    }));
    expected.assign(length, static_cast<char>('a' + i % 26));
    ASSERT_EQ(Must(store.Read("key")), expected);
  }
}

// A value that fits the room of its record is changed in place; one that does not is copied.
TEST(StoreTest, OnlyGrowthBeyondTheRecordAppends) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  Must(store.Upsert("key", std::string(100, 'x')));
  const std::uint64_t tail = store.Stats().tail_address;
  Must(store.Upsert("key", "short"));
  Must(store.Rmw("key", [](std::string& value) { value.append(90, 'y'); }));
  EXPECT_EQ(Must(store.Read("key")), "short" + std::string(90, 'y'));
  EXPECT_EQ(store.Stats().tail_address, tail);
  Must(store.Rmw("key", [](std::string& value) { value.append(90, 'z'); }));
  EXPECT_GT(store.Stats().tail_address, tail);
  EXPECT_EQ(Must(store.Read("key")), "short" + std::string(90, 'y') + std::string(90, 'z'));
}

TEST(StoreTest, RmwThatGrowsTooLongIsRejectedWithoutEffect) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  const auto grow = [](std::string& value) { value.append(5000, '!'); };
  EXPECT_TRUE(
      FailsWith(store.Rmw("absent", grow), StatusCode::kInvalidArgument, "max_value_bytes"));
  EXPECT_FALSE(Must(store.Contains("absent")));
  Must(store.Upsert("key", "value"));
  EXPECT_TRUE(FailsWith(store.Rmw("key", grow), StatusCode::kInvalidArgument, "max_value_bytes"));
  EXPECT_EQ(Must(store.Read("key")), "value");
  Must(store.Rmw("key", [](std::string& value) { value += "!"; }));
  EXPECT_EQ(Must(store.Read("key")), "value!");
}

// ---- bytes and sizes ----

TEST(StoreTest, EmptyStringsAndZeroBytesAreOrdinaryKeysAndValues) {
  using namespace std::string_literals;
  const std::vector<std::string> strings = {""s,
                                            "\0"s,
                                            "\0\0"s,
                                            "a\0"s,
                                            "a\0b"s,
                                            "a"s,
                                            "\xff\0"s,
                                            "       "s,
                                            std::string(8, '\0'),
                                            std::string(9, '\0'),
                                            std::string(16, '\0')};
  TempDir dir;
  for (const bool reopened : {false, true}) {
    auto store = Must(OpenTiny<StringStore>(dir / "db"));
    for (std::size_t i = 0; i < strings.size(); ++i) {
      if (!reopened) Must(store.InsertIfAbsent(strings[i], strings[strings.size() - 1 - i]));
    }
    for (std::size_t i = 0; i < strings.size(); ++i) {
      EXPECT_EQ(Must(store.Read(strings[i])), strings[strings.size() - 1 - i]) << i;
    }
    Must(store.Delete(""));
    EXPECT_FALSE(Must(store.Contains("")));
    EXPECT_TRUE(Must(store.Contains(std::string(1, '\0'))));
    Must(store.Upsert("", strings.back()));
    Must(store.Close());
  }
}

TEST(StoreTest, AValueMayFillAPageButNotOneByteMore) {
  TempDir dir;
  // A page of one block holds 4,080 bytes: header, lengths and lock word, key, value.
  constexpr std::size_t kMax = 4080 - 24 - 8;
  const std::string most(kMax, 'm');
  {
    auto store = Must(OpenTiny<StringStore>(dir / "db"));
    auto session = store.NewSession();
    Must(store.Upsert("key", most));
    EXPECT_EQ(Must(store.Read("key")), most);
    const std::uint64_t tail = store.Stats().tail_address;
    const absl::Status upsert = store.Upsert("key2", most + "m");
    EXPECT_TRUE(FailsWith(upsert, StatusCode::kInvalidArgument, "value of 4049 bytes"));
    EXPECT_TRUE(FailsWith(upsert, StatusCode::kInvalidArgument, "page_bytes 4096"));
    EXPECT_TRUE(FailsWith(session.InsertIfAbsent("key2", most + "m"), StatusCode::kInvalidArgument,
                          "page_bytes"));
    EXPECT_TRUE(FailsWith(session.Rmw(
                              "key2", [](std::string&) {}, most + "m"),
                          StatusCode::kInvalidArgument, "page_bytes"));
    EXPECT_EQ(store.Stats().tail_address, tail);
    EXPECT_FALSE(Must(store.Contains("key2")));
    // Every split of the same room between key and value.
    for (const std::size_t key_bytes : {std::size_t{16}, std::size_t{2000}, std::size_t{4056}}) {
      Must(store.Upsert(std::string(key_bytes, 'k'), std::string(4056 - key_bytes, 'v')));
    }
    for (int i = 0; i < 20; ++i) Must(store.Upsert("page " + std::to_string(i), most.substr(8)));
    EXPECT_EQ(Must(store.Read("key")), most);  // from the device
    Must(store.Close());
  }
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  EXPECT_EQ(Must(store.Read("key")), most);
  for (const std::size_t key_bytes : {std::size_t{16}, std::size_t{2000}, std::size_t{4056}}) {
    EXPECT_EQ(Must(store.Read(std::string(key_bytes, 'k'))), std::string(4056 - key_bytes, 'v'));
  }
}

TEST(StoreTest, KeysAndValuesBeyondTheirLimitsAreRejectedByName) {
  Options options = TinyOptions();
  options.log_memory_bytes = 1 << 20;
  options.max_key_bytes = 5;
  options.max_value_bytes = 7;
  auto store = Must(StringStore::OpenInMemory(options));
  Must(store.Upsert("12345", "1234567"));
  const auto refused = [](const absl::Status& status, const char* field) {
    return FailsWith(status, StatusCode::kInvalidArgument, field);
  };
  const auto keep = [](std::string&) {};
  EXPECT_TRUE(refused(store.Upsert("123456", "v"), "max_key_bytes"));
  EXPECT_TRUE(refused(store.Upsert("12345", "12345678"), "max_value_bytes"));
  EXPECT_TRUE(refused(store.InsertIfAbsent("123456", "v"), "max_key_bytes"));
  EXPECT_TRUE(refused(store.InsertIfAbsent("k", "12345678"), "max_value_bytes"));
  EXPECT_TRUE(refused(store.Rmw("123456", keep), "max_key_bytes"));
  EXPECT_TRUE(refused(store.Rmw("k", keep, "12345678"), "max_value_bytes"));
  EXPECT_TRUE(refused(store.Rmw("12345", [](std::string& v) { v += "8"; }), "max_value_bytes"));
  EXPECT_EQ(Must(store.Read("12345")), "1234567");
  // A key that cannot exist is absent, and no error.
  EXPECT_EQ(store.Read("123456").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(store.Delete("123456").code(), StatusCode::kNotFound);
  EXPECT_FALSE(Must(store.Contains("123456")));
}

// ---- callbacks ----

struct Thrown : std::exception {};

// After a callback has thrown: the value is the old one, nothing is locked or announced, and the
// store works and closes.
template <typename StoreType, typename Key, typename Value>
void ExpectUnharmed(StoreType& store, const Key& key, const Value& old_value, const Value& next) {
  EXPECT_EQ(Must(store.Read(key)), old_value);
  auto other = store.NewSession();
  Must(other.Rmw(key, [&](Value& value) {
    EXPECT_EQ(value, old_value);
    value = next;
  }));
  EXPECT_EQ(Must(other.Read(key)), next);
  Must(Commit(store));  // would wait for an announcement left behind
  EXPECT_EQ(Must(store.Read(key)), next);
}

template <typename StoreType, typename Key, typename Value>
void ExpectThrowingCallbacksHarmless(StoreType& store, const Key& key, const Value& old_value,
                                     const Value& next) {
  auto session = store.NewSession();
  int runs = 0;
  const auto edit = [&](Value& value) {
    ++runs;
    value = next;
    throw Thrown();
  };
  const auto visit = [&](const auto&) {
    ++runs;
    throw Thrown();
  };
  EXPECT_THROW(static_cast<void>(session.Read(key, visit)), Thrown);
  EXPECT_THROW(static_cast<void>(store.Read(key, visit)), Thrown);
  EXPECT_THROW(static_cast<void>(session.Rmw(key, edit)), Thrown);
  EXPECT_THROW(static_cast<void>(store.Rmw(key, edit)), Thrown);
  EXPECT_EQ(runs, 4);
  EXPECT_EQ(Must(session.Read(key)), old_value);
  ExpectUnharmed(store, key, old_value, next);
}

TEST(StoreTest, ThrowingCallbackLeavesWordsUnharmed) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Must(store.Upsert(1, 10));
  ExpectThrowingCallbacksHarmless<U64Store, std::uint64_t, std::uint64_t>(store, 1, 10, 11);
  Must(store.Close());
}

TEST(StoreTest, ThrowingCallbackLeavesLockedValuesUnharmed) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  Must(store.Upsert("key", "old value"));
  // In place, by growth, and of a record that is read-only by the commit above.
  ExpectThrowingCallbacksHarmless<StringStore, std::string, std::string>(store, "key", "old value",
                                                                         "new");
  ExpectThrowingCallbacksHarmless<StringStore, std::string, std::string>(store, "key", "new",
                                                                         std::string(1000, 'g'));
  // On the device.
  PushOutStrings(store);
  ExpectThrowingCallbacksHarmless<StringStore, std::string, std::string>(
      store, "key", std::string(1000, 'g'), "again");
  Must(store.Close());
}

TEST(StoreTest, ThrowingCallbackOnAnAbsentKeyLeavesItAbsent) {
  TempDir dir;
  {
    auto store = Must(OpenTiny<StringStore>(dir / "db"));
    EXPECT_THROW(static_cast<void>(store.Rmw("key", [](std::string&) { throw Thrown(); })), Thrown);
    EXPECT_FALSE(Must(store.Contains("key")));
    Must(store.InsertIfAbsent("key", "value"));
    EXPECT_THROW(static_cast<void>(store.Rmw("key", [](std::string&) { throw Thrown(); })), Thrown);
    Must(store.Close());
  }
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  EXPECT_EQ(Must(store.Read("key")), "value");
}

// Every call that a callback makes on its own store is rejected, and the callback's own call
// continues as if nothing had happened.
template <typename Calls>
void ExpectReentryRefused(Calls& calls, StringStore& store) {
  Must(calls.Upsert("key", "value"));
  int runs = 0;
  const auto reenter = [&] {
    ++runs;
    const auto refused = [](const absl::Status& status) {
      return FailsWith(status, StatusCode::kFailedPrecondition, "callback");
    };
    std::string value = "untouched";
    const auto edit = [](std::string&) { FAIL() << "a refused callback ran"; };
    const auto visit = [](std::string_view) { FAIL() << "a refused visitor ran"; };
    for (const char* const key : {"key", "absent"}) {
      EXPECT_TRUE(refused(calls.Read(key).status()));
      EXPECT_TRUE(refused(calls.Read(key, value)));
      EXPECT_TRUE(refused(calls.Read(key, visit)));
      EXPECT_TRUE(refused(calls.Contains(key).status()));
      EXPECT_TRUE(refused(calls.Upsert(key, "v")));
      EXPECT_TRUE(refused(calls.Upsert(key, std::string(4000, 'v'))));
      EXPECT_TRUE(refused(calls.Rmw(key, edit)));
      EXPECT_TRUE(refused(calls.Delete(key)));
      EXPECT_TRUE(refused(calls.InsertIfAbsent(key, "v")));
    }
    EXPECT_EQ(value, "untouched");
  };
  const auto visit = [&](std::string_view value) {
    reenter();
    EXPECT_EQ(value, "value");
  };
  const auto edit = [&](std::string& value) {
    reenter();
    value += "!";
  };
  Must(calls.Read("key", visit));
  Must(calls.Rmw("key", edit));
  Must(calls.Rmw("new", edit));
  EXPECT_EQ(Must(calls.Read("key")), "value!");
  EXPECT_EQ(Must(calls.Read("new")), "!");
  Must(calls.Upsert("key", "value"));
  PushOutStrings(store);
  Must(calls.Read("key", visit));  // shown from the device
  Must(calls.Rmw("key", edit));
  EXPECT_EQ(Must(calls.Read("key")), "value!");
  EXPECT_EQ(runs, 5);
}

TEST(StoreTest, CallbackThatCallsItsOwnSessionIsRejected) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  ExpectReentryRefused(session, store);
  Must(store.Close());
}

TEST(StoreTest, CallbackThatCallsItsStoreIsRejected) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  ExpectReentryRefused(store, store);
  Must(store.Close());
}

TEST(StoreTest, CallbackOfAWordThatCallsBackIsRejected) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  Must(session.Upsert(1, 1));
  Must(session.Rmw(1, [&](std::uint64_t& value) {
    EXPECT_EQ(session.Upsert(1, 7).code(), StatusCode::kFailedPrecondition);
    EXPECT_EQ(session.Rmw(1, [](std::uint64_t& v) { v = 7; }).code(),
              StatusCode::kFailedPrecondition);
    EXPECT_EQ(session.Read(1).status().code(), StatusCode::kFailedPrecondition);
    ++value;
  }));
  EXPECT_EQ(Must(session.Read(1)), 2U);
}

TEST(StoreTest, CallbackMayCallAnotherStore) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto other = Must(OpenTinyInMemory<U64Store>());
  Must(store.Upsert(1, 1));
  Must(store.Rmw(1, [&](std::uint64_t& value) {
    Must(other.Upsert(1, 40));
    value += Must(other.Read(1));
  }));
  EXPECT_EQ(Must(store.Read(1)), 41U);
}

// ---- the end of a store ----

template <typename Calls>
void ExpectClosed(Calls& calls) {
  const auto closed = [](const absl::Status& status) {
    return FailsWith(status, StatusCode::kFailedPrecondition, "closed");
  };
  std::string value;
  for (const char* const key : {"key", "absent"}) {
    EXPECT_TRUE(closed(calls.Read(key).status()));
    EXPECT_TRUE(closed(calls.Read(key, value)));
    EXPECT_TRUE(closed(calls.Read(key, [](std::string_view) { FAIL() << "shown after Close"; })));
    EXPECT_TRUE(closed(calls.Contains(key).status()));
    EXPECT_TRUE(closed(calls.Upsert(key, "v")));
    EXPECT_TRUE(closed(calls.Rmw(key, [](std::string&) { FAIL() << "run after Close"; })));
    EXPECT_TRUE(closed(calls.Delete(key)));
    EXPECT_TRUE(closed(calls.InsertIfAbsent(key, "v")));
  }
}

TEST(StoreTest, EveryCallAfterCloseIsRejected) {
  TempDir dir;
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  auto session = store.NewSession();
  Must(store.Upsert("key", "value"));
  Must(store.Close());
  const Snapshot closed = SnapshotOf(dir / "db");
  ExpectClosed(store);
  ExpectClosed(session);
  auto late = store.NewSession();
  ExpectClosed(late);
  EXPECT_EQ(Commit(store).code(), StatusCode::kFailedPrecondition);
  EXPECT_GT(store.Stats().tail_address, 0U);
  EXPECT_EQ(SnapshotOf(dir / "db"), closed);
}

TEST(StoreTest, CloseTwiceReturnsTheSame) {
  TempDir dir;
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  Must(store.Upsert("key", "value"));
  Must(store.Close());
  const Snapshot closed = SnapshotOf(dir / "db");
  Must(store.Close());
  EXPECT_EQ(SnapshotOf(dir / "db"), closed);
  auto reopened = Must(OpenTiny<StringStore>(dir / "db"));
  Must(store.Close());  // does not release the lock that another store has now
  EXPECT_EQ(OpenTiny<StringStore>(dir / "db").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Must(reopened.Read("key")), "value");
}

TEST(StoreTest, DestructionCloses) {
  TempDir dir;
  { Must(Must(OpenTiny<StringStore>(dir / "db")).Upsert("key", "value")); }
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  EXPECT_EQ(Must(store.Read("key")), "value");
}

TEST(StoreTest, SessionsMayOutliveTheirStore) {
  TempDir dir;
  std::optional<StringStore::Session> session;
  std::optional<StringStore::Session> unused;
  {
    auto store = Must(OpenTiny<StringStore>(dir / "db"));
    session.emplace(store.NewSession());
    unused.emplace(store.NewSession());
    Must(session->Upsert("key", "value"));
  }
  ExpectClosed(*session);
  // The files are still free for another store.
  auto store = Must(OpenTiny<StringStore>(dir / "db"));
  EXPECT_EQ(Must(store.Read("key")), "value");
  ExpectClosed(*session);
  session.reset();
  unused.reset();
  EXPECT_EQ(Must(store.Read("key")), "value");
}

TEST(StoreTest, MovedStoreIsTheSameStore) {
  TempDir dir;
  auto first = Must(OpenTiny<StringStore>(dir / "db"));
  auto session = first.NewSession();
  Must(first.Upsert("key", "value"));
  StringStore second = std::move(first);
  EXPECT_EQ(Must(second.Read("key")), "value");
  Must(session.Upsert("key", "by session"));
  StringStore third = Must(OpenTinyInMemory<StringStore>());
  third = std::move(second);
  EXPECT_EQ(Must(third.Read("key")), "by session");
  Must(third.Close());
  ExpectClosed(session);
}

// ---- threads ----

TEST(StoreTest, SessionsMoveBetweenThreads) {
  auto store = Must(OpenTinyInMemory<StringU64Store>());
  auto session = store.NewSession();
  for (int i = 0; i < 20; ++i) {
    std::thread thread([moved = std::move(session), &session]() mutable {
      Must(moved.Rmw("key", [](std::uint64_t& n) { ++n; }));
      session = std::move(moved);
    });
    thread.join();
    Must(session.Rmw("key", [](std::uint64_t& n) { ++n; }));
  }
  EXPECT_EQ(Must(session.Read("key")), 40U);
}

// Hazard 5. Each thread's session ends with it: the slots that it announced itself in are used
// again by the next one. (Without the give-back at thread end there would be one for each thread.)
TEST(StoreTest, ThreadsThatComeAndGoLeaveNoSessionBehind) {
  auto store = Must(OpenTinyInMemory<StringU64Store>());
  internal::EpochManager& epochs = CoreOf(store).epochs;
  std::set<internal::EpochSlot*> free_slots;
  constexpr std::uint64_t kThreadCount = 300;
  for (std::uint64_t i = 0; i < kThreadCount; ++i) {
    std::thread([&] {
      Must(store.Rmw("key", [](std::uint64_t& n) { ++n; }));
      internal::EpochSlot* const slot = epochs.AcquireSlot();  // a free one, not the thread's
      free_slots.insert(slot);
      epochs.ReleaseSlot(slot);
    }).join();
  }
  EXPECT_EQ(Must(store.Read("key")), kThreadCount);
  EXPECT_LE(free_slots.size(), 3U);
}

TEST(StoreTest, AThreadThatEndsAfterTheStoreIsGoneHarmsNothing) {
  std::optional<StringU64Store> store(Must(OpenTinyInMemory<StringU64Store>()));
  std::thread thread;
  {
    std::mutex mu;
    std::condition_variable changed;
    bool used = false;
    bool gone = false;
    thread = std::thread([&] {
      Must(store->Upsert("key", 1));
      std::unique_lock lock(mu);
      used = true;
      changed.notify_all();
      changed.wait(lock, [&] { return gone; });
    });
    std::unique_lock lock(mu);
    changed.wait(lock, [&] { return used; });
    store.reset();
    gone = true;
    changed.notify_all();
    lock.unlock();
    thread.join();
  }
}

TEST(StoreTest, OneThreadUsesSeveralStoresInTurn) {
  auto numbers = Must(OpenTinyInMemory<U64Store>());
  auto strings = Must(OpenTinyInMemory<StringStore>());
  auto more_numbers = Must(OpenTinyInMemory<U64Store>());
  for (std::uint64_t i = 0; i < 100; ++i) {
    Must(numbers.Upsert(i, i));
    Must(strings.Upsert(std::to_string(i), std::to_string(i * 2)));
    Must(more_numbers.Upsert(i, i * 3));
  }
  for (std::uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(Must(numbers.Read(i)), i);
    EXPECT_EQ(Must(strings.Read(std::to_string(i))), std::to_string(i * 2));
    EXPECT_EQ(Must(more_numbers.Read(i)), i * 3);
  }
  Must(numbers.Close());
  EXPECT_EQ(numbers.Read(1).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Must(more_numbers.Read(1)), 3U);
  // Stores that come and go at the same places in memory are not taken for each other.
  for (std::uint64_t i = 0; i < 50; ++i) {
    auto store = Must(OpenTinyInMemory<U64Store>());
    EXPECT_EQ(store.Read(0).status().code(), StatusCode::kNotFound);
    Must(store.Upsert(0, i));
    EXPECT_EQ(Must(store.Read(0)), i);
  }
}

// ---- forks ----

template <typename Calls>
bool IsRefusedInChild(Calls& calls) {
  const auto refused = [](const absl::Status& status) {
    return status.code() == StatusCode::kFailedPrecondition &&
           status.message().find("fork") != absl::string_view::npos;
  };
  std::string value;
  return refused(calls.Read("key").status()) && refused(calls.Read("key", value)) &&
         refused(calls.Upsert("key", "child")) && refused(calls.Upsert("new", "child")) &&
         refused(calls.Rmw("key", [](std::string& v) { v = "child"; })) &&
         refused(calls.Delete("key")) && refused(calls.InsertIfAbsent("new", "child")) &&
         refused(calls.Contains("key").status());
}

// A child process has the store's memory but none of its threads, and shares its files and their
// lock with the parent. Every call is rejected there, and destruction forgets.
TEST(StoreTest, AForkedChildIsRejectedAndHarmsNothing) {
  TempDir dir;
  std::optional<StringStore> store(Must(OpenTiny<StringStore>(dir / "db")));
  std::optional<StringStore::Session> session(store->NewSession());
  for (int i = 0; i < 500; ++i) Must(store->Upsert(std::to_string(i), std::string(100, 'x')));
  Must(store->Upsert("key", "parent"));
  const Snapshot before = SnapshotOf(dir / "db");
  int told = 0;
  for (int i = 0; i < 20; ++i) {
    session->ReadAsync(std::to_string(i), [&](const absl::StatusOr<std::string>& value) {
      told += value.ok() ? 1 : 100;
    });
  }
  EXPECT_GT(session->pending_count(), 0U);
  std::optional<ScanIterator<std::string, std::string>> scan(store->NewScan());
  EXPECT_TRUE(scan->Next());

  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int failure = 0;
    if (!IsRefusedInChild(*store)) failure |= 1;
    if (!IsRefusedInChild(*session)) failure |= 2;
    auto fresh = store->NewSession();
    if (!IsRefusedInChild(fresh)) failure |= 4;
    if (store->Close().code() != StatusCode::kFailedPrecondition) failure |= 8;
    told = 0;
    if (session->CompletePending() != 0 || told != 0) failure |= 32;
    session->ReadAsync("1", [&](const absl::StatusOr<std::string>& value) {
      if (value.status().code() != StatusCode::kFailedPrecondition) failure |= 64;
      ++told;
    });
    scan.reset();
    session.reset();
    if (told != 1) failure |= 64;
    store.reset();
    // The directory is still the parent's.
    if (OpenTiny<StringStore>(dir / "db").status().code() != StatusCode::kFailedPrecondition) {
      failure |= 16;
    }
    ::_exit(failure);
  }
  int result = -1;
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  EXPECT_TRUE(WIFEXITED(result));
  EXPECT_EQ(WEXITSTATUS(result), 0);
  EXPECT_EQ(SnapshotOf(dir / "db"), before);
  while (scan->Next()) {
  }
  Must(scan->status());
  scan.reset();
  session->CompletePending();
  EXPECT_EQ(told, 20);

  EXPECT_EQ(Must(store->Read("key")), "parent");
  Must(session->Upsert("key", "parent again"));
  EXPECT_EQ(OpenTiny<StringStore>(dir / "db").status().code(), StatusCode::kFailedPrecondition);
  Must(store->Close());
  auto reopened = Must(OpenTiny<StringStore>(dir / "db"));
  EXPECT_EQ(Must(reopened.Read("key")), "parent again");
  EXPECT_FALSE(Must(reopened.Contains("new")));
}

// ---- without files ----

TEST(StoreTest, AStoreInMemoryMayBeLargerThanItsBudget) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  constexpr std::uint64_t kKeyCount = 10 * kTinyMemoryBytes / 24;
  for (std::uint64_t i = 0; i < kKeyCount; ++i) Must(store.Upsert(i, ~i));
  for (std::uint64_t i = 0; i < kKeyCount; ++i) ASSERT_EQ(Must(store.Read(i)), ~i);
  EXPECT_GT(store.Metrics().device_reads, 0U);
  Must(store.Close());
}

TEST(StoreTest, TheDefaultsOpenAStoreOnFilesWithThreads) {
  TempDir dir;
  {
    auto store = Must(Store<>::Open(dir / "db", {.log_memory_bytes = 1 << 20}));
    for (int i = 0; i < 20000; ++i) {
      Must(store.Upsert("key " + std::to_string(i), std::string(200, static_cast<char>(i))));
    }
    for (int i = 0; i < 20000; i += 7) {
      ASSERT_EQ(Must(store.Read("key " + std::to_string(i))),
                std::string(200, static_cast<char>(i)));
    }
    EXPECT_GT(store.Metrics().log_written_bytes, 0U);
    EXPECT_GT(store.Metrics().device_reads, 0U);
  }
  auto store = Must(Store<>::Open(dir / "db", {.log_memory_bytes = 1 << 20}));
  for (int i = 0; i < 20000; i += 7) {
    ASSERT_EQ(Must(store.Read("key " + std::to_string(i))), std::string(200, static_cast<char>(i)));
  }
}

}  // namespace
}  // namespace ebb::test
