// GarbageCollector: decides when the log holds enough garbage, and how much of it is collected at
// what pace. What is live is copied by Compaction; begin is moved by its owner, whose commit states
// it; then blocks and index entries below it are given back, as far as no scan still reads there
// (pins.h).
//
// A collection works in passes through the front of the log, and ends when live records make up
// the share of it that is asked for.
//
// A commit is dear: it makes all records read-only, so that the next update of each key is an
// append, which is garbage of tomorrow. So a collection that comes by itself, where commits come by
// themselves too, has none of its own: what it has gone through is given back when the next commit
// has said so, by whichever collection looks then. Only when the log grows too long meanwhile a
// commit is made for it. It also leaves alone what may still be updated in place.
//
// While updates are rejected for lack of space (hybrid_log.h), neither target_utilization nor
// min_reclaim_bytes counts: a collection is due if it would free anything. Each rejected update
// asks for one, but after one that made no room for updates only once the log has changed.
//
// Convergence. The estimate counts the entries of the index whose records are no tombstones, in
// memory and in a sample of the device, and gives each the average size of a record together with
// its share of the filler at a page's end. So short-lived keys are garbage as soon as they are
// deleted, and a collection of a log that only has fillers is not due. It may still be wrong: for
// example, it takes the names of sessions for garbage. Therefore an automatic collection that ends
// sets resting_until_, an address that the tail must reach before the next one begins:
//   - after a collection that freed less than half of the garbage that the estimate promised in the
//     part of the log it scanned: a quarter of the log and min_reclaim_bytes further;
//   - after the second of two collections between which updates appended less than a quarter of
//     min_reclaim_bytes: that quarter further.
// A store whose tail stands still is thus collected twice at most, and an estimate that is wrong
// costs at most five bytes read and written for each byte that updates append. A collection that
// frees what was promised is followed by others as before, so with steady updates the log stays
// within the limits that GcOptions states.
//
// Entries of the index. A deleted key keeps its entry until a collection has passed its tombstone
// and the entry is swept. FreeEntries is called when the index is above its maximum load factor,
// before it grows, and when the log has grown by as many records as there is room for entries. It
// sweeps, and if the log is mostly garbage and most entries lead to tombstones, it collects and
// sweeps again. So the index does not grow while the number of keys stays the same, at the cost of
// one pass through the log each time that half of the entries have become garbage.
//
// While other jobs wait for the lane (job_lane.h), a collection leaves it after each pass, of which
// there is at least one in each turn; and a pass that has taken a tenth of a second ends early.
// Otherwise one that is slowed down (max_bytes_per_second) would delay a checkpoint for minutes.
// Between two passes a collection keeps only state that other jobs may change: collected_, the
// log's begin, and where it ends. A turn that begins ahead of its rate does nothing until it has
// made up for that, so leaving often makes no collection faster than it may be.
//
// Thread safety: one call at a time (a turn of the lane); worth_a_look, any thread.
// Progress: waits for the device, and for what the owner's commit waits for.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class GarbageCollector {
 public:
  struct Owner {
    // Everything below is dead: the commits that begin from now on may state it.
    std::function<void(Address)> state_begin;
    // Moves the log's begin to where durable commits say it is.
    std::function<absl::Status()> follow_commits;
    // Makes a begin durable, then moves the log's begin there.
    std::function<absl::Status(Address)> move_begin;
  };
  // kByItself: shares the commits of others, as said above. While the log is a quarter, and two
  // pages, longer than when it became due, updates append about a quarter of what the collection
  // goes through, or wait for the commit that gives back what it has, so that the log stays about
  // as long, however fast they are. When it is a tenth longer still, or there is no progress, they
  // append a page a second: a log that is much larger than memory is gone through slowly.
  enum class Pace { kFree, kOnePass, kByItself };
  // One collection.
  struct Call {
    Pace pace = Pace::kFree;
    // It is to end soon.
    std::function<bool()> is_stopping;
    // Other jobs wait for the lane; empty: it does not matter.
    std::function<bool()> others_wait = {};
    // Leaves the lane to them and returns in the next turn; an error ends the collection. Empty:
    // Collect returns instead, and has_left is true.
    std::function<absl::Status()> give_way = {};
    bool has_left = false;
  };

  GarbageCollector(Core& core, EpochSlot& slot, Owner owner)
      : core_(core), slot_(slot), owner_(std::move(owner)), collected_(core.log.begin()) {}

  // At most once through the log as it is now. If GcOptions::progress throws, the collection ends
  // as if it had returned false. Then the exception is thrown on to the user whose call this is
  // (kFree); otherwise it becomes a status.
  absl::StatusOr<GcStats> Collect(const GcOptions& options, Call& call);
  // From a sample of the index; see GcEstimate.
  GcEstimate Estimate() { return Estimate(core_.log.begin()); }
  bool IsDue(const GcOptions& options) { return IsDue(options, Estimate()); }

  // Removes entries of deleted keys if the index has too many of them. Then it no longer counts as
  // above its maximum load factor (HashIndex::crowded). Commits, if it collects.
  absl::Status FreeEntries(GcOptions options, const std::function<bool()>& is_stopping);
  // The log has grown by as many records as there was room for entries.
  bool entries_are_due() const {
    return core_.log.tail().value() >= count_entries_at_.load(std::memory_order_relaxed);  // a hint
  }

  // The log has grown by as much as may make a collection due, or updates are rejected for lack of
  // space.
  bool worth_a_look() const {
    const std::uint64_t tail = core_.log.tail().value();
    return tail >= look_at_.load(std::memory_order_relaxed) ||           // a hint
           tail >= count_entries_at_.load(std::memory_order_relaxed) ||  // likewise
           (core_.log.is_short_of_space() &&
            tail != fruitless_at_.load(std::memory_order_relaxed));  // likewise
  }

 private:
  bool IsDue(const GcOptions& options, const GcEstimate& estimate) const;
  bool WouldFree(const GcEstimate& estimate) const;
  bool IsWastingSpace(std::uint64_t copied_bytes, std::uint64_t freed_bytes) const;
  void NoteFruitless() {
    fruitless_at_.store(core_.log.tail().value(), std::memory_order_relaxed);  // a hint
  }
  // Of the log from `begin` on.
  GcEstimate Estimate(Address begin);
  // How far a collection is ahead of its rate.
  class Throttle;
  absl::Status RunPasses(const GcOptions& options, Call& call, GcStats& stats);
  // Between two passes. False: the collection ends here, or the status says why.
  absl::StatusOr<bool> GiveWay(Call& call);
  void Count(const absl::Status& status, const GcStats& stats);
  // What GcOptions::progress returns; false, and thrown_, when it throws.
  bool AskProgress(const GcOptions& options, const GcStats& now);
  // What is gone through: up to the tail, or what is read-only already.
  absl::StatusOr<Address> EndFor(Pace pace);
  absl::StatusOr<bool> RunPass(const GcOptions& options, const Call& call, Address end,
                               Throttle& throttle, GcStats& stats);
  // Moves begin to what has been collected: as far as commits have said so, or by one more.
  absl::Status MoveBegin(const GcOptions& options, Pace pace, GcStats& stats);
  void LookLater(const GcOptions& options, Pace pace);
  // How it is when a collection begins.
  struct Start {
    Address from;
    Address tail;
    GcEstimate estimate;
  };
  // Sets resting_until_ after an automatic collection.
  void Rest(const GcOptions& options, const Start& start, const GcStats& stats);
  absl::Status GiveBack(GcStats& stats);
  void Sweep(Address limit, GcStats& stats);

  Core& core_;
  EpochSlot& slot_;
  const Owner owner_;
  Address collected_;  // everything below is dead; not below the log's begin
  Address swept_;      // no entry of the index leads below
  // Until then the automatic collections, of one rate, have done what they may.
  std::chrono::steady_clock::time_point paid_until_{};
  Address resting_until_;           // see Convergence
  Address last_tail_;               // at the end of the last automatic collection
  std::exception_ptr thrown_;       // by GcOptions::progress of the collection that runs
  AtomicWord look_at_{0};           // when the tail has come here it is worth a look
  AtomicWord count_entries_at_{0};  // likewise, for FreeEntries
  AtomicWord fruitless_at_{0};      // the tail when a collection had freed no space for updates
};

}  // namespace ebb::internal
