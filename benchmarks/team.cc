#include "team.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <thread>
#include <vector>

namespace ebb::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

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
  std::vector<Clock::time_point> begins(static_cast<std::size_t>(thread_count));
  std::vector<Clock::time_point> ends(begins.size());
  std::vector<std::thread> threads;
  for (int index = 0; index < thread_count; ++index) {
    threads.emplace_back([&, index] {
      const PinnedScope pinned(index);
      start.arrive_and_wait();
      begins[static_cast<std::size_t>(index)] = Clock::now();
      body(index);
      ends[static_cast<std::size_t>(index)] = Clock::now();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return Seconds(*std::max_element(ends.begin(), ends.end()) -
                 *std::min_element(begins.begin(), begins.end()));
}

double TimeOf(const std::function<void()>& body) {
  const Clock::time_point begin = Clock::now();
  body();
  return Seconds(Clock::now() - begin);
}

}  // namespace ebb::bench
