// Peers: other engines on the same string workload, in the same run.
//
// Each is there only when its package was found at configure time; Make... returns null without
// it. Settings are those the engine's own documentation advises for the workload, and Describe()
// prints them. Keys of 16 bytes, values of 100; values are copied out and checked.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "keys.h"
#include "loops.h"

namespace ebb::bench {

class StringPeer {
 public:
  virtual ~StringPeer() = default;
  virtual std::string Describe() const = 0;
  virtual Tally Read(std::span<const StringKey> keys) = 0;
  virtual Tally Upsert(std::span<const StringKey> keys) = 0;
};

// LMDB, loaded in key order: reads from one transaction that stays open.
std::unique_ptr<StringPeer> MakeLmdbPeer(const std::string& directory, std::uint64_t key_count);
// RocksDB, loaded in the order of ids: writes with the write-ahead log on and not synced.
std::unique_ptr<StringPeer> MakeRocksDbPeer(const std::string& directory, std::uint64_t key_count);

}  // namespace ebb::bench
