#include "ebb/internal/pending_operations.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

namespace ebb::internal {

PendingOperations::PendingOperations(SessionState& session)
    : session_(session), queue_(session.core->NewBlockQueue()) {
  Core& core = *session.core;
  MutexLock lock(core.pending_mu);
  core.pending.push_back(this);
}

PendingOperations::~PendingOperations() {
  {
    Core& core = *session_.core;
    MutexLock lock(core.pending_mu);
    std::erase(core.pending, this);
  }
  static_cast<void>(TakeAll());
}

void PendingOperations::Start(Owned operation) {
  while (size() >= kMost && CompleteOne(/*wait=*/true)) {
  }
  {
    SlowScope scope(*session_.slot);
    if (session_.core->epochs.closed()) {
      operation->Refuse(session_.core->ClosedError());
    } else {
      MutexLock lock(mu_);
      if (!operation->Go()) {
        operations_.reserve(kMost);  // may throw: before anything has begun
        Read(*operation);
        operation->place_ = operations_.size();
        operations_.push_back(std::move(operation));
        return;
      }
    }
  }
  operation->Tell();
}

bool PendingOperations::CompleteOne(bool wait) {
  Owned ended;
  {
    SlowScope scope(*session_.slot);
    if (!session_.core->epochs.closed()) {
      MutexLock lock(mu_);
      ended = Next(wait);
      if (ended == nullptr) return false;
    }
  }
  if (ended != nullptr) {
    ended->Tell();
    return true;
  }
  const std::vector<Owned> left = TakeAll();
  TellAll(left);
  return !left.empty();
}

void PendingOperations::TellAll(const std::vector<Owned>& operations) {
  std::exception_ptr thrown;
  for (const Owned& operation : operations) {
    try {
      operation->Tell();
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

std::size_t PendingOperations::size() const {
  MutexLock lock(mu_);
  return operations_.size();
}

std::vector<PendingOperations::Owned> PendingOperations::TakeAll() {
  // In a forked child, what is under way belongs to the parent.
  if (!session_.core->in_opening_process()) return {};
  MutexLock lock(mu_);
  queue_.Drop();
  ready_ = nullptr;
  reading_.clear();
  for (const Owned& operation : operations_) operation->Refuse(session_.core->ClosedError());
  return std::exchange(operations_, {});
}

void StartPending(SessionState& session, std::unique_ptr<PendingOperations>& list,
                  PendingOperations::Owned operation) {
  Core& core = *session.core;
  if (!session.idle()) {
    operation->Refuse(core.ReenteredError());
  } else if (list == nullptr) {
    SlowScope scope(*session.slot);
    if (core.epochs.closed()) {
      operation->Refuse(core.ClosedError());
    } else {
      list = std::make_unique<PendingOperations>(session);
    }
  }
  if (list == nullptr || !session.idle()) return operation->Tell();
  list->Start(std::move(operation));
}

// The next that has ended; null when none has.
PendingOperations::Owned PendingOperations::Next(bool wait) {
  while (!operations_.empty()) {
    if (PendingOperation* const operation = ready_; operation != nullptr) {
      ready_ = operation->next_;
      bool has_ended = false;
      try {
        has_ended = operation->Go();
        if (!has_ended) Read(*operation);
      } catch (...) {  // of a function of the user's, or for lack of memory
        static_cast<void>(TakeOut(*operation));
        throw;
      }
      if (has_ended) return TakeOut(*operation);
      continue;
    }
    BlockRead* const read = queue_.Take(wait);
    if (read == nullptr) return nullptr;
    MakeReady(*read);
  }
  return nullptr;
}

void PendingOperations::Read(PendingOperation& operation) {
  BlockRead& read = operation.search_.read();
  read.owner = &operation;
  operation.next_ = nullptr;
  if (read.bytes.size() == kBlockBytes) {
    const auto [first, is_new] = reading_.try_emplace(read.block, &operation);
    if (!is_new) {
      operation.next_ = std::exchange(first->second->next_, &operation);
      return;
    }
  }
  queue_.Start(read);
}

// The read's operation is ready to go on, and with it those that wanted the same block.
void PendingOperations::MakeReady(BlockRead& read) {
  auto* const operation = static_cast<PendingOperation*>(read.owner);
  if (read.bytes.size() == kBlockBytes) reading_.erase(read.block);
  PendingOperation* last = operation;
  while (last->next_ != nullptr) {
    last = last->next_;
    BlockRead& same = last->search_.read();
    same.status = read.status;
    std::memcpy(same.bytes.data(), read.bytes.data(), kBlockBytes);
  }
  last->next_ = ready_;
  ready_ = operation;
}

PendingOperations::Owned PendingOperations::TakeOut(PendingOperation& operation) {
  Owned& place = operations_[operation.place_];
  Owned taken = std::move(place);
  if (operation.place_ + 1 != operations_.size()) {
    place = std::move(operations_.back());
    place->place_ = operation.place_;
  }
  operations_.pop_back();
  return taken;
}

}  // namespace ebb::internal
