// PastMemory: a store on files whose log memory is an eighth of its data, loaded, and the pread
// baseline on the same files.
//
// Thread safety: one thread at a time.
#pragma once

#include "pread_baseline.h"
#include "settings.h"
#include "subjects.h"

namespace ebb::bench {

class PastMemory {
 public:
  explicit PastMemory(const Settings& settings, bool promotes = false)
      : folder_(settings, promotes ? "promoting" : "past-memory"),
        store_(ShapeFor(settings, folder_.path(), promotes)) {
    store_.Load();
    baseline_ = std::make_unique<PreadBaseline>(folder_.path());
  }

  StringSubject& store() { return store_; }
  PreadBaseline& baseline() { return *baseline_; }
  const std::string& folder() const { return folder_.path(); }

 private:
  static StoreShape ShapeFor(const Settings& settings, const std::string& folder, bool promotes) {
    const std::uint64_t data_bytes = settings.string_key_count() * kStringRecordBytes;
    constexpr std::uint64_t kMinBytes = std::uint64_t{1} << 20;
    return {.key_count = settings.string_key_count(),
            .log_memory_bytes = std::max(data_bytes / 8, kMinBytes),
            .thread_count = 1,
            .directory = folder,
            .promotes = promotes};
  }

  ScratchFolder folder_;  // outlives the store in it
  StringSubject store_;
  std::unique_ptr<PreadBaseline> baseline_;
};

}  // namespace ebb::bench
