// Scale and seed of the suites whose length and chance are variable.
//
// EBB_STRESS_SCALE (1) scales how much they do and the minimums that they assert: a tenth in slow
// builds, a hundred in a long run. EBB_STRESS_SEED repeats a run's choices; the seed is printed.
//
// Thread safety: functions that read the environment.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace ebb::test {

inline double Scale() {
  const char* const text = std::getenv("EBB_STRESS_SCALE");
  const double scale = text == nullptr ? 1.0 : std::atof(text);
  return scale > 0 ? scale : 1.0;
}

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

}  // namespace ebb::test
