#include "ebb/internal/values/compression.h"

#include <cstdint>
#include <cstring>

#ifdef EBB_HAS_LZ4
#include <lz4.h>
#endif

namespace ebb::internal {
namespace {

constexpr char kAsItIs = 0;
constexpr char kLz4 = 1;

#ifdef EBB_HAS_LZ4
// kLz4 and the count of bytes.
constexpr std::size_t kLz4Header = 5;
// The maximum number of bytes that one byte of an LZ4 block can stand for.
constexpr std::uint64_t kMaxRatio = 255;

// Appends the compressed value, or nothing if it would not be shorter.
bool CompressLz4(std::string_view bytes, std::string& out) {
  if (bytes.size() <= kLz4Header || bytes.size() > LZ4_MAX_INPUT_SIZE) return false;
  const std::size_t start = out.size();
  // A longer block would make the stored value longer than the bytes themselves. LZ4 then returns
  // 0.
  const std::size_t room = bytes.size() - kLz4Header;
  out.resize(start + kLz4Header + room);
  const int made = LZ4_compress_default(bytes.data(), out.data() + start + kLz4Header,
                                        static_cast<int>(bytes.size()), static_cast<int>(room));
  out.resize(made > 0 ? start + kLz4Header + static_cast<std::size_t>(made) : start);
  if (made <= 0) return false;
  const auto count = static_cast<std::uint32_t>(bytes.size());
  out[start] = kLz4;
  std::memcpy(out.data() + start + 1, &count, sizeof count);
  return true;
}

bool DecompressLz4(std::string_view stored, std::string& bytes) {
  if (stored.size() <= kLz4Header || stored.size() > LZ4_MAX_INPUT_SIZE) return false;
  std::uint32_t count;
  std::memcpy(&count, stored.data() + 1, sizeof count);
  const std::string_view block = stored.substr(kLz4Header);
  // The count comes from the stored bytes: it must not make a reader allocate more than they can
  // stand for.
  if (count > LZ4_MAX_INPUT_SIZE || count > kMaxRatio * block.size()) return false;
  bytes.resize(count);
  // The safe function never writes more than `count` bytes, whatever the block contains.
  return LZ4_decompress_safe(block.data(), bytes.data(), static_cast<int>(block.size()),
                             static_cast<int>(count)) == static_cast<int>(count);
}
#else
bool CompressLz4(std::string_view, std::string&) { return false; }
bool DecompressLz4(std::string_view, std::string&) { return false; }
#endif

}  // namespace

absl::Status CompressionIsBuilt() {
#ifdef EBB_HAS_LZ4
  return absl::OkStatus();
#else
  return absl::InvalidArgumentError(
      "ebb::Compressed: this library was built without compression; build it with "
      "-DEBB_WITH_LZ4=ON");
#endif
}

void Compress(std::string_view bytes, std::string& out) {
  if (CompressLz4(bytes, out)) return;
  out.push_back(kAsItIs);
  out.append(bytes);
}

bool Decompress(std::string_view stored, std::string& bytes) {
  // The empty string is no stored value, since each has a first byte that names its form.
  if (stored.empty()) return false;
  if (stored.front() == kLz4) return DecompressLz4(stored, bytes);
  if (stored.front() != kAsItIs) return false;
  bytes.assign(stored.substr(1));
  return true;
}

}  // namespace ebb::internal
