#include "ebb/internal/checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>
#include <string_view>

#include "ebb/internal/checkpoint/sealed_file.h"
#include "ebb/internal/device/file_system.h"

namespace ebb::internal {
namespace {

constexpr std::uint64_t kMagic = 0x54534546494e4d45;  // "EMNIFEST"
constexpr std::string_view kManifestPrefix = "manifest-";
constexpr std::string_view kImagePrefix = "index-";
constexpr std::string_view kSuffix = ".ebb";

// Manifests consist of 64-bit words. A word may hold two 32-bit fields.
constexpr std::uint64_t Pair(std::uint32_t low, std::uint32_t high) {
  return std::uint64_t{high} << 32 | low;
}

// Returns the number of which all characters between prefix and suffix consist, or nothing.
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
    // Only names that the store itself creates, without leading zeros.
    if (id.has_value() && *id != 0 && *id <= kMaxCheckpointId &&
        (finished == ManifestName(*id) || finished == ImageName(*id)))
      return id;
  }
  return std::nullopt;
}

namespace {

enum class Section : std::uint32_t { kCheckpoint = 1, kIncarnations = 2, kSessions = 3 };
constexpr std::uint64_t kSections = 3;
constexpr std::uint64_t kCheckpointBytes = 64;

// Appends a section, whose words `fill` appends. The 1 marks a section that a reader must know.
template <typename Fill>
void AddSection(Section section, std::vector<std::uint64_t>& words, Fill fill) {
  words.push_back(Pair(static_cast<std::uint32_t>(section), 1));
  words.push_back(0);  // the length, which is known below
  const std::size_t begin = words.size();
  fill();
  words[begin - 1] = (words.size() - begin) * 8;
}

absl::Status ReadCheckpoint(SealedReader& reader, std::uint64_t bytes, Manifest& manifest) {
  if (bytes != kCheckpointBytes) return reader.Damaged("a section has the wrong length");
  std::uint64_t words[kCheckpointBytes / 8] = {};
  if (absl::Status status = reader.Read(std::as_writable_bytes(std::span(words))); !status.ok()) {
    return status;
  }
  // In the order in which WriteManifest appends them.
  manifest.created_unix_ms = words[0];
  manifest.image_stamp = words[1];
  manifest.image_entries = words[2];
  manifest.image_bytes = words[3];
  manifest.creation_exponent = static_cast<std::uint32_t>(words[4]);
  manifest.index_exponent = static_cast<std::uint32_t>(words[4] >> 32);
  manifest.scan_from = Address(words[5]);
  manifest.durable = Address(words[6]);
  manifest.version = words[7];
  return absl::OkStatus();
}

// A length beyond the end of the file fails before it allocates memory: spans are read one by one.
absl::Status ReadIncarnations(SealedReader& reader, std::uint64_t bytes, Manifest& manifest) {
  if (bytes % 16 != 0) return reader.Damaged("a section has the wrong length");
  for (; bytes != 0; bytes -= 16) {
    IncarnationSpan span;
    absl::Status status = reader.ReadWord(span.first_block);
    if (status.ok()) status = reader.ReadWord(span.incarnation);
    if (!status.ok()) return status;
    manifest.incarnations.push_back(span);
  }
  return absl::OkStatus();
}

absl::Status ReadSessions(SealedReader& reader, std::uint64_t bytes, Manifest& manifest) {
  while (bytes != 0) {
    SessionReport session;
    std::uint64_t name_bytes = 0;
    absl::Status status = reader.ReadWord(session.serial);
    if (status.ok()) status = reader.ReadWord(name_bytes);
    if (!status.ok()) return status;
    // Names are padded to 8 bytes, and so is every section.
    const std::uint64_t padded_bytes = RoundUp8(name_bytes);
    if (name_bytes == 0 || name_bytes > kMaxSessionNameBytes || bytes < 16 + padded_bytes) {
      return reader.Damaged("the length of a session's name is out of range");
    }
    std::string padded(padded_bytes, '\0');
    status = reader.Read(std::as_writable_bytes(std::span(padded)));
    if (!status.ok()) return status;
    padded.resize(name_bytes);
    session.name = std::move(padded);
    manifest.sessions.push_back(std::move(session));
    bytes -= 16 + padded_bytes;
  }
  return absl::OkStatus();
}

// Reads the bytes and drops them. So the checksums of their blocks are verified, as all others.
absl::Status SkipSection(SealedReader& reader, std::uint64_t bytes) {
  std::uint64_t word = 0;
  for (; bytes != 0; bytes -= 8) {  // ends: the file does
    if (absl::Status status = reader.ReadWord(word); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Reads the next section and sets its bit in `seen`.
absl::Status ReadSection(SealedReader& reader, Manifest& manifest, std::uint64_t& seen) {
  std::uint64_t head = 0;
  std::uint64_t bytes = 0;
  absl::Status status = reader.ReadWord(head);
  if (status.ok()) status = reader.ReadWord(bytes);
  if (!status.ok()) return status;
  if (bytes % 8 != 0) return reader.Damaged("a section has the wrong length");
  const auto type = static_cast<std::uint32_t>(head);
  // Each known section occurs exactly once (ReadManifest checks that all were seen).
  if (type >= 1 && type <= kSections) {
    const std::uint64_t bit = std::uint64_t{1} << (type - 1);
    if ((seen & bit) != 0) return reader.Damaged("a section occurs twice");
    seen |= bit;
  }
  switch (static_cast<Section>(type)) {
    case Section::kCheckpoint:
      return ReadCheckpoint(reader, bytes, manifest);
    case Section::kIncarnations:
      return ReadIncarnations(reader, bytes, manifest);
    case Section::kSessions:
      return ReadSessions(reader, bytes, manifest);
  }
  // Sections that later versions add and that are not required are skipped.
  if (head >> 32 == 0) return SkipSection(reader, bytes);
  return absl::UnimplementedError(fmt::format(
      "{}: needs section {}, which this library does not know; open the store with the version of "
      "ebb that wrote it",
      ManifestName(manifest.id), type));
}

}  // namespace

absl::Status WriteManifest(Directory& directory, std::uint64_t store_id, Manifest& manifest) {
  std::vector<std::uint64_t> words = {kMagic, kFormatVersion, manifest.id, kSections};
  AddSection(Section::kCheckpoint, words, [&] {
    words.insert(words.end(),
                 {manifest.created_unix_ms, manifest.image_stamp, manifest.image_entries,
                  manifest.image_bytes, Pair(manifest.creation_exponent, manifest.index_exponent),
                  manifest.scan_from.value(), manifest.durable.value(), manifest.version});
  });
  AddSection(Section::kIncarnations, words, [&] {
    for (const IncarnationSpan& span : manifest.incarnations) {
      words.insert(words.end(), {span.first_block, span.incarnation});
    }
  });
  AddSection(Section::kSessions, words, [&] {
    for (const SessionReport& session : manifest.sessions) {
      words.insert(words.end(), {session.serial, session.name.size()});
      const std::size_t at = words.size();
      // The new words are zero, which pads the name.
      words.resize(at + RoundUp8(session.name.size()) / 8);
      std::memcpy(words.data() + at, session.name.data(), session.name.size());
    }
  });
  // Walk of a Checkpoint, 4. Written under another name and renamed, so that a crash leaves a
  // complete manifest or none.
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
  std::uint64_t words[4] = {};
  absl::Status status = reader.Read(std::as_writable_bytes(std::span(words)));
  if (!status.ok()) return status;
  // The id in the file must be that in its name, or else it was renamed.
  if (words[0] != kMagic || words[2] != id)
    return reader.Damaged("not the manifest that its name states");
  // The block has verified, so another version is no damage, and must not be treated as a
  // checkpoint to be skipped.
  if (words[1] != kFormatVersion) {
    return absl::UnimplementedError(
        fmt::format("{}: the checkpoint has format version {}, but this library reads format "
                    "version {}; open the store with the version of ebb that wrote it",
                    ManifestName(id), words[1], kFormatVersion));
  }
  Manifest manifest;
  manifest.id = id;
  manifest.manifest_bytes = reader.file_bytes();
  std::uint64_t seen = 0;
  for (std::uint64_t left = words[3]; left != 0; --left) {  // ends: the file does
    status = ReadSection(reader, manifest, seen);
    if (!status.ok()) return status;
  }
  if (seen != (std::uint64_t{1} << kSections) - 1) return reader.Damaged("a section is missing");
  return manifest;
}

}  // namespace ebb::internal
