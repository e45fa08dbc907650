// LogVerifier: looks at everything a live store has on the device, and at the chains that lead
// there. See ebb/verify.h for what is looked at.
//
// The log is read once, from its front to what had been flushed when it began. An index of its own
// tells for each record which one its chain ended with; so links are checked without a second read,
// but for the few that pass over records which an opening has declared void. Such a record is of an
// earlier history than the one that passes over it. Then the chains of the store's index are
// followed through memory to the part that was read, and each chain of the log must be among them.
// lifetime.h says what is dead, and therefore no damage.
//
// After a bad block a page's remaining records are left out: nothing tells where they begin. Every
// page begins with a record.
//
// Thread safety: one thread, beside operations and commits; nothing may truncate the log, grow the
// index or remove checkpoints meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/core.h"
#include "ebb/internal/manifest.h"
#include "ebb/verify.h"

namespace ebb::internal {

void AddProblem(const VerifyOptions& options, std::string what, VerifyReport& report);

// What a checkpoint is compared with.
struct CheckpointTruth {
  const HashIndex& log;    // the newest record of each chain, as the log says
  const HashIndex& index;  // the same, as the store's index says
  Address begin;           // of the log
};
// Reads a checkpoint's files. The entries of its image that are not dead must lead to records of
// their chains, and no chain whose newest record lies below the scan may be missing.
absl::Status VerifyCheckpoint(Core& core, Directory& directory, std::uint64_t id,
                              const CheckpointTruth& truth);

class LogVerifier {
 public:
  LogVerifier(Core& core, const VerifyOptions& options, std::function<bool()> stop);
  // Errors: no memory, or told to stop. What is damaged is in the report.
  absl::StatusOr<VerifyReport> Run(const std::vector<CheckpointInfo>& checkpoints);

 private:
  absl::Status ReadLog();
  std::uint64_t LoadPage(std::uint64_t page, std::uint64_t first_block, std::uint64_t end_block);
  absl::Status CheckRecords(Address from, std::uint64_t end_offset);
  const char* CheckRecord(const Record& record, Address address);
  const char* CheckLink(const Record& record, Address address);
  absl::Status FollowChains();
  // False: stopped.
  bool FollowChain(std::uint64_t hash, Address address, EpochSlot& slot);
  bool InUnread(Address address) const;
  void CheckLanding(Address address, std::uint64_t hash);
  void FindMissingChains();
  bool LeadsToChain(Address address, std::uint64_t hash);
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
  const Address end_;  // what lies below has been flushed
  HashIndex newest_;   // of each chain, as far as the log has been read
  AlignedBuffer page_;
  AlignedBuffer blocks_;
  DeviceBuffer record_;
  Address read_end_;  // of the records that were read
  struct Range {
    Address from;
    Address end;
  };
  std::vector<Range> unread_;  // behind bad blocks; in order
  VerifyReport report_;
};

}  // namespace ebb::internal
