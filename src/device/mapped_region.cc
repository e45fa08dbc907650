#include "ebb/internal/device/mapped_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "ebb/internal/base/platform.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {
namespace {
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
}

MappedRegion::MappedRegion(std::size_t bytes, bool huge_pages) {
  MappedRegion region = Reserve(bytes, huge_pages);
  if (region.data_ != nullptr && region.GrowTo(bytes)) *this = std::move(region);
}

MappedRegion MappedRegion::Reserve(std::size_t reserved_bytes, bool huge_pages) {
  MappedRegion region;
  const std::size_t slack = reserved_bytes >= kHugePageBytes ? kHugePageBytes : 0;
  void* const mapping = MapMemory(reserved_bytes + slack);
  if (mapping == nullptr) return region;
  region.mapping_ = static_cast<std::byte*>(mapping);
  region.mapping_bytes_ = reserved_bytes + slack;
  region.reserved_bytes_ = reserved_bytes;
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  // Huge pages need an alignment of 2 MiB.
  const std::uintptr_t aligned =
      slack == 0 ? address : (address + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
  region.data_ = region.mapping_ + (aligned - address);
  // Advice only: a kernel that does not know it ignores it.
  static_cast<void>(
      madvise(region.data_, reserved_bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
  return region;
}

bool MappedRegion::GrowTo(std::size_t bytes) {
  // The memory is allocated when it is first written; it is zero until then.
  if (bytes > reserved_bytes_ || !AllowAccess(data_, bytes)) return false;
  bytes_ = bytes;
  return true;
}

MappedRegion::~MappedRegion() {
  if (mapping_ != nullptr) UnmapMemory(mapping_, mapping_bytes_);
}

MappedRegion& MappedRegion::operator=(MappedRegion&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

void MappedRegion::Populate(std::size_t offset, std::size_t count) const {
#ifdef MADV_POPULATE_WRITE  // Linux 5.14
  // If it fails, the first writer of each page allocates it.
  static_cast<void>(madvise(data_ + offset, count, MADV_POPULATE_WRITE));
#else
  static_cast<void>(offset);
  static_cast<void>(count);
#endif
}

void MappedRegion::Release(std::size_t offset, std::size_t count) const {
  // Afterwards the range reads as zeros, and keeps its addresses.
  static_cast<void>(madvise(data_ + offset, count, MADV_DONTNEED));
}

std::uint64_t MappedRegion::huge_page_bytes() const {
  // For statistics only.
  const int fd = AboveStandard(::open("/proc/self/smaps", O_RDONLY | O_CLOEXEC));
  if (fd < 0) return 0;
  std::FILE* const maps = ::fdopen(fd, "r");
  if (maps == nullptr) {
    static_cast<void>(::close(fd));
    return 0;
  }
  const auto first = reinterpret_cast<std::uintptr_t>(data_);
  std::uint64_t total = 0;
  bool inside = false;
  char line[512];
  while (std::fgets(line, sizeof(line), maps) != nullptr) {
    unsigned long begin = 0;
    unsigned long end = 0;
    unsigned long kib = 0;
    if (std::sscanf(line, "%lx-%lx ", &begin, &end) == 2) {
      inside = begin < first + reserved_bytes_ && end > first;
    } else if (inside && std::sscanf(line, "AnonHugePages: %lu kB", &kib) == 1) {
      total += std::uint64_t{kib} * 1024;
    }
  }
  std::fclose(maps);
  return total < reserved_bytes_
             ? total
             : reserved_bytes_;  // neighbours with the same flags share a mapping
}

}  // namespace ebb::internal
