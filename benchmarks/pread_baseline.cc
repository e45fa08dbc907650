#include "pread_baseline.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace ebb::bench {
namespace {

[[noreturn]] void Fail(const std::string& path) {
  std::perror(("pread baseline: " + path).c_str());
  std::abort();
}

}  // namespace

PreadBaseline::PreadBaseline(const std::string& directory)
    : buffer_(static_cast<char*>(std::aligned_alloc(kReadBytes, kReadBytes))) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const bool is_log = entry.path().filename().string().rfind("log-", 0) == 0;
    if (is_log) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  for (const std::string& path : paths) OpenFile(path);
  if (block_count_ == 0) Fail(directory);
}

PreadBaseline::~PreadBaseline() {
  for (const LogFile& file : files_) close(file.descriptor);
  std::free(buffer_);
}

void PreadBaseline::OpenFile(const std::string& path) {
  int descriptor = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (descriptor < 0) {
    direct_ = false;
    descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  struct stat status;
  if (descriptor < 0 || fstat(descriptor, &status) != 0) Fail(path);
  // A file may have been extended ahead of what was written; those blocks cost no device read.
  const std::uint64_t allocated_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
  const std::uint64_t usable_bytes =
      std::min(static_cast<std::uint64_t>(status.st_size), allocated_bytes);
  const std::uint64_t block_count = usable_bytes / kReadBytes;
  files_.push_back({descriptor, block_count_, block_count});
  block_count_ += block_count;
}

std::uint64_t PreadBaseline::Run(std::uint64_t read_count) {
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < read_count; ++i) {
    const std::uint64_t block = random_.Below(block_count_);
    const auto file = std::find_if(files_.begin(), files_.end(), [&](const LogFile& candidate) {
      return block < candidate.first_block + candidate.block_count;
    });
    const auto offset = static_cast<off_t>((block - file->first_block) * kReadBytes);
    if (pread(file->descriptor, buffer_, kReadBytes, offset) != ssize_t{kReadBytes}) Fail("pread");
    sum += static_cast<unsigned char>(buffer_[i % kReadBytes]);
  }
  return sum;
}

}  // namespace ebb::bench
