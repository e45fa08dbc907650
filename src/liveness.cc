#include "ebb/internal/liveness.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "ebb/internal/hash.h"

namespace ebb::internal {
namespace {

constexpr std::size_t kGroup = 32;  // records under one guard

bool IsOf(const Record& record, const Liveness::Candidate& candidate) {
  return record.key_length() == candidate.key_length &&
         std::memcmp(record.key(), candidate.key, candidate.key_length) == 0;
}

}  // namespace

// The walk has come down to the candidate, or past it.
bool Liveness::Arrived(const Walk& walk) {
  if (walk.at > walk.candidate->address) return false;
  walk.candidate->answer = walk.at == walk.candidate->address ? Answer::kLive : Answer::kDead;
  return true;
}

absl::Status Liveness::DecideFromMemory(std::span<Candidate> candidates, Address below) {
  try {
    walks_.clear();
    walks_.reserve(candidates.size());
    if (below != kEverything && shortcuts_below_ != below) {
      shortcuts_.assign(kShortcuts, Shortcut());
      shortcuts_below_ = below;
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to look for the newest records");
  }
  for (std::size_t i = 0; i < candidates.size(); i += kGroup) {
    const auto group = candidates.subspan(i, std::min(kGroup, candidates.size() - i));
    Backoff backoff;
    while (!DecideInMemory(group, below)) backoff.Wait();
  }
  return absl::OkStatus();
}

absl::Status Liveness::Decide(std::span<Candidate> candidates, Address below) {
  if (absl::Status status = DecideFromMemory(candidates, below); !status.ok()) return status;
  // Each turn takes every walk down by a record at least; nearly always the first is the last.
  while (!walks_.empty()) {
    std::sort(walks_.begin(), walks_.end(),
              [](const Walk& a, const Walk& b) { return a.at < b.at; });
    for (std::size_t i = 0; i < walks_.size();) {
      if (core_.epochs.closed()) return core_.ClosedError();
      if (absl::Status status = ReadWindow(std::span(walks_).subspan(i)); !status.ok()) {
        return status;
      }
      for (; i < walks_.size() && InWindow(walks_[i]); ++i) {
        if (absl::Status status = Follow(walks_[i], below); !status.ok()) return status;
      }
    }
    std::erase_if(walks_, [](const Walk& walk) { return walk.candidate == nullptr; });
  }
  return absl::OkStatus();
}

std::uint64_t Liveness::ChainOf(const Candidate& candidate) const {
  const std::uint64_t hash =
      HashKey(candidate.key, candidate.key_length, !log_.shape().key_variable());
  const int bits = core_.index.creation_exponent() + IndexEntry::kTagBits;
  return hash & ((std::uint64_t{1} << bits) - 1);
}

void Liveness::TakeShortcut(Walk& walk, Address below) const {
  if (walk.at < below) return;
  const std::uint64_t chain = ChainOf(*walk.candidate);
  const Shortcut& shortcut = shortcuts_[chain % kShortcuts];
  if (shortcut.chain == chain) walk.at = shortcut.to;
}

void Liveness::Advance(Walk& walk, Address next, Address below) {
  if (walk.at >= below && next < below) {
    const std::uint64_t chain = ChainOf(*walk.candidate);
    shortcuts_[chain % kShortcuts] = {chain, next};
  }
  walk.at = next;
}

// False when the index is moving an entry that is needed, without guard or effect.
bool Liveness::DecideInMemory(std::span<Candidate> group, Address below) {
  const RecordShape shape = log_.shape();
  std::array<std::uint64_t, kGroup> hashes;
  for (std::size_t i = 0; i < group.size(); ++i) {
    hashes[i] = HashKey(group[i].key, group[i].key_length, !shape.key_variable());
    core_.index.Prefetch(hashes[i]);
  }
  EpochGuard guard(core_.epochs, slot_);
  const Address head = log_.head_acquire();
  for (std::size_t i = 0; i < group.size(); ++i) {
    group[i].head = core_.index.Find(hashes[i]).entry;
    const Address newest = group[i].head.address();
    if (newest == kBeingMoved) return false;
    if (newest >= head && newest != group[i].address) __builtin_prefetch(log_.At(newest, guard));
  }
  for (std::size_t i = 0; i < group.size(); ++i) {
    Candidate& candidate = group[i];
    Walk walk{candidate.head.address(), &candidate};
    candidate.answer = Answer::kUnknown;
    TakeShortcut(walk, below);
    while (!Arrived(walk)) {
      if (walk.at < head) {
        walks_.push_back(walk);
        break;
      }
      const Record record(log_.At(walk.at, guard), shape);
      if (walk.at < below && IsOf(record, candidate)) {
        candidate.answer = Answer::kDead;
        break;
      }
      Advance(walk, record.header().LoadAcquire().prev(), below);
    }
  }
  return true;
}

std::uint64_t Liveness::LastBlock(const Walk& walk) const {
  const Geometry& geometry = log_.geometry();
  const std::uint64_t offset = geometry.OffsetOf(walk.at);
  const std::uint64_t bytes = log_.shape().key_offset() + walk.candidate->key_length;
  const std::uint64_t end = std::min(offset + bytes, geometry.payload_bytes());
  const std::uint64_t last = geometry.BlockOf(geometry.PageStart(geometry.PageOf(walk.at))) +
                             (end - 1) / kBlockPayloadBytes;
  return std::max(last, geometry.BlockOf(walk.at));  // equal but for a place that Follow refuses
}

// Reads what the first of `walks` needs, and as many of the next as are near.
absl::Status Liveness::ReadWindow(std::span<const Walk> walks) {
  const Geometry& geometry = log_.geometry();
  const std::uint64_t first = geometry.BlockOf(walks.front().at);
  std::uint64_t end = LastBlock(walks.front()) + 1;
  for (const Walk& walk : walks.subspan(1)) {
    const std::uint64_t walk_end = LastBlock(walk) + 1;
    if (geometry.BlockOf(walk.at) > end + kGapBlocks || walk_end - first > kWindowBlocks) break;
    end = std::max(end, walk_end);
  }
  window_end_ = window_first_;
  const std::uint64_t capacity = std::max(kWindowBlocks, end - first);
  if (window_capacity_ < capacity) {
    window_ = AllocateAligned(capacity * kBlockBytes);
    window_capacity_ = window_ == nullptr ? 0 : capacity;
  }
  if (window_ == nullptr) {
    return absl::ResourceExhaustedError("no memory to look for the newest records");
  }
  absl::Status status = log_.FetchBlocks(first, {window_.get(), (end - first) * kBlockBytes});
  if (!status.ok()) return status;
  JoinPayloads(window_.get(), 1, end - first);
  window_first_ = first;
  window_end_ = end;
  return absl::OkStatus();
}

bool Liveness::InWindow(const Walk& walk) const {
  return log_.geometry().BlockOf(walk.at) >= window_first_ && LastBlock(walk) < window_end_;
}

// Takes the walk down through the window; its candidate becomes null when it is decided.
absl::Status Liveness::Follow(Walk& walk, Address below) {
  const Geometry& geometry = log_.geometry();
  while (InWindow(walk)) {  // ends: previous addresses fall
    const std::uint64_t block = geometry.BlockOf(walk.at);
    const std::uint64_t offset = geometry.OffsetOf(walk.at);
    if (walk.at.value() % 8 != 0 || offset + log_.shape().key_offset() > geometry.payload_bytes()) {
      return log_.Damaged(block, "is near a place that no record can have, to which a chain leads");
    }
    std::byte* const bytes = window_.get() + (block - window_first_) * kBlockPayloadBytes;
    const Record record(bytes + offset % kBlockPayloadBytes, log_.shape());
    const RecordHeader header = record.header().LoadAcquire();
    if (header.kind() != RecordKind::kRecord || !header.valid() || header.prev() >= walk.at) {
      return log_.Damaged(block, "holds no record where a chain leads");
    }
    if (walk.at < below && IsOf(record, *walk.candidate)) {
      walk.candidate->answer = Answer::kDead;
      walk.candidate = nullptr;
      break;
    }
    Advance(walk, header.prev(), below);
    if (Arrived(walk)) {
      walk.candidate = nullptr;
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace ebb::internal
