// Durability: the promises of the modes, Commit, WaitDurable and named sessions, as users see them.
//
// The durable data is the data that a simulated loss of power leaves when nothing unsynced
// survives.
//
// Hazards: 5, 38 (sessions that begin and end during commits), 6 (an idle session).
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using Reports = std::vector<SessionReport>;

absl::StatusOr<U64Store> OpenWith(Durability durability, internal::FileSystem& files,
                                  int pool_threads = 0) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.pool_threads = pool_threads;
  Options options = TinyOptions();
  options.durability = durability;
  options.commit_interval_ms = 2;
  return OpenIn<U64Store>("db", environment, options);
}

// The state that a store would recover after a loss of power now.
U64Store AfterCrash(const SimFileSystem& files, std::unique_ptr<SimFileSystem>& after,
                    std::uint64_t seed = kNothingSurvives) {
  after = files.Crash(seed);
  EXPECT_TRUE(Verifies(*after, "db"));
  U64Store store = Must(OpenTiny<U64Store>("db", after.get()));
  EXPECT_TRUE(Verifies(store));
  return store;
}

TEST(DurabilityTest, ManualAndNoneMakeNothingDurableAutomatically) {
  for (const Durability durability : {Durability::kManual, Durability::kNone}) {
    SimFileSystem files;
    auto store = Must(OpenWith(durability, files, 1));
    Must(store.Upsert(1, 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::unique_ptr<SimFileSystem> after;
    EXPECT_FALSE(Must(AfterCrash(files, after).Contains(1)));
    Must(store.Commit());
    EXPECT_TRUE(Must(AfterCrash(files, after).Contains(1)));
  }
}

TEST(DurabilityTest, PeriodicCommitsAreAutomatic) {
  SimFileSystem files;
  auto store = Must(OpenWith(Durability::kPeriodic, files, 1));
  std::unique_ptr<SimFileSystem> after;
  for (std::uint64_t key = 1; key < 4; ++key) {
    Must(store.Upsert(key, key));
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!Must(AfterCrash(files, after).Contains(key))) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // Nothing has changed since: nothing is written.
  while (store.Stats().durable_address != store.Stats().tail_address) std::this_thread::yield();
  const std::uint64_t commits = store.Metrics().commits;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(store.Metrics().commits, commits);
}

TEST(DurabilityTest, WithAlwaysEachUpdateIsDurableWhenItReturns) {
  SimFileSystem files;
  auto store = Must(OpenWith(Durability::kAlways, files));
  std::unique_ptr<SimFileSystem> after;
  Must(store.Upsert(1, 1));
  EXPECT_EQ(Must(AfterCrash(files, after).Read(1)), 1U);
  Must(store.Upsert(1, 2));
  EXPECT_EQ(Must(AfterCrash(files, after).Read(1)), 2U);
  Must(store.Rmw(1, [](std::uint64_t& n) { n += 5; }));
  EXPECT_EQ(Must(AfterCrash(files, after).Read(1)), 7U);
  Must(store.InsertIfAbsent(2, 3));
  EXPECT_EQ(Must(AfterCrash(files, after).Read(2)), 3U);
  Must(store.Delete(1));
  EXPECT_FALSE(Must(AfterCrash(files, after).Contains(1)));
  const std::uint64_t commits = store.Metrics().commits;
  EXPECT_EQ(store.Delete(1).code(), StatusCode::kNotFound);  // has changed nothing
  EXPECT_EQ(store.Metrics().commits, commits);
}

TEST(DurabilityTest, WithAlwaysAFailedCommitIsTheUpdatesAnswer) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  auto store = Must(OpenWith(Durability::kAlways, files));
  Must(store.Upsert(1, 1));
  files.Arm({.kind = CallKind::kSync});
  EXPECT_TRUE(FailsWith(store.Upsert(1, 2), StatusCode::kUnavailable, "sync"));
  EXPECT_EQ(Must(store.Read(1)), 2U);
  EXPECT_TRUE(FailsWith(store.Upsert(1, 3), StatusCode::kUnavailable, "sync"));
  EXPECT_FALSE(store.Close().ok());
}

TEST(DurabilityTest, ACommitCostsOneSync) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 1024;  // or new files take more syncs
  Options options = TinyOptions();
  options.durability = Durability::kManual;
  auto store = Must(OpenIn<U64Store>("db", environment, options));
  auto session = Must(store.NewSession("a"));
  for (std::uint64_t i = 0; i < 5; ++i) {
    Must(session.Upsert(i, i));
    files.ResetCounts();
    Must(store.Commit());
    EXPECT_EQ(files.Count(CallKind::kSync), 1U);
    EXPECT_EQ(files.Count(CallKind::kSyncDirectory), 0U);
    EXPECT_LE(files.Count(CallKind::kWrite), 2U);
  }
}

// While one commit is held at its sync, many callers wait; the next one serves all of them.
TEST(DurabilityTest, WaitingCallersShareOneCommit) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  auto store = Must(OpenWith(Durability::kAlways, files));
  files.Hold(CallKind::kSync);
  std::vector<std::thread> writers;
  writers.emplace_back([&] { Must(store.Upsert(0, 0)); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kSync, 1));
  for (std::uint64_t key = 1; key < 8; ++key) {
    writers.emplace_back([&store, key] { Must(store.Upsert(key, key)); });
  }
  // All effects are there before the first commit ends.
  for (std::uint64_t key = 1; key < 8; ++key) {
    while (!Must(store.Contains(key))) std::this_thread::yield();
  }
  files.Release(CallKind::kSync);
  for (std::thread& writer : writers) writer.join();
  EXPECT_LE(store.Metrics().commits, 3U);
  std::unique_ptr<SimFileSystem> after;
  U64Store recovered = AfterCrash(disk, after);
  for (std::uint64_t key = 0; key < 8; ++key) EXPECT_EQ(Must(recovered.Read(key)), key);
}

TEST(DurabilityTest, CloseWaitsForUpdatesThatWaitForTheirCommit) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  auto store = Must(OpenWith(Durability::kAlways, files));
  files.Hold(CallKind::kSync);
  std::thread writer([&] { Must(store.Upsert(1, 1)); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kSync, 1));
  std::thread closer([&] { Must(store.Close()); });
  while (store.Read(2).status().code() != StatusCode::kFailedPrecondition) {
    std::this_thread::yield();
  }
  files.Release(CallKind::kSync);
  writer.join();
  closer.join();
}

TEST(DurabilityTest, AStoreInMemoryRejectsDurability) {
  Options options = TinyOptions();
  options.durability = Durability::kAlways;
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>("", environment, options).status(),
                        StatusCode::kInvalidArgument, "durability"));
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  EXPECT_TRUE(FailsWith(store.Commit(), StatusCode::kFailedPrecondition, "in memory"));
  EXPECT_TRUE(FailsWith(session.WaitDurable(), StatusCode::kFailedPrecondition, "in memory"));
}

TEST(DurabilityTest, CommitsAfterCloseAreRejected) {
  SimFileSystem files;
  auto store = Must(OpenWith(Durability::kManual, files));
  auto session = store.NewSession();
  Must(store.Close());
  EXPECT_TRUE(FailsWith(store.Commit(), StatusCode::kFailedPrecondition, "closed"));
  EXPECT_TRUE(FailsWith(session.WaitDurable(), StatusCode::kFailedPrecondition, "closed"));
  EXPECT_TRUE(FailsWith(store.NewSession("a").status(), StatusCode::kFailedPrecondition));
  EXPECT_TRUE(FailsWith(store.ForgetSession("a"), StatusCode::kFailedPrecondition));
}

// ---- named sessions ----

TEST(DurabilityTest, SerialsCountUpdatesThatWereNotRejected) {
  SimFileSystem files;
  auto store = Must(OpenWith(Durability::kManual, files));
  auto session = Must(store.NewSession("a"));
  EXPECT_EQ(session.name(), "a");
  EXPECT_EQ(session.serial(), 0U);
  Must(session.Upsert(1, 1));                           // appended
  Must(session.Upsert(1, 2));                           // in place
  Must(session.Rmw(1, [](std::uint64_t& n) { ++n; }));  // in place
  Must(session.Rmw(2, [](std::uint64_t& n) { ++n; }));  // appended
  EXPECT_EQ(session.serial(), 4U);
  EXPECT_EQ(session.Delete(3).code(), StatusCode::kNotFound);
  EXPECT_EQ(session.InsertIfAbsent(1, 1).code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(session.serial(), 6U);
  Must(session.Delete(1));
  Must(session.InsertIfAbsent(1, 1));
  EXPECT_EQ(session.serial(), 8U);
  EXPECT_EQ(Must(session.Read(1)), 1U);
  Must(store.Close());
  EXPECT_FALSE(session.Upsert(1, 1).ok());
  EXPECT_EQ(session.serial(), 8U);
}

TEST(DurabilityTest, OpenReportsTheDurableSerialsAndSessionsContinue) {
  SimFileSystem files;
  std::unique_ptr<SimFileSystem> after;
  auto store = Must(OpenWith(Durability::kManual, files));
  EXPECT_TRUE(store.recovery().created);
  EXPECT_EQ(store.recovery().sessions, Reports{});
  auto a = Must(store.NewSession("a"));
  EXPECT_TRUE(FailsWith(store.NewSession("a").status(), StatusCode::kFailedPrecondition, "'a'"));
  auto b = Must(store.NewSession("b"));
  auto unnamed = store.NewSession();
  for (std::uint64_t i = 1; i <= 10; ++i) Must(a.Upsert(100, i));
  for (std::uint64_t i = 1; i <= 5; ++i) Must(b.Upsert(200, i));
  Must(unnamed.Upsert(300, 1));
  Must(a.WaitDurable());
  for (std::uint64_t i = 11; i <= 20; ++i) Must(a.Upsert(100, i));
  {
    U64Store recovered = AfterCrash(files, after);
    EXPECT_FALSE(recovered.recovery().created);
    EXPECT_EQ(recovered.recovery().sessions, (Reports{{"a", 10}, {"b", 5}}));
    EXPECT_EQ(Must(recovered.Read(100)), 10U);
    auto again = Must(recovered.NewSession("a"));
    EXPECT_EQ(again.serial(), 10U);
    Must(again.Upsert(100, 77));
    EXPECT_EQ(again.serial(), 11U);
    Must(recovered.Close());
  }
  std::unique_ptr<SimFileSystem> later = after->Crash(kNothingSurvives);
  auto reopened = Must(OpenTiny<U64Store>("db", later.get()));
  EXPECT_EQ(reopened.recovery().sessions, (Reports{{"a", 11}, {"b", 5}}));
  Must(reopened.ForgetSession("b"));
  EXPECT_TRUE(FailsWith(reopened.ForgetSession("b"), StatusCode::kNotFound, "'b'"));
  Must(reopened.Close());
  auto last = Must(OpenTiny<U64Store>("db", later.get()));
  EXPECT_EQ(last.recovery().sessions, (Reports{{"a", 11}}));
}

// A call that changes nothing takes a serial too; the commit must not think itself needless.
TEST(DurabilityTest, SerialsAloneAreWorthACommit) {
  SimFileSystem files;
  std::unique_ptr<SimFileSystem> after;
  auto store = Must(OpenWith(Durability::kManual, files));
  auto session = Must(store.NewSession("a"));
  Must(session.Upsert(1, 1));
  Must(store.Commit());
  EXPECT_EQ(session.Delete(2).code(), StatusCode::kNotFound);
  Must(session.WaitDurable());
  EXPECT_EQ(AfterCrash(files, after).recovery().sessions, (Reports{{"a", 2}}));
}

// More names than fit a page of the log: several records, one commit.
TEST(DurabilityTest, ManySessionsAreRecorded) {
  SimFileSystem files;
  std::unique_ptr<SimFileSystem> after;
  auto store = Must(OpenWith(Durability::kManual, files));
  Reports expected;
  std::vector<U64Store::Session> sessions;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const std::string number = std::to_string(1000 + i);
    expected.push_back({number + std::string(i, 'x'), i % 3 + 1});
    sessions.push_back(Must(store.NewSession(expected.back().name)));
    for (std::uint64_t n = 0; n < i % 3 + 1; ++n) Must(sessions.back().Upsert(i, n));
  }
  Must(store.Commit());
  for (const std::uint64_t seed : {kNothingSurvives, kEverythingSurvives}) {
    EXPECT_EQ(AfterCrash(files, after, seed).recovery().sessions, expected);
  }
}

// One thread writes through sessions of one name, one after the other, while another commits: each
// update notes its number under its own key, so a prefix is recognized at once.
TEST(DurabilityTest, SessionsThatComeAndGoDuringCommitsAreCutAtTheirSerial) {
  constexpr std::size_t kCrashes = 100;
  SimFileSystem files;
  auto store = Must(OpenWith(Durability::kManual, files));
  internal::Atomic<std::uint64_t> written{0};
  internal::Atomic<bool> enough{false};
  std::thread writer([&] {
    while (!enough.load(std::memory_order_acquire)) {
      auto session = Must(store.NewSession("a"));
      const std::uint64_t until = session.serial() + session.serial() % 7 + 1;
      while (session.serial() < until) {
        Must(session.Upsert((session.serial() + 1) % 50, session.serial() + 1));
      }
      written.store(session.serial(), std::memory_order_release);
    }
  });
  std::vector<std::unique_ptr<SimFileSystem>> crashes;
  std::uint64_t seen = 0;
  while (crashes.size() < kCrashes) {
    Must(store.Commit());
    crashes.push_back(files.Crash(crashes.size()));
    while (written.load(std::memory_order_acquire) == seen) std::this_thread::yield();
    seen = written.load(std::memory_order_acquire);
  }
  enough.store(true, std::memory_order_release);
  writer.join();
  for (const auto& crash : crashes) {
    EXPECT_TRUE(Verifies(*crash, "db"));
    auto recovered = Must(OpenTiny<U64Store>("db", crash.get()));
    const Reports& sessions = recovered.recovery().sessions;
    const std::uint64_t serial = sessions.empty() ? 0 : sessions[0].serial;
    for (std::uint64_t key = 0; key < 50; ++key) {
      // The newest number up to the serial that falls on this key.
      const std::uint64_t expected =
          serial < key || (key == 0 && serial < 50) ? 0 : serial - (serial - key) % 50;
      std::uint64_t value = 0;
      const absl::Status status = recovered.Read(key, value);
      ASSERT_EQ(status.ok() ? value : 0, expected) << "key " << key << ", serial " << serial;
    }
  }
}

}  // namespace
}  // namespace ebb::test
