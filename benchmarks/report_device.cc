// Reads of data eight times the log memory, against pread on the same files. See report.h.
#include <fmt/core.h>

#include "past_memory.h"
#include "report.h"
#include "team.h"

namespace ebb::bench {
namespace {

constexpr std::size_t kReadsPerSlice = 8'000;

// One slice in the store; also counts how many reads of the device it took.
struct StoreReads {
  double per_second = 0.0;
  double device_per_second = 0.0;
};

StoreReads ReadSlice(StringSubject& store, std::span<const StringKey> stream, int round) {
  const std::size_t length = std::min(kReadsPerSlice, stream.size());
  const std::size_t slices = stream.size() / length;
  const auto keys = stream.subspan(static_cast<std::size_t>(round) % slices * length, length);
  const std::uint64_t before = store.Stats().device_read_count;
  const double seconds = RunTeam(1, [&](int) {
    RequireAll(store.Read(StringRead::kReused, 0, keys), keys.size(), "read past memory");
  });
  const std::uint64_t device_reads = store.Stats().device_read_count - before;
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

}  // namespace

void AddDeviceRows(const Settings& settings, Table& table) {
  fmt::print(stderr, "ebb_report: device: loading {} keys\n", settings.string_key_count());
  PastMemory past_memory(settings);
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
  const StoreStats stats = past_memory.store().Stats();
  table.AddNote(fmt::format(
      "past memory: {} MiB of log on the device, {} MiB of log memory; store {}, baseline {}",
      (stats.head_address - stats.begin_address) >> 20, stats.log_memory_bytes >> 20,
      stats.direct_io ? "O_DIRECT" : "buffered",
      past_memory.baseline().direct() ? "O_DIRECT" : "buffered"));
}

}  // namespace ebb::bench
