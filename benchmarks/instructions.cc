// ebb_instructions: runs one loop of single operations, for callgrind to count. See
// instructions.sh.
//
//   ebb_instructions store|empty read|upsert|rmw KEYS
//
// `empty` runs the same loop on no store: what the loop and its checks cost by themselves.
#include <cstdlib>
#include <cstring>

#include "subjects.h"

namespace ebb::bench {
namespace {

// Callgrind collects inside this function only.
[[gnu::noinline]] Tally CountedLoop(IntegerSubject* store, Verb verb,
                                    std::span<const std::uint64_t> keys) {
  if (store != nullptr) return store->Run(verb, 0, keys);
  NoSession none;
  if (verb == Verb::kRead) return ReadLoop(none, keys);
  return verb == Verb::kUpsert ? UpsertLoop(none, keys) : RmwLoop(none, keys);
}

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s store|empty read|upsert|rmw KEYS\n", argv[0]);
    return 2;
  }
  const std::uint64_t key_count = std::strtoull(argv[3], nullptr, 10);
  std::unique_ptr<IntegerSubject> store;
  if (std::strcmp(argv[1], "store") == 0) {
    store.reset(
        new IntegerSubject({.key_count = key_count, .log_memory_bytes = std::uint64_t{16} << 20}));
    store->Load();
  }
  const auto streams = MakeKeyStreams({.key_count = key_count, .length = key_count});
  for (const Verb verb : kVerbs) {
    if (std::strcmp(argv[2], NameOf(verb)) != 0) continue;
    RequireAll(CountedLoop(store.get(), verb, streams[0]), key_count, argv[2]);
    return 0;
  }
  std::fprintf(stderr, "unknown operation: %s\n", argv[2]);
  return 2;
}

}  // namespace
}  // namespace ebb::bench

int main(int argc, char** argv) { return ebb::bench::Main(argc, argv); }
