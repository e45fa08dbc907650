// PreadBaseline: what the device gives one reader, without any store.
//
// Random aligned 4 KiB reads, one at a time or many at once, of the store's own log files with
// O_DIRECT: the same bytes at the same places on the same device. Falls back to buffered reads
// where the file system refuses O_DIRECT, and says so.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ebb/internal/device/file_system.h"
#include "keys.h"

namespace ebb::bench {

class PreadBaseline {
 public:
  static constexpr std::uint64_t kReadBytes = 4096;

  // Takes all files "log-*" of the folder; aborts when there are none.
  explicit PreadBaseline(const std::string& directory);
  ~PreadBaseline();
  PreadBaseline(const PreadBaseline&) = delete;
  PreadBaseline& operator=(const PreadBaseline&) = delete;

  // Reads `read_count` random blocks; aborts when a read fails. Returns a sum of their bytes.
  std::uint64_t Run(std::uint64_t read_count);
  // The same through a ring that is kept full of `depth` reads. False: there is no ring here.
  bool RunDeep(std::uint64_t read_count, unsigned depth);

  bool direct() const { return direct_; }
  std::uint64_t block_count() const { return block_count_; }

 private:
  struct LogFile {
    std::unique_ptr<internal::File> file;
    std::uint64_t first_block;  // counted over all files
    std::uint64_t block_count;
  };
  struct Place {
    internal::File& file;
    std::uint64_t offset;
  };
  void OpenFile(const std::string& name);
  Place AnyBlock();

  std::unique_ptr<internal::Directory> directory_;
  std::vector<LogFile> files_;
  std::uint64_t block_count_ = 0;
  bool direct_ = true;
  Random random_{42};
  char* buffer_ = nullptr;
};

}  // namespace ebb::bench
