// Subjects: the stores that are measured, behind plain calls.
//
// Benchmarks and report share them, so that both run the same compiled loops (loops.h), and only
// two files include ebb/store.h. A call handles a span of keys in the session of one thread; its
// own cost is spread over the span.
//
// Thread safety: calls with different thread numbers may run at once, beside them Commit and
// Checkpoint in one more thread; everything else one at a time. Any failed call of the store aborts
// with its message.
//
// Nothing is committed but by Commit, Checkpoint and the destructor.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ceiling.h"
#include "ebb/metrics.h"
#include "ebb/stats.h"
#include "keys.h"
#include "latency.h"
#include "loops.h"
#include "settings.h"

namespace ebb::bench {

// One call per key, each a `verb`.
template <typename Session>
Tally RunLoop(Session& session, Verb verb, std::span<const std::uint64_t> keys) {
  switch (verb) {
    case Verb::kRead:
      return ReadLoop(session, keys);
    case Verb::kUpsert:
      return UpsertLoop(session, keys);
    case Verb::kRmw:
      return RmwLoop(session, keys);
  }
  return {};
}

struct StoreShape {
  std::uint64_t key_count = 0;
  std::uint64_t log_memory_bytes = 0;
  int thread_count = 1;
  std::string directory{};         // empty: a store without files
  std::uint64_t bucket_count = 0;  // to begin with; 0: for its keys
  bool promotes = false;           // what reads fetch from the device
};

// Log memory in which every record of a loaded store stays mutable, appends included.
std::uint64_t RoomyLogBytes(std::uint64_t key_count, std::uint64_t record_bytes);

// Records as they lie in the log: header, key and value of 8 bytes each; header, lengths, lock,
// key of 16 and value of 100 bytes padded to 104.
inline constexpr std::uint64_t kIntegerRecordBytes = 24;
inline constexpr std::uint64_t kStringRecordBytes = 144;

// Store<std::uint64_t, std::uint64_t>.
class IntegerSubject {
 public:
  explicit IntegerSubject(const StoreShape& shape);
  ~IntegerSubject();
  // Upserts all ids, each thread a contiguous share, and returns the seconds it took.
  double Load(bool in_batches = false);
  Tally Run(Verb verb, int thread, std::span<const std::uint64_t> keys);
  // Does the same through functions that are not inlined.
  Tally RunOutOfLine(Verb verb, int thread, std::span<const std::uint64_t> keys);
  Tally RunBatched(Verb verb, int thread, std::span<const std::uint64_t> keys);
  Tally ReadStatusOr(int thread, std::span<const std::uint64_t> keys);
  // MixLoop; with `latencies` each call is timed.
  Tally Mix(int thread, std::span<const std::uint64_t> keys, std::uint64_t choices,
            Latencies* latencies);
  void Commit();
  void Checkpoint();
  StoreStats Stats() const;
  MetricsSnapshot Metrics() const;
  const RecoveryReport& Recovery() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Store<std::string, std::string> with 16-byte keys and 100-byte values.
class StringSubject {
 public:
  explicit StringSubject(const StoreShape& shape);
  ~StringSubject();
  double Load(bool in_batches = false);
  Tally Read(StringRead way, int thread, std::span<const StringKey> keys);
  Tally ReadBatched(int thread, std::span<const StringKey> keys, std::size_t batch_keys);
  Tally Upsert(int thread, std::span<const StringKey> keys);
  void Commit();
  void Checkpoint();
  StoreStats Stats() const;
  MetricsSnapshot Metrics() const;
  const RecoveryReport& Recovery() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Enters and leaves an epoch guard `count` times.
void GuardLoop(std::uint64_t count);

}  // namespace ebb::bench
