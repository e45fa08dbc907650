#include "ebb/internal/base/hash.h"

#include <bit>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ebb::internal {

std::uint64_t HashBytes(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

bool HashSeed::IsGood() const {
  const int bits = std::popcount(s1);
  return bits >= 20 && bits <= 44;
}

// The secret is derived from the seed, so a segment header stores 16 bytes instead of 192.
KeyHash::KeyHash(HashSeed seed) : mask_(seed.s0), multiplier_(seed.s1 | 1) {
  for (std::size_t i = 0; i < secret_.size(); ++i) {
    const std::uint64_t words[3] = {seed.s0, seed.s1, i};
    secret_[i] = HashBytes(words, sizeof(words));
  }
}

std::uint64_t KeyHash::OfBytes(const void* bytes, std::size_t count) const {
  return XXH3_64bits_withSecret(bytes, count, secret_.data(), sizeof(secret_));
}

}  // namespace ebb::internal
