// Memory and files kept after a call: a session that has met large keys and values keeps little
// memory, and the part of the log's files that an iterator keeps is measured.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "ebb/internal/ops/operation.h"
#include "ebb/store.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::SessionState;
using internal::StoreAccess;
using Ops = internal::Operations<std::string, std::string>;

constexpr std::size_t kLarge = 3 << 20;

TEST(RetainedMemoryTest, SessionsKeepLittleOfLargeValues) {
  Store<> store = Must(Store<>::OpenInMemory(
      {.log_memory_bytes = 64 << 20, .page_bytes = 4 << 20, .index_bucket_count = 1024}));
  internal::Core& core = StoreAccess::GetCore(store);
  const internal::OwnedSession session = internal::NewSessionState(core);
  const std::string large(kLarge, 'x');
  const auto kept = [&] { return session->scratch.capacity() + session->search.memory_bytes(); };
  ASSERT_EQ(Ops::Upsert(*session, "large", large), internal::OpStatus::kOk);
  const auto append = [](std::string& value) { value += 'y'; };
  ASSERT_EQ(Ops::Rmw(*session, "large", append, ""), internal::OpStatus::kOk);
  EXPECT_LE(kept(), SessionState::kRetainedBytes) << "after an Rmw";
  std::size_t seen = 0;
  const auto look = [&](std::string_view value) { seen = value.size(); };
  const auto read = [&] {
    return Ops::Read(*session, "large", Ops::Visitor<decltype(look)>{*session, look});
  };
  ASSERT_EQ(read(), internal::OpStatus::kOk);
  EXPECT_EQ(seen, kLarge + 1);
  EXPECT_LE(kept(), SessionState::kRetainedBytes) << "after a read of a mutable record";
  // Until the large value has left memory.
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(Ops::Upsert(*session, std::to_string(i), large), internal::OpStatus::kOk);
  }
  const std::uint64_t reads = store.Metrics().device_reads;
  ASSERT_EQ(read(), internal::OpStatus::kOk);
  EXPECT_GT(store.Metrics().device_reads, reads);
  EXPECT_LE(kept(), 2 * SessionState::kRetainedBytes) << "after a read of the device";
  ASSERT_EQ(Ops::Rmw(*session, "0", append, ""), internal::OpStatus::kOk);
  EXPECT_LE(kept(), 2 * SessionState::kRetainedBytes) << "after an Rmw of the device";
}

TEST(RetainedMemoryTest, StatsMeasureTheLogThatAnIteratorKeeps) {
  const TempDir dir;
  Options options;
  options.log_memory_bytes = 1 << 20;
  options.segment_bytes = 1 << 20;
  options.index_bucket_count = 1024;
  options.gc_interval_ms = 0;
  Store<> store = Must(Store<>::Open(dir / "db", options));
  EXPECT_EQ(store.Stats().pin_count + store.Stats().pinned_bytes + store.Stats().oldest_pin_ms, 0U);
  const std::string value(10000, 'x');
  for (int i = 0; i < 400; ++i) Must(store.Upsert("key", value + std::to_string(i)));
  auto abandoned = std::make_unique<ScanIterator<std::string, std::string>>(store.NewScan());
  for (int i = 0; i < 400; ++i) {
    Must(store.Upsert("key" + std::to_string(i % 10), value));
    if (i % 50 == 0) Must(store.Commit());
  }
  EXPECT_EQ(store.Stats().pinned_bytes, 0U) << "begin has not moved";
  const std::uint64_t before = store.Stats().begin_address;
  Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).status());
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.pin_count, 1U);
  EXPECT_EQ(stats.lowest_pinned_address, before);
  ASSERT_GT(stats.begin_address, before + 500'000);
  EXPECT_NEAR(static_cast<double>(stats.pinned_bytes),
              static_cast<double>(stats.begin_address - before), 65536.0);
  while (store.Stats().oldest_pin_ms == 0) {  // ends: time passes
  }
  auto newer = store.NewScan();
  EXPECT_EQ(store.Stats().pin_count, 2U);
  EXPECT_EQ(store.Stats().lowest_pinned_address, before);
  abandoned = nullptr;
  EXPECT_EQ(store.Stats().pin_count, 1U);
  EXPECT_EQ(store.Stats().pinned_bytes, 0U);
}

}  // namespace
}  // namespace ebb::test
