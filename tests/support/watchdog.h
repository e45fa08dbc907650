// Watchdog: ends the program if a test hangs, and prints where.
//
// Thread safety: created and ended by one thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace ebb::test {

class Watchdog {
 public:
  // Two minutes: long enough for a busy machine and a sanitizer.
  explicit Watchdog(std::string what, std::chrono::seconds most = std::chrono::seconds(120))
      : what_(std::move(what)), thread_([this, most] { Watch(most); }) {}
  ~Watchdog() {
    {
      std::lock_guard lock(mu_);
      ended_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  // Names the next step, which may run as long again.
  void Next(std::string what) {
    std::lock_guard lock(mu_);
    what_ = std::move(what);
    ++turn_;
    changed_.notify_all();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void Watch(std::chrono::seconds most) {
    std::unique_lock lock(mu_);
    while (!ended_) {
      const auto moved = [this, turn = turn_] { return ended_ || turn_ != turn; };
      if (changed_.wait_for(lock, most, moved)) continue;
      std::fprintf(stderr, "Watchdog: %s hangs\n", what_.c_str());
      std::abort();
    }
  }

  std::mutex mu_;
  std::condition_variable changed_;
  std::string what_;
  std::size_t turn_ = 0;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace ebb::test
