#include "ebb/internal/compaction.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "ebb/internal/hash.h"
#include "ebb/internal/log_reader.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kChunkBytes = std::uint64_t{2} << 20;
constexpr std::uint64_t kAheadBytes = std::uint64_t{1} << 20;

std::uint64_t HashOf(const Record& record, RecordShape shape) {
  return HashKey(record.key(), record.key_length(), !shape.key_variable());
}

std::uint32_t ValueBytes(const Record& record, RecordShape shape) {
  return shape.locked() ? record.lock().LoadAcquire().value_bytes() : shape.value_bytes;
}

}  // namespace

absl::StatusOr<Address> Compaction::Run(Address end, std::uint64_t pass_bytes, const Stop& stop) {
  const Address begin = core_.log.begin();
  absl::StatusOr<Address> until = RunChunks(end, pass_bytes, kChunkBytes, stop);
  // So little space is left that not even one chunk could be copied: a smaller one may do.
  const bool no_space =
      absl::IsResourceExhausted(until.status()) || (until.ok() && *until == begin);
  if (!no_space) return until;
  const std::uint64_t spare = HybridLog::SpareBlocks(core_.log.geometry()) * kBlockBytes;
  return RunChunks(end, std::min(pass_bytes, spare / 2), spare / 2, stop);
}

absl::StatusOr<Address> Compaction::RunChunks(Address end, std::uint64_t pass_bytes,
                                              std::uint64_t chunk_bytes, const Stop& stop) {
  const Address begin = core_.log.begin();
  if (begin >= end) return begin;
  const std::uint64_t chunk = std::min(chunk_bytes, pass_bytes);
  LogReader reader(core_, slot_, {.from = begin, .end = end},
                   {.chunk_bytes = chunk, .ahead_bytes = std::min(chunk, kAheadBytes)});
  std::vector<Liveness::Candidate> candidates;
  Address done = begin;
  while (done - begin < pass_bytes) {
    absl::StatusOr<std::span<const LogReader::Item>> items = reader.Next();
    if (!items.ok()) return items.status();
    if (items->empty()) return end;
    candidates.clear();
    for (const LogReader::Item& item : *items) {
      if (item.record.header().LoadAcquire().tombstone()) continue;
      candidates.push_back({item.record, item.address});
    }
    absl::Status status = liveness_.Decide(candidates, Liveness::kEverything);
    std::uint64_t copied = 0;
    for (const Liveness::Candidate& candidate : candidates) {
      if (!status.ok()) break;
      if (!candidate.live) continue;
      status = Copy(candidate);
      copied += status.ok() ? 1 : 0;
    }
    if (absl::IsResourceExhausted(status) && done != begin) return done;
    if (!status.ok()) return status;
    stats_.scanned_records += items->size();
    stats_.dropped_records += items->size() - copied;
    stats_.scanned_bytes += reader.cursor() - done;
    done = reader.cursor();
    if (stop(stats_)) break;
  }
  return done;
}

Compaction::Above Compaction::LookAbove(const Liveness::Candidate& live, IndexEntry entry,
                                        const EpochGuard& guard) const {
  const Address head = core_.log.head_acquire();
  Address address = entry.address();
  while (address > live.head.address()) {  // ends: previous addresses fall
    if (address < head) return Above::kUnknown;
    const Record record(core_.log.At(address, guard), core_.log.shape());
    if (SameKey(record, live.record)) return Above::kSuccessor;
    address = record.header().LoadAcquire().prev();
  }
  return Above::kNothing;
}

absl::Status Compaction::Copy(const Liveness::Candidate& decided) {
  HybridLog& log = core_.log;
  const RecordShape shape = log.shape();
  Liveness::Candidate live = decided;
  const std::uint64_t hash = HashOf(live.record, shape);
  const std::uint32_t value_bytes = ValueBytes(live.record, shape);
  const std::uint64_t extent = shape.ExtentFor(live.record.key_length(), value_bytes);
  Backoff backoff;
  // Each turn means that something was bumped, the chain has grown, or there was no room.
  for (;;) {
    if (core_.epochs.closed()) return core_.ClosedError();
    enum class Next { kWait, kRoom, kDecide };
    Next next = Next::kWait;
    {
      EpochGuard guard(core_.epochs, slot_);
      HashIndex::Slot slot;
      if (core_.index.FindForUpdate(hash, slot) == HashIndex::CreateResult::kFound) {
        const Above above = LookAbove(live, slot.entry, guard);
        if (!guard.Look()) continue;
        if (above == Above::kSuccessor) return absl::OkStatus();
        if (above == Above::kUnknown) {
          next = Next::kDecide;
        } else {
          const Address copy = log.Allocate(extent, guard, HybridLog::Space::kSpare);
          next = Next::kRoom;
          if (!copy.is_null()) {
            const Record record(log.At(copy, guard), shape);
            const RecordHeader header =
                RecordHeader::Make(RecordKind::kRecord, slot.entry.address(), guard.version_bits());
            record.Init(header, live.record.key(), live.record.key_length(), value_bytes,
                        value_bytes);
            CopyToLog(live.record.value(), value_bytes, record.value());
            record.header().StoreRelaxed(header.With(RecordHeader::kValid));
            if (HashIndex::Publish(slot, copy)) {
              ++stats_.copied_records;
              stats_.copied_bytes += extent;
              return absl::OkStatus();
            }
            record.header().StoreRelaxed(header);
            continue;
          }
        }
      }
    }
    switch (next) {
      case Next::kWait:  // its piece of the index is being moved
        backoff.Wait();
        break;
      case Next::kRoom:
        if (absl::Status room = log.WaitForPage(extent, HybridLog::Space::kSpare); !room.ok()) {
          return room;
        }
        break;
      case Next::kDecide: {
        absl::Status status = liveness_.Decide({&live, 1}, Liveness::kEverything);
        if (!status.ok()) return status;
        if (!live.live) return absl::OkStatus();
        break;
      }
    }
  }
}

// ---- estimates ----

namespace {

// The mean extent of some of the records at these addresses, which are on the device; 0: none could
// be read.
std::uint64_t MeanExtentOnDevice(HybridLog& log, const std::vector<Address>& addresses) {
  constexpr std::size_t kMostReads = 64;
  DeviceBuffer buffer;
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  const std::size_t step = addresses.size() / kMostReads + 1;
  for (std::size_t i = 0; i < addresses.size(); i += step) {
    absl::StatusOr<Record> record = log.ReadFromDevice(addresses[i], buffer);
    if (!record.ok()) continue;  // this is an estimate; who needs the record hears of it
    ++count;
    bytes += record->ExtentOf();
  }
  return count == 0 ? 0 : bytes / count;
}

}  // namespace

GcEstimate EstimateGarbage(Core& core, EpochSlot& slot) {
  constexpr std::uint64_t kMostBuckets = 4096;
  constexpr std::uint64_t kGroup = 16;  // buckets, under one guard
  HybridLog& log = core.log;
  const Geometry& geometry = log.geometry();
  const RecordShape shape = log.shape();
  GcEstimate estimate;
  const Address begin = log.begin();
  const Address tail = log.tail();
  estimate.log_bytes = (geometry.BlockOf(tail) - geometry.BlockOf(begin)) * kBlockBytes;
  // Both are powers of two. The low bits of hashes name the buckets, so any few are like all.
  const std::uint64_t bucket_count = core.index.bucket_count();
  const std::uint64_t step = bucket_count / std::min(bucket_count, kMostBuckets);
  std::uint64_t live = 0;
  std::uint64_t measured = 0;  // in memory, so that their extent can be seen
  std::uint64_t measured_bytes = 0;
  std::vector<Address> on_device;
  for (std::uint64_t bucket = 0; bucket < bucket_count;) {
    const std::uint64_t end = std::min(bucket_count, bucket + kGroup * step);
    EpochGuard guard(core.epochs, slot);
    const Address head = log.head_acquire();
    for (; bucket < end; bucket += step) {
      core.index.ForEachEntry(bucket, [&](IndexEntry entry) {
        if (entry.address() < begin) return;
        ++live;
        if (entry.address() < head) {
          if (shape.has_lengths()) on_device.push_back(entry.address());
          return;
        }
        const Record record(log.At(entry.address(), guard), shape);
        ++measured;
        measured_bytes += record.ExtentOf();
        if (record.header().LoadAcquire().tombstone()) --live;
      });
    }
  }
  if (const std::uint64_t mean = MeanExtentOnDevice(log, on_device); mean != 0) {
    measured += on_device.size();
    measured_bytes += on_device.size() * mean;
  }
  // Where no record can be seen, those of the least extent.
  const auto least = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? 0 : bytes;
  };
  const std::uint64_t extent =
      measured != 0 ? measured_bytes / measured
                    : shape.ExtentFor(least(shape.key_bytes), least(shape.value_bytes));
  estimate.live_records = live * step;
  estimate.live_bytes = std::min(estimate.log_bytes, estimate.live_records * extent);
  estimate.garbage_bytes = estimate.log_bytes - estimate.live_bytes;
  return estimate;
}

}  // namespace ebb::internal
