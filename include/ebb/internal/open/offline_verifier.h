// VerifyDirectory (ebb/verify.h) in any file system: reads a store that is not open, and changes
// nothing.
//
// The log is read as an opening without checkpoints would (recovery.h). Whether that succeeds or
// fails, every block is checked then, and the images of the checkpoints are compared with the
// index.
//
// Thread safety: holds the store's lock in the meantime. Progress: waits for the device.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/verify.h"

namespace ebb::internal {

absl::StatusOr<VerifyReport> VerifyFiles(FileSystem& file_system, const std::string& path,
                                         const VerifyOptions& options);

}  // namespace ebb::internal
