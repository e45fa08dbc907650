// A full disk: updates fail with ResourceExhausted, everything else works, and updates continue as
// soon as there is space. A limit on the size of files stands in for the disk.
#include <sys/resource.h>

#include <cstdint>
#include <string>

#include "ebb/ebb.h"
#include "fresh_directory.h"

void LimitFiles(rlim_t bytes) {
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
  setrlimit(RLIMIT_FSIZE, &limit);
}

int main() {
  using Store = ebb::Store<std::uint64_t, std::string>;
  const FreshDirectory directory;
  const std::string value(10'000, 'v');
  Store store = ebb::Must(Store::Open(directory / "store.ebb", {.log_memory_bytes = 1 << 20}));

  LimitFiles(32 << 20);
  std::uint64_t key = 0;
  absl::Status status;
  while (key < 10'000 && (status = store.Upsert(key, value)).ok()) ++key;
  bool right = absl::IsResourceExhausted(status) && ebb::IsRecoverable(status) && key > 1000;
  ebb::Must(store.Commit());  // every update that returned OK is durable
  right &= ebb::Must(store.Read(0)) == value && ebb::Must(store.Read(key - 1)) == value;
  ebb::Must(store.Delete(0));

  LimitFiles(RLIM_INFINITY);  // more space: the same call succeeds, without reopening
  ebb::Must(store.Upsert(key, value));
  ebb::Must(store.Close());
  return right ? 0 : 1;
}
