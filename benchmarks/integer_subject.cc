#include <array>
#include <chrono>

#include "ebb/store.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

using IntegerStore = Store<std::uint64_t, std::uint64_t>;

IntegerStore OpenStore(const StoreShape& shape) {
  const Options options{.log_memory_bytes = shape.log_memory_bytes,
                        .index_bucket_count = shape.bucket_count != 0
                                                  ? shape.bucket_count
                                                  : BucketCountFor(shape.key_count),
                        .durability = Durability::kManual,
                        .gc_interval_ms = 0};  // garbage has a report of its own
  return Must(shape.directory.empty() ? IntegerStore::OpenInMemory(options)
                                      : IntegerStore::Open(shape.directory, options));
}

}  // namespace

struct IntegerSubject::State {
  StoreShape shape;
  IntegerStore store;
  std::vector<IntegerStore::Session> sessions;
};

IntegerSubject::IntegerSubject(const StoreShape& shape)
    : state_(new State{shape, OpenStore(shape), {}}) {
  for (int thread = 0; thread < shape.thread_count; ++thread) {
    state_->sessions.push_back(state_->store.NewSession());
  }
}

IntegerSubject::~IntegerSubject() = default;

double IntegerSubject::Load(bool in_batches) {
  const auto thread_count = static_cast<std::uint64_t>(state_->shape.thread_count);
  const std::uint64_t key_count = state_->shape.key_count;
  std::vector<std::uint64_t> keys(key_count);
  for (std::uint64_t id = 0; id < key_count; ++id) keys[id] = KeyOf(id);
  return RunTeam(state_->shape.thread_count, [&](int thread) {
    const std::uint64_t first = key_count * static_cast<std::uint64_t>(thread) / thread_count;
    const std::uint64_t end = key_count * static_cast<std::uint64_t>(thread + 1) / thread_count;
    const auto share = std::span<const std::uint64_t>(keys).subspan(first, end - first);
    RequireAll(
        in_batches ? RunBatched(Verb::kUpsert, thread, share) : Run(Verb::kUpsert, thread, share),
        share.size(), "load");
  });
}

Tally IntegerSubject::Run(Verb verb, int thread, std::span<const std::uint64_t> keys) {
  return RunLoop(state_->sessions[static_cast<std::size_t>(thread)], verb, keys);
}

Tally IntegerSubject::RunOutOfLine(Verb verb, int thread, std::span<const std::uint64_t> keys) {
  OutOfLine<IntegerStore::Session> calls{state_->sessions[static_cast<std::size_t>(thread)]};
  return RunLoop(calls, verb, keys);
}

Tally IntegerSubject::RunBatched(Verb verb, int thread, std::span<const std::uint64_t> keys) {
  IntegerStore::Session& session = state_->sessions[static_cast<std::size_t>(thread)];
  std::array<absl::Status, kBatchKeys> results;
  switch (verb) {
    case Verb::kRead:
      return ReadBatchLoop(session, keys, results);
    case Verb::kUpsert:
      return UpsertBatchLoop(session, keys, results);
    case Verb::kRmw:
      return RmwBatchLoop(session, keys, results);
  }
  return {};
}

Tally IntegerSubject::ReadStatusOr(int thread, std::span<const std::uint64_t> keys) {
  return ReadStatusOrLoop(state_->sessions[static_cast<std::size_t>(thread)], keys);
}

Tally IntegerSubject::Mix(int thread, std::span<const std::uint64_t> keys, std::uint64_t choices,
                          Latencies* latencies) {
  using Clock = std::chrono::steady_clock;
  IntegerStore::Session& session = state_->sessions[static_cast<std::size_t>(thread)];
  if (latencies == nullptr) return MixLoop(session, keys, choices, [] {});
  Clock::time_point last = Clock::now();
  return MixLoop(session, keys, choices, [latencies, &last] {
    const Clock::time_point now = Clock::now();
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - last);
    latencies->Add(static_cast<std::uint64_t>(passed.count()));
    last = now;
  });
}

void IntegerSubject::Commit() { Must(state_->store.Commit()); }
void IntegerSubject::Checkpoint() { Must(state_->store.Checkpoint()); }

const RecoveryReport& IntegerSubject::Recovery() const { return state_->store.recovery(); }

StoreStats IntegerSubject::Stats() const { return state_->store.Stats(); }
MetricsSnapshot IntegerSubject::Metrics() const { return state_->store.Metrics(); }

std::uint64_t RoomyLogBytes(std::uint64_t key_count, std::uint64_t record_bytes) {
  return key_count * record_bytes * 2 + (std::uint64_t{64} << 20);
}

}  // namespace ebb::bench
