// What the Google Benchmark files share: settings, prepared streams and a cursor over them.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "keys.h"
#include "settings.h"

namespace ebb::bench {

inline constexpr Distribution kDistributions[] = {Distribution::kUniform, Distribution::kZipfian};

// Read once from the environment.
const Settings& BenchSettings();

// Streams for two threads, made at the first call for a distribution and kept.
const std::vector<std::vector<std::uint64_t>>& KeyStreams(Distribution distribution);
const std::vector<std::vector<StringKey>>& StringKeyStreams(Distribution distribution);

// Hands out a stream in chunks, from the start again at its end.
template <typename Key>
class ChunkCursor {
 public:
  static constexpr std::size_t kChunk = 1000;
  explicit ChunkCursor(std::span<const Key> stream) : stream_(stream) {}
  std::span<const Key> Next() {
    if (at_ + kChunk > stream_.size()) at_ = 0;
    at_ += kChunk;
    return stream_.subspan(at_ - kChunk, kChunk);
  }

 private:
  std::span<const Key> stream_;
  std::size_t at_ = 0;
};

// Each registers its benchmarks; called by main.
void RegisterSessionBenchmarks();
void RegisterStringBenchmarks();
void RegisterCeilingBenchmarks();
void RegisterDeviceBenchmarks();
void RegisterEpochBenchmarks();

}  // namespace ebb::bench
