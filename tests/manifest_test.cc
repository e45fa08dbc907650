#include "ebb/internal/manifest.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::CheckpointOfFile;
using internal::Manifest;

Manifest Example() {
  Manifest manifest;
  manifest.id = 12;
  manifest.created_unix_ms = 1'700'000'000'123;
  manifest.image_stamp = 0x1122334455667788;
  manifest.image_entries = 9;
  manifest.image_bytes = 4096;
  manifest.creation_exponent = 10;
  manifest.index_exponent = 12;
  manifest.scan_from = Address(40800);
  manifest.durable = Address(81600);
  manifest.version = 1ULL << 40;
  manifest.incarnations = {{0, 111}, {7, 222}};
  for (std::uint64_t i = 1; i < 256; ++i) {
    manifest.sessions.push_back({std::string(i, static_cast<char>(i)), i * 1000});
  }
  return manifest;
}

TEST(ManifestTest, EverythingComesBack) {
  SimFileSystem files(false);
  auto directory = files.OpenDirectory("d", true).directory;
  Manifest written = Example();
  ASSERT_TRUE(WriteManifest(*directory, 5, written).ok());
  const Manifest read = Must(internal::ReadManifest(*directory, 5, 12));
  EXPECT_EQ(read.id, written.id);
  EXPECT_EQ(read.created_unix_ms, written.created_unix_ms);
  EXPECT_EQ(read.image_stamp, written.image_stamp);
  EXPECT_EQ(read.image_entries, written.image_entries);
  EXPECT_EQ(read.image_bytes, written.image_bytes);
  EXPECT_EQ(read.creation_exponent, written.creation_exponent);
  EXPECT_EQ(read.index_exponent, written.index_exponent);
  EXPECT_EQ(read.scan_from, written.scan_from);
  EXPECT_EQ(read.durable, written.durable);
  EXPECT_EQ(read.version, written.version);
  ASSERT_EQ(read.incarnations.size(), 2U);
  EXPECT_EQ(read.incarnations[1].first_block, 7U);
  EXPECT_EQ(read.incarnations[1].incarnation, 222U);
  EXPECT_EQ(read.sessions, written.sessions);
  EXPECT_EQ(read.manifest_bytes, files.Contents("d", "manifest-12.ebb").size());
  EXPECT_EQ(written.manifest_bytes, read.manifest_bytes);
}

TEST(ManifestTest, AnotherStoresOrANameThatIsNotItsOwnIsDamage) {
  SimFileSystem files(false);
  auto directory = files.OpenDirectory("d", true).directory;
  Manifest written = Example();
  ASSERT_TRUE(WriteManifest(*directory, 5, written).ok());
  EXPECT_TRUE(FailsWith(internal::ReadManifest(*directory, 6, 12).status(), StatusCode::kDataLoss,
                        "manifest-12.ebb at offset 0"));
  ASSERT_EQ(directory->Rename("manifest-12.ebb", "manifest-13.ebb"), 0);
  EXPECT_TRUE(FailsWith(internal::ReadManifest(*directory, 5, 13).status(), StatusCode::kDataLoss,
                        "manifest-13.ebb at offset 0"));
}

// Files that the store did not make are never taken for its own.
TEST(ManifestTest, OnlyNamesThatTheStoreMakesAreItsFiles) {
  EXPECT_EQ(CheckpointOfFile("manifest-1.ebb"), 1U);
  EXPECT_EQ(CheckpointOfFile("index-9223372036854775807.ebb"), internal::kMostCheckpointId);
  EXPECT_EQ(CheckpointOfFile("index-7.ebb.new"), 7U);
  for (const char* name : {"manifest-.ebb", "manifest-01.ebb", "manifest-1.ebb.newer", "index-1",
                           "index--1.ebb", "index-1.ebb.new.new", "log-00000001.ebb", "LOCK",
                           "index-0.ebb", "index-9223372036854775808.ebb",
                           "index-18446744073709551616.ebb", "manifest-1x.ebb", ".ebb", ".new"}) {
    EXPECT_EQ(CheckpointOfFile(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace ebb::test
