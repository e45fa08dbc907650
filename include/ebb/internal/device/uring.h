// The ReadRing of Linux: io_uring, through liburing.
//
// Reads are submitted to the kernel together when the user requests a completed read. If the kernel
// accepts none (out of memory, forbidden by a limit) and none is in flight, the reads that it was
// to get end with that error, and the ring accepts no more: its user reads in another way.
//
// Thread safety: one thread at a time. Progress: Start never waits; Take waits only with `wait`.
#pragma once

#include <memory>

#include "ebb/internal/device/file_system.h"

namespace ebb::internal {

// Returns null if the kernel refuses it, as it does in many containers, or if ebb was built without
// it.
std::unique_ptr<ReadRing> OpenUring(unsigned depth);

}  // namespace ebb::internal
