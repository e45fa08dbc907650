// Thread sessions: the sessions behind calls on the store itself, one for each thread and store.
//
// The last one used is found by comparing a thread-local pointer; others are in a short list. When
// a thread ends, its sessions end with it. Idle sessions of closed stores are dropped whenever one
// is added. So nothing leaks, and a closed store's memory is released soon. (A session that is not
// idle is in a callback, further up this thread's stack.)
//
// Thread safety: everything here belongs to the calling thread.
#pragma once

#include <memory>

#include "ebb/internal/base/platform.h"
#include "ebb/internal/ops/session_state.h"

namespace ebb::internal {

// Trivial, so that access needs no initialization check.
struct LastThreadSession {
  static constexpr char kNone = 0;
  const void* core = &kNone;  // a Core; never null, unlike that of a moved-from store
  void* session = nullptr;
};
inline LastThreadSession& LastSession() { return ThreadSlot<LastThreadSession>(); }

// Returns the calling thread's session of `core`, or null; remembers it as the last one.
void* FindThreadSession(const Core& core);
// Keeps `session` (whose type only the store knows, and which owns `state`) for the calling thread.
void KeepThreadSession(std::shared_ptr<Core> core, std::shared_ptr<void> session,
                       const SessionState& state);

}  // namespace ebb::internal
