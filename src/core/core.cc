#include "ebb/internal/core/core.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "ebb/internal/base/backoff.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/device/block_queue.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/internal/format/lifetime.h"

namespace ebb::internal {

namespace {

// The thread of the periodic commits; a pool without threads runs them among its jobs
// (Core::commit_pool).
unsigned CommitThreads(const CoreConfig& config) {
  const bool commits = config.has_files && config.durability == Durability::kPeriodic;
  return commits && config.pool_threads != 0 ? 1 : 0;
}

}  // namespace

static_assert(alignof(Core) >= 8, "t_callbacks holds a kind beside a pointer to one");

Core::Core(const CoreConfig& core_config, StoreFiles store_files)
    : config(core_config),
      opening_process(getpid()),
      files(std::move(store_files)),
      // A ring that is opened and closed again shows whether the kernel allows io_uring.
      io_uring(core_config.io_uring && files.file_system != nullptr &&
               files.file_system->OpenReadRing(1) != nullptr),
      health(core_config.read_only),
      epochs(0, core_config.force_fallback, &health),
      pool(core_config.pool_threads, core_config.startable_threads),
      // A constructor cannot return an error: CheckThreads and has_memory report missing threads
      // and memory.
      commit_thread(CommitThreads(core_config),
                    core_config.startable_threads - pool.started_count()),
      log(core_config.log, epochs, health, *files.device, pool),
      reader(log, core_config.log.store_id, *files.device),
      index(core_config.index_exponent, core_config.creation_exponent, core_config.log.huge_pages,
            core_config.hash_seed, core_config.index_limit_bytes) {
  if (!core_config.measure_latency) return;
  latency_base_ = std::make_unique<LatencyHistograms>();
  latencies_ = std::make_unique<LatencyHistograms>();
}

// A job of the log may still run if closing has failed. It uses the log, so it must end before the
// members do.
Core::~Core() {
  log.StopMaintenance();
  commit_thread.Stop();
  pool.Stop();
}

absl::Status Core::CheckThreads() const {
  const ThreadPool& failed = pool.start_error() ? pool : commit_thread;
  if (!failed.start_error()) return absl::OkStatus();
  const unsigned started = failed.started_count() + (&failed == &pool ? 0 : pool.started_count());
  return absl::ResourceExhaustedError(fmt::format(
      "thread {} of {} of the store could not be started: {}; raise the limit of threads (ulimit "
      "-u, or pids.max of the control group), or lower background_threads",
      started + 1, pool.thread_count() + commit_thread.thread_count(),
      failed.start_error().message()));
}

bool Core::in_opening_process() const { return opening_process == getpid(); }

// The health first: a thread that finds no fast path any more must find the cause. Then the updates
// in memory end.
absl::Status Core::Poison(const absl::Status& cause) {
  health.Poison(cause);
  log.BlockUpdates();
  return health.status();
}

absl::Status Core::CheckFiles(bool of_all) {
  // Walk of a Close, 3, and of each commit: a removed file means that nothing more can be made
  // durable.
  absl::Status status = files.device->CheckNames(of_all);
  return status.ok() ? status : Poison(status);
}

absl::Status Core::ClosedError() const {
  return in_opening_process() ? Fixed().closed : Fixed().forked;
}

absl::Status Core::ReenteredError() const {
  const auto describe = [this] {
    return absl::FailedPreconditionError(fmt::format(
        "the store was called from inside one of its own callbacks, {}; use the values that the "
        "callback was given, or call after it has returned",
        NameOf(FindCallback(this))));
  };
  return CatchNoMemory(describe, Fixed().reentered);
}

absl::Status Core::CheckCallable() const {
  return in_callback() ? ReenteredError() : absl::OkStatus();
}

absl::Status Core::CheckCanPersist() const {
  absl::Status status = CheckCallable();
  return status.ok() && !has_files() ? InMemoryError() : status;
}

absl::Status Core::CheckWritable() const {
  return config.read_only ? Fixed().read_only : absl::OkStatus();
}

bool Core::MustLeak() const {
  if (!in_callback()) return false;
  std::fprintf(stderr,
               "ebb: the store %s was destroyed inside a callback, %s, so it is not closed and its "
               "memory leaks; updates after its last commit may be lost; destroy it after the "
               "callback has returned\n",
               name(), NameOf(FindCallback(this)));
  return true;
}

absl::Status Core::InMemoryError() const { return Fixed().in_memory; }

// The limits of the options first, since a caller can raise them. The page size is fixed.
absl::Status Core::CheckSizes(std::uint64_t key_bytes, std::uint64_t value_bytes) const {
  if (key_bytes > config.max_key_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("key of {} bytes: at most {} are allowed (max_key_bytes)", key_bytes,
                    config.max_key_bytes));
  }
  if (value_bytes > config.max_value_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("value of {} bytes: at most {} are allowed (max_value_bytes)", value_bytes,
                    config.max_value_bytes));
  }
  const std::uint64_t extent = config.log.shape.ExtentFor(key_bytes, value_bytes);
  const std::uint64_t room = config.log.geometry.payload_bytes();
  if (extent > room) {
    return absl::InvalidArgumentError(
        fmt::format("key of {} bytes and value of {} bytes: the record has {} bytes, but a page "
                    "(page_bytes {}) holds {}",
                    key_bytes, value_bytes, extent, config.log.geometry.page_bytes(), room));
  }
  return absl::OkStatus();
}

// Sparse indexes need more buckets for the same precision. The sample is at most the whole index.
Core::IndexSample Core::SampleIndex(EpochSlot& slot, std::uint64_t min_buckets) {
  for (std::uint64_t buckets = min_buckets;; buckets *= 8) {
    IndexSample sample = SampleBuckets(slot, buckets);
    if (sample.step == 1 || sample.entries >= kMinEntries) return sample;
  }
}

Core::IndexSample Core::SampleBuckets(EpochSlot& slot, std::uint64_t max_buckets) {
  constexpr std::uint64_t kGroup = 16;  // buckets, under one guard
  // Both are powers of two. The low bits of hashes select the buckets, so any few of them are a
  // random sample.
  const std::uint64_t bucket_count = index.row_count();
  const std::uint64_t step = bucket_count / std::min(bucket_count, max_buckets);
  IndexSample sample{.step = step};
  for (std::uint64_t bucket = 0; bucket < bucket_count;) {
    if (epochs.closed()) return {};
    // Counted into a copy: if the second check fails, the group is read again and the copy dropped.
    IndexSample next = sample;
    const std::uint64_t end = std::min(bucket_count, bucket + kGroup * step);
    EpochGuard guard(epochs, slot);
    // In this order, as in an operation: begin before the entries, so that a chain is not followed
    // below it.
    const Address begin = log.begin();
    const Address head = log.head_acquire();
    for (std::uint64_t b = bucket; b < end; b += step) {
      index.ForEachEntry(b, [&](IndexEntry entry) {
        if (IsDead(entry.address(), begin)) {  // no record yet, or none any longer
          ++next.dead;
          return;
        }
        ++next.entries;
        // The record is on the device: the caller reads a few of them without a guard. In a full
        // list, the last place is overwritten.
        if (entry.address() < head) {
          next.addresses[std::min(next.on_device++, IndexSample::kMaxAddresses - 1)] =
              entry.address();
          return;
        }
        const Record record(log.At(entry.address(), guard), log.shape());
        ++next.in_memory;
        next.bytes += record.ExtentOf();
        next.tombstones += record.header().LoadAcquire().tombstone() ? 1 : 0;
      });
    }
    // Like every result under a guard, the counts stand only if the state word is unchanged.
    if (!guard.Look()) continue;
    sample = next;
    bucket = end;
  }
  return sample;
}

namespace {

// n keys hash to m (1 - e^(-n/m)) of m chains. This solves it for n, from the number of chains
// seen.
std::uint64_t LiveKeys(const Core::IndexSample& sample, int creation_exponent) {
  const double chains = std::ldexp(1.0, creation_exponent + IndexEntry::kTagBits);
  const auto met = static_cast<double>((sample.entries - sample.tombstones) * sample.step);
  return static_cast<std::uint64_t>(-chains * std::log1p(-std::min(met, chains - 1) / chains) +
                                    0.5);
}

constexpr std::uint64_t kStatsBuckets = 1024;

// Counts the keys of chains, each in its state at the time when `newest` was its newest record.
class ChainCounter {
 public:
  ChainCounter(Core& core, EpochSlot& slot) : core_(core), slot_(slot) {}
  // Follows a chain down to `begin`, in short guards. Returns false if it leads to the device.
  // Between two guards an address stays valid while it is not below the head, and the head only
  // grows.
  bool Add(Address newest, Address begin) {
    seen_.clear();
    for (Address at = newest; at >= begin;) {  // ends: previous addresses fall
      constexpr int kRecordsUnderGuard = 256;
      EpochGuard guard(core_.epochs, slot_);
      const Address head = core_.log.head_acquire();
      for (int i = 0; i < kRecordsUnderGuard && at >= begin; ++i) {
        if (at < head) return false;
        at = Take(at, guard);
      }
    }
    return true;
  }
  std::uint64_t count() const { return count_; }

 private:
  // Counts the record's key unless a newer record has it. Returns the previous record's address.
  Address Take(Address at, const EpochGuard& guard) {
    const Record record(core_.log.At(at, guard), core_.log.shape());
    const RecordHeader header = record.header().LoadAcquire();
    const bool is_newest = std::none_of(seen_.begin(), seen_.end(), [&](Address newer) {
      const Record other(core_.log.At(newer, guard), core_.log.shape());
      return other.key_length() == record.key_length() &&
             std::memcmp(other.key(), record.key(), record.key_length()) == 0;
    });
    if (is_newest) {
      seen_.push_back(at);
      count_ += header.tombstone() ? 0 : 1;
    }
    return header.prev();
  }

  Core& core_;
  EpochSlot& slot_;
  std::vector<Address> seen_;  // the newest records of the keys of this chain
  std::uint64_t count_ = 0;
};

}  // namespace

std::optional<std::uint64_t> Core::TryCountKeys(EpochSlot& slot, std::uint64_t limit) {
  const std::uint64_t buckets = index.bucket_count();
  // An entry that is being moved may be in two bucket chains or in none.
  if (index.growing()) return std::nullopt;
  ChainCounter counter(*this, slot);
  std::vector<Address> row;
  std::uint64_t entries = 0;
  for (std::uint64_t bucket = 0; bucket < buckets && counter.count() < limit; ++bucket) {
    if (epochs.closed()) return std::nullopt;
    row.clear();
    Address begin;
    {
      EpochGuard guard(epochs, slot);
      begin = log.begin();
      index.ForEachEntry(bucket, [&](IndexEntry entry) {
        if (!IsDead(entry.address(), begin)) row.push_back(entry.address());
      });
    }
    entries += row.size();
    // More would take too long, and their addresses too much memory; the caller estimates instead.
    if (entries > kMaxCounted) return std::nullopt;
    for (const Address newest : row) {
      if (!counter.Add(newest, begin)) return std::nullopt;
    }
  }
  // A growth during the count may have hidden entries: the caller starts again.
  if (index.growing() || index.bucket_count() != buckets) return std::nullopt;
  return std::min(counter.count(), limit);
}

std::optional<std::uint64_t> Core::CountKeys(std::uint64_t limit) {
  if (epochs.closed()) return std::nullopt;  // before a mutex: this may be a forked child
  const OwnSlot slot(epochs);
  // Close waits for the end of the scope before it frees the memory of log and index. A scope that
  // begins later finds the store closed below.
  const SlowScope scope(*slot);
  // A sample of a large index shows that it has too many entries.
  const IndexSample sample = SampleIndex(*slot, kStatsBuckets);
  // IsEmpty (limit 1) stops at the first key, so it need not estimate.
  if (limit > 1 && sample.entries * sample.step > 2 * kMaxCounted) return std::nullopt;
  Backoff backoff;
  for (;;) {  // ends: growth does, unless a barrier has failed
    const std::uint64_t buckets = index.bucket_count();
    if (const auto count = TryCountKeys(*slot, limit); count.has_value()) return count;
    // Otherwise the number cannot be known: a chain leads to the device, or there are too many
    // entries.
    const bool grew = index.growing() || index.bucket_count() != buckets;
    if (!grew || epochs.closed() || epochs.broken()) return std::nullopt;
    backoff.Wait();
  }
}

absl::StatusOr<std::uint64_t> Core::Size() {
  return CatchNoMemory([this]() -> absl::StatusOr<std::uint64_t> {
    const auto count = CountKeys(std::numeric_limits<std::uint64_t>::max());
    if (epochs.closed()) return ClosedError();
    if (count.has_value()) return *count;
    const OwnSlot slot(epochs);
    const SlowScope scope(*slot);
    const IndexSample sample = SampleIndex(*slot, kStatsBuckets);
    // If all newest records are tombstones, their chains may still hold other keys.
    const std::uint64_t min = sample.entries == 0 ? 0 : 1;
    return std::max(min, LiveKeys(sample, index.creation_exponent()));
  });
}

// If all entries seem to lead to tombstones, checks whether one of their chains holds another key.
Core::KeyEstimates Core::EstimateKeys() noexcept {
  if (epochs.closed()) return {};
  try {
    const OwnSlot slot(epochs);
    const SlowScope scope(*slot);
    const IndexSample sample = SampleIndex(*slot, kStatsBuckets);
    std::uint64_t keys = LiveKeys(sample, index.creation_exponent());
    if (keys == 0 && sample.entries != 0) keys = TryCountKeys(*slot, 1).value_or(1);
    return {sample.entries * sample.step, keys};
  } catch (const std::bad_alloc&) {
    // Statistics report zeros if there is no memory, instead of an error.
    return {};
  }
}

std::uint64_t Core::EstimateLiveKeys() { return EstimateKeys().keys; }

StoreStats Core::Stats() {
  StoreStats stats;
  // From the lowest boundary up: each only grows, so the order of the results holds.
  stats.begin_address = log.begin().value();
  stats.head_address = log.head_acquire().value();
  stats.flushed_until_address = log.flushed_until().value();
  stats.safe_read_only_address = log.safe_read_only().value();
  stats.read_only_address = log.read_only().value();
  stats.tail_address = log.tail().value();
  stats.address_space_share =
      std::ldexp(static_cast<double>(stats.tail_address), -log.geometry().address_bits);
  const Pins::Report pinned = pins.GetReport();
  stats.pin_count = pinned.count;
  stats.lowest_pinned_address = pinned.lowest.value();
  stats.oldest_pin_ms = pinned.oldest_ms;
  if (pinned.count != 0) {
    const std::uint64_t begin_block = log.geometry().BlockOf(log.begin());
    const std::uint64_t kept_from = std::min(begin_block, log.geometry().BlockOf(pinned.lowest));
    stats.pinned_bytes = (begin_block - kept_from) * kBlockBytes;
  }
  stats.mutable_bytes = stats.tail_address - stats.read_only_address;
  stats.read_only_bytes = stats.read_only_address - stats.head_address;
  stats.device_bytes = stats.head_address - stats.begin_address;
  const KeyEstimates estimates = EstimateKeys();
  stats.index_entry_estimate = estimates.entries;
  stats.live_key_estimate = estimates.keys;

  const Geometry& geometry = log.geometry();
  stats.page_bytes = geometry.page_bytes();
  stats.log_memory_bytes = geometry.frame_count * geometry.page_bytes();
  stats.index_memory_bytes = index.memory_bytes();
  stats.huge_page_bytes = log.huge_page_bytes() + index.huge_page_bytes();
  stats.index_bucket_count = index.bucket_count();
  stats.index_overflow_count = index.overflow_count();

  const auto count = [](const AtomicWord& word) {
    return word.load(std::memory_order_relaxed);  // statistics
  };
  stats.durable_address = count(counters.durable_address);
  stats.index_growth_count = count(counters.index_growths);
  stats.index_longest_split_us = count(counters.longest_split_us);
  stats.direct_io = direct_io;
  stats.io_uring = io_uring;
  stats.membarrier = epochs.uses_membarrier();
  return stats;
}

MetricsSnapshot Core::CountedSinceOpen(LatencyHistograms* latencies) {
  TallySums sums{};
  epochs.AddTallies(sums, latencies);
  MetricsSnapshot metrics;
  for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
    OperationMetrics& operation = metrics.operations[kind];
    operation.no_op = sums[Count::kNoOp + kind];
    operation.refused = sums[Count::kRefused + kind];
    operation.slow_path = sums[Count::kSlowPath + kind];
    // The counters of one operation are not read at once, so their sum may be ahead of the count.
    operation.count = std::max(
        {sums[Count::kBegun + kind], operation.slow_path, operation.no_op + operation.refused});
  }
  metrics.reads_from_device = sums[Count::kReadsFromDevice];
  // A hit in memory counts only its beginning, which keeps the fast path short. So the reads from
  // memory are the rest of the reads that found their key.
  const std::uint64_t found = metrics[OpKind::kRead].effective();
  metrics.reads_from_memory = found - std::min(found, metrics.reads_from_device);
  metrics.promoted_records = sums[Count::kPromoted];
  // Promotions are counted as appends too. A sum that is read earlier may lack one of them.
  metrics.appended_records =
      sums[Count::kAppended] - std::min(sums[Count::kAppended], metrics.promoted_records);

  const RecordShape shape = config.log.shape;
  metrics.user_read_bytes =
      shape.value_variable() ? sums[Count::kReadBytes] : found * shape.value_bytes;
  if (shape.has_lengths()) {
    metrics.user_written_bytes = sums[Count::kWrittenBytes];
  } else {
    // Fixed sizes need no counter: the number of operations determines the bytes.
    const std::uint64_t deletes = metrics[OpKind::kDelete].effective();
    std::uint64_t writes = 0;
    for (const OpKind kind :
         {OpKind::kUpsert, OpKind::kRmw, OpKind::kInsert, OpKind::kCompareExchange}) {
      writes += metrics[kind].effective();
    }
    metrics.user_written_bytes = (writes + deletes) * shape.key_bytes + writes * shape.value_bytes;
  }

  const auto count = [](const AtomicWord& word) {
    return word.load(std::memory_order_relaxed);  // statistics
  };
  metrics.log_written_bytes = log.flushed_bytes();
  metrics.checkpoint_written_bytes = count(counters.checkpoint_bytes);
  metrics.device_reads = count(reader.counters().device_reads);
  metrics.device_read_bytes = count(reader.counters().device_read_bytes);
  metrics.page_waits = count(log.counters().page_waits);
  metrics.throttle_waits = count(log.counters().throttle_waits);
  metrics.fuzzy_waits = count(counters.fuzzy_waits);
  metrics.device_waits = sums[Count::kDeviceWaits];
  metrics.contended_waits = sums[Count::kContendedWaits];
  metrics.restarts = sums[Count::kRestarts];
  metrics.lost_publications = count(counters.failed_cas);
  metrics.page_turns = count(log.counters().page_turns);
  metrics.commits = count(counters.commits);
  metrics.failed_commits = count(counters.failed_commits);
  metrics.checkpoints = count(counters.checkpoints);
  metrics.failed_checkpoints = count(counters.failed_checkpoints);
  metrics.checkpoint_ms = count(counters.checkpoint_ms);
  metrics.collections = count(counters.collections);
  metrics.failed_collections = count(counters.failed_collections);
  metrics.collection_scanned_bytes = count(counters.collection_scanned_bytes);
  metrics.collection_copied_bytes = count(counters.collection_copied_bytes);
  metrics.collection_freed_bytes = count(counters.collection_freed_bytes);
  metrics.user_errors = sums[Count::kUserErrors];
  metrics.recoverable_errors = sums[Count::kRecoverableErrors];
  metrics.corruption_errors = sums[Count::kCorruptionErrors];
  metrics.lasting_errors = sums[Count::kLastingErrors];
  return metrics;
}

MetricsSnapshot Core::Metrics() {
  if (!in_opening_process())
    return {};  // in a forked child, no thread may be left to unlock a mutex
  MutexLock lock(metrics_mu_);
  LatencyHistograms* const latencies = latencies_.get();
  if (latencies != nullptr) *latencies = {};
  MetricsSnapshot metrics = CountedSinceOpen(latencies);
  // An operation that was running at the reset began before it and ended after it, so a difference
  // may be below zero.
  const auto since = [](std::uint64_t now, std::uint64_t base) {
    return now - std::min(now, base);
  };
  for (const MetricField& field : kMetricFields) {
    metrics.*field.value = since(metrics.*field.value, metrics_base_.*field.value);
  }
  for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
    OperationMetrics& operation = metrics.operations[kind];
    for (const OperationField& field : kOperationFields) {
      operation.*field.value =
          since(operation.*field.value, metrics_base_.operations[kind].*field.value);
    }
    operation.count =
        std::max({operation.count, operation.slow_path, operation.no_op + operation.refused});
    // A histogram has a base too: after the subtraction it holds only latencies since the reset.
    if (latencies == nullptr) continue;
    (*latencies)[kind].Subtract((*latency_base_)[kind]);
    operation.latency = (*latencies)[kind].Summarize();
  }
  metrics.seconds = std::chrono::duration<double>(Clock::now() - metrics_begin_).count();
  return metrics;
}

void Core::ResetMetrics() {
  if (!in_opening_process()) return;
  // A reset only moves the base: the sessions' counters are never written by another thread.
  MutexLock lock(metrics_mu_);
  if (latency_base_ != nullptr) *latency_base_ = {};
  metrics_base_ = CountedSinceOpen(latency_base_.get());
  metrics_begin_ = Clock::now();
}

// A device in memory never waits, so its reads need no thread of the pool.
BlockQueue Core::NewBlockQueue() {
  return BlockQueue(*files.device, pool, has_files() ? config.pool_threads : 0,
                    io_uring ? files.file_system->OpenReadRing(BlockQueue::kDepth) : nullptr);
}

absl::Status Undecodable(const char* what, std::size_t bytes) {
  return absl::DataLossError(
      fmt::format("the codec rejected a stored {} of {} bytes: Decode must accept all bytes that "
                  "Encode has written since the last change of kVersion; open the store with the "
                  "codec that wrote it",
                  what, bytes));
}

}  // namespace ebb::internal
