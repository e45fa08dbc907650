// Returns whether this run of the tests works as on kernels without membarrier:
// EBB_FORCE_FALLBACK=1 in the environment.
//
// Thread safety: reads the environment, which no test changes.
#pragma once

#include <cstdlib>
#include <string_view>

namespace ebb::test {

inline bool FallbackIsForced() {
  const char* const value = std::getenv("EBB_FORCE_FALLBACK");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace ebb::test
