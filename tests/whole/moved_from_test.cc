// Every public object that can be moved: a moved-from object returns FailedPrecondition, or nothing
// where a call has no status, and can be destroyed, assigned to and moved again.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "ebb/ebb.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

const Options kSmall{.log_memory_bytes = 1 << 20, .index_bucket_count = 1024};

#define EXPECT_MOVED_FROM(call) \
  EXPECT_TRUE(FailsWith((call), absl::StatusCode::kFailedPrecondition, "moved from")) << #call

template <typename Caller>
void ExpectNoOperationOf(Caller& from) {
  std::string value;
  EXPECT_MOVED_FROM(from.Read("k").status());
  EXPECT_MOVED_FROM(from.Read("k", value));
  EXPECT_MOVED_FROM(from.Read("k", [](std::string_view) { FAIL(); }));
  EXPECT_MOVED_FROM(from.Contains("k").status());
  EXPECT_MOVED_FROM(from.Upsert("k", "v"));
  EXPECT_MOVED_FROM(from.Rmw("k", [](std::string&) { FAIL(); }));
  EXPECT_MOVED_FROM(from.Delete("k"));
  EXPECT_MOVED_FROM(from.InsertIfAbsent("k", "v"));
  EXPECT_MOVED_FROM(from.CompareExchange("k", "v", "w"));
}

void ExpectNoCallOf(Session<std::string, std::string>& from) {
  ExpectNoOperationOf(from);
  EXPECT_MOVED_FROM(from.WaitDurable());
  EXPECT_EQ(from.CompletePending(), 0U);
  EXPECT_EQ(from.pending_count() + from.serial() + from.name().size(), 0U);
  int told = 0;
  const auto done = [&](const absl::Status& status) {
    ++told;
    EXPECT_MOVED_FROM(status);
  };
  from.ReadAsync("k", [&](const absl::StatusOr<std::string>& found) { done(found.status()); });
  from.RmwAsync(
      "k", [](std::string&) { FAIL(); }, done);
  from.DeleteAsync("k", done);
  from.InsertIfAbsentAsync("k", "v", done);
  from.CompareExchangeAsync("k", "v", "w", done);
  EXPECT_EQ(told, 5);
  const std::array<std::string_view, 2> keys = {"a", "b"};
  std::array<std::string, 2> values;
  std::array<absl::Status, 2> results;
  EXPECT_EQ(from.ReadBatch(keys, values, results), 0U);
  EXPECT_MOVED_FROM(results[1]);
  EXPECT_EQ(from.UpsertBatch(keys, keys, results), 0U);
  EXPECT_MOVED_FROM(results[0]);
  EXPECT_EQ(from.RmwBatch(
                keys, [](std::size_t, std::string&) { FAIL(); }, results),
            0U);
  EXPECT_EQ(from.DeleteBatch(keys, results), 0U);
  EXPECT_MOVED_FROM(results[1]);
}

TEST(MovedFromTest, StoreRejectsEveryCall) {
  Store<> from = Must(Store<>::OpenInMemory(kSmall));
  Must(from.Upsert("k", "v"));  // this thread has a session of it
  Store<> store = std::move(from);
  for (int round = 0; round < 2; ++round) {
    ExpectNoOperationOf(from);
    auto session = from.NewSession();
    ExpectNoCallOf(session);
    EXPECT_MOVED_FROM(from.NewSession("name").status());
    EXPECT_MOVED_FROM(from.ForgetSession("name"));
    EXPECT_MOVED_FROM(from.NewScan().status());
    EXPECT_MOVED_FROM(from.NewScan("k").status());
    EXPECT_MOVED_FROM(from.Scan([](std::string_view, std::string_view) { FAIL(); }));
    EXPECT_MOVED_FROM(from.ScanPrefix("k", [](std::string_view, std::string_view) { FAIL(); }));
    EXPECT_MOVED_FROM(from.ScanAll().status());
    EXPECT_MOVED_FROM(from.Commit());
    EXPECT_MOVED_FROM(from.Checkpoint().status());
    EXPECT_MOVED_FROM(from.CleanupCheckpoints(1).status());
    EXPECT_MOVED_FROM(from.GrowIndex());
    EXPECT_MOVED_FROM(from.CollectGarbage().status());
    EXPECT_MOVED_FROM(from.ShouldCollect().status());
    EXPECT_MOVED_FROM(from.EstimateGarbage().status());
    EXPECT_MOVED_FROM(from.StartBackground());
    EXPECT_MOVED_FROM(from.StopBackground());
    EXPECT_MOVED_FROM(from.Backup("nowhere").status());
    EXPECT_MOVED_FROM(from.Verify().status());
    EXPECT_MOVED_FROM(from.Size().status());
    EXPECT_MOVED_FROM(from.IsEmpty().status());
    EXPECT_MOVED_FROM(from.Close());
    EXPECT_TRUE(from.ListCheckpoints().empty());
    EXPECT_EQ(from.GetCheckpointStats().checkpoint_count, 0U);
    EXPECT_FALSE(from.GetBackgroundStats().running);
    EXPECT_EQ(from.Stats().tail_address + from.ApproximateSize(), 0U);
    EXPECT_EQ(from.Metrics()[OpKind::kRead].count, 0U);
    from.ResetMetrics();
    EXPECT_FALSE(from.recovery().created);
    const Store<> nothing = std::move(from);  // the second time
  }
  EXPECT_EQ(Must(store.Read("k")), "v");
  from = std::move(store);
  EXPECT_EQ(Must(from.Read("k")), "v");
  EXPECT_MOVED_FROM(store.Commit());
}

TEST(MovedFromTest, SessionAndIteratorRejectEveryCall) {
  Store<> store = Must(Store<>::OpenInMemory(kSmall));
  auto from = store.NewSession();
  Must(from.Upsert("k", "v"));
  auto session = std::move(from);
  ExpectNoCallOf(from);
  EXPECT_EQ(Must(session.Read("k")), "v");
  from = std::move(session);
  EXPECT_EQ(Must(from.Read("k")), "v");
  ExpectNoCallOf(session);

  auto scan = store.NewScan();
  auto moved = std::move(scan);
  EXPECT_FALSE(scan.Next());
  EXPECT_MOVED_FROM(scan.status());
  EXPECT_TRUE(moved.Next());
}

TEST(MovedFromTest, SessionMayOutliveItsStore) {
  auto store = std::make_unique<Store<>>(Must(Store<>::OpenInMemory(kSmall)));
  auto from = store->NewSession();
  auto session = std::move(from);
  store = nullptr;
  ExpectNoCallOf(from);
  EXPECT_TRUE(FailsWith(session.Upsert("k", "v"), absl::StatusCode::kFailedPrecondition, "closed"));
}

}  // namespace
}  // namespace ebb::test
