#include "ebb/internal/coordinator.h"

#include <utility>

namespace ebb::internal {

Coordinator::Coordinator(Core& core, Start start)
    : core_(core),
      slot_(core.epochs.AcquireSlot()),
      version_(start.version),
      durable_(start.durable) {}

Coordinator::~Coordinator() {
  {
    MutexLock lock(mu_);
    if (!closed_) {
      ShutOut();
      static_cast<void>(LetGo());  // nobody is left to hear of it
    }
  }
  core_.epochs.ReleaseSlot(slot_);
}

absl::Status Coordinator::Commit() {
  MutexLock lock(mu_);
  if (closed_ || core_.epochs.closed()) return core_.ClosedError();
  return CommitLocked();
}

absl::Status Coordinator::CommitLocked() {
  if (core_.health.poisoned()) return core_.health.status();
  // Everything below durable_ is read-only, so whatever has changed since has moved the tail.
  if (settled_ && !owes_control_ && core_.log.tail() == durable_) return absl::OkStatus();
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
  CommitRecord record;
  record.kind = RecordKind::kControl;
  record.version = version;
  record.clean = clean;
  record.begin = log.begin();
  record.durable = durable_;
  record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
  absl::StatusOr<HybridLog::Extent> extent = AppendCommitRecord(record);
  owes_control_ = !extent.ok();
  // What is above the tail now was made after the drain, with or without a control record.
  const Address end =
      extent.ok() ? log.geometry().Normalize(extent->start + extent->bytes) : log.tail();
  log.EndVersionShift(end);
  if (!extent.ok()) return extent.status();
  settled_ = extent->start == shift_tail_;
  if (absl::Status status = log.FlushTo(end); !status.ok()) return status;
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) {
    core_.health.Poison(status);
    log.BlockUpdates();
    return core_.health.status();
  }
  durable_ = end;
  return absl::OkStatus();
}

absl::StatusOr<HybridLog::Extent> Coordinator::AppendCommitRecord(const CommitRecord& record) {
  HybridLog& log = core_.log;
  for (;;) {  // ends: each turn after the first starts with room in the page
    {
      EpochGuard guard(core_.epochs, *slot_);
      const HybridLog::Extent extent =
          log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
      if (extent.bytes != 0) {
        EncodeCommitRecord(record, core_.config.log.store_id,
                           {log.At(extent.start, guard), extent.bytes});
        return extent;
      }
    }
    if (absl::Status status = log.WaitForPage(); !status.ok()) return status;
  }
}

absl::Status Coordinator::Close() {
  if (!core_.in_opening_process()) return core_.ClosedError();
  MutexLock lock(mu_);
  return closed_ ? close_status_ : CloseLocked();
}

absl::Status Coordinator::CloseLocked() {
  ShutOut();
  const bool has_files = core_.files.directory != nullptr;
  absl::Status status = has_files ? CommitLocked() : absl::OkStatus();
  // The mark commits the next version, in which nothing has happened.
  if (status.ok() && changed_since_open_) status = WriteControl(version_++, true);
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
