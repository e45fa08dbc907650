#include "bench_util.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

// One loaded store for all benchmarks of this file: they change values, never the set of keys.
IntegerSubject& LoadedStore() {
  static IntegerSubject* const subject = [] {
    const std::uint64_t key_count = BenchSettings().key_count;
    auto* const opened =
        new IntegerSubject({.key_count = key_count,
                            .log_memory_bytes = RoomyLogBytes(key_count, kIntegerRecordBytes),
                            .thread_count = BenchSettings().threads_max});
    opened->Load();
    return opened;
  }();
  return *subject;
}

// Guards: a single operation on 8-byte keys and values in memory runs at a stated share of the
// ceiling, and two sessions do not slow each other down.
void BM_Session_Verb(benchmark::State& state, Verb verb, Distribution distribution) {
  IntegerSubject& store = LoadedStore();
  const std::span<const std::uint64_t> stream =
      KeyStreams(distribution)[static_cast<std::size_t>(state.thread_index())];
  const PinnedScope pinned(state.thread_index());
  ChunkCursor<std::uint64_t> cursor(stream);
  while (state.KeepRunningBatch(ChunkCursor<std::uint64_t>::kChunk)) {
    const auto keys = cursor.Next();
    RequireAll(store.Run(verb, state.thread_index(), keys), keys.size(), NameOf(verb));
  }
  state.SetItemsProcessed(state.iterations());
}

// Guards: the result type that reads best, StatusOr, costs a few percent at most.
void BM_Session_ReadStatusOr(benchmark::State& state, Distribution distribution) {
  IntegerSubject& store = LoadedStore();
  const std::span<const std::uint64_t> stream =
      KeyStreams(distribution)[static_cast<std::size_t>(state.thread_index())];
  const PinnedScope pinned(state.thread_index());
  ChunkCursor<std::uint64_t> cursor(stream);
  while (state.KeepRunningBatch(ChunkCursor<std::uint64_t>::kChunk)) {
    const auto keys = cursor.Next();
    RequireAll(store.ReadStatusOr(state.thread_index(), keys), keys.size(), "read");
  }
  state.SetItemsProcessed(state.iterations());
}

// Guards: loading an empty store, page faults included, and what a record takes at rest.
void BM_Session_Load(benchmark::State& state) {
  const std::uint64_t key_count = BenchSettings().key_count;
  const int thread_count = static_cast<int>(state.range(0));
  for (auto _ : state) {
    IntegerSubject store({.key_count = key_count,
                          .log_memory_bytes = RoomyLogBytes(key_count, kIntegerRecordBytes),
                          .thread_count = thread_count});
    state.SetIterationTime(store.Load());
    const StoreStats stats = store.Stats();
    state.counters["bytes_per_record"] =
        static_cast<double>(stats.tail_address - stats.begin_address + stats.index_memory_bytes) /
        static_cast<double>(key_count);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(key_count));
}

}  // namespace

void RegisterSessionBenchmarks() {
  const std::string keys = "/keys:" + std::to_string(BenchSettings().key_count);
  for (const Distribution distribution : kDistributions) {
    const std::string suffix = keys + "/dist:" + NameOf(distribution);
    for (const Verb verb : kVerbs) {
      benchmark::RegisterBenchmark((std::string("BM_Session_") + TitleOf(verb) + suffix).c_str(),
                                   BM_Session_Verb, verb, distribution)
          ->ThreadRange(1, BenchSettings().threads_max)
          ->UseRealTime();
    }
    benchmark::RegisterBenchmark(("BM_Session_ReadStatusOr" + suffix).c_str(),
                                 BM_Session_ReadStatusOr, distribution)
        ->ThreadRange(1, BenchSettings().threads_max)
        ->UseRealTime();
  }
  benchmark::RegisterBenchmark(("BM_Session_Load" + keys).c_str(), BM_Session_Load)
      ->ArgName("load_threads")
      ->DenseRange(1, BenchSettings().threads_max)
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace ebb::bench
