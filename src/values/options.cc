#include "ebb/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <limits>
#include <string>

namespace ebb {
namespace {

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kTiB = 1024 * 1024 * kMiB;
// Three of these may hold pages that leave memory (hybrid_log.cc); the rest is mutable.
constexpr std::uint64_t kMinFrames = 8;
constexpr std::uint64_t kMinPageBytes = 64 * kKiB;
constexpr std::uint64_t kMaxPageBytes = 64 * kMiB;
constexpr std::uint64_t kMinBuckets = 1024;
constexpr std::uint64_t kMaxBuckets = std::uint64_t{1} << 31;
constexpr std::uint64_t kBucketBytes = 64;

struct OptionRange {
  const char* field;
  std::uint64_t value;
  std::uint64_t least;
  std::uint64_t most;
};

// The message has the option, its value and the range, because it often reaches an operator who has
// only a configuration file.
absl::Status CheckRange(const OptionRange& range) {
  if (range.value >= range.least && range.value <= range.most) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is {}: must be from {} to {}", range.field,
                                                range.value, range.least, range.most));
}

absl::Status CheckPowerOfTwo(const OptionRange& range) {
  if (absl::Status status = CheckRange(range); !status.ok()) return status;
  if (std::has_single_bit(range.value)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}: must be a power of two", range.field, range.value));
}

}  // namespace

namespace {

// Returns the number in a file, or the largest number if there is none: no file, or "max".
std::uint64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? number : std::numeric_limits<std::uint64_t>::max();
}

// Returns the lowest number in the files of this name in `base` and in the groups of `path` below
// it. A process sees the path of its group from the host's root. But a container may show only its
// own group, as the root: then the directories of the path are missing, and the root has the limit.
std::uint64_t LowestLimit(const std::string& base, const std::string& path, const char* name) {
  std::uint64_t limit = NumberIn(base + "/" + name);
  if (path.find("..") != std::string::npos) return limit;  // outside of what is visible here
  for (std::size_t end = 0; end < path.size();) {
    end = std::min(path.find('/', end + 1), path.size());
    limit = std::min(limit, NumberIn(base + path.substr(0, end) + "/" + name));
  }
  return limit;
}

// Returns the lowest memory limit of the control groups of the process. Lines of the file are
// "0::PATH" for version 2, and "NUMBER:CONTROLLERS:PATH" for version 1. Both can be in use at the
// same time.
std::uint64_t ControlGroupLimit(const std::string& root) {
  const std::string groups = root + "/sys/fs/cgroup";
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      for (const char* mount : {"", "/unified"}) {
        limit = std::min(limit, LowestLimit(groups + mount, path, "memory.max"));
      }
    } else if (controllers.find(",memory,") != std::string::npos) {
      limit = std::min(limit, LowestLimit(groups + "/memory", path, "memory.limit_in_bytes"));
    }
  }
  return limit;
}

}  // namespace

std::uint64_t internal::PhysicalMemoryBytes(const std::string& root) {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long bytes = sysconf(_SC_PAGESIZE);
  // If the size is unknown, no option is rejected here, and mapping the memory decides.
  std::uint64_t memory = std::uint64_t{1} << 46;
  if (pages > 0 && bytes > 0) {
    memory = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(bytes);
  }
  if (!root.empty()) return std::min(memory, ControlGroupLimit(root));
  // Read once, because it takes about ten files and every opening needs it.
  static const std::uint64_t limit = ControlGroupLimit(root);
  return std::min(memory, limit);
}

Options Options::WithMemory(std::uint64_t bytes) {
  Options options;
  // An entry needs 13 to 16 bytes of index, so a quarter suffices for records of about 50 bytes.
  // With smaller records, the index grows beyond it.
  options.index_bucket_count =
      std::clamp(std::bit_floor(bytes / 4 / kBucketBytes), kMinBuckets, kMaxBuckets);
  const std::uint64_t index_bytes = options.index_bucket_count * kBucketBytes;
  // If that is too little, the error names a number that the caller knows, instead of one that
  // wrapped around.
  options.log_memory_bytes =
      bytes >= kMiB + index_bytes ? bytes - index_bytes : std::min(bytes, kMiB - 1);
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
  options.index_bucket_count = kMinBuckets;
  options.background_threads = 2;
  options.checkpoint_interval_ms = 2000;
  options.preallocate_bytes = kMiB;
  options.write_batch_bytes = 256 * kKiB;
  return options;
}

std::uint64_t EffectivePageBytes(const Options& options) {
  if (options.page_bytes != 0) return options.page_bytes;
  return std::clamp(std::bit_floor(options.log_memory_bytes / 16), kMinPageBytes, kMaxPageBytes);
}

absl::Status Validate(const GcOptions& options) {
  // Written so that it is false for a value that is not a number, too.
  if (!(options.target_utilization >= 0 && options.target_utilization <= 1)) {
    return absl::InvalidArgumentError(
        fmt::format("target_utilization is {}: must be from 0 to 1", options.target_utilization));
  }
  return CheckRange({"pass_bytes", options.pass_bytes, 4 * kKiB, kTiB});
}

namespace {

absl::Status CheckMemory(const Options& options) {
  absl::Status status = CheckRange(
      {"log_memory_bytes", options.log_memory_bytes, kMiB, internal::PhysicalMemoryBytes()});
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      fmt::format("{}{}", std::string(status.message()),
                  options.log_memory_bytes < kMiB
                      ? "; Options::WithMemory needs at least 2 MiB for log and index"
                      : ", which is this machine's memory or the limit of its control group"));
}

absl::Status CheckIndex(const Options& options) {
  absl::Status status =
      CheckPowerOfTwo({"index_bucket_count", options.index_bucket_count, kMinBuckets, kMaxBuckets});
  if (!status.ok() || options.max_index_bytes == 0) return status;
  status = CheckRange({"max_index_bytes", options.max_index_bytes, kMinBuckets * kBucketBytes,
                       std::uint64_t{1} << 63});
  const std::uint64_t fit = options.max_index_bytes / kBucketBytes;
  if (!status.ok() || options.index_bucket_count <= fit) return status;
  return absl::InvalidArgumentError(fmt::format(
      "index_bucket_count is {}: max_index_bytes {} has room for {}; change one of them",
      options.index_bucket_count, options.max_index_bytes, fit));
}

}  // namespace

// The order is that of dependence: sizes before the sizes that contain them. Update keeps the first
// error, so the message names the cause and not a consequence of it.
absl::Status Validate(const Options& options) {
  const std::uint64_t page_bytes = EffectivePageBytes(options);
  absl::Status status = CheckMemory(options);
  status.Update(CheckPowerOfTwo({"page_bytes", page_bytes, kMinPageBytes, kMaxPageBytes}));
  if (status.ok() && options.log_memory_bytes / page_bytes < kMinFrames) {
    status = absl::InvalidArgumentError(
        fmt::format("log_memory_bytes is {}: must be at least {} for {} pages of page_bytes {}",
                    options.log_memory_bytes, kMinFrames * page_bytes, kMinFrames, page_bytes));
  }
  status.Update(CheckPowerOfTwo({"segment_bytes", options.segment_bytes, kMiB, kTiB}));
  if (status.ok() && options.segment_bytes < page_bytes) {
    status = absl::InvalidArgumentError(fmt::format(
        "segment_bytes is {}: must be at least page_bytes, {}", options.segment_bytes, page_bytes));
  }
  status.Update(CheckIndex(options));
  status.Update(CheckRange({"background_threads", options.background_threads, 1, 32}));
  status.Update(CheckRange({"write_batch_bytes", options.write_batch_bytes, 4 * kKiB, 64 * kMiB}));
  if (status.ok() && options.write_batch_bytes % (4 * kKiB) != 0) {
    status = absl::InvalidArgumentError(fmt::format(
        "write_batch_bytes is {}: must be a multiple of 4096", options.write_batch_bytes));
  }
  // An enum read from a configuration file can have any value.
  if (status.ok() && options.durability > Durability::kAlways) {
    status = absl::InvalidArgumentError(fmt::format(
        "durability is {}: must be a value of Durability", static_cast<int>(options.durability)));
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
  // A record of the longest key alone, or value alone, must fit in a page. The 24 bytes are the
  // longest header (record.h).
  const std::uint64_t payload_bytes = page_bytes / 4096 * 4080;
  status.Update(CheckRange({"max_key_bytes", options.max_key_bytes, 0, payload_bytes - 24}));
  status.Update(CheckRange({"max_value_bytes", options.max_value_bytes, 0, payload_bytes - 24}));
  return status;
}

}  // namespace ebb
