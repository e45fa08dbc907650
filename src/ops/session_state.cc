#include "ebb/internal/ops/session_state.h"

#include <cstddef>
#include <cstdio>
#include <new>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/ops/pending_operations.h"

namespace ebb::internal {

SessionState::SessionState(Core& owner) : core(&owner), slot(owner.epochs.AcquireSlot()) {
  if (owner.config.measure_latency) slot->tally.StartTiming();
}

// A stand-in. Its slot, which no drain checks, is never outside a guard, so that every fast path
// turns away.
SessionState::SessionState(Core& owner, std::unique_ptr<EpochSlot> never_idle, absl::Status why)
    : core(&owner), slot(never_idle.get()), error(std::move(why)), own_slot(std::move(never_idle)) {
  slot->word.store(EpochState::kOneEpoch, std::memory_order_relaxed);  // not shared yet
}

absl::Status SessionState::BusyError() const {
  return is_stand_in() ? error : core->ReenteredError();
}

SessionState::~SessionState() {
  if (is_stand_in()) return;
  if (!core->in_opening_process()) {  // in the kernel and the pool, its reads are the parent's
    static_cast<void>(pending.release());
    static_cast<void>(batch.release());
    return;
  }
  // The callbacks of pending operations run now, before the slot and the name are released.
  if (pending != nullptr) pending->End();
  pending = nullptr;
  batch = nullptr;
  if (!name.empty()) core->sessions.Leave(name);
  core->epochs.ReleaseSlot(slot);
}

void MakeStandIns(Core& core) {
  core.session_without_memory =
      std::make_shared<SessionState>(core, std::make_unique<EpochSlot>(), NoMemory());
  core.session_moved_from =
      std::make_shared<SessionState>(core, std::make_unique<EpochSlot>(), Fixed().moved_from);
}

OwnedSession NewSessionState(Core& core) noexcept {
  try {
    return OwnedSession(new SessionState(core));
  } catch (const std::bad_alloc&) {
    // A session must exist even without memory: the stand-in returns the error from every call.
    return OwnedSession(core.session_without_memory.get());
  }
}

void KeepForever(std::shared_ptr<const void> object) noexcept {
  struct Kept {
    std::shared_ptr<const void> object;
    Kept* next;
  };
  static constinit Atomic<Kept*> newest{nullptr};
  auto* const kept = new (std::nothrow) Kept{std::move(object), nullptr};
  if (kept == nullptr) {  // one reference is never released, and no pointer leads to it
    alignas(std::shared_ptr<const void>) std::byte unreachable[sizeof(object)];
    static_cast<void>(new (unreachable) std::shared_ptr<const void>(std::move(object)));
    return;
  }
  kept->next = newest.exchange(kept, std::memory_order_relaxed);  // never read
}

void EndSession(OwnedSession& session, std::shared_ptr<Core>& core) {
  // A call of this session is still on the stack, or one of its callbacks: freeing it would leave
  // them without memory.
  const bool in_use =
      !session->is_stand_in() && (!session->idle() || session->waiting() ||
                                  (session->pending != nullptr && session->pending->notifying()));
  if (!in_use) {
    if (session->pending != nullptr && core->in_opening_process()) session->pending->End();
    if (session->is_stand_in()) static_cast<void>(session.release());  // the core owns it
    session.reset();
    return;
  }
  if (core->in_opening_process()) {
    std::fprintf(stderr,
                 "ebb: a session of the store %s was destroyed inside one of its own callbacks, so "
                 "its memory leaks; destroy it after the callback has returned\n",
                 core->name());
  }
  KeepForever(std::shared_ptr<const void>(std::shared_ptr<const void>(), session.release()));
  KeepForever(std::move(core));
}

absl::Status NameSession(SessionState& session, std::string_view name) {
  Core& core = *session.core;
  if (session.is_stand_in()) return session.error;
  if (absl::Status status = core.CheckCallable(); !status.ok()) return status;
  if (core.epochs.closed()) return core.ClosedError();
  if (absl::Status status = core.CheckWritable(); !status.ok()) return status;
  std::string copy(name);  // may throw: before the table knows the session
  if (core.has_files()) {
    // First the space for a longer list of sessions, so that every later commit can append it.
    const absl::Status space = core.log.space().SetSessionsBytes(core.sessions.ListBytesWith(name));
    if (!space.ok()) return space;
  }
  if (absl::Status status = core.sessions.Enter(name, session.serials); !status.ok()) {
    return status;
  }
  session.name = std::move(copy);
  return absl::OkStatus();
}

absl::Status WaitDurable(SessionState& session) {
  Core& core = *session.core;
  // Also inside a callback of another session: the call waits for a commit.
  if (!session.callable() || session.waiting()) return session.BusyError();
  SlowScope scope(*session.slot);
  if (core.epochs.closed()) return core.ClosedError();
  if (!core.has_files()) return core.InMemoryError();
  return core.commits->Join();
}

}  // namespace ebb::internal
