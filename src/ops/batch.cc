#include "ebb/internal/ops/batch.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

namespace ebb::internal {
namespace {

// A search for one key, without effect.
class PendingSearch final : public PendingOperation {
 public:
  // `result`: the search moves there when it has ended well.
  PendingSearch(LogReader& reader, const void* key, std::size_t key_bytes, DeviceSearch::Part part,
                DeviceSearch& result)
      : reader_(reader), key_(key), key_bytes_(key_bytes), result_(result) {
    search().Begin(part);
  }
  bool Resume() override { return !search().Step(reader_, key_, key_bytes_); }
  void Refuse(absl::Status) override {}
  void Notify() override {
    if (search().ended() && search().status().ok()) result_ = std::move(search());
  }

 private:
  LogReader& reader_;
  const void* const key_;
  const std::size_t key_bytes_;
  DeviceSearch& result_;
};

}  // namespace

void BatchReads::Complete() {
  // Walk of a batch, 2.
  if (scope_.has_value() && session_.batch != nullptr) session_.batch->Complete(/*wait=*/true);
}

void BatchReads::Drop() {
  if (session_.batch != nullptr)
    static_cast<void>(session_.batch->TakeAll(session_.core->ClosedError()));
}

void BatchReads::BeginWindow(std::size_t end) {
  searches_.clear();
  searches_.reserve(kMaxSearches);  // their addresses must not change
  next_ = 0;
  window_end_ = end;
}

void BatchReads::Search(std::size_t item, const void* key, std::size_t key_bytes,
                        DeviceSearch::Part part) {
  searches_.push_back({.item = item, .search = {}});
  session_.slot->tally.Add(Count::kDeviceWaits, 1);
  Start(std::make_unique<PendingSearch>(session_.core->reader, key, key_bytes, part,
                                        searches_.back().search));
  // A full window ends here: the items after it are searched in the next one.
  window_end_ = full() ? item + 1 : window_end_;
}

DeviceSearch& BatchReads::SearchOf(std::size_t item) {
  // Items ask in order, so each search is passed once.
  while (next_ < searches_.size() && searches_[next_].item < item) ++next_;
  if (next_ < searches_.size() && searches_[next_].item == item) return searches_[next_].search;
  session_.search.Clear();
  return session_.search;
}

absl::Status UnequalBatch(std::size_t keys, std::size_t values, std::size_t results) {
  return absl::InvalidArgumentError(
      fmt::format("a batch has {} keys, {} values and {} results: the three numbers must be equal",
                  keys, values, results));
}

}  // namespace ebb::internal
