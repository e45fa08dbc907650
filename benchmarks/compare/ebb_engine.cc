// ebb, called one by one and in batches of 64. See engine.h.
#include <algorithm>
#include <optional>

#include "ebb/store.h"
#include "engine.h"
#include "settings.h"

namespace ebb::bench {
namespace {

template <typename Value>
class EbbEngine : public Engine {
 public:
  explicit EbbEngine(const EngineShape& shape, bool promotes = false)
      : store_(Open(shape, promotes)) {
    for (int thread = 0; thread < shape.thread_count; ++thread) {
      clients_.push_back(Client{store_.NewSession()});
    }
  }
  std::string Describe() const override {
    return "no commits but the one of closing, no garbage collection, otherwise the defaults";
  }
  void Load(std::span<const std::uint64_t> keys) override {
    for (const std::uint64_t key : keys) clients_[0].Put(key, MakeValue(key, null_));
  }
  RunResult Run(int thread, std::span<const Step> steps, std::size_t first, Clock::time_point until,
                Latencies* latencies) override {
    return RunSteps<Value>(client(thread), steps, first, until, latencies);
  }

 protected:
  using Db = Store<std::uint64_t, Value>;
  struct Client {
    typename Db::Session session;
    bool Read(std::uint64_t key, Value& value) { return session.Read(key, value).ok(); }
    void Put(std::uint64_t key, const Value& value) { Must(session.Upsert(key, value)); }
    void Rmw(std::uint64_t key) {
      Must(session.Rmw(key, [](Value& value) { Increment(value); }));
    }
  };
  Client& client(int thread) { return clients_[static_cast<std::size_t>(thread)]; }
  static constexpr const Value* null_ = nullptr;

 private:
  static Db Open(const EngineShape& shape, bool promotes) {
    // Everything stays mutable, what is appended meanwhile too, or an eighth has room.
    const std::uint64_t roomy = shape.key_count * (shape.value_bytes + 32) * 2;
    Options options;
    options.log_memory_bytes = std::max<std::uint64_t>(
        shape.memory_bytes != 0 ? shape.memory_bytes : roomy, std::uint64_t{8} << 20);
    options.index_bucket_count = BucketCountFor(shape.key_count);
    options.durability = Durability::kManual;
    options.gc_interval_ms = 0;
    options.promote_reads = promotes;
    return Must(shape.directory.empty() ? Db::OpenInMemory(options)
                                        : Db::Open(shape.directory, options));
  }

  Db store_;
  std::vector<Client> clients_;
};

// Of each 64 steps the reads, the updates and the rmws are a batch each, in this order.
template <typename Value>
class EbbBatchedEngine : public EbbEngine<Value> {
  static constexpr std::size_t kSteps = 64;

 public:
  using EbbEngine<Value>::EbbEngine;
  std::string Describe() const override {
    return "the same, in batches of 64 steps: first their reads, then their updates, then their "
           "rmws";
  }
  RunResult Run(int thread, std::span<const Step> steps, std::size_t first,
                Engine::Clock::time_point until, Latencies*) override {
    auto& session = this->client(thread).session;
    RunResult result;
    std::array<std::vector<std::uint64_t>, 3> keys;
    std::vector<Value> values(kSteps);
    std::vector<absl::Status> results(kSteps);
    for (std::size_t at = first % steps.size();; at = (at + kSteps) % steps.size()) {
      for (auto& of_kind : keys) of_kind.clear();
      for (std::size_t i = at; i < std::min(at + kSteps, steps.size()); ++i) {
        keys[static_cast<std::size_t>(steps[i].kind)].push_back(steps[i].key);
        ++result.steps;
      }
      const auto& [reads, updates, rmws] = keys;
      session.ReadBatch(reads, std::span(values).first(reads.size()),
                        std::span(results).first(reads.size()));
      for (std::size_t i = 0; i < reads.size(); ++i) {
        if (!results[i].ok() || !IsValue(reads[i], values[i])) ++result.wrong;
      }
      for (std::size_t i = 0; i < updates.size(); ++i) {
        values[i] = MakeValue(updates[i], this->null_);
      }
      Require(session.UpsertBatch(updates, std::span(values).first(updates.size()),
                                  std::span(results).first(updates.size())),
              updates.size());
      Require(session.RmwBatch(
                  rmws, [](std::size_t, Value& value) { Increment(value); },
                  std::span(results).first(rmws.size())),
              rmws.size());
      if (Engine::Clock::now() >= until) return result;
    }
  }

 private:
  static void Require(std::size_t done, std::size_t wanted) {
    if (done != wanted) Abort("ebb", "an update of a batch was refused");
  }
};

// What its reads fetch from the device comes to be in memory.
template <typename Value>
class EbbPromotingEngine final : public EbbBatchedEngine<Value> {
 public:
  explicit EbbPromotingEngine(const EngineShape& shape)
      : EbbBatchedEngine<Value>(shape, /*promotes=*/true) {}
  std::string Describe() const override { return "in batches, with promote_reads"; }
};

}  // namespace

std::unique_ptr<Engine> MakeEbb(const EngineShape& shape) { return MakeFor<EbbEngine>(shape); }
std::unique_ptr<Engine> MakeEbbBatched(const EngineShape& shape) {
  return MakeFor<EbbBatchedEngine>(shape);
}
std::unique_ptr<Engine> MakeEbbPromoting(const EngineShape& shape) {
  return shape.memory_bytes == 0 ? nullptr : MakeFor<EbbPromotingEngine>(shape);
}

}  // namespace ebb::bench
