// Pages under schedules: a page fills up, turns, is flushed and evicted, during the calls of
// writers and readers.
//
// The log has eight frames, or fewer, and all of them hold a page: one record and a filler in each.
// The tail is at the start of the last. So the first page turn has to evict the oldest page.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ebb/internal/device/memory_device.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/log/hybrid_log.h"
#include "ebb/internal/log/log_reader.h"
#include "tests/schedule/explore.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::EpochGuard;
using internal::EpochManager;
using internal::EpochSlot;
using internal::HybridLog;
using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::Record;
using internal::RecordHeader;
using internal::RecordKind;
using internal::RecordShape;
using internal::WordAt;

constexpr std::uint64_t kStoreId = 77;
constexpr std::uint64_t kIncarnation = 99;
constexpr RecordShape kShape{8, RecordShape::kVariable};
constexpr internal::Geometry kGeometry{.page_shift = 12, .frame_count = 8};
constexpr std::uint64_t kFirstPage = 2;

// A record's value: its address at both ends, and behind the first a number that may change.
struct Mark {
  Address address;
  std::uint64_t number = 0;  // of the last update in place that was done
};
std::uint64_t ValueBytes(std::uint64_t extent) { return extent - kShape.ValueOffset(8); }

std::array<std::uint64_t, 3> ReadMark(const Record& record) {
  std::byte* const value = record.value();
  return {
      WordAt(value).load(std::memory_order_relaxed),
      WordAt(value + 8).load(std::memory_order_relaxed),
      WordAt(value + internal::RoundUp8(record.capacity()) - 8).load(std::memory_order_relaxed)};
}
void WriteRecord(std::byte* bytes, Address address, std::uint64_t extent) {
  const Record record(bytes, kShape);
  const auto value_bytes = static_cast<std::uint32_t>(ValueBytes(extent));
  const RecordHeader header = RecordHeader::Make(RecordKind::kRecord, internal::kNoRecord, 0);
  const std::uint64_t key = address.value();
  record.Init(header, &key, 8, value_bytes, value_bytes);
  WordAt(record.value()).store(address.value(), std::memory_order_relaxed);
  WordAt(record.value() + 8).store(0, std::memory_order_relaxed);
  WordAt(record.value() + value_bytes - 8).store(address.value(), std::memory_order_relaxed);
  record.header().StoreRelaxed(header.With(RecordHeader::kValid));
}

// A device in memory that has no space to reserve while it is full.
class TightDevice final : public internal::Device {
 public:
  absl::Status Read(std::uint64_t block, std::span<std::byte> bytes) override {
    return blocks_.Read(block, bytes);
  }
  absl::Status Write(std::uint64_t block, std::span<const std::byte> bytes) override {
    return blocks_.Write(block, bytes);
  }
  absl::Status Reserve(std::uint64_t, std::uint64_t) override {
    return full_ ? absl::ResourceExhaustedError("no space") : absl::OkStatus();
  }
  absl::Status Sync() override { return blocks_.Sync(); }
  absl::Status Truncate(std::uint64_t block) override { return blocks_.Truncate(block); }
  absl::StatusOr<std::uint64_t> TruncateFront(std::uint64_t block) override {
    return blocks_.TruncateFront(block);
  }
  std::uint64_t EndBlock() const override { return blocks_.EndBlock(); }
  std::string Describe(std::uint64_t block) const override { return blocks_.Describe(block); }
  absl::Status Close() override { return blocks_.Close(); }
  bool direct() const override { return false; }

  bool full() const { return full_; }
  void SetFull(bool full) { full_ = full; }

 private:
  internal::MemoryDevice blocks_;
  bool full_ = false;
};

class Rig {
 public:
  Rig(Schedule& schedule_given, bool fallback, std::uint64_t frame_count = 8)
      : tail_page(kFirstPage + frame_count - 1),
        epochs(0, fallback),
        log({.geometry = {.page_shift = kGeometry.page_shift, .frame_count = frame_count},
             .shape = kShape,
             .store_id = kStoreId,
             .write_batch_bytes = kBlockBytes,
             .huge_pages = false},
            epochs, health, device, pool),
        schedule(schedule_given) {
    for (std::uint64_t page = kFirstPage; page < tail_page; ++page) FillPage(page);
    log.Restore({.begin = kGeometry.PageStart(kFirstPage),
                 .head = kGeometry.PageStart(kFirstPage),
                 .tail = kGeometry.PageStart(tail_page),
                 .incarnations = {{0, kIncarnation}}});
  }
  ~Rig() { log.StopMaintenance(); }

  // The steps of an operation that appends; null when it is rejected.
  Address TryAppend(EpochSlot& slot, std::uint64_t extent) {
    for (;;) {
      {
        const EpochGuard guard(epochs, slot);
        const Address address = log.Allocate(extent, guard);
        if (!address.is_null()) {
          WriteRecord(log.At(address, guard), address, extent);
          return address;
        }
      }
      if (!log.WaitForPage().ok()) return Address();
    }
  }
  Address Append(EpochSlot& slot, std::uint64_t extent) {
    const Address address = TryAppend(slot, extent);
    schedule.Check(!address.is_null(), "no page");
    return address;
  }
  // The steps of an operation that updates in place: 0 or 1 updates.
  void Update(EpochSlot& slot, Mark& mark) {
    const EpochGuard guard(epochs, slot);
    const std::uint64_t update_from = log.update_from();
    if (mark.address.value() < update_from || !guard.Look()) return;
    const Record record(log.At(mark.address, guard), kShape);
    WordAt(record.value() + 8).store(mark.number + 1, std::memory_order_release);
    ++mark.number;
    ++updates;
  }
  // The steps of an operation that reads, and its account.
  void Read(EpochSlot& slot, Address address, std::optional<std::uint64_t> number) {
    {
      const EpochGuard guard(epochs, slot);
      if (address >= log.head()) {
        const Record record(log.At(address, guard), kShape);
        Judge(ReadMark(record), address, number);
        Judge(ReadMark(record), address, number);
        ++reads_in_memory;
        return;
      }
    }
    internal::DeviceBuffer buffer;
    const absl::StatusOr<Record> record = reader.ReadRecord(address, buffer);
    schedule.Check(record.ok(), "a record does not come back from the device");
    if (record.ok()) Judge(ReadMark(*record), address, number);
    ++reads_of_device;
  }
  // The steps of a commit: everything so far to the device. False when it is rejected.
  bool TryFlush(EpochSlot& slot) {
    for (;;) {
      {
        const EpochGuard guard(epochs, slot);
        const HybridLog::Extent extent = log.ReserveToBlockEnd(8, guard);
        if (extent.bytes != 0) {
          Record(log.At(extent.start, guard), kShape)
              .header()
              .StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, extent.bytes));
          const Address end = kGeometry.Normalize(extent.start + extent.bytes);
          flush_end = std::max(flush_end, end);
          break;
        }
      }
      if (!log.WaitForPage(8, internal::Space::kCommit).ok()) return false;
    }
    schedule.Check(log.FlushTo(flush_end).ok(), "no flush");
    return true;
  }
  void Flush(EpochSlot& slot) { schedule.Check(TryFlush(slot), "no page"); }
  // After the fibers have ended: all pages that were flushed hold records without holes.
  void CheckPagesOnDevice() {
    const internal::AlignedBuffer buffer = internal::AllocateAligned(kBlockBytes);
    for (Address at = kGeometry.PageStart(tail_page); at < flush_end;) {
      const std::uint64_t page = kGeometry.PageOf(at);
      const std::span<std::byte> block(buffer.get(), kBlockBytes);
      schedule.Check(device.Read(page, block).ok(), "a flushed block is missing");
      schedule.Check(internal::VerifyBlock(block, kStoreId, page) == kIncarnation,
                     "a flushed block does not verify");
      const std::uint64_t room = kBlockPayloadBytes - kGeometry.OffsetOf(at);
      const Record record(buffer.get() + kGeometry.OffsetOf(at), kShape);
      if (!record.WellFormed(room)) return schedule.Fail("a flushed page has a hole");
      at = kGeometry.Normalize(at + record.ExtentOf());
    }
  }

  const std::uint64_t tail_page;  // at first
  EpochManager epochs;
  internal::Health health;
  TightDevice device;
  internal::ThreadPool pool{0};
  HybridLog log;
  internal::LogReader reader{log, kStoreId, device};
  Schedule& schedule;
  Address flush_end;
  std::uint64_t updates = 0;
  std::uint64_t reads_in_memory = 0;
  std::uint64_t reads_of_device = 0;

 private:
  // One record, at the start, and a filler; in its frame and on the device.
  void FillPage(std::uint64_t page) {
    constexpr std::uint64_t kExtent = 64;
    std::byte* const frame = log.Frame(page).data();
    WriteRecord(frame, kGeometry.PageStart(page), kExtent);
    Record(frame + kExtent, kShape)
        .header()
        .StoreRelaxed(RecordHeader::MakeExtent(RecordKind::kFiller, kBlockPayloadBytes - kExtent));
    const internal::AlignedBuffer buffer = internal::AllocateAligned(kBlockBytes);
    std::memcpy(buffer.get(), frame, kBlockPayloadBytes);
    const std::span<std::byte> block(buffer.get(), kBlockBytes);
    internal::SealBlock(block, kStoreId, page, kIncarnation);
    schedule.Check(device.Write(page, block).ok(), "no write");
  }
  void Judge(const std::array<std::uint64_t, 3>& mark, Address address,
             std::optional<std::uint64_t> number) {
    schedule.Check(mark[0] == address.value() && mark[2] == address.value(),
                   "a record is not what it was");
    schedule.Check(!number.has_value() || mark[1] == *number, "an update is lost");
  }
};

constexpr std::array<std::uint64_t, 3> kExtents{1360, 2040, 4080};

// Two writers of two records each, the one with updates of its own; a reader of pages that leave;
// a flush or the pool's job, by the seed.
void Pages(Schedule& schedule) {
  Random& random = schedule.random();
  Rig rig(schedule, random.Below(4) == 0, random.Below(4) == 0 ? 5 + random.Below(3) : 8);
  std::vector<Mark> marks(4);
  for (std::size_t writer = 0; writer < 2; ++writer) {
    const std::uint64_t extent = kExtents[random.Below(3)];
    schedule.Add([&, writer, extent] {
      EpochSlot& slot = *rig.epochs.AcquireSlot();
      for (std::size_t i = 2 * writer; i < 2 * writer + 2; ++i) {
        marks[i].address = rig.Append(slot, extent);
        rig.Update(slot, marks[i]);
        rig.Read(slot, marks[i].address, marks[i].number);
      }
      rig.Update(slot, marks[2 * writer]);
      rig.epochs.ReleaseSlot(&slot);
    });
  }
  schedule.Add([&] {
    EpochSlot& slot = *rig.epochs.AcquireSlot();
    for (std::uint64_t page = kFirstPage; page < kFirstPage + 2; ++page) {
      rig.Read(slot, kGeometry.PageStart(page), 0);
    }
    rig.epochs.ReleaseSlot(&slot);
  });
  if (random.Below(2) == 0) {
    schedule.Add([&] {
      EpochSlot& slot = *rig.epochs.AcquireSlot();
      rig.Flush(slot);
      rig.epochs.ReleaseSlot(&slot);
    });
  } else {
    schedule.Add([&] {
      while (!rig.pool.RunOne() &&
             rig.log.counters().page_turns.load(std::memory_order_relaxed) == 0)
        internal::Yield();
      while (rig.pool.RunOne()) {
      }
    });
  }
  schedule.Run();

  rig.log.CheckBoundaries();
  EpochSlot& slot = *rig.epochs.AcquireSlot();
  rig.Flush(slot);
  rig.CheckPagesOnDevice();
  for (const Mark& mark : marks) {
    internal::DeviceBuffer buffer;
    const absl::StatusOr<Record> record = rig.reader.ReadRecord(mark.address, buffer);
    schedule.Check(record.ok(), "a record does not come back");
    if (!record.ok()) continue;
    const std::array<std::uint64_t, 3> found = ReadMark(*record);
    schedule.Check(found[0] == mark.address.value() && found[1] == mark.number,
                   "an update is not on the device");
    rig.Read(slot, mark.address, mark.number);
  }
  for (std::uint64_t page = kFirstPage; page < rig.tail_page; ++page) {
    rig.Read(slot, kGeometry.PageStart(page), 0);
  }
  rig.epochs.ReleaseSlot(&slot);
  const HybridLog::Counters& counters = rig.log.counters();
  schedule.Count("page turns", counters.page_turns.load(std::memory_order_relaxed));
  schedule.Count("waits for a page", counters.page_waits.load(std::memory_order_relaxed));
  schedule.Count("updates in place", rig.updates);
  schedule.Count("reads of memory", rig.reads_in_memory);
  schedule.Count("reads of the device", rig.reads_of_device);
}
TEST(PageSchedules, PagesTurnAndLeaveDuringWritesAndReads) {
  Explored explored = Explore(200000, Pages);
  for (const char* what : {"page turns", "waits for a page", "updates in place", "reads of memory",
                           "reads of the device"}) {
    explored.ExpectPerSchedule(what, 1.0);
  }
}

// Two writers and a committer on a device without space, whose calls fail again and again; then
// there is space. Three, two or one records fill a page exactly, others overshoot it.
void Rejections(Schedule& schedule) {
  constexpr std::array<std::uint64_t, 5> kSizes{1360, 2040, 4080, 1000, 3000};
  constexpr int kRejectionsEach = 3;
  Random& random = schedule.random();
  Rig rig(schedule, random.Below(4) == 0);
  rig.log.space().TakeAhead(0);
  rig.device.SetFull(true);
  std::vector<Mark> marks;
  std::uint64_t rejections = 0;
  const auto check_overshoot = [&] {
    schedule.Check(rig.log.overshoot_bytes() <= 2 * kBlockPayloadBytes, "a page is overshot");
  };
  for (std::size_t writer = 0; writer < 2; ++writer) {
    const std::uint64_t extent = kSizes[random.Below(kSizes.size())];
    schedule.Add([&, extent] {
      EpochSlot& slot = *rig.epochs.AcquireSlot();
      for (int left = kRejectionsEach; left != 0 && rig.device.full();) {
        const Address address = rig.TryAppend(slot, extent);
        check_overshoot();
        if (!address.is_null()) {
          marks.push_back({address});
          continue;
        }
        --left;
        ++rejections;
      }
      rig.device.SetFull(false);
      for (int i = 0; i < 2; ++i) marks.push_back({rig.Append(slot, extent)});
      rig.epochs.ReleaseSlot(&slot);
    });
  }
  schedule.Add([&] {
    EpochSlot& slot = *rig.epochs.AcquireSlot();
    for (int i = 0; i < 3; ++i) {
      rejections += rig.TryFlush(slot) ? 0 : 1;
      check_overshoot();
    }
    rig.epochs.ReleaseSlot(&slot);
  });
  schedule.Run();

  rig.log.CheckBoundaries();
  EpochSlot& slot = *rig.epochs.AcquireSlot();
  rig.Flush(slot);
  rig.CheckPagesOnDevice();
  for (const Mark& mark : marks) rig.Read(slot, mark.address, 0);
  rig.epochs.ReleaseSlot(&slot);
  schedule.Count("rejections", rejections);
  schedule.Count("records", marks.size());
  schedule.Count("page turns", rig.log.counters().page_turns.load(std::memory_order_relaxed));
}
TEST(PageSchedules, RejectedAppendsLeaveTheirPageAsItIs) {
  Explored explored = Explore(10000, Rejections);
  explored.ExpectPerSchedule("rejections", 2.0);
  explored.ExpectPerSchedule("records", 4.0);
  explored.ExpectPerSchedule("page turns", 1.0);
}

// Frames that are fewer than the places for them: a page's place is used again after eight pages,
// and its old memory goes back when it has left. A collection moves begin, so that all pages but
// the last leave at once; then writers need places whose memory might not have gone yet.
void BeginMovesBesideWriters(Schedule& schedule) {
  Random& random = schedule.random();
  Rig rig(schedule, random.Below(4) == 0, 5 + random.Below(3));
  const std::uint64_t writer_count = 1 + random.Below(2);
  const std::size_t records = writer_count == 1 ? 6 : 3;  // of a page each
  std::vector<Mark> marks(writer_count * records);
  for (std::size_t writer = 0; writer < writer_count; ++writer) {
    schedule.Add([&, writer] {
      EpochSlot& slot = *rig.epochs.AcquireSlot();
      for (std::size_t i = writer * records; i < (writer + 1) * records; ++i) {
        marks[i].address = rig.Append(slot, kBlockPayloadBytes);
        rig.Update(slot, marks[i]);
      }
      for (std::size_t i = writer * records; i < (writer + 1) * records; ++i) {
        rig.Read(slot, marks[i].address, marks[i].number);
      }
      rig.epochs.ReleaseSlot(&slot);
    });
  }
  schedule.Add([&] {
    schedule.Check(rig.log.ShiftBegin(kGeometry.PageStart(rig.tail_page)).ok(), "no begin");
  });
  schedule.Run();
  rig.log.CheckBoundaries();
  EpochSlot& slot = *rig.epochs.AcquireSlot();
  rig.Flush(slot);
  rig.CheckPagesOnDevice();
  for (const Mark& mark : marks) rig.Read(slot, mark.address, mark.number);
  rig.epochs.ReleaseSlot(&slot);
  schedule.Count("page turns", rig.log.counters().page_turns.load(std::memory_order_relaxed));
}
TEST(PageSchedules, FramesAreReleasedBeforeTheirPlacesAreUsedAgain) {
  Explored explored = Explore(2000, BeginMovesBesideWriters);
  explored.ExpectPerSchedule("page turns", 5.0);
}

}  // namespace
}  // namespace ebb::test
