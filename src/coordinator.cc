#include "ebb/internal/coordinator.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace ebb::internal {

Coordinator::Coordinator(Core& core, Start start)
    : core_(core),
      slot_(core.epochs.AcquireSlot()),
      version_(start.version),
      durable_(start.durable) {
  core_.counters.durable_address.store(start.durable.value(),
                                       std::memory_order_relaxed);  // statistics
  core_.make_durable = [this] { return JoinCommit(); };
  if (core_.config.durability == Durability::kAlways) core_.log.BlockUpdates();
  if (core_.config.durability == Durability::kPeriodic && core_.has_files()) ScheduleCommit();
}

Coordinator::~Coordinator() {
  {
    MutexLock lock(close_mu_);
    if (!closed_) {
      ShutOut();
      static_cast<void>(LetGo());  // nobody is left to hear of it
    }
  }
  core_.epochs.ReleaseSlot(slot_);
}

// ---- commits, shared ----

absl::Status Coordinator::Commit() {
  if (core_.epochs.closed()) return core_.ClosedError();
  return JoinCommit();
}

absl::Status Coordinator::JoinCommit() {
  MutexLock lock(rounds_mu_);
  const std::uint64_t round = rounds_begun_ + 1;
  while (rounds_ended_ < round) {  // ends: see the head
    if (round_runs_) {
      round_ended_.Wait(rounds_mu_);
      continue;
    }
    round_runs_ = true;
    ++rounds_begun_;
    rounds_mu_.Unlock();
    absl::Status status = RunCommit();
    rounds_mu_.Lock();
    round_runs_ = false;
    rounds_ended_ = rounds_begun_;
    if (status.ok()) {
      last_good_round_ = rounds_ended_;
    } else {
      round_failure_ = std::move(status);
    }
    round_ended_.NotifyAll();
  }
  return last_good_round_ >= round ? absl::OkStatus() : round_failure_;
}

absl::Status Coordinator::RunCommit() {
  absl::Status status;
  {
    MutexLock lock(mu_);
    status = CommitLocked();
  }
  if (!status.ok()) {
    core_.counters.failed_commits.fetch_add(1, std::memory_order_relaxed);  // statistics
  }
  return status;
}

// A failed commit is tried again at the next interval; whoever waits for one hears of it.
void Coordinator::ScheduleCommit() {
  core_.pool.PostAfter(std::chrono::milliseconds(core_.config.commit_interval_ms), [this] {
    static_cast<void>(JoinCommit());
    if (!core_.health.poisoned()) ScheduleCommit();
  });
}

// ---- one commit ----

absl::Status Coordinator::CommitLocked() {
  if (stopped_) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  // Everything below durable_ is read-only, so whatever has changed since has moved the tail.
  if (settled_ && !owes_control_ && core_.log.tail() == durable_ && !core_.sessions.HasChanges()) {
    return absl::OkStatus();
  }
  changed_since_open_ = true;
  if (owes_control_) {
    if (absl::Status status = WriteControl(version_ - 1, false); !status.ok()) return status;
  }
  ShiftVersion();
  return WriteControl(version_ - 1, false);
}

void Coordinator::ShiftVersion() {
  shift_tail_ = core_.log.tail();
  core_.log.BeginVersionShift();
  ++version_;
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>(version_ & 3));
  Backoff backoff;
  while (!core_.epochs.Drained(epoch)) backoff.Wait();
  core_.version_floor.store(shift_tail_.value(), std::memory_order_release);  // [drained]
  core_.drained_version.store(version_, std::memory_order_release);           // [drained]
}

absl::Status Coordinator::WriteControl(std::uint64_t version, bool clean) {
  HybridLog& log = core_.log;
  settled_ = true;
  absl::Status status = AppendSessions(version);
  HybridLog::Extent extent;
  if (status.ok()) {
    CommitRecord record;
    record.kind = RecordKind::kControl;
    record.version = version;
    record.clean = clean;
    record.begin = log.begin();
    record.durable = durable_;
    record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
    record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
    const auto reserve = [&](const EpochGuard& guard) {
      return log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
    };
    status = Append(
        reserve,
        [&](std::span<std::byte> bytes) {
          EncodeCommitRecord(record, core_.config.log.store_id, bytes);
        },
        extent);
  }
  owes_control_ = !status.ok();
  // What is above the tail now was made after the drain, with or without a control record.
  const Address end =
      status.ok() ? log.geometry().Normalize(extent.start + extent.bytes) : log.tail();
  log.EndVersionShift(end);
  if (!status.ok()) return status;
  if (status = log.FlushTo(end); !status.ok()) return status;
  if (status = core_.files.device->Sync(); !status.ok()) {
    core_.health.Poison(status);
    log.BlockUpdates();
    return core_.health.status();
  }
  durable_ = end;
  core_.counters.commits.fetch_add(1, std::memory_order_relaxed);                // statistics
  core_.counters.durable_address.store(end.value(), std::memory_order_relaxed);  // statistics
  return absl::OkStatus();
}

absl::Status Coordinator::AppendSessions(std::uint64_t version) {
  const std::vector<SessionReport> changes =
      core_.sessions.Changes(static_cast<unsigned>(version & 3));
  const std::uint64_t room = core_.log.geometry().payload_bytes();
  for (std::span<const SessionReport> rest = changes; !rest.empty();) {
    const SessionsExtent fitting = FitSessions(rest, room);
    const auto reserve = [&](const EpochGuard& guard) {
      const Address start = core_.log.Allocate(fitting.bytes, guard);
      return HybridLog::Extent{start, start.is_null() ? 0 : fitting.bytes};
    };
    HybridLog::Extent extent;
    absl::Status status = Append(
        reserve,
        [&](std::span<std::byte> bytes) {
          EncodeSessions(version, rest.first(fitting.count), bytes);
        },
        extent);
    if (!status.ok()) return status;
    rest = rest.subspan(fitting.count);
  }
  core_.sessions.SetRecorded(changes);
  return absl::OkStatus();
}

absl::Status Coordinator::Append(const std::function<HybridLog::Extent(const EpochGuard&)>& reserve,
                                 const std::function<void(std::span<std::byte>)>& encode,
                                 HybridLog::Extent& extent) {
  HybridLog& log = core_.log;
  for (;;) {  // ends: each turn after the first starts with room in the page
    {
      EpochGuard guard(core_.epochs, *slot_);
      extent = reserve(guard);
      if (extent.bytes != 0) {
        encode({log.At(extent.start, guard), extent.bytes});
        // Somebody else's record in between may be of the next version.
        settled_ = settled_ && extent.start == shift_tail_;
        shift_tail_ = log.geometry().Normalize(extent.start + extent.bytes);
        return absl::OkStatus();
      }
    }
    if (absl::Status status = log.WaitForPage(); !status.ok()) return status;
  }
}

// ---- closing ----

absl::Status Coordinator::Close() {
  if (!core_.in_opening_process()) return core_.ClosedError();
  MutexLock lock(close_mu_);
  return closed_ ? close_status_ : CloseLocked();
}

absl::Status Coordinator::CloseLocked() {
  ShutOut();
  absl::Status status;
  if (core_.has_files()) {
    MutexLock lock(mu_);
    status = CommitLocked();
    // The mark commits the next version, in which nothing has happened.
    if (status.ok() && changed_since_open_) status = WriteControl(version_++, true);
  }
  if (!status.ok() && !core_.health.poisoned()) return status;  // may be tried again
  status.Update(LetGo());
  close_status_ = status;
  return status;
}

void Coordinator::ShutOut() {
  const std::uint64_t epoch = core_.epochs.BumpClosed();
  Backoff backoff;
  while (!core_.epochs.Drained(epoch) || !core_.epochs.NoSlowCalls()) backoff.Wait();
}

absl::Status Coordinator::LetGo() {
  {
    MutexLock lock(mu_);  // a commit of the pool may still run
    stopped_ = true;
  }
  core_.log.StopMaintenance();
  core_.pool.Stop();
  absl::Status status = core_.files.device->Close();
  if (core_.files.directory != nullptr) core_.files.directory->Unlock();
  core_.files = {};
  core_.log.ReleaseMemory();
  closed_ = true;
  return status;
}

}  // namespace ebb::internal
