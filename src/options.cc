#include "ebb/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace ebb {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kTiB = 1024 * 1024 * kMiB;
constexpr std::uint64_t kLeastFrames = 8;
constexpr std::uint64_t kLeastPageBytes = 64 * kKiB;
constexpr std::uint64_t kMostPageBytes = 64 * kMiB;
constexpr std::uint64_t kLeastBuckets = 1024;
constexpr std::uint64_t kMostBuckets = std::uint64_t{1} << 31;

struct Range {
  const char* field;
  std::uint64_t value;
  std::uint64_t least;
  std::uint64_t most;
};

absl::Status CheckRange(const Range& range) {
  if (range.value >= range.least && range.value <= range.most) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is {}: must be from {} to {}", range.field,
                                                range.value, range.least, range.most));
}

absl::Status CheckPowerOfTwo(const Range& range) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  if (std::has_single_bit(range.value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}: must be a power of two", range.field, range.value));
}

}  // namespace

std::uint64_t internal::PhysicalMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || bytes <= 0) return std::uint64_t{1} << 46;  // unknown: let mapping decide
  return static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(bytes);
}

Options Options::WithMemory(std::uint64_t bytes) {
  Options options;
  const std::uint64_t bucket_bytes = 64;
  options.index_bucket_count =
      std::clamp(std::bit_floor(bytes / 4 / bucket_bytes), kLeastBuckets, kMostBuckets);
  const std::uint64_t index_bytes = options.index_bucket_count * bucket_bytes;
  options.log_memory_bytes = bytes > index_bytes ? bytes - index_bytes : 0;
  return options;
}

Options Options::HighPerformance() {
  Options options = WithMemory(std::min(4096 * kMiB, internal::PhysicalMemoryBytes() / 2));
  options.background_threads = 8;
  options.checkpoint_interval_ms = 30'000;
  return options;
}

Options Options::LowMemory() {
  Options options;
  options.log_memory_bytes = 64 * kMiB;
  options.page_bytes = 4 * kMiB;
  options.segment_bytes = 64 * kMiB;
  options.index_bucket_count = kLeastBuckets;
  options.background_threads = 2;
  options.checkpoint_interval_ms = 2000;
  options.preallocate_bytes = kMiB;
  options.write_batch_bytes = 256 * kKiB;
  return options;
}

std::uint64_t EffectivePageBytes(const Options& options) {
  if (options.page_bytes != 0) return options.page_bytes;
  return std::clamp(std::bit_floor(options.log_memory_bytes / 16), kLeastPageBytes, kMostPageBytes);
}

absl::Status Validate(const GcOptions& options) {
  // Also not a number.
  if (!(options.target_utilization >= 0 && options.target_utilization <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("target_utilization is {}: must be from 0 to 1", options.target_utilization));
  }
  return CheckRange({"pass_bytes", options.pass_bytes, 4 * kKiB, kTiB});
}

absl::Status Validate(const Options& options) {
  const std::uint64_t page_bytes = EffectivePageBytes(options);
  absl::Status status = CheckRange(
      {"log_memory_bytes", options.log_memory_bytes, kMiB, internal::PhysicalMemoryBytes()});
  status.Update(CheckPowerOfTwo({"page_bytes", page_bytes, kLeastPageBytes, kMostPageBytes}));
  if (status.ok() && options.log_memory_bytes / page_bytes < kLeastFrames) {
    status = absl::InvalidArgumentError(
        fmt::format("log_memory_bytes is {}: must be at least {} for {} pages of page_bytes {}",
                    options.log_memory_bytes, kLeastFrames * page_bytes, kLeastFrames, page_bytes));
  }
  status.Update(CheckPowerOfTwo({"segment_bytes", options.segment_bytes, kMiB, kTiB}));
  if (status.ok() && options.segment_bytes < page_bytes) {
    status = absl::InvalidArgumentError(fmt::format(
        "segment_bytes is {}: must be at least page_bytes, {}", options.segment_bytes, page_bytes));
  }
  status.Update(CheckPowerOfTwo(
      {"index_bucket_count", options.index_bucket_count, kLeastBuckets, kMostBuckets}));
  status.Update(CheckRange({"background_threads", options.background_threads, 1, 32}));
  status.Update(CheckRange({"write_batch_bytes", options.write_batch_bytes, 4 * kKiB, 64 * kMiB}));
  if (status.ok() && options.write_batch_bytes % (4 * kKiB) != 0) {
    status = absl::InvalidArgumentError(fmt::format(
        "write_batch_bytes is {}: must be a multiple of 4096", options.write_batch_bytes));
  }
  if (status.ok() && options.durability > Durability::kAlways) {
    status = absl::InvalidArgumentError(
        fmt::format("durability is {}: no such mode", static_cast<int>(options.durability)));
  }
  status.Update(CheckRange({"commit_interval_ms", options.commit_interval_ms, 1, 3'600'000}));
  status.Update(CheckRange({"preallocate_bytes", options.preallocate_bytes, 0, kTiB}));
  if (status.ok() && options.preallocate_bytes % (4 * kKiB) != 0) {
    status = absl::InvalidArgumentError(fmt::format(
        "preallocate_bytes is {}: must be a multiple of 4096", options.preallocate_bytes));
  }
  if (options.checkpoint_interval_ms != 0) {
    status.Update(CheckRange(
        {"checkpoint_interval_ms", options.checkpoint_interval_ms, 100, 24 * 3'600'000}));
  }
  if (options.gc_interval_ms != 0) {
    status.Update(CheckRange({"gc_interval_ms", options.gc_interval_ms, 1000, 24 * 3'600'000}));
  }
  if (status.ok()) status = Validate(options.gc);
  status.Update(CheckRange({"checkpoints_kept", options.checkpoints_kept, 1, 1000}));
  status.Update(CheckRange({"scan_ahead_bytes", options.scan_ahead_bytes, 0, 64 * kMiB}));
  if (status.ok() && options.scan_ahead_bytes % (4 * kKiB) != 0) {
    status = absl::InvalidArgumentError(fmt::format(
        "scan_ahead_bytes is {}: must be a multiple of 4096", options.scan_ahead_bytes));
  }
  // A record of the longest key alone, or value alone, must fit in a page.
  const std::uint64_t payload_bytes = page_bytes / 4096 * 4080;
  status.Update(CheckRange({"max_key_bytes", options.max_key_bytes, 0, payload_bytes - 24}));
  status.Update(CheckRange({"max_value_bytes", options.max_value_bytes, 0, payload_bytes - 24}));
  return status;
}

}  // namespace ebb
