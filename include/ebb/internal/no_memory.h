// NoMemory: how the library reports that memory is out.
//
//   absl::Status status = CatchNoMemory([&] { return WriteManifest(...); });
//
// Any allocation can throw std::bad_alloc. The rules that keep such a moment harmless:
//
//   - No exception leaves a public call, a job of the library, or a destructor. Each of them, or a
//     function below it, turns std::bad_alloc into NoMemory(). What a callback of the user throws
//     passes through, except std::bad_alloc: often nobody can tell whose allocation it was.
//   - A handler of std::bad_alloc does not allocate, because most likely that would throw again.
//     The statuses that it may need are made once and copied: a copy counts a reference.
//   - State between "taken" and "returned" (a flag, a chunk, a slot, a place in a list) is restored
//     by a destructor, not by statements after a call that may throw.
//   - A function that reports an error may throw while it puts the message together. So what has to
//     happen because of the error (poisoning the store) must not depend on the message.
//
// Thread safety: any thread.
#pragma once

#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "ebb/internal/check.h"

namespace ebb::internal {

// Statuses with a fixed message, made when the program or shared library starts. One that could not
// get its message then has its code alone.
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

// What `call` returns, or NoMemory() when it throws std::bad_alloc. `call` returns a Status or a
// StatusOr.
template <typename Call>
auto CatchNoMemory(Call&& call) -> decltype(call()) {
  EBB_TRY {
    return std::forward<Call>(call)();
  } EBB_CATCH_NO_MEMORY {
    return NoMemory();
  }
}

// The status as text, for statistics; its code alone, or nothing, when memory is out.
std::string TextOf(const absl::Status& status) noexcept;

}  // namespace ebb::internal
