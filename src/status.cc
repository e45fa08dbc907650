#include "ebb/status.h"

namespace ebb {

bool IsRecoverable(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status) ||
         absl::IsAborted(status);
}

bool IsCorruption(const absl::Status& status) { return absl::IsDataLoss(status); }

bool IsUserError(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
         absl::IsUnimplemented(status);
}

}  // namespace ebb
