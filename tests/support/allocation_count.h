// Counts what the calling thread allocates.
//
//   const std::uint64_t before = AllocationCount();
//   ... what must not allocate ...
//   EXPECT_EQ(AllocationCount(), before);
//
// Plain builds count operator new, by replacing it; sanitizer builds count malloc too, by the
// sanitizer's own hook, so that its checks of new and delete stay whole.
//
// Thread safety: each thread has its own count.
#pragma once

#include <cstdint>

namespace ebb::test {

std::uint64_t AllocationCount();

}  // namespace ebb::test
