// VerifyDirectory (ebb/verify.h) in any file system: reads a store that nobody has open, and
// changes nothing.
//
// The log is read as an opening without checkpoints would (recovery.h). When that fails, or when it
// has been done, the rest is told by looking at every block, and by comparing the images of the
// checkpoints with the index.
//
// Thread safety: the store's lock is held meanwhile. Progress: waits for the device.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "ebb/internal/file_system.h"
#include "ebb/verify.h"

namespace ebb::internal {

absl::StatusOr<VerifyReport> VerifyFiles(FileSystem& file_system, const std::string& path,
                                         const VerifyOptions& options);

}  // namespace ebb::internal
