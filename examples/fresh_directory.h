// FreshDirectory: a new directory for the store of an example, removed at the end.
#pragma once

#include <stdlib.h>  // mkdtemp

#include <cstdlib>
#include <filesystem>
#include <string>

class FreshDirectory {
 public:
  FreshDirectory() {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~FreshDirectory() { std::filesystem::remove_all(path_); }
  FreshDirectory(const FreshDirectory&) = delete;
  FreshDirectory& operator=(const FreshDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "ebb-example-XXXXXX").string();
};
