// Atomic: the alias of every atomic word of the library.
//
// A build that defines EBB_ATOMIC_HEADER to a header name gets Atomic from there; a schedule
// explorer is plugged in that way. Every other build gets std::atomic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "ebb/internal/values/check.h"

#ifdef EBB_ATOMIC_HEADER
#include EBB_ATOMIC_HEADER
#else
#include <atomic>
namespace ebb::internal {
template <typename T>
using Atomic = std::atomic<T>;
// Called before plain loads of words of `object`, which see the caller's own stores.
template <typename T>
void BeforePlainLoads(const T&) {}
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

// Calls `copy(offset)` for each whole word of `count` bytes, and returns their end. Unrolled by
// hand, because gcc 12 unrolls no loop at -O2: three of five instructions would be the loop's.
template <typename CopyWord>
EBB_INLINE std::size_t ForEachWord(std::size_t count, CopyWord copy) {
  const auto copy_all = [&]<std::size_t... kWords>(std::size_t at, std::index_sequence<kWords...>) {
    (copy(at + kWords * 8), ...);
  };
  std::size_t at = 0;
  for (; at + 64 <= count; at += 64) copy_all(at, std::make_index_sequence<8>());
  if (at + 32 <= count) {
    copy_all(at, std::make_index_sequence<4>());
    at += 32;
  }
  for (; at + 8 <= count; at += 8) copy(at);
  return at;
}

// Copies between log memory (8-byte aligned, padded to 8) and private memory, one relaxed atomic
// word at a time. A concurrent copy in the other direction may tear the result but is no data race.
// The caller rechecks a sequence (record.h) to detect that. Bytes after the last whole word are
// copied as part of the last eight, because a std::memcpy of an unknown count is a call.
// CopyFromLog is inlined, so that only moves remain of a constant count; the same made CopyToLog
// longer (gcc 12).
EBB_INLINE void CopyFromLog(const std::byte* log, std::size_t count, void* out) {
  auto* to = static_cast<std::byte*>(out);
  const auto load = [log](std::size_t at) {
    return WordAt(log + at).load(std::memory_order_relaxed);
  };
  const std::size_t end = ForEachWord(count, [=](std::size_t at) {
    const std::uint64_t word = load(at);
    std::memcpy(to + at, &word, 8);
  });
  if (end == count) return;
  if (end == 0) {
    const std::uint64_t word = load(0);
    std::memcpy(to, &word, count % 8);  // all of it; gcc 12 cannot see that it is below 8
  } else {
    const std::size_t bits = (count - end) * 8;
    const std::uint64_t last = load(end - 8) >> bits | load(end) << (64 - bits);
    std::memcpy(to + count - 8, &last, 8);
  }
}
inline void CopyToLog(const void* from, std::size_t count, std::byte* log) {
  const auto* bytes = static_cast<const std::byte*>(from);
  const auto store = [log](std::size_t at, std::uint64_t word) {
    WordAt(log + at).store(word, std::memory_order_relaxed);
  };
  const std::size_t end = ForEachWord(count, [=](std::size_t at) {
    std::uint64_t word;
    std::memcpy(&word, bytes + at, 8);
    store(at, word);
  });
  if (end == count) return;
  std::uint64_t last = 0;
  if (end == 0) {
    std::memcpy(&last, bytes, count % 8);
  } else {
    std::memcpy(&last, bytes + count - 8, 8);
    last >>= 64 - (count - end) * 8;
  }
  store(end, last);
}

}  // namespace ebb::internal
