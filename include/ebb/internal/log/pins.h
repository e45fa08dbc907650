// Pins: addresses at and above which nothing may be truncated, because a scan still reads there.
//
// A pin does not prevent `begin` from moving; it only keeps the bytes in place. Compaction may copy
// records above a pin, and commit a begin above it. A thread that truncates follows this order:
//
//   1. the log's begin moves to `wanted`
//   2. limit = pins.Limit(wanted); the log below `limit` is truncated, and index entries that lead
//      there are swept: a scan needs those that lead to a tombstone above its own end
//
// Argument: Add loads begin while it holds the mutex. Either its pin exists when Limit reads the
//   pins; or it comes after Limit, and so after begin has moved, and then it is not below `limit`.
//
// Thread safety: any thread may call all methods. Progress: holds a mutex briefly.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/log/hybrid_log.h"

namespace ebb::internal {

class Pins {
 public:
  static constexpr std::size_t kMax = 64;

  struct Pin {
    Address address;
    Clock::time_point since;
    auto operator<=>(const Pin&) const = default;
  };
  // Pins the log's begin, until Remove of the result. Returns nothing if there are too many pins.
  std::optional<Pin> Add(const HybridLog& log) {
    MutexLock lock(mu_);
    if (pinned_.size() == kMax) return std::nullopt;
    return *pinned_.insert({log.begin(), Clock::now()});
  }
  void Remove(Pin pin) {
    MutexLock lock(mu_);
    pinned_.erase(pinned_.find(pin));
  }
  // Returns the lower of `wanted` and the lowest pin.
  Address Limit(Address wanted) const {
    MutexLock lock(mu_);
    return pinned_.empty() ? wanted : std::min(wanted, pinned_.begin()->address);
  }

  struct Report {
    std::size_t count = 0;
    Address lowest;               // null: there is none
    std::uint64_t oldest_ms = 0;  // age of the oldest, which is one of the lowest: begin only grows
  };
  Report GetReport() const {
    MutexLock lock(mu_);
    if (pinned_.empty()) return {};
    return {pinned_.size(), pinned_.begin()->address, MillisecondsSince(pinned_.begin()->since)};
  }

 private:
  mutable Mutex mu_;
  std::multiset<Pin> pinned_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::internal
