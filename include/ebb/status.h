// Statuses as ebb uses them, and helpers for programs that read them.
//
// Every fallible call returns absl::Status or absl::StatusOr; only what a callback of the program
// throws leaves a call (ebb/session.h).
//   kNotFound            the key is absent; no message, no allocation. Of Open, with a message:
//                        there is no store, and create_if_missing is false
//   kAlreadyExists       InsertIfAbsent of a key that is present; no message
//   kAborted             CompareExchange of a value that is another than expected; no message
//   kInvalidArgument     bad option, key or value; the message names the field
//   kFailedPrecondition  closed store, second opener, other key or value type, a call from a
//                        callback of the same store, use in a forked child, a change of a store
//                        that is open read-only
//   kResourceExhausted   disk, memory or log space is full; the same call may succeed later
//   kUnavailable         a device call failed, or the store is poisoned by a failed sync or memory
//                        barrier; the message holds the first cause
//   kDataLoss            bytes on the device fail their checksum (file and offset in the message),
//                        or the store is poisoned because a file, which the message names, was
//                        removed while the store was open
//   kUnknown             only in BackgroundStats: GcOptions::progress threw; see the message
//   kUnimplemented       the files were written in a format this version does not know
//
// Thread safety: all functions are pure. Progress: wait-free.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ebb {

// The same call may succeed later without reopening: disk full, device error, memory.
bool IsRecoverable(const absl::Status& status);
// Bytes on the device are not what was written.
bool IsCorruption(const absl::Status& status);
// The caller passed something wrong, or called at the wrong time.
bool IsUserError(const absl::Status& status);

// For examples and tests: prints the status to stderr and aborts unless it is OK.
inline void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "ebb::Must: %s\n", status.ToString().c_str());
  std::abort();
}
// The value of a StatusOr, or prints and aborts as above.
template <typename T>
T Must(absl::StatusOr<T> result) {
  Must(result.status());
  return *std::move(result);
}

}  // namespace ebb
