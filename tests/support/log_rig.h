// ScriptDevice and LogRig: a hybrid log alone, with a device that tests can inspect.
//
//   LogRig rig({.geometry = {.page_shift = 13, .frame_count = 8}});
//   const Written first = Must(rig.Append(rig.slot(), 8, 100));   // key bytes, value bytes
//   Must(rig.FlushAll());
//   EXPECT_TRUE(rig.Holds(first));                                // from memory or the device
//
// The contents of a record follow from its address and its lengths, so they need not be remembered.
//
// Thread safety: any thread may call all methods of ScriptDevice, and of LogRig those that take a
// slot, each thread with its own slot, and CheckBoundaries.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/health.h"
#include "ebb/internal/base/thread_pool.h"
#include "ebb/internal/device/device.h"
#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/format/record.h"
#include "ebb/internal/log/hybrid_log.h"
#include "ebb/internal/log/log_reader.h"

namespace ebb::test {

// Blocks in a map, so that the log may begin anywhere.
class ScriptDevice final : public internal::Device {
 public:
  using Block = std::array<std::byte, internal::kBlockBytes>;
  struct WriteCall {
    std::uint64_t block = 0;
    std::uint64_t block_count = 0;
  };

  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override;
  absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) override;
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::Status Reserve(std::uint64_t begin, std::uint64_t end) override;
  absl::Status Truncate(std::uint64_t block) override;
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) override;
  std::uint64_t EndBlock() const override;
  std::string Describe(std::uint64_t block) const override;
  absl::Status Close() override { return absl::OkStatus(); }
  bool direct() const override { return false; }

  // There is space for blocks below `end_block` and for no others.
  static constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
  void LimitSpace(std::uint64_t end_block);
  // The next `count` calls do nothing but return `status`.
  void FailWrites(int count, absl::Status status);
  void FailReads(int count, absl::Status status);

  // Every write calls the hook, before and after (`done`) its work. If the first call returns an
  // error, the write returns it and writes nothing. To be set while nothing is written.
  using WriteHook = std::function<absl::Status(std::uint64_t block, bool done)>;
  void HookWrites(WriteHook hook) { write_hook_ = std::move(hook); }

  // Returns the writes that did something, in order.
  std::vector<WriteCall> writes() const;
  std::optional<Block> Get(std::uint64_t block) const;
  void Put(std::uint64_t block, const Block& bytes);
  void Erase(std::uint64_t block);

 private:
  struct Failure {
    int count = 0;
    absl::Status status;
    absl::Status Next() { return count > 0 ? (--count, status) : absl::OkStatus(); }
  };

  WriteHook write_hook_;
  mutable std::mutex mu_;  // everything below
  std::map<std::uint64_t, Block> blocks_;
  std::vector<WriteCall> writes_;
  std::uint64_t space_end_ = kUnlimited;
  Failure failing_writes_;
  Failure failing_reads_;
};

// A record that a test has appended.
struct Written {
  internal::Address address;
  std::uint32_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
};

class LogRig {
 public:
  static constexpr std::uint64_t kStoreId = 0x0123456789abcdef;
  static constexpr std::uint64_t kIncarnation = 0xfeedf00d;
  static constexpr std::uint32_t kVariable = internal::RecordShape::kVariable;
  // Of a record with strings: the bytes before the value of a key of 8 bytes.
  static constexpr std::uint64_t kOverheadBytes = 32;

  struct Setup {
    internal::Geometry geometry{.page_shift = 12, .frame_count = 8};
    internal::RecordShape shape{kVariable, kVariable};
    std::uint64_t write_batch_bytes = std::uint64_t{1} << 16;
    unsigned pool_threads = 0;
    bool force_fallback = false;
    // If unset: an empty log that begins at its second block.
    std::optional<internal::HybridLog::Position> position = std::nullopt;
  };
  // Pages of two blocks, 8,160 bytes.
  static constexpr internal::Geometry kTwoBlocks{.page_shift = 13, .frame_count = 8};
  // An empty log whose tail is at the start of page 1.
  static Setup FromPageOne(const internal::Geometry& geometry);
  explicit LogRig(Setup setup);
  ~LogRig();

  internal::HybridLog& log() { return log_; }
  internal::LogReader& reader() { return reader_; }
  ScriptDevice& device() { return device_; }
  internal::EpochManager& epochs() { return epochs_; }
  internal::Health& health() { return health_; }
  internal::ThreadPool& pool() { return pool_; }
  const internal::Geometry& geometry() const { return setup_.geometry; }
  // A slot for the test's own thread.
  internal::EpochSlot& slot() { return slot_; }

  // Waits for pages as operations do.
  absl::StatusOr<Written> Append(internal::EpochSlot& slot, std::uint32_t key_bytes,
                                 std::uint32_t value_bytes);
  // Appends a record of strings of exactly this extent, in the test's own thread.
  absl::StatusOr<Written> AppendExtent(std::uint64_t extent_bytes);
  // Returns nothing if the page is full; never waits.
  std::optional<Written> TryAppendExtent(std::uint64_t extent_bytes);
  // Appends extents of `extent_bytes` until the tail is in `page`.
  absl::Status FillUntilPage(std::uint64_t page, std::uint64_t extent_bytes);
  // Pads the block with a filler, as a commit record does, in the class `space`.
  absl::Status PadBlock(internal::EpochSlot& slot, internal::Space space);
  // Pads the block and writes everything.
  absl::Status FlushAll();
  // Appends until everything before is on the device only.
  void Evict();
  // Calls RunMaintenanceStep until there is nothing to do. Returns OK, or its first error.
  absl::Status HelpUntilIdle();

  // Returns whether the record is complete at its place; reads memory or the device.
  bool Holds(internal::EpochSlot& slot, const Written& written);
  bool Holds(const Written& written) { return Holds(slot_, written); }
  absl::StatusOr<internal::Record> ReadRecord(internal::Address address);
  // Returns the header at an address that is in memory.
  internal::RecordHeader HeaderAt(internal::Address address);

  // Verifies a page's blocks on the device and steps through its records, fillers included. Returns
  // their headers, or nothing if a block does not verify or a step leads nowhere.
  std::optional<std::vector<internal::RecordHeader>> WalkPageOnDevice(std::uint64_t page);

  // Checks that the boundaries are in order, and that none is below its value at an earlier call
  // (of one thread).
  void ExpectOrderAndGrowth();

  std::uint64_t TailPage() { return geometry().PageOf(log_.tail()); }

 private:
  void WriteRecord(const Written& written, const internal::EpochGuard& guard);
  bool IsRecord(const internal::Record& record, const Written& written) const;

  const Setup setup_;
  internal::EpochManager epochs_;
  internal::Health health_;
  ScriptDevice device_;
  internal::ThreadPool pool_;
  internal::HybridLog log_;
  internal::LogReader reader_;
  internal::EpochSlot& slot_;
  internal::DeviceBuffer buffer_;
  std::vector<internal::Address> last_boundaries_;
};

}  // namespace ebb::test
