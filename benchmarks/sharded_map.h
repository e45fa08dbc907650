// ShardedMap: 256 absl::flat_hash_maps with a lock each, the map that many programs already have.
//
// A peer for 8-byte keys: in memory only, no order, no durability. Its lock is a byte
// that is spun on, the cheapest there is while shards are rarely shared.
//
// Thread safety: all methods, any thread.
#pragma once

#include <sched.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "keys.h"

namespace ebb::bench {

// Its methods have the names and results of a session's, so that the same loops run on it.
template <typename Value>
class ShardedMap {
 public:
  absl::Status Read(std::uint64_t key, Value& value) {
    Shard& shard = ShardOf(key);
    const Lock lock(shard);
    const auto found = shard.map.find(key);
    if (found == shard.map.end()) return absl::Status(absl::StatusCode::kNotFound, {});
    value = found->second;
    return absl::OkStatus();
  }

  absl::Status Upsert(std::uint64_t key, const Value& value) {
    Shard& shard = ShardOf(key);
    const Lock lock(shard);
    shard.map[key] = value;
    return absl::OkStatus();
  }

  template <typename F>
  absl::Status Rmw(std::uint64_t key, F&& fn) {
    Shard& shard = ShardOf(key);
    const Lock lock(shard);
    fn(shard.map[key]);
    return absl::OkStatus();
  }

 private:
  struct alignas(64) Shard {
    std::atomic_flag locked = ATOMIC_FLAG_INIT;
    absl::flat_hash_map<std::uint64_t, Value> map;
  };
  class Lock {
   public:
    explicit Lock(Shard& shard) : shard_(shard) {
      while (shard_.locked.test_and_set(std::memory_order_acquire)) sched_yield();  // [shard]
    }
    ~Lock() { shard_.locked.clear(std::memory_order_release); }  // [shard]
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Shard& shard_;
  };

  // Keys are mixed (keys.h), so that their high bits choose evenly.
  Shard& ShardOf(std::uint64_t key) { return shards_[key >> 56]; }

  std::array<Shard, 256> shards_;
};

}  // namespace ebb::bench
