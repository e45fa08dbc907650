// Store files: the files of a directory are found, and files that do not belong together are
// rejected.
#include "ebb/internal/checkpoint/store_files.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "ebb/internal/core/store_config.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/internal/device/file_io.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::FoundSegments;

class StoreFilesTest : public testing::Test {
 protected:
  // A store of some files, with a checkpoint.
  void Make(const std::string& path) {
    internal::Environment environment = TinyEnvironment(&files_);
    environment.segment_blocks = 4;
    auto store = Must(OpenIn<U64Store>(path, environment));
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
    Must(store.Checkpoint());
    Must(store.Close());
  }
  std::unique_ptr<internal::Directory> Lock(const std::string& path) {
    return Must(internal::OpenLocked(files_, path));
  }

  SimFileSystem files_;
};

TEST_F(StoreFilesTest, AllFilesOfTheLogAreFoundInOrder) {
  Make("db");
  const auto directory = Lock("db");
  const FoundSegments found = Must(internal::FindSegments(*directory));
  ASSERT_GT(found.numbers.size(), 5U);
  for (std::size_t i = 0; i < found.numbers.size(); ++i) EXPECT_EQ(found.numbers[i], i);
  ASSERT_TRUE(found.header.has_value());
  EXPECT_EQ(found.header->segment_blocks, 4U);
  EXPECT_TRUE(found.bad_headers.empty());
  const internal::Geometry geometry{.page_shift = 12, .segment_blocks = 4};
  const auto checkpoints =
      Must(internal::FindCheckpoints(*directory, found.header->store_id, geometry));
  ASSERT_EQ(checkpoints.manifests.size(), 1U);
  EXPECT_EQ(checkpoints.last_id, checkpoints.manifests[0].id);
  EXPECT_EQ(checkpoints.durable, checkpoints.manifests[0].durable);
  // To another store it is a note, and so is the durable end.
  const auto foreign =
      Must(internal::FindCheckpoints(*directory, found.header->store_id + 1, geometry));
  EXPECT_TRUE(foreign.manifests.empty());
  EXPECT_EQ(foreign.notes.size(), 2U);
  EXPECT_EQ(foreign.last_id, checkpoints.last_id);
}

TEST_F(StoreFilesTest, AnEmptyDirectoryHoldsNothingAndASecondLockIsRejected) {
  const auto directory = Lock("new");
  const FoundSegments found = Must(internal::FindSegments(*directory));
  EXPECT_TRUE(found.numbers.empty());
  EXPECT_FALSE(found.header.has_value());
  EXPECT_TRUE(FailsWith(internal::OpenLocked(files_, "new").status(),
                        StatusCode::kFailedPrecondition, "open already"));
  EXPECT_TRUE(FailsWith(internal::OpenLocked(files_, "").status(), StatusCode::kInvalidArgument));
  EXPECT_TRUE(FailsWith(internal::OpenLocked(files_, "none", internal::LockKind::kReader).status(),
                        StatusCode::kInvalidArgument, "none"));
}

// Without create_if_missing a directory that holds no store stays exactly as it is.
TEST_F(StoreFilesTest, AStoreIsCreatedOnlyWhereThatIsAllowed) {
  Options options = TinyOptions();
  options.create_if_missing = false;
  const auto open = [&](const std::string& path) {
    return OpenIn<U64Store>(path, TinyEnvironment(&files_), options).status();
  };
  const std::size_t calls = files_.CallCount();
  EXPECT_TRUE(FailsWith(open("absent"), StatusCode::kNotFound, "path absent: there is no store"));
  EXPECT_TRUE(FailsWith(open(""), StatusCode::kInvalidArgument));
  EXPECT_EQ(files_.CallCount(), calls);
  // Nothing; files of others; a lock; a creation that was interrupted.
  for (const char* name : {"", "letters.txt", "LOCK", "log-00000000.ebb.new"}) {
    const internal::OpenedDirectory directory = files_.OpenDirectory("db", true);
    if (*name != '\0') {
      EXPECT_EQ(directory.directory->Open(name, {.create = true}).error, 0);
    }
    const std::size_t before = files_.CallCount();
    EXPECT_TRUE(FailsWith(open("db"), StatusCode::kNotFound, "create_if_missing")) << name;
    EXPECT_EQ(files_.CallCount(), before) << name;
  }
  {
    const internal::OpenedDirectory directory = files_.OpenDirectory("marked", true);
    EXPECT_EQ(directory.directory->Open(internal::kUnfinishedBackupName, {.create = true}).error,
              0);
  }
  EXPECT_TRUE(FailsWith(open("marked"), StatusCode::kFailedPrecondition, "interrupted"));
  // The interrupted creation has left nothing in the way of a new one. A store is opened, also one
  // that was copied without its lock file.
  Make("db");
  EXPECT_TRUE(open("db").ok());
  ASSERT_EQ(files_.OpenDirectory("db", false).directory->Unlink("LOCK"), 0);
  EXPECT_TRUE(open("db").ok());
  const auto lock = Lock("db");
  EXPECT_TRUE(FailsWith(open("db"), StatusCode::kFailedPrecondition, "open already"));
}

TEST_F(StoreFilesTest, TheFirstFileIsThereWithItsHeaderOrNotAtAll) {
  const auto directory = Lock("new");
  const internal::SegmentHeader header =
      Must(internal::NewHeader(TinyOptions(), TinyEnvironment(&files_), {.shape = {8, 8}}));
  Must(internal::CreateFirstFile(*directory, header));
  const FoundSegments found = Must(internal::FindSegments(*directory));
  ASSERT_TRUE(found.header.has_value());
  EXPECT_EQ(found.header->store_id, header.store_id);
  EXPECT_EQ(found.numbers.size(), 1U);
}

// A header is fixed when the store is created. Bits and bytes of optional features that this
// version does not know are kept in files that it adds, and any other difference is rejected.
TEST_F(StoreFilesTest, AllHeadersAgreeInEveryFieldExceptTheFirstBlock) {
  internal::SegmentHeader header =
      Must(internal::NewHeader(TinyOptions(), TinyEnvironment(&files_), {.shape = {8, 8}}));
  header.segment_blocks = 4;
  header.key_tag = header.value_tag = internal::TypeTag("u64");
  header.optional_features = 1;
  header.rest[100] = std::byte{7};
  Must(internal::CreateFirstFile(*Lock("db"), header));
  for (const std::uint64_t keys : {3000, 6000}) {
    auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files_)));
    for (std::uint64_t i = 0; i < keys; ++i) Must(store.Upsert(i, i));
    Must(store.Close());
  }
  const auto directory = Lock("db");
  const FoundSegments found = Must(internal::FindSegments(*directory));
  ASSERT_GT(found.numbers.size(), 5U);
  header.first_block = found.header->first_block;
  EXPECT_EQ(*found.header, header);

  const auto with = [&](auto change) {
    internal::SegmentHeader changed = header;
    changed.first_block = 8;
    change(changed);
    std::string block(4096, '\0');
    internal::EncodeSegmentHeader(changed, std::as_writable_bytes(std::span(block)));
    Overwrite(files_, "db", SegmentFile(2), 0, block);
    return internal::FindSegments(*directory).status();
  };
  Must(with([](internal::SegmentHeader&) {}));
  const auto refused = [&](auto change) {
    return FailsWith(with(change), StatusCode::kDataLoss, "log-00000002.ebb");
  };
  using Header = internal::SegmentHeader;
  EXPECT_TRUE(refused([](Header& h) { ++h.store_id; }));
  EXPECT_TRUE(refused([](Header& h) { h.first_block = 12; }));
  EXPECT_TRUE(refused([](Header& h) { h.hash_seed.s0 ^= 1; }));
  EXPECT_TRUE(refused([](Header& h) { h.hash_seed.s1 ^= 2; }));
  EXPECT_TRUE(refused([](Header& h) { h.value_tag = 0; }));
  EXPECT_TRUE(refused([](Header& h) { h.key_tag ^= 1; }));
  EXPECT_TRUE(refused([](Header& h) { h.optional_features = 3; }));
  EXPECT_TRUE(refused([](Header& h) { ++h.created_unix_us; }));
  EXPECT_TRUE(refused([](Header& h) { h.writer[4] ^= 1; }));
  EXPECT_TRUE(refused([](Header& h) { h.rest[100] = std::byte{8}; }));
  EXPECT_TRUE(refused([](Header& h) { ++h.codec_version; }));
  EXPECT_TRUE(refused([](Header& h) { ++h.hash_version; }));
  EXPECT_TRUE(refused([](Header& h) { ++h.creation_exponent; }));
  EXPECT_TRUE(refused([](Header& h) { h.shape.value_bytes = 4; }));
}

TEST_F(StoreFilesTest, FilesOfDifferentStoresAreRejected) {
  Make("db");
  Overwrite(files_, "db", SegmentFile(2), 100, "damage");
  {
    const auto directory = Lock("db");
    const FoundSegments found = Must(internal::FindSegments(*directory));
    EXPECT_EQ(found.bad_headers.size(), 1U);
    EXPECT_TRUE(found.bad_headers.contains(2));
    auto marker = directory->Open(internal::kUnfinishedBackupName, {.create = true});
    ASSERT_NE(marker.file, nullptr);
    EXPECT_TRUE(FailsWith(internal::FindSegments(*directory).status(),
                          StatusCode::kFailedPrecondition, "interrupted"));
    ASSERT_EQ(directory->Unlink(internal::kUnfinishedBackupName), 0);
    for (const std::uint64_t number : found.numbers) {
      ASSERT_EQ(directory->Unlink(SegmentFile(number)), 0);
    }
    EXPECT_TRUE(FailsWith(internal::FindSegments(*directory).status(), StatusCode::kDataLoss,
                          "are missing"));
  }
}

TEST_F(StoreFilesTest, AMissingParentDirectoryIsNamedAsSuch) {
  const TempDir dir;
  EXPECT_TRUE(FailsWith(U64Store::Open(dir / "absent/db").status(), StatusCode::kInvalidArgument,
                        "absent/db: its parent directory does not exist; create that first"));
}

TEST_F(StoreFilesTest, OpeningNotesFilesThatAreNotOfAStore) {
  Make("db");
  EXPECT_TRUE(Must(OpenTiny<U64Store>("db", &files_)).recovery().notes.empty());
  {
    const auto directory = files_.OpenDirectory("db", false).directory;
    EXPECT_EQ(directory->Open("holiday.jpg", {.create = true}).error, 0);
    EXPECT_EQ(directory->Open("lost+found", {.create = true}).error, 0);
  }
  const auto store = Must(OpenTiny<U64Store>("db", &files_));
  ASSERT_EQ(store.recovery().notes.size(), 1U);
  EXPECT_NE(store.recovery().notes[0].find("holiday.jpg, which is no file of a store"),
            std::string::npos);
}

// A header that verifies and demands 64 GiB for the index.
TEST_F(StoreFilesTest, AForgedHeaderDoesNotMakeTheOpeningUseUpTheMemory) {
  Make("db");
  {
    const auto directory = files_.OpenDirectory("db", false).directory;
    for (const std::uint64_t number : Must(internal::FindSegments(*directory)).numbers) {
      const std::string name = internal::FileDevice::SegmentName(number);
      const auto file = directory->Open(name, {.write = true}).file;
      const internal::AlignedBuffer buffer = internal::AllocateAligned(internal::kBlockBytes);
      const std::span<std::byte> block(buffer.get(), internal::kBlockBytes);
      ASSERT_EQ(internal::ReadFully(*file, 0, block).error, 0);
      internal::SegmentHeader header = Must(internal::DecodeSegmentHeader(block, name));
      header.creation_exponent = 30;
      internal::EncodeSegmentHeader(header, block);
      ASSERT_EQ(internal::WriteFully(*file, 0, block).error, 0);
    }
  }
  internal::Environment environment = TinyEnvironment(&files_);
  environment.segment_blocks = 4;
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>("db", environment).status(),
                        StatusCode::kResourceExhausted, "1073741824 index buckets"));
}

}  // namespace
}  // namespace ebb::test
