// Memory that runs out: every allocation of the library, after opening too, fails.
//
// Workloads: each runs once for each of its allocations (or a stride of them), which fails alone,
// or with the next few, or with all that follow. Nothing is thrown and nothing hangs; each failure
// returns ResourceExhausted and has no effect; and when there is memory again, the next commit
// covers everything that was accepted, and reopening finds it.
//
// Calls: each public call, with each of its allocations failing, or that and all later ones. Then
// the same call works, and the store holds the same.
//
// Threads: users, commits, checkpoints and collections at their intervals, while again and again
// there is no memory for some milliseconds, for all of them or for the library's threads alone.
// Afterwards the intervals continue, and accepted updates are there.
//
// Hazard: 57 (an exception between "taken" and "returned").
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/account.h"
#include "tests/support/allocation_count.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

// Ends the process with a message when a part takes too long: nothing else ends a hang.
class Watchdog {
 public:
  explicit Watchdog(std::string what) : what_(std::move(what)), thread_([this] { Watch(); }) {}
  ~Watchdog() {
    done_.store(true);
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  // Something has ended.
  void Pat() { ++pats_; }

 private:
  void Watch() {
    const OutsideLibrary outside;
    constexpr int kTicks = 60 * 50;
    std::uint64_t seen = 0;
    for (int ticks = 0; !done_.load(); ++ticks) {
      if (seen != pats_.load()) ticks = 0;
      seen = pats_.load();
      if (ticks == kTicks) {
        std::fprintf(stderr, "nothing has ended for a minute: %s, EBB_STRESS_SEED=%llu\n",
                     what_.c_str(), static_cast<unsigned long long>(Seed()));
        std::abort();
      }
      std::this_thread::sleep_for(milliseconds(20));
    }
  }

  const std::string what_;
  std::atomic<std::uint64_t> pats_{0};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// ---- workloads ----

const Workload kMoreWorkloads[] = {
    {"scans, batches and asynchronous calls",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.BatchUpserts(12);
       account.Upserts(26);
       account.AsyncReads();
       account.BatchReads();
       account.AsyncRmws(10);
       account.Scan();
       account.Commit();
       account.BatchUpserts(12);
       account.AsyncRmws(12);
       account.Scan();
       account.Close();
     }},
    {"backups, verification, growth and statistics",
     [](Account& account, internal::FileSystem& files) {
       account.Open(files);
       account.Upserts(30);
       account.Backup(files);
       account.Look();
       account.Grow();
       account.Rmws(4);
       account.Verify();
       account.Backup(files);
       account.Look();
       account.Close();
     }},
};

struct Counts {
  std::uint64_t runs = 0;
  std::uint64_t failed = 0;  // allocations
  std::uint64_t told = 0;
};

// One run. False when the workload ends before an allocation has failed.
bool RunWithout(const Workload& workload, AllocationFaults faults, Counts& counts) {
  SCOPED_TRACE(std::string(workload.name) + ", allocation " + std::to_string(faults.first) +
               (faults.count == kAllOfThem ? " and all later ones"
                                           : " and " + std::to_string(faults.count - 1) + " more"));
  SimFileSystem files;
  Account account;
  FailAllocations(faults);
  try {
    workload.run(account, files);
  } catch (const std::bad_alloc&) {
    ADD_FAILURE() << "threw";
  }
  const std::uint64_t failed = StopFailing();
  if (failed == 0) return false;
  ++counts.runs;
  counts.failed += failed;
  counts.told += account.failures().size();
  for (const absl::Status& status : account.failures()) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_FALSE(account.poisoned()) << account.cause();
  EXPECT_TRUE(ReopensRight(files, account, counts.runs % 8 == 0 ? 1 : 0));
  EXPECT_TRUE(account.ReadsGoOn());
  const std::size_t failures = account.failures().size();
  if (account.is_open()) {
    account.Upserts(3);
    account.Commit();
    account.Scan();
    account.Close();
  } else if (account.close_has_failed()) {
    account.Close();
  }
  EXPECT_EQ(account.failures().size(), failures) << account.failures().back();
  account.ReleaseResources();
  EXPECT_TRUE(ReopensRight(files, account, 0));
  return true;
}

TEST(MemoryFaultTest, AnyAllocationThatFailsLosesNothing) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  const WithoutClosingErrors quiet;
  Watchdog watchdog("workloads");
  Counts counts;
  // A fifth of the allocations at scale 1, all of them from 5 on.
  const auto stride = static_cast<std::uint64_t>(std::max(1.0, 5 / Scale()));
  std::uint64_t start = Seed();
  std::vector<Workload> workloads(Workloads().begin(), Workloads().end());
  workloads.insert(workloads.end(), std::begin(kMoreWorkloads), std::end(kMoreWorkloads));
  for (const Workload& workload : workloads) {
    for (const std::uint64_t count :
         {std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{20}, kAllOfThem}) {
      for (std::uint64_t first = 1 + start++ % stride;; first += stride) {
        if (!RunWithout(workload, {.first = first, .count = count}, counts)) break;
        watchdog.Pat();
        if (testing::Test::HasFailure()) return;
      }
    }
  }
  std::printf("%llu runs, %llu failed allocations, %llu errors told\n",
              static_cast<unsigned long long>(counts.runs),
              static_cast<unsigned long long>(counts.failed),
              static_cast<unsigned long long>(counts.told));
  EXPECT_GE(counts.runs, static_cast<std::uint64_t>(500 * std::min(1.0, Scale())));
  EXPECT_GE(counts.failed, static_cast<std::uint64_t>(2000 * std::min(1.0, Scale())));
}

// ---- calls ----

using Call = std::function<absl::Status(StringStore&)>;
struct NamedCall {
  const char* name;
  Call call;
};

constexpr int kKeys = 60;

// Created once: the allocations of a call below are the library's.
struct Texts {
  Texts() {
    for (int i = 0; i < kKeys; ++i) {
      keys.push_back("a key that is longer than short strings " + std::to_string(i));
      values.emplace_back(300, static_cast<char>('a' + i % 26));
    }
  }
  std::vector<std::string> keys;
  std::vector<std::string> values;
  const std::string too_long = std::string(1 << 20, 'x');
};
const Texts& AllTexts() {
  static const Texts texts;
  return texts;
}
const std::string& KeyNumber(int i) { return AllTexts().keys[static_cast<std::size_t>(i)]; }
const std::string& ValueNumber(int i) { return AllTexts().values[static_cast<std::size_t>(i)]; }

template <typename Operation>
Call WithSession(Operation operation) {
  return [operation](StringStore& store) {
    auto session = store.NewSession();
    return operation(session);
  };
}

// Each finds the state that the others have left: they change nothing, or restore it.
std::vector<NamedCall> Operations() {
  using S = StringStore::Session;
  return {
      {"NewSession", WithSession([](S& s) { return s.Contains(KeyNumber(1)).status(); })},
      {"NewSession by name",
       [](StringStore& store) {
         return store.NewSession("a session with quite a long name").status();
       }},
      {"NewSession and ForgetSession",
       [](StringStore& store) {
         constexpr const char* kName = "another session with a long name";
         absl::Status status = store.NewSession(kName).status();
         return status.ok() ? store.ForgetSession(kName) : status;
       }},
      {"Read by value", WithSession([](S& s) { return s.Read(KeyNumber(2)).status(); })},
      {"Read from the device", WithSession([](S& s) {
         std::string value;
         absl::Status status;
         for (int i = 0; i < 12; ++i) status.Update(s.Read(KeyNumber(i), value));
         return status;
       })},
      {"Read with a visitor",
       WithSession([](S& s) { return s.Read(KeyNumber(kKeys - 1), [](std::string_view) {}); })},
      {"Upsert", WithSession([](S& s) { return s.Upsert(KeyNumber(3), ValueNumber(3)); })},
      {"Rmw", WithSession([](S& s) {
         absl::Status status = s.Rmw(KeyNumber(4), [](std::string& v) { v = ValueNumber(4); });
         if (status.ok()) status = s.Rmw(KeyNumber(5), [](std::string& v) { v += std::string(); });
         return status;
       })},
      {"Delete and InsertIfAbsent", WithSession([](S& s) {
         absl::Status status = s.Delete(KeyNumber(6));
         if (absl::IsNotFound(status)) status = absl::OkStatus();
         if (status.ok()) status = s.InsertIfAbsent(KeyNumber(6), ValueNumber(6));
         return status;
       })},
      {"CompareExchange", WithSession([](S& s) {
         return s.CompareExchange(KeyNumber(7), ValueNumber(7), ValueNumber(7));
       })},
      {"too long a value", WithSession([](S& s) {
         const absl::Status status = s.Upsert(KeyNumber(0), AllTexts().too_long);
         return absl::IsInvalidArgument(status) ? absl::OkStatus() : status;
       })},
      {"calls of the store itself, in a new thread",
       [](StringStore& store) {
         absl::Status status;
         const auto use = [&] {
           const InLibrary in_library;
           status = store.Upsert(KeyNumber(8), ValueNumber(8));
           status.Update(store.Read(KeyNumber(9)).status());
         };
         const OutsideLibrary outside;
         std::thread([&] {
           const OutsideLibrary outside_too;
           use();
         }).join();
         return status;
       }},
  };
}

std::vector<NamedCall> Asynchronous() {
  using S = StringStore::Session;
  return {
      {"asynchronous calls", WithSession([](S& s) {
         absl::Status status;
         int told = 0;
         const auto done = [&](absl::Status outcome) {
           ++told;
           status.Update(outcome);
         };
         s.ReadAsync(KeyNumber(1), [&](absl::StatusOr<std::string> v) { done(v.status()); });
         s.ReadAsync(KeyNumber(2), [&](absl::StatusOr<std::string> v) { done(v.status()); });
         s.RmwAsync(
             KeyNumber(3), [](std::string& v) { v = ValueNumber(3); }, done);
         s.CompareExchangeAsync(KeyNumber(4), ValueNumber(4), ValueNumber(4), done);
         s.InsertIfAbsentAsync(KeyNumber(5), "", [&](absl::Status outcome) {
           done(absl::IsAlreadyExists(outcome) ? absl::OkStatus() : outcome);
         });
         s.DeleteAsync("no such key, and a long one at that", [&](absl::Status outcome) {
           done(absl::IsNotFound(outcome) ? absl::OkStatus() : outcome);
         });
         s.CompletePending();
         EXPECT_EQ(told, 6);
         return status;
       })},
      {"NewScan",
       [](StringStore& store) {
         int count = 0;
         auto scan = store.NewScan("a key");
         while (scan.Next()) ++count;
         if (scan.status().ok()) EXPECT_EQ(count, kKeys);
         return scan.status();
       }},
      {"ScanAll", [](StringStore& store) { return store.ScanAll().status(); }},
  };
}

std::vector<NamedCall> Jobs() {
  using S = StringStore::Session;
  return {
      {"Commit", [](StringStore& store) { return store.Commit(); }},
      {"Upsert and Commit",
       [](StringStore& store) {
         absl::Status status = store.Upsert(KeyNumber(10), ValueNumber(10));
         return status.ok() ? store.Commit() : status;
       }},
      {"WaitDurable", WithSession([](S& s) {
         absl::Status status = s.Upsert(KeyNumber(11), ValueNumber(11));
         return status.ok() ? s.WaitDurable() : status;
       })},
      {"Checkpoint",
       [](StringStore& store) {
         absl::Status status = store.Upsert(KeyNumber(12), ValueNumber(12));
         return status.ok() ? store.Checkpoint().status() : status;
       }},
      {"CleanupCheckpoints",
       [](StringStore& store) { return store.CleanupCheckpoints(1).status(); }},
      {"GrowIndex",
       [](StringStore& store) {
         return store.Stats().index_bucket_count > 64 ? absl::OkStatus() : store.GrowIndex();
       }},
      {"CollectGarbage",
       [](StringStore& store) {
         return store
             .CollectGarbage(
                 {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 6 * 4096})
             .status();
       }},
      {"ShouldCollect", [](StringStore& store) { return store.ShouldCollect().status(); }},
      {"EstimateGarbage", [](StringStore& store) { return store.EstimateGarbage().status(); }},
      {"background",
       [](StringStore& store) {
         Must(store.StopBackground());
         Must(store.StartBackground());
         static_cast<void>(store.GetBackgroundStats());
         return absl::OkStatus();
       }},
      {"Verify", [](StringStore& store) { return store.Verify().status(); }},
      {"Backup",
       [number = 0](StringStore& store) mutable {
         std::string path;
         {
           const OutsideLibrary outside;
           path = "a directory for a copy, number " + std::to_string(number++);
         }
         return store.Backup(path).status();
       }},
      {"statistics",
       [](StringStore& store) {
         static_cast<void>(store.Stats());
         static_cast<void>(store.Metrics());
         store.ResetMetrics();
         static_cast<void>(store.ListCheckpoints());
         static_cast<void>(store.GetCheckpointStats());
         static_cast<void>(store.ApproximateSize());
         return absl::OkStatus();
       }},
  };
}

absl::StatusOr<StringStore> OpenStrings(internal::FileSystem& files) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  Options options = TinyOptions();
  options.measure_latency = true;
  return OpenIn<StringStore>("db", environment, options);
}

Model<std::string, std::string> Fill(StringStore& store) {
  Model<std::string, std::string> model;
  auto session = store.NewSession();
  for (int i = 0; i < kKeys; ++i) {
    Must(session.Upsert(KeyNumber(i), ValueNumber(i)));
    model[KeyNumber(i)] = ValueNumber(i);
  }
  return model;
}

TEST(MemoryFaultTest, AnyCallWithoutMemoryReportsItAndCanBeRepeated) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  Watchdog watchdog("calls");
  SimFileSystem files;
  auto store = Must(OpenStrings(files));
  const Model<std::string, std::string> model = Fill(store);
  std::uint64_t failures = 0;
  std::vector<NamedCall> calls;
  for (auto& some : {Operations(), Asynchronous(), Jobs()}) {
    calls.insert(calls.end(), some.begin(), some.end());
  }
  for (const NamedCall& named : calls) {
    for (const std::uint64_t count : {std::uint64_t{1}, kAllOfThem}) {
      for (std::uint64_t first = 1;; ++first) {
        SCOPED_TRACE(std::string(named.name) + ", allocation " + std::to_string(first) +
                     (count == 1 ? "" : " and all later ones"));
        FailAllocations({.first = first, .count = count});
        absl::Status status = absl::OkStatus();
        try {
          status = Inside([&] { return named.call(store); });
        } catch (const std::bad_alloc&) {
          ADD_FAILURE() << "threw";
        }
        const std::uint64_t failed = StopFailing();
        watchdog.Pat();
        if (!status.ok()) EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
        failures += failed;
        if (failed == 0) Must(status);
        if (first % 7 == 0) ASSERT_TRUE(Holds(store, model));
        if (testing::Test::HasFailure()) return;
        if (failed == 0) break;
      }
    }
    ASSERT_TRUE(Holds(store, model)) << named.name;
    EXPECT_EQ(named.call(store), absl::OkStatus()) << named.name;
    const CheckpointStats checkpoints = store.GetCheckpointStats();
    EXPECT_FALSE(checkpoints.in_progress);
    EXPECT_FALSE(store.GetBackgroundStats().active);
  }
  std::printf("%llu failed allocations\n", static_cast<unsigned long long>(failures));
  EXPECT_GE(failures, 600U);
  Must(store.Commit());
  Must(store.Close());
  store = Must(OpenStrings(files));
  EXPECT_TRUE(Holds(store, model));
}

// A session that could not be made stays one whose calls say so, in any thread; others can be made.
TEST(MemoryFaultTest, ASessionWithoutMemoryRejectsEveryCall) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  SimFileSystem files;
  auto store = Must(OpenStrings(files));
  Fill(store);
  FailAllocations({.count = kAllOfThem});
  auto lacking = Inside([&] { return store.NewSession(); });
  auto another = Inside([&] { return store.NewSession(); });
  EXPECT_EQ(store.Read(KeyNumber(1)).status().code(), absl::StatusCode::kOk);
  EXPECT_GE(StopFailing(), 2U);
  const auto lacks = [](const absl::Status& status) {
    return FailsWith(status, absl::StatusCode::kResourceExhausted, "no memory");
  };
  std::thread thread([&] {
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(lacks(another.Read(KeyNumber(1)).status()));
  });
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(lacks(lacking.Upsert(KeyNumber(1), "x")));
  thread.join();
  EXPECT_TRUE(lacks(lacking.Rmw(KeyNumber(1), [](std::string& v) { v = "x"; })));
  EXPECT_TRUE(lacks(lacking.Delete(KeyNumber(1))));
  EXPECT_TRUE(lacks(lacking.Contains(KeyNumber(1)).status()));
  EXPECT_TRUE(lacks(lacking.Upsert(KeyNumber(1), AllTexts().too_long)));
  EXPECT_TRUE(lacks(lacking.WaitDurable()));
  absl::Status told;
  lacking.DeleteAsync(KeyNumber(1), [&](absl::Status status) { told = status; });
  EXPECT_TRUE(lacks(told));
  const std::string_view keys[] = {"a", "b"};
  std::vector<absl::Status> results(2);
  EXPECT_EQ(lacking.DeleteBatch(keys, results), 0U);
  EXPECT_TRUE(lacks(results[1]));
  EXPECT_EQ(lacking.CompletePending(), 0U);
  EXPECT_EQ(lacking.serial(), 0U);
  lacking = store.NewSession();
  EXPECT_EQ(*lacking.Read(KeyNumber(1)), ValueNumber(1));
  Must(store.Close());
}

// Close fails without memory and can be repeated; the destructor ends nothing but the store.
TEST(MemoryFaultTest, ClosingWithoutMemory) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  const WithoutClosingErrors quiet;
  Watchdog watchdog("closing");
  std::uint64_t failures = 0;
  for (const bool destroys : {false, true}) {
    for (const std::uint64_t count : {std::uint64_t{1}, kAllOfThem}) {
      for (std::uint64_t first = 1;; ++first) {
        SCOPED_TRACE("allocation " + std::to_string(first) + (destroys ? ", destroyed" : ""));
        SimFileSystem files;
        std::optional<StringStore> store(Must(OpenStrings(files)));
        const Model<std::string, std::string> model = Fill(*store);
        Must(store->Commit());
        Must(store->Upsert("another key", "another value"));
        FailAllocations({.first = first, .count = count});
        absl::Status closed;
        Inside([&] {
          if (destroys) return store.reset();
          closed = store->Close();
        });
        const std::uint64_t failed = StopFailing();
        failures += failed;
        watchdog.Pat();
        if (!closed.ok()) {
          EXPECT_TRUE(absl::IsResourceExhausted(closed)) << closed;
          EXPECT_EQ(store->Close(), absl::OkStatus());
        }
        store.reset();
        auto next = Must(OpenStrings(files));  // so the lock was released
        ASSERT_TRUE(Holds(next, model));
        if (!destroys) {
          EXPECT_EQ(*next.Read("another key"), "another value");
        }
        if (failed == 0) break;
      }
    }
  }
  EXPECT_GE(failures, 15U);
}

// A sync that fails poisons the store, whether or not there is memory to say so; otherwise the next
// one would be believed.
TEST(MemoryFaultTest, AFailedSyncIsNotForgottenForLackOfMemory) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  const WithoutClosingErrors quiet;
  for (std::uint64_t first = 1;; ++first) {
    SCOPED_TRACE("allocation " + std::to_string(first) + " and all later ones");
    SimFileSystem files;
    auto store = Must(OpenLedger(files));
    Must(store.Upsert(1, "a value"));
    files.FailNextSync(5, kNothingSurvives);
    FailAllocations({.first = first, .count = kAllOfThem});
    const absl::Status without = Inside([&] { return store.Commit(); });
    const std::uint64_t failed = StopFailing();
    EXPECT_FALSE(without.ok());
    const absl::Status with = store.Commit();
    EXPECT_TRUE(absl::IsUnavailable(with)) << with;
    EXPECT_TRUE(CoreOf(store).health.poisoned());
    if (testing::Test::HasFailure() || failed == 0) break;
  }
}

// ---- threads ----

class MemoryFaultThreads {
 public:
  explicit MemoryFaultThreads(const std::string& path) : path_(path) {
    options_.log_memory_bytes = 1 << 20;
    options_.page_bytes = 1 << 16;
    options_.segment_bytes = 1 << 20;
    options_.index_bucket_count = 1 << 10;
    options_.durability = Durability::kPeriodic;
    options_.commit_interval_ms = 5;
    options_.checkpoint_interval_ms = 100;
    options_.gc_interval_ms = 1000;
    options_.gc.min_reclaim_bytes = 1 << 18;
    options_.background_threads = 2;
  }

  void Run(bool only_library_threads, std::uint64_t stretches) {
    {
      auto store = Must(U64StringStore::Open(path_, options_));
      Write(store, only_library_threads, stretches);
      GoesOn(store);
      CheckValues(store);
      EXPECT_EQ(store.Commit(), absl::OkStatus());
      EXPECT_EQ(store.Close(), absl::OkStatus());
    }
    auto store = Must(U64StringStore::Open(path_, options_));
    CheckValues(store);
    EXPECT_EQ(Must(store.Verify()).problem_count, 0U);
  }
  std::uint64_t failed() const { return failed_; }

 private:
  static constexpr std::uint64_t kThreads = 2;
  static constexpr std::uint64_t kKeysOfThread = 300;

  void Write(U64StringStore& store, bool only_library_threads, std::uint64_t stretches) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] { WriteKeys(store, t, stop); });
    }
    std::mt19937_64 random(Seed());
    for (std::uint64_t i = 0; i < stretches; ++i) {
      std::this_thread::sleep_for(milliseconds(1 + random() % 8));
      FailAllocations({.first = 1 + random() % 3,
                       .count = random() % 3 == 0 ? 1 + random() % 20 : kAllOfThem,
                       .only_library_threads = only_library_threads});
      std::this_thread::sleep_for(milliseconds(1 + random() % 12));
      failed_ += StopFailing();
    }
    stop.store(true);
    for (std::thread& thread : threads) thread.join();
  }

  // A thread reads its accepted updates, and none of the rejected ones.
  void WriteKeys(U64StringStore& store, std::uint64_t t, const std::atomic<bool>& stop) {
    const OutsideLibrary outside;
    std::mt19937_64 random(Seed() + t);
    auto session = store.NewSession();
    std::vector<std::uint64_t>& stamps = stamps_[t];
    stamps.resize(kKeysOfThread);
    std::string read;
    for (std::uint64_t stamp = 1; !stop.load(); ++stamp) {
      const std::uint64_t n = random() % kKeysOfThread;
      const std::uint64_t key = n * kThreads + t;
      const std::string value = ValueOf(key, stamp);
      absl::Status status;
      switch (random() % 4) {
        case 0:
          status = Inside([&] { return session.Rmw(key, [&](std::string& v) { v = value; }); });
          break;
        case 1:
          status = Inside([&] { return session.Read(key, read); });
          if (status.ok() && read != ValueOf(key, stamps[n])) ADD_FAILURE() << "another value";
          if (!absl::IsNotFound(status)) Check(status);
          continue;
        default:
          status = Inside([&] { return session.Upsert(key, value); });
      }
      Check(status);
      if (status.ok()) stamps[n] = stamp;
      if (stamp % 64 == 0) std::this_thread::yield();
    }
  }
  static void Check(const absl::Status& status) {
    if (!status.ok()) EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  }
  static std::string ValueOf(std::uint64_t key, std::uint64_t stamp) {
    return std::to_string(stamp) + std::string(200 + stamp % 50, static_cast<char>('a' + key % 26));
  }

  // Commits, checkpoints and collections at their intervals, and commits that are asked for.
  void GoesOn(U64StringStore& store) {
    const std::uint64_t commits = store.Metrics().commits;
    const BackgroundStats before = store.GetBackgroundStats();
    const auto until = steady_clock::now() + seconds(60);
    std::uint64_t key = 0;
    const auto has_gone_on = [&] {
      const BackgroundStats now = store.GetBackgroundStats();
      return store.Metrics().commits > commits + 2 &&
             now.checkpoint.run_count > before.checkpoint.run_count + 1 &&
             now.gc.run_count > before.gc.run_count;
    };
    while (!has_gone_on() && steady_clock::now() < until) {
      Must(store.Upsert(kThreads * kKeysOfThread + key++ % 100, std::string(500, 'z')));
      std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_TRUE(has_gone_on()) << "what is done at intervals has stopped";
    Must(store.StopBackground());
    EXPECT_FALSE(store.GetBackgroundStats().active);
    EXPECT_FALSE(store.GetCheckpointStats().in_progress);
    Must(store.StartBackground());
  }

  void CheckValues(U64StringStore& store) {
    auto session = store.NewSession();
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      for (std::uint64_t n = 0; n < kKeysOfThread; ++n) {
        const std::uint64_t key = n * kThreads + t;
        const absl::StatusOr<std::string> value = session.Read(key);
        if (stamps_[t][n] == 0) {
          ASSERT_TRUE(absl::IsNotFound(value.status())) << value.status();
        } else {
          ASSERT_EQ(value.status(), absl::OkStatus());
          ASSERT_EQ(*value, ValueOf(key, stamps_[t][n])) << key;
        }
      }
    }
  }

  const std::string path_;
  Options options_;
  std::vector<std::uint64_t> stamps_[kThreads];
  std::uint64_t failed_ = 0;
};

void RunThreads(const char* name, bool only_library_threads) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  Watchdog watchdog(name);
  const TempDir dir;
  MemoryFaultThreads threads(dir / "db");
  threads.Run(only_library_threads,
              std::max<std::uint64_t>(5, static_cast<std::uint64_t>(60 * Scale())));
  std::printf("%llu failed allocations\n", static_cast<unsigned long long>(threads.failed()));
  EXPECT_GT(threads.failed(), 0U);
}

TEST(MemoryFaultTest, StretchesWithoutMemoryStopNothingPermanently) {
  RunThreads("all threads", false);
}

TEST(MemoryFaultTest, StretchesWithoutMemoryForTheLibrarysThreadsStopNothingPermanently) {
  RunThreads("library threads", true);
}

// The first flush to a new file, without memory for the file: others wait for its end.
TEST(MemoryFaultTest, AFlushWithoutMemoryEnds) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  const OutsideLibrary outside;
  Watchdog watchdog("a flush");
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  environment.pool_threads = 2;
  Options options = TinyOptions();
  options.preallocate_bytes = 0;
  auto store = Must(OpenIn<U64StringStore>("db", environment, options));
  auto session = store.NewSession();
  std::uint64_t accepted = 0;
  std::uint64_t failed = 0;
  for (int stretch = 0; stretch < 10; ++stretch) {
    FailAllocations({.count = kAllOfThem, .only_library_threads = stretch % 2 == 0});
    for (int i = 0; i < 40; ++i) {
      const std::string value(1000, 'x');
      const absl::Status status = Inside([&] { return session.Upsert(accepted, value); });
      if (!status.ok()) EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
      accepted += status.ok() ? 1 : 0;
    }
    failed += StopFailing();
    for (int i = 0; i < 20; ++i) Must(session.Upsert(accepted++, std::string(1000, 'x')));
    Must(store.Commit());
  }
  EXPECT_GT(failed, 0U);
  std::string value;
  for (std::uint64_t key = 0; key < accepted; ++key) Must(session.Read(key, value));
  Must(store.Close());
}

}  // namespace
}  // namespace ebb::test
