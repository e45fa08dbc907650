// HybridLog: pages, boundaries, allocation, flush, eviction. Knows bytes and records' extents, not
// keys.
//
//    on device only      read-only, in memory            fuzzy           mutable
//   |-------------|-----------------------------|--------------------|------------|
//   begin  safe_head  head  flushed_until  safe_read_only         read_only      tail
//
//   begin <= safe_head <= head <= flushed_until <= safe_read_only <= read_only <= tail
//
// Each boundary only grows and is moved by one function:
//   tail            Allocate, ReserveToBlockEnd (within a page); TryTurnPage (to the next page)
//   read_only, head Stage, under boundary_mu_, which also raises update_from
//   safe_read_only, safe_head
//                   Settle, under boundary_mu_, after the epoch of Stage's bump has drained
//   flushed_until   EndChunk, under flush_mu_; always the start of a block
//   begin           ShiftBegin, by the coordinator
//   space_end_block_, ordinary_end_
//                   TakeSpace, under space_mu_
//
// Argument: below safe_read_only no byte changes any more. Stage stores update_from and read_only
//   and then bumps; Settle moves safe_read_only only after every guard that could have loaded the
//   old values has ended (epoch.h). A later guard loads update_from and read_only after its slot
//   store, sees the new values, and does not update in place below them; and it cannot have
//   allocated there, since its address would have been above. So flush copies in peace. The
//   exceptions are seals that a failed sealer takes back and the lock words that readers touch
//   when they give up on optimism: neither is looked at below safe_read_only, and the copy is made
//   of atomic words, so it carries them as they happen to be.
// Argument: two chunks may be on their way to the device, so that one is copied and sealed while
//   the other is written. flushed_until moves over them in order, over each only once it is
//   written. When one fails, flushed_until stays before it, and those behind it are written again:
//   nothing has counted on them.
//   A chunk that was taken ends, also when an exception leaves the write: its taker's destructor
//   ends it as failed. Whoever flushes waits for that end.
// Argument: a frame is reused only when its page is below safe_head: every guard that loaded an
//   older head has ended, and a later one does not touch addresses below head.
// Argument: an operation that loads begin under its guard before it loads an index entry may take a
//   chain to end at the first address below that begin. ShiftBegin comes after every live record
//   below has been copied and published above (compaction.h), so an entry loaded later leads to
//   the copy first. What the operation saw of begin may fall behind while it reads the device: then
//   its blocks may be gone. So a failed read below begin is no damage: the operation starts again.
// Argument: no hole. A slot is allocated, and its header with its extent written, in one guard;
//   the rest of a page is made a filler by the allocation that crossed its end, in its guard.
//   Both are over before safe_read_only can pass. A page that records fill exactly has no filler.
// Argument: the tail word's offset never grows into its page number, however many calls are
//   rejected. A page is full, and can be turned, from the moment its offset reaches the end of its
//   payload. Allocate adds to the offset only if it has loaded one below that end. So an addition
//   beyond the end comes from a thread that was between the load and the addition when the page
//   became full, and each thread makes one at most: its next load is ordered after its own addition
//   and sees the full page, or a later one. The next user of its epoch slot sees it too, because
//   slots change hands under a mutex. So the offset is at most the payload plus the largest record
//   times the number of threads in Allocate, and the field has room for 65,535 of these. Nothing
//   else counts: neither calls nor time, nor the reason why the page is not turned
//   (a full disk, failed writes, no free frame, poison, the end of the address space). Allocate
//   and CheckBoundaries check half of that bound on their cold paths. ReserveToBlockEnd stops at
//   the end of the payload exactly.
//
// Every byte of a page that reaches the device was written for that page: a record and the padding
// of its parts, zeros in the value of a tombstone, zeros after a filler's header, zeros in a commit
// record. So nothing that a frame held for an earlier page gets to the device or into a backup.
// Two remains are intended: until it is collected, a record keeps the bytes that its own value had
// before it was deleted or shortened in place; and the block that begin lies in keeps the dead
// records below begin.
//
// Space on the device is taken before it is needed, so that whatever an update was acknowledged for
// can be flushed and committed on a disk that has become full meanwhile. Four classes of appends
// share it, in this order: ordinary < deletion < collection < commit. Each of the last three has a
// slice of the space beyond the tail that only it and the classes after it may use:
//
//   tail | ordinary records, by the page | deletions | copies of a collection | commits | space_end
//
// So a full disk takes deletions after it has rejected updates, a collection can copy after that,
// and a commit is always possible. With L, the length of the log, R, the largest record, and
// W = R + 2 + the blocks of a full list of sessions, the waste of one pass of a collection (its
// commit, and the filler at a page's end), all in blocks, and B = two pages, 2 MiB at most:
//
//   commits      4 (2 + the list of sessions) + 8
//   collection   B + 2 W + 2.5 sqrt(W L)
//   deletions    the larger of B + 2 W + 0.5 sqrt(W L) and L / 128
//
// A pass moves a live prefix of p blocks and gives p back, but for W, so reaching garbage at the
// end of a log of L live blocks loses W L / p; p is at most the slice, which is why the slice grows
// with sqrt(W L). Deletions of L / 128 a round empty a full disk in about 128 rounds. Without holes
// in files a segment is given back as a whole, so the slice of collections holds one more.
//
// Argument (a class never uses the slice of a later one). A page is ordinary when all of it, and
//   all slices beyond it, have space; then any record may go there, by the fetch_add of Allocate.
//   In any other page each record is checked at the place where it goes: AllocateExact takes the
//   place by the CAS of the word that it has checked. An ordinary record that was checked in an
//   ordinary page cannot slip into the next one unless that is ordinary, too: the tail turns to a
//   page that is not ordinary only after a drain that began when the page before was full
//   (WaitForPage), and guards that begin later load the full page's word, or the new one.
// Argument (a commit is always possible). Every record but a commit's leaves the commits' slice
//   whole. At most three commits follow one record without another in between: the one that was
//   owed, the record's own, and Close's. A commit that follows no record (serials, or a new begin,
//   alone) is checked first (CheckIdleCommit): it leaves at least half of the slice.
//   space_end only grows, so what the slices hold is not lost to other programs. (On a file system
//   that can neither reserve space nor keep zeros in place, space is what is free when a block is
//   written.)
//
// update_from is the one boundary that updates load: an unflagged record at or above it may be
// updated in place. It is a floor and a high bit, kInfinity, under which nothing is (Session
// operations then decide on their cold path). Rules, each found by the protocol's model:
//   the bit is set before a version's bump is published, and lifted only after its drain and the
//   reservation of its control record, with floor = max(floor, end of the control record);
//   a page turn raises the floor, and leaves the bit, before its own bump.
// All three happen under boundary_mu_, so each is one plain store of a consistent word.
//
// Nobody waits for the pool: whoever must wait leaves its guard and calls Help, which takes one
// step of moving boundaries, flushing and evicting. So one background thread is enough, none
// works too, and no order of waiting can deadlock: Help takes its mutexes without a guard, and
// nobody who holds a guard waits for anything.
//
// Edges
//   [tail]      TryTurnPage: tail CAS, acq_rel -> Allocate: tail fetch_add, acq_rel. What the
//               frame's last users did happens before its new ones.
//   [boundary]  boundary store, release -> boundary load, acquire: everything that was true before
//               the boundary moved. With the epoch's edges it gives the arguments above. This
//               covers head and update_from on the hot path too: EpochGuard::Look requires that
//               all loads before it are acquire loads, and on x86 they cost nothing.
//   [space]     TakeSpace: store, release, after the device has reserved -> append: load, acquire.
//
// Thread safety: all public methods, any thread, but Restore. Progress: Allocate, At and the
// boundary getters are wait-free; TryTurnPage is lock-free; WaitForPage, Help, FlushTo and FreezeTo
// may wait for guards to end, all but the last for the device too.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/health.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/thread_pool.h"
#include "ebb/internal/device/block_queue.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/mapped_region.h"
#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

// A session's memory for records that come from the device; grows to what was needed.
class DeviceBuffer {
 public:
  // At least `blocks` blocks, keeping the first `keep`; null when memory is out.
  std::byte* Reserve(std::size_t blocks, std::size_t keep);
  std::size_t bytes() const { return blocks_ * kBlockBytes; }
  // Frees the memory if it is more than `max_bytes`.
  void Trim(std::size_t max_bytes) {
    if (bytes() <= max_bytes) [[likely]]
      return;
    bytes_ = nullptr;
    blocks_ = 0;
  }

 private:
  AlignedBuffer bytes_;
  std::size_t blocks_ = 0;
};

// Between two checks of a condition that another thread will make true: first yields, then sleeps
// for 25 to 88 microseconds, so that a preempted guard holder can run. Each wait has a random
// length: two threads that hinder each other at the same moment do not meet again and again.
class Backoff {
 public:
  unsigned Wait();  // returns the random part, for tests

 private:
  int count_ = 0;
};

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
  // Where a log stands after creation or recovery.
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
  // Before any other thread knows the log.
  void Restore(Position position);
  // Calls `look` in the pool after a page was turned, and in the calling thread after an update was
  // rejected for lack of space; before any other thread knows the log.
  void OnGarbage(std::function<void()> look) { look_for_garbage_ = std::move(look); }
  // Maintenance that still runs ends after its step; it does not begin again.
  void StopMaintenance();

  // ---- hot path, under a guard ----

  // Reads start from memory at or above this.
  EBB_INLINE Address head() const { return LoadAcquire(head_); }
  // An unflagged record whose address is at or above this word may be updated in place.
  EBB_INLINE std::uint64_t update_from() const {
    return update_from_.load(std::memory_order_acquire);  // [boundary]
  }
  EBB_INLINE std::byte* At(Address address, const EpochGuard&) const {
    return frames_ + (address.value() & frame_mask_);
  }
  // Who asks for space on the device; see above. Tombstones are deletions, records of sessions and
  // control records are commits.
  enum class Space : std::uint8_t { kOrdinary, kDeletion, kCollection, kCommit };
  // `extent_bytes` (a multiple of 8, at most a page's payload) at the tail. Null: the page is full
  // or has no space on the device; leave the guard, call WaitForPage, and start again. A call that
  // finds the page full changes nothing.
  Address Allocate(std::uint64_t extent_bytes, const EpochGuard& guard,
                   Space space = Space::kOrdinary);
  // Whether the tail's page has space for ordinary records at this moment: a hint.
  EBB_INLINE bool HasOrdinaryPage() const {
    const std::uint64_t word = tail_.load(std::memory_order_relaxed);  // a hint
    return TailOffset(word) < payload_bytes_ && PlaceIn(word) < LoadAcquire(ordinary_end_);
  }
  // From the tail to the end of a block's payload, at least `least_bytes`: for commit records, so
  // it may use all slices.
  struct Extent {
    Address start;
    std::uint64_t bytes = 0;  // 0: the page is full, as above
  };
  Extent ReserveToBlockEnd(std::uint64_t least_bytes, const EpochGuard& guard);

  // ---- waiting, outside any guard ----

  // Returns once the tail's page has room and space, or the error that keeps it from getting any:
  // ResourceExhausted (device or address space), Unavailable (device, poison). For all classes but
  // kOrdinary `extent_bytes`, not 0, is the record's size.
  absl::Status WaitForPage(std::uint64_t extent_bytes = 0, Space space = Space::kOrdinary);
  // Before an ordinary append turns to a page that begins at or above `limit`, it waits until that
  // is raised, for a second at most: appends are slowed down, not stopped. Closing ends the wait,
  // too.
  void SetBrake(Address limit) { brake_.store(limit.value(), std::memory_order_relaxed); }
  void ReleaseBrake() { SetBrake(Address(Address::kMask)); }
  // Takes space ahead, so that the next record need not wait for it. An error does no harm: whoever
  // needs the space hears of it.
  void TakeSpaceAhead(std::uint64_t pages_ahead);
  // True from when an update was rejected for lack of space until a page has some.
  bool is_short_of_space() const {
    return is_short_of_space_.load(std::memory_order_relaxed);  // a hint
  }
  // Whether there is space for a commit that follows no record. One that is needed, because it
  // moves begin or settles the commit before it, leaves half of the commits' slice. Others leave
  // all of it, the slice of collections, and half of the deletions'.
  absl::Status CheckIdleCommit(bool is_needed);
  // How many bytes a full list of the sessions takes; makes room for it in the slices, and leaves
  // half of the deletions'.
  absl::Status SetSessionsBytes(std::uint64_t bytes);
  // How many blocks of live records a collection may copy before a commit gives space back, and how
  // many each pass of it wastes.
  struct CollectionSpace {
    std::uint64_t slice_blocks = 0;
    std::uint64_t waste_blocks = 0;
  };
  CollectionSpace GetCollectionSpace();
  // One step of maintenance; true when it moved something.
  absl::StatusOr<bool> Help();
  // Makes everything below `end`, the start of a block, read-only and writes it to the device.
  absl::Status FlushTo(Address end);
  // Makes everything below `end`, at most the tail, read-only, and returns once no byte of it
  // changes any more. Waits for guards alone. Fails only when that cannot be known
  // (EpochManager::broken), with the status of the store's health.
  absl::Status FreezeTo(Address end);

  // ---- versions ----

  // Around a version's bump and drain: nothing may be updated in place until the second call, and
  // afterwards only at or above `floor`.
  void BeginVersionShift();
  void EndVersionShift(Address floor);
  // From now on the hot path finds nothing to update in place: every update takes the general form.
  void BlockUpdates();

  // ---- the front ----

  // What is below `begin`, which has been flushed, is not needed any more: evicts it and lets go of
  // it. The device's blocks are the caller's business, afterwards.
  absl::Status ShiftBegin(Address begin);

  // ---- the device side ----

  // Blocks below head, from `block` on, read and verified. DataLoss with file and offset when they
  // are not what was written there.
  absl::Status FetchBlocks(std::uint64_t block, std::span<std::byte> bytes);
  // The same in two steps: the read, which a BlockQueue may do instead, and the rest.
  void Read(BlockRead& read) const { read.status = device_.Read(read.block, read.bytes); }
  absl::Status TakeBlocks(const BlockRead& read);
  // What is to be read next of the record at `address`, behind its first `have` blocks, which are
  // in `buffer`; false when that is all of it. DataLoss: it cannot be there.
  absl::StatusOr<bool> NextRead(Address address, DeviceBuffer& buffer, std::uint64_t have,
                                BlockRead& next) const;
  // The record at `address`, whose `have` blocks are in `buffer`, once each time that they were
  // read: they are joined for it. DataLoss: there is none.
  absl::StatusOr<Record> RecordIn(Address address, DeviceBuffer& buffer, std::uint64_t have) const;
  // All of that for one record, which then lies in `buffer`.
  absl::StatusOr<Record> ReadFromDevice(Address address, DeviceBuffer& buffer);
  // The DataLoss that says what is wrong with a block, and where it is.
  absl::Status Damaged(std::uint64_t block, const char* what) const;
  // The bytes of a page's frame, for recovery, before Restore.
  std::span<std::byte> FrameForRecovery(std::uint64_t page) const;
  void ReleaseFrame(std::uint64_t page) const;
  // Gives the memory of all frames back; the log is not used afterwards.
  void ReleaseMemory() const { region_.Release(0, region_.bytes()); }

  // ---- what it is like now ----

  const Geometry& geometry() const { return config_.geometry; }
  RecordShape shape() const { return config_.shape; }
  Address begin() const { return LoadAcquire(begin_); }
  Address safe_head() const { return LoadAcquire(safe_head_); }
  Address head_acquire() const { return LoadAcquire(head_); }
  Address flushed_until() const { return LoadAcquire(flushed_until_); }
  Address safe_read_only() const { return LoadAcquire(safe_read_only_); }
  Address read_only() const { return LoadAcquire(read_only_); }
  Address tail() const;
  // How far records have overshot the end of the tail's page.
  std::uint64_t overshoot_bytes() const;
  const std::vector<IncarnationSpan>& incarnations() const { return incarnations_; }
  // Of the block that holds `address`; 0: none is known.
  std::uint64_t IncarnationAt(Address address) const;
  std::uint64_t incarnation() const { return incarnations_.back().incarnation; }
  std::uint64_t huge_page_bytes() const { return region_.huge_page_bytes(); }
  void CheckBoundaries() const;

  struct Counters {
    AtomicWord page_turns{0};
    AtomicWord page_waits{0};
    AtomicWord brake_waits{0};
    AtomicWord flushed_bytes{0};
    AtomicWord device_reads{0};
    AtomicWord device_read_bytes{0};
  };
  const Counters& counters() const { return counters_; }

 private:
  // The tail word: the page in the high bits, an offset with 16 bits of room above a page's size.
  // See the argument above for why the offset does not grow into the page.
  int tail_shift() const { return config_.geometry.page_shift + 16; }
  std::uint64_t TailPage(std::uint64_t word) const { return word >> tail_shift(); }
  std::uint64_t TailOffset(std::uint64_t word) const {
    return word & ((std::uint64_t{1} << tail_shift()) - 1);
  }
  // The address of a word whose offset is within its page.
  Address PlaceIn(std::uint64_t word) const {
    return config_.geometry.PageStart(TailPage(word)) + TailOffset(word);
  }
  // Beyond this our argument about overshoot is wrong. Half of the field, so that a check stops the
  // program before the page number changes.
  std::uint64_t max_tail_offset() const { return std::uint64_t{1} << (tail_shift() - 1); }
  static Address LoadAcquire(const AtomicWord& word) {
    return Address(word.load(std::memory_order_acquire));  // [boundary]
  }

  // How many blocks the record at `address` takes, as far as `blocks`, the first of them, tell.
  absl::StatusOr<std::uint64_t> BlocksOf(Address address, std::span<const std::byte> blocks) const;

  enum class Turn : std::uint8_t { kRoom, kNeedsFrame, kNeedsSpace, kNeedsDrain };
  // All guards from before the page in front of `drained_page` was full have ended.
  Turn TryTurnPage(std::uint64_t extent_bytes, Space space, std::uint64_t drained_page);
  absl::Status Drain();
  void WaitAtBrake();
  Address AllocateExact(std::uint64_t extent_bytes, const EpochGuard& guard, Space space);
  bool HasSpace(Address at, std::uint64_t extent_bytes, Space space) const;
  absl::Status TakeSpace(Address at, std::uint64_t extent_bytes, Space space);
  absl::Status ReserveTo(std::uint64_t end_block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mu_);
  // The first block behind a record of `extent_bytes` at `at`, or behind its page.
  std::uint64_t EndBlock(Address at, std::uint64_t extent_bytes) const;
  void SizeSlices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(space_mu_);
  std::uint64_t WasteBlocks() const;
  std::uint64_t HalfOfDeletions() const {
    return (BlocksBehind(Space::kDeletion) + BlocksBehind(Space::kOrdinary)) / 2;
  }
  // How many blocks the classes after `space` have to themselves.
  std::uint64_t BlocksBehind(Space space) const {
    return blocks_behind_[static_cast<std::size_t>(space)].load(
        std::memory_order_relaxed);  // a size; space_end_block_ carries the order
  }
  // Where the next record goes, be it behind a page's end.
  Address NextPlace() const;
  // The first page that appends of a class may not turn to. The last hundredth of the addresses is
  // kept for collections and commits.
  std::uint64_t EndPage(Space space) const;
  void FillPageEnd(Address from, const EpochGuard& guard);
  bool ShiftBoundaries();
  bool Stage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  bool Settle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  void BlockUpdatesLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  void RaiseUpdateFrom(Address floor, std::uint64_t infinity)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(boundary_mu_);
  // Blocks on their way to the device.
  struct Chunk {
    std::uint64_t first_block = 0;
    std::uint64_t end_block = 0;
    AlignedBuffer buffer;
  };
  struct TakenChunk;
  absl::StatusOr<bool> FlushChunk();
  bool TakeChunk(Chunk& chunk, bool& waited);
  absl::StatusOr<bool> EndChunk(Chunk& chunk, absl::Status written);
  bool NothingToDo();
  void ScheduleMaintenance();
  // One step in the pool, which posts the next: the pool's other jobs have their turn in between.
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
  Device& device_;
  MappedRegion region_;
  std::vector<IncarnationSpan> incarnations_;
  AtomicWord brake_{Address::kMask};  // a limit that is looked at again and again
  std::function<void()> look_for_garbage_;

  // Read by every operation, written once a page or less.
  alignas(64) AtomicWord head_{0};
  AtomicWord update_from_{0};
  AtomicWord begin_{0};
  AtomicWord read_only_{0};
  AtomicWord safe_read_only_{0};
  AtomicWord safe_head_{0};
  AtomicWord flushed_until_{0};

  // Written by every append.
  alignas(64) AtomicWord tail_{0};

  // Read by every append, written once a page or less.
  alignas(64) AtomicWord ordinary_end_{0};     // pages below have space, and all slices behind them
  AtomicWord space_end_block_{0};              // all blocks below have space
  std::array<AtomicWord, 4> blocks_behind_{};  // of each Space, see BlocksBehind
  AtomicWord largest_extent_{0};               // of the records that this process has seen
  Atomic<bool> is_short_of_space_{false};

  alignas(64) Mutex boundary_mu_;
  bool staged_ ABSL_GUARDED_BY(boundary_mu_) = false;  // a bump waits for its drain
  std::uint64_t staged_epoch_ ABSL_GUARDED_BY(boundary_mu_) = 0;
  Address requested_read_only_ ABSL_GUARDED_BY(boundary_mu_);
  Address requested_head_ ABSL_GUARDED_BY(boundary_mu_);
  bool updates_blocked_ ABSL_GUARDED_BY(boundary_mu_) = false;

  Mutex space_mu_;
  std::uint64_t sessions_blocks_ ABSL_GUARDED_BY(space_mu_) = 0;  // of a full list of sessions

  Mutex flush_mu_;
  CondVar flush_changed_;
  // Null while a chunk has it.
  std::array<AlignedBuffer, 2> flush_buffers_ ABSL_GUARDED_BY(flush_mu_);
  std::size_t chunks_under_way_ ABSL_GUARDED_BY(flush_mu_) = 0;
  bool chunk_failed_ ABSL_GUARDED_BY(flush_mu_) = false;  // one of those under way together
  Address taken_until_ ABSL_GUARDED_BY(flush_mu_);        // the next chunk begins here or above

  Atomic<bool> page_turned_{false};  // since the last step of maintenance
  Atomic<bool> maintenance_stopped_{false};
  Backoff maintenance_backoff_;  // of the maintenance job
  Counters counters_;
  PoolJob maintenance_;  // last: uses the others
};

}  // namespace ebb::internal
