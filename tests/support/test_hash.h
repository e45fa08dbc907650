// The key hash of stores that tests open: they all have the same seed (TinyEnvironment), so tests
// can choose keys that share a chain.
//
// Thread safety: any thread.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "ebb/internal/base/hash.h"

namespace ebb::test {

inline const internal::KeyHash& TestKeyHash() {
  static const internal::KeyHash hash{internal::HashSeed{}};
  return hash;
}
inline std::uint64_t TestHash(std::uint64_t key) { return TestKeyHash().OfInteger(key); }

// Returns the key of 8 bytes that has this XXH3-64 without a seed, by inverting the hash's last
// steps.
inline std::string KeyOfHash(std::uint64_t hash) {
  const auto inverse = [](std::uint64_t odd) {
    std::uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  const std::uint64_t factor = inverse(0x9FB21C651E98DF25);
  std::uint64_t word = hash ^ (hash >> 28) ^ (hash >> 56);
  word *= factor;
  word ^= (word >> 35) + 8;  // 8: the length
  word *= factor;
  for (int i = 0; i < 63; ++i) word = word ^ std::rotl(word, 49) ^ std::rotl(word, 24);
  word ^= 0x1cad21f72c81017c ^ 0xdb979083e96dd4de;  // of the default secret
  word = word << 32 | word >> 32;
  std::string key(8, '\0');
  std::memcpy(key.data(), &word, 8);
  return key;
}

}  // namespace ebb::test
