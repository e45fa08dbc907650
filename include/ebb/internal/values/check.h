// EBB_CHECK: stops the program on bugs of ebb itself, before they damage data.
//
// EBB_CHECK is always enabled and is for cold paths; EBB_DCHECK is for hot ones and is enabled in
// sanitizer and debug builds. Neither is ever used to handle an error of the environment.
#pragma once

// Ends the compilation here: otherwise hundreds of errors would follow that name no cause.
#if __cplusplus < 202002L
#error "ebb needs C++20: compile with -std=c++20 (CMake: target_compile_features(... cxx_std_20))"
#include <ebb needs C++20>
#endif

#include <cstdio>
#include <cstdlib>

namespace ebb::internal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr,
               "ebb: internal error: %s:%d: %s does not hold; this is a bug in ebb, or the program "
               "has overwritten memory; the files of the store are as after a crash\n",
               file, line, what);
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

// Out of line: code that most calls do not need, and (cold) code that hardly any call needs.
#define EBB_NOINLINE __attribute__((noinline))
#define EBB_COLD __attribute__((noinline, cold))
#ifdef EBB_INLINE_FREELY  // the compiler decides; this halves the compilation of tests
#define EBB_INLINE inline
#define EBB_INLINE_LAMBDA
#else
#define EBB_INLINE inline __attribute__((always_inline))
#define EBB_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Templates in headers use these to handle a lack of memory. A user may compile them without
// exceptions, and then nothing throws in them.
#ifdef __cpp_exceptions
#define EBB_TRY try
#define EBB_CATCH_NO_MEMORY catch (const std::bad_alloc&)
#else
#define EBB_TRY if constexpr (true)
#define EBB_CATCH_NO_MEMORY else
#endif
