// Plain sequential reads and writes of whole files, from first to last byte: what an opening that
// did nothing but read would take, and a store that did nothing but write.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ebb::bench {

// The files of the folder whose names start so, in order of name.
std::vector<std::string> FilesOf(const std::string& folder, const std::string& prefix);

// Puts the files out of the page cache, as far as they are there.
void DropFromCache(const std::vector<std::string>& paths);

// Reads the files, 1 MiB at a time, past the page cache where `direct` and the file system let it.
// Returns the bytes read; aborts when a read fails.
std::uint64_t ReadAll(const std::vector<std::string>& paths, bool direct);

// Writes a new file of so many bytes, 1 MiB at a time, past the page cache where `direct` and the
// file system let it, and syncs it. Aborts when that fails.
void WriteAll(const std::string& path, std::uint64_t bytes, bool direct);

}  // namespace ebb::bench
