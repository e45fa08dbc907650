#include "ebb/status.h"

#include <cerrno>

#include "absl/strings/cord.h"

namespace ebb {
namespace {

// The payload of an error that repeating the call cannot overcome (Lasting). A payload survives
// copies of the status and leaves its code and message as they are.
constexpr char kLastingUrl[] = "ebb/until";

}  // namespace

bool IsRecoverable(const absl::Status& status) {
  // A CompareExchange that lost a race can be repeated with the new value.
  if (absl::IsAborted(status)) return true;
  return (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) &&
         !status.GetPayload(kLastingUrl).has_value();
}

bool IsCorruption(const absl::Status& status) { return absl::IsDataLoss(status); }

bool IsUserError(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
         absl::IsPermissionDenied(status) || absl::IsUnimplemented(status);
}

namespace internal {

namespace {

struct ErrorRow {
  int error_number;
  ErrorRule rule;
};
constexpr ErrorRule kFreeMemory{absl::StatusCode::kResourceExhausted, true,
                                "free memory and call again"};
constexpr ErrorRule kPermissions{
    absl::StatusCode::kPermissionDenied, false,
    "let this process read and write the directory and all files in it"};
constexpr ErrorRule kCallAgain{absl::StatusCode::kUnavailable, true, "call again"};
constexpr ErrorRule kCheckDevice{absl::StatusCode::kUnavailable, true,
                                 "check the device, and call again"};
constexpr ErrorRule kReopen{absl::StatusCode::kUnavailable, false,
                            "close the store, remove the cause, and open it again"};

constexpr ErrorRule Raise(const char* advice) {
  return {absl::StatusCode::kResourceExhausted, true, advice};
}
// The table in the header. An error number that is missing here is not expected of a file system,
// so RuleOf is cautious: it does not promise that the error passes.
constexpr ErrorRow kErrorTable[] = {
    {ENOSPC, Raise("make room on the disk and call again")},
    {EDQUOT, Raise("raise the disk quota or remove files, and call again")},
    {EFBIG, Raise("raise the limit on file sizes (ulimit -f) and call again")},
    {EMFILE, Raise("raise the limit on open files (ulimit -n) or close some, and call again")},
    {ENFILE, Raise("raise the system's limit on open files (fs.file-max) and call again")},
    {ENOMEM, kFreeMemory},
    {ENOBUFS, kFreeMemory},
    {ENOLCK, kFreeMemory},
    {EACCES, kPermissions},
    {EPERM, kPermissions},
    {EROFS,
     {absl::StatusCode::kPermissionDenied, false,
      "mount the file system writable, or open with Options::read_only"}},
    {EINTR, kCallAgain},
    {EAGAIN, kCallAgain},
    {EBUSY, kCallAgain},
    {ETXTBSY, kCallAgain},
    {EIO, kCheckDevice},
    {EREMOTEIO, kCheckDevice},
    {ETIMEDOUT, kCheckDevice},
    {ENETDOWN, kCheckDevice},
    {ENETUNREACH, kCheckDevice},
    {EHOSTDOWN, kCheckDevice},
    {EHOSTUNREACH, kCheckDevice},
};

}  // namespace

ErrorRule RuleOf(int error_number) {
  for (const ErrorRow& row : kErrorTable) {
    if (row.error_number == error_number) return row.rule;
  }
  return kReopen;
}

absl::Status Lasting(absl::Status error) {
  error.SetPayload(kLastingUrl, absl::Cord("reopened"));
  return error;
}

}  // namespace internal
}  // namespace ebb
