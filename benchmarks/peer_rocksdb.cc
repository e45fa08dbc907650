// RocksDB as a peer for writes. See peers.h.
#include "peers.h"

#ifdef EBB_BENCH_HAVE_ROCKSDB

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/version.h>

#include "team.h"

namespace ebb::bench {
namespace {

void Require(const rocksdb::Status& status, const char* call) {
  if (status.ok()) return;
  std::fprintf(stderr, "rocksdb: %s: %s\n", call, status.ToString().c_str());
  std::abort();
}

rocksdb::Slice SliceFrom(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

class RocksDbPeer final : public StringPeer {
 public:
  RocksDbPeer(const std::string& directory, std::uint64_t key_count) {
    rocksdb::Options options;
    options.create_if_missing = true;
    // What RocksDB's basic tuning guide advises: a thread per processor, level compaction with a
    // memtable budget, here one that could hold all keys. Values do not compress.
    options.IncreaseParallelism(ProcessorCount());
    options.OptimizeLevelStyleCompaction(kMemtableBytes);
    options.compression = rocksdb::kNoCompression;
    options.compression_per_level.clear();
    rocksdb::DB* opened = nullptr;
    Require(rocksdb::DB::Open(options, directory, &opened), "open");
    database_.reset(opened);
    for (std::uint64_t id = 0; id < key_count; ++id) {
      const StringKey key = StringKeyOf(id);
      const StringValue value = StringValueOf(key);
      Require(database_->Put(write_options_, SliceFrom(key.view()), SliceFrom(value.view())),
              "load");
    }
  }

  std::string Describe() const override {
    return std::string("RocksDB ") + std::to_string(ROCKSDB_MAJOR) + "." +
           std::to_string(ROCKSDB_MINOR) + "." + std::to_string(ROCKSDB_PATCH) +
           ": IncreaseParallelism, OptimizeLevelStyleCompaction(512 MiB), no compression; "
           "write-ahead log on as by default, sync off";
  }

  Tally Read(std::span<const StringKey> keys) override {
    Tally tally;
    std::string copy;
    for (const StringKey& key : keys) {
      if (!database_->Get({}, SliceFrom(key.view()), &copy).ok()) continue;
      ++tally.ok_count;
      if (!IsStringValueOf(key, copy)) ++tally.wrong_count;
    }
    return tally;
  }

  Tally Upsert(std::span<const StringKey> keys) override {
    Tally tally;
    for (const StringKey& key : keys) {
      const StringValue value = StringValueOf(key);
      const auto status =
          database_->Put(write_options_, SliceFrom(key.view()), SliceFrom(value.view()));
      if (status.ok()) ++tally.ok_count;
    }
    return tally;
  }

 private:
  static constexpr std::uint64_t kMemtableBytes = std::uint64_t{512} << 20;

  const rocksdb::WriteOptions write_options_;
  std::unique_ptr<rocksdb::DB> database_;
};

}  // namespace

std::unique_ptr<StringPeer> MakeRocksDbPeer(const std::string& directory, std::uint64_t key_count) {
  return std::make_unique<RocksDbPeer>(directory, key_count);
}

}  // namespace ebb::bench

#else

namespace ebb::bench {

std::unique_ptr<StringPeer> MakeRocksDbPeer(const std::string&, std::uint64_t) { return nullptr; }

}  // namespace ebb::bench

#endif
