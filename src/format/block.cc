#include "ebb/internal/format/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace ebb::internal {
namespace {

constexpr std::size_t kBytes = 4096;
constexpr std::size_t kIncarnationOffset = kBlockPayloadBytes;
constexpr std::size_t kChecksumOffset = kBytes - 8;
static_assert(kIncarnationOffset + 16 == kBytes, "the trailer is 16 bytes");

constexpr std::uint64_t kCommitMagic = 0x54494d4d4f434245;   // "EBCOMMIT"
constexpr std::uint64_t kSegmentMagic = 0x544d474553424245;  // "EBBSEGMT"
// The number of a header in its checksum. No block of the log has it, so neither can pass for the
// other.
constexpr std::uint64_t kHeaderNumber = ~std::uint64_t{0};

// Fields are copied as the machine has them, because ebb runs on little-endian machines only
// (codec.h).
template <typename T>
void Put(std::span<std::byte> bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}
template <typename T>
T Get(std::span<const std::byte> bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// The seed binds a block to its store and its number, so that a copy elsewhere does not verify.
std::uint64_t Checksum(std::span<const std::byte> block, std::uint64_t store_id,
                       std::uint64_t number) {
  return XXH3_64bits_withSeed(block.data(), kChecksumOffset,
                              HashInteger(store_id ^ HashInteger(number)));
}

}  // namespace

void SealBlock(std::span<std::byte> block, std::uint64_t store_id, std::uint64_t number,
               std::uint64_t incarnation) {
  Put(block, kIncarnationOffset, incarnation);
  Put(block, kChecksumOffset, Checksum(block, store_id, number));
}

std::optional<std::uint64_t> VerifyBlock(std::span<const std::byte> block, std::uint64_t store_id,
                                         std::uint64_t number) {
  if (Get<std::uint64_t>(block, kChecksumOffset) != Checksum(block, store_id, number)) {
    return std::nullopt;
  }
  // Any incarnation verifies. The caller knows which one it expects at this place.
  return Get<std::uint64_t>(block, kIncarnationOffset);
}

// The last span that begins at or below the block.
std::uint64_t IncarnationAt(const std::vector<IncarnationSpan>& spans, std::uint64_t block) {
  const auto after = std::upper_bound(
      spans.begin(), spans.end(), block,
      [](std::uint64_t number, const IncarnationSpan& span) { return number < span.first_block; });
  return after == spans.begin() ? 0 : std::prev(after)->incarnation;
}

namespace {
// Depends on store and block, so that the bytes of a record in a value cannot pose as a control
// record.
std::uint64_t CommitMagic(std::uint64_t store_id, std::uint64_t number) {
  return kCommitMagic ^ HashInteger(store_id ^ HashInteger(number));
}
}  // namespace

void EncodeCommitRecord(const CommitRecord& record, std::uint64_t store_id, std::uint64_t number,
                        std::span<std::byte> extent) {
  EBB_CHECK(extent.size() >= CommitRecord::kMinExtentBytes);
  // Zeros, because these bytes reach the device (hybrid_log.h).
  std::fill(extent.begin(), extent.end(), std::byte{0});
  Put(extent, 0,
      RecordHeader::MakeExtent(record.kind, extent.size()).With(RecordHeader::kValid).word());
  // The fields are at the end of the extent, which is the end of a block: a search for commit
  // records need not know where records begin. src/README.md draws them.
  const std::span<std::byte> fields = extent.last(CommitRecord::kFieldBytes);
  Put(fields, 16, record.shift_tail.value());
  Put(fields, 24, record.unix_us);
  Put(fields, 32, record.begin_incarnation);
  Put(fields, 40, record.checkpoint_id);
  Put(fields, 48, record.version);
  Put(fields, 56, record.begin.value());
  Put(fields, 64, record.durable.value());
  Put(fields, 72, record.creation_exponent);
  Put(fields, 76, record.index_exponent);
  Put(fields, 80, record.previous_incarnation);
  Put(fields, 88, record.cut_block);
  Put(fields, 104, kFormatVersion);
  Put(fields, 108, static_cast<std::uint32_t>(record.kind));
  Put(fields, 112, CommitRecord::kFieldBytes);
  Put(fields, 120, CommitMagic(store_id, number));
}

std::optional<CommitRecord> DecodeCommitRecord(std::span<const std::byte> payload,
                                               std::uint64_t store_id, std::uint64_t number) {
  if (payload.size() < CommitRecord::kFieldBytes) return std::nullopt;
  const std::span<const std::byte> fields = payload.last(CommitRecord::kFieldBytes);
  if (Get<std::uint64_t>(fields, 120) != CommitMagic(store_id, number)) return std::nullopt;
  if (Get<std::uint64_t>(fields, 112) != CommitRecord::kFieldBytes) return std::nullopt;
  // Reserved fields are not checked, so that later versions may use them.
  CommitRecord record;
  record.kind = static_cast<RecordKind>(Get<std::uint32_t>(fields, 108) & 7);
  if (record.kind != RecordKind::kControl && record.kind != RecordKind::kOpen) return std::nullopt;
  record.shift_tail = Address(Get<std::uint64_t>(fields, 16));
  record.unix_us = Get<std::uint64_t>(fields, 24);
  record.begin_incarnation = Get<std::uint64_t>(fields, 32);
  record.checkpoint_id = Get<std::uint64_t>(fields, 40);
  record.version = Get<std::uint64_t>(fields, 48);
  record.begin = Address(Get<std::uint64_t>(fields, 56));
  record.durable = Address(Get<std::uint64_t>(fields, 64));
  record.creation_exponent = Get<std::uint32_t>(fields, 72);
  record.index_exponent = Get<std::uint32_t>(fields, 76);
  record.previous_incarnation = Get<std::uint64_t>(fields, 80);
  record.cut_block = Get<std::uint64_t>(fields, 88);
  return record;
}

namespace {
// The record's header, the version and the number of sessions.
constexpr std::uint64_t kSessionsHeadBytes = 24;
}  // namespace

std::uint64_t SessionBytes(std::string_view name) { return 16 + RoundUp8(name.size()); }

SessionsExtent FitSessions(std::span<const SessionReport> sessions, std::uint64_t room) {
  SessionsExtent fitting{.count = 0, .bytes = kSessionsHeadBytes};
  for (const SessionReport& session : sessions) {
    if (fitting.bytes + SessionBytes(session.name) > room) break;
    fitting.bytes += SessionBytes(session.name);
    ++fitting.count;
  }
  // A name is much shorter than a page, so at least one session fits.
  EBB_CHECK(fitting.count != 0 || sessions.empty());
  return fitting;
}

void EncodeSessions(std::uint64_t version, std::span<const SessionReport> sessions,
                    std::span<std::byte> extent) {
  // Zeros also pad the names.
  std::fill(extent.begin(), extent.end(), std::byte{0});
  Put(extent, 0, RecordHeader::MakeExtent(RecordKind::kSessions, extent.size()).word());
  Put(extent, 8, version);
  Put(extent, 16, std::uint64_t{sessions.size()});
  std::size_t at = kSessionsHeadBytes;
  for (const SessionReport& session : sessions) {
    Put(extent, at, session.serial);
    Put(extent, at + 8, std::uint64_t{session.name.size()});
    std::memcpy(extent.data() + at + 16, session.name.data(), session.name.size());
    at += SessionBytes(session.name);
  }
}

std::optional<SessionsRecord> DecodeSessions(std::span<const std::byte> extent) {
  if (extent.size() < kSessionsHeadBytes) return std::nullopt;
  SessionsRecord record;
  record.version = Get<std::uint64_t>(extent, 8);
  std::span<const std::byte> rest = extent.subspan(kSessionsHeadBytes);
  // Ends: each turn takes at least 16 bytes, or fails.
  for (std::uint64_t count = Get<std::uint64_t>(extent, 16); count != 0; --count) {
    if (rest.size() < 16) return std::nullopt;
    const std::uint64_t name_bytes = Get<std::uint64_t>(rest, 8);
    // The lengths come from a verified block, but are checked like any input.
    if (name_bytes == 0 || name_bytes > kMaxSessionNameBytes || name_bytes > rest.size() - 16) {
      return std::nullopt;
    }
    SessionReport session;
    session.serial = Get<std::uint64_t>(rest, 0);
    session.name.assign(reinterpret_cast<const char*>(rest.data()) + 16, name_bytes);
    rest = rest.subspan(std::min<std::size_t>(SessionBytes(session.name), rest.size()));
    record.sessions.push_back(std::move(session));
  }
  return record;
}

std::uint64_t TypeTag(std::string_view name) {
  return name.empty() ? 0 : HashBytes(name.data(), name.size());
}

// src/README.md draws the fields. Zeros between them are reserved: a later version gives them a
// meaning together with a feature bit.
void EncodeSegmentHeader(const SegmentHeader& header, std::span<std::byte> block) {
  std::fill(block.begin(), block.end(), std::byte{0});
  Put(block, 0, kSegmentMagic);
  Put(block, 8, header.format_version);
  Put(block, 16, header.store_id);
  Put(block, 24, header.first_block);
  Put(block, 32, header.segment_blocks);
  Put(block, 40, static_cast<std::uint32_t>(header.page_shift));
  Put(block, 44, static_cast<std::uint32_t>(kBytes));
  Put(block, 48, header.shape.key_bytes);
  Put(block, 52, header.shape.value_bytes);
  Put(block, 56, header.hash_version);
  Put(block, 60, header.codec_version);
  Put(block, 64, header.creation_exponent);
  Put(block, 72, header.required_features);
  Put(block, 80, header.optional_features);
  Put(block, 88, header.hash_seed.s0);
  Put(block, 96, header.hash_seed.s1);
  Put(block, 104, header.key_tag);
  Put(block, 112, header.value_tag);
  Put(block, 120, header.created_unix_us);
  Put(block, 128, header.writer);
  Put(block, SegmentHeader::kRestOffset, header.rest);
  SealBlock(block, header.store_id, kHeaderNumber, 0);
}

absl::StatusOr<SegmentHeader> DecodeSegmentHeader(std::span<const std::byte> block,
                                                  const std::string& name) {
  if (Get<std::uint64_t>(block, 0) != kSegmentMagic) {
    return absl::DataLossError(
        fmt::format("{} at offset 0: not the header of a log file of ebb", name));
  }
  SegmentHeader header;
  header.store_id = Get<std::uint64_t>(block, 16);
  // Every version keeps magic, version and checksum at their places. So the checksum is checked
  // first, and a version that verifies is really another version, not damage.
  if (!VerifyBlock(block, header.store_id, kHeaderNumber).has_value()) {
    return absl::DataLossError(fmt::format("{} at offset 0: the header fails its checksum", name));
  }
  header.format_version = Get<std::uint32_t>(block, 8);
  if (header.format_version != kFormatVersion) {
    return absl::UnimplementedError(
        fmt::format("{}: the store has format version {}, but this library reads format version "
                    "{}; open it with the version of ebb that wrote it",
                    name, header.format_version, kFormatVersion));
  }
  header.required_features = Get<std::uint64_t>(block, 72);
  // Unknown optional features are kept and ignored; unknown required ones prevent the opening.
  if (const std::uint64_t unknown = header.required_features & ~SegmentHeader::kKnownFeatures;
      unknown != 0) {
    return absl::UnimplementedError(fmt::format(
        "{}: the store needs features {:#x}, which this library does not know; open it with the "
        "version of ebb that wrote it",
        name, unknown));
  }
  header.first_block = Get<std::uint64_t>(block, 24);
  header.segment_blocks = Get<std::uint64_t>(block, 32);
  header.page_shift = static_cast<int>(Get<std::uint32_t>(block, 40));
  header.shape.key_bytes = Get<std::uint32_t>(block, 48);
  header.shape.value_bytes = Get<std::uint32_t>(block, 52);
  header.hash_version = Get<std::uint32_t>(block, 56);
  header.codec_version = Get<std::uint32_t>(block, 60);
  header.creation_exponent = Get<std::uint32_t>(block, 64);
  header.optional_features = Get<std::uint64_t>(block, 80);
  header.hash_seed = {Get<std::uint64_t>(block, 88), Get<std::uint64_t>(block, 96)};
  header.key_tag = Get<std::uint64_t>(block, 104);
  header.value_tag = Get<std::uint64_t>(block, 112);
  header.created_unix_us = Get<std::uint64_t>(block, 120);
  header.writer = Get<decltype(header.writer)>(block, 128);
  // Kept as it is, so that the headers of further files have the fields of later versions too.
  header.rest = Get<decltype(header.rest)>(block, SegmentHeader::kRestOffset);
  // A checksum does not protect from a program that writes a header with any fields. The limits
  // keep the shifts and products of the geometry within 64 bits, and are at least those of Options.
  const bool sane =
      header.page_shift >= kBlockShift && header.page_shift <= 26 && header.segment_blocks != 0 &&
      header.segment_blocks % (std::uint64_t{1} << (header.page_shift - kBlockShift)) == 0 &&
      header.segment_blocks <= (std::uint64_t{1} << 36) && header.creation_exponent <= 33 &&
      header.shape.key_bytes != 0 && header.shape.value_bytes != 0;
  if (!sane) {
    return absl::DataLossError(
        fmt::format("{} at offset 0: the header verifies, but its fields are out of range", name));
  }
  return header;
}

}  // namespace ebb::internal
