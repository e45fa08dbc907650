// Hashes of keys. They are part of the file format, because the index is rebuilt from the log: the
// functions never change under one kHashVersion, which every segment header holds. hash_test.cc has
// golden values.
//
// Each store has a random seed of 128 bits, s0 and s1, in its segment headers.
//   fixed keys of at most 8 bytes, zero-extended: fold(fold(k ^ s0)), where fold(x) is the high
//     half of the 128-bit product x * (s1 | 1), xored with its low half (after Wang Yi's wyhash)
//   all other keys: XXH3-64 with a secret of 192 bytes; its 24 words are the unseeded XXH3-64 of
//     s0, s1 and the word's number
//
// Purpose of the seed: an attacker who chooses keys without knowing the seed cannot make many of
// them share a chain of records, whatever the size of the index. So an attacker who can only write
// keys cannot make the store slow. This is no cryptographic guarantee: the seed can be read in the
// store's files and backups, and might be inferred from many exact measurements of time.
//
// Reason for two folds: both halves of one product are linear in the key, and one seed in twenty
// clustered evenly spaced keys: of 4,096 keys k * 2^22 in 512 bucket chains, 1,494 were in one of
// them, instead of 23. With two folds none of 1,000 seeds differs from a random function, whatever
// the stride. The second fold costs two instructions; the seed in memory saves one of them.
//
// Thread safety: pure functions, and objects that never change. Progress: wait-free.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ebb/internal/values/check.h"

namespace ebb::internal {

inline constexpr std::uint32_t kHashVersion = 2;

// XXH3-64 of any bytes, unseeded.
std::uint64_t HashBytes(const void* bytes, std::size_t count);

// Returns the high half of the product, xored with the low half.
EBB_INLINE std::uint64_t FoldedProduct(std::uint64_t a, std::uint64_t b) {
#if defined(__x86_64__)
  // For two products in a row, gcc 12 would store the halves of the first one on the stack.
  std::uint64_t high;
  asm("mulq %2" : "+a"(a), "=d"(high) : "rm"(b) : "cc");
  return a ^ high;
#else
  __extension__ using Uint128 = unsigned __int128;
  const auto product = static_cast<Uint128>(a) * static_cast<Uint128>(b);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
#endif
}

// An unseeded hash of numbers that no attacker chooses: of ids and block numbers, in checksums. All
// versions of the format use it, so that headers of another version verify.
inline std::uint64_t HashInteger(std::uint64_t key) {
  return FoldedProduct(key ^ 0x9e3779b97f4a7c15u, 0xd6e8feb86659fd93u);
}

// The default is a fixed seed, for tests and for indexes that hash nothing.
struct HashSeed {
  std::uint64_t s0 = 0x9e3779b97f4a7c15;
  std::uint64_t s1 = 0xd6e8feb86659fd93;
  bool operator==(const HashSeed&) const = default;
  // A multiplier with few or nearly all bits set mixes badly. 99.8% of random seeds are good.
  bool IsGood() const;
};

// The hash of one store's keys.
class KeyHash {
 public:
  explicit KeyHash(HashSeed seed);

  EBB_INLINE std::uint64_t OfInteger(std::uint64_t key) const {
    return FoldedProduct(FoldedProduct(key ^ mask_, multiplier_), multiplier_);
  }
  std::uint64_t OfBytes(const void* bytes, std::size_t count) const;
  // Returns the hash of a key's bytes; `fixed` if its type has a fixed size.
  EBB_INLINE std::uint64_t Of(const void* bytes, std::size_t count, bool fixed) const {
    if (fixed && count <= 8) {
      std::uint64_t key = 0;
      std::memcpy(&key, bytes, count);
      return OfInteger(key);
    }
    return OfBytes(bytes, count);
  }

 private:
  // First, so that they share a cache line with the members before the object (hash_index.h).
  std::uint64_t mask_;
  std::uint64_t multiplier_;
  std::array<std::uint64_t, 24> secret_;
};

}  // namespace ebb::internal
