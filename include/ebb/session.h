/// @file
/// Declares ebb::Session, a handle to a store and the fast path of every operation.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/codec.h"
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/core/callback_scope.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/ops/async.h"
#include "ebb/internal/ops/batch.h"
#include "ebb/internal/ops/operation.h"
#include "ebb/internal/ops/session_state.h"

namespace ebb {

template <KeyType Key, ValueType Value>
class Store;

/// A handle to a store for one thread at a time. Calls on a session are the fastest way to read and
/// update keys. Created by Store::NewSession.
///
///     auto session = db.NewSession();
///     ebb::Must(session.Upsert("home", 1));
///     absl::StatusOr<std::uint64_t> clicks = session.Read("home");
///
/// A program can have as many sessions as it needs: each uses a few cache lines, and buffers of at
/// most 256 KiB. An idle session holds no lock, pins no page and delays no thread. A session may
/// move between threads, but only one thread may use it at a time. Calls of a moved-from session
/// return FailedPrecondition. Every session, including one that was moved from, keeps the memory of
/// its store allocated until it is destroyed.
///
/// Consistency: all operations on one key, from all sessions of a store, are linearizable. They
/// take effect one after the other, each between its call and its return. There is no guarantee
/// across keys.
///
/// Errors: ebb/status.h lists the status codes. Every operation can return FailedPrecondition: the
/// store is closed, the call comes from a callback of the same store, or the process is a forked
/// child. Reads can return DataLoss and Unavailable if the record is on the device. Updates can
/// return ResourceExhausted and Unavailable if no log page can be freed; the same call may succeed
/// later.
///
/// Durability: with Durability::kAlways an update returns OK when it is durable. If the commit
/// fails, the update returns the commit's error although it has taken effect; whether it is durable
/// is then unknown.
///
/// Callbacks of operations run in the thread that makes the call. (The table in ebb/options.h has
/// the callbacks of long jobs, such as GcOptions::progress.)
///
///     callback                     calls of this store           effect of an exception
///     visitor of a Read            rejected                      leaves the call
///     function of an Rmw,          rejected                      leaves the call; the record is
///       RmwBatch or RmwAsync                                     unchanged and no lock is held.
///                                                                `done` is not called. In a batch,
///                                                                the items before it have taken
///                                                                effect and have their results; it
///                                                                and all later items have no
///                                                                effect, and their results are
///                                                                unspecified
///     function of a Scan,          all                           leaves the call
///       ScanPrefix, or a loop
///       over a ScanIterator
///     `done` of an asynchronous    all; must not destroy the     leaves the call that ran it: the
///       operation, and a           store while a call of the     asynchronous call, or
///       coroutine that it          store is running              CompletePending. The session's
///       resumes                                                  destructor prints it
///     `done` that Close runs       rejected; must not use the    leaves Close after all callbacks
///                                  session, which belongs to     have run: call Close again. The
///                                  another thread                destructor of the store prints it
///     Encode and Decode of a       must not be made              leaves the call; see ebb/codec.h
///       codec
///
/// Visitors and functions of an Rmw run under the guard of the call. They delay the eviction of
/// pages, commits and Close, so they should be short and must not block. `done` delays nothing.
///
/// A rejected call returns FailedPrecondition, with the name of the callback. It has no effect and
/// never waits. Calls of the store, of all its sessions and of all its iterators are rejected, even
/// if callbacks of other stores are nested in between. Exceptions:
///
/// * A call on another session, for example Read into a value, Contains or Upsert, may succeed if
///   it takes the fast path and so does not wait. Do not rely on it. For example, an Rmw may never
///   end if its function writes the same key in this way.
/// * CompletePending returns 0.
/// * NewSession() and the calls that only report are allowed: serial, name, pending_count, Stats,
///   Metrics, ResetMetrics, ApproximateSize, ListCheckpoints, GetCheckpointStats,
///   GetBackgroundStats and recovery.
///
/// Calls of other stores, and calls made by other threads, are allowed. But a callback must not
/// wait for another thread's call of this store.
///
/// Destructors inside a callback of the store cannot return an error. A session with pending
/// operations ends them without effect: `done` receives FailedPrecondition. A session that is
/// destroyed inside its own call, and a store that is destroyed in a callback (for example by
/// exit()), are leaked, and a line on stderr says so. A leaked store is not closed, so updates
/// after its last commit may be lost as in a crash.
///
/// Out of memory: every call returns ResourceExhausted and has no effect; a completion callback
/// receives that status. No exception leaves a call except those of callbacks. A std::bad_alloc of
/// a callback of Read or Rmw is reported as ResourceExhausted.
///
/// Serials: a session numbers its updates. An update takes the next serial when it takes effect, or
/// when it ends with one of the outcomes NotFound, AlreadyExists and Aborted. An update that is
/// rejected, that is, returns any other error, takes none. After a crash, the recovered serial p of
/// a named session (Store::recovery) means that exactly its updates with serials up to p are in the
/// store. This holds for single calls, batches and asynchronous calls.
template <KeyType Key, ValueType Value>
class Session {
 public:
  /// The type in which calls take a key: std::string_view for strings, otherwise Key or const Key&.
  using KeyView = ViewOf<Key>;
  /// The type in which calls take a value: std::string_view for strings, otherwise Value or const
  /// Value&.
  using ValueView = ViewOf<Value>;

  /// Moves the session. Calls of the moved-from session return FailedPrecondition.
  Session(Session&& other) noexcept
      : core_(other.core_),
        state_(std::exchange(other.state_,
                             internal::OwnedSession(other.core_->session_moved_from.get()))) {}
  /// Swaps the two sessions. Each keeps its own store.
  Session& operator=(Session&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(state_, other.state_);
    return *this;
  }
  /// Completes the pending operations and runs their callbacks, which may still call the session.
  /// Progress: as CompletePending; then acquires a mutex briefly.
  ~Session() {
    if (state_ != nullptr) internal::EndSession(state_, core_);
  }

  /// Returns the key's newest value, or NotFound, without a message or an allocation, if the key is
  /// absent.
  ///
  /// Progress: wait-free for values of 1, 2, 4 or 8 bytes in memory. Other values wait for a writer
  /// that is copying into the same record. Cost: if the record is on the device, one device read,
  /// and one more for each newer record there of another key that shares the index entry.
  EBB_INLINE absl::StatusOr<Value> Read(KeyView key) {
    if constexpr (kInRegister) {
      Value value;
      const Try tried = Ops::ReadHit(*state_, key, Copier{*state_, value});
      if (tried == Try::kDone) [[likely]]
        return value;
      return ReadAgain(key, tried);
    } else {
      absl::StatusOr<Value> result(Value{});
      if (absl::Status status = Read(key, *result); !status.ok()) [[unlikely]]
        result = std::move(status);
      return result;
    }
  }

  /// Reads the key's newest value into `value` and reuses its memory. `value` is unspecified unless
  /// the result is OK. Otherwise the same as Read(key).
  EBB_INLINE absl::Status Read(KeyView key, Value& value) {
    if constexpr (kInRegister) {
      Value copy;  // the address of the caller's object escapes only in the call below
      const Try tried = Ops::ReadHit(*state_, key, Copier{*state_, copy});
      if (tried == Try::kDone) [[likely]] {
        value = copy;
        return absl::OkStatus();
      }
      absl::StatusOr<Value> read = ReadAgain(key, tried);
      if (!read.ok()) return std::move(read).status();
      value = *read;
      return absl::OkStatus();
    } else {
      return Encoding([&]() EBB_INLINE_LAMBDA { return this->ReadInto(key, value); });
    }
  }

  /// Calls `visitor` with the key's newest value: exactly once if the result is OK, and never
  /// otherwise. A string on the device or in the read-only part of the log is passed in place,
  /// without a copy. The view is valid until the visitor returns.
  ///
  ///     auto pages = ebb::Must(ebb::Store<>::Open("pages.ebb"));  // strings to strings
  ///     std::size_t bytes = 0;
  ///     ebb::Must(pages.Read("home", [&](std::string_view page) { bytes = page.size(); }));
  template <std::invocable<ValueView> F>
  requires(!std::same_as<std::remove_cvref_t<F>, Value>) absl::Status
      Read(KeyView key, F&& visitor) {
    if constexpr (Coded<Value>) {
      if (!state_->callable()) return state_->BusyError();
      Value value{};
      if (absl::Status status = Read(key, value); !status.ok()) return status;
      const internal::CallbackScope scope(state_->core, internal::CallbackKind::kRead);
      visitor(value);
      return absl::OkStatus();
    } else {
      return Encoding([&]() EBB_INLINE_LAMBDA { return this->Visit(key, visitor); });
    }
  }

  /// Returns whether the key is present, without copying its value. Cost and progress: as Read.
  absl::StatusOr<bool> Contains(KeyView key) {
    return Encoding([&]() EBB_INLINE_LAMBDA -> absl::StatusOr<bool> {
      const internal::OpStatus status = Ops::Read(*state_, StoredKey(key), [](const auto&) {});
      if (status == internal::OpStatus::kRefused) return state_->error;
      return status == internal::OpStatus::kOk;
    });
  }

  /// Sets the key's value, whether the key is present or not. Errors: InvalidArgument (key or value
  /// is longer than Options::max_key_bytes or max_value_bytes, or they do not fit in a page).
  ///
  /// Progress: if the record is in the mutable part of the log and the value fits, changes it in
  /// place with one store or under a short lock. Otherwise appends a record, and may wait for a
  /// page to be flushed. Never reads the device.
  EBB_INLINE absl::Status Upsert(KeyView key, ValueView value) {
    Try tried = Try::kNothing;
    if constexpr (!kCoded) {
      tried = Ops::UpsertHit(*state_, key, value);
      if (tried == Try::kDone) [[likely]]
        return absl::OkStatus();
    }
    return UpsertAgain(key, value, tried);
  }

  /// Changes the key's value atomically. `fn(Value&)` edits a copy of the value, which then
  /// replaces it. If the key is absent, `fn` edits Value{}. `fn` may run more than once, each time
  /// on a fresh copy, but takes effect exactly once.
  ///
  ///     ebb::Must(session.Rmw("home", [](std::uint64_t& clicks) { ++clicks; }));
  ///
  /// Errors: InvalidArgument, without effect, if the result is too long. Progress: as Upsert; may
  /// also read the device, and may wait for a record that is becoming read-only.
  template <std::invocable<Value&> F>
  EBB_INLINE absl::Status Rmw(KeyView key, F&& fn) {
    return RmwFrom<F>(key, fn, nullptr);
  }
  /// Does the same, but if the key is absent, `fn` edits a copy of `initial`.
  template <std::invocable<Value&> F>
  EBB_INLINE absl::Status Rmw(KeyView key, F&& fn, const Value& initial) {
    return RmwFrom<F>(key, fn, &initial);
  }

  /// Removes the key. Returns NotFound, and writes nothing, if it is absent. Progress: as Rmw.
  absl::Status Delete(KeyView key) {
    return Encoding(
        [&]() EBB_INLINE_LAMBDA { return this->ToStatus(Ops::Delete(*state_, StoredKey(key))); });
  }

  /// Sets the value of an absent key. Returns AlreadyExists, and writes nothing, if the key is
  /// present. Progress: as Rmw.
  absl::Status InsertIfAbsent(KeyView key, ValueView value) {
    return Encoding([&]() EBB_INLINE_LAMBDA {
      return this->ToStatus(Ops::InsertIfAbsent(*state_, StoredKey(key), StoredValue(value)));
    });
  }

  /// Sets the key's value to `desired` if it equals `expected`, byte for byte. Returns Aborted,
  /// without a message, if the value differs, and NotFound if the key is absent. Progress: as Rmw.
  absl::Status CompareExchange(KeyView key, ValueView expected,
                               ValueView desired) requires ComparableValue<Value> {
    return Encoding([&]() EBB_INLINE_LAMBDA {
      if constexpr (Coded<Value>) {
        std::string expected_bytes;
        Codec<Value>::Encode(expected, expected_bytes);
        return this->ToStatus(
            Ops::CompareExchange(*state_, StoredKey(key), expected_bytes, StoredValue(desired)));
      } else {
        return this->ToStatus(Ops::CompareExchange(*state_, StoredKey(key), expected, desired));
      }
    });
  }

  // ---- asynchronous operations ----

  /// Reads the key's newest value without waiting for the device. Calls
  /// `done(absl::StatusOr<Value>)` exactly once, with the result of Read(key).
  ///
  ///     std::uint64_t total = 0;
  ///     for (std::string_view page : {"home", "news"}) {
  ///       session.ReadAsync(page, [&total](absl::StatusOr<std::uint64_t> clicks) {
  ///         if (clicks.ok()) total += *clicks;
  ///       });
  ///     }
  ///     session.CompletePending();  // runs the callbacks that have not run yet
  ///
  /// The following holds for all asynchronous operations, that is, the calls whose names end in
  /// Async.
  ///
  /// Each performs the operation without the suffix. If it needs no device read, it completes
  /// within the call, which may wait for a page or, with kAlways, for a commit. Otherwise it
  /// becomes pending, and its device reads overlap with those of other pending operations. A later
  /// call of CompletePending, or of another asynchronous operation, checks for completed reads and
  /// runs `done`. Reads are submitted to the kernel in groups of eight; CompletePending submits the
  /// rest. There is no UpsertAsync, because Upsert never reads the device. Operations that are
  /// pending at the same time take effect in any order, even on one key, each between its call and
  /// its callback.
  ///
  /// `done` runs in the thread that uses the session, outside of all locks. It may use the session
  /// and the store. Close ends the pending operations without effect: `done` then receives
  /// FailedPrecondition in the closing thread and must not use the session. The session's
  /// destructor completes the pending operations. If the function of an Rmw throws, the exception
  /// leaves the call that ran it, and `done` is not called.
  ///
  /// `done` of an update may take a second argument: the serial of the update, or 0 if it has taken
  /// none. Serials follow the order in which updates take effect, which may differ from the order
  /// of the calls. A program that must know after a crash which asynchronous updates survived
  /// therefore records their serials: the updates up to the recovered serial are in the store. An
  /// update whose `done` had not run may be in the store or not.
  ///
  /// Keys, values and functions are copied or moved. If that throws for a function, the exception
  /// leaves the call, and the operation has no effect. A session has at most 256 pending
  /// operations; the next call first waits for one of them to complete. Cost: on the fast path,
  /// that of the operation without Async; otherwise one or two allocations more.
  template <std::invocable<absl::StatusOr<Value>> Done>
  void ReadAsync(KeyView key, Done done) {
    auto tell = NotifyValue(std::move(done));
    using Receiver = internal::ValueReceiver<Ops, internal::Stored<Value>, decltype(tell)>;
    Receiver receiver{std::move(tell)};
    bool timed = false;
    bool ended = false;
    const absl::Status status = internal::CatchNoMemory([&]() -> absl::Status {
      const StoredKeyView stored = StoredKey(key);
      timed = state_->slot->tally.Begin(OpKind::kRead);
      if (timed) return absl::OkStatus();
      const auto read = Ops::ReadInMemory(
          *state_, stored, Ops::Hash(*state_->core, stored),
          [&](const auto& found) { receiver.Take(*state_, found); }, /*is_callback=*/false);
      ended = read.has_value();
      return ended ? ToStatus(*read) : absl::OkStatus();
    });
    if (ended || !status.ok()) return receiver.Notify(status);
    Pend(OpKind::kRead, timed, key, internal::ReadForm<Ops, Receiver>(std::move(receiver)));
  }

  /// Rmw without waiting for the device. Calls `done(absl::Status)` or `done(absl::Status,
  /// std::uint64_t serial)`. Keeps `fn` until the operation has completed. See ReadAsync.
  template <std::invocable<Value&> F, internal::UpdateCallback Done>
  void RmwAsync(KeyView key, F fn, Done done, const Value& initial = Value{}) {
    auto edit = EditOf(std::move(fn));
    bool timed = false;
    bool is_hit = false;
    OwnedValue owned{};
    const absl::Status status = internal::CatchNoMemory([&] {
      const StoredKeyView stored = StoredKey(key);
      timed = state_->slot->tally.Begin(OpKind::kRmw);
      is_hit = !timed && Ops::template TryRmw<kChain>(
                             *state_, stored, Ops::Hash(*state_->core, stored), edit) == Try::kDone;
      if (!is_hit) owned = OwnedValue(StoredValue(initial));
      return absl::OkStatus();
    });
    if (is_hit) return internal::CallBack(done, absl::OkStatus(), serial());
    if (!status.ok()) return internal::CallBack(done, status, /*serial=*/0);
    PendUpdate(
        OpKind::kRmw, timed, key,
        [edit = std::move(edit), initial = std::move(owned)](auto& session) mutable {
          return typename Updates::RmwOp{{session}, edit, initial};
        },
        std::move(done));
  }

  /// Delete without waiting for the device. `done` as for RmwAsync. See ReadAsync.
  template <internal::UpdateCallback Done>
  void DeleteAsync(KeyView key, Done done) {
    PendUpdate(
        OpKind::kDelete, state_->slot->tally.Begin(OpKind::kDelete), key,
        [](auto&) { return typename Updates::DeleteOp{}; }, std::move(done));
  }

  /// InsertIfAbsent without waiting for the device. `done` as for RmwAsync. See ReadAsync.
  template <internal::UpdateCallback Done>
  void InsertIfAbsentAsync(KeyView key, ValueView value, Done done) {
    OwnedValue owned{};
    bool fits = false;
    const absl::Status status = internal::CatchNoMemory([&] {
      owned = OwnedValue(StoredValue(value));
      fits = Ops::Fits(*core_, StoredKey(key), owned);
      return absl::OkStatus();
    });
    if (!status.ok()) return internal::CallBack(done, status, /*serial=*/0);
    if (!fits) return internal::CallBack(done, InsertIfAbsent(key, value), /*serial=*/0);
    PendUpdate(
        OpKind::kInsert, state_->slot->tally.Begin(OpKind::kInsert), key,
        [value = std::move(owned)](auto&) { return typename Updates::InsertOp(value); },
        std::move(done));
  }

  /// CompareExchange without waiting for the device. `done` as for RmwAsync. See ReadAsync.
  template <internal::UpdateCallback Done>
  void CompareExchangeAsync(KeyView key, ValueView expected, ValueView desired,
                            Done done) requires ComparableValue<Value> {
    OwnedValue from{};
    OwnedValue to{};
    bool fits = false;
    const absl::Status status = internal::CatchNoMemory([&] {
      from = OwnedValue(StoredValue(expected));
      to = OwnedValue(StoredValue(desired));
      fits = Ops::Fits(*core_, StoredKey(key), to);
      return absl::OkStatus();
    });
    if (!status.ok()) return internal::CallBack(done, status, /*serial=*/0);
    if (!fits)
      return internal::CallBack(done, CompareExchange(key, expected, desired), /*serial=*/0);
    PendUpdate(
        OpKind::kCompareExchange, state_->slot->tally.Begin(OpKind::kCompareExchange), key,
        [expected = std::move(from), desired = std::move(to)](auto& session) {
          return typename Updates::CompareExchangeOp{{session}, expected, desired};
        },
        std::move(done));
  }

  /// Returns an awaitable for coroutines of any type. Its result is that of Read(key):
  ///
  ///     absl::StatusOr<std::uint64_t> clicks = co_await session.ReadAwait("home");
  ///
  /// The coroutine resumes within the call if no device read is needed, and otherwise at the place
  /// where a callback would run (see ReadAsync). It must not be destroyed while it waits.
  auto ReadAwait(KeyView key) {
    return Await<absl::StatusOr<Value>>(
        [this, key](auto done) { this->ReadAsync(key, std::move(done)); });
  }
  /// Returns an awaitable for the status of Rmw(key, fn, initial). See ReadAwait.
  template <std::invocable<Value&> F>
  auto RmwAwait(KeyView key, F fn, const Value& initial = Value{}) {
    std::optional<Value> copy;
    absl::Status copied = internal::CatchNoMemory([&] {
      copy = initial;
      return absl::OkStatus();
    });
    return Await<absl::Status>([this, key, fn = std::move(fn), copy = std::move(copy),
                                copied = std::move(copied)](auto done) mutable {
      if (!copied.ok()) return done(std::move(copied));
      this->RmwAsync(key, std::move(fn), std::move(done), *copy);
    });
  }
  /// Returns an awaitable for the status of Delete(key). See ReadAwait.
  auto DeleteAwait(KeyView key) {
    return Await<absl::Status>([this, key](auto done) { this->DeleteAsync(key, std::move(done)); });
  }

  /// Runs the callbacks of completed operations. With `wait`, continues until no operation is
  /// pending. Returns the number of callbacks run, or 0 if called from a callback that may not call
  /// the store. Progress: with `wait`, waits for the device.
  std::size_t CompletePending(bool wait = true) {
    return state_->pending == nullptr || !state_->callable() ? 0 : state_->pending->Complete(wait);
  }
  /// Returns the number of pending operations.
  std::size_t pending_count() const {
    return state_->pending == nullptr ? 0 : state_->pending->size();
  }

  // ---- batches ----

  /// The type of a batch's keys: std::string_view for strings, otherwise Key.
  using BatchKey = std::remove_cvref_t<KeyView>;
  /// The type of a batch's values: std::string_view for strings, otherwise Value.
  using BatchValue = std::remove_cvref_t<ValueView>;

  /// Reads many keys: values[i] and results[i] receive the result for keys[i]. Returns the number
  /// of items that are OK. values[i] is unspecified unless results[i] is OK; its memory is reused.
  /// Each item has its own status.
  ///
  /// The following holds for all batches.
  ///
  /// The results are the same as if the calls were made one by one, in order. In memory a batch is
  /// faster than single calls, because it prefetches the cache lines of 64 items at a time. Its
  /// device reads overlap too: up to 256 of a ReadBatch, and up to 64 of the others. Each item is
  /// atomic; the batch as a whole is not. Keys or values with a codec are processed one by one. If
  /// the spans differ in length, nothing is done and every result is InvalidArgument.
  ///
  /// Updates take effect in item order. Each item that is not rejected takes the next serial; so
  /// does a Delete that returns NotFound. The first item that is rejected ends the batch: it and
  /// all later items get its status, have no effect and take no serial. So the accepted items are a
  /// prefix of the batch. If serial() was s before the call, item i has the serial s + i + 1, and
  /// serial() - s items were accepted. After a crash, a prefix of them is in the store. There is
  /// one exception: with Durability::kAlways, an update whose commit fails has taken effect and a
  /// serial, but ends the batch with the commit's error.
  std::size_t ReadBatch(std::span<const BatchKey> keys, std::span<Value> values,
                        std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), values.size(), results)) return 0;
    if constexpr (kInterleaved) {
      EBB_TRY {
        const bool all = Batches::Read(
            *state_, keys.size(), ItemOf(keys),
            [state = state_.get(), values = values.data()](std::size_t i, const auto& found)
                EBB_INLINE_LAMBDA {
                  Copier{*state, values[i]}(found);
                },
            SettlerOf(results));
        if (all) return keys.size();
      }
      EBB_CATCH_NO_MEMORY {  // of a copy or a search: nothing has been done
        std::fill(results.begin(), results.end(), internal::NoMemory());
      }
    } else {
      for (std::size_t i = 0; i < keys.size(); ++i) results[i] = Read(keys[i], values[i]);
    }
    return CountOk(results);
  }

  /// Upserts many keys: sets keys[i] to values[i]. Returns the number of items that are OK. Never
  /// reads the device. See ReadBatch.
  std::size_t UpsertBatch(std::span<const BatchKey> keys, std::span<const BatchValue> values,
                          std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), values.size(), results)) return 0;
    const auto alone = [&](std::size_t i) {
      return Ops::Upsert(*state_, StoredKey(keys[i]), StoredValue(values[i]));
    };
    if constexpr (kInterleaved) {
      const auto hit = [state = state_.get(), key = ItemOf(keys), value = ItemOf(values)](
                           std::size_t i, const Probe& probe) EBB_INLINE_LAMBDA {
        return Ops::Fits(probe.core, key(i), value(i)) &&
               Ops::template FinishUpsert<kChain>(*state, probe, key(i), value(i)) == Try::kDone;
      };
      const auto with_op = [&](std::size_t i, const auto& run) {
        typename Updates::UpsertOp op(values[i]);
        return run(op);
      };
      return UpdateBatch<OpKind::kUpsert>(keys, results, hit, with_op, alone);
    } else {
      return UpdateBatch<OpKind::kUpsert>(keys, results, nullptr, nullptr, alone);
    }
  }

  /// Changes many values: `fn(i, value)` edits the value of keys[i], otherwise as in Rmw. Returns
  /// the number of items that are OK. See ReadBatch.
  template <std::invocable<std::size_t, Value&> F>
  std::size_t RmwBatch(std::span<const BatchKey> keys, F&& fn, std::span<absl::Status> results,
                       const Value& initial = Value{}) {
    if (!CheckBatch(keys.size(), keys.size(), results)) return 0;
    const auto edit_of = [&](std::size_t i) { return [&fn, i](Value& value) { fn(i, value); }; };
    const auto alone = [&](std::size_t i) {
      auto edit = EditOf(edit_of(i));
      return Ops::Rmw(*state_, StoredKey(keys[i]), edit, StoredValue(initial));
    };
    if constexpr (kInterleaved) {
      const auto hit = [state = state_.get(), key = ItemOf(keys), edit_of](
                           std::size_t i, const Probe& probe) EBB_INLINE_LAMBDA {
        auto edit = edit_of(i);
        return Ops::template FinishRmw<kChain>(*state, probe, key(i), edit) == Try::kDone;
      };
      const auto with_op = [&](std::size_t i, const auto& run) {
        auto edit = edit_of(i);
        typename Updates::RmwOp op{{*state_}, edit, initial};
        return run(op);
      };
      return UpdateBatch<OpKind::kRmw>(keys, results, hit, with_op, alone);
    } else {
      return UpdateBatch<OpKind::kRmw>(keys, results, nullptr, nullptr, alone);
    }
  }

  /// Deletes many keys. Returns the number of items that are OK; NotFound is not. See ReadBatch.
  std::size_t DeleteBatch(std::span<const BatchKey> keys, std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), keys.size(), results)) return 0;
    const auto with_op = [](std::size_t, const auto& run) {
      typename Updates::DeleteOp op;
      return run(op);
    };
    return UpdateBatch<OpKind::kDelete>(
        keys, results, [](std::size_t, const Probe&) { return false; }, with_op,
        [&](std::size_t i) { return Ops::Delete(*state_, StoredKey(keys[i])); });
  }

  /// Returns the serial of this session's last update, or 0 before the first. A named session
  /// continues from the last serial of its name.
  std::uint64_t serial() const { return state_->serials.taken(); }
  /// Returns the name of a named session, and an empty string otherwise.
  const std::string& name() const { return state_->name; }
  /// Makes all updates of this session durable. Errors and progress: as Store::Commit.
  absl::Status WaitDurable() { return internal::WaitDurable(*state_); }

 private:
  friend class Store<Key, Value>;
  using Ops = internal::Operations<internal::Stored<Key>, internal::Stored<Value>>;
  using Copier = typename Ops::Copier;
  using Probe = typename Ops::Probe;
  using Try = internal::Try;
  static constexpr internal::Reach kChain = internal::Reach::kChain;
  using Updates = internal::Updates<internal::Stored<Key>, internal::Stored<Value>>;
  using Batches = internal::Batches<internal::Stored<Key>, internal::Stored<Value>>;
  using StoredKeyView = ViewOf<internal::Stored<Key>>;
  using OwnedValue = internal::Stored<Value>;
  static constexpr bool kCoded = Coded<Key> || Coded<Value>;
  static constexpr bool kInterleaved = !kCoded;
  // The fast path of a read returns the value in a register.
  static constexpr bool kInRegister = !kCoded && !Ops::kShape.locked();

  explicit Session(std::shared_ptr<internal::Core> core)
      : core_(std::move(core)), state_(internal::NewSessionState(*core_)) {}
  Session(std::shared_ptr<internal::Core> core, internal::SessionState& stand_in)
      : core_(std::move(core)), state_(&stand_in) {}

  // Runs an operation. With a codec it encodes keys or values first, which may run out of memory.
  // Without one, the operation itself handles all failures of allocations.
  template <typename Call>
  EBB_INLINE auto Encoding(Call call) {
    if constexpr (kCoded) {
      auto result = internal::CatchNoMemory(call);
      TrimBuffers();
      return result;
    } else {
      return call();
    }
  }
  // Called at the end of a call. Inside another call of this session the buffers belong to that
  // call.
  void TrimBuffers() {
    if constexpr (kCoded) {
      if (state_->callable() && !state_->waiting()) state_->TrimBuffers();
    }
  }
  EBB_INLINE absl::Status ReadInto(KeyView key, Value& value) {
    if constexpr (Coded<Value>) {
      std::string& bytes = state_->scratch;
      const internal::OpStatus status = Ops::Read(*state_, StoredKey(key), Copier{*state_, bytes});
      if (status != internal::OpStatus::kOk) return ToStatusSlow(status);
      return Codec<Value>::Decode(bytes, value) ? absl::OkStatus()
                                                : internal::Undecodable("value", bytes.size());
    } else {
      return ToStatus(Ops::Read(*state_, StoredKey(key), Copier{*state_, value}));
    }
  }
  template <typename F>
  EBB_INLINE absl::Status Visit(KeyView key, F& visitor) {
    using Visitor = typename Ops::template Visitor<F>;
    return ToStatus(Ops::Read(*state_, StoredKey(key), Visitor{*state_, visitor}));
  }

  // The following functions begin an operation again if its inline fast path was not a hit. They
  // are not inlined, so the fast path contains no other call and keeps its words in registers.
  // Local variables, and functions of at most two words, are copied for the call: a variable whose
  // address escapes would be in memory on the fast path too.
  EBB_NOINLINE absl::StatusOr<Value> ReadAgain(KeyView key, Try tried) {
    Value value{};
    const internal::OpStatus status =
        Ops::ReadAgain(*state_, key, Copier{*state_, value}, tried, /*is_callback=*/false);
    if (status != internal::OpStatus::kOk) return ToStatusSlow(status);
    return value;
  }
  EBB_NOINLINE absl::Status UpsertAgain(KeyView key, ValueView value, Try tried) {
    return Encoding([&] {
      return this->ToStatus(Ops::Upsert(*state_, StoredKey(key), StoredValue(value), tried));
    });
  }
  EBB_NOINLINE absl::Status RmwAgain(KeyView key, internal::Edit<Value> fn, const Value* initial,
                                     Try tried) {
    return Encoding([&] {
      const Value fresh{};
      auto edit = EditOf(fn);
      return this->ToStatus(Ops::Rmw(*state_, StoredKey(key), edit,
                                     StoredValue(initial == nullptr ? fresh : *initial), tried));
    });
  }
  template <typename F>
  EBB_NOINLINE absl::Status RmwAgainBy(KeyView key, F fn, const Value* initial, Try tried) {
    return RmwAgain(key, fn, initial, tried);
  }
  // `initial`: null for Value{}.
  template <typename F>
  EBB_INLINE absl::Status RmwFrom(KeyView key, std::remove_reference_t<F>& fn,
                                  const Value* initial) {
    Try tried = Try::kNothing;
    if constexpr (!kCoded) {
      EBB_TRY {
        tried = Ops::RmwHit(*state_, key, fn);
        if (tried == Try::kDone) [[likely]]
          return absl::OkStatus();
      }
      EBB_CATCH_NO_MEMORY { return ToStatus(Ops::RefuseForMemory(*state_, OpKind::kRmw)); }
    }
    // Only a temporary may be copied: any other function may have state that the caller reads
    // later.
    if constexpr (!std::is_reference_v<F> && std::is_trivially_copyable_v<F>) {
      if constexpr (sizeof(F) <= 2 * sizeof(void*)) return RmwAgainBy<F>(key, fn, initial, tried);
    }
    return RmwAgain(key, fn, initial, tried);
  }

  // The arguments of operations: the key or value itself, or the bytes of its codec. Under a guard,
  // that is, in a callback of this session, the buffers belong to the call in progress; the new
  // call is rejected whatever its arguments are.
  EBB_INLINE decltype(auto) StoredKey(KeyView key) {
    if constexpr (Coded<Key>) {
      return Encoded(key, state_->key_bytes);
    } else {
      return KeyView(key);
    }
  }
  EBB_INLINE decltype(auto) StoredValue(ValueView value) {
    if constexpr (Coded<Value>) {
      return Encoded(value, state_->value_bytes);
    } else {
      return ValueView(value);
    }
  }
  // Returns `fn` for stored values; owns it.
  template <typename F>
  auto EditOf(F fn) {
    if constexpr (Coded<Value>) {
      return [fn = std::move(fn), session = state_.get()](std::string& bytes) mutable {
        Value value{};
        if (!Codec<Value>::Decode(bytes, value)) {
          static_cast<void>(
              internal::Refuse(*session, internal::Undecodable("value", bytes.size())));
          return internal::Edited::kRefused;
        }
        static_cast<void>(fn(value));
        bytes.clear();
        Codec<Value>::Encode(value, bytes);
        return internal::Edited::kYes;
      };
    } else {
      return fn;
    }
  }
  // Returns `done` for stored values; owns it.
  template <typename Done>
  static auto NotifyValue(Done done) {
    if constexpr (Coded<Value>) {
      return [done = std::move(done)](absl::StatusOr<std::string> bytes) mutable {
        done(internal::CatchNoMemory([&]() -> absl::StatusOr<Value> {
          if (!bytes.ok()) return bytes.status();
          Value value{};
          if (Codec<Value>::Decode(*bytes, value)) return value;
          return internal::Undecodable("value", bytes->size());
        }));
      };
    } else {
      return done;
    }
  }
  template <typename Form>
  void Pend(OpKind kind, bool timed, KeyView key, Form form) {
    internal::PendingOperations::Owned pending;
    absl::Status status = internal::CatchNoMemory([&] {
      pending =
          internal::MakePending<internal::Stored<Key>>(*state_, kind, timed, StoredKey(key), form);
      return absl::OkStatus();
    });
    TrimBuffers();
    if (!status.ok()) return form.Notify(std::move(status));
    internal::StartPending(*state_, state_->pending, std::move(pending));
  }
  template <typename Make, typename Done>
  void PendUpdate(OpKind kind, bool timed, KeyView key, Make make, Done done) {
    Pend(kind, timed, key, internal::UpdateForm<Ops, Make, Done>(std::move(make), std::move(done)));
  }
  template <typename Result, typename Begin>
  static auto Await(Begin begin) {
    return internal::Awaitable<Result, Begin>(std::move(begin));
  }
  template <typename T>
  std::string_view Encoded(const T& value, std::string& bytes) {
    if (!state_->idle()) return {};
    bytes.clear();
    Codec<T>::Encode(value, bytes);
    return bytes;
  }

  template <OpKind kKind, typename Hit, typename WithOp, typename Alone>
  std::size_t UpdateBatch(std::span<const BatchKey> keys, std::span<absl::Status> results, Hit hit,
                          WithOp with_op, Alone alone) {
    bool all;
    if constexpr (kInterleaved) {
      all = Batches::template Update<kKind>(*state_, keys.size(), ItemOf(keys), hit, with_op, alone,
                                            SettlerOf(results));
    } else {
      all = Batches::UpdateOneByOne(*state_, kKind, keys.size(), alone, SettlerOf(results));
      TrimBuffers();
    }
    return all ? keys.size() : CountOk(results);
  }
  static bool CheckBatch(std::size_t keys, std::size_t values, std::span<absl::Status> results) {
    if (keys == values && keys == results.size()) [[likely]]
      return true;
    for (absl::Status& result : results) {
      result = internal::CatchNoMemory(
          [&] { return internal::UnequalBatch(keys, values, results.size()); });
    }
    return false;
  }
  // The pointers and lengths that a batch's loops need, as copies.
  template <typename T>
  static auto ItemOf(std::span<const T> items) {
    return [items = items.data()](std::size_t i) EBB_INLINE_LAMBDA -> const T& { return items[i]; };
  }
  auto SettlerOf(std::span<absl::Status> results) {
    return [this, results = results.data()](std::size_t i, auto outcome)
               EBB_INLINE_LAMBDA { this->Settle(results[i], std::move(outcome)); };
  }
  static std::size_t CountOk(std::span<const absl::Status> results) {
    return static_cast<std::size_t>(std::count_if(results.begin(), results.end(),
                                                  [](const auto& result) { return result.ok(); }));
  }
  EBB_INLINE void Settle(absl::Status& result, internal::OpStatus status) {
    if (status == internal::OpStatus::kOk && result.ok()) [[likely]]
      return;
    result = ToStatus(status);
  }
  static void Settle(absl::Status& result, absl::Status outcome) { result = std::move(outcome); }
  EBB_INLINE absl::Status ToStatus(internal::OpStatus status) {
    if (status == internal::OpStatus::kOk) [[likely]]
      return absl::OkStatus();
    return ToStatusSlow(status);
  }
  EBB_COLD absl::Status ToStatusSlow(internal::OpStatus status) {
    return internal::ToStatus(*state_, status);
  }

  std::shared_ptr<internal::Core> core_;  // outlives state_
  internal::OwnedSession state_;
};

}  // namespace ebb
