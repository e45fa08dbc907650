// LogScan: reads a store's log and fills the index with what is committed: from its begin, or from
// where the image of a checkpoint ends.
//
// Where the log begins, its commit records say; the last one of the log that verifies is looked for
// from the end. It may turn out not to be part of the committed log (a crash left a gap below it).
// Then nothing has been given back for its sake, the scan ends below it, and begins again where the
// last commit record below its end says. So a scan that ends well began at the begin that its own
// last commit record states, or above it with an image.
//
// Records are put into the index as they are met, some of them in the pool (index_filler.h). Nearly
// always the log turns out to be committed to its end. If not (a crash left records without a
// control record), the ranges that are void are known after the first pass, and a second pass fills
// a fresh index without them. So the memory a scan needs does not depend on the number of records.
//
// What is void, in the terms of coordinator.h: everything after the last control or open record
// before an open record or the log's end; and before that last control record, of version v, back
// to the one before it, the records of version v + 1 (they ran beside the commit of v, and the
// commit of v + 1 never came).
//
// Each record must link to where its chain ended when it is met, since what is in memory is not
// verified again; links below the start of the scan are verified when they are read.
//
// Pages come from the device ahead of the scan, in the pool (page_reader.h).
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
#include "ebb/internal/block.h"
#include "ebb/internal/core.h"
#include "ebb/internal/manifest.h"
#include "ebb/internal/page_reader.h"

namespace ebb::internal {

class IndexFiller;

class LogScan {
 public:
  static constexpr std::uint64_t kNoBlock = ~std::uint64_t{0};

  struct Start {
    // The first block of the first file of the log whose header is not this store's. It counts as
    // bad.
    std::uint64_t bad_header_block = kNoBlock;
    std::string bad_header;  // what is wrong with it
    // Where the log begins, and in which history; null: at its first block.
    Address begin;
    std::uint64_t begin_incarnation = 0;
    // The checkpoint whose image is in the index already, or null: an empty index. Outlives this.
    const Manifest* manifest = nullptr;
    // What checkpoints, used or not, and the durable end state to be durable.
    Address durable;
    // Nothing is damage: the log ends at its last commit before the first bad block.
    bool salvage = false;
    std::function<void(const RecoveryProgress&)> progress;
  };
  LogScan(Core& core, Start start);
  // The last commit record that verifies in the blocks below `end_block`.
  static absl::StatusOr<std::optional<CommitRecord>> FindLastCommit(Core& core,
                                                                    std::uint64_t end_block);
  // DataLoss for damage, ResourceExhausted, Unavailable. Nothing is lost by an error.
  absl::Status Run();

  // After Run: the first block that is not part of the committed log.
  std::uint64_t cut_block() const { return cut_block_; }
  // The block of an open record that no commit follows, at which the log may be cut as well; 0:
  // there is none.
  std::uint64_t open_block() const { return open_block_; }
  // The first block that nothing in the committed log states to be durable.
  std::uint64_t uncertain_block() const { return geometry_.BlockOf(durable_); }
  // Larger than any version met.
  std::uint64_t next_version() const { return last_version_ + 2; }
  const std::vector<IncarnationSpan>& incarnations() const { return incarnations_; }
  // The newest checkpoint that a commit record knows of.
  std::uint64_t checkpoint_id() const { return checkpoint_id_; }
  // As the last commit record says; null when there is none.
  Address begin() const { return begin_; }
  const Start& start() const { return start_; }
  // Of the checkpoint that was used, or null.
  const Manifest* manifest() const { return start_.manifest; }
  // The first block that was not accepted.
  std::uint64_t bad_block() const { return bad_block_; }
  // Named sessions as the last commit left them.
  std::vector<SessionReport> sessions() const;
  std::uint64_t replayed_records() const { return replayed_records_; }
  std::uint64_t verified_bytes() const { return verified_bytes_; }

 private:
  // Addresses whose records do not count.
  struct VoidRange {
    Address stragglers_from;  // from here, records of `straggler_bits`
    unsigned straggler_bits = 0;
    Address all_from;  // from here, all
    Address end;
  };

  // Returns whether to go on.
  using ShowCommit = std::function<bool(std::uint64_t block, const CommitRecord& commit)>;
  // Shows the commit records that verify in a range of blocks, in order.
  static absl::Status ShowCommits(Core& core, BlockRange range, const ShowCommit& show);
  absl::Status Pass();
  absl::StatusOr<std::uint64_t> LoadPage(PageReader& reader, std::uint64_t page);
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
  const Start start_;
  const Address from_;  // the first record
  bool second_pass_ = false;

  // What a pass knows.
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
