// Collection kit: shared by the suites about garbage. A store of strings in small files, and a
// model of its contents.
//
// Thread safety: functions without state.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

using GarbageModel = std::map<std::uint64_t, std::string>;

// Collects all of the log, a little at a time.
const GcOptions kCollectEverything{
    .min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 8 * 4096};

// Options of a store whose automatic collections begin as soon as there is a little garbage.
inline Options Collecting() {
  Options options = TinyOptions();
  options.gc_interval_ms = 1000;
  options.gc = {.min_reclaim_bytes = 1 << 16, .target_utilization = 0.5, .pass_bytes = 1 << 16};
  return options;
}

inline internal::Environment SmallFiles(internal::FileSystem* files) {
  internal::Environment environment = TinyEnvironment(files);
  environment.segment_blocks = 4;
  return environment;
}

inline std::string CollectedValue(std::uint64_t key, std::uint64_t turn) {
  return std::to_string(turn) + std::string((key * 37 + turn * 11) % 500, 'v');
}

inline void Write(U64StringStore& store, GarbageModel& model, std::uint64_t key,
                  std::uint64_t turn) {
  Must(store.Upsert(key, model[key] = CollectedValue(key, turn)));
}
inline void Remove(U64StringStore& store, GarbageModel& model, std::uint64_t key) {
  const absl::Status status = store.Delete(key);
  ASSERT_EQ(status.ok(), model.erase(key) == 1) << status;
}

inline void ExpectHolds(U64StringStore& store, const GarbageModel& model, std::uint64_t key_count) {
  for (std::uint64_t key = 0; key < key_count; ++key) {
    const absl::StatusOr<std::string> value = store.Read(key);
    const auto expected = model.find(key);
    if (expected == model.end()) {
      EXPECT_TRUE(absl::IsNotFound(value.status())) << key << ": " << value.status();
    } else {
      ASSERT_TRUE(value.ok()) << key << ": " << value.status();
      EXPECT_EQ(*value, expected->second) << key;
    }
  }
}

}  // namespace ebb::test
