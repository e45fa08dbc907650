#include "ebb/internal/log/log_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ebb/internal/base/no_memory.h"

namespace ebb::internal {

std::byte* DeviceBuffer::Reserve(std::size_t blocks, std::size_t keep) {
  if (blocks <= blocks_) return bytes_.get();
  AlignedBuffer grown = AllocateAligned(blocks * kBlockBytes);
  if (grown == nullptr) return nullptr;
  std::memset(grown.get(), 0, blocks * kBlockBytes);  // see block_queue.h
  if (keep != 0) std::memcpy(grown.get(), bytes_.get(), keep * kBlockBytes);
  bytes_ = std::move(grown);
  blocks_ = blocks;
  return bytes_.get();
}

absl::Status LogReader::Damaged(std::uint64_t block, const char* what) const {
  return absl::DataLossError(fmt::format("{}: block {} {}", device_.Describe(block), block, what));
}

absl::Status LogReader::Verify(const BlockRead& read) {
  std::uint64_t block = read.block;
  // The log states that these blocks were written, so a block beyond the file's end is damage, not
  // an end.
  if (absl::IsOutOfRange(read.status)) return Damaged(block, "is missing");
  if (!read.status.ok()) return read.status;
  counters_.device_reads.fetch_add(1, std::memory_order_relaxed);  // statistics
  counters_.device_read_bytes.fetch_add(read.bytes.size(), std::memory_order_relaxed);  // likewise
  for (std::size_t at = 0; at < read.bytes.size(); at += kBlockBytes, ++block) {
    const auto incarnation = VerifyBlock(read.bytes.subspan(at, kBlockBytes), store_id_, block);
    if (!incarnation.has_value()) return Damaged(block, "fails its checksum");
    // A block of an older incarnation verifies by its own checksum, but was replaced later: it must
    // not be used.
    if (*incarnation != IncarnationAt(log_.incarnations(), block))
      return Damaged(block, "is left over from an earlier incarnation of the store");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> LogReader::BlocksOf(Address address,
                                                  std::span<const std::byte> blocks) const {
  const Geometry& geometry = log_.geometry();
  const RecordShape shape = log_.shape();
  const std::uint64_t block = geometry.BlockOf(address);
  if (address.value() % 8 != 0 || geometry.OffsetOf(address) >= geometry.payload_bytes()) {
    return Damaged(
        block, "contains or precedes an address that no record can have, but a chain leads there");
  }
  const std::uint64_t in_block = geometry.OffsetOf(address) % kBlockPayloadBytes;
  const std::uint64_t room = geometry.payload_bytes() - geometry.OffsetOf(address);
  const auto blocks_for = [&](std::uint64_t bytes) {
    return (in_block + bytes + kBlockPayloadBytes - 1) / kBlockPayloadBytes;
  };
  // The lengths of a string record are in its first words. A fixed record is read completely at
  // once.
  const std::uint64_t least = shape.has_lengths()
                                  ? shape.prefix_bytes()
                                  : shape.ExtentFor(shape.key_bytes, shape.value_bytes);
  if (least > room) return Damaged(block, "has no room for the record that a chain leads to");
  const std::uint64_t first = blocks_for(least);
  // The prefix may cross into a second block, whose trailer is between the two parts.
  if (!shape.has_lengths() || blocks.size() < first * kBlockBytes) return first;
  std::byte prefix[16];
  const std::uint64_t in_first = std::min<std::uint64_t>(16, kBlockPayloadBytes - in_block);
  std::memcpy(prefix, blocks.data() + in_block, in_first);
  if (in_first < 16) std::memcpy(prefix + in_first, blocks.data() + kBlockBytes, 16 - in_first);
  std::uint32_t lengths[2];
  std::memcpy(lengths, prefix + 8, 8);
  const std::uint64_t extent =
      shape.ExtentFor(shape.key_variable() ? lengths[0] : shape.key_bytes,
                      shape.value_variable() ? lengths[1] : shape.value_bytes);
  // The lengths come from a verified block, but a chain may lead to a place in the middle of a
  // record. So each length is checked against the page before it decides how much memory to
  // allocate.
  if (extent > room) return Damaged(block, "holds a record that does not fit its page");
  return blocks_for(extent);
}

absl::StatusOr<bool> LogReader::NextRead(Address address, DeviceBuffer& buffer, std::uint64_t have,
                                         BlockRead& next) const {
  // Two reads at most: the blocks with the lengths, then the rest of the record.
  std::byte* bytes = buffer.Reserve(have, have);
  const absl::StatusOr<std::uint64_t> blocks = BlocksOf(address, {bytes, have * kBlockBytes});
  if (!blocks.ok()) return blocks.status();
  if (*blocks <= have) return false;
  bytes = buffer.Reserve(*blocks, have);
  if (bytes == nullptr) {
    return NoMemoryTo(fmt::format("read a record of {} blocks", *blocks));
  }
  next.block = log_.geometry().BlockOf(address) + have;
  next.bytes = {bytes + have * kBlockBytes, (*blocks - have) * kBlockBytes};
  return true;
}

absl::StatusOr<Record> LogReader::RecordIn(Address address, DeviceBuffer& buffer,
                                           std::uint64_t have) const {
  const Geometry& geometry = log_.geometry();
  const std::uint64_t offset = geometry.OffsetOf(address);
  std::byte* const bytes = buffer.Reserve(have, have);
  // Move the payloads over the trailers, so that a record that crosses blocks is contiguous.
  for (std::uint64_t i = 1; i < have; ++i) {
    std::memmove(bytes + i * kBlockPayloadBytes, bytes + i * kBlockBytes, kBlockPayloadBytes);
  }
  Record record(bytes + offset % kBlockPayloadBytes, log_.shape());
  const RecordHeader header = record.header().LoadAcquire();
  // A chain of the index led here. Its record must be valid, must lead further down and must fit
  // into its page; otherwise the chain, not only this record, is damaged.
  if (header.kind() != RecordKind::kRecord || !header.valid() || header.prev() >= address ||
      !record.WellFormed(geometry.payload_bytes() - offset)) {
    return Damaged(geometry.BlockOf(address),
                   "holds no valid record at the address that a chain leads to");
  }
  return record;
}

absl::StatusOr<Record> LogReader::ReadRecord(Address address, DeviceBuffer& buffer) {
  // The synchronous form. Asynchronous operations take the same steps with a BlockQueue
  // (device_search.h).
  std::uint64_t have = 0;
  for (BlockRead read;; have += read.bytes.size() / kBlockBytes) {  // ends: a record has an end
    const absl::StatusOr<bool> more = NextRead(address, buffer, have, read);
    if (!more.ok()) return more.status();
    if (!*more) return RecordIn(address, buffer, have);
    Read(read);
    if (absl::Status status = Verify(read); !status.ok()) return status;
  }
}

}  // namespace ebb::internal
