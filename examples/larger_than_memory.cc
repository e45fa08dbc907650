// Larger than memory: 24 MiB of records with 1 MiB of memory for the log. No call changes; records
// that have left memory are read from the device.
#include <cstdint>
#include <string>

#include "ebb/ebb.h"
#include "fresh_directory.h"

int main() {
  using Store = ebb::Store<std::uint64_t, std::string>;
  const FreshDirectory directory;
  constexpr std::uint64_t kKeys = 20'000;
  const ebb::Options options{.log_memory_bytes = 1 << 20};
  Store store = ebb::Must(Store::Open(directory / "large.ebb", options));
  Store::Session session = store.NewSession();
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    ebb::Must(session.Upsert(key, std::string(1200, static_cast<char>('a' + key % 26))));
  }
  bool right = true;
  std::string value;  // its memory is reused
  for (std::uint64_t key = 0; key < kKeys; key += 10) {
    ebb::Must(session.Read(key, value));
    right &= value == std::string(1200, static_cast<char>('a' + key % 26));
  }
  const ebb::StoreStats stats = store.Stats();
  right &= stats.device_bytes > 20 << 20 && stats.log_memory_bytes <= 1 << 20;
  ebb::Must(store.Close());
  return right ? 0 : 1;
}
