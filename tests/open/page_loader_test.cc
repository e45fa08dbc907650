// PageLoader: pages come into their frames with any thread as the loader, and reading ends where it
// must.
#include "ebb/internal/open/page_loader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Core;
using internal::PageLoader;
using internal::StoreAccess;

constexpr std::uint64_t kPageBlocks = 4;

// A store with some pages of four blocks on its device.
class PageLoaderTest : public testing::TestWithParam<int> {
 protected:
  PageLoaderTest() {
    internal::Environment environment = TinyEnvironment(&faults_);
    environment.index_exponent = kShortChains;
    environment.page_shift = 14;
    environment.frame_count = 32;
    environment.pool_threads = GetParam();
    Options options = TinyOptions();
    options.preallocate_bytes = 0;
    options.durability = Durability::kManual;
    options.write_batch_bytes = 4 * 4096;
    store_.emplace(Must(OpenIn<U64Store>("db", environment, options)));
    for (std::uint64_t i = 0; i < 10000; ++i) Must(store_->Upsert(i, i));
    Must(store_->Commit());
  }
  Core& core() { return StoreAccess::GetCore(*store_); }
  std::uint64_t end_block() { return core().files.device->EndBlock(); }

  SimFileSystem disk_;
  FaultFileSystem faults_{disk_};
  std::optional<U64Store> store_;
};

INSTANTIATE_TEST_SUITE_P(PoolThreads, PageLoaderTest, testing::Values(0, 1, 3));

TEST_P(PageLoaderTest, EveryPageComesIntoItsFrame) {
  const std::uint64_t end = end_block();
  ASSERT_GT(end, 10 * kPageBlocks);
  PageLoader reader(core(), {.first_block = 6, .end_block = end});
  for (std::uint64_t page = 1; page * kPageBlocks < end; ++page) {
    auto frame = core().log.Frame(page);
    const std::uint64_t first = std::max<std::uint64_t>(6, page * kPageBlocks);
    std::memset(frame.data() + (first - page * kPageBlocks) * 4080, 0xee,
                (page * kPageBlocks + kPageBlocks - first) * 4080);
  }
  // Frames of the pages match the device again once they are loaded.
  for (std::uint64_t page = 1; page * kPageBlocks < end; ++page) {
    const std::uint64_t first = std::max<std::uint64_t>(6, page * kPageBlocks);
    const std::uint64_t stop = std::min(end, (page + 1) * kPageBlocks);
    const auto incarnations = Must(reader.Load(page));
    EXPECT_EQ(incarnations, std::vector<std::uint64_t>(stop - first, core().log.incarnation()));
  }
  EXPECT_TRUE(Must(reader.Load((end + kPageBlocks - 1) / kPageBlocks)).empty());
  for (std::uint64_t i = 0; i < 10000; ++i) ASSERT_EQ(Must(store_->Read(i)), i);
}

TEST_P(PageLoaderTest, ReadingEndsAtABlockThatDoesNotVerify) {
  auto file =
      disk_.OpenDirectory("db", false).directory->Open("log-00000000.ebb", {.write = true}).file;
  alignas(4096) std::byte block[4096];
  ASSERT_EQ(file->ReadAt((1 + 9) * 4096, block, 4096).count, 4096U);
  block[100] ^= std::byte{1};
  ASSERT_EQ(file->WriteAt((1 + 9) * 4096, block, 4096).count, 4096U);
  PageLoader reader(core(), {.first_block = 4, .end_block = end_block()});
  EXPECT_EQ(Must(reader.Load(1)).size(), 4U);
  EXPECT_EQ(Must(reader.Load(2)).size(), 1U);
  EXPECT_EQ(Must(reader.Load(3)).size(), 4U);
}

TEST_P(PageLoaderTest, AFileThatEndsEarlyIsNoError) {
  PageLoader reader(core(), {.first_block = 0, .end_block = end_block() + 100});
  std::uint64_t blocks = 0;
  for (std::uint64_t page = 0; page * kPageBlocks < end_block() + 100; ++page) {
    blocks += Must(reader.Load(page)).size();
  }
  EXPECT_EQ(blocks, end_block());
}

TEST_P(PageLoaderTest, AFailedReadIsTheAnswerOfItsPage) {
  PageLoader reader(core(), {.first_block = 0, .end_block = end_block()});
  faults_.Arm({.kind = CallKind::kRead, .sticky = true});
  EXPECT_TRUE(FailsWith(reader.Load(0).status(), StatusCode::kUnavailable, "log-00000000.ebb"));
  faults_.Disarm();
}

// Jobs that the pool has not begun, and those that it has, do not touch destroyed objects.
TEST_P(PageLoaderTest, CanBeGivenUpAtAnyTime) {
  for (int i = 0; i < 50; ++i) {
    PageLoader reader(core(), {.first_block = 0, .end_block = end_block()});
    for (int page = 0; page < i % 4; ++page) Must(reader.Load(static_cast<std::uint64_t>(page)));
  }
}

}  // namespace
}  // namespace ebb::test
