#include "ebb/internal/log/log_space.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "ebb/internal/format/block.h"
#include "ebb/status.h"
#include "tests/support/log_rig.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::EpochGuard;
using internal::kBlockPayloadBytes;
using internal::Space;

constexpr std::uint64_t kExtent = 1360;

// A log whose device has space for `blocks` blocks beyond its tail.
class LogSpaceTest : public ::testing::Test {
 protected:
  void LimitTo(std::uint64_t blocks) {
    rig_.device().LimitSpace(rig_.geometry().BlockOf(rig_.log().tail()) + blocks);
  }
  // Appends fillers of one class until they are rejected. Returns their number.
  std::uint64_t Exhaust(Space space) {
    for (std::uint64_t count = 0;;) {
      {
        const EpochGuard guard(rig_.epochs(), rig_.slot());
        const Address at = rig_.log().Allocate(kExtent, guard, space);
        if (!at.is_null()) {
          internal::AtomicRecordHeader(rig_.log().At(at, guard))
              .StoreRelaxed(
                  internal::RecordHeader::MakeExtent(internal::RecordKind::kFiller, kExtent));
          ++count;
          continue;
        }
      }
      const absl::Status status = rig_.log().WaitForPage(kExtent, space);
      if (!status.ok()) {
        EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
        return count;
      }
    }
  }
  internal::LogSpace& space() { return rig_.log().space(); }

  LogRig rig_{LogRig::FromPageOne(LogRig::kTwoBlocks)};
};

TEST_F(LogSpaceTest, EachClassUsesItsSliceAfterTheClassesBeforeIt) {
  LimitTo(200);
  EXPECT_GT(Exhaust(Space::kOrdinary), 0U);
  EXPECT_TRUE(space().is_short());
  EXPECT_EQ(Exhaust(Space::kOrdinary), 0U);
  EXPECT_GT(Exhaust(Space::kDeletion), 0U);
  const auto collection = space().ForCollection();
  EXPECT_GT(collection.slice_blocks, 2 * collection.waste_blocks);
  EXPECT_GT(Exhaust(Space::kCollection), 0U);
  EXPECT_EQ(Exhaust(Space::kDeletion), 0U);
  // A commit is always possible, also the one after a rejected commit.
  EXPECT_GE(Exhaust(Space::kCommit), 4U);
  EXPECT_EQ(Exhaust(Space::kOrdinary), 0U);
}

TEST_F(LogSpaceTest, SpaceThatComesBackIsUsedAtOnce) {
  LimitTo(60);
  Exhaust(Space::kOrdinary);
  Exhaust(Space::kDeletion);
  LimitTo(300);
  EXPECT_GT(Exhaust(Space::kOrdinary), 0U);
  LimitTo(1000);
  Must(rig_.log().WaitForPage());
  EXPECT_FALSE(space().is_short());
}

TEST_F(LogSpaceTest, CommitsThatFollowNoRecordAreCheckedFirst) {
  LimitTo(200);
  Exhaust(Space::kOrdinary);
  Must(space().CheckIdleCommit(/*is_needed=*/false));
  Exhaust(Space::kDeletion);
  EXPECT_FALSE(space().CheckIdleCommit(/*is_needed=*/false).ok());
  Exhaust(Space::kCollection);
  Must(space().CheckIdleCommit(/*is_needed=*/true));
  Exhaust(Space::kCommit);
  EXPECT_FALSE(space().CheckIdleCommit(/*is_needed=*/true).ok());
}

// Records of sessions are written by each commit, so the slices must have room for a longer list.
TEST_F(LogSpaceTest, ALongerListOfSessionsNeedsSpace) {
  LimitTo(200);
  Exhaust(Space::kOrdinary);
  const std::uint64_t waste = space().ForCollection().waste_blocks;
  EXPECT_FALSE(space().SetSessionsBytes(400 * kBlockPayloadBytes).ok());
  EXPECT_EQ(space().ForCollection().waste_blocks, waste);  // as before
  LimitTo(200);
  Must(space().SetSessionsBytes(kBlockPayloadBytes));
  EXPECT_EQ(space().ForCollection().waste_blocks, waste + 3);
}

TEST_F(LogSpaceTest, LastHundredthOfTheAddressesIsForCollectionsAndCommits) {
  const std::uint64_t pages = rig_.geometry().max_pages();
  EXPECT_EQ(space().EndPage(Space::kCommit), pages);
  EXPECT_EQ(space().EndPage(Space::kCollection), pages);
  EXPECT_EQ(space().EndPage(Space::kDeletion), pages - pages / 100);
  EXPECT_EQ(space().EndPage(Space::kOrdinary), pages - pages / 100);
}

}  // namespace
}  // namespace ebb::test
