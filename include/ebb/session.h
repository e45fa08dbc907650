// Session<Key, Value>: one user's handle to a store, and the fast path of every operation.
//
// A session costs some cache lines and buffers of at most 256 KiB, and nothing while idle: it holds
// no lock, pins no page and delays no thread. There is no limit on their number that a program
// would meet. It may be moved between threads and is used by one at a time. Calls of a session that
// was moved from return FailedPrecondition; until it is destroyed it keeps the memory of the store.
//
// All operations on one key, from all sessions of a store, are linearizable: they take effect one
// after the other, each between its call and its return. Nothing is promised across keys.
//
// Status codes are listed in ebb/status.h. Any operation can return FailedPrecondition (the store
// is closed, the call comes from a callback of the same store, or the process is a forked child);
// reads can return DataLoss and Unavailable when the record is on the device; updates
// ResourceExhausted and Unavailable when no log page can be freed, which may pass.
//
// With Durability::kAlways an update returns OK when it is durable; an error of the commit is
// returned although the update has taken effect, and whether it is durable is then unknown.
//
// Callbacks of operations. (Those of long jobs, such as GcOptions::progress, are in the table in
// ebb/options.h.) All run in the thread that makes the call.
//
//   callback                     calls of this store           what a throw does
//   visitor of a Read            rejected                      leaves the call
//   function of an Rmw,          rejected                      leaves the call; the record is
//     RmwBatch or RmwAsync                                     unchanged and no lock is left. Of a
//                                                              batch, the items before it are done
//                                                              and have their results; it and all
//                                                              later items have no effect, and
//                                                              their results are unspecified.
//                                                              `done` is not called
//   function of a Scan,          all                           leaves the call
//     ScanPrefix, or a loop
//     over a ScanIterator
//   `done` of an asynchronous    all; must not destroy the     leaves the call that ran it: the
//     operation, and a           store while a call of the     asynchronous call, or
//     coroutine that it          store is running              CompletePending. In the destructor
//     resumes                                                  of the session it is printed
//   `done` that Close runs       rejected; must not use the    leaves Close, when all have been
//                                session, which is another     told: call Close again. In the
//                                thread's                      destructor of the store it is
//                                                              printed
//   Encode and Decode of a       must not be made              leaves the call; see ebb/codec.h
//     codec
//
// Visitors and functions run under the guard of the call: they delay the eviction of pages, commits
// and Close, so they should be short and must not block. `done` delays nothing.
// A rejected call returns FailedPrecondition, names the callback, has no effect and never waits. It
// is rejected on the store, on every session and on every iterator of it, also when callbacks of
// several stores are nested. Exceptions:
//   * Read into a value, Contains, Upsert and the like on another session may work instead, when
//     they take the fast path and so wait for nothing. Do not rely on it; an Rmw that writes its
//     own key in this way may never end.
//   * CompletePending returns 0. NewSession() and the calls that only report are allowed: serial,
//     name, pending_count, Stats, Metrics, ResetMetrics, ApproximateSize, ListCheckpoints,
//     GetCheckpointStats, GetBackgroundStats and recovery.
// Calls of other stores, and calls that other threads make, are allowed; but a callback must not
// wait for another thread's call of this store.
//
// Destructors inside a callback of the store cannot return an error. A session with pending
// operations ends them without effect: `done` gets FailedPrecondition. A session that is destroyed
// inside its own call, and a store that is destroyed in a callback (also by exit()), leak, and a
// line on stderr says so; a leaked store is not closed, so that updates after its last commit may
// be lost as in a crash.
//
// When memory is out, every call returns ResourceExhausted and has no effect; a completion callback
// is given that status. Nothing is thrown, except what a callback throws: that passes through, but
// a std::bad_alloc of a callback of Read or Rmw is reported as ResourceExhausted like any other.
//
// Serials. A session numbers its updates: each takes the next serial when it takes effect, or when
// it finds that it has none to make (NotFound, AlreadyExists and Aborted are outcomes). An update
// that is rejected, that is, returns any other error, takes none. After a crash, a named session's
// recovered serial p (Store::recovery) means that exactly its updates with serials up to p are in
// the store. This holds for all calls: single ones, batches and asynchronous ones.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/codec.h"
#include "ebb/internal/async.h"
#include "ebb/internal/batch.h"
#include "ebb/internal/callback_scope.h"
#include "ebb/internal/core.h"
#include "ebb/internal/no_memory.h"
#include "ebb/internal/operation.h"
#include "ebb/internal/session_state.h"

namespace ebb {

template <KeyType Key, ValueType Value>
class Store;

template <KeyType Key, ValueType Value>
class Session {
 public:
  using KeyView = ViewOf<Key>;      // std::string_view for strings, else Key or const Key&
  using ValueView = ViewOf<Value>;  // likewise

  // Calls of a session that was moved from return FailedPrecondition.
  Session(Session&& other) noexcept
      : core_(other.core_),
        state_(std::exchange(other.state_,
                             internal::OwnedSession(other.core_->session_moved_from.get()))) {}
  // Swaps: each state stays with the core that it belongs to.
  Session& operator=(Session&& other) noexcept {
    std::swap(core_, other.core_);
    std::swap(state_, other.state_);
    return *this;
  }
  // Completes what is pending; then costs a mutex for a moment.
  ~Session() {
    if (state_ != nullptr) internal::EndSession(std::move(state_), std::move(core_));
  }

  // The key's newest value. NotFound, without message or allocation, when it is absent.
  // Progress: wait-free for values of 1 to 8 bytes in memory; others wait for a writer that is
  // copying into the same record; a value on the device costs a read for each record of the chain.
  EBB_INLINE absl::StatusOr<Value> Read(KeyView key) {
    absl::StatusOr<Value> result(Value{});
    if constexpr (kCoded) {
      if (absl::Status status = Read(key, *result); !status.ok()) return status;
      return result;
    } else {
      const internal::OpStatus status = Ops::Read(
          *state_, StoredKey(key), [&](const auto& found) { Ops::CopyValue(found, *result); });
      if (status == internal::OpStatus::kOk) [[likely]] {
        Ops::CountRead(*state_, *result);
        return result;
      }
      return ToStatusSlow(status);
    }
  }

  // The same into `value`, whose memory is reused; unspecified unless OK.
  EBB_INLINE absl::Status Read(KeyView key, Value& value) {
    return Encoding([&]() EBB_INLINE_LAMBDA { return this->ReadInto(key, value); });
  }

  // Calls `visitor` with the value, exactly once if OK and never otherwise. A string on the device
  // or in the read-only part of the log is shown in place, without a copy; the view ends with the
  // call.
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

  // Whether the key is present; copies no value. Cost and progress as of Read.
  absl::StatusOr<bool> Contains(KeyView key) {
    return Encoding([&]() EBB_INLINE_LAMBDA -> absl::StatusOr<bool> {
      const internal::OpStatus status = Ops::Read(*state_, StoredKey(key), [](const auto&) {});
      if (status == internal::OpStatus::kRefused) return state_->error;
      return status == internal::OpStatus::kOk;
    });
  }

  // Sets the key's value. InvalidArgument when key or value is longer than the store takes.
  // Progress: in place when the record is in the mutable part of the log and the value fits (one
  // store, or a short lock); else appended, which can wait for a page to be flushed. Never reads
  // the device.
  EBB_INLINE absl::Status Upsert(KeyView key, ValueView value) {
    return Encoding([&]() EBB_INLINE_LAMBDA {
      return this->ToStatus(Ops::Upsert(*state_, StoredKey(key), StoredValue(value)));
    });
  }

  // Changes the key's value atomically: `fn(Value&)` edits a copy, which then takes the old
  // value's place. An absent key starts from `initial` (and `fn` edits that). `fn` may run more
  // than once, each time on a fresh copy; it takes effect exactly once. InvalidArgument, without
  // effect, when the result is too long.
  // Progress: as Upsert, and may wait for a record that is becoming read-only and read the device.
  template <std::invocable<Value&> F>
  EBB_INLINE absl::Status Rmw(KeyView key, F&& fn, const Value& initial = Value{}) {
    return Encoding([&]() EBB_INLINE_LAMBDA {
      if constexpr (Coded<Value>) {
        auto edit = this->EditOf(std::ref(fn));
        return this->ToStatus(Ops::Rmw(*state_, StoredKey(key), edit, StoredValue(initial)));
      } else {
        return this->ToStatus(Ops::Rmw(*state_, StoredKey(key), fn, initial));
      }
    });
  }

  // Removes the key; NotFound, and nothing written, when it is absent. Progress: as Rmw.
  absl::Status Delete(KeyView key) {
    return Encoding(
        [&]() EBB_INLINE_LAMBDA { return this->ToStatus(Ops::Delete(*state_, StoredKey(key))); });
  }

  // Sets the value of an absent key; AlreadyExists, and nothing written, when it is present.
  // Progress: as Rmw.
  absl::Status InsertIfAbsent(KeyView key, ValueView value) {
    return Encoding([&]() EBB_INLINE_LAMBDA {
      return this->ToStatus(Ops::InsertIfAbsent(*state_, StoredKey(key), StoredValue(value)));
    });
  }

  // Sets the value to `desired` if it is `expected`, byte for byte. Aborted, without a message,
  // when it is another; NotFound when the key is absent. Progress: as Rmw.
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
  //
  // As the calls without Async, but none of them waits for a read of the device: `done` is called
  // with the outcome, exactly once. What needs no such read ends within the call, and so does
  // everything else that it waits for (a page, a commit with kAlways); the rest is pending, its
  // reads beside each other, until CompletePending() or another of these calls finds them ended.
  // Reads are handed to the kernel eight at a time, or by CompletePending(false).
  // An Upsert never reads the device. Operations that are pending at the same time take effect in
  // any order, also on one key, each between its call and its callback.
  //
  // `done` of an update may take a second argument: the serial that the update has taken, 0 if
  // none. Serials follow the order of effects, which is not the order of the calls. So after a
  // crash only the serials that the program has recorded show which asynchronous updates are in the
  // store: those up to the recovered one. An update whose `done` had not been called may be in it
  // or not.
  //
  // `done` runs in the thread that uses the session, outside of all locks; it may use the session
  // and the store. Close() ends the pending operations without effect: `done` gets
  // FailedPrecondition, in the thread that closes, and must not use the session then. The session's
  // destructor completes the pending operations. When the function of an Rmw throws, so does the
  // call that ran it, and `done` is not called.
  // Keys, values and functions are copied or moved. 256 operations are pending at most: to begin
  // one more completes others. Cost: a hit as without Async; else an allocation or two.

  template <std::invocable<absl::StatusOr<Value>> Done>
  void ReadAsync(KeyView key, Done done) {
    auto tell = TellValue(std::move(done));
    using Receiver = internal::ValueReceiver<Ops, internal::Stored<Value>, decltype(tell)>;
    Receiver receiver{std::move(tell)};
    bool timed = false;
    bool is_hit = false;
    const absl::Status status = internal::CatchNoMemory([&] {
      const StoredKeyView stored = StoredKey(key);
      timed = state_->slot->tally.Begin(OpKind::kRead);
      is_hit = !timed && Ops::TryRead(*state_, stored, Ops::Hash(*state_->core, stored),
                                      [&](const auto& found) { receiver.Take(*state_, found); });
      return absl::OkStatus();
    });
    if (is_hit || !status.ok()) return receiver.Tell(status);
    Pend(OpKind::kRead, timed, key, internal::ReadForm<Ops, Receiver>(std::move(receiver)));
  }

  // `fn` is kept until the operation has ended.
  template <std::invocable<Value&> F, internal::UpdateCallback Done>
  void RmwAsync(KeyView key, F fn, Done done, const Value& initial = Value{}) {
    auto edit = EditOf(std::move(fn));
    bool timed = false;
    bool is_hit = false;
    OwnedValue owned{};
    const absl::Status status = internal::CatchNoMemory([&] {
      const StoredKeyView stored = StoredKey(key);
      timed = state_->slot->tally.Begin(OpKind::kRmw);
      is_hit = !timed && Ops::TryRmw(*state_, stored, Ops::Hash(*state_->core, stored), edit);
      if (!is_hit) owned = OwnedValue(StoredValue(initial));
      return absl::OkStatus();
    });
    if (is_hit) return internal::CallBack(done, absl::OkStatus(), serial());
    if (!status.ok()) return internal::CallBack(done, status, /*serial=*/0);
    PendUpdate(
        OpKind::kRmw, timed, key,
        [edit = std::move(edit), initial = std::move(owned)](auto& session) mutable {
          return typename Updates::template RmwOp<decltype(edit)>{{session}, edit, initial};
        },
        std::move(done));
  }

  template <internal::UpdateCallback Done>
  void DeleteAsync(KeyView key, Done done) {
    PendUpdate(
        OpKind::kDelete, state_->slot->tally.Begin(OpKind::kDelete), key,
        [](auto&) { return typename Updates::DeleteOp{}; }, std::move(done));
  }

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

  // For coroutines of any type: `absl::StatusOr<Value> value = co_await session.ReadAwait(key);`.
  // The coroutine goes on inside the call, or as a callback does. It must not be destroyed while it
  // waits.
  auto ReadAwait(KeyView key) {
    return Await<absl::StatusOr<Value>>(
        [this, key](auto done) { this->ReadAsync(key, std::move(done)); });
  }
  template <std::invocable<Value&> F>
  auto RmwAwait(KeyView key, F fn, const Value& initial = Value{}) {
    return Await<absl::Status>([this, key, fn = std::move(fn), initial](auto done) mutable {
      this->RmwAsync(key, std::move(fn), std::move(done), initial);
    });
  }
  auto DeleteAwait(KeyView key) {
    return Await<absl::Status>([this, key](auto done) { this->DeleteAsync(key, std::move(done)); });
  }

  // Runs the callbacks of operations that have ended; with `wait`, continues until none is pending.
  // Returns the number of callbacks run; 0 inside a callback of the store that may not call it.
  std::size_t CompletePending(bool wait = true) {
    return state_->pending == nullptr || !state_->callable() ? 0 : state_->pending->Complete(wait);
  }
  std::size_t pending_count() const {
    return state_->pending == nullptr ? 0 : state_->pending->size();
  }

  // ---- batches: spans of one length in, results[i] for item i ----
  //
  // The results are the same as if the items were called one by one, in order. In memory a batch is
  // faster than single calls, because it prefetches the cache lines of 64 items at a time. Its
  // reads of the device overlap: up to 256 of a ReadBatch, up to 64 of others. Each item is atomic,
  // the batch is not.
  // Returns the number of items that are OK. Spans of different lengths: InvalidArgument for all
  // items, and nothing is done. Keys or values with a codec are called one by one.
  //
  // Updates take effect in item order. Each item that is not rejected takes the next serial, also a
  // Delete that is NotFound. The first item that is rejected ends the batch: it and all later items
  // get its status, have no effect and take no serial. So the accepted items are the first ones, as
  // many as serial() has grown, and item i has the serial `serial() before the batch + i + 1`. A
  // crash keeps a prefix of them. (One exception: with Durability::kAlways, an update whose commit
  // fails has taken effect and a serial, although it ends the batch with the commit's error.)
  // ReadBatch has no serials: each item has its own status.

  using BatchKey = std::remove_cvref_t<KeyView>;      // std::string_view for strings, else Key
  using BatchValue = std::remove_cvref_t<ValueView>;  // likewise

  // values[i] is unspecified unless results[i] is OK; its memory is reused.
  std::size_t ReadBatch(std::span<const BatchKey> keys, std::span<Value> values,
                        std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), values.size(), results)) return 0;
    if constexpr (kInterleaved) {
      EBB_TRY {
        const bool all = Batches::Read(
            *state_, keys.size(), ItemOf(keys),
            [state = state_.get(), values = values.data()](std::size_t i, const auto& found)
                EBB_INLINE_LAMBDA {
                  Ops::CopyValue(found, values[i]);
                  Ops::CountRead(*state, values[i]);
                },
            SettlerOf(results));
        if (all) return keys.size();
      } EBB_CATCH_NO_MEMORY {  // of a copy or a search: nothing has been done
        std::fill(results.begin(), results.end(), internal::NoMemory());
      }
    } else {
      for (std::size_t i = 0; i < keys.size(); ++i) results[i] = Read(keys[i], values[i]);
    }
    return CountOk(results);
  }

  // Needs no read of the device.
  std::size_t UpsertBatch(std::span<const BatchKey> keys, std::span<const BatchValue> values,
                          std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), values.size(), results)) return 0;
    const auto alone = [&](std::size_t i) {
      return Ops::Upsert(*state_, StoredKey(keys[i]), StoredValue(values[i]));
    };
    if constexpr (kInterleaved) {
      const auto hit = [state = state_.get(), key = ItemOf(keys), value = ItemOf(values)](
                           std::size_t i, const Lead& lead) EBB_INLINE_LAMBDA {
        return Ops::Fits(lead.core, key(i), value(i)) &&
               Ops::FinishUpsert(*state, lead, key(i), value(i));
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

  // `fn(i, value)` edits the value of item i, otherwise as in Rmw.
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
                           std::size_t i, const Lead& lead) EBB_INLINE_LAMBDA {
        auto edit = edit_of(i);
        return Ops::FinishRmw(*state, lead, key(i), edit);
      };
      const auto with_op = [&](std::size_t i, const auto& run) {
        auto edit = edit_of(i);
        typename Updates::template RmwOp<decltype(edit)> op{{*state_}, edit, initial};
        return run(op);
      };
      return UpdateBatch<OpKind::kRmw>(keys, results, hit, with_op, alone);
    } else {
      return UpdateBatch<OpKind::kRmw>(keys, results, nullptr, nullptr, alone);
    }
  }

  std::size_t DeleteBatch(std::span<const BatchKey> keys, std::span<absl::Status> results) {
    if (!CheckBatch(keys.size(), keys.size(), results)) return 0;
    const auto with_op = [](std::size_t, const auto& run) {
      typename Updates::DeleteOp op;
      return run(op);
    };
    return UpdateBatch<OpKind::kDelete>(
        keys, results, [](std::size_t, const Lead&) { return false; }, with_op,
        [&](std::size_t i) { return Ops::Delete(*state_, StoredKey(keys[i])); });
  }

  // The serial of this session's last update, see above; 0 before the first. A named session
  // continues from the last serial of its name.
  std::uint64_t serial() const { return state_->serials.taken(); }
  // Empty when the session has no name.
  const std::string& name() const { return state_->name; }
  // Makes all updates of this session durable; as Store::Commit, with its errors.
  absl::Status WaitDurable() { return internal::WaitDurable(*state_); }

 private:
  friend class Store<Key, Value>;
  using Ops = internal::Operations<internal::Stored<Key>, internal::Stored<Value>>;
  using Lead = typename Ops::Lead;
  using Updates = internal::Updates<internal::Stored<Key>, internal::Stored<Value>>;
  using Batches = internal::Batches<internal::Stored<Key>, internal::Stored<Value>>;
  using StoredKeyView = ViewOf<internal::Stored<Key>>;
  using OwnedValue = internal::Stored<Value>;
  static constexpr bool kCoded = Coded<Key> || Coded<Value>;
  static constexpr bool kInterleaved = !kCoded;

  explicit Session(std::shared_ptr<internal::Core> core)
      : core_(std::move(core)), state_(internal::NewSessionState(*core_)) {}
  Session(std::shared_ptr<internal::Core> core, internal::SessionState& stand_in)
      : core_(std::move(core)), state_(&stand_in) {}

  // An operation that encodes first, for which memory may be out. Otherwise what the operation
  // itself allocates is its own business.
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
  // At the end of a call. Inside another call of this session the buffers are that call's.
  void TrimBuffers() {
    if constexpr (kCoded) {
      if (state_->callable() && !state_->waiting()) state_->TrimBuffers();
    }
  }
  EBB_INLINE absl::Status ReadInto(KeyView key, Value& value) {
    if constexpr (Coded<Value>) {
      std::string& bytes = state_->scratch;
      const internal::OpStatus status = Ops::Read(
          *state_, StoredKey(key), [&](const auto& found) { Ops::CopyValue(found, bytes); });
      if (status != internal::OpStatus::kOk) return ToStatusSlow(status);
      Ops::CountRead(*state_, bytes);
      return Codec<Value>::Decode(bytes, value) ? absl::OkStatus()
                                                : internal::Undecodable("value", bytes.size());
    } else {
      const internal::OpStatus status = Ops::Read(
          *state_, StoredKey(key), [&](const auto& found) { Ops::CopyValue(found, value); });
      if (status == internal::OpStatus::kOk) [[likely]] {
        Ops::CountRead(*state_, value);
        return absl::OkStatus();
      }
      return ToStatusSlow(status);
    }
  }
  template <typename F>
  EBB_INLINE absl::Status Visit(KeyView key, F& visitor) {
    using Visitor = typename Ops::template Visitor<F>;
    return ToStatus(Ops::Read(*state_, StoredKey(key), Visitor{*state_, visitor}));
  }

  // What operations are given: the same, or the bytes of a codec. Under a guard, so in a callback
  // of this session, these belong to the call that is under way; the new one is refused whatever it
  // is given.
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
  // `fn` on what is stored; owns it.
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
        fn(value);
        bytes.clear();
        Codec<Value>::Encode(value, bytes);
        return internal::Edited::kYes;
      };
    } else {
      return fn;
    }
  }
  // `done` for what is stored; owns it.
  template <typename Done>
  static auto TellValue(Done done) {
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
    if (!status.ok()) return form.Tell(std::move(status));
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
  // What a batch's loops need of its spans, as copies of pointers.
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
