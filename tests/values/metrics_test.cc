// Metrics: the counts of a store, and the text forms, which are parsed here.
//
// features.md: Metrics(), ResetMetrics(), Prometheus text.
#include "ebb/metrics.h"

#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

void Increment(std::uint64_t& n) { ++n; }

// ---- the counts ----

TEST(MetricsTest, EveryOperationCountsOnceByItsKindAndOutcome) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  for (std::uint64_t i = 0; i < 10; ++i) Must(session.Upsert(i, i));
  for (std::uint64_t i = 0; i < 7; ++i) Must(session.Rmw(i, Increment));
  for (std::uint64_t i = 100; i < 105; ++i) Must(session.InsertIfAbsent(i, i));
  for (std::uint64_t i = 100; i < 103; ++i) {
    EXPECT_EQ(session.InsertIfAbsent(i, i).code(), StatusCode::kAlreadyExists);
  }
  for (std::uint64_t i = 100; i < 102; ++i) Must(session.Delete(i));
  EXPECT_EQ(session.Delete(100).code(), StatusCode::kNotFound);
  for (std::uint64_t i = 0; i < 10; ++i) Must(session.Read(i));
  std::uint64_t value = 0;
  Must(session.Read(3, value));
  EXPECT_TRUE(Must(session.Contains(4)));
  EXPECT_FALSE(Must(session.Contains(100))) << "a tombstone";
  EXPECT_EQ(session.Read(5000).status().code(), StatusCode::kNotFound);

  Must(session.CompareExchange(5, 6, 50));
  EXPECT_EQ(session.CompareExchange(5, 6, 50).code(), StatusCode::kAborted);
  EXPECT_EQ(session.CompareExchange(5000, 6, 50).code(), StatusCode::kNotFound);
  std::uint64_t seen = 0;
  Must(store.Scan([&](std::uint64_t, std::uint64_t) { ++seen; }));
  EXPECT_EQ(seen, 13U);

  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics[OpKind::kCompareExchange].count, 3U);
  EXPECT_EQ(metrics[OpKind::kCompareExchange].no_op, 2U);
  EXPECT_EQ(metrics[OpKind::kScan].count, 1U);
  EXPECT_EQ(metrics[OpKind::kUpsert].count, 10U);
  EXPECT_EQ(metrics[OpKind::kUpsert].slow_path, 10U) << "all of them were appended";
  EXPECT_EQ(metrics[OpKind::kRmw].count, 7U);
  EXPECT_EQ(metrics[OpKind::kRmw].slow_path, 0U);
  EXPECT_EQ(metrics[OpKind::kInsert].count, 8U);
  EXPECT_EQ(metrics[OpKind::kInsert].no_op, 3U);
  EXPECT_EQ(metrics[OpKind::kDelete].count, 3U);
  EXPECT_EQ(metrics[OpKind::kDelete].no_op, 1U);
  EXPECT_EQ(metrics[OpKind::kRead].count, 14U);
  EXPECT_EQ(metrics[OpKind::kRead].no_op, 2U);
  EXPECT_EQ(metrics.reads_from_memory, 12U);
  EXPECT_EQ(metrics.reads_from_device, 0U);
  EXPECT_EQ(metrics.appended_records, 15U);
  EXPECT_EQ(metrics.user_written_bytes, (10 + 7 + 5 + 1) * 16 + 2 * 8U);
  EXPECT_EQ(metrics.user_read_bytes, 12 * 8U);
  for (const OperationMetrics& operation : metrics.operations) {
    EXPECT_EQ(operation.refused, 0U);
    EXPECT_EQ(operation.latency.count, 0U) << "nobody asked for it";
  }
  EXPECT_GT(metrics.seconds, 0.0);
}

TEST(MetricsTest, BytesOfStringsAreThoseOfKeysAndValues) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  Must(session.Upsert("key", std::string(100, 'a')));  // appended
  Must(session.Upsert("key", std::string(90, 'b')));   // in place
  Must(session.Rmw("key", [](std::string& value) { value.resize(50); }));
  Must(session.InsertIfAbsent("other", "12"));
  Must(session.Delete("other"));
  EXPECT_EQ(session.Delete("other").code(), StatusCode::kNotFound);
  EXPECT_EQ(store.Metrics().user_written_bytes, 103U + 93 + 53 + 7 + 5);
  EXPECT_EQ(store.Metrics().user_read_bytes, 0U);
  std::string value;
  Must(session.Read("key", value));
  Must(session.Read("key"));
  Must(session.Read("key", [](std::string_view view) { EXPECT_EQ(view.size(), 50U); }));
  EXPECT_TRUE(Must(session.Contains("key")));
  EXPECT_EQ(store.Metrics().user_read_bytes, 150U);
}

TEST(MetricsTest, ReadsOfTheDeviceAreCountedSeparately) {
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  const std::string value(100, 'v');
  constexpr std::uint64_t kKeys = 2000;
  for (std::uint64_t i = 0; i < kKeys; ++i) Must(store.Upsert(i, value));
  store.ResetMetrics();
  for (std::uint64_t i = 0; i < 50; ++i) Must(store.Read(i));
  for (std::uint64_t i = kKeys - 20; i < kKeys; ++i) Must(store.Read(i));
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics.reads_from_device, 50U);
  EXPECT_EQ(metrics.reads_from_memory, 20U);
  EXPECT_EQ(metrics[OpKind::kRead].slow_path, 50U);
  EXPECT_EQ(metrics.device_waits, 50U);
  EXPECT_EQ(metrics.user_read_bytes, 70U * 100);
  EXPECT_GE(metrics.device_reads, 50U);
  EXPECT_EQ(metrics.device_read_bytes, metrics.device_reads * 4096) << "a block at a time";
}

TEST(MetricsTest, WriteAmplificationIsBytesOfTheDeviceOverBytesOfUpdates) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  EXPECT_EQ(store.Metrics().write_amplification(), 0.0);
  const std::string value(96, 'v');
  for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, value));
  Must(store.Commit());
  const MetricsSnapshot committed = store.Metrics();
  EXPECT_EQ(committed.user_written_bytes, 1000U * 104);
  EXPECT_EQ(committed.checkpoint_written_bytes, 0U);
  EXPECT_EQ(committed.commits, 1U);
  EXPECT_DOUBLE_EQ(committed.write_amplification(),
                   static_cast<double>(committed.log_written_bytes) / 104000.0);
  EXPECT_GT(committed.write_amplification(), 1.2) << "headers of 24 bytes";
  EXPECT_LT(committed.write_amplification(), 1.4);

  const CheckpointInfo checkpoint = Must(store.Checkpoint());
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics.checkpoint_written_bytes, checkpoint.size_bytes);
  EXPECT_EQ(metrics.checkpoints, 1U);
  EXPECT_EQ(metrics.commits, 2U);
  EXPECT_DOUBLE_EQ(
      metrics.write_amplification(),
      static_cast<double>(metrics.log_written_bytes + checkpoint.size_bytes) / 104000.0);
}

TEST(MetricsTest, RejectionsAreCountedByKindOfOperationAndOfError) {
  SimFileSystem memory;
  FaultFileSystem files(memory);
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  auto session = store.NewSession();
  const std::string too_long(10000, 'x');
  EXPECT_EQ(session.Upsert(1, too_long).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.InsertIfAbsent(1, too_long).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.Rmw(1, [&](std::string& value) { value = too_long; }).code(),
            StatusCode::kInvalidArgument);
  for (std::uint64_t i = 0; i < 1000; ++i) Must(session.Upsert(i, "value of some length"));
  files.Arm({.kind = CallKind::kRead});
  EXPECT_EQ(session.Read(0).status().code(), StatusCode::kUnavailable);
  files.Arm({.kind = CallKind::kRead, .effect = Effect::kFlipBit, .flip_bit = 999});
  EXPECT_EQ(session.Read(0).status().code(), StatusCode::kDataLoss);
  files.Arm({.kind = CallKind::kWrite, .sticky = true});
  EXPECT_EQ(store.Commit().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store.Checkpoint().status().code(), StatusCode::kUnavailable);
  files.Disarm();

  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics[OpKind::kUpsert].refused, 1U);
  EXPECT_EQ(metrics[OpKind::kInsert].refused, 1U);
  EXPECT_EQ(metrics[OpKind::kRmw].refused, 1U);
  EXPECT_EQ(metrics[OpKind::kRead].refused, 2U);
  EXPECT_EQ(metrics.user_errors, 3U);
  EXPECT_EQ(metrics.recoverable_errors, 1U);
  EXPECT_EQ(metrics.corruption_errors, 1U);
  EXPECT_EQ(metrics.failed_commits, 1U);
  EXPECT_EQ(metrics.failed_checkpoints, 1U);
  EXPECT_EQ(metrics.user_written_bytes, 1000U * 28);

  Must(store.Close());
  EXPECT_EQ(session.Upsert(1, "x").code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store.Metrics().user_errors, 4U) << "a closed store answers";
}

TEST(MetricsTest, CountersCountTheWorkOfPages) {
  auto store = Must(OpenTinyInMemory<U64Store>(kShortChains));
  constexpr std::uint64_t kKeys = 20000;
  EXPECT_EQ(store.Metrics().page_turns + store.Metrics().device_reads, 0U);
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
  const MetricsSnapshot written = store.Metrics();
  // 170 records of 24 bytes fill a page of one block.
  EXPECT_GE(written.page_turns, kKeys / 170 - 1);
  EXPECT_EQ(store.Stats().tail_address / 4096, written.page_turns + 1);  // page 0: the open record
  EXPECT_GE(written.page_waits, written.page_turns);
  EXPECT_GT(written.log_written_bytes, (written.page_turns - 8) * 4080);
  EXPECT_EQ(written.device_reads, 0U);
  EXPECT_EQ(Must(store.Read(0)), 0U);
  EXPECT_GE(store.Metrics().device_reads, 1U);
  EXPECT_EQ(store.Metrics().device_read_bytes, 4096 * store.Metrics().device_reads);
}

TEST(MetricsTest, WaitsAreCountedByCause) {
  auto store = Must(OpenTinyInMemory<U64Store>(kShortChains));
  for (std::uint64_t i = 0; i < 20000; ++i) Must(store.Upsert(i, i));
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_GT(metrics.page_waits, 100U);
  store.ResetMetrics();
  for (std::uint64_t i = 0; i < 30; ++i) Must(store.Rmw(i, Increment));
  EXPECT_EQ(store.Metrics().device_waits, 30U) << "each needs the old value";
}

// ---- sessions ----

TEST(MetricsTest, EndedSessionsStayCountedAndNewOnesCountOn) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  for (std::uint64_t round = 1; round <= 5; ++round) {
    for (int i = 0; i < 3; ++i) {
      auto session = store.NewSession();
      Must(session.Upsert(1, 1));
      Must(session.Read(1));
    }
    EXPECT_EQ(store.Metrics()[OpKind::kUpsert].count, 3 * round);
    EXPECT_EQ(store.Metrics()[OpKind::kRead].count, 3 * round);
  }
  std::thread([&] { Must(store.Upsert(2, 2)); }).join();
  Must(store.Upsert(3, 3));
  EXPECT_EQ(store.Metrics()[OpKind::kUpsert].count, 17U);
}

// While sessions work and end, snapshots never go back; at the end nothing is missing.
TEST(MetricsTest, SumsOverThreadsAreExactWhenTheyHaveEnded) {
  constexpr std::uint64_t kThreads = 4;
  constexpr std::uint64_t kTurns = 20000;
  auto store = Must(OpenTinyInMemory<U64Store>());
  for (std::uint64_t i = 0; i < 64; ++i) Must(store.Upsert(i, 0));
  store.ResetMetrics();
  internal::Atomic<std::uint64_t> running{kThreads};
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&] {
      for (std::uint64_t part = 0; part < 4; ++part) {
        auto session = store.NewSession();
        for (std::uint64_t i = 0; i < kTurns / 4; ++i) {
          Must(session.Rmw(i % 64, Increment));
          EXPECT_TRUE(session.Read(i % 64).ok());
          EXPECT_FALSE(Must(session.Contains(1000 + i)));
        }
      }
      running.fetch_sub(1, std::memory_order_release);
    });
  }
  MetricsSnapshot last;
  while (running.load(std::memory_order_acquire) != 0) {
    const MetricsSnapshot now = store.Metrics();
    for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
      const OperationMetrics& operation = now.operations[kind];
      ASSERT_GE(operation.count, last.operations[kind].count);
      ASSERT_GE(operation.count, operation.no_op + operation.refused);
    }
    last = now;
  }
  for (std::thread& thread : threads) thread.join();
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics[OpKind::kRmw].count, kThreads * kTurns);
  EXPECT_EQ(metrics[OpKind::kRead].count, 2 * kThreads * kTurns);
  EXPECT_EQ(metrics[OpKind::kRead].no_op, kThreads * kTurns);
  EXPECT_EQ(metrics.reads_from_memory + metrics.reads_from_device, kThreads * kTurns);
  EXPECT_EQ(metrics.user_written_bytes, kThreads * kTurns * 16);
}

TEST(MetricsTest, CollectionsCountTheirWork) {
  SimFileSystem memory;
  FaultFileSystem files(memory);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i % 1000, i));
  Must(store.CollectGarbage({.target_utilization = 0}));
  EXPECT_EQ(store.Metrics().collections, 0U) << "nothing was due";
  const GcStats stats =
      Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
  const MetricsSnapshot metrics = store.Metrics();
  EXPECT_EQ(metrics.collections, 1U);
  EXPECT_EQ(metrics.collection_scanned_bytes, stats.scanned_bytes);
  EXPECT_EQ(metrics.collection_copied_bytes, stats.copied_bytes);
  EXPECT_EQ(metrics.collection_freed_bytes, stats.freed_bytes);
  EXPECT_GT(stats.freed_bytes, 0U);
  EXPECT_EQ(metrics.failed_collections, 0U);
  files.Arm({.kind = CallKind::kWrite, .sticky = true});
  EXPECT_FALSE(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).ok());
  files.Disarm();
  EXPECT_EQ(store.Metrics().failed_collections, 1U);
}

TEST(MetricsTest, ResetBeginsAtZeroAndLeavesStatsAlone) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
  Must(store.Read(1));
  Must(store.Checkpoint());
  const StoreStats stats = store.Stats();
  store.ResetMetrics();
  EXPECT_EQ(store.Stats().durable_address, stats.durable_address);
  const MetricsSnapshot zero = store.Metrics();
  for (const internal::MetricField& field : internal::kMetricFields) {
    EXPECT_EQ(zero.*field.value, 0U) << field.name;
  }
  for (const OperationMetrics& operation : zero.operations) {
    for (const internal::OperationField& field : internal::kOperationFields) {
      EXPECT_EQ(operation.*field.value, 0U) << field.name;
    }
  }
  EXPECT_EQ(zero.write_amplification(), 0.0);
  EXPECT_LT(zero.seconds, 60.0);
  Must(store.Upsert(1, 2));
  EXPECT_EQ(store.Metrics()[OpKind::kUpsert].count, 1U);
  EXPECT_EQ(store.Metrics().user_written_bytes, 16U);
  EXPECT_EQ(store.GetCheckpointStats().completed_count, 1U);
}

// ---- latencies ----

Options Measured() {
  Options options = TinyOptions();
  options.measure_latency = true;
  return options;
}
U64Store OpenMeasured() {
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  return Must(OpenIn<U64Store>("", environment, Measured()));
}

TEST(MetricsTest, LatenciesOfEveryOperationAreMeasuredOnRequest) {
  U64Store store = OpenMeasured();
  {
    auto session = store.NewSession();
    for (std::uint64_t i = 0; i < 100; ++i) Must(session.Upsert(i, i));
    for (std::uint64_t i = 0; i < 90; ++i) Must(session.Rmw(i, Increment));
    for (std::uint64_t i = 0; i < 80; ++i) Must(session.Read(i));
    for (std::uint64_t i = 0; i < 70; ++i) Must(session.Delete(i));
    for (std::uint64_t i = 0; i < 60; ++i) Must(session.InsertIfAbsent(i, i));
  }
  Must(store.Upsert(1, 1));  // of another session
  const MetricsSnapshot metrics = store.Metrics();
  for (const OpKind kind :
       {OpKind::kRead, OpKind::kUpsert, OpKind::kRmw, OpKind::kDelete, OpKind::kInsert}) {
    const LatencySummary& latency = metrics[kind].latency;
    EXPECT_GT(metrics[kind].count, 50U);
    EXPECT_EQ(latency.count, metrics[kind].count) << NameOf(kind);
    EXPECT_LE(latency.p50_ns, latency.p95_ns);
    EXPECT_LE(latency.p95_ns, latency.p99_ns);
    EXPECT_LE(latency.p99_ns, latency.p999_ns);
    EXPECT_LE(latency.p999_ns, latency.max_ns);
    EXPECT_GE(latency.sum_ns, latency.max_ns);
    EXPECT_GT(latency.max_ns, 0U);
  }
  store.ResetMetrics();
  EXPECT_EQ(store.Metrics()[OpKind::kRead].latency.count, 0U);
  Must(store.Read(1));
  EXPECT_EQ(store.Metrics()[OpKind::kRead].latency.count, 1U);
}

TEST(MetricsTest, ASlowOperationShowsInTheTailAndNotInTheMiddle) {
  U64Store store = OpenMeasured();
  for (std::uint64_t i = 0; i < 999; ++i) Must(store.Upsert(1, i));
  for (std::uint64_t i = 0; i < 998; ++i) Must(store.Rmw(1, Increment));
  for (int i = 0; i < 2; ++i) {
    Must(store.Rmw(
        1, [](std::uint64_t&) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }));
  }
  const LatencySummary latency = store.Metrics()[OpKind::kRmw].latency;
  EXPECT_EQ(latency.count, 1000U);
  EXPECT_GE(latency.p999_ns, 20000000U);
  EXPECT_GE(latency.max_ns, 20000000U);
  EXPECT_GE(latency.sum_ns, 40000000U);
  EXPECT_LT(latency.p50_ns, 20000000U);
}

// ---- text ----

// Every number of a JSON object by its path, "operations.read.operations"; fails on anything that
// is not an object of objects and numbers.
class JsonNumbers {
 public:
  explicit JsonNumbers(const std::string& text) : text_(text) {
    Object("");
    EXPECT_EQ(at_, text_.size()) << "something behind the object";
  }
  const std::map<std::string, double>& numbers() const { return numbers_; }

 private:
  bool Take(char c) {
    if (at_ < text_.size() && text_[at_] == c) {
      ++at_;
      return true;
    }
    return false;
  }
  void Object(const std::string& path) {
    ASSERT_TRUE(Take('{')) << at_;
    do {
      ASSERT_TRUE(Take('"')) << at_;
      const std::size_t end = text_.find('"', at_);
      ASSERT_NE(end, std::string::npos);
      const std::string name = path + text_.substr(at_, end - at_);
      at_ = end + 1;
      ASSERT_TRUE(Take(':')) << at_;
      if (text_[at_] == '{') {
        Object(name + ".");
        continue;
      }
      char* number_end = nullptr;
      const double number = std::strtod(text_.c_str() + at_, &number_end);
      ASSERT_NE(number_end, text_.c_str() + at_) << "no number at " << at_;
      at_ = static_cast<std::size_t>(number_end - text_.c_str());
      EXPECT_TRUE(numbers_.emplace(name, number).second) << name << " stands twice";
    } while (Take(','));
    ASSERT_TRUE(Take('}')) << at_;
  }

  const std::string text_;
  std::size_t at_ = 0;
  std::map<std::string, double> numbers_;
};

// A snapshot with another number in every place.
MetricsSnapshot Distinct() {
  MetricsSnapshot metrics;
  std::uint64_t next = 1000;
  metrics.seconds = 12.5;
  for (const auto& field : internal::kMetricFields) metrics.*field.value = ++next;
  for (OperationMetrics& operation : metrics.operations) {
    for (const auto& field : internal::kOperationFields) operation.*field.value = ++next;
    operation.latency = {.count = ++next,
                         .sum_ns = ++next,
                         .p50_ns = ++next,
                         .p95_ns = ++next,
                         .p99_ns = ++next,
                         .p999_ns = ++next,
                         .max_ns = ++next};
  }
  return metrics;
}

// A counter that is in no table would be neither printed nor reset.
TEST(MetricsTest, EveryCounterIsInTheTables) {
  EXPECT_EQ(sizeof(MetricsSnapshot), sizeof(double) + kOpKindCount * sizeof(OperationMetrics) +
                                         internal::kMetricFields.size() * sizeof(std::uint64_t));
  EXPECT_EQ(sizeof(OperationMetrics),
            sizeof(LatencySummary) + internal::kOperationFields.size() * sizeof(std::uint64_t));
}

TEST(MetricsTest, JsonHoldsEveryNumber) {
  const MetricsSnapshot metrics = Distinct();
  const std::map<std::string, double> numbers = JsonNumbers(ToJson(metrics)).numbers();
  EXPECT_EQ(numbers.size(), 2 + internal::kMetricFields.size() +
                                kOpKindCount * (internal::kOperationFields.size() + 7));
  EXPECT_EQ(numbers.at("seconds"), 12.5);
  EXPECT_NEAR(numbers.at("write_amplification"), metrics.write_amplification(), 1e-6);
  for (const auto& field : internal::kMetricFields) {
    EXPECT_EQ(numbers.at(field.name), static_cast<double>(metrics.*field.value));
  }
  for (std::size_t i = 0; i < kOpKindCount; ++i) {
    const std::string path = std::string("operations.") + NameOf(static_cast<OpKind>(i)) + ".";
    const OperationMetrics& operation = metrics.operations[i];
    for (const auto& field : internal::kOperationFields) {
      EXPECT_EQ(numbers.at(path + field.name), static_cast<double>(operation.*field.value));
    }
    const LatencySummary& latency = operation.latency;
    EXPECT_EQ(numbers.at(path + "latency.count"), static_cast<double>(latency.count));
    EXPECT_EQ(numbers.at(path + "latency.sum_ns"), static_cast<double>(latency.sum_ns));
    EXPECT_EQ(numbers.at(path + "latency.p50_ns"), static_cast<double>(latency.p50_ns));
    EXPECT_EQ(numbers.at(path + "latency.p95_ns"), static_cast<double>(latency.p95_ns));
    EXPECT_EQ(numbers.at(path + "latency.p99_ns"), static_cast<double>(latency.p99_ns));
    EXPECT_EQ(numbers.at(path + "latency.p999_ns"), static_cast<double>(latency.p999_ns));
    EXPECT_EQ(numbers.at(path + "latency.max_ns"), static_cast<double>(latency.max_ns));
  }
}

// A reader of the exposition format: families in one piece, each with HELP and then TYPE, samples
// "name{label="value",...} number" of the family's name (with _sum or _count in a summary).
class Exposition {
 public:
  explicit Exposition(const std::string& text) {
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(text.back(), '\n');
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) Line(line);
    EXPECT_FALSE(family_.empty());
  }
  // By name and labels as they stand.
  const std::map<std::string, double>& samples() const { return samples_; }
  const std::map<std::string, std::string>& types() const { return types_; }

 private:
  static bool IsName(const std::string& name) {
    if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0])) != 0) return false;
    for (const char c : name) {
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_') return false;
    }
    return true;
  }
  void Line(const std::string& line) {
    std::istringstream words(line);
    std::string hash;
    std::string keyword;
    if (line.starts_with("# HELP ")) {
      words >> hash >> keyword >> family_;
      EXPECT_TRUE(IsName(family_)) << line;
      EXPECT_TRUE(family_.starts_with("ebb_")) << line;
      EXPECT_EQ(types_.count(family_), 0U) << "a family in two pieces: " << line;
      std::string help;
      EXPECT_TRUE(words >> help) << "no help: " << line;
      return;
    }
    if (line.starts_with("# TYPE ")) {
      std::string family;
      words >> hash >> keyword >> family;
      EXPECT_EQ(family, family_) << "TYPE without its HELP";
      words >> types_[family];
      EXPECT_TRUE((std::set<std::string>{"counter", "gauge", "summary"}.contains(types_[family])))
          << line;
      return;
    }
    Sample(line);
  }
  void Sample(const std::string& line) {
    const std::size_t space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos) << line;
    const std::string series = line.substr(0, space);
    char* end = nullptr;
    const double number = std::strtod(line.c_str() + space + 1, &end);
    EXPECT_EQ(*end, '\0') << line;
    EXPECT_TRUE(samples_.emplace(series, number).second) << series << " stands twice";
    const std::size_t brace = series.find('{');
    std::string name = series.substr(0, brace);
    if (types_[family_] == "summary") {
      for (const std::string suffix : {"_sum", "_count"}) {
        if (name == family_ + suffix) name = family_;
      }
    }
    EXPECT_EQ(name, family_) << line;
    if (types_[family_] == "counter") {
      EXPECT_TRUE(name.ends_with("_total")) << line;
    }
    if (brace == std::string::npos) return;
    ASSERT_EQ(series.back(), '}') << line;
    std::istringstream labels(series.substr(brace + 1, series.size() - brace - 2));
    for (std::string label; std::getline(labels, label, ',');) {
      const std::size_t equals = label.find("=\"");
      ASSERT_NE(equals, std::string::npos) << line;
      EXPECT_TRUE(IsName(label.substr(0, equals))) << line;
      EXPECT_EQ(label.find('"', equals + 2), label.size() - 1) << line;
    }
  }

  std::string family_;
  std::map<std::string, std::string> types_;
  std::map<std::string, double> samples_;
};

TEST(MetricsTest, PrometheusTextIsWellFormedAndHoldsEveryNumber) {
  const MetricsSnapshot metrics = Distinct();
  const Exposition text(ToPrometheus(metrics));
  EXPECT_EQ(text.samples().size(), 2 + internal::kMetricFields.size() +
                                       kOpKindCount * (internal::kOperationFields.size() + 7));
  for (const auto& field : internal::kMetricFields) {
    EXPECT_EQ(text.samples().at(std::string("ebb_") + field.name + "_total"),
              static_cast<double>(metrics.*field.value));
  }
  for (std::size_t i = 0; i < kOpKindCount; ++i) {
    const std::string op = std::string("{op=\"") + NameOf(static_cast<OpKind>(i)) + "\"";
    const OperationMetrics& operation = metrics.operations[i];
    for (const auto& field : internal::kOperationFields) {
      EXPECT_EQ(text.samples().at(std::string("ebb_") + field.name + "_total" + op + "}"),
                static_cast<double>(operation.*field.value));
    }
    const LatencySummary& latency = operation.latency;
    const std::string name = "ebb_operation_latency_seconds";
    const auto near = [&](const std::string& series, std::uint64_t ns) {
      EXPECT_NEAR(text.samples().at(series), static_cast<double>(ns) * 1e-9, 1e-12) << series;
    };
    near(name + op + ",quantile=\"0.5\"}", latency.p50_ns);
    near(name + op + ",quantile=\"0.95\"}", latency.p95_ns);
    near(name + op + ",quantile=\"0.99\"}", latency.p99_ns);
    near(name + op + ",quantile=\"0.999\"}", latency.p999_ns);
    near(name + "_sum" + op + "}", latency.sum_ns);
    near("ebb_operation_latency_max_seconds" + op + "}", latency.max_ns);
    EXPECT_EQ(text.samples().at(name + "_count" + op + "}"), static_cast<double>(latency.count));
  }
  EXPECT_EQ(text.types().at("ebb_operation_latency_seconds"), "summary");
  EXPECT_EQ(text.types().at("ebb_write_amplification"), "gauge");
}

TEST(MetricsTest, TextOfAStoreOmitsLatenciesThatWereNotMeasured) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Must(store.Upsert(1, 1));
  const Exposition text(ToPrometheus(store.Metrics()));
  EXPECT_EQ(text.samples().at("ebb_operations_total{op=\"upsert\"}"), 1.0);
  EXPECT_EQ(text.types().count("ebb_operation_latency_seconds"), 0U);
  EXPECT_EQ(JsonNumbers(ToJson(store.Metrics())).numbers().at("operations.upsert.operations"), 1.0);
}

}  // namespace
}  // namespace ebb::test
