// MetricsSnapshot: what a store has done since it was opened or its metrics were reset, and the two
// text forms of it.
//
// Sessions count for themselves and nobody waits for them, so a snapshot that is taken while
// operations run may be behind by the last ones of each session, and its numbers may belong to
// slightly different moments. When no operation runs it is exact. An operation counts from its
// beginning.
//
// Thread safety: plain data; the functions are pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ebb/internal/check.h"

namespace ebb {

enum class OpKind : std::uint8_t {
  kRead,  // Contains too
  kUpsert,
  kRmw,
  kDelete,
  kInsert,
  kCompareExchange,
  kScan,  // counted when they begin; neither timed nor asked how they ended
};
inline constexpr std::size_t kOpKindCount = 7;
// As in the text forms: "read", "compare_exchange".
const char* NameOf(OpKind kind);

// Nanoseconds from the call to its return, callbacks included. A percentile is the upper end of the
// histogram's bucket that it falls into: never too low, too high by at most a sixteenth, or up to
// max_ns. All 0 unless Options::measure_latency.
struct LatencySummary {
  std::uint64_t count = 0;
  std::uint64_t sum_ns = 0;
  std::uint64_t p50_ns = 0;
  std::uint64_t p95_ns = 0;
  std::uint64_t p99_ns = 0;
  std::uint64_t p999_ns = 0;
  // Exact until metrics are reset, then as the percentiles.
  std::uint64_t max_ns = 0;
};

struct OperationMetrics {
  std::uint64_t count = 0;
  // Of these: answered NotFound, AlreadyExists or Aborted. So reads of absent keys.
  std::uint64_t without_effect = 0;
  std::uint64_t refused = 0;  // answered with an error
  std::uint64_t general = 0;  // took the long way: a wait, an append, the device
  LatencySummary latency;

  std::uint64_t effective() const { return count - without_effect - refused; }
};

struct MetricsSnapshot {
  double seconds = 0;  // since Open or ResetMetrics
  std::array<OperationMetrics, kOpKindCount> operations;
  const OperationMetrics& operator[](OpKind kind) const {
    return operations[static_cast<std::size_t>(kind)];
  }

  // Reads that found their key, by where its newest record was.
  std::uint64_t reads_from_memory = 0;
  std::uint64_t reads_from_device = 0;
  // Updates that made a new record; the others that had an effect changed one in place.
  std::uint64_t appended_records = 0;

  // Copies that reads have appended of what was on the device (Options::promote_reads).
  std::uint64_t promoted_records = 0;

  // Of values given to callers. (Of types with a fixed size: values found, also by Contains.)
  std::uint64_t user_read_bytes = 0;
  // Of keys and values that updates with an effect were about; of keys alone for deletes.
  std::uint64_t user_written_bytes = 0;
  // Blocks of the log written by flushes, and files of checkpoints. Headers of the log's files and
  // space taken in advance do not count.
  std::uint64_t log_written_bytes = 0;
  std::uint64_t checkpoint_written_bytes = 0;
  std::uint64_t device_reads = 0;  // of the log, also for scans and collections
  std::uint64_t device_read_bytes = 0;

  // Why operations waited or started again.
  std::uint64_t page_waits = 0;        // for the next page of the log, so for the device when short
  std::uint64_t throttle_waits = 0;    // of updates, for a collection that is behind (GcOptions)
  std::uint64_t fuzzy_waits = 0;       // for a record to freeze
  std::uint64_t device_waits = 0;      // for the part of a chain that is on the device
  std::uint64_t contended_waits = 0;   // for another update of the same chain
  std::uint64_t restarts = 0;          // because a boundary or the version moved meanwhile
  std::uint64_t lost_publications = 0;  // another update of the chain was first

  std::uint64_t page_turns = 0;      // pages of the log that were begun
  std::uint64_t commits = 0;         // that made something durable
  std::uint64_t failed_commits = 0;  // Commit returns the cause of the last one
  std::uint64_t checkpoints = 0;
  std::uint64_t failed_checkpoints = 0;
  std::uint64_t checkpoint_ms = 0;  // that the completed ones took together
  // Collections of garbage that had something to do, and what they did (GcStats).
  std::uint64_t collections = 0;
  std::uint64_t failed_collections = 0;
  std::uint64_t collection_scanned_bytes = 0;
  std::uint64_t collection_copied_bytes = 0;
  std::uint64_t collection_freed_bytes = 0;

  // Refused operations by kind of error (ebb/status.h).
  std::uint64_t user_errors = 0;
  std::uint64_t recoverable_errors = 0;
  std::uint64_t corruption_errors = 0;
  std::uint64_t lasting_errors = 0;  // none of the three: for example of a poisoned store

  // Bytes written to the device for each byte of the users' updates: log_written_bytes and
  // checkpoint_written_bytes over user_written_bytes; 0 before there are any. What is still in
  // memory has not been written, so over a short time it can be far too low.
  double write_amplification() const;
};

// One object, in one line.
std::string ToJson(const MetricsSnapshot& metrics);
// The text format of Prometheus, version 0.0.4: metrics named ebb_..., operations told apart by the
// label op. Latencies stand there only when they were measured.
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
    {"operations", "Operations begun", &OperationMetrics::count},
    {"operations_without_effect", "Operations that found the key absent, present or different",
     &OperationMetrics::without_effect},
    {"operations_refused", "Operations answered with an error", &OperationMetrics::refused},
    {"operations_general", "Operations that took the long way", &OperationMetrics::general},
}};
inline constexpr std::array<MetricField, 32> kMetricFields = {{
    {"reads_from_memory", "Keys found in memory", &MetricsSnapshot::reads_from_memory},
    {"reads_from_device", "Keys found on the device", &MetricsSnapshot::reads_from_device},
    {"appended_records", "Records made by updates", &MetricsSnapshot::appended_records},
    {"promoted_records", "Copies made by reads", &MetricsSnapshot::promoted_records},
    {"user_read_bytes", "Bytes of values given to callers", &MetricsSnapshot::user_read_bytes},
    {"user_written_bytes", "Bytes of keys and values of updates",
     &MetricsSnapshot::user_written_bytes},
    {"log_written_bytes", "Bytes of log written to the device",
     &MetricsSnapshot::log_written_bytes},
    {"checkpoint_written_bytes", "Bytes of checkpoints written",
     &MetricsSnapshot::checkpoint_written_bytes},
    {"device_reads", "Reads of the log on the device", &MetricsSnapshot::device_reads},
    {"device_read_bytes", "Bytes of log read from the device", &MetricsSnapshot::device_read_bytes},
    {"page_waits", "Waits for the next page of the log", &MetricsSnapshot::page_waits},
    {"throttle_waits", "Waits of updates for a collection of garbage that is behind",
     &MetricsSnapshot::throttle_waits},
    {"fuzzy_waits", "Waits for a record to freeze", &MetricsSnapshot::fuzzy_waits},
    {"device_waits", "Waits for records on the device", &MetricsSnapshot::device_waits},
    {"contended_waits", "Waits for another update of the same chain",
     &MetricsSnapshot::contended_waits},
    {"restarts", "Operations begun again because a boundary or version moved",
     &MetricsSnapshot::restarts},
    {"lost_publications", "Publications that lost a race", &MetricsSnapshot::lost_publications},
    {"page_turns", "Pages of the log filled", &MetricsSnapshot::page_turns},
    {"commits", "Commits that made something durable", &MetricsSnapshot::commits},
    {"failed_commits", "Commits that failed", &MetricsSnapshot::failed_commits},
    {"checkpoints", "Checkpoints completed", &MetricsSnapshot::checkpoints},
    {"failed_checkpoints", "Checkpoints that failed", &MetricsSnapshot::failed_checkpoints},
    {"checkpoint_milliseconds", "Time that completed checkpoints took",
     &MetricsSnapshot::checkpoint_ms},
    {"collections", "Collections of garbage that had something to do",
     &MetricsSnapshot::collections},
    {"failed_collections", "Collections of garbage that failed",
     &MetricsSnapshot::failed_collections},
    {"collection_scanned_bytes", "Bytes of log that collections went through",
     &MetricsSnapshot::collection_scanned_bytes},
    {"collection_copied_bytes", "Bytes of live records that collections copied",
     &MetricsSnapshot::collection_copied_bytes},
    {"collection_freed_bytes", "Bytes that collections gave back to the file system",
     &MetricsSnapshot::collection_freed_bytes},
    {"user_errors", "Operations refused for what the caller passed or when",
     &MetricsSnapshot::user_errors},
    {"recoverable_errors", "Operations refused for what may pass",
     &MetricsSnapshot::recoverable_errors},
    {"corruption_errors", "Operations refused for damaged bytes",
     &MetricsSnapshot::corruption_errors},
    {"lasting_errors", "Operations refused until the store is reopened",
     &MetricsSnapshot::lasting_errors},
}};

}  // namespace internal
}  // namespace ebb
