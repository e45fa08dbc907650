// Liveness: decides which records of the log are the newest of their keys below an address.
//
// A record is live below `below` if the walk from its index entry, ignoring everything at or above
// `below`, reaches exactly its address as the first record of its key. So a record is dead if it
// was never published, if recovery found it void, or if it has a successor. A live record may be a
// tombstone. Compaction calls this with kEverything, a scan with the address at which it began.
//
//   Liveness liveness(core, slot);
//   std::vector<Liveness::Candidate> candidates = ...;     // records in private memory
//   if (absl::Status status = liveness.Decide(candidates, below); !status.ok()) return status;
//   ... candidates[i].live() ...
//
// Nearly all records are decided by the index alone (the entry leads to the record itself) or by
// one record in memory. The rest need a record that is on the device: all of them together are
// sorted by address, and read in windows of neighbouring blocks. So a batch costs at most one pass
// over the log, and the larger the batch, the more of its records share a block. Compaction
// collects a large batch that holds only keys (DecideFromMemory). Keys that are updated often have
// more and more records above `below`, so a shortcut past them is remembered.
//
// Argument. Below `below` nothing is published any more (the caller ensures that: it is at or below
//   safe_read_only, or kEverything), and links never change. So the part of a chain below `below`
//   is always the same, and its result is final. With kEverything it holds for the chain as `head`
//   found it: while the entry is still `head`, or above all later records, nothing newer of the key
//   exists.
//   A walk ends at the candidate's address at the latest, so it reads nothing below the candidates.
//   The blocks that it reads on the device are below head, and do not change. They must not be
//   truncated in the meantime: the caller holds a pin, or is the thread that truncates.
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
#include "ebb/internal/core/core.h"
#include "ebb/internal/scan/read_ahead.h"

namespace ebb::internal {

class Liveness {
 public:
  static constexpr Address kEverything{Address::kMask};
  // The blocks of a window, and of the largest gap that is read rather than skipped.
  static constexpr std::uint64_t kWindowBlocks = 64;
  static constexpr std::uint64_t kGapBlocks = 8;
  static constexpr std::uint64_t kBlocksAhead = 4 * kWindowBlocks;

  // kUnknown: only a record on the device decides.
  enum class Answer : std::uint8_t { kUnknown, kDead, kLive };

  struct Candidate {
    // A valid record of kind kRecord, frozen, and its address in the log, below `below`. Its key
    // must be in memory that no thread changes.
    Candidate(const Record& record, Address where)
        : key(record.key()), key_length(record.key_length()), address(where) {}

    const std::byte* key;
    std::uint32_t key_length;
    Answer answer = Answer::kUnknown;
    Address address;
    IndexEntry head{};  // of the record's chain: the basis of the decision
    bool live() const { return answer == Answer::kLive; }
  };

  // A candidate that only the device decides.
  struct Open {
    Address at;  // the next record to be read
    Address address;
    IndexEntry head;
    // the key if it has a fixed length of at most 8; otherwise the address of its copy
    std::uint64_t key;
  };
  // `slot` belongs to the caller, and is outside a guard whenever Decide is called.
  Liveness(Core& core, EpochSlot& slot)
      : core_(core), log_(core.log), slot_(slot), ahead_(core, kBlocksAhead) {}

  // Decides all candidates, which come in order of address. Errors: FailedPrecondition (the store
  // was closed); DataLoss, Unavailable or ResourceExhausted (nothing is decided). Throws bad_alloc.
  absl::Status Decide(std::span<Candidate> candidates, Address below);

  // The two halves of Decide. The first decides from memory, and appends undecided candidates to
  // `open`, too.
  void DecideFromMemory(std::span<Candidate> candidates, Address below, std::vector<Open>& open);
  // The second, perhaps after more calls of the first, decides from the device. It leaves the live
  // records in `open`, in order of address. Nothing is undecided then.
  absl::Status DecideFromDevice(std::vector<Open>& open, Address below);
  // Returns the memory used by keys of open records.
  std::uint64_t key_bytes() const { return key_bytes_; }

 private:
  // The point where a chain continues below `below`, however much is above. It never changes. The
  // chain is named by those bits of its hash that all its records share, whatever the size of the
  // index.
  struct Shortcut {
    std::uint64_t chain = ~std::uint64_t{0};
    Address to;
  };
  static constexpr std::size_t kShortcuts = std::size_t{1} << 16;
  // A walk that has reached `at`.
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
  // Returns the last block needed to decide whether the record at `at` has a key of this length.
  std::uint64_t LastBlock(Address at, std::size_t key_length) const;
  // Returns the blocks that `first` of `open` needs, and those of as many of the next as are near.
  ReadAhead::Piece NextWindow(std::span<const Open> open, std::size_t first) const;
  // Returns the first from there on that is not in it.
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
  std::vector<Shortcut> shortcuts_;  // by chain; a new one replaces another
  Address shortcuts_below_;
  AlignedBuffer bytes_;         // of the window: payloads, one after the other
  std::uint64_t capacity_ = 0;  // of that, in blocks
  ReadAhead::Piece window_{};
  ReadAhead ahead_;
};

}  // namespace ebb::internal
