// Tally: the counts of one session. It is in the session's epoch slot, in the cache line that every
// operation writes anyway. It stays there when the session ends, and the next session that gets the
// slot continues the counts. So the sum over all slots is the total of all sessions, live and
// ended.
//
// A count of operations begun can be made negative permanently. Its increment then shows, for one
// more branch, that this operation must be timed. When timing is disabled, it costs two
// instructions: the increment and a branch that is not taken.
//
// LatencyRecorder: histograms of one session, by kind of operation, allocated only when timing is
// enabled. Buckets are exact below 32 ns; above, each doubling has sixteen. The last one ends at 18
// minutes and includes everything longer.
//
// Edges
//   [recorder]  StartTiming: pointer store, release -> recorder: load, acquire. Zeroed counters.
//
// Thread safety: the session's one user writes the counts; any thread may read them and gets each
// count as it was a moment ago. Progress: wait-free.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/values/check.h"
#include "ebb/metrics.h"

namespace ebb::internal {

// One thread writes, any thread may read, and nothing depends on a read value. So an increment is
// no atomic read-modify-write. It does not use the alias Atomic, because a schedule explorer would
// find nothing here.
class Counter {
 public:
  static constexpr std::uint64_t kNegative = std::uint64_t{1} << 63;

  EBB_INLINE void Add(std::uint64_t count) { Store(Load() + count); }
  // Adds one. Returns whether the sum is negative.
  EBB_INLINE bool AddOne() {
#if defined(__x86_64__) && !defined(EBB_TSAN)
    bool negative;
    // for an atomic, compilers need three instructions
    asm("incq %0" : "+m"(word_), "=@ccs"(negative));
    return negative;
#else
    Add(1);
    return (Load() & kNegative) != 0;
#endif
  }
  void RaiseTo(std::uint64_t value) {
    if (value > Load()) Store(value);
  }
  void MakeNegative() { Store(Load() | kNegative); }
  std::uint64_t Load() const { return __atomic_load_n(&word_, __ATOMIC_RELAXED); }

 private:
  void Store(std::uint64_t value) { __atomic_store_n(&word_, value, __ATOMIC_RELAXED); }
  std::uint64_t word_ = 0;
};

// ---- latencies ----

struct LatencyBuckets {
  static constexpr int kSubBits = 4;
  static constexpr int kMaxBits = 40;
  static constexpr std::size_t kCount = (kMaxBits - kSubBits + 1) << kSubBits;
  static constexpr std::size_t IndexOf(std::uint64_t ns) {
    ns = std::min(ns, (std::uint64_t{1} << kMaxBits) - 1);
    const int shift = std::max(0, static_cast<int>(std::bit_width(ns)) - kSubBits - 1);
    return (static_cast<std::size_t>(shift) << kSubBits) + static_cast<std::size_t>(ns >> shift);
  }
  // Returns the largest latency in the bucket.
  static constexpr std::uint64_t UpperEnd(std::size_t index) {
    const std::size_t rows = index >> kSubBits;
    const std::size_t shift = rows < 2 ? 0 : rows - 1;
    return ((index - (shift << kSubBits) + 1) << shift) - 1;
  }
};

// The latencies of one kind, summed over sessions.
struct LatencyHistogram {
  std::array<std::uint64_t, LatencyBuckets::kCount> counts{};
  std::uint64_t sum_ns = 0;
  std::uint64_t max_ns = 0;

  void Subtract(const LatencyHistogram& earlier);
  LatencySummary Summarize() const;
};
using LatencyHistograms = std::array<LatencyHistogram, kOpKindCount>;

class LatencyRecorder {
 public:
  void Record(OpKind kind, std::uint64_t ns) {
    Kind& of = kinds_[static_cast<std::size_t>(kind)];
    of.counts[LatencyBuckets::IndexOf(ns)].Add(1);
    of.sum_ns.Add(ns);
    of.max_ns.RaiseTo(ns);
  }
  void AddTo(LatencyHistograms& sums) const;

 private:
  struct Kind {
    std::array<Counter, LatencyBuckets::kCount> counts;
    Counter sum_ns;
    Counter max_ns;
  };
  std::array<Kind, kOpKindCount> kinds_;
};

// ---- counts ----

// The positions of a tally's counters. The first four are arrays with one counter for each kind of
// operation.
struct Count {
  static constexpr std::size_t kBegun = 0;  // first: in one cache line with an epoch slot's words
  static constexpr std::size_t kNoOp = kBegun + kOpKindCount;
  static constexpr std::size_t kRefused = kNoOp + kOpKindCount;
  static constexpr std::size_t kSlowPath = kRefused + kOpKindCount;
  static constexpr std::size_t kReadsFromDevice = kSlowPath + kOpKindCount;
  static constexpr std::size_t kAppended = kReadsFromDevice + 1;
  static constexpr std::size_t kPromoted = kAppended + 1;  // of these, by reads
  static constexpr std::size_t kDeviceWaits = kPromoted + 1;
  static constexpr std::size_t kContendedWaits = kDeviceWaits + 1;
  static constexpr std::size_t kRestarts = kContendedWaits + 1;
  static constexpr std::size_t kReadBytes = kRestarts + 1;      // of strings only
  static constexpr std::size_t kWrittenBytes = kReadBytes + 1;  // where key or value is a string
  static constexpr std::size_t kUserErrors = kWrittenBytes + 1;
  static constexpr std::size_t kRecoverableErrors = kUserErrors + 1;
  static constexpr std::size_t kCorruptionErrors = kRecoverableErrors + 1;
  static constexpr std::size_t kLastingErrors = kCorruptionErrors + 1;
  static constexpr std::size_t kCount = kLastingErrors + 1;
};
using TallySums = std::array<std::uint64_t, Count::kCount>;

class Tally {
 public:
  Tally() = default;
  ~Tally();
  Tally(const Tally&) = delete;
  Tally& operator=(const Tally&) = delete;

  // Counts an operation. Returns whether it must be timed.
  EBB_INLINE bool Begin(OpKind kind) {
    return counts_[Count::kBegun + static_cast<std::size_t>(kind)].AddOne();
  }
  EBB_INLINE void Add(std::size_t place, std::uint64_t count) { counts_[place].Add(count); }
  void AddOf(std::size_t first, OpKind kind) { Add(first + static_cast<std::size_t>(kind), 1); }

  // Operations are timed from now on, unless there is no memory for it.
  void StartTiming();
  // To be called only if Begin returned that the operation must be timed.
  void Record(OpKind kind, std::uint64_t ns) { recorder()->Record(kind, ns); }

  void AddTo(TallySums& sums) const;
  // Returns null if operations are not timed.
  LatencyRecorder* recorder() const {
    return recorder_.load(std::memory_order_acquire);  // [recorder]
  }

 private:
  std::array<Counter, Count::kCount> counts_;
  Atomic<LatencyRecorder*> recorder_{nullptr};
};

// Times an operation for as long as it lives, if `timed`.
class OpTimer {
 public:
  EBB_INLINE OpTimer(Tally& tally, OpKind kind, bool timed)
      : tally_(tally), kind_(kind), timed_(timed) {
    if (timed_) [[unlikely]]
      begin_ = Clock::now();
  }
  EBB_INLINE ~OpTimer() {
    if (timed_) [[unlikely]]
      tally_.Record(kind_, static_cast<std::uint64_t>(
                               std::chrono::nanoseconds(Clock::now() - begin_).count()));
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  Tally& tally_;
  const OpKind kind_;
  const bool timed_;
  Clock::time_point begin_;
};

}  // namespace ebb::internal
