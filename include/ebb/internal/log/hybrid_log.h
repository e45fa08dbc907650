// HybridLog: pages, boundaries, allocation, flush, eviction. It knows bytes and the extents of
// records, but no keys.
//
//    on device only      read-only, in memory            fuzzy           mutable
//   |-------------|-----------------------------|--------------------|------------|
//   begin  safe_head  head  flushed_until  safe_read_only         read_only      tail
//
//   begin <= safe_head <= head <= flushed_until <= safe_read_only <= read_only <= tail
//
// Each boundary only grows and is moved by one function:
//   tail            Allocate, ReserveToBlockEnd (within a page); TryTurnPage (to the next page)
//   read_only, head AdvanceBoundaries, under boundary_mu_, which also raises update_from
//   safe_read_only, safe_head
//                   AdvanceSafeBoundaries, under boundary_mu_, after the epoch of the bump in
//                   AdvanceBoundaries has drained
//   flushed_until   LogFlusher::EndChunk, under its mutex; always the start of a block
//   begin           ShiftBegin, by the checkpointer
//
// Argument: below safe_read_only no byte changes any more. AdvanceBoundaries stores update_from and
//   read_only and then bumps. AdvanceSafeBoundaries moves safe_read_only only after every guard
//   that could have loaded the old values has ended (epoch.h). A later guard loads update_from and
//   read_only after its slot store, sees the new values, and does not update in place below them.
//   It cannot allocate there either, because a record is allocated at the tail, which is above. So
//   the flush copies bytes that do not change. There are two exceptions: seals that a failed sealer
//   clears again, and lock words, which readers write when they give up reading optimistically. No
//   thread depends on either below safe_read_only. The flush copies word by word with atomic loads,
//   so the copy holds one of the values that such a word had.
// Argument: a frame is reused only when its page is below safe_head. Then every guard that loaded
//   an older head has ended, and a later guard does not access addresses below head.
// Argument: an operation that loads begin under its guard before it loads an index entry may treat
//   the first address below that begin as the end of its chain. ShiftBegin is called after every
//   live record below has been copied and published above (compaction.h), so an entry that is
//   loaded later leads to the copy first. While the operation reads the device, begin may move
//   beyond the value that it loaded, and its blocks may be gone. So a failed read below begin is no
//   damage: the operation starts again.
// Argument: the log has no hole. A thread allocates the bytes of a record and writes its header,
//   which holds its extent, under one guard. If an allocation crosses the end of a page, it turns
//   the rest of the page into a filler under its guard. safe_read_only passes only after these
//   guards have ended. A page that records fill exactly has no filler.
// Argument: the offset in the tail word never overflows into the page number, even if any number of
//   calls are rejected. A page is full, and can be turned, as soon as the offset reaches the end of
//   its payload. Allocate adds to the offset only after it has loaded an offset below that end. So
//   an addition beyond the end comes from a thread that loaded the offset before the page became
//   full. Each thread makes at most one such addition: its next load comes after its own addition
//   and sees the full page, or a later one. The next user of its epoch slot sees it too, because
//   slots change hands under a mutex. So the offset exceeds the payload by at most one record for
//   each thread in Allocate. The field has room for 65,535 records of the largest size. The bound
//   depends neither on the number of calls, nor on time, nor on why the page is not turned (a full
//   disk, failed writes, no free frame, poison, the end of the address space). Allocate and
//   CheckBoundaries check half of that bound on their cold paths. ReserveToBlockEnd stops at the
//   end of the payload exactly.
//
// Every byte that reaches the device was written for the page that it is in. It belongs to a record
// or to the padding of its parts, or it is a zero: in the value of a tombstone, after a filler's
// header, or in a commit record. So bytes of an earlier page in the same frame reach neither the
// device nor a backup. Two remainders are intended. Until it is collected, a record keeps the bytes
// that its own value had before it was deleted or shortened in place. And the block that begin lies
// in keeps the dead records below begin.
//
// Space on the device is reserved before it is needed (log_space.h). So every acknowledged update
// can be flushed and committed, even if the disk has become full in the meantime.
//
// update_from is the one boundary that updates load: an unflagged record at or above it may be
// updated in place. It is a floor and a high bit, kInfinity. While the bit is set, no record may be
// updated in place, and session operations decide on their cold path. The protocol's model found
// these rules:
//   the bit is set before a version's bump is published, and cleared only after its drain and the
//   reservation of its control record, with floor = max(floor, end of the control record);
//   a page turn raises the floor, and keeps the bit, before its own bump.
// All three happen under boundary_mu_, so each is one plain store of a consistent word.
//
// No thread waits for the pool. A thread that must wait leaves its guard and calls
// RunMaintenanceStep, which takes one step: it moves a boundary, flushes or evicts. So one
// background thread is enough, and the log works without any. Waiting cannot deadlock:
// RunMaintenanceStep acquires its mutexes without a guard, and no thread that holds a guard waits
// for anything.
//
// Edges
//   [tail]      TryTurnPage: tail CAS, acq_rel -> Allocate: tail fetch_add, acq_rel. All accesses
//               to a frame's old page happen before those to its new page.
//   [boundary]  boundary store, release -> boundary load, acquire. Everything that was done before
//               the boundary moved is visible. The arguments above rely on this and on the edges
//               of epochs. head and update_from are loaded with acquire on the hot path too,
//               because EpochGuard::Look requires it of all loads before it; on x86 that is free.
//
// Thread safety: any thread may call all public methods except Restore. Progress: Allocate, At and
// the boundary getters are wait-free; TryTurnPage is lock-free; WaitForPage, RunMaintenanceStep,
// FlushTo and FreezeTo may wait for guards to end, and all except FreezeTo for the device too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/backoff.h"
#include "ebb/internal/base/health.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/thread_pool.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/mapped_region.h"
#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/log/log_flusher.h"
#include "ebb/internal/log/log_space.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

class HybridLog {
 public:
  static constexpr std::uint64_t kInfinity = std::uint64_t{1} << 63;
  struct Config {
    Geometry geometry;
    RecordShape shape;
    std::uint64_t store_id = 0;
    std::uint64_t write_batch_bytes = std::uint64_t{1} << 20;
    bool huge_pages = true;
  };
  // The state of a log after creation or recovery.
  struct Position {
    Address begin;
    Address head;  // frames from here to `tail` hold their bytes already
    Address tail;  // the start of a block
    std::vector<IncarnationSpan> incarnations;  // ascending; the last one is written now
    std::uint64_t sessions_bytes = 0;           // of the records of all named sessions
  };

  // The arguments outlive the log. Check ok() for memory.
  HybridLog(const Config& config, EpochManager& epochs, Health& health, Device& device,
            ThreadPool& pool);
  bool ok() const { return frames_ != nullptr; }
  // To be called before any other thread knows the log.
  void Restore(Position position);
  // Calls `look` in the pool after a page was turned, and in the calling thread after an update was
  // rejected for lack of space. To be set before any other thread knows the log.
  void OnGarbage(std::function<void()> look) { look_for_garbage_ = std::move(look); }
  // Ends maintenance after its current step; it does not begin again.
  void StopMaintenance();

  // ---- hot path, under a guard ----

  // Reads find records at or above this address in memory.
  EBB_INLINE Address head() const { return LoadAcquire(head_); }
  // An unflagged record whose address is at or above this word may be updated in place.
  EBB_INLINE std::uint64_t update_from() const {
    return update_from_.load(std::memory_order_acquire);  // [boundary]
  }
  EBB_INLINE std::byte* At(Address address, const EpochGuard&) const {
    return frames_ + (address.value() & frame_mask_);
  }
  // Allocates `extent_bytes` (a multiple of 8, at most a page's payload) at the tail. Returns null
  // if the page is full or has no space on the device: leave the guard, call WaitForPage, and start
  // again. A call that finds the page full changes nothing.
  Address Allocate(std::uint64_t extent_bytes, const EpochGuard& guard,
                   Space space = Space::kOrdinary);
  // Returns whether the tail's page has space for ordinary records at this moment: a hint.
  EBB_INLINE bool HasOrdinaryPage() const {
    const std::uint64_t word = tail_.load(std::memory_order_relaxed);  // a hint
    return TailOffset(word) < payload_bytes_ && space_.IsOrdinary(PlaceIn(word));
  }
  // Reserves the bytes from the tail to the end of a block's payload, at least `min_bytes`. For
  // commit records, so it may use all slices.
  struct Extent {
    Address start;
    std::uint64_t bytes = 0;  // 0: the page is full, as above
  };
  Extent ReserveToBlockEnd(std::uint64_t min_bytes, const EpochGuard& guard);

  // ---- waiting, outside any guard ----

  // Returns OK once the tail's page has room and space, or the error that prevents it:
  // ResourceExhausted (device or address space), Unavailable (device, poison). For all classes
  // except kOrdinary, `extent_bytes` is the record's size and not 0.
  absl::Status WaitForPage(std::uint64_t extent_bytes = 0, Space space = Space::kOrdinary);
  // Throttles ordinary appends: one that must turn to a page that begins at or above `limit` waits
  // until the limit is raised, but at most one second. Closing ends the wait too.
  void SetThrottle(Address limit) {
    throttle_limit_.store(limit.value(), std::memory_order_relaxed);
  }
  void ReleaseThrottle() { SetThrottle(Address(Address::kMask)); }
  // Takes one step of maintenance. Returns whether it moved anything.
  absl::StatusOr<bool> RunMaintenanceStep();
  // Makes everything below `end`, the start of a block, read-only and writes it to the device.
  absl::Status FlushTo(Address end);
  // Makes everything below `end`, at most the tail, read-only. Returns once no byte of it changes
  // any more. Waits only for guards. Fails only if their end cannot be known
  // (EpochManager::broken), with the status of the store's health.
  absl::Status FreezeTo(Address end);

  // ---- versions ----

  // To be called before and after a version's bump and drain. Between the two calls nothing may be
  // updated in place, and afterwards only records at or above `floor`.
  void BeginVersionShift();
  void EndVersionShift(Address floor);
  // From now on the hot path finds nothing to update in place: every update takes the slow path.
  void BlockUpdates();
  // Returns once no guard from before `epoch`, which a bump has returned, is left. To be called
  // outside any guard. Returns an error if that will never be known (epoch.h); then the store is
  // poisoned.
  absl::Status WaitForDrain(std::uint64_t epoch);
  absl::Status Drain() { return WaitForDrain(epochs_.Bump()); }

  // ---- the front ----

  // Moves begin: evicts the log below `begin`, which has been flushed and is not needed any more,
  // and releases it. The caller frees the device's blocks afterwards.
  absl::Status ShiftBegin(Address begin);

  // ---- frames ----

  // Returns the bytes of a page's frame: for recovery, before Restore, and for the flush.
  std::span<std::byte> Frame(std::uint64_t page) const;
  void ReleaseFrame(std::uint64_t page) const;
  // Frees the memory of all frames; the log is not used afterwards.
  void ReleaseMemory() const { region_.Release(0, region_.bytes()); }

  // ---- the present state ----

  LogSpace& space() { return space_; }
  const Geometry& geometry() const { return config_.geometry; }
  RecordShape shape() const { return config_.shape; }
  Address begin() const { return LoadAcquire(begin_); }
  Address safe_head() const { return LoadAcquire(safe_head_); }
  Address head_acquire() const { return LoadAcquire(head_); }
  Address flushed_until() const { return flusher_.flushed_until(); }
  Address safe_read_only() const { return LoadAcquire(safe_read_only_); }
  Address read_only() const { return LoadAcquire(read_only_); }
  Address tail() const;
  // Returns the place of the next record, which may be beyond a page's end: a hint.
  Address NextPlace() const;
  // Returns the number of bytes by which records have overshot the end of the tail's page.
  std::uint64_t overshoot_bytes() const;
  const std::vector<IncarnationSpan>& incarnations() const { return incarnations_; }
  // Returns the incarnation of the block that holds `address`; 0: none is known.
  std::uint64_t IncarnationAt(Address address) const;
  std::uint64_t incarnation() const { return incarnations_.back().incarnation; }
  std::uint64_t huge_page_bytes() const { return region_.huge_page_bytes(); }
  void CheckBoundaries() const;

  struct Counters {
    AtomicWord page_turns{0};
    AtomicWord page_waits{0};
    AtomicWord throttle_waits{0};
  };
  const Counters& counters() const { return counters_; }
  std::uint64_t flushed_bytes() const { return flusher_.flushed_bytes(); }

 private:
  // The tail word: the page in the high bits, an offset with 16 bits of room above a page's size.
  // See the argument above for why the offset does not grow into the page.
  int tail_shift() const { return config_.geometry.page_shift + 16; }
  std::uint64_t TailPage(std::uint64_t word) const { return word >> tail_shift(); }
  std::uint64_t TailOffset(std::uint64_t word) const {
    return word & ((std::uint64_t{1} << tail_shift()) - 1);
  }
  // Returns the address of a word whose offset is within its page.
  Address PlaceIn(std::uint64_t word) const {
    return config_.geometry.PageStart(TailPage(word)) + TailOffset(word);
  }
  // Beyond this offset the argument about overshoot is wrong. It is half of the field, so that a
  // check stops the program before the page number changes.
  std::uint64_t max_tail_offset() const { return std::uint64_t{1} << (tail_shift() - 1); }
  static Address LoadAcquire(const AtomicWord& word) {
    return Address(word.load(std::memory_order_acquire));  // [boundary]
  }

  enum class Turn : std::uint8_t { kRoom, kNeedsFrame, kNeedsSpace, kNeedsDrain };
  // To be called when all guards from before the page preceding `drained_page` was full have ended.
  Turn TryTurnPage(std::uint64_t extent_bytes, Space space, std::uint64_t drained_page);
  void WaitAtThrottle();
  Address AllocateExact(std::uint64_t extent_bytes, const EpochGuard& guard, Space space);
  void FillPageEnd(Address from, const EpochGuard& guard);
  bool ShiftBoundaries();
  bool AdvanceBoundaries() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  bool AdvanceSafeBoundaries() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  void BlockUpdatesLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  void RaiseUpdateFrom(Address floor, std::uint64_t infinity)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  bool NothingToDo();
  void ScheduleMaintenance();
  // Takes one step in the pool and posts the next, so that other jobs of the pool can run in
  // between.
  void Maintain();
  void PopulateFrameAhead();

  // Immutable after construction and Restore.
  std::byte* frames_ = nullptr;
  std::uint64_t frame_mask_ = 0;
  std::uint64_t payload_bytes_ = 0;
  Config config_;
  std::uint64_t mutable_pages_ = 0;  // pages above read_only, the tail's included
  EpochManager& epochs_;
  Health& health_;
  MappedRegion region_;
  std::vector<IncarnationSpan> incarnations_;
  AtomicWord throttle_limit_{Address::kMask};  // see SetThrottle
  std::function<void()> look_for_garbage_;

  // Read by every operation, written at most once per page.
  alignas(64) AtomicWord head_{0};
  AtomicWord update_from_{0};
  AtomicWord begin_{0};
  AtomicWord read_only_{0};
  AtomicWord safe_read_only_{0};
  AtomicWord safe_head_{0};

  // Written by every append.
  alignas(64) AtomicWord tail_{0};

  LogSpace space_;
  LogFlusher flusher_;

  alignas(64) Mutex boundary_mu_;
  bool staged_ ABSL_GUARDED_BY(boundary_mu_) = false;  // a bump waits for its drain
  std::uint64_t staged_epoch_ ABSL_GUARDED_BY(boundary_mu_) = 0;
  Address requested_read_only_ ABSL_GUARDED_BY(boundary_mu_);
  Address requested_head_ ABSL_GUARDED_BY(boundary_mu_);
  bool updates_blocked_ ABSL_GUARDED_BY(boundary_mu_) = false;

  Atomic<bool> page_turned_{false};  // since the last step of maintenance
  Atomic<bool> maintenance_stopped_{false};
  Backoff maintenance_backoff_;  // of the maintenance job
  Counters counters_;
  PoolJob maintenance_;  // last: uses the others
};

}  // namespace ebb::internal
