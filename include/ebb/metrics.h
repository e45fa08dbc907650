/// @file
/// Declares ebb::MetricsSnapshot, the counts of a store since it was opened or its metrics were
/// reset, and its two text forms.
///
/// Sessions count separately, without waiting for each other. So a snapshot that is taken while
/// operations run may miss the last ones of each session, and its numbers may belong to slightly
/// different moments. It is exact when no operation runs. An operation is counted when it begins.
/// All counts start at 0.
///
/// Thread safety: plain data; the functions are pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ebb/internal/values/check.h"

namespace ebb {

/// The kinds of operations that are counted separately.
enum class OpKind : std::uint8_t {
  /// Read, and Contains too.
  kRead,
  /// Upsert.
  kUpsert,
  /// Rmw.
  kRmw,
  /// Delete.
  kDelete,
  /// InsertIfAbsent.
  kInsert,
  /// CompareExchange.
  kCompareExchange,
  /// Scans and iterators. They are counted when they begin, and are not timed; their outcome is not
  /// counted.
  kScan,
};
/// The number of kinds.
inline constexpr std::size_t kOpKindCount = 7;
/// Returns the name of a kind in the text forms, for example "read" or "compare_exchange".
const char* NameOf(OpKind kind);

/// The latencies of one kind of operation in nanoseconds, from the call to its return, callbacks
/// included. All values are 0 unless Options::measure_latency is set.
///
/// A percentile is the upper end of its histogram bucket. It is never too low, and too high by at
/// most 1/16 and at most up to max_ns.
struct LatencySummary {
  /// Operations timed.
  std::uint64_t count = 0;
  /// The sum of all latencies.
  std::uint64_t sum_ns = 0;
  /// The median.
  std::uint64_t p50_ns = 0;
  /// The 95th percentile.
  std::uint64_t p95_ns = 0;
  /// The 99th percentile.
  std::uint64_t p99_ns = 0;
  /// The 99.9th percentile.
  std::uint64_t p999_ns = 0;
  /// The longest latency. Exact until metrics are reset; after that as precise as the percentiles.
  std::uint64_t max_ns = 0;
};

/// The counts of one kind of operation.
struct OperationMetrics {
  /// Operations begun.
  std::uint64_t count = 0;
  /// Operations of these that returned NotFound, AlreadyExists or Aborted, for example reads of
  /// absent keys.
  std::uint64_t no_op = 0;
  /// Operations of these that returned an error.
  std::uint64_t refused = 0;
  /// Operations of these that took the slow path: a wait, an append, or the device.
  std::uint64_t slow_path = 0;
  /// The latencies of these operations.
  LatencySummary latency;

  /// Returns the number of operations that had an effect.
  std::uint64_t effective() const { return count - no_op - refused; }
};

/// The counts of a store. See Store::Metrics.
struct MetricsSnapshot {
  /// Seconds since Open or the last ResetMetrics.
  double seconds = 0;
  /// The counts for each kind of operation, in the order of OpKind.
  std::array<OperationMetrics, kOpKindCount> operations;
  /// Returns the counts of one kind, for example `metrics[OpKind::kRead].count`.
  const OperationMetrics& operator[](OpKind kind) const {
    return operations[static_cast<std::size_t>(kind)];
  }

  /// Reads that found their key in memory.
  std::uint64_t reads_from_memory = 0;
  /// Reads that found their key on the device.
  std::uint64_t reads_from_device = 0;
  /// Records appended by updates. All other updates with an effect changed a record in place.
  std::uint64_t appended_records = 0;

  /// Copies appended by reads of records on the device (Options::promote_reads).
  std::uint64_t promoted_records = 0;

  /// Bytes of values returned to callers. For types with a fixed size: bytes of values found, also
  /// by Contains.
  std::uint64_t user_read_bytes = 0;
  /// Bytes of keys and values of updates with an effect; for deletes, of keys only.
  std::uint64_t user_written_bytes = 0;
  /// Bytes of log blocks written by flushes. Excludes headers of log files and reserved space.
  std::uint64_t log_written_bytes = 0;
  /// Bytes of checkpoint files written.
  std::uint64_t checkpoint_written_bytes = 0;
  /// Device reads of the log, also for scans and collections.
  std::uint64_t device_reads = 0;
  /// Bytes of the log read from the device.
  std::uint64_t device_read_bytes = 0;

  /// Waits of operations for the next page of the log. A page needs a free frame, so operations
  /// wait for the device when updates outpace it.
  std::uint64_t page_waits = 0;
  /// Waits of updates that were throttled because they outpaced a collection (GcOptions).
  std::uint64_t throttle_waits = 0;
  /// Waits of updates for a record that is becoming read-only.
  std::uint64_t fuzzy_waits = 0;
  /// Waits of operations for records on the device.
  std::uint64_t device_waits = 0;
  /// Waits of updates for another update of the same chain of records.
  std::uint64_t contended_waits = 0;
  /// Operations restarted because a boundary of the log or the version changed.
  std::uint64_t restarts = 0;
  /// Appended records that were not published because another update of the chain was faster.
  std::uint64_t lost_publications = 0;

  /// Pages of the log that were begun.
  std::uint64_t page_turns = 0;
  /// Commits that made something durable.
  std::uint64_t commits = 0;
  /// Commits that failed. Store::Commit returns the cause of the last failure.
  std::uint64_t failed_commits = 0;
  /// Checkpoints completed.
  std::uint64_t checkpoints = 0;
  /// Checkpoints that failed; CheckpointStats::last_error has the last cause.
  std::uint64_t failed_checkpoints = 0;
  /// Milliseconds that the completed checkpoints took in total.
  std::uint64_t checkpoint_ms = 0;
  /// Garbage collections that had something to do, on request or automatic.
  std::uint64_t collections = 0;
  /// Garbage collections that failed.
  std::uint64_t failed_collections = 0;
  /// Bytes of log that collections scanned.
  std::uint64_t collection_scanned_bytes = 0;
  /// Bytes of live records that collections copied to the tail.
  std::uint64_t collection_copied_bytes = 0;
  /// Bytes that collections returned to the file system.
  std::uint64_t collection_freed_bytes = 0;

  /// Operations rejected because of an argument, the time of the call or a permission
  /// (IsUserError).
  std::uint64_t user_errors = 0;
  /// Operations rejected for a cause that may pass (IsRecoverable).
  std::uint64_t recoverable_errors = 0;
  /// Operations rejected because bytes on the device are damaged (IsCorruption).
  std::uint64_t corruption_errors = 0;
  /// Operations rejected for a lasting cause, for example by a poisoned store.
  std::uint64_t lasting_errors = 0;

  /// Returns the bytes written to the device for each byte of updates: log_written_bytes plus
  /// checkpoint_written_bytes, divided by user_written_bytes; 0 before there are any. Records that
  /// are still in memory have not been written. So over a short time the ratio can be far too low.
  double write_amplification() const;
};

/// Returns the snapshot as one JSON object in one line.
std::string ToJson(const MetricsSnapshot& metrics);
/// Returns the snapshot in the text format of Prometheus, version 0.0.4. The names begin with ebb_,
/// and the label `op` distinguishes operations. Latencies appear only if they were measured.
std::string ToPrometheus(const MetricsSnapshot& metrics);

namespace internal {

// The plain counters of a snapshot, for loops over all of them.
struct MetricField {
  const char* name;
  const char* help;
  std::uint64_t MetricsSnapshot::*value;
};
struct OperationField {
  const char* name;
  const char* help;
  std::uint64_t OperationMetrics::*value;
};
inline constexpr std::array<OperationField, 4> kOperationFields = {{
    {"operations", "Operations started", &OperationMetrics::count},
    {"operations_no_op", "Operations that found the key absent, present or different",
     &OperationMetrics::no_op},
    {"operations_refused", "Operations that returned an error", &OperationMetrics::refused},
    {"operations_slow_path", "Operations that took the slow path", &OperationMetrics::slow_path},
}};
inline constexpr std::array<MetricField, 32> kMetricFields = {{
    {"reads_from_memory", "Keys found in memory", &MetricsSnapshot::reads_from_memory},
    {"reads_from_device", "Keys found on the device", &MetricsSnapshot::reads_from_device},
    {"appended_records", "Records appended by updates", &MetricsSnapshot::appended_records},
    {"promoted_records", "Records copied to the tail of the log by reads",
     &MetricsSnapshot::promoted_records},
    {"user_read_bytes", "Bytes of values returned to callers", &MetricsSnapshot::user_read_bytes},
    {"user_written_bytes", "Bytes of keys and values of updates",
     &MetricsSnapshot::user_written_bytes},
    {"log_written_bytes", "Bytes of log written to the device",
     &MetricsSnapshot::log_written_bytes},
    {"checkpoint_written_bytes", "Bytes of checkpoints written",
     &MetricsSnapshot::checkpoint_written_bytes},
    {"device_reads", "Reads of the log on the device", &MetricsSnapshot::device_reads},
    {"device_read_bytes", "Bytes of log read from the device", &MetricsSnapshot::device_read_bytes},
    {"page_waits", "Waits for the next page of the log", &MetricsSnapshot::page_waits},
    {"throttle_waits", "Updates delayed because they outpaced garbage collection",
     &MetricsSnapshot::throttle_waits},
    {"fuzzy_waits", "Waits for a record to freeze", &MetricsSnapshot::fuzzy_waits},
    {"device_waits", "Waits for records on the device", &MetricsSnapshot::device_waits},
    {"contended_waits", "Waits for another update of the same chain",
     &MetricsSnapshot::contended_waits},
    {"restarts", "Operations repeated because a boundary or version moved",
     &MetricsSnapshot::restarts},
    {"lost_publications", "Publications that lost a race", &MetricsSnapshot::lost_publications},
    {"page_turns", "Pages of the log filled", &MetricsSnapshot::page_turns},
    {"commits", "Commits that made something durable", &MetricsSnapshot::commits},
    {"failed_commits", "Commits that failed", &MetricsSnapshot::failed_commits},
    {"checkpoints", "Checkpoints completed", &MetricsSnapshot::checkpoints},
    {"failed_checkpoints", "Checkpoints that failed", &MetricsSnapshot::failed_checkpoints},
    {"checkpoint_milliseconds", "Time spent in completed checkpoints",
     &MetricsSnapshot::checkpoint_ms},
    {"collections", "Garbage collections that found garbage", &MetricsSnapshot::collections},
    {"failed_collections", "Garbage collections that failed", &MetricsSnapshot::failed_collections},
    {"collection_scanned_bytes", "Bytes of log scanned by garbage collections",
     &MetricsSnapshot::collection_scanned_bytes},
    {"collection_copied_bytes", "Bytes of live records copied by garbage collections",
     &MetricsSnapshot::collection_copied_bytes},
    {"collection_freed_bytes", "Bytes of disk space freed by garbage collections",
     &MetricsSnapshot::collection_freed_bytes},
    {"user_errors", "Operations rejected because of their arguments or timing",
     &MetricsSnapshot::user_errors},
    {"recoverable_errors", "Operations rejected by a condition that may pass",
     &MetricsSnapshot::recoverable_errors},
    {"corruption_errors", "Operations rejected because of damaged data",
     &MetricsSnapshot::corruption_errors},
    {"lasting_errors", "Operations rejected until the store is reopened",
     &MetricsSnapshot::lasting_errors},
}};

}  // namespace internal
}  // namespace ebb
