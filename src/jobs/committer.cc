#include "ebb/internal/jobs/committer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/checkpoint/manifest.h"

namespace ebb::internal {

Committer::Committer(Core& core, CommittedState start)
    : core_(core),
      collected_(core.log.begin().value()),
      durable_begin_(core.log.begin().value()),
      slot_(core.epochs),
      version_(start.version),
      durable_(start.durable),
      begin_(core.log.begin()),
      recorded_checkpoint_id_(start.checkpoint_id),
      durable_end_(std::move(start.durable_end)) {
  core_.counters.durable_address.store(start.durable.value(),
                                       std::memory_order_relaxed);  // statistics
  // Commit, WaitDurable, updates with kAlways and the periodic commit all join here: a commit that
  // begins after the call covers it, however many callers wait.
  core_.commits = std::make_unique<GroupRunner>([this] { return RunCommit(); });
}

Committer::~Committer() = default;

absl::Status Committer::RunCommit() {
  absl::Status status;
  {
    MutexLock lock(mu_);
    status = CommitLocked(nullptr);
  }
  if (!status.ok()) {
    core_.counters.failed_commits.fetch_add(1, std::memory_order_relaxed);  // statistics
  }
  return status;
}

absl::Status Committer::CommitExactly(Manifest* manifest) {
  MutexLock lock(mu_);
  absl::Status status = CommitLocked(manifest);
  // There was no space to state a new begin when the store is closed: the next process collects
  // again.
  if (manifest == nullptr && absl::IsResourceExhausted(status) && ContentIsDurable()) {
    status = absl::OkStatus();
  }
  // Walk of a Close, 3. The last chance to report a removed file.
  if (status.ok() && manifest == nullptr) status = core_.CheckFiles(true);
  // Unlike other commits, these wait for the durable end: a manifest must not state more than it,
  // and after Close it is exact.
  if (status.ok() && durable_end_ != nullptr) status = durable_end_->Sync();
  return status;
}

absl::StatusOr<bool> Committer::HasNewsSince(Address durable) {
  MutexLock lock(mu_);
  if (stopped()) return core_.ClosedError();
  return durable_ != durable || !NothingToCommit();
}

absl::StatusOr<FoundDurableEnd> Committer::ReadEnd() {
  MutexLock lock(mu_);
  return ReadDurableEnd(*core_.files.directory, core_.config.log.store_id);
}

void Committer::Stop() {
  stopped_.store(true, std::memory_order_relaxed);  // a commit checks it under mu_
  MutexLock lock(mu_);                              // a commit may still run
  durable_end_ = nullptr;
}

// Everything below durable_ is read-only, so every change since then has moved the tail. An
// operation of version_ may have acted below durable_ if settled_ is false; then a commit is needed
// although the tail has not moved.
bool Committer::ContentIsDurable() const {
  return settled_ && !owes_control_ && core_.log.tail() == durable_ && !core_.sessions.HasChanges();
}

bool Committer::NothingToCommit() const {
  return ContentIsDurable() && begin_ == BeginToState(false);
}

absl::Status Committer::CommitLocked(Manifest* manifest) {
  if (stopped()) return core_.ClosedError();
  if (core_.health.poisoned()) return core_.health.status();
  // A control record that could not be written to the device is written first. While that fails,
  // each commit would only append another one, and use up the log's memory.
  if (control_end_ > durable_) {
    if (absl::Status status = MakeDurable(); !status.ok()) return status;
  }
  // There is nothing to write, but the caller relies on the files: check that they still have their
  // names.
  if (manifest == nullptr && NothingToCommit()) return core_.CheckFiles(false);
  if (absl::Status status = CheckIdleCommit(manifest != nullptr); !status.ok()) return status;
  // The last version has drained, but its control record could not be appended. It comes before the
  // next bump, because two bits distinguish only the versions of one drain at a time.
  if (owes_control_) {
    if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  }
  // From here on even a failed checkpoint has used its id: each later control record states it, so
  // ids never repeat.
  if (manifest != nullptr) recorded_checkpoint_id_ = manifest->id;
  // Walk of a garbage collection, 3. Loaded before the bump ([begin]): the copies of all live
  // records below are in the version that this commit ends, or in an older one.
  const Address begin = BeginToState(manifest != nullptr);
  // The statements about sessions below the new begin will be lost, so this commit repeats them
  // all.
  if (begin_ != begin) record_all_sessions_ = true;
  begin_ = begin;
  if (absl::Status status = ShiftVersion(); !status.ok()) return status;
  if (absl::Status status = WriteControl(version_ - 1); !status.ok()) return status;
  // For a checkpoint: the manifest describes exactly the state of this control record.
  if (manifest != nullptr) {
    manifest->version = version_ - 1;
    manifest->durable = durable_;
    manifest->sessions = core_.sessions.Recorded();
    manifest->incarnations = core_.log.incarnations();
  }
  return absl::OkStatus();
}

// A commit that follows no record must not use up the space that the commit of the next record
// needs. One that only states serials, or belongs to a checkpoint, can wait for space; so can a new
// begin when the store is closed, since the next process collects again.
absl::Status Committer::CheckIdleCommit(bool of_checkpoint) {
  if (owes_control_ || core_.log.tail() != durable_) return absl::OkStatus();
  const bool closed = core_.epochs.closed();
  if (closed && !settled_) return absl::OkStatus();  // it settles a record, which left the space
  const bool is_needed = !settled_ || (!closed && begin_ != BeginToState(false));
  return core_.log.space().CheckIdleCommit(!of_checkpoint && is_needed);
}

absl::Status Committer::ShiftVersion() {
  // Walk of a Commit, 2. The tail is loaded before the bump, so that every record of the new
  // version is at or above it.
  shift_tail_ = shift_began_ = core_.log.tail();
  // Before the bump is published: an operation of the new version must find no record to update in
  // place that an operation of the old one may still be changing.
  core_.log.BeginVersionShift();
  ++version_;
  // The bump. From here on operations act in the new version; the drain ends the old one.
  const std::uint64_t epoch = core_.epochs.BumpVersion(static_cast<unsigned>(version_ & 3));
  // Afterwards no operation of the old version is left, so its records below the control record are
  // complete.
  if (absl::Status status = core_.log.WaitForDrain(epoch); !status.ok()) return status;
  // The floor first: an operation that sees the new drained_version also sees the floor from which
  // it compares versions.
  core_.version_floor.store(shift_tail_.value(), std::memory_order_release);  // [drained]
  core_.drained_version.store(version_, std::memory_order_release);           // [drained]
  return absl::OkStatus();
}

// Walk of a Commit, 3.
absl::Status Committer::WriteControl(std::uint64_t version) {
  HybridLog& log = core_.log;
  // If an append below fails, this stays true and the next commit begins with the record that is
  // missing.
  owes_control_ = true;
  // Append sets it to false if a record of the next version may lie below the control record.
  settled_ = true;
  HybridLog::Extent extent;
  // Lack of memory is like lack of space: the version has drained and its control record is owed.
  absl::Status status = CatchNoMemory([&] {
    mu_.AssertHeld();
    // The serials precede the control record that makes them valid.
    absl::Status appended = AppendSessions(version);
    return appended.ok() ? AppendControl(version, extent) : appended;
  });
  owes_control_ = !status.ok();
  // Records above the current tail were created after the drain, with or without a control record.
  const Address end =
      status.ok() ? log.geometry().Normalize(extent.start + extent.bytes) : log.tail();
  // Even after an error: otherwise updates in place would stay forbidden until a commit succeeds.
  log.EndVersionShift(end);
  if (!status.ok()) return status;
  // Set before the write: if that fails, the next commit writes the same record (CommitLocked) and
  // appends no other.
  control_end_ = end;
  return MakeDurable();
}

absl::Status Committer::AppendControl(std::uint64_t version, HybridLog::Extent& extent) {
  HybridLog& log = core_.log;
  CommitRecord record;
  record.kind = RecordKind::kControl;
  record.checkpoint_id = recorded_checkpoint_id_;
  record.version = version;
  record.shift_tail = shift_began_;
  record.unix_us = UnixUs();
  // A scan that starts at begin must know the incarnation of its first block.
  record.begin = begin_;
  record.begin_incarnation = log.IncarnationAt(begin_);
  // The end of the last commit that is durable: recovery uses it to distinguish the end of the log
  // from damage.
  record.durable = durable_;
  record.creation_exponent = static_cast<std::uint32_t>(core_.index.creation_exponent());
  record.index_exponent = static_cast<std::uint32_t>(core_.index.exponent());
  // Up to the end of a block, so that the block can be sealed and flushed at once.
  const auto reserve = [&](const EpochGuard& guard) {
    return log.ReserveToBlockEnd(CommitRecord::kMinExtentBytes, guard);
  };
  const auto encode = [&](std::span<std::byte> bytes) {
    // The number of the record's last block is part of its magic, so that a copy elsewhere is no
    // control record.
    const Address last = extent.start + (bytes.size() - 1);
    EncodeCommitRecord(record, core_.config.log.store_id, log.geometry().BlockOf(last), bytes);
  };
  return Append(reserve, encode, CommitRecord::kMinExtentBytes, extent);
}

// The order is the protocol: flush, then sync, then report. Nothing is called durable before the
// sync returns.
absl::Status Committer::MakeDurable() {
  const Address end = control_end_;
  // A failed write leaves the store as it is; the next commit repeats it.
  if (absl::Status status = core_.log.FlushTo(end); !status.ok()) return status;
  // A failed sync is never repeated: the kernel may have dropped the dirty pages, and a second sync
  // would succeed without them. So the store is poisoned.
  if (absl::Status status = core_.files.device->Sync(); !status.ok()) return core_.Poison(status);
  durable_ = end;
  // Buffered and after the sync, so it never states more than is durable. It may state less; then a
  // loss between the two is not detected.
  if (durable_end_ != nullptr) durable_end_->Advance(core_.log.geometry().BlockOf(end));
  // Now a collection may move the log's begin there (FollowCommits).
  durable_begin_.store(begin_.value(), std::memory_order_release);               // [begin]
  core_.counters.commits.fetch_add(1, std::memory_order_relaxed);                // statistics
  core_.counters.durable_address.store(end.value(), std::memory_order_relaxed);  // statistics
  return absl::OkStatus();
}

absl::Status Committer::AppendSessions(std::uint64_t version) {
  // The names whose serial has changed in this version, or all names after begin has moved.
  const std::vector<SessionReport> changes =
      core_.sessions.Changes(static_cast<unsigned>(version & 3), record_all_sessions_);
  const std::uint64_t room = core_.log.geometry().payload_bytes();
  for (std::span<const SessionReport> rest = changes; !rest.empty();) {
    // A list that is longer than a page is divided. An incomplete list is never used, because no
    // control record follows it.
    const SessionsExtent fitting = FitSessions(rest, room);
    const auto reserve = [&](const EpochGuard& guard) {
      const Address start = core_.log.Allocate(fitting.bytes, guard, Space::kCommit);
      return HybridLog::Extent{start, start.is_null() ? 0 : fitting.bytes};
    };
    HybridLog::Extent extent;
    absl::Status status = Append(
        reserve,
        [&](std::span<std::byte> bytes) {
          EncodeSessions(version, rest.first(fitting.count), bytes);
        },
        fitting.bytes, extent);
    if (!status.ok()) return status;
    rest = rest.subspan(fitting.count);
  }
  // Only after all records have been appended: after an error the next commit states the same
  // serials again.
  core_.sessions.SetRecorded(changes);
  record_all_sessions_ = false;
  return absl::OkStatus();
}

absl::Status Committer::Append(const std::function<HybridLog::Extent(const EpochGuard&)>& reserve,
                               const std::function<void(std::span<std::byte>)>& encode,
                               std::uint64_t min_bytes, HybridLog::Extent& extent) {
  HybridLog& log = core_.log;
  for (;;) {  // ends: each turn after the first starts with room in the page
    {
      // Claim and encoding are in one guard, so that safe_read_only cannot pass the record before
      // it is written.
      EpochGuard guard(core_.epochs, *slot_);
      extent = reserve(guard);
      if (extent.bytes != 0) {
        encode({log.At(extent.start, guard), extent.bytes});
        // A record that another thread appended in between may be of the next version.
        settled_ = settled_ && extent.start == shift_tail_;
        shift_tail_ = log.geometry().Normalize(extent.start + extent.bytes);
        return absl::OkStatus();
      }
    }
    // Outside the guard: the wait may need this thread's guard to end.
    absl::Status status = log.WaitForPage(min_bytes, Space::kCommit);
    if (!status.ok()) return status;
  }
}

// ---- the begin of the log ----

Address Committer::BeginToState(bool of_checkpoint) const {
  // [begin] The acquire load comes before the bump of the commit that states the result.
  const Address collected(collected_.load(std::memory_order_acquire));  // [begin]
  if (of_checkpoint) return collected;
  // A commit without a checkpoint must not state a begin above the scan address of the newest
  // checkpoint: an opening would start there, in a part of the log that is gone.
  return std::max(begin_, std::min(collected, ScanAddress()));
}

// A begin counts only when both the control record and the newest checkpoint allow it.
Address Committer::DurableBegin() const {
  const Address begin(durable_begin_.load(std::memory_order_acquire));  // [begin]
  return std::min(begin, ScanAddress());
}

Address Committer::DurableBeginAfterCommit() {
  { MutexLock lock(mu_); }
  return DurableBegin();
}

}  // namespace ebb::internal
