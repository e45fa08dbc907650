// The explorer itself: a seed replays, and it finds the bugs that it should find.
#include "tests/schedule/scheduler.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "tests/schedule/explore.h"

namespace ebb::test {
namespace {

using internal::AtomicWord;
using internal::Mutex;
using internal::MutexLock;

constexpr auto kRelaxed = std::memory_order_relaxed;

struct Outcome {
  std::uint64_t trace = 0;
  std::uint64_t steps = 0;
  std::vector<int> order;  // of the fibers, at each of their accesses
  bool operator==(const Outcome&) const = default;
};
Outcome ThreeCounters(std::uint64_t seed) {
  Schedule schedule(seed, 60);
  Outcome outcome;
  AtomicWord word{0};
  for (int fiber = 0; fiber < 3; ++fiber) {
    schedule.Add([&, fiber] {
      for (int i = 0; i < 20; ++i) {
        word.fetch_add(1, kRelaxed);
        outcome.order.push_back(fiber);
      }
    });
  }
  schedule.Run();
  outcome.trace = schedule.trace();
  outcome.steps = schedule.steps();
  return outcome;
}

TEST(SchedulerTest, ASeedReplaysItsSchedule) {
  std::set<std::uint64_t> traces;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const Outcome first = ThreeCounters(seed);
    EXPECT_EQ(first, ThreeCounters(seed)) << seed;
    EXPECT_EQ(first.order.size(), 60u);
    traces.insert(first.trace);
  }
  EXPECT_GT(traces.size(), 150u);
}

// How many of 1000 seeds make the program fail.
template <typename Program>
int Failures(Program program) {
  int failures = 0;
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    Schedule schedule(seed, 16);
    program(schedule);
    if (!schedule.failure().empty()) ++failures;
  }
  return failures;
}

TEST(SchedulerTest, ALostUpdateIsFoundAndACountedOneIsNot) {
  const auto program = [](bool atomic) {
    return [atomic](Schedule& schedule) {
      AtomicWord word{0};
      for (int fiber = 0; fiber < 2; ++fiber) {
        schedule.Add([&] {
          if (atomic) {
            word.fetch_add(1, kRelaxed);
          } else {
            word.store(word.load(kRelaxed) + 1, kRelaxed);
          }
        });
      }
      schedule.Run();
      schedule.Check(word.load(kRelaxed) == 2, "an update is lost");
    };
  };
  EXPECT_GT(Failures(program(false)), 100);
  EXPECT_EQ(Failures(program(true)), 0);
}

// Two fibers each store to a word of their own, then load the other's.
TEST(SchedulerTest, AHeldStoreIsSeenLateUnlessItIsSequentiallyConsistent) {
  const auto program = [](std::memory_order order) {
    return [order](Schedule& schedule) {
      AtomicWord words[2] = {};
      std::uint64_t seen[2] = {};
      for (int fiber = 0; fiber < 2; ++fiber) {
        schedule.Add([&, fiber] {
          words[fiber].store(1, order);
          seen[fiber] = words[1 - fiber].load(kRelaxed);
          schedule.Check(words[fiber].load(kRelaxed) == 1, "one's own store is lost");
        });
      }
      schedule.Run();
      schedule.Check(seen[0] + seen[1] != 0, "neither sees the other");
    };
  };
  EXPECT_GT(Failures(program(kRelaxed)), 10);
  EXPECT_EQ(Failures(program(std::memory_order_seq_cst)), 0);
}

TEST(SchedulerTest, ALockedMutexIsWaitedFor) {
  EXPECT_EQ(Failures([](Schedule& schedule) {
              Mutex mu;
              AtomicWord word{0};
              for (int fiber = 0; fiber < 3; ++fiber) {
                schedule.Add([&] {
                  const MutexLock lock(mu);
                  word.store(word.load(kRelaxed) + 1, kRelaxed);
                });
              }
              schedule.Run();
              schedule.Check(word.load(kRelaxed) == 3, "an update is lost");
            }),
            0);
}

TEST(SchedulerTest, AWaitContinuesOnceAnotherFiberHasActed) {
  EXPECT_EQ(Failures([](Schedule& schedule) {
              AtomicWord word{0};
              schedule.Add([&] {
                while (word.load(kRelaxed) == 0) internal::SleepFor(std::chrono::microseconds(50));
                word.store(2, kRelaxed);
              });
              schedule.Add([&] { word.store(1, kRelaxed); });
              schedule.Run();
              schedule.Check(word.load(kRelaxed) == 2, "the waiter did not go on");
            }),
            0);
}

TEST(SchedulerTest, TimeMovesToTheNextWaitWhenAllFibersWait) {
  EXPECT_EQ(Failures([](Schedule& schedule) {
              std::vector<int> order;
              for (const int ms : {300, 100, 200}) {
                schedule.Add([&, ms] {
                  const auto begun = internal::Clock::now();
                  internal::SleepFor(std::chrono::milliseconds(ms));
                  order.push_back(ms);
                  schedule.Check(internal::MillisecondsSince(begun) == std::uint64_t(ms), "time");
                });
              }
              schedule.Run();
              schedule.Check(order == std::vector<int>{100, 200, 300}, "another order");
            }),
            0);
}

TEST(SchedulerTest, AThreadIsAFiberWithObjectsOfItsOwn) {
  struct Number {
    int value = 0;
  };
  EXPECT_EQ(Failures([](Schedule& schedule) {
              AtomicWord sum{0};
              schedule.Add([&] {
                internal::ThreadSlot<Number>().value = 1;
                std::vector<internal::Thread> threads;
                for (int i = 0; i < 2; ++i) {
                  threads.emplace_back([&] {
                    schedule.Check(internal::ThreadSlot<Number>().value == 0, "another's object");
                    internal::ThreadSlot<Number>().value = 2;
                    sum.fetch_add(1, kRelaxed);
                  });
                }
                for (internal::Thread& thread : threads) thread.join();
                schedule.Check(sum.load(kRelaxed) == 2, "a thread that was joined has not ended");
                schedule.Check(internal::ThreadSlot<Number>().value == 1, "another's object");
              });
              schedule.Run();
            }),
            0);
}

TEST(SchedulerTest, AnExceptionStaysInItsFiber) {
  EXPECT_EQ(Failures([](Schedule& schedule) {
              for (const int number : {1, 2}) {
                schedule.Add([&, number] {
                  try {
                    throw number;
                  } catch (int) {
                    internal::Yield();
                    try {
                      throw;
                    } catch (int caught) {
                      schedule.Check(caught == number, "another's exception");
                    }
                  }
                });
              }
              schedule.Run();
            }),
            0);
}

TEST(SchedulerDeathTest, ALostNotificationEndsTheProgram) {
  const auto program = [](bool notifies) {
    Schedule schedule(5, 16, Schedule::Kind::kStraight);
    Mutex mu;
    internal::CondVar changed;
    bool done = false;
    schedule.Add([&] {
      const MutexLock lock(mu);
      while (!done) changed.Wait(mu);
    });
    schedule.Add([&] {
      internal::SleepFor(std::chrono::milliseconds(1));
      const MutexLock lock(mu);
      done = true;
      if (notifies) changed.NotifyOne();
    });
    schedule.Run();
  };
  program(true);
  EXPECT_DEATH(program(false), "wait for each other[^$]*fiber 0 .*a condition");
}

TEST(SchedulerDeathTest, FibersThatWaitForEachOtherEndTheProgram) {
  EXPECT_DEATH(
      {
        NoteForCrashes("Program", 5);
        Schedule schedule(5, 16);
        Mutex first;
        Mutex second;
        AtomicWord held{0};
        schedule.Add([&] {
          const MutexLock lock(first);
          held.fetch_add(1, kRelaxed);
          while (held.load(kRelaxed) != 2) internal::SleepFor(std::chrono::microseconds(1));
          const MutexLock other(second);
        });
        schedule.Add([&] {
          const MutexLock lock(second);
          held.fetch_add(1, kRelaxed);
          while (held.load(kRelaxed) != 2) internal::SleepFor(std::chrono::microseconds(1));
          const MutexLock other(first);
        });
        schedule.Run();
      },
      "wait for each other[^$]*EBB_SCHEDULE_SEED=5");
}

TEST(SchedulerDeathTest, UseAfterTheEndIsFound) {
  struct Base {
    virtual ~Base() = default;
    virtual int Number() const { return 1; }
  };
  EXPECT_DEATH(
      {
        auto owner = std::make_unique<Base>();
        const Base* volatile const used = owner.get();
        owner.reset();
        std::exit(used->Number());
      },
      "");
}

}  // namespace
}  // namespace ebb::test
