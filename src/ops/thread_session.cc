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

// True once this thread's list is gone: a call from the destructor of another thread-local object.
constinit thread_local bool t_list_is_gone = false;

struct List {
  ~List() {
    t_last_session = {};
    t_list_is_gone = true;
  }
  std::vector<Entry> entries;
};
thread_local List t_list;

// Takes idle sessions of closed stores out of the list.
std::vector<Entry> TakeDropped() {
  std::vector<Entry>& entries = t_list.entries;
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
  if (t_list_is_gone) return nullptr;
  for (const Entry& entry : t_list.entries) {
    if (entry.core.get() == &core) {
      t_last_session = {&core, entry.session.get()};
      return entry.session.get();
    }
  }
  return nullptr;
}

void KeepThreadSession(std::shared_ptr<Core> core, std::shared_ptr<void> session,
                       const SessionState& state) {
  // Remembered when it is kept, which may throw.
  const LastThreadSession last{core.get(), session.get()};
  if (t_list_is_gone) {
    // No code will run after this thread's last destructors to free it.
    KeepForever(std::move(session));
    KeepForever(std::move(core));
    t_last_session = last;
    return;
  }
  std::vector<Entry> dropped = TakeDropped();
  t_list.entries.push_back({std::move(core), std::move(session), &state});
  t_last_session = last;
  // The end of a session or a core may run user code, such as the destructor of an object that
  // GcOptions::progress has captured. That may call a store and so come back here: `dropped` is in
  // no list any more.
  dropped.clear();
}

}  // namespace ebb::internal
