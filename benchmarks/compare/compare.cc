// ebb_compare: ebb and its peers on the workloads of YCSB, in turn, in one run.
//
//   ebb_compare [--keys=N] [--rounds=N] [--dir=FOLDER] [--only=WORDS] [--json=FILE] [--seconds=S]
//
// Workloads are those of YCSB (Cooper et al., 2010): A half reads, half updates; B 95 % reads; C
// reads; F half reads, half read-modify-writes; and load. Keys are drawn evenly and by Zipf's law
// (0.99). Values have 8 bytes or 100, threads are one and two; everything fits in memory, or memory
// has room for an eighth of the records (100 bytes only). In each round every engine runs each
// workload for --seconds (0.1); medians of the rounds count, and ratios are paired by round.
// --only picks cases by words that their names hold, with commas between.
//
// A million keys and three rounds by default, some five minutes. Prints one table in Markdown on
// stdout; progress goes to stderr. The JSON file holds every
// sample; chart.py draws it.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <map>

#include "ceiling.h"
#include "engine.h"
#include "samples.h"
#include "settings.h"
#include "team.h"

namespace ebb::bench {
namespace {

struct EngineKind {
  const char* name;
  std::unique_ptr<Engine> (*make)(const EngineShape&);
};
constexpr EngineKind kEngines[] = {
    {"ebb", MakeEbb},
    {"ebb batched", MakeEbbBatched},
    {"ebb promoting", MakeEbbPromoting},
    {"sharded absl maps", MakeShardedMaps},
    {"oneTBB", MakeTbb},
    {"RocksDB", MakeRocksDb},
    {"LevelDB", MakeLevelDb},
    {"LMDB", MakeLmdb},
};

struct Workload {
  const char* name;
  unsigned read_percent;
  Kind other;
};
constexpr Workload kWorkloads[] = {{"A", 50, Kind::kUpdate},
                                   {"B", 95, Kind::kUpdate},
                                   {"C", 100, Kind::kRead},
                                   {"F", 50, Kind::kRmw}};

// Where the data are, and how long values.
struct Place {
  std::uint64_t value_bytes;
  bool in_memory;
  std::string Name() const {
    return fmt::format("{} bytes, {}", value_bytes, in_memory ? "in memory" : "memory 1/8");
  }
};

struct Case {
  std::string name;                           // "A zipf, 8 bytes, in memory, 2 threads"
  std::map<std::string, Samples> per_second;  // by engine
  std::map<std::string, Latencies> latencies;
};

class Comparison {
 public:
  Comparison(const Settings& settings, double seconds, std::string json_path)
      : settings_(settings), seconds_(seconds), json_path_(std::move(json_path)) {}

  void Run() {
    for (const Place& place : {Place{8, true}, Place{100, true}, Place{100, false}})
      RunPlace(place);
    Print();
    if (!json_path_.empty()) WriteJson();
    if (wrong_ != 0) Abort("ebb_compare", fmt::format("{} reads were wrong", wrong_));
  }

 private:
  bool Wanted(const std::string& name) const {
    if (settings_.only.empty()) return true;
    for (std::size_t at = 0; at <= settings_.only.size();) {
      const std::size_t end = std::min(settings_.only.find(',', at), settings_.only.size());
      if (name.find(settings_.only.substr(at, end - at)) != std::string::npos) return true;
      at = end + 1;
    }
    return false;
  }

  struct Opened {
    std::string name;
    std::unique_ptr<ScratchFolder> folder;
    std::unique_ptr<Engine> engine;
  };

  void RunPlace(const Place& place) {
    std::vector<Case> cases;
    for (const Workload& workload : kWorkloads) {
      for (const auto distribution : {Distribution::kUniform, Distribution::kZipfian}) {
        for (int threads = 1; threads <= settings_.threads_max; ++threads) {
          cases.push_back(
              {fmt::format("{} {}, {}, {} thread{}", workload.name, NameOf(distribution),
                           place.Name(), threads, threads == 1 ? "" : "s"),
               {},
               {}});
        }
      }
    }
    if (std::none_of(cases.begin(), cases.end(), [&](const Case& c) { return Wanted(c.name); })) {
      return;
    }
    std::vector<Opened> engines = OpenAll(place);
    std::size_t at = 0;
    for (const Workload& workload : kWorkloads) {
      for (const auto distribution : {Distribution::kUniform, Distribution::kZipfian}) {
        const auto streams = MakeSteps(workload, distribution);
        for (int threads = 1; threads <= settings_.threads_max; ++threads, ++at) {
          if (Wanted(cases[at].name)) RunCase(cases[at], engines, streams, threads, place);
        }
      }
    }
    for (Case& each : cases) {
      if (!each.per_second.empty()) cases_.push_back(std::move(each));
    }
  }

  std::vector<Opened> OpenAll(const Place& place) {
    std::vector<std::uint64_t> keys(settings_.key_count);
    for (std::uint64_t id = 0; id < keys.size(); ++id) keys[id] = KeyOf(id);
    std::vector<Opened> engines;
    Case load{fmt::format("load, {}, 1 thread", place.Name()), {}, {}};
    for (const EngineKind& kind : kEngines) {
      EngineShape shape{.key_count = keys.size(),
                        .value_bytes = place.value_bytes,
                        .thread_count = settings_.threads_max};
      if (!place.in_memory) shape.memory_bytes = keys.size() * (place.value_bytes + 24) / 8;
      auto folder = std::make_unique<ScratchFolder>(settings_, kind.name);
      shape.directory = folder->path();
      std::unique_ptr<Engine> engine = kind.make(shape);
      if (engine == nullptr) continue;
      fmt::print(stderr, "ebb_compare: loading {}, {}\n", kind.name, place.Name());
      const double taken = TimeOf([&] { engine->Load(keys); });
      load.per_second[kind.name].push_back(static_cast<double>(keys.size()) / taken);
      described_[kind.name] = engine->Describe();
      engines.push_back({kind.name, std::move(folder), std::move(engine)});
    }
    cases_.push_back(std::move(load));
    return engines;
  }

  std::vector<std::vector<Step>> MakeSteps(const Workload& workload, Distribution distribution) {
    const auto keys = MakeKeyStreams({.key_count = settings_.key_count,
                                      .length = settings_.stream_length(),
                                      .distribution = distribution,
                                      .stream_count = settings_.threads_max});
    std::vector<std::vector<Step>> streams;
    Random random(7);
    for (const auto& stream : keys) {
      std::vector<Step> steps;
      steps.reserve(stream.size());
      for (const std::uint64_t key : stream) {
        const bool reads = random.Below(100) < workload.read_percent;
        steps.push_back({key, reads ? Kind::kRead : workload.other});
      }
      streams.push_back(std::move(steps));
    }
    return streams;
  }

  void RunCase(Case& each, std::vector<Opened>& engines,
               const std::vector<std::vector<Step>>& streams, int threads, const Place& place) {
    fmt::print(stderr, "ebb_compare: {}\n", each.name);
    for (int round = -1; round < settings_.rounds; ++round) {  // the first warms up
      for (Opened& opened : engines) {
        const double rate = RunOnce(*opened.engine, streams, threads, round, nullptr);
        if (round >= 0) each.per_second[opened.name].push_back(rate);
      }
      if (round >= 0 && place.value_bytes == 8 && each.name.starts_with("C")) {
        each.per_second["ceiling"].push_back(RunCeiling(streams, threads));
      }
    }
    if (!each.name.starts_with("A") || threads != settings_.threads_max) return;
    for (Opened& opened : engines) {
      if (opened.name.starts_with("ebb ")) continue;  // their calls are of many steps
      RunOnce(*opened.engine, streams, threads, settings_.rounds, &each.latencies[opened.name]);
    }
  }

  double RunOnce(Engine& engine, const std::vector<std::vector<Step>>& streams, int threads,
                 int round, Latencies* latencies) {
    std::atomic<std::uint64_t> steps{0};
    std::atomic<std::uint64_t> wrong{0};
    std::vector<Latencies> of_thread(static_cast<std::size_t>(threads));
    const double taken = RunTeam(threads, [&](int thread) {
      const auto index = static_cast<std::size_t>(thread);
      const auto until = Engine::Clock::now() + std::chrono::duration_cast<Engine::Clock::duration>(
                                                    std::chrono::duration<double>(seconds_));
      const std::size_t first = static_cast<std::size_t>(round + 1) * 64 * 1009;
      const RunResult result = engine.Run(thread, streams[index], first, until,
                                          latencies == nullptr ? nullptr : &of_thread[index]);
      steps += result.steps;
      wrong += result.wrong;
    });
    wrong_ += wrong;
    if (latencies != nullptr) {
      for (const Latencies& each : of_thread) latencies->Merge(each);
    }
    return static_cast<double>(steps.load()) / taken;
  }

  // The best of its ways for reads of the same keys.
  double RunCeiling(const std::vector<std::vector<Step>>& streams, int threads) {
    if (ceiling_ == nullptr) {
      ceiling_ = std::make_unique<Ceiling>(
          Ceiling::Sizes{.bucket_count = BucketCountFor(settings_.key_count),
                         .record_count = settings_.key_count});
    }
    std::vector<std::vector<std::uint64_t>> keys(static_cast<std::size_t>(threads));
    for (std::size_t thread = 0; thread < keys.size(); ++thread) {
      for (const Step& step : streams[thread]) keys[thread].push_back(step.key);
    }
    double best = 0.0;
    for (const Ceiling::Way& way : Ceiling::Ways()) {
      std::atomic<std::uint64_t> sink{0};
      const double taken = RunTeam(threads, [&](int thread) {
        sink += ceiling_->Run(way, Verb::kRead, keys[static_cast<std::size_t>(thread)]);
      });
      best = std::max(best, static_cast<double>(keys[0].size() * keys.size()) / taken);
    }
    return best;
  }

  // The best of ebb's over another's, round by round.
  static double RatioOver(const Case& each, const Samples& other) {
    double best = 0.0;
    for (const char* name : {"ebb", "ebb batched", "ebb promoting"}) {
      const auto own = each.per_second.find(name);
      if (own != each.per_second.end()) {
        best = std::max(best, Median(PairedRatios(own->second, other)));
      }
    }
    return best;
  }

  void Print() const {
    std::vector<std::string> columns;
    for (const EngineKind& kind : kEngines) {
      if (described_.count(kind.name) != 0) columns.emplace_back(kind.name);
    }
    columns.emplace_back("ceiling");
    std::string head = "| million steps a second (ebb's best over it) |";
    std::string rule = "|---|";
    for (const std::string& column : columns) {
      head += " " + column + " |";
      rule += "---|";
    }
    fmt::print("{}\n{}\n", head, rule);
    for (const Case& each : cases_) {
      std::string line = "| " + each.name + " |";
      for (const std::string& column : columns) {
        const auto found = each.per_second.find(column);
        if (found == each.per_second.end()) {
          line += " |";
          continue;
        }
        const double millions = Median(found->second) / 1e6;
        line += column.starts_with("ebb")
                    ? fmt::format(" {:.3g} |", millions)
                    : fmt::format(" {:.3g} ({:.2f}x) |", millions, RatioOver(each, found->second));
      }
      fmt::print("{}\n", line);
    }
    fmt::print(
        "\n| latency in microseconds, of calls / of moments | p50 | p99 | p99.9 | most |\n"
        "|---|---|---|---|---|\n");
    for (const Case& each : cases_) {
      for (const auto& [engine, latencies] : each.latencies) {
        fmt::print("| {}: {} |", each.name, engine);
        for (const double beyond : {0.5, 0.01, 0.001}) {
          fmt::print(" {:.2f} / {:.2f} |", latencies.ByCalls(beyond) / 1000,
                     latencies.ByMoments(beyond) / 1000);
        }
        fmt::print(" {:.0f} |\n", latencies.Most() / 1000);
      }
    }
    fmt::print("\n* {} keys, {} rounds of {} s, {} processors\n", settings_.key_count,
               settings_.rounds, seconds_, ProcessorCount());
    for (const auto& [name, settings] : described_) fmt::print("* {}: {}\n", name, settings);
  }

  void WriteJson() const {
    std::ofstream file(json_path_);
    file << fmt::format("{{\"keys\": {}, \"rounds\": {}, \"seconds\": {}, \"cases\": [",
                        settings_.key_count, settings_.rounds, seconds_);
    const char* comma = "";
    for (const Case& each : cases_) {
      file << comma << fmt::format("\n  {{\"case\": \"{}\", \"per_second\": {{", each.name);
      comma = ",";
      const char* inner = "";
      for (const auto& [engine, samples] : each.per_second) {
        file << inner << fmt::format("\"{}\": [", engine);
        inner = ", ";
        for (std::size_t i = 0; i < samples.size(); ++i) {
          file << fmt::format("{}{:.0f}", i == 0 ? "" : ", ", samples[i]);
        }
        file << "]";
      }
      file << "}}";
    }
    file << "\n]}\n";
    if (!file.flush()) Abort("ebb_compare", "cannot write " + json_path_);
  }

  const Settings settings_;
  const double seconds_;
  const std::string json_path_;
  std::vector<Case> cases_;
  std::map<std::string, std::string> described_;
  std::unique_ptr<Ceiling> ceiling_;
  std::uint64_t wrong_ = 0;
};

}  // namespace
}  // namespace ebb::bench

int main(int argc, char** argv) {
  using namespace ebb::bench;
  // Its own flags; the rest are the report's, with sizes that end within five minutes.
  std::string json_path;
  double seconds = 0.1;
  char keys[] = "--keys=1000000";
  char rounds[] = "--rounds=3";
  std::vector<char*> others = {argv[0], keys, rounds};
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--json=")) {
      json_path = argument.substr(7);
    } else if (argument.starts_with("--seconds=")) {
      seconds = std::max(0.001, std::strtod(argv[i] + 10, nullptr));
    } else {
      others.push_back(argv[i]);
    }
  }
  const Settings settings = SettingsFromArguments(static_cast<int>(others.size()), others.data());
  Comparison(settings, seconds, json_path).Run();
  return 0;
}
