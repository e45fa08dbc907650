#include "ebb/internal/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>
#include <string_view>

#include "ebb/internal/block.h"
#include "ebb/internal/sealed_file.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kMagic = 0x54534546494e4d45;  // "EMNIFEST"
constexpr std::string_view kManifestPrefix = "manifest-";
constexpr std::string_view kImagePrefix = "index-";
constexpr std::string_view kSuffix = ".ebb";
constexpr std::size_t kFixedWords = 13;

constexpr std::uint64_t Pair(std::uint32_t low, std::uint32_t high) {
  return std::uint64_t{high} << 32 | low;
}

std::optional<std::uint64_t> NumberBetween(std::string_view name, std::string_view prefix,
                                           std::string_view suffix) {
  if (!name.starts_with(prefix) || !name.ends_with(suffix) ||
      name.size() <= prefix.size() + suffix.size()) {
    return std::nullopt;
  }
  const std::string_view digits =
      name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

}  // namespace

CheckpointInfo DescribeCheckpoint(const Manifest& manifest) {
  return {.id = manifest.id,
          .created_unix_ms = manifest.created_unix_ms,
          .entry_count = manifest.image_entries,
          .size_bytes = manifest.image_bytes + manifest.manifest_bytes,
          .scan_address = manifest.scan_from.value(),
          .durable_address = manifest.durable.value()};
}

std::string ManifestName(std::uint64_t id) {
  return fmt::format("{}{}{}", kManifestPrefix, id, kSuffix);
}
std::string ImageName(std::uint64_t id) { return fmt::format("{}{}{}", kImagePrefix, id, kSuffix); }

std::optional<std::uint64_t> CheckpointOfFile(const std::string& name) {
  std::string_view finished = name;
  if (finished.ends_with(SealedWriter::kUnfinishedSuffix)) {
    finished.remove_suffix(std::strlen(SealedWriter::kUnfinishedSuffix));
  }
  for (const std::string_view prefix : {kManifestPrefix, kImagePrefix}) {
    const auto id = NumberBetween(finished, prefix, kSuffix);
    // Only names that the store makes: no leading zeros.
    if (id.has_value() && *id != 0 && *id <= kMostCheckpointId &&
        (finished == ManifestName(*id) || finished == ImageName(*id)))
      return id;
  }
  return std::nullopt;
}

absl::Status WriteManifest(Directory& directory, std::uint64_t store_id, Manifest& manifest) {
  std::vector<std::uint64_t> words = {
      kMagic,
      kFormatVersion,
      manifest.id,
      manifest.created_unix_ms,
      manifest.image_stamp,
      manifest.image_entries,
      manifest.image_bytes,
      Pair(manifest.creation_exponent, manifest.index_exponent),
      manifest.scan_from.value(),
      manifest.durable.value(),
      manifest.version,
      manifest.incarnations.size(),
      manifest.sessions.size(),
  };
  for (const IncarnationSpan& span : manifest.incarnations) {
    words.push_back(span.first_block);
    words.push_back(span.incarnation);
  }
  for (const SessionReport& session : manifest.sessions) {
    words.push_back(session.serial);
    words.push_back(session.name.size());
    const std::size_t at = words.size();
    words.resize(at + (session.name.size() + 7) / 8);
    std::memcpy(words.data() + at, session.name.data(), session.name.size());
  }
  SealedWriter writer(directory, ManifestName(manifest.id), {store_id, manifest.id});
  absl::Status status = writer.Open();
  if (status.ok()) status = writer.Append(std::as_bytes(std::span(words)));
  if (status.ok()) status = writer.Finish();
  manifest.manifest_bytes = writer.file_bytes();
  return status;
}

absl::StatusOr<Manifest> ReadManifest(Directory& directory, std::uint64_t store_id,
                                      std::uint64_t id) {
  SealedReader reader(directory, ManifestName(id), {store_id, id});
  if (absl::Status status = reader.Open(); !status.ok()) return status;
  std::uint64_t words[kFixedWords] = {};
  absl::Status status = reader.Read(std::as_writable_bytes(std::span(words)));
  if (!status.ok()) return status;
  if (words[0] != kMagic || words[2] != id) return reader.Damaged("not the manifest of its name");
  if (words[1] != kFormatVersion) {
    return absl::UnimplementedError(
        fmt::format("{}: format version {}; this library reads version {}", ManifestName(id),
                    words[1], kFormatVersion));
  }
  Manifest manifest;
  manifest.id = id;
  manifest.created_unix_ms = words[3];
  manifest.image_stamp = words[4];
  manifest.image_entries = words[5];
  manifest.image_bytes = words[6];
  manifest.creation_exponent = static_cast<std::uint32_t>(words[7]);
  manifest.index_exponent = static_cast<std::uint32_t>(words[7] >> 32);
  manifest.scan_from = Address(words[8]);
  manifest.durable = Address(words[9]);
  manifest.version = words[10];
  manifest.manifest_bytes = reader.file_bytes();
  // Counts beyond what the file can hold end with an error before they take memory.
  for (std::uint64_t left = words[11]; status.ok() && left != 0; --left) {
    IncarnationSpan span;
    status = reader.ReadWord(span.first_block);
    status.Update(status.ok() ? reader.ReadWord(span.incarnation) : status);
    manifest.incarnations.push_back(span);
  }
  for (std::uint64_t left = words[12]; status.ok() && left != 0; --left) {
    SessionReport session;
    std::uint64_t name_bytes = 0;
    status = reader.ReadWord(session.serial);
    status.Update(status.ok() ? reader.ReadWord(name_bytes) : status);
    if (status.ok() && (name_bytes == 0 || name_bytes > kMostSessionNameBytes)) {
      status = reader.Damaged("a session's name of a length that none has");
    }
    if (!status.ok()) break;
    std::string padded((name_bytes + 7) / 8 * 8, '\0');
    status = reader.Read(std::as_writable_bytes(std::span(padded)));
    padded.resize(name_bytes);
    session.name = std::move(padded);
    manifest.sessions.push_back(std::move(session));
  }
  if (!status.ok()) return status;
  return manifest;
}

}  // namespace ebb::internal
