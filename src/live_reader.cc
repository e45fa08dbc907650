#include "ebb/internal/live_reader.h"

#include <algorithm>
#include <cstring>

namespace ebb::internal {
namespace {

std::uint64_t MostUnknownBytes(const Geometry& geometry) {
  return std::clamp(geometry.frame_count * geometry.page_bytes() / 8, std::uint64_t{1} << 20,
                    std::uint64_t{256} << 20);
}

}  // namespace

LiveReader::LiveReader(Core& core, EpochSlot& slot, LogReader::Range range, const Config& config)
    : core_(core),
      slot_(slot),
      config_(config),
      range_(range),
      reader_(core, slot, range, config.reading),
      liveness_(core, slot),
      most_unknown_bytes_(MostUnknownBytes(core.log.geometry())),
      settled_(range.from) {}

absl::StatusOr<bool> LiveReader::Step() {
  live_.clear();
  absl::Status status;
  if (revisiting_ != nullptr) {
    status = RevisitChunk();
  } else if (unknown_bytes_ >= most_unknown_bytes_ || (at_end_ && !unknown_.empty())) {
    status = SettleUnknown();
  } else if (!at_end_) {
    status = ReadChunk();
  } else {
    settled_ = reader_.cursor();
    return false;
  }
  if (!status.ok()) return status;
  return true;
}

absl::Status LiveReader::ReadChunk() {
  absl::StatusOr<std::span<const LogReader::Item>> items = reader_.Next();
  if (!items.ok()) return items.status();
  at_end_ = items->empty();
  read_records_ += items->size();
  chunk_.clear();
  for (const auto& [address, record] : *items) {
    if (record.header().LoadAcquire().tombstone()) continue;
    if (record.key_length() < config_.prefix.size() ||
        std::memcmp(record.key(), config_.prefix.data(), config_.prefix.size()) != 0) {
      continue;
    }
    chunk_.emplace_back(record, address);
  }
  absl::Status status = liveness_.DecideFromMemory(chunk_, config_.below);
  if (!status.ok()) return status;
  for (const Liveness::Candidate& candidate : chunk_) {
    if (candidate.answer != Liveness::Answer::kUnknown) continue;
    auto* const key = static_cast<std::byte*>(keys_.allocate(candidate.key_length, 1));
    std::memcpy(key, candidate.key, candidate.key_length);
    unknown_.push_back(candidate);
    unknown_.back().key = key;
    unknown_bytes_ += sizeof(candidate) + Liveness::kBytesToDecide + candidate.key_length;
  }
  std::size_t next = 0;
  Show(*items, next, chunk_);
  return absl::OkStatus();
}

absl::Status LiveReader::SettleUnknown() {
  absl::Status status = liveness_.Decide(unknown_, config_.below);
  if (!status.ok()) return status;
  std::erase_if(unknown_, [](const Liveness::Candidate& candidate) { return !candidate.live(); });
  revisited_ = 0;
  const LogReader::Range range{unknown_.empty() ? reader_.cursor() : unknown_.front().address,
                               reader_.cursor()};
  revisiting_ = std::make_unique<LogReader>(core_, slot_, range, config_.reading);
  return absl::OkStatus();
}

absl::Status LiveReader::RevisitChunk() {
  if (revisited_ < unknown_.size()) {
    absl::StatusOr<std::span<const LogReader::Item>> items = revisiting_->Next();
    if (!items.ok()) return items.status();
    if (items->empty()) return absl::DataLossError("a record of the log is gone since it was read");
    Show(*items, revisited_, unknown_);
    return absl::OkStatus();
  }
  revisiting_ = nullptr;
  unknown_.clear();
  unknown_bytes_ = 0;
  keys_.release();
  settled_ = reader_.cursor();
  return absl::OkStatus();
}

void LiveReader::Show(std::span<const LogReader::Item> items, std::size_t& next,
                      std::span<const Liveness::Candidate> candidates) {
  for (const auto& [address, record] : items) {
    while (next < candidates.size() && candidates[next].address < address) ++next;
    if (next == candidates.size()) break;
    if (candidates[next].address != address || !candidates[next].live()) continue;
    live_.push_back({address, record, candidates[next].head});
    ++next;
  }
}

}  // namespace ebb::internal
