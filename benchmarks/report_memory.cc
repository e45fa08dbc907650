// Single operations on 8-byte keys and values in memory. See report.h.
#include <fmt/core.h>

#include <optional>
#include <string>
#include <utility>

#include "report.h"
#include "sharded_map.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

using Streams = std::vector<std::vector<std::uint64_t>>;

// Everything that is measured, loaded with the same keys.
struct Field {
  IntegerSubject store;
  Ceiling ceiling;
  ShardedMap<std::uint64_t> map;
};

// Slices are short, so that the two things compared run close together in time; four of them make
// a round.
constexpr int kSlicesPerRound = 4;

// What a slice reads: another part of the stream in every slice.
std::span<const std::uint64_t> Slice(const Streams& streams, int thread, int round) {
  constexpr std::size_t kSlices = 16;
  const std::span<const std::uint64_t> stream = streams[static_cast<std::size_t>(thread)];
  const std::size_t length = stream.size() / kSlices;
  return stream.subspan(static_cast<std::size_t>(round) % kSlices * length, length);
}

// Operations per second of all threads together.
template <typename Body>
double Rate(const Streams& streams, int thread_count, int round, const Body& body) {
  const double seconds =
      RunTeam(thread_count, [&](int thread) { body(thread, Slice(streams, thread, round)); });
  return static_cast<double>(Slice(streams, 0, round).size()) * thread_count / seconds;
}

Tally RunMap(ShardedMap<std::uint64_t>& map, Verb verb, std::span<const std::uint64_t> keys) {
  if (verb == Verb::kRead) return ReadLoop(map, keys);
  return verb == Verb::kUpsert ? UpsertLoop(map, keys) : RmwLoop(map, keys);
}

// In the order in which the results are read below.
std::vector<Contender> ContendersFor(Field& field, const Streams& streams, Verb verb,
                                     int thread_count) {
  std::vector<Contender> contenders;
  contenders.push_back({"ebb", [&field, &streams, verb, thread_count](int round) {
                          return Rate(streams, thread_count, round, [&](int thread, auto keys) {
                            RequireAll(field.store.Run(verb, thread, keys), keys.size(), "ebb");
                          });
                        }});
  contenders.push_back({"ebb, batches", [&field, &streams, verb, thread_count](int round) {
                          return Rate(streams, thread_count, round, [&](int thread, auto keys) {
                            RequireAll(field.store.RunBatched(verb, thread, keys), keys.size(),
                                       "ebb, batches");
                          });
                        }});
  contenders.push_back({"sharded map", [&field, &streams, verb, thread_count](int round) {
                          return Rate(streams, thread_count, round, [&](int, auto keys) {
                            RequireAll(RunMap(field.map, verb, keys), keys.size(), "map");
                          });
                        }});
  for (const Ceiling::Way& way : Ceiling::Ways()) {
    contenders.push_back({way.name, [&field, &streams, &way, verb, thread_count](int round) {
                            return Rate(streams, thread_count, round, [&](int, auto keys) {
                              Keep(field.ceiling.Run(way, verb, keys));
                            });
                          }});
  }
  return contenders;
}

// What one thread count gave.
struct Outcome {
  Samples store;
  Samples batches;
  Samples map;
  Samples ceiling;  // of the best way
  std::string best_way;
  Samples plain;  // of the way without prefetch
};

Outcome OutcomeOf(std::span<const Samples> series, std::span<const Contender> contenders) {
  constexpr std::size_t kFirstWay = 3;
  std::size_t best = kFirstWay;
  for (std::size_t way = kFirstWay; way < series.size(); ++way) {
    if (Median(series[way]) > Median(series[best])) best = way;
  }
  return {series[0], series[1], series[2], series[best], contenders[best].name, series[kFirstWay]};
}

// Ratios that are aimed at.
struct Targets {
  double single;  // to the ceiling
  double batched;
  std::optional<double> single_over_map;
};

Targets TargetsFor(Verb verb, Distribution distribution) {
  const bool uniform = distribution == Distribution::kUniform;
  if (verb == Verb::kRmw) return {uniform ? 0.40 : 0.36, uniform ? 0.75 : 0.80, std::nullopt};
  return {uniform ? 0.45 : 0.32, uniform ? 0.80 : 0.75, 1.3};
}

void AddOneThreadRow(const std::string& name, const Outcome& one, const Targets& targets,
                     Table& table) {
  table.Add(
      {.name = name + ", 1 thread",
       .figure = Millions(Median(one.store)),
       .reference = fmt::format("ceiling, {}: {}", one.best_way, Millions(Median(one.ceiling))),
       .judged = PairedRatios(one.store, one.ceiling),
       .unit = "",
       .aim = Row::Aim::kAtLeast,
       .target = targets.single});
  table.Add(
      {.name = name + ", batches of 64, 1 thread",
       .figure = Millions(Median(one.batches)),
       .reference = fmt::format("ceiling, {}: {}", one.best_way, Millions(Median(one.ceiling))),
       .judged = PairedRatios(one.batches, one.ceiling),
       .unit = "",
       .aim = Row::Aim::kAtLeast,
       .target = targets.batched});
  table.Add({.name = name + ", batches of 64, 1 thread",
             .figure = Millions(Median(one.batches)),
             .reference = "sharded absl map: " + Millions(Median(one.map)),
             .judged = PairedRatios(one.batches, one.map),
             .aim = Row::Aim::kAtLeast,
             .target = 2.0});
  // What the same two accesses cost when nobody can look ahead, as in a loop of single calls.
  table.Add({.name = name + ", 1 thread",
             .figure = Millions(Median(one.store)),
             .reference = "the ceiling's accesses, one by one: " + Millions(Median(one.plain)),
             .judged = PairedRatios(one.store, one.plain)});
  Row over_map{.name = name + ", 1 thread",
               .figure = Millions(Median(one.store)),
               .reference = "sharded absl map: " + Millions(Median(one.map)),
               .judged = PairedRatios(one.store, one.map)};
  if (targets.single_over_map.has_value()) {
    over_map.aim = Row::Aim::kAtLeast;
    over_map.target = *targets.single_over_map;
  }
  table.Add(std::move(over_map));
}

void AddTwoThreadsRow(const std::string& name, const Outcome& one, const Outcome& two,
                      Table& table) {
  const Samples store_factor = PairedRatios(two.store, one.store);
  const Samples ceiling_factor = PairedRatios(two.ceiling, one.ceiling);
  table.Add(
      {.name = name + ", 2 threads over 1",
       .figure = fmt::format("{} = {:.3g}x", Millions(Median(two.store)), Median(store_factor)),
       .reference = fmt::format("ceiling, {}: {} = {:.3g}x", two.best_way,
                                Millions(Median(two.ceiling)), Median(ceiling_factor)),
       .judged = PairedRatios(store_factor, ceiling_factor),
       .unit = "",
       .aim = Row::Aim::kAtLeast,
       .target = 0.95});
}

void AddRowsFor(const Settings& settings, Field& field, const Streams& streams, Verb verb,
                Distribution distribution, Table& table) {
  const std::string name = fmt::format("{} {}", NameOf(verb), NameOf(distribution));
  std::vector<Contender> contenders = ContendersFor(field, streams, verb, 1);
  const std::size_t per_thread_count = contenders.size();
  for (Contender& contender : ContendersFor(field, streams, verb, 2)) {
    contenders.push_back(std::move(contender));
  }
  const std::vector<Samples> series =
      RunInTurn("memory, " + name, settings.rounds * kSlicesPerRound, contenders);
  const std::span all(series);
  const std::span named(contenders);
  const Outcome one = OutcomeOf(all.first(per_thread_count), named.first(per_thread_count));
  const Outcome two = OutcomeOf(all.subspan(per_thread_count), named.subspan(per_thread_count));
  AddOneThreadRow(name, one, TargetsFor(verb, distribution), table);
  AddTwoThreadsRow(name, one, two, table);
}

}  // namespace

void AddMemoryRows(const Settings& settings, Table& table) {
  fmt::print(stderr, "ebb_report: memory: loading {} keys\n", settings.key_count);
  Field field{
      IntegerSubject({.key_count = settings.key_count,
                      .log_memory_bytes = RoomyLogBytes(settings.key_count, kIntegerRecordBytes),
                      .thread_count = 2}),
      Ceiling(
          {.bucket_count = BucketCountFor(settings.key_count), .record_count = settings.key_count}),
      {}};
  field.store.Load();
  for (std::uint64_t id = 0; id < settings.key_count; ++id) {
    (void)field.map.Upsert(KeyOf(id), ValueOf(KeyOf(id)));
  }
  for (const Distribution distribution : {Distribution::kUniform, Distribution::kZipfian}) {
    const Streams streams = MakeKeyStreams({.key_count = settings.key_count,
                                            .length = settings.stream_length(),
                                            .distribution = distribution,
                                            .stream_count = 2});
    for (const Verb verb : kVerbs) {
      AddRowsFor(settings, field, streams, verb, distribution, table);
    }
  }
}

}  // namespace ebb::bench
