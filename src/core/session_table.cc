#include "ebb/internal/core/session_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace ebb::internal {

std::uint64_t SessionTable::Entry::Last(unsigned parity) const {
  // The open session counts its own serials, by the parity of the version, so that a commit of v
  // reads those of v while operations already act in v + 1.
  if (live == nullptr) return last[parity];
  return live->last_[parity].load(std::memory_order_relaxed);  // [serial]
}

bool SessionTable::Entry::Differs(std::uint64_t serial) const {
  if (forgotten) return true;
  // A session that has no update yet need not be recorded.
  return serial != recorded && !(serial == 0 && recorded == kForgotten);
}

absl::Status SessionTable::Enter(std::string_view name, SessionSerials& serials) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        fmt::format("the name of a session has {} bytes: it must have from 1 to {}", name.size(),
                    kMaxNameBytes));
  }
  MutexLock lock(mu_);
  Entry& entry = entries_.try_emplace(std::string(name)).first->second;
  // One open session per name: otherwise two sequences of serials would mix.
  if (entry.live != nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("a session named '{}' is open already; destroy it, or use another name", name));
  }
  for (unsigned parity = 0; parity < 2; ++parity) {
    serials.last_[parity].store(entry.last[parity], std::memory_order_relaxed);  // [serial]
  }
  // The next serial is above every one that may have been used, even if no commit has recorded it.
  serials.taken_.RaiseTo(std::max({entry.through, entry.last[0], entry.last[1]}));
  entry.live = &serials;
  entry.forgotten = false;
  return absl::OkStatus();
}

void SessionTable::Leave(std::string_view name) {
  MutexLock lock(mu_);
  Entry& entry = entries_.find(name)->second;
  // The session's words end with it. A commit in progress still needs the serial of its version,
  // and the next commit that of the version after it, so both are kept.
  for (unsigned parity = 0; parity < 2; ++parity) entry.last[parity] = entry.Last(parity);
  entry.live = nullptr;
}

absl::Status SessionTable::Forget(std::string_view name) {
  MutexLock lock(mu_);
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.forgotten) {
    return absl::NotFoundError(fmt::format("there is no session named '{}'", name));
  }
  if (found->second.live != nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("a session named '{}' is open; destroy it first", name));
  }
  // Even if the log does not know the name: a commit in progress may be about to record it.
  found->second = {.recorded = found->second.recorded, .forgotten = true};
  return absl::OkStatus();
}

std::vector<SessionReport> SessionTable::Changes(unsigned version_bits, bool all) const {
  MutexLock lock(mu_);
  std::vector<SessionReport> changes;
  for (const auto& [name, entry] : entries_) {
    // Walk of a Commit, 3. The version has drained, so its serials do not change any more.
    const std::uint64_t serial = std::max(entry.through, entry.Last(version_bits & 1));
    // After begin has moved, earlier statements may be gone: all names are recorded again.
    const bool known = all && entry.recorded != kForgotten;
    if (known || entry.Differs(serial)) {
      changes.push_back({name, entry.forgotten ? kForgotten : serial});
    }
  }
  return changes;
}

bool SessionTable::HasChanges() const {
  MutexLock lock(mu_);
  // No version has drained here, so the newest serial may be in the word of either parity.
  return std::any_of(entries_.begin(), entries_.end(), [](const auto& named) {
    const Entry& entry = named.second;
    return entry.Differs(std::max({entry.through, entry.Last(0), entry.Last(1)}));
  });
}

std::uint64_t SessionTable::ListBytesWith(std::string_view name) const {
  MutexLock lock(mu_);
  // Calculated before the name is entered, so that the space is reserved first.
  std::uint64_t bytes = name.empty() || entries_.contains(name) ? 0 : SessionBytes(name);
  for (const auto& [known, entry] : entries_) bytes += SessionBytes(known);
  return bytes;
}

// Called after the records were appended. Since Changes, a session may have been forgotten and
// created again.
void SessionTable::SetRecorded(const std::vector<SessionReport>& changes) {
  MutexLock lock(mu_);
  for (const auto& [name, serial] : changes) {
    const auto found = entries_.find(name);
    if (found == entries_.end()) continue;
    Entry& entry = found->second;
    entry.recorded = serial;
    if (serial == kForgotten) {
      // Only if it is still forgotten.
      if (entry.forgotten) entries_.erase(found);
    } else if (serial <= std::max({entry.through, entry.Last(0), entry.Last(1)})) {
      // A session that was created again counts from 0: the serial of its predecessor is not its
      // own.
      entry.through = serial;
    }
  }
}

void SessionTable::Restore(const std::vector<SessionReport>& sessions) {
  MutexLock lock(mu_);
  for (const auto& [name, serial] : sessions) {
    entries_[name] = {.through = serial, .recorded = serial};
  }
}

std::vector<SessionReport> SessionTable::Recorded() const {
  MutexLock lock(mu_);
  std::vector<SessionReport> sessions;
  for (const auto& [name, entry] : entries_) {
    if (entry.recorded != kForgotten) sessions.push_back({name, entry.recorded});
  }
  return sessions;
}

}  // namespace ebb::internal
