// LogSpace: the space on the device that a log has reserved beyond its tail.
//
// Space on the device is reserved before it is needed. So every acknowledged update can be flushed
// and committed, even if the disk has become full in the meantime. Four classes of appends share
// the space, in this order: ordinary < deletion < collection < commit. Each of the last three has a
// slice of the space beyond the tail, which only its own class and the classes after it may use:
//
//   tail | ordinary records, by the page | deletions | copies of a collection | commits | space_end
//
// So a full disk accepts deletions after it has rejected updates, a collection can copy after that,
// and a commit is always possible. The sizes of the slices follow from these, in blocks:
//
//   L  the length of the log
//   R  the largest record
//   S  a full list of the sessions
//   W  R + 2 + S, the waste of one pass of a collection: its commit and the filler at a page's end
//   B  two pages, but at most 2 MiB
//
//
//   commits      4 (2 + S) + 8
//   collection   B + 2 W + 2.5 sqrt(W L)
//   deletions    the larger of B + 2 W + 0.5 sqrt(W L) and L / 128
//
// In the worst case all garbage is at the end of the log, after L live blocks. A pass that copies p
// live blocks uses p + W blocks and frees p. So the L / p passes to the garbage use up W L / p
// blocks. p itself is limited by the slice, so a slice that grows with sqrt(W L) suffices.
// Deletions of L / 128 per round empty a full disk in about 128 rounds. Without holes in files, a
// segment can only be freed as a whole. Then the slice of collections is larger by one segment.
//
// Argument (a class never uses the slice of a later one). A page is ordinary when all of it, and
//   all slices beyond it, have space. Then any record may go there, by the fetch_add of Allocate.
//   In any other page, AllocateExact checks the space for each record, and claims the record's
//   place by a CAS of the tail word that it has checked. An ordinary record that was checked in an
//   ordinary page cannot slip into a next page that is not ordinary: WaitForPage turns the tail to
//   such a page only after a drain that began when the page before was full. Guards that begin
//   later load the full page's word, or the new one.
// Argument (a commit is always possible). Every record except a commit's leaves the commits' slice
//   whole. At most three commits follow one record without another record in between: the one
//   that was owed, the one during which the record was appended, and the one that settles it. A
//   commit that follows no record (only serials, or a new begin) is checked first
//   (CheckIdleCommit), that of Close too: it leaves at least half of the slice. An opening writes
//   one block before it frees any (recovery.h). space_end only grows, so other programs cannot use
//   the space of the slices while the store is open. An opening frees the part that lies after its
//   own record and takes it again. If another program takes it first, the store opens nevertheless,
//   and updates and collections succeed again when there is space. (On a file system that can
//   neither reserve space nor keep zeros in place, space means whatever is free when a block is
//   written.)
//
// Edges
//   [space]     Take: store, release, after the device has reserved -> append: load, acquire.
//
// Thread safety: any thread may call all methods except Restore. Progress: IsOrdinary, HasSpace and
// NoteExtent never wait; the others wait for the device.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

class HybridLog;

// The class of an append: it decides which slices of the device's space the append may use (see
// above). Tombstones are deletions; records of sessions and control records are commits.
enum class Space : std::uint8_t { kOrdinary, kDeletion, kCollection, kCommit };

class LogSpace {
 public:
  // The arguments outlive this object.
  LogSpace(const HybridLog& log, const Geometry& geometry, RecordShape shape, Device& device);
  // To be called before any other thread knows the log. `tail`: the start of a block;
  // `sessions_bytes`: of the records of all named sessions.
  void Restore(Address tail, std::uint64_t sessions_bytes);

  // Whether every class may append at `at` without a check.
  EBB_INLINE bool IsOrdinary(Address at) const {
    return at.value() < ordinary_end_.load(std::memory_order_acquire);  // [space]
  }
  bool HasSpace(Address at, std::uint64_t extent_bytes, Space space) const;
  // To be called for each record in an ordinary page: the largest one sizes the slices.
  EBB_INLINE void NoteExtent(std::uint64_t extent_bytes) {
    if (extent_bytes > largest_extent_.load(std::memory_order_relaxed)) [[unlikely]]  // an estimate
      largest_extent_.store(extent_bytes, std::memory_order_relaxed);                 // likewise
  }
  // Reserves space for a record at `at`: the whole page and all slices if possible, otherwise the
  // most important slices. Returns OK if the record has space.
  absl::Status Take(Address at, std::uint64_t extent_bytes, Space space);
  // Returns the first page to which appends of a class may not turn. The last hundredth of the
  // addresses is kept for collections and commits.
  std::uint64_t EndPage(Space space) const;
  // Reserves space ahead, so that the next record need not wait for it. An error does no harm: the
  // append that needs the space gets it.
  void TakeAhead(std::uint64_t pages_ahead);
  // Returns true after NoteShort, until a page has space again.
  bool is_short() const {
    return is_short_.load(std::memory_order_relaxed);  // a hint
  }
  void NoteShort() { is_short_.store(true, std::memory_order_relaxed); }  // a hint
  // Returns OK if there is space for a commit that follows no record. `is_needed`: the commit moves
  // begin or settles the commit before it. A needed commit may use half of the commits' slice. Any
  // other leaves all of that slice, the slice of collections, and half of the deletions' slice.
  absl::Status CheckIdleCommit(bool is_needed);
  // Sets the size in bytes of a full list of the sessions. Makes room for it in the slices, and
  // leaves half of the deletions' slice.
  absl::Status SetSessionsBytes(std::uint64_t bytes);
  // The number of blocks of live records that a collection may copy before a commit frees space,
  // and the number that each of its passes wastes.
  struct CollectionSpace {
    std::uint64_t slice_blocks = 0;
    std::uint64_t waste_blocks = 0;
  };
  CollectionSpace ForCollection();

 private:
  absl::Status ReserveTo(std::uint64_t end_block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Returns the first block after a record of `extent_bytes` at `at`, or after its page.
  std::uint64_t EndBlock(Address at, std::uint64_t extent_bytes) const;
  void SizeSlices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::uint64_t WasteBlocks() const;
  std::uint64_t HalfOfDeletions() const {
    return (BlocksBehind(Space::kDeletion) + BlocksBehind(Space::kOrdinary)) / 2;
  }
  // Returns the number of blocks that are reserved for the classes after `space`.
  std::uint64_t BlocksBehind(Space space) const {
    return blocks_behind_[static_cast<std::size_t>(space)].load(
        std::memory_order_relaxed);  // a size; space_end_block_ carries the order
  }

  const HybridLog& log_;
  const Geometry geometry_;
  Device& device_;

  // Read by every append, written at most once per page. All slices after the pages below
  // ordinary_end_ have space too.
  alignas(64) AtomicWord ordinary_end_{0};     // pages below have space
  AtomicWord space_end_block_{0};              // all blocks below have space
  std::array<AtomicWord, 4> blocks_behind_{};  // of each Space, see BlocksBehind
  AtomicWord largest_extent_{0};               // of the records that this process has seen
  Atomic<bool> is_short_{false};

  Mutex mu_;
  std::uint64_t sessions_blocks_ ABSL_GUARDED_BY(mu_) = 0;  // of a full list of sessions
};

}  // namespace ebb::internal
