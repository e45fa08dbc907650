// Structs as keys and values. They are stored as their bytes, so a key must have no padding. Names
// let the store distinguish structs of the same size.
#include <cstdint>
#include <string_view>

#include "ebb/ebb.h"
#include "fresh_directory.h"

struct SensorId {
  std::uint32_t building = 0;
  std::uint32_t number = 0;
};
struct Total {
  double degrees = 0;
  std::uint64_t count = 0;
};
struct Position {
  double x = 0;
  double y = 0;
};
template <>
inline constexpr std::string_view ebb::EbbTypeName<SensorId> = "example.SensorId";
template <>
inline constexpr std::string_view ebb::EbbTypeName<Total> = "example.Total";
template <>
inline constexpr std::string_view ebb::EbbTypeName<Position> = "example.Position";

int main() {
  const FreshDirectory directory;
  auto totals = ebb::Must(ebb::Store<SensorId, Total>::Open(directory / "totals.ebb"));
  for (const double degrees : {20.5, 21.0, 21.5}) {
    ebb::Must(totals.Rmw({.building = 1, .number = 7}, [degrees](Total& total) {
      total.degrees += degrees;
      ++total.count;
    }));
  }
  const Total total = ebb::Must(totals.Read({.building = 1, .number = 7}));
  ebb::Must(totals.Close());

  // The same size, another type: rejected.
  const auto other = ebb::Store<SensorId, Position>::Open(directory / "totals.ebb");
  const bool is_rejected = absl::IsFailedPrecondition(other.status());
  return total.count == 3 && total.degrees == 63.0 && is_rejected ? 0 : 1;
}
