// Compression of single values, for ebb/compressed.h.
//
//   +0  method (8): 0 none, 1 LZ4
//   +1  the bytes themselves                             method 0
//   +1  count of bytes (32) | a block of LZ4             method 1
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace ebb::internal {

// Returns InvalidArgument if the library was built without LZ4.
absl::Status CompressionIsBuilt();
// Appends the stored form of `bytes`: compressed if that is shorter.
void Compress(std::string_view bytes, std::string& out);
// Returns false if `stored` is not a result of Compress; then `bytes` is unspecified. Its memory is
// never more than 255 times the stored bytes, whatever they claim.
bool Decompress(std::string_view stored, std::string& bytes);

}  // namespace ebb::internal
