#include "ebb/internal/checkpoint/index_image.h"

#include <vector>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/checkpoint/sealed_file.h"
#include "ebb/internal/core/store_config.h"
#include "ebb/internal/format/lifetime.h"

namespace ebb::internal {
namespace {
// Marks a word that states a bucket's number. Entries have this bit clear, since none is tentative.
constexpr std::uint64_t kBucketMark = std::uint64_t{1} << 63;
}  // namespace

absl::Status WriteIndexImage(Core& core, const std::function<bool()>& stop, Manifest& manifest) {
  // The stamp is random, so that blocks of an earlier attempt with the same id do not verify.
  if (absl::Status status = FillRandom({&manifest.image_stamp, 1}); !status.ok()) return status;
  manifest.creation_exponent = static_cast<std::uint32_t>(core.index.creation_exponent());
  manifest.index_exponent = static_cast<std::uint32_t>(core.index.exponent());
  SealedWriter writer(*core.files.directory, ImageName(manifest.id),
                      {core.config.log.store_id, manifest.image_stamp});
  if (absl::Status status = writer.Open(); !status.ok()) return status;
  std::vector<std::uint64_t> words;
  // Begin may rise in the meantime: entries below are dead then too, and dropped when the image is
  // read.
  const Address begin = core.log.begin();
  // The index does not grow in the meantime: its growth and this image are jobs of the same lane.
  for (std::uint64_t bucket = 0; bucket < core.index.bucket_count(); ++bucket) {
    if (bucket % 1024 == 0 && stop()) return core.ClosedError();
    words.assign(1, kBucketMark | bucket);
    // Walk of a Checkpoint, 2. Operations run concurrently, so an entry may already lead to a
    // record above T0. Then it is left out: the scan of an opening, which starts at T0, finds that
    // record and adds the entry.
    core.index.ForEachEntry(bucket, [&](IndexEntry entry) {
      if (!IsDead(entry.address(), begin) && entry.address() < manifest.scan_from) {
        words.push_back(entry.word());
      }
    });
    // Empty bucket chains need no space.
    if (words.size() == 1) continue;
    manifest.image_entries += words.size() - 1;
    if (absl::Status status = writer.Append(std::as_bytes(std::span(words))); !status.ok()) {
      return status;
    }
  }
  // Sync and rename.
  absl::Status status = writer.Finish();
  manifest.image_bytes = writer.file_bytes();
  return status;
}

absl::Status LoadIndexImage(Core& core, Directory& directory, const Manifest& manifest) {
  return ReadIndexImage(core, directory, manifest, [&](std::uint64_t hash, Address address) {
    return core.index.PutExclusive(hash, address).has_value();
  });
}

absl::Status ReadIndexImage(Core& core, Directory& directory, const Manifest& manifest,
                            const std::function<bool(std::uint64_t, Address)>& take) {
  SealedReader reader(directory, ImageName(manifest.id),
                      {core.config.log.store_id, manifest.image_stamp});
  if (absl::Status status = reader.Open(); !status.ok()) return status;
  if (manifest.creation_exponent != static_cast<std::uint32_t>(core.index.creation_exponent()) ||
      manifest.index_exponent < manifest.creation_exponent || manifest.index_exponent > 48) {
    return reader.Damaged("the image is of an index of another size");
  }
  const int shift = core.index.creation_exponent();
  std::uint64_t bucket = 0;
  for (std::uint64_t left = manifest.image_entries; left != 0;) {
    std::uint64_t word = 0;
    if (absl::Status status = reader.ReadWord(word); !status.ok()) return status;
    if ((word & kBucketMark) != 0) {
      bucket = word & ~kBucketMark;
      continue;
    }
    const IndexEntry entry(word);
    // The image holds no entry at or above T0. Zeros mean that it ends before all entries that the
    // manifest states.
    if (entry.address() <= kNoRecord || entry.address() >= manifest.scan_from) {
      return reader.Damaged("an entry leads beyond the image's part of the log");
    }
    --left;
    // Below the first record: the entry never had a record.
    if (IsDead(entry.address(), core.log.geometry().BlockStart(1))) continue;
    // The bits of the hash that name the chain: those of the bucket, and the tag. In an index that
    // had grown, the two overlap, and agree in the bits that both have.
    const std::uint64_t hash = bucket | std::uint64_t{entry.tag()} << shift;
    if (!take(hash, entry.address())) {
      return NoMemoryTo("fill the hash index");
    }
    // A larger index than planned is allowed; a fuller one would be slow.
    if (core.config.index_auto_grow) core.index.GrowExclusiveIfCrowded();
  }
  return absl::OkStatus();
}

}  // namespace ebb::internal
