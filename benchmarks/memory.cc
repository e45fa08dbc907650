#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace ebb::bench {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

}  // namespace

HugeBuffer::HugeBuffer(std::size_t bytes) : mapping_bytes_(bytes + 2 * kHugePageBytes) {
  mapping_ =
      mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    std::perror("benchmark: no memory");
    std::abort();
  }
  const auto start = reinterpret_cast<std::uintptr_t>(mapping_);
  aligned_ = static_cast<std::byte*>(mapping_) + (kHugePageBytes - start % kHugePageBytes);
  const std::size_t usable_bytes = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
#ifdef MADV_HUGEPAGE
  (void)madvise(aligned_, usable_bytes, MADV_HUGEPAGE);  // advice only; the figures show its use
#endif
  std::memset(aligned_, 0, usable_bytes);
}

HugeBuffer::~HugeBuffer() { munmap(mapping_, mapping_bytes_); }

Resident ResidentNow() {
  Resident resident;
  std::ifstream lines("/proc/self/smaps_rollup");
  std::string field;
  std::uint64_t kibibytes = 0;
  std::string line;
  while (std::getline(lines, line)) {
    char name[64];
    unsigned long long value = 0;
    if (std::sscanf(line.c_str(), "%63s %llu", name, &value) != 2) continue;
    kibibytes = value;
    field = name;
    if (field == "Rss:") resident.bytes = kibibytes << 10;
    if (field == "AnonHugePages:") resident.huge_bytes = kibibytes << 10;
  }
  return resident;
}

}  // namespace ebb::bench
