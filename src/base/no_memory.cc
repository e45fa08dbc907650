#include "ebb/internal/base/no_memory.h"

#include <utility>

#include "ebb/status.h"

namespace ebb::internal {
namespace {

absl::Status Make(absl::StatusCode code, const char* message) noexcept {
  try {
    absl::Status status(code, message);
    return code == absl::StatusCode::kUnavailable ? Lasting(std::move(status)) : status;
  } catch (const std::bad_alloc&) {
    return absl::Status(code, {});  // without a message it allocates no memory
  }
}

FixedStatuses MakeAll() noexcept {
  using enum absl::StatusCode;
  return {
      .no_memory = Make(kResourceExhausted,
                        "no memory: the operation had no effect; free memory and call again"),
      .closed = Make(kFailedPrecondition, "the store is closed; open it again to use it"),
      .moved_from =
          Make(kFailedPrecondition,
               "the store, session or iterator was moved from; use the object that it was "
               "moved to"),
      .forked = Make(kFailedPrecondition,
                     "the store was opened by the parent process; a forked child cannot use it"),
      .reentered =
          Make(kFailedPrecondition,
               "a session was called from inside one of its own callbacks; use the values that the "
               "callback was given, or call after it has returned"),
      .in_memory = Make(kFailedPrecondition,
                        "a store in memory has no files and cannot make anything durable; "
                        "to do that, create the store with Open instead of OpenInMemory"),
      .read_only = Make(kFailedPrecondition,
                        "the store is open read-only (Options::read_only); to change it, close it "
                        "and open it for writing"),
      .poisoned = Make(kUnavailable,
                       "a failure poisoned the store: updates and commits fail until it is "
                       "closed and opened again; there was no memory to keep the first cause"),
      .failed_sync =
          Make(kUnavailable,
               "a sync or a close of a file of the store failed (there was no memory for its "
               "name); close the store and open it again"),
  };
}

// Never destroyed: a store may outlive static objects.
union Kept {
  Kept() noexcept : statuses(MakeAll()) {}
  ~Kept() {}
  FixedStatuses statuses;
};

}  // namespace

const FixedStatuses& Fixed() noexcept {
  static const Kept kept;
  return kept.statuses;
}

namespace {
// Created early: while the program starts there is memory.
[[maybe_unused]] const FixedStatuses& g_made_early = Fixed();
}  // namespace

absl::Status NoMemoryTo(const std::string& purpose) {
  return absl::ResourceExhaustedError("no memory to " + purpose + "; free memory and call again");
}

// Each step needs less memory than the one before.
std::string TextOf(const absl::Status& status) noexcept {
  try {
    return status.ToString();
  } catch (const std::bad_alloc&) {
  }
  try {
    return absl::StatusCodeToString(status.code());
  } catch (const std::bad_alloc&) {
    return {};
  }
}

}  // namespace ebb::internal
