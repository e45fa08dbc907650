// Checks the key streams and the account of latencies: run by ctest, a second or two, non-zero when
// something is wrong.
//
// The zipfian generator is compared with the exact probabilities of the first ranks and of the
// tail; the rest would only show as benchmark figures that nobody could explain.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "keys.h"
#include "latency.h"

namespace ebb::bench {
namespace {

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "keys_check: not so: %s\n", what);
  std::exit(1);
}

// Within five standard deviations of what `draw_count` draws should give.
bool IsNear(double seen, double probability, double draw_count) {
  const double expected = probability * draw_count;
  return std::fabs(seen - expected) <= 5.0 * std::sqrt(expected * (1.0 - probability)) + 1.0;
}

void CheckZipfianFollowsItsLaw() {
  constexpr std::uint64_t kRankCount = 100'000;
  constexpr int kDrawCount = 2'000'000;
  std::vector<double> weight(kRankCount + 1, 0.0);
  double total = 0.0;
  for (std::uint64_t rank = 1; rank <= kRankCount; ++rank) {
    total += weight[rank] = std::pow(static_cast<double>(rank), -kZipfianTheta);
  }
  std::vector<double> seen(kRankCount + 1, 0.0);
  const Zipfian zipfian(kRankCount, kZipfianTheta);
  Random random(1);
  for (int i = 0; i < kDrawCount; ++i) {
    const std::uint64_t rank = zipfian.Next(random);
    Check(rank >= 1 && rank <= kRankCount, "ranks lie between 1 and the count");
    seen[rank] += 1.0;
  }
  double tail_seen = 0.0;
  double tail_weight = 0.0;
  for (std::uint64_t rank = kRankCount / 2; rank <= kRankCount; ++rank) {
    tail_seen += seen[rank];
    tail_weight += weight[rank];
  }
  for (std::uint64_t rank = 1; rank <= 200; ++rank) {
    Check(IsNear(seen[rank], weight[rank] / total, kDrawCount), "each hot rank has its share");
  }
  Check(IsNear(tail_seen, tail_weight / total, kDrawCount), "the cold half has its share");
}

void CheckStreamsShareTheirHotKeys() {
  const auto streams = MakeIdStreams({.key_count = 50'000,
                                      .length = 200'000,
                                      .distribution = Distribution::kZipfian,
                                      .stream_count = 2});
  std::uint64_t hottest[2];
  for (int stream = 0; stream < 2; ++stream) {
    std::unordered_map<std::uint64_t, int> counts;
    int most = 0;
    for (const std::uint64_t id : streams[static_cast<std::size_t>(stream)]) {
      Check(id < 50'000, "ids lie below the key count");
      if (++counts[id] > most) {
        most = counts[id];
        hottest[stream] = id;
      }
    }
  }
  Check(hottest[0] == hottest[1], "two streams of one key space have the same hottest key");
  Check(streams[0] != streams[1], "two streams are different");
}

void CheckValuesNameTheirKeys() {
  const std::uint64_t key = KeyOf(7);
  Check(IsValueOf(key, ValueOf(key, 12345)), "a value is a value of its key");
  Check(!IsValueOf(KeyOf(8), ValueOf(key)), "a value is not a value of another key");
  const StringKey name = StringKeyOf(7);
  Check(IsStringValueOf(name, StringValueOf(name).view()), "a string value is one of its key");
  Check(!IsStringValueOf(StringKeyOf(8), StringValueOf(name).view()), "but not of another");
}

// A second of calls of 100 ns, in which one call stalls for 10 ms.
void CheckLatenciesTellAStall() {
  Latencies latencies;
  for (int call = 0; call < 9'900'000; ++call) latencies.Add(100);
  Latencies other;
  other.Add(10'000'000);
  latencies.Merge(other);
  const auto is_near = [](double seen, double expected) {
    return std::fabs(seen - expected) <= expected / 16.0;
  };
  Check(is_near(latencies.ByCalls(0.5), 100.0), "half of the calls are short");
  Check(is_near(latencies.ByCalls(0.001), 100.0), "a single stall is rare among the calls");
  Check(latencies.Most() == 10'000'000.0, "the longest call is known");
  // The stall is a hundredth of the time; a thousandth of it comes in the first ms of the stall.
  Check(is_near(latencies.ByMoments(0.001), 9'000'000.0), "but not for who comes at any moment");
  Check(latencies.ByMoments(0.02) < 110.0, "who waits for nothing but calls under way");
}

}  // namespace
}  // namespace ebb::bench

int main() {
  ebb::bench::CheckZipfianFollowsItsLaw();
  ebb::bench::CheckStreamsShareTheirHotKeys();
  ebb::bench::CheckValuesNameTheirKeys();
  ebb::bench::CheckLatenciesTellAStall();
  std::puts("keys_check: key streams and latencies are as they should be");
  return 0;
}
