// Scans: each key once, in no order, with the value that it had when the scan was created.
#include <cstdint>
#include <string>
#include <string_view>

#include "ebb/ebb.h"

int main() {
  using Store = ebb::Store<std::string, std::uint64_t>;
  Store store = ebb::Must(Store::OpenInMemory());
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ebb::Must(store.Upsert((i % 4 == 0 ? "user/" : "item/") + std::to_string(i), i));
  }

  std::uint64_t sum = 0;
  ebb::Must(store.Scan([&sum](std::string_view, std::uint64_t value) { sum += value; }));

  std::uint64_t users = 0;
  ebb::Must(store.ScanPrefix("user/", [&users](std::string_view, std::uint64_t) { ++users; }));

  // An iterator. Updates during the scan are allowed and are not shown.
  bool is_unchanged = true;
  auto scan = store.NewScan();
  while (scan.Next()) {
    is_unchanged &= scan.value() < 1000;
    ebb::Must(store.Upsert(scan.key(), scan.value() + 1000));
  }
  ebb::Must(scan.status());  // not OK if the scan ended early
  return sum == 499'500 && users == 250 && is_unchanged ? 0 : 1;
}
