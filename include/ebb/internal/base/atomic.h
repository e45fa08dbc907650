// Atomic: the alias of every atomic word of the library.
//
// A build that defines EBB_ATOMIC_HEADER to a header name gets Atomic from there; a schedule
// explorer is plugged in that way. Every other build gets std::atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef EBB_ATOMIC_HEADER
#include EBB_ATOMIC_HEADER
#else
#include <atomic>
namespace ebb::internal {
template <typename T>
using Atomic = std::atomic<T>;
}  // namespace ebb::internal
#endif

#if defined(__SANITIZE_THREAD__)
#define EBB_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EBB_TSAN 1
#endif
#endif

namespace ebb::internal {

using AtomicWord = Atomic<std::uint64_t>;
static_assert(sizeof(AtomicWord) == 8 && AtomicWord::is_always_lock_free,
              "log words are used as atomics in place");

// Returns the eight bytes at `bytes` as an atomic. Log memory is 8-byte aligned raw bytes.
inline AtomicWord& WordAt(std::byte* bytes) { return *reinterpret_cast<AtomicWord*>(bytes); }
inline const AtomicWord& WordAt(const std::byte* bytes) {
  return *reinterpret_cast<const AtomicWord*>(bytes);
}

// Copies between log memory (8-byte aligned, padded to 8) and private memory, one relaxed atomic
// word at a time. A concurrent copy in the other direction may tear the result but is no data race.
// The caller rechecks a sequence (record.h) to detect that.
inline void CopyFromLog(const std::byte* log, std::size_t count, void* out) {
  auto* to = static_cast<std::byte*>(out);
  std::size_t done = 0;
  for (; done + 8 <= count; done += 8) {
    const std::uint64_t word = WordAt(log + done).load(std::memory_order_relaxed);
    std::memcpy(to + done, &word, 8);
  }
  if (done < count) {
    const std::uint64_t word = WordAt(log + done).load(std::memory_order_relaxed);
    std::memcpy(to + done, &word, count - done);
  }
}
inline void CopyToLog(const void* from, std::size_t count, std::byte* log) {
  const auto* bytes = static_cast<const std::byte*>(from);
  std::size_t done = 0;
  for (; done + 8 <= count; done += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes + done, 8);
    WordAt(log + done).store(word, std::memory_order_relaxed);
  }
  if (done < count) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + done, count - done);
    WordAt(log + done).store(word, std::memory_order_relaxed);
  }
}

}  // namespace ebb::internal
