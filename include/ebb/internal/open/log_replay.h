// LogReplay: reads a store's log and fills the index with the committed records. It starts at the
// log's begin, or at the end of a checkpoint's image.
//
// The log's begin is stated by its commit records. To find it, the scan searches from the end for
// the last commit record that verifies. This record may turn out not to be part of the committed
// log (a crash left a gap below it). Then no space has been freed because of it, the scan ends
// below it, and starts again at the begin that the last commit record below that end states. So a
// successful scan started at the begin that its own last commit record states, or above it with an
// image.
//   An earlier opening may have written its open record over the block of such a begin, and crashed
// before it cut the log behind. The block verifies, but the begin points into the middle of the
// open record. So the first block must be of the incarnation that the commit record states for it.
//
// Records are added to the index as they are met, some of them in the pool (index_filler.h). Nearly
// always the log turns out to be committed to its end. If not (a crash left records without a
// control record), the ranges that are void are known after the first pass, and a second pass fills
// a fresh index without them. So the memory of a scan does not depend on the number of records.
//
// Void, in the terms of committer.h, are: everything after the last control or open record before
// an open record or the log's end; and, from that last control record, of version v, back to the
// one before it, the records of version v + 1 (they ran concurrently with the commit of v, and the
// commit of v + 1 never came).
//
// Each record must link to the end of its chain at the time when it is met, because records in
// memory are not verified again. Links below the start of the scan are verified when they are read.
//
// The pool reads pages from the device ahead of the scan (page_loader.h).
//
// Thread safety: one thread, before the store has others. Changes nothing on the device.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/open/page_loader.h"

namespace ebb::internal {

class IndexFiller;

class LogReplay {
 public:
  static constexpr std::uint64_t kNoBlock = ~std::uint64_t{0};

  struct ReplayStart {
    // The first block of the first file of the log whose header is not this store's. It counts as
    // bad.
    std::uint64_t bad_header_block = kNoBlock;
    std::string bad_header;  // the fault of the header
    // The begin of the log and its incarnation; null: at the log's first block.
    Address begin;
    std::uint64_t begin_incarnation = 0;
    // The checkpoint whose image is already in the index; null: the index is empty. Outlives this.
    const Manifest* manifest = nullptr;
    // The address below which everything was durable, according to checkpoints, used or not, and
    // the durable end.
    Address durable;
    // Nothing counts as damage: the log ends at its last commit before the first bad block.
    bool salvage = false;
    std::function<void(const RecoveryProgress&)> progress;
  };
  LogReplay(Core& core, ReplayStart start);
  // Returns the last commit record that verifies in the blocks below `end_block`.
  static absl::StatusOr<std::optional<CommitRecord>> FindLastCommit(Core& core,
                                                                    std::uint64_t end_block);
  // Errors: DataLoss (damage), ResourceExhausted, Unavailable. An error loses nothing.
  absl::Status Run();

  // After Run: returns the first block that is not part of the committed log.
  std::uint64_t cut_block() const { return cut_block_; }
  // Returns the block of an open record that no commit follows, at which the log may be cut as
  // well; 0: there is none.
  std::uint64_t open_block() const { return open_block_; }
  // Returns the first block that no part of the committed log states to be durable.
  std::uint64_t uncertain_block() const { return geometry_.BlockOf(durable_); }
  // Returns a version larger than any version met.
  std::uint64_t next_version() const { return last_version_ + 2; }
  const std::vector<IncarnationSpan>& incarnations() const { return incarnations_; }
  // Returns the newest checkpoint that a commit record names.
  std::uint64_t checkpoint_id() const { return checkpoint_id_; }
  // Returns the begin that the last commit record states; null if there is none.
  Address begin() const { return begin_; }
  const ReplayStart& start() const { return start_; }
  // Returns the manifest of the checkpoint that was used, or null.
  const Manifest* manifest() const { return start_.manifest; }
  // Returns the first block that was not accepted.
  std::uint64_t bad_block() const { return bad_block_; }
  // Returns the named sessions as the last commit left them.
  std::vector<SessionReport> sessions() const;
  std::uint64_t replayed_records() const { return replayed_records_; }
  std::uint64_t verified_bytes() const { return verified_bytes_; }

 private:
  // Addresses of void records.
  struct VoidRange {
    Address stragglers_from;  // from here on, records of `straggler_bits`
    unsigned straggler_bits = 0;
    Address all_from;  // from here on, all records
    Address end;
  };

  // Returns whether to continue.
  using ShowCommit = std::function<bool(std::uint64_t block, const CommitRecord& commit)>;
  // Calls `show` with the commit records that verify in a range of blocks, in order.
  static absl::Status ShowCommits(Core& core, BlockRange range, const ShowCommit& show);
  absl::Status Pass();
  absl::StatusOr<std::uint64_t> LoadPage(PageLoader& reader, std::uint64_t page);
  bool Accept(std::uint64_t block, std::uint64_t incarnation, std::span<const std::byte> payload);
  absl::Status ReadRecords(std::uint64_t page, std::uint64_t end_block, IndexFiller& filler);
  absl::Status Index(const Record& record, Address address, IndexFiller& filler);
  absl::Status CheckLinks() const;
  absl::Status TakeSessions(const Record& record, Address address);
  absl::Status TakeCommit(const Record& record, Address address);
  void CloseUncommitted(Address end);
  bool IsVoid(Address address, RecordHeader header) const;
  std::string DescribeBad() const;
  absl::Status LookForLaterCommits();
  absl::Status Malformed(Address address, const char* what) const;

  Core& core_;
  HybridLog& log_;
  const Geometry& geometry_;
  const ReplayStart start_;
  const Address from_;  // the first record
  bool second_pass_ = false;

  // The findings of a pass.
  std::vector<IncarnationSpan> incarnations_;
  Address cursor_;               // the next record
  std::uint64_t bad_block_ = 0;  // the first block that was not accepted
  std::uint64_t last_version_ = 0;
  std::uint64_t checkpoint_id_ = 0;
  Address begin_;
  Address last_commit_end_;
  Address durable_;                             // as the last commit record states
  Address commit_before_end_;                   // of the commit record before the last
  std::array<std::uint64_t, 4> uncommitted_{};  // records met, by version bits
  std::uint64_t cut_block_ = 0;
  std::uint64_t open_block_ = 0;
  std::map<std::string, std::uint64_t> sessions_;    // committed
  std::vector<SessionReport> uncommitted_sessions_;  // since the last commit record
  std::uint64_t replayed_records_ = 0;
  std::uint64_t verified_bytes_ = 0;
  Address bad_link_;  // the first record whose link is not its chain's end, or null

  std::vector<VoidRange> voids_;  // found by the first pass, in order
};

}  // namespace ebb::internal
