#include "ebb/internal/jobs/garbage_collector.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/jobs/compaction.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kMinRecordBytes = 24;  // with an 8-byte key and value
// A pass that others wait for ends when it has taken so long.
constexpr std::chrono::milliseconds kShortPass{100};

// The length of the log from which on there is enough to collect, and that where a collection that
// shares the commits of others waits for them no longer, and slows updates down.
std::uint64_t DueBytes(const GcOptions& options, const GcEstimate& estimate) {
  const double due =
      static_cast<double>(estimate.live_bytes) / std::max(options.target_utilization, 0.01);
  return std::max(static_cast<std::uint64_t>(due), estimate.live_bytes + options.min_reclaim_bytes);
}

// The length above which updates are throttled: a quarter, or two pages, above the length at which
// it is due.
std::uint64_t LongestBytes(const Geometry& geometry, const GcOptions& options,
                           const GcEstimate& estimate) {
  const std::uint64_t due = DueBytes(options, estimate);
  return due + std::max(due / 4, 2 * geometry.page_bytes());
}

// The length at which a pass may end: young records are mostly live and are left for a later pass.
std::uint64_t EnoughBytes(const GcOptions& options, const GcEstimate& estimate) {
  return options.target_utilization >= 1
             ? 0
             : static_cast<std::uint64_t>(static_cast<double>(estimate.live_bytes) * 2 /
                                          (1 + options.target_utilization));
}

std::uint64_t Above(std::uint64_t limit, std::uint64_t bytes) {
  return limit - std::min(limit, bytes);
}

// The bytes of a page per record, if all records are as long as `extent`.
std::uint64_t WithFiller(const Geometry& geometry, std::uint64_t extent) {
  const std::uint64_t records = geometry.payload_bytes() / std::max<std::uint64_t>(extent, 1);
  return records == 0 ? extent : geometry.page_bytes() / records;
}

// A sample of the records on the device.
struct DeviceSample {
  std::uint64_t count = 0;
  std::uint64_t tombstones = 0;
  std::uint64_t bytes = 0;
};

DeviceSample SampleDevice(LogReader& reader, const Core::IndexSample& sample) {
  DeviceBuffer buffer;
  DeviceSample read;
  const std::size_t known = std::min(sample.on_device, Core::IndexSample::kMaxAddresses);
  for (std::size_t i = 0; i < known; ++i) {
    absl::StatusOr<Record> record = reader.ReadRecord(sample.addresses[i], buffer);
    if (!record.ok()) continue;  // an estimate; an operation that needs it gets the error
    ++read.count;
    read.tombstones += record->header().LoadAcquire().tombstone() ? 1 : 0;
    read.bytes += record->ExtentOf();
  }
  return read;
}

}  // namespace

class GarbageCollector::Throttle {
 public:
  Throttle(const GcOptions& options, Clock::time_point& paid_until)
      : bytes_per_second_(static_cast<double>(options.max_bytes_per_second)),
        paid_until_(paid_until) {}

  // Charges `bytes` of work. A thread that was idle has not saved up a rate: the schedule starts
  // now.
  void Add(Clock::time_point now, std::uint64_t bytes) {
    if (bytes_per_second_ == 0) return;
    const std::chrono::duration<double> took(static_cast<double>(bytes) / bytes_per_second_);
    paid_until_ = std::max(paid_until_, now) +
                  std::chrono::duration_cast<Clock::duration>(std::min(took, kLongest));
  }
  // Waits until the collection is on schedule, or until `ends` returns true.
  template <typename Ends>
  void Wait(const Ends& ends) const {
    while (Clock::now() < paid_until_ && !ends()) {
      SleepFor(std::chrono::milliseconds(1));
    }
  }
  bool IsAhead() const { return Clock::now() < paid_until_; }

 private:
  static constexpr std::chrono::duration<double> kLongest{1e9};  // the clock's sums fit
  const double bytes_per_second_;
  Clock::time_point& paid_until_;
};

// ---- when a collection is due ----

GcEstimate GarbageCollector::Estimate(Address begin) {
  // The sample is larger where a few per cent decide whether collecting frees anything.
  const std::uint64_t min_buckets = core_.log.space().is_short() ? 65536 : 4096;
  const Geometry& geometry = core_.log.geometry();
  const RecordShape shape = core_.log.shape();
  const Core::IndexSample sample = core_.SampleIndex(slot_, min_buckets);
  std::uint64_t measured = sample.in_memory;
  std::uint64_t measured_bytes = sample.bytes;
  std::uint64_t tombstones = sample.tombstones;
  if (const DeviceSample read = SampleDevice(core_.reader, sample); read.count != 0) {
    measured += sample.on_device;
    measured_bytes += sample.on_device * (read.bytes / read.count);
    tombstones += sample.on_device * read.tombstones / read.count;
  }
  // If no record can be seen, the smallest possible extent counts.
  const auto least = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? 0 : bytes;
  };
  const std::uint64_t extent = WithFiller(
      geometry, measured != 0 ? measured_bytes / measured
                              : shape.ExtentFor(least(shape.key_bytes), least(shape.value_bytes)));
  GcEstimate estimate;
  estimate.log_bytes = (geometry.BlockOf(core_.log.tail()) - geometry.BlockOf(begin)) * kBlockBytes;
  // Every chain's newest record counts as live, its older ones as garbage. Keys that share a chain
  // make this a little too low.
  estimate.live_records = (sample.entries - tombstones) * sample.step;
  estimate.live_bytes = std::min(estimate.log_bytes, estimate.live_records * extent);
  estimate.garbage_bytes = estimate.log_bytes - estimate.live_bytes;
  return estimate;
}

// Compares the garbage with the waste of scanning all live records, and of two more passes; see
// hybrid_log.h. Without a gain a collection would only use up its slice.
bool GarbageCollector::WouldFree(const GcEstimate& estimate) const {
  const LogSpace::CollectionSpace space = core_.log.space().ForCollection();
  const std::uint64_t pass_bytes = std::max<std::uint64_t>(space.slice_blocks / 2, 1) * kBlockBytes;
  return estimate.garbage_bytes >
         space.waste_blocks * kBlockBytes * (estimate.live_bytes / pass_bytes + 2);
}

bool GarbageCollector::IsDue(const GcOptions& options, const GcEstimate& estimate) const {
  if (core_.log.space().is_short()) return WouldFree(estimate);
  if (estimate.log_bytes == 0 || estimate.garbage_bytes < options.min_reclaim_bytes) return false;
  // For 1 there is no need of an estimate: every collection is wanted.
  return options.target_utilization >= 1 ||
         static_cast<double>(estimate.live_bytes) <
             options.target_utilization * static_cast<double>(estimate.log_bytes);
}

// ---- collecting ----

absl::StatusOr<GcStats> GarbageCollector::Collect(const GcOptions& options, Call& call) {
  const Clock::time_point begun = Clock::now();
  GcStats stats;
  stats.initial_begin_address = core_.log.begin().value();
  absl::Status status = core_.health.poisoned() ? core_.health.status() : core_.CheckFiles(false);
  // If anything is thrown, no update stays throttled for a collection that has ended.
  absl::Cleanup release_throttle = [this] { core_.log.ReleaseThrottle(); };
  if (status.ok()) status = CatchNoMemory([&] { return RunPasses(options, call, stats); });
  const std::exception_ptr thrown = std::exchange(thrown_, nullptr);
  if (thrown != nullptr) status = ThrownError(CallbackKind::kCollection, thrown);
  Count(status, stats);
  if (!status.ok()) {
    // Do not try again at the next page turn: the call that failed may fail again.
    look_at_.store(core_.log.tail().value() + options.min_reclaim_bytes,
                   std::memory_order_relaxed);  // a hint
    NoteFruitless();
    if (thrown != nullptr && call.pace == Pace::kFree) std::rethrow_exception(thrown);
    return status;
  }
  // Updates are still rejected, so this collection made no room. Another one follows only after the
  // tail has moved.
  if (core_.log.space().is_short()) NoteFruitless();
  // A collection that ended normally has left the throttle as LookLater set it.
  std::move(release_throttle).Cancel();
  stats.new_begin_address = core_.log.begin().value();
  stats.duration_ms = MillisecondsSince(begun);
  return stats;
}

bool GarbageCollector::AskProgress(const GcOptions& options, const GcStats& now) {
  if (!options.progress) return true;
  // The callback runs in a turn of the lane, so calls of the store that may wait are rejected
  // inside it.
  const CallbackScope scope(&core_, CallbackKind::kCollection);
  try {
    return options.progress(now);
  } catch (...) {
    thrown_ = std::current_exception();
    return false;
  }
}

void GarbageCollector::Count(const absl::Status& status, const GcStats& stats) {
  const auto add = [](AtomicWord& counter, std::uint64_t count) {
    counter.fetch_add(count, std::memory_order_relaxed);  // statistics
  };
  Core::Counters& counters = core_.counters;
  add(counters.collections, stats.scanned_bytes + stats.freed_bytes != 0 ? 1 : 0);
  add(counters.failed_collections, status.ok() ? 0 : 1);
  add(counters.collection_scanned_bytes, stats.scanned_bytes);
  add(counters.collection_copied_bytes, stats.copied_bytes);
  add(counters.collection_freed_bytes, stats.freed_bytes);
}

absl::Status GarbageCollector::RunPasses(const GcOptions& options, Call& call, GcStats& stats) {
  Clock::time_point own_paid_until{};
  Throttle throttle(options, call.pace == Pace::kAutomatic ? paid_until_ : own_paid_until);
  // First the result of earlier collections: a commit since then may have stated their begin.
  absl::Status status = MoveBegin(options, call, stats);
  Address end;  // where this collection ends; null: not yet chosen
  const bool is_automatic = call.pace == Pace::kAutomatic;
  // Only an automatic collection compares its result with its promise (Rest).
  const CollectionStart start{.from = collected_,
                              .tail = core_.log.tail(),
                              .estimate = is_automatic ? Estimate(collected_) : GcEstimate{}};
  bool goes_on = !is_automatic || start.tail >= resting_until_ || core_.log.space().is_short();
  std::uint64_t unfreed_bytes = 0;  // copied since space was last given back
  // Another collection may pass the end while this one has left the lane.
  const auto is_before_end = [&] { return end.is_null() || collected_ < end; };
  while (status.ok() && goes_on && is_before_end() && IsDue(options, Estimate(collected_))) {
    throttle.Wait([&] { return call.is_stopping() || (call.others_wait && call.others_wait()); });
    if (call.is_stopping()) break;
    // A turn that is ahead of its rate does no work, but still gives way to other jobs.
    if (!throttle.IsAhead()) {
      // The end is fixed once per collection, so that it ends even if updates or other collections
      // append as fast as it copies.
      if (end.is_null()) {
        absl::StatusOr<Address> new_end = EndFor(call.pace);
        if (!new_end.ok()) return new_end.status();
        end = *new_end;
      }
      const GcStats before = stats;
      // Walk of a garbage collection, 2.
      absl::StatusOr<bool> more = RunPass(options, call, end, throttle, stats);
      if (!more.ok()) return more.status();
      goes_on = *more && is_before_end() && call.pace != Pace::kOnePass;
      // Walk of a garbage collection, 3 to 5.
      status = MoveBegin(options, call, stats);
      unfreed_bytes += stats.copied_bytes - before.copied_bytes;
      const std::uint64_t freed_bytes = stats.freed_bytes - before.freed_bytes;
      goes_on = goes_on && !IsWastingSpace(unfreed_bytes, freed_bytes);
      if (freed_bytes != 0) unfreed_bytes = 0;
    }
    if (!status.ok() || !goes_on) continue;
    // Walk of a garbage collection, 6. If the collection does not stay, the pool posts it again and
    // everything that it needs is in collected_ and the log's begin.
    absl::StatusOr<bool> stays = GiveWay(call);
    if (!stays.ok() || !*stays) return stays.status();
  }
  if (status.ok() && core_.epochs.closed()) return core_.ClosedError();
  // A collection that has scanned something and ended, whether or not it freed anything.
  if (is_automatic && start.from < collected_) Rest(options, start, stats);
  LookLater(options, call.pace);
  return status;
}

void GarbageCollector::Rest(const GcOptions& options, const CollectionStart& start,
                            const GcStats& stats) {
  const Geometry& geometry = core_.log.geometry();
  const Address tail = core_.log.tail();
  // See Convergence in the header: the written bytes include the waste of each pass.
  const std::uint64_t scanned = collected_ - start.from;
  std::uint64_t written =
      stats.pass_count * core_.log.space().ForCollection().waste_blocks * kBlockBytes;
  if (stats.copied_records != 0) {
    written +=
        stats.copied_records * WithFiller(geometry, stats.copied_bytes / stats.copied_records);
  }
  const double garbage_share = static_cast<double>(start.estimate.garbage_bytes) /
                               static_cast<double>(start.estimate.log_bytes);
  // It has freed at least half of the promised share of the part that it scanned.
  const bool has_kept_promise = static_cast<double>(Above(scanned, written)) >=
                                garbage_share / 2 * static_cast<double>(scanned);
  // The commits and the checkpoint that follow a collection must not end its rest.
  const std::uint64_t own = 4 * core_.log.space().ForCollection().waste_blocks * kBlockBytes;
  const std::uint64_t quarter =
      std::max({options.min_reclaim_bytes / 4, 2 * geometry.page_bytes(), own});
  // The estimate was wrong: wait until updates have appended a quarter of the log.
  if (!has_kept_promise) {
    resting_until_ = tail + std::max({(tail - collected_) / 4, options.min_reclaim_bytes, own});
  } else if (start.tail < last_tail_ + quarter) {
    // The tail stands still: nothing new can be garbage.
    resting_until_ = tail + quarter;
  }
  last_tail_ = tail;
}

// On a full disk, passes that free less than they copy would use up the slice permanently. That
// happens if a scan still reads the beginning of the log, or if holes cannot be punched.
bool GarbageCollector::IsWastingSpace(std::uint64_t copied_bytes, std::uint64_t freed_bytes) const {
  if (!core_.log.space().is_short()) return false;
  const Geometry& geometry = core_.log.geometry();
  const std::uint64_t log_blocks =
      geometry.BlockOf(core_.log.tail()) - geometry.BlockOf(core_.log.begin());
  const std::uint64_t allowed_blocks = core_.files.device->FreedAsOne(log_blocks) +
                                       2 * core_.log.space().ForCollection().waste_blocks;
  return copied_bytes > freed_bytes + allowed_blocks * kBlockBytes;
}

absl::StatusOr<bool> GarbageCollector::GiveWay(Call& call) {
  if (!call.others_wait || !call.others_wait()) return true;
  // Updates are not throttled for a collection that waits.
  core_.log.ReleaseThrottle();
  if (call.give_way) {
    absl::Status status = call.give_way();
    if (!status.ok()) return status;
    return true;
  }
  call.has_left = true;
  return false;
}

// Freezing the tail makes the next update of each key an append. So an automatic collection scans
// only the part that is frozen already, if that is at least half of the log. On a full disk updates
// are rejected anyway.
absl::StatusOr<Address> GarbageCollector::EndFor(Pace pace) {
  const Address tail = core_.log.tail();
  const Address frozen = core_.log.safe_read_only();
  if (pace == Pace::kAutomatic && !core_.log.space().is_short() &&
      frozen.value() >= tail.value() - (tail - collected_) / 2) {
    return frozen;
  }
  if (absl::Status status = core_.log.FreezeTo(tail); !status.ok()) return status;
  return tail;
}

// Returns false if this pass must be the last.
absl::StatusOr<bool> GarbageCollector::RunPass(const GcOptions& options, const Call& call,
                                               Address end, Throttle& throttle, GcStats& stats) {
  const Clock::time_point begun = Clock::now();
  Clock::time_point last_stop = begun;
  const GcEstimate estimate = Estimate(collected_);
  const Address tail = core_.log.tail();
  const std::uint64_t scanned_before = stats.scanned_bytes;
  GcStats last = stats;
  bool stopped = false;
  // A pass ends early for other jobs, but not before it has done a tenth of a second's work.
  const auto is_awaited = [&] {
    return call.others_wait && Clock::now() - begun >= kShortPass && call.others_wait();
  };
  // Called by the compaction after each chunk.
  const auto stop = [&](const GcStats& now) {
    const std::uint64_t scanned = now.scanned_bytes - scanned_before;
    // Of the last chunk more than half was live: the rest of the log is young and is left for
    // later.
    const bool is_young =
        (now.copied_bytes - last.copied_bytes) * 2 > now.scanned_bytes - last.scanned_bytes;
    throttle.Add(std::exchange(last_stop, Clock::now()), now.scanned_bytes - last.scanned_bytes);
    last = now;
    // Updates follow the scan at a quarter of its speed.
    if (call.pace == Pace::kAutomatic) PaceUpdates(options, estimate, tail + scanned / 4);
    stopped = call.is_stopping() || !AskProgress(options, now);
    if (!stopped) throttle.Wait([&] { return call.is_stopping() || is_awaited(); });
    // Waiting for the rate may have taken long.
    stopped = stopped || call.is_stopping();
    return stopped || is_awaited() ||
           (is_young && !core_.log.space().is_short() &&
            core_.log.tail() - (collected_ + scanned) <= EnoughBytes(options, estimate));
  };
  // Walk of a garbage collection, 2: copies the live records of [collected_, end), or a part of it.
  absl::StatusOr<Address> until =
      Compaction(core_, slot_, stats)
          .Run({.from = collected_, .end = end}, options.pass_bytes, stop);
  if (!until.ok()) return until.status();
  if (*until == collected_) return false;
  collected_ = *until;
  // Every live record below has a published copy above, so the commits that begin from now on may
  // state this begin.
  committer_.StateBegin(collected_);
  ++stats.pass_count;
  return !stopped;
}

absl::Status GarbageCollector::MoveBegin(const GcOptions& options, const Call& call,
                                         GcStats& stats) {
  // Walk of a garbage collection, 4: a commit since the last call may have stated collected_.
  absl::Status status = checkpointer_.FollowCommits(call.turn);
  const Address begin = core_.log.begin();
  if (status.ok() && begin < collected_) {
    const GcEstimate estimate = Estimate(collected_);
    const Address longest = begin + LongestBytes(core_.log.geometry(), options, estimate);
    // A commit makes all records read-only and so creates garbage: an automatic collection waits
    // for the periodic commit unless the log is too long or the disk is full.
    const bool waits_for_others = call.pace == Pace::kAutomatic &&
                                  core_.config.durability == Durability::kPeriodic &&
                                  core_.log.tail() < longest && !core_.log.space().is_short();
    if (!waits_for_others) {
      // Updates must not outrun the commit that is about to free the space.
      if (call.pace == Pace::kAutomatic) PaceUpdates(options, estimate, core_.log.tail());
      status = checkpointer_.MoveBegin(call.turn, collected_);
    }
  }
  // Walk of a garbage collection, 5.
  if (status.ok()) status = GiveBack(stats);
  // Space was freed on the disk, but other programs may take it: reserve some for updates at once.
  if (core_.log.space().is_short()) core_.log.space().TakeAhead(0);
  return status;
}

void GarbageCollector::PaceUpdates(const GcOptions& options, const GcEstimate& estimate,
                                   Address granted) {
  const std::uint64_t bytes = LongestBytes(core_.log.geometry(), options, estimate);
  const Address longest = core_.log.begin() + bytes;
  core_.log.SetThrottle(std::max(longest, std::min(granted, longest + bytes / 10)));
}

// Sets when the next check is due. Live bytes change slowly, so a collection will be due when the
// log has grown to the length that they allow. If a commit has yet to free the collected part,
// updates are throttled, so that they do not outrun it.
void GarbageCollector::LookLater(const GcOptions& options, Pace pace) {
  const GcEstimate now = Estimate(collected_);
  const Address begin = core_.log.begin();
  const std::uint64_t longest = LongestBytes(core_.log.geometry(), options, now);
  if (pace == Pace::kAutomatic && begin < collected_) {
    PaceUpdates(options, now, Address());
  } else {
    core_.log.ReleaseThrottle();
  }
  const std::uint64_t growth = std::min(Above(DueBytes(options, now), now.log_bytes),
                                        Above(longest, core_.log.tail() - begin));
  const std::uint64_t look_at =
      core_.log.tail().value() + std::max(growth, options.min_reclaim_bytes / 4);
  look_at_.store(std::max(look_at, resting_until_.value()), std::memory_order_relaxed);  // a hint
}

// Frees also the blocks that an earlier collection could not free because a scan still read there.
absl::Status GarbageCollector::GiveBack(GcStats& stats) {
  // The log below the lowest pin may go; a scan that pins it keeps the rest.
  const Address limit = core_.pins.Limit(core_.log.begin());
  absl::StatusOr<std::uint64_t> freed =
      core_.files.device->TruncateFront(core_.log.geometry().FrontBlock(limit));
  if (!freed.ok()) return freed.status();
  stats.freed_bytes += *freed;
  // An entry that leads below begin means the same as no entry, so sweeping can wait: until the log
  // has freed as many bytes as a sweep of the index reads.
  if (limit.value() >= swept_.value() + core_.index.memory_bytes()) Sweep(limit, stats);
  return absl::OkStatus();
}

void GarbageCollector::Sweep(Address limit, GcStats& stats) {
  for (std::uint64_t bucket = 0; bucket < core_.index.bucket_count(); ++bucket) {
    stats.removed_entries += core_.index.SweepBucket(bucket, limit);
  }
  swept_ = limit;
}

// ---- entries of the index ----

absl::Status GarbageCollector::FreeEntries(const LaneTurn& turn, GcOptions options,
                                           const std::function<bool()>& is_stopping) {
  // 4 entries per bucket leave room before the maximum load factor.
  const std::uint64_t max_entries = 4 * core_.index.bucket_count();
  constexpr std::uint64_t kBuckets = 1024;
  const auto count = [this] {
    const Core::IndexSample sample = core_.SampleIndex(slot_, kBuckets);
    return (sample.entries + sample.dead) * sample.step;
  };
  const std::uint64_t pause_bytes = options.min_reclaim_bytes;
  GcStats stats;
  const GcEstimate estimate = Estimate(collected_);
  const std::uint64_t record_bytes =
      estimate.live_records == 0 ? 0 : estimate.live_bytes / estimate.live_records;
  absl::Status status;
  std::uint64_t entries = count();
  bool has_room = entries <= max_entries;
  // At most half of the entries are of live keys: sweeping is cheaper than growing.
  if (!has_room && estimate.live_records * 2 <= entries) {
    Sweep(core_.pins.Limit(core_.log.begin()), stats);
    has_room = count() <= max_entries;
    // Most entries that are left lead to tombstones. They can be swept only after a pass has freed
    // their tombstones.
    if (!has_room && estimate.live_bytes * 2 <= estimate.log_bytes &&
        options.max_bytes_per_second == 0) {
      options.min_reclaim_bytes = 0;
      Call call{.turn = turn, .pace = Pace::kOnePass, .is_stopping = is_stopping};
      status = Collect(options, call).status();
      Sweep(core_.pins.Limit(core_.log.begin()), stats);
      has_room = count() <= entries / 4 * 3;
    }
    entries = count();
  }
  // Overflow buckets stay allocated, so `crowded` would remain true although there is room again.
  if (has_room && core_.index.crowded()) core_.index.TolerateOverflow();
  // The next check comes after as many records as there is room for entries. Without success, it
  // does not come with the next page turn.
  std::uint64_t more = std::max(Above(max_entries, entries), max_entries / 4);
  more *= std::max(record_bytes, kMinRecordBytes);
  if (!status.ok() || !has_room) more = std::max(more, pause_bytes);
  count_entries_at_.store(core_.log.tail().value() + more, std::memory_order_relaxed);  // a hint
  return status;
}

}  // namespace ebb::internal
