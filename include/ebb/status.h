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
//   kPermissionDenied    the process may not use a file or directory, or the file system is
//                        read-only; the message names it
//   kUnavailable         a device call failed, or the store is poisoned by a failed sync or memory
//                        barrier; the message holds the first cause
//   kDataLoss            bytes on the device fail their checksum (file and offset in the message),
//                        or the store is poisoned because a file, which the message names, was
//                        removed while the store was open
//   kUnknown             only in BackgroundStats: GcOptions::progress threw; see the message
//   kUnimplemented       the files were written in a format this version does not know
//
// Errors of system calls. The message holds the call, the file, the text of the error number and
// advice. Here "passes" means that IsRecoverable is true.
//
//   error number                                         code               passes  advice
//   ENOSPC EDQUOT                                        ResourceExhausted  yes     make room
//   EFBIG EMFILE ENFILE                                  ResourceExhausted  yes     raise the limit
//   ENOMEM ENOBUFS ENOLCK                                ResourceExhausted  yes     free memory
//   EACCES EPERM                                         PermissionDenied   no      permissions
//   EROFS                                                PermissionDenied   no      mount writable
//   EINTR EAGAIN EBUSY ETXTBSY EIO EREMOTEIO ETIMEDOUT   Unavailable        yes     call again;
//   ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH                                     check the
//   device all others                                           Unavailable        no      close,
//   mend,
//                                                                                   reopen
//
// Two exceptions. A failed sync or close is Unavailable for every error number and never passes,
// because the store is poisoned. A path that cannot be opened because of its name (ENOENT, ENOTDIR,
// ELOOP, ENAMETOOLONG) is InvalidArgument.
//
// Thread safety: all functions are pure. Progress: wait-free.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/check.h"

namespace ebb {

// Repeating the same call can succeed, on the same store, once the cause has passed: disk full, no
// memory, a device error. False for a poisoned store, missing permissions and anything else that
// lasts until the store is reopened or someone changes its surroundings. A loop that retries while
// this is true should wait between two calls and end at some time.
bool IsRecoverable(const absl::Status& status);
// Bytes on the device are not what was written.
bool IsCorruption(const absl::Status& status);
// The caller passed something wrong, called at the wrong time, or lacks a permission.
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

namespace internal {

// The row of the table above for an error number of a system call.
struct ErrorRule {
  absl::StatusCode code;
  bool passes;
  const char* advice;
};
ErrorRule RuleOf(int error_number);

// Marks an Unavailable or ResourceExhausted error that repeating the call cannot overcome, by a
// payload that IsRecoverable checks. Allocates.
absl::Status Lasting(absl::Status error);

}  // namespace internal
}  // namespace ebb
