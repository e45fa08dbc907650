// The ReadRing of Linux: io_uring, through liburing.
//
// Reads are handed to the kernel in one go when somebody asks for what has ended. When the kernel
// takes none (out of memory, forbidden by a limit) and none is under way, what it was to be given
// has ended with that error, and the ring takes nothing more: its user reads in another way.
//
// Thread safety: one thread at a time. Progress: Start never waits, Take as it says.
#pragma once

#include <memory>

#include "ebb/internal/file_system.h"

namespace ebb::internal {

// Null when the kernel refuses it, as it does in many containers, or ebb was built without.
std::unique_ptr<ReadRing> OpenUring(unsigned depth);

}  // namespace ebb::internal
