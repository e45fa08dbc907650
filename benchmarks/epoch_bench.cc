#include "bench_util.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

// Guards: entering and leaving a guard together take under a nanosecond.
void BM_Epoch_Guard(benchmark::State& state) {
  const PinnedScope pinned(0);
  constexpr std::size_t kGroup = 1000;
  while (state.KeepRunningBatch(kGroup)) GuardLoop(kGroup);
  state.SetItemsProcessed(state.iterations());
}

}  // namespace

void RegisterEpochBenchmarks() { benchmark::RegisterBenchmark("BM_Epoch_Guard", BM_Epoch_Guard); }

}  // namespace ebb::bench
