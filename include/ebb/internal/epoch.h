// EpochManager: tells when no session can still hold something it saw.
//
// A session announces itself in its slot for the length of one call (or less), never while it
// waits. Whoever wants to take something away first stores the word that hides it (a boundary, a
// version), then bumps the epoch, and polls until every session that might have looked before has
// left. There are no actions that run later and no list of them: the waiter polls and goes on.
//
// Use:
//   EpochGuard guard(epochs, slot);        // announce
//   ... load boundaries, then the index entry, then the record ...
//   if (!guard.Look()) start again;        // the second look, before any effect or answer
//
//   boundary.store(x);                     // hide
//   auto epoch = epochs.Bump();            // announce to everybody
//   while (!epochs.Drained(epoch)) ...     // nobody who saw the old boundary is left
//
// The state word holds the epoch and the low two bits of the version, and a closed bit:
//
//   bits 0..1 version | bit 2 closed | bits 3..63 epoch
//
// Invariants
//   The epoch only grows. A slot is 0 (outside) or a state word that was current at some time
//   since the guard began, without the closed bit.
//   Drained(e) returns true only if every guard that began before Bump returned e has ended, or
//   began by storing its slot after the bump's barrier.
//   Once a barrier has failed (broken()), Drained returns false for every epoch, forever.
//
// A failed barrier. A process can forbid membarrier after the store was opened, for example by a
//   seccomp filter. The bump is published by then, and guards announce themselves without a barrier
//   of their own, so a scan of the slots proves nothing any more. A bump that fails poisons the
//   store (health.h) before it returns, so every thread that waits for its drain sees broken():
//   each loop around Drained must check it and end with the status of the store's health. Since no
//   drain is believed, no boundary that needs one moves again: no frame is reused, no record
//   freezes, no version is committed. So the guards that still run are safe, and reads in memory
//   continue. Close waits for slow calls alone ([busy] needs no barrier). A hit may still be under
//   its guard then, so Close leaves the memory of frames and index in place; the Core frees it when
//   the last session is gone.
//
// Argument. A session loads the state, stores it to its slot, and only then loads boundaries. The
//   first load is acquire: a session that enters in a new version sees what was stored before its
//   bump (update_from at infinity), also on machines that reorder loads.
//   With [announce], at the moment of the bump's barrier either the slot store is visible to the
//   scan that follows, and the scan waits for it; or the session's later loads see everything
//   stored before the bump. A stale epoch in a slot is therefore harmless to a boundary: such a
//   session is only waited for without need. It is not harmless to a version: the session may act
//   in a version whose drain is over. That is what the second look is for: it loads the state
//   word again, after the entry and the header. Equality says that no bump was published before
//   the look; a bump published later finds the slot, because the slot was stored before the look.
//   So an effect after an agreed look happens before the drain of its version ends. The closed
//   bit is never stored in a slot, so once it is set no look agrees again.
//
// Edges
//   [announce] With membarrier: slot store, compiler barrier, loads -> Bump: stores, membarrier,
//              slot loads. The kernel runs a full barrier on every running thread of the process.
//              Without (old kernels, ThreadSanitizer, forced by tests): Enter exchanges the slot,
//              acq_rel; Drained reads it by a fetch_add of 0, acq_rel. The two read-modify-writes
//              of one word are ordered: if Enter's is later it reads from the scan's and so sees
//              what came before the scan; if it is earlier the scan reads the announcement.
//   [leave]    Leave: slot store, release -> Drained: slot load, acquire. The session's accesses
//              happen before what the drainer does next.
//   [bump]     Bump: state read-modify-write, release -> Enter and Look: state load, acquire. Enter
//              may load a stale word (see above), and then its boundaries may be stale with it;
//              Look's load comes after acquire loads of what it covers.
//   [slots]    A slot is linked under mu_, which the scan takes to read the list's head: either
//              the scan sees the slot or its owner sees what was stored before the scan.
//   [broken]   Publish: flag store, release, before it returns -> broken(): load, acquire. What the
//              health says of the cause. A caller that knows the epoch of a failed bump knows it
//              from the bumping thread, after the store.
//   [busy]     SlowScope: busy store, seq_cst, then state load, seq_cst -> Close: closed bit,
//              seq_cst, then busy load, seq_cst. Either Close waits for the slow call or the call
//              sees the closed bit and touches nothing.
//
// Thread safety: AcquireSlot, ReleaseSlot, Bump and Drained in any thread. A slot is used by one
// thread at a time. Progress: Enter, Look and Leave are wait-free; Bump is a system call;
// Drained takes mu_ for a moment. Cost of Enter and Leave together: under a nanosecond.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ebb/internal/atomic.h"
#include "ebb/internal/check.h"
#include "ebb/internal/health.h"
#include "ebb/internal/mutex.h"
#include "ebb/internal/tally.h"

namespace ebb::internal {

// One session's announcement; cache lines of its own. Recycled, never freed before the manager.
struct alignas(64) EpochSlot {
  AtomicWord word{0};  // 0, or the state word that its guard entered with
  AtomicWord busy{0};  // 1 while a call of the session is on its slow path, guard or not
  Tally tally;         // of all the sessions that have had the slot
};

// State words, taken apart.
struct EpochState {
  static constexpr std::uint64_t kVersionMask = 3;
  static constexpr std::uint64_t kClosed = 4;
  static constexpr int kEpochShift = 3;
  static constexpr std::uint64_t kOneEpoch = std::uint64_t{1} << kEpochShift;
  static constexpr unsigned VersionBits(std::uint64_t state) {
    return static_cast<unsigned>(state & kVersionMask);
  }
  static constexpr std::uint64_t Epoch(std::uint64_t state) { return state >> kEpochShift; }
};

class EpochManager {
 public:
  // `version_bits`: of the version the store opens in. `force_fallback`: do without membarrier.
  // `health`, which outlives the manager, is poisoned when a barrier fails.
  explicit EpochManager(unsigned version_bits, bool force_fallback = false,
                        Health* health = nullptr);
  ~EpochManager();
  EpochManager(const EpochManager&) = delete;
  EpochManager& operator=(const EpochManager&) = delete;

  EpochSlot* AcquireSlot();
  void ReleaseSlot(EpochSlot* slot);
  // What the sessions of all slots have done, ended ones too; `latencies` may be null.
  void AddTallies(TallySums& sums, LatencyHistograms* latencies);

  // Starts a new epoch and returns it. What the caller stored before is covered by the epoch.
  std::uint64_t Bump();
  // The same, and moves to the next version.
  std::uint64_t BumpVersion(unsigned next_version_bits);
  // The same, and closes the store to guards: no look agrees afterwards.
  std::uint64_t BumpClosed();
  // True when no guard from before `epoch` is left. `epoch` was returned by a bump. False forever
  // when broken().
  bool Drained(std::uint64_t epoch);
  // A barrier has failed: no drain will ever be known to have ended. Health is poisoned before.
  bool broken() const { return broken_.load(std::memory_order_acquire); }  // [broken]
  // True when no session is on its slow path. Only after BumpClosed.
  bool NoSlowCalls();

  bool closed() const {
    return (state_.load(std::memory_order_seq_cst) & EpochState::kClosed) != 0;  // [busy]
  }
  bool uses_membarrier() const { return use_membarrier_; }

  // Makes every look of every manager fail for ever: the forked child of a process has no pool
  // and must not write to its parent's files. Installed with pthread_atfork.
  static void PoisonAllAfterFork();
  // Around a fork, with the list of managers locked.
  static void LockAllForFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  static void UnlockAllAfterFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // Tests: managers made from now on do without membarrier.
  static void ForceFallbackForTesting(bool force);

 private:
  friend class EpochGuard;

  std::uint64_t Publish(std::uint64_t clear_bits, std::uint64_t set_bits);

  // Written by bumps, read by every guard.
  alignas(64) AtomicWord state_;
#ifdef EBB_TSAN
  static constexpr bool use_membarrier_ = false;
#else
  const bool use_membarrier_;
#endif

  // Cold.
  Health* const health_;
  Atomic<bool> broken_{false};
  alignas(64) Mutex mu_;
  std::vector<std::unique_ptr<EpochSlot>> slots_ ABSL_GUARDED_BY(mu_);  // free ones too
  std::vector<EpochSlot*> free_slots_ ABSL_GUARDED_BY(mu_);
};

// Announces a session for the length of a scope. Never held across a wait or a device call.
class EpochGuard {
 public:
  EBB_INLINE EpochGuard(const EpochManager& epochs, EpochSlot& slot)
      : epochs_(epochs), slot_(slot) {
    EBB_DCHECK(slot.word.load(std::memory_order_relaxed) == 0);  // our own slot
    // A stale state makes drainers wait for us without need, and Look fail; see the argument above.
    state_ = epochs.state_.load(std::memory_order_acquire) & ~EpochState::kClosed;  // [bump]
#ifdef EBB_TSAN
    slot.word.exchange(state_, std::memory_order_acq_rel);  // [announce]
#else
    if (epochs.use_membarrier_) [[likely]] {
      // Ordered before the loads that follow by the scanner's membarrier alone. Release, so that
      // a scan that finds this guard knows that the ones before it have ended.
      slot.word.store(state_, std::memory_order_release);  // [leave]
      asm volatile("" ::: "memory");  // [announce] light half; the heavy half is in Publish
    } else {
      slot.word.exchange(state_, std::memory_order_acq_rel);  // [announce]
    }
#endif
  }
  EBB_INLINE ~EpochGuard() { slot_.word.store(0, std::memory_order_release); }  // [leave]
  EpochGuard(const EpochGuard&) = delete;
  EpochGuard& operator=(const EpochGuard&) = delete;

  // The second look: nothing was bumped since this guard began, and the store is open. Call it
  // after the loads that it covers, all of them acquire.
  EBB_INLINE bool Look() const {
#if defined(__x86_64__) && !defined(EBB_TSAN) && !defined(EBB_ATOMIC_HEADER)
    bool same;  // compilers make two of an atomic's load and comparison
    asm volatile("cmpq %2, %1" : "=@ccz"(same) : "m"(epochs_.state_), "r"(state_) : "memory");
    return same;  // [bump]
#else
    asm volatile("" ::: "memory");
    return epochs_.state_.load(std::memory_order_acquire) == state_;  // [bump]
#endif
  }
  std::uint64_t state() const { return state_; }
  unsigned version_bits() const { return EpochState::VersionBits(state_); }

 private:
  const EpochManager& epochs_;
  EpochSlot& slot_;
  std::uint64_t state_;
};

// Marks a session as inside a call for as long as the call may wait, so that Close does not take
// files and memory away under it. One may lie within another.
class SlowScope {
 public:
  explicit SlowScope(EpochSlot& slot)
      : slot_(slot), was_(slot.busy.load(std::memory_order_relaxed)) {  // our own slot
    slot_.busy.store(1, std::memory_order_seq_cst);                     // [busy]
  }
  ~SlowScope() { slot_.busy.store(was_, std::memory_order_release); }  // [busy]
  SlowScope(const SlowScope&) = delete;
  SlowScope& operator=(const SlowScope&) = delete;

 private:
  EpochSlot& slot_;
  const std::uint64_t was_;
};

}  // namespace ebb::internal
