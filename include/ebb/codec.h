// Codec<T>: how a key or value type lies in the log.
//
// Two kinds of type are built in:
//   * trivially copyable types (integers, plain structs): stored inline, without a length;
//   * std::string: any bytes, passed in as std::string_view, returned as std::string.
// Keys are compared and hashed as bytes, so a key type also needs unique object representations
// (no padding, no floating point). The bytes are those of a little-endian machine.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace ebb {

static_assert(std::endian::native == std::endian::little,
              "ebb's log is little-endian and is not converted");

template <typename T>
struct Codec;

// Plain types: `View` is what calls take, `kFixedBytes` the stored size.
template <typename T>
requires(std::is_trivially_copyable_v<T>&& std::is_default_constructible_v<T>) struct Codec<T> {
  using View = const T&;
  static constexpr bool kFixed = true;
  static constexpr std::size_t kFixedBytes = sizeof(T);
};

// Strings of any bytes, zero bytes included.
template <>
struct Codec<std::string> {
  using View = std::string_view;
  static constexpr bool kFixed = false;
  static constexpr std::size_t kFixedBytes = 0;
};

// What a key may be: a built-in codec, and equal keys have equal bytes.
template <typename T>
concept KeyType = requires {
  Codec<T>::kFixed;
}
&&(!Codec<T>::kFixed || std::has_unique_object_representations_v<T>);

// What a value may be: a built-in codec.
template <typename T>
concept ValueType = requires {
  Codec<T>::kFixed;
};

// What CompareExchange takes: equal values have equal bytes.
template <typename T>
concept ComparableValue = ValueType<T> &&
    (!Codec<T>::kFixed || std::has_unique_object_representations_v<T>);

}  // namespace ebb
