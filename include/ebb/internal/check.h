// EBB_CHECK: our own bugs stop the program before they reach anybody's data.
//
// EBB_CHECK is always on and stands on cold paths; EBB_DCHECK is for hot ones and is on in
// sanitizer and debug builds. Neither is ever used to handle an error of the environment.
#pragma once

// Ends the compilation here: the rest would be hundreds of errors that name no cause.
#if __cplusplus < 202002L
#error "ebb needs C++20: compile with -std=c++20 (CMake: target_compile_features(... cxx_std_20))"
#include <ebb needs C++20>
#endif

#include <cstdio>
#include <cstdlib>

namespace ebb::internal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "ebb: internal error: %s:%d: %s does not hold\n", file, line, what);
  std::abort();
}
}  // namespace ebb::internal

#define EBB_CHECK(condition)          \
  (__builtin_expect(!!(condition), 1) \
       ? static_cast<void>(0)         \
       : ::ebb::internal::CheckFailed(__FILE__, __LINE__, #condition))

#if defined(EBB_CHECKED) || !defined(NDEBUG)
#define EBB_DCHECK(condition) EBB_CHECK(condition)
#else
#define EBB_DCHECK(condition) static_cast<void>(0)
#endif

// Out of line: what most calls do not need, and (cold) what hardly any does.
#define EBB_NOINLINE __attribute__((noinline))
#define EBB_COLD __attribute__((noinline, cold))
#ifdef EBB_INLINE_FREELY  // the compiler decides; tests compile in half the time so
#define EBB_INLINE inline
#define EBB_INLINE_LAMBDA
#else
#define EBB_INLINE inline __attribute__((always_inline))
#define EBB_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Templates in headers handle a lack of memory by these. A user may compile them without
// exceptions, and then nothing throws in them.
#ifdef __cpp_exceptions
#define EBB_TRY try
#define EBB_CATCH_NO_MEMORY catch (const std::bad_alloc&)
#else
#define EBB_TRY if constexpr (true)
#define EBB_CATCH_NO_MEMORY else
#endif
