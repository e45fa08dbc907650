// The configuration of a store: from options and types if it is new, and from its files afterwards.
//
// Thread safety: pure. Progress: MakeCore allocates memory and starts threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/codec.h"
#include "ebb/internal/core/core.h"
#include "ebb/internal/format/block.h"
#include "ebb/options.h"

namespace ebb::internal {

// Replacements for parts of the machine, for tests. Production code uses the default.
struct Environment {
  FileSystem* file_system = nullptr;  // null: the real one
  bool in_memory = false;             // no files at all
  bool force_fallback = false;        // guards without membarrier
  // Sizes below those that options allow; 0: as the options say.
  int page_shift = 0;
  std::uint64_t frame_count = 0;
  std::uint64_t segment_blocks = 0;
  int index_exponent = -1;
  int address_bits = 0;
  std::size_t open_files = 0;
  int pool_threads = -1;
  int startable_threads = -1;         // no further one can be started; -1: no limit
  std::optional<HashSeed> hash_seed;  // of a new store; nothing: a random one
};

// The description of keys and values in the files.
struct StoredTypes {
  RecordShape shape;
  std::uint32_t codec_word = 0;  // codec.h; 0: both are built in
  TypeName key{};
  TypeName value{};
};

// The library's name and version, as it is written to new stores.
inline constexpr std::string_view kLibraryName = "ebb 0.1.0";

// Fills `words` with random numbers from the kernel, for seeds and for the ids of stores and
// incarnations. Returns Unavailable if the kernel provides none, for example under a filter of
// system calls.
absl::Status FillRandom(std::span<std::uint64_t> words);

// Returns the header of a new store's segments. Errors: as FillRandom.
absl::StatusOr<SegmentHeader> NewHeader(const Options& options, const Environment& environment,
                                        StoredTypes types);

// Errors: FailedPrecondition (a store of this header is for other types or pages); Unimplemented
// (its keys are hashed in another way).
absl::Status CheckHeader(const SegmentHeader& header, StoredTypes types, const Options& options);

// Errors: InvalidArgument, naming the option that does not fit the store.
absl::StatusOr<CoreConfig> MakeConfig(const SegmentHeader& header, const Options& options,
                                      const Environment& environment);

// Errors: ResourceExhausted (no memory, or no threads).
absl::StatusOr<std::shared_ptr<Core>> MakeCore(const CoreConfig& config, StoreFiles files);

}  // namespace ebb::internal
