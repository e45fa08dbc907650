// EpochManager: reports when no session can still use something that it saw before.
//
// A session announces itself in its slot for the length of one call or less, never while it waits.
// To take something away, a thread first stores the word that hides it (a boundary, a version),
// then bumps the epoch. It then polls until every session that might have seen the old word has
// left. There are no deferred actions and no list of them: the polling thread continues when the
// poll succeeds.
//
// Use:
//   EpochGuard guard(epochs, slot);        // announce
//   ... load boundaries, then the index entry, then the record ...
//   if (!guard.Look()) start again;        // the second look, before any effect or result
//
//   boundary.store(x);                     // hide
//   auto epoch = epochs.Bump();            // announce to all sessions
//   while (!epochs.Drained(epoch)) ...     // no session that saw the old boundary is left
//
// The state word holds the epoch, the low two bits of the version, and a closed bit:
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
//   seccomp filter. By then the bump is published, and guards announce themselves without a barrier
//   of their own. So a scan of the slots proves nothing any more. A bump that fails poisons the
//   store (health.h) before it returns. Every thread that waits for its drain then sees broken():
//   each loop around Drained must check it and end with the status of the store's health. No drain
//   is believed any more, so no boundary that needs one moves again: no frame is reused, no record
//   freezes, no version is committed. So running guards are safe, and reads in memory continue.
//   Close waits for slow calls only ([busy] needs no barrier). A call on the fast path may still be
//   under its guard then, so Close leaves the memory of frames and index allocated; the Core frees
//   it when the last session is gone.
//
// Argument. A session loads the state, stores it to its slot, and only then loads boundaries. The
//   first load is acquire: a session that enters in a new version sees everything that was stored
//   before its bump (update_from at infinity), even on machines that reorder loads.
//   Consider the moment of the bump's barrier. By [announce], either the slot store is visible to
//   the scan that follows, and the scan waits for it; or the session's later loads see everything
//   stored before the bump. So a stale epoch in a slot is harmless to a boundary: the scan waits
//   for such a session without need. It is not harmless to a version: the session may act in a
//   version whose drain is over.
//   The second look prevents that. It loads the state word again, after the entry and the header.
//   If the words are equal, no bump was published before the look. A bump published later finds the
//   slot, because the slot was stored before the look. So an effect after a successful look happens
//   before the drain of its version ends. The closed bit is never stored in a slot, so once it is
//   set, no look succeeds again.
//
// Edges
//   [announce] With membarrier: slot store, compiler barrier, loads -> Bump: stores, membarrier,
//              slot loads. The kernel runs a full barrier on every running thread of the process.
//              Without (old kernels, ThreadSanitizer, forced by tests): Enter exchanges the slot,
//              acq_rel; Drained reads it by a fetch_add of 0, acq_rel. The two read-modify-writes
//              of one word are ordered: if Enter's is later, it reads from the scan's and so sees
//              all stores before the scan; if it is earlier, the scan reads the announcement.
//   [leave]    Leave: slot store, release -> Drained: slot load, acquire. The session's accesses
//              happen before the drainer's next actions.
//   [bump]     Bump: state read-modify-write, release -> Enter and Look: state load, acquire. Enter
//              may load a stale word (see above), and then its boundaries may be stale with it;
//              Look's load comes after acquire loads of the words that it covers.
//   [slots]    A slot is linked under mu_, which the scan takes to read the list's head: either
//              the scan sees the slot, or its owner sees everything stored before the scan.
//   [broken]   Publish: flag store, release, before it returns -> broken(): load, acquire: the
//              cause in the store's health. A caller that knows the epoch of a failed bump has it
//              from the bumping thread, after the store.
//   [busy]     SlowScope: busy store, seq_cst, then state load, seq_cst -> Close: closed bit,
//              seq_cst, then busy load, seq_cst. Either Close waits for the slow call or the call
//              sees the closed bit and touches nothing.
//
// Thread safety: any thread may call AcquireSlot, ReleaseSlot, Bump and Drained. A slot is used by
// one thread at a time. Progress: Enter, Look and Leave are wait-free; Bump is a system call;
// Drained holds mu_ briefly. Cost of Enter and Leave together: under a nanosecond.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/health.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/tally.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

// The announcement of one session, on cache lines of its own. Reused, and never freed before the
// manager.
struct alignas(64) EpochSlot {
  AtomicWord word{0};  // 0, or the state word with which its guard entered
  AtomicWord busy{0};  // 1 while a call of the session is on its slow path, guard or not
  Tally tally;         // of all sessions that have used the slot
};

// The parts of a state word.
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
  // `version_bits`: of the version in which the store opens. `force_fallback`: do not use
  // membarrier. `health` outlives the manager and is poisoned if a barrier fails.
  explicit EpochManager(unsigned version_bits, bool force_fallback = false,
                        Health* health = nullptr);
  ~EpochManager();
  EpochManager(const EpochManager&) = delete;
  EpochManager& operator=(const EpochManager&) = delete;

  EpochSlot* AcquireSlot();
  void ReleaseSlot(EpochSlot* slot);
  // Adds the counts of the sessions of all slots, including ended sessions. `latencies` may be
  // null.
  void AddTallies(TallySums& sums, LatencyHistograms* latencies);

  // Starts a new epoch and returns it. The epoch covers everything that the caller stored before.
  std::uint64_t Bump();
  // Does the same, and moves to the next version.
  std::uint64_t BumpVersion(unsigned next_version_bits);
  // Does the same, and closes the store to guards: no look succeeds afterwards.
  std::uint64_t BumpClosed();
  // Returns whether no guard from before `epoch` is left. `epoch` was returned by a bump. Returns
  // false forever if broken().
  bool Drained(std::uint64_t epoch);
  // Whether a barrier has failed: no drain will ever be known to have ended. Health is poisoned
  // first.
  bool broken() const { return broken_.load(std::memory_order_acquire); }  // [broken]
  // Returns whether no session is on its slow path. To be called only after BumpClosed.
  bool NoSlowCalls();

  bool closed() const {
    return (state_.load(std::memory_order_seq_cst) & EpochState::kClosed) != 0;  // [busy]
  }
  bool uses_membarrier() const { return use_membarrier_; }

  // Makes every look of every manager fail permanently: the forked child of a process has no pool
  // and must not write to its parent's files. Installed with pthread_atfork.
  static void PoisonAllAfterFork();
  // Around a fork, with the list of managers locked.
  static void LockAllForFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  static void UnlockAllAfterFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // For tests: managers created from now on do not use membarrier.
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

  // Rarely used.
  Health* const health_;
  Atomic<bool> broken_{false};
  alignas(64) Mutex mu_;
  std::vector<std::unique_ptr<EpochSlot>> slots_ ABSL_GUARDED_BY(mu_);  // includes free ones
  std::vector<EpochSlot*> free_slots_ ABSL_GUARDED_BY(mu_);
};

// A slot for a call, a job or an object that has no session, as long as it lives.
class OwnSlot {
 public:
  explicit OwnSlot(EpochManager& epochs) : epochs_(epochs), slot_(epochs.AcquireSlot()) {}
  ~OwnSlot() { epochs_.ReleaseSlot(slot_); }
  OwnSlot(const OwnSlot&) = delete;
  OwnSlot& operator=(const OwnSlot&) = delete;
  EpochSlot& operator*() const { return *slot_; }

 private:
  EpochManager& epochs_;
  EpochSlot* const slot_;
};

// Announces a session for the length of a scope. Never held during a wait or a device call.
class EpochGuard {
 public:
  EBB_INLINE EpochGuard(const EpochManager& epochs, EpochSlot& slot)
      : epochs_(epochs), slot_(slot) {
    EBB_DCHECK(slot.word.load(std::memory_order_relaxed) == 0);  // our own slot
    // A stale state makes drainers wait for this guard without need, and makes Look fail; see the
    // argument above.
    state_ = epochs.state_.load(std::memory_order_acquire) & ~EpochState::kClosed;  // [bump]
#ifdef EBB_TSAN
    slot.word.exchange(state_, std::memory_order_acq_rel);  // [announce]
#else
    if (epochs.use_membarrier_) [[likely]] {
      // Ordered before the loads that follow only by the scanner's membarrier. It is a release
      // store, so that a scan that finds this guard knows that the ones before it have ended.
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

  // The second look: returns whether nothing was bumped since this guard began and the store is
  // open. To be called after the loads that it covers, all of them acquire.
  EBB_INLINE bool Look() const {
#if defined(__x86_64__) && !defined(EBB_TSAN) && !defined(EBB_ATOMIC_HEADER)
    bool same;  // compilers make two instructions of an atomic's load and comparison
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

// Marks a session as inside a call for as long as the call may wait, so that Close does not release
// files and memory that the call uses. Scopes may be nested.
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
