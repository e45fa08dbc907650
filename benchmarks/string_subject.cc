#include "ebb/internal/epoch/epoch.h"
#include "ebb/store.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

using StringStore = Store<std::string, std::string>;

StringStore OpenStore(const StoreShape& shape) {
  const Options options{.log_memory_bytes = shape.log_memory_bytes,
                        .index_bucket_count = BucketCountFor(shape.key_count),
                        .durability = Durability::kManual,
                        .gc_interval_ms = 0,  // garbage has a report of its own
                        .promote_reads = shape.promotes};
  return Must(shape.directory.empty() ? StringStore::OpenInMemory(options)
                                      : StringStore::Open(shape.directory, options));
}

}  // namespace

struct StringSubject::State {
  StoreShape shape;
  StringStore store;
  std::vector<StringStore::Session> sessions;
};

StringSubject::StringSubject(const StoreShape& shape)
    : state_(new State{shape, OpenStore(shape), {}}) {
  for (int thread = 0; thread < shape.thread_count; ++thread) {
    state_->sessions.push_back(state_->store.NewSession());
  }
}

StringSubject::~StringSubject() = default;

// One thread, so that records lie in the order of their ids.
double StringSubject::Load(bool in_batches) {
  std::vector<StringKey> keys;
  keys.reserve(state_->shape.key_count);
  for (std::uint64_t id = 0; id < state_->shape.key_count; ++id) keys.push_back(StringKeyOf(id));
  return TimeOf([&] {
    const Tally tally =
        in_batches ? StringUpsertBatchLoop(state_->sessions[0], keys) : Upsert(0, keys);
    RequireAll(tally, keys.size(), "load of strings");
  });
}

Tally StringSubject::Read(StringRead way, int thread, std::span<const StringKey> keys) {
  StringStore::Session& session = state_->sessions[static_cast<std::size_t>(thread)];
  switch (way) {
    case StringRead::kStatusOr:
      return StringReadLoop<StringRead::kStatusOr>(session, keys);
    case StringRead::kReused:
      return StringReadLoop<StringRead::kReused>(session, keys);
    case StringRead::kVisitor:
      return StringReadLoop<StringRead::kVisitor>(session, keys);
  }
  return {};
}

Tally StringSubject::ReadBatched(int thread, std::span<const StringKey> keys,
                                 std::size_t batch_keys) {
  return StringReadBatchLoop(state_->sessions[static_cast<std::size_t>(thread)], keys, batch_keys);
}

Tally StringSubject::Upsert(int thread, std::span<const StringKey> keys) {
  return StringUpsertLoop(state_->sessions[static_cast<std::size_t>(thread)], keys);
}

void StringSubject::Commit() { Must(state_->store.Commit()); }
void StringSubject::Checkpoint() { Must(state_->store.Checkpoint()); }

const RecoveryReport& StringSubject::Recovery() const { return state_->store.recovery(); }

StoreStats StringSubject::Stats() const { return state_->store.Stats(); }
MetricsSnapshot StringSubject::Metrics() const { return state_->store.Metrics(); }

void GuardLoop(std::uint64_t count) {
  static internal::EpochManager epochs(0);
  internal::EpochSlot* const slot = epochs.AcquireSlot();
  for (std::uint64_t i = 0; i < count; ++i) {
    const internal::EpochGuard guard(epochs, *slot);
  }
  epochs.ReleaseSlot(slot);
}

}  // namespace ebb::bench
