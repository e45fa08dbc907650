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
// device, and for a chunk of the index that is being split; the pool reads ahead. Memory: two
// windows, as much for shortcuts, 32 bytes for each open record, and its key if that is longer than
// a word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/core.h"
#include "ebb/internal/read_ahead.h"

namespace ebb::internal {

class Liveness {
 public:
  static constexpr Address kEverything{Address::kMask};
  // Blocks of a window, and of a gap that is rather read than skipped.
  static constexpr std::uint64_t kWindowBlocks = 64;
  static constexpr std::uint64_t kGapBlocks = 8;
  static constexpr std::uint64_t kBlocksAhead = 4 * kWindowBlocks;

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

  // A candidate that only the device can tell of.
  struct Open {
    Address at;  // the record to look at next
    Address address;
    IndexEntry head;
    std::uint64_t key;  // itself if it has a fixed length of at most 8, or where it is kept
  };
  // `slot` is the caller's, and outside a guard whenever Decide is called.
  Liveness(Core& core, EpochSlot& slot)
      : core_(core), log_(core.log), slot_(slot), ahead_(core, kBlocksAhead) {}

  // Decides all candidates, which come in order of address. FailedPrecondition: the store was
  // closed. DataLoss, Unavailable or ResourceExhausted: nothing is decided. Throws bad_alloc.
  absl::Status Decide(std::span<Candidate> candidates, Address below);

  // The two halves of Decide. What memory tells; what is still unknown is put into `open`, too:
  void DecideFromMemory(std::span<Candidate> candidates, Address below, std::vector<Open>& open);
  // and, perhaps after more of the first, what the device tells: leaves what is live, in order of
  // address. Nothing is open then.
  absl::Status DecideFromDevice(std::vector<Open>& open, Address below);
  // The memory that keys of open records take.
  std::uint64_t key_bytes() const { return key_bytes_; }

 private:
  // Where a chain goes on below `below`, however much is above. That never changes. The chain is
  // told by those bits of its hash that all its records share, whatever the size of the index.
  struct Shortcut {
    std::uint64_t chain = ~std::uint64_t{0};
    Address to;
  };
  static constexpr std::size_t kShortcuts = std::size_t{1} << 16;
  // A walk that has come to `at`.
  struct Walk {
    Address at;
    Address address;
    std::span<const std::byte> key;
  };
  std::uint64_t ChainOf(const Walk& walk) const;
  void TakeShortcut(Walk& walk, Address below) const;
  void Advance(Walk& walk, Address next, Address below);
  bool DecideInMemory(std::span<Candidate> group, Address below, std::vector<Open>& open);
  std::uint64_t KeepKey(const Candidate& candidate);
  std::span<const std::byte> KeyOf(const Open& open) const;
  // The last block that tells whether the record at `at` has a key of this length.
  std::uint64_t LastBlock(Address at, std::size_t key_length) const;
  // The blocks that `first` of `open` needs, and as many of the next as are near.
  ReadAhead::Piece NextWindow(std::span<const Open> open, std::size_t first) const;
  // The first from there on that is not in it.
  std::size_t EndOfWindow(std::span<const Open> open, std::size_t first,
                          ReadAhead::Piece window) const;
  absl::Status ReadWindow(ReadAhead::Piece wanted);
  bool Holds(ReadAhead::Piece window, Address at, std::size_t key_length) const;
  absl::Status Follow(Open& open, Address below);

  Core& core_;
  HybridLog& log_;
  EpochSlot& slot_;
  std::pmr::monotonic_buffer_resource keys_;  // those of open records that are longer than a word
  std::uint64_t key_bytes_ = 0;
  std::vector<Shortcut> shortcuts_;  // by chain; one takes the place of another
  Address shortcuts_below_;
  AlignedBuffer bytes_;         // of the window: payloads, one after the other
  std::uint64_t capacity_ = 0;  // of that, in blocks
  ReadAhead::Piece window_{};
  ReadAhead ahead_;
};

}  // namespace ebb::internal
