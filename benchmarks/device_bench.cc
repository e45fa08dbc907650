#include <memory>

#include "bench_util.h"
#include "past_memory.h"
#include "team.h"

namespace ebb::bench {
namespace {

PastMemory& LoadedPastMemory() {
  // Destroyed at exit, so that its files go.
  static const auto past_memory = std::make_unique<PastMemory>(BenchSettings());
  return *past_memory;
}

// Guards: reads past memory from one synchronous session cost little more than the device's own
// reads at depth 1.
void BM_Device_Read(benchmark::State& state, Distribution distribution) {
  StringSubject& store = LoadedPastMemory().store();
  ChunkCursor<StringKey> cursor(StringKeyStreams(distribution)[0]);
  const std::uint64_t reads_before = store.Metrics().device_reads;
  const PinnedScope pinned(0);
  constexpr std::size_t kGroup = 100;
  std::span<const StringKey> chunk;
  while (state.KeepRunningBatch(kGroup)) {
    if (chunk.empty()) chunk = cursor.Next();
    const auto keys = chunk.first(kGroup);
    chunk = chunk.subspan(kGroup);
    RequireAll(store.Read(StringRead::kReused, 0, keys), keys.size(), "read past memory");
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["device_reads_per_op"] =
      static_cast<double>(store.Metrics().device_reads - reads_before) /
      static_cast<double>(state.iterations());
}

// Guards nothing itself: what BM_Device_Read is a share of.
void BM_Device_Pread(benchmark::State& state) {
  PreadBaseline& baseline = LoadedPastMemory().baseline();
  const PinnedScope pinned(0);
  constexpr std::size_t kGroup = 100;
  while (state.KeepRunningBatch(kGroup)) benchmark::DoNotOptimize(baseline.Run(kGroup));
  state.SetItemsProcessed(state.iterations());
  state.SetLabel(baseline.direct() ? "O_DIRECT" : "buffered");
}

}  // namespace

void RegisterDeviceBenchmarks() {
  const std::string keys = "/keys:" + std::to_string(BenchSettings().string_key_count()) +
                           "/value_bytes:" + std::to_string(kStringValueBytes);
  for (const Distribution distribution : kDistributions) {
    const std::string suffix = keys + "/memory_share:8/dist:" + NameOf(distribution);
    benchmark::RegisterBenchmark(("BM_Device_Read" + suffix).c_str(), BM_Device_Read, distribution)
        ->UseRealTime();
  }
  benchmark::RegisterBenchmark(("BM_Device_Pread" + keys).c_str(), BM_Device_Pread)->UseRealTime();
}

}  // namespace ebb::bench
