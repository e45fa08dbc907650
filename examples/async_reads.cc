// Asynchronous reads: one thread keeps many device reads in flight. The records need 12 MiB, the
// log has 1 MiB of memory.
#include <cstdint>
#include <string>

#include "ebb/ebb.h"
#include "fresh_directory.h"

int main() {
  using Store = ebb::Store<std::uint64_t, std::string>;
  const FreshDirectory directory;
  constexpr std::uint64_t kKeys = 10'000;
  Store store = ebb::Must(Store::Open(directory / "a.ebb", {.log_memory_bytes = 1 << 20}));
  Store::Session session = store.NewSession();
  const auto value_of = [](std::uint64_t key) {
    return std::string(1200, 'a') + std::to_string(key);
  };
  for (std::uint64_t key = 0; key < kKeys; ++key) ebb::Must(session.Upsert(key, value_of(key)));

  std::uint64_t right = 0;
  std::uint64_t reads = 0;
  for (std::uint64_t key = 1; key < kKeys; key += 7, ++reads) {
    // The callback runs exactly once: here, if the record is in memory, or in a later call.
    session.ReadAsync(key, [&right, &value_of, key](absl::StatusOr<std::string> value) {
      right += value.ok() && *value == value_of(key) ? 1 : 0;
    });
  }
  session.CompletePending(true);  // runs the callbacks that are left
  return right == reads && store.Metrics().reads_from_device > 0 ? 0 : 1;
}
