// Five minutes with ebb: open a store, write, read, update, delete, close.
//   quickstart [directory]      without a directory: a fresh one, removed at the end
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "ebb/store.h"

int main(int argc, char** argv) {
  const std::string fresh = std::filesystem::temp_directory_path() / "quickstart.";
  const std::string path = argc > 1 ? argv[1] : fresh + std::to_string(getpid());

  auto store = ebb::Must(ebb::Store<>::Open(path));  // strings to strings; calls from any thread
  ebb::Must(store.Upsert("greeting", "hello"));
  ebb::Must(store.Rmw("greeting", [](std::string& value) { value += ", world"; }));
  const std::string greeting = ebb::Must(store.Read("greeting"));
  std::printf("greeting: %s\n", greeting.c_str());

  ebb::Must(store.Delete("greeting"));
  const bool gone = absl::IsNotFound(store.Read("greeting").status());
  std::printf("after Delete it is %s\n", gone ? "gone" : "STILL THERE");

  ebb::Must(store.Close());  // all of it is durable now
  if (argc == 1) std::filesystem::remove_all(path);
  return greeting == "hello, world" && gone ? 0 : 1;
}
