#include "ebb/internal/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include "ebb/internal/backup.h"
#include "ebb/internal/block.h"
#include "ebb/internal/hash.h"
#include "ebb/internal/index_image.h"
#include "ebb/internal/log_scan.h"
#include "ebb/internal/log_verifier.h"
#include "ebb/internal/manifest.h"

namespace ebb::internal {
namespace {

std::uint64_t RandomWord() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

class SegmentHeaders final : public FileDevice::HeaderSource {
 public:
  explicit SegmentHeaders(const SegmentHeader& header) : header_(header) {}
  void WriteHeader(std::uint64_t first_block, std::span<std::byte> block) const override {
    SegmentHeader header = header_;
    header.first_block = first_block;
    EncodeSegmentHeader(header, block);
  }

 private:
  const SegmentHeader header_;
};

std::string DescribeShape(RecordShape shape) {
  const auto part = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? std::string("string") : fmt::format("{} bytes", bytes);
  };
  return fmt::format("keys: {}, values: {}", part(shape.key_bytes), part(shape.value_bytes));
}

// What the directory holds.
struct FoundSegments {
  std::vector<std::uint64_t> numbers;   // ascending
  std::optional<SegmentHeader> header;  // of the first good one; nothing: there is no store yet
  std::map<std::uint64_t, std::string> bad_headers;  // segments, and what is wrong with them
};

absl::StatusOr<SegmentHeader> ReadSegmentHeader(Directory& directory, std::uint64_t number) {
  const std::string name = FileDevice::SegmentName(number);
  OpenedFile opened = directory.Open(name, {});
  if (opened.file == nullptr) return FileError("open", name, 0, opened.error);
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return FileError("read", name, 0, ENOMEM);
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  std::memset(block.data(), 0, block.size());
  const FullTransfer read = ReadFully(*opened.file, 0, block);
  if (read.error != 0) return FileError("read", name, 0, read.error);
  return DecodeSegmentHeader(block, name);
}

absl::Status ForeignFile(std::uint64_t number) {
  return absl::DataLossError(
      fmt::format("{} at offset 0: the file belongs to another store or place",
                  FileDevice::SegmentName(number)));
}

absl::StatusOr<FoundSegments> FindSegments(Directory& directory) {
  std::vector<std::string> names;
  if (const int error = directory.List(names); error != 0) {
    return FileError("listing", "the store's directory", 0, error);
  }
  FoundSegments found;
  for (const std::string& name : names) {
    if (name == kUnfinishedBackupName) {
      return absl::FailedPreconditionError(
          fmt::format("the directory holds {}: a backup that was interrupted", name));
    }
    std::uint64_t number;
    if (FileDevice::ParseSegmentName(name, number)) found.numbers.push_back(number);
  }
  std::sort(found.numbers.begin(), found.numbers.end());
  if (found.numbers.empty()) {
    // The first file's name is durable before there is a checkpoint: no trace of a crash either.
    const auto checkpoint = std::find_if(names.begin(), names.end(), [](const std::string& name) {
      return CheckpointOfFile(name).has_value();
    });
    if (checkpoint == names.end()) return found;
    return absl::DataLossError(
        fmt::format("the log's files, log-*.ebb, are missing, but {} is there", *checkpoint));
  }
  // A header that does not verify ends the log, or is damaged, or belongs to a file that is not
  // needed any more: the scan tells, as for any bad block.
  absl::Status first_bad;
  for (const std::uint64_t number : found.numbers) {
    absl::StatusOr<SegmentHeader> header = ReadSegmentHeader(directory, number);
    if (header.ok()) {
      if (!found.header.has_value()) found.header = *header;
      if (header->store_id != found.header->store_id ||
          header->first_block != number * found.header->segment_blocks) {
        return ForeignFile(number);
      }
    } else if (absl::IsDataLoss(header.status())) {
      found.bad_headers[number] = std::string(header.status().message());
      first_bad.Update(header.status());
    } else {
      return header.status();
    }
  }
  if (!found.header.has_value()) return first_bad;
  return found;
}

// The first file of a new store, which then exists: it gets its name only when its header is
// durable, so that a file of that name without a header is never the trace of a crash.
absl::Status CreateFirstFile(Directory& directory, const SegmentHeader& header) {
  const std::string name = FileDevice::SegmentName(0);
  const std::string unfinished = name + ".new";
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return FileError("create", unfinished, 0, ENOMEM);
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  EncodeSegmentHeader(header, block);
  OpenedFile opened = directory.Open(unfinished, {.create = true});
  if (opened.file == nullptr) return FileError("create", unfinished, 0, opened.error);
  int error = opened.file->Truncate(0);
  if (error == 0) error = WriteFully(*opened.file, 0, block).error;
  if (error == 0) error = opened.file->Sync();
  if (error == 0) error = opened.file->Close();
  if (error == 0) error = directory.Rename(unfinished, name);
  if (error == 0) error = directory.Sync();
  return error == 0 ? absl::OkStatus() : FileError("create", name, 0, error);
}

std::string DescribeCodecs(std::uint32_t word) {
  const auto part = [](std::uint32_t version) {
    return version == 0 ? std::string("built in") : fmt::format("version {}", version);
  };
  return fmt::format("keys: {}, values: {}", part(word >> 16), part(word & 0xffff));
}

absl::Status CheckHeader(const SegmentHeader& header, StoredTypes types, const Options& options) {
  if (header.shape != types.shape) {
    return absl::FailedPreconditionError(
        fmt::format("the store was created with {}, and is opened with {}",
                    DescribeShape(header.shape), DescribeShape(types.shape)));
  }
  if (header.codec_version != types.codec_word) {
    return absl::FailedPreconditionError(
        fmt::format("the store was created with codecs of {}, and is opened with codecs of {}",
                    DescribeCodecs(header.codec_version), DescribeCodecs(types.codec_word)));
  }
  if (header.hash_version != kHashVersion) {
    return absl::UnimplementedError(
        fmt::format("the store uses version {} of the key hash; this library knows version {}",
                    header.hash_version, kHashVersion));
  }
  const std::uint64_t page_bytes = std::uint64_t{1} << header.page_shift;
  if (options.page_bytes != 0 && options.page_bytes != page_bytes) {
    return absl::FailedPreconditionError(fmt::format(
        "page_bytes is {}: the store was created with {}", options.page_bytes, page_bytes));
  }
  return absl::OkStatus();
}

// What a new store's segments say about it.
SegmentHeader NewHeader(const Options& options, const Environment& environment, StoredTypes types) {
  SegmentHeader header;
  header.store_id = RandomWord();
  header.shape = types.shape;
  header.codec_version = types.codec_word;
  header.hash_version = kHashVersion;
  header.page_shift = environment.page_shift != 0 ? environment.page_shift
                                                  : std::countr_zero(EffectivePageBytes(options));
  header.segment_blocks = environment.segment_blocks != 0 ? environment.segment_blocks
                                                          : options.segment_bytes / kBlockBytes;
  header.creation_exponent = static_cast<std::uint32_t>(
      environment.index_exponent >= 0 ? environment.index_exponent
                                      : std::countr_zero(options.index_bucket_count));
  return header;
}

absl::StatusOr<CoreConfig> MakeConfig(const SegmentHeader& header, const Options& options,
                                      const Environment& environment) {
  CoreConfig config;
  config.log.shape = header.shape;
  config.log.store_id = header.store_id;
  config.log.write_batch_bytes = options.write_batch_bytes;
  config.log.huge_pages = options.huge_pages;
  Geometry& geometry = config.log.geometry;
  geometry.page_shift = header.page_shift;
  geometry.segment_blocks = header.segment_blocks;
  geometry.frame_count = environment.frame_count != 0
                             ? environment.frame_count
                             : options.log_memory_bytes >> header.page_shift;
  if (environment.address_bits != 0) geometry.address_bits = environment.address_bits;
  if (geometry.frame_count < 8) {
    return absl::InvalidArgumentError(
        fmt::format("log_memory_bytes is {}: this store's pages of {} need at least {}",
                    options.log_memory_bytes, geometry.page_bytes(), 8 * geometry.page_bytes()));
  }
  const int creation_exponent = static_cast<int>(header.creation_exponent);
  const int asked = environment.index_exponent >= 0 ? environment.index_exponent
                                                    : std::countr_zero(options.index_bucket_count);
  config.creation_exponent = creation_exponent;
  config.index_exponent = std::max(asked, creation_exponent);
  if (config.index_exponent > creation_exponent + IndexEntry::kTagBits) {
    return absl::InvalidArgumentError(
        fmt::format("index_bucket_count is {}: a store created with {} buckets takes at most {}",
                    std::uint64_t{1} << asked, std::uint64_t{1} << creation_exponent,
                    std::uint64_t{1} << (creation_exponent + IndexEntry::kTagBits)));
  }
  config.index_auto_grow = options.index_auto_grow;
  config.pool_threads = environment.pool_threads >= 0
                            ? static_cast<unsigned>(environment.pool_threads)
                            : options.background_threads + 1;
  config.force_fallback = environment.force_fallback;
  config.has_files = !environment.in_memory;
  config.durability = options.durability;
  config.commit_interval_ms = options.commit_interval_ms;
  config.checkpoint_interval_ms = options.checkpoint_interval_ms;
  config.checkpoints_kept = options.checkpoints_kept;
  config.gc_interval_ms = options.gc_interval_ms;
  config.gc = options.gc;
  config.scan_ahead_bytes = options.scan_ahead_bytes;
  config.measure_latency = options.measure_latency;

  const std::uint64_t room = geometry.payload_bytes() - header.shape.key_offset();
  config.max_key_bytes = options.max_key_bytes != 0 ? options.max_key_bytes : room;
  config.max_value_bytes = options.max_value_bytes != 0 ? options.max_value_bytes : room;
  const auto least = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? 0 : bytes;
  };
  const std::uint64_t fixed =
      header.shape.ExtentFor(least(header.shape.key_bytes), least(header.shape.value_bytes));
  if (fixed > geometry.payload_bytes()) {
    return absl::InvalidArgumentError(fmt::format(
        "page_bytes is {}: a record of these types ({}) takes {}, a page holds {}",
        geometry.page_bytes(), DescribeShape(header.shape), fixed, geometry.payload_bytes()));
  }
  if (least(header.shape.key_bytes) > config.max_key_bytes) {
    return absl::InvalidArgumentError(fmt::format("max_key_bytes is {}: the key type has {}",
                                                  config.max_key_bytes, header.shape.key_bytes));
  }
  if (least(header.shape.value_bytes) > config.max_value_bytes) {
    return absl::InvalidArgumentError(fmt::format("max_value_bytes is {}: the value type has {}",
                                                  config.max_value_bytes,
                                                  header.shape.value_bytes));
  }
  return config;
}

absl::StatusOr<std::shared_ptr<Core>> MakeCore(const CoreConfig& config, StoreFiles files) {
  std::shared_ptr<Core> core;
  try {
    core = std::make_shared<Core>(config, std::move(files));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        fmt::format("cannot start {} background_threads: {}", config.pool_threads, error.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the store");
  }
  if (core->has_memory()) return core;
  return absl::ResourceExhaustedError(
      fmt::format("no memory for {} pages of {} (log_memory_bytes) and an index of {} buckets "
                  "(index_bucket_count)",
                  config.log.geometry.frame_count, config.log.geometry.page_bytes(),
                  std::uint64_t{1} << config.index_exponent));
}

// The checkpoints that the directory holds.
struct FoundCheckpoints {
  std::vector<Manifest> manifests;  // that verify, in order of id
  std::uint64_t last_id = 0;        // of any file
  Address durable;                  // as the manifests state
  std::vector<std::string> notes;
};

bool IsPlausible(const Manifest& manifest, const Geometry& geometry) {
  const auto by_block = [](const IncarnationSpan& a, const IncarnationSpan& b) {
    return a.first_block < b.first_block;
  };
  const std::vector<IncarnationSpan>& histories = manifest.incarnations;
  return manifest.scan_from >= geometry.BlockStart(1) && manifest.scan_from < manifest.durable &&
         manifest.scan_from == geometry.Normalize(manifest.scan_from) &&
         manifest.scan_from.value() % 8 == 0 && manifest.durable.value() <= Address::kMask &&
         manifest.durable == geometry.BlockStart(geometry.BlockOf(manifest.durable)) &&
         !histories.empty() && std::is_sorted(histories.begin(), histories.end(), by_block) &&
         histories.back().first_block <= geometry.BlockOf(manifest.scan_from);
}

absl::StatusOr<FoundCheckpoints> FindCheckpoints(Directory& directory, const Core& core) {
  std::vector<std::string> names;
  if (const int error = directory.List(names); error != 0) {
    return FileError("listing", "the store's directory", 0, error);
  }
  FoundCheckpoints found;
  for (const std::string& name : names) {
    const auto id = CheckpointOfFile(name);
    if (!id.has_value()) continue;
    found.last_id = std::max(found.last_id, *id);
    if (name != ManifestName(*id)) continue;
    absl::StatusOr<Manifest> manifest = ReadManifest(directory, core.config.log.store_id, *id);
    // Neither says anything about the file.
    if (absl::IsUnimplemented(manifest.status()) || absl::IsResourceExhausted(manifest.status())) {
      return manifest.status();
    }
    if (!manifest.ok()) {
      found.notes.emplace_back(manifest.status().message());
    } else if (!IsPlausible(*manifest, core.log.geometry())) {
      found.notes.push_back(name + " at offset 0: fields are out of range");
    } else {
      found.durable = std::max(found.durable, manifest->durable);
      found.manifests.push_back(*std::move(manifest));
    }
  }
  std::sort(found.manifests.begin(), found.manifests.end(),
            [](const Manifest& a, const Manifest& b) { return a.id < b.id; });
  return found;
}

// Loads the newest image that verifies and leads to the log from `begin` on, and forgets newer
// ones. Null when there is none.
absl::StatusOr<const Manifest*> LoadNewestImage(Core& core, Address begin,
                                                FoundCheckpoints& found) {
  for (std::size_t i = found.manifests.size(); i-- != 0;) {
    const Manifest& manifest = found.manifests[i];
    if (manifest.scan_from < begin) break;  // older ones too
    // As large as it was, if there is memory; else somewhat slower.
    const auto exponent = static_cast<int>(manifest.index_exponent);
    if (core.config.index_auto_grow && exponent > core.index.exponent()) {
      static_cast<void>(core.index.ResizeAlone(exponent));
    }
    absl::Status status = LoadIndexImage(core, *core.files.directory, manifest);
    if (status.ok()) return &manifest;
    if (absl::IsResourceExhausted(status)) return status;
    found.notes.emplace_back(status.message());
    found.manifests.pop_back();
    core.index.Clear();
  }
  return nullptr;
}

// Between `begin` and where the scan begins nothing is read at the opening, but whether the files
// are there is seen at once.
absl::Status CheckFilesBelow(const Device& device, const Geometry& geometry, BlockRange range) {
  const std::vector<BlockRange> held = device.HeldBlocks();
  std::uint64_t block = range.begin;
  while (block < range.end) {
    const std::uint64_t segment_end =
        (block / geometry.segment_blocks + 1) * geometry.segment_blocks;
    const std::uint64_t last = std::min(segment_end, range.end) - 1;
    const bool there = std::any_of(held.begin(), held.end(), [last](const BlockRange& piece) {
      return piece.begin <= last && last < piece.end;
    });
    if (!there) {
      return absl::DataLossError(fmt::format("{}: missing: a checkpoint states that it was durable",
                                             device.Describe(last)));
    }
    block = last + 1;
  }
  return absl::OkStatus();
}

struct NewHistory {
  std::uint64_t uncertain_block = 0;  // from here on nothing states that it is durable
  std::uint64_t cut_block = 0;
  std::uint64_t version = 1;
  std::uint64_t checkpoint_id = 0;         // the newest ever begun
  Address begin;                           // of the log
  std::vector<IncarnationSpan> histories;  // this one included
};

// Begins a new history at `cut_block`; it is durable when this returns, and so is the log below.
absl::Status WriteOpenRecord(Core& core, const NewHistory& start) {
  const auto& [uncertain_block, cut_block, version, checkpoint_id, begin, histories] = start;
  const HybridLog::Config& config = core.config.log;
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory to open the log");
  CommitRecord record;
  record.kind = RecordKind::kOpen;
  record.checkpoint_id = checkpoint_id;
  record.version = version;
  record.begin = begin;
  record.begin_incarnation = IncarnationAt(histories, config.geometry.BlockOf(begin));
  record.durable = config.geometry.BlockStart(cut_block);
  record.creation_exponent = static_cast<std::uint32_t>(core.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core.index.exponent());
  record.previous_incarnation =
      histories.size() > 1 ? histories[histories.size() - 2].incarnation : 0;
  record.cut_block = cut_block;
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  EncodeCommitRecord(record, config.store_id, cut_block, block.first(kBlockPayloadBytes));
  SealBlock(block, config.store_id, cut_block, histories.back().incarnation);
  // In memory too, so that what is there can be stepped through.
  const Address start_address = config.geometry.BlockStart(cut_block);
  std::memcpy(core.log.FrameForRecovery(config.geometry.PageOf(start_address)).data() +
                  config.geometry.OffsetOf(start_address),
              block.data(), kBlockPayloadBytes);

  Device& device = *core.files.device;
  // What was read may so far have been in the page cache only; from here on it counts as durable.
  // It is not enough to sync it: a sync that failed before has left it clean.
  absl::Status status = device.WriteAgain(uncertain_block, cut_block);
  status.Update(status.ok() ? device.Sync() : absl::OkStatus());
  // Also files without a block: one may lack its header. The first file keeps its own.
  if (status.ok() && cut_block != 0) status = device.Truncate(cut_block);
  status.Update(status.ok() ? device.Write(cut_block, block) : absl::OkStatus());
  status.Update(status.ok() ? device.Sync() : absl::OkStatus());
  return status;
}

// Puts the log behind the open record at `cut_block`, with the newest pages in memory.
void StartLog(Core& core, NewHistory start, Address scanned_from) {
  const Geometry& geometry = core.log.geometry();
  HybridLog::Position position;
  position.begin = start.begin;
  position.tail = geometry.BlockStart(start.cut_block + 1);
  position.incarnations = std::move(start.histories);
  const std::uint64_t tail_page = geometry.PageOf(position.tail);
  // One frame is free for the next page, and pages behind the tail may have been read into others.
  const std::uint64_t end_page = tail_page + 2 + PageReader::kMostAhead;
  const std::uint64_t head_page =
      end_page > geometry.frame_count ? end_page - geometry.frame_count : 0;
  position.head = std::max({position.begin, geometry.PageStart(head_page), scanned_from});
  if (geometry.frame_slots() > geometry.frame_count) {
    for (std::uint64_t page = tail_page + 1; page < head_page + geometry.frame_slots(); ++page) {
      core.log.ReleaseFrame(page);
    }
  }
  core.log.Restore(std::move(position));
  core.log.TakeSpaceAhead(0);
}

// Scans the log from where it begins, with the newest image that leads there if `images` is set.
absl::Status ScanLog(Core& core, const FoundSegments& found, bool images,
                     const std::function<void(const RecoveryProgress&)>& progress,
                     FoundCheckpoints& checkpoints, std::optional<LogScan>& scan) {
  const Device& device = *core.files.device;
  const Geometry& geometry = core.log.geometry();
  // Each turn after the first begins below the end of the one before.
  for (std::uint64_t end_block = device.EndBlock();;) {
    auto last = LogScan::FindLastCommit(core, end_block);
    if (!last.ok()) return last.status();
    LogScan::Start start;
    start.durable = checkpoints.durable;
    start.progress = progress;
    if (last->has_value() && (*last)->begin > geometry.BlockStart(1)) {
      start.begin = (*last)->begin;
      start.begin_incarnation = (*last)->begin_incarnation;
      if (start.begin >= geometry.BlockStart(end_block)) {
        return absl::DataLossError(device.Describe(end_block - 1) +
                                   ": a commit record states that the log begins behind it");
      }
    }
    const std::uint64_t begin_segment = geometry.BlockOf(start.begin) / geometry.segment_blocks;
    const auto bad = found.bad_headers.lower_bound(begin_segment);
    if (bad != found.bad_headers.end()) {
      start.bad_header_block = bad->first * geometry.segment_blocks;
      start.bad_header = bad->second;
    }
    if (images) {
      absl::StatusOr<const Manifest*> manifest = LoadNewestImage(core, start.begin, checkpoints);
      if (!manifest.ok()) return manifest.status();
      start.manifest = *manifest;
    }
    scan.emplace(core, start);
    if (absl::Status status = scan->Run(); !status.ok()) return status;
    const bool below = start.manifest == nullptr && scan->begin() < start.begin;
    if (!below) break;
    if (scan->bad_block() >= end_block) {
      return absl::DataLossError(device.Describe(geometry.BlockOf(start.begin)) +
                                 ": the log does not begin where its commit records say");
    }
    end_block = scan->bad_block();
    core.index.Clear();
  }
  // A store's first block is durable before anything is written behind it.
  const bool first_is_missing = !found.numbers.empty() && found.numbers.front() != 0;
  if (scan->cut_block() == 0 && (device.EndBlock() > 1 || first_is_missing)) {
    return absl::DataLossError(
        fmt::format("{}: block 0 is not the beginning of this store's log", device.Describe(0)));
  }
  return absl::OkStatus();
}

// Reads what the files hold into the index and the frames; changes no file.
absl::Status Recover(Core& core, const FoundSegments& found, const Options& options,
                     FoundCheckpoints& checkpoints, NewHistory& next, RecoveryReport& report) {
  const Geometry& geometry = core.log.geometry();
  std::optional<LogScan> scan;
  absl::Status status =
      ScanLog(core, found, /*images=*/true, options.recovery_progress, checkpoints, scan);
  if (!status.ok()) return status;
  next.begin = std::max(scan->begin(), geometry.BlockStart(1));
  const Manifest* const manifest = scan->manifest();
  if (manifest != nullptr) {
    status =
        CheckFilesBelow(*core.files.device, geometry,
                        {geometry.FrontBlock(next.begin), geometry.BlockOf(manifest->scan_from)});
    if (!status.ok()) return status;
  }
  next.uncertain_block = std::max(scan->uncertain_block(), geometry.FrontBlock(next.begin));
  next.cut_block = scan->cut_block();
  next.version = scan->next_version();
  next.checkpoint_id = std::max(scan->checkpoint_id(), checkpoints.last_id);
  next.histories = scan->incarnations();
  report.created = !found.header.has_value();
  report.checkpoint_id = manifest != nullptr ? manifest->id : 0;
  report.replayed_records = scan->replayed_records();
  report.verified_bytes = scan->verified_bytes();
  report.sessions = scan->sessions();
  report.notes = std::move(checkpoints.notes);
  // A crash came before they were removed.
  std::erase_if(checkpoints.manifests,
                [&](const Manifest& old) { return old.scan_from < next.begin; });
  core.sessions.Restore(report.sessions);
  return absl::OkStatus();
}

absl::StatusOr<OpenedStore> Start(std::shared_ptr<Core> core, const FoundSegments* found,
                                  const Options& options) {
  OpenedStore opened;
  NewHistory next;
  next.begin = core->log.geometry().BlockStart(1);
  FoundCheckpoints checkpoints;
  if (found != nullptr) {
    auto found_checkpoints = FindCheckpoints(*core->files.directory, *core);
    if (!found_checkpoints.ok()) return found_checkpoints.status();
    checkpoints = *std::move(found_checkpoints);
    absl::Status status = Recover(*core, *found, options, checkpoints, next, opened.report);
    if (!status.ok()) return status;
  }
  // A history of which nothing was committed leaves no trace.
  while (!next.histories.empty() && next.histories.back().first_block >= next.cut_block) {
    next.histories.pop_back();
  }
  next.histories.push_back({next.cut_block, RandomWord() | 1});
  if (absl::Status status = WriteOpenRecord(*core, next); !status.ok()) return status;
  core->direct_io = core->files.device->direct();
  Coordinator::Start start;
  start.version = next.version;
  start.checkpoint_id = next.checkpoint_id;
  for (const Manifest& manifest : checkpoints.manifests) {
    start.checkpoints.push_back(DescribeCheckpoint(manifest));
  }
  const std::uint64_t front_block = core->log.geometry().FrontBlock(next.begin);
  StartLog(*core, std::move(next),
           opened.report.checkpoint_id != 0 ? checkpoints.manifests.back().scan_from : Address());
  start.durable = core->log.tail();
  // What an interrupted truncation has left. It does no harm, so a failure does none either.
  static_cast<void>(core->files.device->TruncateFront(front_block));

  core->epochs.BumpVersion(static_cast<unsigned>(start.version & 3));
  core->drained_version.store(start.version, std::memory_order_release);        // [drained]
  core->version_floor.store(start.durable.value(), std::memory_order_release);  // [drained]
  opened.coordinator = std::make_unique<Coordinator>(*core, std::move(start));
  opened.core = std::move(core);
  return opened;
}

absl::StatusOr<OpenedStore> OpenInMemory(const Options& options, StoredTypes types,
                                         const Environment& environment) {
  absl::StatusOr<CoreConfig> config =
      MakeConfig(NewHeader(options, environment, types), options, environment);
  if (!config.ok()) return config.status();
  if (options.durability == Durability::kAlways) {
    return absl::InvalidArgumentError(
        "durability is kAlways: a store in memory has nothing that could be durable");
  }
  StoreFiles files;
  files.device = std::make_unique<MemoryDevice>();
  absl::StatusOr<std::shared_ptr<Core>> core = MakeCore(*config, std::move(files));
  if (!core.ok()) return core.status();
  return Start(*std::move(core), nullptr, options);
}

absl::StatusOr<OpenedStore> OpenWithMemory(const std::string& path, const Options& options,
                                           StoredTypes types, const Environment& environment) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  if (environment.in_memory) return OpenInMemory(options, types, environment);
  // What does not fit these types or limits is refused before anything is created.
  const SegmentHeader fresh = NewHeader(options, environment, types);
  if (absl::StatusOr<CoreConfig> config = MakeConfig(fresh, options, environment); !config.ok()) {
    return config.status();
  }

  FileSystem& file_system =
      environment.file_system != nullptr ? *environment.file_system : PosixFileSystem();
  absl::StatusOr<std::unique_ptr<Directory>> directory = OpenLocked(file_system, path);
  if (!directory.ok()) return directory.status();
  absl::StatusOr<FoundSegments> found = FindSegments(**directory);
  if (!found.ok()) return found.status();
  if (found->header.has_value()) {
    absl::Status status = CheckHeader(*found->header, types, options);
    if (!status.ok()) return status;
  } else {
    absl::Status status = CreateFirstFile(**directory, fresh);
    if (!status.ok()) return status;
  }
  const SegmentHeader header = found->header.value_or(fresh);
  absl::StatusOr<CoreConfig> config = MakeConfig(header, options, environment);
  if (!config.ok()) return config.status();

  StoreFiles files;
  files.file_system = &file_system;
  files.directory = *std::move(directory);
  files.headers = std::make_unique<SegmentHeaders>(header);
  absl::StatusOr<std::unique_ptr<FileDevice>> device =
      FileDevice::Open(*files.directory, *files.headers,
                       {.segment_blocks = header.segment_blocks,
                        .direct_io = options.direct_io,
                        .reserve_blocks = options.preallocate_bytes / kBlockBytes});
  if (!device.ok()) return device.status();
  files.device = *std::move(device);
  absl::StatusOr<std::shared_ptr<Core>> core = MakeCore(*config, std::move(files));
  if (!core.ok()) return core.status();
  return Start(*std::move(core), &*found, options);
}

// ---- verification ----

// Every block that fails its checksum although something states that it was durable, from where the
// log begins. `durable` is what checkpoints state.
absl::Status SweepLog(Core& core, Address durable, const VerifyOptions& options,
                      VerifyReport& report) {
  const AlignedBuffer buffer = AllocateAligned(kReadBlocks * kBlockBytes);
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory to read the log");
  Device& device = *core.files.device;
  const std::uint64_t store_id = core.config.log.store_id;
  std::vector<std::uint64_t> bad;  // blocks, while they may be below what is durable
  Address begin;
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
        durable = std::max(durable, commit->durable);
        begin = std::max(begin, commit->begin);
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
    if (geometry.BlockStart(block) >= durable || block < geometry.FrontBlock(begin)) continue;
    AddProblem(options,
               fmt::format("{}: block {} fails its checksum", device.Describe(block), block),
               report);
  }
  return absl::OkStatus();
}

// The log is read as if there were no checkpoints; then they are compared with it.
absl::Status VerifyCore(Core& core, const FoundSegments& found, const VerifyOptions& options,
                        VerifyReport& report) {
  auto checkpoints = FindCheckpoints(*core.files.directory, core);
  if (!checkpoints.ok()) return checkpoints.status();
  for (const std::string& note : checkpoints->notes) AddProblem(options, note, report);
  std::optional<LogScan> scan;
  const auto progress = [&](const RecoveryProgress& step) {
    if (options.progress) options.progress({step.scanned_bytes, step.total_bytes});
  };
  const absl::Status status = ScanLog(core, found, /*images=*/false, progress, *checkpoints, scan);
  report.checkpoint_count = checkpoints->manifests.size();
  if (scan.has_value()) report.record_count = scan->replayed_records();
  if (!status.ok()) {
    if (!absl::IsDataLoss(status)) return status;
    const std::uint64_t before = report.problem_count;
    absl::Status swept = SweepLog(core, checkpoints->durable, options, report);
    if (!swept.ok()) return swept;
    // Not a block but what it holds.
    if (report.problem_count == before) AddProblem(options, std::string(status.message()), report);
    return absl::OkStatus();
  }
  report.block_count = scan->verified_bytes() / kBlockBytes;
  for (std::uint64_t bucket = 0; bucket < core.index.bucket_count(); ++bucket) {
    core.index.ForEachEntry(bucket, [&](IndexEntry) { ++report.entry_count; });
  }
  for (const Manifest& manifest : checkpoints->manifests) {
    absl::Status image = VerifyCheckpoint(core, *core.files.directory, manifest.id, core.index);
    if (!image.ok()) AddProblem(options, std::string(image.message()), report);
  }
  return absl::OkStatus();
}

absl::StatusOr<VerifyReport> VerifyWithMemory(FileSystem& file_system, const std::string& path,
                                              const VerifyOptions& options) {
  auto directory = OpenLocked(file_system, path, /*create=*/false);
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
  files.headers = std::make_unique<SegmentHeaders>(header);
  auto device =
      FileDevice::Open(*files.directory, *files.headers, {.segment_blocks = header.segment_blocks});
  if (!device.ok()) return device.status();
  files.device = *std::move(device);
  Options least;
  least.log_memory_bytes = std::max(least.log_memory_bytes, std::uint64_t{16} << header.page_shift);
  // A bucket for half a block of log, so for 2 to 80 records.
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
  try {
    return VerifyWithMemory(file_system, path, options);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to verify the store");
  }
}

absl::StatusOr<std::unique_ptr<Directory>> OpenLocked(FileSystem& file_system,
                                                      const std::string& path, bool create) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("path is empty or holds a zero byte");
  }
  OpenedDirectory opened = file_system.OpenDirectory(path, create);
  if (opened.error == ENOTDIR || opened.error == ENOENT || opened.error == ELOOP ||
      opened.error == ENAMETOOLONG) {
    return absl::InvalidArgumentError(
        fmt::format("path {}: {}", path, std::generic_category().message(opened.error)));
  }
  if (opened.directory == nullptr) return FileError("open", path, 0, opened.error);
  const int error = opened.directory->Lock(kLockName);
  if (error == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        fmt::format("{} is open already, here or in another process", path));
  }
  if (error != 0) return FileError("lock", path + "/" + kLockName, 0, error);
  return std::move(opened.directory);
}

absl::StatusOr<OpenedStore> OpenStore(const std::string& path, const Options& options,
                                      StoredTypes types, const Environment& environment) {
  try {
    return OpenWithMemory(path, options, types, environment);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to open the store");
  }
}

}  // namespace ebb::internal
