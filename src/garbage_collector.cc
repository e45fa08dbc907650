#include "ebb/internal/garbage_collector.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <thread>

#include "ebb/internal/clock.h"
#include "ebb/internal/compaction.h"

namespace ebb::internal {
namespace {

using Clock = std::chrono::steady_clock;

// A collection has gone through more than it may by now.
bool IsAhead(const GcOptions& options, const GcStats& now, Clock::time_point begun) {
  return options.max_bytes_per_second != 0 &&
         static_cast<double>(now.scanned_bytes) >
             std::chrono::duration<double>(Clock::now() - begun).count() *
                 static_cast<double>(options.max_bytes_per_second);
}

// The length of the log from which on there is enough to collect.
std::uint64_t DueBytes(const GcOptions& options, const GcEstimate& estimate) {
  const double due =
      static_cast<double>(estimate.live_bytes) / std::max(options.target_utilization, 0.01);
  return std::max(static_cast<std::uint64_t>(due), estimate.live_bytes + options.min_reclaim_bytes);
}

// The mean extent of some of the records on the device; 0: none could be read.
std::uint64_t MeanExtentOnDevice(HybridLog& log, const Core::IndexSample& sample) {
  DeviceBuffer buffer;
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  const std::size_t known = std::min(sample.on_device, Core::IndexSample::kMostAddresses);
  for (std::size_t i = 0; i < known; ++i) {
    absl::StatusOr<Record> record = log.ReadFromDevice(sample.addresses[i], buffer);
    if (!record.ok()) continue;  // this is an estimate; who needs the record hears of it
    ++count;
    bytes += record->ExtentOf();
  }
  return count == 0 ? 0 : bytes / count;
}

}  // namespace

// ---- what is due ----

GcEstimate GarbageCollector::Estimate() {
  constexpr std::uint64_t kMostBuckets = 4096;
  const Geometry& geometry = core_.log.geometry();
  const RecordShape shape = core_.log.shape();
  const Core::IndexSample sample = core_.SampleIndex(slot_, kMostBuckets);
  std::uint64_t measured = sample.in_memory;
  std::uint64_t measured_bytes = sample.bytes;
  if (shape.has_lengths()) {
    const std::uint64_t mean = MeanExtentOnDevice(core_.log, sample);
    measured += mean == 0 ? 0 : sample.on_device;
    measured_bytes += sample.on_device * mean;
  }
  // Where no record can be seen, those of the least extent.
  const auto least = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? 0 : bytes;
  };
  const std::uint64_t extent =
      measured != 0 ? measured_bytes / measured
                    : shape.ExtentFor(least(shape.key_bytes), least(shape.value_bytes));
  GcEstimate estimate;
  estimate.log_bytes =
      (geometry.BlockOf(core_.log.tail()) - geometry.BlockOf(core_.log.begin())) * kBlockBytes;
  estimate.live_records = (sample.entries - sample.tombstones) * sample.step;
  estimate.live_bytes = std::min(estimate.log_bytes, estimate.live_records * extent);
  estimate.garbage_bytes = estimate.log_bytes - estimate.live_bytes;
  return estimate;
}

bool GarbageCollector::IsDue(const GcOptions& options, const GcEstimate& estimate) {
  if (estimate.log_bytes == 0 || estimate.garbage_bytes < options.min_reclaim_bytes) return false;
  // 1 is not left to an estimate.
  return options.target_utilization >= 1 ||
         static_cast<double>(estimate.live_bytes) <
             options.target_utilization * static_cast<double>(estimate.log_bytes);
}

// ---- collecting ----

absl::StatusOr<GcStats> GarbageCollector::Collect(const GcOptions& options, Pace pace) {
  const Clock::time_point begun = Clock::now();
  GcStats stats;
  stats.initial_begin_address = core_.log.begin().value();
  absl::Status status = core_.health.poisoned() ? core_.health.status() : absl::OkStatus();
  try {
    if (status.ok()) status = RunPasses(options, pace, stats);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("no memory to collect garbage");
  }
  core_.log.ReleaseBrake();
  if (!status.ok()) {
    // Not again at the next page turn: what failed may go on failing.
    look_at_.store(core_.log.tail().value() + options.min_reclaim_bytes,
                   std::memory_order_relaxed);  // a hint
    return status;
  }
  stats.new_begin_address = core_.log.begin().value();
  stats.duration_ms = MillisecondsSince(begun);
  return stats;
}

absl::Status GarbageCollector::RunPasses(const GcOptions& options, Pace pace, GcStats& stats) {
  const Clock::time_point begun = Clock::now();
  const Address end = core_.log.tail();
  bool stopped = false;
  bool frozen = false;
  while (!stopped && core_.log.begin() < end) {
    const GcEstimate estimate = Estimate();
    if (!IsDue(options, estimate)) break;
    if (!frozen) core_.log.FreezeTo(end);
    frozen = true;
    const Address begin = core_.log.begin();
    const Address tail = core_.log.tail();
    const std::uint64_t scanned_before = stats.scanned_bytes;
    const auto stop = [&](const GcStats& now) {
      const std::uint64_t scanned = now.scanned_bytes - scanned_before;
      if (pace == Pace::kBraking) {
        core_.log.SetBrake(std::max(begin + DueBytes(options, estimate), tail + scanned / 4));
      }
      stopped = owner_.is_stopping() || (options.progress && !options.progress(now));
      while (!stopped && IsAhead(options, now, begun)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        stopped = owner_.is_stopping();
      }
      return stopped;
    };
    // What is young is mostly live: it is left for later, unless all is asked for.
    const std::uint64_t pass_bytes =
        options.target_utilization >= 1
            ? options.pass_bytes
            : std::min(options.pass_bytes, std::max(estimate.log_bytes / 2, kBlockBytes));
    absl::StatusOr<Address> until = Compaction(core_, slot_, stats).Run(end, pass_bytes, stop);
    if (!until.ok()) return until.status();
    if (*until == begin) break;
    absl::Status status = owner_.move_begin(*until);
    if (status.ok()) status = GiveBack(stats);
    if (!status.ok()) return status;
    ++stats.pass_count;
    if (pace == Pace::kOnePass) break;
  }
  LookLater(options);
  return GiveBack(stats);  // also what a scan has held up
}

// Live bytes change slowly, so the log will be due when it has grown to what they allow.
void GarbageCollector::LookLater(const GcOptions& options) {
  const GcEstimate now = Estimate();
  const std::uint64_t at = DueBytes(options, now);
  const std::uint64_t growth = at > now.log_bytes ? at - now.log_bytes : 0;
  look_at_.store(core_.log.tail().value() + std::max(growth, options.min_reclaim_bytes / 4),
                 std::memory_order_relaxed);  // a hint
}

// Also what an earlier collection could not give back because a scan still read there.
absl::Status GarbageCollector::GiveBack(GcStats& stats) {
  const Address limit = core_.pins.Limit(core_.log.begin());
  absl::StatusOr<std::uint64_t> freed =
      core_.files.device->TruncateFront(core_.log.geometry().FrontBlock(limit));
  if (!freed.ok()) return freed.status();
  stats.freed_bytes += *freed;
  // An entry that leads below begin is one without a record, so there is no haste: a sweep of the
  // index waits until the log has given back as many bytes as it looks at.
  if (limit.value() < swept_.value() + core_.index.memory_bytes()) return absl::OkStatus();
  for (std::uint64_t bucket = 0; bucket < core_.index.bucket_count(); ++bucket) {
    stats.removed_entries += core_.index.SweepBucket(bucket, limit);
  }
  swept_ = limit;
  return absl::OkStatus();
}

}  // namespace ebb::internal
