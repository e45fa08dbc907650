#include "ebb/internal/scan/liveness.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "ebb/internal/base/backoff.h"
#include "ebb/internal/base/no_memory.h"

namespace ebb::internal {
namespace {

constexpr std::size_t kGroup = 32;  // records under one guard

bool HasKey(const Record& record, std::span<const std::byte> key) {
  return record.key_length() == key.size() &&
         std::memcmp(record.key(), key.data(), key.size()) == 0;
}

}  // namespace

absl::Status Liveness::Decide(std::span<Candidate> candidates, Address below) {
  std::vector<Open> open;
  DecideFromMemory(candidates, below, open);
  absl::Status status = DecideFromDevice(open, below);
  if (!status.ok()) return status;
  auto live = open.begin();
  for (Candidate& candidate : candidates) {
    if (candidate.answer != Answer::kUnknown) continue;
    const bool is_live = live != open.end() && live->address == candidate.address;
    candidate.answer = is_live ? Answer::kLive : Answer::kDead;
    if (is_live) ++live;
  }
  return absl::OkStatus();
}

void Liveness::DecideFromMemory(std::span<Candidate> candidates, Address below,
                                std::vector<Open>& open) {
  // Shortcuts lead past the records at or above `below`, which a scan would otherwise pass again
  // for each record.
  if (below != kEverything && shortcuts_below_ != below) {
    shortcuts_.assign(kShortcuts, Shortcut());
    shortcuts_below_ = below;
  }
  for (std::size_t i = 0; i < candidates.size(); i += kGroup) {
    const auto group = candidates.subspan(i, std::min(kGroup, candidates.size() - i));
    Backoff backoff;
    while (!DecideInMemory(group, below, open)) backoff.Wait();
  }
}

// Returns false if the index is moving an entry that is needed; then nothing has changed.
bool Liveness::DecideInMemory(std::span<Candidate> group, Address below, std::vector<Open>& open) {
  const RecordShape shape = log_.shape();
  std::array<std::uint64_t, kGroup> hashes;
  for (std::size_t i = 0; i < group.size(); ++i) {
    hashes[i] = core_.HashOf(group[i].key, group[i].key_length);
    core_.index.Prefetch(hashes[i]);
  }
  EpochGuard guard(core_.epochs, slot_);
  const Address head = log_.head_acquire();
  for (std::size_t i = 0; i < group.size(); ++i) {
    // An exact search: a hint would not prove that a key has no newer record.
    group[i].head = core_.index.Find(hashes[i]).entry;
    const Address newest = group[i].head.address();
    if (newest == kBeingMoved) return false;
    if (newest >= head && newest != group[i].address) __builtin_prefetch(log_.At(newest, guard));
  }
  for (Candidate& candidate : group) {
    Walk walk{candidate.head.address(), candidate.address, {candidate.key, candidate.key_length}};
    TakeShortcut(walk, below);
    candidate.answer = Answer::kUnknown;
    // Walk of a Scan, 3: from the newest record down to the candidate or to the device.
    while (walk.at > walk.address && walk.at >= head) {  // ends: previous addresses fall
      const Record record(log_.At(walk.at, guard), shape);
      // A newer record of the key, below `below`: the candidate is dead. Records at or above it are
      // ignored by a scan.
      if (walk.at < below && HasKey(record, walk.key)) {
        candidate.answer = Answer::kDead;
        break;
      }
      Advance(walk, record.header().LoadAcquire().prev(), below);
    }
    if (candidate.answer == Answer::kDead) continue;
    // The chain continues on the device before it has reached the candidate.
    if (walk.at > walk.address) {
      open.push_back({walk.at, candidate.address, candidate.head, KeepKey(candidate)});
    } else {
      // A chain that ends below the candidate's address does not contain it: its record is void.
      candidate.answer = walk.at == walk.address ? Answer::kLive : Answer::kDead;
    }
  }
  return true;
}

absl::Status Liveness::DecideFromDevice(std::vector<Open>& open, Address below) {
  std::vector<Open> live;
  // Each turn advances every walk by at least one record. Nearly always the first turn is the last.
  while (!open.empty()) {
    // In order of address, so that neighbouring records share a window and the device is read in
    // one direction.
    std::sort(open.begin(), open.end(), [](const Open& a, const Open& b) { return a.at < b.at; });
    ahead_.Drop();  // left over after an error
    std::size_t asked = 0;
    for (std::size_t i = 0; i < open.size();) {
      if (core_.epochs.closed()) return core_.ClosedError();
      // Request windows ahead while the current one is processed.
      while (asked < open.size()) {
        const ReadAhead::Piece window = NextWindow(open, asked);
        if (!ahead_.Ask(window)) break;
        asked = EndOfWindow(open, asked, window);
      }
      absl::Status status = ReadWindow(NextWindow(open, i));
      const std::size_t end = EndOfWindow(open, i, window_);
      for (; i < end && status.ok(); ++i) status = Follow(open[i], below);
      if (!status.ok()) return status;
      asked = std::max(asked, end);
    }
    // A walk below the candidate's address has found a newer record or missed it: dead.
    std::erase_if(open, [&live](const Open& walk) {
      if (walk.at == walk.address) live.push_back(walk);
      return walk.at <= walk.address;
    });
  }
  std::sort(live.begin(), live.end(),
            [](const Open& a, const Open& b) { return a.address < b.address; });
  open.swap(live);
  keys_.release();
  key_bytes_ = 0;
  return absl::OkStatus();
}

// ---- keys of open records ----

// Returns the key as a word: itself if it is short and fixed, otherwise a pointer to its length and
// bytes in keys_.
std::uint64_t Liveness::KeepKey(const Candidate& candidate) {
  std::uint64_t word = 0;
  if (candidate.key_length <= sizeof(word) && !log_.shape().key_variable()) {
    std::memcpy(&word, candidate.key, candidate.key_length);
    return word;
  }
  const std::uint32_t bytes = sizeof(candidate.key_length) + candidate.key_length;
  auto* const kept = static_cast<std::byte*>(keys_.allocate(bytes, 1));
  std::memcpy(kept, &candidate.key_length, sizeof(candidate.key_length));
  std::memcpy(kept + sizeof(candidate.key_length), candidate.key, candidate.key_length);
  key_bytes_ += bytes;
  std::memcpy(&word, &kept, sizeof(kept));
  return word;
}

std::span<const std::byte> Liveness::KeyOf(const Open& open) const {
  const std::uint32_t fixed = log_.shape().key_bytes;
  if (fixed <= sizeof(open.key)) return {reinterpret_cast<const std::byte*>(&open.key), fixed};
  const std::byte* kept;
  std::memcpy(&kept, &open.key, sizeof(kept));
  std::uint32_t length;
  std::memcpy(&length, kept, sizeof(length));
  return {kept + sizeof(length), length};
}

// ---- shortcuts ----

std::uint64_t Liveness::ChainOf(const Walk& walk) const {
  const std::uint64_t hash = core_.HashOf(walk.key.data(), walk.key.size());
  // The bits in which all records of a chain agree (hash_index.h).
  const int bits = core_.index.creation_exponent() + IndexEntry::kTagBits;
  return hash & ((std::uint64_t{1} << bits) - 1);
}

void Liveness::TakeShortcut(Walk& walk, Address below) const {
  if (walk.at < below) return;
  const std::uint64_t chain = ChainOf(walk);
  const Shortcut& shortcut = shortcuts_[chain % kShortcuts];
  if (shortcut.chain == chain) walk.at = shortcut.to;
}

void Liveness::Advance(Walk& walk, Address next, Address below) {
  // The first record below `below` is the same for every walk of this chain, since records below it
  // are frozen.
  if (walk.at >= below && next < below) {
    const std::uint64_t chain = ChainOf(walk);
    shortcuts_[chain % kShortcuts] = {chain, next};
  }
  walk.at = next;
}

// ---- windows ----

std::uint64_t Liveness::LastBlock(Address at, std::size_t key_length) const {
  const Geometry& geometry = log_.geometry();
  const std::uint64_t offset = geometry.OffsetOf(at);
  const std::uint64_t bytes = log_.shape().key_offset() + key_length;
  const std::uint64_t end = std::min(offset + bytes, geometry.payload_bytes());
  const std::uint64_t last =
      geometry.BlockOf(geometry.PageStart(geometry.PageOf(at))) + (end - 1) / kBlockPayloadBytes;
  return std::max(last, geometry.BlockOf(at));  // equal except for a place that Follow rejects
}

ReadAhead::Piece Liveness::NextWindow(std::span<const Open> open, std::size_t first) const {
  const Geometry& geometry = log_.geometry();
  ReadAhead::Piece window{geometry.BlockOf(open[first].at),
                          LastBlock(open[first].at, KeyOf(open[first]).size()) + 1};
  for (const Open& walk : open.subspan(first + 1)) {
    const std::uint64_t end = LastBlock(walk.at, KeyOf(walk).size()) + 1;
    // Gaps are read if they are short: one larger read is faster than two.
    if (geometry.BlockOf(walk.at) > window.end + kGapBlocks || end - window.first > kWindowBlocks) {
      break;
    }
    window.end = std::max(window.end, end);
  }
  return window;
}

std::size_t Liveness::EndOfWindow(std::span<const Open> open, std::size_t first,
                                  ReadAhead::Piece window) const {
  while (first < open.size() && Holds(window, open[first].at, KeyOf(open[first]).size())) ++first;
  return first;
}

absl::Status Liveness::ReadWindow(ReadAhead::Piece wanted) {
  const std::uint64_t blocks = std::max(kWindowBlocks, wanted.end - wanted.first);
  window_ = {};
  if (capacity_ < blocks) {
    bytes_ = AllocateAligned(blocks * kBlockBytes);
    capacity_ = bytes_ == nullptr ? 0 : blocks;
  }
  if (bytes_ == nullptr) {
    return NoMemoryTo("find the newest records of keys");
  }
  const absl::StatusOr<ReadAhead::Piece> read = ahead_.Take(wanted, bytes_.get());
  if (!read.ok()) return read.status();
  window_ = *read;
  return absl::OkStatus();
}

bool Liveness::Holds(ReadAhead::Piece window, Address at, std::size_t key_length) const {
  return log_.geometry().BlockOf(at) >= window.first && LastBlock(at, key_length) < window.end;
}

// Advances the walk through the window. A dead one ends at null, a live one at its candidate's
// address.
absl::Status Liveness::Follow(Open& open, Address below) {
  const Geometry& geometry = log_.geometry();
  Walk walk{open.at, open.address, KeyOf(open)};
  while (walk.at > walk.address && Holds(window_, walk.at, walk.key.size())) {  // ends: they fall
    const std::uint64_t block = geometry.BlockOf(walk.at);
    const std::uint64_t offset = geometry.OffsetOf(walk.at);
    // Blocks are verified, but a chain may lead to any place in them.
    if (walk.at.value() % 8 != 0 || offset + log_.shape().key_offset() > geometry.payload_bytes()) {
      return core_.reader.Damaged(
          block, "is near a place that no record can have, to which a chain leads");
    }
    std::byte* const bytes = bytes_.get() + (block - window_.first) * kBlockPayloadBytes;
    const Record record(bytes + offset % kBlockPayloadBytes, log_.shape());
    const RecordHeader header = record.header().LoadAcquire();
    if (header.kind() != RecordKind::kRecord || !header.valid() || header.prev() >= walk.at) {
      return core_.reader.Damaged(block, "holds no record where a chain leads");
    }
    if (walk.at < below && HasKey(record, walk.key)) {
      walk.at = Address();
    } else {
      Advance(walk, header.prev(), below);
    }
  }
  open.at = walk.at;
  return absl::OkStatus();
}

}  // namespace ebb::internal
