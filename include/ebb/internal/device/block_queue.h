// BlockQueue: overlapping reads of blocks, for one user at a time.
//
//   BlockRead read{.block = 7, .bytes = {buffer, 4096}};
//   queue.Start(read);
//   ... start others ...
//   while (BlockRead* ended = queue.Take(/*wait=*/true)) Use(*ended);   // in any order
//
// It uses a ReadRing if the file system has one. Otherwise the pool's threads read, and so does the
// waiting thread: it reads the blocks that they have not begun, so that it never waits for a
// thread.
//
// The result of a ring counts only if the ring has read all bytes. In every other case (an error,
// fewer bytes, no room, no such file) Device::Read is called instead. It continues after short
// transfers and interruptions, and names errors. So each started read ends once, with the result
// that Device::Read would have had.
//
// Only the constructor throws: a read that runs out of memory ends with NoMemory(), because a
// caller waits for its end.
//
// Buffers for blocks are initialized once, when they are allocated. Valgrind does not see the
// kernel write to them through io_uring, and would report uninitialized bytes.
//
// Thread safety: one thread at a time; the pool's threads help. Progress: Start waits if the ring
// is full. Take waits for the device with `wait`. Drop and the destructor wait for reads that have
// begun. Only these may be called once the device is gone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "ebb/internal/base/thread_pool.h"
#include "ebb/internal/device/device.h"

namespace ebb::internal {

class File;
class ReadRing;

struct BlockRead {
  std::uint64_t block = 0;
  std::span<std::byte> bytes;  // whole blocks, at least one
  absl::Status status = {};    // set when the read has ended; of Device::Read
  void* owner = nullptr;       // for the user
  // For the queue:
  std::shared_ptr<File> file = {};
  BlockRead* next = nullptr;
};

class BlockQueue {
 public:
  static constexpr unsigned kDepth = 256;

  // `ring` may be null. With a pool of no threads, Take reads everything.
  BlockQueue(Device& device, ThreadPool& pool, unsigned pool_threads,
             std::unique_ptr<ReadRing> ring);
  ~BlockQueue();
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;

  // `read` must stay in place until Take has returned it.
  void Start(BlockRead& read);
  // Begins the started reads now rather than at the next Take.
  void Submit();
  // Returns a read that has ended; null if none has, or, with `wait`, if none is in flight.
  BlockRead* Take(bool wait);
  // Forgets all started reads, once nothing writes to their memory any more.
  void Drop();

 private:
  // First in, first out; allocates nothing.
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
  List ended_;  // read by the ring
  const std::unique_ptr<Shared> shared_;
  // Each reads one block at a time, and the next one after the pool's other jobs.
  std::deque<PoolJob> helpers_;  // last: they use the others
  std::size_t next_helper_ = 0;
};

}  // namespace ebb::internal
