// Index growth in whole stores: during operations, checkpoints and closing, and its state after an
// opening. The single steps of a growth are in hash_index_test.cc; every order of them and of
// operations in schedule/.
//
// Hazards: 13 (an operation continues after the index has changed), 14 (entries of records on the
// device, and operations on entries that are being split), 17 (keys that all have one tag), 18
// (entries that are taken away under an insert), 40 (a checkpoint during a growth).
#include "ebb/internal/jobs/index_growth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::Core;
using internal::Environment;
using internal::HashIndex;

std::uint64_t HashOf(std::uint64_t key) { return TestHash(key); }

// The first key from `from` on whose hash has these low bits.
std::uint64_t KeyWithBits(std::uint64_t bits, int count, std::uint64_t from = 0) {
  const std::uint64_t mask = (std::uint64_t{1} << count) - 1;
  while ((HashOf(from) & mask) != bits) ++from;
  return from;
}

Options GrowingOptions() {
  Options options = TinyOptions();
  options.index_auto_grow = true;
  return options;
}

// ---- on demand ----

TEST(IndexGrowthTest, AStoreHoldsTheSameAfterEachDoubling) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  U64Model model;
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; key < 1000; ++key) {
    keys.push_back(key);
    Must(store.Upsert(key, key));
    if (key % 5 != 0) model[key] = key;
  }
  for (std::uint64_t key = 0; key < 1000; key += 5) Must(store.Delete(key));
  for (std::uint64_t doubling = 1; doubling <= 9; ++doubling) {
    Must(store.GrowIndex());
    EXPECT_EQ(store.Stats().index_bucket_count, 2U << doubling);
    EXPECT_EQ(store.Stats().index_growth_count, doubling);
    ASSERT_TRUE(HoldsOnly(store, model, keys)) << doubling;
    for (const std::uint64_t key : {doubling * 100 + 1, doubling * 100 + 2}) {
      Must(store.Rmw(key, [&](std::uint64_t& value) { model[key] = ++value; }));
    }
    const std::uint64_t gone = doubling * 100 + 3;
    Must(store.Delete(gone));
    model.erase(gone);
  }
  // No row is longer than a bucket by now, but of keys that share a chain.
  EXPECT_LT(store.Stats().index_overflow_count, 10U);
  Must(store.Close());
  EXPECT_EQ(store.GrowIndex().code(), StatusCode::kFailedPrecondition);
}

TEST(IndexGrowthTest, TheLimitIsReportedAndTheStoreContinues) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Must(store.Upsert(1, 1));
  for (int doubling = 0; doubling < 15; ++doubling) Must(store.GrowIndex());
  EXPECT_TRUE(
      FailsWith(store.GrowIndex(), StatusCode::kResourceExhausted, "the index has 65536 buckets"));
  EXPECT_EQ(Must(store.Read(1)), 1U);
  Must(store.Upsert(2, 2));
  EXPECT_EQ(store.Stats().index_growth_count, 15U);
}

// ---- automatic growth ----

// Hazard 17: were the hash the key itself, keys in a row would have few tags, or few buckets.
TEST(IndexGrowthTest, AnIndexThatGrowsAutomaticallyStaysRoomyForSequentialKeys) {
  Environment environment = TinyEnvironment();
  environment.in_memory = true;
  auto store = Must(OpenIn<U64Store>("", environment, GrowingOptions()));
  for (std::uint64_t key = 0; key < 20000; ++key) {
    Must(store.Upsert(key << 20, key));
    while (CoreOf(store).pool.RunOne()) {
    }
    ASSERT_FALSE(CoreOf(store).index.crowded()) << key;
  }
  EXPECT_GE(store.Stats().index_bucket_count, 20000U / 8);
  EXPECT_LE(store.Stats().index_bucket_count, 20000U / 2);
  for (std::uint64_t key = 0; key < 20000; ++key) ASSERT_EQ(Must(store.Read(key << 20)), key);
}

// Keys that live for a short time: 100,000 of them, of which 60 exist at any time, in addition to
// 100 that stay. The index has room for 448 entries without overflow buckets.
TEST(IndexGrowthTest, TheIndexKeepsItsSizeWhileKeysComeAndGo) {
  SimFileSystem files;
  for (const bool has_long_lived : {false, true}) {
    Environment environment = TinyEnvironment(&files);
    environment.index_exponent = 6;
    Options options = GrowingOptions();
    options.gc_interval_ms = 1000;
    const std::string name = has_long_lived ? "some stay" : "all go";
    auto store = Must(OpenIn<U64Store>(name, environment, options));
    internal::ThreadPool& pool = CoreOf(store).pool;
    constexpr std::uint64_t kStays = 1 << 20;
    for (std::uint64_t i = 0; has_long_lived && i < 100; ++i) Must(store.Upsert(kStays + i, i));
    for (std::uint64_t key = 0; key < 100'000; ++key) {
      Must(store.Upsert(key, key));
      if (key >= 60) Must(store.Delete(key - 60));
      if (key % 1000 == 0) Must(store.Commit());
      while (pool.RunOne()) {
      }
      ASSERT_LE(CoreOf(store).index.bucket_count(), has_long_lived ? 128U : 64U) << key;
    }
    const StoreStats stats = store.Stats();
    EXPECT_LE(stats.index_overflow_count, 2 * stats.index_bucket_count);
    EXPECT_LE(stats.tail_address - stats.begin_address, 100'000U) << "the log is short, too";
    EXPECT_EQ(stats.live_key_estimate, has_long_lived ? 160U : 60U);
    for (std::uint64_t i = 0; has_long_lived && i < 100; ++i) {
      ASSERT_EQ(Must(store.Read(kStays + i)), i);
    }
    Must(store.Close());
    // From the log alone, with the entries of all its records.
    EXPECT_LE(Must(OpenIn<U64Store>(name, environment, options)).Stats().index_bucket_count, 256U);
  }
}

TEST(IndexGrowthTest, WithoutTheOptionItStaysAsItIs) {
  Environment environment = TinyEnvironment();
  environment.in_memory = true;
  environment.pool_threads = 1;
  auto store = Must(OpenIn<U64Store>("", environment));
  for (std::uint64_t key = 0; key < 5000; ++key) Must(store.Upsert(key, key));
  EXPECT_EQ(store.Stats().index_bucket_count, 2U);
}

// The load itself grows it, eight threads at a time, from two buckets to thousands, with nearly all
// records on the device; checkpoints come in between. Each thread knows the exact values of its own
// keys, and all of them add to the same counters.
class GrowthUnderLoad {
 public:
  static constexpr std::uint64_t kThreads = 8;
  static constexpr std::uint64_t kCounters = 16;
  static constexpr std::uint64_t kFirstOwned = 1000;

  GrowthUnderLoad(const std::string& path, std::uint64_t keys_each)
      : path_(path), keys_each_(keys_each), models_(kThreads) {}

  // Opens with two buckets, loads, and closes.
  void Run(std::uint64_t round) {
    Environment environment = TinyEnvironment();
    environment.pool_threads = 1;
    auto store = Must(OpenIn<U64Store>(path_, environment, GrowingOptions()));
    Compare(store);
    const std::uint64_t buckets = store.Stats().index_bucket_count;
    EXPECT_EQ(buckets == 2, round == 0);
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> running{kThreads};
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        Work(store, thread, round);
        running.fetch_sub(1, std::memory_order_relaxed);
      });
    }
    std::uint64_t checkpoints = 0;
    do {
      Must(store.Checkpoint());
      ++checkpoints;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    } while (running.load(std::memory_order_relaxed) != 0);
    for (std::thread& thread : threads) thread.join();
    const StoreStats stats = store.Stats();
    std::printf("round %d: %d checkpoints, %d to %d buckets, %d overflow, longest split %d us\n",
                static_cast<int>(round), static_cast<int>(checkpoints), static_cast<int>(buckets),
                static_cast<int>(stats.index_bucket_count),
                static_cast<int>(stats.index_overflow_count),
                static_cast<int>(stats.index_longest_split_us));
    EXPECT_GT(stats.head_address, stats.tail_address / 10 * 9);
    if (round == 0) EXPECT_GE(stats.index_growth_count, 5U);
    Compare(store);
    Must(store.Close());
  }
  void Reopen(int exponent) {
    Environment environment = TinyEnvironment();
    environment.index_exponent = exponent;
    auto store = Must(OpenIn<U64Store>(path_, environment));
    EXPECT_EQ(store.Stats().index_bucket_count, std::uint64_t{1} << exponent);
    Compare(store);
    Must(store.Close());
  }

 private:
  void Compare(U64Store& store) {
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      std::vector<std::uint64_t> keys;
      for (std::uint64_t i = 0; i < keys_each_; ++i) keys.push_back(KeyOf(thread, i));
      ASSERT_TRUE(HoldsOnly(store, models_[thread], keys));
    }
    for (std::uint64_t counter = 0; counter < kCounters; ++counter) {
      const auto value = store.Read(counter);
      ASSERT_EQ(value.ok() ? *value : 0, added_[counter].load(std::memory_order_relaxed));
    }
  }
  std::uint64_t KeyOf(std::uint64_t thread, std::uint64_t i) const {
    return kFirstOwned + i * kThreads + thread;
  }
  void Work(U64Store& store, std::uint64_t thread, std::uint64_t round) {
    auto session = store.NewSession();
    U64Model& model = models_[thread];
    std::mt19937_64 random(round * kThreads + thread);
    for (std::uint64_t i = 0; i < keys_each_; ++i) {
      // One that is new, mostly, and one that is not.
      for (const std::uint64_t key : {KeyOf(thread, i), KeyOf(thread, random() % (i + 1))}) {
        Act(session, model, key, random());
      }
      const std::uint64_t counter = random() % kCounters;
      Must(session.Rmw(counter, [](std::uint64_t& value) { ++value; }));
      added_[counter].fetch_add(1, std::memory_order_relaxed);
    }
  }
  static void Act(U64Store::Session& session, U64Model& model, std::uint64_t key,
                  std::uint64_t number) {
    const auto known = model.find(key);
    switch (number % 8) {
      case 0:
        ASSERT_EQ(session.Delete(key).code(),
                  known != model.end() ? StatusCode::kOk : StatusCode::kNotFound);
        model.erase(key);
        break;
      case 1:
        ASSERT_EQ(session.InsertIfAbsent(key, number).code(),
                  known != model.end() ? StatusCode::kAlreadyExists : StatusCode::kOk);
        model.emplace(key, number);
        break;
      case 2:
        Must(session.Rmw(
            key, [](std::uint64_t& value) { ++value; }, number));
        known != model.end() ? ++known->second : model[key] = number + 1;
        break;
      case 3: {
        std::uint64_t value = 0;
        const absl::Status status = session.Read(key, value);
        ASSERT_EQ(status.ok(), known != model.end()) << status;
        if (status.ok()) ASSERT_EQ(value, known->second);
        break;
      }
      default:
        Must(session.Upsert(key, number));
        model[key] = number;
    }
  }

  const std::string path_;
  const std::uint64_t keys_each_;
  std::vector<U64Model> models_;
  std::atomic<std::uint64_t> added_[kCounters] = {};
};
TEST(IndexGrowthTest, EveryKeyIsRightWhileLoadGrowsTheIndexAndAtEverySizeAfterwards) {
  TempDir dir;
  GrowthUnderLoad load(dir / "db", 5000);
  load.Run(0);
  load.Run(1);
  for (const int exponent : {1, 2, 5, 9, 13, 16}) load.Reopen(exponent);
}

// From the default size, in memory. The value of a key follows from its number: each thread adds
// one to the first half of its own, once to each, while it inserts more.
class LargeLoad {
 public:
  static constexpr std::uint64_t kThreads = 8;

  explicit LargeLoad(std::uint64_t keys_each)
      : keys_each_(keys_each),
        store_(Must(U64Store::OpenInMemory({.log_memory_bytes = std::uint64_t{512} << 20,
                                            .index_bucket_count = 65536,
                                            .durability = Durability::kManual,
                                            .gc_interval_ms = 0}))) {}

  void Run() {
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([this, thread] { Work(thread); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  void CompareAll() {
    U64Store::Session session = store_.NewSession();
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      for (std::uint64_t i = 0; i < keys_each_; ++i) Compare(session, thread, i, keys_each_);
    }
    EXPECT_EQ(Must(session.Contains(KeyOf(0, keys_each_))), false);
  }
  StoreStats Stats() { return store_.Stats(); }

 private:
  static std::uint64_t KeyOf(std::uint64_t thread, std::uint64_t i) {
    return i * kThreads + thread;
  }
  // `inserted`: so many keys of the thread are there.
  static void Compare(U64Store::Session& session, std::uint64_t thread, std::uint64_t i,
                      std::uint64_t inserted) {
    const std::uint64_t key = KeyOf(thread, i);
    std::uint64_t value = 0;
    const absl::Status status = session.Read(key, value);
    ASSERT_TRUE(status.ok()) << "key " << key << ": " << status;
    ASSERT_EQ(value, key * 3 + (2 * i < inserted ? 1 : 0)) << "key " << key;
  }
  void Work(std::uint64_t thread) {
    U64Store::Session session = store_.NewSession();
    std::mt19937_64 random(thread);
    for (std::uint64_t i = 0; i < keys_each_ && !testing::Test::HasFatalFailure(); ++i) {
      Must(session.Upsert(KeyOf(thread, i), KeyOf(thread, i) * 3));
      if (i % 2 == 0) {
        Must(session.Rmw(KeyOf(thread, i / 2), [](std::uint64_t& value) { ++value; }));
      }
      Compare(session, thread, random() % (i + 1), i + 1);
    }
  }

  const std::uint64_t keys_each_;
  U64Store store_;
};

// Ten million keys at scale 1.
TEST(IndexGrowthTest, ALargeLoadFindsEveryKeyWhileItGrowsTheIndex) {
  const auto keys_each = static_cast<std::uint64_t>(1'250'000 * std::min(Scale(), 8.0));
  LargeLoad load(keys_each);
  load.Run();
  load.CompareAll();
  const StoreStats stats = load.Stats();
  std::printf("%d keys, 65536 to %d buckets, longest split %d us\n",
              static_cast<int>(keys_each * LargeLoad::kThreads),
              static_cast<int>(stats.index_bucket_count),
              static_cast<int>(stats.index_longest_split_us));
  // However late the growths are, ten keys for each bucket are too many.
  EXPECT_GE(stats.index_bucket_count, keys_each * LargeLoad::kThreads / 10);
  EXPECT_GE(65536U << stats.index_growth_count, keys_each * LargeLoad::kThreads / 10);
}

// ---- waits ----

class GrowingStoreTest : public ::testing::Test {
 protected:
  // The store's 2 buckets are 2 chunks: keys of an even hash are in the first.
  GrowingStoreTest() : store_(Must(OpenTinyInMemory<U64Store>())), core_(CoreOf(store_)) {
    for (const std::uint64_t key : {in_first_, in_second_}) Must(store_.Upsert(key, key));
    EXPECT_EQ(core_.index.BeginGrowth(), HashIndex::GrowthStart::kStarted);
  }
  void FinishGrowth() {
    EXPECT_TRUE(core_.index.FinishSplit());
    core_.index.BeginSplit();
    EXPECT_FALSE(core_.index.FinishSplit());
    core_.index.EndGrowth();
  }

  U64Store store_;
  Core& core_;
  const std::uint64_t in_first_ = KeyWithBits(0, 1);
  const std::uint64_t other_in_first_ = KeyWithBits(0, 1, in_first_ + 1);
  const std::uint64_t in_second_ = KeyWithBits(1, 1);
  const std::uint64_t other_in_second_ = KeyWithBits(1, 1, in_second_ + 1);
};

// An operation that a growth does not concern returns at once: here, in one thread, or never. Fails
// (hangs) when a hit checks the state of its chunk, or writers check any but their own.
TEST_F(GrowingStoreTest, OnlyOperationsOnTheChunkBeingSplitWait) {
  EXPECT_EQ(Must(store_.Read(in_first_)), in_first_);
  EXPECT_FALSE(Must(store_.Contains(other_in_first_)));  // it only drains
  core_.index.BeginSplit();
  EXPECT_EQ(Must(store_.Read(in_first_)), in_first_);
  Must(store_.Upsert(in_first_, 7));  // in place
  Must(store_.Rmw(in_first_, [](std::uint64_t& value) { ++value; }));
  EXPECT_EQ(Must(store_.Read(in_first_)), 8U);
  EXPECT_FALSE(Must(store_.Contains(other_in_second_)));
  Must(store_.Upsert(other_in_second_, 1));
  Must(store_.Delete(in_second_));
  FinishGrowth();
  EXPECT_EQ(Must(store_.Read(in_first_)), 8U);
  EXPECT_EQ(Must(store_.Read(other_in_second_)), 1U);
  EXPECT_FALSE(Must(store_.Contains(in_second_)));
}

// Fails when a search that must be made again counts as absent, or a writer continues.
TEST_F(GrowingStoreTest, OperationsOnTheChunkBeingSplitWaitWithoutAGuard) {
  core_.index.BeginSplit();
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  const auto start = [&](auto action) {
    threads.emplace_back([&done, action] {
      action();
      done.fetch_add(1, std::memory_order_acq_rel);
    });
  };
  start([&] { EXPECT_FALSE(Must(store_.Contains(other_in_first_))); });
  start([&] { Must(store_.Upsert(KeyWithBits(0, 1, other_in_first_ + 1), 5)); });
  start([&] { EXPECT_TRUE(absl::IsNotFound(store_.Delete(other_in_first_))); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(done.load(std::memory_order_acquire), 0);
  // No thread delays another in the meantime.
  const std::uint64_t epoch = core_.epochs.Bump();
  while (!core_.epochs.Drained(epoch)) std::this_thread::yield();
  FinishGrowth();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Must(store_.Read(KeyWithBits(0, 1, other_in_first_ + 1))), 5U);
}

// A scan that meets an entry half-way must not take its key for dead. Fails when Liveness walks
// from kBeingMoved.
TEST_F(GrowingStoreTest, AScanWaitsForEntriesThatAreBeingMoved) {
  core_.index.BeginSplit();
  // As in the middle of the split, when the entry has left its word.
  const HashIndex::EntrySlot slot = core_.index.Find(HashOf(in_first_));
  slot.word->store(0, std::memory_order_seq_cst);
  std::atomic<bool> done{false};
  std::thread scanner([&] {
    EXPECT_EQ(Must(store_.ScanAll()).size(), 2U);
    done.store(true, std::memory_order_release);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(done.load(std::memory_order_acquire));
  slot.word->store(slot.entry.word(), std::memory_order_seq_cst);
  FinishGrowth();
  scanner.join();
}

// Hazards 13 and 14: an operation under its guard has its entry, and a growth begins. Fails when
// GrowIndex does not drain before it moves.
TEST(IndexGrowthTest, AGrowthWaitsForOperationsThatHaveFoundTheirEntry) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  const std::uint64_t key = KeyWithBits(2, 2);  // goes up
  std::thread grower;
  bool first = true;
  const auto grow = [&](std::uint64_t& value) {  // absent: called under the guard, after the search
    value = 9;
    if (!std::exchange(first, false)) return;
    grower = std::thread([&] { Must(store.GrowIndex()); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(store.Stats().index_bucket_count, 2U);
  };
  Must(store.Rmw(key, grow));
  grower.join();
  EXPECT_EQ(store.Stats().index_bucket_count, 4U);
  EXPECT_EQ(Must(store.Read(key)), 9U);
}

// Hazard 18: the entry is swept under an operation that has found it, and its word becomes another
// tag's. Fails when Attempt continues with any entry that Reload finds: the record then hangs in
// the chain of another key.
TEST(IndexGrowthTest, AnOperationWhoseEntryWasSweptStartsAgain) {
  for (const bool taken : {false, true}) {
    auto store = Must(OpenTinyInMemory<U64Store>());
    Core& core = CoreOf(store);
    const std::uint64_t key = KeyWithBits(0, 1);
    const std::uint64_t other = KeyWithBits(0, 1, key + 1);
    int calls = 0;
    Must(store.Rmw(key, [&](std::uint64_t& value) {
      value = 9;
      if (++calls > 1) return;
      EXPECT_EQ(core.index.SweepBucket(0, Address(4080)), 1U);
      if (taken) {
        std::thread([&] { Must(store.Upsert(other, 5)); }).join();
      }
    }));
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(Must(store.Read(key)), 9U);
    EXPECT_EQ(Must(store.Contains(other)), taken);
    if (taken) EXPECT_EQ(Must(store.Read(other)), 5U);
  }
}

// ---- closing and opening ----

TEST(IndexGrowthTest, ClosingDuringAGrowthLosesNothing) {
  for (const int chunks : {0, 1, 5, 15}) {
    SimFileSystem files;
    Environment environment = TinyEnvironment(&files);
    environment.index_exponent = 4;
    auto store = Must(OpenIn<U64Store>("db", environment));
    U64Model model;
    for (std::uint64_t key = 0; key < 500; ++key) Must(store.Upsert(key, model[key] = key * 3));
    // As when the store is closed permanently at that moment.
    int left = chunks;
    EXPECT_EQ(internal::GrowIndex(CoreOf(store), [&] { return left-- == 0; }).code(),
              StatusCode::kFailedPrecondition);
    EXPECT_TRUE(Holds(store, model));
    Must(store.Close());
    auto reopened = Must(OpenIn<U64Store>("db", environment));
    EXPECT_TRUE(Holds(reopened, model));
    EXPECT_EQ(reopened.Stats().index_bucket_count, 16U);
  }
}

// A concurrent caller gets its growth or is rejected; Close is not delayed for long.
TEST(IndexGrowthTest, ClosingDuringAGrowthIsClean) {
  TempDir dir;
  for (int round = 0; round < 10; ++round) {
    Environment environment = TinyEnvironment();
    environment.index_exponent = 10;
    auto store = Must(OpenIn<U64Store>(dir / "db", environment));
    for (std::uint64_t key = 0; key < 300; ++key) {
      if (round != 0) ASSERT_EQ(Must(store.Read(key)), key);
      Must(store.Upsert(key, key));
    }
    std::thread grower([&] {
      absl::Status status;
      while ((status = store.GrowIndex()).ok()) {
      }
      EXPECT_TRUE(status.code() == StatusCode::kFailedPrecondition ||
                  status.code() == StatusCode::kResourceExhausted)
          << status;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
    Must(store.Close());
    grower.join();
  }
}

TEST(IndexGrowthTest, AnOpeningBeginsWithTheSizeThatTheCheckpointNeedsAndGrowsAsItReads) {
  SimFileSystem files;
  U64Model model;
  const auto fill = [&](U64Store& store, std::uint64_t end) {
    for (std::uint64_t key = model.size(); key < end; ++key) {
      Must(store.Upsert(key, model[key] = key + 1));
    }
  };
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    fill(store, 3000);
    Must(store.Close());
  }
  const auto open = [&](const Options& options) {
    return Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
  };
  {
    // From the log alone.
    auto store = open(GrowingOptions());
    EXPECT_GE(store.Stats().index_bucket_count, 512U);
    EXPECT_LE(store.Stats().index_overflow_count, store.Stats().index_bucket_count / 8 + 64);
    EXPECT_EQ(store.Stats().index_growth_count, 0U);  // automatically
    EXPECT_TRUE(Holds(store, model));
    for (int doubling = 0; doubling < 4; ++doubling) Must(store.GrowIndex());
    Must(store.Checkpoint());
    fill(store, 4000);
    Must(store.Close());
  }
  {
    auto store = open(GrowingOptions());
    EXPECT_GE(store.Stats().index_bucket_count, 512U);
    EXPECT_LE(store.Stats().index_bucket_count, 2048U) << "memory that nothing needs comes back";
    EXPECT_NE(store.recovery().checkpoint_id, 0U);
    EXPECT_TRUE(Holds(store, model));
    Must(store.Close());
  }
  auto store = open(TinyOptions());
  EXPECT_EQ(store.Stats().index_bucket_count, 2U);
  EXPECT_TRUE(Holds(store, model));
}

// Hazard 40: a crash leaves exactly the entries in the image of a growing index. Fails when images
// and growths run at once.
TEST(IndexGrowthTest, CheckpointsDuringGrowthsHoldEverything) {
  SimFileSystem files;
  Environment environment = TinyEnvironment(&files);
  environment.index_exponent = 12;  // so that the last doublings take as long as some checkpoints
  auto store = Must(OpenIn<U64Store>("db", environment));
  U64Model model;
  for (std::uint64_t key = 0; key < 2000; ++key) Must(store.Upsert(key, model[key] = key ^ 5));
  std::atomic<bool> grown{false};
  std::thread grower([&] {
    for (int doubling = 0; doubling < 7; ++doubling) Must(store.GrowIndex());
    grown.store(true, std::memory_order_release);
  });
  for (std::uint64_t round = 0; round < 3 || !grown.load(std::memory_order_acquire); ++round) {
    const std::uint64_t key = round % 2000;
    Must(store.Upsert(key, model[key] = key + round));
    Must(store.Checkpoint());
    const auto after = files.Crash(kNothingSurvives);
    environment.file_system = after.get();
    auto reopened = Must(OpenIn<U64Store>("db", environment));
    EXPECT_NE(reopened.recovery().checkpoint_id, 0U);
    EXPECT_TRUE(Holds(reopened, model)) << round;
  }
  grower.join();
}

}  // namespace
}  // namespace ebb::test
