// The announcement of a guard against the bump of a thread that takes something away, on real
// hardware.
//
// Entering a guard is a plain store and a compiler barrier, so the processor may do the loads that
// follow before any other thread sees the store (hazard 1). The bump pays for it with a membarrier.
// ThreadSanitizer does not know membarrier, and no checker runs this path; so it is run here, as it
// is in a release build, often enough that a missing barrier shows.
//
// The pattern is a store buffer, run without any hand-over between the two sides, so that the cheap
// side costs nanoseconds and the dear side is the only one that pays for its system call:
//
//   session, all the time            scanner, all the time, n = 1, 2, 3 ...
//     enter                            boundary = n           everything below n is to go
//     b = boundary                     bump
//     freed > b?  then our object      wait until drained
//                 was taken away       freed = n              and now it is gone
//     leave
//
// To be caught, the announcement must be late by more than the scanner needs from its boundary to
// its check of the slot, and the session must stay to see the end. So one round in 64 is a slow
// one: it first stores to a few lines that no cache holds, after which the announcement has to
// queue, as it does after a record that was just written; and it checks many times.
//
// The twin is the same with its own manager that lacks only the heavy half. It must be caught, or
// the test could not catch anything; and with the heavy half it must pass, or the twin would be
// caught for another reason.
#include <gtest/gtest.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/epoch/epoch.h"
#include "tests/support/fallback.h"
#include "tests/support/scale.h"

namespace ebb::test {
namespace {

using internal::AtomicWord;
using internal::EpochGuard;
using internal::EpochManager;
using internal::EpochSlot;

#ifdef EBB_TSAN
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

int Membarrier(int command) { return static_cast<int>(::syscall(SYS_membarrier, command, 0, 0)); }

bool HasMembarrier() {
  return Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
         Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
}

int ProcessorCount() {
  cpu_set_t processors;
  return ::sched_getaffinity(0, sizeof(processors), &processors) == 0 ? CPU_COUNT(&processors) : 1;
}

// Why this machine or build cannot run a test of plain stores; empty when it can.
std::string WhyNot() {
  if (kThreadSanitizer) return "ThreadSanitizer does not know membarrier";
  if (ProcessorCount() < 2) return "one processor has no store buffer to be seen from outside";
  if (!HasMembarrier()) return "no membarrier here";
  if (FallbackIsForced()) return "this run does without membarrier";
  return "";
}

std::uint64_t ScaledRounds(double rounds) {
  const double scaled = rounds * Scale();
  return scaled < 100'000 ? 100'000 : static_cast<std::uint64_t>(scaled);
}

// ---- The two sides ----

// Each on a line of its own, so that nothing but the protocol orders them.
struct Words {
  alignas(64) AtomicWord boundary{0};
  alignas(64) AtomicWord freed{0};
  alignas(64) AtomicWord stop{0};
};

struct Outcome {
  std::uint64_t session_rounds = 0;
  std::uint64_t scanner_rounds = 0;
  std::uint64_t violations = 0;
};

// The session's object was taken away. When the scanner has missed us its store is on its way.
inline bool WasTakenAway(const Words& words, std::uint64_t boundary, int look_count) {
  for (int look = 0; look < look_count; ++look) {
    if (words.freed.load(std::memory_order_acquire) > boundary) return true;
  }
  return false;
}

// Fills the store buffer with stores that take long: to random lines of far more memory than is
// cached.
class ColdLines {
 public:
  void Store() {
    constexpr int kStoreCount = 16;
    for (int i = 0; i < kStoreCount; ++i) {
      random_ = random_ * 6364136223846793005 + 1442695040888963407;
      memory_[random_ >> (64 - kWordCountLog)] = random_;
    }
  }

 private:
  static constexpr int kWordCountLog = 23;
  std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>(std::size_t{1} << kWordCountLog);
  std::uint64_t random_ = 1;
};

// Keeps the calling thread on the first or the last processor that we may use, because a scheduler
// likes to start the two sides on the same one, where nothing can ever be seen.
void StayOnProcessor(bool first) {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  int chosen = -1;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &allowed)) continue;
    chosen = i;
    if (first) break;
  }
  if (chosen < 0) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(chosen, &one);
  static_cast<void>(::sched_setaffinity(0, sizeof(one), &one));  // else it takes longer
}

// The session's side: until it has made its rounds, or to the first violation.
template <typename Epochs>
void RunSession(Epochs& epochs, Words& words, std::uint64_t rounds, bool stop_at_first,
                Outcome& outcome) {
  constexpr std::uint64_t kSlowRoundEvery = 64;
  StayOnProcessor(/*first=*/true);
  ColdLines cold;
  std::uint64_t round = 0;
  std::uint64_t violations = 0;
  for (; round < rounds && !(stop_at_first && violations > 0); ++round) {
    const bool slow = round % kSlowRoundEvery == 0;
    if (slow) cold.Store();
    const typename Epochs::Guard guard(epochs);
    const std::uint64_t boundary = words.boundary.load(std::memory_order_acquire);
    if (WasTakenAway(words, boundary, slow ? 600 : 2)) ++violations;
  }
  words.stop.store(1, std::memory_order_relaxed);  // ends the loop of the other side, soon
  outcome.session_rounds = round;
  outcome.violations = violations;
}

template <typename Epochs>
void RunScanner(Epochs& epochs, Words& words, Outcome& outcome) {
  StayOnProcessor(/*first=*/false);
  std::uint64_t n = 0;
  while (words.stop.load(std::memory_order_relaxed) == 0) {  // a late look is one round more
    words.boundary.store(++n, std::memory_order_release);
    const std::uint64_t epoch = epochs.Bump();
    while (!epochs.Drained(epoch)) {
    }
    words.freed.store(n, std::memory_order_release);
  }
  outcome.scanner_rounds = n;
}

// `Epochs` has a Guard, Bump and Drained as the library's manager does.
template <typename Epochs>
Outcome Race(Epochs& epochs, std::uint64_t rounds, bool stop_at_first) {
  Words words;
  Outcome outcome;
  std::thread scanner([&] { RunScanner(epochs, words, outcome); });
  std::thread session([&] { RunSession(epochs, words, rounds, stop_at_first, outcome); });
  session.join();
  scanner.join();
  std::printf("%llu session rounds, %llu bumps, %llu violations\n",
              static_cast<unsigned long long>(outcome.session_rounds),
              static_cast<unsigned long long>(outcome.scanner_rounds),
              static_cast<unsigned long long>(outcome.violations));
  return outcome;
}

// The library's manager and guard.
class RealEpochs {
 public:
  explicit RealEpochs(bool force_fallback) : manager_(0, force_fallback) {}
  ~RealEpochs() { manager_.ReleaseSlot(slot_); }

  class Guard {
   public:
    explicit Guard(RealEpochs& epochs) : guard_(epochs.manager_, *epochs.slot_) {}

   private:
    EpochGuard guard_;
  };
  std::uint64_t Bump() { return manager_.Bump(); }
  bool Drained(std::uint64_t epoch) { return manager_.Drained(epoch); }
  bool uses_membarrier() const { return manager_.uses_membarrier(); }

 private:
  EpochManager manager_;
  EpochSlot* const slot_ = manager_.AcquireSlot();
};

// The same protocol written out, with or without the heavy half of the barrier.
template <bool kHeavyBarrier>
class TwinEpochs {
 public:
  class Guard {
   public:
    explicit Guard(TwinEpochs& epochs) : slot_(epochs.slot_) {
      slot_.store(epochs.epoch_.load(std::memory_order_acquire), std::memory_order_relaxed);
      asm volatile("" ::: "memory");
    }
    ~Guard() { slot_.store(0, std::memory_order_release); }

   private:
    AtomicWord& slot_;
  };
  std::uint64_t Bump() {
    const std::uint64_t epoch = epoch_.fetch_add(1, std::memory_order_seq_cst) + 1;
    if (kHeavyBarrier && Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) != 0) std::abort();
    return epoch;
  }
  bool Drained(std::uint64_t epoch) {
    const std::uint64_t seen = slot_.load(std::memory_order_acquire);
    return seen == 0 || seen >= epoch;
  }

 private:
  alignas(64) AtomicWord epoch_{1};
  alignas(64) AtomicWord slot_{0};
};

constexpr double kRounds = 1e8;
constexpr std::uint64_t kMinBumps = 1000;

// ---- Tests ----

TEST(EpochLitmusTest, MemoryUnderAGuardStays) {
  if (const std::string why_not = WhyNot(); !why_not.empty()) GTEST_SKIP() << why_not;
  RealEpochs epochs(/*force_fallback=*/false);
  ASSERT_TRUE(epochs.uses_membarrier());
  const std::uint64_t rounds = ScaledRounds(kRounds);
  const Outcome outcome = Race(epochs, rounds, /*stop_at_first=*/false);
  EXPECT_EQ(outcome.session_rounds, rounds);
  EXPECT_GE(outcome.scanner_rounds, kMinBumps);
  EXPECT_EQ(outcome.violations, 0U);
}

TEST(EpochLitmusTest, MemoryUnderAGuardStaysWithTheFallbackToo) {
  RealEpochs epochs(/*force_fallback=*/true);
  ASSERT_FALSE(epochs.uses_membarrier());
  const double rounds = kRounds / (kThreadSanitizer ? 50 : 5);
  const Outcome outcome = Race(epochs, ScaledRounds(rounds), /*stop_at_first=*/false);
  EXPECT_GE(outcome.scanner_rounds, kMinBumps);
  EXPECT_EQ(outcome.violations, 0U);
}

TEST(EpochLitmusTest, TwinWithoutTheHeavyBarrierIsCaught) {
  if (const std::string why_not = WhyNot(); !why_not.empty()) GTEST_SKIP() << why_not;
  TwinEpochs<false> epochs;
  // Far more rounds than it takes; a busy machine may keep the two sides apart for long.
  const Outcome outcome = Race(epochs, 2'000'000'000, /*stop_at_first=*/true);
  EXPECT_GT(outcome.violations, 0U);
}

TEST(EpochLitmusTest, TwinWithTheHeavyBarrierIsNot) {
  if (const std::string why_not = WhyNot(); !why_not.empty()) GTEST_SKIP() << why_not;
  TwinEpochs<true> epochs;
  const Outcome outcome = Race(epochs, ScaledRounds(kRounds / 5), /*stop_at_first=*/false);
  EXPECT_GE(outcome.scanner_rounds, kMinBumps);
  EXPECT_EQ(outcome.violations, 0U);
}

}  // namespace
}  // namespace ebb::test
