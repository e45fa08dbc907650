#include "ebb/internal/ops/pending_operations.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/ops/session_state.h"

namespace ebb::internal {

PendingOperations::PendingOperations(SessionState& session)
    : session_(session), queue_(session.core->NewBlockQueue()) {
  Core& core = *session.core;
  // Close must find every list (AbandonPending).
  MutexLock lock(core.pending_mu);
  core.pending.push_back(this);
}

PendingOperations::~PendingOperations() {
  {
    Core& core = *session_.core;
    MutexLock lock(core.pending_mu);
    std::erase(core.pending, this);
  }
  static_cast<void>(TakeAll(session_.core->ClosedError()));
}

void PendingOperations::Start(Owned operation) {
  // At the limit, a caller runs callbacks until there is room, so that pending operations use
  // bounded memory.
  while (size() >= kMax && CompleteOne(/*wait=*/true)) {
  }
  {
    // Between the check of `closed` and the end of the scope, Close waits ([busy] in epoch.h). So
    // an operation is either in the list before TakeAll, or rejected here.
    SlowScope scope(*session_.slot);
    if (session_.core->epochs.closed()) {
      operation->Refuse(session_.core->ClosedError());
    } else {
      // Walk of an asynchronous operation, 1: most operations complete in Resume, without entering
      // the list.
      MutexLock lock(mu_);
      try {
        if (!operation->Resume()) {
          operations_.reserve(kMax);  // may throw: before anything has begun
          Read(*operation);
          operation->place_ = operations_.size();
          operations_.push_back(std::move(operation));
          size_.store(operations_.size(), std::memory_order_relaxed);  // the owner's
          return;
        }
      } catch (const std::bad_alloc&) {
        operation->Refuse(NoMemory());
      }
    }
  }
  // Outside mu_ and the scope: a callback may run for long and may call other stores.
  Notify(*operation);
}

// Runs the operation's callback. If it throws, it still counts as ended.
void PendingOperations::Notify(PendingOperation& operation) {
  struct Scope {
    std::size_t& count;
    explicit Scope(std::size_t& counter) : count(counter) { ++count; }
    ~Scope() { --count; }
  } const scope(notifying_);
  operation.Notify();
}

bool PendingOperations::CompleteOne(bool wait) {
  Owned ended;  // destroyed after mu_ is released: it owns functions of the user
  {
    SlowScope scope(*session_.slot);
    // After Close, operations are taken from the list by whichever thread comes first: each
    // callback runs once.
    if (!session_.core->epochs.closed()) {
      MutexLock lock(mu_);
      Next(wait, ended);
      if (ended == nullptr) return false;
    }
  }
  if (ended != nullptr) {
    Notify(*ended);
    return true;
  }
  const std::vector<Owned> left = TakeAll(session_.core->ClosedError());
  NotifyAll(left);
  return !left.empty();
}

// Every callback runs even if an earlier one throws; the first exception is rethrown.
void PendingOperations::NotifyAll(const std::vector<Owned>& operations) {
  std::exception_ptr thrown;
  for (const Owned& operation : operations) {
    try {
      operation->Notify();
    } catch (...) {
      if (thrown == nullptr) thrown = std::current_exception();
    }
  }
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

std::size_t PendingOperations::Complete(bool wait) {
  std::size_t told = 0;
  while (CompleteOne(wait)) ++told;
  return told;
}

void PendingOperations::End() {
  const auto report = [this](const char* exception) {
    std::fprintf(stderr,
                 "ebb: a callback threw in the destructor of a session of the store %s: %s; call "
                 "CompletePending before, which throws the exception to its caller\n",
                 session_.core->name(), exception);
  };
  for (bool more = true; more;) {  // ends: each turn removes at least one operation from the list
    const std::size_t before = size();
    try {
      // A call that may wait must not begin inside a callback, so the operations are rejected
      // instead.
      if (session_.core->in_callback()) {
        const std::vector<Owned> left = TakeAll(session_.core->ReenteredError());
        more = !left.empty();
        NotifyAll(left);
      } else {
        more = CompleteOne(/*wait=*/true);
      }
    } catch (const std::exception& error) {
      report(error.what());
      more = size() < before;
    } catch (...) {
      report("not a std::exception");
      more = size() < before;
    }
  }
}

std::vector<PendingOperations::Owned> PendingOperations::TakeAll(const absl::Status& why) {
  // In a forked child, the reads in flight belong to the parent.
  if (!session_.core->in_opening_process()) return {};
  MutexLock lock(mu_);
  // Waits for the reads in flight: the kernel or the pool may be writing into the operations'
  // memory.
  queue_.Drop();
  ready_ = nullptr;
  reading_.clear();
  for (const Owned& operation : operations_) operation->Refuse(why);
  size_.store(0, std::memory_order_relaxed);  // Close: the owner finds the list empty, too
  return std::exchange(operations_, {});
}

void StartPending(SessionState& session, std::unique_ptr<PendingOperations>& list,
                  PendingOperations::Owned operation) {
  Core& core = *session.core;
  const bool callable = session.callable();
  if (!callable) {
    operation->Refuse(session.BusyError());
  } else if (list == nullptr) {
    SlowScope scope(*session.slot);
    if (core.epochs.closed()) {
      operation->Refuse(core.ClosedError());
    } else {
      try {
        list = std::make_unique<PendingOperations>(session);
      } catch (const std::bad_alloc&) {
        operation->Refuse(NoMemory());
      }
    }
  }
  if (list == nullptr || !callable) return operation->Notify();
  list->Start(std::move(operation));
}

void PendingOperations::Next(bool wait, Owned& ended) {
  // Walk of an asynchronous operation, 3.
  while (!operations_.empty()) {
    // An operation whose blocks have arrived continues; if it needs more blocks, it waits again.
    if (PendingOperation* const operation = ready_; operation != nullptr) {
      ready_ = operation->next_;
      bool has_ended = false;
      try {
        has_ended = operation->Resume();
        if (!has_ended) Read(*operation);
      } catch (const std::bad_alloc&) {
        operation->Refuse(NoMemory());
        has_ended = true;
      } catch (...) {  // thrown by a function of the user
        ended = TakeOut(*operation);
        throw;
      }
      if (has_ended) {
        ended = TakeOut(*operation);
        return;
      }
      continue;
    }
    // No operation is ready: take the next read that has ended.
    BlockRead* const read = queue_.Take(wait);
    if (read == nullptr) return;
    MakeReady(*read);
  }
}

// Starts the read of the operation, or attaches it to a read of the same block that is in flight.
// May throw when it inserts the block into reading_; then the operation is at most in operations_.
void PendingOperations::Read(PendingOperation& operation) {
  BlockRead& read = operation.search_.read();
  read.owner = &operation;
  operation.next_ = nullptr;
  // Only single blocks are shared: nearly all reads are of one block, and their buffers have the
  // same size.
  if (read.bytes.size() == kBlockBytes) {
    const auto [first, is_new] = reading_.try_emplace(read.block, &operation);
    if (!is_new) {
      operation.next_ = std::exchange(first->second->next_, &operation);
      return;
    }
  }
  queue_.Start(read);
}

// Marks the read's operation as ready to continue, and all operations that are attached to it.
void PendingOperations::MakeReady(BlockRead& read) {
  auto* const operation = static_cast<PendingOperation*>(read.owner);
  if (read.bytes.size() == kBlockBytes) reading_.erase(read.block);
  PendingOperation* last = operation;
  while (last->next_ != nullptr) {
    last = last->next_;
    BlockRead& same = last->search_.read();
    same.status = read.status;
    // Each operation has its own copy, because it verifies and joins the blocks in place.
    std::memcpy(same.bytes.data(), read.bytes.data(), kBlockBytes);
  }
  last->next_ = ready_;
  ready_ = operation;
}

PendingOperations::Owned PendingOperations::TakeOut(PendingOperation& operation) {
  // The last operation moves to the free place, so removal costs the same for any number.
  Owned& place = operations_[operation.place_];
  Owned taken = std::move(place);
  if (operation.place_ + 1 != operations_.size()) {
    place = std::move(operations_.back());
    place->place_ = operation.place_;
  }
  operations_.pop_back();
  size_.store(operations_.size(), std::memory_order_relaxed);  // the owner's
  return taken;
}

// Ends the operations of all sessions, when a store is closed. One list at a time, and again from
// the first: a list may be destroyed while the callbacks of another one run, and a list of all
// operations would need memory. No list gets new operations any more.
void AbandonPending(Core& core) {
  const CallbackScope scope(&core, CallbackKind::kClose);
  std::exception_ptr thrown;
  for (;;) {  // ends: each turn empties a list
    std::vector<PendingOperations::Owned> left;
    {
      MutexLock lock(core.pending_mu);
      for (auto list = core.pending.begin(); list != core.pending.end() && left.empty(); ++list) {
        left = (*list)->TakeAll(core.ClosedError());
      }
    }
    if (left.empty()) break;
    try {
      PendingOperations::NotifyAll(left);
    } catch (...) {  // by a callback: all others run first
      thrown = std::current_exception();
    }
  }
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace ebb::internal
