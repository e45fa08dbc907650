#include "ebb/internal/epoch/epoch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/fallback.h"

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::EpochGuard;
using internal::EpochManager;
using internal::EpochSlot;
using internal::EpochState;
using internal::SlowScope;

// Everything once with the guards of this machine, once with atomic exchanges. A slot, not a
// thread, announces, so most interleavings are scripted in one thread.
class EpochTest : public ::testing::TestWithParam<bool> {
 protected:
  EpochManager epochs_{0, GetParam()};
  EpochSlot& a_ = *epochs_.AcquireSlot();
  EpochSlot& b_ = *epochs_.AcquireSlot();
};

INSTANTIATE_TEST_SUITE_P(Guards, EpochTest, ::testing::Bool(), [](const auto& parameter) {
  return std::string(parameter.param ? "Exchange" : "OfThisMachine");
});

// ---- The state word ----

TEST_P(EpochTest, StateHoldsVersionAndEpoch) {
  EpochManager epochs(2, GetParam());
  EpochSlot& slot = *epochs.AcquireSlot();
  std::uint64_t before = 0;
  {
    const EpochGuard guard(epochs, slot);
    EXPECT_EQ(guard.version_bits(), 2U);
    before = EpochState::Epoch(guard.state());
    EXPECT_NE(guard.state(), 0U);  // 0 in a slot means outside
  }
  EXPECT_EQ(epochs.Bump(), before + 1);
  EXPECT_EQ(epochs.BumpVersion(3), before + 2);
  const EpochGuard guard(epochs, slot);
  EXPECT_EQ(guard.version_bits(), 3U);
  EXPECT_EQ(EpochState::Epoch(guard.state()), before + 2);
}

TEST_P(EpochTest, VersionsAreCountedInTwoBits) {
  for (unsigned version = 0; version < 9; ++version) {
    epochs_.BumpVersion(version);
    const EpochGuard guard(epochs_, a_);
    EXPECT_EQ(guard.version_bits(), version % 4);
  }
}

TEST_P(EpochTest, SlotHoldsTheStateWhileInsideAndZeroOutside) {
  EXPECT_EQ(a_.word.load(std::memory_order_relaxed), 0U);
  {
    const EpochGuard guard(epochs_, a_);
    EXPECT_EQ(a_.word.load(std::memory_order_relaxed), guard.state());
  }
  EXPECT_EQ(a_.word.load(std::memory_order_relaxed), 0U);
}

// ---- The second look ----

TEST_P(EpochTest, LookAgreesUntilSomethingIsBumped) {
  const EpochGuard guard(epochs_, a_);
  EXPECT_TRUE(guard.Look());
  EXPECT_TRUE(guard.Look());
  epochs_.Bump();
  EXPECT_FALSE(guard.Look());
}

TEST_P(EpochTest, LookFailsAfterAVersionShift) {
  const EpochGuard guard(epochs_, a_);
  epochs_.BumpVersion(1);
  EXPECT_FALSE(guard.Look());
}

// Four versions later the version bits are the same again; the epoch is not.
TEST_P(EpochTest, LookFailsWhenTheVersionBitsHaveComeRound) {
  const EpochGuard guard(epochs_, a_);
  for (unsigned version = 1; version <= 4; ++version) epochs_.BumpVersion(version);
  EXPECT_FALSE(guard.Look());
}

TEST_P(EpochTest, GuardThatBeginsAfterABumpAgrees) {
  epochs_.Bump();
  const EpochGuard guard(epochs_, a_);
  EXPECT_TRUE(guard.Look());
}

TEST_P(EpochTest, NoLookAgreesOnceTheStoreIsClosed) {
  {
    const EpochGuard guard(epochs_, a_);
    EXPECT_FALSE(epochs_.closed());
    epochs_.BumpClosed();
    EXPECT_TRUE(epochs_.closed());
    EXPECT_FALSE(guard.Look());
  }
  const EpochGuard later(epochs_, a_);
  EXPECT_FALSE(later.Look());
  EXPECT_EQ(later.state() & EpochState::kClosed, 0U);  // never stored in a slot
  epochs_.Bump();
  epochs_.BumpVersion(0);
  const EpochGuard latest(epochs_, b_);
  EXPECT_FALSE(latest.Look());
}

// ---- Drains ----

TEST_P(EpochTest, DrainWaitsForOlderGuardsOnly) {
  std::optional<EpochGuard> older(std::in_place, epochs_, a_);
  const std::uint64_t epoch = epochs_.Bump();
  const EpochGuard newer(epochs_, b_);
  EXPECT_FALSE(epochs_.Drained(epoch));
  EXPECT_FALSE(epochs_.Drained(epoch));  // asking changes nothing
  older.reset();
  EXPECT_TRUE(epochs_.Drained(epoch));
  EXPECT_TRUE(newer.Look());
}

TEST_P(EpochTest, EachEpochWaitsForTheGuardsBeforeIt) {
  const std::uint64_t first = epochs_.Bump();
  std::optional<EpochGuard> between(std::in_place, epochs_, a_);
  const std::uint64_t second = epochs_.Bump();
  EXPECT_TRUE(epochs_.Drained(first));
  EXPECT_FALSE(epochs_.Drained(second));
  between.reset();
  EXPECT_TRUE(epochs_.Drained(second));
}

TEST_P(EpochTest, EveryKindOfBumpIsDrained) {
  std::optional<EpochGuard> guard(std::in_place, epochs_, a_);
  const std::uint64_t version = epochs_.BumpVersion(1);
  const std::uint64_t closed = epochs_.BumpClosed();
  EXPECT_FALSE(epochs_.Drained(version) || epochs_.Drained(closed));
  guard.reset();
  EXPECT_TRUE(epochs_.Drained(version) && epochs_.Drained(closed));
}

TEST_P(EpochTest, SessionThatReentersIsNotWaitedForTwice) {
  const std::uint64_t epoch = [&] {
    const EpochGuard guard(epochs_, a_);
    return epochs_.Bump();
  }();
  const EpochGuard again(epochs_, a_);
  EXPECT_TRUE(epochs_.Drained(epoch));
}

// Hazard 6: a session that does nothing must not keep anything from going on.
TEST_P(EpochTest, IdleSlotBlocksNothing) {
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(epochs_.Drained(epochs_.Bump()));
}

TEST_P(EpochTest, WithoutSlotsEverythingIsDrained) {
  EpochManager epochs(0, GetParam());
  EXPECT_TRUE(epochs.Drained(epochs.Bump()));
}

// ---- Slots ----

TEST_P(EpochTest, SlotsAreRecycled) {
  EpochSlot* const slot = epochs_.AcquireSlot();
  EXPECT_NE(slot, &a_);
  EXPECT_NE(slot, &b_);
  epochs_.ReleaseSlot(slot);
  for (int i = 0; i < 1000; ++i) {
    EpochSlot* const again = epochs_.AcquireSlot();
    ASSERT_EQ(again, slot);
    epochs_.ReleaseSlot(again);
  }
}

// Hazard 4: a fixed table of sessions overflows; there is none here.
TEST_P(EpochTest, ManySlotsAreAllWaitedFor) {
  constexpr std::size_t kSlots = 1500;
  std::vector<EpochSlot*> slots;
  std::vector<std::unique_ptr<EpochGuard>> guards;
  for (std::size_t i = 0; i < kSlots; ++i) {
    slots.push_back(epochs_.AcquireSlot());
    guards.push_back(std::make_unique<EpochGuard>(epochs_, *slots.back()));
  }
  EXPECT_EQ(std::set<EpochSlot*>(slots.begin(), slots.end()).size(), kSlots);
  const std::uint64_t epoch = epochs_.Bump();
  guards.front().reset();
  const std::size_t last = kSlots - 1;
  for (std::size_t i = 1; i < last; ++i) guards[i].reset();
  EXPECT_FALSE(epochs_.Drained(epoch));  // the last one alone
  guards[last].reset();
  EXPECT_TRUE(epochs_.Drained(epoch));
  for (EpochSlot* slot : slots) epochs_.ReleaseSlot(slot);
  std::set<EpochSlot*> again;
  for (std::size_t i = 0; i < kSlots; ++i) again.insert(epochs_.AcquireSlot());
  EXPECT_EQ(again, std::set<EpochSlot*>(slots.begin(), slots.end()));  // none is lost or doubled
}

TEST_P(EpochTest, SlotsHaveCacheLinesOfTheirOwn) {
  EXPECT_EQ(sizeof(EpochSlot) % 64, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&a_) % 64, 0U);
  // Every operation writes its word and its count: that is one line.
  EXPECT_LE(reinterpret_cast<std::uintptr_t>(&a_.tally) + 6 * sizeof(internal::Counter),
            reinterpret_cast<std::uintptr_t>(&a_) + 64);
}

TEST_P(EpochTest, GivingUpASlotInsideAGuardIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        const EpochGuard guard(epochs_, a_);
        epochs_.ReleaseSlot(&a_);
      },
      "internal error");
}

// Hazard 3: a guard inside a guard of the same session would end the protection of both.
#if defined(EBB_CHECKED) || !defined(NDEBUG)
TEST_P(EpochTest, GuardInsideAGuardIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const EpochGuard guard(epochs_, a_);
  EXPECT_DEATH(EpochGuard(epochs_, a_), "internal error");
}
#endif

// ---- Slow calls ----

TEST_P(EpochTest, CloseKnowsOfSlowCallsWithoutGuard) {
  EXPECT_TRUE(epochs_.NoSlowCalls());
  {
    const SlowScope slow(b_);
    const std::uint64_t epoch = epochs_.BumpClosed();
    EXPECT_TRUE(epochs_.Drained(epoch));
    EXPECT_FALSE(epochs_.NoSlowCalls());
  }
  EXPECT_TRUE(epochs_.NoSlowCalls());
}

// ---- Which guards ----

TEST_P(EpochTest, FallbackCanBeForced) {
  if (GetParam()) {
    EXPECT_FALSE(epochs_.uses_membarrier());
  }
  EpochManager::ForceFallbackForTesting(true);
  EXPECT_FALSE(EpochManager(0).uses_membarrier());
  EpochManager::ForceFallbackForTesting(FallbackIsForced());
  EXPECT_EQ(EpochManager(0).uses_membarrier(), EpochManager(0).uses_membarrier());
  if (FallbackIsForced()) {
    EXPECT_FALSE(EpochManager(0).uses_membarrier());
  }
}

// ---- Fork ----

// The allocators of sanitizers do not survive a fork while other threads run; glibc's does.
#if defined(EBB_TSAN) || defined(__SANITIZE_ADDRESS__)
constexpr bool kMayAllocateInChild = false;
#elif defined(__has_feature)
constexpr bool kMayAllocateInChild = !__has_feature(address_sanitizer);
#else
constexpr bool kMayAllocateInChild = true;
#endif

TEST_P(EpochTest, NoLookAgreesInAForkedChild) {
  const EpochGuard guard(epochs_, a_);
  const int result = InChild([&] {
    if (guard.Look()) return 1;
    const EpochGuard later(epochs_, b_);
    if (later.Look()) return 2;
    return epochs_.closed() ? 0 : 3;
  });
  EXPECT_EQ(result, 0);
  EXPECT_TRUE(guard.Look());  // nothing has happened to the parent
  EXPECT_FALSE(epochs_.closed());
}

TEST_P(EpochTest, ManagerMadeInAForkedChildWorks) {
  const int result = InChild([] {
    EpochManager epochs(1, GetParam());
    EpochSlot* const slot = epochs.AcquireSlot();
    {
      const EpochGuard guard(epochs, *slot);
      if (!guard.Look() || guard.version_bits() != 1) return 1;
    }
    return epochs.Drained(epochs.Bump()) ? 0 : 2;
  });
  EXPECT_EQ(result, 0);
}

// The list of managers may be just changing when another thread forks; the child must find it
// whole, and not locked forever by a thread that it does not have.
TEST_P(EpochTest, ForkWaitsForManagersThatAreBeingMade) {
  Atomic<bool> done{false};
  std::thread maker([&] {
    while (!done.load(std::memory_order_acquire)) EpochManager(0, GetParam());
  });
  for (int i = 0; i < 40; ++i) {
    const int result = InChild([&] {
      if (kMayAllocateInChild) EpochManager(0, GetParam());
      return epochs_.closed() ? 0 : 1;
    });
    EXPECT_EQ(result, 0);
  }
  done.store(true, std::memory_order_release);
  maker.join();
}

// A slot is taken under a mutex that any thread may hold when another one forks; the child's first
// session must not wait for it.
TEST_P(EpochTest, ForkWaitsForSlotsThatAreBeingTaken) {
  Atomic<bool> done{false};
  std::vector<std::thread> takers;
  for (int i = 0; i < 2; ++i) {
    takers.emplace_back([&] {
      while (!done.load(std::memory_order_acquire)) epochs_.ReleaseSlot(epochs_.AcquireSlot());
    });
  }
  for (int i = 0; i < 100; ++i) {
    const int result = InChild([&] {
      epochs_.ReleaseSlot(&a_);
      return epochs_.AcquireSlot() == &a_ ? 0 : 1;
    });
    ASSERT_EQ(result, 0);
  }
  done.store(true, std::memory_order_release);
  for (std::thread& taker : takers) taker.join();
}

// ---- Threads ----

// A writer hides an object, waits for the drain and frees it; readers of it must find it whole.
// AddressSanitizer sees a use after free, ThreadSanitizer a missing edge.
TEST_P(EpochTest, MemoryHiddenBeforeADrainIsNotSeenAfterIt) {
  constexpr int kReaders = 3;
  constexpr int kRounds = 1000;
  struct Thing {
    std::uint64_t value = 42;  // plain on purpose
  };
  Atomic<Thing*> shared{new Thing};
  Atomic<bool> done{false};
  Atomic<std::uint64_t> reads{0};
  Atomic<std::uint64_t> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      EpochSlot* const slot = epochs_.AcquireSlot();
      while (!done.load(std::memory_order_acquire)) {
        for (int burst = 0; burst < 20; ++burst) {
          const EpochGuard guard(epochs_, *slot);
          const Thing* const thing = shared.load(std::memory_order_acquire);
          wrong.fetch_add(thing->value != 42, std::memory_order_relaxed);
        }
        reads.fetch_add(20, std::memory_order_relaxed);
        std::this_thread::yield();  // here rather than in a guard, where all would wait for us
      }
      epochs_.ReleaseSlot(slot);
    });
  }
  const auto goes_on = [&](int round) {
    return round < kRounds || reads.load(std::memory_order_relaxed) < kRounds;
  };
  for (int round = 0; goes_on(round); ++round) {
    auto fresh = std::make_unique<Thing>();
    std::unique_ptr<Thing> old(shared.exchange(fresh.release(), std::memory_order_acq_rel));
    const std::uint64_t epoch = epochs_.Bump();
    while (!epochs_.Drained(epoch)) std::this_thread::yield();
    old->value = 0;
  }
  done.store(true, std::memory_order_release);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(std::memory_order_relaxed), 0U);
  delete shared.load(std::memory_order_relaxed);
}

TEST_P(EpochTest, BumpsOfManyThreadsAreAllDifferent) {
  constexpr int kThreads = 4;
  constexpr std::size_t kBumps = 300;
  std::vector<std::vector<std::uint64_t>> epochs(kThreads);
  std::vector<std::thread> threads;
  for (auto& mine : epochs) {
    threads.emplace_back([this, &mine] {
      for (std::size_t i = 0; i < kBumps; ++i) mine.push_back(epochs_.Bump());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::uint64_t> all;
  for (const auto& mine : epochs) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), kThreads * kBumps);
  EXPECT_EQ(*all.rbegin() - *all.begin() + 1, kThreads * kBumps);
}

}  // namespace
}  // namespace ebb::test
