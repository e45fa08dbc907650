#include "tests/support/allocation_count.h"

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EBB_TEST_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define EBB_TEST_SANITIZER 1
#endif
#endif

#ifdef EBB_TEST_SANITIZER
#include <sanitizer/allocator_interface.h>
#endif

namespace ebb::test {
namespace {

// No constructor, so that it can be used before and after everything else of its thread.
constinit thread_local std::uint64_t t_allocation_count = 0;
constinit thread_local std::uint64_t t_failing_number = 0;  // 0: none

}  // namespace

bool FailAllocation(std::uint64_t number) {
  const bool met = t_failing_number != 0 && t_allocation_count >= t_failing_number;
  t_failing_number = number == 0 ? 0 : t_allocation_count + number;
  return met;
}

#ifdef EBB_TEST_SANITIZER

const bool kAllocationsCanFail = false;

namespace {
void CountOne(const volatile void*, std::size_t) { ++t_allocation_count; }
void Ignore(const volatile void*) {}
}  // namespace

std::uint64_t AllocationCount() {
  static const int installed = __sanitizer_install_malloc_and_free_hooks(CountOne, Ignore);
  if (installed == 0) std::abort();
  return t_allocation_count;
}

#else

const bool kAllocationsCanFail = true;

std::uint64_t AllocationCount() { return t_allocation_count; }

namespace {
void* Allocate(std::size_t bytes, std::size_t alignment) {
  if (++t_allocation_count == t_failing_number) throw std::bad_alloc();
  const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, padded == 0 ? alignment : padded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

#endif

}  // namespace ebb::test

#ifndef EBB_TEST_SANITIZER

// The forms for arrays and without exceptions end in these by the language's own definitions.
void* operator new(std::size_t bytes) {
  return ebb::test::Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return ebb::test::Allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

#endif
