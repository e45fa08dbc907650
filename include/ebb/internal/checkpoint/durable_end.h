// The durable end: durable.ebb, which states how far a store's log was durable.
//
// The log cannot show that its own last blocks or files are missing: the rest looks like the log of
// an older state. So this file holds E, the first block after the newest durable commit or open
// record. An opening reports DataLoss if the log ends before E, or before the address that a
// checkpoint states.
//
// The file is two blocks of 4 KiB. Both hold zeros, and at the end:
//
//   4048 magic (64) | 4056 format version (32), zero (32) | 4064 store id (64) | 4072 E (64)
//   4080 zero (64) | 4088 checksum (64), as of any block; the number is 2^63, or 2^63 + 1
//
// The blocks are written alternately. E is the larger value of the blocks that verify. Two writes
// of a block differ only in its last 512 bytes, and only those are written again. So a crash
// between sectors leaves an old block or a new one; if one block is torn nevertheless, the other
// counts.
//
// Order of writes
//   creation    the file with E = 0, synced; its name, synced; then the first file of the log gets
//               its name. So E > 0 without files of the log is DataLoss, and no crash leaves that.
//   opening     after the sync of the open record, without a sync of its own. If no block
//               verifies: both blocks, then a sync.
//   commit      after its sync, without a sync of its own. A write that fails is ignored.
//   checkpoint  a sync after its commit. Close: the same. Both return an error of this sync, and
//               each can be tried again, because everything that a failed sync may have dropped is
//               written again.
//   backup      E as the manifest says, synced, before the marker is removed.
//   salvage     both blocks with the new, lower E, synced; then the log is truncated there.
//
// Argument (E never exceeds the durable end of the log). A value is written only after the sync of
//   the log that makes it true. It stays true: no opening cuts off anything that a sync has
//   covered, because the scan that finds the last commit ends at or above it. After a power loss, a
//   block of the file can hold the value that its last sync covered or any value written since,
//   because the device writes in any order. All of these values are true, and so is the larger one.
//   It can be older than the last commit; then a loss of the blocks in between is not detected.
//   After Close and after a checkpoint it is exact.
//   Only salvage removes blocks that E covers. Until both blocks are durable, nothing is cut, and
//   the larger value, old or new, is at most the log's durable end. Afterwards E is the new end of
//   the log.
//   A store is rejected whenever the log ends before E. By the argument, no crash causes that.
//
// If the value is too low or missing, no data is lost; only a loss may not be detected. So if the
// file is missing, or no block of it verifies, the opening adds a note, and a verification reports
// a problem.
//
// Thread safety: one thread at a time. Progress: may wait for the device.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

inline constexpr const char* kDurableEndName = "durable.ebb";

struct FoundDurableEnd {
  std::uint64_t end_block = 0;  // E; 0 if there is none
  // The values of the file's blocks; 0 also if a block does not verify.
  std::array<std::uint64_t, 2> blocks = {};
  std::string problem;  // the file is missing, or no block verifies
};
// Reads the file of the store with this id, or of the store that it names. Writes nothing.
absl::StatusOr<FoundDurableEnd> ReadDurableEnd(Directory& directory,
                                               std::optional<std::uint64_t> store_id);
// Writes and syncs both blocks; creates the file if it is missing. Does not sync the directory.
absl::Status WriteDurableEnd(Directory& directory, std::uint64_t store_id, std::uint64_t end_block);

// The file of an open store.
class DurableEnd {
 public:
  // `end_block` is durable. Rewrites the file if no block of it verifies.
  static absl::StatusOr<std::unique_ptr<DurableEnd>> Open(Directory& directory,
                                                          std::uint64_t store_id,
                                                          std::uint64_t end_block);
  // `end_block` is durable. Not synced, and no error is reported.
  void Advance(std::uint64_t end_block);
  // Makes the last value durable, in both blocks.
  absl::Status Sync();

 private:
  explicit DurableEnd(std::uint64_t store_id) : store_id_(store_id) {}
  // 0, or an errno value.
  int Write(std::size_t block);

  const std::uint64_t store_id_;
  std::unique_ptr<File> file_;
  AlignedBuffer buffer_;
  std::uint64_t end_block_ = 0;
  // in the file; 0: unknown, so the whole block is written
  std::array<std::uint64_t, 2> blocks_ = {};
  bool unsynced_ = true;
};

}  // namespace ebb::internal
