#include "ebb/internal/base/backoff.h"

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <thread>

namespace ebb::internal {

namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A generator of the thread (xorshift), so that threads that wait for each other do not go in step.
std::uint32_t NextRandom() {
  static constinit thread_local std::uint64_t t_state = 0;
  if (t_state == 0) {
    t_state =
        reinterpret_cast<std::uintptr_t>(&t_state) ^
        static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    t_state = t_state * 0x9e3779b97f4a7c15 | 1;
  }
  t_state ^= t_state << 13;
  t_state ^= t_state >> 7;
  t_state ^= t_state << 17;
  return static_cast<std::uint32_t>(t_state >> 32);
}

}  // namespace

unsigned Backoff::Wait() {
  const unsigned random = NextRandom() % 64;
  if (++count_ <= 32) {
    for (unsigned i = 0; i < random; ++i) Pause();  // on an idle machine, yield returns at once
    std::this_thread::yield();
    return random;
  }
  usleep(25 + random);
  return random;
}

}  // namespace ebb::internal
