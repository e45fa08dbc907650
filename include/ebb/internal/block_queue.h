// BlockQueue: reads of blocks that overlap, for one user at a time.
//
//   BlockRead read{.block = 7, .bytes = {buffer, 4096}};
//   queue.Start(read);
//   ... start others ...
//   while (BlockRead* ended = queue.Take(/*wait=*/true)) Use(*ended);   // in any order
//
// Through a ReadRing where the file system has one; else by the pool's threads, and by whoever
// waits: what they have not begun it reads itself, so that it never waits for a thread.
//
// A ring is believed only when it has read everything. Whatever else it says of a read (an error,
// fewer bytes, no room, no such file) Device::Read is asked instead, which goes on after short
// transfers and interruptions and knows how to name an error. So each read that was started ends
// once, and as Device::Read would have ended it.
//
// Nothing here throws but the constructor: a read that lacks memory ends with NoMemory(), because
// somebody waits for its end.
//
// Memory that blocks are read into is set once, when it is allocated. Valgrind does not see the
// kernel write what it reads through io_uring, and would report that the bytes are not initialized.
//
// Thread safety: one thread at a time; the pool's help. Progress: Start waits when the ring is
// full; Take waits for the device if told to; Drop and the destructor for what has begun. Only
// these may be called once the device is gone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "ebb/internal/device.h"
#include "ebb/internal/file_system.h"
#include "ebb/internal/thread_pool.h"

namespace ebb::internal {

struct BlockRead {
  std::uint64_t block = 0;
  std::span<std::byte> bytes;  // whole blocks, at least one
  absl::Status status = {};    // once it has ended; of Device::Read
  void* owner = nullptr;       // whatever its user likes
  // The queue's:
  std::shared_ptr<File> file = {};
  BlockRead* next = nullptr;
};

class BlockQueue {
 public:
  static constexpr unsigned kDepth = 256;

  // `ring` may be null. With a pool of no threads all is read by Take.
  BlockQueue(Device& device, ThreadPool& pool, unsigned pool_threads,
             std::unique_ptr<ReadRing> ring);
  ~BlockQueue();
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;

  // `read` stays where it is until Take has returned it.
  void Start(BlockRead& read);
  // What was started need not wait for a Take to begin.
  void Submit();
  // One that has ended; null when none has, or, with `wait`, when none is under way.
  BlockRead* Take(bool wait);
  // Forgets all that was started, once nobody writes to its memory any more.
  void Drop();

 private:
  // First in, first out; takes no memory.
  class List {
   public:
    bool empty() const { return first_ == nullptr; }
    void Push(BlockRead& read);
    BlockRead* Pop();  // null when it is empty

   private:
    BlockRead* first_ = nullptr;
    BlockRead* last_ = nullptr;
  };
  struct Shared;
  void TakeFromRing(bool wait);
  BlockRead* TakeFromPool(bool wait);

  Device& device_;
  const unsigned pool_threads_;
  const std::unique_ptr<ReadRing> ring_;
  std::size_t in_ring_ = 0;
  List ended_;  // in the ring's way
  const std::unique_ptr<Shared> shared_;
  // Each reads one block at a time, and the next one behind the pool's other jobs.
  std::deque<PoolJob> helpers_;  // last: they use the others
  std::size_t next_helper_ = 0;
};

}  // namespace ebb::internal
