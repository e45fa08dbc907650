// Scheduler: runs fibers on one thread, one at a time, in an order that follows from a seed.
//
//   Schedule schedule(seed, steps_expected);
//   schedule.Add([&] { ... calls of the library ... });
//   schedule.Add([&] { ... });
//   schedule.Run();                 // until all have ended
//   if (wrong) schedule.Fail("what is wrong");
//
// This program's library is compiled with tests/schedule/atomic.h as EBB_ATOMIC_HEADER, so before
// each access to an atomic word the running fiber may be left for another one. It is compiled with
// tests/schedule/platform.h as EBB_PLATFORM_HEADER too, so its threads are fibers, and each of its
// waits comes here. A fiber that waits for a mutex or a condition variable continues after the
// unlocking or a notification, so a lost notification is seen: fibers that all wait for each other
// end the program. In half of the seeds, waits for a condition also end for no reason. membarrier
// ends all delays of stores, see below.
//
// Time. It moves to the end of the earliest wait when all fibers wait, and by a microsecond when
// one yields. So the behaviour of a program depends on no real clock.
//
// Order. A quarter of the seeds leaves the running fiber at random everywhere; the others only at
// one to five places, chosen among the steps that a schedule is expected to have, so that a bug
// which needs few of them is found soon (after S. Burckhardt et al., "A randomized scheduler with
// probabilistic guarantees of finding bugs", ASPLOS 2010). A fiber that waits is always left.
// Of a long run over neighbouring words (a copy) only the first words and every 64th are places.
//
// Memory. Accesses are sequentially consistent with one exception: in half of the seeds a store
// that is not seq_cst may be held back from the others until its fiber stores or changes a word
// again, waits, or a fiber calls membarrier. That is a store buffer of one entry, as x86 has longer
// ones; loads are never reordered, so reorderings of weaker machines only are not seen. Words that
// are read past the alias (the index's vector loads) are read in the same step as the access before
// them.
//
// Also here: a freed block is overwritten, so that a use after free does not continue as if nothing
// had happened; and a crash prints the seed.
//
// Thread safety: one thread. A schedule's fibers are the only ones at a time. Cost: an access one
// or two nanoseconds, a switch about ten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace ebb::test {

inline constexpr std::uint64_t kNeverNs = ~std::uint64_t{0};

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0xd1342543de82ef95u + 1) {}
  std::uint64_t Next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t Below(std::uint64_t end) { return Next() % end; }

 private:
  std::uint64_t state_;
};

// The running fiber, as each access finds it.
struct RunningFiber {
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  static constexpr unsigned kRunPlaces = 8;

  std::uint64_t step = 0;
  std::uint64_t stop_at = kNever;
  std::uintptr_t last_word = 0;
  unsigned run_length = 0;
  bool holds_stores = false;
  std::uint64_t coins = 1;
  // The store that is held back, if there is one.
  void* held_word = nullptr;
  std::uint64_t held_value = 0;
  std::size_t held_bytes = 0;
};
extern constinit RunningFiber g_running;

// Leaves the running fiber, because it is time.
void StopSlow();

// ---- for platform.h ----

std::uint64_t VirtualNs();
std::uint64_t VirtualUnixNs();
// What a fiber waits for, besides a time.
enum class Waits { kNothing, kLock, kCondition, kEnd, kTime };
// Waits until `object` is woken, or until the time. Outside of fibers only time can be waited for.
void Block(const void* object, Waits waits, std::uint64_t until_ns = kNeverNs);
void WakeOne(const void* object);
void WakeAll(const void* object);
const void* StartFiber(std::function<void()> body);
void JoinFiber(const void* fiber);
// The running fiber's object of a key, which is made if there is none. It is destroyed at the
// fiber's end, after the others if it is `trivial`.
void* FindSlot(const void* key, void* (*make)(), void (*destroy)(void*), bool trivial);

inline void AccessPoint(const void* word) {
  RunningFiber& running = g_running;
  const auto at = reinterpret_cast<std::uintptr_t>(word);
  const bool neighbour = at == running.last_word + 8;
  running.last_word = at;
  running.run_length = neighbour ? running.run_length + 1 : 0;
  if (running.run_length >= RunningFiber::kRunPlaces && running.run_length % 64 != 0) return;
  if (++running.step >= running.stop_at) StopSlow();
}

inline void ReleaseHeldStore() {
  RunningFiber& running = g_running;
  if (running.held_word == nullptr) return;
  std::memcpy(running.held_word, &running.held_value, running.held_bytes);
  running.held_word = nullptr;
}
// The store that its own fiber sees already, or null.
inline const void* HeldStoreOf(const void* word) {
  return g_running.held_word == word ? &g_running.held_value : nullptr;
}
// True when the store of `value` to `word` is held back.
inline bool HoldStore(void* word, const void* value, std::size_t bytes) {
  RunningFiber& running = g_running;
  if (!running.holds_stores) return false;
  running.coins = running.coins * 6364136223846793005u + 1442695040888963407u;
  if (running.coins >> 63 != 0) return false;
  running.held_word = word;
  running.held_bytes = bytes;
  std::memcpy(&running.held_value, value, bytes);
  return true;
}

class Schedule {
 public:
  // The rule for where fibers are left. kStraight: only where they wait. kWalk: at random
  // everywhere, for long programs.
  enum class Kind { kStraight, kBySeed, kWalk };

  Schedule(std::uint64_t seed, std::uint64_t expected_steps, Kind kind = Kind::kBySeed);
  ~Schedule();
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  // Also in fibers. Returns the fiber, for JoinFiber.
  const void* Add(std::function<void()> body);
  // Until all fibers have ended. Ends the program when they make no progress.
  void Run();

  // From now on fibers are left only where they wait, and in turn; no wait ends for no reason.
  void Calm();
  void JumpTime(std::uint64_t ns);

  // For a program's own random choices, before Run or in fibers.
  Random& random() { return choices_; }
  // Keeps the first.
  void Fail(const std::string& what) {
    if (failure_.empty()) failure_ = what;
  }
  void Check(bool holds, const char* what) {
    if (!holds) Fail(what);
  }
  const std::string& failure() const { return failure_; }
  // Counts events of the program, for sums over its schedules. `what` is a literal.
  void Count(const char* what, std::uint64_t count) {
    if (count != 0) counts_.push_back({what, count});
  }
  const std::vector<std::pair<const char*, std::uint64_t>>& counts() const { return counts_; }

  // Steps made by fibers so far; also a clock for them.
  std::uint64_t steps() const { return g_running.step; }
  std::uint64_t switches() const { return switches_; }
  // The same for two schedules only if they left the same fibers at the same steps.
  std::uint64_t trace() const { return trace_; }

  // For the slow paths of this file.
  void DescribeWaits() const;
  void Stop();
  void Yield();
  void Block(const void* object, Waits waits, std::uint64_t until_ns);
  void Wake(const void* object, bool all);
  void Join(const void* fiber);
  void ReleaseAllHeldStores();
  [[noreturn]] void FiberMain();
  struct Slot {
    const void* key;
    void* object;
    void (*destroy)(void*);
    bool trivial;
  };
  std::vector<Slot>& slots() { return fibers_[current_].slots; }
  Random& order() { return order_; }

 private:
  struct Fiber {
    std::function<void()> body;
    std::size_t stack = 0;
    void* stack_pointer = nullptr;
    bool has_ended = false;
    void* held_word = nullptr;
    std::uint64_t held_value = 0;
    std::size_t held_bytes = 0;
    Waits waits = Waits::kNothing;
    const void* object = nullptr;  // that it waits for
    std::uint64_t until_ns = kNeverNs;
    std::vector<Slot> slots;
  };
  static constexpr std::size_t kNone = ~std::size_t{0};

  void PlanNextStop();
  bool MayRun(const Fiber& fiber);
  std::size_t PickOther();
  void MoveTime();
  void CountWait();
  void SwitchTo(std::size_t next);
  void Load(std::size_t next);
  void DestroySlots();

  Random choices_;  // the program's
  Random order_;    // the scheduler's
  std::deque<Fiber> fibers_;
  std::vector<std::size_t> live_;         // that have not ended
  std::vector<std::size_t> candidates_;   // of PickOther
  std::vector<std::size_t> free_stacks_;  // of those that have ended
  std::size_t stacks_ = 0;
  std::size_t current_ = kNone;
  void* main_stack_pointer_ = nullptr;

  bool walks_ = false;
  std::uint64_t walk_steps_ = 0;      // between two stops of a walk, on average
  std::vector<std::uint64_t> stops_;  // of other schedules, the next one last
  bool holds_stores_ = false;
  bool wakes_for_no_reason_ = false;
  bool is_calm_ = false;
  std::uint64_t waits_ = 0;  // since waits_from_ns_
  std::uint64_t waits_from_ns_ = 0;
  std::uint64_t switches_ = 0;
  std::uint64_t trace_ = 0;
  std::string failure_;
  std::vector<std::pair<const char*, std::uint64_t>> counts_;
};

// The output of a crash: the test and the seed that run now, and the variable that replays it.
void NoteForCrashes(const char* program, std::uint64_t seed,
                    const char* variable = "EBB_SCHEDULE_SEED");

// Only so many more threads can be started.
void ThreadsFail(std::uint64_t startable);
// Asked before each allocation of the library (tests/support/allocation_scope.h); null: none fails.
// The allocations that have not been freed.
std::int64_t LiveAllocations();
void SetAllocationFaults(bool (*fails)());

}  // namespace ebb::test
