#include "ebb/internal/ops/thread_session.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace ebb::internal {
namespace {

struct Entry {
  std::shared_ptr<Core> core;
  std::shared_ptr<void> session;  // destroyed before core
  const SessionState* state;      // the session's
};

// Set once this thread's list is gone: a call from the destructor of another object of the thread.
struct ListIsGone {
  bool value = false;
};

struct List {
  ~List() {
    LastSession() = {};
    ThreadSlot<ListIsGone>().value = true;
  }
  std::vector<Entry> entries;
};

// Takes idle sessions of closed stores out of the list.
std::vector<Entry> TakeDropped() {
  std::vector<Entry>& entries = ThreadSlot<List>().entries;
  const auto first = std::stable_partition(entries.begin(), entries.end(), [](const Entry& entry) {
    return !entry.core->epochs.closed() || !entry.state->idle() || entry.state->waiting();
  });
  std::vector<Entry> dropped(std::make_move_iterator(first),
                             std::make_move_iterator(entries.end()));
  entries.erase(first, entries.end());
  return dropped;
}

}  // namespace

void* FindThreadSession(const Core& core) {
  if (ThreadSlot<ListIsGone>().value) return nullptr;
  for (const Entry& entry : ThreadSlot<List>().entries) {
    if (entry.core.get() == &core) {
      LastSession() = {&core, entry.session.get()};
      return entry.session.get();
    }
  }
  return nullptr;
}

void KeepThreadSession(std::shared_ptr<Core> core, std::shared_ptr<void> session,
                       const SessionState& state) {
  // Remembered when it is kept, which may throw.
  const LastThreadSession last{core.get(), session.get()};
  if (ThreadSlot<ListIsGone>().value) {
    // No code will run after this thread's last destructors to free it.
    KeepForever(std::move(session));
    KeepForever(std::move(core));
    LastSession() = last;
    return;
  }
  std::vector<Entry> dropped = TakeDropped();
  ThreadSlot<List>().entries.push_back({std::move(core), std::move(session), &state});
  LastSession() = last;
  // The end of a session or a core may run user code, such as the destructor of an object that
  // GcOptions::progress has captured. That may call a store and so come back here: `dropped` is in
  // no list any more.
  dropped.clear();
}

}  // namespace ebb::internal
