// Read-only: any number of readers, in any number of processes, without writing a byte.
#include <string>

#include "ebb/ebb.h"
#include "fresh_directory.h"

int main() {
  const FreshDirectory directory;
  const std::string path = directory / "store.ebb";
  {
    auto writer = ebb::Must(ebb::Store<>::Open(path));
    ebb::Must(writer.Upsert("color", "blue"));
    ebb::Must(writer.Close());
  }
  auto reader = ebb::Must(ebb::Store<>::Open(path, {.read_only = true}));
  auto other = ebb::Must(ebb::Store<>::Open(path, {.read_only = true}));
  bool right = ebb::Must(reader.Read("color")) == "blue";
  right &= ebb::Must(other.Read("color")) == "blue";

  // Updates fail. So does opening the store for writing, as long as there is a reader.
  right &= absl::IsFailedPrecondition(reader.Upsert("color", "red"));
  right &= absl::IsFailedPrecondition(ebb::Store<>::Open(path).status());
  ebb::Must(reader.Close());
  ebb::Must(other.Close());
  right &= ebb::Store<>::Open(path).ok();
  return right ? 0 : 1;
}
