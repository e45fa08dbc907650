// The text that word_count reads: files in pieces, pieces in chunks, chunks in words.
//
// A word is a maximal run of ASCII letters and digits, converted to lower case. Of the memory used,
// only the lists of files and pieces grow with the text.
#pragma once

#include <stdio.h>  // fseeko
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// A longer word is counted as too long. One of this length fits in a page of any size.
inline constexpr std::size_t kWordBytesMax = 32768;
inline constexpr std::uint64_t kPieceBytes = 1 << 20;
inline constexpr std::size_t kChunkBytes = 1 << 16;

// A part of a file, small enough for the threads to finish at about the same time. A word belongs
// to the piece in which its first byte lies.
struct Piece {
  const std::filesystem::path* file;
  std::uint64_t begin;
  std::uint64_t end;
  bool last;                // of its file; then `end` is unlimited
  std::uint64_t words = 0;  // found when counting
};

struct Input {
  std::vector<std::filesystem::path> files;
  std::vector<Piece> pieces;
};

// The counts of some pieces.
struct TextTally {
  std::uint64_t bytes = 0;
  std::uint64_t words = 0;
  std::uint64_t too_long = 0;    // words of more than kWordBytesMax, which are not in `words`
  std::uint64_t unreadable = 0;  // pieces that could not be read, or not to their end

  void Add(const TextTally& other) {
    bytes += other.bytes;
    words += other.words;
    too_long += other.too_long;
    unreadable += other.unreadable;
  }
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// Returns the byte in lower case if it is part of a word, and 0 otherwise. Does not depend on the
// locale.
inline char FoldToWord(char byte) {
  if (byte >= 'A' && byte <= 'Z') return static_cast<char>(byte - 'A' + 'a');
  return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ? byte : '\0';
}

// Passes each word of a piece to on_word(std::string_view), which returns an absl::Status. Reads in
// chunks. A word may cross the end of a chunk, or of the piece.
class PieceReader {
 public:
  PieceReader() : chunk_(kChunkBytes) {}

  template <typename OnWord>
  absl::Status Read(const Piece& piece, TextTally& tally, OnWord& on_word) {
    const std::uint64_t bytes_before = tally.bytes;
    // From one byte earlier, which shows whether the piece begins inside a word of the previous
    // one.
    inside_foreign_ = piece.begin != 0;
    position_ = piece.begin - (inside_foreign_ ? 1 : 0);
    word_.clear();
    const File file(std::fopen(piece.file->c_str(), "rb"));
    bool failed =
        file == nullptr || fseeko(file.get(), static_cast<off_t>(position_), SEEK_SET) != 0;
    int cause = errno;
    for (bool more = !failed; more;) {
      const std::size_t size = std::fread(chunk_.data(), 1, chunk_.size(), file.get());
      cause = errno;
      failed = std::ferror(file.get()) != 0;
      absl::StatusOr<bool> inside = TakeChunk({chunk_.data(), size}, piece.end, tally, on_word);
      if (!inside.ok()) return inside.status();
      more = *inside && size == chunk_.size();
      tally.bytes = bytes_before + std::clamp(position_, piece.begin, piece.end) - piece.begin;
    }
    if (failed) {
      ++tally.unreadable;
      std::fprintf(stderr, "note: cannot read %s: %s\n", piece.file->c_str(), std::strerror(cause));
    }
    return TakeWord(tally, on_word);  // one that ends with the file
  }

 private:
  // Returns false at the end of the piece and of a word that began in it.
  template <typename OnWord>
  absl::StatusOr<bool> TakeChunk(std::string_view chunk, std::uint64_t end, TextTally& tally,
                                 OnWord& on_word) {
    for (const char byte : chunk) {
      if (position_ >= end && word_.empty()) return false;
      const char folded = FoldToWord(byte);
      if (folded == '\0') {
        inside_foreign_ = false;
        if (absl::Status status = TakeWord(tally, on_word); !status.ok()) return status;
      } else if (!inside_foreign_ && word_.size() <= kWordBytesMax) {
        word_.push_back(folded);
      }
      ++position_;
    }
    return true;
  }

  template <typename OnWord>
  absl::Status TakeWord(TextTally& tally, OnWord& on_word) {
    if (word_.empty()) return absl::OkStatus();
    absl::Status status;
    if (word_.size() > kWordBytesMax) {
      ++tally.too_long;
    } else {
      ++tally.words;
      status = on_word(std::string_view(word_));
    }
    word_.clear();
    return status;
  }

  std::vector<char> chunk_;
  std::string word_;            // the one that is being read; one byte too long when it is too long
  std::uint64_t position_ = 0;  // of the next byte in the file
  bool inside_foreign_ = false;  // still in a word of the piece before
};

// The regular files of a folder, sorted, so that the order depends on the names only.
inline absl::StatusOr<std::vector<std::filesystem::path>> ListFolder(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  constexpr auto kOptions = std::filesystem::directory_options::skip_permission_denied;
  for (std::filesystem::recursive_directory_iterator it(folder, kOptions, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;  // a file that has just gone is not a regular file
    if (std::filesystem::is_regular_file(it->symlink_status(ignored))) files.push_back(it->path());
  }
  if (error) return absl::UnavailableError("cannot list " + folder + ": " + error.message());
  std::sort(files.begin(), files.end());
  return files;
}

// Collects the given files, and the files in the given folders. Prints the given names to stdout.
inline absl::StatusOr<Input> ListInput(const std::vector<std::string>& names) {
  Input input;
  for (const std::string& name : names) {
    std::error_code ignored;
    const std::filesystem::file_status status = std::filesystem::status(name, ignored);
    if (std::filesystem::is_regular_file(status)) {
      input.files.emplace_back(name);
    } else if (std::filesystem::is_directory(status)) {
      absl::StatusOr<std::vector<std::filesystem::path>> files = ListFolder(name);
      if (!files.ok()) return files.status();
      input.files.insert(input.files.end(), files->begin(), files->end());
    } else {
      return absl::InvalidArgumentError(name + " is neither a file nor a folder");
    }
    std::printf("input: %s\n", name.c_str());
  }
  // The list is complete, and a moved vector keeps its elements in place, so pieces may point to
  // them.
  for (const std::filesystem::path& file : input.files) {
    std::error_code ignored;
    const std::uintmax_t size = std::filesystem::file_size(file, ignored);
    const std::uint64_t bytes = ignored ? 0 : size;
    std::uint64_t begin = 0;
    for (; begin + kPieceBytes < bytes; begin += kPieceBytes) {
      input.pieces.push_back({&file, begin, begin + kPieceBytes, false});
    }
    input.pieces.push_back({&file, begin, std::numeric_limits<std::uint64_t>::max(), true});
  }
  return input;
}

// Real text: the licences and headers of the system, and ebb's sources, as far as they exist.
inline std::vector<std::string> DefaultInputs() {
  std::vector<std::string> names = {"/usr/share/common-licenses", "/usr/include"};
#ifdef EBB_SOURCE_DIR
  for (const char* part : {"include", "src", "examples", "tests", "benchmarks", "cmake"}) {
    names.push_back(std::string(EBB_SOURCE_DIR) + "/" + part);
  }
#endif
  std::erase_if(names, [](const std::string& name) {
    std::error_code ignored;
    return !std::filesystem::exists(name, ignored);
  });
  return names;
}
