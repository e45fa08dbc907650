// Address: a byte position in the log. It is a type of its own, so that addresses and sizes never
// mix. Geometry: the relations between addresses, pages, frames and blocks.
//
// An address has 48 bits, is a multiple of 8, and only grows. A page is a power of two of
// addresses. It holds page_bytes / 4096 blocks of 4,080 payload bytes each, one after the other,
// and then a gap of 16 bytes per block that no record uses. So an address is split by shift and
// mask, while a block on the device has room for its 16-byte trailer:
//
//   page p:   | block 0 payload | block 1 payload | ... | block n-1 payload | gap |
//   offset:   0              4080              8160                     n*4080   n*4096
//
// Address 0 is null. The first block of a log is its open record, so the lowest address of a user's
// record is 4080. kNoRecord is an address inside that first block. It stands in an index entry for
// "no record yet". Every traversal ends at it, because it is below every begin.
//
// Thread safety: values. Cost: a few instructions each.
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace ebb::internal {

class Address {
 public:
  static constexpr int kBits = 48;
  static constexpr std::uint64_t kMask = (std::uint64_t{1} << kBits) - 1;

  constexpr Address() = default;
  constexpr explicit Address(std::uint64_t value) : value_(value) {}
  constexpr std::uint64_t value() const { return value_; }
  constexpr bool is_null() const { return value_ == 0; }
  constexpr auto operator<=>(const Address&) const = default;
  constexpr Address operator+(std::uint64_t bytes) const { return Address(value_ + bytes); }
  // Returns the distance in address space, which includes the gaps between pages.
  constexpr std::uint64_t operator-(Address other) const { return value_ - other.value_; }

 private:
  std::uint64_t value_ = 0;
};

inline constexpr Address kNoRecord{8};

inline constexpr std::uint32_t kBlockPayloadBytes = 4080;
inline constexpr int kBlockShift = 12;

// Fixed for the life of a store object. `page_shift` and `segment_blocks` are properties of the
// files; the frames belong to this run.
struct Geometry {
  int page_shift = 16;
  std::uint64_t frame_count = 8;       // pages that may be resident; need not be a power of two
  std::uint64_t segment_blocks = 256;  // blocks of one file; a multiple of a page's
  int address_bits = Address::kBits;   // tests shrink it to reach the end of the log

  // Page numbers end here. A log never reuses an address, so a store may come to this end.
  constexpr std::uint64_t max_pages() const {
    return std::uint64_t{1} << (address_bits - page_shift);
  }
  constexpr std::uint64_t page_bytes() const { return std::uint64_t{1} << page_shift; }
  constexpr std::uint64_t blocks_per_page() const {
    return std::uint64_t{1} << (page_shift - kBlockShift);
  }
  // The bytes of one page that records can use.
  constexpr std::uint64_t payload_bytes() const { return blocks_per_page() * kBlockPayloadBytes; }
  // Frames occupy an address space of a power of two, so that a mask finds a frame.
  constexpr std::uint64_t frame_slots() const { return std::bit_ceil(frame_count); }
  constexpr std::uint64_t frame_mask() const { return frame_slots() * page_bytes() - 1; }

  constexpr std::uint64_t PageOf(Address address) const { return address.value() >> page_shift; }
  constexpr Address PageStart(std::uint64_t page) const { return Address(page << page_shift); }
  constexpr std::uint64_t OffsetOf(Address address) const {
    return address.value() & (page_bytes() - 1);
  }
  // Returns the number of the block that holds an address.
  constexpr std::uint64_t BlockOf(Address address) const {
    return PageOf(address) * blocks_per_page() + OffsetOf(address) / kBlockPayloadBytes;
  }
  // Returns the first block of a log that begins at `begin`. Its first open record precedes the
  // first record.
  constexpr std::uint64_t FrontBlock(Address begin) const {
    return begin == BlockStart(1) ? 0 : BlockOf(begin);
  }
  constexpr Address BlockStart(std::uint64_t block) const {
    return PageStart(block / blocks_per_page()) + (block % blocks_per_page()) * kBlockPayloadBytes;
  }
  // Returns the address where the next record may begin after a record that ends at `end`: `end`
  // itself, or the next page if `end` has reached the end of the payload.
  constexpr Address Normalize(Address end) const {
    return OffsetOf(end) >= payload_bytes() ? PageStart(PageOf(end) + 1) : end;
  }
};

constexpr std::uint64_t RoundUp8(std::uint64_t bytes) { return (bytes + 7) & ~std::uint64_t{7}; }

}  // namespace ebb::internal
