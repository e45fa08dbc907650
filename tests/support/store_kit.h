// Store kit: shared by the suites about whole stores.
//
//   TempDir dir;
//   auto store = ebb::Must(OpenTiny<U64Store>(dir / "db"));    // pages of one block, no threads
//   ...
//   const Snapshot before = SnapshotOf(dir / "db");
//   EXPECT_TRUE(FailsWith(OpenTiny<OtherStore>(dir / "db").status(),
//                         absl::StatusCode::kFailedPrecondition, "8 bytes"));
//   EXPECT_EQ(SnapshotOf(dir / "db"), before);
//
// A tiny store keeps 32 KiB of its log in memory and has an index of two buckets, so a few hundred
// small records turn pages, go to the device and share chains. It has no background threads: every
// step of maintenance is made by the callers, so the calls of a test determine everything that
// happens.
//
// Thread safety: functions without state.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/store.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"

namespace ebb::test {

// ---- types ----

// Locked, fixed.
struct Triple {
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  std::uint64_t c = 0;
  bool operator==(const Triple&) const = default;
};
// A key that fills no whole number of words.
struct Key12 {
  std::uint32_t shop = 0;
  std::uint32_t item = 0;
  std::uint32_t day = 0;
  bool operator==(const Key12&) const = default;
};

using U64Store = Store<std::uint64_t, std::uint64_t>;
using U64TripleStore = Store<std::uint64_t, Triple>;
using U64StringStore = Store<std::uint64_t, std::string>;
using StringU64Store = Store<std::string, std::uint64_t>;
using StringStore = Store<std::string, std::string>;

// ---- statuses ----

// Checks that the status has this code, and that its message contains `part`.
inline testing::AssertionResult FailsWith(const absl::Status& status, absl::StatusCode code,
                                          const std::string& part = {}) {
  if (status.code() == code && status.message().find(part) != absl::string_view::npos) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "status is '" << status.ToString() << "'; expected code "
                                     << absl::StatusCodeToString(code) << " and '" << part << "'";
}

// ---- tiny stores ----

constexpr std::uint64_t kTinyPageBytes = 4096;
constexpr std::uint64_t kTinyFrameCount = 8;
constexpr std::uint64_t kTinyMemoryBytes = kTinyPageBytes * kTinyFrameCount;

// The index has two buckets, so all keys share two chains. A test of thousands of keys would spend
// its time in them, and sets `index_exponent` to kShortChains.
internal::Environment TinyEnvironment(internal::FileSystem* files = nullptr);
inline constexpr unsigned kShortChains = 8;
// Buffered and without huge pages, which would only cost time here; the index stays as it is.
Options TinyOptions();

template <typename StoreType>
absl::StatusOr<StoreType> OpenIn(const std::string& path, const internal::Environment& environment,
                                 const Options& options = TinyOptions()) {
  return internal::StoreAccess::Open<StoreType>(path, options, environment);
}
template <typename StoreType>
absl::StatusOr<StoreType> OpenTiny(const std::string& path, internal::FileSystem* files = nullptr) {
  return OpenIn<StoreType>(path, TinyEnvironment(files));
}
template <typename StoreType>
absl::StatusOr<StoreType> OpenTinyInMemory(unsigned index_exponent = 1) {
  internal::Environment environment = TinyEnvironment();
  environment.index_exponent = index_exponent;
  environment.in_memory = true;
  return OpenIn<StoreType>("", environment);
}

template <typename StoreType>
internal::Core& CoreOf(StoreType& store) {
  return internal::StoreAccess::GetCore(store);
}
// A call of the store that a later version of the library will offer.
template <typename StoreType>
absl::Status Commit(StoreType& store) {
  return internal::StoreAccess::GetCoordinator(store).Commit();
}
// Calls `fill(i)`, which writes other records, until everything written so far is on the device
// and no longer in memory.
template <typename StoreType, typename Fill>
void PushOut(StoreType& store, Fill fill) {
  const internal::HybridLog& log = CoreOf(store).log;
  const internal::Address end = log.tail();
  for (std::uint64_t i = 0; log.safe_head() < end; ++i) {
    ASSERT_LT(i, 100000U) << "pages do not leave memory";
    fill(i);
  }
}

// ---- contents of stores ----

template <typename Key, typename Value>
using Model = std::map<Key, Value>;
using U64Model = Model<std::uint64_t, std::uint64_t>;
using StringModel = Model<std::string, std::string>;
// Returns the keys from 0 to count - 1.
std::vector<std::uint64_t> KeysUpTo(std::uint64_t count);

// Reads every key of the model, and some that it does not have. Returns the first difference, or
// success.
template <typename StoreType, typename Key, typename Value>
testing::AssertionResult Holds(StoreType& store, const Model<Key, Value>& model) {
  for (const auto& [key, value] : model) {
    const absl::StatusOr<Value> read = store.Read(key);
    if (!read.ok()) {
      return testing::AssertionFailure()
             << "key " << testing::PrintToString(key) << ": " << read.status().ToString();
    }
    if (*read != value) {
      return testing::AssertionFailure() << "key " << testing::PrintToString(key) << " has another "
                                         << "value: " << testing::PrintToString(*read);
    }
  }
  return testing::AssertionSuccess();
}
// Checks that every key of `keys` that the model does not have is absent.
template <typename StoreType, typename Key, typename Value, typename Keys>
testing::AssertionResult HoldsOnly(StoreType& store, const Model<Key, Value>& model,
                                   const Keys& keys) {
  for (const Key& key : keys) {
    if (model.count(key) != 0) continue;
    const absl::StatusOr<bool> present = store.Contains(key);
    if (!present.ok() || *present) {
      return testing::AssertionFailure()
             << "key " << testing::PrintToString(key)
             << (present.ok() ? " should be absent" : ": " + present.status().ToString());
    }
  }
  return Holds(store, model);
}

// ---- directories ----

// Returns every regular file below a directory, by name, with its bytes.
struct Snapshot : std::map<std::string, std::string> {
  using map::map;
};
// For failure messages: names, sizes and hashes.
void PrintTo(const Snapshot& snapshot, std::ostream* out);
Snapshot SnapshotOf(const std::string& directory);
Snapshot SnapshotOf(const SimFileSystem& files, const std::string& directory);
// Replaces the contents of `directory` by exactly these files.
void Restore(const Snapshot& snapshot, const std::string& directory);
void Restore(const Snapshot& snapshot, internal::FileSystem& files, const std::string& directory);

// The name of segment `number`'s file.
std::string SegmentFile(std::uint64_t number);
// Changes bytes of a file in place.
void Overwrite(internal::FileSystem& files, const std::string& directory, const std::string& name,
               std::uint64_t offset, const std::string& bytes);

}  // namespace ebb::test

// Compiled once, in store_kit.cc. Functions that take a callback are templates, which are compiled
// where they are used.
extern template class ebb::Session<std::uint64_t, std::uint64_t>;
extern template class ebb::Session<std::uint64_t, ebb::test::Triple>;
extern template class ebb::Session<std::uint64_t, std::string>;
extern template class ebb::Session<std::string, std::uint64_t>;
extern template class ebb::Session<std::string, std::string>;
extern template class ebb::Store<std::uint64_t, std::uint64_t>;
extern template class ebb::Store<std::uint64_t, ebb::test::Triple>;
extern template class ebb::Store<std::uint64_t, std::string>;
extern template class ebb::Store<std::string, std::uint64_t>;
extern template class ebb::Store<std::string, std::string>;
