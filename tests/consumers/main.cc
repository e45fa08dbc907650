// The program of every outside project here: uses a store the way a stranger would, in the
// directory it is given, and fails if a value is wrong.
#include <ebb/store.h>

#include <cstdint>
#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  using Store = ebb::Store<std::string, std::uint64_t>;
  if (argc != 2) return 2;
  for (std::uint64_t round = 1; round <= 2; ++round) {
    Store store = ebb::Must(Store::Open(argv[1], {.log_memory_bytes = 1 << 20}));
    ebb::Must(store.Rmw("rounds", [](std::uint64_t& n) { n += 1; }));
    const std::uint64_t rounds = ebb::Must(store.Read("rounds"));
    std::printf("round %d: read %d\n", static_cast<int>(round), static_cast<int>(rounds));
    if (rounds != round) return 1;
    ebb::Must(store.Close());
  }
  return 0;
}
