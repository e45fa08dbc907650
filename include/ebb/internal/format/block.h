// Blocks: the 4 KiB units that are written to the device. Each carries its own checksum and
// identity.
//
//   bytes 0..4079      payload: bytes of the log
//   bytes 4080..4087   incarnation: chosen at random at each opening for writing
//   bytes 4088..4095   XXH3-64 of bytes 0..4087, seeded with the store's id and the block's number
//
// So a block that is damaged, torn, of an earlier incarnation or at another position does not
// verify. A block's number, or a counter, would not be enough: a crash after a cut could mix the
// blocks of two incarnations. A random incarnation prevents that.
//
// Commit records (control and open records) end exactly at the end of a block's payload. After a
// damaged block no record start is known from which to continue, but block ends are known:
//
//   +0          record header: kind control or open, extent
//   +8 ..       zeros
//   end-128     zeros (128): reserved
//   end-112     address (64): the tail when the shift to the next version began. Records of that
//               version may be anywhere from here to this record
//   end-104     microseconds since 1970 when this was written (64)
//   end-96      incarnation of the block that holds the begin address (64)
//   end-88      id of the newest checkpoint, finished or not (64)
//   end-80      version (64)
//   end-72      begin address (64)
//   end-64      durable address (64): all bytes below were synced before this was written
//   end-56      index size exponent at creation (32) | now (32)
//   end-48      previous incarnation (64)       open records only, otherwise 0
//   end-40      cut: first block of this incarnation (64)   open records only, otherwise 0
//   end-32      zero (64)
//   end-24      format version (32) | kind (32)
//   end-16      length of the fields, 128 (64)
//   end-8       magic (64), mixed with the store's id and the block's number. So neither a random
//               value nor the content of a reused frame, from another page, passes for a magic
//
// A sessions record precedes the control record of its version:
//
//   +0 record header: kind sessions, extent | +8 version (64) | +16 count of sessions (64)
//   then for each: serial (64; all ones: forgotten) | length of the name (64) | name, padded to 8
//
// The segment header is one block before each file's blocks. It has the same checksum rule (number:
// all ones):
//
//   0 magic (64) | 8 format version (32), zero (32) | 16 store id (64)
//   24 first block (64) | 32 segment blocks (64) | 40 page shift (32), block bytes (32)
//   48 key bytes (32), value bytes (32): all ones for strings | 56 hash version (32), codec (32)
//   64 index exponent at creation (32), zero (32)
//   72 required features (64) | 80 optional features (64) | 88 hash seed (128)
//   104 tag of the key type (64) | 112 tag of the value type (64)
//   120 microseconds since 1970 when the store was created (64)
//   128 the library that created it, text, padded to 32 with zeros
//   160.. zeros | 4080 zero (64) | 4088 checksum
//
// All fields except the first block are fixed when the store is created, and are the same in each
// of its files. This includes fields unknown to this version: a store is opened if all its required
// features are known, and the bits and bytes of unknown optional features are preserved. Magic,
// format version, store id and checksum have the same positions in every version of the format. So
// a store of another version is distinguished from a damaged one.
//
// Little-endian throughout. Thread safety: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/hash.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/stats.h"

namespace ebb::internal {

inline constexpr std::uint32_t kFormatVersion = 2;

// Writes the trailer of a block whose payload is in place.
void SealBlock(std::span<std::byte> block, std::uint64_t store_id, std::uint64_t number,
               std::uint64_t incarnation);
// Returns the incarnation of a block that verifies, or nothing.
std::optional<std::uint64_t> VerifyBlock(std::span<const std::byte> block, std::uint64_t store_id,
                                         std::uint64_t number);

// Which incarnation wrote the blocks from `first_block` on.
struct IncarnationSpan {
  std::uint64_t first_block = 0;
  std::uint64_t incarnation = 0;
};

// Of a table in order of blocks; 0 before its first.
std::uint64_t IncarnationAt(const std::vector<IncarnationSpan>& spans, std::uint64_t block);

struct CommitRecord {
  RecordKind kind = RecordKind::kControl;
  std::uint64_t checkpoint_id = 0;
  std::uint64_t version = 0;
  Address begin;
  std::uint64_t begin_incarnation = 0;
  Address durable;
  std::uint32_t creation_exponent = 0;
  std::uint32_t index_exponent = 0;
  std::uint64_t previous_incarnation = 0;
  std::uint64_t cut_block = 0;
  Address shift_tail;
  std::uint64_t unix_us = 0;

  static constexpr std::uint64_t kFieldBytes = 128;
  static constexpr std::uint64_t kMinExtentBytes = 8 + kFieldBytes;
};
// Writes the record into `extent`, which ends at the end of the payload of block `number`.
void EncodeCommitRecord(const CommitRecord& record, std::uint64_t store_id, std::uint64_t number,
                        std::span<std::byte> extent);
// Reads a record from the end of the payload of block `number`. Returns nothing if there is none.
std::optional<CommitRecord> DecodeCommitRecord(std::span<const std::byte> payload,
                                               std::uint64_t store_id, std::uint64_t number);

// Returns the bytes that one session needs in a sessions record.
std::uint64_t SessionBytes(std::string_view name);
// How many of `sessions`, in order, fit into one record of at most `room` bytes, and its extent.
struct SessionsExtent {
  std::size_t count = 0;
  std::uint64_t bytes = 0;
};
SessionsExtent FitSessions(std::span<const SessionReport> sessions, std::uint64_t room);
// `extent` has the size that FitSessions returned.
void EncodeSessions(std::uint64_t version, std::span<const SessionReport> sessions,
                    std::span<std::byte> extent);
inline constexpr std::size_t kMaxSessionNameBytes = 255;
struct SessionsRecord {
  std::uint64_t version = 0;
  std::vector<SessionReport> sessions;
};
// Returns nothing if the record is malformed.
std::optional<SessionsRecord> DecodeSessions(std::span<const std::byte> extent);

// Returns the tag in the segment header of a type with this name; 0: it has no name.
std::uint64_t TypeTag(std::string_view name);

struct SegmentHeader {
  // The features that this version knows.
  static constexpr std::uint64_t kKnownFeatures = 0;
  static constexpr std::size_t kWriterBytes = 32;
  static constexpr std::size_t kRestOffset = 160;

  std::uint32_t format_version = kFormatVersion;
  std::uint64_t store_id = 0;
  std::uint64_t first_block = 0;
  std::uint64_t segment_blocks = 0;
  int page_shift = 0;
  RecordShape shape;
  std::uint32_t hash_version = 0;
  std::uint32_t codec_version = 0;
  std::uint32_t creation_exponent = 0;
  std::uint64_t required_features = 0;
  std::uint64_t optional_features = 0;
  HashSeed hash_seed;
  std::uint64_t key_tag = 0;  // TypeTag
  std::uint64_t value_tag = 0;
  std::uint64_t created_unix_us = 0;
  std::array<char, kWriterBytes> writer{};
  std::array<std::byte, kBlockPayloadBytes - kRestOffset> rest{};  // features of later versions

  bool operator==(const SegmentHeader&) const = default;
};
void EncodeSegmentHeader(const SegmentHeader& header, std::span<std::byte> block);
// Errors: DataLoss if the block does not verify; Unimplemented for another format version, or a
// required feature that this version does not know. `name` is the file, for the message.
absl::StatusOr<SegmentHeader> DecodeSegmentHeader(std::span<const std::byte> block,
                                                  const std::string& name);

}  // namespace ebb::internal
