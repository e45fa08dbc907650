// LMDB as a peer for reads. See peers.h.
#include "peers.h"

#ifdef EBB_BENCH_HAVE_LMDB

#include <lmdb.h>

#include <algorithm>
#include <vector>

namespace ebb::bench {
namespace {

void Require(int error, const char* call) {
  if (error == MDB_SUCCESS) return;
  std::fprintf(stderr, "lmdb: %s: %s\n", call, mdb_strerror(error));
  std::abort();
}

MDB_val ValueFrom(std::string_view bytes) {
  return {bytes.size(), const_cast<char*>(bytes.data())};
}

class LmdbPeer final : public StringPeer {
 public:
  LmdbPeer(const std::string& directory, std::uint64_t key_count) {
    Require(mdb_env_create(&environment_), "env_create");
    Require(mdb_env_set_mapsize(environment_, (key_count * 300) + (std::size_t{64} << 20)),
            "env_set_mapsize");
    // NORDAHEAD is advised for random reads of data larger than memory and harmless here; the
    // other two only make the load fast.
    Require(mdb_env_open(environment_, directory.c_str(),
                         MDB_NORDAHEAD | MDB_NOSYNC | MDB_NOMEMINIT, 0600),
            "env_open");
    Load(key_count);
    Require(mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &reader_), "txn_begin");
  }

  ~LmdbPeer() override {
    mdb_txn_abort(reader_);
    mdb_env_close(environment_);
  }

  std::string Describe() const override {
    return std::string(MDB_VERSION_STRING) +
           " MDB_NORDAHEAD, loaded in key order with MDB_APPEND (full pages), one read-only "
           "transaction kept open, values copied into a reused string";
  }

  Tally Read(std::span<const StringKey> keys) override {
    Tally tally;
    std::string copy;
    for (const StringKey& key : keys) {
      MDB_val name = ValueFrom(key.view());
      MDB_val value;
      if (mdb_get(reader_, database_, &name, &value) != MDB_SUCCESS) continue;
      copy.assign(static_cast<const char*>(value.mv_data), value.mv_size);
      ++tally.ok_count;
      if (!IsStringValueOf(key, copy)) ++tally.wrong_count;
    }
    return tally;
  }

  Tally Upsert(std::span<const StringKey>) override { return {}; }  // not compared

 private:
  void Load(std::uint64_t key_count) {
    std::vector<StringKey> keys;
    for (std::uint64_t id = 0; id < key_count; ++id) keys.push_back(StringKeyOf(id));
    std::sort(keys.begin(), keys.end(),
              [](const StringKey& a, const StringKey& b) { return a.view() < b.view(); });
    MDB_txn* writer = nullptr;
    Require(mdb_txn_begin(environment_, nullptr, 0, &writer), "txn_begin");
    Require(mdb_dbi_open(writer, nullptr, 0, &database_), "dbi_open");
    for (const StringKey& key : keys) {
      const StringValue content = StringValueOf(key);
      MDB_val name = ValueFrom(key.view());
      MDB_val value = ValueFrom(content.view());
      Require(mdb_put(writer, database_, &name, &value, MDB_APPEND), "put");
    }
    Require(mdb_txn_commit(writer), "txn_commit");
  }

  MDB_env* environment_ = nullptr;
  MDB_txn* reader_ = nullptr;
  MDB_dbi database_ = 0;
};

}  // namespace

std::unique_ptr<StringPeer> MakeLmdbPeer(const std::string& directory, std::uint64_t key_count) {
  return std::make_unique<LmdbPeer>(directory, key_count);
}

}  // namespace ebb::bench

#else

namespace ebb::bench {

std::unique_ptr<StringPeer> MakeLmdbPeer(const std::string&, std::uint64_t) { return nullptr; }

}  // namespace ebb::bench

#endif
