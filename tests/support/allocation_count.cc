#include "tests/support/allocation_count.h"

#include <atomic>
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

std::atomic<bool> g_faults_armed{false};
std::atomic<std::uint64_t> g_first{0};
std::atomic<std::uint64_t> g_count{0};
std::atomic<bool> g_only_library_threads{false};
std::atomic<std::uint64_t> g_number{0};
std::atomic<std::uint64_t> g_failed_count{0};

[[maybe_unused]] bool Fails() {
  if (!g_faults_armed.load(std::memory_order_acquire)) return false;
  if (t_allocation_scope == AllocationScope::kTest) return false;
  if (t_allocation_scope == AllocationScope::kCall &&
      g_only_library_threads.load(std::memory_order_relaxed)) {
    return false;
  }
  const std::uint64_t number = g_number.fetch_add(1, std::memory_order_relaxed) + 1;
  const std::uint64_t first = g_first.load(std::memory_order_relaxed);
  if (number < first || number - first >= g_count.load(std::memory_order_relaxed)) return false;
  g_failed_count.fetch_add(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

void FailAllocations(AllocationFaults faults) {
  g_first.store(faults.first, std::memory_order_relaxed);
  g_count.store(faults.count, std::memory_order_relaxed);
  g_only_library_threads.store(faults.only_library_threads, std::memory_order_relaxed);
  g_number.store(0, std::memory_order_relaxed);
  g_failed_count.store(0, std::memory_order_relaxed);
  g_faults_armed.store(true, std::memory_order_release);
}

std::uint64_t StopFailing() {
  g_faults_armed.store(false, std::memory_order_release);
  return g_failed_count.load(std::memory_order_relaxed);
}

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
  if (++t_allocation_count == t_failing_number || Fails()) throw std::bad_alloc();
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
