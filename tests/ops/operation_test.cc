// The slow paths of the operations: for each kind and place of the newest record of a key, each
// call has its documented effect on it, and none on the other keys of its chain.
//
// Everything runs in one thread, in tiny stores without a pool. Another session takes the part of
// another thread, from inside a callback (as_another_thread.h). A callback must not call its store,
// because it could wait for a page forever; here there is room, and the interleaving is the same
// one every time.
//
// Hazards: 8 (an update in place lands on a record that has a successor), 10 (a stale publication
// succeeds), 15 and 16 (abandoned slots), 17 (keys that share a tag), 25 (growth), 27 (the minimum
// memory), 50 (failed publications).
#include "ebb/internal/ops/operation.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/as_another_thread.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

// ---- data past memory ----

template <typename StoreType>
void ReadAllBack(StoreType& store, std::uint64_t key_count) {
  for (std::uint64_t i = 0; i < key_count; ++i) ASSERT_EQ(Must(store.Read(i)), ~i) << i;
  for (std::uint64_t i = key_count; i < key_count + 100; ++i) {
    ASSERT_FALSE(Must(store.Contains(i))) << i;
  }
}

TEST(OperationTest, TenTimesTheMemoryReadsBackRight) {
  SimFileSystem files;
  constexpr std::uint64_t kKeyCount = 10 * kTinyMemoryBytes / 24;
  internal::Environment environment = TinyEnvironment(&files);
  environment.index_exponent = kShortChains;
  auto store = Must(OpenIn<U64Store>("db", environment));
  std::vector<std::uint64_t> order(kKeyCount);
  for (std::uint64_t i = 0; i < kKeyCount; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937_64(7));
  for (const std::uint64_t key : order) Must(store.Upsert(key, key));
  for (const std::uint64_t key : order) Must(store.Rmw(key, [](std::uint64_t& v) { v = ~v; }));
  ReadAllBack(store, kKeyCount);
  const StoreStats stats = store.Stats();
  EXPECT_GT(store.Metrics().device_reads, kKeyCount);
  EXPECT_LE(stats.tail_address - stats.head_address, kTinyMemoryBytes);
  Must(store.Close());
  auto reopened = Must(OpenTiny<U64Store>("db", &files));
  ReadAllBack(reopened, kKeyCount);
}

// Records that begin in one block and end in another, or in a third, at every offset: prefix,
// key and value are each cut somewhere.
TEST(OperationTest, RecordsThatCrossBlocksReadBackRight) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 15;
  environment.index_exponent = 8;
  std::map<std::string, std::string> model;
  std::mt19937_64 random(11);
  auto store = Must(OpenIn<StringStore>("db", environment));
  for (std::uint64_t i = 0; i < 1500; ++i) {
    const std::string key = std::to_string(i) + std::string(random() % 40, 'k');
    const std::size_t bytes = random() % (i % 10 == 0 ? 15000 : 200);
    model[key] = std::string(bytes, static_cast<char>('a' + i % 26)) + key;
    Must(store.Upsert(key, model[key]));
  }
  EXPECT_TRUE(Holds(store, model));
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_GT(metrics.device_reads, 500U);
  EXPECT_GT(metrics.device_read_bytes, 4096 * metrics.device_reads) << "no record crossed";
  std::string seen;
  for (const auto& [key, value] : model) {
    Must(store.Read(key, [&](std::string_view view) { seen = view; }));
    ASSERT_EQ(seen, value) << key;
    Must(store.Rmw(key, [](std::string& v) { v += "!"; }));
  }
  for (auto& [key, value] : model) value += "!";
  Must(store.Close());
  auto reopened = Must(OpenIn<StringStore>("db", environment));
  EXPECT_TRUE(Holds(reopened, model));
}

TEST(OperationTest, FixedRecordsThatCrossBlocksReadBackRight) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 14;
  environment.index_exponent = kShortChains;
  // 32 bytes a record: one in 255 lies across a block's end.
  auto store = Must(OpenIn<Store<Key12, std::uint64_t>>("db", environment));
  for (std::uint32_t i = 0; i < 20000; ++i) Must(store.Upsert(Key12{i, ~i, i / 3}, i));
  for (std::uint32_t i = 0; i < 20000; ++i) {
    ASSERT_EQ(Must(store.Read(Key12{i, ~i, i / 3})), i);
  }
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_GT(metrics.device_read_bytes, 4096 * metrics.device_reads) << "no record crossed";
}

// ---- one key, at every place where its newest record can be ----

enum class Place {
  kAbsent,
  kMutable,
  kReadOnly,  // in memory, frozen
  kOnDevice,
  kDeletedMutable,
  kDeletedReadOnly,
  kDeletedOnDevice,
};
constexpr Place kPlaces[] = {
    Place::kAbsent,         Place::kMutable,         Place::kReadOnly,       Place::kOnDevice,
    Place::kDeletedMutable, Place::kDeletedReadOnly, Place::kDeletedOnDevice};

bool IsPresent(Place place) {
  return place == Place::kMutable || place == Place::kReadOnly || place == Place::kOnDevice;
}

template <typename ValueType>
struct ValuesOf {
  static ValueType Make(std::uint64_t i) { return i; }
};
template <>
struct ValuesOf<std::string> {
  // Longer and shorter ones in turn.
  static std::string Make(std::uint64_t i) { return std::string(i * 31 % 100, 's'); }
};
template <>
struct ValuesOf<Triple> {
  static Triple Make(std::uint64_t i) { return {i, i + 1, i + 2}; }
};

// Four keys of one chain: the target, two that are written before it, and one after.
class Chain {
 public:
  static constexpr std::uint64_t kTarget = 1;
  Chain() {
    for (std::uint64_t key = 2; mates_.size() < 3; ++key) {
      if (Of(key) == Of(kTarget)) mates_.push_back(key);
    }
  }
  const std::vector<std::uint64_t>& mates() const { return mates_; }
  // In a store of two buckets: one bit of bucket, 15 bits of tag.
  static std::uint64_t Of(std::uint64_t key) { return TestHash(key) & 0xffff; }
  // Keys of other chains, for filling pages.
  static std::uint64_t Filler(std::uint64_t i) {
    const std::uint64_t key = (std::uint64_t{1} << 40) + i;
    return Of(key) == Of(kTarget) ? key + (std::uint64_t{1} << 41) : key;
  }

 private:
  std::vector<std::uint64_t> mates_;
};

template <typename ValueType>
class OperationTest : public ::testing::Test {
 protected:
  using StoreType = Store<std::uint64_t, ValueType>;
  static ValueType Make(std::uint64_t i) { return ValuesOf<ValueType>::Make(i); }
  static constexpr std::uint64_t kOld = 5;  // the target's value where it has one

  // A new store whose target is at `place`, between mates that are where they happen to be.
  void Prepare(Place place) {
    store_.reset();
    files_ = std::make_unique<SimFileSystem>();
    store_.emplace(Must(OpenTiny<StoreType>("db", files_.get())));
    const bool deleted = place == Place::kDeletedMutable || place == Place::kDeletedReadOnly ||
                         place == Place::kDeletedOnDevice;
    Must(store_->Upsert(chain_.mates()[0], Make(10)));
    FillPages();
    Must(store_->Upsert(chain_.mates()[1], Make(11)));
    if (place != Place::kAbsent) Must(store_->Upsert(Chain::kTarget, Make(kOld)));
    if (deleted) Must(store_->Delete(Chain::kTarget));
    if (place == Place::kReadOnly || place == Place::kDeletedReadOnly) Must(Commit(*store_));
    if (place == Place::kOnDevice || place == Place::kDeletedOnDevice) FillPages();
    Must(store_->Upsert(chain_.mates()[2], Make(12)));
  }
  void FillPages() {
    PushOut(*store_, [&](std::uint64_t) {
      Must(store_->Upsert(Chain::Filler(next_filler_), Make(next_filler_)));
      ++next_filler_;
    });
  }
  // The target is `expected` (or absent), its mates are as they were; now and after a reopening.
  void ExpectTarget(const std::optional<ValueType>& expected) {
    for (const bool reopened : {false, true}) {
      SCOPED_TRACE(reopened ? "reopened" : "at once");
      if (reopened) {
        Must(store_->Close());
        store_.emplace(Must(OpenTiny<StoreType>("db", files_.get())));
      }
      const absl::StatusOr<ValueType> read = store_->Read(Chain::kTarget);
      if (expected.has_value()) {
        ASSERT_TRUE(read.ok()) << read.status();
        EXPECT_EQ(*read, *expected);
      } else {
        EXPECT_EQ(read.status().code(), StatusCode::kNotFound);
      }
      for (std::uint64_t i = 0; i < 3; ++i) {
        EXPECT_EQ(Must(store_->Read(chain_.mates()[i])), Make(10 + i));
      }
    }
  }
  // Does `act` to the target at every place, with the expected results where there was a value and
  // where there was none.
  template <typename Act>
  void AtEveryPlace(std::optional<ValueType> if_present, std::optional<ValueType> if_absent,
                    Act act) {
    for (const Place place : kPlaces) {
      SCOPED_TRACE("place " + std::to_string(static_cast<int>(place)));
      Prepare(place);
      act(*store_, IsPresent(place));
      ExpectTarget(IsPresent(place) ? if_present : if_absent);
    }
  }

  const Chain chain_;
  std::unique_ptr<SimFileSystem> files_;
  std::optional<StoreType> store_;
  std::uint64_t next_filler_ = 0;
};

using ValueTypes = ::testing::Types<std::uint64_t, std::string, Triple>;
TYPED_TEST_SUITE(OperationTest, ValueTypes);

TYPED_TEST(OperationTest, ReadFindsTheNewestRecord) {
  const auto old = this->Make(this->kOld);
  this->AtEveryPlace(old, std::nullopt, [&](auto& store, bool present) {
    EXPECT_EQ(Must(store.Contains(Chain::kTarget)), present);
    int visits = 0;
    const absl::Status status = store.Read(Chain::kTarget, [&](const auto& value) {
      EXPECT_EQ(TypeParam(value), old);
      ++visits;
    });
    EXPECT_EQ(status.code(), present ? StatusCode::kOk : StatusCode::kNotFound);
    EXPECT_EQ(visits, present ? 1 : 0);
  });
}

TYPED_TEST(OperationTest, UpsertReplacesAnyValue) {
  for (const std::uint64_t next : {6, 7, 8}) {  // strings: longer and shorter than the old one
    const auto value = this->Make(next);
    this->AtEveryPlace(value, value, [&](auto& store, bool) {
      const std::uint64_t reads = store.Metrics().device_reads;
      Must(store.Upsert(Chain::kTarget, value));
      EXPECT_EQ(store.Metrics().device_reads, reads) << "a blind update read the device";
    });
  }
}

TYPED_TEST(OperationTest, RmwContinuesFromTheNewestValue) {
  for (const std::uint64_t next : {6, 7, 8}) {
    const auto value = this->Make(next);
    this->AtEveryPlace(value, value, [&](auto& store, bool present) {
      Must(store.Rmw(
          Chain::kTarget,
          [&](TypeParam& v) {
            EXPECT_EQ(v, this->Make(present ? this->kOld : 99));
            v = value;
          },
          this->Make(99)));
    });
  }
}

TYPED_TEST(OperationTest, DeleteRemovesAPresentKey) {
  this->AtEveryPlace(std::nullopt, std::nullopt, [&](auto& store, bool present) {
    EXPECT_EQ(store.Delete(Chain::kTarget).code(),
              present ? StatusCode::kOk : StatusCode::kNotFound);
    EXPECT_EQ(store.Delete(Chain::kTarget).code(), StatusCode::kNotFound);
  });
}

TYPED_TEST(OperationTest, DeleteOfAnAbsentKeyWritesNothing) {
  for (const Place place : kPlaces) {
    if (IsPresent(place)) continue;
    this->Prepare(place);
    const std::uint64_t tail = this->store_->Stats().tail_address;
    EXPECT_EQ(this->store_->Delete(Chain::kTarget).code(), StatusCode::kNotFound);
    EXPECT_EQ(this->store_->Stats().tail_address, tail);
  }
}

TYPED_TEST(OperationTest, InsertIfAbsentInsertsOnlyThen) {
  const auto fresh = this->Make(6);
  this->AtEveryPlace(this->Make(this->kOld), fresh, [&](auto& store, bool present) {
    const std::uint64_t tail = store.Stats().tail_address;
    EXPECT_EQ(store.InsertIfAbsent(Chain::kTarget, fresh).code(),
              present ? StatusCode::kAlreadyExists : StatusCode::kOk);
    EXPECT_EQ(store.Stats().tail_address == tail, present);
    EXPECT_EQ(store.InsertIfAbsent(Chain::kTarget, this->Make(7)).code(),
              StatusCode::kAlreadyExists);
  });
}

TYPED_TEST(OperationTest, CompareExchangeReplacesOnlyTheExpectedValue) {
  const auto old = this->Make(this->kOld);
  for (const std::uint64_t next : {6, 7, 8}) {  // strings: longer and shorter than the old one
    const auto value = this->Make(next);
    this->AtEveryPlace(value, std::nullopt, [&](auto& store, bool present) {
      const std::uint64_t tail = store.Stats().tail_address;
      EXPECT_EQ(store.CompareExchange(Chain::kTarget, value, old),
                absl::Status(present ? StatusCode::kAborted : StatusCode::kNotFound, ""));
      EXPECT_EQ(store.Stats().tail_address, tail) << "an answer alone wrote something";
      EXPECT_EQ(store.CompareExchange(Chain::kTarget, old, value).code(),
                present ? StatusCode::kOk : StatusCode::kNotFound);
      EXPECT_EQ(store.CompareExchange(Chain::kTarget, old, this->Make(9)).code(),
                present ? StatusCode::kAborted : StatusCode::kNotFound);
    });
  }
}

// A key that comes and goes, with its records passing from memory to the device at every stage.
TYPED_TEST(OperationTest, AKeyComesAndGoesAndComesBack) {
  this->Prepare(Place::kAbsent);
  for (std::uint64_t round = 0; round < 4; ++round) {
    Must(this->store_->InsertIfAbsent(Chain::kTarget, this->Make(round)));
    if (round % 2 == 0) this->FillPages();
    Must(this->store_->Rmw(Chain::kTarget, [&](TypeParam& v) {
      EXPECT_EQ(v, this->Make(round));
      v = this->Make(round + 50);
    }));
    if (round % 2 == 1) this->FillPages();
    EXPECT_EQ(Must(this->store_->Read(Chain::kTarget)), this->Make(round + 50));
    Must(this->store_->Delete(Chain::kTarget));
    if (round >= 2) this->FillPages();
    EXPECT_FALSE(Must(this->store_->Contains(Chain::kTarget)));
  }
  this->ExpectTarget(std::nullopt);
}

// ---- events between a decision and its publication ----

// An Rmw whose callback lets another session act, the first time it runs; the values that each run
// has seen.
template <typename ValueType, typename Interfere>
std::vector<ValueType> RmwWith(Store<std::uint64_t, ValueType>& store, std::uint64_t key,
                               const ValueType& next, Interfere interfere) {
  auto session = store.NewSession();
  auto other = store.NewSession();
  std::vector<ValueType> seen;
  Must(session.Rmw(
      key,
      [&](ValueType& value) {
        seen.push_back(value);
        if (seen.size() == 1) {
          const AsAnotherThread calls;
          interfere(other);
        }
        value = next;
      },
      ValuesOf<ValueType>::Make(99)));
  return seen;
}

// The chain grows by another key: the publication fails, the slot stays behind as a record that
// does not count, and the second try succeeds.
TYPED_TEST(OperationTest, AnotherKeyOfTheChainIsPublishedFirst) {
  for (const Place place : kPlaces) {
    SCOPED_TRACE("place " + std::to_string(static_cast<int>(place)));
    this->Prepare(place);
    const std::uint64_t failed = this->store_->Metrics().lost_publications;
    const TypeParam before = this->Make(IsPresent(place) ? this->kOld : 99);
    // Longer than the old string, so that a successor is needed.
    const TypeParam next = this->Make(6);
    const auto seen = RmwWith(*this->store_, Chain::kTarget, next, [&](auto& other) {
      Must(other.Delete(this->chain_.mates()[0]));
      Must(other.Upsert(this->chain_.mates()[0], this->Make(10)));
    });
    for (const TypeParam& value : seen) EXPECT_EQ(value, before);
    const bool in_place = place == Place::kMutable && !std::is_same_v<TypeParam, std::string>;
    EXPECT_EQ(seen.size(), in_place ? 1U : 2U);
    EXPECT_EQ(this->store_->Metrics().lost_publications - failed, in_place ? 0U : 1U);
    this->ExpectTarget(next);
  }
}

// The same key is written: the edit starts again from the new value. Unless a mutable record was
// superseded blindly by a longer string; then the edit still goes to the old record, and takes its
// place before the write.
TYPED_TEST(OperationTest, TheSameKeyIsWrittenFirst) {
  for (const Place place : kPlaces) {
    for (const std::uint64_t theirs : {6, 7, 8}) {
      SCOPED_TRACE("place " + std::to_string(static_cast<int>(place)));
      this->Prepare(place);
      const auto seen = RmwWith(*this->store_, Chain::kTarget, this->Make(20), [&](auto& other) {
        Must(other.Upsert(Chain::kTarget, this->Make(theirs)));
      });
      const bool superseded =
          place == Place::kMutable && std::is_same_v<TypeParam, std::string> && theirs == 6;
      EXPECT_EQ(seen[0], this->Make(IsPresent(place) ? this->kOld : 99));
      ASSERT_EQ(seen.size(), superseded ? 1U : 2U);
      if (!superseded) {
        EXPECT_EQ(seen[1], this->Make(theirs));
      }
      this->ExpectTarget(this->Make(superseded ? theirs : 20));
    }
  }
}

// The same key is deleted: where it was present, the edit starts again from the initial value.
// (Hazard 11: an edit of the deleted value would bring it back.)
TYPED_TEST(OperationTest, TheSameKeyIsDeletedFirst) {
  for (const Place place : kPlaces) {
    if (!IsPresent(place)) continue;
    SCOPED_TRACE("place " + std::to_string(static_cast<int>(place)));
    this->Prepare(place);
    const auto seen = RmwWith(*this->store_, Chain::kTarget, this->Make(20),
                              [&](auto& other) { Must(other.Delete(Chain::kTarget)); });
    // A word that is deleted in place after it was read is still one word: the edit takes its
    // place before the deletion.
    if (place == Place::kMutable && std::is_same_v<TypeParam, std::uint64_t>) {
      EXPECT_EQ(seen.size(), 1U);
      this->ExpectTarget(std::nullopt);
      continue;
    }
    ASSERT_EQ(seen.size(), 2U);
    EXPECT_EQ(seen[0], this->Make(this->kOld));
    EXPECT_EQ(seen[1], this->Make(99));
    this->ExpectTarget(this->Make(20));
  }
}

// Hazard 8. Another session outgrows the record while this one edits it: its write in place would
// be lost, so it must start again on the successor.
TEST(OperationTest, AnEditOfARecordThatIsOutgrownInTheMeantimeStartsAgain) {
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  Must(store.Upsert(1, "0123456789"));
  const auto seen = RmwWith<std::string>(store, 1, "mine", [](auto& other) {
    Must(other.Rmw(1, [](std::string& value) { value.append(100, '+'); }));
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"0123456789", "0123456789" + std::string(100, '+')}));
  EXPECT_EQ(Must(store.Read(1)), "mine");
}

// Both outgrow it: one seals it and publishes, the other finds the seal.
TEST(OperationTest, TwoSessionsThatOutgrowARecordBothTakeEffect) {
  SimFileSystem files;
  {
    auto store = Must(OpenTiny<U64StringStore>("db", &files));
    Must(store.Upsert(1, "x"));
    auto session = store.NewSession();
    auto other = store.NewSession();
    int runs = 0;
    Must(session.Rmw(1, [&](std::string& value) {
      if (++runs == 1) {
        const AsAnotherThread calls;
        Must(other.Rmw(1, [](std::string& v) { v.append(50, 'o'); }));
      }
      value.append(300, 's');
    }));
    EXPECT_EQ(runs, 2);
    EXPECT_EQ(Must(store.Read(1)), "x" + std::string(50, 'o') + std::string(300, 's'));
    Must(store.Close());
  }
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  EXPECT_EQ(Must(store.Read(1)), "x" + std::string(50, 'o') + std::string(300, 's'));
}

// Hazards 15, 16. Publications that fail, over and over, leave slots behind; each is a whole record
// that does not count, so everything behind it is found when the log is read again.
TEST(OperationTest, AbandonedSlotsAreSteppedOver) {
  SimFileSystem files;
  const Chain chain;
  constexpr std::uint64_t kRounds = 200;
  constexpr int kFailuresEach = 3;
  std::size_t last_bytes[2] = {};
  {
    auto store = Must(OpenTiny<U64StringStore>("db", &files));
    auto session = store.NewSession();
    auto other = store.NewSession();
    Must(store.Upsert(chain.mates()[0], "in the way"));
    for (std::uint64_t i = 0; i < kRounds; ++i) {
      int runs = 0;
      // The value outgrows its record, more with each run, so that each run needs a slot of its
      // own.
      Must(session.Rmw(chain.mates()[1 + i % 2], [&](std::string& value) {
        ++runs;
        value.assign(i * 20 + static_cast<std::size_t>(runs) * 2, 'a');
        if (runs > kFailuresEach) return;
        const AsAnotherThread calls;
        Must(other.Delete(chain.mates()[0]));
        Must(other.Upsert(chain.mates()[0], "in the way"));
      }));
      ASSERT_GE(runs, 1 + kFailuresEach) << i;  // a page turn makes it one more
      last_bytes[i % 2] = Must(store.Read(chain.mates()[1 + i % 2])).size();
      Must(store.Upsert(Chain::Filler(i), std::to_string(i)));
    }
    EXPECT_GT(store.Metrics().lost_publications, kRounds);
    Must(store.Close());
  }
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  for (std::uint64_t i = 0; i < kRounds; ++i) {
    EXPECT_EQ(Must(store.Read(Chain::Filler(i))), std::to_string(i));
  }
  EXPECT_EQ(Must(store.Read(chain.mates()[0])), "in the way");
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(Must(store.Read(chain.mates()[1 + i])), std::string(last_bytes[i], 'a'));
  }
}

// A callback that throws on the second run, when a slot has been allocated for the first: the slot
// stays behind whole.
TEST(OperationTest, AThrowAfterAnAllocationLeavesTheLogWhole) {
  SimFileSystem files;
  const Chain chain;
  {
    auto store = Must(OpenTiny<U64StringStore>("db", &files));
    auto session = store.NewSession();
    auto other = store.NewSession();
    int runs = 0;
    EXPECT_ANY_THROW(static_cast<void>(session.Rmw(Chain::kTarget, [&](std::string& value) {
      if (++runs == 2) throw runs;
      value = "never published";
      const AsAnotherThread calls;
      Must(other.Upsert(chain.mates()[0], "mate"));
    })));
    EXPECT_EQ(store.Metrics().lost_publications, 1U);
    EXPECT_FALSE(Must(session.Contains(Chain::kTarget)));
    Must(session.Upsert(chain.mates()[1], "behind"));
    Must(store.Close());
  }
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  EXPECT_FALSE(Must(store.Contains(Chain::kTarget)));
  EXPECT_EQ(Must(store.Read(chain.mates()[0])), "mate");
  EXPECT_EQ(Must(store.Read(chain.mates()[1])), "behind");
}

// ---- many keys in one chain ----

// The inlined form of an operation does not follow the chain. The form behind it does, and still
// counts as the fast path.
TEST(OperationTest, AKeyBelowAnotherOfItsChainIsStillOnTheFastPath) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  const Chain chain;
  Must(session.Upsert(Chain::kTarget, 1));
  Must(session.Upsert(chain.mates()[0], 100));
  const MetricsSnapshot before = store.Metrics();
  Must(session.Upsert(Chain::kTarget, 2));
  Must(session.Rmw(Chain::kTarget, [](std::uint64_t& value) { value += 5; }));
  EXPECT_EQ(Must(session.Read(Chain::kTarget)), 7U);
  std::uint64_t value = 0;
  Must(session.Read(Chain::kTarget, value));
  EXPECT_EQ(value, 7U);
  Must(session.Read(Chain::kTarget, [&](std::uint64_t seen) { value += seen; }));
  EXPECT_EQ(value, 14U);
  EXPECT_TRUE(Must(session.Contains(Chain::kTarget)));
  EXPECT_EQ(Must(session.Read(chain.mates()[0])), 100U);
  const MetricsSnapshot after = store.Metrics();
  for (const OpKind kind : {OpKind::kRead, OpKind::kUpsert, OpKind::kRmw}) {
    EXPECT_EQ(after[kind].slow_path, before[kind].slow_path);
  }
  EXPECT_EQ(after[OpKind::kRead].effective() - before[OpKind::kRead].effective(), 5U);
  EXPECT_EQ(after[OpKind::kUpsert].effective() - before[OpKind::kUpsert].effective(), 1U);
  EXPECT_EQ(after[OpKind::kRmw].effective() - before[OpKind::kRmw].effective(), 1U);
  EXPECT_EQ(session.serial(), 4U);
}

// Hazard 17. A hundred keys that differ only above the chain's bits, on the device and in memory.
TEST(OperationTest, ManyKeysShareOneChain) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 1; keys.size() < 100; ++key) {
    if (Chain::Of(key) == Chain::Of(1)) keys.push_back(key);
  }
  std::map<std::uint64_t, std::uint64_t> model;
  std::mt19937_64 random(3);
  std::uint64_t filler = 0;
  for (int call = 0; call < 3000; ++call) {
    const std::uint64_t key = keys[random() % keys.size()];
    const auto known = model.find(key);
    switch (random() % 4) {
      case 0:
        EXPECT_EQ(store.Delete(key).ok(), known != model.end());
        model.erase(key);
        break;
      case 1:
        Must(store.Upsert(key, random() % 1000));
        model[key] = Must(store.Read(key));
        break;
      case 2:
        Must(store.Rmw(key, [](std::uint64_t& v) { ++v; }));
        ++model[key];
        break;
      default:
        ASSERT_EQ(Must(store.Contains(key)), known != model.end());
        for (int i = 0; i < 4; ++i) Must(store.Upsert(Chain::Filler(filler++), 0));
        break;
    }
  }
  EXPECT_TRUE(HoldsOnly(store, model, keys));
  EXPECT_GT(store.Metrics().device_reads, 1000U);
}

TEST(OperationTest, ARecordReadFromTheDeviceIsPromotedIfRequested) {
  for (const bool promotes : {true, false}) {
    SimFileSystem files;
    Options options = TinyOptions();
    options.promote_reads = promotes;
    const auto open = [&] {
      return OpenIn<U64StringStore>("db", TinyEnvironment(&files), options);
    };
    {
      auto store = Must(open());
      auto session = Must(store.NewSession("reader"));
      for (std::uint64_t i = 0; i < 20; ++i) Must(session.Upsert(i, std::string(i * 10, 'v')));
      Must(session.Delete(7));
      PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, "fill")); });
      const std::uint64_t serial = session.serial();
      for (int turn = 0; turn < 3; ++turn) {
        for (std::uint64_t i = 0; i < 20; ++i) {
          if (i == 7) {
            EXPECT_TRUE(absl::IsNotFound(session.Read(i).status()));
          } else {
            EXPECT_EQ(Must(session.Read(i)), std::string(i * 10, 'v'));
          }
        }
      }
      const MetricsSnapshot metrics = store.Metrics();
      EXPECT_EQ(metrics.promoted_records, promotes ? 19U : 0U);
      EXPECT_EQ(metrics.reads_from_device, promotes ? 19U : 57U);
      EXPECT_EQ(session.serial(), serial) << "a read has taken a number";
      Must(session.Rmw(3, [](std::string& value) { value += "!"; }));
      Must(store.Close());
    }
    auto store = Must(open());
    EXPECT_EQ(Must(store.Read(3)), std::string(30, 'v') + "!");
    EXPECT_EQ(Must(store.Read(19)), std::string(190, 'v'));
  }
}

// A device without room keeps a read from promoting, and from nothing else.
TEST(OperationTest, AReadThatCannotPromoteIsAReadAllTheSame) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  Options options = TinyOptions();
  options.promote_reads = true;
  auto store = Must(OpenIn<U64StringStore>("db", TinyEnvironment(&files), options));
  for (std::uint64_t i = 0; i < 40; ++i) Must(store.Upsert(i, std::string(500, 'v')));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, std::string(500, 'f'))); });
  for (const CallKind kind : {CallKind::kReserve, CallKind::kWrite}) {
    files.Arm({.kind = kind, .sticky = true, .error = ENOSPC});
  }
  for (std::uint64_t i = 0; i < 40; ++i) EXPECT_EQ(Must(store.Read(i)), std::string(500, 'v'));
  EXPECT_LT(store.Metrics().promoted_records, 40U);
  files.Disarm();
}

}  // namespace
}  // namespace ebb::test
