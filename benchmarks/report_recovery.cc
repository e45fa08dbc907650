// Opening a store again, from its log alone and from a checkpoint, against reading the same files
// from first to last byte. See report.h.
#include <fmt/core.h>

#include <filesystem>

#include "report.h"
#include "sequential_read.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

// A store is closed while its files are measured, and opened again by each round.
template <typename Subject>
class Reopened {
 public:
  // Writes all keys again and again until the log is as long as wanted.
  Reopened(const Settings& settings, const char* name, std::uint64_t key_count)
      : folder_(settings, name),
        shape_{.key_count = key_count,
               .log_memory_bytes = std::max(settings.recovery_log_bytes() / 4, kMinBytes),
               .thread_count = 1,
               .directory = folder_.path()} {
    Subject store(shape_);
    do {
      store.Load();
      store.Commit();  // so that the next pass appends
    } while (LogBytes(store.Stats()) < settings.recovery_log_bytes());
  }

  void MakeCheckpoint() {
    Subject store(shape_);
    store.Checkpoint();
  }

  // An image of the index and what names it.
  std::vector<std::string> CheckpointFiles() const {
    std::vector<std::string> files = FilesOf(folder_.path(), "index-");
    for (std::string& file : FilesOf(folder_.path(), "manifest-")) files.push_back(std::move(file));
    return files;
  }
  std::vector<std::string> LogFiles() const { return FilesOf(folder_.path(), "log-"); }

  struct Opening {
    double seconds = 0.0;
    std::uint64_t log_bytes = 0;   // of the whole log
    std::uint64_t read_bytes = 0;  // of the log
    std::uint64_t record_count = 0;
    bool direct = false;
  };
  Opening Open() const {
    DropFromCache(LogFiles());
    DropFromCache(CheckpointFiles());
    std::unique_ptr<Subject> store;
    Opening opening;
    opening.seconds = TimeOf([&] { store = std::make_unique<Subject>(shape_); });
    const StoreStats stats = store->Stats();
    opening.log_bytes = LogBytes(stats);
    opening.read_bytes = store->Recovery().verified_bytes;
    opening.record_count = store->Recovery().replayed_records;
    opening.direct = stats.direct_io;
    return opening;
  }

 private:
  static constexpr std::uint64_t kMinBytes = std::uint64_t{1} << 20;

  static std::uint64_t LogBytes(const StoreStats& stats) {
    return stats.tail_address - stats.begin_address;
  }

  ScratchFolder folder_;
  StoreShape shape_;
};

// Bytes per second of reading the files.
double PlainRate(const std::vector<std::string>& files, bool direct) {
  DropFromCache(files);
  std::uint64_t bytes = 0;
  const double seconds = TimeOf([&] { bytes = ReadAll(files, direct); });
  return static_cast<double>(bytes) / seconds;
}

std::string Megabytes(double per_second) { return fmt::format("{:.4g} MB/s", per_second / 1e6); }

template <typename Subject>
void AddLogRow(const Settings& settings, const std::string& what, const Reopened<Subject>& store,
               Table& table) {
  typename Reopened<Subject>::Opening opening;
  const auto series =
      RunInTurn(fmt::format("recovery, {}, from the log", what), settings.rounds,
                {{"ebb",
                  [&](int) {
                    opening = store.Open();
                    return static_cast<double>(opening.read_bytes) / opening.seconds;
                  }},
                 {"read", [&](int) { return PlainRate(store.LogFiles(), opening.direct); }}});
  table.Add({.name = fmt::format("opening from {:.3g} MB of log, {}",
                                 static_cast<double>(opening.read_bytes) / 1e6, what),
             .figure = Megabytes(Median(series[0])),
             .reference = "reading the log files: " + Megabytes(Median(series[1])),
             .judged = PairedRatios(series[0], series[1]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 0.8});
  table.AddNote(fmt::format(
      "opening, {}: {} records; {}", what, opening.record_count,
      opening.direct ? "O_DIRECT, the plain reads too" : "buffered, dropped from the cache first"));
}

template <typename Subject>
void AddCheckpointRows(const Settings& settings, const std::string& what,
                       const Reopened<Subject>& store, Table& table) {
  typename Reopened<Subject>::Opening opening;
  Samples whole_log;  // bytes of the whole log per second
  const std::vector<std::string> files = store.CheckpointFiles();
  std::uint64_t file_bytes = 0;
  for (const std::string& file : files) file_bytes += std::filesystem::file_size(file);
  const auto series =
      RunInTurn(fmt::format("recovery, {}, from a checkpoint", what), settings.rounds,
                {{"ebb",
                  [&](int round) {
                    opening = store.Open();
                    const auto log_bytes = static_cast<double>(opening.log_bytes);
                    if (round > 0) whole_log.push_back(log_bytes / opening.seconds);
                    return static_cast<double>(file_bytes + opening.read_bytes) / opening.seconds;
                  }},
                 {"log", [&](int) { return PlainRate(store.LogFiles(), opening.direct); }},
                 // The store reads these through the page cache.
                 {"read", [&](int) { return PlainRate(files, false); }}});
  table.Add({.name = fmt::format("opening from a checkpoint of the same, {}", what),
             .figure = Megabytes(Median(whole_log)) + " of log",
             .reference = "reading the log files: " + Megabytes(Median(series[1])),
             .judged = PairedRatios(whole_log, series[1]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 0.8});
  table.Add(
      {.name = fmt::format("the same, bytes that it read ({:.3g} MB of checkpoint, {:.3g} of log)",
                           static_cast<double>(file_bytes) / 1e6,
                           static_cast<double>(opening.read_bytes) / 1e6),
       .figure = Megabytes(Median(series[0])),
       .reference = "reading the checkpoint's files: " + Megabytes(Median(series[2])),
       .judged = PairedRatios(series[0], series[2])});
}

template <typename Subject>
void AddRowsFor(const Settings& settings, const std::string& what, std::uint64_t key_count,
                Table& table) {
  fmt::print(stderr, "ebb_report: recovery: writing {} MB of log, {}\n",
             settings.recovery_log_bytes() / 1'000'000, what);
  Reopened<Subject> store(settings, "recovery", key_count);
  AddLogRow(settings, what, store, table);
  store.MakeCheckpoint();
  AddCheckpointRows(settings, what, store, table);
}

}  // namespace

void AddRecoveryRows(const Settings& settings, Table& table) {
  AddRowsFor<StringSubject>(settings, "100-byte values", settings.string_key_count(), table);
  AddRowsFor<IntegerSubject>(settings, "8-byte values", settings.key_count, table);
}

}  // namespace ebb::bench
