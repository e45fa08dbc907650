#include "ebb/internal/epoch/epoch.h"

#include <fmt/format.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "absl/status/status.h"
#include "ebb/internal/base/no_memory.h"

namespace ebb::internal {
namespace {

// Registers the process once, and tries the call: a filter may have forbidden it since an earlier
// store was opened.
[[maybe_unused]] bool MembarrierWorks() {
  static const bool is_registered = Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
  return is_registered && Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
}

// Returns 0, or the errno value of a call that was forbidden after the store was opened. If the
// kernel lacks memory, it retries; after about ten seconds that counts as an error.
[[maybe_unused]] int HeavyBarrier() {
  for (int tries = 0;; ++tries) {
    const int error = Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    if (error != ENOMEM || tries == 100000) return error;
    SleepFor(std::chrono::microseconds(100));
  }
}

[[maybe_unused]] absl::Status BarrierError(int error) {
  const auto describe = [error] {
    return absl::UnavailableError(fmt::format(
        "membarrier failed: {} (errno {}); it worked when the store was opened, so the program "
        "may have installed a filter of system calls since; exempt membarrier from it",
        std::generic_category().message(error), error));
  };
  return CatchNoMemory(describe, absl::Status(absl::StatusCode::kUnavailable, ""));
}

bool g_force_fallback = false;

// All live managers, for the fork handler. The mutexes of the registry and of the managers are held
// across fork. So the child finds complete lists, and no mutex that is locked by a thread which the
// child does not have.
struct ForkRegistry {
  Mutex mu;
  std::vector<EpochManager*> managers;
};
ForkRegistry& Registry() {
  static ForkRegistry* const registry = [] {
    auto* made = new ForkRegistry;
    pthread_atfork(
        []() ABSL_NO_THREAD_SAFETY_ANALYSIS {
          Registry().mu.Lock();
          EpochManager::LockAllForFork();
        },
        []() ABSL_NO_THREAD_SAFETY_ANALYSIS {
          EpochManager::UnlockAllAfterFork();
          Registry().mu.Unlock();
        },
        // In the child: mark the stores as closed before another call can begin. A store's files
        // and locks belong to the parent.
        []() ABSL_NO_THREAD_SAFETY_ANALYSIS {
          EpochManager::PoisonAllAfterFork();
          EpochManager::UnlockAllAfterFork();
          Registry().mu.Unlock();
        });
    return made;
  }();
  return *registry;
}

}  // namespace

EpochManager::EpochManager(unsigned version_bits, bool force_fallback, Health* health)
    : state_(EpochState::kOneEpoch | (version_bits & EpochState::kVersionMask)),
// ThreadSanitizer does not know membarrier, so under it the fallback is always used.
#ifndef EBB_TSAN
      use_membarrier_(!force_fallback && !g_force_fallback && MembarrierWorks()),
#endif
      health_(health) {
  static_cast<void>(force_fallback);
  ForkRegistry& registry = Registry();
  MutexLock lock(registry.mu);
  registry.managers.push_back(this);
}

EpochManager::~EpochManager() {
  ForkRegistry& registry = Registry();
  MutexLock lock(registry.mu);
  std::erase(registry.managers, this);
}

EpochSlot* EpochManager::AcquireSlot() {
  MutexLock lock(mu_);  // [slots]
  if (free_slots_.empty()) {
    free_slots_.reserve(slots_.size() +
                        1);  // ReleaseSlot runs in destructors: it must not allocate
    slots_.push_back(std::make_unique<EpochSlot>());
    // A slot is never freed before the manager, so a scan may read it at any time.
    return slots_.back().get();
  }
  EpochSlot* const slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void EpochManager::ReleaseSlot(EpochSlot* slot) {
  MutexLock lock(mu_);
  // The guard has ended: a later user of the slot starts outside.
  EBB_CHECK(slot->word.load(std::memory_order_relaxed) == 0);  // our own slot
  free_slots_.push_back(slot);
}

void EpochManager::AddTallies(TallySums& sums, LatencyHistograms* latencies) {
  MutexLock lock(mu_);  // [slots]
  for (const auto& slot : slots_) {
    slot->tally.AddTo(sums);
    const LatencyRecorder* const recorder = slot->tally.recorder();
    if (recorder != nullptr && latencies != nullptr) recorder->AddTo(*latencies);
  }
}

// One CAS for epoch, version and closed bit, so that a session loads them as one word.
std::uint64_t EpochManager::Publish(std::uint64_t clear_bits, std::uint64_t set_bits) {
  std::uint64_t seen = state_.load(std::memory_order_relaxed);  // the CAS below rechecks
  std::uint64_t next;
  do {
    next = ((seen & ~clear_bits) | set_bits) + EpochState::kOneEpoch;
  } while (!state_.compare_exchange_weak(seen, next, std::memory_order_seq_cst,  // [bump] [busy]
                                         std::memory_order_relaxed));
#ifndef EBB_TSAN
  // The barrier comes after the bump and before the scans of Drained. See the argument in the
  // header.
  if (const int error = use_membarrier_ ? HeavyBarrier() : 0; error != 0) {  // [announce] heavy
    if (health_ != nullptr) health_->Poison(BarrierError(error));
    // The store is poisoned before this returns, so every waiter finds the cause when it sees
    // broken().
    broken_.store(true, std::memory_order_release);  // [broken]
  }
#endif
  return EpochState::Epoch(next);
}

std::uint64_t EpochManager::Bump() { return Publish(0, 0); }

std::uint64_t EpochManager::BumpVersion(unsigned next_version_bits) {
  return Publish(EpochState::kVersionMask, next_version_bits & EpochState::kVersionMask);
}

std::uint64_t EpochManager::BumpClosed() { return Publish(0, EpochState::kClosed); }

bool EpochManager::Drained(std::uint64_t epoch) {
  // After a failed barrier a scan proves nothing.
  if (broken()) return false;
  MutexLock lock(mu_);  // [slots]
  return std::all_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
    // In the fallback the scan writes to the slot, so that it and Enter are ordered by the slot's
    // word.
    const std::uint64_t word =
        use_membarrier_ ? slot->word.load(std::memory_order_acquire)           // [leave]
                        : slot->word.fetch_add(0, std::memory_order_acq_rel);  // [announce] [leave]
    // A slot with a newer epoch entered after the bump and has seen everything that was stored
    // before.
    return word == 0 || EpochState::Epoch(word) >= epoch;
  });
}

// Needs no barrier of other threads: the call and Close both use seq_cst accesses ([busy]).
bool EpochManager::NoSlowCalls() {
  MutexLock lock(mu_);
  return std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) {
    return slot->busy.load(std::memory_order_seq_cst) == 0;  // [busy]
  });
}

void EpochManager::LockAllForFork() {
  // Called before fork, in the order in which the child and the parent unlock.
  for (EpochManager* manager : Registry().managers) manager->mu_.Lock();
}

void EpochManager::UnlockAllAfterFork() {
  for (EpochManager* manager : Registry().managers) manager->mu_.Unlock();
}

void EpochManager::PoisonAllAfterFork() {
  for (EpochManager* manager : Registry().managers) {
    // In the child: no call succeeds any more, and none of the parent's waits can be disturbed.
    manager->state_.fetch_or(EpochState::kClosed, std::memory_order_seq_cst);  // [busy]
  }
}

void EpochManager::ForceFallbackForTesting(bool force) { g_force_fallback = force; }

}  // namespace ebb::internal
