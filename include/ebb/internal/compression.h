// Compression of single values, for ebb/compressed.h.
//
//   +0  how (8): 0 as it is, 1 LZ4
//   +1  the bytes themselves                             how is 0
//   +1  count of bytes (32) | a block of LZ4             how is 1
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace ebb::internal {

// InvalidArgument when the library was built without.
absl::Status CompressionIsBuilt();
// Appends `bytes` as they are to be stored: compressed if that is shorter.
void Compress(std::string_view bytes, std::string& out);
// False when `stored` is not what Compress makes; then `bytes` is unspecified. Its memory is never
// more than 255 times what is stored, whatever that claims.
bool Decompress(std::string_view stored, std::string& bytes);

}  // namespace ebb::internal
