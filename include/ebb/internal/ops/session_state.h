// SessionState: the state of one session.
//
// Stand-ins. NewSession() cannot report that there is no memory for a session, so it then returns a
// session whose calls report it. The calls of a moved-from session report that instead. All
// sessions of one of these two kinds share one state of the core, in any number of threads. The
// state looks as if it were inside a callback, so their calls take the path of re-entered ones,
// which reads it and writes only the counts of its slot. So fast paths need no test for stand-ins.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/core/session_table.h"
#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/log/device_search.h"

namespace ebb::internal {

struct SessionState {
  explicit SessionState(Core& owner);
  // A stand-in, whose calls return `why`.
  SessionState(Core& owner, std::unique_ptr<EpochSlot> never_idle, absl::Status why);
  // Completes the pending operations first.
  ~SessionState();
  SessionState(const SessionState&) = delete;
  SessionState& operator=(const SessionState&) = delete;

  // Returns false under a guard of this session, and so inside its callbacks.
  bool idle() const {
    return slot->word.load(std::memory_order_relaxed) == 0;  // our own slot
  }
  // Whether a fast path may begin that runs a callback: the thread is inside no callback
  // (HitCallback does not nest), and the session is idle. One test of two words.
  EBB_INLINE bool MayCallBack() const {
    return (t_callbacks | slot->word.load(std::memory_order_relaxed)) == 0;  // our own slot
  }
  bool is_stand_in() const { return own_slot != nullptr; }
  // The reason why a session that is not idle rejects a call.
  absl::Status BusyError() const;
  // Returns true while a call of this session is on its slow path.
  bool waiting() const {
    return slot->busy.load(std::memory_order_relaxed) != 0;  // our own slot
  }
  // Returns false inside callbacks of this session's store: only a fast path may begin.
  bool callable() const { return idle() && !core->in_callback(); }

  Core* core;
  EpochSlot* slot;
  SessionSerials serials;
  std::string name;     // empty: none
  DeviceSearch search;  // of the call in progress
  // Buffers keep at most kRetainedBytes each between two calls, so that a session that once met a
  // large value does not hold as much memory forever.
  static constexpr std::size_t kRetainedBytes = std::size_t{64} << 10;
  static void Trim(std::string& buffer) {
    if (buffer.capacity() > kRetainedBytes) [[unlikely]]
      std::string().swap(buffer);
  }
  void TrimBuffers() {
    Trim(scratch);
    Trim(key_bytes);
    Trim(value_bytes);
    search.Trim(kRetainedBytes);
  }
  std::string scratch;      // copies of string values
  std::string key_bytes;    // of a key with a codec, during a call
  std::string value_bytes;  // likewise
  absl::Status error;       // why the last call was rejected
  // Created when first needed.
  std::unique_ptr<PendingOperations> pending;           // asynchronous ones
  std::unique_ptr<PendingOperations> batch;             // of the batch in progress
  const std::unique_ptr<EpochSlot> own_slot = nullptr;  // of a stand-in
};

// Creates the stand-ins of `core`, before it has sessions. May throw std::bad_alloc.
void MakeStandIns(Core& core);

// Does not delete the core's stand-ins.
struct SessionRelease {
  void operator()(SessionState* session) const {
    if (!session->is_stand_in()) delete session;
  }
};
using OwnedSession = std::unique_ptr<SessionState, SessionRelease>;
// Creates a session, or returns the one without memory.
OwnedSession NewSessionState(Core& core) noexcept;

// Never destroys the object, which is still in use. Leak checkers find a pointer to it.
void KeepForever(std::shared_ptr<const void> object) noexcept;
// For ~Session, with its members: ends the session. The callbacks of pending operations run first,
// while the members are still valid, because they may call the session. A session that is destroyed
// inside its own call is still needed by that call: it leaks, together with the core, and a line on
// stderr says so.
void EndSession(OwnedSession& session, std::shared_ptr<Core>& core);
// Gives a name to a session that has done nothing yet. Errors: as SessionTable::Enter.
absl::Status NameSession(SessionState& session, std::string_view name);
// Makes all updates of the session durable; waits for it.
absl::Status WaitDurable(SessionState& session);

}  // namespace ebb::internal
