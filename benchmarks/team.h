// Pinned threads that start together, and the clock around them.
#pragma once

#include <sched.h>

#include <functional>

namespace ebb::bench {

// Processors that this process may use.
int ProcessorCount();

// Binds the calling thread to the n-th processor (round robin) for the life of the object, then
// restores what was. Threads started meanwhile inherit the binding: open stores outside.
class PinnedScope {
 public:
  explicit PinnedScope(int index);
  ~PinnedScope();
  PinnedScope(const PinnedScope&) = delete;
  PinnedScope& operator=(const PinnedScope&) = delete;

 private:
  cpu_set_t before_;
};

// Runs body(0) to body(thread_count - 1), each in a thread of its own on a processor of its own,
// and returns the seconds that the slowest took. Time in which a thread was ready but another had
// its processor does not count, by the kernel's account of it: it belongs to whatever else the
// machine does, and would weigh more on long slices than on short ones. Time in which a thread
// waits for a lock, a page or the device does count.
double RunTeam(int thread_count, const std::function<void(int)>& body);

// Seconds that the body takes in the calling thread, counted in the same way.
double TimeOf(const std::function<void()>& body);

}  // namespace ebb::bench
