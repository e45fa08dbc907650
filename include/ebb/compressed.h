// Compressed<T>: a value that is stored compressed, with LZ4, where that makes it shorter.
//
//   auto db = ebb::Must(ebb::Store<std::string, ebb::Compressed<std::string>>::Open("pages.ebb"));
//   ebb::Must(db.Upsert("home", {html}));
//   ebb::Must(db.Read("home")).value
//
// T is any type that is a value without it. Each value is compressed on its own, when it is
// written, and again by each Rmw: it pays for texts from some hundred bytes up, and for nothing
// that is compressed already, which is then stored as it is, one byte longer.
//
// The library has to be built with EBB_WITH_LZ4; without it opening such a store is
// InvalidArgument. max_value_bytes is about the bytes that are stored.
//
// A store with compressed values cannot be opened as one without, and the other way round. There
// are no compressed keys, and no CompareExchange: another release of LZ4 may make other bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "ebb/codec.h"
#include "ebb/internal/compression.h"

namespace ebb {

template <ValueType T>
struct Compressed {
  T value{};
};
template <typename T>
bool operator==(const Compressed<T>& a, const Compressed<T>& b) {
  return a.value == b.value;
}

// The codec's version tells it from T itself.
template <ValueType T>
inline constexpr std::string_view EbbTypeName<Compressed<T>> = internal::NameOfType<T>().name;

template <ValueType T>
struct Codec<Compressed<T>> {
  static_assert(internal::StoredAs<T>::kVersion < 0x8000);
  static constexpr std::uint32_t kVersion = 0x8000 | internal::StoredAs<T>::kVersion;
  static constexpr bool kValueOnly = true;
  static absl::Status Usable() { return internal::CompressionIsBuilt(); }

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
