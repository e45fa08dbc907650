// Simulation: lives of a store (life.h), each determined by its seed, until one fails.
//
//   ebb_simulation                         as many lives as end in EBB_SIMULATION_SECONDS (20)
//   EBB_SIMULATION_SECONDS=0               until stopped; goes on after failures
//   EBB_SIMULATION_FIRST=n                 seeds from n on; default 1
//   EBB_SIMULATION_LIVES=n                 goes on for up to three times as long until so many have
//                                          ended, and fails if they have not; default 1
//   EBB_SIMULATION_SHRINK=n                seconds for finding a short one; default 120
//   EBB_SIMULATION_SEED=n                  one life; if it fails, a short one like it is looked for
//   EBB_SIMULATION_KEEP=3,17 and _ORDER=n  the same with these actions only, in that interleaving
//
// A life runs in a child process, because a failed check of the library ends it. A life that fails
// is run again without parts of it, in several interleavings, for as long as it still fails; the
// actions that are left are printed with the variables that replay them.
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/schedule/scheduler.h"
#include "tests/simulation/life.h"
#include "tests/simulation/plan.h"

namespace ebb::test {
namespace {

using Steady = std::chrono::steady_clock;
using Actions = std::set<std::size_t>;

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

double SecondsSince(Steady::time_point begun) {
  return std::chrono::duration<double>(Steady::now() - begun).count();
}

// What a child that runs lives has done, in memory that it shares.
struct Progress {
  static constexpr std::size_t kCounts = 32;
  std::uint64_t seed = 0;  // of the life that runs
  std::uint64_t lives = 0;
  std::uint64_t steps = 0;
  std::uint64_t virtual_ns = 0;
  std::uint64_t openings = 0;
  char failure[8192] = {};
  struct Count {
    char what[40];
    std::uint64_t count;
  } counts[kCounts] = {};

  void Add(std::string_view what, std::uint64_t count) {
    for (Count& sum : counts) {
      if (sum.what[0] == 0)
        std::snprintf(sum.what, sizeof sum.what, "%.*s", int(what.size()), what.data());
      if (what != sum.what) continue;
      sum.count += count;
      return;
    }
  }
};

Progress& Shared() {
  static auto* const progress = new (mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE,
                                          MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Progress;
  return *progress;
}

// The output of the library in children.
int Output() {
  static const int fd = memfd_create("output", MFD_CLOEXEC);
  return fd;
}
std::string TakeOutput() {
  std::string text(4096, '\0');
  const ssize_t count = pread(Output(), text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}
void ClearOutput() {
  if (ftruncate(Output(), 0) != 0 || lseek(Output(), 0, SEEK_SET) != 0) std::abort();
}

// Runs one life. Returns whether nothing failed.
bool RunLife(std::uint64_t seed, const Actions* keep, std::uint64_t order) {
  Progress& shared = Shared();
  shared.seed = seed;
  ClearOutput();
  NoteForCrashes("a life", seed, "EBB_SIMULATION_SEED");
  const Plan plan = MakePlan(seed, keep);
  const LifeResult result = Live(plan, order);
  ++shared.lives;
  shared.steps += result.steps;
  shared.virtual_ns += result.virtual_ns;
  shared.openings += plan.openings.size();
  for (const auto& [what, count] : result.counts) shared.Add(what, count);
  std::snprintf(shared.failure, sizeof shared.failure, "%s", result.failure.c_str());
  return result.failure.empty();
}

// Ends the process by a signal when it has used so many seconds of a processor. The fibers share
// one thread that never waits, so on a busy machine only this time says whether a life ends.
void EndAfter(unsigned seconds) {
  const itimerval timer{.it_interval = {}, .it_value = {.tv_sec = seconds, .tv_usec = 0}};
  if (setitimer(ITIMER_PROF, &timer, nullptr) != 0) std::abort();
}

// In a child: returns whether it ended well. `seconds`: of a processor, at most; 0: any.
template <typename Body>
bool InChild(unsigned seconds, Body body) {
  Shared().failure[0] = 0;
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child == 0) {
    dup2(Output(), STDERR_FILENO);
    if (seconds != 0) EndAfter(seconds);
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) std::abort();
  if (WIFSIGNALED(status)) {
    std::snprintf(Shared().failure, sizeof Shared().failure, "signal %d: %s", WTERMSIG(status),
                  TakeOutput().c_str());
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string Cause() { return Shared().failure; }

// ---- shrinking ----

class Shrinker {
 public:
  Shrinker(std::uint64_t seed, Actions actions, std::uint64_t order, double seconds)
      : seed_(seed), actions_(std::move(actions)), order_(order), seconds_(seconds) {}

  // Drops halves, quarters and so on, down to single actions, as long as that still fails.
  void Run() {
    for (std::size_t piece = std::max<std::size_t>(1, actions_.size() / 2);;) {
      bool dropped = false;
      const std::vector<std::size_t> all(actions_.begin(), actions_.end());
      for (std::size_t at = 0; at < all.size(); at += piece) {
        Actions rest = actions_;
        for (std::size_t i = at; i < std::min(all.size(), at + piece); ++i) rest.erase(all[i]);
        if (rest.size() != actions_.size() && Fails(rest)) dropped = true;
        if (SecondsSince(begun_) > seconds_) return;
      }
      if (piece == 1 && !dropped) return;
      piece = std::max<std::size_t>(1, piece / 2);
    }
  }

  const Actions& actions() const { return actions_; }
  std::uint64_t order() const { return order_; }
  const std::string& cause() const { return cause_; }

 private:
  bool Fails(const Actions& actions) {
    for (std::uint64_t i = 0; i < kOrders; ++i) {
      const std::uint64_t order = i == 0 ? order_ : i - 1;
      if (InChild(20, [&] { return RunLife(seed_, &actions, order); })) continue;
      actions_ = actions;
      order_ = order;
      cause_ = Cause();
      return true;
    }
    return false;
  }

  static constexpr std::uint64_t kOrders = 12;
  const std::uint64_t seed_;
  Actions actions_;
  std::uint64_t order_;
  const double seconds_;
  std::string cause_ = Cause();
  const Steady::time_point begun_ = Steady::now();
};

std::string Join(const Actions& actions) {
  std::string text;
  for (const std::size_t action : actions)
    text += (text.empty() ? "" : ",") + std::to_string(action);
  return text;
}

void Explain(std::uint64_t seed, const Actions* keep, std::uint64_t order) {
  std::printf("simulation: the life of seed %llu fails: %s\n",
              static_cast<unsigned long long>(seed), Cause().c_str());
  std::fflush(stdout);
  Actions actions;
  if (keep != nullptr) {
    actions = *keep;
  } else {
    const std::size_t count = MakePlan(seed, nullptr).action_count;
    for (std::size_t i = 0; i < count; ++i) actions.insert(i);
  }
  Shrinker shrinker(seed, actions, order,
                    static_cast<double>(FromEnvironment("EBB_SIMULATION_SHRINK", 120)));
  shrinker.Run();
  std::printf("simulation: it still fails with these %zu actions: %s\n%s",
              shrinker.actions().size(), shrinker.cause().c_str(),
              Describe(MakePlan(seed, &shrinker.actions())).c_str());
  std::printf("EBB_SIMULATION_SEED=%llu EBB_SIMULATION_KEEP=%s EBB_SIMULATION_ORDER=%llu\n",
              static_cast<unsigned long long>(seed), Join(shrinker.actions()).c_str(),
              static_cast<unsigned long long>(shrinker.order()));
}

// ---- modes ----

int RunOne(std::uint64_t seed) {
  const std::uint64_t order = FromEnvironment("EBB_SIMULATION_ORDER", 0);
  Actions kept;
  const char* const text = std::getenv("EBB_SIMULATION_KEEP");
  for (const char* at = text; at != nullptr && *at != 0;) {
    char* end = nullptr;
    kept.insert(std::strtoul(at, &end, 10));
    at = *end == 0 ? end : end + 1;
  }
  const Actions* const keep = text == nullptr ? nullptr : &kept;
  std::printf("%s", Describe(MakePlan(seed, keep)).c_str());
  if (InChild(60, [&] { return RunLife(seed, keep, order); })) {
    std::printf("simulation: the life of seed %llu: nothing failed in %llu steps\n",
                static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(Shared().steps));
    return 0;
  }
  Explain(seed, keep, order);
  return 1;
}

void Report(double seconds) {
  const Progress& shared = Shared();
  const auto lives = static_cast<double>(std::max<std::uint64_t>(1, shared.lives));
  std::printf(
      "simulation: %llu lives, %.0f/s, %.1f openings, %.0f steps and %.0f ms of virtual time "
      "each, %.0f steps/s\n",
      static_cast<unsigned long long>(shared.lives), lives / seconds,
      static_cast<double>(shared.openings) / lives, static_cast<double>(shared.steps) / lives,
      static_cast<double>(shared.virtual_ns) / lives / 1e6,
      static_cast<double>(shared.steps) / seconds);
  for (const Progress::Count& count : shared.counts) {
    if (count.what[0] == 0) break;
    std::printf("simulation:   %s: %llu\n", count.what,
                static_cast<unsigned long long>(count.count));
  }
  std::fflush(stdout);
}

int RunMany(std::uint64_t first, double seconds) {
  const Steady::time_point begun = Steady::now();
  const std::uint64_t min_lives = FromEnvironment("EBB_SIMULATION_LIVES", 1);
  // A busy machine needs longer for the lives that are asked for.
  const auto time_is_up = [&] {
    const double spent = SecondsSince(begun);
    return seconds != 0 && spent > seconds * (Shared().lives < min_lives ? 3 : 1);
  };
  double living = 0;
  int failures = 0;
  Shared().seed = first - 1;
  while (!time_is_up()) {
    const Steady::time_point child_begun = Steady::now();
    const bool fine = InChild(0, [&] {
      for (std::uint64_t seed = Shared().seed + 1; !time_is_up(); ++seed) {
        EndAfter(30);
        if (!RunLife(seed, nullptr, 0)) return false;
        if (seconds == 0 && seed % 10000 == 0) Report(living + SecondsSince(child_begun));
      }
      return true;
    });
    living += SecondsSince(child_begun);
    if (fine) break;
    ++failures;
    const std::uint64_t seed = Shared().seed;
    Explain(seed, nullptr, 0);
    Shared().seed = seed;
    if (seconds != 0) break;
  }
  Report(living);
  const std::uint64_t lives = Shared().lives;
  if (lives < min_lives) {
    std::printf("simulation: only %llu lives, expected at least %llu\n",
                static_cast<unsigned long long>(lives), static_cast<unsigned long long>(min_lives));
  }
  return failures == 0 && lives >= min_lives ? 0 : 1;
}

}  // namespace
}  // namespace ebb::test

int main() {
  // Buffers of stores come back from the heap at once: mapping them anew takes most of the time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  using ebb::test::FromEnvironment;
  if (std::getenv("EBB_SIMULATION_SEED") != nullptr) {
    return ebb::test::RunOne(FromEnvironment("EBB_SIMULATION_SEED", 1));
  }
  return ebb::test::RunMany(FromEnvironment("EBB_SIMULATION_FIRST", 1),
                            static_cast<double>(FromEnvironment("EBB_SIMULATION_SECONDS", 20)));
}
