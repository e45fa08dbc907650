#include "ebb/internal/base/health.h"

#include <fmt/format.h>

#include "ebb/internal/base/no_memory.h"
#include "ebb/status.h"

namespace ebb::internal {

Health::Health(bool read_only) : poisoned_(read_only) {
  if (read_only) cause_ = Fixed().read_only;
}

void Health::Poison(const absl::Status& cause) {
  MutexLock lock(mu_);
  // The first cause counts. Later errors follow from it.
  if (has_failed_) return;
  has_failed_ = true;
  // A store that must not continue is poisoned whether or not there is memory for the message.
  const bool is_lost = absl::IsDataLoss(cause);
  const absl::Status shorter =
      is_lost ? absl::Status(absl::StatusCode::kDataLoss, {}) : Fixed().poisoned;
  const auto describe = [&] {
    return Lasting(absl::Status(
        shorter.code(),
        fmt::format(
            "a failure poisoned the store: updates and commits fail until it is closed and opened "
            "again; first cause: {}: {}",
            absl::StatusCodeToString(cause.code()), std::string(cause.message()))));
  };
  cause_ = CatchNoMemory(describe, shorter);
  // After cause_: a thread that sees the flag finds the cause.
  poisoned_.store(true, std::memory_order_release);  // [poison]
}

absl::Status Health::status() const {
  if (!poisoned()) return absl::OkStatus();
  MutexLock lock(mu_);
  return cause_;
}

}  // namespace ebb::internal
