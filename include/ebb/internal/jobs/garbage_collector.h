// GarbageCollector: decides when to collect garbage, how much, and how fast. Compaction copies the
// live records. A commit states the new begin, and then begin moves there (committer.h). Then the
// collector frees the blocks and index entries below begin, except those that a scan still reads
// (pins.h).
//
// A collection scans the log from begin on, in passes. It ends when live records make up the
// requested share of the log.
//
// A commit is expensive: it makes all records read-only, so that the next update of each key is an
// append, and the old record becomes garbage. So if periodic commits are enabled, an automatic
// collection does not commit on its own. The next periodic commit states the new begin, and the
// next check for garbage frees the space below it. The collection commits only if the log grows too
// long in the meantime. It does not scan the part of the log that may still be updated in place.
//
// While updates are rejected for lack of space (log_space.h), neither target_utilization nor
// min_reclaim_bytes counts: a collection is due if it would free anything. Each rejected update
// requests one. But after a collection that made no room for updates, there is another one only
// once the log has changed.
//
// Convergence. The estimate counts the index entries whose records are not tombstones: all of those
// in memory, and a sample of those on the device. It multiplies the count by the average size of a
// record, including the record's share of the filler at a page's end. So the records of short-lived
// keys are garbage as soon as the keys are deleted, and fillers alone do not make a collection due.
// The estimate may still be wrong: for example, it counts the names of sessions as garbage.
// Therefore an automatic collection that ends may set resting_until_, an address that the tail must
// reach before the next one begins:
//   - after a collection that freed less than half of the garbage that the estimate promised in the
//     part of the log it scanned, the tail must advance by a quarter of the log, and by at least
//     min_reclaim_bytes;
//   - after the second of two collections between which updates appended less than a quarter of
//     min_reclaim_bytes, or than two pages, the tail must advance by that much.
// In both cases it must advance by more than the records that the store itself appends after a
// collection: the commits that state the new begin, and a checkpoint. Otherwise these would be the
// garbage of the next collection.
// So a store whose tail stands still is collected at most twice, and a wrong estimate costs at most
// five bytes read and written for each byte that updates append. A collection that frees the
// promised garbage does not delay the next one, so with steady updates the log stays within the
// limits that GcOptions states.
//
// Entries of the index. A deleted key keeps its entry until a collection has passed its tombstone
// and the entry is swept. FreeEntries is called in two cases: before the index grows because it is
// above its maximum load factor, and when the log has grown by as many records as the index had
// room for entries. It sweeps the index. If the log is mostly garbage and most entries lead to
// tombstones, it then collects and sweeps again. So the index does not grow while the number of
// keys stays the same. The cost is one scan of the log each time that half of the entries have
// become garbage.
//
// While other jobs wait for the lane (job_lane.h), a collection leaves it after each pass, and a
// pass that has run for a tenth of a second ends early. Otherwise a throttled collection
// (max_bytes_per_second) would delay a checkpoint for minutes. Each turn of a collection makes at
// least one pass. Between two passes a collection keeps only state that other jobs may change:
// collected_ and the log's begin; and its own end, which is chosen once. Another collection may
// pass that end in the meantime, and then this one has ended too. If it chose another end, two
// collections of a store could keep each other going for ever. If a collection is ahead of its rate
// when its turn begins, it waits until it is on schedule again. So leaving the lane often does not
// make a collection faster than its rate allows.
//
// Thread safety: one call at a time (a turn of the lane); any thread may call worth_a_look.
// Progress: waits for the device, and for everything that a commit waits for.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/jobs/checkpointer.h"
#include "ebb/internal/jobs/committer.h"
#include "ebb/internal/jobs/job_lane.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class GarbageCollector {
 public:
  // kAutomatic: shares the commits of others, as described above. Updates are throttled
  // when the log has grown, since the collection became due, by more than a quarter of its length
  // and two pages. They then append one byte for about four bytes that the collection scans, or
  // wait for the commit that frees its space. So the log stays about as long, no matter how fast
  // they are. If the log grows by another tenth, or the collection makes no progress, updates
  // append one page per second, because a log much larger than memory is scanned slowly.
  enum class Pace { kFree, kOnePass, kAutomatic };
  // One collection.
  struct Call {
    const LaneTurn& turn;
    Pace pace = Pace::kFree;
    // Returns whether the collection must end soon.
    std::function<bool()> is_stopping;
    // Returns whether other jobs wait for the lane. Empty: the collection never leaves the lane.
    std::function<bool()> others_wait = {};
    // Leaves the lane to them and returns in the next turn; an error ends the collection. If empty,
    // Collect returns instead, and has_left is true.
    std::function<absl::Status()> give_way = {};
    bool has_left = false;
  };

  GarbageCollector(Core& core, EpochSlot& slot, Committer& committer, Checkpointer& checkpointer)
      : core_(core),
        slot_(slot),
        committer_(committer),
        checkpointer_(checkpointer),
        collected_(core.log.begin()) {}

  // Scans the log at most once, up to its tail at the time of the call. If GcOptions::progress
  // throws, the collection ends as if it had returned false. A collection that a user called
  // (kFree) then rethrows the exception; otherwise it becomes a status.
  absl::StatusOr<GcStats> Collect(const GcOptions& options, Call& call);
  // Estimates from a sample of the index; see GcEstimate.
  GcEstimate Estimate() { return Estimate(core_.log.begin()); }
  bool IsDue(const GcOptions& options) { return IsDue(options, Estimate()); }

  // Removes entries of deleted keys if the index has too many of them. Then it no longer counts as
  // above its maximum load factor (HashIndex::crowded). Commits, if it collects.
  absl::Status FreeEntries(const LaneTurn& turn, GcOptions options,
                           const std::function<bool()>& is_stopping);
  // Returns whether the log has grown by as many records as there was room for entries.
  bool entries_are_due() const {
    return core_.log.tail().value() >= count_entries_at_.load(std::memory_order_relaxed);  // a hint
  }

  // Returns whether the log has grown enough that a collection may be due, or whether updates are
  // rejected for lack of space.
  bool worth_a_look() const {
    const std::uint64_t tail = core_.log.tail().value();
    return tail >= look_at_.load(std::memory_order_relaxed) ||           // a hint
           tail >= count_entries_at_.load(std::memory_order_relaxed) ||  // likewise
           (core_.log.space().is_short() &&
            tail != fruitless_at_.load(std::memory_order_relaxed));  // likewise
  }

 private:
  bool IsDue(const GcOptions& options, const GcEstimate& estimate) const;
  bool WouldFree(const GcEstimate& estimate) const;
  bool IsWastingSpace(std::uint64_t copied_bytes, std::uint64_t freed_bytes) const;
  void NoteFruitless() {
    fruitless_at_.store(core_.log.tail().value(), std::memory_order_relaxed);  // a hint
  }
  // Estimates the log from `begin` on.
  GcEstimate Estimate(Address begin);
  // Keeps a collection at its rate.
  class Throttle;
  absl::Status RunPasses(const GcOptions& options, Call& call, GcStats& stats);
  // To be called between two passes. Returns false if the collection ends here, or an error that
  // ends it.
  absl::StatusOr<bool> GiveWay(Call& call);
  void Count(const absl::Status& status, const GcStats& stats);
  // Returns the result of GcOptions::progress; false, with thrown_ set, if it throws.
  bool AskProgress(const GcOptions& options, const GcStats& now);
  // Returns the end of the part to be scanned: the tail, or the end of the part that is read-only
  // already.
  absl::StatusOr<Address> EndFor(Pace pace);
  absl::StatusOr<bool> RunPass(const GcOptions& options, const Call& call, Address end,
                               Throttle& throttle, GcStats& stats);
  // Moves begin to the end of the collected part: as far as commits have stated it, or by another
  // commit.
  absl::Status MoveBegin(const GcOptions& options, const Call& call, GcStats& stats);
  // Throttles updates, the only place that does: they may append until the log has its maximum
  // length, then up to `granted`, but no further than a tenth beyond that length.
  void PaceUpdates(const GcOptions& options, const GcEstimate& estimate, Address granted);
  void LookLater(const GcOptions& options, Pace pace);
  // The state when a collection begins.
  struct CollectionStart {
    Address from;
    Address tail;
    GcEstimate estimate;
  };
  // Sets resting_until_ after an automatic collection.
  void Rest(const GcOptions& options, const CollectionStart& start, const GcStats& stats);
  absl::Status GiveBack(GcStats& stats);
  void Sweep(Address limit, GcStats& stats);

  Core& core_;
  EpochSlot& slot_;
  Committer& committer_;
  Checkpointer& checkpointer_;
  Address collected_;  // everything below is dead; not below the log's begin
  Address swept_;      // no entry of the index leads below
  // The automatic collections have used up their rate until then.
  Clock::time_point paid_until_{};
  Address resting_until_;           // see Convergence
  Address last_tail_;               // at the end of the last automatic collection
  std::exception_ptr thrown_;       // by GcOptions::progress of the collection that runs
  AtomicWord look_at_{0};           // the tail at which a collection may be due
  AtomicWord count_entries_at_{0};  // likewise, for FreeEntries
  AtomicWord fruitless_at_{0};      // the tail when a collection had freed no space for updates
};

}  // namespace ebb::internal
