// Background jobs: collections and checkpoints that come by themselves. (Checkpoints:
// checkpoint_test.)
#include "ebb/internal/background_jobs.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/support/collection_kit.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using Model = GarbageModel;

// Hazard 46: a collection that fails is not tried again at every page turn.
TEST(BackgroundJobsTest, AFailedCollectionIsNotTriedAgainAtOnce) {
  SimFileSystem files;
  FaultFileSystem faults(files);
  Model model;
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&faults), Collecting()));
  faults.Arm({.kind = CallKind::kRead, .sticky = true, .error = EIO});
  for (std::uint64_t turn = 0; turn < 8; ++turn) {
    for (std::uint64_t key = 0; key < 300; ++key) {
      Write(store, model, key, turn);
      while (CoreOf(store).pool.RunOne()) {
      }
    }
  }
  faults.Disarm();
  const BackgroundJobStats gc = store.GetBackgroundStats().gc;
  EXPECT_GE(gc.failure_count, 2U);
  // One for each 64 KiB of log, of which each page is 4.
  EXPECT_LE(gc.failure_count, store.Stats().page_turn_count / 16 + 2);
  EXPECT_NE(gc.last_error.find("UNAVAILABLE"), std::string::npos) << gc.last_error;
  ExpectHolds(store, model, 310);
}

TEST(BackgroundJobsTest, ItComesByItselfWhenItIsDueAndCanBeStopped) {
  const TempDir dir;
  internal::Environment environment = TinyEnvironment();
  environment.segment_blocks = 16;
  environment.pool_threads = 2;
  auto store = Must(OpenIn<U64StringStore>(dir / "db", environment, Collecting()));
  EXPECT_TRUE(store.GetBackgroundStats().running);
  EXPECT_TRUE(store.GetBackgroundStats().gc.enabled);
  Model model;
  std::uint64_t most = 0;
  for (std::uint64_t turn = 0; turn < 300; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
    const StoreStats stats = store.Stats();
    most = std::max(most, stats.tail_address - stats.begin_address);
  }
  // Without, it would be 6 MB; live are 20 KB.
  EXPECT_LT(most, 3U << 20);
  EXPECT_GE(store.GetBackgroundStats().gc.run_count, 3U);
  EXPECT_EQ(store.GetBackgroundStats().gc.failure_count, 0U);
  store.StopBackground();
  const BackgroundStats stopped = store.GetBackgroundStats();
  EXPECT_FALSE(stopped.running);
  EXPECT_FALSE(stopped.active);
  const std::uint64_t begin = store.Stats().begin_address;
  for (std::uint64_t turn = 0; turn < 50; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
  }
  EXPECT_EQ(store.Stats().begin_address, begin);
  store.StartBackground();
  for (std::uint64_t turn = 0; turn < 2000 && store.Stats().begin_address == begin; ++turn) {
    for (std::uint64_t key = 0; key < 60; ++key) Write(store, model, key, turn);
  }
  EXPECT_GT(store.Stats().begin_address, begin);
  ExpectHolds(store, model, 70);
}

}  // namespace
}  // namespace ebb::test
