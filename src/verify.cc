#include "ebb/verify.h"

#include "ebb/internal/recovery.h"

namespace ebb {

absl::StatusOr<VerifyReport> VerifyDirectory(const std::string& path,
                                             const VerifyOptions& options) {
  return internal::VerifyFiles(internal::PosixFileSystem(), path, options);
}

}  // namespace ebb
