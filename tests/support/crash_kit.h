// Crash kit: shared by the suites about commits, checkpoints and closing. The files that a crash
// leaves, a device with faults, and a place where a thread stops.
//
// Thread safety: functions without state; any threads may use a Gate.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

// Opens the files that a crash leaves of `files`, in tiny geometry, and compares.
template <typename StoreType, typename Key, typename Value, typename Keys>
testing::AssertionResult CrashLeaves(const SimFileSystem& files, std::uint64_t seed,
                                     const Model<Key, Value>& model, const Keys& keys) {
  const std::unique_ptr<SimFileSystem> after = files.Crash(seed);
  absl::StatusOr<StoreType> store = OpenTiny<StoreType>("db", after.get());
  if (!store.ok()) return testing::AssertionFailure() << store.status().ToString();
  return HoldsOnly(*store, model, keys);
}

// A place where a thread stops until it is released.
class Gate {
 public:
  void Arrive() {
    std::unique_lock lock(mu_);
    arrived_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void WaitForArrival() {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return arrived_; });
  }
  void Open() {
    std::unique_lock lock(mu_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool arrived_ = false;
  bool open_ = false;
};

struct Rig {
  SimFileSystem files;
  FaultFileSystem faults{files};
};

}  // namespace ebb::test
