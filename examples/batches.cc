// Batches: many keys in one call, with the results of single calls in the same order. In memory
// they are faster, and their device reads overlap.
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ebb/ebb.h"

int main() {
  using Store = ebb::Store<std::uint64_t, std::uint64_t>;
  Store store = ebb::Must(Store::OpenInMemory());
  Store::Session session = store.NewSession();

  std::vector<std::uint64_t> keys(1000);
  std::iota(keys.begin(), keys.end(), 0);
  std::vector<std::uint64_t> values(keys.size(), 1);
  std::vector<absl::Status> results(keys.size());
  bool right = session.UpsertBatch(keys, values, results) == keys.size();

  // The function takes the index of the item and its value.
  const auto add_key = [&keys](std::size_t i, std::uint64_t& value) { value += keys[i]; };
  right &= session.RmwBatch(keys, add_key, results) == keys.size();

  // The status of an item shows whether its key was present.
  keys[999] = 12'345;
  right &= session.ReadBatch(keys, values, results) == 999 && absl::IsNotFound(results[999]);
  for (std::size_t i = 0; i < 999; ++i) right &= values[i] == keys[i] + 1;
  return right ? 0 : 1;
}
