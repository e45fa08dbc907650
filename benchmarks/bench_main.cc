// ebb_bench: the benchmarks of ebb, by Google Benchmark.
//
//   EBB_BENCH_KEYS=100000 ebb_bench --benchmark_filter=Session_Read
//
// See settings.h for the environment. A benchmark opens and loads its store when it first runs;
// neither is timed. For figures that mean something on a shared machine use ebb_report, which runs
// store and baselines in turn and prints ratios.
#include "bench_util.h"

namespace ebb::bench {

const Settings& BenchSettings() {
  static const Settings settings = SettingsFromEnvironment();
  return settings;
}

const std::vector<std::vector<std::uint64_t>>& KeyStreams(Distribution distribution) {
  static const auto make = [](Distribution wanted) {
    return MakeKeyStreams({.key_count = BenchSettings().key_count,
                           .length = BenchSettings().stream_length(),
                           .distribution = wanted,
                           .stream_count = BenchSettings().threads_max});
  };
  if (distribution == Distribution::kUniform) {
    static const auto uniform = make(Distribution::kUniform);
    return uniform;
  }
  static const auto zipfian = make(Distribution::kZipfian);
  return zipfian;
}

const std::vector<std::vector<StringKey>>& StringKeyStreams(Distribution distribution) {
  static const auto make = [](Distribution wanted) {
    return MakeStringKeyStreams({.key_count = BenchSettings().string_key_count(),
                                 .length = BenchSettings().string_key_count(),
                                 .distribution = wanted,
                                 .stream_count = BenchSettings().threads_max});
  };
  if (distribution == Distribution::kUniform) {
    static const auto uniform = make(Distribution::kUniform);
    return uniform;
  }
  static const auto zipfian = make(Distribution::kZipfian);
  return zipfian;
}

}  // namespace ebb::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  ebb::bench::RegisterSessionBenchmarks();
  ebb::bench::RegisterStringBenchmarks();
  ebb::bench::RegisterCeilingBenchmarks();
  ebb::bench::RegisterDeviceBenchmarks();
  ebb::bench::RegisterEpochBenchmarks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
