// How a store is made: from options and types when it is new, from what its files say afterwards.
//
// Thread safety: pure. Progress: MakeCore takes memory and starts threads.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  int startable_threads = -1;  // the next one cannot be started; -1: no limit
};

// What the files say about keys and values.
struct StoredTypes {
  RecordShape shape;
  std::uint32_t codec_word = 0;  // codec.h; 0: both are built in
};

// A random number, as ids of stores and histories are.
std::uint64_t RandomWord();

// What a new store's segments say about it.
SegmentHeader NewHeader(const Options& options, const Environment& environment, StoredTypes types);

// FailedPrecondition when a store of this header is for other types or pages, Unimplemented when
// its keys are hashed otherwise.
absl::Status CheckHeader(const SegmentHeader& header, StoredTypes types, const Options& options);

// InvalidArgument naming the option that does not fit the store.
absl::StatusOr<CoreConfig> MakeConfig(const SegmentHeader& header, const Options& options,
                                      const Environment& environment);

// ResourceExhausted: no memory, or no threads.
absl::StatusOr<std::shared_ptr<Core>> MakeCore(const CoreConfig& config, StoreFiles files);

}  // namespace ebb::internal
