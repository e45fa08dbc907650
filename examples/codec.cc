// A codec: your own type as a value. The version stands for the layout of the bytes that Encode
// appends. A store that was written with another version cannot be opened.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "ebb/ebb.h"
#include "fresh_directory.h"

struct Order {
  std::string customer;
  std::uint32_t pieces = 0;
};

template <>
struct ebb::Codec<Order> {
  static constexpr std::uint32_t kVersion = 1;
  static void Encode(const Order& order, std::string& out) {  // appends
    out += std::to_string(order.pieces) + ' ' + order.customer;
  }
  static bool Decode(std::string_view bytes, Order& order) {  // false: these bytes are not an Order
    const std::size_t space = bytes.find(' ');
    if (space == 0 || space > 9) return false;
    order.pieces = static_cast<std::uint32_t>(std::stoul(std::string(bytes.substr(0, space))));
    order.customer = bytes.substr(space + 1);
    return true;
  }
};
template <>
inline constexpr std::string_view ebb::EbbTypeName<Order> = "example.Order";

int main() {
  const FreshDirectory directory;
  auto orders = ebb::Must(ebb::Store<std::uint64_t, Order>::Open(directory / "orders.ebb"));
  ebb::Must(orders.Upsert(1, {.customer = "Ada Lovelace", .pieces = 3}));
  ebb::Must(orders.Rmw(1, [](Order& order) { order.pieces += 4; }));
  const Order order = ebb::Must(orders.Read(1));
  return order.customer == "Ada Lovelace" && order.pieces == 7 ? 0 : 1;
}
