#include "sequential_read.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

namespace ebb::bench {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 20;
constexpr std::size_t kAlignment = 4096;

[[noreturn]] void Fail(const std::string& path) {
  std::perror(path.c_str());
  std::abort();
}

int OpenOrAbort(const std::string& path, bool direct) {
  int descriptor = -1;
  if (direct) descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (descriptor < 0) descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) Fail(path);
  return descriptor;
}

}  // namespace

std::vector<std::string> FilesOf(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const bool fits = entry.path().filename().string().rfind(prefix, 0) == 0;
    if (fits) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void DropFromCache(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    const int descriptor = OpenOrAbort(path, false);
    (void)fdatasync(descriptor);  // what is not written cannot be dropped
    (void)posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    close(descriptor);
  }
}

std::uint64_t ReadAll(const std::vector<std::string>& paths, bool direct) {
  const std::unique_ptr<char, decltype(&std::free)> buffer(
      static_cast<char*>(std::aligned_alloc(kAlignment, kReadBytes)), &std::free);
  std::uint64_t bytes = 0;
  for (const std::string& path : paths) {
    const int descriptor = OpenOrAbort(path, direct);
    for (;;) {
      const ssize_t count = read(descriptor, buffer.get(), kReadBytes);
      if (count < 0) Fail(path);
      if (count == 0) break;
      bytes += static_cast<std::uint64_t>(count);
    }
    close(descriptor);
  }
  return bytes;
}

void WriteAll(const std::string& path, std::uint64_t bytes, bool direct) {
  const std::unique_ptr<char, decltype(&std::free)> buffer(
      static_cast<char*>(std::aligned_alloc(kAlignment, kReadBytes)), &std::free);
  std::memset(buffer.get(), 0x5a, kReadBytes);
  int descriptor = -1;
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  if (direct) descriptor = open(path.c_str(), kFlags | O_DIRECT, 0600);
  if (descriptor < 0) descriptor = open(path.c_str(), kFlags, 0600);
  const auto size = static_cast<off_t>((bytes + kReadBytes - 1) / kReadBytes * kReadBytes);
  if (descriptor < 0 || posix_fallocate(descriptor, 0, size) != 0) Fail(path);
  for (off_t at = 0; at < size; at += kReadBytes) {
    if (pwrite(descriptor, buffer.get(), kReadBytes, at) != ssize_t{kReadBytes}) Fail(path);
  }
  if (fdatasync(descriptor) != 0) Fail(path);
  close(descriptor);
}

}  // namespace ebb::bench
