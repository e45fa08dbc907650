// Core: all parts of one open store, as operations and jobs use them.
//
// Members are in the order of their layers; destruction runs backwards through them. Core has no
// activity of its own: operations are in operation.h, jobs below jobs/ and open/.
//
// Versions. Records are created in the version of the state word with which their operation
// entered; a commit moves the store to the next version. Only the committer knows all 64 bits of a
// version. Operations know two bits, and compare them only at or above version_floor. That is the
// tail noted before the newest bump (or the one before it; both are right, because records above it
// belong to at most three consecutive versions). Everything below is of an older version.
//
// Edges
//   [drained]  commit: drained_version store, release, after the drain of the version before
//              -> operation: load, acquire, in its guard. If it equals its own version, no guard of
//              an older version is left, so records of older versions no longer change.
//
// Thread safety: as of the members.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/group_runner.h"
#include "ebb/internal/base/health.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/thread_pool.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/session_table.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/index/hash_index.h"
#include "ebb/internal/log/hybrid_log.h"
#include "ebb/internal/log/log_reader.h"
#include "ebb/internal/log/pins.h"
#include "ebb/metrics.h"
#include "ebb/options.h"
#include "ebb/stats.h"

namespace ebb::internal {

class BlockQueue;
class Directory;
class FileSystem;

// The files of a store; none for a store in memory.
struct StoreFiles {
  FileSystem* file_system = nullptr;
  std::unique_ptr<Directory> directory;  // holds the lock
  HeaderWriter write_header;             // of the files of the log
  std::unique_ptr<Device> device;
};

// The options, with limits that are never 0 and no automatic writes by a reader, and the parameters
// that follow from them and from the files (MakeConfig).
struct CoreConfig : Options {
  std::string path;  // for messages; empty if the store has no files
  HybridLog::Config log;
  int index_exponent = 16;
  int creation_exponent = 16;
  HashSeed hash_seed;
  std::uint64_t index_limit_bytes = 0;  // maximum for growth; 0: set by the machine's memory
  unsigned pool_threads = 1;
  unsigned startable_threads = std::numeric_limits<unsigned>::max();  // see ThreadPool
  bool force_fallback = false;
  bool has_files = true;
};

class PendingOperations;
struct SessionState;

class Core {
 public:
  Core(const CoreConfig& config, StoreFiles files);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  bool has_memory() const { return log.ok() && index.ok(); }
  // Returns OK, or ResourceExhausted with the number of the thread that could not be started.
  absl::Status CheckThreads() const;
  bool has_files() const { return config.has_files; }

  StoreStats Stats();
  // Returns StoreStats::live_key_estimate; 0 if the store is closed.
  std::uint64_t EstimateLiveKeys();
  // Store::Size.
  absl::StatusOr<std::uint64_t> Size();
  // Returns the number of keys, or `limit` as soon as that many have been found. Returns nothing if
  // the number is unknown: a chain leads to the device, or the index has more than kMaxCounted
  // entries. Waits while the index grows, because an entry that is being moved can be in two bucket
  // chains or in none.
  static constexpr std::uint64_t kMaxCounted = 10'000;
  std::optional<std::uint64_t> CountKeys(std::uint64_t limit);
  // A sample of the index: evenly spread buckets. Empty if the store is closed.
  struct IndexSample {
    static constexpr std::size_t kMaxAddresses = 64;
    std::uint64_t step = 1;        // one of so many buckets was read
    std::uint64_t dead = 0;        // entries that lead to no record and are not yet swept
    std::uint64_t entries = 0;     // entries that lead to a record
    std::uint64_t in_memory = 0;   // of these, those whose records are in memory
    std::uint64_t tombstones = 0;  // of the records in memory
    std::uint64_t bytes = 0;       // of the records in memory
    std::uint64_t on_device = 0;
    std::array<Address, kMaxAddresses> addresses{};  // of the first records on the device
  };
  // Samples at least `min_buckets` buckets, and more until kMinEntries entries have been found or
  // all buckets have been read. So the sample of a store with few keys is the whole index.
  // `slot` is the caller's, and outside a guard. Works during growth, too.
  static constexpr std::uint64_t kMinEntries = 1024;
  IndexSample SampleIndex(EpochSlot& slot, std::uint64_t min_buckets);
  MetricsSnapshot Metrics();
  void ResetMetrics();
  // Creates a queue, with io_uring or without according to `io_uring`. Not to be called when the
  // store is closed.
  BlockQueue NewBlockQueue();
  // Whether this process opened the store, and is not a forked child.
  bool in_opening_process() const;

  // Whether the calling thread is inside a callback of this store; then a call that can wait must
  // not begin (callback_scope.h).
  bool in_callback() const { return InCallback() && FindCallback(this) != CallbackKind::kNone; }
  // Returns OK, or ReenteredError(). Every public call that can wait, acquires a lock or enters a
  // guard checks this first, except fast paths.
  absl::Status CheckCallable() const;
  // Does the same, and returns InMemoryError() if the store has no files.
  absl::Status CheckCanPersist() const;
  // Returns FailedPrecondition if the store is open read-only: for calls that change it, or may,
  // and need no device for that. All others check its health.
  absl::Status CheckWritable() const;
  // For the destructor of a store, which cannot return an error: returns whether the calling thread
  // is inside a callback of this store. If so, prints that the store leaks.
  bool MustLeak() const;
  // The store's path, for messages about several stores.
  const char* name() const { return config.path.empty() ? "in memory" : config.path.c_str(); }

  // Poisons the store with `cause`; updates in memory end too. Returns the status of its health.
  absl::Status Poison(const absl::Status& cause);
  // Poisons the store if its lock file, or with `of_all` any file of the log, has been removed.
  absl::Status CheckFiles(bool of_all);

  // The reason why a call must not run: closed, forked, or called inside a callback of the store.
  // All of these also work without memory.
  absl::Status ClosedError() const;
  // Returns OK, or ClosedError() if no operation or job may begin any more.
  absl::Status CheckOpen() const { return epochs.closed() ? ClosedError() : absl::OkStatus(); }
  absl::Status ReenteredError() const;
  // The error of a call that needs files, in a store without files.
  absl::Status InMemoryError() const;
  // Returns InvalidArgument with the field's name if a key or a value is longer than the store
  // allows.
  absl::Status CheckSizes(std::uint64_t key_bytes, std::uint64_t value_bytes) const;

  // Returns the hash of a key as it is stored in the log.
  std::uint64_t HashOf(const void* key, std::size_t bytes) const {
    return index.key_hash().Of(key, bytes, !log.shape().key_variable());
  }
  std::uint64_t HashOf(const Record& record) const {
    return HashOf(record.key(), record.key_length());
  }

  // Version words, see above.
  bool DrainedFor(unsigned version_bits) const {
    return (drained_version.load(std::memory_order_acquire) & 3) == version_bits;  // [drained]
  }
  Address VersionFloor() const {
    return Address(version_floor.load(std::memory_order_acquire));  // [drained]
  }

  // Immutable after opening.
  const CoreConfig config;
  const std::int64_t opening_process;
  bool direct_io = false;  // the mode of the first file of the log
  StoreFiles files;        // until closed
  const bool io_uring;     // device reads of one session overlap through it; otherwise in the pool

  // Lowest layer.
  Health health;
  EpochManager epochs;
  ThreadPool pool;
  // The thread of the periodic commits, which nothing else can delay; none if there are no such
  // commits. A pool without threads runs the commits among its jobs, as its script says.
  ThreadPool commit_thread;
  ThreadPool& commit_pool() { return pool.thread_count() == 0 ? pool : commit_thread; }
  SessionTable sessions;
  // Structures.
  HybridLog log;
  LogReader reader;
  Pins pins;
  HashIndex index;

  // The state of all sessions that could not be created for lack of memory, and of those that were
  // moved from; see session_state.h. Created by the opening.
  std::shared_ptr<SessionState> session_without_memory;
  std::shared_ptr<SessionState> session_moved_from;

  // The lists of pending operations of all sessions.
  Mutex pending_mu;
  std::vector<PendingOperations*> pending ABSL_GUARDED_BY(pending_mu);

  // A commit makes everything durable that took effect before the call that joins it. Set by the
  // committer before other threads know the store. Operations join from inside a SlowScope.
  std::unique_ptr<GroupRunner> commits;

  AtomicWord drained_version{0};
  AtomicWord version_floor{0};

  struct Counters {
    alignas(64) AtomicWord fuzzy_waits{0};
    AtomicWord failed_cas{0};
    AtomicWord commits{0};
    AtomicWord failed_commits{0};
    AtomicWord durable_address{0};
    AtomicWord index_growths{0};
    AtomicWord longest_split_us{0};
    AtomicWord checkpoints{0};
    AtomicWord failed_checkpoints{0};
    AtomicWord checkpoint_ms{0};
    AtomicWord checkpoint_bytes{0};
    AtomicWord collections{0};
    AtomicWord failed_collections{0};
    AtomicWord collection_scanned_bytes{0};
    AtomicWord collection_copied_bytes{0};
    AtomicWord collection_freed_bytes{0};
  };
  Counters counters;

 private:
  // Returns the counts since Open; the latencies of operations as histograms only.
  MetricsSnapshot CountedSinceOpen(LatencyHistograms* latencies);
  struct KeyEstimates {
    std::uint64_t entries = 0;
    std::uint64_t keys = 0;
  };
  // Returns zeros if memory is out.
  KeyEstimates EstimateKeys() noexcept;
  IndexSample SampleBuckets(EpochSlot& slot, std::uint64_t max_buckets);
  // One count, without waiting. Returns nothing while the index grows.
  std::optional<std::uint64_t> TryCountKeys(EpochSlot& slot, std::uint64_t limit);

  // The base from which metrics are counted.
  Mutex metrics_mu_;
  MetricsSnapshot metrics_base_ ABSL_GUARDED_BY(metrics_mu_);
  // Both null unless latencies are measured. Allocated when the store is opened, so that statistics
  // allocate nothing.
  std::unique_ptr<LatencyHistograms> latency_base_ ABSL_GUARDED_BY(metrics_mu_);
  // used in Metrics only
  std::unique_ptr<LatencyHistograms> latencies_ ABSL_GUARDED_BY(metrics_mu_);
  Clock::time_point metrics_begin_ ABSL_GUARDED_BY(metrics_mu_) = Clock::now();
};

// DataLoss: a codec rejects the stored bytes.
absl::Status Undecodable(const char* what, std::size_t bytes);

}  // namespace ebb::internal
