// Regressions of others: bugs that users of other stores have met, each tried here on a tiny store.
//
// The list, with those that have no counterpart here yet, is in tests/README.md. Nothing unsynced
// survives a restart in these tests, not even one by Close.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/step_sync.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Manifest;
using internal::ManifestName;

enum class End { kClose, kPowerLoss };
constexpr End kEnds[] = {End::kClose, End::kPowerLoss};

// A store in run after run.
template <typename StoreType>
class Runs {
 public:
  explicit Runs(std::uint64_t frames = kTinyFrameCount) { Open(frames); }
  StoreType& operator*() { return *store_; }
  StoreType* operator->() { return &*store_; }
  SimFileSystem& files() { return *files_; }
  void Restart(End end, std::uint64_t frames = kTinyFrameCount) {
    if (end == End::kClose) Must(store_->Close());
    const auto ended = std::exchange(files_, files_->Crash(kNothingSurvives));
    store_.reset();
    Open(frames);
  }

 private:
  void Open(std::uint64_t frames) {
    internal::Environment environment = TinyEnvironment(files_.get());
    environment.frame_count = frames;
    store_.emplace(Must(OpenIn<StoreType>("db", environment)));
  }
  std::unique_ptr<SimFileSystem> files_ = std::make_unique<SimFileSystem>();
  std::optional<StoreType> store_;
};

// Keys [from, to), each with itself and `more` for its value.
void Put(U64Store& store, U64Model& model, std::uint64_t from, std::uint64_t to,
         std::uint64_t more = 0) {
  for (std::uint64_t key = from; key < to; ++key) Must(store.Upsert(key, model[key] = key + more));
}
// These and no other keys below 4000.
testing::AssertionResult HoldsExactly(U64Store& store, const U64Model& model) {
  return HoldsOnly(store, model, KeysUpTo(4000));
}

// Garnet #1950: a store was saved and started again with less memory; now and then keys were gone,
// those of saved pages that had to leave memory before recovery had written them to the log.
TEST(RegressionTest, AStoreStartedWithLessMemoryThanItWasSavedWithHasAllKeys) {
  for (const std::uint64_t frames : {8, 9, 23}) {
    Runs<U64Store> run(64);
    U64Model model;
    Put(*run, model, 0, 3000);  // 18 pages
    Must(run->Checkpoint());
    Put(*run, model, 1500, 4000, 1);  // and 15 to replay
    Must(run->Commit());
    for (const std::uint64_t next : {frames, std::uint64_t{64}}) {
      run.Restart(End::kPowerLoss, next);
      EXPECT_EQ(run->recovery().checkpoint_id, 1U);
      ASSERT_TRUE(HoldsExactly(*run, model)) << next << " frames";
    }
  }
}

// Garnet #2127: written, deleted, saved, written again (into the deleted record's place), saved,
// restarted: the key was listed and counted, but could not be read.
TEST(RegressionTest, AKeyWrittenAgainAfterACheckpointOfItsDeletionIsFound) {
  for (const bool blind : {false, true}) {
    Runs<U64Store> run;
    Must(run->Upsert(7, 1));
    Must(run->Delete(7));
    Must(run->Checkpoint());
    Must(blind ? run->Upsert(7, 2) : run->Rmw(7, [](std::uint64_t& n) { n += 2; }));
    Must(run->Checkpoint());
    for (const End end : kEnds) {
      run.Restart(end);
      EXPECT_EQ(run->recovery().checkpoint_id, 2U);
      EXPECT_TRUE(Holds(*run, U64Model{{7, 2}}));
    }
  }
}

// Garnet #2150: the one checkpoint could not be read, which was taken for a store without any; it
// started with the five keys of the log's rest and without the 200 before.
TEST(RegressionTest, ACheckpointThatCannotBeReadIsNoFreshStart) {
  Runs<U64Store> run;
  U64Model model;
  Put(*run, model, 0, 200);
  Must(run->Checkpoint());
  Put(*run, model, 200, 205);
  Must(run->Close());
  const std::string name = ManifestName(1);
  for (const std::string how : {"unreadable", "flipped", "gone"}) {
    Snapshot left = SnapshotOf(run.files(), "db");
    if (how == "flipped") left[name][20] ^= 1;
    if (how == "gone") left.erase(name);
    SimFileSystem disk;
    Restore(left, disk, "db");
    FaultFileSystem files(disk);
    if (how == "unreadable") files.Arm({.kind = CallKind::kRead, .name_part = name});
    auto store = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_EQ(store.recovery().notes.size(), how == "gone" ? 0U : 1U) << how;
    EXPECT_TRUE(HoldsExactly(store, model)) << how;
  }
}

// The other way round: records that only the log holds are missed, and nothing is touched.
TEST(RegressionTest, ALogThatMissesFilesAfterACheckpointIsNoFreshStart) {
  Runs<U64Store> run;
  U64Model model;
  Put(*run, model, 0, 9000);  // three files and a part of the next
  Must(run->Checkpoint());
  Must(run->Close());
  std::vector<Snapshot> missing(6, SnapshotOf(run.files(), "db"));
  for (std::uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(missing[i].erase(SegmentFile(i)) + missing[4].erase(SegmentFile(i)), 2U);
  }
  missing[5][SegmentFile(1)].resize(9 * 4096);
  for (std::size_t i = 0; i < missing.size(); ++i) {
    SimFileSystem files;
    Restore(missing[i], files, "db");
    const absl::Status status = OpenTiny<U64Store>("db", &files).status();
    EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, "log-")) << i;
    EXPECT_EQ(SnapshotOf(files, "db"), missing[i]) << i;
  }
}

// Garnet #2164: keys too long for their record's inline part were accepted and saved, but the next
// start crashed on them.
TEST(RegressionTest, KeysOfEveryAcceptedLengthAreRecovered) {
  constexpr std::size_t kMax = internal::kBlockPayloadBytes - 24;
  Runs<StringStore> run;
  Model<std::string, std::string> model;
  for (const std::size_t bytes : std::vector<std::size_t>{0, 1, 8, 127, 128, 129, 1000, kMax}) {
    const std::string key(bytes, 'k');
    Must(run->Upsert(key, model[key] = bytes == kMax ? "" : "value"));
  }
  Must(run->Commit());
  for (const std::uint64_t id : {0, 1}) {
    run.Restart(End::kPowerLoss);
    EXPECT_EQ(run->recovery().checkpoint_id, id);
    EXPECT_TRUE(Holds(*run, model));
    Must(run->Checkpoint());
  }
}

// FASTER #227: from some number of entries on a checkpoint never ended: it waited for a session
// that did nothing, and so did not refresh. (A hang ends the program here.)
TEST(RegressionTest, IdleSessionsDelayNoCheckpoint) {
  for (const std::uint64_t entries : {10, 400, 4000}) {
    Runs<U64Store> run;
    U64Model model;
    auto idle = Must(run->NewSession("idle"));
    Must(idle.Upsert(9999, 0));
    StepSync steps;
    std::thread checkpointer([&] {
      for (std::uint64_t id = 1; id < 4; ++id) {
        Put(*run, model, 0, entries, id);
        EXPECT_EQ(Must(run->Checkpoint()).id, id);
      }
      steps.Announce(1);  // 1 ->
    });
    steps.Await(1);  // 1 <-
    checkpointer.join();
    { const auto ended = std::move(idle); }
    run.Restart(End::kPowerLoss);
    EXPECT_EQ(run->recovery().sessions, (std::vector<SessionReport>{{"idle", 1}}));
    EXPECT_TRUE(HoldsExactly(*run, model));
  }
}

// FASTER #232: with much data, deletes and several rounds of checkpoint and recovery, a recovery
// failed: a checkpoint had left out how far its files went, and the next run wrote over them.
TEST(RegressionTest, RoundsOfWritesDeletesCheckpointsAndRestartsLoseNothing) {
  Runs<U64StringStore> run;
  Model<std::uint64_t, std::string> model;
  const std::vector<std::uint64_t> keys = KeysUpTo(300);
  std::mt19937_64 random(232);
  for (std::uint64_t round = 1; round <= 10; ++round) {
    for (int i = 0; i < 500; ++i) {  // about 40 pages; eight are in memory
      const std::uint64_t key = random() % keys.size();
      if (random() % 4 == 0) {
        EXPECT_EQ(run->Delete(key).ok(), model.erase(key) == 1);
      } else {
        model[key] = std::string(random() % 700, static_cast<char>('a' + random() % 26));
        Must(run->Upsert(key, model[key]));
      }
    }
    EXPECT_EQ(Must(run->Checkpoint()).id, round);
    run.Restart(kEnds[round % 2]);
    EXPECT_EQ(run->recovery().checkpoint_id, round);
    ASSERT_TRUE(HoldsOnly(*run, model, keys)) << "round " << round;
  }
}

// FASTER #235: N entries, checkpoint, recovery, the same N with other values, checkpoint; the next
// recovery failed, with checkpoints that fold the log over only.
TEST(RegressionTest, EntriesUpdatedAfterARecoveryAreRecoveredToo) {
  for (const std::uint64_t count : {100, 3000}) {
    Runs<U64Store> run;
    U64Model model;
    for (std::uint64_t id = 1; id < 5; ++id) {
      Put(*run, model, 0, count, id);
      EXPECT_EQ(Must(run->Checkpoint()).id, id);
      run.Restart(kEnds[id / 2 % 2]);
      EXPECT_EQ(run->recovery().checkpoint_id, id);
      ASSERT_TRUE(HoldsExactly(*run, model)) << count << " entries, checkpoint " << id;
    }
  }
}

// SQLite's WAL-reset race: while a second checkpoint ran right after a finished one, a commit
// restarted the log; the checkpoint noted that commit's frames as copied, which they were not.
TEST(RegressionTest, ACommitDuringACheckpointIsNotTakenForPartOfItsImage) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Put(store, model, 0, 300);
  Must(store.Checkpoint());
  Put(store, model, 0, 1, 5);
  files.Hold(CallKind::kRename);
  std::thread second([&] { EXPECT_EQ(Must(store.Checkpoint()).id, 2U); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kRename, 1));  // its image is written
  Put(store, model, 200, 400, 9);
  Must(store.Commit());
  files.Release(CallKind::kRename);
  second.join();
  for (std::uint64_t id = 2; id < 4; ++id) {
    const auto after = disk.Crash(kNothingSurvives);
    auto recovered = Must(OpenTiny<U64Store>("db", after.get()));
    EXPECT_EQ(recovered.recovery().checkpoint_id, id);
    EXPECT_TRUE(HoldsExactly(recovered, model));
    // Nor is a checkpoint needless because a commit has made all durable since.
    Put(store, model, 0, 100, id);
    Must(store.Commit());
    EXPECT_EQ(Must(store.Checkpoint()).id, id + 1);
  }
}

// LevelDB #195: CURRENT was renamed to name the new manifest, and the old one unlinked without a
// sync of the directory in between; a power loss could keep the unlink and lose the rename.
TEST(RegressionTest, AnyPowerLossLeavesAWholeCheckpointWhenOneReplacesAnother) {
  SimFileSystem files;
  Options options = TinyOptions();
  options.checkpoints_kept = 1;
  auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
  U64Model before, after;
  Put(store, before, 0, 300);
  Must(store.Checkpoint());
  Put(store, after = before, 100, 400, 1);
  const std::size_t first_call = files.CallCount();
  Must(store.Checkpoint());
  for (std::size_t call = first_call; call <= files.CallCount(); ++call) {
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      if (!IsInSample(call * 25 + seed)) continue;
      const auto left = files.CrashAt(call, seed);
      auto recovered = Must(OpenTiny<U64Store>("db", left.get()));
      const std::uint64_t id = recovered.recovery().checkpoint_id;
      ASSERT_TRUE(id == 2 || (id == 1 && call < files.CallCount())) << id << ", call " << call;
      EXPECT_TRUE(HoldsExactly(recovered, after) || (id == 1 && HoldsExactly(recovered, before)));
    }
  }
}

// LevelDB #1081: writes continued in a new file; the error that the close of the old one reported
// was ignored, the sync of the new one believed, and an earlier insert lost behind a later one.
TEST(RegressionTest, AnErrorOfAnEarlierFileIsNotOverlooked) {
  for (const bool sync : {true, false}) {
    SimFileSystem disk;
    FaultFileSystem files(disk);
    internal::Environment environment = TinyEnvironment(&files);
    environment.segment_blocks = 4;
    auto store = Must(OpenIn<U64Store>("db", environment));
    U64Model model;
    Put(store, model, 0, 100);
    Must(store.Commit());
    const U64Model durable = model;
    Put(store, model, 100, 3000);
    ASSERT_TRUE(disk.Exists("db", SegmentFile(3)));
    if (!sync) Must(store.Commit());
    files.Arm({.kind = sync ? CallKind::kSync : CallKind::kClose, .name_part = SegmentFile(1)});
    const absl::Status status = sync ? store.Commit() : store.Close();
    EXPECT_TRUE(FailsWith(status, StatusCode::kUnavailable, SegmentFile(1)));
    const auto after = disk.Crash(kNothingSurvives);
    auto recovered = Must(OpenTiny<U64Store>("db", after.get()));
    EXPECT_TRUE(HoldsExactly(recovered, sync ? durable : model));
  }
}

// libmdbx #217: of several meta pages the invalid ones were found and passed over, and then used
// anyway where one claimed to be the newest; and valid ones with huge sizes took all memory.
TEST(RegressionTest, StatementsOfARejectedCheckpointAreIgnored) {
  Runs<U64Store> run;
  U64Model model;
  const std::uint64_t store_id = CoreOf(*run).config.log.store_id;
  for (std::uint64_t id = 1; id < 3; ++id) {
    Put(*run, model, 0, 1000, id);
    Must(run->Checkpoint());
  }
  Must(run->Close());
  const internal::Address end(internal::Address::kMask);  // each is sealed with a right checksum
  const std::vector<std::function<void(Manifest&)>> changes = {
      [&](Manifest& m) { m.durable = end + 1; },
      [&](Manifest& m) { m.durable = end, m.incarnations.clear(); },
      [&](Manifest& m) { m.durable = m.scan_from = end; },
      [&](Manifest& m) { m.image_entries = ~std::uint64_t{0}; },
      [&](Manifest& m) { m.index_exponent = ~std::uint32_t{0}; }};
  for (const auto& change : changes) {
    const auto files = run.files().Crash(kNothingSurvives);
    const auto directory = files->OpenDirectory("db", false).directory;
    Manifest manifest = Must(ReadManifest(*directory, store_id, 2));
    change(manifest);
    Must(WriteManifest(*directory, store_id, manifest));
    auto store = Must(OpenTiny<U64Store>("db", files.get()));
    EXPECT_EQ(store.recovery().checkpoint_id, 1U);
    EXPECT_EQ(store.recovery().notes.size(), 1U);
    EXPECT_TRUE(HoldsExactly(store, model));
  }
}

// ebb itself: strings chosen for the hash without a seed shared one chain at every size of the
// index, and a read of one of 3,000 made 3,011 device reads. Now each store has a random seed.
TEST(RegressionTest, ChosenKeysShareNoChain) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.hash_seed.reset();
  environment.index_exponent = 10;
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; i < 500; ++i) keys.push_back(KeyOfHash((i + 1) << 31 | 0x2345678));
  for (int opened = 0; opened < 2; ++opened) {  // the second time from the files
    auto store = Must(OpenIn<StringU64Store>("db", environment));
    for (std::uint64_t i = 0; i < keys.size(); ++i) Must(store.Upsert(keys[i], i));
    PushOut(store, [&](std::uint64_t i) { Must(store.Upsert("filler" + std::to_string(i), i)); });
    for (std::uint64_t i = 0; i < keys.size(); i += 50) {
      const std::uint64_t before = store.Metrics().device_reads;
      EXPECT_EQ(Must(store.Read(keys[i])), i);
      EXPECT_LE(store.Metrics().device_reads - before, 4U);
    }
    Must(store.Close());
  }
}

}  // namespace
}  // namespace ebb::test
