// DeviceSearch: the newest record of a key in the device part of a chain, read by read.
#include "ebb/internal/log/device_search.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::Core;
using internal::DeviceSearch;
using internal::kBlockBytes;

TEST(DeviceSearchTest, AChainIsWalkedToTheNewestRecordOfTheKey) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Core& core = CoreOf(store);
  // Keys of one chain: two buckets and 15 bits of tag, so 16 low bits of the hash.
  std::vector<std::uint64_t> keys = {1};
  const auto chain_of = [](std::uint64_t key) { return TestHash(key) & 0xffff; };
  for (std::uint64_t key = 2; keys.size() < 4; ++key) {
    if (chain_of(key) == chain_of(1)) keys.push_back(key);
  }
  const auto fill = [&](std::uint64_t i) {
    if (chain_of(1000000000 + i) != chain_of(1)) Must(store.Upsert(1000000000 + i, i));
  };
  for (std::uint64_t round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < 3; ++i) Must(store.Upsert(keys[i], round * 10 + i));
    PushOut(store, fill);
  }
  Must(store.Delete(keys[2]));
  PushOut(store, fill);

  DeviceSearch search;
  EXPECT_FALSE(search.under_way());
  EXPECT_FALSE(search.ended());
  const Address from = core.index.Find(TestHash(1)).entry.address();
  ASSERT_LT(from, core.log.head());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    search.Begin({from, core.log.begin()});
    EXPECT_TRUE(search.under_way());
    EXPECT_FALSE(search.Answers(from));
    search.Run(core.reader, &keys[i], 8);
    Must(search.status());
    EXPECT_TRUE(search.Answers(from));
    EXPECT_FALSE(search.Answers(from + 8));
    if (i == 3) {
      EXPECT_FALSE(search.record().has_value());
      continue;
    }
    ASSERT_TRUE(search.record().has_value()) << i;
    EXPECT_EQ(search.record()->header().LoadAcquire().tombstone(), i == 2);
    std::uint64_t value = 0;
    std::memcpy(&value, search.record()->value(), 8);
    if (i != 2) {
      EXPECT_EQ(value, 20 + i);
    }
  }
  // A chain that ends at once, and a begin that is above the whole of it: nothing is read.
  for (const DeviceSearch::Part part :
       {DeviceSearch::Part{internal::kNoRecord, core.log.begin()}, {from, from + 8}}) {
    search.Begin(part);
    EXPECT_FALSE(search.Step(core.reader, &keys[0], 8));
    Must(search.status());
    EXPECT_FALSE(search.record().has_value());
  }
  search.Clear();
  EXPECT_FALSE(search.ended());
}

TEST(DeviceSearchTest, ALongRecordIsReadInTwoSteps) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 16;
  auto store = Must(OpenIn<StringStore>("db", environment));
  const std::string value(3 * kBlockBytes, 'v');
  Must(store.Upsert("key", value));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert("fill" + std::to_string(i), value)); });
  Core& core = CoreOf(store);
  const std::uint64_t hash = TestKeyHash().OfBytes("key", 3);
  DeviceSearch search;
  search.Begin({core.index.Find(hash).entry.address(), core.log.begin()});
  ASSERT_TRUE(search.Step(core.reader, "key", 3));
  EXPECT_EQ(search.read().bytes.size(), kBlockBytes);
  core.reader.Read(search.read());
  ASSERT_TRUE(search.Step(core.reader, "key", 3));
  EXPECT_GE(search.read().bytes.size(), 2 * kBlockBytes);
  core.reader.Read(search.read());
  ASSERT_FALSE(search.Step(core.reader, "key", 3));
  Must(search.status());
  ASSERT_TRUE(search.record().has_value());
  EXPECT_EQ(std::memcmp(search.record()->value(), value.data(), value.size()), 0);
}

TEST(DeviceSearchTest, AnErrorEndsItAndBelowBeginItSaysNothing) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Must(store.Upsert(1, 1));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  Core& core = CoreOf(store);
  const std::uint64_t key = 1;
  const Address from = core.index.Find(TestHash(1)).entry.address();
  DeviceSearch search;
  search.Begin({from, core.log.begin()});
  ASSERT_TRUE(search.Step(core.reader, &key, 8));
  search.read().status = absl::UnavailableError("a disk that is gone");
  EXPECT_FALSE(search.Step(core.reader, &key, 8));
  EXPECT_TRUE(FailsWith(search.status(), absl::StatusCode::kUnavailable, "gone"));
  EXPECT_FALSE(search.Answers(from));

  search.Begin({from, core.log.begin()});
  ASSERT_TRUE(search.Step(core.reader, &key, 8));
  search.read().status = absl::OkStatus();  // and not a byte of it there
  EXPECT_FALSE(search.Step(core.reader, &key, 8));
  EXPECT_TRUE(absl::IsDataLoss(search.status())) << search.status();

  search.Begin({from, core.log.begin()});
  ASSERT_TRUE(search.Step(core.reader, &key, 8));
  Must(core.log.ShiftBegin(core.log.safe_head()));
  search.read().status = absl::UnavailableError("blocks that were given back");
  EXPECT_FALSE(search.Step(core.reader, &key, 8));
  EXPECT_TRUE(absl::IsAborted(search.status())) << search.status();
}

}  // namespace
}  // namespace ebb::test
