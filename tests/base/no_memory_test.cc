// Unit tests of how the library reports that memory is out: without allocating.
#include "ebb/internal/base/no_memory.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "absl/status/statusor.h"
#include "tests/support/allocation_count.h"

namespace ebb::internal {
namespace {

using test::AllocationCount;

TEST(NoMemoryTest, FixedStatusesAreCopiedWithoutAnAllocation) {
  const FixedStatuses& fixed = Fixed();
  EXPECT_TRUE(absl::IsResourceExhausted(fixed.no_memory));
  EXPECT_TRUE(absl::IsFailedPrecondition(fixed.closed));
  EXPECT_TRUE(absl::IsFailedPrecondition(fixed.forked));
  EXPECT_TRUE(absl::IsFailedPrecondition(fixed.reentered));
  EXPECT_TRUE(absl::IsFailedPrecondition(fixed.in_memory));
  EXPECT_TRUE(absl::IsFailedPrecondition(fixed.read_only));
  EXPECT_TRUE(absl::IsUnavailable(fixed.poisoned));
  EXPECT_TRUE(absl::IsUnavailable(fixed.failed_sync));
  EXPECT_NE(NoMemory().message(), "");
  const std::uint64_t before = AllocationCount();
  {
    const absl::Status copy = NoMemory();
    const absl::StatusOr<int> or_value = Fixed().closed;
    absl::Status assigned;
    assigned = copy;
    assigned.Update(or_value.status());
  }
  EXPECT_EQ(AllocationCount(), before);
}

TEST(NoMemoryTest, TurnsAFailedAllocationIntoAStatus) {
  EXPECT_EQ(CatchNoMemory([]() -> absl::Status { throw std::bad_alloc(); }), NoMemory());
  EXPECT_EQ(CatchNoMemory([]() -> absl::StatusOr<int> { throw std::bad_alloc(); }).status(),
            NoMemory());
  EXPECT_EQ(*CatchNoMemory([]() -> absl::StatusOr<int> { return 3; }), 3);
  EXPECT_THROW(static_cast<void>(
                   CatchNoMemory([]() -> absl::Status { throw std::runtime_error("a user's"); })),
               std::runtime_error);
}

TEST(NoMemoryTest, ATextThatCannotBeMadeIsShorter) {
  const absl::Status status = absl::UnavailableError("a message that is longer than short ones");
  EXPECT_EQ(TextOf(status), status.ToString());
  if (!test::kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  test::FailAllocation(1);
  const std::string text = TextOf(status);
  EXPECT_TRUE(test::FailAllocation(0));
  EXPECT_EQ(text, "UNAVAILABLE");
}

}  // namespace
}  // namespace ebb::internal
