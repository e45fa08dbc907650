// LMDB: a memory-mapped B+ tree with one writer. See engine.h.
//
// Reads run in a transaction that is kept and renewed every 256 reads, so that they see what was
// written. Each write is a transaction of its own, not synced. Its memory is the page cache, which
// a program cannot limit: where memory is short, it has more than the others.
#include "engine.h"

#ifdef EBB_BENCH_HAVE_LMDB

#include <lmdb.h>

namespace ebb::bench {
namespace {

void Require(int error, const char* call) {
  if (error != MDB_SUCCESS) Abort("LMDB", std::string(call) + ": " + mdb_strerror(error));
}

template <typename Value>
class LmdbEngine final : public Engine {
 public:
  explicit LmdbEngine(const EngineShape& shape) {
    Require(mdb_env_create(&environment_), "env_create");
    Require(mdb_env_set_mapsize(environment_, (shape.key_count * (shape.value_bytes + 200) * 3) +
                                                  (std::size_t{256} << 20)),
            "env_set_mapsize");
    Require(mdb_env_open(environment_, shape.directory.c_str(),
                         MDB_NORDAHEAD | MDB_NOSYNC | MDB_NOMEMINIT | MDB_NOTLS, 0600),
            "env_open");
    MDB_txn* writer = nullptr;
    Require(mdb_txn_begin(environment_, nullptr, 0, &writer), "txn_begin");
    Require(mdb_dbi_open(writer, nullptr, MDB_INTEGERKEY, &database_), "dbi_open");
    Require(mdb_txn_commit(writer), "txn_commit");
  }
  ~LmdbEngine() override { mdb_env_close(environment_); }

  std::string Describe() const override {
    return std::string(MDB_VERSION_STRING) +
           ": MDB_NORDAHEAD, MDB_NOSYNC, integer keys; a read transaction renewed every 256 reads, "
           "a transaction for each write";
  }
  void Load(std::span<const std::uint64_t> keys) override {
    MDB_txn* writer = nullptr;
    Require(mdb_txn_begin(environment_, nullptr, 0, &writer), "txn_begin");
    for (const std::uint64_t key : keys) {
      Value value = MakeValue(key, static_cast<const Value*>(nullptr));
      PutIn(writer, key, value);
    }
    Require(mdb_txn_commit(writer), "txn_commit");
  }
  RunResult Run(int, std::span<const Step> steps, std::size_t first, Clock::time_point until,
                Latencies* latencies) override {
    Client client(*this);
    return RunSteps<Value>(client, steps, first, until, latencies);
  }

 private:
  void PutIn(MDB_txn* writer, std::uint64_t key, Value& value) const {
    MDB_val name{sizeof(key), &key};
    MDB_val content{sizeof(value), &value};
    Require(mdb_put(writer, database_, &name, &content, 0), "put");
  }
  bool GetFrom(MDB_txn* reader, std::uint64_t key, Value& value) const {
    MDB_val name{sizeof(key), &key};
    MDB_val content;
    if (mdb_get(reader, database_, &name, &content) != MDB_SUCCESS) return false;
    if (content.mv_size != sizeof(value)) return false;
    std::memcpy(&value, content.mv_data, sizeof(value));
    return true;
  }

  class Client {
   public:
    explicit Client(LmdbEngine& engine) : engine_(engine) {
      Require(mdb_txn_begin(engine_.environment_, nullptr, MDB_RDONLY, &reader_), "txn_begin");
    }
    ~Client() { mdb_txn_abort(reader_); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    bool Read(std::uint64_t key, Value& value) {
      if (++reads_ % 256 == 0) {
        mdb_txn_reset(reader_);
        Require(mdb_txn_renew(reader_), "txn_renew");
      }
      return engine_.GetFrom(reader_, key, value);
    }
    void Put(std::uint64_t key, Value value) {
      Write([&](MDB_txn* writer) { engine_.PutIn(writer, key, value); });
    }
    void Rmw(std::uint64_t key) {
      Write([&](MDB_txn* writer) {
        Value value{};
        static_cast<void>(engine_.GetFrom(writer, key, value));
        Increment(value);
        engine_.PutIn(writer, key, value);
      });
    }

   private:
    template <typename Body>
    void Write(Body body) {
      MDB_txn* writer = nullptr;
      Require(mdb_txn_begin(engine_.environment_, nullptr, 0, &writer), "txn_begin");
      body(writer);
      Require(mdb_txn_commit(writer), "txn_commit");
    }
    LmdbEngine& engine_;
    MDB_txn* reader_ = nullptr;
    std::uint64_t reads_ = 0;
  };

  MDB_env* environment_ = nullptr;
  MDB_dbi database_ = 0;
};

}  // namespace

std::unique_ptr<Engine> MakeLmdb(const EngineShape& shape) { return MakeFor<LmdbEngine>(shape); }

}  // namespace ebb::bench

#else

namespace ebb::bench {
std::unique_ptr<Engine> MakeLmdb(const EngineShape&) { return nullptr; }
}  // namespace ebb::bench

#endif
