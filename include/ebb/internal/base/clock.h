// Times in the form that statistics and files use.
//
// Thread safety: pure. Progress: wait-free.
#pragma once

#include <chrono>
#include <cstdint>

namespace ebb::internal {

inline std::uint64_t UnixUs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now).count());
}

inline std::uint64_t UnixMs() { return UnixUs() / 1000; }

inline std::uint64_t MillisecondsSince(std::chrono::steady_clock::time_point begun) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::steady_clock::now() - begun)
                                        .count());
}

}  // namespace ebb::internal
