#include "ebb/internal/device/block_queue.h"

#include <optional>
#include <utility>

#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

void BlockQueue::List::Push(BlockRead& read) {
  read.next = nullptr;
  (empty() ? first_ : last_->next) = &read;
  last_ = &read;
}

BlockRead* BlockQueue::List::Pop() {
  BlockRead* const read = first_;
  if (read != nullptr) first_ = read->next;
  return read;
}

namespace {

// A read that was begun ends with a status in every case, because a caller waits for its end.
void ReadFrom(Device& device, BlockRead& read) noexcept {
  read.status = CatchNoMemory([&] { return device.Read(read.block, read.bytes); });
}

}  // namespace

struct BlockQueue::Shared {
  explicit Shared(Device& its_device) : device(its_device) {}

  Device& device;  // used only for a read that waits, so while the queue lives
  Mutex mu;
  CondVar done;
  List waiting ABSL_GUARDED_BY(mu);
  List ended ABSL_GUARDED_BY(mu);
  std::size_t running ABSL_GUARDED_BY(mu) = 0;

  // Returns whether another read waits.
  bool WorkOne() {
    BlockRead* read;
    {
      MutexLock lock(mu);
      read = waiting.Pop();
      // Drop waits for this count, so the memory of a running read stays valid.
      if (read == nullptr) return false;
      ++running;
    }
    ReadFrom(device, *read);
    MutexLock lock(mu);
    --running;
    ended.Push(*read);
    done.NotifyAll();
    return !waiting.empty();
  }
};

BlockQueue::BlockQueue(Device& device, ThreadPool& pool, unsigned pool_threads,
                       std::unique_ptr<ReadRing> ring)
    : device_(device),
      pool_threads_(pool_threads),
      ring_(std::move(ring)),
      shared_(std::make_unique<Shared>(device)) {
  // With a ring, the pool is not used: the kernel overlaps the reads.
  for (unsigned i = 0; ring_ == nullptr && i < pool_threads_; ++i) {
    helpers_.emplace_back(pool, [this, i] {
      if (shared_->WorkOne()) helpers_[i].Post();
    });
  }
}

BlockQueue::~BlockQueue() { Drop(); }

void BlockQueue::Drop() {
  // A read in the ring cannot be cancelled reliably, so its end is awaited.
  for (; in_ring_ != 0; --in_ring_) {
    const std::optional<ReadRing::Ended> ended = ring_->Take(/*wait=*/true);
    if (ended.has_value()) static_cast<BlockRead*>(ended->tag)->file = nullptr;
  }
  ended_ = {};
  MutexLock lock(shared_->mu);
  // Reads that no thread has begun are dropped; running ones end first.
  shared_->waiting = {};
  while (shared_->running != 0) shared_->done.Wait(shared_->mu);
  shared_->ended = {};
}

void BlockQueue::Submit() {
  if (ring_ != nullptr) ring_->Submit();
}

void BlockQueue::Start(BlockRead& read) {
  read.status = absl::OkStatus();
  if (ring_ == nullptr) {
    {
      MutexLock lock(shared_->mu);
      shared_->waiting.Push(read);
    }
    if (!helpers_.empty()) helpers_[next_helper_++ % helpers_.size()].Post();
    return;
  }
  // The ring is full: take an ended read out, which goes to ended_.
  if (in_ring_ == kDepth) TakeFromRing(/*wait=*/true);
  // Without a file (closed, or blocks in two files) or room in the ring, the read is done here.
  Device::BlockLocation place = device_.Locate(read.block, read.bytes.size() / kBlockBytes);
  read.file = std::move(place.file);
  if (read.file != nullptr &&
      ring_->Start(*read.file, place.offset, read.bytes.data(), read.bytes.size(), &read)) {
    ++in_ring_;
    return;
  }
  // It ends before this call returns. The caller finds it through Take, like any other.
  ReadFrom(device_, read);
  ended_.Push(read);
}

BlockRead* BlockQueue::Take(bool wait) {
  if (ring_ == nullptr) return TakeFromPool(wait);
  TakeFromRing(wait && ended_.empty());
  return ended_.Pop();
}

void BlockQueue::TakeFromRing(bool wait) {
  if (in_ring_ == 0) return;
  const std::optional<ReadRing::Ended> ended = ring_->Take(wait);
  if (!ended.has_value()) return;
  --in_ring_;
  auto* const read = static_cast<BlockRead*>(ended->tag);
  read->file = nullptr;
  // An error or a short transfer: the device's own read continues and retries it, and returns a
  // precise error.
  if (ended->transfer.error != 0 || ended->transfer.count != read->bytes.size()) {
    ReadFrom(device_, *read);
  }
  ended_.Push(*read);
}

BlockRead* BlockQueue::TakeFromPool(bool wait) {
  BlockRead* own;
  {
    MutexLock lock(shared_->mu);
    for (;;) {
      if (BlockRead* const read = shared_->ended.Pop(); read != nullptr) return read;
      // A waiting caller does a read itself rather than wait for the pool; without a pool, there is
      // no other way.
      own = wait || pool_threads_ == 0 ? shared_->waiting.Pop() : nullptr;
      if (own != nullptr) break;
      if (!wait || shared_->running == 0) return nullptr;
      shared_->done.Wait(shared_->mu);
    }
  }
  ReadFrom(device_, *own);
  return own;
}

}  // namespace ebb::internal
