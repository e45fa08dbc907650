// Committer: commits, with everything that can go wrong at the device, and with operations that run
// concurrently.
//
// A simulated crash shows which data is durable: SimFileSystem::Crash(kNothingSurvives) is the disk
// with the synced data and nothing else, and a store opened on it has the promised state.
//
// Hazards: 11 (records of a version change after it), 21 (a copy of a record that still changes),
// 28 (a failed flush counts as done), 31 (a failed sync is forgotten), 34 (records of the next
// version below a commit).
#include "ebb/internal/jobs/committer.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/format/block.h"
#include "gtest/gtest.h"
#include "tests/support/crash_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Core;
using internal::EpochGuard;
using internal::EpochSlot;

// The version that an operation would act in now.
unsigned VersionBits(Core& core) {
  EpochSlot* const slot = core.epochs.AcquireSlot();
  unsigned bits = 0;
  {
    const EpochGuard guard(core.epochs, *slot);
    bits = guard.version_bits();
  }
  core.epochs.ReleaseSlot(slot);
  return bits;
}
void WaitForVersionOtherThan(Core& core, unsigned bits) {
  while (VersionBits(core) == bits) std::this_thread::yield();
}

// ---- commits ----

TEST(CommitterTest, ACommitMakesEarlierUpdatesDurableAndOnlyTheseSurviveACrash) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  U64Model model;
  for (std::uint64_t i = 0; i < 2000; ++i) Must(store.Upsert(i, model[i] = i * i));
  Must(Commit(store));
  // Far more than memory, so that much of it reaches the device without a commit.
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, 7));
  for (std::uint64_t i = 0; i < 100; ++i) Must(store.Delete(i * 3));
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    EXPECT_TRUE(CrashLeaves<U64Store>(files, seed, model, KeysUpTo(3000))) << "seed " << seed;
  }
}

// Two bits of version stand in a record; a store that commits often goes round many times. Hot keys
// are updated in place, then copied once for each commit; others grow, go and come back.
TEST(CommitterTest, ManyCommitsEachHoldExactlyTheStateOfTheirTime) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  Model<std::uint64_t, std::string> model;
  std::mt19937_64 random(5);
  for (int commit = 0; commit < 40; ++commit) {
    for (int i = 0; i < 60; ++i) {
      const std::uint64_t key = i < 30 ? random() % 4 : random() % 300;
      switch (random() % 4) {
        case 0:
          EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
          break;
        case 1:
          model[key] = std::string(random() % 60, static_cast<char>('a' + commit % 26));
          Must(store.Upsert(key, model[key]));
          break;
        default:
          Must(store.Rmw(key, [&](std::string& v) { v += std::to_string(commit); }));
          model[key] += std::to_string(commit);
          break;
      }
    }
    Must(Commit(store));
    ASSERT_TRUE(CrashLeaves<U64StringStore>(files, kNothingSurvives, model, KeysUpTo(300)))
        << "commit " << commit;
    Must(store.Upsert(301, "never committed before a crash"));
    ASSERT_TRUE(CrashLeaves<U64StringStore>(files, kEverythingSurvives, model, KeysUpTo(302)))
        << "commit " << commit;
    Must(store.Delete(301));
  }
  Must(store.Close());
  EXPECT_TRUE(CrashLeaves<U64StringStore>(files, kNothingSurvives, model, KeysUpTo(302)));
}

TEST(CommitterTest, ACommitOfNothingDoesNothing) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(Commit(store));
  Must(store.Upsert(1, 1));
  Must(Commit(store));
  const std::size_t calls = files.CallCount();
  const std::uint64_t tail = store.Stats().tail_address;
  Must(Commit(store));
  EXPECT_EQ(Must(store.Read(1)), 1U);
  EXPECT_EQ(store.Delete(2).code(), StatusCode::kNotFound);
  EXPECT_EQ(store.InsertIfAbsent(1, 2).code(), StatusCode::kAlreadyExists);
  Must(Commit(store));
  EXPECT_EQ(files.CallCount(), calls);
  EXPECT_EQ(store.Stats().tail_address, tail);
}

TEST(CommitterTest, AHotRecordIsCopiedOncePerCommit) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  const std::uint64_t record_bytes = 24;
  Must(store.Upsert(1, 0));
  for (int commit = 0; commit < 6; ++commit) {
    Must(Commit(store));
    const std::uint64_t tail = store.Stats().tail_address;
    for (int i = 0; i < 50; ++i) Must(store.Rmw(1, [](std::uint64_t& v) { ++v; }));
    for (int i = 0; i < 50; ++i) Must(store.Upsert(1, Must(store.Read(1)) + 1));
    EXPECT_EQ(store.Stats().tail_address, tail + record_bytes);
  }
  EXPECT_EQ(Must(store.Read(1)), 600U);
}

// A reader that starts at a commit finds the records of the next version that lie before the
// commit's end: they are at or above the tail that the commit states.
TEST(CommitterTest, ACommitStatesItsTimeAndTheTailWhenItsShiftBegan) {
  SimFileSystem files;
  std::vector<internal::CommitRecord> commits;
  std::vector<std::uint64_t> tails;
  const std::uint64_t begun = internal::UnixUs();
  std::uint64_t open_tail = 0;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    open_tail = store.Stats().tail_address;
    for (std::uint64_t i = 0; i < 5; ++i) {
      for (std::uint64_t key = 0; key < 1 + 50 * i; ++key) Must(store.Upsert(key, i));
      tails.push_back(store.Stats().tail_address);
      Must(store.Commit());
    }
    Must(store.Close());
  }
  for (const auto& [name, log] : SnapshotOf(files, "db")) {
    if (!name.starts_with("log-")) continue;
    const auto bytes = std::as_bytes(std::span(log));
    const auto header = Must(internal::DecodeSegmentHeader(bytes.first(4096), name));
    for (std::size_t i = 1; i < log.size() / 4096; ++i) {
      const auto commit = internal::DecodeCommitRecord(bytes.subspan(i * 4096, 4080),
                                                       header.store_id, header.first_block + i - 1);
      if (commit.has_value()) commits.push_back(*commit);
    }
  }
  ASSERT_EQ(commits.size(), 1U + 5U);  // opening, five commits
  std::uint64_t last = begun;
  for (const internal::CommitRecord& commit : commits) {
    EXPECT_GE(commit.unix_us, last);
    last = commit.unix_us;
  }
  EXPECT_LE(last, internal::UnixUs());
  EXPECT_LT(commits[0].shift_tail.value(), open_tail);
  for (std::size_t i = 0; i < tails.size(); ++i) {
    EXPECT_EQ(commits[1 + i].shift_tail.value(), tails[i]);
  }
}

// ---- failed writes ----

// Each of the writes that a commit makes fails once: the commit returns the error, nothing is lost,
// reads and writes continue, and the next commit succeeds.
TEST(CommitterTest, AFailedWriteFailsTheCommitAndNothingElse) {
  std::uint64_t failed_commits = 0;
  for (const int error : {ENOSPC, EIO}) {
    for (std::uint64_t skip = 0; skip < 12; ++skip) {
      Rig rig;
      U64Model model;
      {
        auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
        for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, model[i] = i));
        rig.faults.Arm(
            {.kind = CallKind::kWrite, .name_part = "log-", .skip = skip, .error = error});
        const absl::Status status = Commit(store);
        const StatusCode code =
            error == ENOSPC ? StatusCode::kResourceExhausted : StatusCode::kUnavailable;
        if (rig.faults.FiredCount() > 0) {
          ++failed_commits;
          EXPECT_TRUE(FailsWith(status, code, SegmentFile(0)));
          EXPECT_TRUE(IsRecoverable(status));
        } else {
          EXPECT_TRUE(status.ok());
        }
        EXPECT_TRUE(Holds(store, model));
        rig.faults.Disarm();
        for (std::uint64_t i = 0; i < 1000; i += 3) Must(store.Upsert(i, model[i] = i + 1));
        Must(Commit(store));
        EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(1001)));
        Must(store.Close());
      }
      EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(1001)));
    }
  }
  EXPECT_GE(failed_commits, 10U) << "the commit made too few writes to test";
}

// A full device: commit after commit fails, through more versions than two bits can distinguish.
// The writes in between are kept and committed once there is room. Both ways of failing: memory has
// room for the control record, or has none.
TEST(CommitterTest, CommitsThatFailOverAndOverLoseNothing) {
  for (const bool memory_is_full : {false, true}) {
    SCOPED_TRACE(memory_is_full ? "memory is full" : "memory has room");
    Rig rig;
    internal::Environment environment = TinyEnvironment(&rig.faults);
    if (!memory_is_full) environment.frame_count = 32;  // each failed commit takes a page
    auto store = Must(OpenIn<U64Store>("db", environment));
    U64Model model;
    Must(store.Upsert(0, model[0] = 0));
    Must(Commit(store));
    rig.faults.Arm({.kind = CallKind::kWrite, .sticky = true, .error = ENOSPC});
    std::uint64_t key = 1;
    const auto fill = [&] {
      for (;; ++key) {
        const absl::Status status = store.Upsert(key, key * 10);
        if (!status.ok()) {
          EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "log-"));
          return;
        }
        model[key] = key * 10;
      }
    };
    for (int commit = 0; commit < 11; ++commit) {
      if (memory_is_full) {
        fill();
      } else {
        for (int i = 0; i < 5; ++i, ++key) Must(store.Upsert(key, model[key] = key * 10));
      }
      const absl::Status status = store.Rmw(0, [](std::uint64_t& v) { ++v; });
      if (status.ok()) ++model[0];
      EXPECT_EQ(Commit(store).code(), StatusCode::kResourceExhausted);
      EXPECT_TRUE(Holds(store, model));
    }
    rig.faults.Disarm();
    Must(Commit(store));
    EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(key + 5)));
    for (int i = 0; i < 300; ++i, ++key) Must(store.Upsert(key, model[key] = key * 10));
    Must(Commit(store));
    EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(key + 5)));
    Must(store.Close());
    EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(key + 5)));
  }
}

// Close on a full device returns an error and loses nothing: the store stays closed to operations,
// and the same call succeeds when there is room. Each failed call once left a control record, a
// block, in memory, until there was no memory left.
TEST(CommitterTest, CommitsThatFailDoNotUseUpTheMemory) {
  Rig rig;
  auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
  Must(store.Upsert(1, 1));
  rig.faults.Arm({.kind = CallKind::kWrite, .sticky = true, .error = ENOSPC});
  EXPECT_EQ(Commit(store).code(), StatusCode::kResourceExhausted);
  const std::uint64_t tail = store.Stats().tail_address;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Commit(store).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store.Stats().tail_address, tail);
  Must(store.Upsert(2, 2));
  rig.faults.Disarm();
  Must(Commit(store));
  EXPECT_TRUE(
      (CrashLeaves<U64Store>(rig.files, kNothingSurvives, U64Model{{1, 1}, {2, 2}}, KeysUpTo(9))));
}

// Accepted updates can be committed on a full disk, and the store can be closed and opened; only
// updates that need space are rejected.
TEST(CommitterTest, AFullDiskRejectsUpdatesAndNothingElse) {
  SimFileSystem files;
  U64Model model;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    Must(store.Upsert(1, model[1] = 1));
    files.SetCapacityBytes(files.UsedBytes());
    absl::Status status;
    for (std::uint64_t i = 2; status.ok() && i < 100000; ++i) {
      status = store.Upsert(i, i);
      if (status.ok()) model[i] = i;
    }
    EXPECT_TRUE(FailsWith(status, StatusCode::kResourceExhausted, "log-0"));
    Must(Commit(store));
    EXPECT_TRUE(
        (CrashLeaves<U64Store>(files, kNothingSurvives, model, KeysUpTo(model.size() + 9))));
    EXPECT_EQ(store.Upsert(100000, 1).code(), StatusCode::kResourceExhausted);
    Must(store.Close());
  }
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_EQ(Must(store.Read(model.size())), model.size());
    EXPECT_EQ(store.Upsert(1, 2).code(), StatusCode::kResourceExhausted);
    files.SetCapacityBytes(~std::uint64_t{0});
    Must(store.Upsert(1, model[1] = 2));
    Must(store.Close());
  }
  EXPECT_TRUE((CrashLeaves<U64Store>(files, kNothingSurvives, model, KeysUpTo(model.size() + 9))));
}

// ---- failed syncs ----

template <typename StoreType>
void ExpectPoisoned(StoreType& store, const U64Model& model) {
  const auto poisoned = [](const absl::Status& status) {
    return FailsWith(status, StatusCode::kUnavailable, "errno 5");
  };
  // The first cause, for every session and every update, even if other calls have failed since.
  auto session = store.NewSession();
  for (const std::uint64_t key : {std::uint64_t{0}, std::uint64_t{999999}}) {
    EXPECT_TRUE(poisoned(session.Upsert(key, 1)));
    EXPECT_TRUE(poisoned(store.Rmw(key, [](std::uint64_t& v) { ++v; })));
    EXPECT_TRUE(poisoned(session.Delete(key)));
    EXPECT_TRUE(poisoned(store.InsertIfAbsent(key, 1)));
  }
  EXPECT_TRUE(poisoned(Commit(store)));
  // The existing records can still be read, in memory and on the device.
  const std::uint64_t reads = store.Metrics().device_reads;
  EXPECT_TRUE(Holds(store, model));
  EXPECT_GT(store.Metrics().device_reads, reads);
  EXPECT_EQ(store.Read(999999).status().code(), StatusCode::kNotFound);
}

TEST(CommitterTest, AFailedSyncPoisonsTheStoreUntilItIsReopened) {
  for (const bool at_close : {false, true}) {
    Rig rig;
    U64Model model;
    {
      auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
      for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, model[i] = i));
      Must(Commit(store));
      for (std::uint64_t i = 1000; i < 1100; ++i) Must(store.Upsert(i, 55));
      rig.faults.Arm({.kind = CallKind::kSync, .error = EIO});
      if (!at_close) {
        EXPECT_TRUE(FailsWith(Commit(store), StatusCode::kUnavailable, "sync of log-"));
        rig.faults.Arm({.kind = CallKind::kSync, .sticky = true, .error = ENOSPC});
        U64Model shown = model;
        for (std::uint64_t i = 1000; i < 1100; ++i) shown[i] = 55;
        ExpectPoisoned(store, shown);
      }
      EXPECT_TRUE(FailsWith(store.Close(), StatusCode::kUnavailable, "errno 5"));
      EXPECT_TRUE(FailsWith(store.Close(), StatusCode::kUnavailable, "errno 5"));
      EXPECT_EQ(store.Read(1).status().code(), StatusCode::kFailedPrecondition);
      rig.faults.Disarm();
      // It is closed, so the files are free.
      auto reopened = Must(OpenTiny<U64Store>("db", &rig.faults));
      for (std::uint64_t i = 0; i < 3000; ++i) {
        const std::uint64_t value = Must(reopened.Read(i));
        if (i >= 1000 && i < 1100) {
          EXPECT_TRUE(value == i || value == 55) << i;  // the outcome of that commit is unknown
        } else {
          EXPECT_EQ(value, i);
        }
      }
      Must(reopened.Upsert(1, model[1] = 2));
      for (std::uint64_t i = 1000; i < 1100; ++i) Must(reopened.Upsert(i, model[i] = 56));
      Must(reopened.Close());
    }
    EXPECT_TRUE(CrashLeaves<U64Store>(rig.files, kNothingSurvives, model, KeysUpTo(3001)));
  }
}

// The sync of the directory counts as much: without it a new file has no name after a crash.
TEST(CommitterTest, AFailedSyncOfTheDirectoryPoisonsToo) {
  Rig rig;
  auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
  // More than one segment of 16 blocks.
  for (std::uint64_t i = 0; i < 8000; ++i) Must(store.Upsert(i, i));
  rig.faults.Arm({.kind = CallKind::kSyncDirectory, .error = EIO});
  EXPECT_TRUE(FailsWith(Commit(store), StatusCode::kUnavailable, "directory"));
  EXPECT_EQ(rig.faults.FiredCount(), 1U);
  EXPECT_EQ(store.Upsert(1, 2).code(), StatusCode::kUnavailable);
  EXPECT_EQ(store.Close().code(), StatusCode::kUnavailable);
}

// A writer that waits for a page when the store is poisoned gets the error.
TEST(CommitterTest, WritersWithoutRoomHearOfThePoison) {
  Rig rig;
  auto store = Must(OpenTiny<U64Store>("db", &rig.faults));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
  Must(Commit(store));
  Must(store.Upsert(1, 2));
  rig.faults.Arm({.kind = CallKind::kSync, .error = EIO});
  EXPECT_EQ(Commit(store).code(), StatusCode::kUnavailable);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    EXPECT_TRUE(FailsWith(store.Upsert(10000 + i, i), StatusCode::kUnavailable, "poisoned"));
  }
  EXPECT_EQ(store.Close().code(), StatusCode::kUnavailable);
}

// ---- during operations ----

// A commit of v waits for an operation of v that is in its callback. Others continue as v+1; their
// records lie below the control record of v and are not part of it.
//
//   writer     1 -> in its callback on key 1, in v        6 -> done
//   committer        2 -> Commit: bump, waits for the drain    7 -> control record
//   main                   3 -> writes as v+1; 5 -> releases
struct Straggle {
  explicit Straggle(U64Store& store) : core(CoreOf(store)), bits(VersionBits(core)) {
    writer = std::thread([this, &store] {
      auto session = store.NewSession();
      int runs = 0;
      Must(session.Rmw(1, [&](std::uint64_t& value) {
        if (++runs == 1) gate.Arrive();
        value += 100;
      }));
    });
    gate.WaitForArrival();
    committer = std::thread([this, &store] { status = Commit(store); });
    WaitForVersionOtherThan(core, bits);
  }
  void Finish() {
    gate.Open();
    writer.join();
    committer.join();
    Must(status);
  }

  Core& core;
  const unsigned bits;
  Gate gate;
  std::thread writer;
  std::thread committer;
  absl::Status status = absl::UnknownError("not run");
};

TEST(CommitterTest, UpdatesDuringACommitBelongToTheNextOne) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(store.Upsert(1, 1));
  Must(store.Upsert(2, 2));
  Must(store.Upsert(3, 3));
  const U64Model before = {{1, 101}, {2, 2}, {3, 3}};
  {
    Straggle straggle(store);
    Must(store.Upsert(2, 20));  // blind, above a record of v
    Must(store.Upsert(4, 40));  // new
    EXPECT_EQ(Must(store.Read(2)), 20U);
    EXPECT_EQ(Must(store.Read(3)), 3U);
    straggle.Finish();
  }
  EXPECT_EQ(Must(store.Read(1)), 101U);
  EXPECT_EQ(Must(store.Read(2)), 20U);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    EXPECT_TRUE(CrashLeaves<U64Store>(files, seed, before, KeysUpTo(6))) << "seed " << seed;
  }
  // The next commit holds it, although nothing has been appended since the last one.
  Must(Commit(store));
  const U64Model after = {{1, 101}, {2, 20}, {3, 3}, {4, 40}};
  EXPECT_TRUE(CrashLeaves<U64Store>(files, kNothingSurvives, after, KeysUpTo(6)));
  Must(store.Close());
  EXPECT_TRUE(CrashLeaves<U64Store>(files, kNothingSurvives, after, KeysUpTo(6)));
}

// Closing also commits the updates that ran during the last commit.
TEST(CommitterTest, CloseKeepsUpdatesThatRanDuringTheLastCommit) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(store.Upsert(1, 1));
  Must(store.Upsert(2, 2));
  {
    Straggle straggle(store);
    Must(store.Upsert(2, 20));
    straggle.Finish();
  }
  Must(store.Close());
  EXPECT_TRUE(
      CrashLeaves<U64Store>(files, kNothingSurvives, U64Model{{1, 101}, {2, 20}}, KeysUpTo(4)));
}

// Hazards 11, 21. An operation that depends on a record of v waits until v has drained, because
// another thread may still be changing it.
TEST(CommitterTest, DependentUpdatesWaitForTheDrain) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 1; i <= 4; ++i) Must(store.Upsert(i, i));
  const std::uint64_t waits = store.Metrics().fuzzy_waits;
  Straggle straggle(store);
  std::atomic<int> finished{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    Must(store.Rmw(1, [](std::uint64_t& v) { v *= 2; }));  // after +100, so 202 and never 102
    finished.fetch_add(1, std::memory_order_relaxed);
  });
  threads.emplace_back([&] {
    Must(store.Delete(2));
    finished.fetch_add(1, std::memory_order_relaxed);
  });
  threads.emplace_back(
      [&] { EXPECT_EQ(store.InsertIfAbsent(3, 30).code(), StatusCode::kAlreadyExists); });
  while (CoreOf(store).counters.fuzzy_waits.load(std::memory_order_relaxed) < waits + 10) {
    std::this_thread::yield();
  }
  EXPECT_EQ(finished.load(std::memory_order_relaxed), 0);
  EXPECT_EQ(Must(store.Read(2)), 2U);  // reads do not wait
  straggle.Finish();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Must(store.Read(1)), 202U);
  EXPECT_FALSE(Must(store.Contains(2)));
  // None of it is part of the commit.
  EXPECT_TRUE(CrashLeaves<U64Store>(files, kEverythingSurvives,
                                    U64Model{{1, 101}, {2, 2}, {3, 3}, {4, 4}}, KeysUpTo(6)));
}

// A commit holds at least every update that had returned when it was called, however many threads
// write concurrently.
TEST(CommitterTest, CommitsDuringWritesHoldAllUpdatesThatHadReturned) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.pool_threads = 1;
  constexpr std::uint64_t kWriterCount = 2;
  constexpr std::uint64_t kKeyCount = 500;
  constexpr std::uint64_t kWriteCount = 30000;
  std::atomic<std::uint64_t> returned[kWriterCount] = {};
  std::uint64_t at_commit[kWriterCount] = {};
  auto store = Must(OpenIn<U64Store>("db", environment));
  std::vector<std::thread> writers;
  for (std::uint64_t w = 0; w < kWriterCount; ++w) {
    writers.emplace_back([&, w] {
      auto session = store.NewSession();
      for (std::uint64_t n = 1; n <= kWriteCount; ++n) {
        // The n-th write of a writer goes to one of its keys, so the largest value of them all
        // shows how far it came.
        Must(session.Rmw(w * kKeyCount + n % kKeyCount, [&](std::uint64_t& v) { v = n; }));
        returned[w].store(n, std::memory_order_release);
      }
    });
  }
  int checks = 0;
  for (int commit = 0; at_commit[0] < kWriteCount || at_commit[1] < kWriteCount; ++commit) {
    for (std::uint64_t w = 0; w < kWriterCount; ++w) {
      at_commit[w] = returned[w].load(std::memory_order_acquire);
    }
    Must(Commit(store));
    if (commit % 6 != 0 || checks == 20) continue;
    ++checks;
    const std::unique_ptr<SimFileSystem> after =
        files.Crash(commit % 12 == 0 ? kNothingSurvives : kEverythingSurvives);
    auto recovered = Must(OpenTiny<U64Store>("db", after.get()));
    for (std::uint64_t w = 0; w < kWriterCount; ++w) {
      std::uint64_t last = 0;
      std::map<std::uint64_t, std::uint64_t> values;
      for (std::uint64_t k = 0; k < kKeyCount; ++k) {
        const auto read = recovered.Read(w * kKeyCount + k);
        if (read.ok()) last = std::max(last, values[k] = *read);
      }
      ASSERT_GE(last, at_commit[w]);
      // A prefix: every write up to the last one is there, each on its key.
      for (std::uint64_t k = 0; k < kKeyCount; ++k) {
        const std::uint64_t n = last < k ? 0 : last - (last - k) % kKeyCount;
        ASSERT_EQ(values.count(k) == 0 ? 0 : values[k], n) << "key " << k << " of " << last;
      }
    }
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_GT(checks, 0);
  Must(store.Close());
}

}  // namespace
}  // namespace ebb::test
