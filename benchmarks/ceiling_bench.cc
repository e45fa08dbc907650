#include "bench_util.h"
#include "ceiling.h"
#include "team.h"

namespace ebb::bench {
namespace {

const Ceiling& SharedCeiling() {
  static const Ceiling* const ceiling =
      new Ceiling({.bucket_count = BucketCountFor(BenchSettings().key_count),
                   .record_count = BenchSettings().key_count});
  return *ceiling;
}

// Guards nothing itself: the best of these, for the same verb, distribution and threads, is what
// BM_Session_* is a share of.
void BM_Ceiling_Verb(benchmark::State& state, Verb verb, const Ceiling::Way& way,
                     Distribution distribution) {
  const Ceiling& ceiling = SharedCeiling();
  ChunkCursor<std::uint64_t> cursor(
      KeyStreams(distribution)[static_cast<std::size_t>(state.thread_index())]);
  const PinnedScope pinned(state.thread_index());
  while (state.KeepRunningBatch(ChunkCursor<std::uint64_t>::kChunk)) {
    benchmark::DoNotOptimize(ceiling.Run(way, verb, cursor.Next()));
  }
  state.SetItemsProcessed(state.iterations());
}

}  // namespace

void RegisterCeilingBenchmarks() {
  const std::string keys = "/keys:" + std::to_string(BenchSettings().key_count);
  for (const Verb verb : kVerbs) {
    for (const Distribution distribution : kDistributions) {
      for (const Ceiling::Way& way : Ceiling::Ways()) {
        const std::string name = std::string("BM_Ceiling_") + TitleOf(verb) + keys +
                                 "/dist:" + NameOf(distribution) + "/way:" + way.name;
        benchmark::RegisterBenchmark(name.c_str(),
                                     [verb, &way, distribution](benchmark::State& state) {
                                       BM_Ceiling_Verb(state, verb, way, distribution);
                                     })
            ->ThreadRange(1, BenchSettings().threads_max)
            ->UseRealTime();
      }
    }
  }
}

}  // namespace ebb::bench
