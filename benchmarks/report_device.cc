// Reads and writes of data eight times the log memory, against plain ones of the same device. See
// report.h.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

#include "past_memory.h"
#include "report.h"
#include "sequential_read.h"
#include "team.h"

namespace ebb::bench {
namespace {

constexpr std::size_t kReadsPerSlice = 8'000;
constexpr std::size_t kBatchedReadsPerSlice = 100'000;
constexpr std::size_t kReadsOfABatch = 1024;
constexpr unsigned kDepths[] = {64, 128, 256};

// One slice in the store; also counts how many reads of the device it took.
struct StoreReads {
  double per_second = 0.0;
  double device_per_second = 0.0;
};

StoreReads ReadSlice(StringSubject& store, std::span<const StringKey> stream, int round) {
  const std::size_t length = std::min(kReadsPerSlice, stream.size());
  const std::size_t slices = stream.size() / length;
  const auto keys = stream.subspan(static_cast<std::size_t>(round) % slices * length, length);
  const std::uint64_t before = store.Metrics().device_reads;
  const double seconds = RunTeam(1, [&](int) {
    RequireAll(store.Read(StringRead::kReused, 0, keys), keys.size(), "read past memory");
  });
  const std::uint64_t device_reads = store.Metrics().device_reads - before;
  return {static_cast<double>(length) / seconds, static_cast<double>(device_reads) / seconds};
}

void AddRows(const std::string& name, const std::vector<Samples>& series,
             const Samples& device_reads, bool has_target, Table& table) {
  const std::string pread = fmt::format("pread at depth 1: {:.4g}/s", Median(series[1]));
  Row row{.name = fmt::format("reads past memory, {}, one synchronous session", name),
          .figure = fmt::format("{:.4g}/s", Median(series[0])),
          .reference = pread,
          .judged = PairedRatios(series[0], series[1])};
  if (has_target) {
    row.aim = Row::Aim::kAtLeast;
    row.target = 0.8;
  }
  table.Add(std::move(row));
  table.Add({.name = fmt::format("the same, {}, only reads that went to the device", name),
             .figure = fmt::format("{:.4g}/s", Median(device_reads)),
             .reference = pread,
             .judged = PairedRatios(device_reads, series[1])});
}

void AddSynchronousRows(const Settings& settings, PastMemory& past_memory, Table& table) {
  const auto pread_slice = [&past_memory](int) {
    const double seconds =
        RunTeam(1, [&](int) { Keep(past_memory.baseline().Run(kReadsPerSlice)); });
    return static_cast<double>(kReadsPerSlice) / seconds;
  };
  for (const Distribution distribution : {Distribution::kUniform, Distribution::kZipfian}) {
    const auto streams = MakeStringKeyStreams({.key_count = settings.string_key_count(),
                                               .length = kReadsPerSlice * 8,
                                               .distribution = distribution,
                                               .stream_count = 1});
    Samples device_reads;
    const auto store_slice = [&](int round) {
      const StoreReads reads = ReadSlice(past_memory.store(), streams[0], round);
      if (round > 0) device_reads.push_back(reads.device_per_second);
      return reads.per_second;
    };
    const auto series = RunInTurn(fmt::format("device, {}", NameOf(distribution)), settings.rounds,
                                  {{"ebb", store_slice}, {"pread", pread_slice}});
    AddRows(NameOf(distribution), series, device_reads, distribution == Distribution::kUniform,
            table);
  }
}

// Reads a second of one session in batches; no slice of the stream comes twice.
class BatchedReads {
 public:
  // Before the rounds come so many slices that warm the store up.
  BatchedReads(const Settings& settings, StringSubject& store, Distribution distribution,
               std::size_t warming)
      : store_(store),
        slice_(std::min<std::size_t>(kBatchedReadsPerSlice, settings.string_key_count())),
        warming_(warming),
        streams_(MakeStringKeyStreams({.key_count = settings.string_key_count(),
                                       .length = slice_ * (warming + settings.rounds + 1),
                                       .distribution = distribution,
                                       .stream_count = 1})) {
    for (std::size_t slice = 0; slice < warming; ++slice) RunSlice(slice);
  }
  std::size_t slice() const { return slice_; }
  double Run(int round) { return RunSlice(warming_ + static_cast<std::size_t>(round)); }

 private:
  double RunSlice(std::size_t which) {
    const auto keys = std::span(streams_[0]).subspan(which * slice_, slice_);
    const double seconds = RunTeam(1, [&](int) {
      RequireAll(store_.ReadBatched(0, keys, kReadsOfABatch), keys.size(), "batched past memory");
    });
    return static_cast<double>(slice_) / seconds;
  }

  StringSubject& store_;
  const std::size_t slice_;
  const std::size_t warming_;
  const std::vector<std::vector<StringKey>> streams_;
};

void AddBatchedRows(const Settings& settings, PastMemory& past_memory, Table& table) {
  fmt::print(stderr, "ebb_report: device: warming a store that promotes\n");
  PastMemory promoting(settings, /*promotes=*/true);
  BatchedReads uniform(settings, past_memory.store(), Distribution::kUniform, 0);
  BatchedReads zipf(settings, promoting.store(), Distribution::kZipfian, 24);
  Samples device_reads;
  const auto uniform_slice = [&](int round) {
    const std::uint64_t before = past_memory.store().Metrics().device_reads;
    const double per_second = uniform.Run(round);
    const auto reads = static_cast<double>(past_memory.store().Metrics().device_reads - before);
    if (round > 0)
      device_reads.push_back(reads / static_cast<double>(uniform.slice()) * per_second);
    return per_second;
  };
  bool ring = true;
  const auto deep_slice = [&](int) {
    double best = 0;
    for (const unsigned depth : kDepths) {
      const double seconds = RunTeam(
          1, [&](int) { ring = ring && past_memory.baseline().RunDeep(uniform.slice(), depth); });
      best = std::max(best, static_cast<double>(uniform.slice()) / seconds);
    }
    return best;
  };
  const auto series = RunInTurn("device, batched", settings.rounds,
                                {{"ebb", uniform_slice},
                                 {"deep", deep_slice},
                                 {"zipf", [&](int round) { return zipf.Run(round); }}});
  if (!ring) {
    table.AddNote("past memory: no io_uring here, so nothing to compare batched reads with");
    return;
  }
  table.Add({.name = "reads past memory, uniform, one session in batches, those of the device",
             .figure = fmt::format("{:.4g}/s", Median(device_reads)),
             .reference = fmt::format("best of depths 64, 128, 256: {:.4g}/s", Median(series[1])),
             .judged = PairedRatios(device_reads, series[1]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 0.95});
  table.Add({.name = "reads past memory, zipf, the same with promote_reads",
             .figure = fmt::format("{:.4g}/s", Median(series[2])),
             .reference = fmt::format("uniform: {:.4g}/s", Median(series[0])),
             .judged = PairedRatios(series[2], series[0]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 4.0});
}

// All keys again and again, each an append, and durable at the end.
void AddWriteRow(const Settings& settings, PastMemory& past_memory, Table& table) {
  StringSubject& store = past_memory.store();
  const bool direct = store.Stats().direct_io;
  std::uint64_t written = 0;
  const auto appends = [&](int) {
    const std::uint64_t before = store.Stats().tail_address;
    double seconds = 0;
    for (int pass = 0; pass < 3; ++pass) seconds += store.Load(/*in_batches=*/true);
    seconds += TimeOf([&] { store.Commit(); });
    // So few keys that all stay where they are: a smoke test.
    written = std::max(store.Stats().tail_address - before, std::uint64_t{1} << 20);
    return static_cast<double>(written) / seconds;
  };
  const auto plain = [&](int) {
    const std::string path = past_memory.folder() + "/plain";
    const double seconds = TimeOf([&] { WriteAll(path, written, direct); });
    std::filesystem::remove(path);
    return static_cast<double>(written) / seconds;
  };
  const auto series =
      RunInTurn("device, writes", settings.rounds, {{"ebb", appends}, {"plain", plain}});
  table.Add({.name = "writes past memory, batches of one thread, bytes of log made durable",
             .figure = fmt::format("{:.4g} MB/s", Median(series[0]) / 1e6),
             .reference = fmt::format("plain writes: {:.4g} MB/s", Median(series[1]) / 1e6),
             .judged = PairedRatios(series[0], series[1]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 0.8});
}

}  // namespace

void AddDeviceRows(const Settings& settings, Table& table) {
  fmt::print(stderr, "ebb_report: device: loading {} keys\n", settings.string_key_count());
  PastMemory past_memory(settings);
  AddSynchronousRows(settings, past_memory, table);
  AddBatchedRows(settings, past_memory, table);
  const StoreStats stats = past_memory.store().Stats();
  table.AddNote(fmt::format(
      "past memory: {} MiB of log on the device, {} MiB of log memory; store {}, baseline {}",
      (stats.head_address - stats.begin_address) >> 20, stats.log_memory_bytes >> 20,
      stats.direct_io ? "O_DIRECT" : "buffered",
      past_memory.baseline().direct() ? "O_DIRECT" : "buffered"));
  AddWriteRow(settings, past_memory, table);
}

}  // namespace ebb::bench
