// Types of keys and values for typed suites: how each is created from a number, and changed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ebb/codec.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {

// With its own codec.
struct Word {
  std::string text;
  bool operator==(const Word&) const = default;
};

}  // namespace ebb::test

template <>
struct ebb::Codec<ebb::test::Word> {
  static void Encode(const ebb::test::Word& word, std::string& bytes) { bytes += word.text; }
  static bool Decode(std::string_view bytes, ebb::test::Word& word) {
    word.text = bytes;
    return true;
  }
};

namespace ebb::test {
// How a type of key or value is created from a number, and changed.
template <typename T>
struct Make;
template <>
struct Make<std::uint64_t> {
  static std::uint64_t From(std::uint64_t n) { return n; }
  static void Edit(std::uint64_t& value, std::uint64_t n) { value = value * 3 + n; }
};
template <>
struct Make<Triple> {
  static Triple From(std::uint64_t n) { return {n, n + 1, n + 2}; }
  static void Edit(Triple& value, std::uint64_t n) { value = {value.b, value.c, n}; }
};
template <>
struct Make<std::string> {
  static std::string From(std::uint64_t n) {
    return std::to_string(n) + std::string(n * 7 % 90, 's');
  }
  static void Edit(std::string& value, std::uint64_t n) {
    value = From(n) + value.substr(0, value.size() / 2);
  }
};
template <>
struct Make<Word> {
  static Word From(std::uint64_t n) { return {Make<std::string>::From(n)}; }
  static void Edit(Word& value, std::uint64_t n) { Make<std::string>::Edit(value.text, n); }
};

template <typename Key, typename Value>
struct Pair {
  using KeyType = Key;
  using ValueType = Value;
};
using KeyValuePairs =
    testing::Types<Pair<std::uint64_t, std::uint64_t>, Pair<std::uint64_t, Triple>,
                   Pair<std::uint64_t, std::string>, Pair<std::string, std::uint64_t>,
                   Pair<std::string, std::string>, Pair<std::string, Word>, Pair<Word, Word>>;
}  // namespace ebb::test
