// Batches: the results of single calls in their order, for keys that are in memory, on the device
// or twice in a batch; effects in item order, cut by a rejected item, an exception or a crash.
#include "ebb/internal/ops/batch.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/codec.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/words.h"

namespace ebb::test {
namespace {

// A value with a codec of its own; it does not decode negative numbers.
struct Balance {
  std::int64_t amount = 0;
};

}  // namespace
}  // namespace ebb::test

template <>
struct ebb::Codec<ebb::test::Balance> {
  static void Encode(const ebb::test::Balance& value, std::string& bytes) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static bool Decode(std::string_view bytes, ebb::test::Balance& value) {
    if (bytes.size() != sizeof value) return false;
    std::memcpy(&value, bytes.data(), sizeof value);
    return value.amount >= 0;
  }
};

namespace ebb::test {
namespace {

using absl::StatusCode;

template <typename Types>
class BatchTypesTest : public testing::Test {};
TYPED_TEST_SUITE(BatchTypesTest, KeyValuePairs);

// Few keys, so that batches hold some twice; more than memory holds, so that many are on the
// device; and a model of one key after the other.
TYPED_TEST(BatchTypesTest, ResultsAreThoseOfSingleCallsInOrder) {
  using K = typename TypeParam::KeyType;
  using V = typename TypeParam::ValueType;
  using StoreType = Store<K, V>;
  using SessionType = typename StoreType::Session;
  SimFileSystem files;
  auto store = Must(OpenTiny<StoreType>("db", &files));
  SessionType session = store.NewSession();
  std::map<std::uint64_t, V> model;
  std::mt19937_64 random(11);
  for (int turn = 0; turn < 400; ++turn) {
    const std::size_t count = random() % 100;
    std::vector<std::uint64_t> ids(count);
    for (std::uint64_t& id : ids) id = random() % 8 == 0 ? random() % 4 : random() % 1500;
    std::vector<K> owners;
    for (const std::uint64_t id : ids) owners.push_back(Make<K>::From(id));
    const std::vector<typename SessionType::BatchKey> keys(owners.begin(), owners.end());
    std::vector<absl::Status> results(count, absl::InternalError("left over"));
    std::size_t expected_ok = count;
    std::size_t ok = 0;
    switch (random() % 4) {
      case 0: {
        std::vector<V> values(count);
        ok = session.ReadBatch(keys, values, results);
        for (std::size_t i = 0; i < count; ++i) {
          const auto found = model.find(ids[i]);
          if (found == model.end()) {
            EXPECT_EQ(results[i].code(), StatusCode::kNotFound) << results[i];
            --expected_ok;
          } else {
            Must(results[i]);
            EXPECT_TRUE(values[i] == found->second) << ids[i];
          }
        }
        break;
      }
      case 1: {
        std::vector<V> owned;
        for (std::size_t i = 0; i < count; ++i) owned.push_back(Make<V>::From(random() % 5000));
        const std::vector<typename SessionType::BatchValue> values(owned.begin(), owned.end());
        ok = session.UpsertBatch(keys, values, results);
        for (std::size_t i = 0; i < count; ++i) {
          Must(results[i]);
          model[ids[i]] = owned[i];
        }
        break;
      }
      case 2: {
        const V initial = Make<V>::From(5);
        ok = session.RmwBatch(
            keys, [&](std::size_t i, V& value) { Make<V>::Edit(value, i); }, results, initial);
        for (std::size_t i = 0; i < count; ++i) {
          Must(results[i]);
          Make<V>::Edit(model.emplace(ids[i], initial).first->second, i);
        }
        break;
      }
      default:
        ok = session.DeleteBatch(keys, results);
        for (std::size_t i = 0; i < count; ++i) {
          const bool present = model.erase(ids[i]) == 1;
          EXPECT_EQ(results[i].code(), present ? StatusCode::kOk : StatusCode::kNotFound);
          if (!present) --expected_ok;
        }
    }
    EXPECT_EQ(ok, expected_ok);
  }
  EXPECT_GT(store.Metrics().device_reads, 100U);
}

TEST(BatchTest, SpansOfDifferentLengthsAreRejected) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  const std::array<std::uint64_t, 3> keys{1, 2, 3};
  std::array<std::uint64_t, 2> values{7, 7};
  std::array<absl::Status, 3> results;
  const auto expect_refused = [&](std::size_t ok) {
    EXPECT_EQ(ok, 0U);
    for (const absl::Status& result : results) {
      EXPECT_TRUE(FailsWith(result, StatusCode::kInvalidArgument, "3 keys, 2 values and 3"));
    }
    results = {};
  };
  expect_refused(session.UpsertBatch(keys, values, results));
  expect_refused(session.ReadBatch(keys, values, results));
  EXPECT_EQ(session.DeleteBatch(keys, std::span(results).first(1)), 0U);
  EXPECT_EQ(results[0].code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.Read(1).status().code(), StatusCode::kNotFound);
}

// The first `ok` items are OK and the others have `code`; as many serials were taken.
template <typename Session>
void ExpectCutAt(std::size_t ok, std::span<const absl::Status> results, StatusCode code,
                 const Session& session, std::uint64_t serial_before) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    EXPECT_EQ(results[i].code(), i < ok ? StatusCode::kOk : code) << i << ": " << results[i];
  }
  EXPECT_EQ(session.serial(), serial_before + ok);
}

TEST(BatchTest, TheFirstRejectedItemEndsTheBatch) {
  for (const bool timed : {false, true}) {
    Options options = TinyOptions();
    options.max_value_bytes = 10;
    options.measure_latency = timed;
    SimFileSystem files;
    auto store = Must(OpenIn<StringStore>("db", TinyEnvironment(&files), options));
    auto session = store.NewSession();
    const std::array<std::string_view, 4> keys{"a", "b", "c", "d"};
    const std::array<std::string_view, 4> values{"1", "longer than ten", "3", "longer, too"};
    std::array<absl::Status, 4> results;
    EXPECT_EQ(session.UpsertBatch(keys, values, results), 1U);
    ExpectCutAt(1, results, StatusCode::kInvalidArgument, session, 0);
    EXPECT_EQ(results[3], results[1]);
    EXPECT_EQ(Must(session.Read("a")), "1");
    EXPECT_FALSE(Must(session.Contains("c")));
    const auto edit = [](std::size_t i, std::string& value) { value.append(i == 2 ? 20 : 1, 'x'); };
    EXPECT_EQ(session.RmwBatch(keys, edit, results), 2U);
    ExpectCutAt(2, results, StatusCode::kInvalidArgument, session, 1);
    EXPECT_EQ(Must(session.Read("b")), "x");
    EXPECT_FALSE(Must(session.Contains("d")));
    const MetricsSnapshot metrics = store.Metrics();
    EXPECT_EQ(metrics[OpKind::kUpsert].count, 4U);
    EXPECT_EQ(metrics[OpKind::kUpsert].effective(), 1U);
    EXPECT_EQ(metrics[OpKind::kRmw].refused, 2U);
    Must(store.Close());
    EXPECT_EQ(session.UpsertBatch(keys, values, results), 0U);
    ExpectCutAt(0, results, StatusCode::kFailedPrecondition, session, 3);
    EXPECT_EQ(session.DeleteBatch(keys, results), 0U);
    ExpectCutAt(0, results, StatusCode::kFailedPrecondition, session, 3);
    std::array<std::string, 4> read;
    EXPECT_EQ(session.ReadBatch(keys, read, results), 0U);
  }
}

// A value that fits into its record in place, but is longer than the store takes now.
TEST(BatchTest, AnItemThatWouldFitInPlaceIsRejectedToo) {
  SimFileSystem files;
  auto store = Must(OpenTiny<StringStore>("db", &files));
  Must(store.Close());
  Options options = TinyOptions();
  options.max_value_bytes = 12;
  store = Must(OpenIn<StringStore>("db", TinyEnvironment(&files), options));
  auto session = store.NewSession();
  Must(session.Upsert("a", "0123456789"));
  const std::array<std::string_view, 2> keys{"a", "b"};
  const std::array<std::string_view, 2> values{"0123456789abc", "1"};
  std::array<absl::Status, 2> results;
  EXPECT_EQ(session.UpsertBatch(keys, values, results), 0U);
  ExpectCutAt(0, results, StatusCode::kInvalidArgument, session, 1);
  EXPECT_EQ(Must(session.Read("a")), "0123456789");
}

TEST(BatchTest, AFullDiskEndsTheBatch) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  auto session = store.NewSession();
  files.SetCapacityBytes(files.UsedBytes() + (std::uint64_t{256} << 10));
  std::vector<std::uint64_t> keys(500);
  std::iota(keys.begin(), keys.end(), 0);
  const std::string text(1000, 'x');
  const std::vector<std::string_view> values(keys.size(), text);
  std::vector<absl::Status> results(keys.size());
  const std::size_t ok = session.UpsertBatch(keys, values, results);
  EXPECT_GT(ok, 30U);
  ASSERT_LT(ok, keys.size());
  ExpectCutAt(ok, results, StatusCode::kResourceExhausted, session, 0);
  for (const std::uint64_t key : keys) EXPECT_EQ(Must(session.Contains(key)), key < ok) << key;
}

// The update whose commit fails has taken effect and a serial; it ends the batch.
TEST(BatchTest, AFailedCommitOfAnItemEndsTheBatch) {
  Options options = TinyOptions();
  options.durability = Durability::kAlways;
  SimFileSystem files;
  auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
  auto session = store.NewSession();
  const std::array<std::uint64_t, 3> keys{1, 2, 3};
  std::array<std::uint64_t, 3> values{7, 8, 9};
  std::array<absl::Status, 3> results;
  EXPECT_EQ(session.UpsertBatch(keys, values, results), 3U);
  EXPECT_EQ(session.serial(), 3U);
  files.FailNextSync(EIO, kNothingSurvives, /*skip=*/1);
  const auto add = [](std::size_t, std::uint64_t& value) { value += 10; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), 1U);
  EXPECT_FALSE(results[1].ok());
  EXPECT_EQ(results[2], results[1]);
  EXPECT_EQ(session.serial(), 5U);
  EXPECT_EQ(Must(session.Read(2)), 18U);
  EXPECT_EQ(Must(session.Read(3)), 9U);
  EXPECT_FALSE(store.Close().ok());
}

// A function that calls its session is rejected, and one that throws leaves the session usable.
TEST(BatchTest, FunctionsThatCallBackOrThrow) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  const std::array<std::uint64_t, 2> keys{1, 2};
  std::array<absl::Status, 2> results;
  Must(session.Upsert(1, 1));
  session.RmwBatch(
      keys,
      [&](std::size_t, std::uint64_t& value) {
        std::array<absl::Status, 2> inner;
        std::array<std::uint64_t, 2> values{};
        EXPECT_EQ(session.ReadBatch(keys, values, inner), 0U);
        EXPECT_EQ(session.UpsertBatch(keys, values, inner), 0U);
        EXPECT_EQ(inner[1].code(), StatusCode::kFailedPrecondition);
        ++value;
      },
      results);
  EXPECT_EQ(Must(session.Read(1)), 2U);
  EXPECT_THROW(session.RmwBatch(
                   keys,
                   [](std::size_t i, std::uint64_t& value) {
                     if (i == 1) throw std::runtime_error("thrown");
                     ++value;
                   },
                   results),
               std::runtime_error);
  EXPECT_EQ(Must(session.Read(1)), 3U);
  EXPECT_EQ(Must(session.Read(2)), 1U);
  EXPECT_EQ(session.serial(), 4U);  // the last batch's first item, too
}

TEST(BatchTest, ADeleteThatFindsNothingTakesASerialAndEndsNothing) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  Must(session.Upsert(2, 2));
  const std::array<std::uint64_t, 3> keys{1, 2, 3};
  std::array<absl::Status, 3> results;
  EXPECT_EQ(session.DeleteBatch(keys, results), 1U);
  EXPECT_EQ(results[0].code(), StatusCode::kNotFound);
  Must(results[1]);
  EXPECT_EQ(results[2].code(), StatusCode::kNotFound);
  EXPECT_EQ(session.serial(), 4U);
}

// Serials are taken for many items at once: of items that fall into both halves of a group, and
// into several groups.
TEST(BatchTest, EveryUpdateTakesASerialAndNoReadDoes) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  std::vector<std::uint64_t> keys(150);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  std::vector<std::uint64_t> values(keys.size());
  std::vector<absl::Status> results(keys.size());
  for (std::size_t i = 0; i < keys.size(); i += 7) Must(session.Upsert(i, 1));
  std::uint64_t serial = session.serial();
  EXPECT_EQ(session.UpsertBatch(keys, values, results), keys.size());
  EXPECT_EQ(session.serial(), serial += keys.size());
  EXPECT_EQ(session.ReadBatch(keys, values, results), keys.size());
  EXPECT_EQ(session.serial(), serial);
  const auto add = [](std::size_t, std::uint64_t& value) { ++value; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), keys.size());
  EXPECT_EQ(session.serial(), serial += keys.size());
}

// Some twenty keys for each bucket: three buckets a row.
TEST(BatchTest, ItemsAfterTheFirstBucketAreHits) {
  constexpr std::uint64_t kKeys = 20'000;
  Options options = TinyOptions();
  options.index_bucket_count = 1024;
  options.index_auto_grow = false;
  options.log_memory_bytes = std::uint64_t{4} << 20;
  auto store = Must(U64Store::OpenInMemory(options));
  auto session = store.NewSession();
  std::vector<std::uint64_t> keys(kKeys);
  for (std::uint64_t i = 0; i < kKeys; ++i) keys[i] = i * 3;
  std::vector<std::uint64_t> values = keys;
  std::vector<absl::Status> results(kKeys);
  EXPECT_EQ(session.UpsertBatch(keys, values, results), kKeys);
  store.ResetMetrics();
  const auto add = [](std::size_t, std::uint64_t& value) { ++value; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), kKeys);
  EXPECT_EQ(session.ReadBatch(keys, values, results), kKeys);
  for (std::uint64_t i = 0; i < kKeys; ++i) ASSERT_EQ(values[i], keys[i] + 1);
  EXPECT_EQ(session.UpsertBatch(keys, values, results), kKeys);
  const MetricsSnapshot metrics = store.Metrics();
  for (const OpKind kind : {OpKind::kUpsert, OpKind::kRead, OpKind::kRmw}) {
    EXPECT_EQ(metrics[kind].count, kKeys);
    // About 12 of these keys share a chain with another. Those are found in memory, too.
    EXPECT_EQ(metrics[kind].slow_path, 0U);
  }
}

TEST(BatchTest, EveryItemCountsOnceAndIsTimedIfOthersAre) {
  for (const bool timed : {false, true}) {
    Options options = TinyOptions();
    options.measure_latency = timed;
    SimFileSystem files;
    auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
    auto session = store.NewSession();
    std::vector<std::uint64_t> keys(100);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
    std::vector<std::uint64_t> values(keys.size());
    std::vector<absl::Status> results(keys.size());
    session.UpsertBatch(keys, values, results);
    session.ReadBatch(keys, values, results);
    session.RmwBatch(
        keys, [](std::size_t, std::uint64_t&) {}, results);
    session.DeleteBatch(keys, results);
    const MetricsSnapshot metrics = store.Metrics();
    for (const OpKind kind : {OpKind::kUpsert, OpKind::kRead, OpKind::kRmw, OpKind::kDelete}) {
      EXPECT_EQ(metrics[kind].count, 100U);
      EXPECT_EQ(metrics[kind].effective(), 100U);
      EXPECT_EQ(metrics[kind].latency.count, timed ? 100U : 0U);
    }
  }
}

// A file system whose rings read only when a thread waits for them, after a call of the test's.
class SlowRings final : public internal::FileSystem {
 public:
  explicit SlowRings(internal::FileSystem& base) : base_(base) {}
  internal::OpenedDirectory OpenDirectory(const std::string& path, bool create) override {
    return base_.OpenDirectory(path, create);
  }
  std::unique_ptr<internal::ReadRing> OpenReadRing(unsigned) override {
    return std::make_unique<Ring>(*this);
  }
  // Called once, before the next read.
  std::function<void()> before_read;
  std::size_t max_in_flight() const { return max_in_flight_; }

 private:
  class Ring final : public internal::ReadRing {
   public:
    explicit Ring(SlowRings& owner) : owner_(owner) {}
    bool Start(internal::File& file, std::uint64_t offset, std::byte* bytes, std::size_t count,
               void* tag) override {
      reads_.push_back([=, &file] { return Ended{tag, file.ReadAt(offset, bytes, count)}; });
      owner_.max_in_flight_ = std::max(owner_.max_in_flight_, reads_.size());
      return true;
    }
    void Submit() override {}
    std::optional<Ended> Take(bool wait) override {
      if (!wait || reads_.empty()) return std::nullopt;
      if (const auto call = std::exchange(owner_.before_read, nullptr)) call();
      const auto read = std::move(reads_.front());
      reads_.pop_front();
      return read();
    }

   private:
    SlowRings& owner_;
    std::deque<std::function<Ended()>> reads_;
  };

  internal::FileSystem& base_;
  std::size_t max_in_flight_ = 0;
};

// While the device is asked for the first item its record is collected, and both keys change, the
// second one first. So the result of the first is from after that, and that of the second must be,
// too.
TEST(BatchTest, NoItemSeesAStateFromBeforeAnEarlierOne) {
  SimFileSystem memory;
  SlowRings files(memory);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(store.Upsert(1, 10));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  Must(store.Upsert(2, 20));
  const std::uint64_t begin = store.Stats().begin_address;
  files.before_read = [&] {
    Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
    Must(store.Upsert(2, 21));
    Must(store.Upsert(1, 11));
  };
  auto session = store.NewSession();
  const std::array<std::uint64_t, 2> keys = {1, 2};
  std::array<std::uint64_t, 2> values{};
  std::array<absl::Status, 2> results;
  EXPECT_EQ(session.ReadBatch(keys, values, results), 2U);
  ASSERT_EQ(files.before_read, nullptr) << "nothing was read";
  ASSERT_GT(store.Stats().begin_address, begin);
  EXPECT_EQ(values, (std::array<std::uint64_t, 2>{11, 21}));
}

// Keys of which the odd ones are on the device, and the even ones in memory.
constexpr std::uint64_t kMixedKeys = 1200;
void FillMixed(U64Store& store) {
  for (std::uint64_t key = 0; key < kMixedKeys; ++key) Must(store.Upsert(key, key));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(100000 + i, i)); });
  for (std::uint64_t key = 0; key < kMixedKeys; key += 2) Must(store.Upsert(key, key));
}
// Room for the even keys, not for all.
internal::Environment MixedEnvironment(internal::FileSystem* files) {
  internal::Environment environment = TinyEnvironment(files);
  environment.frame_count = 16;
  return environment;
}

// A commit, and then a loss of power, whenever a window of the batch is about to read. The items up
// to the reported serial survive, and no others.
TEST(BatchTest, ACrashInsideABatchLeavesTheItemsUpToItsSerial) {
  for (const bool deletes : {true, false}) {
    SimFileSystem memory;
    SlowRings files(memory);
    auto store = Must(OpenIn<U64Store>("db", MixedEnvironment(&files)));
    FillMixed(store);
    auto session = Must(store.NewSession("batches"));
    std::vector<std::unique_ptr<SimFileSystem>> crashed;
    std::vector<std::uint64_t> serials;
    const std::function<void()> cut = [&] {
      if (serials.empty() || session.serial() != serials.back()) {
        Must(Commit(store));
        crashed.push_back(memory.Crash(kNothingSurvives));
        serials.push_back(session.serial());
      }
      files.before_read = cut;
    };
    files.before_read = cut;
    std::vector<std::uint64_t> keys(kMixedKeys);
    std::iota(keys.begin(), keys.end(), 0);
    std::vector<absl::Status> results(keys.size());
    const auto edit = [](std::size_t, std::uint64_t& value) { value += 10000; };
    EXPECT_EQ(deletes ? session.DeleteBatch(keys, results) : session.RmwBatch(keys, edit, results),
              kMixedKeys);
    files.before_read = nullptr;
    EXPECT_EQ(session.serial(), kMixedKeys);
    ASSERT_GE(serials.size(), 8U) << "600 items needed the device, 64 of a window";
    EXPECT_LT(serials.front(), 4U);
    for (std::size_t i = 0; i < crashed.size(); ++i) {
      auto left = Must(OpenIn<U64Store>("db", MixedEnvironment(crashed[i].get())));
      ASSERT_EQ(left.recovery().sessions.size(), serials[i] == 0 ? 0U : 1U);
      if (serials[i] != 0) EXPECT_EQ(left.recovery().sessions[0].serial, serials[i]);
      for (std::uint64_t key = 0; key < kMixedKeys; ++key) {
        const absl::StatusOr<std::uint64_t> value = left.Read(key);
        if (deletes) {
          ASSERT_EQ(value.ok(), key >= serials[i]) << key << " of " << serials[i];
        } else {
          ASSERT_EQ(Must(value), key + (key < serials[i] ? 10000 : 0)) << serials[i];
        }
      }
    }
  }
}

// Between the search for an item and the item's turn its key is updated, deleted, updated and
// evicted again, or collected.
TEST(BatchTest, AnItemWhoseKeyChangesAfterItsSearchSeesTheChange) {
  SimFileSystem memory;
  SlowRings files(memory);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t key = 1; key <= 6; ++key) Must(store.Upsert(key, 10 * key));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  files.before_read = [&] {
    Must(store.Upsert(4, 400));
    PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(3000 + i, i)); });
    Must(store.Upsert(2, 200));
    Must(store.Delete(3));
  };
  auto session = store.NewSession();
  const std::array<std::uint64_t, 5> keys = {1, 2, 3, 4, 1};
  std::array<absl::Status, 5> results;
  const auto add = [](std::size_t i, std::uint64_t& value) { value += i + 1; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), 5U);
  ASSERT_EQ(files.before_read, nullptr) << "nothing was read";
  EXPECT_EQ(Must(session.Read(1)), 16U);
  EXPECT_EQ(Must(session.Read(2)), 202U);
  EXPECT_EQ(Must(session.Read(3)), 3U);
  EXPECT_EQ(Must(session.Read(4)), 404U);

  const std::uint64_t begin = store.Stats().begin_address;
  files.before_read = [&] {
    Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
    Must(store.Delete(6));
  };
  const std::array<std::uint64_t, 2> collected = {5, 6};
  EXPECT_EQ(session.DeleteBatch(collected, std::span(results).first(2)), 1U);
  ASSERT_EQ(files.before_read, nullptr) << "nothing was read";
  ASSERT_GT(store.Stats().begin_address, begin);
  EXPECT_EQ(results[1].code(), StatusCode::kNotFound);
  EXPECT_FALSE(Must(session.Contains(5)));
}

TEST(BatchTest, SearchesOfUpdatesOverlap) {
  for (const bool deletes : {true, false}) {
    SimFileSystem memory;
    SlowRings files(memory);
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t i = 0; i < 12000; ++i) Must(store.Upsert(i, i));
    auto session = store.NewSession();
    std::vector<std::uint64_t> keys(64);  // no two in one block
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * 171;
    std::vector<absl::Status> results(keys.size());
    const auto add = [](std::size_t, std::uint64_t& value) { ++value; };
    EXPECT_EQ(deletes ? session.DeleteBatch(keys, results) : session.RmwBatch(keys, add, results),
              64U);
    EXPECT_GE(files.max_in_flight(), 60U);
  }
}

TEST(BatchTest, AFailedReadEndsTheBatch) {
  SimFileSystem memory;
  FaultFileSystem files(memory);
  auto store = Must(OpenIn<U64Store>("db", MixedEnvironment(&files)));
  FillMixed(store);
  auto session = store.NewSession();
  const std::array<std::uint64_t, 5> keys = {0, 2, 1, 4, 3};
  std::array<absl::Status, 5> results;
  files.Arm({.kind = CallKind::kRead, .sticky = true});
  const auto add = [](std::size_t, std::uint64_t& value) { value += 1000; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), 2U);
  EXPECT_GT(files.FiredCount(), 0U);
  ExpectCutAt(2, results, StatusCode::kUnavailable, session, 0);
  files.Disarm();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(Must(session.Read(keys[i])), keys[i] + (i < 2 ? 1000 : 0));
  }
}

TEST(BatchTest, AFunctionThatThrowsLeavesTheItemsBeforeIt) {
  SimFileSystem files;
  auto store = Must(OpenIn<U64Store>("db", MixedEnvironment(&files)));
  for (const std::uint64_t thrower : {100, 101}) {  // in memory, on the device
    FillMixed(store);
    auto session = store.NewSession();
    std::vector<std::uint64_t> keys(300);
    std::iota(keys.begin(), keys.end(), 0);
    std::vector<absl::Status> results(keys.size(), absl::InternalError("left over"));
    const auto add = [&](std::size_t i, std::uint64_t& value) {
      if (i == thrower) throw std::runtime_error("of the user");
      value += 1000;
    };
    EXPECT_THROW(session.RmwBatch(keys, add, results), std::runtime_error);
    EXPECT_EQ(session.serial(), thrower);
    EXPECT_EQ(session.pending_count(), 0U);
    for (const std::uint64_t key : keys) {
      EXPECT_EQ(Must(session.Read(key)), key + (key < thrower ? 1000 : 0)) << key;
      if (key < thrower) Must(results[key]);
    }
    EXPECT_EQ(session.DeleteBatch(keys, results), keys.size());  // nothing was left behind
    EXPECT_EQ(session.serial(), thrower + keys.size());
  }
}

TEST(BatchTest, ValuesWithACodecKeepTheSameRules) {
  SimFileSystem files;
  auto store = Must(OpenTiny<Store<std::uint64_t, Balance>>("db", &files));
  auto session = store.NewSession();
  Must(session.Upsert(2, Balance{-1}));
  const std::array<std::uint64_t, 3> keys{1, 2, 3};
  std::array<absl::Status, 3> results;
  const auto add = [](std::size_t, Balance& value) { ++value.amount; };
  EXPECT_EQ(session.RmwBatch(keys, add, results), 1U);
  ExpectCutAt(1, results, StatusCode::kDataLoss, session, 1);
  EXPECT_FALSE(Must(session.Contains(3)));
}

// Each thread moves amounts between accounts by batches: no sum is ever lost, for any order of the
// threads; and two reads of one key in a batch never go back in time.
TEST(BatchTest, ThreadsShareKeys) {
  constexpr std::uint64_t kKeys = 600;  // more than fit in memory
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  std::atomic<bool> done{false};
  std::thread reader([&] {
    auto session = store.NewSession();
    std::mt19937_64 random(5);
    std::vector<std::uint64_t> keys(64);
    std::vector<std::uint64_t> values(64);
    std::vector<absl::Status> results(64);
    while (!done) {
      for (std::size_t i = 0; i < 32; ++i) keys[i] = keys[63 - i] = random() % kKeys;
      keys[31] = keys[32] = keys[0];
      session.ReadBatch(keys, values, results);
      for (std::size_t i = 0; i < 32; ++i) {
        if (!results[i].ok() || !results[63 - i].ok()) continue;
        EXPECT_LE(values[i], values[63 - i]);  // they only grow
      }
      if (results[0].ok() && results[31].ok()) EXPECT_LE(values[0], values[31]);
    }
  });
  std::array<std::array<std::uint64_t, kKeys>, 2> added{};
  std::vector<std::thread> writers;
  for (std::size_t thread = 0; thread < 2; ++thread) {
    writers.emplace_back([&, thread] {
      auto session = store.NewSession();
      std::mt19937_64 random(thread);
      std::vector<std::uint64_t> keys(50);
      std::vector<absl::Status> results(50);
      for (int turn = 0; turn < 300; ++turn) {
        for (std::uint64_t& key : keys) key = random() % kKeys;
        session.RmwBatch(
            keys, [](std::size_t i, std::uint64_t& value) { value += i; }, results);
        for (std::size_t i = 0; i < keys.size(); ++i) {
          if (results[i].ok()) added[thread][keys[i]] += i;
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  done = true;
  reader.join();
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    const std::uint64_t expected = added[0][key] + added[1][key];
    const absl::StatusOr<std::uint64_t> value = store.Read(key);
    EXPECT_EQ(value.value_or(0), expected) << key;
  }
}

}  // namespace
}  // namespace ebb::test
