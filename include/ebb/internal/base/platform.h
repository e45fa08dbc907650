// Platform: everything that the library takes from the machine, except files (device/) and atomic
// words (atomic.h): threads and objects of each thread, clocks and waits, memory maps, barriers and
// random bytes. tests/tidy rejects other uses.
//
// A build that defines EBB_PLATFORM_HEADER to a header name gets the types from there and the
// functions from its own sources. So the tests in tests/schedule and tests/simulation replace
// threads by fibers and time by a counter. In every other build the types are the standard ones.
//
// Thread safety: any thread. Progress: wait-free, except for the two waits.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#ifdef EBB_PLATFORM_HEADER
#include EBB_PLATFORM_HEADER
#else
#include <condition_variable>
#include <mutex>
#include <thread>
namespace ebb::internal {
using Clock = std::chrono::steady_clock;
using UnixClock = std::chrono::system_clock;
using Thread = std::thread;
using BareMutex = std::mutex;  // mutex.h wraps both
using BareCondVar = std::condition_variable;

// Returns the calling thread's object of type T, which is made by the first call and destroyed when
// the thread ends. Costs no check if T is initialized by constants and has no destructor.
template <typename T>
inline T& ThreadSlot() {
  static thread_local T slot;
  return slot;
}
}  // namespace ebb::internal
#endif

namespace ebb::internal {

void Yield();
void SleepFor(std::chrono::microseconds time);

// Calls membarrier. Returns 0 or an errno value.
int Membarrier(int command);

// Fills `bytes` from the kernel's generator. Returns 0 or an errno value.
int RandomBytes(std::span<std::byte> bytes);

// Reserves addresses without access. Returns null if there are none.
void* MapMemory(std::size_t bytes);
void UnmapMemory(void* memory, std::size_t bytes);
// Makes the first `bytes` of mapped addresses accessible. Returns false if memory is out.
bool AllowAccess(void* memory, std::size_t bytes);

// Times in the form that statistics and files use.
inline std::uint64_t UnixUs() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(UnixClock::now().time_since_epoch())
          .count());
}
inline std::uint64_t UnixMs() { return UnixUs() / 1000; }
inline std::uint64_t MillisecondsSince(Clock::time_point begun) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun).count());
}

}  // namespace ebb::internal
