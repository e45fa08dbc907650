// A store whose index has grown with its load, from the default size, against one that began with
// the right size. See report.h.
#include <fmt/core.h>

#include <algorithm>
#include <mutex>

#include "report.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

constexpr int kThreads = 2;
constexpr std::uint64_t kFirstBuckets = 65536;
constexpr int kSlicesPerRound = 4;

using Streams = std::vector<std::vector<std::uint64_t>>;

// A store and how its load went, each call of which was timed.
struct Side {
  Side(const Settings& settings, std::uint64_t bucket_count)
      : store({.key_count = settings.key_count,
               .log_memory_bytes = RoomyLogBytes(settings.key_count, kIntegerRecordBytes),
               .thread_count = kThreads,
               .bucket_count = bucket_count}) {
    seconds = RunTeam(kThreads, [&](int thread) { LoadShare(settings, thread); });
  }
  void LoadShare(const Settings& settings, int thread) {
    constexpr std::size_t kGroup = 64;  // of a call of Mix
    Latencies own;
    std::vector<std::uint64_t> keys;
    const auto flush = [&] {
      RequireAll(store.Mix(thread, keys, ~std::uint64_t{0}, &own), keys.size(), "load");
      keys.clear();
    };
    for (auto id = static_cast<std::uint64_t>(thread); id < settings.key_count; id += kThreads) {
      keys.push_back(KeyOf(id));
      if (keys.size() == kGroup) flush();
    }
    flush();
    const std::lock_guard lock(mu);
    latencies.Merge(own);
  }

  IntegerSubject store;
  double seconds = 0.0;
  std::mutex mu;
  Latencies latencies;
};

std::string LoadFigure(const Settings& settings, const Side& side) {
  return Millions(static_cast<double>(settings.key_count) / side.seconds);
}

void AddLoadRows(const Settings& settings, const Side& grown, const Side& right, Table& table) {
  table.Add({.name = fmt::format("load into {} buckets that grow, {} threads, each call timed",
                                 kFirstBuckets, kThreads),
             .figure = LoadFigure(settings, grown),
             .reference = "right from the start: " + LoadFigure(settings, right),
             .judged = {right.seconds / grown.seconds}});
  table.Add({.name = "the same, longest single call",
             .figure = fmt::format("p99.99 {:.3g}, max {:.3g} us",
                                   grown.latencies.ByCalls(0.0001) / 1000.0,
                                   grown.latencies.Most() / 1000.0),
             .reference = fmt::format("right from the start: p99.99 {:.3g}, max {:.3g} us",
                                      right.latencies.ByCalls(0.0001) / 1000.0,
                                      right.latencies.Most() / 1000.0),
             .judged = {grown.latencies.Most() / 1000.0},
             .unit = " us"});
  const StoreStats stats = grown.store.Stats();
  table.AddNote(fmt::format(
      "growth: {} doublings to {} buckets, {} overflow buckets (right from the start: {}, {}); the "
      "longest split of a chunk took {} us, its drain included",
      stats.index_growth_count, stats.index_bucket_count, stats.index_overflow_count,
      right.store.Stats().index_bucket_count, right.store.Stats().index_overflow_count,
      stats.index_longest_split_us));
}

double Rate(Side& side, const Streams& streams, Verb verb, int round) {
  constexpr std::size_t kSlices = 16;
  const std::size_t length = streams[0].size() / kSlices;
  const std::size_t first = static_cast<std::size_t>(round) % kSlices * length;
  const double seconds = RunTeam(kThreads, [&](int thread) {
    const std::span<const std::uint64_t> stream = streams[static_cast<std::size_t>(thread)];
    RequireAll(side.store.Run(verb, thread, stream.subspan(first, length)), length, "ebb");
  });
  return static_cast<double>(length) * kThreads / seconds;
}

}  // namespace

void AddGrowthRows(const Settings& settings, Table& table) {
  fmt::print(stderr, "ebb_report: growth: loading {} keys twice\n", settings.key_count);
  Side grown(settings, kFirstBuckets);
  Side right(settings, 0);
  AddLoadRows(settings, grown, right, table);
  const Streams streams = MakeKeyStreams({.key_count = settings.key_count,
                                          .length = settings.stream_length(),
                                          .distribution = Distribution::kUniform,
                                          .stream_count = kThreads});
  for (const Verb verb : kVerbs) {
    const auto series =
        RunInTurn(fmt::format("growth, {}", NameOf(verb)), settings.rounds * kSlicesPerRound,
                  {{"grown", [&](int round) { return Rate(grown, streams, verb, round); }},
                   {"right", [&](int round) { return Rate(right, streams, verb, round); }}});
    table.Add(
        {.name = fmt::format("{} uniform, {} threads, in the grown index", NameOf(verb), kThreads),
         .figure = Millions(Median(series[0])),
         .reference = "right from the start: " + Millions(Median(series[1])),
         .judged = PairedRatios(series[0], series[1]),
         .unit = "",
         .aim = Row::Aim::kAtLeast,
         .target = 0.9});
  }
}

}  // namespace ebb::bench
