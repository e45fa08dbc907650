// LogVerifier: checks everything that a live store has on the device, and the chains that lead
// there. ebb/verify.h lists the checks.
//
// The log is read once, from its begin to the address that had been flushed at the start. The
// verifier's own index knows for each record the end of its chain. So links are checked without a
// second read, except for the few that pass over records which an opening has declared void. Such a
// record is of an earlier incarnation than the one that passes over it. Then the chains of the
// store's index are followed through memory to the part that was read, and each chain of the log
// must be among them. lifetime.h defines which records are dead, so that damage there is no
// problem.
//
// After a bad block, a page's remaining records are skipped: their starts are unknown. Every page
// begins with a record.
//
// Thread safety: one thread, concurrently with operations and commits. In the meantime nothing may
// truncate the log, grow the index or remove checkpoints.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/core/core.h"
#include "ebb/verify.h"

namespace ebb::internal {

void AddProblem(const VerifyOptions& options, std::string what, VerifyReport& report);

// The facts with which a checkpoint is compared.
struct CheckpointTruth {
  const HashIndex& log;    // the newest record of each chain, according to the log
  const HashIndex& index;  // the same, according to the store's index
  Address begin;           // of the log
};
// Reads a checkpoint's files. The entries of its image that are not dead must lead to records of
// their chains. No chain whose newest record is below the scan address may be missing.
absl::Status VerifyCheckpoint(Core& core, Directory& directory, std::uint64_t id,
                              const CheckpointTruth& truth);

class LogVerifier {
 public:
  LogVerifier(Core& core, const VerifyOptions& options, std::function<bool()> stop);
  // Errors: out of memory or descriptors, or stopped. Damage is in the report.
  absl::StatusOr<VerifyReport> Run(const std::vector<CheckpointInfo>& checkpoints);

 private:
  absl::Status ReadLog();
  std::uint64_t LoadPage(std::uint64_t page, std::uint64_t first_block, std::uint64_t end_block);
  absl::Status CheckRecords(Address from, std::uint64_t end_offset);
  const char* CheckRecord(const Record& record, Address address);
  const char* CheckLink(const Record& record, Address address);
  absl::Status FollowChains();
  // Returns false if it was stopped.
  bool FollowChain(std::uint64_t hash, Address address, EpochSlot& slot);
  bool InUnread(Address address) const;
  void CheckLanding(Address address, std::uint64_t hash);
  void FindMissingChains();
  // True also if the record could not be read for lack of resources.
  bool LeadsToChain(Address address, std::uint64_t hash);
  // Returns whether a read failed for lack of memory or descriptors. This says nothing about the
  // store, so Run returns that status instead of a report.
  bool IsStarved(const absl::Status& status);
  // The bits of a hash that all records of a chain share.
  std::uint64_t ChainOf(std::uint64_t hash) const { return hash & chain_mask_; }
  void Problem(Address address, const char* what);

  Core& core_;
  HybridLog& log_;
  const Geometry& geometry_;
  const RecordShape shape_;
  const VerifyOptions& options_;
  const std::function<bool()> stop_;
  const std::uint64_t chain_mask_;
  const Address begin_;
  const Address end_;  // everything below has been flushed
  HashIndex newest_;   // of each chain, as far as the log has been read
  AlignedBuffer page_;
  AlignedBuffer blocks_;
  DeviceBuffer record_;
  Address read_end_;  // of the records that were read
  struct AddressRange {
    Address from;
    Address end;
  };
  std::vector<AddressRange> unread_;  // after bad blocks; in order
  VerifyReport report_;
  absl::Status starved_;
};

}  // namespace ebb::internal
