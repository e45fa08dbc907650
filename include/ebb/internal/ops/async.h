// Asynchronous forms of the operations: the implementation of Session's *Async and *Await calls.
//
// An operation on the fast path ends inside the call. Every other one becomes a PendingForm. It
// owns its key and everything else that the operation needs. It takes the same slow path as the
// synchronous call, and is kept while that waits for the device (pending_operations.h).
//
// Edges
//   [await]  Awaitable: of the beginning call and the callback, the first one exchanges met,
//            acq_rel -> the second one, which continues: it sees the result and the suspended
//            coroutine.
//
// Thread safety and progress: as the session's.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/ops/operation.h"
#include "ebb/internal/ops/pending_operations.h"

namespace ebb::internal {

// `Form` has: Turn(session, key, hash, search), one turn of the slow path; status(), its outcome;
// Notify(status), called once.
template <KeyType Key, typename Form>
class PendingForm final : public PendingOperation {
  using K = KeyOf<Key>;

 public:
  // `timed`: the result of Tally::Begin. If the copy of the key throws, `form` is unchanged.
  PendingForm(SessionState& session, OpKind kind, bool timed, typename K::View key, Form& form)
      : session_(session),
        key_(key),
        form_(std::move(form)),
        timer_(session.slot->tally, kind, timed) {}

  bool Resume() override {
    const typename K::View key(key_);
    const std::uint64_t hash = K::Hash(session_.core->index.key_hash(), key);
    for (;;) {  // ends: as the synchronous call
      if (search().under_way() &&
          search().Step(session_.core->reader, K::Data(key), K::Bytes(key))) {
        return false;
      }
      if (form_.Turn(session_, key, hash, search()) == AttemptResult::kDone) break;
      session_.slot->tally.Add(Count::kDeviceWaits, 1);
    }
    outcome_ = ToStatus(session_, form_.status());
    return true;
  }
  void Refuse(absl::Status why) override { outcome_ = std::move(why); }
  void Notify() override { form_.Notify(std::move(outcome_)); }

 private:
  SessionState& session_;
  const Key key_;
  Form form_;
  absl::Status outcome_;
  const OpTimer timer_;
};

// Moves `form` into the operation. If memory is out, `form` is unchanged, and its Notify can be
// called.
template <KeyType Key, typename Form>
PendingOperations::Owned MakePending(SessionState& session, OpKind kind, bool timed,
                                     ViewOf<Key> key, Form& form) {
  return std::make_unique<PendingForm<Key, Form>>(session, kind, timed, key, form);
}

// `Receiver` has: Take(session, found), as the consumer of Operations::Read; Notify(status), called
// once; and optionally Again(), called when the lookup is repeated.
template <typename Ops, typename Receiver>
class ReadForm {
 public:
  explicit ReadForm(Receiver receiver) : receiver_(std::move(receiver)) {}
  AttemptResult Turn(SessionState& session, typename Ops::KeyView key, std::uint64_t hash,
                     DeviceSearch& search) {
    if constexpr (requires { receiver_.Again(); }) {
      if (search.ended() && absl::IsAborted(search.status())) receiver_.Again();
    }
    auto consume = [&](const auto& found) { receiver_.Take(session, found); };
    return Ops::TurnRead(session, key, hash, consume, search, status_);
  }
  OpStatus status() const { return status_; }
  void Notify(absl::Status outcome) { receiver_.Notify(std::move(outcome)); }

 private:
  Receiver receiver_;
  OpStatus status_ = OpStatus::kOk;
};

// Passes the value, or the error, to `done`.
template <typename Ops, ValueType Value, typename Done>
struct ValueReceiver {
  Done done;
  Value value{};
  template <typename Found>
  void Take(SessionState& session, const Found& found) {
    Ops::CopyValue(found, value);
    Ops::CountRead(session, value);
  }
  void Notify(absl::Status outcome) {
    if (outcome.ok()) {
      done(absl::StatusOr<Value>(std::move(value)));
    } else {
      done(absl::StatusOr<Value>(std::move(outcome)));
    }
  }
};

// The callbacks that an update accepts: `done(status)` or `done(status, serial)`.
template <typename Done>
concept UpdateCallback =
    std::invocable<Done&, absl::Status> || std::invocable<Done&, absl::Status, std::uint64_t>;

template <UpdateCallback Done>
void CallBack(Done& done, absl::Status outcome, std::uint64_t serial) {
  if constexpr (std::invocable<Done&, absl::Status, std::uint64_t>) {
    done(std::move(outcome), serial);
  } else {
    done(std::move(outcome));
  }
}

// `make(session)` creates the update, again for each turn.
template <typename Ops, typename Make, typename Done>
class UpdateForm {
 public:
  UpdateForm(Make make, Done done) : make_(std::move(make)), done_(std::move(done)) {}
  AttemptResult Turn(SessionState& session, typename Ops::KeyView key, std::uint64_t hash,
                     DeviceSearch& search) {
    const std::uint64_t before = session.serials.taken();
    auto op = make_(session);
    const AttemptResult step = Ops::TurnUpdate(session, key, hash, op, search);
    status_ = op.status;
    // With Durability::kAlways an update whose commit fails has taken a serial, too.
    const std::uint64_t taken = session.serials.taken();
    serial_ = taken == before ? 0 : taken;
    return step;
  }
  OpStatus status() const { return status_; }
  void Notify(absl::Status outcome) { CallBack(done_, std::move(outcome), serial_); }

 private:
  Make make_;
  Done done_;
  OpStatus status_ = OpStatus::kOk;
  std::uint64_t serial_ = 0;
};

// The operand of co_await: `begin(callback)` begins an operation that calls back with its result,
// once, inside the call or later. Any type of coroutine can use it.
template <typename Result, typename Begin>
class Awaitable {
 public:
  explicit Awaitable(Begin begin) : begin_(std::move(begin)) {}

  bool await_ready() const { return false; }
  template <typename Handle>
  bool await_suspend(Handle coroutine) {
    begin_([this, coroutine](Result result) {
      result_.emplace(std::move(result));
      if (met_.exchange(true, std::memory_order_acq_rel)) coroutine.resume();  // [await]
    });
    return !met_.exchange(true, std::memory_order_acq_rel);  // [await]
  }
  Result await_resume() { return *std::move(result_); }

 private:
  Begin begin_;
  Atomic<bool> met_{false};
  std::optional<Result> result_;
};

}  // namespace ebb::internal
