// Whole transfers of files, whole listings, and the statuses of failed calls on files.
//
// Thread safety and progress: as the calls of File.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ebb::internal {

class Directory;
class File;

// Continue short transfers and retry EINTR and EAGAIN. `error` is 0 or an errno value; `moved` is
// the number of bytes transferred, which is less than requested only at the end of the file or with
// an error.
struct FullTransfer {
  std::size_t moved = 0;
  int error = 0;
};
FullTransfer ReadFully(File& file, std::uint64_t offset, std::span<std::byte> bytes);
FullTransfer WriteFully(File& file, std::uint64_t offset, std::span<const std::byte> bytes);

// Returns the names in a directory, which an error calls `path`.
absl::StatusOr<std::vector<std::string>> ListNames(
    Directory& directory, const std::string& path = "the store's directory");

// Returns the Status of a failed call on a file: ResourceExhausted for lack of space, memory or
// descriptors, otherwise Unavailable. The message states the call, the file, the offset
// unless it is 0, the cause, and the remedy.
absl::Status FileError(const char* call, const std::string& file, std::uint64_t offset, int error);
// Returns the Status of a failed sync or close. It is always Unavailable: the kernel may have
// dropped pages, so the call is never retried. Does not throw, because a store whose sync failed
// must be poisoned even if there is no memory for the message.
absl::Status SyncError(const char* call, const char* file, int error) noexcept;

}  // namespace ebb::internal
