// How a store is made: from options and types when it is new, from what its files say afterwards.
//
// Thread safety: pure. Progress: MakeCore takes memory and starts threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/codec.h"
#include "ebb/internal/block.h"
#include "ebb/internal/core.h"
#include "ebb/options.h"

namespace ebb::internal {

// What tests put in the place of the machine. Production code uses the default.
struct Environment {
  FileSystem* file_system = nullptr;  // null: the real one
  bool in_memory = false;             // no files at all
  bool force_fallback = false;        // guards without membarrier
  // Sizes below what options allow; 0: by the options.
  int page_shift = 0;
  std::uint64_t frame_count = 0;
  std::uint64_t segment_blocks = 0;
  int index_exponent = -1;
  int address_bits = 0;
  int pool_threads = -1;
  int startable_threads = -1;         // the next one cannot be started; -1: no limit
  std::optional<HashSeed> hash_seed;  // of a new store; nothing: a random one
};

// What the files say about keys and values.
struct StoredTypes {
  RecordShape shape;
  std::uint32_t codec_word = 0;  // codec.h; 0: both are built in
  TypeName key{};
  TypeName value{};
};

// The library's name and version, as new stores hold it.
inline constexpr std::string_view kLibraryName = "ebb 0.1.0";

// Random words from the kernel, for seeds and for the ids of stores and histories. Unavailable
// when it gives none, as under a filter of system calls.
absl::Status FillRandom(std::span<std::uint64_t> words);

// What a new store's segments say about it. Errors: as FillRandom.
absl::StatusOr<SegmentHeader> NewHeader(const Options& options, const Environment& environment,
                                        StoredTypes types);

// FailedPrecondition when a store of this header is for other types or pages, Unimplemented when
// its keys are hashed otherwise.
absl::Status CheckHeader(const SegmentHeader& header, StoredTypes types, const Options& options);

// InvalidArgument naming the option that does not fit the store.
absl::StatusOr<CoreConfig> MakeConfig(const SegmentHeader& header, const Options& options,
                                      const Environment& environment);

// ResourceExhausted: no memory, or no threads.
absl::StatusOr<std::shared_ptr<Core>> MakeCore(const CoreConfig& config, StoreFiles files);

}  // namespace ebb::internal
