// Counters: several threads count events. Each thread has a session; each event is one Rmw.
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "ebb/ebb.h"
#include "fresh_directory.h"

int main() {
  using Counters = ebb::Store<std::string, std::uint64_t>;
  const FreshDirectory directory;
  {
    Counters store = ebb::Must(Counters::Open(directory / "counters.ebb"));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&store] {
        Counters::Session session = store.NewSession();
        for (int i = 0; i < 10'000; ++i) {  // an absent key starts from 0
          ebb::Must(session.Rmw("page " + std::to_string(i % 100), [](std::uint64_t& n) { ++n; }));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ebb::Must(store.Close());
  }
  Counters store = ebb::Must(Counters::Open(directory / "counters.ebb"));
  std::uint64_t sum = 0;
  ebb::Must(store.Scan([&sum](std::string_view, std::uint64_t n) { sum += n; }));
  return sum == 40'000 && ebb::Must(store.Read("page 7")) == 400 ? 0 : 1;
}
