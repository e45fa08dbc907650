/// @file
/// Declares the reports of a store: its state while it runs (ebb::StoreStats), the result of
/// opening it (ebb::RecoveryReport), and those of its long jobs.
///
/// Addresses are byte positions in the log; they only grow. Times that end in `unix_ms` are
/// milliseconds since 1970. Counts and sizes start at 0.
///
/// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ebb/internal/values/check.h"

namespace ebb {

/// A named session and the serial of its last update that is in the store.
struct SessionReport {
  /// The name, of 1 to 255 bytes.
  std::string name;
  /// The serial of the last update; 0 before the first.
  std::uint64_t serial = 0;
  /// Compares name and serial.
  bool operator==(const SessionReport&) const = default;
};

/// A checkpoint: an image of the index. The next Open reads it and only the part of the log after
/// it.
struct CheckpointInfo {
  /// Identifies the checkpoint. Grows and is never reused.
  std::uint64_t id = 0;
  /// When it was created.
  std::uint64_t created_unix_ms = 0;
  /// Entries of the image. Each is a chain of records, nearly always of one key.
  std::uint64_t entry_count = 0;
  /// The size of its files.
  std::uint64_t size_bytes = 0;
  /// The address from which an opening reads the log.
  std::uint64_t scan_address = 0;
  /// The address at which its commit ended.
  std::uint64_t durable_address = 0;
};

/// The checkpoints of a store. See Store::GetCheckpointStats.
struct CheckpointStats {
  /// Existing checkpoints.
  std::uint64_t checkpoint_count = 0;
  /// The size of their files.
  std::uint64_t total_size_bytes = 0;
  /// The id of the newest one; 0 if there is none.
  std::uint64_t latest_checkpoint_id = 0;
  /// Whether a checkpoint is running or requested.
  bool in_progress = false;
  /// Checkpoints completed since Open. Requests that found nothing to do are not counted.
  std::uint64_t completed_count = 0;
  /// Checkpoints that failed since Open.
  std::uint64_t failed_count = 0;
  /// How long the last completed checkpoint took.
  std::uint64_t last_duration_ms = 0;
  /// The error of the last failed checkpoint; empty if none has failed.
  std::string last_error;
};

/// The result of a garbage collection. All counts are of work done, not of work planned.
struct GcStats {
  /// The begin of the log before the collection.
  std::uint64_t initial_begin_address = 0;
  /// The begin of the log after it.
  std::uint64_t new_begin_address = 0;
  /// Passes over the beginning of the log.
  std::uint64_t pass_count = 0;
  /// Bytes of log scanned.
  std::uint64_t scanned_bytes = 0;
  /// Valid records scanned.
  std::uint64_t scanned_records = 0;
  /// Live records copied to the tail.
  std::uint64_t copied_records = 0;
  /// Bytes of these records.
  std::uint64_t copied_bytes = 0;
  /// Records not copied: superseded records and tombstones.
  std::uint64_t dropped_records = 0;
  /// Index entries removed because their keys no longer exist.
  std::uint64_t removed_entries = 0;
  /// Bytes returned to the file system.
  std::uint64_t freed_bytes = 0;
  /// How long the collection took.
  std::uint64_t duration_ms = 0;
};

/// How much of the log is garbage, estimated from a sample of the index's entries. Nothing is
/// counted when a record is superseded, so updates pay nothing for this estimate.
///
/// With n entries in the sample, the standard error of live_records is about 1 / sqrt(n): at most
/// 3%, and 1% from 100,000 keys on. Up to 1,024 entries are all in the sample. Sizes of records are
/// the mean of those in the sample, of which at most 64 are read from the device. The same records
/// show how many keys are deleted. A record's share of the unused end of its page counts as live.
struct GcEstimate {
  /// Bytes of the log from begin to tail, as they are on the device.
  std::uint64_t log_bytes = 0;
  /// Bytes of live records, that is, the newest record of each key.
  std::uint64_t live_bytes = 0;
  /// The remaining bytes, which a collection can reclaim.
  std::uint64_t garbage_bytes = 0;
  /// Live records.
  std::uint64_t live_records = 0;
};

/// The state of one kind of automatic job. See Store::GetBackgroundStats.
struct BackgroundJobStats {
  /// Whether its interval is not 0.
  bool enabled = false;
  /// Runs since Open.
  std::uint64_t run_count = 0;
  /// Runs that failed since Open.
  std::uint64_t failure_count = 0;
  /// The error of the last failed run; empty if none has failed.
  std::string last_error;
  /// When the last run began; 0 if there has been none.
  std::uint64_t last_begun_unix_ms = 0;
  /// How long the last run took.
  std::uint64_t last_duration_ms = 0;
  /// The latest time at which the next run begins; 0 if none is due.
  std::uint64_t next_due_unix_ms = 0;
};
/// The state of the automatic checkpoints and collections. See Store::StartBackground.
struct BackgroundStats {
  /// Whether automatic jobs begin when they are due.
  bool running = false;
  /// Whether a job is running now.
  bool active = false;
  /// The automatic checkpoints.
  BackgroundJobStats checkpoint;
  /// The automatic garbage collections.
  BackgroundJobStats gc;
};

/// A complete backup.
struct BackupInfo {
  /// The id of its checkpoint.
  std::uint64_t checkpoint_id = 0;
  /// The address at which its log ends.
  std::uint64_t durable_address = 0;
  /// Files copied.
  std::uint64_t file_count = 0;
  /// Bytes copied.
  std::uint64_t size_bytes = 0;
};
/// The progress of a backup.
struct BackupProgress {
  /// Bytes copied so far.
  std::uint64_t copied_bytes = 0;
  /// Bytes to be copied.
  std::uint64_t total_bytes = 0;
};

/// The findings of Open. See Store::recovery.
struct RecoveryReport {
  /// Whether Open created the store.
  bool created = false;
  /// The id of the checkpoint that was used; 0 if the whole log was read.
  std::uint64_t checkpoint_id = 0;
  /// Records of the log that were read after the checkpoint.
  std::uint64_t replayed_records = 0;
  /// Bytes of the log that were read and verified.
  std::uint64_t verified_bytes = 0;
  /// All named sessions, in order of name. Exactly their updates up to these serials are in the
  /// store.
  std::vector<SessionReport> sessions;
  /// Problems that Open found and repaired or worked around, such as a damaged checkpoint.
  std::vector<std::string> notes;
};

/// The progress of Open. See Options::recovery_progress.
struct RecoveryProgress {
  /// Bytes of the log read so far.
  std::uint64_t scanned_bytes = 0;
  /// Bytes of the log to be read, as far as known now.
  std::uint64_t total_bytes = 0;
};

/// The state of a store. See Store::Stats. Counts of events are in ebb/metrics.h, except those of
/// the growth of the index.
///
/// The boundaries of the log are read one after the other, and each only grows. So begin <= head <=
/// flushed_until <= safe_read_only <= read_only <= tail holds in every result.
struct StoreStats {
  /// The oldest record that can be live.
  std::uint64_t begin_address = 0;
  /// Records below are on the device only.
  std::uint64_t head_address = 0;
  /// Bytes below are written to the device, but not necessarily synced.
  std::uint64_t flushed_until_address = 0;
  /// Bytes below can no longer be changed by any thread.
  std::uint64_t safe_read_only_address = 0;
  /// Records below are copied when updated; records above are updated in place.
  std::uint64_t read_only_address = 0;
  /// The address of the next record.
  std::uint64_t tail_address = 0;
  /// tail_address as a share of the 2^48 bytes of log addresses, from 0 to 1. Addresses are never
  /// reused: only copying all keys into a new store renews them, not a collection or a Backup. Plan
  /// for that from 0.9 on; Open then adds a note to recovery(). From 0.99 on, updates are rejected.
  double address_space_share = 0;

  /// Scans and iterators that exist. They pin the log: its files are kept from the lowest pin on,
  /// even below begin_address.
  std::uint64_t pin_count = 0;
  /// The lowest pinned address; 0 if there is none.
  std::uint64_t lowest_pinned_address = 0;
  /// Bytes of log below begin_address that are kept by pins.
  std::uint64_t pinned_bytes = 0;
  /// The age of the oldest pin, in milliseconds.
  std::uint64_t oldest_pin_ms = 0;

  /// Bytes of log that are updated in place: tail - read_only. The sizes of regions include gaps
  /// between pages.
  std::uint64_t mutable_bytes = 0;
  /// Bytes of log in memory that are copied when updated: read_only - head.
  std::uint64_t read_only_bytes = 0;
  /// Bytes of log on the device only: head - begin.
  std::uint64_t device_bytes = 0;

  /// Chains of records, nearly always one for each key. An estimate from a sample of the index:
  /// 1,024 buckets, and more until they hold 1,024 entries. In an index of fewer entries all are
  /// counted. Otherwise the standard error is 1 / sqrt(n) for n entries in the sample: at most 3%,
  /// and 1.5% with four entries per bucket.
  std::uint64_t index_entry_estimate = 0;
  /// Keys, estimated from the same sample. Excludes keys whose newest record is a tombstone in
  /// memory, and is corrected for keys that share a chain. A deleted key whose tombstone is only on
  /// the device counts until a collection removes it. The estimate is 0 only if there is no key; if
  /// there is none, it can be 1 while chains lead to the device. Store::Size is exact for small
  /// stores.
  std::uint64_t live_key_estimate = 0;

  /// The size of a log page.
  std::uint64_t page_bytes = 0;
  /// Memory of the log's frames.
  std::uint64_t log_memory_bytes = 0;
  /// Memory of the index: buckets and overflow buckets.
  std::uint64_t index_memory_bytes = 0;
  /// Bytes of log and index memory that are backed by huge pages now.
  std::uint64_t huge_page_bytes = 0;
  /// Buckets of the index, without overflow buckets.
  std::uint64_t index_bucket_count = 0;
  /// Overflow buckets in use.
  std::uint64_t index_overflow_count = 0;
  /// Doublings of the index since Open.
  std::uint64_t index_growth_count = 0;
  /// The longest time, in microseconds, that operations on a group of buckets waited for its split.
  std::uint64_t index_longest_split_us = 0;

  /// Bytes of the log below are synced and committed.
  std::uint64_t durable_address = 0;
  /// Whether the log files bypass the page cache.
  bool direct_io = false;
  /// Whether reads overlap through io_uring; otherwise they use the threads of the pool.
  bool io_uring = false;
  /// Whether guards use membarrier; otherwise they use an atomic exchange, which is slower.
  bool membarrier = false;
};

}  // namespace ebb
