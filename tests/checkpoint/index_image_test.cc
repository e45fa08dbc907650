// Index images: their contents, and that an image fits an index of any size.
#include "ebb/internal/checkpoint/index_image.h"

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::Core;
using internal::Environment;
using internal::HashIndex;
using internal::Manifest;
using internal::StoreAccess;

bool Never() { return false; }

U64Store OpenWithExponent(SimFileSystem& files, const char* path, int exponent) {
  Environment environment = TinyEnvironment(&files);
  environment.index_exponent = exponent;
  return Must(OpenIn<U64Store>(path, environment));
}

// Address by hash, of every key.
std::map<std::uint64_t, Address> AddressesOf(Core& core, std::uint64_t keys) {
  std::map<std::uint64_t, Address> addresses;
  for (std::uint64_t key = 0; key < keys; ++key) {
    const std::uint64_t hash = TestHash(key);
    addresses[hash] = core.index.Find(hash).entry.address();
  }
  return addresses;
}

TEST(IndexImageTest, LoadsIntoAnIndexOfAnySize) {
  constexpr std::uint64_t kKeys = 3000;
  SimFileSystem files;
  auto store = OpenWithExponent(files, "db", 2);
  Must(store.Close());
  for (const int written_with : {2, 5, 9}) {
    auto source = OpenWithExponent(files, "db", written_with);
    for (std::uint64_t key = 0; key < kKeys; ++key) Must(source.Upsert(key, key));
    Core& core = StoreAccess::GetCore(source);
    Manifest manifest;
    manifest.id = 1;
    manifest.scan_from = core.log.tail();
    ASSERT_TRUE(WriteIndexImage(core, Never, manifest).ok());
    const auto expected = AddressesOf(core, kKeys);
    for (const int loaded_into : {2, 4, 10}) {
      HashIndex fresh(loaded_into, 2, false);
      // The index of a core of that size: the store on a copy of the disk.
      const auto copy = files.Crash(kNothingSurvives);
      auto target = OpenWithExponent(*copy, "db", loaded_into);
      Core& target_core = StoreAccess::GetCore(target);
      target_core.index.Clear();
      auto directory = files.OpenDirectory("db", false).directory;
      ASSERT_TRUE(LoadIndexImage(target_core, *directory, manifest).ok());
      EXPECT_TRUE(AddressesOf(target_core, kKeys) == expected)
          << "from " << written_with << " to " << loaded_into;
    }
    Must(source.Close());
  }
}

// Of an index that has grown under its entries, at each of its sizes.
TEST(IndexImageTest, HoldsAllEntriesOfAGrownIndex) {
  constexpr std::uint64_t kKeys = 2000;
  SimFileSystem files;
  auto source = OpenWithExponent(files, "db", 2);
  Must(source.Commit());
  Core& core = StoreAccess::GetCore(source);
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(source.Upsert(key, key));
  const auto expected = AddressesOf(core, kKeys);
  const auto copy = files.Crash(kNothingSurvives);
  auto directory = files.OpenDirectory("db", false).directory;
  for (std::uint64_t id = 1; id <= 9; ++id) {
    Must(source.GrowIndex());
    Manifest manifest;
    manifest.id = id;
    manifest.scan_from = core.log.tail();
    ASSERT_TRUE(WriteIndexImage(core, Never, manifest).ok());
    EXPECT_EQ(manifest.index_exponent, 2 + id);
    for (const int loaded_into : {2, 6, 12}) {
      auto target = OpenWithExponent(*copy, "db", loaded_into);
      Core& target_core = StoreAccess::GetCore(target);
      target_core.index.Clear();
      ASSERT_TRUE(LoadIndexImage(target_core, *directory, manifest).ok());
      EXPECT_TRUE(AddressesOf(target_core, kKeys) == expected)
          << "from " << 2 + id << " to " << loaded_into;
    }
  }
}

TEST(IndexImageTest, EntriesAtOrAboveTheStartOfTheScanAreOmitted) {
  SimFileSystem files;
  auto store = OpenWithExponent(files, "db", 8);
  Core& core = StoreAccess::GetCore(store);
  for (std::uint64_t key = 0; key < 100; ++key) Must(store.Upsert(key, key));
  Manifest manifest;
  manifest.id = 1;
  manifest.scan_from = core.log.tail();
  for (std::uint64_t key = 100; key < 130; ++key) Must(store.Upsert(key, key));
  ASSERT_TRUE(WriteIndexImage(core, Never, manifest).ok());
  EXPECT_EQ(manifest.image_entries, 100U);
  auto directory = files.OpenDirectory("db", false).directory;
  core.index.Clear();
  ASSERT_TRUE(LoadIndexImage(core, *directory, manifest).ok());
  for (std::uint64_t key = 0; key < 130; ++key) {
    EXPECT_EQ(Must(store.Contains(key)), key < 100) << key;
  }
  // Entries of the image above where its manifest says that it ends.
  manifest.scan_from = core.log.geometry().BlockStart(1) + 24;
  core.index.Clear();
  EXPECT_TRUE(FailsWith(LoadIndexImage(core, *directory, manifest), StatusCode::kDataLoss,
                        "beyond the image"));
  manifest.creation_exponent = 3;
  EXPECT_TRUE(
      FailsWith(LoadIndexImage(core, *directory, manifest), StatusCode::kDataLoss, "another size"));
}

// Also while it finds nothing: an index may be huge and nearly empty.
TEST(IndexImageTest, StopsInAnEmptyIndex) {
  SimFileSystem files;
  auto store = OpenWithExponent(files, "db", 2);
  Manifest manifest;
  manifest.id = 1;
  manifest.scan_from = StoreAccess::GetCore(store).log.tail();
  const auto status = WriteIndexImage(
      StoreAccess::GetCore(store), [] { return true; }, manifest);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
}

TEST(IndexImageTest, StopsOnRequest) {
  SimFileSystem files;
  auto store = OpenWithExponent(files, "db", 2);
  Must(store.Upsert(1, 1));
  for (std::uint64_t key = 0; key < 100; ++key) Must(store.Upsert(key, key));
  Manifest manifest;
  manifest.id = 1;
  manifest.scan_from = StoreAccess::GetCore(store).log.tail();
  const auto status = WriteIndexImage(
      StoreAccess::GetCore(store), [] { return true; }, manifest);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(files.Contents("db", "index-1.ebb").empty());
}

}  // namespace
}  // namespace ebb::test
