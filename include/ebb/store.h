// Store<Key, Value>: an embeddable key-value store for data that may be larger than memory.
//
//   auto db = ebb::Must(ebb::Store<std::string, std::uint64_t>::Open("clicks.ebb"));
//   ebb::Must(db.Upsert("home", 1));
//   ebb::Must(db.Rmw("home", [](std::uint64_t& n) { n += 41; }));
//   if (auto n = db.Read("home"); n.ok()) fmt::print("{}\n", *n);
//   ebb::Must(db.Close());
//
// Key and Value are trivially copyable types, std::string, or types for which the program has a
// codec (ebb/codec.h). What operations mean, cost and answer is said once, in ebb/session.h; the
// same calls on the store itself use a session of the calling thread, made at its first call and
// given back when the thread ends.
//
// Durability: Commit, Checkpoint and Close make every update durable that returned before them, and
// Options::durability says when that happens by itself. After a crash a store comes back as its
// newest commit left it: everything that returned before that commit began, and for each named
// session exactly its updates up to the serial that recovery() reports.
//
// When memory is out, calls return ResourceExhausted and have no effect, those without a status
// return less; only exceptions of callbacks are thrown (ebb/session.h). Close, too, fails then,
// and can be repeated. Destruction releases everything; what had not been committed is lost, as the
// message on stderr says.
//
// Thread safety: all operations, NewSession and Stats, any thread; Open, Close, moving and
// destruction, one thread at a time, and no operation may run while the store is moved or
// destroyed. The destructor closes, and prints what went wrong to stderr. Which calls may be made
// from callbacks is said in ebb/session.h and ebb/options.h.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdio>
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
#include "ebb/internal/coordinator.h"
#include "ebb/internal/no_memory.h"
#include "ebb/internal/recovery.h"
#include "ebb/internal/session_state.h"
#include "ebb/internal/thread_session.h"
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

template <KeyType Key = std::string, ValueType Value = std::string>
class Store {
 public:
  using Session = ebb::Session<Key, Value>;
  using KeyView = typename Session::KeyView;
  using ValueView = typename Session::ValueView;

  // Opens the store in the directory `path`, or creates it (the directory too, but not its
  // parents) unless Options::create_if_missing is false or read_only is set. Checks everything
  // first; locks the directory, for itself alone or, with read_only, shared with other readers;
  // reads back the store's contents, which takes as long as reading its log from the newest
  // checkpoint on. Errors: InvalidArgument naming the option, NotFound (there is no store, and it
  // may not be created), FailedPrecondition (open elsewhere; other types or page size; an
  // unfinished backup), DataLoss, Unimplemented (written by a newer version), ResourceExhausted,
  // Unavailable.
  static absl::StatusOr<Store> Open(const std::string& path, const Options& options = {}) {
    return OpenIn(path, options, {});
  }
  // A store without files: what does not fit log_memory_bytes goes to other memory. Everything is
  // gone when it is closed.
  static absl::StatusOr<Store> OpenInMemory(const Options& options = {}) {
    internal::Environment environment;
    environment.in_memory = true;
    return OpenIn("", options, environment);
  }

  // Calls of a store that was moved from return FailedPrecondition; those without a status return
  // an empty result. (session_without_memory_ then stands for what was moved from: see Session.)
  Store(Store&&) noexcept = default;
  Store& operator=(Store&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(session_without_memory_, other.session_without_memory_);
    std::swap(coordinator_, other.coordinator_);
    std::swap(recovery_, other.recovery_);
    return *this;
  }
  ~Store() {
    if (core_ == nullptr) return;
    // A forked child has none of the threads and must not touch the files: it forgets the store. A
    // call that runs a callback still needs the store.
    if (!core_->in_opening_process() || core_->MustLeak("a store")) {
      Leak();
    } else if (const absl::Status status = coordinator_->CloseAtEnd(); !status.ok()) {
      std::fprintf(stderr, "ebb: closing a store failed: %s\n", internal::TextOf(status).c_str());
    }
  }

  // A handle of one's own, the fast path. After Close its calls answer FailedPrecondition.
  // When memory is out, returns a session whose calls return ResourceExhausted; it stays
  // so. Progress: takes a mutex for a moment.
  Session NewSession() {
    if (core_ != nullptr) return Session(core_);
    const auto& core = session_without_memory_.core_;
    return Session(core, *core->session_moved_from);
  }

  // The same with a name: the store remembers, through crashes too, how many updates of the session
  // have become durable. It goes on where the last session of this name ended, whose serial() says
  // where that was. InvalidArgument: the name has no byte or more than 255. FailedPrecondition: a
  // session of this name is alive. Cost of many: each commit notes those that have changed.
  absl::StatusOr<Session> NewSession(std::string_view name) {
    Session session = NewSession();
    absl::Status status =
        internal::CatchNoMemory([&] { return internal::NameSession(*session.state_, name); });
    if (!status.ok()) return status;
    return session;
  }
  // Forgets a name that has no live session, with the next commit. NotFound when it is unknown.
  absl::Status ForgetSession(std::string_view name) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    if (core_->epochs.closed()) return core_->ClosedError();
    if (absl::Status status = core_->CheckWritable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return core_->sessions.Forget(name); });
  }

  // As the session's calls of the same names.
  absl::StatusOr<Value> Read(KeyView key) { return Local().Read(key); }
  absl::Status Read(KeyView key, Value& value) { return Local().Read(key, value); }
  template <std::invocable<ValueView> F>
  requires(!std::same_as<std::remove_cvref_t<F>, Value>) absl::Status
      Read(KeyView key, F&& visitor) {
    return Local().Read(key, std::forward<F>(visitor));
  }
  absl::StatusOr<bool> Contains(KeyView key) { return Local().Contains(key); }
  absl::Status Upsert(KeyView key, ValueView value) { return Local().Upsert(key, value); }
  template <std::invocable<Value&> F>
  absl::Status Rmw(KeyView key, F&& fn, const Value& initial = Value{}) {
    return Local().Rmw(key, std::forward<F>(fn), initial);
  }
  absl::Status Delete(KeyView key) { return Local().Delete(key); }
  absl::Status InsertIfAbsent(KeyView key, ValueView value) {
    return Local().InsertIfAbsent(key, value);
  }
  absl::Status CompareExchange(KeyView key, ValueView expected,
                               ValueView desired) requires ComparableValue<Value> {
    return Local().CompareExchange(key, expected, desired);
  }

  // Goes through the keys: each once, with the newest value that it had when the scan was made; the
  // head of ebb/scan.h says what exactly that is, what it costs, and which errors there are.
  ScanIterator<Key, Value> NewScan() { return ScanIterator<Key, Value>(core_); }
  // Of keys that begin with `prefix`. Reads the whole log all the same.
  ScanIterator<Key, Value> NewScan(
      std::string_view prefix) requires std::same_as<Key, std::string> {
    return ScanIterator<Key, Value>(core_, prefix);
  }
  // Calls fn(key, value) for each; if it returns bool, false ends the scan, which is then OK. `fn`
  // runs without any lock or guard and may make every call of the store, also Close. An exception
  // leaves the scan.
  template <ScanVisitor<KeyView, ValueView> F>
  absl::Status Scan(F&& fn) {
    return Show(NewScan(), fn);
  }
  template <ScanVisitor<KeyView, ValueView> F>
  requires std::same_as<Key, std::string> absl::Status ScanPrefix(std::string_view prefix, F&& fn) {
    return Show(NewScan(prefix), fn);
  }
  // All of them at once, in memory.
  absl::StatusOr<std::vector<std::pair<Key, Value>>> ScanAll() {
    return internal::CatchNoMemory([&]() -> absl::StatusOr<std::vector<std::pair<Key, Value>>> {
      std::vector<std::pair<Key, Value>> all;
      absl::Status status =
          Scan([&](KeyView key, ValueView value) { all.emplace_back(key, value); });
      if (!status.ok()) return status;
      return all;
    });
  }

  // Makes every update durable that returned before this call, of all sessions. One sync of the log
  // files; concurrent callers share it. Operations go on meanwhile. An error says that nothing is
  // promised about what came after the last good commit: ResourceExhausted (make room and call
  // again), Unavailable (a failed sync: the store takes no updates until it is reopened),
  // FailedPrecondition (closed, or a store in memory).
  // Progress: waits for callbacks that are running and for the device.
  absl::Status Commit() {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Commit();
  }

  // As Commit, and writes an image of the index, so that the next opening reads only what comes
  // after it in the log. Operations and commits go on meanwhile. A caller that comes while one runs
  // waits for it, and for another if anything has changed. Does nothing, and answers the newest
  // one, when nothing has changed since. Errors: as Commit; ResourceExhausted also for the image,
  // which changes nothing.
  // Progress: as Commit. Cost: writes 8 bytes for each key and 8 for each bucket in use.
  absl::StatusOr<CheckpointInfo> Checkpoint() {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Checkpoint();
  }
  // The checkpoints there are, oldest first; none when there is no memory for the list.
  std::vector<CheckpointInfo> ListCheckpoints() const {
    EBB_TRY {
      if (coordinator_ == nullptr) return {};
      return coordinator_->Checkpoints();
    } EBB_CATCH_NO_MEMORY {
      return {};
    }
  }
  // Removes all but the newest `kept` (at least 1, else InvalidArgument) and the files that
  // interrupted ones have left; answers how many checkpoints it has removed.
  absl::StatusOr<std::uint64_t> CleanupCheckpoints(std::uint64_t kept) {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->CleanUpCheckpoints(kept); });
  }
  CheckpointStats GetCheckpointStats() const {
    return coordinator_ == nullptr ? CheckpointStats() : coordinator_->GetCheckpointStats();
  }

  // Doubles the buckets of the index, as it does by itself when Options::index_auto_grow is set and
  // there are more than some five keys a bucket; reads and updates go on. ResourceExhausted: it is
  // as large as it can become (2^15 times its size at creation, or what physical memory could
  // hold). Progress: waits for callbacks that are running, and for a checkpoint that is.
  absl::Status GrowIndex() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->GrowIndex(); });
  }

  // Copies the records at the front of the log that are still the newest of their keys to its tail,
  // and gives the front back to the file system, until `options` are met; at most once through the
  // log as it is now. Operations, commits and scans go on meanwhile. OK also when there is nothing
  // to do. A store without files gives back memory, and only when this is called. Errors:
  // InvalidArgument (options), as Commit, DataLoss. What was done before an error stays. Space may
  // still be held by a scan; it is given back with a later collection.
  // Progress: waits for a checkpoint that runs, and for the device. Cost: reads the front, and what
  // of the rest says that a record is dead (GcOptions), and writes what is live.
  absl::StatusOr<GcStats> CollectGarbage(const GcOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->CollectGarbage(options); });
  }
  // Whether CollectGarbage would find enough to do. Cost: as EstimateGarbage.
  absl::StatusOr<bool> ShouldCollect(const GcOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->ShouldCollect(options); });
  }
  // Cost: some thousand accesses to memory; waits for a job that runs.
  absl::StatusOr<GcEstimate> EstimateGarbage() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return internal::CatchNoMemory([&] { return coordinator_->EstimateGarbage(); });
  }

  // Automatic checkpoints and garbage collections, at their intervals; on when the store is opened.
  // StopBackground drops those that wait, ends a collection that runs early, and returns when none
  // runs any more. A collection or checkpoint that a user's thread has called continues, and so do
  // periodic commits and the automatic growth of the index. Errors: FailedPrecondition, from a
  // callback of the store only.
  absl::Status StartBackground() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    coordinator_->StartBackground();
    return absl::OkStatus();
  }
  absl::Status StopBackground() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    coordinator_->StopBackground();
    return absl::OkStatus();
  }
  BackgroundStats GetBackgroundStats() const {
    return coordinator_ == nullptr ? BackgroundStats() : coordinator_->GetBackgroundStats();
  }

  // Makes a checkpoint and copies it into `directory`, which then is a store: this one as the
  // checkpoint's commit left it, with everything that returned before this call. The directory must
  // be absent or empty (its parent must exist), or hold an unfinished backup, which is replaced.
  // Operations and commits continue in the meantime, checkpoints wait. Every block is verified on
  // its way. `progress` is called in this thread, after each mebibyte or file; the table of
  // callbacks in ebb/options.h says what it may do. After an error the directory is empty, or a
  // complete backup, or marked by the file UNFINISHED-BACKUP, and then Open fails.
  // Errors: as Checkpoint; InvalidArgument (the directory), DataLoss (this store is damaged).
  absl::StatusOr<BackupInfo> Backup(
      const std::string& directory,
      const std::function<void(const BackupProgress&)>& progress = {}) {
    if (absl::Status status = CheckCanPersist(); !status.ok()) return status;
    return coordinator_->Backup(directory, progress);
  }

  // Reads everything the store has on the device and follows every chain; what is found to be wrong
  // is in the report (ebb/verify.h). Operations and commits go on meanwhile, checkpoints wait.
  // Needs the memory of another index and page. Errors: FailedPrecondition (closed),
  // ResourceExhausted.
  absl::StatusOr<VerifyReport> Verify(const VerifyOptions& options = {}) {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return coordinator_->Verify(options);
  }

  // What Open found and did.
  const RecoveryReport& recovery() const { return recovery_; }

  // Collects garbage if that is due (one pass, see GcOptions, and not when another long job is at
  // work), refuses further operations, waits for those that run, makes everything durable and lets
  // go of the files. An error that may pass (ResourceExhausted) leaves everything in memory: make
  // room and call again. Further calls answer what the last one did. What a completion callback
  // throws leaves this call before the store is closed: call again. Progress: waits for callbacks
  // that are running and for the device.
  absl::Status Close() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return coordinator_->Close();
  }

  // Returns the number of keys. It is exact while no update runs if the index has at most 10,000
  // entries and all records that they lead to are in memory, as in every small store that was not
  // just opened from a checkpoint. Otherwise it is an estimate with the errors of live_key_estimate
  // (ebb/stats.h), and at least 1 unless the index is empty. No counter is kept, since an Upsert
  // does not know whether its key was there. Errors: FailedPrecondition, ResourceExhausted.
  // Cost: reads the index when it has few entries, 64 bytes for each bucket, and each record in
  // memory that it leads to; otherwise as ApproximateSize. Progress: waits while the index grows.
  absl::StatusOr<std::uint64_t> Size() {
    if (absl::Status status = CheckCallable(); !status.ok()) return status;
    return core_->Size();
  }
  // Returns whether the store holds no key. Never an estimate: if the records in memory do not
  // tell, it scans up to the first key, so its cost is that of a scan at worst. Errors: as a scan
  // (ebb/scan.h).
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
  // Returns live_key_estimate of Stats(); 0 when the store is closed or memory is out. May also be
  // called from callbacks. Cost: as Stats().
  std::uint64_t ApproximateSize() const { return core_ == nullptr ? 0 : core_->EstimateLiveKeys(); }

  // Returns the state of the store. Without memory the estimates are 0. Cost: reads the kernel's
  // account of memory and a sample of the index: some milliseconds, unless the index has millions
  // of buckets and only few keys; then it reads all of it.
  StoreStats Stats() const { return core_ == nullptr ? StoreStats() : core_->Stats(); }

  // What has been done since Open or the last ResetMetrics; see ebb/metrics.h. Answers also when
  // the store is closed; all zeros in a forked child. Cost: a look at each session there has been
  // at a time.
  MetricsSnapshot Metrics() const {
    return core_ == nullptr ? MetricsSnapshot() : core_->Metrics();
  }
  // From now on metrics count from zero. Stats() and GetCheckpointStats() are not concerned.
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

  // The calling thread's session.
  Session& Local() {
    const internal::LastThreadSession last = internal::t_last_session;
    if (last.core == core_.get()) [[likely]]
      return *static_cast<Session*>(last.session);
    return LocalSlow();
  }
  EBB_COLD Session& LocalSlow() {
    if (core_ == nullptr) return session_without_memory_;  // moved from, as the store
    if (void* known = internal::FindThreadSession(*core_)) return *static_cast<Session*>(known);
    EBB_TRY {
      auto made = std::make_shared<Session>(NewSession());
      if (made->state_->is_stand_in()) return session_without_memory_;
      internal::KeepThreadSession(core_, made, *made->state_);
      return *made;
    } EBB_CATCH_NO_MEMORY {
      return session_without_memory_;
    }
  }

  std::shared_ptr<internal::Core> core_;
  Session session_without_memory_;                      // for threads that cannot have one now
  std::unique_ptr<internal::Coordinator> coordinator_;  // uses core_
  RecoveryReport recovery_;
};

namespace internal {
// What tests reach of a store.
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
