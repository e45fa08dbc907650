// Scans: each key once, with its newest value below the address that the scan was begun at. The
// oracle is exact: the values of the store when the scan was created.
//
// Stores are tiny, without a pool, and most of their records are on the device; chains are shared.
//
// Hazards: 16 (holes), 24 (frames used again under records that a scan shows), 43 (deleted keys
// must not come back), 49 (callbacks that throw or call the store), 51 (duplicates and missing keys
// during updates).
#include "ebb/internal/scan/key_scan.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/scan.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

// The rest of a scan; a key that comes twice is a failure.
template <typename Key, typename Value>
Model<Key, Value> TakeAll(ScanIterator<Key, Value>& it) {
  Model<Key, Value> seen;
  while (it.Next()) {
    const bool fresh = seen.emplace(it.key(), it.value()).second;
    EXPECT_TRUE(fresh) << "twice: " << testing::PrintToString(Key(it.key()));
  }
  Must(it.status());
  return seen;
}

// Some updates of some of `key_count` keys, in the store and in the model.
void Change(U64Store& store, Model<std::uint64_t, std::uint64_t>& model, std::mt19937_64& random,
            int count, std::uint64_t key_count = 2000) {
  for (int i = 0; i < count; ++i) {
    const std::uint64_t key = random() % key_count;
    if (random() % 4 == 0) {
      EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
    } else {
      model[key] = random();
      Must(store.Upsert(key, model[key]));
    }
  }
}

std::uint64_t PinCount(const U64Store& store) { return store.Stats().pin_count; }

TEST(KeyScanTest, ShowsTheStateOfTheStoreAtItsCreation) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Model<std::uint64_t, std::uint64_t> model;
  std::mt19937_64 random(21);
  auto of_nothing = store.NewScan();
  EXPECT_TRUE(TakeAll(of_nothing).empty());
  for (int round = 0; round < 5; ++round) {
    Change(store, model, random, 3000);
    auto it = store.NewScan();
    EXPECT_EQ(PinCount(store), 1U);
    const auto expected = model;
    Change(store, model, random, 3000);  // none of this is seen
    if (round % 2 == 0) Must(store.Checkpoint());
    EXPECT_EQ(TakeAll(it), expected);
    EXPECT_FALSE(it.Next()) << "the end does not pass";
    EXPECT_EQ(PinCount(store), 0U);
  }
  ASSERT_GT(store.Stats().head_address, 10 * kTinyMemoryBytes);
}

// 51. While a scan stands at any of its keys, all keys change, are deleted, come back.
TEST(KeyScanTest, ConcurrentChangesAreNotSeen) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Model<std::uint64_t, std::uint64_t> model;
  std::mt19937_64 random(23);
  Change(store, model, random, 4000, 700);
  const auto expected = model;
  std::size_t shown = 0;
  Model<std::uint64_t, std::uint64_t> seen;
  Must(store.Scan([&](const std::uint64_t& key, const std::uint64_t& value) {
    EXPECT_TRUE(seen.emplace(key, value).second) << key;
    if (shown++ % 10 == 0) Change(store, model, random, 100, 800);
    if (shown % 200 == 0) Must(store.Commit());
  }));
  EXPECT_EQ(seen, expected);
  EXPECT_TRUE(Holds(store, model));
}

TEST(KeyScanTest, StringsOfAllLengthsAreShown) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 15;
  auto store = Must(OpenIn<StringStore>("db", environment));
  Model<std::string, std::string> model;
  std::mt19937_64 random(29);
  for (int i = 0; i < 800; ++i) {
    const std::string key(random() % (i % 20 == 0 ? 9000 : 30), static_cast<char>(random() % 4));
    model[key] = std::string(random() % (i % 15 == 0 ? 20000 : 100), static_cast<char>(i));
    Must(store.Upsert(key, model[key]));
  }
  auto it = store.NewScan();
  EXPECT_EQ(TakeAll(it), model);
  Must(store.Close());
  auto reopened = Must(OpenIn<StringStore>("db", environment));
  auto again = reopened.NewScan();
  EXPECT_EQ(TakeAll(again), model);
}

TEST(KeyScanTest, OtherTypesAreShown) {
  auto triples = Must(OpenTinyInMemory<U64TripleStore>());
  auto texts = Must(OpenTinyInMemory<U64StringStore>());
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Must(triples.Upsert(i, Triple{i, 2 * i, 3 * i}));
    Must(texts.Upsert(i, std::string(i % 50, 'x')));
  }
  const auto all_triples = Must(triples.ScanAll());
  EXPECT_EQ(all_triples.size(), 3000U);
  for (const auto& [key, value] : all_triples) ASSERT_EQ(value, (Triple{key, 2 * key, 3 * key}));
  const auto all_texts = Must(texts.ScanAll());
  EXPECT_EQ(all_texts.size(), 3000U);
  for (const auto& [key, value] : all_texts) ASSERT_EQ(value, std::string(key % 50, 'x'));
}

TEST(KeyScanTest, APrefixIsOfBytes) {
  auto store = Must(OpenTinyInMemory<StringU64Store>());
  const std::vector<std::string> keys = {
      "", "a", "ab", "abc", "abd", "ac", "b", std::string("ab\0x", 4), std::string(1, '\0')};
  for (std::size_t i = 0; i < keys.size(); ++i) Must(store.Upsert(keys[i], i));
  for (const std::string& prefix : {std::string(), std::string("a"), std::string("ab"),
                                    std::string("abcd"), std::string(1, '\0')}) {
    Model<std::string, std::uint64_t> expected;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (keys[i].starts_with(prefix)) expected[keys[i]] = i;
    }
    Model<std::string, std::uint64_t> seen;
    Must(store.ScanPrefix(prefix, [&](std::string_view key, std::uint64_t value) {
      seen[std::string(key)] = value;
    }));
    EXPECT_EQ(seen, expected) << prefix;
  }
}

TEST(KeyScanTest, ACallbackEndsItByReturningFalse) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  for (std::uint64_t i = 0; i < 5000; ++i) Must(store.Upsert(i, i));
  for (const int most : {1, 2, 100, 5000, 9000}) {
    int shown = 0;
    EXPECT_EQ(store.Scan([&](std::uint64_t, std::uint64_t) { return ++shown < most; }),
              absl::OkStatus());
    EXPECT_EQ(shown, std::min(most, 5000));
    EXPECT_EQ(PinCount(store), 0U);
  }
}

// 49.
TEST(KeyScanTest, ACallbackThatThrowsLeavesNothingBehind) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 5000; ++i) Must(store.Upsert(i, i));
  int shown = 0;
  EXPECT_THROW(static_cast<void>(store.Scan([&](std::uint64_t, std::uint64_t) {
                 if (++shown == 1000) throw std::runtime_error("enough");
               })),
               std::runtime_error);
  EXPECT_EQ(PinCount(store), 0U);
  for (std::uint64_t i = 0; i < 5000; ++i) Must(store.Rmw(i, [](std::uint64_t& v) { ++v; }));
  Must(store.Close());  // waits for guards and slow calls
}

// A callback may do all that a program can do, even close the store.
TEST(KeyScanTest, ACallbackMayCallTheStore) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, i));
  std::uint64_t nested = 0;
  Must(store.Scan([&](std::uint64_t key, std::uint64_t value) {
    EXPECT_EQ(Must(store.Read(key)), value);
    Must(store.Upsert(key, value + 1));
    Must(store.Upsert(1000 + key, 0));
    if (key % 300 == 7) Must(store.Scan([&](std::uint64_t, std::uint64_t) { ++nested; }));
    if (key % 300 == 8) Must(store.Checkpoint());
  }));
  EXPECT_GT(nested, 4000U);
  std::uint64_t shown = 0;
  EXPECT_TRUE(FailsWith(store.Scan([&](std::uint64_t, std::uint64_t) {
    if (++shown == 1) Must(store.Close());
  }),
                        StatusCode::kFailedPrecondition, "closed"));
  EXPECT_LT(shown, 2000U);
}

TEST(KeyScanTest, AScanOfAClosedStoreIsRejected) {
  std::optional<U64Store> store(Must(OpenTinyInMemory<U64Store>()));
  for (std::uint64_t i = 0; i < 100; ++i) Must(store->Upsert(i, i));
  auto before = store->NewScan();
  Must(store->Close());
  auto after = store->NewScan();
  EXPECT_FALSE(after.Next());
  EXPECT_TRUE(FailsWith(after.status(), StatusCode::kFailedPrecondition, "closed"));
  EXPECT_EQ(store->ScanAll().status().code(), StatusCode::kFailedPrecondition);
  store.reset();
  EXPECT_FALSE(before.Next()) << "it outlives the store";
  EXPECT_EQ(before.status().code(), StatusCode::kFailedPrecondition);
}

TEST(KeyScanTest, TooManyAreRejectedAndOthersContinue) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Must(store.Upsert(1, 10));
  std::vector<ScanIterator<std::uint64_t, std::uint64_t>> scans;
  for (std::size_t i = 0; i < internal::Pins::kMax; ++i) scans.push_back(store.NewScan());
  auto refused = store.NewScan();
  EXPECT_FALSE(refused.Next());
  EXPECT_TRUE(FailsWith(refused.status(), StatusCode::kResourceExhausted, "64 scans"));
  EXPECT_EQ(PinCount(store), internal::Pins::kMax);
  EXPECT_EQ(store.Stats().lowest_pinned_address, store.Stats().begin_address);
  for (auto& it : scans) EXPECT_EQ(TakeAll(it).size(), 1U);
  EXPECT_EQ(PinCount(store), 0U);
  EXPECT_EQ(store.Stats().lowest_pinned_address, 0U);
  EXPECT_EQ(Must(store.ScanAll()).size(), 1U);
}

// The records before the damage are shown, and then the place of the damage is reported.
TEST(KeyScanTest, DamageEndsItWithDataLoss) {
  SimFileSystem files(/*direct=*/false);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 6000; ++i) Must(store.Upsert(i, i));
  constexpr std::uint64_t kBlock = 20;
  Overwrite(files, "db", SegmentFile(kBlock / 16), (1 + kBlock % 16) * 4096 + 50, "damage");
  for (const bool all : {false, true}) {
    std::uint64_t shown = 0;
    const absl::Status status =
        all ? store.ScanAll().status() : store.Scan([&](std::uint64_t, std::uint64_t) { ++shown; });
    EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, SegmentFile(kBlock / 16)));
    EXPECT_LT(shown, 6000U);
    EXPECT_EQ(PinCount(store), 0U);
  }
}

// ---- after a crash ----

// Records of a version that was never committed lie in the log, valid, in no chain.
TEST(KeyScanTest, RecordsLostInACrashAreNotShown) {
  SimFileSystem files;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    auto store = Must(OpenTiny<U64Store>("db" + std::to_string(seed), &files));
    Model<std::uint64_t, std::uint64_t> model;
    std::mt19937_64 random(seed);
    Change(store, model, random, 1500);
    Must(store.Commit());
    auto lost = model;
    Change(store, lost, random, 1500);
    auto crashed = files.Crash(seed);
    auto reopened = Must(OpenTiny<U64Store>("db" + std::to_string(seed), crashed.get()));
    auto it = reopened.NewScan();
    const auto shown = TakeAll(it);
    EXPECT_EQ(shown, model);
    EXPECT_TRUE(Holds(reopened, shown));
    auto more = shown;
    Change(reopened, more, random, 1000);
    auto again = reopened.NewScan();
    EXPECT_EQ(TakeAll(again), more);
  }
}

// An opening with a checkpoint leaves a head within a page, even within a block.
TEST(KeyScanTest, EveryOpeningCanBeScanned) {
  SimFileSystem files;
  Model<std::uint64_t, std::uint64_t> model;
  std::mt19937_64 random(31);
  for (int round = 0; round < 12; ++round) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    auto first = store.NewScan();
    EXPECT_EQ(TakeAll(first), model) << round;
    Change(store, model, random, 100 + round * 100);
    if (round % 3 != 0) Must(store.Checkpoint());
    Change(store, model, random, 10 * (round % 4));
    auto second = store.NewScan();
    EXPECT_EQ(TakeAll(second), model) << round;
    Must(store.Close());
  }
}

// ---- concurrently with other threads ----

// Writers that count their keys up, one after the other, again and again. So the number of its
// updates gives the number for each key.
class CountingWriters {
 public:
  static constexpr std::uint64_t kWriters = 3;
  static constexpr std::uint64_t kKeys = 400;  // of each
  using Counts = std::array<std::uint64_t, kWriters>;

  explicit CountingWriters(U64Store& store) : store_(store) {
    for (std::uint64_t key = 0; key < kWriters * kKeys; ++key) Must(store.Upsert(key, 0));
    for (std::uint64_t id = 0; id < kWriters; ++id) threads_.emplace_back([this, id] { Work(id); });
    threads_.emplace_back([this] {
      while (!stop_.load(std::memory_order_acquire)) {
        Must(store_.Commit());
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
      }
    });
  }
  ~CountingWriters() {
    stop_.store(true, std::memory_order_release);
    for (std::thread& thread : threads_) thread.join();
  }
  // They make so many more each, and then wait, so that the log does not outrun the scans.
  void Allow(std::uint64_t updates) { allowed_.fetch_add(updates, std::memory_order_acq_rel); }
  Counts begun() const { return Now(begun_); }
  Counts returned() const { return Now(returned_); }
  // The value of a key after updates of these counts.
  static std::uint64_t ValueAfter(const Counts& updates, std::uint64_t key) {
    const std::uint64_t count = updates[key / kKeys];
    return count / kKeys + (count % kKeys > key % kKeys ? 1 : 0);
  }

 private:
  using Words = std::array<std::atomic<std::uint64_t>, kWriters>;
  static Counts Now(const Words& words) {
    Counts counts{};
    for (std::size_t id = 0; id < kWriters; ++id) {
      counts[id] = words[id].load(std::memory_order_acquire);
    }
    return counts;
  }
  void Work(std::uint64_t id) {
    auto session = store_.NewSession();
    for (std::uint64_t i = 0; !stop_.load(std::memory_order_acquire);) {
      if (i >= allowed_.load(std::memory_order_acquire)) {
        std::this_thread::yield();
        continue;
      }
      const std::uint64_t key = id * kKeys + i % kKeys;
      const std::uint64_t round = i / kKeys + 1;
      begun_[id].store(i + 1, std::memory_order_release);
      if (round % 3 == 0) {
        Must(session.Rmw(key, [&](std::uint64_t& v) { v = round; }));
      } else if (round % 3 == 1) {
        Must(session.CompareExchange(key, round - 1, round));
      } else {
        Must(session.Upsert(key, round));
      }
      returned_[id].store(++i, std::memory_order_release);
    }
  }

  U64Store& store_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> allowed_{0};
  Words begun_{};
  Words returned_{};
  std::vector<std::thread> threads_;
};

// A scan shows at least the updates that had returned when NewScan was called, and at most those
// that had begun when it returned.
TEST(KeyScanTest, ScansDuringWritesShowTheStateAtTheirCreation) {
  const TempDir dir;
  internal::Environment environment = TinyEnvironment();
  environment.page_shift = 13;
  environment.pool_threads = 1;
  environment.segment_blocks = 1024;
  environment.index_exponent = 6;
  Options options = TinyOptions();
  options.scan_ahead_bytes = 1 << 18;
  auto store = Must(OpenIn<U64Store>(dir / "db", environment, options));
  {
    constexpr std::uint64_t kScans = 30;
    CountingWriters writers(store);
    std::uint64_t between = 0;
    for (std::uint64_t scan = 0; scan < kScans; ++scan) {
      writers.Allow(2007);
      std::this_thread::sleep_for(std::chrono::microseconds(scan * 20));
      const auto least = writers.returned();
      auto it = store.NewScan();
      const auto most = writers.begun();
      const auto shown = TakeAll(it);
      EXPECT_EQ(shown.size(), CountingWriters::kWriters * CountingWriters::kKeys);
      for (const auto& [key, value] : shown) {
        EXPECT_GE(value, CountingWriters::ValueAfter(least, key)) << key;
        EXPECT_LE(value, CountingWriters::ValueAfter(most, key)) << key;
      }
      for (const std::uint64_t count : least) between += count % CountingWriters::kKeys != 0;
    }
    EXPECT_GT(between, kScans) << "scans were made only between the rounds of writers";
  }
  EXPECT_EQ(PinCount(store), 0U);
  Must(store.Close());
}

// ---- memory ----

// A line such as "VmRSS:   1234 kB" of the process's account, in bytes.
std::uint64_t StatusBytes(const char* field) {
  std::FILE* const file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const std::size_t length = std::strlen(field);
    if (std::strncmp(line, field, length) == 0) std::sscanf(line + length, ": %llu", &kib);
  }
  std::fclose(file);
  return std::uint64_t{kib} * 1024;
}
// Resets VmHWM, the peak resident size.
bool ResetPeak() {
  std::FILE* const file = std::fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return false;
  const bool done = std::fputs("5", file) >= 0;
  return std::fclose(file) == 0 && done;
}

TEST(KeyScanTest, TenTimesTheMemoryIsScannedInAFewMegabytes) {
  const TempDir dir;
  Options options;
  options.log_memory_bytes = 4 << 20;
  options.segment_bytes = 16 << 20;
  options.durability = Durability::kManual;
  auto store = Must(U64StringStore::Open(dir / "db", options));
  constexpr std::uint64_t kKeyCount = 160000;
  const std::string value(256, 'v');
  for (std::uint64_t i = 0; i < kKeyCount; ++i) Must(store.Upsert(i, value));
  for (std::uint64_t i = 0; i < kKeyCount; i += 5) Must(store.Upsert(i, value));
  const StoreStats stats = store.Stats();
  ASSERT_GT(stats.tail_address - stats.begin_address, 10 * options.log_memory_bytes);
  if (!ResetPeak()) GTEST_SKIP() << "the peak of resident memory cannot be measured here";
  const std::uint64_t before = StatusBytes("VmRSS");
  std::uint64_t shown = 0;
  std::uint64_t bytes = 0;
  Must(store.Scan([&](std::uint64_t, std::string_view v) {
    ++shown;
    bytes += v.size();
  }));
  const std::uint64_t grown = StatusBytes("VmHWM") - std::min(StatusBytes("VmHWM"), before);
  EXPECT_EQ(shown, kKeyCount);
  EXPECT_EQ(bytes, kKeyCount * value.size());
  std::printf("scanned %.1f MiB of values; resident memory grew by %.1f MiB\n",
              static_cast<double>(bytes) / (1 << 20), static_cast<double>(grown) / (1 << 20));
#ifdef EBB_TSAN
  constexpr std::uint64_t kMax = std::uint64_t{64} << 20;  // with several bytes of shadow for each
#else
  constexpr std::uint64_t kMax = std::uint64_t{16} << 20;
#endif
  EXPECT_LE(grown, kMax);
}

}  // namespace
}  // namespace ebb::test
