// What a store says about itself: StoreStats while it runs, RecoveryReport about its opening.
//
// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ebb/internal/check.h"

namespace ebb {

// A named session and the number of its last update that counts.
struct SessionReport {
  std::string name;
  std::uint64_t serial = 0;
  bool operator==(const SessionReport&) const = default;
};

// A checkpoint: an image of the index, with which the next opening reads only what came after it.
struct CheckpointInfo {
  std::uint64_t id = 0;               // grows, never repeats
  std::uint64_t created_unix_ms = 0;  // milliseconds of 1970
  std::uint64_t entry_count = 0;      // of the image: chains, nearly always keys
  std::uint64_t size_bytes = 0;       // of its files
  std::uint64_t scan_address = 0;     // from here on an opening reads the log
  std::uint64_t durable_address = 0;  // where its commit ended
};

struct CheckpointStats {
  std::uint64_t checkpoint_count = 0;      // that exist
  std::uint64_t total_size_bytes = 0;      // of their files
  std::uint64_t latest_checkpoint_id = 0;  // 0: none
  bool in_progress = false;
  // Since Open; those that found nothing to do do not count.
  std::uint64_t completed_count = 0;
  std::uint64_t failed_count = 0;
  std::uint64_t last_duration_ms = 0;  // of the last one completed
  std::string last_error;              // of the last one failed; empty: none has
};

// What collecting garbage has done. All counts are of what was done, not of what was meant.
struct GcStats {
  std::uint64_t initial_begin_address = 0;
  std::uint64_t new_begin_address = 0;
  std::uint64_t pass_count = 0;       // through the front of the log
  std::uint64_t scanned_bytes = 0;    // of the log
  std::uint64_t scanned_records = 0;  // valid ones
  std::uint64_t copied_records = 0;   // live ones, to the tail
  std::uint64_t copied_bytes = 0;
  std::uint64_t dropped_records = 0;  // that had a successor, or said that a key is deleted
  std::uint64_t removed_entries = 0;  // of the index, of keys that are no more
  std::uint64_t freed_bytes = 0;      // given back to the file system
  std::uint64_t duration_ms = 0;
};

// How much of the log is garbage. From a sample of the index's entries, so that nothing is counted
// while records are superseded: with n entries in the sample, the error of live_records is about
// 1 / sqrt(n), at most 3 % and 1 % from 100,000 keys on. Up to 1,024 entries are all in it. Sizes
// of records are the mean of those of the sample, of which at most 64 are read from the device. The
// same records tell how many keys are deleted. A record's share of the unused end of its page
// counts as live.
struct GcEstimate {
  std::uint64_t log_bytes = 0;      // from begin to tail, as the device holds them
  std::uint64_t live_bytes = 0;     // of records that are the newest of their keys
  std::uint64_t garbage_bytes = 0;  // the rest
  std::uint64_t live_records = 0;
};

// What the store does by itself; see Store::StartBackground.
struct BackgroundJobStats {
  bool enabled = false;         // by its interval
  std::uint64_t run_count = 0;  // since Open
  std::uint64_t failure_count = 0;
  std::string last_error;                // of the last run that failed; empty: none has
  std::uint64_t last_begun_unix_ms = 0;  // 0: none has run
  std::uint64_t last_duration_ms = 0;
  std::uint64_t next_due_unix_ms = 0;  // at the latest; 0: none is due
};
struct BackgroundStats {
  bool running = false;  // jobs are begun when they are due
  bool active = false;   // one is at work now
  BackgroundJobStats checkpoint;
  BackgroundJobStats gc;
};

// A backup that is complete.
struct BackupInfo {
  std::uint64_t checkpoint_id = 0;    // the checkpoint that it holds
  std::uint64_t durable_address = 0;  // where its log ends
  std::uint64_t file_count = 0;
  std::uint64_t size_bytes = 0;  // copied
};
struct BackupProgress {
  std::uint64_t copied_bytes = 0;
  std::uint64_t total_bytes = 0;
};

// What Open found and did.
struct RecoveryReport {
  bool created = false;                // there was no store before
  std::uint64_t checkpoint_id = 0;     // of the checkpoint that was used; 0: the log alone
  std::uint64_t replayed_records = 0;  // records of the log that were looked at
  std::uint64_t verified_bytes = 0;    // of the log, read and checked
  // All named sessions, in order of name. Exactly the updates up to these serials are in the store.
  std::vector<SessionReport> sessions;
  // What was not as it should be and could be made good, such as a damaged checkpoint.
  std::vector<std::string> notes;
};

// How far Open has come; see Options::recovery_progress.
struct RecoveryProgress {
  std::uint64_t scanned_bytes = 0;
  std::uint64_t total_bytes = 0;  // of the log, as far as is known now
};

// The state of a store. Counts of events are in ebb/metrics.h, except those of the growth of the
// index. Addresses are byte positions in the log; they only grow. Boundaries are read one after the
// other, each monotone, so that begin <= head <= flushed_until <= safe_read_only <= read_only <=
// tail holds in every result.
struct StoreStats {
  std::uint64_t begin_address = 0;          // oldest record that still counts
  std::uint64_t head_address = 0;           // below: on the device only
  std::uint64_t flushed_until_address = 0;  // below: written to the device (not necessarily synced)
  std::uint64_t safe_read_only_address = 0;  // below: nobody can still change a byte
  std::uint64_t read_only_address = 0;       // below: copied when updated; above: updated in place
  std::uint64_t tail_address = 0;            // where the next record goes
  // tail_address as a share of the 2^48 bytes of log addresses, from 0 to 1. Addresses are never
  // reused: only copying all keys into a new store renews them, not a collection or a Backup. Plan
  // for that from 0.9 on; Open then adds a note to recovery(). From 0.99 on, updates are rejected.
  double address_space_share = 0;

  // Scans and iterators that are not destroyed pin the log: its files are kept from the lowest pin
  // on, also below begin_address.
  std::uint64_t pin_count = 0;
  std::uint64_t lowest_pinned_address = 0;  // 0: there is none
  std::uint64_t pinned_bytes = 0;           // of the log below begin_address that pins keep
  std::uint64_t oldest_pin_ms = 0;          // age of the oldest pin

  // The boundaries as sizes, gaps between pages included.
  std::uint64_t mutable_bytes = 0;    // tail - read_only
  std::uint64_t read_only_bytes = 0;  // read_only - head: in memory, copied when updated
  std::uint64_t device_bytes = 0;     // head - begin: on the device only

  // Estimates from a sample of the index: 1,024 buckets, and more until they hold 1,024 entries. In
  // an index of fewer entries all of them are counted. Otherwise the standard error is one over the
  // square root of the entries in the sample: at most 3 %, and 1.5 % with four entries in a bucket.
  std::uint64_t index_entry_estimate = 0;  // chains of records, nearly always one for each key
  // From the same sample: without keys whose newest record is a tombstone in memory, and corrected
  // for the keys that share a chain by chance. A deleted key still counts if its tombstone is only
  // on the device, until a collection takes it. It is 0 only if there is no key, and then it can
  // be 1 when chains lead to the device. Store::Size is exact for small stores.
  std::uint64_t live_key_estimate = 0;

  std::uint64_t page_bytes = 0;
  std::uint64_t log_memory_bytes = 0;    // frames the log may keep resident
  std::uint64_t index_memory_bytes = 0;  // buckets and overflow buckets
  std::uint64_t huge_page_bytes = 0;     // of log and index memory, backed by huge pages now
  std::uint64_t index_bucket_count = 0;
  std::uint64_t index_overflow_count = 0;    // overflow buckets in use
  std::uint64_t index_growth_count = 0;      // doublings since Open
  std::uint64_t index_longest_split_us = 0;  // that operations on a chunk of buckets had to wait

  std::uint64_t durable_address = 0;      // below: synced and committed
  bool direct_io = false;                 // the log files bypass the page cache
  bool io_uring = false;                  // reads overlap through it; else in the pool
  bool membarrier = false;                // guards use membarrier; false: atomic exchange
};

}  // namespace ebb
