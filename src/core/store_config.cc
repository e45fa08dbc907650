#include "ebb/internal/core/store_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <utility>

#include "ebb/internal/base/hash.h"
#include "ebb/internal/base/platform.h"
#include "ebb/internal/device/file_io.h"
#include "ebb/internal/device/file_system.h"
#include "ebb/status.h"

namespace ebb::internal {
namespace {

std::string DescribeShape(RecordShape shape) {
  const auto part = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? std::string("string") : fmt::format("{} bytes", bytes);
  };
  return fmt::format("keys: {}, values: {}", part(shape.key_bytes), part(shape.value_bytes));
}

std::string DescribeCodecs(std::uint32_t word) {
  const auto part = [](std::uint32_t version) {
    return version == 0 ? std::string("built in") : fmt::format("version {}", version);
  };
  return fmt::format("keys: {}, values: {}", part(word >> 16), part(word & 0xffff));
}

// Returns the name of a type, as far as its tag identifies it: a tag is a hash, so only names that
// are known here can be found.
std::string DescribeTag(std::uint64_t tag) {
  if (tag == 0) return "a type without a name";
  for (const std::string_view name :
       {"u8",      "u16",      "u32",         "u64",      "i8",       "i16",
        "i32",     "i64",      "enum u8",     "enum u16", "enum u32", "enum u64",
        "enum i8", "enum i16", "enum i32",    "enum i64", "bool",     "char",
        "f32",     "f64",      "long double", "string"}) {
    if (TypeTag(name) == tag) return std::string(name);
  }
  return fmt::format("another type (of tag {:#018x})", tag);
}

// Checks the type with which a store is opened. A store may be created without a type's name and
// get it later, but only for a type that has no built-in name.
absl::Status CheckType(const char* what, std::uint64_t tag, TypeName type) {
  const std::uint64_t opened = TypeTag(type.name);
  if (tag == opened || (tag == 0 && !type.built_in)) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "the store was created with {} of {}, and is opened with {} of {}; use the types with which "
      "it was created",
      what, DescribeTag(tag), what,
      opened == 0 ? "a type without a name" : std::string(type.name)));
}

}  // namespace

absl::Status FillRandom(std::span<std::uint64_t> words) {
  const int error = RandomBytes(std::as_writable_bytes(words));
  return error == 0 ? absl::OkStatus() : FileError("read", "random bytes of the kernel", 0, error);
}

absl::StatusOr<SegmentHeader> NewHeader(const Options& options, const Environment& environment,
                                        StoredTypes types) {
  SegmentHeader header;
  if (absl::Status status = FillRandom({&header.store_id, 1}); !status.ok()) return status;
  header.hash_seed = environment.hash_seed.value_or(HashSeed{0, 0});
  // The hash requires a seed with certain properties; nearly every random one has them.
  while (!header.hash_seed.IsGood()) {  // ends: nearly always after one turn
    std::uint64_t words[2];
    if (absl::Status status = FillRandom(words); !status.ok()) return status;
    header.hash_seed = {words[0], words[1] | 1};
  }
  // Written once, into every file of the store. Every later opening is compared with it
  // (CheckHeader).
  header.key_tag = TypeTag(types.key.name);
  header.value_tag = TypeTag(types.value.name);
  header.created_unix_us = UnixUs();
  static_assert(kLibraryName.size() <= SegmentHeader::kWriterBytes);
  std::copy(kLibraryName.begin(), kLibraryName.end(), header.writer.begin());
  header.shape = types.shape;
  header.codec_version = types.codec_word;
  header.hash_version = kHashVersion;
  header.page_shift = environment.page_shift != 0 ? environment.page_shift
                                                  : std::countr_zero(EffectivePageBytes(options));
  header.segment_blocks = environment.segment_blocks != 0 ? environment.segment_blocks
                                                          : options.segment_bytes / kBlockBytes;
  header.creation_exponent = static_cast<std::uint32_t>(
      environment.index_exponent >= 0 ? environment.index_exponent
                                      : std::countr_zero(options.index_bucket_count));
  return header;
}

absl::Status CheckHeader(const SegmentHeader& header, StoredTypes types, const Options& options) {
  // A wrong shape or codec would make every record unreadable, so it is rejected before a record is
  // read.
  if (header.shape != types.shape) {
    return absl::FailedPreconditionError(
        fmt::format("the store was created with {}, and is opened with {}; use the types with "
                    "which it was created",
                    DescribeShape(header.shape), DescribeShape(types.shape)));
  }
  if (header.codec_version != types.codec_word) {
    return absl::FailedPreconditionError(
        fmt::format("the store was created with codecs of {}, and is opened with codecs of {}; use "
                    "the program that wrote it, or copy all values into a new store",
                    DescribeCodecs(header.codec_version), DescribeCodecs(types.codec_word)));
  }
  for (absl::Status status : {CheckType("keys", header.key_tag, types.key),
                              CheckType("values", header.value_tag, types.value)}) {
    if (!status.ok()) return status;
  }
  // Keys that are hashed in another way would not be found, although they are there.
  if (header.hash_version != kHashVersion) {
    return absl::UnimplementedError(fmt::format(
        "the store uses version {} of the key hash, but this library knows version {}; open it "
        "with the version of ebb that wrote it",
        header.hash_version, kHashVersion));
  }
  const std::uint64_t page_bytes = std::uint64_t{1} << header.page_shift;
  if (options.page_bytes != 0 && options.page_bytes != page_bytes) {
    return absl::FailedPreconditionError(
        fmt::format("page_bytes is {}: the store was created with {}; set that, or 0",
                    options.page_bytes, page_bytes));
  }
  return absl::OkStatus();
}

namespace {

void CopyOptions(const Options& options, CoreConfig& config) {
  static_cast<Options&>(config) = options;
  config.recovery_progress = nullptr;  // the opening's, not the store's
  config.log.write_batch_bytes = options.write_batch_bytes;
  config.log.huge_pages = options.huge_pages;
  // Everything that the store does automatically would write.
  if (!options.read_only) return;
  config.durability = Durability::kManual;  // no thread for commits
  config.checkpoint_interval_ms = config.gc_interval_ms = 0;
  config.promote_reads = false;
}

// Options may request an index of more than half of the memory. Files may not, since any program
// can have written them.
absl::Status SetIndexLimits(const Options& options, CoreConfig& config) {
  config.index_limit_bytes = options.max_index_bytes;
  const bool is_set = options.max_index_bytes != 0;
  config.max_index_bytes = is_set ? options.max_index_bytes : PhysicalMemoryBytes() / 2;
  const std::uint64_t buckets = std::uint64_t{1} << config.index_exponent;
  // If the options request as many buckets, the demand does not come from a file.
  const bool of_options = !is_set && buckets <= options.index_bucket_count;
  if (of_options || buckets <= config.max_index_bytes / sizeof(IndexBucket)) {
    return absl::OkStatus();
  }
  return Lasting(absl::ResourceExhaustedError(fmt::format(
      "the store was created with {} index buckets, {} bytes, which is more than {}, {}; to open "
      "it, raise Options::max_index_bytes",
      buckets, buckets * sizeof(IndexBucket),
      is_set ? "max_index_bytes" : "half of this machine's memory", config.max_index_bytes)));
}

}  // namespace

absl::StatusOr<CoreConfig> MakeConfig(const SegmentHeader& header, const Options& options,
                                      const Environment& environment) {
  CoreConfig config;
  CopyOptions(options, config);
  config.log.shape = header.shape;
  config.log.store_id = header.store_id;
  config.hash_seed = header.hash_seed;
  Geometry& geometry = config.log.geometry;
  geometry.page_shift = header.page_shift;
  geometry.segment_blocks = header.segment_blocks;
  geometry.frame_count = environment.frame_count != 0
                             ? environment.frame_count
                             : options.log_memory_bytes >> header.page_shift;
  if (environment.address_bits != 0) geometry.address_bits = environment.address_bits;
  // At least three frames are for pages that leave memory (hybrid_log.cc).
  if (geometry.frame_count < 8) {
    return absl::InvalidArgumentError(
        fmt::format("log_memory_bytes is {}: must be at least {}, 8 of this store's pages of {}",
                    options.log_memory_bytes, 8 * geometry.page_bytes(), geometry.page_bytes()));
  }
  const int creation_exponent = static_cast<int>(header.creation_exponent);
  const int asked = environment.index_exponent >= 0 ? environment.index_exponent
                                                    : std::countr_zero(options.index_bucket_count);
  config.creation_exponent = creation_exponent;
  // The index may start larger than at creation, but never smaller: tags begin above its bits.
  config.index_exponent = std::max(asked, creation_exponent);
  if (config.index_exponent > creation_exponent + IndexEntry::kTagBits) {
    return absl::InvalidArgumentError(
        fmt::format("index_bucket_count is {}: a store created with {} buckets can have at most {}",
                    std::uint64_t{1} << asked, std::uint64_t{1} << creation_exponent,
                    std::uint64_t{1} << (creation_exponent + IndexEntry::kTagBits)));
  }
  if (absl::Status status = SetIndexLimits(options, config); !status.ok()) return status;
  // One thread more than requested, for the long jobs.
  config.pool_threads = environment.pool_threads >= 0
                            ? static_cast<unsigned>(environment.pool_threads)
                            : options.background_threads + 1;
  if (environment.startable_threads >= 0) {
    config.startable_threads = static_cast<unsigned>(environment.startable_threads);
  }
  config.force_fallback = environment.force_fallback;
  config.has_files = !environment.in_memory;

  // A longer record than a page cannot be stored, so that is the limit if the options set none.
  const std::uint64_t room = geometry.payload_bytes() - header.shape.key_offset();
  config.max_key_bytes = options.max_key_bytes != 0 ? options.max_key_bytes : room;
  config.max_value_bytes = options.max_value_bytes != 0 ? options.max_value_bytes : room;
  // A store in which every update would be rejected cannot be opened.
  const auto least = [](std::uint32_t bytes) {
    return bytes == RecordShape::kVariable ? 0 : bytes;
  };
  const std::uint64_t fixed =
      header.shape.ExtentFor(least(header.shape.key_bytes), least(header.shape.value_bytes));
  if (fixed > geometry.payload_bytes()) {
    return absl::InvalidArgumentError(fmt::format(
        "page_bytes is {}: a record of these types ({}) needs {} bytes, but a page holds {}",
        geometry.page_bytes(), DescribeShape(header.shape), fixed, geometry.payload_bytes()));
  }
  if (least(header.shape.key_bytes) > config.max_key_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("max_key_bytes is {}: must be at least {}, the size of the key type",
                    config.max_key_bytes, header.shape.key_bytes));
  }
  if (least(header.shape.value_bytes) > config.max_value_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("max_value_bytes is {}: must be at least {}, the size of the value type",
                    config.max_value_bytes, header.shape.value_bytes));
  }
  return config;
}

absl::StatusOr<std::shared_ptr<Core>> MakeCore(const CoreConfig& config, StoreFiles files) {
  const auto core = std::make_shared<Core>(config, std::move(files));
  if (absl::Status status = core->CheckThreads(); !status.ok()) return status;
  if (core->has_memory()) return core;
  return absl::ResourceExhaustedError(fmt::format(
      "no memory for {} pages of {} bytes (log_memory_bytes) and an index of {} buckets "
      "(index_bucket_count); lower these options or free memory",
      config.log.geometry.frame_count, config.log.geometry.page_bytes(),
      std::uint64_t{1} << config.index_exponent));
}

}  // namespace ebb::internal
