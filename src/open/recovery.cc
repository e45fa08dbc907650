#include "ebb/internal/open/recovery.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/checkpoint/store_files.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/device/memory_device.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/lifetime.h"
#include "ebb/internal/open/log_replay.h"
#include "ebb/internal/ops/session_state.h"

namespace ebb::internal {
namespace {

template <typename T, typename Result>
absl::Status MoveInto(T& place, absl::StatusOr<Result> result) {
  if (!result.ok()) return result.status();
  place = *std::move(result);
  return absl::OkStatus();
}

// Walk of a reopening, 2. Loads the newest image that verifies and leads to the log from `begin`
// on, and drops newer ones from the list. Returns null if there is none.
absl::StatusOr<const Manifest*> LoadNewestImage(Core& core, Address begin,
                                                FoundCheckpoints& found) {
  for (std::size_t i = found.manifests.size(); i-- != 0;) {
    const Manifest& manifest = found.manifests[i];
    if (IsDead(manifest.scan_from, begin)) break;  // older ones are dead too
    // The size follows from the number of entries, at most four per bucket, and is at most the size
    // that the index had. If there is no memory for that, loading grows the index as far as
    // possible. So a manifest cannot demand more memory than its image has bytes for.
    const auto exponent = static_cast<int>(std::min<std::uint64_t>(
        {manifest.index_exponent,
         static_cast<std::uint64_t>(std::bit_width(manifest.image_entries / 4)),
         static_cast<std::uint64_t>(
             std::bit_width(core.config.max_index_bytes / sizeof(IndexBucket)) - 1)}));
    if (core.config.index_auto_grow && exponent > core.index.exponent()) {
      static_cast<void>(core.index.ResizeExclusive(exponent));
    }
    absl::Status status = LoadIndexImage(core, *core.files.directory, manifest);
    if (status.ok()) return &manifest;
    // Not damage: an older image, or the log alone, would need as much memory.
    if (absl::IsResourceExhausted(status)) return status;
    // The image is damaged, but the log alone is complete: try the next older one, and report it.
    found.notes.emplace_back(status.message());
    found.manifests.pop_back();
    core.index.Clear();
  }
  return nullptr;
}

// Between `begin` and the start of the scan an opening reads nothing. But it checks that the files
// exist.
absl::Status CheckFilesBelow(const Device& device, const Geometry& geometry, BlockRange range) {
  const std::vector<BlockRange> held = device.HeldBlocks();
  auto piece = held.begin();
  std::uint64_t block = range.begin;
  // Checks the last block of each segment's part: a file that ends earlier lost blocks that were
  // durable.
  while (block < range.end) {
    const std::uint64_t segment_end =
        (block / geometry.segment_blocks + 1) * geometry.segment_blocks;
    const std::uint64_t last = std::min(segment_end, range.end) - 1;
    while (piece != held.end() && piece->end <= last) ++piece;
    if (piece == held.end() || last < piece->begin) {
      return absl::DataLossError(fmt::format("{}: missing: a checkpoint states that it was durable",
                                             device.Describe(last)));
    }
    block = last + 1;
  }
  return absl::OkStatus();
}

// The state from which a new incarnation begins.
struct NewIncarnation {
  std::uint64_t uncertain_block = 0;  // from here on no record states that blocks are durable
  std::uint64_t cut_block = 0;
  std::uint64_t version = 1;
  std::uint64_t checkpoint_id = 0;            // the newest ever begun
  Address begin;                              // of the log
  std::vector<IncarnationSpan> incarnations;  // including this one
  bool salvaged = false;                      // the part that is cut off was durable
};

// Withdraws the statements that more than the log below `end_block` was durable, before the rest is
// cut off. See Salvage in the header for the order.
absl::Status ForgetBehind(Core& core, std::uint64_t end_block) {
  Directory& directory = *core.files.directory;
  absl::Status status = WriteDurableEnd(directory, core.config.log.store_id, end_block);
  std::vector<std::string> names;
  // The durable end first: after a crash in between, the manifests still state the damage.
  int error = status.ok() ? directory.Sync() : 0;
  if (status.ok() && error == 0) error = directory.List(names);
  for (const std::string& name : names) {
    const std::optional<std::uint64_t> id = CheckpointOfFile(name);
    if (error != 0 || !id.has_value() || name != ManifestName(*id)) continue;
    error = directory.Unlink(name);
  }
  if (status.ok() && error == 0) error = directory.Sync();
  if (error != 0) status.Update(FileError("clean-up", "the store's directory", 0, error));
  return status;
}

// Walk of a reopening, 4. Begins a new incarnation at `cut_block`. When this returns, it is
// durable, and so is the log below.
absl::Status WriteOpenRecord(Core& core, const NewIncarnation& start) {
  const auto& [uncertain_block, cut_block, version, checkpoint_id, begin, incarnations, salvaged] =
      start;
  const HybridLog::Config& config = core.config.log;
  AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return NoMemoryTo("open the log");
  CommitRecord record;
  record.kind = RecordKind::kOpen;
  record.checkpoint_id = checkpoint_id;
  record.version = version;
  record.begin = begin;
  record.begin_incarnation = IncarnationAt(incarnations, config.geometry.BlockOf(begin));
  // The first sync below makes the log below durable before this record is written.
  record.durable = config.geometry.BlockStart(cut_block);
  record.creation_exponent = static_cast<std::uint32_t>(core.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core.index.exponent());
  // A chain of incarnations: a scan accepts this block only after a block of the previous
  // incarnation (LogReplay::Accept), so the remains of a log that was cut off here are never joined
  // to the new one.
  record.previous_incarnation =
      incarnations.size() > 1 ? incarnations[incarnations.size() - 2].incarnation : 0;
  record.cut_block = cut_block;
  record.shift_tail = record.durable;
  record.unix_us = UnixUs();
  const std::span<std::byte> block(buffer.get(), kBlockBytes);
  EncodeCommitRecord(record, config.store_id, cut_block, block.first(kBlockPayloadBytes));
  SealBlock(block, config.store_id, cut_block, incarnations.back().incarnation);
  // Also written to memory, so that scans can step over it.
  const Address start_address = config.geometry.BlockStart(cut_block);
  std::memcpy(core.log.Frame(config.geometry.PageOf(start_address)).data() +
                  config.geometry.OffsetOf(start_address),
              block.data(), kBlockPayloadBytes);

  Device& device = *core.files.device;
  // The blocks that were read may have been only in the page cache. From here on they count as
  // durable. A sync is not enough: an earlier sync that failed has left the pages clean.
  absl::Status status = device.WriteAgain(uncertain_block, cut_block);
  status.Update(status.ok() ? device.Sync() : absl::OkStatus());
  // The statements are withdrawn after the sync of the part that is kept, and before the cut: a
  // crash in between leaves the damage, or the new end. The dropped part is cut before the record
  // is written, because its commits state that blocks after the cut are durable.
  if (status.ok() && salvaged) {
    status = ForgetBehind(core, cut_block);
    status.Update(status.ok() ? device.Truncate(cut_block) : absl::OkStatus());
  }
  status.Update(status.ok() ? device.Write(cut_block, block) : absl::OkStatus());
  // A file that begins at the cut may have been left without a header.
  if (status.ok() && cut_block % config.geometry.segment_blocks == 0) {
    status = device.WriteAgain(cut_block, cut_block + 1);
  }
  // After the record has its space, since what this frees may be gone in the next moment. It syncs
  // both. Only then does the new incarnation exist; a crash before leaves the log as it was.
  status.Update(status.ok() ? device.Truncate(cut_block + 1) : absl::OkStatus());
  return status;
}

// Walk of a reopening, 5. Sets the log's end after the open record at `cut_block`, or before that
// block if there is none, with the newest pages in memory.
void StartLog(Core& core, NewIncarnation start, Address scanned_from) {
  const Geometry& geometry = core.log.geometry();
  HybridLog::Position position;
  position.begin = start.begin;
  // A read-only opening writes no open record.
  position.tail = geometry.BlockStart(start.cut_block + (core.config.read_only ? 0 : 1));
  position.incarnations = std::move(start.incarnations);
  position.sessions_bytes = core.sessions.ListBytesWith("");
  const std::uint64_t tail_page = geometry.PageOf(position.tail);
  // One frame is free for the next page. Pages after the tail may have been read ahead into others.
  const std::uint64_t end_page = tail_page + 2 + PageLoader::kMaxAhead;
  const std::uint64_t head_page =
      end_page > geometry.frame_count ? end_page - geometry.frame_count : 0;
  // Nothing below the start of the scan was read into frames.
  position.head = std::max({position.begin, geometry.PageStart(head_page), scanned_from});
  if (geometry.frame_slots() > geometry.frame_count) {
    for (std::uint64_t page = tail_page + 1; page < head_page + geometry.frame_slots(); ++page) {
      core.log.ReleaseFrame(page);
    }
  }
  core.log.Restore(std::move(position));
  // The first update need not wait for the reservation. If the disk is full, it gets the error.
  if (!core.config.read_only) core.log.space().TakeAhead(0);
}

// Returns whether the first block of a log that begins at `begin` is gone: freed by a collection.
absl::StatusOr<bool> IsGone(Core& core, Address begin) {
  const Geometry& geometry = core.log.geometry();
  const std::uint64_t block = geometry.FrontBlock(BeginOfFiles(geometry, begin));
  const AlignedBuffer buffer = AllocateAligned(kBlockBytes);
  if (buffer == nullptr) return NoMemoryTo("scan the log");
  const std::span<std::byte> bytes(buffer.get(), kBlockBytes);
  const auto count = ReadBlocks(*core.files.device, block, bytes);
  if (!count.ok()) return count.status();
  return *count == 0 || !VerifyBlock(bytes, core.config.log.store_id, block).has_value();
}

}  // namespace

absl::Status ScanLog(Core& core, const FoundSegments& found, ScanMode mode,
                     const std::function<void(const RecoveryProgress&)>& progress,
                     FoundCheckpoints& checkpoints, std::optional<LogReplay>& scan) {
  const Device& device = *core.files.device;
  const Geometry& geometry = core.log.geometry();
  // Walk of a reopening, 3. Each turn after the first begins below the end of the one before.
  for (std::uint64_t end_block = device.EndBlock();;) {
    // Only commit records state the log's begin, so the search starts at the end (log_replay.h).
    auto last = LogReplay::FindLastCommit(core, end_block);
    if (!last.ok()) return last.status();
    LogReplay::ReplayStart start;
    start.durable = checkpoints.durable;
    start.salvage = mode == ScanMode::kSalvage;
    start.progress = progress;
    if (last->has_value() && (*last)->begin > geometry.BlockStart(1)) {
      start.begin = (*last)->begin;
      start.begin_incarnation = (*last)->begin_incarnation;
      // The begin moved there because of durable blocks above, so they are lost.
      if (start.begin >= geometry.BlockStart(end_block)) {
        return absl::DataLossError(device.Describe(end_block - 1) +
                                   ": a commit record states that the log begins after it");
      }
    }
    // A file below begin may be half deleted. From begin on a bad header counts as a bad block.
    const std::uint64_t begin_segment = geometry.BlockOf(start.begin) / geometry.segment_blocks;
    const auto bad = found.bad_headers.lower_bound(begin_segment);
    if (bad != found.bad_headers.end()) {
      start.bad_header_block = bad->first * geometry.segment_blocks;
      start.bad_header = bad->second;
    }
    // Images of checkpoints cut the scan short. Verification and salvage read the log alone.
    if (mode == ScanMode::kWithImages) {
      absl::Status status =
          MoveInto(start.manifest, LoadNewestImage(core, start.begin, checkpoints));
      if (!status.ok()) return status;
    }
    scan.emplace(core, start);
    if (absl::Status status = scan->Run(); !status.ok()) return status;
    // The last commit of the committed log states a lower begin than the record from which the scan
    // started. That record is then not part of the committed log, so nothing was freed because of
    // it: start again below it.
    const bool below = start.manifest == nullptr && scan->begin() < start.begin;
    if (!below) break;
    // After a salvage the blocks may be gone nevertheless, since the dropped part was durable.
    const absl::StatusOr<bool> is_gone = start.salvage ? IsGone(core, scan->begin()) : false;
    if (!is_gone.ok()) return is_gone.status();
    if (*is_gone) break;
    if (scan->bad_block() >= end_block) {
      return absl::DataLossError(device.Describe(geometry.BlockOf(start.begin)) +
                                 ": the log does not begin where its commit records say");
    }
    end_block = scan->bad_block();
    // The entries of the attempt must not remain.
    core.index.Clear();
  }
  // The first block of a store is durable before anything is written after it, so its loss is
  // damage.
  const bool first_is_missing = !found.numbers.empty() && found.numbers.front() != 0;
  if (mode == ScanMode::kSalvage && scan->begin().is_null()) {
    return absl::DataLossError(
        fmt::format("{}: no commit of the log can be reached: nothing can be salvaged",
                    device.Describe(scan->bad_block())));
  }
  if (scan->cut_block() == 0 && (device.EndBlock() > 1 || first_is_missing)) {
    return absl::DataLossError(
        fmt::format("{}: block 0 is not the beginning of this store's log", device.Describe(0)));
  }
  return absl::OkStatus();
}

namespace {

// The opening of a store. Its steps are those of the walk, in order.
class Opening {
 public:
  Opening(const std::string& path, const Options& options, StoredTypes types,
          const Environment& environment)
      : path_(path), options_(options), types_(types), environment_(environment) {}
  absl::StatusOr<OpenedStore> Run();

 private:
  // Walk of a reopening, 1.
  absl::Status Lock();
  absl::Status Find() { return MoveInto(found_, FindSegments(*files_.directory)); }
  absl::Status Check();
  // 2 and 3. Reads the contents of the files into the index and the frames; changes no file.
  absl::Status Load();
  absl::Status Replay();
  // 4 and 5.
  absl::Status Start();

  // In memory, in place of the steps above.
  absl::Status UseMemory();

  bool may_create() const { return options_.create_if_missing && !options_.read_only; }
  absl::Status Configure();
  absl::Status MakeParts();
  absl::Status Scan(ScanMode mode) {
    return ScanLog(*opened_.core, found_, mode, options_.recovery_progress, checkpoints_, scan_);
  }
  absl::Status ScanWithImages();
  absl::Status Salvage(const absl::Status& damage);
  void Report();
  absl::Status BeginIncarnation();
  void OpenDurableEnd(Committer::CommittedState& start);

  const std::string& path_;
  const Options& options_;
  const StoredTypes types_;
  const Environment& environment_;
  SegmentHeader header_;
  CoreConfig config_;
  StoreFiles files_;  // until the core has them
  FoundSegments found_;
  FoundCheckpoints checkpoints_;
  OpenedStore opened_;
  std::optional<LogReplay> scan_;
  NewIncarnation next_;
};

absl::StatusOr<OpenedStore> Opening::Run() {
  // Options, types or limits that do not fit are rejected before any file is created.
  absl::Status status = Validate(options_);
  if (status.ok()) status = MoveInto(header_, NewHeader(options_, environment_, types_));
  if (status.ok()) status = Configure();
  if (environment_.in_memory) {
    if (status.ok()) status = UseMemory();
  } else {
    if (status.ok()) status = Lock();
    if (status.ok()) status = Find();
    if (status.ok()) status = Check();
    if (status.ok()) status = Load();
    if (status.ok()) status = Replay();
  }
  if (status.ok()) status = Start();
  if (!status.ok()) return status;
  return std::move(opened_);
}

absl::Status Opening::Configure() {
  absl::Status status = MoveInto(config_, MakeConfig(header_, options_, environment_));
  config_.path = path_;
  return status;
}

absl::Status Opening::MakeParts() {
  absl::Status status = MoveInto(opened_.core, MakeCore(config_, std::move(files_)));
  if (status.ok()) MakeStandIns(*opened_.core);
  return status;
}

absl::Status Opening::UseMemory() {
  if (options_.durability == Durability::kAlways) {
    return absl::InvalidArgumentError(
        "durability is kAlways: a store in memory cannot make updates durable; use another mode");
  }
  if (options_.read_only) {
    return absl::InvalidArgumentError(
        "read_only is true: a store in memory begins empty, so it must be writable");
  }
  files_.device = std::make_unique<MemoryDevice>();
  return MakeParts();
}

// The lock comes before the first read of a file, so that no other process changes what is read
// here.
absl::Status Opening::Lock() {
  files_.file_system =
      environment_.file_system != nullptr ? environment_.file_system : &PosixFileSystem();
  return MoveInto(
      files_.directory,
      may_create() ? OpenLocked(*files_.file_system, path_)
                   : OpenLockedStore(*files_.file_system, path_,
                                     options_.read_only ? LockKind::kReader : LockKind::kWriter));
}

absl::Status Opening::Check() {
  absl::Status status;
  if (found_.header.has_value()) {
    // A store keeps the sizes with which it was created. Only limits and modes come from the
    // options.
    header_ = *found_.header;
    status = CheckHeader(header_, types_, options_);
  } else if (!may_create()) {
    status = NoStoreError(path_);  // removed since the directory was opened
  } else {
    status = CreateFirstFile(*files_.directory, header_);
  }
  return status.ok() ? Configure() : status;
}

absl::Status Opening::Load() {
  files_.write_header = HeadersLike(header_);
  absl::Status status = MoveInto(
      files_.device,
      FileDevice::Open(*files_.directory, files_.write_header,
                       {.segment_blocks = header_.segment_blocks,
                        .direct_io = options_.direct_io,
                        .read_only = options_.read_only,
                        .reserve_blocks = options_.preallocate_bytes / kBlockBytes,
                        .open_files = environment_.open_files != 0 ? environment_.open_files
                                                                   : FileDevice::kOpenFiles}));
  if (status.ok()) status = MakeParts();
  if (!status.ok()) return status;
  const Core& core = *opened_.core;
  return MoveInto(checkpoints_, FindCheckpoints(*core.files.directory, core.config.log.store_id,
                                                core.log.geometry()));
}

absl::Status Opening::ScanWithImages() {
  absl::Status status = Scan(ScanMode::kWithImages);
  const Manifest* const manifest = status.ok() ? scan_->manifest() : nullptr;
  if (manifest == nullptr) return status;
  // The scan began at the end of the image, so the log below is not read: check at least that its
  // files are there.
  const Geometry& geometry = opened_.core->log.geometry();
  const Address begin = BeginOfFiles(geometry, scan_->begin());
  return CheckFilesBelow(*opened_.core->files.device, geometry,
                         {geometry.FrontBlock(begin), geometry.BlockOf(manifest->scan_from)});
}

// Called after `damage`: reads as much as possible without images, up to the first bad block.
absl::Status Opening::Salvage(const absl::Status& damage) {
  Core& core = *opened_.core;
  const Geometry& geometry = core.log.geometry();
  const Device& device = *core.files.device;
  const std::uint64_t end_block =
      std::max(geometry.BlockOf(checkpoints_.durable), device.EndBlock());
  // The log violates the statements about the durable end. They are ignored here, and withdrawn
  // before the log is cut (ForgetBehind).
  checkpoints_.durable = Address();
  checkpoints_.manifests.clear();
  core.index.Clear();
  if (absl::Status status = Scan(ScanMode::kSalvage); !status.ok()) return status;
  const std::uint64_t cut_block = scan_->cut_block();
  checkpoints_.notes.push_back(
      fmt::format("salvaged: {}; dropped the checkpoints and the log from {} on, {} bytes",
                  std::string(damage.message()), device.Describe(cut_block),
                  (std::max(end_block, cut_block) - cut_block) * kBlockBytes));
  // A collection had moved live records into the part that is dropped, and freed their old places.
  if (scan_->start().begin > scan_->begin()) {
    checkpoints_.notes.push_back(
        fmt::format("salvaged: garbage was collected after the last commit: keys are lost if the "
                    "collection had moved their records from below {}",
                    device.Describe(geometry.BlockOf(scan_->start().begin))));
  }
  return absl::OkStatus();
}

absl::Status Opening::Replay() {
  Core& core = *opened_.core;
  const Geometry& geometry = core.log.geometry();
  absl::Status status = ScanWithImages();
  next_.salvaged = absl::IsDataLoss(status) && options_.salvage;
  if (next_.salvaged) status = Salvage(status);
  if (!status.ok()) return status;
  // After a salvage the begin of the dropped part counts: the space below it may have been freed
  // because of it.
  const Address begin =
      next_.salvaged ? std::max(scan_->begin(), scan_->start().begin) : scan_->begin();
  next_.begin = BeginOfFiles(geometry, begin);
  // Blocks below are durable, since a later commit record states it.
  next_.uncertain_block = std::max(scan_->uncertain_block(), geometry.FrontBlock(next_.begin));
  // Openings without a commit reuse one block, however many there are. This is allowed only if
  // nothing follows the open record. A commit record there, which a crash has left after lost
  // blocks, states that the open record was durable. It must be removed first, so then the record
  // is not replaced. (Two open records differ in one sector only, so the replacement could tear
  // only on a disk that tears inside a sector.)
  const bool is_last = scan_->cut_block() == core.files.device->EndBlock();
  next_.cut_block = scan_->open_block() != 0 && is_last ? scan_->open_block() : scan_->cut_block();
  next_.version = scan_->next_version();
  // Ids never repeat, even those of checkpoints that failed or were removed.
  next_.checkpoint_id = std::max(scan_->checkpoint_id(), checkpoints_.last_id);
  next_.incarnations = scan_->incarnations();
  Report();
  // These checkpoints are below begin: a crash happened before they were removed.
  std::erase_if(checkpoints_.manifests,
                [&](const Manifest& old) { return IsDead(old.scan_from, next_.begin); });
  core.sessions.Restore(opened_.report.sessions);
  return absl::OkStatus();
}

void Opening::Report() {
  const Geometry& geometry = opened_.core->log.geometry();
  RecoveryReport& report = opened_.report;
  report.created = !found_.header.has_value();
  report.checkpoint_id = scan_->manifest() != nullptr ? scan_->manifest()->id : 0;
  report.replayed_records = scan_->replayed_records();
  report.verified_bytes = scan_->verified_bytes();
  report.sessions = scan_->sessions();
  report.notes = std::move(checkpoints_.notes);
  if (!found_.foreign.empty()) {
    report.notes.push_back(
        fmt::format("the directory holds {}, which is no file of a store; ebb does not touch it",
                    found_.foreign));
  }
  const double share = std::ldexp(static_cast<double>(geometry.BlockStart(next_.cut_block).value()),
                                  -geometry.address_bits);
  if (share >= 0.9) {
    report.notes.push_back(
        fmt::format("{:.1f} % of the log's addresses are used, and at 99 % updates are rejected: "
                    "copy all keys into a new store",
                    100 * share));
  }
}

absl::Status Opening::Start() {
  Core& core = *opened_.core;
  if (!core.has_files()) next_.begin = core.log.geometry().BlockStart(1);
  if (absl::Status status = BeginIncarnation(); !status.ok()) return status;
  core.direct_io = core.files.device->direct();
  Coordinator::OpenedState start;
  start.commits.version = next_.version;
  start.commits.checkpoint_id = next_.checkpoint_id;
  for (const Manifest& manifest : checkpoints_.manifests) {
    start.checkpoints.push_back(DescribeCheckpoint(manifest));
  }
  const std::uint64_t front_block = core.log.geometry().FrontBlock(next_.begin);
  StartLog(core, std::move(next_),
           opened_.report.checkpoint_id != 0 ? checkpoints_.manifests.back().scan_from : Address());
  // Everything below the tail is durable: WriteOpenRecord has synced it.
  start.commits.durable = core.log.tail();
  if (!options_.read_only) {
    if (core.has_files()) OpenDurableEnd(start.commits);
    // Removes the remains of an interrupted truncation. They do no harm, so a failure is ignored.
    core.files.device->TruncateFront(front_block).IgnoreError();
  }
  // The slots are empty, so there is nothing to drain: the new version counts as drained at once.
  core.epochs.BumpVersion(static_cast<unsigned>(start.commits.version & 3));
  if (core.epochs.broken()) return core.health.status();
  core.drained_version.store(start.commits.version, std::memory_order_release);        // [drained]
  core.version_floor.store(start.commits.durable.value(), std::memory_order_release);  // [drained]
  opened_.coordinator = std::make_unique<Coordinator>(core, std::move(start));
  return absl::OkStatus();
}

// Walk of a reopening, 4.
absl::Status Opening::BeginIncarnation() {
  std::vector<IncarnationSpan>& incarnations = next_.incarnations;
  // An incarnation without a commit leaves no trace: its open record is replaced or cut off.
  while (!incarnations.empty() && incarnations.back().first_block >= next_.cut_block) {
    incarnations.pop_back();
  }
  // Block 0 holds the first open record, if a process has ever written it.
  if (options_.read_only) next_.cut_block = std::max<std::uint64_t>(next_.cut_block, 1);
  std::uint64_t incarnation = 0;
  if (absl::Status status = FillRandom({&incarnation, 1}); !status.ok()) return status;
  // Odd, so never 0: 0 means that no incarnation is known.
  incarnations.push_back({next_.cut_block, incarnation | 1});
  return options_.read_only ? absl::OkStatus() : WriteOpenRecord(*opened_.core, next_);
}

void Opening::OpenDurableEnd(Committer::CommittedState& start) {
  const Core& core = *opened_.core;
  // The durable end excludes the open record, which the next opening may replace, except the first
  // one.
  const std::uint64_t end_block = core.log.geometry().BlockOf(start.durable) - 1;
  absl::StatusOr<std::unique_ptr<DurableEnd>> end = DurableEnd::Open(
      *core.files.directory, core.config.log.store_id, std::max<std::uint64_t>(end_block, 1));
  // A store can work without this file, as long as the end of its log is not lost.
  if (end.ok()) {
    start.durable_end = *std::move(end);
  } else {
    opened_.report.notes.emplace_back(end.status().message());
  }
}

// Adds the path of the store to an error of its opening, and to damage how to continue.
absl::Status OpenError(const absl::Status& error, const std::string& path, bool salvage) {
  std::string text(error.message());
  if (text.find(path) == std::string::npos) text = fmt::format("opening {}: {}", path, text);
  if (absl::IsDataLoss(error)) {
    text += salvage ? "; restore a backup"
                    : "; restore a backup, or open with Options::salvage to keep the state of the "
                      "last commit before the damage";
  }
  absl::Status named(error.code(), text);
  error.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    named.SetPayload(url, payload);  // Lasting, in status.h
  });
  return named;
}

}  // namespace

absl::StatusOr<OpenedStore> OpenStore(const std::string& path, const Options& options,
                                      StoredTypes types, const Environment& environment) {
  return CatchNoMemory([&]() -> absl::StatusOr<OpenedStore> {
    absl::StatusOr<OpenedStore> opened = Opening(path, options, types, environment).Run();
    if (!opened.ok()) return OpenError(opened.status(), path, options.salvage);
    return opened;
  });
}

}  // namespace ebb::internal
