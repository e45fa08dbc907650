/// @file
/// The status codes of ebb, and helpers for programs that handle them.
///
/// Every call that can fail returns absl::Status or absl::StatusOr. Only exceptions of the
/// program's own callbacks leave a call (ebb/session.h).
///
///     code                 meaning
///     kNotFound            the key is absent; no message, no allocation. Of Open, with a message:
///                          there is no store, and it may not be created
///     kAlreadyExists       InsertIfAbsent of a key that is present; no message
///     kAborted             CompareExchange found another value than expected; no message
///     kInvalidArgument     bad option, key or value; the message names the field
///     kFailedPrecondition  the store is closed, open elsewhere, of other key or value types, or
///                          open read-only; a call from a callback of the same store; use in a
///                          forked child
///     kResourceExhausted   disk, memory or log space is full; the same call may succeed later
///     kPermissionDenied    the process may not use a file or directory, or the file system is
///                          read-only; the message names it
///     kUnavailable         a device call failed, or the store is poisoned by a failed sync or
///                          memory barrier; the message has the first cause
///     kDataLoss            bytes on the device fail their checksum (the message has file and
///                          offset), or the store is poisoned because a file, which the message
///                          names, was removed while the store was open
///     kUnknown             only in BackgroundStats: GcOptions::progress threw; see the message
///     kUnimplemented       the files have a format that this version does not know
///
/// Errors of system calls. The message has the call, the file, the text of the error number, and
/// advice. Here "passes" means that IsRecoverable returns true.
///
///     error number                                      code               passes  advice
///     ENOSPC EDQUOT                                     ResourceExhausted  yes     make room
///     EFBIG EMFILE ENFILE                               ResourceExhausted  yes     raise the limit
///     ENOMEM ENOBUFS ENOLCK                             ResourceExhausted  yes     free memory
///     EACCES EPERM                                      PermissionDenied   no      permissions
///     EROFS                                             PermissionDenied   no      mount writable
///     EINTR EAGAIN EBUSY ETXTBSY                        Unavailable        yes     call again
///     EIO EREMOTEIO ETIMEDOUT                           Unavailable        yes     check the
///       ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH                                device
///     all others                                        Unavailable        no      close, mend,
///                                                                                  reopen
///
/// There are two exceptions. A failed sync or close is Unavailable for every error number and never
/// passes, because it poisons the store. A path that cannot be opened because of its name (ENOENT,
/// ENOTDIR, ELOOP, ENAMETOOLONG) is InvalidArgument.
///
/// Thread safety: all functions are pure. Progress: wait-free.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/values/check.h"

namespace ebb {

/// Returns whether the same call, on the same store, can succeed once the cause has passed: a full
/// disk, lack of memory, a device error. Also true for Aborted. False for a poisoned store, missing
/// permissions, and every other cause that lasts until the store is reopened or its environment
/// changes.
///
/// A loop that retries while this is true should wait between two calls and limit their number. For
/// example:
///
///     absl::Status status = db.Commit();
///     for (int i = 0; i < 10 && ebb::IsRecoverable(status); ++i) {
///       std::this_thread::sleep_for(std::chrono::seconds(1));
///       status = db.Commit();
///     }
bool IsRecoverable(const absl::Status& status);
/// Returns whether the status is DataLoss: bytes on the device are not those that were written, or
/// a file is missing.
bool IsCorruption(const absl::Status& status);
/// Returns whether the caller passed a wrong argument, called at the wrong time, uses files of a
/// newer version, or lacks a permission.
bool IsUserError(const absl::Status& status);

/// Prints the status to stderr and aborts unless it is OK. For examples and tests.
inline void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "ebb::Must: %s\n", status.ToString().c_str());
  std::abort();
}
/// Returns the value of `result`, or prints its status and aborts. For examples and tests.
template <typename T>
T Must(absl::StatusOr<T> result) {
  Must(result.status());
  return *std::move(result);
}

namespace internal {

// The entry of the table above for an error number of a system call.
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
