// Liveness: which records of the log are the newest of their keys below an address.
//
// A record is live below `below` if the walk from its index entry, with everything at or above
// `below` left out, reaches exactly its address as the first record of its key. So what was never
// published, what recovery found void and what has a successor is dead. A live record may be a
// tombstone. Compaction asks with kEverything, a scan with the address that it was begun at.
//
//   Liveness liveness(core, slot);
//   std::vector<Liveness::Candidate> candidates = ...;     // records in private memory
//   if (absl::Status status = liveness.Decide(candidates, below); !status.ok()) return status;
//   ... candidates[i].live ...
//
// Nearly all records are decided by the index alone (the entry leads to the record itself) or by
// one record in memory. The rest need a record that is on the device: all of them together are
// sorted by address, and read in windows of neighbouring blocks. So what a batch costs is at most
// one pass over the log, and the larger the batch, the more of its records share a block;
// compaction gathers a large one of nothing but keys (DecideFromMemory). Keys that are updated all
// the time have ever more records above `below`: the way past them is remembered.
//
// Argument. Below `below` nothing is published any more (the caller's duty: it is at or below
//   safe_read_only, or kEverything), and links never change. So the part of a chain below `below`
//   is always the same, and the answer for it is final. With kEverything it holds for the chain as
//   `head` found it: while the entry is still `head`, or above what came since, nothing newer of
//   the key exists.
//   A walk ends at the candidate's address at the latest, so it reads nothing below the candidates.
//   What it reads on the device is below head, and does not change; it must not be truncated
//   meanwhile: the caller holds a pin, or is who truncates.
//
// Thread safety: one thread, which is inside a slow call or a job for as long as Decide runs. The
// guard is held for at most 32 records and never across a read. Progress: Decide waits for the
// device, and for a chunk of the index that is being split. Memory: a window, as much for
// shortcuts, and kBytesToDecide for each candidate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/core.h"

namespace ebb::internal {

class Liveness {
 public:
  static constexpr Address kEverything{Address::kMask};
  // Blocks of a window, and of a gap that is rather read than skipped.
  static constexpr std::uint64_t kWindowBlocks = 256;
  static constexpr std::uint64_t kGapBlocks = 8;

  // kUnknown: only a record on the device can tell.
  enum class Answer : std::uint8_t { kUnknown, kDead, kLive };

  struct Candidate {
    // A valid record of kind kRecord, frozen, and where it lies in the log, below `below`. Its key
    // must be where nobody changes it.
    Candidate(const Record& record, Address where)
        : key(record.key()), key_length(record.key_length()), address(where) {}

    const std::byte* key;
    std::uint32_t key_length;
    Answer answer = Answer::kUnknown;
    Address address;
    IndexEntry head{};  // of the record's chain: what it was decided on
    bool live() const { return answer == Answer::kLive; }
  };
  // Memory that Decide takes for a candidate, beside a window.
  static constexpr std::uint64_t kBytesToDecide = 16;

  // `slot` is the caller's, and outside a guard whenever Decide is called.
  Liveness(Core& core, EpochSlot& slot) : core_(core), log_(core.log), slot_(slot) {}

  // Decides all candidates; in order of address they cost the least. FailedPrecondition: the store
  // was closed. DataLoss, Unavailable or ResourceExhausted: nothing is decided.
  absl::Status Decide(std::span<Candidate> candidates, Address below);
  // Leaves unknown what needs the device. ResourceExhausted: nothing is decided.
  absl::Status DecideFromMemory(std::span<Candidate> candidates, Address below);

 private:
  // A walk that has come to `at`.
  struct Walk {
    Address at;
    Candidate* candidate = nullptr;
  };
  static_assert(sizeof(Walk) == kBytesToDecide);
  // Where a chain goes on below `below`, however much is above. That never changes. The chain is
  // told by those bits of its hash that all its records share, whatever the size of the index.
  struct Shortcut {
    std::uint64_t chain = ~std::uint64_t{0};
    Address to;
  };
  static constexpr std::size_t kShortcuts = std::size_t{1} << 16;
  std::uint64_t ChainOf(const Candidate& candidate) const;
  void TakeShortcut(Walk& walk, Address below) const;
  void Advance(Walk& walk, Address next, Address below);
  static bool Arrived(const Walk& walk);
  bool DecideInMemory(std::span<Candidate> group, Address below);
  // The last block that tells whether the record at `walk.at` has the candidate's key.
  std::uint64_t LastBlock(const Walk& walk) const;
  absl::Status ReadWindow(std::span<const Walk> walks);
  bool InWindow(const Walk& walk) const;
  absl::Status Follow(Walk& walk, Address below);

  Core& core_;
  HybridLog& log_;
  EpochSlot& slot_;
  std::vector<Walk> walks_;
  std::vector<Shortcut> shortcuts_;  // by chain; one takes the place of another
  Address shortcuts_below_;
  AlignedBuffer window_;
  std::uint64_t window_capacity_ = 0;  // blocks
  std::uint64_t window_first_ = 0;
  std::uint64_t window_end_ = 0;
};

}  // namespace ebb::internal
