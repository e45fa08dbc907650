// Load speed, memory at rest and the epoch guard. See report.h.
#include <fmt/core.h>

#include <string>
#include <vector>

#include "memory.h"
#include "report.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

// A store sized for its data: the records, and a sixteenth more for page ends and the open page.
StoreShape SizedShape(const Settings& settings, int thread_count) {
  const std::uint64_t data_bytes = settings.key_count * kIntegerRecordBytes;
  return {.key_count = settings.key_count,
          .log_memory_bytes = data_bytes + data_bytes / 16 + (std::uint64_t{2} << 20),
          .thread_count = thread_count};
}

struct AtRest {
  double stated_bytes;    // by Stats: log and index
  double resident_bytes;  // by the kernel
};

AtRest MeasureAtRest(const Settings& settings) {
  const Resident before = ResidentNow();
  IntegerSubject store(SizedShape(settings, 1));
  store.Load();
  const StoreStats stats = store.Stats();
  const auto per_key = [&](std::uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(settings.key_count);
  };
  return {per_key(stats.log_memory_bytes + stats.index_memory_bytes),
          per_key(ResidentNow().bytes - before.bytes)};
}

// Of each thread. The memory is touched for the first time then.
double LoadRate(const Settings& settings, int thread_count, bool in_batches) {
  IntegerSubject store({.key_count = settings.key_count,
                        .log_memory_bytes = RoomyLogBytes(settings.key_count, kIntegerRecordBytes),
                        .thread_count = thread_count});
  return static_cast<double>(settings.key_count) / store.Load(in_batches) / thread_count;
}

void AddAtRestRow(const Settings& settings, Table& table) {
  Samples resident;
  Samples stated;
  for (int round = 0; round < 2; ++round) {
    const AtRest at_rest = MeasureAtRest(settings);
    resident.push_back(at_rest.resident_bytes);
    stated.push_back(at_rest.stated_bytes);
  }
  table.Add({.name = "memory per 8-byte record at rest, index included",
             .figure = fmt::format("{:.3g} bytes resident", Median(resident)),
             .reference = fmt::format("by Stats: {:.3g} bytes", Median(stated)),
             .judged = resident,
             .unit = " bytes",
             .aim = Row::Aim::kAtMost,
             .target = 40.0});
}

void AddGuardRow(const Settings& settings, Table& table) {
  constexpr std::uint64_t kGuards = 20'000'000;
  const auto series = RunInTurn("load, epoch guard", settings.rounds,
                                {{"guard", [&](int) {
                                    return RunTeam(1, [](int) { GuardLoop(kGuards); }) * 1e9 /
                                           static_cast<double>(kGuards);
                                  }}});
  table.Add({.name = "epoch guard: enter and leave",
             .figure = fmt::format("{:.3g} ns", Median(series[0])),
             .reference = "",
             .judged = series[0],
             .unit = " ns",
             .aim = Row::Aim::kAtMost,
             .target = 1.0});
}

}  // namespace

void AddLoadRows(const Settings& settings, Table& table) {
  // First, while little else of this process is resident that could be reused.
  AddAtRestRow(settings, table);
  struct Way {
    std::string name;
    int thread_count;
    bool in_batches;
    double target;
  };
  const std::vector<Way> ways = {{"load, 1 thread", 1, false, 3.0},
                                 {"load, 2 threads, per thread", 2, false, 3.0},
                                 {"load in batches of 64, 1 thread", 1, true, 10.0},
                                 {"load in batches of 64, 2 threads, per thread", 2, true, 10.0}};
  std::vector<Contender> contenders;
  for (const Way& way : ways) {
    contenders.push_back({way.name, [&](int round) {
                            return round == 0
                                       ? 0.0
                                       : LoadRate(settings, way.thread_count, way.in_batches);
                          }});
  }
  const std::vector<Samples> series = RunInTurn("load", settings.rounds, contenders);
  for (std::size_t i = 0; i < ways.size(); ++i) {
    Samples millions = series[i];
    for (double& figure : millions) figure /= 1e6;
    table.Add({.name = ways[i].name,
               .figure = Millions(Median(series[i])),
               .reference = "",
               .judged = millions,
               .unit = " M/s",
               .aim = Row::Aim::kAtLeast,
               .target = ways[i].target});
  }
  AddGuardRow(settings, table);
}

}  // namespace ebb::bench
