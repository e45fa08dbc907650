// HugeBuffer: zeroed memory in huge pages where the kernel gives them, and how much of this
// process is resident.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ebb::bench {

// Pages are touched at construction, so that no page fault falls into a measurement. Aborts when
// there is no memory: a benchmark cannot go on.
class HugeBuffer {
 public:
  explicit HugeBuffer(std::size_t bytes);
  ~HugeBuffer();
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  template <typename T>
  T* As() const {
    return reinterpret_cast<T*>(aligned_);
  }

 private:
  void* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  std::byte* aligned_ = nullptr;
};

// Bytes of this process in memory, and those of them in huge pages.
struct Resident {
  std::uint64_t bytes = 0;
  std::uint64_t huge_bytes = 0;
};
Resident ResidentNow();

}  // namespace ebb::bench
