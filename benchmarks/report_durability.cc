// Operations while a store commits every 10 ms or makes one checkpoint after another, against the
// same operations on a store that does neither while another thread syncs a small file as often.
// See report.h.
#include <fmt/core.h>
#include <unistd.h>

#include <optional>

#include "mixed_load.h"
#include "report.h"
#include "team.h"

namespace ebb::bench {
namespace {

constexpr int kThreads = 2;
constexpr std::chrono::milliseconds kCommitPeriod{10};

// What runs beside the operations, and what is aimed at.
struct Work {
  const char* name;
  void (IntegerSubject::*call)();
  std::chrono::duration<double> period;
  Distribution distribution;
  std::optional<double> target;  // of the throughput
  bool judges_windows;
};

// The targets of checkpoints are for skewed loads.
constexpr const char* kCommits = "committing every 10 ms";
constexpr const char* kCheckpoints = "one checkpoint after another";
constexpr std::chrono::duration<double> kAtOnce{};
constexpr Work kWorks[] = {
    {kCommits, &IntegerSubject::Commit, kCommitPeriod, Distribution::kZipfian, 0.85, false},
    {kCommits, &IntegerSubject::Commit, kCommitPeriod, Distribution::kUniform, 0.40, false},
    {kCheckpoints, &IntegerSubject::Checkpoint, kAtOnce, Distribution::kZipfian, 0.75, true},
    {kCheckpoints, &IntegerSubject::Checkpoint, kAtOnce, Distribution::kUniform, {}, false}};

std::string NameOf(const Work& work) {
  return fmt::format("50/50 {}, {} threads, {}", NameOf(work.distribution), kThreads, work.name);
}

// Long enough that several checkpoints fit.
std::chrono::duration<double> SliceTime(const Settings& settings) {
  return std::chrono::milliseconds(settings.key_count >= 1'000'000 ? 2000 : 200);
}

// Every commit makes appends of the updates that follow it. The log memory holds so much of the
// log that what a key was last given is never on the device only.
StoreShape ShapeFor(const Settings& settings, const std::string& folder) {
  const auto physical = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                        static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t wanted =
      settings.key_count * kIntegerRecordBytes * 12 + (std::uint64_t{64} << 20);
  return {.key_count = settings.key_count,
          .log_memory_bytes = std::min(wanted, physical / 4),
          .thread_count = kThreads,
          .directory = folder};
}

// A loaded store, what runs beside its operations, and what came of it. The store that commits and
// the one that does not are two: after a commit each key's next update is an append, for as long as
// the commit is younger than that key's record.
struct Side {
  Side(const Settings& settings, const std::string& name)
      : folder(settings, name), store(ShapeFor(settings, folder.path())) {
    store.Load();
  }

  ScratchFolder folder;  // outlives the store in it
  IntegerSubject store;
  std::function<void()> beside;
  double commits_per_second = 0.0;  // in the last slice; a checkpoint makes one
  Samples worst_windows;
  Latencies latencies;
  Samples slow_calls;    // p99.9 in microseconds, by round
  Samples slow_moments;  // the same for a caller at any moment
};

double RunSlice(Side& side, const std::vector<std::vector<std::uint64_t>>& streams,
                const MixedLoadSpec& spec) {
  const std::uint64_t before = side.store.Metrics().commits;
  const MixedLoadResult result = RunMixedLoad(side.store, streams, spec);
  const std::uint64_t commits = side.store.Metrics().commits - before;
  side.commits_per_second = static_cast<double>(commits) / spec.time.count();
  if (spec.round == 0) return result.per_second;  // not counted
  if (spec.timed) {
    side.latencies.Merge(result.latencies);
    side.slow_calls.push_back(result.latencies.ByCalls(0.001) / 1000.0);
    side.slow_moments.push_back(result.latencies.ByMoments(0.001) / 1000.0);
  } else {
    side.worst_windows.push_back(result.worst_window);
  }
  return result.per_second;
}

// A B A B: with and without, first the throughput, then with every call timed.
std::vector<Contender> ContendersFor(const Settings& settings, const Work& work, Side& with,
                                     Side& without,
                                     const std::vector<std::vector<std::uint64_t>>& streams) {
  std::vector<Contender> contenders;
  for (const bool timed : {false, true}) {
    MixedLoadSpec spec;
    spec.time = SliceTime(settings);
    spec.timed = timed;
    contenders.push_back({"with", [&with, &streams, &work, spec](int round) mutable {
                            spec.round = round;
                            spec.period = work.period;
                            spec.beside = with.beside;
                            return RunSlice(with, streams, spec);
                          }});
    contenders.push_back({"without", [&with, &without, &streams, spec](int round) mutable {
                            spec.round = round;
                            spec.period = spec.time;
                            if (with.commits_per_second > 0.0) {
                              spec.period = std::chrono::seconds(1) / with.commits_per_second;
                            }
                            spec.beside = without.beside;
                            return RunSlice(without, streams, spec);
                          }});
  }
  return contenders;
}

void AddThroughputRows(const Work& work, const Side& with, const Side& without,
                       const Samples& with_rate, const Samples& without_rate, Table& table) {
  Row throughput{.name = NameOf(work),
                 .figure = Millions(Median(with_rate)),
                 .reference = "a small file synced as often: " + Millions(Median(without_rate)),
                 .judged = PairedRatios(with_rate, without_rate)};
  if (work.target.has_value()) {
    throughput.aim = Row::Aim::kAtLeast;
    throughput.target = *work.target;
  }
  table.Add(std::move(throughput));
  // The least of all rounds counts: no window may be slower.
  Row window{.name = "the same, slowest 100 ms over the mean",
             .figure = fmt::format("least of {} rounds", with.worst_windows.size()),
             .reference = fmt::format("without: {:.2g}", Least(without.worst_windows)),
             .judged = {Least(with.worst_windows)}};
  if (work.judges_windows) {
    window.aim = Row::Aim::kAtLeast;
    window.target = 0.5;
  }
  table.Add(std::move(window));
}

// "0.12, 0.5, 3.1, 5400 us": p50, p99, p99.9 and the longest.
std::string Percentiles(const Latencies& latencies) {
  return fmt::format("p50 {:.2g}, p99 {:.2g}, p99.9 {:.2g}, max {:.2g} us",
                     latencies.ByCalls(0.5) / 1000.0, latencies.ByCalls(0.01) / 1000.0,
                     latencies.ByCalls(0.001) / 1000.0, latencies.Most() / 1000.0);
}

void AddLatencyRows(const Work& work, const Side& side, const char* what, Table& table) {
  const std::string name = fmt::format("{}{}: p99.9 of single calls", NameOf(work), what);
  table.Add({.name = name,
             .figure = Percentiles(side.latencies),
             .reference = "",
             .judged = side.slow_calls,
             .unit = " us",
             .aim = Row::Aim::kAtMost,
             .target = 1000.0});
  table.Add(
      {.name = "the same, of the wait of who comes at any moment",
       .figure = fmt::format("p99 {:.2g}, p99.9 {:.2g} us", side.latencies.ByMoments(0.01) / 1000.0,
                             side.latencies.ByMoments(0.001) / 1000.0),
       .reference = "",
       .judged = side.slow_moments,
       .unit = " us"});
}

void AddNotes(const Work& work, const Side& with, double logged_bytes, double seconds,
              Table& table) {
  const bool direct = with.store.Stats().direct_io;
  table.AddNote(fmt::format("{}: {:.3g} a second, {:.3g} MB/s of log, {} reads of the device{}",
                            NameOf(work), with.commits_per_second, logged_bytes / seconds / 1e6,
                            with.store.Metrics().device_reads, direct ? "" : ", buffered"));
}

void AddRowsFor(const Settings& settings, const Work& work, Table& table) {
  fmt::print(stderr, "ebb_report: durability: loading {} keys twice\n", settings.key_count);
  Side with(settings, "durability-with");
  Side without(settings, "durability-without");
  const ScratchFolder beside_stores(settings, "durability-file");
  SmallFile small_file(beside_stores.path() + "/small-file");
  with.beside = [&with, &work] { (with.store.*work.call)(); };
  without.beside = [&small_file] { small_file.WriteAndSync(); };
  const auto streams = MakeKeyStreams({.key_count = settings.key_count,
                                       .length = settings.stream_length(),
                                       .distribution = work.distribution,
                                       .stream_count = kThreads});
  const std::uint64_t tail_before = with.store.Stats().tail_address;
  const auto series = RunInTurn(fmt::format("durability, {}", NameOf(work)), settings.rounds,
                                ContendersFor(settings, work, with, without, streams));
  AddThroughputRows(work, with, without, series[0], series[1], table);
  AddLatencyRows(work, with, "", table);
  AddLatencyRows(work, without, ", without that", table);
  const double seconds = SliceTime(settings).count() * 2 * (settings.rounds + 1);
  AddNotes(work, with, static_cast<double>(with.store.Stats().tail_address - tail_before), seconds,
           table);
}

}  // namespace

void AddDurabilityRows(const Settings& settings, Table& table) {
  for (const Work& work : kWorks) AddRowsFor(settings, work, table);
}

}  // namespace ebb::bench
