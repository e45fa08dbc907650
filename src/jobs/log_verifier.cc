#include "ebb/internal/jobs/log_verifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/index_image.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/format/lifetime.h"

namespace ebb::internal {
namespace {

// The bits of a hash in which all records of a chain agree.
std::uint64_t ChainMask(const HashIndex& index) {
  const int bits = std::max(index.exponent(), index.creation_exponent() + IndexEntry::kTagBits);
  return (std::uint64_t{1} << bits) - 1;
}

}  // namespace

void AddProblem(const VerifyOptions& options, std::string what, VerifyReport& report) {
  ++report.problem_count;
  if (report.problems.size() < options.max_problems) report.problems.push_back(std::move(what));
}

absl::Status VerifyCheckpoint(Core& core, Directory& directory, std::uint64_t id,
                              const CheckpointTruth& truth) {
  absl::StatusOr<Manifest> manifest = ReadManifest(directory, core.config.log.store_id, id);
  if (!manifest.ok()) return manifest.status();
  std::uint64_t strays = 0;
  std::uint64_t needed = 0;  // entries without which an opening would miss a chain
  absl::Status status =
      ReadIndexImage(core, directory, *manifest, [&](std::uint64_t hash, Address address) {
        if (IsDead(address, truth.begin)) return true;
        // Two errors: an entry may lead to a record that is not of its chain, or a chain may lack
        // its entry.
        const IndexEntry newest = truth.log.Find(hash).entry;
        if (newest.is_empty() || newest.address() < address) ++strays;
        if (truth.index.Find(hash).entry.address() == address) ++needed;
        return true;
      });
  if (!status.ok()) return status;
  if (strays != 0) {
    return absl::DataLossError(
        fmt::format("{}: {} entries lead to no record of their chain", ImageName(id), strays));
  }
  // Counted afterwards: updates of an open store only move its entries up, so fewer are needed.
  std::uint64_t chains = 0;
  for (std::uint64_t bucket = 0; bucket < truth.index.bucket_count(); ++bucket) {
    truth.index.ForEachEntry(bucket, [&](IndexEntry entry) {
      const Address address = entry.address();
      chains += !IsDead(address, truth.begin) && address < manifest->scan_from ? 1 : 0;
    });
  }
  if (chains <= needed) return absl::OkStatus();
  return absl::DataLossError(
      fmt::format("{}: {} chains of the log are missing", ImageName(id), chains - needed));
}

LogVerifier::LogVerifier(Core& core, const VerifyOptions& options, std::function<bool()> stop)
    : core_(core),
      log_(core.log),
      geometry_(core.log.geometry()),
      shape_(core.log.shape()),
      options_(options),
      stop_(std::move(stop)),
      chain_mask_(ChainMask(core.index)),
      begin_(core.log.begin()),
      end_(core.log.flushed_until()),
      newest_(core.index.exponent(), core.index.creation_exponent(), core.config.log.huge_pages),
      page_(AllocateAligned(geometry_.page_bytes())),
      blocks_(AllocateAligned(kReadBlocks * kBlockBytes)) {}

absl::StatusOr<VerifyReport> LogVerifier::Run(const std::vector<CheckpointInfo>& checkpoints) {
  if (!newest_.ok() || page_ == nullptr || blocks_ == nullptr) {
    return NoMemoryTo("verify the store, which needs a second index and a page of the log");
  }
  absl::Status status = ReadLog();
  if (status.ok()) status = FollowChains();
  if (!status.ok()) return status;
  FindMissingChains();
  for (const CheckpointInfo& checkpoint : checkpoints) {
    ++report_.checkpoint_count;
    status = VerifyCheckpoint(core_, *core_.files.directory, checkpoint.id,
                              {.log = newest_, .index = core_.index, .begin = begin_});
    if (IsStarved(status)) return starved_;
    if (!status.ok()) AddProblem(options_, std::string(status.message()), report_);
  }
  return std::move(report_);
}

bool LogVerifier::IsStarved(const absl::Status& status) {
  if (!absl::IsResourceExhausted(status)) return false;
  starved_.Update(status);
  return true;
}

void LogVerifier::Problem(Address address, const char* what) {
  AddProblem(
      options_,
      fmt::format("{}: the record at {} {}",
                  core_.files.device->Describe(geometry_.BlockOf(address)), address.value(), what),
      report_);
}

// ---- the log ----

absl::Status LogVerifier::ReadLog() {
  // The first block holds only an open record, or nothing: then its incarnation begins later.
  const bool has_first_block = log_.incarnations().front().first_block == 0;
  const Address from = begin_ == geometry_.BlockStart(1) && has_first_block ? Address() : begin_;
  const std::uint64_t first_block = geometry_.BlockOf(from);
  const std::uint64_t end_block = geometry_.BlockOf(end_);
  for (std::uint64_t page = geometry_.PageOf(from); page * geometry_.blocks_per_page() < end_block;
       ++page) {
    if (stop_()) return core_.ClosedError();
    const std::uint64_t page_first = page * geometry_.blocks_per_page();
    const std::uint64_t page_end = page_first + geometry_.blocks_per_page();
    // The rest of a page after a bad block cannot be parsed: no record's start is known.
    const std::uint64_t good_end =
        LoadPage(page, std::max(first_block, page_first), std::min(end_block, page_end));
    if (!starved_.ok()) return starved_;
    absl::Status status = CheckRecords(std::max(from, geometry_.PageStart(page)),
                                       (good_end - page_first) * kBlockPayloadBytes);
    status.Update(starved_);
    if (!status.ok()) return status;
    const Address page_end_address = std::min(geometry_.PageStart(page + 1), end_);
    // Chains that lead into the part that was not read are not reported as broken: that would
    // repeat the same problem.
    if (good_end < std::min(end_block, page_end)) {
      unread_.push_back({read_end_, page_end_address});
      read_end_ = page_end_address;
    }
    if (options_.progress) {
      const CallbackScope scope(&core_, CallbackKind::kVerify);
      options_.progress(
          {report_.block_count * kBlockBytes, (end_block - first_block) * kBlockBytes});
    }
  }
  return absl::OkStatus();
}

// Copies payloads into page_. Returns the first bad block, or `end_block`.
std::uint64_t LogVerifier::LoadPage(std::uint64_t page, std::uint64_t first_block,
                                    std::uint64_t end_block) {
  Device& device = *core_.files.device;
  const std::uint64_t page_first = page * geometry_.blocks_per_page();
  std::uint64_t good_end = end_block;
  const auto bad = [&](std::uint64_t block, const std::string& what) {
    AddProblem(options_, fmt::format("{}: block {} {}", device.Describe(block), block, what),
               report_);
    good_end = std::min(good_end, block);
  };
  for (std::uint64_t block = first_block; block < end_block;) {
    const std::uint64_t count = std::min(kReadBlocks, end_block - block);
    const std::span<std::byte> bytes(blocks_.get(), count * kBlockBytes);
    const auto read = ReadBlocks(device, block, bytes);
    if (IsStarved(read.status())) break;
    if (!read.ok()) bad(block, "cannot be read: " + std::string(read.status().message()));
    const std::uint64_t there = read.ok() ? *read : 0;
    if (read.ok() && there < count) bad(block + there, "is missing");
    for (std::uint64_t i = 0; i < there; ++i) {
      const auto one = bytes.subspan(i * kBlockBytes, kBlockBytes);
      const auto incarnation = VerifyBlock(one, core_.config.log.store_id, block + i);
      if (!incarnation.has_value()) {
        bad(block + i, "fails its checksum");
      } else if (*incarnation != IncarnationAt(log_.incarnations(), block + i)) {
        bad(block + i, "is left over from an earlier incarnation of the store");
      }
      std::memcpy(page_.get() + (block + i - page_first) * kBlockPayloadBytes, one.data(),
                  kBlockPayloadBytes);
    }
    report_.block_count += there;
    // The rest of this piece may exist after a missing part.
    block += std::max<std::uint64_t>(there, read.ok() && there < count ? there + 1 : count);
  }
  return good_end;
}

absl::Status LogVerifier::CheckRecords(Address from, std::uint64_t end_offset) {
  Address& address = read_end_;
  address = from;
  const std::uint64_t page = geometry_.PageOf(from);
  while (geometry_.PageOf(address) == page) {
    const std::uint64_t offset = geometry_.OffsetOf(address);
    const std::uint64_t room = geometry_.payload_bytes() - offset;
    const Record record(page_.get() + offset, shape_);
    if (offset + 8 > end_offset) break;
    const bool is_record = record.header().LoadAcquire().kind() == RecordKind::kRecord;
    if (is_record && offset + shape_.prefix_bytes() > end_offset) break;
    const std::uint64_t extent = record.ExtentOf();
    if (extent < 8 || extent % 8 != 0 || extent > room) {
      Problem(address, "does not fit its page");
      break;
    }
    // The record continues in a block that is bad or not flushed.
    if (offset + extent > end_offset) break;
    if (!record.WellFormed(room)) {
      Problem(address, "is malformed");
      break;
    }
    if (const char* const what = CheckRecord(record, address)) Problem(address, what);
    if (is_record && record.header().LoadAcquire().valid()) {
      // The verifier's own index: at each record it holds the newest record of the chain so far.
      if (!newest_.PutExclusive(core_.HashOf(record), address).has_value()) {
        return NoMemoryTo("verify the store: its second index cannot grow");
      }
    }
    address = geometry_.Normalize(address + extent);
  }
  return absl::OkStatus();
}

// Returns the problem of the record, or null.
const char* LogVerifier::CheckRecord(const Record& record, Address address) {
  const std::span<const std::byte> bytes(record.bytes(), record.ExtentOf());
  const RecordHeader header = record.header().LoadAcquire();
  switch (header.kind()) {
    case RecordKind::kNone:
    case RecordKind::kFiller:
      return nullptr;
    case RecordKind::kControl:
    case RecordKind::kOpen: {
      const auto commit = DecodeCommitRecord(bytes, core_.config.log.store_id,
                                             geometry_.BlockOf(address + (bytes.size() - 1)));
      const bool at_block_end =
          (geometry_.OffsetOf(address) + bytes.size()) % kBlockPayloadBytes == 0;
      const bool good = commit.has_value() && commit->kind == header.kind() && at_block_end &&
                        commit->durable <= address && commit->shift_tail <= address;
      return good ? nullptr : "is a malformed commit record";
    }
    case RecordKind::kSessions:
      return DecodeSessions(bytes).has_value() ? nullptr : "is a malformed sessions record";
    case RecordKind::kRecord:
      if (!header.valid()) return nullptr;
      ++report_.record_count;
      return CheckLink(record, address);
  }
  return nullptr;
}

const char* LogVerifier::CheckLink(const Record& record, Address address) {
  const Address prev = record.header().LoadAcquire().prev();
  if (prev >= address) return "links to a later record";
  const std::uint64_t hash = core_.HashOf(record);
  const IndexEntry newest = newest_.Find(hash).entry;
  const Address expected = newest.is_empty() ? kNoRecord : newest.address();
  // The usual case. Dead addresses may differ: all of them end the chain.
  if (prev == expected || (IsDead(prev, begin_) && IsDead(expected, begin_))) return nullptr;
  if (InUnread(prev)) return nullptr;
  // Between the two there may be void records only.
  if (prev > expected) return "links to an address without a record of its chain";
  // Void records are of an earlier incarnation than the record that passes over them (see the
  // header).
  const auto incarnation_at = [&](Address at) {
    return IncarnationAt(log_.incarnations(), geometry_.BlockOf(at));
  };
  if (incarnation_at(expected) == incarnation_at(address)) return "skips a record of its chain";
  return IsDead(prev, begin_) || LeadsToChain(prev, hash)
             ? nullptr
             : "links to an address without a record of its chain";
}

bool LogVerifier::LeadsToChain(Address address, std::uint64_t hash) {
  const absl::StatusOr<Record> record = core_.reader.ReadRecord(address, record_);
  if (IsStarved(record.status())) return true;
  return record.ok() && ChainOf(core_.HashOf(*record) ^ hash) == 0;
}

// ---- the index ----

absl::Status LogVerifier::FollowChains() {
  const OwnSlot slot(core_.epochs);
  std::vector<IndexEntry> entries;
  bool going = true;
  for (std::uint64_t bucket = 0; going && bucket < core_.index.bucket_count(); ++bucket) {
    entries.clear();
    // Under no guard: entries only move up, and a growth is excluded by the turn.
    core_.index.ForEachEntry(bucket, [&](IndexEntry entry) { entries.push_back(entry); });
    for (const IndexEntry entry : entries) {
      if (IsDead(entry.address(), begin_)) continue;
      ++report_.entry_count;
      const std::uint64_t tag_bits = std::uint64_t{entry.tag()} << core_.index.creation_exponent();
      going = going && FollowChain(bucket | tag_bits, entry.address(), *slot);
    }
    going = going && starved_.ok() && !stop_();
  }
  if (!starved_.ok()) return starved_;
  return going ? absl::OkStatus() : core_.ClosedError();
}

// Follows a chain from its entry to the first record in the part that was read. Returns false if it
// must stop.
bool LogVerifier::FollowChain(std::uint64_t hash, Address address, EpochSlot& slot) {
  while (address >= read_end_) {  // ends: previous addresses fall
    const char* problem = nullptr;
    Address prev;
    bool in_memory = false;
    {
      const EpochGuard guard(core_.epochs, slot);
      // Only records in memory need a guard; it is left before a read of the device.
      in_memory = address >= log_.head_acquire();
      if (in_memory) {
        const Record record(log_.At(address, guard), shape_);
        const RecordHeader header = record.header().LoadAcquire();
        prev = header.prev();
        const std::uint64_t room = geometry_.payload_bytes() - geometry_.OffsetOf(address);
        if (header.kind() != RecordKind::kRecord || !header.valid() || header.has_reserved() ||
            room < shape_.prefix_bytes() || record.ExtentOf() > room) {
          problem = "is not valid, but a chain leads to it";
        } else if (ChainOf(core_.HashOf(record) ^ hash) != 0) {
          problem = "belongs to another chain than the one that leads to it";
        } else if (prev >= address) {
          problem = "links to a later record";
        }
      }
      if (stop_()) return false;
      // Without a valid second check, the record may have been read from a frame that was reused.
      if (!guard.Look()) continue;
    }
    if (!in_memory) {  // flushed and evicted since the log was read
      const absl::StatusOr<Record> record = core_.reader.ReadRecord(address, record_);
      if (IsStarved(record.status())) return false;
      if (!record.ok()) {
        AddProblem(options_, std::string(record.status().message()), report_);
        return true;
      }
      prev = record->header().LoadAcquire().prev();
      if (ChainOf(core_.HashOf(*record) ^ hash) != 0) {
        problem = "belongs to another chain than the one that leads to it";
      }
    }
    if (problem != nullptr) {
      Problem(address, problem);
      return true;
    }
    address = prev;
  }
  CheckLanding(address, hash);
  return true;
}

bool LogVerifier::InUnread(Address address) const {
  return std::any_of(unread_.begin(), unread_.end(), [&](const AddressRange& range) {
    return address >= range.from && address < range.end;
  });
}

// The chain has reached the part that was read: it must do so at the newest record of that part.
void LogVerifier::CheckLanding(Address address, std::uint64_t hash) {
  const IndexEntry newest = newest_.Find(hash).entry;
  const Address expected = newest.is_empty() ? kNoRecord : newest.address();
  if (address == expected || (IsDead(address, begin_) && IsDead(expected, begin_))) return;
  if (InUnread(address)) return;
  if (address < expected) {
    // Correct only if the records passed over were void when the newest incarnation began.
    const std::uint64_t first_block = log_.incarnations().back().first_block;
    if (geometry_.BlockOf(expected) >= first_block) {
      Problem(expected, "is in no chain");
      return;
    }
    if (IsDead(address, begin_)) return;
  }
  if (!LeadsToChain(address, hash))
    Problem(address, "does not belong to the chain that leads to it");
}

// Finds chains of the log to which no entry of the index leads. Records of earlier incarnations are
// left out, since only an opening knows which of them are void.
void LogVerifier::FindMissingChains() {
  const OwnSlot slot(core_.epochs);
  const std::uint64_t first_block = log_.incarnations().back().first_block;
  for (std::uint64_t bucket = 0; bucket < newest_.bucket_count(); ++bucket) {
    const EpochGuard guard(core_.epochs, *slot);
    newest_.ForEachEntry(bucket, [&](IndexEntry newest) {
      if (geometry_.BlockOf(newest.address()) < first_block) return;
      const std::uint64_t tag_bits = std::uint64_t{newest.tag()} << newest_.creation_exponent();
      const IndexEntry entry = core_.index.Find(bucket | tag_bits).entry;
      if (entry.is_empty() || IsDead(entry.address(), begin_)) {
        Problem(newest.address(), "is in no chain");
      }
    });
  }
}

}  // namespace ebb::internal
