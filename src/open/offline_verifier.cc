#include "ebb/internal/open/offline_verifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/checkpoint/store_files.h"
#include "ebb/internal/core/store_config.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/lifetime.h"
#include "ebb/internal/jobs/log_verifier.h"
#include "ebb/internal/open/log_replay.h"
#include "ebb/internal/open/recovery.h"

namespace ebb::internal {
namespace {

// Reports every block that fails its checksum, is not dead in a log that begins at `begin`, and is
// stated to be durable. `durable` is the end that checkpoints and the durable end state.
absl::Status SweepLog(Core& core, Address begin, Address durable, const VerifyOptions& options,
                      VerifyReport& report) {
  const AlignedBuffer buffer = AllocateAligned(kReadBlocks * kBlockBytes);
  if (buffer == nullptr) return NoMemoryTo("read the log");
  Device& device = *core.files.device;
  const std::uint64_t store_id = core.config.log.store_id;
  std::vector<std::uint64_t> bad;  // blocks; some may not have been durable
  for (const BlockRange& held : device.HeldBlocks()) {
    for (std::uint64_t block = held.begin; block < held.end;) {
      const std::uint64_t wanted = std::min(kReadBlocks, held.end - block);
      const auto count = ReadBlocks(device, block, {buffer.get(), wanted * kBlockBytes});
      if (!count.ok()) return count.status();
      for (std::uint64_t i = 0; i < *count; ++i) {
        const std::span<const std::byte> bytes(buffer.get() + i * kBlockBytes, kBlockBytes);
        if (!VerifyBlock(bytes, store_id, block + i).has_value()) {
          bad.push_back(block + i);
          continue;
        }
        const auto commit =
            DecodeCommitRecord(bytes.first(kBlockPayloadBytes), store_id, block + i);
        if (!commit.has_value()) continue;
        // A later commit record may state more than those files.
        durable = std::max(durable, commit->durable);
      }
      report.block_count += *count;
      block += std::max<std::uint64_t>(*count, 1);
      if (options.progress) {
        options.progress({report.block_count * kBlockBytes, device.EndBlock() * kBlockBytes});
      }
    }
  }
  const Geometry& geometry = core.log.geometry();
  for (const std::uint64_t block : bad) {
    // A bad block beyond the durable part is the trace of a crash, not damage.
    if (geometry.BlockStart(block) >= durable || block < geometry.FrontBlock(begin)) continue;
    AddProblem(options,
               fmt::format("{}: block {} fails its checksum", device.Describe(block), block),
               report);
  }
  return absl::OkStatus();
}

// Reads the log as if there were no checkpoints, and then compares them with it.
absl::Status VerifyCore(Core& core, const FoundSegments& found, const VerifyOptions& options,
                        VerifyReport& report) {
  auto checkpoints =
      FindCheckpoints(*core.files.directory, core.config.log.store_id, core.log.geometry());
  if (!checkpoints.ok()) return checkpoints.status();
  for (const std::string& note : checkpoints->notes) AddProblem(options, note, report);
  std::optional<LogReplay> scan;
  const auto progress = [&](const RecoveryProgress& step) {
    if (options.progress) options.progress({step.scanned_bytes, step.total_bytes});
  };
  const absl::Status status =
      ScanLog(core, found, ScanMode::kLogAlone, progress, *checkpoints, scan);
  if (scan.has_value()) report.record_count = scan->replayed_records();
  // The scan stops at the first bad block; the sweep below finds all of them.
  if (!status.ok()) {
    if (!absl::IsDataLoss(status)) return status;
    const std::uint64_t before = report.problem_count;
    // The begin from which the scan started; without a scan no begin is known.
    const Address begin = scan.has_value() ? scan->start().begin : Address();
    absl::Status swept = SweepLog(core, begin, checkpoints->durable, options, report);
    if (!swept.ok()) return swept;
    // No block fails: the damage is in the contents of a block.
    if (report.problem_count == before) AddProblem(options, std::string(status.message()), report);
    return absl::OkStatus();
  }
  report.block_count = scan->verified_bytes() / kBlockBytes;
  for (std::uint64_t bucket = 0; bucket < core.index.bucket_count(); ++bucket) {
    core.index.ForEachEntry(bucket, [&](IndexEntry) { ++report.entry_count; });
  }
  const Address begin = BeginOfFiles(core.log.geometry(), scan->begin());
  for (const Manifest& manifest : checkpoints->manifests) {
    if (IsDead(manifest.scan_from, begin)) continue;
    ++report.checkpoint_count;
    absl::Status image = VerifyCheckpoint(core, *core.files.directory, manifest.id,
                                          {.log = core.index, .index = core.index, .begin = begin});
    if (absl::IsResourceExhausted(image)) return image;  // this is no damage
    if (!image.ok()) AddProblem(options, std::string(image.message()), report);
  }
  return absl::OkStatus();
}

absl::StatusOr<VerifyReport> VerifyWithMemory(FileSystem& file_system, const std::string& path,
                                              const VerifyOptions& options) {
  // A reader's lock: no process may write the store in the meantime.
  auto directory = OpenLocked(file_system, path, LockKind::kReader);
  if (!directory.ok()) return directory.status();
  VerifyReport report;
  absl::StatusOr<FoundSegments> found = FindSegments(**directory);
  if (absl::IsDataLoss(found.status())) {
    AddProblem(options, std::string(found.status().message()), report);
    return report;
  }
  if (!found.ok()) return found.status();
  if (!found->header.has_value()) {
    return absl::InvalidArgumentError(fmt::format("path {}: there is no store in it", path));
  }
  const SegmentHeader& header = *found->header;
  StoreFiles files;
  files.directory = *std::move(directory);
  files.write_header = HeadersLike(header);
  auto device = FileDevice::Open(*files.directory, files.write_header,
                                 {.segment_blocks = header.segment_blocks, .read_only = true});
  if (!device.ok()) return device.status();
  files.device = *std::move(device);
  // The smallest configuration that can read this store.
  Options least;
  least.read_only = true;
  least.log_memory_bytes = std::max(least.log_memory_bytes, std::uint64_t{16} << header.page_shift);
  // One bucket per half block of log, so for 2 to 80 records.
  const int wanted = static_cast<int>(std::bit_width(files.device->EndBlock())) + 1;
  const int creation = static_cast<int>(header.creation_exponent);
  Environment environment;
  environment.index_exponent =
      std::clamp(wanted, creation, std::min(31, creation + IndexEntry::kTagBits));
  absl::StatusOr<CoreConfig> config = MakeConfig(header, least, environment);
  if (!config.ok()) return config.status();
  absl::StatusOr<std::shared_ptr<Core>> core = MakeCore(*config, std::move(files));
  if (!core.ok()) return core.status();
  if (absl::Status status = VerifyCore(**core, *found, options, report); !status.ok()) {
    return status;
  }
  return report;
}

}  // namespace

absl::StatusOr<VerifyReport> VerifyFiles(FileSystem& file_system, const std::string& path,
                                         const VerifyOptions& options) {
  return CatchNoMemory([&] { return VerifyWithMemory(file_system, path, options); });
}

}  // namespace ebb::internal

namespace ebb {

absl::StatusOr<VerifyReport> VerifyDirectory(const std::string& path,
                                             const VerifyOptions& options) {
  return internal::VerifyFiles(internal::PosixFileSystem(), path, options);
}

}  // namespace ebb
