#include "ebb/internal/live_scan.h"

#include <fmt/format.h>

#include <cstring>
#include <new>
#include <span>
#include <utility>

namespace ebb::internal {

LiveScan::LiveScan(std::shared_ptr<Core> core, std::string prefix)
    : core_(std::move(core)),
      prefix_(std::move(prefix)),
      slot_(core_->epochs.AcquireSlot()),
      liveness_(*core_, *slot_) {
  slot_->tally.Begin(OpKind::kScan);  // they last as long as their user likes: none is timed
  status_ = Begin();
  if (!status_.ok()) End();
}

LiveScan::~LiveScan() {
  if (!core_->in_opening_process()) return;  // nobody else is left there to be told
  End();
  core_->epochs.ReleaseSlot(slot_);
}

absl::Status LiveScan::Begin() {
  SlowScope scope(*slot_);
  if (core_->epochs.closed()) return core_->ClosedError();
  try {
    pin_ = core_->pins.Add(core_->log);
    if (!pin_.has_value()) {
      return absl::ResourceExhaustedError(
          fmt::format("{} scans are under way, which is the most there may be", Pins::kMost));
    }
    end_ = core_->log.tail();
    core_->log.FreezeTo(end_);
    LogReader::Config config{.ahead_bytes = core_->config.scan_ahead_bytes};
    if (config.ahead_bytes != 0) config.chunk_bytes = config.ahead_bytes;
    reader_ = std::make_unique<LogReader>(*core_, *slot_, LogReader::Range{*pin_, end_}, config);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory to scan");
  }
  return absl::OkStatus();
}

// Lets go of everything.
void LiveScan::End() {
  reader_.reset();
  if (pin_.has_value()) core_->pins.Remove(*pin_);
  pin_.reset();
  live_ = {};
  candidates_ = {};
  shown_ = 0;
}

bool LiveScan::Next() {
  if (shown_ < live_.size()) {
    ++shown_;
    return true;
  }
  if (reader_ == nullptr) return false;
  try {
    status_ = LoadChunk();
  } catch (const std::bad_alloc&) {
    status_ = absl::ResourceExhaustedError("no memory to scan");
  }
  if (!status_.ok() || live_.empty()) {
    End();
    return false;
  }
  shown_ = 1;
  return true;
}

bool LiveScan::Fail(const char* what, std::size_t bytes) {
  status_ = Undecodable(what, bytes);
  End();
  return false;
}

absl::Status LiveScan::LoadChunk() {
  shown_ = 0;
  live_.clear();
  while (live_.empty()) {  // ends: each turn reads on in the log
    SlowScope scope(*slot_);
    if (core_->epochs.closed()) return core_->ClosedError();
    const auto items = reader_->Next();
    if (!items.ok()) return items.status();
    if (items->empty()) return absl::OkStatus();
    if (absl::Status status = DecideChunk(*items); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status LiveScan::DecideChunk(std::span<const LogReader::Item> items) {
  candidates_.clear();
  for (const auto& [address, record] : items) {
    if (record.key_length() < prefix_.size() ||
        std::memcmp(record.key(), prefix_.data(), prefix_.size()) != 0) {
      continue;
    }
    candidates_.push_back({record, address});
  }
  if (absl::Status status = liveness_.Decide(candidates_, end_); !status.ok()) return status;
  for (const Liveness::Candidate& candidate : candidates_) {
    const bool present = !candidate.record.header().LoadAcquire().tombstone();
    if (candidate.live && present) live_.push_back(candidate.record);
  }
  return absl::OkStatus();
}

}  // namespace ebb::internal
