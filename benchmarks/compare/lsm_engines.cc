// RocksDB and LevelDB: log-structured merge trees, with nearly the same calls. See engine.h.
//
// Their write-ahead log is on, as by default, and not synced. An rmw is a Get and a Put: they have
// no atomic one without transactions or merge operators.
#include <algorithm>
#include <string>

#include "engine.h"
#include "team.h"

#ifdef EBB_BENCH_HAVE_ROCKSDB
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>
#endif
#ifdef EBB_BENCH_HAVE_LEVELDB
#include <leveldb/cache.h>
#include <leveldb/db.h>
#include <leveldb/filter_policy.h>
#endif

namespace ebb::bench {
namespace {

// `Api`: Database, Slice, kName, Settings(), Open(shape).
template <typename Api, typename Value>
class LsmEngine final : public Engine {
  using Slice = typename Api::Slice;

 public:
  explicit LsmEngine(const EngineShape& shape) : api_(shape) {}
  std::string Describe() const override { return api_.Settings(); }
  void Load(std::span<const std::uint64_t> keys) override {
    Client client(*api_.database);
    for (const std::uint64_t key : keys) {
      client.Put(key, MakeValue(key, static_cast<const Value*>(nullptr)));
    }
  }
  RunResult Run(int, std::span<const Step> steps, std::size_t first, Clock::time_point until,
                Latencies* latencies) override {
    Client client(*api_.database);
    return RunSteps<Value>(client, steps, first, until, latencies);
  }

 private:
  struct Client {
    explicit Client(typename Api::Database& its_database) : database(its_database) {}
    typename Api::Database& database;
    std::string copy;
    static Slice Bytes(const void* bytes, std::size_t count) {
      return Slice(static_cast<const char*>(bytes), count);
    }
    bool Read(std::uint64_t key, Value& value) {
      if (!database.Get({}, Bytes(&key, 8), &copy).ok() || copy.size() != sizeof(value)) {
        return false;
      }
      std::memcpy(&value, copy.data(), sizeof(value));
      return true;
    }
    void Put(std::uint64_t key, const Value& value) {
      const auto status = database.Put({}, Bytes(&key, 8), Bytes(&value, sizeof(value)));
      if (!status.ok()) Abort(Api::kName, status.ToString());
    }
    void Rmw(std::uint64_t key) {
      Value value{};
      static_cast<void>(Read(key, value));
      Increment(value);
      Put(key, value);
    }
  };
  Api api_;
};

[[maybe_unused]] std::size_t CacheBytes(const EngineShape& shape) {
  const std::uint64_t all = shape.key_count * (shape.value_bytes + 64);
  return std::max<std::size_t>(shape.memory_bytes != 0 ? shape.memory_bytes : all,
                               std::size_t{8} << 20);
}

#ifdef EBB_BENCH_HAVE_ROCKSDB
struct RocksDbApi {
  using Database = rocksdb::DB;
  using Slice = rocksdb::Slice;
  static constexpr const char* kName = "RocksDB";

  explicit RocksDbApi(const EngineShape& shape) {
    rocksdb::Options options;
    options.create_if_missing = true;
    // What its basic tuning guide advises: a thread per processor, level compaction with a budget
    // of memtables, Bloom filters of ten bits and a block cache. Values do not compress.
    const std::size_t cache_bytes = CacheBytes(shape);
    options.IncreaseParallelism(ProcessorCount());
    options.OptimizeLevelStyleCompaction(cache_bytes);
    options.compression = rocksdb::kNoCompression;
    options.compression_per_level.clear();
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(cache_bytes);
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    // Where memory is short the page cache is no way around it.
    options.use_direct_reads = shape.memory_bytes != 0;
    options.use_direct_io_for_flush_and_compaction = shape.memory_bytes != 0;
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(options, shape.directory, &opened);
    if (!status.ok()) Abort(kName, status.ToString());
    database.reset(opened);
  }
  static std::string Settings() {
    return std::string("RocksDB ") + std::to_string(ROCKSDB_MAJOR) + "." +
           std::to_string(ROCKSDB_MINOR) + "." + std::to_string(ROCKSDB_PATCH) +
           ": IncreaseParallelism, OptimizeLevelStyleCompaction, Bloom filters of 10 bits, block "
           "cache and memtables of the data's size (of the memory, and direct I/O, where it is "
           "short), no compression, log not synced";
  }
  std::unique_ptr<rocksdb::DB> database;
};
#endif

#ifdef EBB_BENCH_HAVE_LEVELDB
struct LevelDbApi {
  using Database = leveldb::DB;
  using Slice = leveldb::Slice;
  static constexpr const char* kName = "LevelDB";

  explicit LevelDbApi(const EngineShape& shape)
      : cache(leveldb::NewLRUCache(CacheBytes(shape))), filter(leveldb::NewBloomFilterPolicy(10)) {
    leveldb::Options options;
    options.create_if_missing = true;
    options.compression = leveldb::kNoCompression;
    options.block_cache = cache.get();
    options.filter_policy = filter.get();
    options.write_buffer_size =
        std::clamp<std::size_t>(CacheBytes(shape) / 4, std::size_t{4} << 20, std::size_t{64} << 20);
    leveldb::DB* opened = nullptr;
    const leveldb::Status status = leveldb::DB::Open(options, shape.directory, &opened);
    if (!status.ok()) Abort(kName, status.ToString());
    database.reset(opened);
  }
  static std::string Settings() {
    return std::string("LevelDB ") + std::to_string(leveldb::kMajorVersion) + "." +
           std::to_string(leveldb::kMinorVersion) +
           ": Bloom filters of 10 bits, block cache of the data's size (of the memory, where it is "
           "short; the page cache comes on top), write buffer of a quarter of that and at most "
           "64 MiB, no compression, log not synced";
  }
  std::unique_ptr<leveldb::Cache> cache;
  std::unique_ptr<const leveldb::FilterPolicy> filter;
  std::unique_ptr<leveldb::DB> database;
};
#endif

#ifdef EBB_BENCH_HAVE_ROCKSDB
template <typename Value>
using RocksDbEngine = LsmEngine<RocksDbApi, Value>;
#endif
#ifdef EBB_BENCH_HAVE_LEVELDB
template <typename Value>
using LevelDbEngine = LsmEngine<LevelDbApi, Value>;
#endif

}  // namespace

std::unique_ptr<Engine> MakeRocksDb([[maybe_unused]] const EngineShape& shape) {
#ifdef EBB_BENCH_HAVE_ROCKSDB
  return MakeFor<RocksDbEngine>(shape);
#else
  return nullptr;
#endif
}
std::unique_ptr<Engine> MakeLevelDb([[maybe_unused]] const EngineShape& shape) {
#ifdef EBB_BENCH_HAVE_LEVELDB
  return MakeFor<LevelDbEngine>(shape);
#else
  return nullptr;
#endif
}

}  // namespace ebb::bench
