// Stamp: values that identify themselves.
//
// A stamped value carries a number and a proof that belongs to the number and to the key. So a
// reader detects a torn value, a value of another key, and bytes that were never a value. A
// string's stamp also determines each byte after it, at any length.
//
//   db.Upsert(key, Stamp<V>::Make(key, 41, room));
//   db.Rmw(key, [&](V& v) { Stamp<V>::Add(key, 1, room, v); });      // absent counts from 0
//   std::optional<std::uint64_t> n = Stamp<V>::Number(key, value);   // nothing: not a value of key
//
// `room` is the number of bytes of a string after its stamp; other types do not use it.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {

// Mixes two numbers into evenly distributed bits.
inline std::uint64_t Mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9e3779b97f4a7c15u ^ (b + 0x632be59bd9b4e019u) * 0xd6e8feb86659fd93u;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 29);
}

template <typename Value>
struct Stamp;

// The number in the high 48 bits, its proof in the low 16.
template <>
struct Stamp<std::uint64_t> {
  static std::uint64_t Make(std::uint64_t key, std::uint64_t number, std::size_t) {
    return number << 16 | (Mix(key, number) & 0xffff);
  }
  static std::optional<std::uint64_t> Number(std::uint64_t key, std::uint64_t value) {
    const std::uint64_t number = value >> 16;
    if (value != Make(key, number, 0)) return std::nullopt;
    return number;
  }
  static void Add(std::uint64_t key, std::uint64_t by, std::size_t, std::uint64_t& value) {
    value = Make(key, (value >> 16) + by, 0);
  }
};

template <>
struct Stamp<Triple> {
  static Triple Make(std::uint64_t key, std::uint64_t number, std::size_t) {
    return {number, Mix(key, number), ~number};
  }
  static std::optional<std::uint64_t> Number(std::uint64_t key, const Triple& value) {
    if (value != Make(key, value.a, 0)) return std::nullopt;
    return value.a;
  }
  static void Add(std::uint64_t key, std::uint64_t by, std::size_t, Triple& value) {
    value = Make(key, value.a + by, 0);
  }
};

// Number, proof, and `room` bytes of a pattern of both.
template <>
struct Stamp<std::string> {
  static std::string Make(std::uint64_t key, std::uint64_t number, std::size_t room) {
    const std::uint64_t words[2] = {number, Mix(key, number)};
    std::string value(sizeof words + room, Filler(key, number));
    std::memcpy(value.data(), words, sizeof words);
    return value;
  }
  static std::optional<std::uint64_t> Number(std::uint64_t key, std::string_view value) {
    std::uint64_t words[2];
    if (value.size() < sizeof words) return std::nullopt;
    std::memcpy(words, value.data(), sizeof words);
    if (words[1] != Mix(key, words[0])) return std::nullopt;
    const std::string_view rest = value.substr(sizeof words);
    if (rest.find_first_not_of(Filler(key, words[0])) != rest.npos) return std::nullopt;
    return words[0];
  }
  static void Add(std::uint64_t key, std::uint64_t by, std::size_t room, std::string& value) {
    std::uint64_t number = 0;
    if (!value.empty()) std::memcpy(&number, value.data(), sizeof number);
    value = Make(key, number + by, room);
  }

 private:
  static char Filler(std::uint64_t key, std::uint64_t number) {
    return static_cast<char>(Mix(number, key) & 0xff);
  }
};

// `count` keys from `first` on whose hashes agree in the low 16 bits, which is the bucket and the
// tag of a store made with an index of two buckets: they share one chain there.
inline std::vector<std::uint64_t> KeysOfOneChain(std::size_t count, std::uint64_t first) {
  std::vector<std::uint64_t> keys{first};
  const std::uint64_t low = TestHash(first) & 0xffff;
  for (std::uint64_t key = first + 1; keys.size() < count; ++key) {
    if ((TestHash(key) & 0xffff) == low) keys.push_back(key);
  }
  return keys;
}

}  // namespace ebb::test
