#include "bench_util.h"
#include "subjects.h"
#include "team.h"

namespace ebb::bench {
namespace {

StringSubject& LoadedStore() {
  static StringSubject* const subject = [] {
    const std::uint64_t key_count = BenchSettings().string_key_count();
    auto* const opened =
        new StringSubject({.key_count = key_count,
                           .log_memory_bytes = RoomyLogBytes(key_count, kStringRecordBytes),
                           .thread_count = BenchSettings().threads_max});
    opened->Load();
    return opened;
  }();
  return *subject;
}

std::span<const StringKey> StreamFor(const benchmark::State& state, Distribution distribution) {
  return StringKeyStreams(distribution)[static_cast<std::size_t>(state.thread_index())];
}

// Guards: 16-byte keys and 100-byte values are read several times faster than from a B+ tree, and
// a reused string saves the allocation that StatusOr pays.
void BM_String_Read(benchmark::State& state, StringRead way, Distribution distribution) {
  StringSubject& store = LoadedStore();
  ChunkCursor<StringKey> cursor(StreamFor(state, distribution));
  const PinnedScope pinned(state.thread_index());
  while (state.KeepRunningBatch(ChunkCursor<StringKey>::kChunk)) {
    const auto keys = cursor.Next();
    RequireAll(store.Read(way, state.thread_index(), keys), keys.size(), "string read");
  }
  state.SetItemsProcessed(state.iterations());
}

// Guards: a value of the same size is replaced in place under its record's lock, without an append.
void BM_String_Upsert(benchmark::State& state, Distribution distribution) {
  StringSubject& store = LoadedStore();
  ChunkCursor<StringKey> cursor(StreamFor(state, distribution));
  const PinnedScope pinned(state.thread_index());
  while (state.KeepRunningBatch(ChunkCursor<StringKey>::kChunk)) {
    const auto keys = cursor.Next();
    RequireAll(store.Upsert(state.thread_index(), keys), keys.size(), "string upsert");
  }
  state.SetItemsProcessed(state.iterations());
}

}  // namespace

void RegisterStringBenchmarks() {
  const std::string keys = "/keys:" + std::to_string(BenchSettings().string_key_count()) +
                           "/value_bytes:" + std::to_string(kStringValueBytes);
  for (const Distribution distribution : kDistributions) {
    const std::string suffix = keys + "/dist:" + NameOf(distribution);
    for (const StringRead way : kStringReads) {
      benchmark::RegisterBenchmark(("BM_String_Read/into:" + (NameOf(way) + suffix)).c_str(),
                                   BM_String_Read, way, distribution)
          ->ThreadRange(1, BenchSettings().threads_max)
          ->UseRealTime();
    }
    benchmark::RegisterBenchmark(("BM_String_Upsert" + suffix).c_str(), BM_String_Upsert,
                                 distribution)
        ->ThreadRange(1, BenchSettings().threads_max)
        ->UseRealTime();
  }
}

}  // namespace ebb::bench
