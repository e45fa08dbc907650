// Epochs under schedules: guards against bumps and drains.
#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "ebb/internal/epoch/epoch.h"
#include "tests/schedule/explore.h"

namespace ebb::test {
namespace {

using internal::AtomicWord;
using internal::EpochGuard;
using internal::EpochManager;
using internal::EpochSlot;
using internal::SlowScope;

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;

void WaitForDrain(EpochManager& epochs, std::uint64_t epoch) {
  while (!epochs.Drained(epoch)) internal::Yield();
}

// A pointer moves from one thing to the next; the old one is taken away after a drain. Readers hold
// the thing they found as long as their guard lasts. Slots come and go in the meantime.
void Things(Schedule& schedule, bool fallback) {
  EpochManager epochs(0, fallback);
  AtomicWord newest{0};
  std::array<AtomicWord, 4> there;
  for (AtomicWord& thing : there) thing.store(1, kRelaxed);
  for (int reader = 0; reader < 2; ++reader) {
    schedule.Add([&] {
      EpochSlot* const slot = epochs.AcquireSlot();
      for (int round = 0; round < 2; ++round) {
        const EpochGuard guard(epochs, *slot);
        const AtomicWord& thing = there[newest.load(kRelaxed)];
        for (int look = 0; look < 2; ++look) {
          schedule.Check(thing.load(kRelaxed) == 1, "what a guard holds was taken away");
        }
      }
      epochs.ReleaseSlot(slot);
    });
  }
  schedule.Add([&] {
    for (std::uint64_t i = 1; i < there.size(); ++i) {
      newest.store(i, kRelease);
      WaitForDrain(epochs, epochs.Bump());
      there[i - 1].store(0, std::memory_order_seq_cst);
    }
  });
  schedule.Run();
}
TEST(EpochSchedules, MemoryUnderAGuardStays) {
  Explore(60000, [](Schedule& schedule) { Things(schedule, false); });
}
TEST(EpochSchedules, MemoryUnderAGuardStaysWithoutMembarrier) {
  Explore(30000, [](Schedule& schedule) { Things(schedule, true); });
}

// A thread that acts after an agreed check does so before the drain of its version ends.
void Versions(Schedule& schedule, bool looks) {
  EpochManager epochs(0);
  std::array<AtomicWord, 4> drained;
  for (int actor = 0; actor < 2; ++actor) {
    schedule.Add([&] {
      EpochSlot* const slot = epochs.AcquireSlot();
      for (int round = 0; round < 3; ++round) {
        const EpochGuard guard(epochs, *slot);
        if (looks && !guard.Look()) continue;
        const AtomicWord& version = drained[guard.version_bits()];
        schedule.Check(version.load(kAcquire) == 0, "an effect in a version that has drained");
      }
      epochs.ReleaseSlot(slot);
    });
  }
  schedule.Add([&] {
    for (unsigned version = 1; version < 4; ++version) {
      WaitForDrain(epochs, epochs.BumpVersion(version));
      drained[version - 1].store(1, std::memory_order_seq_cst);
    }
  });
  schedule.Run();
}
TEST(EpochSchedules, AnEffectAfterAnAgreedLookIsOfItsVersion) {
  Explore(40000, [](Schedule& schedule) { Versions(schedule, true); });
}
TEST(EpochSchedules, WithoutTheLookAnEffectIsFoundInAVersionThatHasDrained) {
  EXPECT_LE(FindFailure(2000, [](Schedule& schedule) { Versions(schedule, false); }), 2000u);
}

// Closing waits for guards and for slow calls, and later callers are rejected.
void Closing(Schedule& schedule) {
  EpochManager epochs(0);
  AtomicWord open{1};
  for (int caller = 0; caller < 2; ++caller) {
    schedule.Add([&] {
      EpochSlot* const slot = epochs.AcquireSlot();
      for (int round = 0; round < 2; ++round) {
        {
          const EpochGuard guard(epochs, *slot);
          if (guard.Look()) schedule.Check(open.load(kRelaxed) == 1, "closed under a guard");
        }
        const SlowScope scope(*slot);
        if (epochs.closed()) continue;
        schedule.Check(open.load(kRelaxed) == 1, "closed under a slow call");
      }
      epochs.ReleaseSlot(slot);
    });
  }
  schedule.Add([&] {
    const std::uint64_t epoch = epochs.BumpClosed();
    while (!epochs.Drained(epoch) || !epochs.NoSlowCalls()) internal::Yield();
    open.store(0, std::memory_order_seq_cst);
  });
  schedule.Run();
}
TEST(EpochSchedules, ClosingWaitsForGuardsAndSlowCalls) { Explore(40000, Closing); }

}  // namespace
}  // namespace ebb::test
