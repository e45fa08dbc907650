// Sessions on a thread pool: a task borrows a session, whichever thread runs it. A session is used
// by one thread at a time, may move between threads, and costs nothing while it is idle.
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "ebb/ebb.h"

using Store = ebb::Store<std::uint64_t, std::uint64_t>;

class Sessions {
 public:
  explicit Sessions(Store& store) : store_(store) {}
  Store::Session Borrow() {
    const std::lock_guard lock(mu_);
    if (idle_.empty()) return store_.NewSession();
    Store::Session session = std::move(idle_.back());
    idle_.pop_back();
    return session;
  }
  void Return(Store::Session session) {
    const std::lock_guard lock(mu_);
    idle_.push_back(std::move(session));
  }

 private:
  Store& store_;
  std::mutex mu_;
  std::vector<Store::Session> idle_;
};

int main() {
  Store store = ebb::Must(Store::OpenInMemory());
  Sessions sessions(store);
  std::atomic<std::uint64_t> next_task{0};
  std::vector<std::thread> pool;
  for (int t = 0; t < 4; ++t) {
    pool.emplace_back([&] {
      for (std::uint64_t task = next_task++; task < 1000; task = next_task++) {
        Store::Session session = sessions.Borrow();
        ebb::Must(session.Rmw(task % 10, [](std::uint64_t& n) { ++n; }));
        sessions.Return(std::move(session));
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  bool right = true;
  for (std::uint64_t key = 0; key < 10; ++key) right &= ebb::Must(store.Read(key)) == 100;
  return right ? 0 : 1;
}
