// Metrics: counts of a store's operations, as numbers, as JSON and as text for Prometheus.
#include <cstdint>
#include <cstdio>
#include <string>

#include "ebb/ebb.h"

int main() {
  using Store = ebb::Store<std::uint64_t, std::uint64_t>;
  Store store = ebb::Must(Store::OpenInMemory({.measure_latency = true}));
  for (std::uint64_t key = 0; key < 100; ++key) ebb::Must(store.Upsert(key, key));
  for (std::uint64_t key = 50; key < 150; ++key) store.Read(key).IgnoreError();

  const ebb::MetricsSnapshot metrics = store.Metrics();
  const ebb::OperationMetrics& reads = metrics[ebb::OpKind::kRead];
  std::printf("%s\n", ebb::ToJson(metrics).c_str());
  const bool is_exported = ebb::ToPrometheus(metrics).find("ebb_operations") != std::string::npos;
  const bool right = reads.count == 100 && reads.effective() == 50 && reads.latency.count == 100 &&
                     metrics[ebb::OpKind::kUpsert].count == 100 && is_exported;

  store.ResetMetrics();
  return right && store.Metrics()[ebb::OpKind::kRead].count == 0 ? 0 : 1;
}
