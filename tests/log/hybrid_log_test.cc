#include "ebb/internal/log/hybrid_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "ebb/internal/format/block.h"
#include "ebb/status.h"
#include "tests/support/log_rig.h"
#include "tests/support/scale.h"
#include "tests/support/step_sync.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::Atomic;
using internal::EpochGuard;
using internal::EpochSlot;
using internal::Geometry;
using internal::HybridLog;
using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::LockWord;
using internal::RecordHeader;
using internal::RecordKind;
using internal::RecordShape;
using internal::SealBlock;
using internal::Space;
using internal::VerifyBlock;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint32_t kVariable = RecordShape::kVariable;
constexpr std::uint64_t kInfinity = HybridLog::kInfinity;

constexpr Geometry kTwoBlocks = LogRig::kTwoBlocks;
constexpr std::uint64_t kPayload = 2 * kBlockPayloadBytes;

// ---- Allocation ----

TEST(HybridLogTest, RecordsFollowEachOtherFromTheTail) {
  LogRig rig({.geometry = kTwoBlocks});
  const Address start = rig.geometry().BlockStart(1);
  EXPECT_EQ(rig.log().tail(), start);
  EXPECT_EQ(Must(rig.AppendExtent(64)).address, start);
  EXPECT_EQ(Must(rig.AppendExtent(40)).address, start + 64);
  EXPECT_EQ(rig.log().tail(), start + 104);
}

TEST(HybridLogTest, TheRestOfAPageIsAFiller) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  const Address page = rig.geometry().PageStart(1);
  for (int i = 0; i < 8; ++i) Must(rig.AppendExtent(1000));
  EXPECT_FALSE(rig.TryAppendExtent(1000).has_value());
  const RecordHeader filler = rig.HeaderAt(page + 8000);
  EXPECT_EQ(filler.kind(), RecordKind::kFiller);
  EXPECT_EQ(filler.extent_bytes(), kPayload - 8000);
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
  EXPECT_EQ(Must(rig.AppendExtent(1000)).address, rig.geometry().PageStart(2));
  EXPECT_EQ(rig.log().counters().page_turns.load(std::memory_order_relaxed), 1U);
}

// Hazard 19: the smallest rest there is. Fails when fillers need more than their header.
TEST(HybridLogTest, LastEightBytesOfAPageAreAFiller) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload - 8));
  EXPECT_FALSE(rig.TryAppendExtent(32).has_value());
  const RecordHeader filler = rig.HeaderAt(rig.geometry().PageStart(1) + (kPayload - 8));
  EXPECT_EQ(filler.kind(), RecordKind::kFiller);
  EXPECT_EQ(filler.extent_bytes(), 8U);
  EXPECT_EQ(Must(rig.AppendExtent(32)).address, rig.geometry().PageStart(2));
  Must(rig.log().FlushTo(rig.geometry().PageStart(2)));
  ASSERT_TRUE(rig.WalkPageOnDevice(1).has_value());
  EXPECT_EQ(rig.WalkPageOnDevice(1)->size(), 2U);
}

// Hazard 19: a record as large as a page.
TEST(HybridLogTest, RecordMayFillAPageExactly) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  const Written first = Must(rig.AppendExtent(kPayload));
  EXPECT_EQ(first.address, rig.geometry().PageStart(1));
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));  // never in the gap
  const Written second = Must(rig.AppendExtent(kPayload));
  EXPECT_EQ(second.address, rig.geometry().PageStart(2));
  Must(rig.FlushAll());
  EXPECT_TRUE(rig.Holds(first));
  EXPECT_TRUE(rig.Holds(second));
  EXPECT_EQ(rig.WalkPageOnDevice(1)->size(), 1U);
  EXPECT_EQ(rig.WalkPageOnDevice(2)->size(), 1U);
}

TEST(HybridLogTest, PageThatIsFullToTheLastByteHasNoFiller) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload - 40));
  Must(rig.AppendExtent(40));
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
  Must(rig.AppendExtent(32));
  Must(rig.FlushAll());
  const auto headers = rig.WalkPageOnDevice(1);
  ASSERT_TRUE(headers.has_value());
  ASSERT_EQ(headers->size(), 2U);
  EXPECT_EQ(headers->back().kind(), RecordKind::kRecord);
}

// Hazard 52: one record crosses the end; however many calls come after it, nothing is added.
TEST(HybridLogTest, CallsOnAFullPageAddNothing) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(40));
  for (int i = 0; i < 100000; ++i) EXPECT_FALSE(rig.TryAppendExtent(kPayload).has_value());
  EXPECT_EQ(rig.log().overshoot_bytes(), 40U);
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
  Must(rig.log().WaitForPage());
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
  EXPECT_EQ(Must(rig.AppendExtent(32)).address, rig.geometry().PageStart(2));
  EXPECT_EQ(rig.log().counters().page_turns.load(std::memory_order_relaxed), 1U);
}

// Hazard 52. A page that records fill exactly is full although nothing has crossed its end. Fails
// by a wait that does not end when only a page that was overshot is turned.
TEST(HybridLogTest, PageThatRecordsFillExactlyIsTurned) {
  for (const std::uint64_t extent : {40, 48, 120, 408, 1360, 4080}) {
    LogRig rig(LogRig::FromPageOne(kTwoBlocks));
    for (std::uint64_t i = 0; i < kPayload / extent; ++i) Must(rig.AppendExtent(extent));
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(rig.TryAppendExtent(extent).has_value());
    EXPECT_EQ(rig.log().overshoot_bytes(), 0U);
    Must(rig.log().WaitForPage());
    EXPECT_EQ(rig.log().counters().page_turns.load(std::memory_order_relaxed), 1U);
    EXPECT_EQ(Must(rig.AppendExtent(extent)).address, rig.geometry().PageStart(2));
    Must(rig.log().FlushTo(rig.geometry().PageStart(2)));
    ASSERT_TRUE(rig.WalkPageOnDevice(1).has_value());
    EXPECT_EQ(rig.WalkPageOnDevice(1)->size(), kPayload / extent);
  }
}

TEST(HybridLogTest, CommitExtentThatEndsAPageExactlyLeavesAPageToTurn) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  for (std::uint64_t page = 1; page < 40; ++page) {
    EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(page));
    Must(rig.AppendExtent(kPayload - 88));
    Must(rig.PadBlock(rig.slot(), Space::kCommit));
    EXPECT_EQ(rig.log().overshoot_bytes(), 0U);
  }
  EXPECT_EQ(rig.log().counters().page_turns.load(std::memory_order_relaxed), 38U);
}

// A filler has nothing after its header that the frame held for an earlier page.
TEST(HybridLogTest, FillersAreZeroInAReusedFrame) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  for (std::uint64_t page = 1; page < 40; ++page) {
    // In turn a record that crosses the end, and a commit extent that does not fit.
    Must(rig.AppendExtent(page % 3 == 0 ? 4000 : kPayload - 80));
    if (page % 3 == 0) {
      EXPECT_FALSE(rig.TryAppendExtent(kPayload).has_value());
    } else if (page % 3 == 1) {
      const EpochGuard guard(rig.epochs(), rig.slot());
      EXPECT_EQ(rig.log().ReserveToBlockEnd(88, guard).bytes, 0U);
    } else {
      Must(rig.AppendExtent(80));
    }
    Must(rig.log().WaitForPage());
  }
  Must(rig.FlushAll());
  for (std::uint64_t page = 1; page < 40; ++page) {
    const auto last = rig.device().Get(2 * page + 1);
    ASSERT_TRUE(last.has_value());
    if (page % 3 == 2) continue;
    const std::size_t rest = page % 3 == 0 ? kBlockPayloadBytes : 80;
    const std::vector<std::byte> filler(last->end() - 16 - static_cast<int>(rest) + 8,
                                        last->end() - 16);
    EXPECT_TRUE(std::all_of(filler.begin(), filler.end(),
                            [](std::byte byte) { return byte == std::byte{0}; }))
        << "page " << page;
  }
}

TEST(HybridLogTest, PageIsTurnedOnceForAllWaiters) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload));
  EXPECT_FALSE(rig.TryAppendExtent(32).has_value());
  EXPECT_FALSE(rig.TryAppendExtent(32).has_value());
  Must(rig.log().WaitForPage());
  Must(rig.log().WaitForPage());
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
}

// 46. Updates are slowed down while the log is longer than it shall be, and nothing else is.
TEST(HybridLogTest, ThrottledOrdinaryAppendsWaitForAWhile) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLongest(1000);
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  HybridLog& log = rig.log();
  // Fills a page, and turns to the next one with the throttle `bytes` above where the log ends.
  const auto turn_page = [&](std::uint64_t bytes, Space space) {
    log.ReleaseThrottle();
    Must(rig.AppendExtent(kPayload));
    log.SetThrottle(log.tail() + bytes);
    const Clock::time_point begun = Clock::now();
    Must(log.WaitForPage(0, space));
    return Clock::now() - begun;
  };
  const auto waits = [&] { return log.counters().throttle_waits.load(std::memory_order_relaxed); };
  turn_page(8, Space::kOrdinary);
  EXPECT_EQ(waits(), 0U);
  EXPECT_GE(turn_page(0, Space::kOrdinary), kLongest);
  EXPECT_EQ(waits(), 1U);
  turn_page(0, Space::kCommit);
  EXPECT_EQ(waits(), 1U);
}

// ---- Room for commit records ----

HybridLog::Extent Reserve(LogRig& rig, std::uint64_t min_bytes) {
  const EpochGuard guard(rig.epochs(), rig.slot());
  return rig.log().ReserveToBlockEnd(min_bytes, guard);
}

TEST(HybridLogTest, CommitExtentEndsAtTheEndOfABlock) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  const Address page = rig.geometry().PageStart(1);
  Must(rig.AppendExtent(1000));
  const HybridLog::Extent extent = Reserve(rig, 88);
  EXPECT_EQ(extent.start, page + 1000);
  EXPECT_EQ(extent.bytes, kBlockPayloadBytes - 1000);
  EXPECT_EQ(rig.log().tail(), page + kBlockPayloadBytes);
}

TEST(HybridLogTest, CommitExtentTakesTheNextBlockToWhenItsOwnHasTooLittleRoom) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  const Address page = rig.geometry().PageStart(1);
  Must(rig.AppendExtent(kBlockPayloadBytes - 80));
  const HybridLog::Extent extent = Reserve(rig, 88);
  EXPECT_EQ(extent.start, page + (kBlockPayloadBytes - 80));
  EXPECT_EQ(extent.bytes, kBlockPayloadBytes + 80);
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
}

TEST(HybridLogTest, CommitExtentMayFitExactly) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload - 88));
  const HybridLog::Extent extent = Reserve(rig, 88);
  EXPECT_EQ(extent.bytes, 88U);
  EXPECT_EQ(rig.log().tail(), rig.geometry().PageStart(2));
}

TEST(HybridLogTest, CommitExtentThatDoesNotFitLeavesAFillerAndAFullPage) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload - 80));
  EXPECT_EQ(Reserve(rig, 88).bytes, 0U);
  const RecordHeader filler = rig.HeaderAt(rig.geometry().PageStart(1) + (kPayload - 80));
  EXPECT_EQ(filler.kind(), RecordKind::kFiller);
  EXPECT_EQ(filler.extent_bytes(), 80U);
  EXPECT_EQ(Reserve(rig, 88).bytes, 0U);  // still full
  Must(rig.log().WaitForPage());
  const HybridLog::Extent extent = Reserve(rig, 88);
  EXPECT_EQ(extent.start, rig.geometry().PageStart(2));
  EXPECT_EQ(extent.bytes, kBlockPayloadBytes);
}

TEST(HybridLogTest, CommitExtentOnAPageThatIsFullToTheLastByteTurnsIt) {
  LogRig rig(LogRig::FromPageOne(kTwoBlocks));
  Must(rig.AppendExtent(kPayload));
  EXPECT_EQ(Reserve(rig, 88).bytes, 0U);
  Must(rig.log().WaitForPage());
  EXPECT_EQ(Reserve(rig, 88).start, rig.geometry().PageStart(2));
}

// ---- Boundaries ----

TEST(HybridLogTest, BoundariesStayInOrderAndGrowAtEveryStep) {
  for (const std::uint64_t frames : {4, 5, 8, 11}) {
    LogRig rig({.geometry = {.page_shift = 12, .frame_count = frames}});
    rig.ExpectOrderAndGrowth();
    for (int i = 0; i < 600; ++i) {
      Must(rig.AppendExtent(static_cast<std::uint64_t>(32 + i * 56 % 600)));
      rig.ExpectOrderAndGrowth();
      if (i % 3 == 0) Must(rig.log().RunMaintenanceStep().status());
      rig.ExpectOrderAndGrowth();
    }
    EXPECT_GT(rig.log().safe_head(), rig.log().begin());
    Must(rig.HelpUntilIdle());
    rig.ExpectOrderAndGrowth();
    EXPECT_FALSE(*rig.log().RunMaintenanceStep());  // nothing more to do
  }
}

TEST(HybridLogTest, RestoredLogStandsWhereItWasPut) {
  const Geometry geometry{.page_shift = 12, .frame_count = 8};
  LogRig rig({.geometry = geometry,
              .position = HybridLog::Position{.begin = geometry.PageStart(3),
                                              .head = geometry.PageStart(95),
                                              .tail = geometry.PageStart(101),
                                              .incarnations = {{0, 7}, {101, 8}}}});
  EXPECT_EQ(rig.log().begin(), geometry.PageStart(3));
  EXPECT_EQ(rig.log().safe_head(), geometry.PageStart(95));
  EXPECT_EQ(rig.log().head_acquire(), geometry.PageStart(95));
  for (const Address boundary : {rig.log().flushed_until(), rig.log().safe_read_only(),
                                 rig.log().read_only(), rig.log().tail()}) {
    EXPECT_EQ(boundary, geometry.PageStart(101));
  }
  EXPECT_EQ(rig.log().update_from(), geometry.PageStart(101).value());
  EXPECT_EQ(rig.log().incarnation(), 8U);
  EXPECT_EQ(Must(rig.AppendExtent(64)).address, geometry.PageStart(101));
  rig.log().CheckBoundaries();
}

// Hazard 20: a writer paused in its update is in a guard. Flushing must wait for it, or it copies
// a record that still changes. Fails when AdvanceSafeBoundaries does not ask Drained.
TEST(HybridLogTest, FlushWaitsForGuardsThatSawTheOldReadOnlyBoundary) {
  LogRig rig({});
  const Written written = Must(rig.AppendExtent(4080));
  EpochSlot& writer_slot = *rig.epochs().AcquireSlot();
  std::optional<EpochGuard> writer(std::in_place, rig.epochs(), writer_slot);
  ASSERT_LE(rig.log().update_from(), written.address.value());

  std::thread flusher([&] { Must(rig.log().FlushTo(rig.geometry().PageStart(2))); });
  while (rig.log().read_only() < rig.geometry().PageStart(2)) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(rig.log().safe_read_only(), rig.geometry().PageStart(1));
  EXPECT_EQ(rig.log().flushed_until(), rig.geometry().PageStart(1));
  EXPECT_TRUE(rig.device().writes().empty());
  // The writer's change is still part of the flushed data.
  std::byte* const value = rig.log().At(written.address, *writer) + LogRig::kOverheadBytes;
  internal::WordAt(value).store(0x1234567812345678, std::memory_order_relaxed);
  writer.reset();
  flusher.join();
  EXPECT_EQ(rig.log().flushed_until(), rig.geometry().PageStart(2));
  std::uint64_t flushed = 0;
  std::memcpy(&flushed, rig.device().Get(1)->data() + LogRig::kOverheadBytes, 8);
  EXPECT_EQ(flushed, 0x1234567812345678U);
}

// A scan may end anywhere: the records below its end are frozen, and blocks are still written whole
// and once.
TEST(HybridLogTest, FreezingEndsWithinABlockAndFlushingBeforeIt) {
  LogRig rig({});
  const Written first = Must(rig.AppendExtent(1000));
  const internal::Address end = rig.log().tail();
  EpochSlot& writer_slot = *rig.epochs().AcquireSlot();
  std::optional<EpochGuard> writer(std::in_place, rig.epochs(), writer_slot);
  std::thread freezer([&] { Must(rig.log().FreezeTo(end)); });
  while (rig.log().read_only() < end) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(rig.log().safe_read_only(), rig.geometry().PageStart(1)) << "somebody may be writing";
  writer.reset();
  freezer.join();
  EXPECT_EQ(rig.log().safe_read_only(), end);
  EXPECT_GT(rig.log().update_from(), first.address.value());
  Must(rig.log().FreezeTo(end));  // again, and below: nothing to do
  Must(rig.log().FreezeTo(first.address));
  Must(rig.HelpUntilIdle());
  EXPECT_TRUE(rig.device().writes().empty());
  EXPECT_EQ(rig.log().flushed_until(), rig.geometry().PageStart(1));
  const Written second = Must(rig.AppendExtent(1000));
  Must(rig.log().FreezeTo(rig.log().tail()));
  Must(rig.FillUntilPage(12, 4080));
  Must(rig.HelpUntilIdle());
  EXPECT_TRUE(rig.Holds(first));
  EXPECT_TRUE(rig.Holds(second));
  std::set<std::uint64_t> blocks;
  for (const auto& write : rig.device().writes()) {
    for (std::uint64_t i = 0; i < write.block_count; ++i) {
      EXPECT_TRUE(blocks.insert(write.block + i).second) << "written twice: " << write.block + i;
    }
  }
  EXPECT_GE(blocks.size(), 3U);
}

// A part that cannot be written yet is no work: the only thread of the pool does not wait for it.
TEST(HybridLogTest, ABlockThatIsFrozenInPartKeepsNoThreadBusy) {
  LogRig rig({.pool_threads = 1});
  Must(rig.AppendExtent(1000));
  Must(rig.log().FreezeTo(rig.log().tail()));
  Must(rig.FillUntilPage(3, 4080));  // maintenance begins at each turn
  std::atomic<bool> ran{false};
  internal::PoolJob job(rig.pool(), [&] { ran.store(true, std::memory_order_release); });
  job.Post();
  for (int i = 0; i < 5000 && !ran.load(std::memory_order_acquire); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(ran.load(std::memory_order_acquire));
  rig.log().StopMaintenance();
}

// Hazard 24: a guard that saw the old head may still read the page.
TEST(HybridLogTest, EvictionWaitsForGuardsThatSawTheOldHead) {
  LogRig rig({});
  const Written oldest = Must(rig.AppendExtent(4080));
  Must(rig.FillUntilPage(7, 4080));
  Must(rig.HelpUntilIdle());
  EXPECT_EQ(rig.log().head_acquire(), rig.log().begin());
  EpochSlot& reader_slot = *rig.epochs().AcquireSlot();
  std::optional<EpochGuard> reader(std::in_place, rig.epochs(), reader_slot);
  ASSERT_GE(oldest.address, rig.log().head());
  // As far as the tail gets without a frame more.
  while (rig.TryAppendExtent(4080).has_value()) {
  }
  for (int i = 0; i < 10; ++i) Must(rig.log().RunMaintenanceStep().status());
  std::thread writer([&] { Must(rig.FillUntilPage(12, 4080)); });
  while (rig.log().head_acquire() == rig.log().begin()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(rig.log().safe_head(), rig.log().begin());
  EXPECT_LE(rig.TailPage(), 9U);  // pages 1 to 8 have the eight frames
  EXPECT_EQ(internal::WordAt(rig.log().At(oldest.address, *reader)).load(std::memory_order_relaxed),
            RecordHeader::Make(RecordKind::kRecord, internal::kNoRecord, 0)
                .With(RecordHeader::kValid)
                .word());
  EXPECT_TRUE(rig.Holds(oldest));
  reader.reset();
  writer.join();
  EXPECT_GT(rig.log().safe_head(), oldest.address);
  EXPECT_TRUE(rig.Holds(oldest));  // from the device
}

TEST(HybridLogTest, PagesOnTheirWayOutAreNoLongerUpdatedInPlace) {
  LogRig rig({});  // eight frames: five for updates
  EXPECT_EQ(rig.log().update_from(), rig.geometry().PageStart(1).value());
  Must(rig.FillUntilPage(12, 4080));
  Must(rig.HelpUntilIdle());
  const std::uint64_t tail_page = rig.TailPage();
  EXPECT_EQ(rig.log().read_only(), rig.geometry().PageStart(tail_page - 4));
  EXPECT_EQ(rig.log().update_from(), rig.log().read_only().value());
}

// ---- Version shifts ----

TEST(HybridLogTest, NothingIsUpdatedInPlaceDuringAVersionShift) {
  LogRig rig({});
  const std::uint64_t before = rig.log().update_from();
  rig.log().BeginVersionShift();
  EXPECT_EQ(rig.log().update_from(), before | kInfinity);
  rig.log().EndVersionShift(rig.geometry().PageStart(2));
  EXPECT_EQ(rig.log().update_from(), rig.geometry().PageStart(2).value());
}

TEST(HybridLogTest, VersionShiftNeverLowersTheFloor) {
  LogRig rig({});
  Must(rig.FillUntilPage(20, 4080));
  Must(rig.HelpUntilIdle());
  const std::uint64_t floor = rig.log().update_from();
  rig.log().BeginVersionShift();
  rig.log().EndVersionShift(rig.geometry().PageStart(2));
  EXPECT_EQ(rig.log().update_from(), floor);
}

// A plain store of the control record's end would lose the value that a page turn has raised in the
// meantime.
TEST(HybridLogTest, PageTurnDuringAVersionShiftRaisesTheFloorAndKeepsTheBit) {
  LogRig rig({});
  Must(rig.FillUntilPage(8, 4080));
  Must(rig.HelpUntilIdle());
  rig.log().BeginVersionShift();
  Must(rig.FillUntilPage(14, 4080));
  Must(rig.HelpUntilIdle());
  const std::uint64_t floor = rig.log().read_only().value();
  EXPECT_GT(floor, rig.geometry().PageStart(8).value());
  EXPECT_EQ(rig.log().update_from(), floor | kInfinity);
  rig.log().EndVersionShift(rig.geometry().PageStart(8));
  EXPECT_EQ(rig.log().update_from(), floor);
}

TEST(HybridLogTest, FailedVersionShiftsLeaveBoundariesOnWholeBlocks) {
  // A floor in the middle of a block once became the read-only boundary, and the flush wrote
  // nothing and said that it had moved, forever.
  LogRig rig({});
  Must(rig.AppendExtent(64));
  rig.log().BeginVersionShift();
  rig.log().EndVersionShift(rig.log().tail());
  for (int i = 0; i < 100; ++i) Must(rig.log().RunMaintenanceStep().status());
  EXPECT_FALSE(*rig.log().RunMaintenanceStep());
  EXPECT_EQ(rig.geometry().BlockStart(rig.geometry().BlockOf(rig.log().read_only())),
            rig.log().read_only());
}

TEST(HybridLogTest, BlockedUpdatesStayBlocked) {
  LogRig rig({});
  rig.log().BlockUpdates();
  Must(rig.FillUntilPage(12, 4080));
  EXPECT_NE(rig.log().update_from() & kInfinity, 0U);
}

// ---- Maintenance ----

TEST(HybridLogTest, FlushIntoTheMiddleOfABlockIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  LogRig rig({});
  const Written written = Must(rig.AppendExtent(64));
  EXPECT_DEATH(Must(rig.log().FlushTo(written.address + 64)), "internal error");
}

TEST(HybridLogTest, MaintenanceIsPostedWithAPageTurnAndRunsUntilNothingIsLeft) {
  LogRig rig({});  // a pool without threads
  Must(rig.AppendExtent(4080));
  EXPECT_FALSE(rig.pool().RunOne());
  Must(rig.FillUntilPage(8, 4080));
  // One job for all turns so far, one step at a time: others of the pool come in between.
  int steps = 0;
  int others = 0;
  internal::PoolJob other(rig.pool(), [&] { ++others; });
  EXPECT_TRUE(rig.pool().RunOne());
  for (other.Post(); rig.pool().RunOne(); ++steps) {
    if (others == 0) EXPECT_EQ(steps, 0);
  }
  EXPECT_EQ(others, 1);
  EXPECT_GE(steps, 2);
  EXPECT_EQ(rig.log().flushed_until(), rig.log().read_only());
  EXPECT_FALSE(*rig.log().RunMaintenanceStep());
}

TEST(HybridLogTest, StoppedMaintenanceDoesNothingMore) {
  LogRig rig({});
  Must(rig.FillUntilPage(7, 4080));
  rig.log().StopMaintenance();
  while (rig.pool().RunOne()) {
  }
  EXPECT_TRUE(rig.device().writes().empty());
  Must(rig.FlushAll());  // who needs it does it
  EXPECT_EQ(rig.log().flushed_until(), rig.log().tail());
}

// ---- Memory ----

std::uint64_t ResidentFrameBytes(LogRig& rig) {
  const std::size_t bytes = rig.geometry().frame_slots() * rig.geometry().page_bytes();
  std::vector<unsigned char> resident(bytes / 4096);
  EXPECT_EQ(::mincore(rig.log().Frame(0).data(), bytes, resident.data()), 0);
  return 4096 *
         static_cast<std::uint64_t>(std::count_if(
             resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; }));
}

// Frames lie in a power of two of addresses, of which only the budget may have memory.
TEST(HybridLogTest, OnlyTheBudgetOfFramesIsResident) {
  for (const std::uint64_t frames : {5, 8, 9, 12}) {
    const Geometry geometry{.page_shift = 13, .frame_count = frames};
    LogRig rig(LogRig::FromPageOne(geometry));
    std::vector<Written> all;
    std::uint64_t most = 0;
    for (int i = 0; i < 200; ++i) {
      all.push_back(Must(rig.AppendExtent(2040)));
      most = std::max(most, ResidentFrameBytes(rig));
    }
    EXPECT_LE(most, frames * geometry.page_bytes()) << frames << " frames";
    EXPECT_GE(most, (frames - 1) * geometry.page_bytes()) << frames << " frames";
    Must(rig.FlushAll());
    for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
  }
}

TEST(HybridLogTest, ReleasedMemoryIsFreed) {
  LogRig rig({});
  Must(rig.FillUntilPage(6, 4080));
  EXPECT_GE(ResidentFrameBytes(rig), 5U * 4096);
  rig.log().ReleaseMemory();
  EXPECT_EQ(ResidentFrameBytes(rig), 0U);
}

TEST(HybridLogTest, LogWithoutMemoryIsNotOk) {
  internal::EpochManager epochs(0);
  internal::Health health;
  ScriptDevice device;
  internal::ThreadPool pool(0);
  const Geometry too_large{.page_shift = 26, .frame_count = std::uint64_t{1} << 34};
  const HybridLog log({.geometry = too_large, .shape = {}}, epochs, health, device, pool);
  EXPECT_FALSE(log.ok());
}

// ---- Failures ----

const absl::Status kEio = absl::UnavailableError("write failed: Input/output error");

TEST(HybridLogTest, WriterThatNeedsAFrameHearsOfTheFailedWrite) {
  const absl::Status full = absl::ResourceExhaustedError("no space left on device");
  for (const absl::Status& error : {kEio, full}) {
    LogRig rig({});
    std::vector<Written> all;
    rig.device().FailWrites(1000000, error);
    absl::StatusOr<Written> last = absl::UnknownError("");
    while ((last = rig.AppendExtent(408)).ok()) all.push_back(*last);
    EXPECT_EQ(last.status(), error);
    EXPECT_EQ(rig.log().head_acquire(), rig.log().begin());  // nothing was evicted unwritten
    EXPECT_LE(rig.TailPage(), 9U);
    for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
    EXPECT_EQ(rig.AppendExtent(408).status(), error);  // and again

    rig.device().FailWrites(0, {});
    for (int i = 0; i < 200; ++i) all.push_back(Must(rig.AppendExtent(408)));
    Must(rig.FlushAll());
    for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
    for (std::uint64_t page = 1; page < rig.TailPage(); ++page) {
      EXPECT_TRUE(rig.WalkPageOnDevice(page).has_value()) << page;
    }
  }
}

TEST(HybridLogTest, FailedWriteEndsTheJobAndTheNextPageTurnPostsAnother) {
  LogRig rig({});
  Must(rig.FillUntilPage(7, 4080));
  rig.device().FailWrites(1, kEio);
  while (rig.pool().RunOne()) {  // must come to an end
  }
  EXPECT_TRUE(rig.device().writes().empty());
  Must(rig.FillUntilPage(8, 4080));
  while (rig.pool().RunOne()) {
  }
  EXPECT_FALSE(rig.device().writes().empty());
}

TEST(HybridLogTest, PoisonedStoreDoesNotWaitForFramesThatNeverCome) {
  LogRig rig({});
  rig.device().FailWrites(1000000, kEio);
  while (rig.AppendExtent(4080).ok()) {
  }
  rig.health().Poison(absl::UnavailableError("sync failed"));
  EXPECT_EQ(rig.AppendExtent(4080).status(), rig.health().status());
}

// Hazard 26, with addresses of 16 bits.
TEST(HybridLogTest, UsedUpAddressSpaceIsResourceExhaustedAndEverythingStaysReadable) {
  LogRig rig({.geometry = {.page_shift = 12, .frame_count = 8, .address_bits = 16}});
  std::vector<Written> all;
  absl::StatusOr<Written> last = absl::UnknownError("");
  while ((last = rig.AppendExtent(408)).ok()) all.push_back(*last);
  EXPECT_TRUE(absl::IsResourceExhausted(last.status())) << last.status();
  EXPECT_THAT(last.status().ToString(), HasSubstr("2^16"));
  EXPECT_EQ(all.size(), 15U * 10);  // pages 1 to 15, ten to a page
  EXPECT_TRUE(absl::IsResourceExhausted(rig.AppendExtent(408).status()));
  Must(rig.HelpUntilIdle());
  for (const Written& written : all) EXPECT_TRUE(rig.Holds(written));
}

// Hazard 26, at the real end: the largest page number and the largest addresses. Updates end a
// hundredth before it; the rest is for collections and commits.
TEST(HybridLogTest, LastPagesOfFortyEightBitsAreUsedAndNoMore) {
  const Geometry geometry{.page_shift = 12, .frame_count = 8};
  const std::uint64_t max_pages = std::uint64_t{1} << (Address::kBits - 12);
  for (const bool is_update : {true, false}) {
    const std::uint64_t end_page = is_update ? max_pages - max_pages / 100 : max_pages;
    const Address start = geometry.PageStart(end_page - 20);
    LogRig rig({.geometry = geometry,
                .position = HybridLog::Position{.begin = start,
                                                .head = start,
                                                .tail = start,
                                                .incarnations = {{0, LogRig::kIncarnation}}}});
    absl::Status last;
    if (is_update) {
      std::vector<Written> all;
      absl::StatusOr<Written> written = absl::UnknownError("");
      while ((written = rig.AppendExtent(1360)).ok()) all.push_back(*written);
      last = written.status();
      EXPECT_EQ(all.size(), 20U * 3);
      EXPECT_EQ(all.back().address, geometry.PageStart(end_page - 1) + 2 * 1360);
      Must(rig.HelpUntilIdle());
      for (const Written& record : all) EXPECT_TRUE(rig.Holds(record));
      for (int i = 0; i < 100; ++i) Must(rig.PadBlock(rig.slot(), Space::kCommit));
      EXPECT_TRUE(absl::IsResourceExhausted(rig.AppendExtent(1360).status()))
          << "not in the pages of commits either";
    } else {
      int pages = 0;
      while ((last = rig.PadBlock(rig.slot(), Space::kCommit)).ok()) ++pages;
      EXPECT_EQ(pages, 20);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(last)) << last;
    EXPECT_FALSE(IsRecoverable(last));
    EXPECT_THAT(last.ToString(), HasSubstr(is_update ? "99 %" : "100 %"));
    rig.log().CheckBoundaries();
  }
}

// ---- Threads ----

// Without pool threads only the writers move boundaries, so a full log ends their wait only because
// they help.
TEST(HybridLogTest, WritersThatWaitForFramesMakeThemThemselves) {
  LogRig rig({});
  for (int i = 0; i < 2000; ++i) Must(rig.AppendExtent(4080));
  EXPECT_EQ(rig.log().counters().page_turns.load(std::memory_order_relaxed), 1999U);
}

// Hazards 22 and 27: the fewest frames, records of all sizes, writers that read their older records
// in the meantime; with and without a pool, with both kinds of guards.
struct LoadCase {
  std::uint64_t frames;
  unsigned pool_threads;
  bool force_fallback;

  std::string Name() const {
    return "Frames" + std::to_string(frames) + "Pool" + std::to_string(pool_threads) +
           (force_fallback ? "Exchange" : "");
  }
};
void PrintTo(const LoadCase& load, std::ostream* out) { *out << load.Name(); }

class HybridLogLoadTest : public ::testing::TestWithParam<LoadCase> {};

INSTANTIATE_TEST_SUITE_P(Frames, HybridLogLoadTest,
                         ::testing::Values(LoadCase{4, 0, false}, LoadCase{4, 1, false},
                                           LoadCase{5, 2, false}, LoadCase{8, 0, true},
                                           LoadCase{8, 1, false}, LoadCase{11, 1, true}),
                         [](const auto& parameter) { return parameter.param.Name(); });

TEST_P(HybridLogLoadTest, NothingIsLostAndEveryBlockIsWrittenOnce) {
  constexpr int kWriters = 4;
  constexpr int kRecordsEach = 3000;
  LogRig rig({.geometry = {.page_shift = 12, .frame_count = GetParam().frames},
              .pool_threads = GetParam().pool_threads,
              .force_fallback = GetParam().force_fallback});
  std::vector<std::vector<Written>> written(kWriters);
  Atomic<int> wrong{0};
  const auto write = [&](std::size_t writer) {
    EpochSlot& slot = *rig.epochs().AcquireSlot();
    std::vector<Written>& mine = written[writer];
    std::mt19937_64 random(writer);
    for (int i = 0; i < kRecordsEach; ++i) {
      const std::uint64_t most = random() % 50 == 0 ? 4000 : 300;
      mine.push_back(Must(rig.Append(slot, 8, static_cast<std::uint32_t>(random() % most))));
      const Written& older = mine[random() % mine.size()];
      wrong.fetch_add(!rig.Holds(slot, older), std::memory_order_relaxed);
      rig.log().CheckBoundaries();
    }
    rig.epochs().ReleaseSlot(&slot);
  };
  std::vector<std::thread> writers;
  for (std::size_t i = 0; i < kWriters; ++i) writers.emplace_back(write, i);
  for (std::thread& writer : writers) writer.join();
  Must(rig.FlushAll());
  EXPECT_EQ(wrong.load(std::memory_order_relaxed), 0);

  std::map<std::uint64_t, int> times_written;
  for (const ScriptDevice::WriteCall& call : rig.device().writes()) {
    for (std::uint64_t i = 0; i < call.block_count; ++i) ++times_written[call.block + i];
  }
  EXPECT_EQ(times_written.size(), rig.geometry().BlockOf(rig.log().tail()) - 1);
  for (const auto& [block, times] : times_written) EXPECT_EQ(times, 1) << "block " << block;

  std::uint64_t records = 0;
  for (std::uint64_t page = 1; page < rig.TailPage(); ++page) {
    const auto headers = rig.WalkPageOnDevice(page);
    ASSERT_TRUE(headers.has_value()) << "page " << page;
    for (const RecordHeader header : *headers) records += header.kind() == RecordKind::kRecord;
  }
  EXPECT_EQ(records, kWriters * kRecordsEach);
  for (const std::vector<Written>& mine : written) {
    for (const Written& one : mine) EXPECT_TRUE(rig.Holds(one));
  }
}

// ---- Rejections ----

// Hazard 52: writers that keep trying while the device has no space, or fails every write, with
// records of all sizes, most of them such that a page is filled exactly, and commit extents.
struct RejectionCase {
  int page_shift;
  std::uint64_t frames;
  int writers;

  std::string Name() const {
    return "Shift" + std::to_string(page_shift) + "Frames" + std::to_string(frames) + "Writers" +
           std::to_string(writers);
  }
};
void PrintTo(const RejectionCase& rejection, std::ostream* out) { *out << rejection.Name(); }

class HybridLogRejectionTest : public ::testing::TestWithParam<RejectionCase> {
 protected:
  static constexpr int kRounds = 6;

  // The work of one writer until it has been rejected `rejections` times.
  void WriteUntilRejected(std::size_t writer, std::uint64_t seed, int rejections) {
    EpochSlot& slot = *rig_.epochs().AcquireSlot();
    std::mt19937_64 random(seed);
    while (rejections > 0) {
      if (random() % 16 == 0) {
        rejections -= rig_.PadBlock(slot, Space::kCommit).ok() ? 0 : 1;
      } else {
        const auto bytes = static_cast<std::uint32_t>(Extent(random) - LogRig::kOverheadBytes);
        const absl::StatusOr<Written> written = rig_.Append(slot, 8, bytes);
        rejections -= written.ok() ? 0 : 1;
        if (written.ok()) written_[writer].push_back(*written);
      }
      const std::uint64_t overshoot = rig_.log().overshoot_bytes();
      too_far_.fetch_add(overshoot > written_.size() * payload_, std::memory_order_relaxed);
    }
    rig_.epochs().ReleaseSlot(&slot);
  }
  std::uint64_t Extent(std::mt19937_64& random) const {
    constexpr std::uint64_t kPartsOfAPage[] = {1, 1, 2, 3, 10, 34, 51, 102};
    const std::uint64_t extent = random() % 4 == 0 ? 32 + random() % (payload_ - 32)
                                                   : payload_ / kPartsOfAPage[random() % 8];
    return extent / 8 * 8;
  }
  // Every page that the device holds is records and fillers without a gap.
  std::uint64_t CountRecordsOnDevice() {
    std::uint64_t records = 0;
    for (std::uint64_t page = 1; page < rig_.TailPage(); ++page) {
      const auto headers = rig_.WalkPageOnDevice(page);
      EXPECT_TRUE(headers.has_value()) << "page " << page;
      if (!headers.has_value()) continue;
      for (const RecordHeader header : *headers) records += header.kind() == RecordKind::kRecord;
    }
    return records;
  }

  LogRig rig_{[] {
    LogRig::Setup setup = LogRig::FromPageOne(
        {.page_shift = GetParam().page_shift, .frame_count = GetParam().frames});
    setup.write_batch_bytes = kBlockBytes;
    return setup;
  }()};
  const std::uint64_t payload_ = rig_.geometry().payload_bytes();
  std::vector<std::vector<Written>> written_{static_cast<std::size_t>(GetParam().writers)};
  Atomic<int> too_far_{0};
};

INSTANTIATE_TEST_SUITE_P(Pages, HybridLogRejectionTest,
                         ::testing::Values(RejectionCase{12, 4, 1}, RejectionCase{12, 11, 4},
                                           RejectionCase{13, 5, 4}, RejectionCase{14, 6, 1},
                                           RejectionCase{14, 7, 4}),
                         [](const auto& parameter) { return parameter.param.Name(); });

TEST_P(HybridLogRejectionTest, HoweverOftenCallsAreRejectedTheLogContinuesWhereItStopped) {
  std::mt19937_64 random(Seed());
  const auto rejections_each =
      static_cast<int>(std::max(500.0, 60000 * std::min(1.0, Scale()) / kRounds)) /
      GetParam().writers;
  for (int round = 0; round < kRounds; ++round) {
    if (round % 2 == 0) {
      rig_.device().LimitSpace(rig_.geometry().BlockOf(rig_.log().tail()) + random() % 64);
    } else {
      rig_.device().FailWrites(std::numeric_limits<int>::max(), kEio);
    }
    std::vector<std::thread> writers;
    for (std::size_t i = 0; i < written_.size(); ++i) {
      writers.emplace_back([this, i, seed = random(), rejections_each] {
        WriteUntilRejected(i, seed, rejections_each);
      });
    }
    for (std::thread& writer : writers) writer.join();
    EXPECT_EQ(too_far_.load(std::memory_order_relaxed), 0);
    rig_.log().CheckBoundaries();
    rig_.device().LimitSpace(ScriptDevice::kUnlimited);
    rig_.device().FailWrites(0, absl::OkStatus());
    for (int i = 0; i < 20; ++i) {
      written_[0].push_back(Must(rig_.AppendExtent(std::max<std::uint64_t>(Extent(random), 32))));
    }
  }
  Must(rig_.FlushAll());
  std::uint64_t count = 0;  // in pages that are on the device as a whole
  for (const std::vector<Written>& mine : written_) {
    for (const Written& one : mine) {
      EXPECT_TRUE(rig_.Holds(one));
      count += rig_.geometry().PageOf(one.address) < rig_.TailPage() ? 1 : 0;
    }
  }
  EXPECT_EQ(CountRecordsOnDevice(), count);
}

}  // namespace
}  // namespace ebb::test
