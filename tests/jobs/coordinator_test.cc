// Coordinator: Close, called again after an error, and while operations run; the destruction of a
// store that could not be closed.
#include "ebb/internal/jobs/coordinator.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "gtest/gtest.h"
#include "tests/support/crash_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

// A store that was only read is closed without a trace except for its open record, which its
// durable end covers too.
TEST(CoordinatorTest, CloseOfAnUnchangedStoreWritesNothing) {
  SimFileSystem files;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    Must(store.Upsert(1, 1));
    Must(store.Close());
  }
  auto store = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_EQ(Must(store.Read(1)), 1U);
  Snapshot open = SnapshotOf(files, "db");
  Must(store.Close());
  Snapshot closed = SnapshotOf(files, "db");
  open.erase(internal::kDurableEndName);
  closed.erase(internal::kDurableEndName);
  EXPECT_EQ(closed, open);
}

TEST(CoordinatorTest, CloseCanBeTriedAgainOnceThereIsRoom) {
  Rig rig;
  U64Model model;
  for (std::uint64_t skip = 0; skip < 5; ++skip) {
    auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
    for (std::uint64_t i = 0; i < 300; ++i) Must(store.Upsert(i, model[i] = i + skip));
    rig.faults.Arm({.kind = CallKind::kWrite, .skip = skip, .sticky = true, .error = ENOSPC});
    const absl::Status first = store.Close();
    const absl::Status second = store.Close();
    EXPECT_EQ(first, second);
    if (skip < 3) {
      EXPECT_EQ(first.code(), StatusCode::kResourceExhausted) << skip;
    }
    EXPECT_EQ(store.Read(1).status().code(), StatusCode::kFailedPrecondition);
    EXPECT_EQ(store.Upsert(1, 1).code(), StatusCode::kFailedPrecondition);
    if (!first.ok()) {  // the files are not released
      EXPECT_EQ(OpenTiny<U64Store>("db", &rig.faults).status().code(),
                StatusCode::kFailedPrecondition);
    }
    rig.faults.Disarm();
    Must(store.Close());
    Must(store.Close());
    EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(301)));
  }
}

// Destroying a store whose Close has failed discards the uncommitted updates, and only those; and
// it releases the files, although the thread's own session and another one outlive it.
TEST(CoordinatorTest, DestructionAfterAFailedCloseLeavesTheLastCommit) {
  Rig rig;
  U64Model model;
  std::optional<U64Store::Session> session;
  {
    internal::Environment environment = TinyEnvironment(&rig.faults);
    environment.pool_threads = 2;
    auto store = Must(OpenIn<U64Store>("db", environment));
    session.emplace(store.NewSession());
    for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, model[i] = i));
    Must(Commit(store));
    for (std::uint64_t i = 0; i < 500; ++i) Must(store.Upsert(i, 1));
    rig.faults.Arm({.kind = CallKind::kWrite, .sticky = true, .error = ENOSPC});
    EXPECT_EQ(store.Close().code(), StatusCode::kResourceExhausted);
  }
  rig.faults.Disarm();
  auto store = OpenTiny<U64Store>("db", &rig.faults);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(Holds(*store, model));
  EXPECT_TRUE(FailsWith(session->Upsert(1, 1), StatusCode::kFailedPrecondition, "closed"));
  EXPECT_TRUE(FailsWith(session->Read(1).status(), StatusCode::kFailedPrecondition, "closed"));
  Must(store->Close());
  EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(1001)));
}

// Close rejects later calls, waits for the running callback, and keeps its effect.
TEST(CoordinatorTest, CloseWaitsForACallbackThatRuns) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(store.Upsert(1, 1));
  Gate gate;
  std::thread writer([&] {
    auto session = store.NewSession();
    Must(session.Rmw(1, [&](std::uint64_t& value) {
      gate.Arrive();
      value += 100;
    }));
    EXPECT_EQ(session.Read(1).status().code(), StatusCode::kFailedPrecondition);
  });
  gate.WaitForArrival();
  std::atomic<bool> closed{false};
  std::thread closer([&] {
    Must(store.Close());
    closed.store(true, std::memory_order_release);
  });
  auto session = store.NewSession();
  while (session.Read(1).ok()) std::this_thread::yield();
  EXPECT_FALSE(closed.load(std::memory_order_acquire));
  gate.Open();
  closer.join();
  writer.join();
  EXPECT_TRUE(CrashLeaves<U64Store>(files, kNothingSurvives, U64Model{{1, 101}}, KeysUpTo(3)));
}

}  // namespace
}  // namespace ebb::test
