#include "ebb/internal/open/log_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/open/index_filler.h"

namespace ebb::internal {

LogReplay::LogReplay(Core& core, ReplayStart start)
    : core_(core),
      log_(core.log),
      geometry_(core.log.geometry()),
      start_(std::move(start)),
      from_(start_.manifest != nullptr ? start_.manifest->scan_from : start_.begin) {}

absl::Status LogReplay::Run() {
  if (absl::Status status = Pass(); !status.ok()) return status;
  // The scan has ended at a bad block. Whether that is the end of the log or damage is decided by
  // the blocks after it.
  if (absl::Status status = LookForLaterCommits(); !status.ok()) return status;
  // The usual case: the log is committed to its end, so the index holds only committed records.
  if (voids_.empty() && geometry_.BlockOf(cursor_) == cut_block_) return CheckLinks();
  // A crash left records without a control record. Fill the index again without them.
  second_pass_ = true;
  core_.index.Clear();
  if (start_.manifest != nullptr) {
    absl::Status status = LoadIndexImage(core_, *core_.files.directory, *start_.manifest);
    if (!status.ok()) return status;
  }
  if (absl::Status status = Pass(); !status.ok()) return status;
  return CheckLinks();
}

// Records in memory are not checked again, so every link must lead to the end of its chain at the
// time when the record was added. In a first pass that was not the last, chains also hold void
// records, so only the last pass counts.
absl::Status LogReplay::CheckLinks() const {
  if (bad_link_.is_null()) return absl::OkStatus();
  return Malformed(bad_link_, "a record that does not link to the end of its chain");
}

absl::Status LogReplay::Pass() {
  incarnations_.clear();
  sessions_.clear();
  // Without an image: the first block is of the incarnation that the last commit record states for
  // begin.
  if (start_.manifest == nullptr && !from_.is_null()) {
    incarnations_.push_back({geometry_.BlockOf(from_), start_.begin_incarnation});
  }
  // With an image, everything up to the manifest's commit is known.
  if (start_.manifest != nullptr) {
    incarnations_ = start_.manifest->incarnations;
    last_version_ = start_.manifest->version;
    checkpoint_id_ = start_.manifest->id;
    for (const auto& [name, serial] : start_.manifest->sessions) sessions_[name] = serial;
  }
  // An image's commit may lie above T0: records between T0 and it are replayed, and found committed
  // when the scan meets its control record.
  cursor_ = last_commit_end_ = commit_before_end_ = from_;
  open_block_ = 0;
  begin_ = Address();
  durable_ = start_.durable;
  uncommitted_ = {};
  uncommitted_sessions_.clear();
  replayed_records_ = 0;
  verified_bytes_ = 0;
  IndexFiller filler(core_, from_);
  // The second pass stops at the cut: everything after it is void.
  const std::uint64_t end = second_pass_ ? cut_block_ : core_.files.device->EndBlock();
  PageLoader reader(core_, {.first_block = geometry_.BlockOf(from_),
                            .end_block = std::min(end, start_.bad_header_block)});
  for (std::uint64_t page = geometry_.PageOf(from_);; ++page) {
    // Frames are the buffer of the scan. No more than the budget's number is ever resident.
    const std::uint64_t newest = page + PageLoader::kMaxAhead;
    if (newest >= geometry_.frame_count && geometry_.frame_slots() > geometry_.frame_count) {
      log_.ReleaseFrame(newest - geometry_.frame_count);
    }
    absl::StatusOr<std::uint64_t> end_block = LoadPage(reader, page);
    if (!end_block.ok()) return end_block.status();
    absl::Status status = ReadRecords(page, *end_block, filler);
    if (!status.ok()) return status;
    if (start_.progress) {
      const std::uint64_t blocks = core_.files.device->EndBlock() - geometry_.BlockOf(from_);
      start_.progress({verified_bytes_, blocks * kBlockBytes});
    }
    // The first block that is not part of the log: the scan ends here.
    if (*end_block < (page + 1) * geometry_.blocks_per_page()) {
      if (!second_pass_) bad_block_ = *end_block;
      break;
    }
  }
  if (absl::Status status = filler.Flush(); !status.ok()) return status;
  bad_link_ = filler.bad_link();
  // The end of the log is the end of an incarnation too.
  CloseUncommitted(geometry_.BlockStart(bad_block_));
  // The log ends after its last commit or open record; whatever follows was never committed.
  cut_block_ = geometry_.BlockOf(last_commit_end_);
  return absl::OkStatus();
}

// Fills the page's frame. Returns the first block that is not part of the log, at most the first of
// the next page.
absl::StatusOr<std::uint64_t> LogReplay::LoadPage(PageLoader& reader, std::uint64_t page) {
  auto incarnations = reader.Load(page);
  if (!incarnations.ok()) return incarnations.status();
  const std::uint64_t page_first = page * geometry_.blocks_per_page();
  const std::span<std::byte> frame = log_.Frame(page);
  std::uint64_t block = std::max(page_first, geometry_.BlockOf(from_));
  for (const std::uint64_t incarnation : *incarnations) {
    const auto payload =
        frame.subspan((block - page_first) * kBlockPayloadBytes, kBlockPayloadBytes);
    if (!Accept(block, incarnation, payload)) break;
    verified_bytes_ += kBlockBytes;
    ++block;
  }
  return block;
}

// A block that verifies belongs to the log only if it is of the current incarnation, or begins the
// next one. Otherwise it is a remain of a log that was cut off here: it verifies, but its records
// were never committed.
bool LogReplay::Accept(std::uint64_t block, std::uint64_t incarnation,
                       std::span<const std::byte> payload) {
  // Without an incarnation yet, only an open record can begin one.
  const std::uint64_t current = incarnations_.empty() ? 0 : incarnations_.back().incarnation;
  if (!incarnations_.empty() && incarnation == current) return true;
  // The record that states the begin states the incarnation of its block too.
  if (start_.manifest == nullptr && !from_.is_null() && block == geometry_.BlockOf(from_)) {
    return false;
  }
  const auto commit = DecodeCommitRecord(payload, core_.config.log.store_id, block);
  // An open record is accepted only at the place and after the incarnation that it names.
  if (!commit.has_value() || commit->kind != RecordKind::kOpen ||
      commit->previous_incarnation != current || commit->cut_block != block) {
    return false;
  }
  incarnations_.push_back({block, incarnation});
  return true;
}

absl::Status LogReplay::ReadRecords(std::uint64_t page, std::uint64_t end_block,
                                    IndexFiller& filler) {
  const std::uint64_t first_block = page * geometry_.blocks_per_page();
  const std::uint64_t end_offset = (end_block - first_block) * kBlockPayloadBytes;
  const std::span<std::byte> frame = log_.Frame(page);
  while (geometry_.PageOf(cursor_) == page) {
    const std::uint64_t offset = geometry_.OffsetOf(cursor_);
    const RecordShape shape = core_.config.log.shape;
    const Record record(frame.data() + offset, shape);
    // The last block of the page that was accepted may end in the middle of a record.
    if (offset + 8 > end_offset) break;
    const RecordHeader header = record.header().LoadAcquire();
    const bool is_record = header.kind() == RecordKind::kRecord;
    // The lengths of the record are not complete.
    if (is_record && offset + shape.prefix_bytes() > end_offset) break;
    const std::uint64_t room = geometry_.payload_bytes() - offset;
    const std::uint64_t extent = record.ExtentOf();
    // The block verified, so these bytes were written by ebb: a record that does not fit is damage,
    // or a bug.
    if (extent < 8 || extent % 8 != 0 || extent > room) {
      return Malformed(cursor_, "a record that does not fit its page");
    }
    if (offset + extent > end_offset) break;  // its rest was never written
    if (!record.WellFormed(room)) return Malformed(cursor_, "a malformed record");

    absl::Status status;
    switch (header.kind()) {
      case RecordKind::kRecord:
        status = Index(record, cursor_, filler);
        break;
      case RecordKind::kControl:
      case RecordKind::kOpen:
        status = TakeCommit(record, cursor_);
        break;
      case RecordKind::kSessions:
        status = TakeSessions(record, cursor_);
        break;
      case RecordKind::kFiller:
      case RecordKind::kNone:
        break;
    }
    if (!status.ok()) return status;
    // Across the end of a page a record never extends: the rest would be a filler.
    cursor_ = geometry_.Normalize(cursor_ + extent);
  }
  return absl::OkStatus();
}

absl::Status LogReplay::Index(const Record& record, Address address, IndexFiller& filler) {
  const RecordHeader header = record.header().LoadAcquire();
  // Its operation lost the CAS, or a crash came before it was set valid: it is in no chain.
  if (!header.valid()) return absl::OkStatus();
  ++replayed_records_;
  // Chains must fall, so that every walk through one ends.
  if (header.prev() >= address) return Malformed(address, "a record that links to a later record");
  // Counted by version bits, so that CloseUncommitted knows whether anything is void.
  ++uncommitted_[header.version_bits()];
  if (second_pass_ && IsVoid(address, header)) return absl::OkStatus();
  return filler.Add({core_.HashOf(record), address, header.prev()});
}

absl::Status LogReplay::TakeSessions(const Record& record, Address address) {
  auto sessions = DecodeSessions(std::span(record.bytes(), record.ExtentOf()));
  if (!sessions.has_value()) return Malformed(address, "a malformed sessions record");
  // They count only once the control record after them is read.
  for (SessionReport& session : sessions->sessions) {
    uncommitted_sessions_.push_back(std::move(session));
  }
  return absl::OkStatus();
}

absl::Status LogReplay::TakeCommit(const Record& record, Address address) {
  const std::uint64_t extent = record.ExtentOf();
  const auto commit =
      DecodeCommitRecord(std::span(record.bytes(), extent), core_.config.log.store_id,
                         geometry_.BlockOf(address + (extent - 1)));
  const RecordHeader header = record.header().LoadAcquire();
  // A control record ends at the end of a block's payload, where FindLastCommit looks for it.
  const bool at_block_end = (geometry_.OffsetOf(address) + extent) % kBlockPayloadBytes == 0;
  // Each field is checked against the state of the scan. The record has verified, so a
  // contradiction means damage or a bug, not a torn write.
  if (!commit.has_value() || commit->kind != header.kind() || !at_block_end ||
      commit->durable > address || commit->shift_tail > address ||
      commit->begin < std::max(begin_, geometry_.BlockStart(1)) ||
      (commit->begin > address && commit->begin != geometry_.BlockStart(1)) ||
      commit->begin != geometry_.Normalize(commit->begin) || commit->begin.value() % 8 != 0 ||
      commit->creation_exponent != static_cast<std::uint32_t>(core_.index.creation_exponent())) {
    return Malformed(address, "a malformed commit record");
  }
  if (commit->kind == RecordKind::kOpen) {
    // Walk of a reopening, 3: an incarnation that ended without a commit left records that are
    // void.
    CloseUncommitted(address);
    uncommitted_ = {};
  } else {
    // Records of the next version that were appended during this commit stay uncommitted. All
    // others are committed.
    const unsigned next = static_cast<unsigned>((commit->version + 1) & 3);
    const std::uint64_t stragglers = uncommitted_[next];
    uncommitted_ = {};
    uncommitted_[next] = stragglers;
    for (const SessionReport& session : uncommitted_sessions_) {
      if (session.serial == SessionTable::kForgotten) {
        // A session that was forgotten is removed by the same mechanism that records a serial.
        sessions_.erase(session.name);
      } else {
        sessions_[session.name] = session.serial;
      }
    }
  }
  uncommitted_sessions_.clear();
  last_version_ = std::max(last_version_, commit->version);
  checkpoint_id_ = std::max(checkpoint_id_, commit->checkpoint_id);
  // Used to find the blocks that must be written again, and to detect damage.
  durable_ = std::max(durable_, commit->durable);
  begin_ = commit->begin;
  // An open record may be replaced if no commit follows it (recovery.cc).
  open_block_ = commit->kind == RecordKind::kOpen ? geometry_.BlockOf(address) : 0;
  commit_before_end_ = last_commit_end_;
  last_commit_end_ = geometry_.Normalize(address + extent);
  return absl::OkStatus();
}

std::vector<SessionReport> LogReplay::sessions() const {
  std::vector<SessionReport> sessions;
  for (const auto& [name, serial] : sessions_) sessions.push_back({name, serial});
  return sessions;
}

// Called where an incarnation ends, at `end`: records that no control record has committed are
// void.
void LogReplay::CloseUncommitted(Address end) {
  // The ranges are known after the first pass; the second one uses them.
  if (second_pass_) return;
  const bool any = std::any_of(uncommitted_.begin(), uncommitted_.end(),
                               [](std::uint64_t count) { return count != 0; });
  if (!any) return;
  // Everything after the last commit record, and from the one before it on the records of the next
  // version, which ran during the last commit.
  voids_.push_back({.stragglers_from = commit_before_end_,
                    .straggler_bits = static_cast<unsigned>((last_version_ + 1) & 3),
                    .all_from = last_commit_end_,
                    .end = end});
}

bool LogReplay::IsVoid(Address address, RecordHeader header) const {
  // The ranges are in order and do not overlap, so the first one that ends after the address
  // decides.
  const auto range =
      std::upper_bound(voids_.begin(), voids_.end(), address,
                       [](Address a, const VoidRange& candidate) { return a < candidate.end; });
  if (range == voids_.end()) return false;
  if (address >= range->all_from) return true;
  return address >= range->stragglers_from && header.version_bits() == range->straggler_bits;
}

// Describes the block at which the scan ended, for an error message.
std::string LogReplay::DescribeBad() const {
  if (bad_block_ == start_.bad_header_block) return start_.bad_header;
  const std::uint64_t segment = bad_block_ / geometry_.segment_blocks;
  const std::vector<BlockRange> held = core_.files.device->HeldBlocks();
  const bool there = std::any_of(held.begin(), held.end(), [&](const BlockRange& range) {
    return range.begin / geometry_.segment_blocks == segment;
  });
  if (!there) return FileDevice::SegmentName(segment) + " is missing";
  return core_.files.device->Describe(bad_block_) + ": damaged";
}

// Every block is checked, not only those of the log: a commit record may be anywhere after a lost
// block.
absl::Status LogReplay::ShowCommits(Core& core, BlockRange range, const ShowCommit& show) {
  const AlignedBuffer buffer = AllocateAligned(kReadBlocks * kBlockBytes);
  if (buffer == nullptr) return NoMemoryTo("scan the log");
  const std::uint64_t store_id = core.config.log.store_id;
  for (std::uint64_t block = range.begin; block < range.end;) {
    const std::uint64_t wanted = std::min(kReadBlocks, range.end - block);
    const auto count = ReadBlocks(*core.files.device, block, {buffer.get(), wanted * kBlockBytes});
    if (!count.ok()) return count.status();
    for (std::uint64_t i = 0; i < *count; ++i) {
      const std::span<const std::byte> bytes(buffer.get() + i * kBlockBytes, kBlockBytes);
      if (!VerifyBlock(bytes, store_id, block + i).has_value()) continue;
      const auto commit = DecodeCommitRecord(bytes.first(kBlockPayloadBytes), store_id, block + i);
      if (commit.has_value() && !show(block + i, *commit)) return absl::OkStatus();
    }
    block += std::max<std::uint64_t>(*count, 1);  // past a missing block
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<CommitRecord>> LogReplay::FindLastCommit(Core& core,
                                                                      std::uint64_t end_block) {
  std::optional<CommitRecord> last;
  const auto keep = [&](std::uint64_t, const CommitRecord& commit) {
    last = commit;
    return true;
  };
  const std::vector<BlockRange> held = core.files.device->HeldBlocks();
  // From the end down, in pieces, so that the search is short if the log's end is intact.
  for (auto range = held.rbegin(); range != held.rend(); ++range) {
    for (std::uint64_t end = std::min(range->end, end_block); end > range->begin;) {
      const std::uint64_t begin = std::max(range->begin, end - std::min(end, kReadBlocks));
      absl::Status status = ShowCommits(core, {begin, end}, keep);
      if (!status.ok()) return status;
      if (last.has_value()) return last;
      end = begin;
    }
  }
  return last;
}

// Distinguishes damage from the end of the log. Blocks after the last commit may be torn, missing
// or old: a crash does that. But a later block which states that more was durable proves that
// durable bytes are lost.
absl::Status LogReplay::LookForLaterCommits() {
  if (start_.salvage) return absl::OkStatus();
  const Address bad = geometry_.BlockStart(bad_block_);
  // The same statement, from a checkpoint or the durable end.
  if (last_commit_end_ < start_.durable) {
    return absl::DataLossError(fmt::format("{}: a checkpoint or {} states that it was durable",
                                           DescribeBad(), kDurableEndName));
  }
  const Device& device = *core_.files.device;
  absl::Status damage;
  // Files in between may be missing, and a file of any number may have been added.
  for (const BlockRange& range : device.HeldBlocks()) {
    if (range.end <= bad_block_) continue;
    const auto look = [&](std::uint64_t block, const CommitRecord& commit) {
      // It states only durable blocks that the scan has read: no contradiction.
      if (commit.durable <= bad) return true;
      damage = absl::DataLossError(
          fmt::format("{}: {} states that it was durable", DescribeBad(), device.Describe(block)));
      return false;
    };
    absl::Status status = ShowCommits(core_, {std::max(range.begin, bad_block_), range.end}, look);
    if (!status.ok()) return status;
    if (!damage.ok()) return damage;
  }
  return absl::OkStatus();
}

absl::Status LogReplay::Malformed(Address address, const char* what) const {
  const std::uint64_t block = geometry_.BlockOf(address);
  return absl::DataLossError(
      fmt::format("{}: block {} holds {}", core_.files.device->Describe(block), block, what));
}

}  // namespace ebb::internal
