// Options: what a store is told when it is opened. Every option is honoured or refused by name. (A
// store in memory has no files: what is said of files, commits and checkpoints does not concern
// it.)
//
// Callbacks of long jobs. (Those of operations are in the table in ebb/session.h.)
//
//   callback                  runs in                     what a throw does
//   GcOptions::progress       the thread that calls       ends the collection like false, then
//                             CollectGarbage              leaves the call
//                             a thread of the pool (for   ends the collection like false; it counts
//                             Options::gc)                as failed, and last_error in
//                                                         GetBackgroundStats says what was thrown
//                             the thread that closes      the same; Close continues
//                             (for Options::gc)
//   progress of a Backup      the thread that calls       the directory is emptied, then it leaves
//                                                         the call
//   VerifyOptions::progress   the thread that calls       leaves the call
//   recovery_progress         the thread that opens       leaves Open, which has released
//                                                         everything; the files are unchanged
//
// They hold up their job, and no operation or commit. All calls of their store are rejected as
// ebb/session.h says, since most would wait for the job: FailedPrecondition. (During recovery and
// VerifyDirectory there is no store that could be called; to open the same directory for writing is
// FailedPrecondition.) Calls of other stores, and calls of other threads, are allowed; but a
// callback must not wait for another thread's long job, StopBackground or Close of this store. A
// throw of std::bad_alloc may become ResourceExhausted instead.
//
// Thread safety: plain data. All sizes are bytes unless the name says otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "ebb/internal/check.h"
#include "ebb/stats.h"

namespace ebb {

// When updates become durable, that is, survive a loss of power. Commit, WaitDurable, Checkpoint
// and Close make everything before them durable in every mode.
enum class Durability : std::uint8_t {
  kNone,      // only by those calls; says that nobody counts on more
  kManual,    // only by those calls; the program makes them
  kPeriodic,  // also every commit_interval_ms, if something has changed
  kAlways,    // an update returns OK only when it is durable; concurrent ones share a sync
};

// When and how garbage is collected: what is live at the front of the log is copied to its tail,
// and the front is given back.
struct GcOptions {
  // Nothing is done while less than this is to be had, by Store::EstimateGarbage.
  std::uint64_t min_reclaim_bytes = std::uint64_t{64} << 20;
  // Done when live records make up this share of the log: from 0 to 1, and 1 goes once through all
  // of the log. The closer to 1, the more is copied and read for each byte that is freed. By itself
  // (Options::gc) a collection begins when the log is longer than live / target. With kPeriodic
  // what it has gone through is given back by the next periodic commit; a commit of its own, which
  // makes every record an append again at its next update, comes only when the log has become a
  // quarter (and at least two pages) longer than that. From there on updates are slowed down to the
  // pace of what gives space back, or to a page a second when the log is a tenth longer still. So
  // it stays below live / target * 1.4 and some pages, unless collecting is far too slow, as it is
  // in a log that is many times larger than memory.
  double target_utilization = 0.5;
  // How much of the log is gone through at a time, before a commit is told of it.
  std::uint64_t pass_bytes = std::uint64_t{256} << 20;
  // Go through so many bytes of the log a second at most; 0: as fast as can be.
  std::uint64_t max_bytes_per_second = 0;
  // Called now and then with what has been done; false ends the collection, and uses what has been
  // copied so far. To pause the collection, return later. See the table above for the calls that it
  // may make.
  std::function<bool(const GcStats&)> progress = {};
};

struct Options {
  // Open creates the directory and the store when they are absent. Without, Open then fails with
  // NotFound and changes nothing: it creates neither the directory nor a lock file.
  bool create_if_missing = true;

  // Open the store for reading only, as its last commit left it. No byte is written, neither by
  // Open nor later, so this works on read-only media and without permission to write. Any number of
  // readers, in this process and others, can have a store open; while there is one, or a
  // VerifyDirectory runs, opening it for writing is FailedPrecondition, and the other way round.
  // Reads, scans, Verify and Close work as usual. Calls that change anything (updates, Commit,
  // CollectGarbage, GrowIndex, named sessions, CleanupCheckpoints) are FailedPrecondition. So are
  // Checkpoint and Backup, unless the newest checkpoint is where the log ends. Open never creates a
  // store, as if create_if_missing were false, and the options for durability, checkpoints,
  // collection, preallocation and promotion are ignored. (The last commit may be in the page cache
  // alone if the writer was killed; then a loss of power can still undo it.)
  bool read_only = false;

  // Memory for the part of the log that is kept in frames; the newest records live here. At least
  // eight pages, from 1 MiB up to the machine's memory, which is the physical memory or the limit
  // of a control group (version 1 or 2) that the process is in, for example in a container.
  std::uint64_t log_memory_bytes = std::uint64_t{256} << 20;

  // Size of a log page: a power of two from 64 KiB to 64 MiB. 0 chooses the largest power of two
  // that is at most a sixteenth of log_memory_bytes. It is fixed when the store is created; a
  // store that exists keeps its own and refuses another explicit size with FailedPrecondition.
  // A record (key, value and at most 24 bytes) must fit in one page.
  std::uint64_t page_bytes = 0;

  // Size of one file of the log: a power of two, at least the page size and 1 MiB, at most 1 TiB.
  // Fixed when the store is created; afterwards the store's own size is used.
  std::uint64_t segment_bytes = std::uint64_t{1} << 30;

  // Buckets of the hash index to begin with, 64 bytes each: a power of two from 1,024 to 2^31. Four
  // to five keys a bucket are best; more still answer rightly, slower. The count at creation is the
  // least for the life of the store, and 2^15 times it is the most.
  std::uint64_t index_bucket_count = std::uint64_t{1} << 16;

  // Double the index whenever it holds more than some five keys a bucket, beside operations, up to
  // that most, max_index_bytes, or what the machine's memory could hold. Without, only GrowIndex()
  // does.
  bool index_auto_grow = true;

  // The buckets of the index may use at most so many bytes: 0, or at least 64 KiB. The index does
  // not grow beyond it, and a store that was created with a larger index is not opened:
  // ResourceExhausted. 0: growth may use the machine's memory, and a store whose files demand more
  // than half of it, and more than index_bucket_count, is not opened.
  std::uint64_t max_index_bytes = 0;

  // Threads of the internal pool that flush, evict and read ahead concurrently with the callers: 1
  // to 32. Callers that must wait help, so one is enough for any number of sessions. The store has
  // two more threads: one for the long jobs (checkpoints, garbage collection, growth of the index),
  // which run one after the other, and, with kPeriodic, one for the commits. Open fails with
  // ResourceExhausted if one of them cannot be started.
  std::uint32_t background_threads = 1;

  // Space that a log file takes on the disk at a time, ahead of what is written: a multiple of
  // 4 KiB up to 1 TiB. When the disk is nearly full, only what is needed: a page, and beyond it the
  // space that deletions, collections and commits have to themselves, some 5 MiB for a small store
  // and a few per cent of a large one. So an update is rejected when there is no space for it, and
  // what has been accepted can be committed. Where the file system cannot reserve space, zeros are
  // written. 0: nothing is taken ahead, and a commit may find the disk full.
  std::uint64_t preallocate_bytes = std::uint64_t{16} << 20;

  // Largest single write to the device: a multiple of 4 KiB from 4 KiB to 64 MiB.
  std::uint64_t write_batch_bytes = std::uint64_t{1} << 20;

  // When updates become durable. A store in memory has nothing that could, and refuses kAlways.
  Durability durability = Durability::kPeriodic;

  // Milliseconds between the commits of kPeriodic: 1 to 3,600,000. A crash loses at most what
  // happened since the last one began. Commits have their own thread: no collection, checkpoint,
  // backup or growth of the index delays them, however long it takes.
  std::uint32_t commit_interval_ms = 1000;

  // Milliseconds between checkpoints in the background: 0 for none, or 100 to 86,400,000. One is
  // skipped when nothing has changed since the last. Unless this is 0, Close writes one too.
  std::uint32_t checkpoint_interval_ms = 0;

  // Garbage is collected as `gc` says, checked at this interval, whenever the log has grown by what
  // is to be had, and after a periodic commit: 0 for never, or from 1000 to a day.
  std::uint32_t gc_interval_ms = 10000;
  GcOptions gc = {};

  // How many checkpoints to keep: 1 to 1,000. Older ones are removed when a new one is complete.
  std::uint32_t checkpoints_kept = 2;

  // Bypass the page cache where the file system can; else buffered. Stats() says which it became.
  bool direct_io = true;

  // Let the device reads of batches and asynchronous operations overlap through io_uring where the
  // kernel has it and allows it; else in the pool's threads. Stats() says which it became.
  bool io_uring = true;

  // Ask for huge pages for log frames and index. Stats() says how many bytes got them.
  bool huge_pages = true;

  // Largest key and value accepted, in encoded bytes. 0: whatever fits in a page with the other.
  std::uint64_t max_key_bytes = 0;
  std::uint64_t max_value_bytes = 0;

  // How far a scan reads from the device ahead of what it shows, in two pieces: a multiple of
  // 4 KiB up to 64 MiB. It takes about four times as much memory. 0: a block, and nothing ahead.
  std::uint64_t scan_ahead_bytes = std::uint64_t{1} << 20;

  // Append a copy of what a read has fetched from the device, if it is still the newest record of
  // its key, so that what is read again and again comes to be in memory. Such a read writes: it can
  // wait for a page as an update does, and its copies make garbage later. It never fails for that.
  bool promote_reads = false;

  // Time every operation, for the latencies in Metrics(). Costs two looks at the clock for each,
  // some 50 ns, and 34 KiB for each session.
  bool measure_latency = false;

  // What is left of a damaged store. Where Open would fail with DataLoss because a part of the log
  // is damaged or missing, it opens the store as the last commit before the first such place left
  // it. It removes everything behind that from the files, and all checkpoints, for good: so copy
  // the directory first. recovery().notes says what the damage was and how much was dropped. If
  // garbage has been collected since that commit, keys whose records it moved are gone too, and a
  // note says so. A store that is not damaged opens as always. DataLoss all the same if no commit
  // can be reached: the log's beginning is damaged, or all of its files are gone or another
  // store's.
  bool salvage = false;

  // Called by Open, in the opening thread, after each page of the log that it has read. Empty: not
  // called.
  std::function<void(const RecoveryProgress&)> recovery_progress = {};

  // Presets: a start, to be changed as needed. Each opens on the machine that it was made on.

  // Log and index together take about `bytes`, a quarter at most for the index; 2 MiB and more,
  // less is refused by Open. (The index grows beyond that with the keys, unless index_auto_grow is
  // taken away.) The rest is as by default.
  static Options WithMemory(std::uint64_t bytes);
  // 4 GiB, but no more than half of the machine's memory (see log_memory_bytes); a checkpoint every
  // 30 seconds; 8 threads.
  static Options HighPerformance();
  // 64 MiB of log in pages of 4 MiB, the smallest index to begin with; a checkpoint every 2
  // seconds; 2 threads.
  static Options LowMemory();
};

// Checks every field and combination; InvalidArgument naming the field, the value and the range.
// Touches no file of a store. Cost: reads the memory limits of the process, some 100 microseconds.
absl::Status Validate(const Options& options);
absl::Status Validate(const GcOptions& options);

// The page size that `options` leads to at creation: page_bytes, or the automatic choice for 0.
std::uint64_t EffectivePageBytes(const Options& options);

namespace internal {
// The machine's memory: physical memory, or the lowest limit of the control groups that the process
// is in. Far more than any machine has when the system does not tell. `root` stands before the
// paths /proc and /sys (tests).
std::uint64_t PhysicalMemoryBytes(const std::string& root = {});
}  // namespace internal

}  // namespace ebb
