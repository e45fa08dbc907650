#include "ebb/internal/log/hybrid_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "ebb/internal/base/no_memory.h"
#include "ebb/status.h"

namespace ebb::internal {

HybridLog::HybridLog(const Config& config, EpochManager& epochs, Health& health, Device& device,
                     ThreadPool& pool)
    : frame_mask_(config.geometry.frame_mask()),
      payload_bytes_(config.geometry.payload_bytes()),
      config_(config),
      epochs_(epochs),
      health_(health),
      region_(config.geometry.frame_slots() * config.geometry.page_bytes(), config.huge_pages),
      space_(*this, config.geometry, config.shape, device),
      flusher_(*this, config.store_id, config.write_batch_bytes, device),
      maintenance_(pool, [this] { Maintain(); }) {
  // About an eighth of the frames, at least three, are for pages that leave memory: the page being
  // flushed, the page that waits for the drain of its eviction, and the frame of the next page to
  // be written.
  const std::uint64_t frames = config.geometry.frame_count;
  mutable_pages_ = frames - std::max<std::uint64_t>(3, frames / 8);
  if (flusher_.ok()) frames_ = region_.data();
}

void HybridLog::Restore(Position position) {
  const Geometry& geometry = config_.geometry;
  const Address tail = position.tail;
  // Everything below the tail came from the device, so it is final: no record below may be updated
  // in place.
  tail_.store(geometry.PageOf(tail) << tail_shift() | geometry.OffsetOf(tail),
              std::memory_order_release);                           // [tail]
  begin_.store(position.begin.value(), std::memory_order_release);  // [boundary]
  for (AtomicWord* word : {&safe_head_, &head_}) {
    word->store(position.head.value(), std::memory_order_release);  // [boundary]
  }
  for (AtomicWord* word : {&safe_read_only_, &read_only_, &update_from_}) {
    word->store(tail.value(), std::memory_order_release);  // [boundary]
  }
  incarnations_ = std::move(position.incarnations);
  space_.Restore(tail, position.sessions_bytes);
  flusher_.Restore(tail);
  MutexLock lock(boundary_mu_);
  requested_read_only_ = tail;
}

// ---- allocation ----

Address HybridLog::Allocate(std::uint64_t extent_bytes, const EpochGuard& guard, Space space) {
  EBB_DCHECK(extent_bytes % 8 == 0 && extent_bytes <= payload_bytes_);
  // Walk of an Upsert, 4. A full page is checked before the addition, so that rejected calls change
  // nothing. So the offset never grows into the page number (see the argument in the header).
  std::uint64_t word = tail_.load(std::memory_order_relaxed);  // the fetch_add takes the place
  if (TailOffset(word) >= payload_bytes_) [[unlikely]]
    return Address();
  // The page lacks space for ordinary records, or for the slices after it. An ordinary record must
  // wait; the other classes have their place checked exactly.
  if (!space_.IsOrdinary(PlaceIn(word))) [[unlikely]]
    return space == Space::kOrdinary ? Address() : AllocateExact(extent_bytes, guard, space);
  space_.NoteExtent(extent_bytes);
  // The claim. From here on the bytes [start, start + extent) belong to this thread alone, and the
  // caller must write a header with this extent before it leaves its guard: a scan relies on there
  // being no hole.
  word = tail_.fetch_add(extent_bytes, std::memory_order_acq_rel);  // [tail]
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
  for (;;) {  // ends: each turn after the first means that another thread claimed a place
    const std::uint64_t offset = TailOffset(word);
    if (offset >= payload_bytes_) return Address();
    // The check and the claim concern the same word: if another record gets in between, the CAS
    // fails and the place of the next attempt is checked again. So no class uses the slice of a
    // later one.
    const Address start = PlaceIn(word);
    if (!space_.HasSpace(start, extent_bytes, space)) return Address();
    // If the record does not fit, this call is the one that crosses the end: it claims the rest as
    // a filler.
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

HybridLog::Extent HybridLog::ReserveToBlockEnd(std::uint64_t min_bytes, const EpochGuard& guard) {
  std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  for (;;) {
    const std::uint64_t offset = TailOffset(word);
    // The same claim as in AllocateExact, but up to the end of a block, so that the control record
    // can be sealed and flushed at once, and nothing is appended to its block later.
    if (offset >= payload_bytes_) return {};
    const Address start = PlaceIn(word);
    if (!space_.HasSpace(start, min_bytes, Space::kCommit)) return {};
    const std::uint64_t end =
        (offset + min_bytes + kBlockPayloadBytes - 1) / kBlockPayloadBytes * kBlockPayloadBytes;
    // If too little is left, all of it becomes a filler.
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
  // An overshot page counts as full: the next record goes to the start of the next page.
  return TailOffset(word) >= payload_bytes_ ? config_.geometry.PageStart(TailPage(word) + 1)
                                            : PlaceIn(word);
}

std::uint64_t HybridLog::overshoot_bytes() const {
  const std::uint64_t word = tail_.load(std::memory_order_relaxed);  // one word, alone
  return TailOffset(word) - std::min(TailOffset(word), payload_bytes_);
}

Address HybridLog::NextPlace() const {
  const std::uint64_t word =
      tail_.load(std::memory_order_relaxed);  // a hint; Allocate claims the place
  return config_.geometry.PageStart(TailPage(word)) + std::min(TailOffset(word), payload_bytes_);
}

// Walk of a page, 1. Returns kRoom if the tail's page has room and space, either before the call or
// because it was turned here. A page is full when its offset is at or beyond its end.
HybridLog::Turn HybridLog::TryTurnPage(std::uint64_t extent_bytes, Space space,
                                       std::uint64_t drained_page) {
  const Geometry& geometry = config_.geometry;
  std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
  // Each failure of the CAS is an allocation, or another thread's turn of the page.
  for (;;) {
    const bool full = TailOffset(word) >= payload_bytes_;
    const std::uint64_t page = TailPage(word) + (full ? 1 : 0);
    const Address place = geometry.PageStart(page) + (full ? 0 : TailOffset(word));
    // Space is checked before the turn: a page without space for the record is not begun, and the
    // tail word stays.
    if (!space_.HasSpace(place, extent_bytes, space)) return Turn::kNeedsSpace;
    if (!full) return Turn::kRoom;
    // The frame of the new page is that of the page frame_count before it. Below safe_head no guard
    // uses a frame.
    const std::uint64_t oldest_page = geometry.PageOf(safe_head());
    if (page - oldest_page >= geometry.frame_count || page >= space_.EndPage(space)) {
      return Turn::kNeedsFrame;
    }
    // Before the tail enters a page that is not ordinary, no guard may be left that was granted an
    // ordinary place in the page before: its fetch_add would land here unchecked. The drain must
    // have begun when that page was already full.
    if (!space_.IsOrdinary(place) && drained_page != page) return Turn::kNeedsDrain;
    // The CAS resets the offset to 0, which discards the overshoot of the old page. A thread that
    // adds to the old word before the CAS makes it fail; one that adds afterwards gets a place in
    // the new page, which is right too.
    if (tail_.compare_exchange_weak(word, page << tail_shift(),
                                    std::memory_order_acq_rel,  // [tail]
                                    std::memory_order_acquire)) {
      counters_.page_turns.fetch_add(1, std::memory_order_relaxed);  // statistics
      ScheduleMaintenance();
      return Turn::kRoom;
    }
  }
}

// The write throttle of an automatic collection: SetThrottle.
void HybridLog::WaitAtThrottle() {
  constexpr std::chrono::milliseconds kLongest{1000};
  const auto is_set = [this] {
    return tail().value() >=
           throttle_limit_.load(std::memory_order_relaxed);  // checked again and again
  };
  if (!is_set()) return;
  counters_.throttle_waits.fetch_add(1, std::memory_order_relaxed);  // statistics
  const Clock::time_point until = Clock::now() + kLongest;
  Backoff backoff;
  while (is_set() && !epochs_.closed() && Clock::now() < until) backoff.Wait();
}

absl::Status HybridLog::WaitForPage(std::uint64_t extent_bytes, Space space) {
  counters_.page_waits.fetch_add(1, std::memory_order_relaxed);  // statistics
  Backoff backoff;
  if (space == Space::kOrdinary) WaitAtThrottle();
  std::uint64_t drained_page = 0;  // see TryTurnPage
  for (;;) {  // ends: each turn takes space, moves a boundary, or waits for a thread that does
    const Turn turn = TryTurnPage(extent_bytes, space, drained_page);
    if (turn == Turn::kRoom) return absl::OkStatus();
    // A poisoned store never gets a page: without this check the loop would wait for a flush that
    // never comes.
    if (health_.poisoned()) return health_.status();
    const std::uint64_t tail_page = TailPage(tail_.load(std::memory_order_relaxed));  // only grows
    if (tail_page + 1 >= space_.EndPage(space)) {
      return Lasting(absl::ResourceExhaustedError(fmt::format(
          "{} % of the log's address space of 2^{} bytes is used, and garbage collection does not "
          "renew it: copy all keys into a new store",
          space <= Space::kDeletion ? 99 : 100, config_.geometry.address_bits)));
    }
    if (turn == Turn::kNeedsSpace) {
      // The place may have moved since TryTurnPage; then the next turn of the loop checks again.
      const Address place = config_.geometry.Normalize(NextPlace());
      absl::Status status = space_.Take(place, extent_bytes, space);
      if (status.ok()) continue;
      // An automatic collection may free space. The caller does not wait for it: its update is
      // rejected.
      if (space <= Space::kDeletion && absl::IsResourceExhausted(status)) {
        space_.NoteShort();
        if (look_for_garbage_) look_for_garbage_();
      }
      return status;
    }
    if (turn == Turn::kNeedsDrain) {
      // The page must be full when the drain begins, so that guards that begin later cannot append
      // to it.
      const std::uint64_t word = tail_.load(std::memory_order_acquire);  // [tail]
      if (TailOffset(word) < payload_bytes_) continue;                   // turned in the meantime
      if (absl::Status status = Drain(); !status.ok()) return status;
      drained_page = TailPage(word) + 1;
      continue;
    }
    // No frame is free. This thread does one step of the work itself, so that the wait does not
    // depend on the pool.
    absl::StatusOr<bool> moved = RunMaintenanceStep();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
}

absl::Status HybridLog::WaitForDrain(std::uint64_t epoch) {
  Backoff backoff;
  while (!epochs_.Drained(epoch)) {
    // A barrier failed, so the end of the drain will never be known, and no boundary may move
    // because of it.
    if (epochs_.broken()) {
      BlockUpdates();
      return health_.status();
    }
    backoff.Wait();
  }
  return absl::OkStatus();
}

// ---- maintenance ----

absl::StatusOr<bool> HybridLog::RunMaintenanceStep() {
  // Walk of a page, 2 to 5. Any number of threads may be here; the mutexes of the two parts make
  // their steps one at a time, and none is held during the device's write.
  const bool shifted = ShiftBoundaries();
  absl::StatusOr<bool> flushed = flusher_.FlushChunk();
  if (!flushed.ok()) return flushed;
  return shifted || *flushed;
}

bool HybridLog::ShiftBoundaries() {
  MutexLock lock(boundary_mu_);
  // AdvanceSafeBoundaries first: it may end the drain that keeps AdvanceBoundaries from moving
  // anything.
  const bool settled = AdvanceSafeBoundaries();
  return AdvanceBoundaries() || settled;
}

bool HybridLog::AdvanceBoundaries() {
  // One bump at a time: the boundaries may not move again until AdvanceSafeBoundaries has given
  // their values to the safe ones.
  if (staged_) return false;
  const Geometry& geometry = config_.geometry;
  const std::uint64_t tail_page = geometry.PageOf(tail());

  // read_only follows the tail at a distance of mutable_pages_, or goes to where FlushTo or
  // FreezeTo requested it.
  Address read_only_target = requested_read_only_;
  if (tail_page >= mutable_pages_) {
    read_only_target =
        std::max(read_only_target, geometry.PageStart(tail_page - mutable_pages_ + 1));
  }
  // Keep one frame free, so that the next page turn need not wait.
  Address head_target = head_acquire();
  // head may pass a page only once it is flushed: reads below head go to the device.
  if (tail_page + 2 > geometry.frame_count) {
    const std::uint64_t page =
        std::min(tail_page + 2 - geometry.frame_count, geometry.PageOf(flushed_until()));
    head_target = std::max(head_target, geometry.PageStart(page));
  }
  // ShiftBegin evicts everything below the new begin, once it is flushed.
  if (requested_head_ <= flushed_until()) head_target = std::max(head_target, requested_head_);
  const bool moves_read_only = read_only_target > read_only();
  const bool moves_head = head_target > head_acquire();
  if (!moves_read_only && !moves_head) return false;

  if (moves_read_only) {
    // The order is the invariant: both words are stored before the bump. A guard that begins after
    // the bump sees them and updates nothing in place below; the guards that began before end
    // before AdvanceSafeBoundaries acts. A version shift keeps its bit.
    RaiseUpdateFrom(read_only_target,
                    update_from_.load(std::memory_order_relaxed) & kInfinity);  // boundary_mu_ held
    read_only_.store(read_only_target.value(), std::memory_order_release);      // [boundary]
  }
  if (moves_head) head_.store(head_target.value(), std::memory_order_release);  // [boundary]
  // From here on Drained(staged_epoch_) reports when the last guard that may have loaded the old
  // values has ended.
  staged_epoch_ = epochs_.Bump();
  staged_ = true;
  // The bump's barrier failed: the drain will never be known to end, and a fast path might still
  // see the old floor. So no update in place is allowed any more.
  if (epochs_.broken()) BlockUpdatesLocked();
  return true;
}

bool HybridLog::AdvanceSafeBoundaries() {
  // Walk of a page, 3 and 5. After the drain, bytes below read_only are final and frames below head
  // are unused.
  if (!staged_ || !epochs_.Drained(staged_epoch_)) return false;
  staged_ = false;
  safe_read_only_.store(read_only().value(), std::memory_order_release);  // [boundary]
  const Geometry& geometry = config_.geometry;
  // If there are more places for pages than frames, the memory of evicted pages is released: before
  // safe_head moves, so that no later page can have the frame yet.
  if (geometry.frame_slots() > geometry.frame_count) {
    const std::uint64_t end = geometry.PageOf(head_acquire());
    for (std::uint64_t page = geometry.PageOf(safe_head()); page < end; ++page) ReleaseFrame(page);
  }
  safe_head_.store(head_acquire().value(), std::memory_order_release);  // [boundary]
  CheckBoundaries();
  return true;
}

void HybridLog::RaiseUpdateFrom(Address floor, std::uint64_t infinity) {
  // All writers of update_from hold boundary_mu_, so that neither a floor nor the high bit is lost.
  const std::uint64_t word = update_from_.load(std::memory_order_relaxed);  // boundary_mu_ held
  update_from_.store(std::max(word & ~kInfinity, floor.value()) | infinity,
                     std::memory_order_release);  // [boundary]
}

void HybridLog::BeginVersionShift() {
  MutexLock lock(boundary_mu_);
  // Walk of a Commit, 2: before the bump is published, so that no operation of the new version
  // updates a record of the old one in place.
  RaiseUpdateFrom(Address(), kInfinity);
}

void HybridLog::EndVersionShift(Address floor) {
  MutexLock lock(boundary_mu_);
  // Walk of a Commit, 3: after the drain and the claim of the control record's place. Records at or
  // above `floor` are of the new version. If updates are blocked for another reason, the bit stays.
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

absl::Status HybridLog::FlushTo(Address end) {
  // Walk of a Commit, 3: the end of a control record is the end of a block.
  EBB_CHECK(end == config_.geometry.BlockStart(config_.geometry.BlockOf(end)));
  {
    MutexLock lock(boundary_mu_);
    // Only requests: AdvanceBoundaries moves the boundary, so that it has one mover.
    requested_read_only_ = std::max(requested_read_only_, end);
  }
  Backoff backoff;
  while (flushed_until() < end) {
    if (epochs_.broken()) return health_.status();
    absl::StatusOr<bool> moved = RunMaintenanceStep();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
  return absl::OkStatus();
}

absl::Status HybridLog::FreezeTo(Address end) {
  EBB_CHECK(end <= tail());
  {
    MutexLock lock(boundary_mu_);
    // The same as FlushTo, without the device.
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
    // Walk of a garbage collection, 4. Frames below are evicted first, then begin moves, so that
    // begin <= safe_head.
    requested_head_ = std::max(requested_head_, begin);
  }
  Backoff backoff;
  while (safe_head() < begin) {
    if (epochs_.broken()) return health_.status();
    absl::StatusOr<bool> moved = RunMaintenanceStep();
    if (!moved.ok()) return moved.status();
    if (!*moved) backoff.Wait();
  }
  // Only now may chains be cut below: every guard that could still read those frames has ended.
  begin_.store(begin.value(), std::memory_order_release);  // [boundary]
  return absl::OkStatus();
}

void HybridLog::ScheduleMaintenance() {
  // The pool runs the job once, however many threads post it.
  page_turned_.store(true, std::memory_order_relaxed);  // ordered by the pool's mutex
  maintenance_.Post();
}

bool HybridLog::NothingToDo() {
  // Called by maintenance, to decide whether to post itself again. A partial block at the end does
  // not count.
  MutexLock lock(boundary_mu_);
  const Geometry& geometry = config_.geometry;
  const Address can_be_flushed = geometry.BlockStart(geometry.BlockOf(safe_read_only()));
  return !staged_ && flushed_until() >= can_be_flushed && requested_read_only_ <= read_only();
}

// Populates the frame of the page after the tail's in the pool, so that the first writer there does
// not wait for page faults. A frame that had a page has kept its memory, unless there are more
// places for pages than frames.
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
    return;  // seen by the next step at the latest
  if (page_turned_.exchange(false, std::memory_order_relaxed)) {  // ordered by the pool's mutex
    // Do the expensive parts of the next page turn now, outside any user's call.
    space_.TakeAhead(1);
    PopulateFrameAhead();
    if (look_for_garbage_) look_for_garbage_();
  }
  absl::StatusOr<bool> moved = RunMaintenanceStep();
  if (!moved.ok()) return;
  // Post again as long as there is something to do. A step that moved nothing waits for guards or
  // for the other chunk.
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

// ---- frames ----

std::span<std::byte> HybridLog::Frame(std::uint64_t page) const {
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

}  // namespace ebb::internal
