#include "ebb/internal/health.h"

#include <fmt/format.h>

namespace ebb::internal {

void Health::Poison(const absl::Status& cause) {
  MutexLock lock(mu_);
  if (!cause_.ok()) return;
  cause_ = absl::UnavailableError(
      fmt::format("the store is poisoned until it is reopened; first cause: {}", cause.ToString()));
  poisoned_.store(true, std::memory_order_release);  // [poison]
}

absl::Status Health::status() const {
  if (!poisoned()) return absl::OkStatus();
  MutexLock lock(mu_);
  return cause_;
}

}  // namespace ebb::internal
