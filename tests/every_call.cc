// Compiles every call of the public face once for each kind of key and value, under all the
// warnings that a careful user may have turned on. It is never linked or run; headers.cmake says
// how it is compiled.
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "ebb/ebb.h"

namespace {

struct Position {
  double x = 0;
  double y = 0;
  double z = 0;
};

// With a codec.
struct Name {
  std::string text;
};

struct PairKey {
  std::uint32_t shop = 0;
  std::uint32_t item = 0;
};

}  // namespace

template <>
struct ebb::Codec<Name> {
  static void Encode(const Name& name, std::string& out) { out += name.text; }
  static bool Decode(std::string_view bytes, Name& name) {
    name.text = bytes;
    return true;
  }
};

namespace {

// The store, or a session of it: their calls on one key are the same.
template <typename Calls, typename Key, typename Value, typename View>
void CallEverything(Calls& calls, const Key& key, const Value& value) {
  Value read{};
  ebb::Must(calls.Upsert(key, value));
  ebb::Must(calls.InsertIfAbsent(key, value));
  ebb::Must(calls.Rmw(key, [](Value& v) { v = Value{}; }));
  ebb::Must(calls.Rmw(
      key, [](Value& v) { v = Value{}; }, value));
  ebb::Must(calls.Read(key, read));
  ebb::Must(calls.Read(key, [&read](View view) { read = Value(view); }));
  read = ebb::Must(calls.Read(key));
  if constexpr (ebb::ComparableValue<Value>) ebb::Must(calls.CompareExchange(key, read, value));
  if (ebb::Must(calls.Contains(key))) ebb::Must(calls.Delete(key));
}

template <typename Key, typename Value, typename View>
void UseStore(const Key& key, const Value& value) {
  using Store = ebb::Store<Key, Value>;
  Store store = ebb::Must(Store::Open("every_call.ebb", {.log_memory_bytes = 1 << 20}));
  Store moved = std::move(store);
  CallEverything<Store, Key, Value, View>(moved, key, value);
  typename Store::Session session = moved.NewSession();
  CallEverything<typename Store::Session, Key, Value, View>(session, key, value);
  ebb::ScanIterator<Key, Value> it = moved.NewScan();
  while (it.Next()) ebb::Must(moved.Upsert(it.key(), it.value()));
  ebb::Must(it.status());
  ebb::Must(moved.Scan([](const auto&, const auto&) { return true; }));
  ebb::Must(moved.Scan([](const auto&, const auto&) {}));
  if constexpr (std::is_same_v<Key, std::string>) {
    ebb::Must(moved.ScanPrefix("k", [](std::string_view, const auto&) {}));
  }
  if (ebb::Must(moved.ScanAll()).empty()) return;
  const ebb::StoreStats stats = moved.Stats();
  if (stats.tail_address != 0) ebb::Must(moved.Close());
  Store in_memory = ebb::Must(Store::OpenInMemory());
  ebb::Must(in_memory.Close());
}

}  // namespace

void UseEverything();
void UseEverything() {
  UseStore<std::string, std::string, std::string_view>("key", "value");
  UseStore<std::string, std::uint64_t, const std::uint64_t&>("key", 1);
  UseStore<std::uint64_t, std::string, std::string_view>(1, "value");
  UseStore<std::uint64_t, Position, const Position&>(1, Position{});
  UseStore<Name, Name, const Name&>(Name{"key"}, Name{"value"});
  UseStore<PairKey, std::uint8_t, const std::uint8_t&>(PairKey{}, std::uint8_t{1});
}
