// Counts the allocations of the calling thread.
//
//   const std::uint64_t before = AllocationCount();
//   ... code that must not allocate ...
//   EXPECT_EQ(AllocationCount(), before);
//
// Plain builds count operator new, by replacing it. Sanitizer builds count malloc too, by the
// sanitizer's own hook, so that its checks of new and delete stay complete.
//
// In plain builds, a test can also let one of its allocations fail:
//
//   FailAllocation(7);                           // the seventh operator new from now on throws
//   ... code that must report it ...
//   EXPECT_TRUE(FailAllocation(0));              // no more; returns whether it has failed
//
// It can let allocations of the whole process fail too, and selects which of them may:
//
//   const OutsideLibrary outside;                       // the test's own never fail
//   FailAllocations({.first = 7, .count = 3});          // the 7th to the 9th of all that may
//   {
//     const InLibrary call;                             // from here on they may
//     status = store.Commit();
//   }
//   EXPECT_GE(StopFailing(), 1U);                       // how many have failed
//
// Threads that are in neither scope are the library's: theirs may fail. A simulated file system is
// outside.
//
// Thread safety: each thread has its own count, and its own scopes; FailAllocations and StopFailing
// are for one thread.
#pragma once

#include <cstdint>

#include "tests/support/allocation_scope.h"

namespace ebb::test {

std::uint64_t AllocationCount();

// False if allocations cannot be made to fail.
extern const bool kAllocationsCanFail;
// Lets the allocation of this number fail. Returns whether the failure that was set before has
// happened.
bool FailAllocation(std::uint64_t number);

struct AllocationFaults {
  std::uint64_t first = 1;
  std::uint64_t count = 1;
  bool only_library_threads = false;  // none of InLibrary
};
inline constexpr std::uint64_t kAllOfThem = ~std::uint64_t{0} / 2;
void FailAllocations(AllocationFaults faults);
// Ends that. Returns the number of allocations that have failed.
std::uint64_t StopFailing();

}  // namespace ebb::test
