// MappedRegion: a large piece of zeroed memory that is resident only where it was touched.
//
// Used for log frames and index buckets. Aligned to 2 MiB when it is at least that large, so that
// the kernel can back it with huge pages when asked to. One that is reserved first has addresses
// and nothing else: it can grow where it lies.
//
// Thread safety: Populate, and Release and huge_page_bytes for ranges that nobody else uses, may be
// called from any thread. Errors: a null region when the address space or memory is out. Cost:
// system calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace ebb::internal {

class MappedRegion {
 public:
  MappedRegion() = default;
  // Maps `bytes`; `huge_pages` asks for them. Check data() for null.
  MappedRegion(std::size_t bytes, bool huge_pages);
  // Address space for so many bytes, of which none can be used yet. Check data() for null.
  static MappedRegion Reserve(std::size_t reserved_bytes, bool huge_pages);
  // Makes the first `bytes` of what is reserved usable; false when the kernel has no memory. Those
  // that were before stay as they are.
  bool GrowTo(std::size_t bytes);
  ~MappedRegion();
  MappedRegion(MappedRegion&& other) noexcept { *this = std::move(other); }
  MappedRegion& operator=(MappedRegion&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }  // usable
  // Makes a page-aligned range resident now, so that whoever touches it first need not wait. Its
  // bytes stay what they are, whoever writes them meanwhile. Advice only.
  void Populate(std::size_t offset, std::size_t count) const;
  // Gives the memory of a page-aligned range back; it reads as zeros afterwards.
  void Release(std::size_t offset, std::size_t count) const;
  // How much of the region is backed by huge pages now, by the kernel's account; 0 when unknown.
  std::uint64_t huge_page_bytes() const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t reserved_bytes_ = 0;
  std::byte* mapping_ = nullptr;  // what munmap wants: all that is reserved, with alignment slack
  std::size_t mapping_bytes_ = 0;
};

}  // namespace ebb::internal
