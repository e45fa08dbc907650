// Concurrent sessions, for each of the three kinds of values: unlocked, locked and fixed, locked
// and of changing length. Short random races, each with an exact account at its end; then scripts
// that stop a thread inside its callback, where it holds a guard.
//
// Hazards are numbered as in the table of tests/README.md.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ebb/ebb.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/stamp.h"
#include "tests/support/step_sync.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::Address;

// Runs `work(id)` in so many threads at once, all released together.
void InThreads(unsigned count, const std::function<void(unsigned)>& work) {
  std::atomic<unsigned> ready{0};
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < count; ++id) {
    threads.emplace_back([&, id] {
      ready.fetch_add(1);
      while (ready.load() != count) std::this_thread::yield();
      work(id);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void SleepMilliseconds(int count) { std::this_thread::sleep_for(std::chrono::milliseconds(count)); }

template <typename Value>
class ConcurrencyTest : public testing::Test {
 protected:
  using StoreType = Store<std::uint64_t, Value>;
  using Stamped = Stamp<Value>;

  StoreType Open() const { return Must(OpenTiny<StoreType>(dir_ / "db")); }

  // Keys that nothing else uses, with records of a few hundred bytes where a value can have them.
  static void Fill(typename StoreType::Session& session, std::uint64_t i) {
    Must(session.Upsert(1'000'000 + i % 5000, Stamped::Make(1'000'000 + i % 5000, i, 300)));
  }
  // The number that the key holds now; 0 when it is absent.
  static std::uint64_t NumberOf(typename StoreType::Session& session, std::uint64_t key) {
    const absl::StatusOr<Value> value = session.Read(key);
    if (absl::IsNotFound(value.status())) return 0;
    const auto number = Stamped::Number(key, Must(value));
    EXPECT_TRUE(number.has_value()) << "key " << key << " is torn";
    return number.value_or(0);
  }

  const TempDir dir_;
};
using Values = testing::Types<std::uint64_t, Triple, std::string>;
TYPED_TEST_SUITE(ConcurrencyTest, Values);

// ---- accounts ----

// Hazards 8, 21: an update made on a record that has just been superseded, or from a copy that has
// just become old, would be missing in the sum. Two keys share a chain, so publications get lost.
TYPED_TEST(ConcurrencyTest, EveryRmwCounts) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  std::vector<std::uint64_t> keys = KeysOfOneChain(2, 10);
  keys.push_back(1);
  constexpr unsigned kThreads = 4;
  constexpr std::uint64_t kTurns = 20'000;
  InThreads(kThreads, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t i = 0; i < kTurns; ++i) {
      const std::uint64_t key = keys[i % keys.size()];
      Must(session.Rmw(key, [&](TypeParam& value) { S::Add(key, 1, i % 40, value); }));
      if (id == 0 && i % 16 == 0) TestFixture::Fill(session, i);
    }
  });
  auto session = db.NewSession();
  std::uint64_t sum = 0;
  for (const std::uint64_t key : keys) sum += this->NumberOf(session, key);
  EXPECT_EQ(sum, kThreads * kTurns);
}

// Hazard 8, the case it is named for: one thread's values never fit into the record, the other's
// always do. The record that is left must be sealed before its successor is seen, and a thread that
// writes in place must recheck the seal under the lock.
TEST(ConcurrencyTest, GrowthAndUpdatesInPlaceBothCount) {
  using S = Stamp<std::string>;
  const TempDir dir;
  auto db = Must(OpenTiny<U64StringStore>(dir / "db"));
  constexpr std::uint64_t kTurns = 30'000;
  InThreads(3, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t i = 0; i < kTurns; ++i) {
      // The grower starts again from the bottom with a new key each hundred turns.
      const std::uint64_t key = i / 100;
      const std::size_t room = id == 0 ? i % 100 * 8 : 0;
      Must(session.Rmw(key, [&](std::string& value) {
        if (i % 32 == id) std::this_thread::yield();
        S::Add(key, 1, room, value);
      }));
    }
  });
  auto session = db.NewSession();
  for (std::uint64_t key = 0; key < kTurns / 100; ++key) {
    ASSERT_EQ(S::Number(key, Must(session.Read(key))), 300U) << "key " << key;
  }
}

// Hazard 11: a delete that returns OK has removed the value of one insert, exactly once.
TYPED_TEST(ConcurrencyTest, InsertsMinusDeletesIsTheNumberOfKeys) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  const std::vector<std::uint64_t> keys = KeysOfOneChain(3, 7);
  std::array<std::atomic<int>, 3> balance{};
  InThreads(4, [&](unsigned id) {
    auto session = db.NewSession();
    std::mt19937_64 random(id);
    for (std::uint64_t i = 0; i < 15'000; ++i) {
      const std::size_t which = random() % keys.size();
      if (random() % 2 == 0) {
        if (session.InsertIfAbsent(keys[which], S::Make(keys[which], i + 1, i % 20)).ok()) {
          balance[which].fetch_add(1);
        }
      } else if (session.Delete(keys[which]).ok()) {
        balance[which].fetch_sub(1);
      }
      if (id == 0 && i % 16 == 0) TestFixture::Fill(session, i);
    }
  });
  auto session = db.NewSession();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    EXPECT_EQ(balance[i].load(), Must(session.Contains(keys[i])) ? 1 : 0) << "key " << i;
  }
}

TYPED_TEST(ConcurrencyTest, OneInsertOfManyWins) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKeys = 3000;
  std::vector<std::atomic<std::uint64_t>> winners(kKeys);
  std::atomic<std::uint64_t> wins{0};
  InThreads(4, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      const absl::Status status = session.InsertIfAbsent(key, S::Make(key, id + 1, key % 50));
      if (status.ok()) {
        winners[key].store(id + 1);
        wins.fetch_add(1);
      } else {
        EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
      }
    }
  });
  EXPECT_EQ(wins.load(), kKeys);
  auto session = db.NewSession();
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    ASSERT_EQ(this->NumberOf(session, key), winners[key].load()) << "key " << key;
  }
}

// Hazard 11: of two deletes that meet at a record one has deleted it.
TYPED_TEST(ConcurrencyTest, OneDeleteOfTwoWins) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKeys = 80;  // so few that all of them can be updated in place
  constexpr std::uint64_t kTurns = 40;
  std::atomic<std::uint64_t> arrived{0};
  std::atomic<std::uint64_t> through{0};
  std::atomic<std::uint64_t> wins{0};
  InThreads(2, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t turn = 0; turn < kTurns; ++turn) {
      for (std::uint64_t key = 0; id == 0 && key < kKeys; ++key) {
        Must(session.InsertIfAbsent(key, S::Make(key, turn + 1, 0)));
      }
      for (std::uint64_t key = 0; key < kKeys; ++key) {
        arrived.fetch_add(1);
        unsigned spins = 0;
        while (arrived.load() < 2 * (turn * kKeys + key + 1)) {
          if (++spins % 256 == 0) std::this_thread::yield();
        }
        if (session.Delete(key).ok()) wins.fetch_add(1);
      }
      // No thread inserts again before both have finished.
      through.fetch_add(1);
      while (through.load() < 2 * (turn + 1)) std::this_thread::yield();
    }
  });
  EXPECT_EQ(wins.load(), kTurns * kKeys);
}

// Hazard 11: an Rmw that copied a value before its deletion must not bring it back. Each life of
// the key begins with an Rmw that started from nothing and ends with a delete that returned OK.
TYPED_TEST(ConcurrencyTest, DeletedKeysDoNotComeBack) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKey = 3;
  std::atomic<std::int64_t> births{0};
  std::atomic<std::int64_t> deaths{0};
  InThreads(4, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t i = 0; i < 15'000; ++i) {
      if (id == 0) {
        if (session.Delete(kKey).ok()) deaths.fetch_add(1);
        if (i % 8 == 0) TestFixture::Fill(session, i);
        continue;
      }
      bool born = false;
      Must(session.Rmw(kKey, [&](TypeParam& value) {
        born = value == TypeParam{};
        if (i % 64 == 0) std::this_thread::yield();
        S::Add(kKey, 1, id == 1 ? i % 64 * 4 : 0, value);
      }));
      if (born) births.fetch_add(1);
    }
  });
  auto session = db.NewSession();
  EXPECT_EQ(births.load() - deaths.load(), Must(session.Contains(kKey)) ? 1 : 0);
}

// ---- readers ----

TYPED_TEST(ConcurrencyTest, ReadersNeverSeeATornValue) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKey = 5;
  Must(db.Upsert(kKey, S::Make(kKey, 1, 1600)));
  std::atomic<std::uint64_t> torn{0};
  std::atomic<unsigned> writers{2};
  InThreads(4, [&](unsigned id) {
    auto session = db.NewSession();
    if (id < 2) {
      for (std::uint64_t i = 0; i < 30'000; ++i) {
        const std::size_t room = 1000 + i % 500;
        Must(session.Upsert(kKey, S::Make(kKey, i * 2 + id, room)));
      }
      writers.fetch_sub(1);
      return;
    }
    TypeParam value{};
    while (writers.load() != 0) {
      Must(session.Read(kKey, value));
      if (!S::Number(kKey, value).has_value()) torn.fetch_add(1);
      Must(session.Read(kKey, [&](const auto& seen) {
        if (!S::Number(kKey, seen).has_value()) torn.fetch_add(1);
      }));
    }
  });
  EXPECT_EQ(torn.load(), 0U);
}

// Hazard 24: a visitor looks at log memory itself, while pages leave it and frames are used again.
// The bytes that it sees must not change under it, however long it looks.
TYPED_TEST(ConcurrencyTest, ViewsStayUnchangedWhilePagesLeaveMemory) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKeys = 150;
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<bool> done{false};
  InThreads(3, [&](unsigned id) {
    auto session = db.NewSession();
    if (id == 0) {
      for (std::uint64_t i = 0; i < 12'000; ++i) {
        Must(session.Upsert(i % kKeys, S::Make(i % kKeys, i + 1, 300)));
      }
      done.store(true);
      return;
    }
    std::mt19937_64 random(id);
    while (!done.load()) {
      const std::uint64_t key = random() % kKeys;
      const absl::Status status = session.Read(key, [&](const auto& seen) {
        const auto first = S::Number(key, seen);
        if (random() % 16 == 0) SleepMilliseconds(1);
        if (!first.has_value() || S::Number(key, seen) != first) wrong.fetch_add(1);
      });
      EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
    }
  });
  EXPECT_EQ(wrong.load(), 0U);
}

// ---- commits during everything else ----

// Hazards 12, 13: each kind of operation in each phase of a commit, most of them with a page turn
// in the middle. An operation that cannot continue starts again and is done exactly once.
TYPED_TEST(ConcurrencyTest, EveryOperationWorksInEveryPhaseOfACommit) {
  using S = typename TestFixture::Stamped;
  // In memory, since the syncs of a slow disk would keep commits apart.
  auto db = Must(OpenTinyInMemory<typename TestFixture::StoreType>());
  constexpr unsigned kWorkers = 3;
  constexpr std::uint64_t kShared = 999;
  std::atomic<unsigned> working{kWorkers};
  std::atomic<std::uint64_t> commits{0};
  constexpr std::uint64_t kMinRounds = 1000;
  constexpr std::uint64_t kMinCommits = 20;
  std::atomic<std::uint64_t> rounds{0};
  InThreads(kWorkers + 1, [&](unsigned id) {
    if (id == kWorkers) {
      while (working.load() != 0) {
        Must(Commit(db));
        commits.fetch_add(1);
      }
      return;
    }
    auto session = db.NewSession();
    for (std::uint64_t i = 0; i < kMinRounds || commits.load() < kMinCommits; ++i) {
      const std::uint64_t key = id * 1000 + i % 20;
      const std::size_t room = i % 3 * 900;  // a string fills up to half a page
      EXPECT_TRUE(absl::IsNotFound(session.Delete(key)));
      Must(session.InsertIfAbsent(key, S::Make(key, 1, room)));
      EXPECT_TRUE(absl::IsAlreadyExists(session.InsertIfAbsent(key, S::Make(key, 7, room))));
      Must(session.Rmw(key, [&](TypeParam& value) { S::Add(key, 2, room, value); }));
      EXPECT_EQ(this->NumberOf(session, key), 3U);
      Must(session.Upsert(key, S::Make(key, 5, room)));
      EXPECT_EQ(this->NumberOf(session, key), 5U);
      Must(session.Rmw(kShared, [&](TypeParam& value) { S::Add(kShared, 1, room, value); }));
      Must(session.Delete(key));
      EXPECT_FALSE(Must(session.Contains(key)));
      rounds.fetch_add(1);
    }
    working.fetch_sub(1);
  });
  auto session = db.NewSession();
  EXPECT_EQ(this->NumberOf(session, kShared), rounds.load());
}

// One writer of the crash test below: its n-th write goes to key n % kKeys, and each fifth deletes.
constexpr std::uint64_t kPrefixKeys = 7;
struct PrefixWriter {
  alignas(64) std::atomic<std::uint64_t> begun{0};
  std::atomic<std::uint64_t> acked{0};

  // The number that key k of this writer holds after the first `count` writes; 0: absent.
  static std::uint64_t After(std::uint64_t count, std::uint64_t k) {
    std::uint64_t newest = count - (count + kPrefixKeys - k) % kPrefixKeys;
    if (count < k || newest == 0) return 0;
    return newest % 5 == 0 ? 0 : newest;
  }
  template <typename Session, typename S, typename Value>
  void Write(Session& session, std::uint64_t base, std::uint64_t n) {
    const std::uint64_t key = base + n % kPrefixKeys;
    begun.store(n);
    if (n % 5 == 0) {
      session.Delete(key).IgnoreError();  // absent or not
    } else if (n % 3 == 0) {
      Must(session.Rmw(key, [&](Value& value) { value = S::Make(key, n, n % 60); }));
    } else {
      Must(session.Upsert(key, S::Make(key, n, n % 60)));
    }
    acked.store(n);
  }
};

// A commit makes a prefix of each session's operations durable: everything that returned before
// Commit was called, perhaps more, but nothing with a gap before it.
TYPED_TEST(ConcurrencyTest, ACrashLeavesAPrefixOfEachSessionsUpdates) {
  using Db = typename TestFixture::StoreType;
  SimFileSystem files;
  Db db = Must(OpenTiny<Db>("db", &files));
  constexpr unsigned kWriters = 3;
  std::array<PrefixWriter, kWriters> writers;
  std::atomic<bool> stop{false};
  // Each crash is given some more writes, so that a slow build does not copy ever longer logs.
  std::atomic<std::uint64_t> allowed{200};
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < kWriters; ++id) {
    threads.emplace_back([&, id] {
      auto session = db.NewSession();
      for (std::uint64_t n = 1; !stop.load(); ++n) {
        while (n > allowed.load() && !stop.load()) SleepMilliseconds(1);
        writers[id].Write<decltype(session), typename TestFixture::Stamped, TypeParam>(session,
                                                                                       id * 100, n);
        if (n % 128 == 0) SleepMilliseconds(1);
      }
    });
  }
  for (std::uint64_t crash = 0; crash < 40; ++crash) {
    allowed.fetch_add(100);
    SleepMilliseconds(1);
    std::array<std::uint64_t, kWriters> least{};
    for (unsigned id = 0; id < kWriters; ++id) least[id] = writers[id].acked.load();
    Must(Commit(db));
    const auto crashed = files.Crash(crash);  // 0: nothing unsynced survives; 1: everything
    Db again = Must(OpenTiny<Db>("db", crashed.get()));
    {
      auto session = again.NewSession();
      for (unsigned id = 0; id < kWriters; ++id) {
        std::array<std::uint64_t, kPrefixKeys> found{};
        for (std::uint64_t k = 0; k < kPrefixKeys; ++k) {
          found[k] = this->NumberOf(session, id * 100 + k);
        }
        const auto fits = [&](std::uint64_t count) {
          for (std::uint64_t k = 0; k < kPrefixKeys; ++k) {
            if (PrefixWriter::After(count, k) != found[k]) return false;
          }
          return true;
        };
        const std::uint64_t most = writers[id].begun.load();
        std::uint64_t count = least[id];
        while (count <= most && !fits(count)) ++count;
        EXPECT_LE(count, most) << "crash " << crash << ", writer " << id << ": no prefix of "
                               << least[id] << " to " << most << " writes";
      }
    }
    Must(again.Close());
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  Must(db.Close());
}

// Updates acknowledged before a concurrent Close are there after reopening.
TYPED_TEST(ConcurrencyTest, CloseKeepsAllUpdatesThatItDoesNotReject) {
  using Db = typename TestFixture::StoreType;
  using S = typename TestFixture::Stamped;
  for (int turn = 0; turn < 10; ++turn) {
    constexpr unsigned kThreads = 3;
    std::array<std::uint64_t, kThreads> acked{};
    const TempDir dir;
    {
      Db db = Must(OpenTiny<Db>(dir / "db"));
      InThreads(kThreads + 1, [&](unsigned id) {
        if (id == kThreads) {
          std::this_thread::sleep_for(std::chrono::microseconds(500 * turn));
          Must(db.Close());
          return;
        }
        auto session = db.NewSession();
        for (std::uint64_t n = 1;; ++n) {
          if (!session.Upsert(id, S::Make(id, n, n % 100)).ok()) break;
          acked[id] = n;
        }
      });
    }
    Db again = Must(OpenTiny<Db>(dir / "db"));
    auto session = again.NewSession();
    for (unsigned id = 0; id < kThreads; ++id) {
      EXPECT_EQ(this->NumberOf(session, id), acked[id]) << "turn " << turn;
    }
  }
}

// Hazard 27: as many writers as the minimum memory has frames, each of whose records turns a page
// or two, and only the writers themselves to write pages out.
TYPED_TEST(ConcurrencyTest, TheLeastMemoryServesManyWriters) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kTurns = 400;
  InThreads(8, [&](unsigned id) {
    auto session = db.NewSession();
    for (std::uint64_t i = 0; i < kTurns; ++i) {
      Must(session.Upsert(id * kTurns + i, S::Make(id * kTurns + i, i + 1, 3000)));
    }
  });
  auto session = db.NewSession();
  for (std::uint64_t key = 0; key < 8 * kTurns; key += 61) {
    ASSERT_EQ(this->NumberOf(session, key), key % kTurns + 1);
  }
  CoreOf(db).log.CheckBoundaries();
}

// ---- scripts: a thread stands inside its callback, under its guard ----

// Hazards 20, 21: a page becomes read-only while a thread is about to update a record of it. The
// update may still come, so no thread may flush, copy or supersede the record until it has.
TYPED_TEST(ConcurrencyTest, AWriterInsideItsCallbackDelaysStepsThatDependOnIt) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  internal::Core& core = CoreOf(db);
  internal::HybridLog& log = core.log;
  auto session = db.NewSession();
  constexpr std::uint64_t kKey = 1;
  Must(session.Upsert(kKey, S::Make(kKey, 10, 8)));
  const Address end_of_record = log.tail();

  StepSync steps;
  std::thread writer([&] {
    auto own = db.NewSession();
    Must(own.Rmw(kKey, [&](TypeParam& value) {
      S::Add(kKey, 1, 8, value);
      if (steps.AnnounceOnce(1)) steps.Await(3);  // 1 -> 3 <-
    }));
  });
  steps.Await(1);  // 1 <-

  // So many pages are written that the first one has to become read-only, and is asked to.
  for (std::uint64_t i = 0; log.read_only() < end_of_record; ++i) {
    ASSERT_LT(i, 10'000U);
    TestFixture::Fill(session, i);
    Must(log.RunMaintenanceStep());
  }
  for (int i = 0; i < 100; ++i) Must(log.RunMaintenanceStep());
  EXPECT_LT(log.safe_read_only(), end_of_record);
  EXPECT_LT(log.flushed_until(), end_of_record);

  // Operations that need no decision continue; those that depend on the value wait.
  EXPECT_EQ(this->NumberOf(session, kKey), 10U);
  EXPECT_TRUE(absl::IsAlreadyExists(session.InsertIfAbsent(kKey, S::Make(kKey, 5, 8))));
  const std::uint64_t waits_before = core.counters.fuzzy_waits.load();
  std::thread second([&] {
    auto own = db.NewSession();
    Must(own.Rmw(kKey, [&](TypeParam& value) { S::Add(kKey, 100, 8, value); }));
    steps.Announce(2);  // 2 ->
  });
  while (core.counters.fuzzy_waits.load() < waits_before + 10) std::this_thread::yield();
  EXPECT_FALSE(steps.Done(2));

  steps.Announce(3);  // 3 ->
  writer.join();
  second.join();
  EXPECT_EQ(this->NumberOf(session, kKey), 111U);
  Must(log.RunMaintenanceStep());
  EXPECT_GE(log.safe_read_only(), end_of_record);
}

// The same for a delete: it waits, and then deletes the updated value.
TYPED_TEST(ConcurrencyTest, ADeleteWaitsForTheWriterInsideItsCallback) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  internal::HybridLog& log = CoreOf(db).log;
  auto session = db.NewSession();
  constexpr std::uint64_t kKey = 1;
  Must(session.Upsert(kKey, S::Make(kKey, 10, 8)));
  const Address end_of_record = log.tail();

  StepSync steps;
  std::thread writer([&] {
    auto own = db.NewSession();
    Must(own.Rmw(kKey, [&](TypeParam& value) {
      S::Add(kKey, 1, 8, value);
      if (steps.AnnounceOnce(1)) steps.Await(3);  // 1 -> 3 <-
    }));
    steps.Announce(4);  // 4 ->
  });
  steps.Await(1);  // 1 <-
  for (std::uint64_t i = 0; log.read_only() < end_of_record; ++i) {
    ASSERT_LT(i, 10'000U);
    TestFixture::Fill(session, i);
    Must(log.RunMaintenanceStep());
  }
  std::thread deleter([&] {
    auto own = db.NewSession();
    Must(own.Delete(kKey));
    steps.Announce(2);  // 2 ->
  });
  SleepMilliseconds(20);
  EXPECT_FALSE(steps.Done(2));
  steps.Announce(3);  // 3 ->
  writer.join();
  deleter.join();
  EXPECT_FALSE(Must(session.Contains(kKey)));
}

// A version shift freezes records as a page turn does: a commit begins while a thread stands in
// its callback. It waits for it, and its update is part of the commit.
TYPED_TEST(ConcurrencyTest, ACommitWaitsForTheCallbackThatRuns) {
  using Db = typename TestFixture::StoreType;
  using S = typename TestFixture::Stamped;
  SimFileSystem files;
  Db db = Must(OpenTiny<Db>("db", &files));
  auto session = db.NewSession();
  constexpr std::uint64_t kKey = 1;
  Must(session.Upsert(kKey, S::Make(kKey, 10, 8)));

  StepSync steps;
  std::thread writer([&] {
    auto own = db.NewSession();
    Must(own.Rmw(kKey, [&](TypeParam& value) {
      S::Add(kKey, 1, 8, value);
      if (steps.AnnounceOnce(1)) steps.Await(3);  // 1 -> 3 <-
    }));
  });
  steps.Await(1);  // 1 <-
  std::thread committer([&] {
    Must(Commit(db));
    steps.Announce(2);  // 2 ->
  });
  SleepMilliseconds(20);
  EXPECT_FALSE(steps.Done(2));
  // In the meantime others are served, in the new version.
  Must(session.Upsert(2, S::Make(2, 20, 8)));
  EXPECT_EQ(this->NumberOf(session, kKey), 10U);
  steps.Announce(3);  // 3 ->
  writer.join();
  committer.join();

  const auto crashed = files.Crash(kNothingSurvives);
  Db again = Must(OpenTiny<Db>("db", crashed.get()));
  {
    auto reader = again.NewSession();
    EXPECT_EQ(this->NumberOf(reader, kKey), 11U);
  }
  Must(again.Close());
  Must(db.Close());
}

TYPED_TEST(ConcurrencyTest, CloseWaitsForTheCallbackThatRuns) {
  using S = typename TestFixture::Stamped;
  constexpr std::uint64_t kKey = 1;
  {
    auto db = this->Open();
    auto session = db.NewSession();
    Must(session.Upsert(kKey, S::Make(kKey, 10, 8)));
    StepSync steps;
    std::thread writer([&] {
      auto own = db.NewSession();
      Must(own.Rmw(kKey, [&](TypeParam& value) {
        S::Add(kKey, 1, 8, value);
        if (steps.AnnounceOnce(1)) steps.Await(3);  // 1 -> 3 <-
      }));
    });
    steps.Await(1);  // 1 <-
    std::thread closer([&] {
      Must(db.Close());
      steps.Announce(2);  // 2 ->
    });
    while (!CoreOf(db).epochs.closed()) std::this_thread::yield();
    EXPECT_TRUE(FailsWith(session.Upsert(2, S::Make(2, 1, 0)),
                          absl::StatusCode::kFailedPrecondition, "closed"));
    SleepMilliseconds(20);
    EXPECT_FALSE(steps.Done(2));
    steps.Announce(3);  // 3 ->
    writer.join();
    closer.join();
  }
  auto again = this->Open();
  auto session = again.NewSession();
  EXPECT_EQ(this->NumberOf(session, kKey), 11U);
}

// Hazard 6: sessions that do nothing hold nothing up: no commit, no eviction, no Close.
TYPED_TEST(ConcurrencyTest, IdleSessionsDelayNothing) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  std::vector<typename TestFixture::StoreType::Session> idle;
  for (std::uint64_t i = 0; i < 200; ++i) {
    idle.push_back(db.NewSession());
    Must(idle.back().Upsert(i, S::Make(i, i + 1, 10)));
  }
  auto session = db.NewSession();
  for (int i = 0; i < 3; ++i) {
    Must(Commit(db));
    PushOut(db, [&](std::uint64_t n) { TestFixture::Fill(session, n); });
  }
  EXPECT_EQ(this->NumberOf(idle[7], 7), 8U);
  Must(db.Close());
}

// Hazard 5: a thread that ends takes its session with it, and a session may end in another thread
// than it worked in; neither leaves a slot behind that another thread would wait for.
TYPED_TEST(ConcurrencyTest, ThreadsThatEndDelayNothing) {
  using Db = typename TestFixture::StoreType;
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  for (std::uint64_t i = 0; i < 40; ++i) {
    std::optional<typename Db::Session> left;
    std::thread([&] {
      Must(db.Upsert(i, S::Make(i, i + 1, 10)));  // a session of the thread's own
      left.emplace(db.NewSession());
      Must(left->Upsert(100 + i, S::Make(100 + i, i + 1, 10)));
      // An exception leaves the callback, the call and nearly the thread.
      try {
        left->Rmw(i, [](TypeParam&) { throw std::runtime_error("no"); }).IgnoreError();
      } catch (const std::runtime_error&) {
      }
    }).join();
  }
  internal::EpochManager& epochs = CoreOf(db).epochs;
  EXPECT_TRUE(epochs.Drained(epochs.Bump()));
  auto session = db.NewSession();
  Must(Commit(db));
  PushOut(db, [&](std::uint64_t n) { TestFixture::Fill(session, n); });
  EXPECT_EQ(this->NumberOf(session, 139), 40U);
}

// ---- scripts: lost publications ----

// Makes `failures` publications of one Rmw fail: whenever its callback runs, another thread
// publishes a record in the same chain. The next run of the callback succeeds, or throws.
template <typename Db, typename Value>
void LoseRaces(Db& db, const std::vector<std::uint64_t>& chain, std::size_t failures, bool throws) {
  using S = Stamp<Value>;
  auto session = db.NewSession();
  auto other = db.NewSession();
  const std::uint64_t key = chain[0];
  std::size_t runs = 0;
  const auto lose = [&](Value& value) {
    if (runs < failures) {
      const std::uint64_t rival = chain[1 + runs % (chain.size() - 1)];
      std::thread([&] {
        // A delete and an insert, so that there is a new record in any case.
        if (!other.Delete(rival).ok()) Must(other.InsertIfAbsent(rival, S::Make(rival, 1, 0)));
      }).join();
    } else if (throws) {
      throw std::runtime_error("no more");
    }
    ++runs;
    S::Add(key, 1, 0, value);
  };
  if (throws) {
    EXPECT_THROW(session.Rmw(key, lose).IgnoreError(), std::runtime_error);
  } else {
    Must(session.Rmw(key, lose));
  }
  EXPECT_GE(runs, failures);
}

// Hazards 15, 16, 50: a publication that fails leaves a record behind that is well-formed and not
// valid, or its place is used again; so n failures leave about n / 2 records, they take no stack,
// the log can be read from end to end, and the key whose update gave up is still absent.
TYPED_TEST(ConcurrencyTest, LostPublicationsLeaveAWellFormedLog) {
  constexpr std::size_t kFailures = 25;  // odd, so that the last place lies above every rival
  const std::vector<std::uint64_t> given_up = KeysOfOneChain(40, 50'000);
  const std::vector<std::uint64_t> done = KeysOfOneChain(40, 60'000);
  {
    auto db = this->Open();
    internal::Core& core = CoreOf(db);
    auto session = db.NewSession();
    const Address before = core.log.tail();
    LoseRaces<decltype(db), TypeParam>(db, given_up, kFailures, /*throws=*/true);
    EXPECT_EQ(core.counters.failed_cas.load(), kFailures);
    // A rival's record for each failure, and one of ours for each second one, since its place is
    // used again while nothing newer lies above it; all of them are equally long.
    const std::uint64_t extent = internal::Operations<std::uint64_t, TypeParam>::kShape.ExtentFor(
        8, std::is_same_v<TypeParam, std::string> ? 16 : sizeof(TypeParam));
    EXPECT_LE(core.log.tail().value() - before.value(), (kFailures + kFailures / 2 + 2) * extent);
    EXPECT_FALSE(Must(session.Contains(given_up[0])));
    LoseRaces<decltype(db), TypeParam>(db, done, kFailures, /*throws=*/false);
    EXPECT_EQ(this->NumberOf(session, done[0]), 1U);
    // Also from the device, where each step of a chain is checked.
    PushOut(db, [&](std::uint64_t n) { TestFixture::Fill(session, n); });
    EXPECT_FALSE(Must(session.Contains(given_up[0])));
    EXPECT_EQ(this->NumberOf(session, done[0]), 1U);
    for (std::size_t i = 1; i <= kFailures; ++i) {
      EXPECT_EQ(this->NumberOf(session, done[i]), 1U);
      EXPECT_EQ(this->NumberOf(session, given_up[i]), 1U);
    }
  }
  auto again = this->Open();
  auto session = again.NewSession();
  EXPECT_FALSE(Must(session.Contains(given_up[0])));
  EXPECT_EQ(this->NumberOf(session, done[0]), 1U);
  for (std::size_t i = 1; i <= kFailures; ++i) {
    EXPECT_EQ(this->NumberOf(session, done[i]), 1U);
    EXPECT_EQ(this->NumberOf(session, given_up[i]), 1U);
  }
}

// Hazard 10: the chain may grow by many records and its key may go and come back between a
// decision and its publication. The entry then holds another address (addresses are never used
// twice and entries never taken away), so the publication fails and the decision is made again.
TYPED_TEST(ConcurrencyTest, ADecisionIsMadeAgainWhenItsKeyHasGoneAndComeBack) {
  using S = typename TestFixture::Stamped;
  auto db = this->Open();
  constexpr std::uint64_t kKey = 4;
  auto session = db.NewSession();
  auto other = db.NewSession();
  int runs = 0;
  Must(session.Rmw(kKey, [&](TypeParam& value) {
    if (++runs == 1) {
      EXPECT_EQ(value, TypeParam{});  // absent
      std::thread([&] {
        Must(other.InsertIfAbsent(kKey, S::Make(kKey, 40, 0)));
        Must(other.Delete(kKey));
        Must(other.InsertIfAbsent(kKey, S::Make(kKey, 50, 0)));
      }).join();
    }
    S::Add(kKey, 1, 0, value);
  }));
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(this->NumberOf(session, kKey), 51U);
}

// Hazard 8 as a script: the copy has been made, then the record is outgrown and superseded. Writing
// the edited copy into the old record would lose it.
TEST(ConcurrencyTest, AnEditNoticesThatItsRecordWasOutgrown) {
  using S = Stamp<std::string>;
  const TempDir dir;
  auto db = Must(OpenTiny<U64StringStore>(dir / "db"));
  auto session = db.NewSession();
  auto other = db.NewSession();
  Must(session.Upsert(1, S::Make(1, 10, 8)));
  int runs = 0;
  Must(session.Rmw(1, [&](std::string& value) {
    if (++runs == 1) {
      std::thread([&] {
        Must(other.Rmw(1, [&](std::string& grown) { S::Add(1, 100, 200, grown); }));
      }).join();
    }
    S::Add(1, 1, 8, value);
  }));
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(S::Number(1, Must(session.Read(1))), 111U);
}

// The seal of a successor that was not published is taken back: the record stays as it was, and the
// next try, or another thread, continues with it. (Otherwise this test hangs.)
TEST(ConcurrencyTest, ALostPublicationRemovesItsSeal) {
  using S = Stamp<std::string>;
  const TempDir dir;
  auto db = Must(OpenTiny<U64StringStore>(dir / "db"));
  auto session = db.NewSession();
  auto other = db.NewSession();
  const std::vector<std::uint64_t> chain = KeysOfOneChain(2, 20);
  Must(session.Upsert(chain[0], S::Make(chain[0], 10, 8)));
  int runs = 0;
  Must(session.Rmw(chain[0], [&](std::string& value) {
    if (++runs == 1) {
      std::thread([&] { Must(other.Upsert(chain[1], S::Make(chain[1], 1, 0))); }).join();
    }
    S::Add(chain[0], 1, 200, value);
  }));
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(S::Number(chain[0], Must(session.Read(chain[0]))), 11U);
}

// Hazard 25: a value may grow in place up to the length its record was made for and not one byte
// further. Its neighbours in the log show whether it kept to that.
TEST(ConcurrencyTest, GrowthInPlaceEndsWhereTheRecordDoes) {
  using S = Stamp<std::string>;
  const TempDir dir;
  auto db = Must(OpenTiny<U64StringStore>(dir / "db"));
  const internal::HybridLog& log = CoreOf(db).log;
  auto session = db.NewSession();
  for (std::size_t capacity = 1; capacity < 40; ++capacity) {
    const std::uint64_t key = capacity * 3;
    for (std::uint64_t i = 0; i < 3; ++i) {
      Must(session.Upsert(key + i, S::Make(key + i, 1, capacity)));
    }
    const Address tail = log.tail();
    for (std::size_t room = 0; room <= capacity; ++room) {
      Must(session.Upsert(key + 1, S::Make(key + 1, room + 1, room)));
      Must(session.Rmw(key + 1, [&](std::string& v) { S::Add(key + 1, 1, capacity - room, v); }));
    }
    EXPECT_EQ(log.tail(), tail) << "capacity " << capacity;
    EXPECT_EQ(S::Number(key, Must(session.Read(key))), 1U);
    EXPECT_EQ(S::Number(key + 2, Must(session.Read(key + 2))), 1U);
    if (capacity % 2 == 0) {
      Must(session.Upsert(key + 1, S::Make(key + 1, 1, capacity + 1)));
    } else {
      Must(session.Rmw(key + 1, [&](std::string& v) { S::Add(key + 1, 1, capacity + 1, v); }));
    }
    EXPECT_GT(log.tail(), tail) << "capacity " << capacity;
    EXPECT_EQ(S::Number(key, Must(session.Read(key))), 1U);
    EXPECT_EQ(S::Number(key + 2, Must(session.Read(key + 2))), 1U);
  }
}

// ---- regressions ----

// A commit bumps the version and waits for the drain before it reserves its control record. An
// operation that acted in the new version in the meantime lies below that record, and is not part
// of the commit. The next commit found the tail where the first had left it, took that for "nothing
// has changed", and returned OK without making the operation durable.
TYPED_TEST(ConcurrencyTest, ACommitCoversUpdatesThatRanDuringTheOneBefore) {
  using Db = typename TestFixture::StoreType;
  using S = typename TestFixture::Stamped;
  SimFileSystem files;
  Db db = Must(OpenTiny<Db>("db", &files));
  auto session = db.NewSession();
  Must(session.Upsert(1, S::Make(1, 1, 8)));
  StepSync steps;
  std::thread holder([&] {
    auto own = db.NewSession();
    Must(own.Rmw(1, [&](TypeParam& value) {
      if (steps.AnnounceOnce(1)) steps.Await(2);  // 1 -> 2 <-
      S::Add(1, 1, 8, value);
    }));
  });
  steps.Await(1);  // 1 <-
  const std::uint64_t update_from = CoreOf(db).log.update_from();
  std::thread committer([&] { Must(Commit(db)); });
  while (CoreOf(db).log.update_from() == update_from) std::this_thread::yield();
  SleepMilliseconds(20);                       // the version is bumped right after
  Must(session.Upsert(2, S::Make(2, 22, 8)));  // acts in the new version
  steps.Announce(2);                           // 2 ->
  holder.join();
  committer.join();
  Must(Commit(db));

  const auto crashed = files.Crash(kNothingSurvives);
  Db again = Must(OpenTiny<Db>("db", crashed.get()));
  {
    auto reader = again.NewSession();
    EXPECT_EQ(this->NumberOf(reader, 1), 2U);
    EXPECT_EQ(this->NumberOf(reader, 2), 22U);
  }
  Must(again.Close());
  Must(db.Close());
}

// Records carry two bits of their version. Each commit that failed before it had appended its
// control record still moved the version on, so after three of them the records of the first
// looked like those of a version yet to come. The commit that worked at last, and the recovery
// after it, took them for uncommitted ones and dropped them.
TYPED_TEST(ConcurrencyTest, AFailedCommitLosesNothingThatTheNextOneCovers) {
  using Db = typename TestFixture::StoreType;
  using S = typename TestFixture::Stamped;
  for (int failures = 1; failures <= 6; ++failures) {
    SimFileSystem sim;
    FaultFileSystem files(sim);
    Db db = Must(OpenTiny<Db>("db", &files));
    auto session = db.NewSession();
    files.Arm({.kind = CallKind::kWrite, .sticky = true, .error = ENOSPC});
    std::uint64_t count = 0;  // until memory is full and nothing can be written
    while (session.Upsert(count, S::Make(count, count + 1, 8)).ok()) ++count;
    for (int i = 0; i < failures; ++i) EXPECT_FALSE(Commit(db).ok());
    EXPECT_GT(files.FiredCount(), 0U);
    files.Disarm();
    Must(Commit(db));

    const auto crashed = sim.Crash(kNothingSurvives);
    Db again = Must(OpenTiny<Db>("db", crashed.get()));
    {
      auto reader = again.NewSession();
      for (std::uint64_t key = 0; key < count; ++key) {
        ASSERT_EQ(this->NumberOf(reader, key), key + 1) << failures << " failures";
      }
    }
    Must(again.Close());
    Must(db.Close());
  }
}

}  // namespace
}  // namespace ebb::test
