#include "ebb/internal/base/backoff.h"

#include <chrono>
#include <cstdint>
#include <span>

#include "ebb/internal/base/platform.h"

namespace ebb::internal {

namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A generator of the thread (xorshift), so that threads that wait for each other do not go in step.
std::uint32_t NextRandom() {
  struct State {
    std::uint64_t word = 0;
  };
  std::uint64_t& word = ThreadSlot<State>().word;
  if (word == 0) {
    // If the kernel provides none, these threads do go in step.
    static_cast<void>(RandomBytes(std::as_writable_bytes(std::span(&word, 1))));
    word |= 1;
  }
  word ^= word << 13;
  word ^= word >> 7;
  word ^= word << 17;
  return static_cast<std::uint32_t>(word >> 32);
}

}  // namespace

unsigned Backoff::Wait() {
  const unsigned random = NextRandom() % 64;
  if (++count_ <= 32) {
    for (unsigned i = 0; i < random; ++i) Pause();  // on an idle machine, yield returns at once
    Yield();
    return random;
  }
  SleepFor(std::chrono::microseconds(25 + random));
  return random;
}

}  // namespace ebb::internal
