// StepSync: interleavings by script.
//
// The steps of a script are numbered in the order in which they must happen. A thread that has
// reached the end of a step announces it; the thread that continues from there waits for it. The
// numbers stand at both places, so that a script can be read from 1 upwards:
//
//   StepSync steps;
//   std::thread writer([&] {
//     Must(session.Rmw(key, [&](std::uint64_t& n) {
//       steps.Announce(1);   // 1 ->
//       steps.Await(2);      // 2 <-
//       ++n;
//     }));
//   });
//   steps.Await(1);      // 1 <-
//   ... the writer is inside its callback ...
//   steps.Announce(2);   // 2 ->
//
// A wait of more than half a minute ends the program and prints the step: a script that hangs
// should not be mistaken for a slow machine. A step is announced once; a callback that may run more
// than once uses AnnounceOnce.
//
// Thread safety: all methods, any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

namespace ebb::test {

class StepSync {
 public:
  void Announce(int step) {
    if (AnnounceOnce(step)) return;
    std::fprintf(stderr, "StepSync: step %d was announced twice\n", step);
    std::abort();
  }
  // Returns false if it had been announced before.
  bool AnnounceOnce(int step) {
    std::lock_guard lock(mu_);
    const bool first = done_.insert(step).second;
    changed_.notify_all();
    return first;
  }
  void Await(int step) const {
    std::unique_lock lock(mu_);
    if (changed_.wait_for(lock, std::chrono::seconds(30), [&] { return done_.count(step) != 0; })) {
      return;
    }
    std::fprintf(stderr, "StepSync: step %d did not come\n", step);
    std::abort();
  }
  bool Done(int step) const {
    std::lock_guard lock(mu_);
    return done_.count(step) != 0;
  }

 private:
  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  std::set<int> done_;
};

}  // namespace ebb::test
