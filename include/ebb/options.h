/// @file
/// Declares ebb::Options and ebb::GcOptions, the settings of a store. Every option is obeyed, or
/// the call fails and its message names the option.
///
/// All sizes are in bytes unless the name says otherwise. Options about files, commits and
/// checkpoints have no effect on a store in memory.
///
/// Callbacks of long jobs. (The table in ebb/session.h has the callbacks of operations.)
///
///     callback                  runs in                     effect of an exception
///     GcOptions::progress       the thread that calls       ends the collection as `false` does,
///                               CollectGarbage              then leaves the call
///                               a thread of the pool (for   ends the collection as `false` does;
///                               Options::gc)                it counts as failed, and last_error in
///                                                           GetBackgroundStats has the exception
///                               the thread that closes      the same; Close continues
///                               (for Options::gc)
///     progress of a Backup      the thread that calls       the directory is emptied; then it
///                                                           leaves the call
///     VerifyOptions::progress   the thread that calls       leaves the call
///     recovery_progress         the thread that opens       leaves Open, which has released
///                                                           everything; the files are unchanged
///
/// While such a callback runs, its job waits, but operations and commits continue. Calls of the
/// same store return FailedPrecondition, as described in ebb/session.h, because most of them would
/// wait for the job. During recovery and VerifyDirectory there is no store to call; opening the
/// same directory for writing fails with FailedPrecondition. Calls of other stores, and calls made
/// by other threads, are allowed. But a callback must not wait for another thread's long job,
/// StopBackground or Close of this store. A std::bad_alloc that a callback throws may be reported
/// as ResourceExhausted instead.
///
/// Thread safety: plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "ebb/internal/values/check.h"
#include "ebb/stats.h"

namespace ebb {

/// When updates become durable, that is, survive a loss of power. In every mode, Commit,
/// WaitDurable, Checkpoint and Close make all updates before them durable.
enum class Durability : std::uint8_t {
  /// Only by those calls. The same as kManual, but documents that the program does not need
  /// durability.
  kNone,
  /// Only by those calls, which the program makes when it needs them.
  kManual,
  /// Also automatically, every Options::commit_interval_ms, if anything has changed.
  kPeriodic,
  /// An update returns OK only when it is durable. Concurrent updates share a sync.
  kAlways,
};

/// When and how garbage is collected. A collection copies live records, that is, the newest record
/// of each key, from the beginning of the log to its tail, and then frees the space that it
/// scanned.
struct GcOptions {
  /// A collection starts only if Store::EstimateGarbage reports at least this many reclaimable
  /// bytes. Any value; default 64 MiB.
  std::uint64_t min_reclaim_bytes = std::uint64_t{64} << 20;
  /// A collection ends when live records make up this fraction of the log. Range 0 to 1; default
  /// 0.5. With 1 it scans the whole log once. The closer to 1, the more bytes are read and copied
  /// for each byte that is freed.
  ///
  /// Automatic collections (Options::gc) start when the log is longer than `live /
  /// target_utilization`. For example, with 10 GiB of live records and the default, they start at
  /// 20 GiB. With Durability::kPeriodic, the next periodic commit frees the space.
  ///
  /// If the log has grown by another quarter by then, in the example to 25 GiB, and by at least two
  /// pages, two things change. The collection makes its own commit, which is costly, because
  /// afterwards the next update of every record is an append. And updates are throttled to the pace
  /// at which space is freed. If the log grows by another tenth, updates are throttled to one page
  /// per second. So the log stays below `live / target_utilization * 1.4` plus a few pages. The
  /// exception is a log that is many times larger than memory, where collecting may be far too
  /// slow.
  double target_utilization = 0.5;
  /// The number of log bytes that are scanned before a commit records the progress. Range 4 KiB to
  /// 1 TiB; default 256 MiB.
  std::uint64_t pass_bytes = std::uint64_t{256} << 20;
  /// The maximum rate of a scan, in bytes of log per second. Any value; default 0, which means
  /// unlimited.
  std::uint64_t max_bytes_per_second = 0;
  /// Called from time to time with the counts so far. If it returns false, the collection ends, and
  /// frees the space of the part that it has completed. The collection waits until the function
  /// returns, so a program can pause it there. The table in ebb/options.h lists the calls that it
  /// may make. Default: none.
  std::function<bool(const GcStats&)> progress = {};
};

/// The settings of a store. The defaults suit a store of a few GiB on a machine with other work.
///
///     auto options = ebb::Options::WithMemory(std::uint64_t{1} << 30);  // 1 GiB
///     options.durability = ebb::Durability::kAlways;
///     auto db = ebb::Store<std::string, std::string>::Open("accounts.ebb", options);
struct Options {
  /// Creates the directory and the store if they are missing. If false, Open of a missing store
  /// fails with NotFound and changes nothing: it creates neither the directory nor a lock file.
  /// Default: true.
  bool create_if_missing = true;

  /// Opens the store for reading only, in the state of its last commit. Neither Open nor any later
  /// call writes a byte, so this works on read-only media and without permission to write. Default:
  /// false.
  ///
  /// Any number of readers, in this process and others, can have the store open. While there is
  /// one, or while VerifyDirectory runs, opening the store for writing fails with
  /// FailedPrecondition; the reverse holds too.
  ///
  /// Reads, scans, Verify and Close work as usual. Calls that change anything fail with
  /// FailedPrecondition: updates, Commit, CollectGarbage, GrowIndex, named sessions and
  /// CleanupCheckpoints. So do Checkpoint and Backup, unless the newest checkpoint covers the whole
  /// log. Open never creates a store. The options for durability, checkpoints, collections,
  /// preallocation and promotion are ignored.
  ///
  /// If the writer was killed, its last commit may be in the page cache only. A loss of power can
  /// then still undo it.
  bool read_only = false;

  /// Memory for the newest part of the log, which includes all records that can be updated in
  /// place. Range: at least 8 pages and 1 MiB, at most the machine's memory; default 256 MiB. The
  /// machine's memory is the physical memory, or the limit of the process's control group (version
  /// 1 or 2), for example in a container.
  std::uint64_t log_memory_bytes = std::uint64_t{256} << 20;

  /// The size of a log page: a power of two from 64 KiB to 64 MiB. Default 0, which chooses the
  /// largest of these that is at most 1/16 of log_memory_bytes.
  ///
  /// The page size is fixed when the store is created. Opening an existing store uses its own page
  /// size; another explicit size fails with FailedPrecondition. A record, that is, key, value and
  /// at most 24 bytes, must fit in one page.
  std::uint64_t page_bytes = 0;

  /// The size of one log file: a power of two from 1 MiB to 1 TiB, and at least the page size.
  /// Default 1 GiB. Fixed when the store is created; later openings use the store's own size.
  std::uint64_t segment_bytes = std::uint64_t{1} << 30;

  /// The initial number of buckets of the hash index, of 64 bytes each: a power of two from 1,024
  /// to 2^31. Default 65,536, that is, 4 MiB. Lookups are fastest with at most 4 to 5 keys per
  /// bucket; with more they are slower but still correct. The index never shrinks below its size at
  /// creation and can grow to at most 2^15 times that size.
  std::uint64_t index_bucket_count = std::uint64_t{1} << 16;

  /// Doubles the index automatically when it holds more than about 5 keys per bucket, concurrently
  /// with operations. Growth ends at the maximum above, at max_index_bytes, or at the size that the
  /// machine's memory can hold. If false, only Store::GrowIndex grows it. Default: true.
  bool index_auto_grow = true;

  /// The maximum size of the index buckets: 0, or at least 64 KiB. The index does not grow beyond
  /// it. Opening a store that was created with a larger index fails with ResourceExhausted.
  ///
  /// With the default 0, the index may grow until it fills the machine's memory. But a store whose
  /// index needs more than half of that memory can be reopened only if max_index_bytes allows its
  /// size, or index_bucket_count requests as many buckets.
  std::uint64_t max_index_bytes = 0;

  /// The number of threads that flush, evict and read ahead in the background: 1 to 32; default 1.
  /// Callers that must wait help with this work, so one thread suffices for any number of sessions.
  ///
  /// The store has two more threads. One runs the long jobs (checkpoints, collections, growth of
  /// the index) one after the other. The other, only with Durability::kPeriodic, makes the commits.
  /// Open fails with ResourceExhausted if a thread cannot be started.
  std::uint32_t background_threads = 1;

  /// Disk space that a log file reserves at a time, ahead of the bytes written: a multiple of 4
  /// KiB, at most 1 TiB. Default 16 MiB.
  ///
  /// When the disk is nearly full, a file reserves only as much as it needs: one page, and the
  /// space set aside for deletions, collections and commits. That space is about 5 MiB for a small
  /// store and a few percent of a large one. So an update is rejected if there is no space for it,
  /// and accepted updates can be committed. Where the file system cannot reserve space, ebb writes
  /// zeros. With 0 nothing is reserved, and a commit may find the disk full.
  std::uint64_t preallocate_bytes = std::uint64_t{16} << 20;

  /// The maximum size of one write to the device: a multiple of 4 KiB from 4 KiB to 64 MiB. Default
  /// 1 MiB.
  std::uint64_t write_batch_bytes = std::uint64_t{1} << 20;

  /// When updates become durable. Default: kPeriodic. A store in memory cannot make updates durable
  /// and rejects kAlways.
  Durability durability = Durability::kPeriodic;

  /// Milliseconds between the commits of Durability::kPeriodic: 1 to 3,600,000; default 1,000. A
  /// crash loses at most the updates since the last commit began. Commits have their own thread, so
  /// no collection, checkpoint, backup or growth of the index delays them.
  std::uint32_t commit_interval_ms = 1000;

  /// Milliseconds between automatic checkpoints: 100 to 86,400,000 (one day), or 0 for none.
  /// Default 0. A checkpoint is skipped if nothing has changed since the last one. Unless this is
  /// 0, Close writes a checkpoint too.
  std::uint32_t checkpoint_interval_ms = 0;

  /// Milliseconds between checks whether garbage must be collected: 1,000 to 86,400,000 (one day),
  /// or 0 for no automatic collections. Default 10,000. The store also checks after a periodic
  /// commit, and when the log has grown enough for a collection to be due.
  std::uint32_t gc_interval_ms = 10000;
  /// When and how much automatic collections collect.
  GcOptions gc = {};

  /// The number of checkpoints to keep: 1 to 1,000; default 2. Older ones are removed when a new
  /// one is complete.
  std::uint32_t checkpoints_kept = 2;

  /// Bypasses the page cache where the file system supports it, and otherwise uses buffered I/O.
  /// StoreStats::direct_io reports which. Default: true.
  bool direct_io = true;

  /// Overlaps the device reads of batches and asynchronous operations through io_uring, if the
  /// kernel supports and allows it, and otherwise in the threads of the pool. StoreStats::io_uring
  /// reports which. Default: true.
  bool io_uring = true;

  /// Requests huge pages for log frames and index. StoreStats::huge_page_bytes reports how many
  /// bytes have them. Default: true.
  bool huge_pages = true;

  /// The maximum size of a key, in encoded bytes. Default 0: any size that fits in a page together
  /// with the value.
  std::uint64_t max_key_bytes = 0;
  /// The maximum size of a value, in encoded bytes. Default 0: any size that fits in a page
  /// together with the key.
  std::uint64_t max_value_bytes = 0;

  /// The number of bytes that a scan reads from the device ahead of the current key, in two reads:
  /// a multiple of 4 KiB, at most 64 MiB. Default 1 MiB. A scan uses about four times as much
  /// memory. With 0 it reads one block of 4 KiB at a time, and nothing ahead.
  std::uint64_t scan_ahead_bytes = std::uint64_t{1} << 20;

  /// Appends a copy of a record that a read has fetched from the device, if the record is still the
  /// newest of its key. So records that are read often stay in memory. A read that appends can wait
  /// for a page as an update does, and its copy makes the old record garbage. It never fails for
  /// lack of space. Default: false.
  bool promote_reads = false;

  /// Measures the latency of every operation, for Store::Metrics. Costs two reads of the clock for
  /// each operation, about 50 ns, and 33 KiB for each session. Default: false.
  bool measure_latency = false;

  /// Opens the remains of a damaged store. Default: false.
  ///
  /// If Open would fail with DataLoss because part of the log is damaged or missing, it instead
  /// opens the store in the state of the last commit before the first such place. It permanently
  /// removes everything after that from the files, and all checkpoints: copy the directory first.
  /// RecoveryReport::notes describes the damage and the number of bytes dropped.
  ///
  /// If garbage has been collected since that commit, the keys whose records were moved are lost
  /// too, and a note says so. An undamaged store opens as usual. Open still fails with DataLoss if
  /// no commit can be reached: the beginning of the log is damaged, or all its files are missing or
  /// belong to another store. With read_only the store shows the same state, and no file changes.
  bool salvage = false;

  /// Called by Open, in the opening thread, after each page of the log that it has read. Default:
  /// none.
  std::function<void(const RecoveryProgress&)> recovery_progress = {};

  // Presets, to be adjusted as needed. Open rejects one that needs more than the machine's memory.

  /// Returns options with which log and index together use about `bytes`; at most a quarter of it
  /// is for the index. Open rejects less than 2 MiB. With index_auto_grow the index grows beyond
  /// this with the number of keys. All other options have their defaults.
  static Options WithMemory(std::uint64_t bytes);
  /// Returns options with 4 GiB of memory, but at most half of the machine's memory (see
  /// log_memory_bytes); a checkpoint every 30 seconds; and 8 threads.
  static Options HighPerformance();
  /// Returns options with 64 MiB of log memory in pages of 4 MiB; log files of 64 MiB, which
  /// reserve 1 MiB at a time and are written in pieces of 256 KiB; the smallest initial index; a
  /// checkpoint every 2 seconds; and 2 threads.
  static Options LowMemory();
};

/// Checks every option and their combination. Returns InvalidArgument with the option, its value
/// and the range. Touches no file of a store. Cost: the first call in a process reads the memory
/// limits, which takes about 100 microseconds.
absl::Status Validate(const Options& options);
/// Checks every option of a collection, as above.
absl::Status Validate(const GcOptions& options);

/// Returns the page size of a store that is created with `options`: page_bytes, or the automatic
/// choice for 0.
std::uint64_t EffectivePageBytes(const Options& options);

namespace internal {
// Returns the machine's memory: the physical memory, or the lowest limit of the process's control
// groups. If the system does not report it, returns far more than any machine has. `root` is
// prepended to the paths /proc and /sys (tests).
std::uint64_t PhysicalMemoryBytes(const std::string& root = {});
}  // namespace internal

}  // namespace ebb
