// NoMemory: how the library reports that memory is out.
//
//   absl::Status status = CatchNoMemory([&] { return WriteManifest(...); });
//
// Any allocation can throw std::bad_alloc. These rules make that harmless:
//
//   - No exception leaves a public call, a job of the library, or a destructor. Each of them, or a
//     function below it, turns std::bad_alloc into NoMemory(). Exceptions of the user's callbacks
//     pass through, except std::bad_alloc: often it is unknown whose allocation failed. An
//     exception from moving a callback passes through too: the callback can no longer be called.
//   - A handler of std::bad_alloc does not allocate, because that would probably throw again. The
//     statuses that it may need are created once and copied: a copy counts a reference.
//   - State between "taken" and "returned" (a flag, a chunk, a slot, a place in a list) is restored
//     by a destructor, not by statements after a call that may throw.
//   - A function that reports an error may throw while it builds the message. So the consequences
//     of the error (poisoning the store) must not depend on the message.
//
// Thread safety: any thread.
#pragma once

#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

// Statuses with a fixed message, created when the program or shared library starts. A status whose
// message could not be allocated has only its code.
struct FixedStatuses {
  absl::Status no_memory;
  absl::Status closed;
  absl::Status moved_from;
  absl::Status forked;
  absl::Status reentered;
  absl::Status in_memory;
  absl::Status read_only;
  absl::Status poisoned;
  absl::Status failed_sync;
};
const FixedStatuses& Fixed() noexcept;

// ResourceExhausted.
inline const absl::Status& NoMemory() noexcept { return Fixed().no_memory; }
// The same, with the purpose of the memory: "no memory to `purpose`". May throw.
absl::Status NoMemoryTo(const std::string& purpose);

// Returns the result of `call`, or `otherwise` if it throws std::bad_alloc. `call` returns a Status
// or a StatusOr.
template <typename Call>
auto CatchNoMemory(Call&& call, const absl::Status& otherwise = NoMemory()) -> decltype(call()) {
  EBB_TRY { return std::forward<Call>(call)(); }
  EBB_CATCH_NO_MEMORY { return otherwise; }
}

// Returns the status as text, for statistics; only its code, or an empty string, if memory is out.
std::string TextOf(const absl::Status& status) noexcept;

}  // namespace ebb::internal
