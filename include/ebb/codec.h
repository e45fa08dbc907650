/// @file
/// Codecs: how the types of keys and values are stored in the log.
///
/// Two kinds of type are built in:
///
/// * trivially copyable types (integers, plain structs): stored inline, without a length;
/// * std::string: any bytes; passed in as std::string_view, returned as std::string.
///
/// Keys are compared and hashed as bytes. So a key type also needs unique object representations:
/// no padding and no floating point. The bytes are those of a little-endian machine. See ebb::Codec
/// for other types, and ebb::EbbTypeName for the names of types.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "ebb/internal/values/check.h"

namespace ebb {

static_assert(std::endian::native == std::endian::little,
              "ebb's log is little-endian and is not converted");

/// The codec of a type that is not built in. A program specializes it for each such key or value
/// type, which must have a default constructor:
///
///     template <>
///     struct ebb::Codec<Order> {
///       static constexpr std::uint32_t kVersion = 1;
///       static void Encode(const Order& order, std::string& out);         // appends to `out`
///       static bool Decode(std::string_view bytes, Order& order);         // false: not an Order
///     };
///
/// Such a type is stored as the bytes that Encode appends, of any length, and passed as const T&.
///
/// * Equal keys must have equal encodings, because keys are compared and hashed as those bytes.
///   CompareExchange compares values in the same way.
/// * Decode receives bytes that Encode made, in this version of the program or, if kVersion has not
///   changed, an earlier one. It must not trust the bytes beyond that. If Decode returns false, the
///   call that needed the value returns DataLoss, and an Rmw has no effect.
/// * kVersion, from 1 to 65,535, is stored with the store. If it is omitted, it is 1. Opening a
///   store that has another version fails with FailedPrecondition. Change kVersion when old bytes
///   can no longer be decoded.
/// * Encode and Decode may throw. They must not call the store.
/// * `static constexpr bool kValueOnly = true` declares that equal values may have several
///   encodings. Such a type cannot be a key and has no CompareExchange.
/// * `static absl::Status Usable()` is optional. Open calls it and returns its error.
template <typename T>
struct Codec;

/// The name of a type in the files of a store; empty for a type without a name.
///
/// A store records the names of its types. Integers, floating-point types, bool, enums and
/// std::string have built-in names, so opening a store with another type of the same size fails
/// with FailedPrecondition. A program can name a plain struct, a type with a codec, or an enum:
///
///     template <>
///     inline constexpr std::string_view ebb::EbbTypeName<shop::Order> = "shop.Order";
///
/// Without names, two structs of the same size cannot be distinguished. A store that was created
/// with an unnamed struct can be opened after the struct has been named. Otherwise the names must
/// be equal.
template <typename T>
inline constexpr std::string_view EbbTypeName = {};

/// A plain type. `kFixedBytes` is its stored size.
template <typename T>
requires(std::is_trivially_copyable_v<T>&& std::is_default_constructible_v<T>) struct Codec<T> {
  /// The type is stored inline, without a length.
  static constexpr bool kFixed = true;
  /// The stored size in bytes.
  static constexpr std::size_t kFixedBytes = sizeof(T);
};

/// A string of any bytes, including zero bytes.
template <>
struct Codec<std::string> {
  /// Strings are stored with a length.
  static constexpr bool kFixed = false;
  /// There is no fixed size.
  static constexpr std::size_t kFixedBytes = 0;
};

namespace internal {

template <typename T>
concept BuiltIn = requires {
  Codec<T>::kFixed;
};

}  // namespace internal

/// A type with a codec of the program (see ebb::Codec).
template <typename T>
concept Coded = !internal::BuiltIn<T> && std::is_default_constructible_v<T> &&
                requires(const T& value, T& read, std::string& out, std::string_view bytes) {
  Codec<T>::Encode(value, out);
  { Codec<T>::Decode(bytes, read) } -> std::same_as<bool>;
};

/// The types that can be keys: equal values have equal bytes.
template <typename T>
concept KeyType = (Coded<T> && !requires { Codec<T>::kValueOnly; }) ||
                  (internal::BuiltIn<T> &&
                   (!Codec<T>::kFixed || std::has_unique_object_representations_v<T>));

/// The types that can be values.
template <typename T>
concept ValueType = Coded<T> || internal::BuiltIn<T>;

/// The types that CompareExchange accepts: equal values have equal bytes.
template <typename T>
concept ComparableValue = ValueType<T> && KeyType<T>;

namespace internal {

// The stored form of a T: itself, or the bytes of its codec.
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

// The codec versions of a store's types in one word, as its files hold it.
template <typename Key, typename Value>
inline constexpr std::uint32_t kCodecWord =
    StoredAs<Key>::kVersion << 16 | StoredAs<Value>::kVersion;

// The name of a type in the files of a store. Arithmetic types and strings have fixed names.
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

/// The type in which calls take a T: std::string_view for strings, T itself for trivially copyable
/// types of at most 8 bytes, and otherwise const T&.
template <typename T>
using ViewOf = typename internal::StoredAs<T>::View;

}  // namespace ebb
