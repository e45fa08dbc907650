#include "ebb/internal/device/file_io.h"

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/status.h"
#include "fmt/format.h"

namespace ebb::internal {
namespace {

// Drives one transfer to its end. `move(done)` tries to move the bytes after the first `done`. A
// direct file accepts only whole blocks. So after a count that is not a whole number of blocks the
// transfer continues from the last whole block and moves part of it again. Progress is measured by
// the farthest byte ever reached. Attempts without progress are limited, so that no result of a
// device can keep the loop running forever.
template <typename Move>
FullTransfer TransferFully(std::size_t byte_count, bool direct, bool zero_is_end, Move move) {
  constexpr int kIdleAttemptLimit = 1000;
  std::size_t done = 0;
  std::size_t farthest = 0;
  int idle_attempts = 0;
  while (done < byte_count) {
    const Transfer step = move(done);
    // Neither error says anything about the file, so both are retried.
    const bool interrupted = step.error == EINTR || step.error == EAGAIN;
    if (step.error != 0 && !interrupted) return {farthest, step.error};
    if (step.error == 0) done += std::min(step.count, byte_count - done);
    if (done > farthest) {
      farthest = done;
      idle_attempts = 0;
    } else {
      // For a read, a count of 0 is the end of the file. For a write it is an attempt without
      // progress.
      const int idle_error = interrupted ? step.error : (zero_is_end ? 0 : EIO);
      if (idle_error == 0 && step.count == 0) return {farthest, 0};
      if (++idle_attempts == kIdleAttemptLimit) return {farthest, idle_error};
      if (step.error == EAGAIN) Yield();
    }
    // The next attempt of a direct transfer must begin at a whole block.
    if (direct && done < byte_count) done -= done % kBlockBytes;
  }
  return {farthest, 0};
}

}  // namespace

FullTransfer ReadFully(File& file, std::uint64_t offset, std::span<std::byte> bytes) {
  return TransferFully(bytes.size(), file.direct(), /*zero_is_end=*/true, [&](std::size_t done) {
    return file.ReadAt(offset + done, bytes.data() + done, bytes.size() - done);
  });
}

FullTransfer WriteFully(File& file, std::uint64_t offset, std::span<const std::byte> bytes) {
  return TransferFully(bytes.size(), file.direct(), /*zero_is_end=*/false, [&](std::size_t done) {
    return file.WriteAt(offset + done, bytes.data() + done, bytes.size() - done);
  });
}

absl::StatusOr<std::vector<std::string>> ListNames(Directory& directory, const std::string& path) {
  std::vector<std::string> names;
  const int error = directory.List(names);
  if (error != 0) return FileError("listing", path, 0, error);
  return names;
}

absl::Status FileError(const char* call, const std::string& file, std::uint64_t offset, int error) {
  const ErrorRule rule = RuleOf(error);
  absl::Status status(rule.code,
                      fmt::format("{} of {} failed: {} (errno {}); {}", call,
                                  offset == 0 ? file : fmt::format("{} at offset {}", file, offset),
                                  std::generic_category().message(error), error, rule.advice));
  const bool lasts = absl::IsUnavailable(status) && !rule.passes;
  return lasts ? Lasting(std::move(status)) : status;
}

absl::Status SyncError(const char* call, const char* file, int error) noexcept {
  const auto describe = [=] {
    return Lasting(absl::UnavailableError(
        fmt::format("{} of {} failed: {} (errno {}); close the store and open it again", call, file,
                    std::generic_category().message(error), error)));
  };
  return CatchNoMemory(describe, Fixed().failed_sync);
}

}  // namespace ebb::internal
