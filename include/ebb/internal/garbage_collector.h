// GarbageCollector: decides when the log holds enough garbage, and how much of it is collected at
// what pace. What is live is copied by Compaction; begin is moved by its owner, whose commit states
// it; then blocks and index entries below it are given back, as far as no scan still reads there
// (pins.h).
//
// A collection works in passes through the front of the log, and ends when live records make up
// the share of it that is asked for.
//
// Thread safety: one call at a time (the coordinator's job_mu_); worth_a_look, any thread.
// Progress: waits for the device, and for what the owner's commit waits for.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class GarbageCollector {
 public:
  struct Owner {
    // A collection shall end soon.
    std::function<bool()> is_stopping;
    // Makes a begin durable, then moves the log's begin there.
    std::function<absl::Status(Address)> move_begin;
  };
  // kBraking: while the log is longer than when it became due, updates append about a quarter of
  // what the collection goes through, so that it stays about as long, however fast they are; but
  // four pages a second in any case, since a log that is much larger than memory is gone through
  // slowly.
  enum class Pace { kFree, kOnePass, kBraking };

  GarbageCollector(Core& core, EpochSlot& slot, Owner owner)
      : core_(core), slot_(slot), owner_(std::move(owner)) {}

  // At most once through the log as it is now.
  absl::StatusOr<GcStats> Collect(const GcOptions& options, Pace pace);
  // From a sample of the index; see GcEstimate.
  GcEstimate Estimate();
  bool IsDue(const GcOptions& options) { return IsDue(options, Estimate()); }

  // The log has grown by as much as may make a collection due.
  bool worth_a_look() const {
    return core_.log.tail().value() >= look_at_.load(std::memory_order_relaxed);  // a hint
  }

 private:
  static bool IsDue(const GcOptions& options, const GcEstimate& estimate);
  absl::Status RunPasses(const GcOptions& options, Pace pace, GcStats& stats);
  void LookLater(const GcOptions& options);
  absl::Status GiveBack(GcStats& stats);

  Core& core_;
  EpochSlot& slot_;
  const Owner owner_;
  Address swept_;          // no entry of the index leads below
  AtomicWord look_at_{0};  // when the tail has come here it is worth a look
};

}  // namespace ebb::internal
