// Maps in memory: 256 absl::flat_hash_maps with a lock each, and oneTBB's concurrent_hash_map. They
// keep nothing on a disk, so there is none of them where memory is short. See engine.h.
#include "engine.h"
#include "sharded_map.h"

#ifdef EBB_BENCH_HAVE_TBB
#include <oneapi/tbb/concurrent_hash_map.h>
#include <oneapi/tbb/version.h>
#endif

namespace ebb::bench {
namespace {

template <typename Value, typename Client>
class MapEngine : public Engine {
 public:
  explicit MapEngine(const EngineShape&) {}
  void Load(std::span<const std::uint64_t> keys) override {
    for (const std::uint64_t key : keys) {
      client_.Put(key, MakeValue(key, static_cast<const Value*>(nullptr)));
    }
  }
  RunResult Run(int, std::span<const Step> steps, std::size_t first, Clock::time_point until,
                Latencies* latencies) override {
    return RunSteps<Value>(client_, steps, first, until, latencies);
  }

 private:
  Client client_;  // all threads'
};

template <typename Value>
struct ShardedClient {
  ShardedMap<Value> map;
  bool Read(std::uint64_t key, Value& value) { return map.Read(key, value).ok(); }
  void Put(std::uint64_t key, const Value& value) { static_cast<void>(map.Upsert(key, value)); }
  void Rmw(std::uint64_t key) {
    static_cast<void>(map.Rmw(key, [](Value& value) { Increment(value); }));
  }
};
template <typename Value>
class ShardedEngine final : public MapEngine<Value, ShardedClient<Value>> {
 public:
  using MapEngine<Value, ShardedClient<Value>>::MapEngine;
  std::string Describe() const override {
    return "256 absl::flat_hash_maps, each with a spin lock of a byte";
  }
};

#ifdef EBB_BENCH_HAVE_TBB
template <typename Value>
struct TbbClient {
  using Map = oneapi::tbb::concurrent_hash_map<std::uint64_t, Value>;
  Map map;
  bool Read(std::uint64_t key, Value& value) {
    typename Map::const_accessor found;
    if (!map.find(found, key)) return false;
    value = found->second;
    return true;
  }
  void Put(std::uint64_t key, const Value& value) {
    typename Map::accessor found;
    map.insert(found, key);
    found->second = value;
  }
  void Rmw(std::uint64_t key) {
    typename Map::accessor found;
    map.insert(found, key);
    Increment(found->second);
  }
};
template <typename Value>
class TbbEngine final : public MapEngine<Value, TbbClient<Value>> {
 public:
  using MapEngine<Value, TbbClient<Value>>::MapEngine;
  std::string Describe() const override {
    return std::string("oneTBB ") + TBB_VERSION_STRING + " concurrent_hash_map";
  }
};
#endif

}  // namespace

std::unique_ptr<Engine> MakeShardedMaps(const EngineShape& shape) {
  return shape.memory_bytes == 0 ? MakeFor<ShardedEngine>(shape) : nullptr;
}
std::unique_ptr<Engine> MakeTbb([[maybe_unused]] const EngineShape& shape) {
#ifdef EBB_BENCH_HAVE_TBB
  if (shape.memory_bytes == 0) return MakeFor<TbbEngine>(shape);
#endif
  return nullptr;
}

}  // namespace ebb::bench
