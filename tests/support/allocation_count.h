// Counts what the calling thread allocates.
//
//   const std::uint64_t before = AllocationCount();
//   ... what must not allocate ...
//   EXPECT_EQ(AllocationCount(), before);
//
// Plain builds count operator new, by replacing it; sanitizer builds count malloc too, by the
// sanitizer's own hook, so that its checks of new and delete stay whole.
//
// And lets one of them fail, in plain builds:
//
//   FailAllocation(7);                           // the seventh operator new from now on throws
//   ... what must tell of it ...
//   EXPECT_TRUE(FailAllocation(0));              // no more; whether it has been met
//
// Thread safety: each thread has its own count.
#pragma once

#include <cstdint>

namespace ebb::test {

std::uint64_t AllocationCount();

// False where allocations cannot be made to fail.
extern const bool kAllocationsCanFail;
// Whether the failure that was ordered before has happened.
bool FailAllocation(std::uint64_t number);

}  // namespace ebb::test
