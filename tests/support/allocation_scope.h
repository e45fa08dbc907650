// The owner of an allocation: the library or the test. See allocation_count.h, which lets those of
// the library fail.
//
// It has no source file. So a simulated file system can declare that its allocations are the test's
// in any program, also in those that do not count allocations.
//
// Thread safety: each thread has its own scopes.
#pragma once

#include <cstdint>
#include <utility>

namespace ebb::test {

// A thread that declares nothing is one of the library's.
enum class AllocationScope : std::uint8_t { kLibraryThread, kCall, kTest };
// No constructor, so that it can be used before and after everything else of its thread.
inline constinit thread_local AllocationScope t_allocation_scope = AllocationScope::kLibraryThread;

class ScopeOfAllocations {
 public:
  explicit ScopeOfAllocations(AllocationScope scope)
      : before_(std::exchange(t_allocation_scope, scope)) {}
  ~ScopeOfAllocations() { t_allocation_scope = before_; }
  ScopeOfAllocations(const ScopeOfAllocations&) = delete;
  ScopeOfAllocations& operator=(const ScopeOfAllocations&) = delete;

 private:
  const AllocationScope before_;
};
class OutsideLibrary : private ScopeOfAllocations {
 public:
  OutsideLibrary() : ScopeOfAllocations(AllocationScope::kTest) {}
};
class InLibrary : private ScopeOfAllocations {
 public:
  InLibrary() : ScopeOfAllocations(AllocationScope::kCall) {}
};
// Returns the result of the call, whose allocations may fail.
template <typename Call>
auto Inside(Call call) {
  const InLibrary in_library;
  return call();
}

}  // namespace ebb::test
