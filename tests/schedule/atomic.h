// Atomic for the schedule explorer: each access is a place where the running fiber may be left.
// The header it replaces: ebb/internal/base/atomic.h. The memory model: tests/schedule/scheduler.h.
//
// Thread safety: one thread; fibers take turns.
#pragma once

#include <atomic>
#include <cstring>

#include "tests/schedule/scheduler.h"

namespace ebb::internal {

template <typename T>
class Atomic {
 public:
  static constexpr bool is_always_lock_free = true;

  constexpr Atomic() = default;
  constexpr Atomic(T value) : value_(value) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(std::memory_order) const {
    test::AccessPoint(this);
    if (const void* held = test::HeldStoreOf(this)) {
      T value;
      std::memcpy(&value, held, sizeof(T));
      return value;
    }
    return value_;
  }
  void store(T value, std::memory_order order) {
    test::AccessPoint(this);
    test::ReleaseHeldStore();
    if (order == std::memory_order_seq_cst || !test::HoldStore(this, &value, sizeof(T))) {
      value_ = value;
    }
  }
  T exchange(T value, std::memory_order) {
    return Change([&](T) { return value; });
  }
  T fetch_add(T by, std::memory_order) {
    return Change([&](T old) { return static_cast<T>(old + by); });
  }
  T fetch_sub(T by, std::memory_order) {
    return Change([&](T old) { return static_cast<T>(old - by); });
  }
  T fetch_or(T bits, std::memory_order) {
    return Change([&](T old) { return static_cast<T>(old | bits); });
  }
  T fetch_and(T bits, std::memory_order) {
    return Change([&](T old) { return static_cast<T>(old & bits); });
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order,
                               std::memory_order = std::memory_order_relaxed) {
    test::AccessPoint(this);
    test::ReleaseHeldStore();
    if (value_ == expected) {
      value_ = desired;
      return true;
    }
    expected = value_;
    return false;
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order success,
                             std::memory_order failure = std::memory_order_relaxed) {
    return compare_exchange_strong(expected, desired, success, failure);
  }

 private:
  template <typename Fn>
  T Change(Fn fn) {
    test::AccessPoint(this);
    test::ReleaseHeldStore();
    const T old = value_;
    value_ = fn(old);
    return old;
  }

  T value_{};
};

// A fiber's own store to the object is no longer held back.
template <typename T>
void BeforePlainLoads(const T& object) {
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(test::g_running.held_word) -
                            reinterpret_cast<std::uintptr_t>(&object);
  if (at < sizeof(T)) test::ReleaseHeldStore();
}

}  // namespace ebb::internal
