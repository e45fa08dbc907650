// Hashes of keys. They are part of the file format (the log is indexed again from its bytes), so
// the values are fixed for ever; kHashVersion stands in every segment header, golden values in
// hash_test.cc.
//
// Fixed keys of at most 8 bytes, zero-extended: one folded multiply (the high and low half of a
// 128-bit product, xored; after Wang Yi's wyhash). All other keys: XXH3-64, seed 0.
//
// Thread safety: pure functions. Progress: wait-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ebb::internal {

inline constexpr std::uint32_t kHashVersion = 1;

// XXH3-64 of any bytes.
std::uint64_t HashBytes(const void* bytes, std::size_t count);

__extension__ using Uint128 = unsigned __int128;

// Good low and middle bits for consecutive integers too.
inline std::uint64_t HashInteger(std::uint64_t key) {
  const auto product =
      static_cast<Uint128>(key ^ 0x9e3779b97f4a7c15u) * static_cast<Uint128>(0xd6e8feb86659fd93u);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// The hash of a key's bytes; `fixed` when its type has a fixed size.
inline std::uint64_t HashKey(const void* bytes, std::size_t count, bool fixed) {
  if (fixed && count <= 8) {
    std::uint64_t key = 0;
    std::memcpy(&key, bytes, count);
    return HashInteger(key);
  }
  return HashBytes(bytes, count);
}

}  // namespace ebb::internal
