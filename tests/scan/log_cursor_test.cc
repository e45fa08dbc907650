// LogCursor: everything between two addresses is shown once, in order, wherever it lies and however
// it is cut into chunks; damage is DataLoss.
//
// Hazard: 16 (holes): fillers, padding and records that were never published are stepped over.
#include "ebb/internal/scan/log_cursor.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::LogCursor;

struct Seen {
  Address address;
  std::string key;
  std::string value;
  bool operator==(const Seen&) const = default;
};

class LogCursorTest : public testing::Test {
 protected:
  // Records of strings of up to 12 KB in pages of 16 KB, of which eight are in memory.
  LogCursorTest() : store_(Must(OpenIn<StringStore>("db", MakeEnvironment(files_)))) {}
  ~LogCursorTest() override {
    if (slot_ != nullptr) core_.epochs.ReleaseSlot(slot_);
  }
  static internal::Environment MakeEnvironment(SimFileSystem& files, int pool_threads = 0) {
    internal::Environment environment = TinyEnvironment(&files);
    environment.page_shift = 14;
    environment.pool_threads = pool_threads;
    return environment;
  }

  void Write(int count) {
    for (int i = 0; i < count; ++i) {
      const std::string key = std::to_string(written_.size()) + std::string(random_() % 20, 'k');
      const std::size_t bytes = random_() % (random_() % 10 == 0 ? 12000 : 300);
      const std::string value(bytes, static_cast<char>('a' + random_() % 26));
      Must(store_.Upsert(key, value));
      written_.emplace_back(key, value);
      if (random_() % 50 == 0) Must(Commit(store_));  // pads to the block's end
    }
    Must(core_.log.FreezeTo(core_.log.tail()));
  }
  // All chunks; the first error.
  absl::StatusOr<std::vector<Seen>> ReadAll(LogCursor::LogRange range, LogCursor::Config config) {
    LogCursor reader(core_, *slot_, range, config);
    std::vector<Seen> all;
    for (;;) {
      const auto items = reader.Next();
      if (!items.ok()) return items.status();
      if (items->empty()) break;
      for (const auto& [address, record] : *items) {
        const std::string key(reinterpret_cast<const char*>(record.key()), record.key_length());
        const std::uint32_t bytes = record.lock().LoadAcquire().value_bytes();
        all.push_back({address, key, {reinterpret_cast<const char*>(record.value()), bytes}});
      }
    }
    EXPECT_EQ(reader.cursor(), core_.log.geometry().Normalize(range.end));
    return all;
  }
  LogCursor::LogRange Everything() const { return {core_.log.begin(), core_.log.tail()}; }

  SimFileSystem files_{/*direct=*/false};
  StringStore store_;
  internal::Core& core_ = CoreOf(store_);
  internal::EpochSlot* slot_ = core_.epochs.AcquireSlot();
  std::mt19937_64 random_{17};
  std::vector<std::pair<std::string, std::string>> written_;
};

TEST_F(LogCursorTest, EverythingIsShownOnceAndInOrder) {
  Write(1500);
  ASSERT_GT(core_.log.head_acquire(), core_.log.begin());
  for (const std::uint64_t chunk_bytes : {1, 5000, 1 << 16, 1 << 24}) {
    for (const std::uint64_t ahead_bytes : {0, 4096, 1 << 16}) {
      const auto all = Must(ReadAll(Everything(), {chunk_bytes, ahead_bytes}));
      ASSERT_EQ(all.size(), written_.size());
      for (std::size_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(all[i].key, written_[i].first);
        ASSERT_EQ(all[i].value, written_[i].second);
        if (i > 0) ASSERT_GT(all[i].address, all[i - 1].address);
      }
    }
  }
}

// 15, 16. A slot whose publication failed, and the filler at the end of a page.
TEST_F(LogCursorTest, InvalidRecordsAreSkipped) {
  Write(3);
  {
    internal::EpochGuard guard(core_.epochs, *slot_);
    const internal::RecordShape shape = core_.log.shape();
    const Address abandoned = core_.log.Allocate(shape.ExtentFor(8, 100), guard);
    const internal::Record record(core_.log.At(abandoned, guard), shape);
    record.Init(internal::RecordHeader::Make(internal::RecordKind::kRecord, internal::kNoRecord, 1),
                "8 bytes.", 8, 100, 100);
  }
  Write(3);
  Must(store_.Upsert("long", std::string(12000, 'x')));  // on the next page
  Must(store_.Upsert("last", std::string(8000, 'x')));
  Must(core_.log.FreezeTo(core_.log.tail()));
  EXPECT_EQ(Must(ReadAll(Everything(), {})).size(), 8U);
}

TEST_F(LogCursorTest, AnyRecordCanBeTheFirstOrTheEnd) {
  Write(300);
  const auto all = Must(ReadAll(Everything(), {}));
  for (std::size_t i = 0; i < all.size(); i += 7) {
    for (std::size_t end : {i, i + 1, i + 40}) {
      end = std::min(end, all.size() - 1);
      const auto some = Must(ReadAll({all[i].address, all[end].address}, {3000, 4096}));
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(i);
      const auto to = all.begin() + static_cast<std::ptrdiff_t>(std::max(i, end));
      ASSERT_EQ(some, std::vector<Seen>(from, to)) << i << " to " << end;
    }
  }
}

// 2 -> the reader has shown some; 2 <- everything else leaves memory; then it continues.
TEST_F(LogCursorTest, RecordsEvictedDuringAScanAreReadFromTheDevice) {
  Write(20);
  const LogCursor::LogRange range = Everything();
  const std::size_t count = written_.size();
  ASSERT_EQ(core_.log.head_acquire(), core_.log.begin());
  LogCursor reader(core_, *slot_, range, {4000, 4096});
  std::size_t shown = 0;
  for (auto items = Must(reader.Next()); !items.empty(); items = Must(reader.Next())) {
    for (const auto& [address, record] : items) {
      const std::string key(reinterpret_cast<const char*>(record.key()), record.key_length());
      ASSERT_EQ(key, written_[shown++].first);
    }
    if (shown < count / 2) {
      PushOut(store_, [&](std::uint64_t i) {
        Must(store_.Upsert("other", std::string(3000 + i % 2, 'o')));
        Must(core_.log.FreezeTo(core_.log.tail()));
      });
    }
  }
  EXPECT_EQ(shown, count);
  EXPECT_GE(core_.log.safe_head(), range.end);
}

TEST_F(LogCursorTest, ThePoolReadsAhead) {
  Write(1500);
  Must(store_.Close());
  core_.epochs.ReleaseSlot(slot_);
  slot_ = nullptr;
  auto store = Must(OpenIn<StringStore>("db", MakeEnvironment(files_, 2)));
  internal::Core& core = CoreOf(store);
  internal::EpochSlot* const slot = core.epochs.AcquireSlot();
  const LogCursor::LogRange range{core.log.begin(), core.log.tail()};
  for (int stop_after : {1, 3, 1000}) {
    LogCursor reader(core, *slot, range, {1 << 14, 1 << 14});
    std::size_t shown = 0;
    for (int i = 0; i < stop_after; ++i) {
      const auto items = Must(reader.Next());
      for (const auto& [address, record] : items) {
        const std::string key(reinterpret_cast<const char*>(record.key()), record.key_length());
        ASSERT_EQ(key, written_[shown++].first);
      }
    }
    if (stop_after == 1000) EXPECT_EQ(shown, written_.size());
  }
  core.epochs.ReleaseSlot(slot);
}

TEST_F(LogCursorTest, DamageIsDataLossWhereItIsAndNotBefore) {
  Write(400);
  PushOut(store_, [&](std::uint64_t i) { Must(store_.Upsert(std::to_string(i), "other")); });
  constexpr std::uint64_t kBlock = 20;
  Overwrite(files_, "db", SegmentFile(1), (1 + kBlock - 16) * 4096 + 1000, "damage");
  LogCursor reader(core_, *slot_, {core_.log.begin(), core_.log.safe_read_only()}, {1, 4096});
  std::size_t shown = 0;
  for (;;) {
    const auto items = reader.Next();
    if (!items.ok()) {
      EXPECT_TRUE(FailsWith(items.status(), StatusCode::kDataLoss, SegmentFile(1)));
      break;
    }
    ASSERT_FALSE(items->empty()) << "the damage was not seen";
    for (const auto& [address, record] : *items) {
      ASSERT_LT(core_.log.geometry().BlockOf(address), kBlock);
      ++shown;
    }
  }
  EXPECT_GT(shown, 5U);
  EXPECT_FALSE(reader.Next().ok()) << "an error does not pass by itself";
}

}  // namespace
}  // namespace ebb::test
