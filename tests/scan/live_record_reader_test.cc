// LiveRecordReader: shows the newest record of each key of a part of the log, once, however it is
// read and whenever the chains that lead to the device are settled.
//
// Two buckets make chains of many keys, so most live records are found to be so on the device only.
#include "ebb/internal/scan/live_record_reader.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::Liveness;
using internal::LiveRecordReader;
using internal::LogCursor;
using KeyModel = std::map<std::uint64_t, std::string>;

class LiveRecordReaderTest : public testing::TestWithParam<std::uint64_t> {
 protected:
  LiveRecordReaderTest()
      : store_(Must(OpenTiny<U64StringStore>("db", &files_))),
        core_(CoreOf(store_)),
        slot_(core_.epochs) {}

  void Update(KeyModel& model, int count) {
    for (int i = 0; i < count; ++i) {
      const std::uint64_t key = random_() % 400;
      if (random_() % 8 == 0) {
        static_cast<void>(store_.Delete(key));
        model.erase(key);
      } else {
        Must(store_.Upsert(key, model[key] = std::string(random_() % 60, 'v') + std::to_string(i)));
      }
      if (random_() % 64 == 0) Must(core_.log.FreezeTo(core_.log.tail()));
    }
    Must(core_.log.FreezeTo(core_.log.tail()));
  }
  static void Add(KeyModel& shown, const LiveRecordReader& reader) {
    for (const LiveRecordReader::LiveRecord& item : reader.live()) {
      std::uint64_t key = 0;
      std::memcpy(&key, item.record.key(), sizeof(key));
      const auto bytes = item.record.lock().LoadAcquire().value_bytes();
      const std::string value(reinterpret_cast<const char*>(item.record.value()), bytes);
      EXPECT_TRUE(shown.emplace(key, value).second) << "twice: " << key;
      EXPECT_GE(item.head.address(), item.address);
    }
  }
  LiveRecordReader::Config MakeConfig(Address below) const {
    LiveRecordReader::Config config{.below = below, .reading = {4096, 0}};
    config.max_open_bytes = GetParam();
    return config;
  }

  SimFileSystem files_;
  U64StringStore store_;
  internal::Core& core_;
  internal::OwnSlot slot_;
  std::mt19937_64 random_{7};
};

TEST_P(LiveRecordReaderTest, TheNewestOfEachKeyIsShownOnce) {
  KeyModel model;
  Update(model, 3000);
  const KeyModel expected = model;
  const Address end = core_.log.tail();
  Update(model, 1500);  // above the end, and some of it on the device
  ASSERT_GT(core_.log.head_acquire(), end);
  KeyModel shown;
  LiveRecordReader reader(core_, *slot_, {core_.log.begin(), end}, MakeConfig(end));
  Address settled = reader.settled();
  while (Must(reader.Step())) {
    EXPECT_GE(reader.settled(), settled);
    settled = reader.settled();
    Add(shown, reader);
  }
  EXPECT_EQ(reader.settled(), end);
  EXPECT_EQ(shown, expected);
}

// The use by compaction: everything counts, and it may end early.
TEST_P(LiveRecordReaderTest, RecordsBelowSettledHaveBeenShownWhenItEndsEarly) {
  KeyModel model;
  Update(model, 3000);
  const Address begin = core_.log.begin();
  const Address end = core_.log.tail();
  KeyModel whole;
  std::map<std::uint64_t, Address> places;
  LiveRecordReader all(core_, *slot_, {begin, end}, MakeConfig(Liveness::kEverything));
  while (Must(all.Step())) {
    Add(whole, all);
    for (const LiveRecordReader::LiveRecord& item : all.live()) {
      std::uint64_t key = 0;
      std::memcpy(&key, item.record.key(), sizeof(key));
      places[key] = item.address;
    }
  }
  EXPECT_EQ(whole, model);
  KeyModel shown;
  LiveRecordReader part(core_, *slot_, {begin, end}, MakeConfig(Liveness::kEverything));
  while (Must(part.Step())) {
    Add(shown, part);
    if (part.cursor() - begin > (end - begin) / 2) part.EndHere();
  }
  EXPECT_GT(part.settled(), begin);
  EXPECT_LT(part.settled(), end);
  for (const auto& [key, value] : whole) {
    EXPECT_EQ(shown.contains(key), places[key] < part.settled()) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(MaxOpenBytes, LiveRecordReaderTest, testing::Values(1, 700, 6000, 0));

}  // namespace
}  // namespace ebb::test
