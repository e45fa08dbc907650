#include "tests/support/log_rig.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "ebb/internal/format/block.h"

namespace ebb::test {

using internal::Address;
using internal::EpochGuard;
using internal::EpochSlot;
using internal::HybridLog;
using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::LockWord;
using internal::Record;
using internal::RecordHeader;
using internal::RecordKind;
using internal::Space;

// ---- ScriptDevice ----

absl::Status ScriptDevice::Read(std::uint64_t block, std::span<std::byte> bytes) {
  std::lock_guard lock(mu_);
  if (absl::Status status = failing_reads_.Next(); !status.ok()) return status;
  for (; !bytes.empty(); ++block, bytes = bytes.subspan(kBlockBytes)) {
    const auto found = blocks_.find(block);
    if (found == blocks_.end()) return absl::OutOfRangeError("never written");
    std::memcpy(bytes.data(), found->second.data(), kBlockBytes);
  }
  return absl::OkStatus();
}

absl::Status ScriptDevice::Write(std::uint64_t block, std::span<const std::byte> bytes) {
  if (write_hook_) {
    if (absl::Status status = write_hook_(block, false); !status.ok()) return status;
  }
  {
    std::lock_guard lock(mu_);
    if (absl::Status status = failing_writes_.Next(); !status.ok()) return status;
    writes_.push_back({block, bytes.size() / kBlockBytes});
    for (std::size_t at = 0; at < bytes.size(); at += kBlockBytes) {
      std::memcpy(blocks_[block + at / kBlockBytes].data(), bytes.data() + at, kBlockBytes);
    }
  }
  return write_hook_ ? write_hook_(block, true) : absl::OkStatus();
}

absl::Status ScriptDevice::Reserve(std::uint64_t, std::uint64_t end) {
  std::lock_guard lock(mu_);
  return end <= space_end_ ? absl::OkStatus() : absl::ResourceExhaustedError("no space");
}

void ScriptDevice::LimitSpace(std::uint64_t end_block) {
  std::lock_guard lock(mu_);
  space_end_ = end_block;
}

absl::StatusOr<std::uint64_t> ScriptDevice::TruncateFront(std::uint64_t block) {
  std::lock_guard lock(mu_);
  blocks_.erase(blocks_.begin(), blocks_.lower_bound(block));
  return 0;
}

absl::Status ScriptDevice::Truncate(std::uint64_t block) {
  std::lock_guard lock(mu_);
  blocks_.erase(blocks_.lower_bound(block), blocks_.end());
  return absl::OkStatus();
}

std::uint64_t ScriptDevice::EndBlock() const {
  std::lock_guard lock(mu_);
  return blocks_.empty() ? 0 : blocks_.rbegin()->first + 1;
}

std::string ScriptDevice::Describe(std::uint64_t block) const {
  return "script at offset " + std::to_string(block * kBlockBytes);
}

void ScriptDevice::FailWrites(int count, absl::Status status) {
  std::lock_guard lock(mu_);
  failing_writes_ = {count, std::move(status)};
}

void ScriptDevice::FailReads(int count, absl::Status status) {
  std::lock_guard lock(mu_);
  failing_reads_ = {count, std::move(status)};
}

std::vector<ScriptDevice::WriteCall> ScriptDevice::writes() const {
  std::lock_guard lock(mu_);
  return writes_;
}

std::optional<ScriptDevice::Block> ScriptDevice::Get(std::uint64_t block) const {
  std::lock_guard lock(mu_);
  const auto found = blocks_.find(block);
  return found == blocks_.end() ? std::nullopt : std::optional(found->second);
}

void ScriptDevice::Put(std::uint64_t block, const Block& bytes) {
  std::lock_guard lock(mu_);
  blocks_[block] = bytes;
}

void ScriptDevice::Erase(std::uint64_t block) {
  std::lock_guard lock(mu_);
  blocks_.erase(block);
}

// ---- LogRig ----

namespace {

// The content of a key or a value of this address and length.
std::string Pattern(Address address, std::uint32_t bytes, unsigned salt) {
  std::string pattern(bytes, '\0');
  const std::uint64_t seed = address.value() / 8 * 31 + salt;
  for (std::uint32_t i = 0; i < bytes; ++i) pattern[i] = static_cast<char>(seed + i * 7);
  return pattern;
}

HybridLog::Position EmptyLog(const internal::Geometry& geometry) {
  const Address start = geometry.BlockStart(1);
  return {
      .begin = start, .head = start, .tail = start, .incarnations = {{0, LogRig::kIncarnation}}};
}

}  // namespace

LogRig::Setup LogRig::FromPageOne(const internal::Geometry& geometry) {
  const Address start = geometry.PageStart(1);
  return {.geometry = geometry,
          .position = HybridLog::Position{
              .begin = start, .head = start, .tail = start, .incarnations = {{0, kIncarnation}}}};
}

LogRig::LogRig(Setup setup)
    : setup_(std::move(setup)),
      epochs_(0, setup_.force_fallback),
      pool_(setup_.pool_threads),
      log_({.geometry = setup_.geometry,
            .shape = setup_.shape,
            .store_id = kStoreId,
            .write_batch_bytes = setup_.write_batch_bytes,
            .huge_pages = false},
           epochs_, health_, device_, pool_),
      reader_(log_, kStoreId, device_),
      slot_(*epochs_.AcquireSlot()) {
  EXPECT_TRUE(log_.ok());
  log_.Restore(setup_.position.value_or(EmptyLog(setup_.geometry)));
  log_.space().TakeAhead(0);
}

LogRig::~LogRig() {
  log_.StopMaintenance();
  pool_.Stop();
}

void LogRig::WriteRecord(const Written& written, const EpochGuard& guard) {
  const Record record(log_.At(written.address, guard), setup_.shape);
  const RecordHeader header =
      RecordHeader::Make(RecordKind::kRecord, internal::kNoRecord, guard.version_bits());
  record.Init(header, Pattern(written.address, written.key_bytes, 1).data(), written.key_bytes,
              written.value_bytes, written.value_bytes);
  internal::CopyToLog(Pattern(written.address, written.value_bytes, 2).data(), written.value_bytes,
                      record.value());
  record.header().StoreRelaxed(header.With(RecordHeader::kValid));
}

bool LogRig::IsRecord(const Record& record, const Written& written) const {
  const RecordHeader header = record.header().LoadAcquire();
  if (header.kind() != RecordKind::kRecord || !header.valid()) return false;
  if (record.key_length() != written.key_bytes || record.capacity() != written.value_bytes) {
    return false;
  }
  std::string value(written.value_bytes, '\0');
  internal::CopyFromLog(record.value(), value.size(), value.data());
  return value == Pattern(written.address, written.value_bytes, 2) &&
         std::memcmp(record.key(), Pattern(written.address, written.key_bytes, 1).data(),
                     written.key_bytes) == 0;
}

absl::StatusOr<Written> LogRig::Append(EpochSlot& slot, std::uint32_t key_bytes,
                                       std::uint32_t value_bytes) {
  const std::uint64_t extent = setup_.shape.ExtentFor(key_bytes, value_bytes);
  for (;;) {
    {
      const EpochGuard guard(epochs_, slot);
      const Address address = log_.Allocate(extent, guard);
      if (!address.is_null()) {
        const Written written{address, key_bytes, value_bytes};
        WriteRecord(written, guard);
        return written;
      }
    }
    if (absl::Status status = log_.WaitForPage(); !status.ok()) return status;
  }
}

absl::StatusOr<Written> LogRig::AppendExtent(std::uint64_t extent_bytes) {
  return Append(slot_, 8, static_cast<std::uint32_t>(extent_bytes - kOverheadBytes));
}

std::optional<Written> LogRig::TryAppendExtent(std::uint64_t extent_bytes) {
  const EpochGuard guard(epochs_, slot_);
  const Address address = log_.Allocate(extent_bytes, guard);
  if (address.is_null()) return std::nullopt;
  const Written written{address, 8, static_cast<std::uint32_t>(extent_bytes - kOverheadBytes)};
  WriteRecord(written, guard);
  return written;
}

absl::Status LogRig::FillUntilPage(std::uint64_t page, std::uint64_t extent_bytes) {
  while (TailPage() < page) {
    if (auto written = AppendExtent(extent_bytes); !written.ok()) return written.status();
  }
  return absl::OkStatus();
}

absl::Status LogRig::PadBlock(EpochSlot& slot, Space space) {
  constexpr std::uint64_t kMinBytes = 8;
  for (;;) {
    {
      const EpochGuard guard(epochs_, slot);
      const HybridLog::Extent extent = log_.ReserveToBlockEnd(kMinBytes, guard);
      if (extent.bytes != 0) {
        const Record filler(log_.At(extent.start, guard), setup_.shape);
        filler.header().StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, extent.bytes));
        return absl::OkStatus();
      }
    }
    if (absl::Status status = log_.WaitForPage(kMinBytes, space); !status.ok()) return status;
  }
}

absl::Status LogRig::FlushAll() {
  const absl::Status status = PadBlock(slot_, Space::kOrdinary);
  return status.ok() ? log_.FlushTo(log_.tail()) : status;
}

void LogRig::Evict() {
  EXPECT_TRUE(FillUntilPage(TailPage() + geometry().frame_count + 1, 1000).ok());
  EXPECT_TRUE(HelpUntilIdle().ok());
}

absl::Status LogRig::HelpUntilIdle() {
  for (;;) {
    const absl::StatusOr<bool> moved = log_.RunMaintenanceStep();
    log_.CheckBoundaries();
    if (!moved.ok()) return moved.status();
    if (!*moved) return absl::OkStatus();
  }
}

bool LogRig::Holds(EpochSlot& slot, const Written& written) {
  {
    const EpochGuard guard(epochs_, slot);
    if (written.address >= log_.head()) {
      return IsRecord(Record(log_.At(written.address, guard), setup_.shape), written);
    }
  }
  internal::DeviceBuffer buffer;
  const absl::StatusOr<Record> record = reader_.ReadRecord(written.address, buffer);
  EXPECT_TRUE(record.ok()) << record.status();
  return record.ok() && IsRecord(*record, written);
}

absl::StatusOr<Record> LogRig::ReadRecord(Address address) {
  return reader_.ReadRecord(address, buffer_);
}

RecordHeader LogRig::HeaderAt(Address address) {
  const EpochGuard guard(epochs_, slot_);
  EXPECT_GE(address, log_.head());
  return Record(log_.At(address, guard), setup_.shape).header().LoadAcquire();
}

std::optional<std::vector<RecordHeader>> LogRig::WalkPageOnDevice(std::uint64_t page) {
  const std::uint64_t first = page * geometry().blocks_per_page();
  std::vector<std::uint64_t> words(geometry().payload_bytes() / 8);
  auto* const payload = reinterpret_cast<std::byte*>(words.data());
  for (std::uint64_t i = 0; i < geometry().blocks_per_page(); ++i) {
    const auto block = device_.Get(first + i);
    if (!block.has_value()) return std::nullopt;
    if (internal::VerifyBlock(*block, kStoreId, first + i) != kIncarnation) return std::nullopt;
    std::memcpy(payload + i * kBlockPayloadBytes, block->data(), kBlockPayloadBytes);
  }
  std::vector<RecordHeader> headers;
  for (std::uint64_t at = 0; at < geometry().payload_bytes();) {
    const Record record(payload + at, setup_.shape);
    if (!record.WellFormed(geometry().payload_bytes() - at)) return std::nullopt;
    headers.push_back(record.header().LoadAcquire());
    at += record.ExtentOf();
  }
  return headers;
}

void LogRig::ExpectOrderAndGrowth() {
  log_.CheckBoundaries();
  const std::vector<Address> now = {
      log_.begin(),          log_.safe_head(), log_.head_acquire(), log_.flushed_until(),
      log_.safe_read_only(), log_.read_only(), log_.tail()};
  EXPECT_TRUE(std::is_sorted(now.begin(), now.end()));
  for (std::size_t i = 0; i < last_boundaries_.size(); ++i) EXPECT_GE(now[i], last_boundaries_[i]);
  last_boundaries_ = now;
}

}  // namespace ebb::test
