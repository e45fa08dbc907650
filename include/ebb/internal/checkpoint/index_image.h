// Index images: snapshots of the index, so that recovery need not read the whole log.
//
// An image is a sealed file of words: a bucket's number with the high bit set, then the entries of
// its bucket chain, then the next bucket. Empty buckets are omitted; zeros fill the end. A chain is
// named by the low bits of its keys' hashes (hash_index.h), which bucket and tag give together. So
// an image can be loaded into an index of any size.
//
// The image is fuzzy: entries are copied one after the other while operations continue. This is
// correct because of three rules. T0 is the tail at the beginning of the copy.
//   1. Before the first entry is copied, every guard from before T0 has ended. So every record
//      allocated below T0 has been published, or never will be: no record below T0 enters the
//      index after the copy has passed.
//   2. Entries at or above T0 are omitted, and recovery reads the log from T0: the newest record
//      of such a chain is found there, and leads to the rest.
//   3. The checkpoint's commit begins after the last entry is copied. So such a record is below
//      its control record, which is durable before the manifest is written: recovery that uses the
//      image never stops before it. If it were lost, its chain would be lost with it.
// So the image holds every chain whose newest record was below T0, and the scan finds all others.
//
// Thread safety: WriteIndexImage runs concurrently with operations; LoadIndexImage alone.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/core/core.h"

namespace ebb::internal {

// Writes and syncs the image of `manifest.id` with the entries below `manifest.scan_from`, after
// rule 1 has been met; sets the fields about the image. Returns ClosedError() if `stop` is true.
absl::Status WriteIndexImage(Core& core, const std::function<bool()>& stop, Manifest& manifest);
// Fills the empty index. Returns DataLoss if the image does not verify or its content is invalid;
// then the index may hold part of it.
absl::Status LoadIndexImage(Core& core, Directory& directory, const Manifest& manifest);
// Calls `take` for each entry with the bits of the hash that name its chain; false: no memory.
absl::Status ReadIndexImage(Core& core, Directory& directory, const Manifest& manifest,
                            const std::function<bool(std::uint64_t, Address)>& take);

}  // namespace ebb::internal
