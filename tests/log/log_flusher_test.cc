#include "ebb/internal/log/log_flusher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/format/block.h"
#include "ebb/status.h"
#include "tests/support/log_rig.h"
#include "tests/support/step_sync.h"

namespace ebb::test {
namespace {

using internal::Geometry;
using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::RecordHeader;
using internal::RecordKind;

TEST(LogFlusherTest, FlushedBlocksAreSealedAndTheirPagesHaveNoHoles) {
  LogRig rig(LogRig::FromPageOne(LogRig::kTwoBlocks));
  std::vector<Written> all;
  for (int i = 0; i < 200; ++i) {
    all.push_back(Must(rig.AppendExtent(static_cast<std::uint64_t>(32 + i * 72 % 1500 / 8 * 8))));
  }
  Must(rig.FlushAll());
  EXPECT_EQ(rig.log().flushed_until(), rig.log().tail());
  std::uint64_t records = 0;
  const std::uint64_t end_page = rig.TailPage();
  for (std::uint64_t page = 1; page < end_page; ++page) {
    const auto headers = rig.WalkPageOnDevice(page);
    ASSERT_TRUE(headers.has_value()) << "page " << page;
    for (const RecordHeader header : *headers) records += header.kind() == RecordKind::kRecord;
  }
  const auto in_last_page = std::count_if(all.begin(), all.end(), [&](const Written& written) {
    return rig.geometry().PageOf(written.address) == end_page;
  });
  EXPECT_EQ(records + static_cast<std::uint64_t>(in_last_page), all.size());
  for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
}

TEST(LogFlusherTest, PartialBlockStaysInMemory) {
  LogRig rig(LogRig::FromPageOne(LogRig::kTwoBlocks));
  Must(rig.AppendExtent(kBlockPayloadBytes + 64));
  Must(rig.log().FlushTo(rig.geometry().BlockStart(3)));
  EXPECT_EQ(rig.log().flushed_until(), rig.geometry().BlockStart(3));
  EXPECT_FALSE(rig.device().Get(3).has_value());
  EXPECT_EQ(rig.log().flushed_bytes(), kBlockBytes);
}

TEST(LogFlusherTest, WritesAreBatchesOfWholeBlocksWithinAPage) {
  const Geometry four_blocks{.page_shift = 14, .frame_count = 8};
  LogRig::Setup setup = LogRig::FromPageOne(four_blocks);
  setup.write_batch_bytes = 3 * kBlockBytes;
  LogRig rig(setup);
  Must(rig.FillUntilPage(4, 4 * kBlockPayloadBytes));
  Must(rig.log().FlushTo(four_blocks.PageStart(4)));
  std::uint64_t next = 4;
  std::vector<std::uint64_t> counts;
  for (const ScriptDevice::WriteCall& write : rig.device().writes()) {
    EXPECT_EQ(write.block, next);
    next += write.block_count;
    counts.push_back(write.block_count);
  }
  EXPECT_EQ(counts, (std::vector<std::uint64_t>{3, 1, 3, 1, 3, 1}));
}

const absl::Status kWriteError = absl::UnavailableError("write failed: Input/output error");

// Hazards 28 and 30: a failed write is not counted as written, is reported, and can be repeated.
TEST(LogFlusherTest, FailedWriteIsReportedAndTheNextOneContinues) {
  LogRig rig({});
  std::vector<Written> all;
  while (rig.TailPage() < 4) all.push_back(Must(rig.AppendExtent(408)));
  rig.device().FailWrites(1, kWriteError);
  EXPECT_EQ(rig.log().FlushTo(rig.geometry().PageStart(4)), kWriteError);
  EXPECT_EQ(rig.log().flushed_until(), rig.geometry().PageStart(1));
  EXPECT_TRUE(rig.device().writes().empty());
  EXPECT_EQ(rig.log().flushed_bytes(), 0U);
  rig.log().CheckBoundaries();

  Must(rig.log().FlushTo(rig.geometry().PageStart(4)));
  rig.Evict();
  for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
}

// Two chunks of a block each are on their way to the device; the write of the first one stands
// until the second has been done.
class TwoChunks {
 public:
  // `first`: the fate of the first write.
  explicit TwoChunks(absl::Status first) : first_(std::move(first)) {
    while (rig_.TailPage() < 4) all_.push_back(Must(rig_.AppendExtent(408)));
    Must(rig_.log().FreezeTo(rig_.geometry().PageStart(4)));
    rig_.device().HookWrites([this](std::uint64_t block, bool done) {
      if (block == 1 && !done) {
        steps_.Announce(1);  // 1 ->
        steps_.Await(3);     // 3 <-
        return first_;
      }
      if (block == 2 && done) steps_.AnnounceOnce(2);  // 2 ->
      return absl::OkStatus();
    });
  }

  // The results of the first chunk and the second.
  struct Answers {
    absl::StatusOr<bool> first = false;
    absl::StatusOr<bool> second = false;
  };
  Answers Run() {
    Answers answers;
    std::thread first([&] { answers.first = rig_.log().RunMaintenanceStep(); });
    steps_.Await(1);  // 1 <-
    std::thread second([&] { answers.second = rig_.log().RunMaintenanceStep(); });
    steps_.Await(2);  // 2 <-
    for (int look = 0; look < 50; ++look) {
      EXPECT_EQ(rig_.log().flushed_until(), rig_.geometry().PageStart(1));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    steps_.Announce(3);  // 3 ->
    first.join();
    second.join();
    rig_.device().HookWrites({});
    return answers;
  }
  LogRig& rig() { return rig_; }
  void ExpectThatAllIsThere() {
    Must(rig_.log().FlushTo(rig_.geometry().PageStart(4)));
    EXPECT_EQ(rig_.log().flushed_bytes(), 3 * kBlockBytes);
    rig_.Evict();
    for (const Written& written : all_) EXPECT_TRUE(rig_.Holds(written));
  }

 private:
  const absl::Status first_;
  LogRig rig_{{.write_batch_bytes = kBlockBytes}};
  std::vector<Written> all_;
  StepSync steps_;
};

TEST(LogFlusherTest, AChunkCountsWhenAllBeforeItDo) {
  TwoChunks chunks(absl::OkStatus());
  const TwoChunks::Answers answers = chunks.Run();
  EXPECT_TRUE(Must(answers.first));
  EXPECT_TRUE(Must(answers.second));
  EXPECT_EQ(chunks.rig().log().flushed_until(), chunks.rig().geometry().PageStart(3));
  EXPECT_EQ(chunks.rig().device().writes().size(), 2U);
  chunks.ExpectThatAllIsThere();
}

TEST(LogFlusherTest, ChunksInFlightAfterAFailedOneAreWrittenAgain) {
  TwoChunks chunks(kWriteError);
  const TwoChunks::Answers answers = chunks.Run();
  EXPECT_EQ(answers.first.status(), kWriteError);
  EXPECT_FALSE(Must(answers.second));
  EXPECT_EQ(chunks.rig().log().flushed_until(), chunks.rig().geometry().PageStart(1));
  chunks.ExpectThatAllIsThere();
}

}  // namespace
}  // namespace ebb::test
