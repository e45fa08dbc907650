// ebb_instructions: runs one loop of operations, for callgrind to count. See instructions.sh.
//
//   ebb_instructions store|empty single|called|batched read|upsert|rmw KEYS
//
// `empty` runs the same loop on no store: what the loop and its checks cost by themselves.
#include <array>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "subjects.h"

namespace ebb::bench {
namespace {

Tally EmptyLoop(Verb verb, std::string_view form, std::span<const std::uint64_t> keys) {
  NoSession none;
  if (form == "single") return RunLoop(none, verb, keys);
  if (form == "called") {
    OutOfLine<NoSession> calls{none};
    return RunLoop(calls, verb, keys);
  }
  std::array<NoSession::Ok, kBatchKeys> results;
  if (verb == Verb::kRead) return ReadBatchLoop(none, keys, results);
  return verb == Verb::kUpsert ? UpsertBatchLoop(none, keys, results)
                               : RmwBatchLoop(none, keys, results);
}

// Callgrind collects inside this function only.
[[gnu::noinline]] Tally CountedLoop(IntegerSubject* store, Verb verb, std::string_view form,
                                    std::span<const std::uint64_t> keys) {
  if (store == nullptr) return EmptyLoop(verb, form, keys);
  if (form == "batched") return store->RunBatched(verb, 0, keys);
  return form == "called" ? store->RunOutOfLine(verb, 0, keys) : store->Run(verb, 0, keys);
}

int Main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s store|empty single|called|batched read|upsert|rmw KEYS\n",
                 argv[0]);
    return 2;
  }
  const std::uint64_t key_count = std::strtoull(argv[4], nullptr, 10);
  std::unique_ptr<IntegerSubject> store;
  if (std::strcmp(argv[1], "store") == 0) {
    store.reset(
        new IntegerSubject({.key_count = key_count, .log_memory_bytes = std::uint64_t{16} << 20}));
    store->Load();
  }
  const auto streams = MakeKeyStreams({.key_count = key_count, .length = key_count});
  for (const Verb verb : kVerbs) {
    if (std::strcmp(argv[3], NameOf(verb)) != 0) continue;
    RequireAll(CountedLoop(store.get(), verb, argv[2], streams[0]), key_count, argv[3]);
    return 0;
  }
  std::fprintf(stderr, "unknown operation: %s\n", argv[3]);
  return 2;
}

}  // namespace
}  // namespace ebb::bench

int main(int argc, char** argv) { return ebb::bench::Main(argc, argv); }
