// Codec<T>: how a key or value type lies in the log.
//
// Two kinds of type are built in:
//   * trivially copyable types (integers, plain structs): stored inline, without a length;
//   * std::string: any bytes, passed in as std::string_view, returned as std::string.
// Keys are compared and hashed as bytes, so a key type also needs unique object representations
// (no padding, no floating point). The bytes are those of a little-endian machine.
//
// Any other type with a default constructor becomes a key or a value when a program says how:
//
//   template <>
//   struct ebb::Codec<Order> {
//     static constexpr std::uint32_t kVersion = 1;
//     static void Encode(const Order& order, std::string& out);             // appends to `out`
//     static bool Decode(std::string_view bytes, Order& order);             // false: not an Order
//   };
//
// Such a type is stored as the bytes that Encode makes, of any length, and passed as const T&.
//   * Keys that are equal must be encoded alike, for they are compared and hashed as those bytes;
//     CompareExchange compares values so, too.
//   * Decode is given bytes that Encode has made, in this version or, if kVersion was not changed,
//     an earlier one of the program. When it answers false the call that needed the value is
//     DataLoss, and an Rmw has no effect. It must not trust the bytes more than that.
//   * kVersion, from 1 (which is what it is if it is left out) to 65,535, is kept with the store:
//     opening with another one is FailedPrecondition. Change it when old bytes cannot be read.
//   * Encode and Decode may throw; they must not call the store.
//   * `static constexpr bool kValueOnly = true` says that equal values may have several encodings:
//     such a type is no key, and there is no CompareExchange.
//   * `static absl::Status Usable()`, if there is one, is asked by Open, which answers its error.
//
// A store knows its types. Integers, floating point, bool, enums and std::string have names in its
// files, so that opening it with another type of the same size fails with FailedPrecondition. A
// plain struct or a type with a codec gets a name from the program (and so may an enum):
//
//   template <>
//   inline constexpr std::string_view ebb::EbbTypeName<shop::Order> = "shop.Order";
//
// Without a name, two structs of one size cannot be told apart. A store that was created with a
// struct without a name can be opened after the struct has got one. Otherwise names must be equal.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "ebb/internal/check.h"

namespace ebb {

static_assert(std::endian::native == std::endian::little,
              "ebb's log is little-endian and is not converted");

template <typename T>
struct Codec;

template <typename T>
inline constexpr std::string_view EbbTypeName = {};

// Plain types: `kFixedBytes` is the stored size.
template <typename T>
requires(std::is_trivially_copyable_v<T>&& std::is_default_constructible_v<T>) struct Codec<T> {
  static constexpr bool kFixed = true;
  static constexpr std::size_t kFixedBytes = sizeof(T);
};

// Strings of any bytes, zero bytes included.
template <>
struct Codec<std::string> {
  static constexpr bool kFixed = false;
  static constexpr std::size_t kFixedBytes = 0;
};

namespace internal {

template <typename T>
concept BuiltIn = requires {
  Codec<T>::kFixed;
};

}  // namespace internal

// A type of the program's own, see above.
template <typename T>
concept Coded = !internal::BuiltIn<T> && std::is_default_constructible_v<T> &&
                requires(const T& value, T& read, std::string& out, std::string_view bytes) {
  Codec<T>::Encode(value, out);
  { Codec<T>::Decode(bytes, read) } -> std::same_as<bool>;
};

// What a key may be: one whose equal values have equal bytes.
template <typename T>
concept KeyType = (Coded<T> && !requires { Codec<T>::kValueOnly; }) ||
                  (internal::BuiltIn<T> &&
                   (!Codec<T>::kFixed || std::has_unique_object_representations_v<T>));

// What a value may be.
template <typename T>
concept ValueType = Coded<T> || internal::BuiltIn<T>;

// What CompareExchange takes: equal values have equal bytes.
template <typename T>
concept ComparableValue = ValueType<T> && KeyType<T>;

namespace internal {

// What lies in the log for a T: itself, or the bytes of its codec.
template <typename T>
struct StoredAs {
  using Type = T;
  using View = std::conditional_t<std::is_trivially_copyable_v<T> && sizeof(T) <= 8, T, const T&>;
  static constexpr std::uint32_t kVersion = 0;
};
template <>
struct StoredAs<std::string> {
  using Type = std::string;
  using View = std::string_view;
  static constexpr std::uint32_t kVersion = 0;
};
template <Coded T>
struct StoredAs<T> {
  using Type = std::string;
  using View = const T&;
  static constexpr std::uint32_t kVersion = [] {
    if constexpr (requires { Codec<T>::kVersion; }) {
      return Codec<T>::kVersion;
    } else {
      return 1;
    }
  }();
  static_assert(kVersion >= 1 && kVersion <= 0xffff, "a codec's version is from 1 to 65,535");
};
template <typename T>
using Stored = typename StoredAs<T>::Type;

// The codecs of a store's types in one word, as its files hold it.
template <typename Key, typename Value>
inline constexpr std::uint32_t kCodecWord =
    StoredAs<Key>::kVersion << 16 | StoredAs<Value>::kVersion;

// The name of a type in the files of a store. Arithmetic types and strings have fixed ones.
struct TypeName {
  std::string_view name;  // empty: none
  bool built_in = false;
};
template <typename T>
constexpr TypeName NameOfType() {
  constexpr std::string_view kNames[4][4] = {{"u8", "u16", "u32", "u64"},
                                             {"i8", "i16", "i32", "i64"},
                                             {"enum u8", "enum u16", "enum u32", "enum u64"},
                                             {"enum i8", "enum i16", "enum i32", "enum i64"}};
  [[maybe_unused]] constexpr auto kSize = static_cast<std::size_t>(std::bit_width(sizeof(T)) - 1);
  if constexpr (std::is_same_v<T, std::string>) {
    return {"string", true};
  } else if constexpr (std::is_same_v<T, bool>) {
    return {"bool", true};
  } else if constexpr (std::is_same_v<T, char>) {
    return {"char", true};  // signed on some machines
  } else if constexpr (std::is_floating_point_v<T>) {
    return {sizeof(T) == 4 ? "f32" : sizeof(T) == 8 ? "f64" : "long double", true};
  } else if constexpr (std::is_integral_v<T> && sizeof(T) <= 8) {
    return {kNames[std::is_signed_v<T>][kSize], true};
  } else if constexpr (!EbbTypeName<T>.empty()) {
    return {EbbTypeName<T>, false};
  } else if constexpr (std::is_enum_v<T> && sizeof(T) <= 8) {
    return {kNames[2 + std::is_signed_v<std::underlying_type_t<T>>][kSize], true};
  } else {
    return {};
  }
}

}  // namespace internal

// How calls take a T: std::string_view for strings, T itself when it is at most a word, else
// const T&.
template <typename T>
using ViewOf = typename internal::StoredAs<T>::View;

}  // namespace ebb
