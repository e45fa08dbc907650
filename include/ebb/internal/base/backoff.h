// Backoff: waiting for a condition that another thread will make true.
//
// Thread safety: one thread at a time.
#pragma once

namespace ebb::internal {

// Waits between two checks of a condition that another thread will make true: first yields, then
// sleeps for 25 to 88 microseconds, so that a preempted guard holder can run. Each wait has a
// random length, so two threads that hinder each other at the same moment do not meet again and
// again.
class Backoff {
 public:
  unsigned Wait();  // returns the random part, for tests

 private:
  int count_ = 0;
};

}  // namespace ebb::internal
