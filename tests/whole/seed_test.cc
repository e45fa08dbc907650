// The six tests of rskv 0.1.0's own library module, translated by the README's tables.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "ebb/ebb.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

class SeedTest : public testing::Test {
 protected:
  Store<> Open(std::uint32_t checkpoint_interval_ms = 0) {
    Options options;
    options.log_memory_bytes = 64 << 20;
    options.checkpoint_interval_ms = checkpoint_interval_ms;
    options.gc_interval_ms = 0;
    return Must(Store<>::Open(dir_.path(), options));
  }

 private:
  TempDir dir_;
};

TEST_F(SeedTest, BasicOperations) {
  Store<> store = Open();
  Must(store.Upsert("test_key", "test_value"));
  EXPECT_EQ(Must(store.Read("test_key")), "test_value");
  EXPECT_TRUE(Must(store.Contains("test_key")));
  Must(store.Delete("test_key"));
  EXPECT_TRUE(absl::IsNotFound(store.Read("test_key").status()));
  EXPECT_FALSE(Must(store.Contains("test_key")));
}

TEST_F(SeedTest, UpsertOverwrites) {
  Store<> store = Open();
  Must(store.Upsert("test_key", "value1"));
  EXPECT_EQ(Must(store.Read("test_key")), "value1");
  Must(store.Upsert("test_key", "value2"));
  EXPECT_EQ(Must(store.Read("test_key")), "value2");
}

TEST_F(SeedTest, MultipleKeys) {
  Store<> store = Open();
  EXPECT_TRUE(Must(store.IsEmpty()));
  for (const std::string n : {"1", "2", "3"}) Must(store.Upsert("key" + n, "value" + n));
  for (const std::string n : {"1", "2", "3"}) EXPECT_EQ(Must(store.Read("key" + n)), "value" + n);
  EXPECT_EQ(Must(store.Size()), 3U);
  EXPECT_EQ(store.ApproximateSize(), 3U);
  EXPECT_FALSE(Must(store.IsEmpty()));
}

TEST_F(SeedTest, ScanOperations) {
  Store<> store = Open();
  for (const char* key : {"prefix_key1", "prefix_key2", "other_key"}) Must(store.Upsert(key, "v"));
  EXPECT_EQ(Must(store.ScanAll()).size(), 3U);
  std::vector<std::string> found;
  Must(store.ScanPrefix("prefix_",
                        [&](std::string_view key, std::string_view) { found.emplace_back(key); }));
  EXPECT_EQ(found.size(), 2U);
  for (const std::string& key : found) EXPECT_TRUE(key.starts_with("prefix_"));
}

TEST_F(SeedTest, Stats) {
  Store<> store = Open();
  EXPECT_EQ(store.Stats().index_entry_estimate, 0U);
  Must(store.Upsert("key1", "value1"));
  Must(store.Upsert("key2", "value2"));
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.index_entry_estimate, 2U);
  EXPECT_GT(stats.tail_address, stats.head_address);
}

TEST_F(SeedTest, Checkpoint) {
  {
    Store<> store = Open(/*checkpoint_interval_ms=*/5000);
    Must(store.StopBackground());
    Must(store.Upsert("key1", "value1"));
    Must(store.Checkpoint().status());
    EXPECT_EQ(Must(store.Read("key1")), "value1");
    Must(store.Close());
  }
  Store<> again = Open(/*checkpoint_interval_ms=*/5000);
  EXPECT_EQ(Must(again.Read("key1")), "value1");
  EXPECT_GT(again.recovery().checkpoint_id, 0U);
}

}  // namespace
}  // namespace ebb::test
