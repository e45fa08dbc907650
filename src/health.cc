#include "ebb/internal/health.h"

#include <fmt/format.h>

#include <new>

namespace ebb::internal {

void Health::Poison(const absl::Status& cause) {
  MutexLock lock(mu_);
  if (!cause_.ok()) return;
  const absl::StatusCode code =
      absl::IsDataLoss(cause) ? absl::StatusCode::kDataLoss : absl::StatusCode::kUnavailable;
  try {
    cause_ = absl::Status(code, fmt::format("the store is poisoned until it is reopened; first "
                                            "cause: {}",
                                            cause.ToString()));
  } catch (const std::bad_alloc&) {
    cause_ = absl::Status(code, "");  // allocates nothing
  }
  poisoned_.store(true, std::memory_order_release);  // [poison]
}

absl::Status Health::status() const {
  if (!poisoned()) return absl::OkStatus();
  MutexLock lock(mu_);
  return cause_;
}

}  // namespace ebb::internal
