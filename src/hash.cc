#include "ebb/internal/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ebb::internal {

std::uint64_t HashBytes(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

}  // namespace ebb::internal
