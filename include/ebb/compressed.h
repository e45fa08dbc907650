/// @file
/// Declares ebb::Compressed, a value that is stored compressed.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "ebb/codec.h"
#include "ebb/internal/values/compression.h"

namespace ebb {

/// A value that is stored compressed with LZ4 if that makes it shorter.
///
///     using Pages = ebb::Store<std::string, ebb::Compressed<std::string>>;
///     auto db = ebb::Must(Pages::Open("pages.ebb"));
///     ebb::Must(db.Upsert("home", {html}));
///     std::string home = ebb::Must(db.Read("home")).value;
///
/// T is any value type. Each value is compressed separately when it is written, and again by each
/// Rmw. Compression is worthwhile for texts of about 100 bytes or more. A value that does not
/// become shorter, for example one that is already compressed, is stored as it is, with one more
/// byte.
///
/// The library must be built with EBB_WITH_LZ4; otherwise opening such a store fails with
/// InvalidArgument. Options::max_value_bytes limits the stored bytes, not the value.
///
/// A store with compressed values cannot be opened as a store without, and vice versa. Keys cannot
/// be compressed, and there is no CompareExchange, because another release of LZ4 may produce other
/// bytes.
template <ValueType T>
struct Compressed {
  /// The value, not compressed.
  T value{};
};
/// Compares the values.
template <typename T>
bool operator==(const Compressed<T>& a, const Compressed<T>& b) {
  return a.value == b.value;
}

/// The name of the type is that of T; the codec's version distinguishes the two.
template <ValueType T>
inline constexpr std::string_view EbbTypeName<Compressed<T>> = internal::NameOfType<T>().name;

/// The codec of compressed values.
template <ValueType T>
struct Codec<Compressed<T>> {
  static_assert(internal::StoredAs<T>::kVersion < 0x8000);
  /// The version of T's codec, or 0 for built-in types, with the highest bit set.
  static constexpr std::uint32_t kVersion = 0x8000 | internal::StoredAs<T>::kVersion;
  /// Equal values may have several encodings.
  static constexpr bool kValueOnly = true;
  /// Returns InvalidArgument if the library was built without LZ4.
  static absl::Status Usable() { return internal::CompressionIsBuilt(); }

  /// Appends the stored form of the value to `out`.
  static void Encode(const Compressed<T>& compressed, std::string& out) {
    if constexpr (Coded<T>) {
      std::string bytes;
      Codec<T>::Encode(compressed.value, bytes);
      internal::Compress(bytes, out);
    } else if constexpr (Codec<T>::kFixed) {
      internal::Compress({reinterpret_cast<const char*>(&compressed.value), sizeof(T)}, out);
    } else {
      internal::Compress(compressed.value, out);
    }
  }

  /// Reads the value back. Returns false if `stored` is not the result of Encode.
  static bool Decode(std::string_view stored, Compressed<T>& compressed) {
    if constexpr (!Coded<T> && !Codec<T>::kFixed) {
      return internal::Decompress(stored, compressed.value);
    } else {
      std::string bytes;
      if (!internal::Decompress(stored, bytes)) return false;
      if constexpr (Coded<T>) {
        return Codec<T>::Decode(bytes, compressed.value);
      } else {
        if (bytes.size() != sizeof(T)) return false;
        std::memcpy(&compressed.value, bytes.data(), sizeof(T));
        return true;
      }
    }
  }
};

}  // namespace ebb
