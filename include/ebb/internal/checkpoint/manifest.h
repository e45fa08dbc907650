// Manifest: describes a checkpoint. A checkpoint only makes recovery shorter; the log alone holds
// everything.
//
// A checkpoint is two files (sealed_file.h): index-<id>.ebb, an image of the index (index_image.h),
// and manifest-<id>.ebb, which names it. The manifest is written last, after the image is synced
// and after the commit that covers everything in the image.
//
//   0 magic (64) | 8 format version (32), zero (32) | 16 id (64) | 24 count of sections (64)
//   then each section: type (32), 1 if it is required (32) | length, a multiple of 8 (64) | bytes
//
// Sections, all required, in any order and once each:
//   1 checkpoint     milliseconds since 1970 (64) | stamp of the image (64)
//                    | entries of the image (64) | bytes of the image (64)
//                    | index exponent at creation (32), now (32)
//                    | scan from (64) | durable (64) | version (64)
//   2 incarnations   each: first block (64) | incarnation (64)
//   3 sessions       each: serial (64) | length of its name (64) | name, padded to 8 with zeros
//
// A section of another type is skipped unless it is required. So a later version may add sections
// that an older one need not know.
//
// Thread safety: functions without state, one call at a time for one directory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/block.h"
#include "ebb/stats.h"

namespace ebb::internal {

class Directory;

// Ids begin with 1.
inline constexpr std::uint64_t kMaxCheckpointId = ~std::uint64_t{0} >> 1;

struct Manifest {
  std::uint64_t id = 0;
  std::uint64_t created_unix_ms = 0;
  std::uint64_t image_stamp = 0;
  std::uint64_t image_entries = 0;
  std::uint64_t image_bytes = 0;
  std::uint32_t creation_exponent = 0;
  std::uint32_t index_exponent = 0;
  Address scan_from;          // the image lacks entries at or above
  Address durable;            // the end of the checkpoint's commit
  std::uint64_t version = 0;  // of that commit
  std::vector<IncarnationSpan> incarnations;
  std::vector<SessionReport> sessions;  // as of that commit
  std::uint64_t manifest_bytes = 0;     // set when it is written or read
};

CheckpointInfo DescribeCheckpoint(const Manifest& manifest);

std::string ManifestName(std::uint64_t id);
std::string ImageName(std::uint64_t id);
// Returns the checkpoint to which a file belongs, complete or not; nothing for any other name.
std::optional<std::uint64_t> CheckpointOfFile(const std::string& name);

// Sets manifest_bytes. Does not sync the directory.
absl::Status WriteManifest(Directory& directory, std::uint64_t store_id, Manifest& manifest);
// Errors: DataLoss if it does not verify; Unimplemented for another format, or for a required
// section that this version does not know.
absl::StatusOr<Manifest> ReadManifest(Directory& directory, std::uint64_t store_id,
                                      std::uint64_t id);

}  // namespace ebb::internal
