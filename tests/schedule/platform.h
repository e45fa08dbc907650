// Platform for programs of fibers: threads are fibers, and time is a counter of the schedule. The
// header it replaces: ebb/internal/base/platform.h. The behaviour: tests/schedule/scheduler.h.
//
// Thread safety: one thread; fibers take turns.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <type_traits>
#include <utility>

#include "tests/schedule/scheduler.h"

namespace ebb::internal {

template <std::uint64_t (*kNow)()>
struct VirtualClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<VirtualClock>;
  static constexpr bool is_steady = true;
  static time_point now() { return time_point(duration(static_cast<rep>(kNow()))); }
};
using Clock = VirtualClock<test::VirtualNs>;
using UnixClock = VirtualClock<test::VirtualUnixNs>;

class BareMutex {
 public:
  constexpr BareMutex() = default;
  void lock() {
    while (!try_lock()) test::Block(this, test::Waits::kLock);
  }
  bool try_lock() {
    test::AccessPoint(this);
    test::ReleaseHeldStore();
    return !std::exchange(locked_, true);
  }
  void unlock() {
    test::ReleaseHeldStore();
    locked_ = false;
    test::WakeAll(this);
  }

 private:
  bool locked_ = false;
};

class BareCondVar {
 public:
  void wait(std::unique_lock<BareMutex>& lock) { WaitUntil(lock, test::kNeverNs); }
  void wait_until(std::unique_lock<BareMutex>& lock, Clock::time_point until) {
    WaitUntil(lock, static_cast<std::uint64_t>(until.time_since_epoch().count()));
  }
  void notify_one() { test::WakeOne(this); }
  void notify_all() { test::WakeAll(this); }

 private:
  // Nothing runs between the unlocking and the wait, so no notification is missed.
  void WaitUntil(std::unique_lock<BareMutex>& lock, std::uint64_t until_ns) {
    lock.unlock();
    test::Block(this, test::Waits::kCondition, until_ns);
    lock.lock();
  }
};

// Its constructor throws std::system_error while threads cannot be had.
class Thread {
 public:
  Thread() = default;
  explicit Thread(std::function<void()> body) : fiber_(test::StartFiber(std::move(body))) {}
  Thread(Thread&& other) noexcept : fiber_(std::exchange(other.fiber_, nullptr)) {}
  Thread& operator=(Thread&& other) noexcept {
    std::swap(fiber_, other.fiber_);
    return *this;
  }
  bool joinable() const { return fiber_ != nullptr; }
  void join() { test::JoinFiber(std::exchange(fiber_, nullptr)); }

 private:
  const void* fiber_ = nullptr;
};

template <typename T>
T& ThreadSlot() {
  static const char kKey = 0;
  constexpr auto kMake = []() -> void* { return new T; };
  constexpr auto kDestroy = [](void* object) { delete static_cast<T*>(object); };
  return *static_cast<T*>(
      test::FindSlot(&kKey, kMake, kDestroy, std::is_trivially_destructible_v<T>));
}

}  // namespace ebb::internal
