#include "settings.h"

#include <unistd.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace ebb::bench {
namespace {

std::uint64_t NumberOrExit(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const unsigned long long number = std::strtoull(text.c_str(), &end, 10);
  if (end == text.c_str() || *end != '\0' || number == 0) {
    std::fprintf(stderr, "%s: not a positive number: %s\n", name.c_str(), text.c_str());
    std::exit(2);
  }
  return number;
}

bool Take(std::string_view argument, std::string_view flag, std::string& value) {
  if (argument.substr(0, flag.size()) != flag) return false;
  value = argument.substr(flag.size());
  return true;
}

}  // namespace

Settings SettingsFromEnvironment() {
  Settings settings;
  if (const char* keys = std::getenv("EBB_BENCH_KEYS")) {
    settings.key_count = NumberOrExit("EBB_BENCH_KEYS", keys);
  }
  if (const char* rounds = std::getenv("EBB_BENCH_ROUNDS")) {
    settings.rounds = static_cast<int>(NumberOrExit("EBB_BENCH_ROUNDS", rounds));
  }
  const char* directory = std::getenv("EBB_BENCH_DIR");
  settings.directory =
      directory != nullptr ? directory : std::filesystem::temp_directory_path().string();
  return settings;
}

Settings SettingsFromArguments(int argc, char** argv) {
  Settings settings = SettingsFromEnvironment();
  for (int i = 1; i < argc; ++i) {
    std::string value;
    if (Take(argv[i], "--keys=", value)) {
      settings.key_count = NumberOrExit("--keys", value);
    } else if (Take(argv[i], "--rounds=", value)) {
      settings.rounds = static_cast<int>(NumberOrExit("--rounds", value));
    } else if (Take(argv[i], "--dir=", value)) {
      settings.directory = value;
    } else if (Take(argv[i], "--only=", value)) {
      settings.only = value;
    } else {
      std::fprintf(stderr, "usage: %s [--keys=N] [--rounds=N] [--dir=FOLDER] [--only=GROUPS]\n",
                   argv[0]);
      std::exit(2);
    }
  }
  return settings;
}

std::uint64_t Settings::recovery_log_bytes() const {
  const std::uint64_t available = std::filesystem::space(directory).available;
  return std::min(key_count * 100, available / 8);
}

std::uint64_t BucketCountFor(std::uint64_t key_count) {
  return std::bit_ceil(std::max<std::uint64_t>((key_count + 4) / 5, 1024));
}

ScratchFolder::ScratchFolder(const Settings& settings, const std::string& name)
    : path_(settings.directory + "/ebb-bench-" + std::to_string(getpid()) + "-" + name) {
  std::filesystem::remove_all(path_);
  std::filesystem::create_directories(path_);
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;  // what is left is in the folder for temporary files
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace ebb::bench
