// MappedRegion: a large region of zeroed memory that is resident only where it was touched.
//
// Used for log frames and index buckets. A region of at least 2 MiB is aligned to 2 MiB, so that
// the kernel can back it with huge pages on request. A region that is reserved first has only
// addresses: it can grow in place.
//
// Thread safety: any thread may call Populate, and Release and huge_page_bytes for ranges that no
// other thread uses. Errors: a null region if the address space or memory is out. Cost: system
// calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace ebb::internal {

class MappedRegion {
 public:
  MappedRegion() = default;
  // Maps `bytes`; `huge_pages` requests huge pages. Check data() for null.
  MappedRegion(std::size_t bytes, bool huge_pages);
  // Reserves address space for so many bytes, none of which is usable yet. Check data() for null.
  static MappedRegion Reserve(std::size_t reserved_bytes, bool huge_pages);
  // Makes the first `bytes` of the reserved region usable. Returns false if the kernel has no
  // memory. Bytes that were usable before are unchanged.
  bool GrowTo(std::size_t bytes);
  ~MappedRegion();
  MappedRegion(MappedRegion&& other) noexcept { *this = std::move(other); }
  MappedRegion& operator=(MappedRegion&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }  // usable
  // Makes a page-aligned range resident now, so that the first thread that touches it need not
  // wait. Its bytes are unchanged, whichever thread writes them in the meantime. Advice only.
  void Populate(std::size_t offset, std::size_t count) const;
  // Returns the memory of a page-aligned range to the kernel; it reads as zeros afterwards.
  void Release(std::size_t offset, std::size_t count) const;
  // Returns how much of the region is backed by huge pages now, by the kernel's accounting; 0 if
  // unknown.
  std::uint64_t huge_page_bytes() const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t reserved_bytes_ = 0;
  // the range for munmap: the whole reservation, with alignment slack
  std::byte* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
};

}  // namespace ebb::internal
