#include "team.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <fstream>
#include <thread>
#include <vector>

namespace ebb::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds in which the calling thread was ready to run and did not; 0 where the kernel does not
// tell. The file holds nanoseconds on a processor, nanoseconds ready, and a count.
double ReadySeconds() {
  std::ifstream account("/proc/thread-self/schedstat");
  double running = 0.0;
  double ready = 0.0;
  account >> running >> ready;
  return ready / 1e9;
}

// Read once, before any thread is bound.
const cpu_set_t& AllowedProcessors() {
  static const cpu_set_t allowed = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    (void)sched_getaffinity(0, sizeof(set), &set);
    return set;
  }();
  return allowed;
}

}  // namespace

int ProcessorCount() { return std::max(1, CPU_COUNT(&AllowedProcessors())); }

PinnedScope::PinnedScope(int index) {
  CPU_ZERO(&before_);
  (void)sched_getaffinity(0, sizeof(before_), &before_);
  int wanted = index % ProcessorCount();
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &AllowedProcessors()) || wanted-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    (void)sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

PinnedScope::~PinnedScope() { (void)sched_setaffinity(0, sizeof(before_), &before_); }

double RunTeam(int thread_count, const std::function<void(int)>& body) {
  (void)AllowedProcessors();
  std::barrier start(thread_count);
  std::vector<double> seconds(static_cast<std::size_t>(thread_count));
  std::vector<std::thread> threads;
  for (int index = 0; index < thread_count; ++index) {
    threads.emplace_back([&, index] {
      const PinnedScope pinned(index);
      start.arrive_and_wait();
      seconds[static_cast<std::size_t>(index)] = TimeOf([&body, index] { body(index); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  return *std::max_element(seconds.begin(), seconds.end());
}

double TimeOf(const std::function<void()>& body) {
  // The clock runs around both looks at the account, which take some microseconds, so that it
  // covers all that the account does.
  const Clock::time_point begin = Clock::now();
  const double ready_before = ReadySeconds();
  body();
  const double ready = ReadySeconds() - ready_before;
  const std::chrono::duration<double> passed = Clock::now() - begin;
  return passed.count() - ready;
}

}  // namespace ebb::bench
