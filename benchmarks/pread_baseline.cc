#include "pread_baseline.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace ebb::bench {
namespace {

[[noreturn]] void Fail(const std::string& what) {
  std::perror(("pread baseline: " + what).c_str());
  std::abort();
}

}  // namespace

PreadBaseline::PreadBaseline(const std::string& directory)
    : directory_(internal::PosixFileSystem().OpenDirectory(directory, /*create=*/false).directory),
      buffer_(static_cast<char*>(std::aligned_alloc(kReadBytes, kReadBytes))) {
  std::vector<std::string> names;
  if (directory_ == nullptr || directory_->List(names) != 0) Fail(directory);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name.rfind("log-", 0) == 0) OpenFile(name);
  }
  if (block_count_ == 0) Fail(directory);
}

PreadBaseline::~PreadBaseline() {
  for (const LogFile& file : files_) (void)file.file->Close();
  std::free(buffer_);
}

void PreadBaseline::OpenFile(const std::string& name) {
  internal::OpenedFile opened = directory_->Open(name, {.direct = true});
  struct stat status;
  if (opened.file == nullptr || fstat(opened.file->descriptor(), &status) != 0) Fail(name);
  direct_ = direct_ && opened.file->direct();
  // A file may have been extended ahead of what was written; those blocks cost no device read.
  const std::uint64_t allocated_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
  const std::uint64_t usable_bytes =
      std::min(static_cast<std::uint64_t>(status.st_size), allocated_bytes);
  const std::uint64_t block_count = usable_bytes / kReadBytes;
  files_.push_back({std::move(opened.file), block_count_, block_count});
  block_count_ += block_count;
}

PreadBaseline::Place PreadBaseline::AnyBlock() {
  const std::uint64_t block = random_.Below(block_count_);
  const auto file = std::find_if(files_.begin(), files_.end(), [&](const LogFile& candidate) {
    return block < candidate.first_block + candidate.block_count;
  });
  return {*file->file, (block - file->first_block) * kReadBytes};
}

std::uint64_t PreadBaseline::Run(std::uint64_t read_count) {
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < read_count; ++i) {
    const Place place = AnyBlock();
    if (pread(place.file.descriptor(), buffer_, kReadBytes, static_cast<off_t>(place.offset)) !=
        ssize_t{kReadBytes}) {
      Fail("pread");
    }
    sum += static_cast<unsigned char>(buffer_[i % kReadBytes]);
  }
  return sum;
}

bool PreadBaseline::RunDeep(std::uint64_t read_count, unsigned depth) {
  const auto ring = internal::PosixFileSystem().OpenReadRing(depth);
  if (ring == nullptr) return false;
  const std::unique_ptr<std::byte, decltype(&std::free)> buffers(
      static_cast<std::byte*>(std::aligned_alloc(kReadBytes, depth * kReadBytes)), &std::free);
  std::uint64_t begun = 0;
  const auto start = [&](std::byte* buffer) {
    const Place place = AnyBlock();
    if (!ring->Start(place.file, place.offset, buffer, kReadBytes, buffer)) Fail("ring");
    ++begun;
  };
  for (unsigned i = 0; i < depth; ++i) start(buffers.get() + i * kReadBytes);
  for (std::uint64_t ended = 0; ended < begun; ++ended) {
    const auto read = ring->Take(/*wait=*/true);
    if (!read.has_value() || read->transfer.count != kReadBytes) Fail("ring");
    if (begun < read_count) start(static_cast<std::byte*>(read->tag));
  }
  return true;
}

}  // namespace ebb::bench
