// Strings of 16 and 100 bytes in memory, against other engines. See report.h.
#include <fmt/core.h>

#include "peers.h"
#include "report.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

using Streams = std::vector<std::vector<StringKey>>;

// Slices long enough for the fast ones, short enough for the slow one.
constexpr std::size_t kReadsPerSlice = 400'000;
constexpr std::size_t kWritesPerSlice = 200'000;

std::span<const StringKey> Slice(const Streams& streams, std::size_t length, int round) {
  const std::span<const StringKey> stream = streams[0];
  length = std::min(length, stream.size());
  const std::size_t slices = stream.size() / length;
  return stream.subspan(static_cast<std::size_t>(round) % slices * length, length);
}

Contender Timed(std::string name, const Streams& streams, std::size_t length,
                std::function<Tally(std::span<const StringKey>)> body) {
  return {name, [name, &streams, length, body = std::move(body)](int round) {
            const std::span<const StringKey> keys = Slice(streams, length, round);
            const double seconds =
                RunTeam(1, [&](int) { RequireAll(body(keys), keys.size(), name.c_str()); });
            return static_cast<double>(keys.size()) / seconds;
          }};
}

void AddReadRows(const std::vector<Samples>& ebb, const Samples& lmdb, Table& table) {
  for (const StringRead way : kStringReads) {
    const Samples& samples = ebb[static_cast<std::size_t>(way)];
    Row row{.name = fmt::format("strings, read uniform, {}", NameOf(way)),
            .figure = Millions(Median(samples)),
            .reference = "LMDB: " + Millions(Median(lmdb)),
            .judged = PairedRatios(samples, lmdb)};
    if (way != StringRead::kVisitor) {
      row.aim = Row::Aim::kAtLeast;
      row.target = way == StringRead::kStatusOr ? 3.0 : 6.0;
    }
    table.Add(std::move(row));
  }
}

void RunReads(const Settings& settings, StringSubject& store, const Streams& streams,
              Table& table) {
  const ScratchFolder folder(settings, "lmdb");
  const auto lmdb = MakeLmdbPeer(folder.path(), settings.string_key_count());
  std::vector<Contender> contenders;
  for (const StringRead way : kStringReads) {
    contenders.push_back(Timed(NameOf(way), streams, kReadsPerSlice,
                               [&store, way](auto keys) { return store.Read(way, 0, keys); }));
  }
  if (lmdb == nullptr) {
    table.AddNote("LMDB was not found at configure time: no ratio of string reads");
    return;
  }
  contenders.push_back(Timed("batched", streams, kReadsPerSlice, [&store](auto keys) {
    return store.ReadBatched(0, keys, kBatchKeys);
  }));
  contenders.push_back(
      Timed("LMDB", streams, kReadsPerSlice, [&lmdb](auto keys) { return lmdb->Read(keys); }));
  const auto series = RunInTurn("strings, reads", settings.rounds, contenders);
  AddReadRows(series, series.back(), table);
  const Samples& batched = series[series.size() - 2];
  table.Add({.name = "strings, read uniform, batches of 64 into reused strings",
             .figure = Millions(Median(batched)),
             .reference = "LMDB: " + Millions(Median(series.back())),
             .judged = PairedRatios(batched, series.back()),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 18.0});
  table.AddNote(lmdb->Describe());
}

void RunWrites(const Settings& settings, StringSubject& store, const Streams& streams,
               Table& table) {
  fmt::print(stderr, "ebb_report: strings: loading RocksDB\n");
  const ScratchFolder folder(settings, "rocksdb");
  const auto rocksdb = MakeRocksDbPeer(folder.path(), settings.string_key_count());
  if (rocksdb == nullptr) {
    table.AddNote("RocksDB was not found at configure time: no ratio of string writes");
    return;
  }
  const auto series = RunInTurn("strings, writes", settings.rounds,
                                {Timed("ebb", streams, kWritesPerSlice,
                                       [&store](auto keys) { return store.Upsert(0, keys); }),
                                 Timed("RocksDB", streams, kWritesPerSlice,
                                       [&rocksdb](auto keys) { return rocksdb->Upsert(keys); })});
  table.Add({.name = "strings, upsert uniform",
             .figure = Millions(Median(series[0])),
             .reference = "RocksDB: " + Millions(Median(series[1])),
             .judged = PairedRatios(series[0], series[1]),
             .unit = "",
             .aim = Row::Aim::kAtLeast,
             .target = 40.0});
  table.AddNote(rocksdb->Describe());
}

}  // namespace

void AddStringRows(const Settings& settings, Table& table) {
  fmt::print(stderr, "ebb_report: strings: loading {} keys\n", settings.string_key_count());
  StringSubject store(
      {.key_count = settings.string_key_count(),
       .log_memory_bytes = RoomyLogBytes(settings.string_key_count(), kStringRecordBytes),
       .thread_count = 1});
  store.Load();
  const Streams streams = MakeStringKeyStreams({.key_count = settings.string_key_count(),
                                                .length = settings.string_key_count(),
                                                .distribution = Distribution::kUniform,
                                                .stream_count = 1});
  RunReads(settings, store, streams, table);
  RunWrites(settings, store, streams, table);
  table.AddNote("ebb: strings in a store without files, keys of 16 and values of 100 bytes");
}

}  // namespace ebb::bench
