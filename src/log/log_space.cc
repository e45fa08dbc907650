#include "ebb/internal/log/log_space.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ebb/internal/format/block.h"
#include "ebb/internal/log/hybrid_log.h"

namespace ebb::internal {

namespace {

// At most, wherever the records lie in their blocks.
std::uint64_t BlocksOfSessions(std::uint64_t bytes) {
  return bytes == 0 ? 0 : bytes / kBlockPayloadBytes + 2;
}

}  // namespace

LogSpace::LogSpace(const HybridLog& log, const Geometry& geometry, RecordShape shape,
                   Device& device)
    : log_(log),
      geometry_(geometry),
      device_(device),
      largest_extent_(shape.has_lengths() ? 0
                                          : shape.ExtentFor(shape.key_bytes, shape.value_bytes)) {}

void LogSpace::Restore(Address tail, std::uint64_t sessions_bytes) {
  // Space is reserved when it is needed.
  space_end_block_.store(geometry_.BlockOf(tail), std::memory_order_release);  // [space]
  ordinary_end_.store(0, std::memory_order_release);                           // [space]
  MutexLock lock(mu_);
  sessions_blocks_ = BlocksOfSessions(sessions_bytes);
}

// A record that crosses its page's end makes a filler there, so the whole page must have space.
std::uint64_t LogSpace::EndBlock(Address at, std::uint64_t extent_bytes) const {
  const std::uint64_t end = std::min(
      geometry_.OffsetOf(at) + std::max<std::uint64_t>(extent_bytes, 8), geometry_.payload_bytes());
  return geometry_.BlockOf(geometry_.PageStart(geometry_.PageOf(at)) + (end - 1)) + 1;
}

bool LogSpace::HasSpace(Address at, std::uint64_t extent_bytes, Space space) const {
  // The common case: in an ordinary page every class may append. Beyond it, a record must leave all
  // slices of later classes whole.
  if (IsOrdinary(at)) [[likely]]  // [space]
    return true;
  return space != Space::kOrdinary &&
         EndBlock(at, extent_bytes) + BlocksBehind(space) <=
             space_end_block_.load(std::memory_order_acquire);  // [space]
}

std::uint64_t LogSpace::EndPage(Space space) const {
  const std::uint64_t pages = geometry_.max_pages();
  return space <= Space::kDeletion ? pages - pages / 100 : pages;
}

std::uint64_t LogSpace::WasteBlocks() const {
  return largest_extent_.load(std::memory_order_relaxed) / kBlockPayloadBytes + 3;  // an estimate
}

// The formulas and their reasons are in the header ("Space on the device").
void LogSpace::SizeSlices() {
  const std::uint64_t log_blocks = geometry_.BlockOf(log_.tail()) - geometry_.BlockOf(log_.begin());
  const std::uint64_t waste = WasteBlocks() + sessions_blocks_;
  const std::uint64_t base =
      std::min<std::uint64_t>(2 * geometry_.blocks_per_page(), 512) + 2 * waste;
  const auto root = static_cast<std::uint64_t>(
      std::sqrt(static_cast<double>(waste) * static_cast<double>(log_blocks)));
  const std::uint64_t commits = 4 * (2 + sessions_blocks_) + 8;
  const std::uint64_t collection = base + root * 5 / 2 + device_.FreedAsOne(log_blocks);
  const std::uint64_t deletions = std::max(base + root / 2, log_blocks / 128);
  // Each value includes the slices of all later classes. A smaller log gives smaller slices; the
  // space stays reserved.
  const auto set = [this](Space space, std::uint64_t blocks) {
    blocks_behind_[static_cast<std::size_t>(space)].store(
        blocks,
        std::memory_order_relaxed);  // a thread that sees an older one is only a little earlier
  };
  set(Space::kCollection, commits);
  set(Space::kDeletion, commits + collection);
  set(Space::kOrdinary, commits + collection + deletions);
}

absl::Status LogSpace::ReserveTo(std::uint64_t end_block) {
  const std::uint64_t begin = space_end_block_.load(std::memory_order_relaxed);  // mu_ held
  if (end_block <= begin) return absl::OkStatus();
  // The boundary moves only after the device has reserved, so that an append that sees it can be
  // flushed. Space that was reserved before an error stays with the file and is used by the next
  // call.
  absl::Status status = device_.Reserve(begin, end_block);
  if (status.ok()) space_end_block_.store(end_block, std::memory_order_release);  // [space]
  return status;
}

absl::Status LogSpace::Take(Address at, std::uint64_t extent_bytes, Space space) {
  MutexLock lock(mu_);
  SizeSlices();
  // Another thread may have reserved it while this one waited for the mutex.
  if (HasSpace(at, extent_bytes, space)) return absl::OkStatus();
  const std::uint64_t page_end = (geometry_.PageOf(at) + 1) * geometry_.blocks_per_page();
  // First the whole page with all slices beyond it: then the page becomes ordinary, and its appends
  // need no check.
  absl::Status status = ReserveTo(page_end + BlocksBehind(Space::kOrdinary));
  if (status.ok()) {
    is_short_.store(false, std::memory_order_relaxed);  // a hint
    // The store of ordinary_end_ comes after that of space_end_block_ in ReserveTo: a thread that
    // finds the page ordinary may use all of it. The last hundredth of the addresses never becomes
    // ordinary.
    const std::uint64_t end_page = std::min(geometry_.PageOf(at) + 1, EndPage(Space::kOrdinary));
    ordinary_end_.store(geometry_.PageStart(end_page).value(),
                        std::memory_order_release);  // [space]
    return status;
  }
  // Otherwise the most important slices come first, as far as there is space. A part of a slice is
  // useful too: without it, a collection in a new process would have no space and would free too
  // little.
  const std::uint64_t end_block = EndBlock(at, extent_bytes);
  for (const Space behind :
       {Space::kCommit, Space::kCollection, Space::kDeletion, Space::kOrdinary}) {
    const std::uint64_t target = end_block + BlocksBehind(behind);
    const auto end = [this] {
      return space_end_block_.load(std::memory_order_relaxed);  // mu_ is held
    };
    // Halve the step after each failure, so that the loop ends near the last block that the disk
    // still has.
    for (std::uint64_t step = target - std::min(target, end()); step != 0; step /= 2) {
      static_cast<void>(ReserveTo(std::min(end() + step, target)));
    }
    if (end() < target) break;
  }
  return HasSpace(at, extent_bytes, space) ? absl::OkStatus() : status;
}

absl::Status LogSpace::CheckIdleCommit(bool is_needed) {
  MutexLock lock(mu_);
  SizeSlices();
  const Address at = geometry_.Normalize(log_.NextPlace());
  // In an ordinary page all slices have space, so this commit takes none from the next.
  if (IsOrdinary(at)) return absl::OkStatus();  // [space]
  // Half of the commits' slice is enough for the commit of the next record and that of Close.
  const std::uint64_t kept = is_needed ? BlocksBehind(Space::kCollection) / 2 : HalfOfDeletions();
  return ReserveTo(geometry_.BlockOf(at) + 2 + sessions_blocks_ + kept);
}

absl::Status LogSpace::SetSessionsBytes(std::uint64_t bytes) {
  MutexLock lock(mu_);
  const std::uint64_t blocks = BlocksOfSessions(bytes);
  const std::uint64_t before = std::exchange(sessions_blocks_, blocks);
  // A shorter list frees its part of the slices without a check.
  if (blocks <= before) return absl::OkStatus();
  SizeSlices();
  const Address at = geometry_.Normalize(log_.NextPlace());
  const std::uint64_t page_end = (geometry_.PageOf(at) + 1) * geometry_.blocks_per_page();
  const bool is_ordinary = IsOrdinary(at);  // [space]
  absl::Status status =
      ReserveTo((is_ordinary ? page_end : geometry_.BlockOf(at) + 1) + HalfOfDeletions());
  // Without the space, the list keeps its old size and the call that wanted a longer one fails.
  if (!status.ok()) sessions_blocks_ = before;
  return status;
}

LogSpace::CollectionSpace LogSpace::ForCollection() {
  MutexLock lock(mu_);
  SizeSlices();
  // The space that a collection may fill: from the tail to the slice of the commits.
  const std::uint64_t from =
      geometry_.BlockOf(geometry_.Normalize(log_.NextPlace())) + BlocksBehind(Space::kCollection);
  const std::uint64_t end = space_end_block_.load(std::memory_order_relaxed);  // mu_ held
  return {.slice_blocks = end - std::min(end, from),
          .waste_blocks = WasteBlocks() + sessions_blocks_};
}

void LogSpace::TakeAhead(std::uint64_t pages_ahead) {
  const Address next = log_.NextPlace();
  // This is an optimization only. An error is dropped: the append that needs the space gets it from
  // WaitForPage.
  const Address at = pages_ahead == 0 ? geometry_.Normalize(next)
                                      : geometry_.PageStart(geometry_.PageOf(next) + pages_ahead);
  static_cast<void>(Take(at, sizeof(RecordHeader), Space::kOrdinary));
}

}  // namespace ebb::internal
