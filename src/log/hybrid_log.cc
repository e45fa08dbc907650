#include "ebb/internal/log/hybrid_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>

#include "ebb/internal/base/no_memory.h"
#include "ebb/status.h"

namespace ebb::internal {

namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// At most, wherever the records lie in their blocks.
std::uint64_t BlocksOfSessions(std::uint64_t bytes) {
  return bytes == 0 ? 0 : bytes / kBlockPayloadBytes + 2;
}

// A generator of the thread (xorshift), so that threads that wait for each other do not go in step.
std::uint32_t NextRandom() {
  static constinit thread_local std::uint64_t t_state = 0;
  if (t_state == 0) {
    t_state =
        reinterpret_cast<std::uintptr_t>(&t_state) ^
        static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    t_state = t_state * 0x9e3779b97f4a7c15 | 1;
  }
  t_state ^= t_state << 13;
  t_state ^= t_state >> 7;
  t_state ^= t_state << 17;
  return static_cast<std::uint32_t>(t_state >> 32);
}

}  // namespace

unsigned Backoff::Wait() {
  const unsigned random = NextRandom() % 64;
  if (++count_ <= 32) {
    for (unsigned i = 0; i < random; ++i) Pause();  // an idle machine yields to nobody
    std::this_thread::yield();
    return random;
  }
  usleep(25 + random);
  return random;
}

std::byte* DeviceBuffer::Reserve(std::size_t blocks, std::size_t keep) {
  if (blocks <= blocks_) return bytes_.get();
  AlignedBuffer grown = AllocateAligned(blocks * kBlockBytes);
  if (grown == nullptr) return nullptr;
  std::memset(grown.get(), 0, blocks * kBlockBytes);  // see block_queue.h
  if (keep != 0) std::memcpy(grown.get(), bytes_.get(), keep * kBlockBytes);
  bytes_ = std::move(grown);
  blocks_ = blocks;
  return bytes_.get();
}

HybridLog::HybridLog(const Config& config, EpochManager& epochs, Health& health, Device& device,
                     ThreadPool& pool)
    : frame_mask_(config.geometry.frame_mask()),
      payload_bytes_(config.geometry.payload_bytes()),
      config_(config),
      epochs_(epochs),
      health_(health),
      device_(device),
      region_(config.geometry.frame_slots() * config.geometry.page_bytes(), config.huge_pages),
      maintenance_(pool, [this] { Maintain(); }) {
  // About an eighth of the frames, at least three, are for pages on their way out: being flushed,
  // waiting for the drain of their eviction, and the next one to be written.
  const std::uint64_t frames = config.geometry.frame_count;
  mutable_pages_ = frames - std::max<std::uint64_t>(3, frames / 8);
  frames_ = region_.data();
  for (AlignedBuffer& buffer : flush_buffers_) {
    buffer = AllocateAligned(config.write_batch_bytes);
    if (buffer == nullptr) frames_ = nullptr;
  }
}

void HybridLog::Restore(Position position) {
  const Geometry& geometry = config_.geometry;
  const Address tail = position.tail;
  tail_.store(geometry.PageOf(tail) << tail_shift() | geometry.OffsetOf(tail),
              std::memory_order_release);                           // [tail]
  begin_.store(position.begin.value(), std::memory_order_release);  // [boundary]
  for (AtomicWord* word : {&safe_head_, &head_}) {
    word->store(position.head.value(), std::memory_order_release);  // [boundary]
  }
  for (AtomicWord* word : {&flushed_until_, &safe_read_only_, &read_only_, &update_from_}) {
    word->store(tail.value(), std::memory_order_release);  // [boundary]
  }
  // What there is to be had is taken when it is needed.
  space_end_block_.store(geometry.BlockOf(tail), std::memory_order_release);  // [space]
  ordinary_end_.store(0, std::memory_order_release);                          // [space]
  const RecordShape shape = config_.shape;
  largest_extent_.store(
      shape.has_lengths() ? 0 : shape.ExtentFor(shape.key_bytes, shape.value_bytes),
      std::memory_order_relaxed);  // before anybody knows the log
  incarnations_ = std::move(position.incarnations);
  {
    MutexLock lock(space_mu_);
    sessions_blocks_ = BlocksOfSessions(position.sessions_bytes);
  }
  MutexLock lock(boundary_mu_);
  requested_read_only_ = tail;
}

// ---- allocation ----

Address HybridLog::Allocate(std::uint64_t extent_bytes, const EpochGuard& guard, Space space) {
  EBB_DCHECK(extent_bytes % 8 == 0 && extent_bytes <= payload_bytes_);
  std::uint64_t word = tail_.load(std::memory_order_relaxed);  // the fetch_add takes the place
  if (TailOffset(word) >= payload_bytes_) [[unlikely]]
    return Address();
  if (PlaceIn(word) >= LoadAcquire(ordinary_end_)) [[unlikely]]  // [space]
    return space == Space::kOrdinary ? Address() : AllocateExact(extent_bytes, guard, space);
  if (extent_bytes > largest_extent_.load(std::memory_order_relaxed)) [[unlikely]]  // an estimate
    largest_extent_.store(extent_bytes, std::memory_order_relaxed);                 // likewise
  word = tail_.fetch_add(extent_bytes, std::memory_order_acq_rel);                  // [tail]
  const std::uint64_t offset = TailOffset(word);
  const Address start = PlaceIn(word);
  if (offset + extent_bytes <= payload_bytes_) [[likely]]
    return start;
  EBB_CHECK(offset < max_tail_offset());
  // Exactly one allocation of a page crosses its end; the space that it leaves becomes a filler.
  if (offset < payload_bytes_) FillPageEnd(start, guard);
  return Address();
}

Address HybridLog::AllocateExact(std::uint64_t extent_bytes, const EpochGuard& guard, Space space) {
  std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  for (;;) {  // ends: each turn after the first means that another thread took a place
    const std::uint64_t offset = TailOffset(word);
    if (offset >= payload_bytes_) return Address();
    const Address start = PlaceIn(word);
    if (!HasSpace(start, extent_bytes, space)) return Address();
    const bool fits = offset + extent_bytes <= payload_bytes_;
    const std::uint64_t next_offset = fits ? offset + extent_bytes : payload_bytes_;
    if (!tail_.compare_exchange_weak(word, word - offset + next_offset,
                                     std::memory_order_acq_rel,  // [tail]
                                     std::memory_order_acquire)) {
      continue;
    }
    if (fits) return start;
    FillPageEnd(start, guard);
    return Address();
  }
}

// The zeros are plain stores: no address in there is ever published, and a flush copies it after
// this guard has ended.
void HybridLog::FillPageEnd(Address from, const EpochGuard& guard) {
  const std::uint64_t rest = payload_bytes_ - config_.geometry.OffsetOf(from);
  std::byte* const bytes = At(from, guard);
  AtomicRecordHeader(bytes).StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, rest));
  std::memset(bytes + sizeof(RecordHeader), 0, rest - sizeof(RecordHeader));
}

HybridLog::Extent HybridLog::ReserveToBlockEnd(std::uint64_t least_bytes, const EpochGuard& guard) {
  std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  for (;;) {
    const std::uint64_t offset = TailOffset(word);
    if (offset >= payload_bytes_) return {};
    const Address start = PlaceIn(word);
    if (!HasSpace(start, least_bytes, Space::kCommit)) return {};
    const std::uint64_t end =
        (offset + least_bytes + kBlockPayloadBytes - 1) / kBlockPayloadBytes * kBlockPayloadBytes;
    // Too little is left: all of it becomes a filler.
    const bool fits = end <= payload_bytes_;
    const std::uint64_t next_offset = fits ? end : payload_bytes_;
    if (!tail_.compare_exchange_weak(word, word - offset + next_offset,
                                     std::memory_order_acq_rel,  // [tail]
                                     std::memory_order_acquire)) {
      continue;
    }
    if (fits) return {start, end - offset};
    FillPageEnd(start, guard);
    return {};
  }
}

Address HybridLog::tail() const {
  const std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  return TailOffset(word) >= payload_bytes_ ? config_.geometry.PageStart(TailPage(word) + 1)
                                            : PlaceIn(word);
}

std::uint64_t HybridLog::overshoot_bytes() const {
  const std::uint64_t word = tail_.load(std::memory_order_relaxed);  // one word, by itself
  return TailOffset(word) - std::min(TailOffset(word), payload_bytes_);
}

Address HybridLog::NextPlace() const {
  const std::uint64_t word = tail_.load(std::memory_order_relaxed);  // a hint; Allocate takes it
  return config_.geometry.PageStart(TailPage(word)) + std::min(TailOffset(word), payload_bytes_);
}

// ---- space ----

// A record that crosses its page's end makes a filler there, so the page is what must have space.
std::uint64_t HybridLog::EndBlock(Address at, std::uint64_t extent_bytes) const {
  const Geometry& geometry = config_.geometry;
  const std::uint64_t end =
      std::min(geometry.OffsetOf(at) + std::max<std::uint64_t>(extent_bytes, 8), payload_bytes_);
  return geometry.BlockOf(geometry.PageStart(geometry.PageOf(at)) + (end - 1)) + 1;
}

bool HybridLog::HasSpace(Address at, std::uint64_t extent_bytes, Space space) const {
  if (at < LoadAcquire(ordinary_end_)) [[likely]]  // [space]
    return true;
  return space != Space::kOrdinary &&
         EndBlock(at, extent_bytes) + BlocksBehind(space) <=
             space_end_block_.load(std::memory_order_acquire);  // [space]
}

std::uint64_t HybridLog::WasteBlocks() const {
  return largest_extent_.load(std::memory_order_relaxed) / kBlockPayloadBytes + 3;  // an estimate
}

void HybridLog::SizeSlices() {
  const Geometry& geometry = config_.geometry;
  const std::uint64_t log_blocks = geometry.BlockOf(tail()) - geometry.BlockOf(begin());
  const std::uint64_t waste = WasteBlocks() + sessions_blocks_;
  const std::uint64_t base =
      std::min<std::uint64_t>(2 * geometry.blocks_per_page(), 512) + 2 * waste;
  const auto root = static_cast<std::uint64_t>(
      std::sqrt(static_cast<double>(waste) * static_cast<double>(log_blocks)));
  const std::uint64_t commits = 4 * (2 + sessions_blocks_) + 8;
  const std::uint64_t collection = base + root * 5 / 2 + device_.FreedAsOne(log_blocks);
  const std::uint64_t deletions = std::max(base + root / 2, log_blocks / 128);
  const auto set = [this](Space space, std::uint64_t blocks) {
    blocks_behind_[static_cast<std::size_t>(space)].store(
        blocks, std::memory_order_relaxed);  // a thread that sees an older one is a bit earlier
  };
  set(Space::kCollection, commits);
  set(Space::kDeletion, commits + collection);
  set(Space::kOrdinary, commits + collection + deletions);
}

absl::Status HybridLog::ReserveTo(std::uint64_t end_block) {
  const std::uint64_t begin = space_end_block_.load(std::memory_order_relaxed);  // space_mu_ held
  if (end_block <= begin) return absl::OkStatus();
  absl::Status status = device_.Reserve(begin, end_block);
  if (status.ok()) space_end_block_.store(end_block, std::memory_order_release);  // [space]
  return status;
}

absl::Status HybridLog::TakeSpace(Address at, std::uint64_t extent_bytes, Space space) {
  MutexLock lock(space_mu_);
  SizeSlices();
  if (HasSpace(at, extent_bytes, space)) return absl::OkStatus();
  const Geometry& geometry = config_.geometry;
  const std::uint64_t page_end = (geometry.PageOf(at) + 1) * geometry.blocks_per_page();
  absl::Status status = ReserveTo(page_end + BlocksBehind(Space::kOrdinary));
  if (status.ok()) {
    is_short_of_space_.store(false, std::memory_order_relaxed);  // a hint
    const std::uint64_t end_page = std::min(geometry.PageOf(at) + 1, EndPage(Space::kOrdinary));
    ordinary_end_.store(geometry.PageStart(end_page).value(),
                        std::memory_order_release);  // [space]
    return status;
  }
  // The slices that matter most first, as far as there is space. A part of a slice is worth having
  // too: without it, a collection in a new process would have none and would free too little.
  const std::uint64_t end_block = EndBlock(at, extent_bytes);
  for (const Space behind :
       {Space::kCommit, Space::kCollection, Space::kDeletion, Space::kOrdinary}) {
    const std::uint64_t target = end_block + BlocksBehind(behind);
    const auto end = [this] {
      return space_end_block_.load(std::memory_order_relaxed);  // space_mu_ is held
    };
    for (std::uint64_t step = target - std::min(target, end()); step != 0; step /= 2) {
      static_cast<void>(ReserveTo(std::min(end() + step, target)));
    }
    if (end() < target) break;
  }
  return HasSpace(at, extent_bytes, space) ? absl::OkStatus() : status;
}

absl::Status HybridLog::CheckIdleCommit(bool is_needed) {
  MutexLock lock(space_mu_);
  SizeSlices();
  const Address at = config_.geometry.Normalize(NextPlace());
  if (at < LoadAcquire(ordinary_end_)) return absl::OkStatus();  // [space]
  const std::uint64_t kept = is_needed ? BlocksBehind(Space::kCollection) / 2 : HalfOfDeletions();
  return ReserveTo(config_.geometry.BlockOf(at) + 2 + sessions_blocks_ + kept);
}

absl::Status HybridLog::SetSessionsBytes(std::uint64_t bytes) {
  MutexLock lock(space_mu_);
  const std::uint64_t blocks = BlocksOfSessions(bytes);
  const std::uint64_t before = std::exchange(sessions_blocks_, blocks);
  if (blocks <= before) return absl::OkStatus();
  SizeSlices();
  const Address at = config_.geometry.Normalize(NextPlace());
  const std::uint64_t page_end =
      (config_.geometry.PageOf(at) + 1) * config_.geometry.blocks_per_page();
  const bool is_ordinary = at < LoadAcquire(ordinary_end_);  // [space]
  absl::Status status =
      ReserveTo((is_ordinary ? page_end : config_.geometry.BlockOf(at) + 1) + HalfOfDeletions());
  if (!status.ok()) sessions_blocks_ = before;
  return status;
}

HybridLog::CollectionSpace HybridLog::GetCollectionSpace() {
  MutexLock lock(space_mu_);
  SizeSlices();
  const std::uint64_t from = config_.geometry.BlockOf(config_.geometry.Normalize(NextPlace())) +
                             BlocksBehind(Space::kCollection);
  const std::uint64_t end = space_end_block_.load(std::memory_order_relaxed);  // space_mu_ held
  return {.slice_blocks = end - std::min(end, from),
          .waste_blocks = WasteBlocks() + sessions_blocks_};
}

void HybridLog::TakeSpaceAhead(std::uint64_t pages_ahead) {
  const Geometry& geometry = config_.geometry;
  const Address next = NextPlace();
  const Address at = pages_ahead == 0 ? geometry.Normalize(next)
                                      : geometry.PageStart(geometry.PageOf(next) + pages_ahead);
  static_cast<void>(TakeSpace(at, sizeof(RecordHeader), Space::kOrdinary));
}

std::uint64_t HybridLog::EndPage(Space space) const {
  const std::uint64_t pages = config_.geometry.max_pages();
  return space <= Space::kDeletion ? pages - pages / 100 : pages;
}

// kRoom: the tail's page has room and space, because it had or because it was turned here. A page
// is full when its offset is at its end, overshot or not.
HybridLog::Turn HybridLog::TryTurnPage(std::uint64_t extent_bytes, Space space,
                                       std::uint64_t drained_page) {
  const Geometry& geometry = config_.geometry;
  std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  // Each failure of the CAS is an allocation, or another thread's turn of the page.
  for (;;) {
    const bool full = TailOffset(word) >= payload_bytes_;
    const std::uint64_t page = TailPage(word) + (full ? 1 : 0);
    const Address place = geometry.PageStart(page) + (full ? 0 : TailOffset(word));
    if (!HasSpace(place, extent_bytes, space)) return Turn::kNeedsSpace;
    if (!full) return Turn::kRoom;
    const std::uint64_t oldest_page = geometry.PageOf(safe_head());
    if (page - oldest_page >= geometry.frame_count || page >= EndPage(space)) {
      return Turn::kNeedsFrame;
    }
    if (place >= LoadAcquire(ordinary_end_) && drained_page != page) return Turn::kNeedsDrain;
    if (tail_.compare_exchange_weak(word, page << tail_shift(),
                                    std::memory_order_acq_rel,  // [tail]
                                    std::memory_order_acquire)) {
      counters_.page_turns.fetch_add(1, std::memory_order_relaxed);  // statistics
      ScheduleMaintenance();
      return Turn::kRoom;
    }
  }
}

void HybridLog::WaitAtBrake() {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLongest{1000};
  const auto is_set = [this] {
    return tail().value() >= brake_.load(std::memory_order_relaxed);  // looked at again and again
  };
  if (!is_set()) return;
  counters_.brake_waits.fetch_add(1, std::memory_order_relaxed);  // statistics
  const Clock::time_point until = Clock::now() + kLongest;
  Backoff backoff;
  while (is_set() && !epochs_.closed() && Clock::now() < until) backoff.Wait();
}

absl::Status HybridLog::WaitForPage(std::uint64_t extent_bytes, Space space) {
  counters_.page_waits.fetch_add(1, std::memory_order_relaxed);  // statistics
  Backoff backoff;
  if (space == Space::kOrdinary) WaitAtBrake();
  std::uint64_t drained_page = 0;  // see TryTurnPage
  for (;;) {  // ends: each turn takes space, moves a boundary, or waits for somebody who does
    const Turn turn = TryTurnPage(extent_bytes, space, drained_page);
    if (turn == Turn::kRoom) return absl::OkStatus();
    if (health_.poisoned()) return health_.status();
    const std::uint64_t tail_page = TailPage(tail_.load(std::memory_order_relaxed));  // only grows
    if (tail_page + 1 >= EndPage(space)) {
      return Lasting(absl::ResourceExhaustedError(fmt::format(
          "{} % of the log's address space of 2^{} bytes is used: copy all keys into a new store "
          "(collecting garbage does not renew addresses)",
          space <= Space::kDeletion ? 99 : 100, config_.geometry.address_bits)));
    }
    if (turn == Turn::kNeedsSpace) {
      const Address place = config_.geometry.Normalize(NextPlace());
      absl::Status status = TakeSpace(place, extent_bytes, space);
      if (status.ok()) continue;
      if (space <= Space::kDeletion && absl::IsResourceExhausted(status)) {
        is_short_of_space_.store(true, std::memory_order_relaxed);  // a hint
        if (look_for_garbage_) look_for_garbage_();
      }
      return status;
    }
    if (turn == Turn::kNeedsDrain) {
      const std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
      if (TailOffset(word) < payload_bytes_) continue;                   // turned meanwhile
      if (absl::Status status = Drain(); !status.ok()) return status;
      drained_page = TailPage(word) + 1;
      continue;
    }
    absl::StatusOr<bool> moved = Help();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
}

absl::Status HybridLog::Drain() {
  const std::uint64_t epoch = epochs_.Bump();
  Backoff backoff;
  while (!epochs_.Drained(epoch)) {
    if (epochs_.broken()) return health_.status();
    backoff.Wait();
  }
  return absl::OkStatus();
}

// ---- maintenance ----

absl::StatusOr<bool> HybridLog::Help() {
  const bool shifted = ShiftBoundaries();
  absl::StatusOr<bool> flushed = FlushChunk();
  if (!flushed.ok()) return flushed;
  return shifted || *flushed;
}

bool HybridLog::ShiftBoundaries() {
  MutexLock lock(boundary_mu_);
  const bool settled = Settle();
  return Stage() || settled;
}

bool HybridLog::Stage() {
  if (staged_) return false;
  const Geometry& geometry = config_.geometry;
  const std::uint64_t tail_page = geometry.PageOf(tail());

  Address read_only_target = requested_read_only_;
  if (tail_page >= mutable_pages_) {
    read_only_target =
        std::max(read_only_target, geometry.PageStart(tail_page - mutable_pages_ + 1));
  }
  // Keep one frame free, so that the next page turn need not wait.
  Address head_target = head_acquire();
  if (tail_page + 2 > geometry.frame_count) {
    const std::uint64_t page =
        std::min(tail_page + 2 - geometry.frame_count, geometry.PageOf(flushed_until()));
    head_target = std::max(head_target, geometry.PageStart(page));
  }
  if (requested_head_ <= flushed_until()) head_target = std::max(head_target, requested_head_);
  const bool moves_read_only = read_only_target > read_only();
  const bool moves_head = head_target > head_acquire();
  if (!moves_read_only && !moves_head) return false;

  if (moves_read_only) {
    RaiseUpdateFrom(read_only_target,
                    update_from_.load(std::memory_order_relaxed) & kInfinity);  // boundary_mu_ held
    read_only_.store(read_only_target.value(), std::memory_order_release);      // [boundary]
  }
  if (moves_head) head_.store(head_target.value(), std::memory_order_release);  // [boundary]
  staged_epoch_ = epochs_.Bump();
  staged_ = true;
  if (epochs_.broken()) BlockUpdatesLocked();
  return true;
}

bool HybridLog::Settle() {
  if (!staged_ || !epochs_.Drained(staged_epoch_)) return false;
  staged_ = false;
  safe_read_only_.store(read_only().value(), std::memory_order_release);  // [boundary]
  const Geometry& geometry = config_.geometry;
  if (geometry.frame_slots() > geometry.frame_count) {
    const std::uint64_t end = geometry.PageOf(head_acquire());
    for (std::uint64_t page = geometry.PageOf(safe_head()); page < end; ++page) ReleaseFrame(page);
  }
  safe_head_.store(head_acquire().value(), std::memory_order_release);  // [boundary]
  CheckBoundaries();
  return true;
}

void HybridLog::RaiseUpdateFrom(Address floor, std::uint64_t infinity) {
  const std::uint64_t word = update_from_.load(std::memory_order_relaxed);  // boundary_mu_ held
  update_from_.store(std::max(word & ~kInfinity, floor.value()) | infinity,
                     std::memory_order_release);  // [boundary]
}

void HybridLog::BeginVersionShift() {
  MutexLock lock(boundary_mu_);
  RaiseUpdateFrom(Address(), kInfinity);
}

void HybridLog::EndVersionShift(Address floor) {
  MutexLock lock(boundary_mu_);
  RaiseUpdateFrom(floor, updates_blocked_ ? kInfinity : 0);
}

void HybridLog::BlockUpdates() {
  MutexLock lock(boundary_mu_);
  BlockUpdatesLocked();
}

void HybridLog::BlockUpdatesLocked() {
  updates_blocked_ = true;
  RaiseUpdateFrom(Address(), kInfinity);
}

// A chunk from when it is taken until it has ended. One that is left by an exception has failed:
// others wait for its end.
struct HybridLog::TakenChunk {
  explicit TakenChunk(HybridLog& its_log) : log(its_log) {}
  ~TakenChunk() {
    if (is_taken) static_cast<void>(End(NoMemory()));
  }
  TakenChunk(const TakenChunk&) = delete;
  TakenChunk& operator=(const TakenChunk&) = delete;
  bool Take() { return is_taken = log.TakeChunk(chunk, waited); }
  absl::StatusOr<bool> End(absl::Status written) {
    is_taken = false;
    return log.EndChunk(chunk, std::move(written));
  }

  HybridLog& log;
  Chunk chunk;
  bool waited = false;
  bool is_taken = false;
};

absl::StatusOr<bool> HybridLog::FlushChunk() {
  TakenChunk taken(*this);
  Chunk& chunk = taken.chunk;
  if (!taken.Take()) return taken.waited;
  const Geometry& geometry = config_.geometry;
  const std::span<std::byte> batch(chunk.buffer.get(),
                                   (chunk.end_block - chunk.first_block) * kBlockBytes);
  for (std::uint64_t block = chunk.first_block; block < chunk.end_block; ++block) {
    const auto bytes = batch.subspan((block - chunk.first_block) * kBlockBytes, kBlockBytes);
    const std::byte* payload = frames_ + (geometry.BlockStart(block).value() & frame_mask_);
    CopyFromLog(payload, kBlockPayloadBytes, bytes.data());
    SealBlock(bytes, config_.store_id, block, incarnation());
  }
  return taken.End(CatchNoMemory([&] { return device_.Write(chunk.first_block, batch); }));
}

// Whole blocks of one page, as many as a batch holds; false when there are none. `waited`: for a
// chunk that is under way.
bool HybridLog::TakeChunk(Chunk& chunk, bool& waited) {
  const Geometry& geometry = config_.geometry;
  MutexLock lock(flush_mu_);
  for (;;) {  // ends: what is under way ends
    const Address from = std::max(taken_until_, flushed_until());
    const Address end = safe_read_only();
    if (from < end && !chunk_failed_ && chunks_under_way_ < flush_buffers_.size()) {
      chunk.first_block = geometry.BlockOf(from);
      chunk.end_block = std::min(geometry.PageOf(end) > geometry.PageOf(from)
                                     ? (geometry.PageOf(from) + 1) * geometry.blocks_per_page()
                                     : geometry.BlockOf(end),
                                 chunk.first_block + config_.write_batch_bytes / kBlockBytes);
      // Else it is a part of a block, which is not sealed yet.
      if (chunk.first_block < chunk.end_block) break;
    }
    if (chunks_under_way_ == 0) return false;
    waited = true;
    flush_changed_.Wait(flush_mu_);
  }
  ++chunks_under_way_;
  taken_until_ = geometry.BlockStart(chunk.end_block);
  const auto spare = std::find_if(flush_buffers_.begin(), flush_buffers_.end(),
                                  [](const AlignedBuffer& buffer) { return buffer != nullptr; });
  chunk.buffer = std::move(*spare);
  return true;
}

// A chunk counts when all before it do.
absl::StatusOr<bool> HybridLog::EndChunk(Chunk& chunk, absl::Status written) {
  const Geometry& geometry = config_.geometry;
  const Address start = geometry.BlockStart(chunk.first_block);
  MutexLock lock(flush_mu_);
  while (written.ok() && flushed_until() < start && !chunk_failed_) {
    flush_changed_.Wait(flush_mu_);
  }
  const bool moves = written.ok() && flushed_until() == start;
  if (moves) {
    counters_.flushed_bytes.fetch_add((chunk.end_block - chunk.first_block) * kBlockBytes,
                                      std::memory_order_relaxed);  // statistics
    flushed_until_.store(geometry.BlockStart(chunk.end_block).value(),
                         std::memory_order_release);  // [boundary]
  }
  // What was under way behind one that failed is taken again.
  chunk_failed_ = chunk_failed_ || !written.ok();
  if (--chunks_under_way_ == 0 && std::exchange(chunk_failed_, false)) taken_until_ = Address();
  const auto place = std::find(flush_buffers_.begin(), flush_buffers_.end(), nullptr);
  *place = std::move(chunk.buffer);
  flush_changed_.NotifyAll();
  if (!written.ok()) return written;
  return moves;
}

absl::Status HybridLog::FlushTo(Address end) {
  EBB_CHECK(end == config_.geometry.BlockStart(config_.geometry.BlockOf(end)));
  {
    MutexLock lock(boundary_mu_);
    requested_read_only_ = std::max(requested_read_only_, end);
  }
  Backoff backoff;
  while (flushed_until() < end) {
    if (epochs_.broken()) return health_.status();
    absl::StatusOr<bool> moved = Help();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
  return absl::OkStatus();
}

absl::Status HybridLog::FreezeTo(Address end) {
  EBB_CHECK(end <= tail());
  {
    MutexLock lock(boundary_mu_);
    requested_read_only_ = std::max(requested_read_only_, end);
  }
  Backoff backoff;
  while (safe_read_only() < end) {
    if (epochs_.broken()) return health_.status();
    if (!ShiftBoundaries()) backoff.Wait();
  }
  return absl::OkStatus();
}

absl::Status HybridLog::ShiftBegin(Address begin) {
  EBB_CHECK(begin <= flushed_until());
  {
    MutexLock lock(boundary_mu_);
    requested_head_ = std::max(requested_head_, begin);
  }
  Backoff backoff;
  while (safe_head() < begin) {
    if (epochs_.broken()) return health_.status();
    absl::StatusOr<bool> moved = Help();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
  begin_.store(begin.value(), std::memory_order_release);  // [boundary]
  return absl::OkStatus();
}

void HybridLog::ScheduleMaintenance() {
  page_turned_.store(true, std::memory_order_relaxed);  // ordered by the pool's mutex
  maintenance_.Post();
}

bool HybridLog::NothingToDo() {
  MutexLock lock(boundary_mu_);
  const Geometry& geometry = config_.geometry;
  const Address can_be_flushed = geometry.BlockStart(geometry.BlockOf(safe_read_only()));
  return !staged_ && flushed_until() >= can_be_flushed && requested_read_only_ <= read_only();
}

// The frame of the page behind the tail's gets its memory from the pool, not from whoever writes
// there first. One that has had a page has kept its memory, unless there are more places for pages
// than frames.
void HybridLog::PopulateFrameAhead() {
  const Geometry& geometry = config_.geometry;
  const std::uint64_t page = geometry.PageOf(tail()) + 1;
  const bool is_kept =
      page >= geometry.frame_slots() && geometry.frame_slots() == geometry.frame_count;
  if (is_kept || page - geometry.PageOf(safe_head()) >= geometry.frame_count) return;
  region_.Populate(geometry.PageStart(page).value() & frame_mask_, geometry.page_bytes());
}

// A failed write, or a lack of memory, ends maintenance until the next page turn posts it again. A
// caller that needs the space meets the error itself.
void HybridLog::Maintain() {
  if (maintenance_stopped_.load(std::memory_order_relaxed))
    return;                                                       // seen by the next step at most
  if (page_turned_.exchange(false, std::memory_order_relaxed)) {  // ordered by the pool's mutex
    TakeSpaceAhead(1);
    PopulateFrameAhead();
    if (look_for_garbage_) look_for_garbage_();
  }
  absl::StatusOr<bool> moved = Help();
  if (!moved.ok()) return;
  if (*moved) {
    maintenance_backoff_ = Backoff();
  } else if (NothingToDo() || epochs_.broken()) {
    return;
  } else {
    maintenance_backoff_.Wait();
  }
  maintenance_.Post();
}

void HybridLog::StopMaintenance() {
  maintenance_stopped_.store(true, std::memory_order_relaxed);  // the pool's Stop joins
}

void HybridLog::CheckBoundaries() const {
  // Loaded from the lowest up, so that growth in between cannot break the order.
  const Address begin_now = begin();
  const Address safe_head_now = safe_head();
  const Address head_now = head_acquire();
  const Address flushed_now = flushed_until();
  const Address safe_read_only_now = safe_read_only();
  const Address read_only_now = read_only();
  EBB_CHECK(begin_now <= safe_head_now && safe_head_now <= head_now);
  EBB_CHECK(head_now <= flushed_now && flushed_now <= safe_read_only_now);
  EBB_CHECK(safe_read_only_now <= read_only_now && read_only_now <= tail());
  EBB_CHECK(overshoot_bytes() < max_tail_offset());
}

// ---- the device side ----

std::span<std::byte> HybridLog::FrameForRecovery(std::uint64_t page) const {
  const Geometry& geometry = config_.geometry;
  return {frames_ + (geometry.PageStart(page).value() & frame_mask_), geometry.page_bytes()};
}

void HybridLog::ReleaseFrame(std::uint64_t page) const {
  const Geometry& geometry = config_.geometry;
  region_.Release(geometry.PageStart(page).value() & frame_mask_, geometry.page_bytes());
}

std::uint64_t HybridLog::IncarnationAt(Address address) const {
  return internal::IncarnationAt(incarnations_, config_.geometry.BlockOf(address));
}

absl::Status HybridLog::Damaged(std::uint64_t block, const char* what) const {
  return absl::DataLossError(fmt::format("{}: block {} {}", device_.Describe(block), block, what));
}

absl::Status HybridLog::FetchBlocks(std::uint64_t block, std::span<std::byte> bytes) {
  BlockRead read{.block = block, .bytes = bytes};
  Read(read);
  return TakeBlocks(read);
}

absl::Status HybridLog::TakeBlocks(const BlockRead& read) {
  std::uint64_t block = read.block;
  if (absl::IsOutOfRange(read.status)) return Damaged(block, "is missing");
  if (!read.status.ok()) return read.status;
  counters_.device_reads.fetch_add(1, std::memory_order_relaxed);  // statistics
  counters_.device_read_bytes.fetch_add(read.bytes.size(), std::memory_order_relaxed);  // likewise
  for (std::size_t at = 0; at < read.bytes.size(); at += kBlockBytes, ++block) {
    const auto incarnation =
        VerifyBlock(read.bytes.subspan(at, kBlockBytes), config_.store_id, block);
    if (!incarnation.has_value()) return Damaged(block, "fails its checksum");
    if (*incarnation != internal::IncarnationAt(incarnations_, block))
      return Damaged(block, "is of another history");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> HybridLog::BlocksOf(Address address,
                                                  std::span<const std::byte> blocks) const {
  const Geometry& geometry = config_.geometry;
  const RecordShape shape = config_.shape;
  const std::uint64_t block = geometry.BlockOf(address);
  if (address.value() % 8 != 0 || geometry.OffsetOf(address) >= payload_bytes_) {
    return Damaged(block, "is near a place that no record can have, to which a chain leads");
  }
  const std::uint64_t in_block = geometry.OffsetOf(address) % kBlockPayloadBytes;
  const std::uint64_t room = payload_bytes_ - geometry.OffsetOf(address);
  const auto blocks_for = [&](std::uint64_t bytes) {
    return (in_block + bytes + kBlockPayloadBytes - 1) / kBlockPayloadBytes;
  };
  // The lengths of a string record are in its first words; a fixed record is read at once.
  const std::uint64_t least = shape.has_lengths()
                                  ? shape.prefix_bytes()
                                  : shape.ExtentFor(shape.key_bytes, shape.value_bytes);
  if (least > room) return Damaged(block, "ends inside a record");
  const std::uint64_t first = blocks_for(least);
  if (!shape.has_lengths() || blocks.size() < first * kBlockBytes) return first;
  std::byte prefix[16];
  const std::uint64_t in_first = std::min<std::uint64_t>(16, kBlockPayloadBytes - in_block);
  std::memcpy(prefix, blocks.data() + in_block, in_first);
  if (in_first < 16) std::memcpy(prefix + in_first, blocks.data() + kBlockBytes, 16 - in_first);
  std::uint32_t lengths[2];
  std::memcpy(lengths, prefix + 8, 8);
  const std::uint64_t extent =
      shape.ExtentFor(shape.key_variable() ? lengths[0] : shape.key_bytes,
                      shape.value_variable() ? lengths[1] : shape.value_bytes);
  if (extent > room) return Damaged(block, "holds a record longer than its page");
  return blocks_for(extent);
}

absl::StatusOr<bool> HybridLog::NextRead(Address address, DeviceBuffer& buffer, std::uint64_t have,
                                         BlockRead& next) const {
  std::byte* bytes = buffer.Reserve(have, have);
  const absl::StatusOr<std::uint64_t> blocks = BlocksOf(address, {bytes, have * kBlockBytes});
  if (!blocks.ok()) return blocks.status();
  if (*blocks <= have) return false;
  bytes = buffer.Reserve(*blocks, have);
  if (bytes == nullptr) {
    return absl::ResourceExhaustedError(
        fmt::format("no memory to read a record of {} blocks", *blocks));
  }
  next.block = config_.geometry.BlockOf(address) + have;
  next.bytes = {bytes + have * kBlockBytes, (*blocks - have) * kBlockBytes};
  return true;
}

absl::StatusOr<Record> HybridLog::RecordIn(Address address, DeviceBuffer& buffer,
                                           std::uint64_t have) const {
  const Geometry& geometry = config_.geometry;
  const std::uint64_t offset = geometry.OffsetOf(address);
  std::byte* const bytes = buffer.Reserve(have, have);
  // Over the trailers, so that a record that crosses blocks is in one piece.
  for (std::uint64_t i = 1; i < have; ++i) {
    std::memmove(bytes + i * kBlockPayloadBytes, bytes + i * kBlockBytes, kBlockPayloadBytes);
  }
  Record record(bytes + offset % kBlockPayloadBytes, config_.shape);
  const RecordHeader header = record.header().LoadAcquire();
  if (header.kind() != RecordKind::kRecord || !header.valid() || header.prev() >= address ||
      !record.WellFormed(payload_bytes_ - offset)) {
    return Damaged(geometry.BlockOf(address), "holds no record where a chain leads");
  }
  return record;
}

absl::StatusOr<Record> HybridLog::ReadFromDevice(Address address, DeviceBuffer& buffer) {
  std::uint64_t have = 0;
  for (BlockRead read;; have += read.bytes.size() / kBlockBytes) {  // ends: a record has an end
    const absl::StatusOr<bool> more = NextRead(address, buffer, have, read);
    if (!more.ok()) return more.status();
    if (!*more) return RecordIn(address, buffer, have);
    Read(read);
    if (absl::Status status = TakeBlocks(read); !status.ok()) return status;
  }
}

}  // namespace ebb::internal
