#include "ebb/internal/open/index_filler.h"

#include <algorithm>
#include <array>
#include <new>
#include <optional>
#include <vector>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/index/hash_index.h"

namespace ebb::internal {
namespace {

constexpr int kPartBits = 4;
constexpr std::size_t kParts = std::size_t{1} << kPartBits;
constexpr std::size_t kLookAhead = 24;  // records whose bucket chains are prefetched ahead

}  // namespace

struct IndexFiller::Shared {
  // The result of a part, or of all so far.
  struct Outcome {
    bool has_memory = true;
    Address bad_link;  // the first, or null

    void Add(const Outcome& other) {
      // The lowest address, so that the result does not depend on the order of the threads.
      has_memory = has_memory && other.has_memory;
      if (bad_link.is_null() || (!other.bad_link.is_null() && other.bad_link < bad_link)) {
        bad_link = other.bad_link;
      }
    }
  };

  explicit Shared(Address from) : linked_from(from) {}

  const Address linked_from;
  // Owned by the caller. During a round, each part belongs to the thread that took it.
  std::array<std::vector<NewEntry>, kParts> parts;

  Mutex mu;
  CondVar ended;
  std::size_t not_taken ABSL_GUARDED_BY(mu) = 0;  // parts, counted from the first
  std::size_t running ABSL_GUARDED_BY(mu) = 0;
  Outcome outcome ABSL_GUARDED_BY(mu);

  // Works until no part is left. Uses the core only while the caller waits.
  void Work(Core& core) {
    while (const std::vector<NewEntry>* const part = Take()) End(Put(core.index, *part));
  }

  const std::vector<NewEntry>* Take() {
    MutexLock lock(mu);
    if (not_taken == 0) return nullptr;
    ++running;
    return &parts[--not_taken];
  }

  void End(const Outcome& of_part) {
    MutexLock lock(mu);
    outcome.Add(of_part);
    if (--running == 0) ended.NotifyAll();
  }

  Outcome Put(HashIndex& index, const std::vector<NewEntry>& items) const {
    Outcome of_part;
    try {
      for (std::size_t i = 0; i < items.size(); ++i) {
        if (i + kLookAhead < items.size()) index.Prefetch(items[i + kLookAhead].hash);
        const NewEntry& item = items[i];
        // Alone in its bucket chain: each part has bucket chains of its own, and one thread.
        const std::optional<Address> newest = index.PutExclusive(item.hash, item.address);
        of_part.has_memory = newest.has_value();
        if (!of_part.has_memory) break;
        // The link must be the chain's end so far (log_replay.h). Links below the start of the scan
        // are verified when they are read.
        const bool follows = item.prev == *newest || item.prev < linked_from;
        if (!follows && of_part.bad_link.is_null()) of_part.bad_link = item.address;
      }
    } catch (const std::bad_alloc&) {
      of_part.has_memory = false;
    }
    return of_part;
  }
};

IndexFiller::IndexFiller(Core& core, Address linked_from)
    : core_(core), shared_(std::make_unique<Shared>(linked_from)) {
  for (unsigned i = 0; i < core.config.pool_threads; ++i) {
    helpers_.emplace_back(core.pool, [this] { shared_->Work(core_); });
  }
  BeginRound();
}

IndexFiller::~IndexFiller() {
  MutexLock lock(shared_->mu);
  shared_->not_taken = 0;
  while (shared_->running != 0) shared_->ended.Wait(shared_->mu);
}

// A round has at most as many records as there are buckets, so that a small index may grow early.
void IndexFiller::BeginRound() {
  if (core_.config.index_auto_grow) core_.index.GrowExclusiveIfCrowded();
  // A part is a range of buckets, so no two threads put into the same bucket chain.
  part_shift_ = std::max(core_.index.exponent() - kPartBits, 0);
  max_waiting_ = std::clamp<std::size_t>(core_.index.bucket_count(), 1024, 65536);
}

absl::Status IndexFiller::Add(const NewEntry& item) {
  const std::uint64_t row = item.hash & (core_.index.bucket_count() - 1);
  shared_->parts[row >> part_shift_].push_back(item);
  return ++waiting_ < max_waiting_ ? absl::OkStatus() : Flush();
}

absl::Status IndexFiller::Flush() {
  {
    MutexLock lock(shared_->mu);
    shared_->not_taken = kParts;
  }
  // A round of few records would be over before another thread could help.
  if (waiting_ >= 1024) {
    for (PoolJob& helper : helpers_) helper.Post();
  }
  shared_->Work(core_);
  // The index may grow only between rounds, when no thread is putting.
  MutexLock lock(shared_->mu);
  while (shared_->running != 0) shared_->ended.Wait(shared_->mu);
  if (!shared_->outcome.has_memory) {
    return NoMemoryTo("fill the hash index");
  }
  for (std::vector<NewEntry>& part : shared_->parts) part.clear();
  waiting_ = 0;
  BeginRound();
  return absl::OkStatus();
}

Address IndexFiller::bad_link() const {
  MutexLock lock(shared_->mu);
  return shared_->outcome.bad_link;
}

}  // namespace ebb::internal
