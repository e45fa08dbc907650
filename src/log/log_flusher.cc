#include "ebb/internal/log/log_flusher.h"

#include <algorithm>
#include <span>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/log/hybrid_log.h"

namespace ebb::internal {

LogFlusher::LogFlusher(const HybridLog& log, std::uint64_t store_id, std::uint64_t batch_bytes,
                       Device& device)
    : log_(log), store_id_(store_id), batch_bytes_(batch_bytes), device_(device) {
  for (AlignedBuffer& buffer : buffers_) {
    buffer = AllocateAligned(batch_bytes);
    if (buffer == nullptr) has_buffers_ = false;
  }
}

void LogFlusher::Restore(Address flushed_until) {
  flushed_until_.store(flushed_until.value(), std::memory_order_release);  // [boundary]
}

// A chunk from when it is taken until it has ended. If an exception leaves the write, the chunk has
// failed: other threads wait for its end.
struct LogFlusher::TakenChunk {
  explicit TakenChunk(LogFlusher& its_flusher) : flusher(its_flusher) {}
  ~TakenChunk() {
    if (is_taken) static_cast<void>(End(NoMemory()));
  }
  TakenChunk(const TakenChunk&) = delete;
  TakenChunk& operator=(const TakenChunk&) = delete;
  bool Take() { return is_taken = flusher.TakeChunk(chunk, waited); }
  absl::StatusOr<bool> End(absl::Status written) {
    is_taken = false;
    return flusher.EndChunk(chunk, std::move(written));
  }

  LogFlusher& flusher;
  WriteChunk chunk;
  bool waited = false;
  bool is_taken = false;
};

absl::StatusOr<bool> LogFlusher::FlushChunk() {
  TakenChunk taken(*this);
  WriteChunk& chunk = taken.chunk;
  // Walk of a page, 4.
  if (!taken.Take()) return taken.waited;
  const Geometry& geometry = log_.geometry();
  const std::span<std::byte> batch(chunk.buffer.get(),
                                   (chunk.end_block - chunk.first_block) * kBlockBytes);
  // The bytes are below safe_read_only, so they are final, except for seals and lock words, which
  // are copied as atomic words (hybrid_log.h). The seal binds the block to the store, to its
  // number and to this incarnation, so that an old or misplaced block does not verify.
  const Address start = geometry.BlockStart(chunk.first_block);
  const std::byte* payload = log_.Frame(geometry.PageOf(start)).data() + geometry.OffsetOf(start);
  for (std::uint64_t block = chunk.first_block; block < chunk.end_block; ++block) {
    const auto bytes = batch.subspan((block - chunk.first_block) * kBlockBytes, kBlockBytes);
    CopyFromLog(payload, kBlockPayloadBytes, bytes.data());
    payload += kBlockPayloadBytes;
    SealBlock(bytes, store_id_, block, log_.incarnation());
  }
  return taken.End(CatchNoMemory([&] { return device_.Write(chunk.first_block, batch); }));
}

// Takes whole blocks of one page, as many as a batch holds. Returns false if there are none. Sets
// `waited` if it waited for a chunk in flight.
bool LogFlusher::TakeChunk(WriteChunk& chunk, bool& waited) {
  const Geometry& geometry = log_.geometry();
  MutexLock lock(mu_);
  for (;;) {  // ends: chunks in flight end
    // The next chunk begins after the last one that was taken, even if that one is still in flight.
    const Address from = std::max(taken_until_, flushed_until());
    const Address end = log_.safe_read_only();
    if (from < end && !chunk_failed_ && chunks_under_way_ < buffers_.size()) {
      // At most to the end of the page: the payloads of a page are contiguous in memory, those of
      // two pages are not.
      chunk.first_block = geometry.BlockOf(from);
      chunk.end_block = std::min(geometry.PageOf(end) > geometry.PageOf(from)
                                     ? (geometry.PageOf(from) + 1) * geometry.blocks_per_page()
                                     : geometry.BlockOf(end),
                                 chunk.first_block + batch_bytes_ / kBlockBytes);
      // Otherwise it is a part of a block, which cannot be sealed yet.
      if (chunk.first_block < chunk.end_block) break;
    }
    if (chunks_under_way_ == 0) return false;
    waited = true;
    changed_.Wait(mu_);
  }
  ++chunks_under_way_;
  // From here on EndChunk must be called (TakenChunk): others wait for the end of this chunk.
  taken_until_ = geometry.BlockStart(chunk.end_block);
  const auto spare = std::find_if(buffers_.begin(), buffers_.end(),
                                  [](const AlignedBuffer& buffer) { return buffer != nullptr; });
  chunk.buffer = std::move(*spare);
  return true;
}

// Ends a chunk. It counts only when all chunks before it count.
absl::StatusOr<bool> LogFlusher::EndChunk(WriteChunk& chunk, absl::Status written) {
  const Geometry& geometry = log_.geometry();
  const Address start = geometry.BlockStart(chunk.first_block);
  MutexLock lock(mu_);
  // The other chunk in flight may be the one before this one: wait for it, so that flushed_until
  // moves in order.
  while (written.ok() && flushed_until() < start && !chunk_failed_) {
    changed_.Wait(mu_);
  }
  const bool moves = written.ok() && flushed_until() == start;
  if (moves) {
    flushed_bytes_.fetch_add((chunk.end_block - chunk.first_block) * kBlockBytes,
                             std::memory_order_relaxed);  // statistics
    // A reader that loads a head derived from this value finds the bytes on the device, not yet
    // synced. Only a commit's sync makes them durable.
    flushed_until_.store(geometry.BlockStart(chunk.end_block).value(),
                         std::memory_order_release);  // [boundary]
  }
  // Chunks in flight after one that failed are taken again.
  chunk_failed_ = chunk_failed_ || !written.ok();
  // Only when none of them is left may the next chunk begin at flushed_until: until then the same
  // blocks would be written by two threads.
  if (--chunks_under_way_ == 0 && std::exchange(chunk_failed_, false)) taken_until_ = Address();
  const auto place = std::find(buffers_.begin(), buffers_.end(), nullptr);
  *place = std::move(chunk.buffer);
  changed_.NotifyAll();
  if (!written.ok()) return written;
  return moves;
}

}  // namespace ebb::internal
