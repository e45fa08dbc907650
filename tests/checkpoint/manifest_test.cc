#include "ebb/internal/checkpoint/manifest.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/sealed_file.h"
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

// A manifest as the words of its file.
absl::StatusOr<Manifest> Read(const std::vector<std::uint64_t>& words) {
  SimFileSystem files(false);
  auto directory = files.OpenDirectory("d", true).directory;
  internal::SealedWriter writer(*directory, internal::ManifestName(12), {5, 12});
  Must(writer.Open());
  Must(writer.Append(std::as_bytes(std::span(words))));
  Must(writer.Finish());
  return internal::ReadManifest(*directory, 5, 12);
}

constexpr std::uint64_t kRequired = std::uint64_t{1} << 32;
using Words = std::vector<std::uint64_t>;
const Words kCheckpoint{
    1 | kRequired, 64, 1'700'000'000'123, 77, 9, 4096, std::uint64_t{12} << 32 | 10, 40800,
    81600,         33};
const Words kIncarnations{2 | kRequired, 32, 0, 111, 7, 222};
const Words kSessions{3 | kRequired, 48, 1000, 3, 0x636261, 2000, 8, 0x6867666564636261};

Words WithSections(const std::vector<Words>& sections) {
  Words words{0x54534546494e4d45, 2, 12, sections.size()};
  for (const Words& section : sections) words.insert(words.end(), section.begin(), section.end());
  return words;
}

// The witness of the format: a later library reads exactly these words.
TEST(ManifestTest, ItsWordsAreWhereTheFormatSays) {
  const Manifest read = Must(Read(WithSections({kCheckpoint, kIncarnations, kSessions})));
  EXPECT_EQ(read.created_unix_ms, 1'700'000'000'123U);
  EXPECT_EQ(read.image_stamp, 77U);
  EXPECT_EQ(read.image_entries, 9U);
  EXPECT_EQ(read.image_bytes, 4096U);
  EXPECT_EQ(read.creation_exponent, 10U);
  EXPECT_EQ(read.index_exponent, 12U);
  EXPECT_EQ(read.scan_from, Address(40800));
  EXPECT_EQ(read.durable, Address(81600));
  EXPECT_EQ(read.version, 33U);
  ASSERT_EQ(read.incarnations.size(), 2U);
  EXPECT_EQ(read.incarnations[1].first_block, 7U);
  EXPECT_EQ(read.incarnations[1].incarnation, 222U);
  const std::vector<SessionReport> sessions{{"abc", 1000}, {"abcdefgh", 2000}};
  EXPECT_EQ(read.sessions, sessions);
}

TEST(ManifestTest, AnUnknownSectionIsSkippedUnlessItIsRequired) {
  for (std::size_t place = 0; place <= 3; ++place) {
    std::vector<Words> sections{kCheckpoint, kIncarnations, kSessions};
    const auto at = sections.begin() + static_cast<std::ptrdiff_t>(place);
    sections.insert(at, Words{4, 16, 1, 2});
    const Manifest read = Must(Read(WithSections(sections)));
    EXPECT_EQ(read.version, 33U);
    EXPECT_EQ(read.incarnations.size(), 2U);
    EXPECT_EQ(read.sessions.size(), 2U);
    sections[place][0] |= kRequired;
    EXPECT_TRUE(FailsWith(Read(WithSections(sections)).status(), StatusCode::kUnimplemented,
                          "manifest-12.ebb: needs section 4"));
  }
}

TEST(ManifestTest, SectionsThatAreMissingTwiceThereOrOfAnotherLengthAreDamage) {
  const auto damaged = [](const std::vector<Words>& sections) {
    return FailsWith(Read(WithSections(sections)).status(), StatusCode::kDataLoss,
                     "manifest-12.ebb");
  };
  EXPECT_TRUE(damaged({kCheckpoint, kIncarnations}));
  EXPECT_TRUE(damaged({kIncarnations, kSessions}));
  EXPECT_TRUE(damaged({kCheckpoint, kIncarnations, kSessions, kSessions}));
  for (const std::size_t section : {0, 1, 2}) {
    for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{40}, ~std::uint64_t{7}}) {
      std::vector<Words> sections{kCheckpoint, kIncarnations, kSessions};
      sections[section][1] = bytes;
      EXPECT_TRUE(damaged(sections)) << section << ", " << bytes;
    }
  }
  EXPECT_TRUE(damaged({kCheckpoint, kIncarnations, kSessions, Words{4, ~std::uint64_t{7}, 1}}));
  Words many = WithSections({kCheckpoint, kIncarnations, kSessions});
  many[3] = ~std::uint64_t{0};
  EXPECT_TRUE(FailsWith(Read(many).status(), StatusCode::kDataLoss, "manifest-12.ebb"));
  many[3] = 3;
  many[1] = 1;
  EXPECT_TRUE(FailsWith(Read(many).status(), StatusCode::kUnimplemented,
                        "format version 1, but this library reads format version 2"));
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
  EXPECT_EQ(CheckpointOfFile("index-9223372036854775807.ebb"), internal::kMaxCheckpointId);
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
