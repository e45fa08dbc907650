// The entry of the test binary.
//
// EBB_FORCE_FALLBACK=1 runs every test without membarrier, as old kernels and ThreadSanitizer
// builds do. The barrier that the guards use is printed to stderr, since programs that list tests
// read stdout.
#include <gtest/gtest.h>

#include <cstdio>

#include "ebb/internal/epoch/epoch.h"
#include "tests/support/fallback.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const bool forced = ebb::test::FallbackIsForced();
  ebb::internal::EpochManager::ForceFallbackForTesting(forced);
  const bool membarrier = ebb::internal::EpochManager(0).uses_membarrier();
  std::fprintf(stderr, "ebb_tests: guards use %s%s\n",
               membarrier ? "membarrier" : "an atomic exchange",
               forced ? " (EBB_FORCE_FALLBACK=1)" : "");
  return RUN_ALL_TESTS();
}
