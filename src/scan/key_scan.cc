#include "ebb/internal/scan/key_scan.h"

#include <fmt/format.h>

#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/scan/live_record_reader.h"

namespace ebb::internal {
namespace {

// The memory of a scan is separate from the log's, and there may be many scans.
constexpr std::uint64_t kMaxOpenBytes = std::uint64_t{4} << 20;

}  // namespace

KeyScan::KeyScan(std::shared_ptr<Core> core, std::string prefix)
    : core_(std::move(core)), prefix_(std::move(prefix)), slot_(core_->epochs.AcquireSlot()) {
  slot_->tally.Begin(OpKind::kScan);  // a scan lasts as long as its user likes, so none is timed
  status_ = CatchNoMemory([this] { return Begin(); });
  if (!status_.ok()) End();
}

KeyScan::~KeyScan() {
  if (!core_->in_opening_process()) {      // no other thread exists there
    static_cast<void>(reader_.release());  // its reads ahead belong to the parent
    return;
  }
  End();
  core_->epochs.ReleaseSlot(slot_);
}

absl::Status KeyScan::Begin() {
  if (absl::Status status = core_->CheckCallable(); !status.ok()) return status;
  SlowScope scope(*slot_);
  if (core_->epochs.closed()) return core_->ClosedError();
  // Walk of a Scan, 1. The pin comes before the end: from here on no collection frees a record at
  // or above it.
  pin_ = core_->pins.Add(core_->log);
  if (!pin_.has_value()) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} scans are in progress, which is the maximum; destroy an iterator and call again",
        Pins::kMax));
  }
  end_ = core_->log.tail();
  // Records below the end must not change while the scan reads them, possibly twice.
  if (absl::Status status = core_->log.FreezeTo(end_); !status.ok()) return status;
  LiveRecordReader::Config config{.below = end_, .prefix = prefix_};
  config.max_open_bytes = kMaxOpenBytes;
  config.reading.ahead_bytes = core_->config.scan_ahead_bytes;
  if (config.reading.ahead_bytes != 0) config.reading.chunk_bytes = config.reading.ahead_bytes;
  reader_ = std::make_unique<LiveRecordReader>(*core_, *slot_,
                                               LogCursor::LogRange{pin_->address, end_}, config);
  return absl::OkStatus();
}

// Releases the pin and all memory, as soon as the scan has ended or failed.
void KeyScan::End() {
  reader_.reset();
  if (pin_.has_value()) core_->pins.Remove(*pin_);
  pin_.reset();
}

bool KeyScan::Next() {
  if (reader_ == nullptr) return false;
  if (shown_ == reader_->live().size()) {
    status_ = CatchNoMemory([this] { return LoadMore(); });
    if (!status_.ok() || reader_->live().empty()) {
      End();
      return false;
    }
  }
  record_ = reader_->live()[shown_++].record;
  return true;
}

bool KeyScan::Fail(const char* what, std::size_t bytes) {
  return Fail(CatchNoMemory([&] { return Undecodable(what, bytes); }));
}

bool KeyScan::Fail(const absl::Status& status) {
  status_ = status;
  End();
  return false;
}

absl::Status KeyScan::LoadMore() {
  if (absl::Status status = core_->CheckCallable(); !status.ok()) return status;
  shown_ = 0;
  do {  // ends: each turn advances by a piece
    // One scope per piece, so that Close waits for one piece, not for the whole scan.
    SlowScope scope(*slot_);
    if (core_->epochs.closed()) return core_->ClosedError();
    const absl::StatusOr<bool> more = reader_->Step();
    if (!more.ok()) return more.status();
    if (!*more) break;
  } while (reader_->live().empty());
  return absl::OkStatus();
}

}  // namespace ebb::internal
