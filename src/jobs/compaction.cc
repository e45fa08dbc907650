#include "ebb/internal/jobs/compaction.h"

#include <algorithm>
#include <cstring>

#include "ebb/internal/base/backoff.h"

namespace ebb::internal {
namespace {

// A pass uses about seven times as much memory, four of them read ahead, so the chunk is smaller if
// the log has little memory.
std::uint64_t ChunkBytes(const Geometry& geometry) {
  return std::clamp(geometry.frame_count * geometry.page_bytes() / 32, std::uint64_t{1} << 18,
                    std::uint64_t{1} << 20);
}

std::uint32_t ValueBytes(const Record& record, RecordShape shape) {
  return shape.locked() ? record.lock().LoadAcquire().value_bytes() : shape.value_bytes;
}

}  // namespace

absl::StatusOr<Address> Compaction::Run(LogCursor::LogRange range, std::uint64_t pass_bytes,
                                        const Stop& stop) {
  // On a full disk a pass must fit into the slice of collections, which its own commit frees again.
  if (core_.log.space().is_short()) {
    const std::uint64_t slice_bytes = core_.log.space().ForCollection().slice_blocks * kBlockBytes;
    pass_bytes = std::min(pass_bytes, std::max<std::uint64_t>(slice_bytes / 2, kBlockBytes));
  }
  absl::StatusOr<Address> until = RunPass(range, pass_bytes, stop);
  // So little space is left that the live records could not be copied. Those of a smaller pass may
  // fit.
  while (absl::IsResourceExhausted(until.status()) && pass_bytes > kBlockBytes) {
    const std::uint64_t slice_bytes = core_.log.space().ForCollection().slice_blocks * kBlockBytes;
    pass_bytes = std::max<std::uint64_t>(std::min(pass_bytes / 4, slice_bytes), kBlockBytes);
    until = RunPass(range, pass_bytes, stop);
  }
  return until;
}

absl::StatusOr<Address> Compaction::RunPass(LogCursor::LogRange range, std::uint64_t pass_bytes,
                                            const Stop& stop) {
  const Address begin = range.from;
  if (begin >= range.end) return begin;
  // A live record is copied soon after it was read, so a chunk is a unit of progress and of
  // stopping.
  const std::uint64_t chunk = std::min(ChunkBytes(core_.log.geometry()), pass_bytes);
  LiveRecordReader reader(core_, slot_, range,
                          {.reading = {.chunk_bytes = chunk, .ahead_bytes = 4 * chunk}});
  const GcStats before = stats_;
  bool is_ending = false;
  // Walk of a garbage collection, 2.
  for (;;) {
    const absl::StatusOr<bool> more = reader.Step();
    absl::Status status = more.status();
    stats_.scanned_records = before.scanned_records + reader.read_records();
    stats_.scanned_bytes = before.scanned_bytes + (reader.cursor() - begin);
    // Everything in the range has been decided, and every live record copied.
    if (status.ok() && !*more) break;
    // Only after these copies are published may `settled` pass their records: begin must not pass a
    // live record without a copy.
    for (const LiveRecordReader::LiveRecord& item : reader.live()) {
      if (status.ok()) status = Copy(item);
    }
    // The part before the record that found no space is done, so it can be freed: the pass ends
    // there.
    if (absl::IsResourceExhausted(status) && reader.settled() != begin) break;
    if (!status.ok()) return status;
    // `stop` is called once per chunk. The reader then finishes only the records that it has
    // already begun to decide.
    if (!is_ending && (stop(stats_) || reader.cursor() >= begin + pass_bytes)) {
      reader.EndHere();
      is_ending = true;
    }
  }
  stats_.dropped_records = stats_.scanned_records - stats_.copied_records;
  return reader.settled();
}

// Checks whether the chain has a record of the same key above the live one.
Compaction::Above Compaction::LookAbove(const LiveRecordReader::LiveRecord& live, IndexEntry entry,
                                        const EpochGuard& guard) const {
  // Loaded under the guard: records below it must be read from the device, for which a guard must
  // not wait.
  const Address head = core_.log.head_acquire();
  Address address = entry.address();
  while (address > live.head.address()) {  // ends: previous addresses fall
    if (address < head) return Above::kUnknown;
    const Record record(core_.log.At(address, guard), core_.log.shape());
    if (record.key_length() == live.record.key_length() &&
        std::memcmp(record.key(), live.record.key(), record.key_length()) == 0) {
      return Above::kSuccessor;
    }
    address = record.header().LoadAcquire().prev();
  }
  return Above::kNothing;
}

absl::Status Compaction::Copy(const LiveRecordReader::LiveRecord& found) {
  const RecordShape shape = core_.log.shape();
  LiveRecordReader::LiveRecord live = found;
  const std::uint64_t extent =
      shape.ExtentFor(live.record.key_length(), ValueBytes(live.record, shape));
  Backoff backoff;
  // Each turn means that the epoch or the version was bumped, the chain has grown, or there was no
  // room.
  for (;;) {
    // A collection must not keep a store from closing; the records that it has copied are harmless.
    if (core_.epochs.closed()) return core_.ClosedError();
    if (core_.health.poisoned()) return core_.health.status();
    switch (TryCopy(live, extent)) {
      case Next::kDone:
        return absl::OkStatus();
      case Next::kWait:
        backoff.Wait();
        break;
      case Next::kMakeRoom:
        // Outside the guard. The copy may use the slice of collections.
        if (absl::Status room = core_.log.WaitForPage(extent, Space::kCollection); !room.ok()) {
          return room;
        }
        break;
      // The chain leads to the device above the live record, so a newer record may be there. Decide
      // without a guard, and then check again only the records above those that were decided.
      case Next::kDecide: {
        Liveness::Candidate candidate(live.record, live.address);
        absl::Status status = liveness_.Decide({&candidate, 1}, Liveness::kEverything);
        if (!status.ok() || !candidate.live()) return status;
        live.head = candidate.head;
        break;
      }
    }
  }
}

Compaction::Next Compaction::TryCopy(const LiveRecordReader::LiveRecord& live,
                                     std::uint64_t extent) {
  HybridLog& log = core_.log;
  const RecordShape shape = log.shape();
  EpochGuard guard(core_.epochs, slot_);
  HashIndex::EntrySlot slot;
  if (core_.index.FindForUpdate(core_.HashOf(live.record), slot) !=
      HashIndex::CreateResult::kFound) {
    return Next::kWait;  // its chunk of the index is being moved
  }
  // Walk of an Upsert, 3 and 4, for a value that does not change. Any record of the key above the
  // live one replaces it, even a tombstone.
  const Above above = LookAbove(live, slot.entry, guard);
  // The same second check as in an operation: without it the version bits below might be of a
  // version whose drain is over.
  if (!guard.Look()) return Next::kWait;
  if (above == Above::kSuccessor) return Next::kDone;
  if (above == Above::kUnknown) return Next::kDecide;
  const Address address = log.Allocate(extent, guard, Space::kCollection);
  if (address.is_null()) return Next::kMakeRoom;
  const std::uint32_t value_bytes = ValueBytes(live.record, shape);
  const Record copy(log.At(address, guard), shape);
  // The copy keeps the chain: its previous address is the entry that Publish expects. The flag
  // kCopy makes it frozen from the start: no operation updates it in place.
  const RecordHeader header =
      RecordHeader::Make(RecordKind::kRecord, slot.entry.address(), guard.version_bits())
          .With(RecordHeader::kCopy);
  copy.Init(header, live.record.key(), live.record.key_length(), value_bytes, value_bytes);
  CopyToLog(live.record.value(), value_bytes, copy.value());
  // Valid before it is published: afterwards any reader may be here.
  copy.header().StoreRelaxed(header.With(RecordHeader::kValid));
  // The CAS fails if anything was published in this chain since LookAbove, perhaps a newer record
  // of this key. So a copy never hides a newer record.
  if (HashIndex::Publish(slot, address)) {
    ++stats_.copied_records;
    stats_.copied_bytes += extent;
    return Next::kDone;
  }
  // No chain leads to it. Without the valid bit a scan of the log skips it.
  copy.header().StoreRelaxed(header);
  return Next::kWait;
}

}  // namespace ebb::internal
