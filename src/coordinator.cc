#include "ebb/internal/coordinator.h"

#include <utility>

namespace ebb::internal {

Coordinator::Coordinator(Core& core, Start start)
    : core_(core),
      slot_(core.epochs.AcquireSlot()),
      version_(start.version),
      durable_(start.durable) {}

Coordinator::~Coordinator() { core_.epochs.ReleaseSlot(slot_); }

absl::Status Coordinator::Commit() {
  MutexLock lock(mu_);
  if (closed_ || core_.epochs.closed()) return core_.ClosedError();
  return CommitLocked();
}

absl::Status Coordinator::CommitLocked() {
  if (core_.health.poisoned()) return core_.health.status();
  HybridLog& log = core_.log;
  // Every record below the tail is read-only since the last commit, so a change moves the tail.
  if (log.tail() == durable_) return absl::OkStatus();
  changed_since_open_ = true;

  const Address floor = log.tail();
  log.BeginVersionShift();
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>((version_ + 1) & 3));
  Backoff backoff;
  while (!core_.epochs.Drained(epoch)) backoff.Wait();
  core_.version_floor.store(floor.value(), std::memory_order_release);   // [drained]
  core_.drained_version.store(version_ + 1, std::memory_order_release);  // [drained]

  CommitRecord record;
  record.kind = RecordKind::kControl;
  record.version = version_++;
  return MakeDurable(record);
}

absl::Status Coordinator::MakeDurable(CommitRecord record) {
  HybridLog& log = core_.log;
  record.begin = log.begin();
  record.durable = durable_;
  record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
  absl::StatusOr<Address> end = AppendCommitRecord(record);
  // Without a control record the version stays uncommitted; the next one commits it too. What is
  // above the tail now was made after the drain either way.
  log.EndVersionShift(end.ok() ? *end : log.tail());
  if (!end.ok()) return end.status();
  if (absl::Status status = log.FlushTo(*end); !status.ok()) return status;
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) {
    core_.health.Poison(status);
    log.BlockUpdates();
    return core_.health.status();
  }
  durable_ = *end;
  return absl::OkStatus();
}

absl::StatusOr<Address> Coordinator::AppendCommitRecord(const CommitRecord& record) {
  HybridLog& log = core_.log;
  for (;;) {  // ends: each turn after the first starts with room in the page
    {
      EpochGuard guard(core_.epochs, *slot_);
      const HybridLog::Extent extent =
          log.ReserveToBlockEnd(CommitRecord::kLeastExtentBytes, guard);
      if (extent.bytes != 0) {
        EncodeCommitRecord(record, core_.config.log.store_id,
                           {log.At(extent.start, guard), extent.bytes});
        return log.geometry().Normalize(extent.start + extent.bytes);
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
  const std::uint64_t epoch = core_.epochs.BumpClosed();
  Backoff backoff;
  while (!core_.epochs.Drained(epoch) || !core_.epochs.NoSlowCalls()) backoff.Wait();

  const bool has_files = core_.files.directory != nullptr;
  absl::Status status = has_files ? CommitLocked() : absl::OkStatus();
  if (status.ok() && changed_since_open_) {
    CommitRecord mark;
    mark.kind = RecordKind::kControl;
    mark.version = version_++;
    mark.clean = true;
    status = MakeDurable(mark);
  }
  if (!status.ok() && !core_.health.poisoned()) return status;  // may be tried again

  core_.log.StopMaintenance();
  core_.pool.Stop();
  status.Update(core_.files.device->Close());
  if (has_files) core_.files.directory->Unlock();
  core_.log.ReleaseMemory();
  closed_ = true;
  close_status_ = status;
  return status;
}

}  // namespace ebb::internal
