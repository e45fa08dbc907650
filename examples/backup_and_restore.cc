// Backup and restore: a backup of a store that is in use is itself a store. Restoring is copying.
#include <cstdint>
#include <filesystem>
#include <string>

#include "ebb/ebb.h"
#include "fresh_directory.h"

int main() {
  using Store = ebb::Store<std::string, std::string>;
  const FreshDirectory directory;
  Store store = ebb::Must(Store::Open(directory / "store.ebb"));
  ebb::Must(store.Upsert("color", "blue"));
  const ebb::BackupInfo backup = ebb::Must(store.Backup(directory / "backup.ebb"));
  ebb::Must(store.Upsert("color", "red"));  // after the backup, so not in it
  ebb::Must(store.Close());
  bool right = backup.size_bytes > 0;
  right &= ebb::Must(ebb::VerifyDirectory(directory / "backup.ebb")).ok();

  std::filesystem::remove_all(directory / "store.ebb");
  std::filesystem::copy(directory / "backup.ebb", directory / "store.ebb");
  Store restored = ebb::Must(Store::Open(directory / "store.ebb", {.create_if_missing = false}));
  right &= ebb::Must(restored.Read("color")) == "blue";
  ebb::Must(restored.Close());
  return right ? 0 : 1;
}
