#include "ebb/internal/log/device_search.h"

#include <cstring>

#include "ebb/internal/format/lifetime.h"

namespace ebb::internal {

// Searches the part of a chain from `from` down to `begin`, both as the operation saw them under
// its guard.
void DeviceSearch::Begin(Part part) {
  state_ = State::kUnderWay;
  part_ = part;
  at_ = part.from;
  have_ = 0;
  read_.bytes = {};
  status_ = absl::OkStatus();
  record_.reset();
}

bool DeviceSearch::Step(LogReader& reader, const void* key, std::size_t key_bytes) {
  // The blocks that the last call requested have arrived.
  if (!read_.bytes.empty()) {
    have_ += read_.bytes.size() / kBlockBytes;
    status_ = reader.Verify(read_);
    read_.bytes = {};
  }
  if (status_.ok()) {
    const absl::StatusOr<bool> more = Look(reader, key, key_bytes);
    if (more.ok() && *more) return true;
    status_ = more.status();
  }
  // Blocks below begin have been freed, so an error there proves nothing.
  if (!status_.ok() && IsDead(at_, reader.log().begin())) status_ = absl::AbortedError("");
  state_ = State::kEnded;
  return false;
}

absl::StatusOr<bool> DeviceSearch::Look(LogReader& reader, const void* key, std::size_t key_bytes) {
  // Ends: RecordIn checks that every previous address is smaller.
  // A hash collision: the chain holds several keys, so keys are compared here too.
  while (!IsDead(at_, part_.begin)) {
    const absl::StatusOr<bool> more = reader.NextRead(at_, buffer_, have_, read_);
    if (!more.ok() || *more) return more;
    const absl::StatusOr<Record> record = reader.RecordIn(at_, buffer_, have_);
    if (!record.ok()) return record.status();
    if (record->key_length() == key_bytes && std::memcmp(record->key(), key, key_bytes) == 0) {
      record_ = *record;
      return false;
    }
    at_ = record->header().LoadAcquire().prev();
    have_ = 0;
  }
  return false;
}

void DeviceSearch::Run(LogReader& reader, const void* key, std::size_t key_bytes) {
  while (Step(reader, key, key_bytes)) reader.Read(read_);
}

}  // namespace ebb::internal
