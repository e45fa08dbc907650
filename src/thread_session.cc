#include "ebb/internal/thread_session.h"

#include <algorithm>
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
  t_last_session = {core.get(), session.get()};
  if (t_list_is_gone) {
    // Nobody will run after this thread's last destructors to free it.
    static_cast<void>(new Entry{std::move(core), std::move(session), &state});
    return;
  }
  std::erase_if(t_list.entries, [](const Entry& entry) {
    return entry.core->epochs.closed() && entry.state->idle() && !entry.state->waiting();
  });
  t_list.entries.push_back({std::move(core), std::move(session), &state});
}

}  // namespace ebb::internal
