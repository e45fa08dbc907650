// Settings: sizes of a run, from the environment and, for the report, from flags.
//
//   EBB_BENCH_KEYS    8-byte keys in memory, 10,000,000 by default; the other sizes follow it
//   EBB_BENCH_DIR     folder for files, by default one in the system's folder for temporary files
//   EBB_BENCH_ROUNDS  paired rounds of the report, 5 by default
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace ebb::bench {

struct Settings {
  std::uint64_t key_count = 10'000'000;
  std::string directory;
  int rounds = 5;
  int threads_max = 2;
  std::string only;  // rows of the report to run, by a word of their group; empty: all

  // A fifth: five times the bytes per record, and peers that load slowly.
  std::uint64_t string_key_count() const { return std::max<std::uint64_t>(key_count / 5, 1000); }
  // Of the stores that are opened again: 1 GB by default, less where the disk of the folder is
  // small.
  std::uint64_t recovery_log_bytes() const;
  // Keys prepared for each thread and distribution.
  std::uint64_t stream_length() const { return std::min<std::uint64_t>(key_count, 4'000'000); }
};

// Reads the environment; with arguments also --keys=, --dir=, --rounds= and --only=. Exits with a
// message on anything else. The folder is made, and is the caller's to fill and to clear.
Settings SettingsFromEnvironment();
Settings SettingsFromArguments(int argc, char** argv);

// Buckets for a store of so many keys: the least power of two with at most five keys in each.
std::uint64_t BucketCountFor(std::uint64_t key_count);

// A folder inside the settings' own that is removed with everything in it at the end.
class ScratchFolder {
 public:
  ScratchFolder(const Settings& settings, const std::string& name);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace ebb::bench
