/// @file
/// Declares ebb::Store, an embeddable key-value store for data that may be larger than memory.
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/codec.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/jobs/coordinator.h"
#include "ebb/internal/open/recovery.h"
#include "ebb/internal/ops/session_state.h"
#include "ebb/internal/ops/thread_session.h"
#include "ebb/metrics.h"
#include "ebb/options.h"
#include "ebb/scan.h"
#include "ebb/session.h"
#include "ebb/stats.h"
#include "ebb/status.h"
#include "ebb/verify.h"

namespace ebb {

namespace internal {
struct StoreAccess;
}

/// An embeddable key-value store for data that may be larger than memory.
///
///     auto db = ebb::Must(ebb::Store<std::string, std::uint64_t>::Open("clicks.ebb"));
///     ebb::Must(db.Upsert("home", 1));
///     ebb::Must(db.Rmw("home", [](std::uint64_t& n) { n += 41; }));
///     if (auto n = db.Read("home"); n.ok()) fmt::print("{}\n", *n);
///     ebb::Must(db.Close());
///
/// Key and Value are trivially copyable types, std::string, or types with a codec of your own
/// (ebb/codec.h). The meaning, cost and errors of operations on keys are described once, at
/// ebb::Session. The same operations called on the store use a session of the calling thread. The
/// store creates that session at the thread's first call and releases it when the thread ends.
///
/// Durability: Commit, Checkpoint and Close make durable every update that returned before them.
/// Options::durability sets when updates become durable automatically. After a crash, the store is
/// restored to the state of its newest commit. That state contains every update that returned
/// before the commit began. For each named session it contains exactly the updates up to the serial
/// that recovery() reports.
///
/// Out of memory: calls that return a status return ResourceExhausted and have no effect. The
/// others return an empty or partial result. Only exceptions of callbacks leave a call
/// (ebb/session.h). If Close fails for lack of memory, it can be called again. The destructor
/// releases everything even if closing fails. Updates that were not committed are then lost, and it
/// prints the error to stderr.
///
/// Thread safety: any number of threads may call a store at the same time. There are two
/// exceptions. Only one thread at a time may call Close. And no other call may be running while the
/// store is moved or destroyed. The tables in ebb/session.h and ebb/options.h list the calls that
/// callbacks may make.
template <KeyType Key = std::string, ValueType Value = std::string>
class Store {
 public:
  /// The session type of this store.
  using Session = ebb::Session<Key, Value>;
  /// The type in which calls take a key: std::string_view for strings (see ebb::ViewOf).
  using KeyView = typename Session::KeyView;
  /// The type in which calls take a value: std::string_view for strings (see ebb::ViewOf).
  using ValueView = typename Session::ValueView;

  /// Opens the store in the directory `path`. If there is no store, creates one, and the directory
  /// if necessary, but not its parents. Options::create_if_missing and Options::read_only can
  /// forbid this.
  ///
  /// Validates all options before it changes anything. Locks the directory: exclusively, or shared
  /// with other readers if `read_only` is set. Then reads the log from the newest checkpoint to its
  /// end; the time that this takes is proportional to that part of the log.
  ///
  /// Errors: InvalidArgument (the message names the option); NotFound (there is no store and none
  /// may be created); FailedPrecondition (the store is open elsewhere, has other types or another
  /// page size, or is an unfinished backup); DataLoss; Unimplemented (the files have another format
  /// version); PermissionDenied; ResourceExhausted; Unavailable.
  static absl::StatusOr<Store> Open(const std::string& path, const Options& options = {}) {
    return OpenIn(path, options, {});
  }
  /// Creates a store without files. Records that do not fit in Options::log_memory_bytes move to
  /// memory from the heap, which has no limit. The contents are lost when the store is closed.
  /// Errors: as Open, except those of files.
  static absl::StatusOr<Store> OpenInMemory(const Options& options = {}) {
    internal::Environment environment;
    environment.in_memory = true;
    return OpenIn("", options, environment);
  }

  /// Moves the store. Calls of the moved-from store return FailedPrecondition, or an empty result
  /// if they return no status. Existing sessions and iterators remain valid.
  Store(Store&&) noexcept = default;
  /// Swaps the two stores.
  Store& operator=(Store&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(session_without_memory_, other.session_without_memory_);
    std::swap(coordinator_, other.coordinator_);
    std::swap(recovery_, other.recovery_);
    return *this;
  }
  /// Closes the store as Close does, and prints an error to stderr. Releases all resources even if
  /// closing fails. In a forked child, or inside a callback of the store, it leaks the store
  /// instead of closing it.
  ~Store() {
    if (core_ == nullptr) return;
    // A forked child has none of the threads and must not touch the files, so it abandons the
    // store. A call that is running a callback still needs the store.
    if (!core_->in_opening_process() || core_->MustLeak()) {
      Leak();
    } else {
      coordinator_->CloseAtEnd();
    }
  }

  /// Creates a session. Operations on a session of your own are faster than those on the store,
  /// which look up the session of the calling thread.
  ///
  /// If there is no memory for it, returns a session whose calls all return ResourceExhausted, even
  /// when there is memory again. After Close, calls of every session return FailedPrecondition.
  /// Progress: acquires a mutex briefly.
  Session NewSession() {
    if (core_ != nullptr) return Session(core_);
    const auto& core = session_without_memory_.core_;
    return Session(core, *core->session_moved_from);
  }

  /// Creates a named session. The store records, also across crashes, how many updates of the
  /// session are durable. The session continues from the last serial of the previous session of
  /// this name (Session::serial).
  ///
  /// For example, a program that applies a numbered input stream resumes at the first update that
  /// is not durable:
  ///
  ///     auto session = ebb::Must(db.NewSession("importer"));
  ///     for (std::uint64_t i = session.serial(); i < lines.size(); ++i) {
  ///       ebb::Must(session.Upsert(lines[i].key, lines[i].value));  // takes the serial i + 1
  ///     }
  ///
  /// Errors: InvalidArgument (the name is empty or longer than 255 bytes); FailedPrecondition (a
  /// session of this name is alive, or the store is closed or read-only); ResourceExhausted. Cost:
  /// each commit writes the name and serial of every named session that has made updates since the
  /// previous commit.
  absl::StatusOr<Session> NewSession(std::string_view name) {
    Session session = NewSession();
    absl::Status status =
        internal::CatchNoMemory([&] { return internal::NameSession(*session.state_, name); });
    if (!status.ok()) return status;
    return session;
  }
  /// Removes the recorded serial of a name that has no live session. The removal becomes durable
  /// with the next commit. Errors: NotFound (the name is unknown); FailedPrecondition (a session of
  /// this name is alive, or the store is closed or read-only); ResourceExhausted.
  absl::Status ForgetSession(std::string_view name) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    if (core_->epochs.closed()) return core_->ClosedError();
    if (absl::Status status = core_->CheckWritable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return core_->sessions.Forget(name); });
  }

  /// Session::Read, on the session of the calling thread.
  absl::StatusOr<Value> Read(KeyView key) { return Local().Read(key); }
  /// Session::Read into `value`, on the session of the calling thread.
  absl::Status Read(KeyView key, Value& value) { return Local().Read(key, value); }
  /// Session::Read with a visitor, on the session of the calling thread.
  template <std::invocable<ValueView> F>
  requires(!std::same_as<std::remove_cvref_t<F>, Value>) absl::Status
      Read(KeyView key, F&& visitor) {
    return Local().Read(key, std::forward<F>(visitor));
  }
  /// Session::Contains, on the session of the calling thread.
  absl::StatusOr<bool> Contains(KeyView key) { return Local().Contains(key); }
  /// Session::Upsert, on the session of the calling thread.
  absl::Status Upsert(KeyView key, ValueView value) { return Local().Upsert(key, value); }
  /// Session::Rmw, on the session of the calling thread.
  template <std::invocable<Value&> F>
  absl::Status Rmw(KeyView key, F&& fn, const Value& initial = Value{}) {
    return Local().Rmw(key, std::forward<F>(fn), initial);
  }
  /// Session::Delete, on the session of the calling thread.
  absl::Status Delete(KeyView key) { return Local().Delete(key); }
  /// Session::InsertIfAbsent, on the session of the calling thread.
  absl::Status InsertIfAbsent(KeyView key, ValueView value) {
    return Local().InsertIfAbsent(key, value);
  }
  /// Session::CompareExchange, on the session of the calling thread.
  absl::Status CompareExchange(KeyView key, ValueView expected,
                               ValueView desired) requires ComparableValue<Value> {
    return Local().CompareExchange(key, expected, desired);
  }

  /// Returns an iterator over all keys. Each key appears once, with its newest value at the time of
  /// this call. Errors are reported by the iterator's status(). See ebb::ScanIterator for the exact
  /// guarantee and the cost.
  ScanIterator<Key, Value> NewScan() { return ScanIterator<Key, Value>(core_); }
  /// Returns an iterator over the keys that begin with `prefix`. It still reads the whole log.
  ScanIterator<Key, Value> NewScan(
      std::string_view prefix) requires std::same_as<Key, std::string> {
    return ScanIterator<Key, Value>(core_, prefix);
  }
  /// Calls `fn(key, value)` for each key. If `fn` returns bool, false ends the scan, which then
  /// returns OK. `fn` runs without any lock or guard and may make every call of the store, even
  /// Close. An exception of `fn` leaves the call. Errors: see ScanIterator::status.
  template <ScanVisitor<KeyView, ValueView> F>
  absl::Status Scan(F&& fn) {
    return Show(NewScan(), fn);
  }
  /// Calls `fn(key, value)` for each key that begins with `prefix`, as Scan does for all keys.
  template <ScanVisitor<KeyView, ValueView> F>
  requires std::same_as<Key, std::string> absl::Status ScanPrefix(std::string_view prefix, F&& fn) {
    return Show(NewScan(prefix), fn);
  }
  /// Returns all keys and values in one vector. Errors: as Scan; ResourceExhausted if the vector
  /// does not fit in memory.
  absl::StatusOr<std::vector<std::pair<Key, Value>>> ScanAll() {
    return internal::CatchNoMemory([&]() -> absl::StatusOr<std::vector<std::pair<Key, Value>>> {
      std::vector<std::pair<Key, Value>> all;
      absl::Status status =
          Scan([&](KeyView key, ValueView value) { all.emplace_back(key, value); });
      if (!status.ok()) return status;
      return all;
    });
  }

  /// Makes durable every update, of all sessions, that returned before this call. Costs one sync of
  /// the log files, which concurrent callers share. Operations continue in the meantime.
  ///
  /// After an error, nothing is promised about the updates since the last successful commit.
  /// Errors: ResourceExhausted (make room and call again); Unavailable (after a failed sync the
  /// store rejects updates until it is reopened; after a failed write a later call may succeed);
  /// DataLoss (a file of the store was removed); FailedPrecondition (closed, read-only, or without
  /// files). Progress: waits for callbacks that are running and for the device.
  absl::Status Commit() {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Commit();
  }

  /// Commits and writes an image of the index, so that the next Open reads only the part of the log
  /// after it. Operations and commits continue in the meantime. Returns the newest checkpoint.
  ///
  /// If a checkpoint is already running, waits for it, and then for another one if anything has
  /// changed. If nothing has changed since the newest checkpoint, does nothing and returns that
  /// one.
  ///
  /// Errors: as Commit; ResourceExhausted also if there is no room for the image, which leaves the
  /// older checkpoints unchanged. Progress: as Commit. Cost: writes 8 bytes for each key and 8
  /// bytes for each bucket in use.
  absl::StatusOr<CheckpointInfo> Checkpoint() {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Checkpoint();
  }
  /// Returns the existing checkpoints, oldest first. Returns an empty list if there is no memory
  /// for it.
  std::vector<CheckpointInfo> ListCheckpoints() const {
    EBB_TRY {
      if (coordinator_ == nullptr) return {};
      return coordinator_->Checkpoints();
    }
    EBB_CATCH_NO_MEMORY { return {}; }
  }
  /// Removes all checkpoints except the newest `kept`, and the files that interrupted checkpoints
  /// left. Returns the number of checkpoints removed. Errors: InvalidArgument (`kept` is 0);
  /// FailedPrecondition (closed, read-only, or without files); ResourceExhausted; Unavailable.
  absl::StatusOr<std::uint64_t> CleanupCheckpoints(std::uint64_t kept) {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->CleanUpCheckpoints(kept); });
  }
  /// Returns the number and size of the checkpoints, and the counts and the last error since Open.
  CheckpointStats GetCheckpointStats() const {
    return coordinator_ == nullptr ? CheckpointStats() : coordinator_->GetCheckpointStats();
  }

  /// Doubles the number of index buckets. With Options::index_auto_grow this happens automatically
  /// when there are more than about 5 keys per bucket. Reads and updates continue in the meantime.
  ///
  /// Errors: ResourceExhausted (the index has reached its maximum: 2^15 times its size at creation,
  /// Options::max_index_bytes, or the size that physical memory can hold; or there is no memory);
  /// FailedPrecondition (closed or read-only). Progress: waits for callbacks that are running and
  /// for a running checkpoint.
  absl::Status GrowIndex() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->GrowIndex(); });
  }

  /// Copies live records, that is, the newest record of each key, from the beginning of the log to
  /// its tail, and then frees the space that it scanned. Continues until the goals in `options` are
  /// met, but scans the log at most once. Operations, commits and scans continue in the meantime.
  /// Returns OK even if there was nothing to do.
  ///
  /// In a store without files it frees memory. Such a store is never collected automatically. Space
  /// that a scan still reads is freed by a later collection. If the call fails, the space that its
  /// completed passes have freed stays free.
  ///
  /// Errors: InvalidArgument (`options`); as Commit; DataLoss. Progress: waits for a running
  /// checkpoint and for the device. Cost: reads the scanned part of the log; reads other parts to
  /// determine which of the scanned records are live; writes the live records. See
  /// GcOptions::target_utilization.
  absl::StatusOr<GcStats> CollectGarbage(const GcOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->CollectGarbage(options); });
  }
  /// Returns whether CollectGarbage would find enough garbage to begin. Errors and cost: as
  /// EstimateGarbage; InvalidArgument (`options`).
  absl::StatusOr<bool> ShouldCollect(const GcOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->ShouldCollect(options); });
  }
  /// Estimates how many bytes of the log are live and how many are garbage, from a sample of the
  /// index. Errors: FailedPrecondition (closed); ResourceExhausted. Cost: several thousand memory
  /// accesses. Progress: waits for a running checkpoint, collection or other long job.
  absl::StatusOr<GcEstimate> EstimateGarbage() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->EstimateGarbage(); });
  }

  /// Starts the automatic checkpoints and garbage collections (Options::checkpoint_interval_ms and
  /// Options::gc_interval_ms). They are already started when a store is opened. Error:
  /// FailedPrecondition, if called from a callback of the store.
  absl::Status StartBackground() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    coordinator_->StartBackground();
    return absl::OkStatus();
  }
  /// Stops the automatic checkpoints and garbage collections. Drops those that have not begun, ends
  /// a running collection early, and returns when none is running. Collections and checkpoints that
  /// a caller has requested continue; so do periodic commits and the automatic growth of the index.
  /// Error: FailedPrecondition, if called from a callback of the store.
  absl::Status StopBackground() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    coordinator_->StopBackground();
    return absl::OkStatus();
  }
  /// Returns the state of the automatic checkpoints and collections: counts, the last error and the
  /// next run.
  BackgroundStats GetBackgroundStats() const {
    return coordinator_ == nullptr ? BackgroundStats() : coordinator_->GetBackgroundStats();
  }

  /// Makes a checkpoint and copies it into `directory`, which then is a separate store. The copy
  /// has the state of the checkpoint's commit and contains every update that returned before this
  /// call.
  ///
  /// `directory` must be absent or empty, or hold an unfinished backup, which is replaced. Its
  /// parent directory must exist. Operations and commits continue in the meantime; checkpoints
  /// wait. Every block is verified while it is copied. `progress` is called in the calling thread
  /// after each MiB and each file; the table in ebb/options.h lists the calls that it may make.
  ///
  /// After an error the directory is either empty, or a complete backup, or marked by the file
  /// UNFINISHED-BACKUP. Open of a marked directory fails. Errors: as Checkpoint; InvalidArgument
  /// (`directory`); DataLoss (this store is damaged).
  absl::StatusOr<BackupInfo> Backup(
      const std::string& directory,
      const std::function<void(const BackupProgress&)>& progress = {}) {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Backup(directory, progress);
  }

  /// Reads everything that the store has on the device and follows every chain of records. The
  /// report lists the problems found (ebb/verify.h). Operations and commits continue in the
  /// meantime; checkpoints wait. Uses the memory of a second index and one page. Errors:
  /// FailedPrecondition (closed); ResourceExhausted; Unavailable.
  absl::StatusOr<VerifyReport> Verify(const VerifyOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return coordinator_->Verify(options);
  }

  /// Returns the report of Open: the checkpoint that it used, the serials of named sessions, and
  /// notes about problems that it repaired.
  const RecoveryReport& recovery() const { return recovery_; }

  /// Closes the store. If garbage is due for collection (see GcOptions), collects it first: one
  /// pass, and only if no other long job is running and Options::gc_interval_ms is not 0. Then
  /// rejects further operations, waits for running ones, makes everything durable and releases the
  /// files. Writes a checkpoint too unless Options::checkpoint_interval_ms is 0.
  ///
  /// After an error for which IsRecoverable returns true, everything is still in memory: remove the
  /// cause, for example make room on the disk, and call Close again. Once the store is closed,
  /// further calls return the result of the last one. An exception of a completion callback leaves
  /// this call before the store is closed: call Close again. Errors: as Commit. Progress: waits for
  /// callbacks that are running and for the device.
  absl::Status Close() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return coordinator_->Close();
  }

  /// Returns the number of keys. The number is exact if the index has at most 10,000 entries, all
  /// their records are in memory, and no update is running. A small store meets this unless it was
  /// just opened from a checkpoint. Otherwise the number is an estimate, whose error is described
  /// at StoreStats::live_key_estimate, and at least 1 unless the index is empty. There is no
  /// counter, because an Upsert does not know whether its key was present.
  ///
  /// Errors: FailedPrecondition (closed), ResourceExhausted. Cost: if the index has few entries,
  /// reads 64 bytes for each bucket and the records in memory; otherwise as ApproximateSize.
  /// Progress: waits while the index grows.
  absl::StatusOr<std::uint64_t> Size() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return core_->Size();
  }
  /// Returns whether the store holds no key. The result is never an estimate. If the records in
  /// memory are not enough to decide, scans up to the first key, so the worst-case cost is that of
  /// a scan. Errors: as ScanIterator::status.
  absl::StatusOr<bool> IsEmpty() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&]() -> absl::StatusOr<bool> {
      if (const auto count = core_->CountKeys(1); count.has_value()) return *count == 0;
      ScanIterator<Key, Value> scan = NewScan();
      if (scan.Next()) return false;
      absl::Status status = scan.status();
      if (!status.ok()) return status;
      return true;
    });
  }
  /// Returns StoreStats::live_key_estimate, or 0 if the store is closed or memory is out. May be
  /// called from callbacks. Cost: as Stats().
  std::uint64_t ApproximateSize() const { return core_ == nullptr ? 0 : core_->EstimateLiveKeys(); }

  /// Returns the state of the store: boundaries of the log, memory, and sizes of the index. If
  /// memory is out, the estimates are 0. Cost: a few milliseconds, to read the kernel's memory
  /// accounting and a sample of the index. If the index has millions of buckets and few keys, it
  /// reads the whole index.
  StoreStats Stats() const { return core_ == nullptr ? StoreStats() : core_->Stats(); }

  /// Returns the counts since Open or the last ResetMetrics; see ebb/metrics.h. Works on a closed
  /// store too; in a forked child all counts are zero. Cost: proportional to the peak number of
  /// sessions.
  MetricsSnapshot Metrics() const {
    return core_ == nullptr ? MetricsSnapshot() : core_->Metrics();
  }
  /// Resets the counts of Metrics() to zero. Stats() and GetCheckpointStats() are not affected.
  void ResetMetrics() {
    if (core_ != nullptr) core_->ResetMetrics();
  }

 private:
  friend struct internal::StoreAccess;

  explicit Store(internal::OpenedStore opened)
      : core_(std::move(opened.core)),
        session_without_memory_(core_, *core_->session_without_memory),
        coordinator_(std::move(opened.coordinator)),
        recovery_(std::move(opened.report)) {}

  static absl::StatusOr<Store> OpenIn(const std::string& path, const Options& options,
                                      const internal::Environment& environment) {
    if constexpr (requires { Codec<Key>::Usable(); }) {
      if (absl::Status status = Codec<Key>::Usable(); !status.ok()) return status;
    }
    if constexpr (requires { Codec<Value>::Usable(); }) {
      if (absl::Status status = Codec<Value>::Usable(); !status.ok()) return status;
    }
    constexpr internal::StoredTypes kTypes{
        internal::Operations<internal::Stored<Key>, internal::Stored<Value>>::kShape,
        internal::kCodecWord<Key, Value>, internal::NameOfType<Key>(),
        internal::NameOfType<Value>()};
    auto opened = internal::OpenStore(path, options, kTypes, environment);
    if (!opened.ok()) return opened.status();
    return Store(*std::move(opened));
  }

  absl::Status CheckCallable() const {
    return core_ == nullptr ? internal::Fixed().moved_from : core_->CheckCallable();
  }
  absl::Status CheckCanPersist() const {
    return core_ == nullptr ? internal::Fixed().moved_from : core_->CheckCanPersist();
  }
  void Leak() {
    using Kept = std::shared_ptr<const void>;
    internal::KeepForever(Kept(Kept(), coordinator_.release()));
    internal::KeepForever(std::move(core_));
  }

  template <typename F>
  static absl::Status Show(ScanIterator<Key, Value> it, F& fn) {
    while (it.Next()) {
      if constexpr (std::is_void_v<std::invoke_result_t<F&, KeyView, ValueView>>) {
        fn(it.key(), it.value());
      } else if (!fn(it.key(), it.value())) {
        break;
      }
    }
    return it.status();
  }

  // Returns the session of the calling thread.
  Session& Local() {
    const internal::LastThreadSession last = internal::LastSession();
    if (last.core == core_.get()) [[likely]]
      return *static_cast<Session*>(last.session);
    return LocalSlow();
  }
  EBB_COLD Session& LocalSlow() {
    if (core_ == nullptr) return session_without_memory_;  // moved from, like the store
    if (void* known = internal::FindThreadSession(*core_)) return *static_cast<Session*>(known);
    EBB_TRY {
      auto made = std::make_shared<Session>(NewSession());
      if (made->state_->is_stand_in()) return session_without_memory_;
      internal::KeepThreadSession(core_, made, *made->state_);
      return *made;
    }
    EBB_CATCH_NO_MEMORY { return session_without_memory_; }
  }

  std::shared_ptr<internal::Core> core_;
  Session session_without_memory_;  // for threads that cannot have a session now
  std::unique_ptr<internal::Coordinator> coordinator_;  // uses core_
  RecoveryReport recovery_;
};

namespace internal {
// Access to the internals of a store, for tests.
struct StoreAccess {
  template <typename StoreType>
  static absl::StatusOr<StoreType> Open(const std::string& path, const Options& options,
                                        const Environment& environment) {
    return StoreType::OpenIn(path, options, environment);
  }
  template <typename StoreType>
  static Core& GetCore(StoreType& store) {
    return *store.core_;
  }
  template <typename StoreType>
  static Coordinator& GetCoordinator(StoreType& store) {
    return *store.coordinator_;
  }
};
}  // namespace internal

}  // namespace ebb
