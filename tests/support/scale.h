// Scale and seed of the randomized suites.
//
// A scale multiplies the amount of work of such a suite and the minimums that it asserts. 1 is the
// full length, which `go.sh test --long` runs; without a variable it is the short form,
// kShortScale.
//
//   EBB_STRESS_SCALE=1      the suites of ebb_tests
//   EBB_SCHEDULE_SCALE=1    the schedule explorer
//   EBB_STRESS_SEED=17      repeats a run's choices; each run prints its seed
//
// Thread safety: functions that read the environment.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace ebb::test {

inline constexpr double kShortScale = 0.1;

inline double ScaleFrom(const char* variable) {
  const char* const text = std::getenv(variable);
  const double scale = text == nullptr ? kShortScale : std::atof(text);
  return scale > 0 ? scale : kShortScale;
}
inline double Scale() { return ScaleFrom("EBB_STRESS_SCALE"); }
inline double ScheduleScale() { return ScaleFrom("EBB_SCHEDULE_SCALE"); }

inline std::uint64_t Seed() {
  static const std::uint64_t seed = [] {
    const char* const text = std::getenv("EBB_STRESS_SEED");
    const std::uint64_t chosen =
        text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
    std::printf("EBB_STRESS_SEED=%llu\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return seed;
}

// An exhaustive test takes every case. At a scale below the short form's, as under sanitizers, it
// takes one in Stride() of them, different ones in each run.
inline std::uint64_t Stride() { return Scale() < kShortScale ? 7 : 1; }
inline bool IsInSample(std::uint64_t index) { return (index + Seed()) % Stride() == 0; }

}  // namespace ebb::test
