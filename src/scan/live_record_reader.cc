#include "ebb/internal/scan/live_record_reader.h"

#include <algorithm>

namespace ebb::internal {
namespace {

constexpr std::uint64_t kNearBytes = std::uint64_t{1}
                                     << 16;  // a gap up to this size is read rather than skipped

std::uint64_t MaxOpenBytes(const Geometry& geometry) {
  return std::clamp(geometry.frame_count * geometry.page_bytes() / 4, std::uint64_t{1} << 20,
                    std::uint64_t{256} << 20);
}

}  // namespace

LiveRecordReader::LiveRecordReader(Core& core, EpochSlot& slot, LogCursor::LogRange range,
                                   const Config& config)
    : core_(core),
      slot_(slot),
      config_(config),
      reader_(core, slot, range, config.reading),
      liveness_(core, slot),
      max_open_bytes_(config.max_open_bytes != 0 ? config.max_open_bytes
                                                 : MaxOpenBytes(core.log.geometry())),
      settled_(range.from) {}

absl::StatusOr<bool> LiveRecordReader::Step() {
  live_.clear();
  // The records that only the device can decide, with their keys, are limited by memory, not by
  // number.
  const std::uint64_t open_bytes = open_.size() * sizeof(Liveness::Open) + liveness_.key_bytes();
  absl::Status status;
  if (is_decided_) {
    status = RevisitChunk();
  } else if (open_bytes >= max_open_bytes_ || (at_end_ && !open_.empty())) {
    // Decide them now: they are too many, or there is nothing else left to read.
    status = SettleOpen();
  } else if (!at_end_) {
    status = ReadChunk();
  } else {
    settled_ = reader_.cursor();
    return false;
  }
  if (!status.ok()) return status;
  return true;
}

absl::Status LiveRecordReader::ReadChunk() {
  absl::StatusOr<std::span<const LogCursor::LoggedRecord>> items = reader_.Next();
  if (!items.ok()) return items.status();
  at_end_ = items->empty();
  read_records_ += items->size();
  chunk_.clear();
  for (const auto& [address, record] : *items) {
    // A tombstone is never live: it stands for the absence of its key.
    if (record.header().LoadAcquire().tombstone()) continue;
    const std::string_view key(reinterpret_cast<const char*>(record.key()), record.key_length());
    if (!key.starts_with(config_.prefix)) continue;
    chunk_.emplace_back(record, address);
    live_.push_back({address, record, {}});
  }
  // Walk of a Scan, 3: most records are decided from memory alone.
  liveness_.DecideFromMemory(chunk_, config_.below, open_);
  std::size_t live_count = 0;
  // Keep only the live ones, in the order of the log.
  for (std::size_t i = 0; i < chunk_.size(); ++i) {
    if (!chunk_[i].live()) continue;
    live_[live_count] = live_[i];
    live_[live_count++].head = chunk_[i].head;
  }
  live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(live_count), live_.end());
  return absl::OkStatus();
}

absl::Status LiveRecordReader::SettleOpen() {
  // Walk of a Scan, 4.
  absl::Status status = liveness_.DecideFromDevice(open_, config_.below);
  if (!status.ok()) return status;
  is_decided_ = true;
  revisited_ = 0;
  return absl::OkStatus();
}

absl::Status LiveRecordReader::RevisitChunk() {
  // All records below the cursor are decided.
  if (revisited_ == open_.size()) {
    revisiting_ = nullptr;
    open_.clear();
    is_decided_ = false;
    settled_ = reader_.cursor();
    return absl::OkStatus();
  }
  // The live ones are few and far apart, so they are read again rather than kept.
  const Address next = open_[revisited_].address;
  if (revisiting_ == nullptr || next - revisiting_->cursor() > kNearBytes) {
    revisiting_ = std::make_unique<LogCursor>(
        core_, slot_, LogCursor::LogRange{next, reader_.cursor()},
        LogCursor::Config{.chunk_bytes = kNearBytes, .ahead_bytes = kNearBytes});
  }
  absl::StatusOr<std::span<const LogCursor::LoggedRecord>> items = revisiting_->Next();
  if (!items.ok()) return items.status();
  if (items->empty()) {
    return core_.reader.Damaged(core_.log.geometry().BlockOf(next),
                                "no longer holds a record that was read there before");
  }
  for (const auto& [address, record] : *items) {
    if (revisited_ == open_.size() || address != open_[revisited_].address) continue;
    live_.push_back({address, record, open_[revisited_++].head});
  }
  return absl::OkStatus();
}

}  // namespace ebb::internal
