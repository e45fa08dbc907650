// Checkpoints: an opening with them, with damaged ones and without; and the calls that may run
// during them.
//
// Hazards: 35 (a fuzzy image), 36 (versions after several reopenings), 40 (crash between data and
// manifest; two at once), 42 (records below the start of the image).
#include "ebb/internal/jobs/checkpointer.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/manifest.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::ImageName;
using internal::ManifestName;

// Far more than the memory of a tiny store, in `model` too.
void Fill(U64Store& store, U64Model& model, std::uint64_t seed, std::uint64_t updates = 1500) {
  std::mt19937_64 random(seed);
  for (std::uint64_t i = 0; i < updates; ++i) {
    const std::uint64_t key = random() % 700;
    switch (random() % 4) {
      case 0:
        EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
        break;
      case 1:
        Must(store.Upsert(key, model[key] = random()));
        break;
      default:
        Must(store.Rmw(key, [](std::uint64_t& n) { n += 3; }));
        model[key] += 3;
        break;
    }
  }
}

std::vector<std::string> FilesOf(const SimFileSystem& files) {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : SnapshotOf(files, "db")) {
    if (internal::CheckpointOfFile(name).has_value()) names.push_back(name);
  }
  return names;
}

// Changes one byte of a file, durably.
void Damage(SimFileSystem& files, const std::string& name, std::uint64_t offset) {
  auto directory = files.OpenDirectory("db", false).directory;
  auto file = directory->Open(name, {.write = true}).file;
  alignas(4096) std::byte block[4096];
  const std::uint64_t start = offset / 4096 * 4096;
  ASSERT_EQ(file->ReadAt(start, block, sizeof(block)).count, sizeof(block));
  block[offset - start] ^= std::byte{4};
  ASSERT_EQ(file->WriteAt(start, block, sizeof(block)).count, sizeof(block));
  ASSERT_EQ(file->Sync(), 0);
}

TEST(CheckpointerTest, AnOpeningReadsOnlyTheLogAfterIt) {
  SimFileSystem files;
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Fill(store, model, 1, 5000);
  const CheckpointInfo info = Must(store.Checkpoint());
  EXPECT_EQ(info.id, 1U);
  Fill(store, model, 2, 30);
  Must(store.Close());

  auto reopened = Must(OpenTiny<U64Store>("db", &files));
  const RecoveryReport& report = reopened.recovery();
  EXPECT_EQ(report.checkpoint_id, 1U);
  EXPECT_LE(report.replayed_records, 40U);
  EXPECT_LE(report.verified_bytes, 8 * 4096U);
  EXPECT_TRUE(report.notes.empty());
  EXPECT_TRUE(HoldsOnly(reopened, model, KeysUpTo(700)));
  ASSERT_EQ(reopened.ListCheckpoints().size(), 1U);
  EXPECT_EQ(reopened.ListCheckpoints()[0].id, 1U);
}

// Five times in a row, with an index of another size and other memory each time.
TEST(CheckpointerTest, CheckpointsAndReopeningsFollowEachOther) {
  SimFileSystem files;
  U64Model model;
  struct Round {
    int index_exponent;
    std::uint64_t frame_count;
  };
  std::uint64_t id = 0;
  for (const Round& round : {Round{1, 8}, {5, 13}, {1, 40}, {9, 8}, {3, 9}, {1, 8}}) {
    internal::Environment environment = TinyEnvironment(&files);
    environment.index_exponent = round.index_exponent;
    environment.frame_count = round.frame_count;
    auto store = Must(OpenIn<U64Store>("db", environment));
    EXPECT_EQ(store.recovery().checkpoint_id, id);
    ASSERT_TRUE(HoldsOnly(store, model, KeysUpTo(700)));
    EXPECT_TRUE(Verifies(store));
    Fill(store, model, id);
    const std::uint64_t next = Must(store.Checkpoint()).id;
    EXPECT_GT(next, id);
    id = next;
    Fill(store, model, id + 100, id % 2 == 0 ? 0 : 300);
    EXPECT_TRUE(Verifies(store));
    Must(store.Close());
    EXPECT_TRUE(Verifies(files, "db"));
  }
}

TEST(CheckpointerTest, NothingChangedMeansNoNewCheckpoint) {
  SimFileSystem files;
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Fill(store, model, 1);
  const std::uint64_t id = Must(store.Checkpoint()).id;
  const std::size_t calls = files.CallCount();
  EXPECT_EQ(Must(store.Checkpoint()).id, id);
  EXPECT_EQ(files.CallCount(), calls);
  EXPECT_EQ(store.GetCheckpointStats().completed_count, 1U);
  Must(store.Upsert(1, 1));
  EXPECT_GT(Must(store.Checkpoint()).id, id);
}

TEST(CheckpointerTest, OldOnesAreRemovedAndTheNewestNever) {
  SimFileSystem files;
  U64Model model;
  Options options = TinyOptions();
  options.checkpoints_kept = 3;
  auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
  for (std::uint64_t i = 0; i < 5; ++i) {
    Fill(store, model, i, 100);
    Must(store.Checkpoint());
  }
  EXPECT_EQ(FilesOf(files).size(), 6U);
  const CheckpointStats stats = store.GetCheckpointStats();
  EXPECT_EQ(stats.checkpoint_count, 3U);
  EXPECT_EQ(stats.latest_checkpoint_id, 5U);
  EXPECT_EQ(stats.completed_count, 5U);
  EXPECT_FALSE(stats.in_progress);
  std::uint64_t bytes = 0;
  for (const std::string& name : FilesOf(files)) bytes += files.Contents("db", name).size();
  EXPECT_EQ(stats.total_size_bytes, bytes);
  EXPECT_TRUE(
      FailsWith(store.CleanupCheckpoints(0).status(), StatusCode::kInvalidArgument, "kept"));
  EXPECT_EQ(Must(store.CleanupCheckpoints(1)), 2U);
  EXPECT_EQ(FilesOf(files), (std::vector{ImageName(5), ManifestName(5)}));
  EXPECT_EQ(Must(store.CleanupCheckpoints(1)), 0U);
  Must(store.Close());
  auto reopened = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_EQ(reopened.recovery().checkpoint_id, 5U);
  EXPECT_TRUE(HoldsOnly(reopened, model, KeysUpTo(700)));
}

// Even when all files of checkpoints are gone.
// The first call removes the manifest, but is told that this failed. A repeated one finds no
// manifest, and must not remove the image before the manifest's removal is durable.
TEST(CheckpointerTest, AFailedRemovalIsRepeatedInOrder) {
  SimFileSystem sim;
  FaultFileSystem files(sim);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t id = 1; id <= 2; ++id) {
    Must(store.Upsert(id, id));
    Must(store.Checkpoint());
  }
  files.Arm({.kind = CallKind::kUnlink,
             .name_part = internal::ManifestName(1),
             .effect = Effect::kErrorAfter,
             .error = EINTR});
  if (store.CleanupCheckpoints(1).ok()) FAIL() << "nothing had failed";
  const std::size_t begun = sim.CallCount();
  Must(store.CleanupCheckpoints(1));
  for (std::size_t call = begun; call <= sim.CallCount(); ++call) {
    SimFileSystem left(sim.DiskAt(call).Crash(kNothingSurvives));
    EXPECT_TRUE(Verifies(left, "db")) << call;
    SimFileSystem image_is_gone(sim.DiskAt(call).Crash(kEverythingSurvives));
    EXPECT_TRUE(Verifies(image_is_gone, "db")) << call;
    for (std::uint64_t seed = 2; seed < 12; ++seed) {
      SimFileSystem torn(sim.DiskAt(call).Crash(seed));
      EXPECT_TRUE(Verifies(torn, "db")) << call;
    }
  }
}

TEST(CheckpointerTest, IdsNeverRepeat) {
  SimFileSystem files;
  U64Model model;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    Fill(store, model, 1, 100);
    Must(store.Checkpoint());
    Fill(store, model, 2, 100);
    EXPECT_EQ(Must(store.Checkpoint()).id, 2U);
    Must(store.Close());
  }
  auto directory = files.OpenDirectory("db", false).directory;
  for (const std::string& name : FilesOf(files)) ASSERT_EQ(directory->Unlink(name), 0);
  for (std::uint64_t id = 3; id < 5; ++id) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_EQ(store.recovery().checkpoint_id, id == 3 ? 0 : 3U);
    EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(700)));
    Fill(store, model, id, 10);
    EXPECT_EQ(Must(store.Checkpoint()).id, id);
    Must(store.Close());
  }
}

// Ids that another program's name or record claims must not make ours begin again.
TEST(CheckpointerTest, AForeignFileDoesNotUseUpTheIds) {
  SimFileSystem files;
  U64Model model;
  Must(Must(OpenTiny<U64Store>("db", &files)).Close());
  auto directory = files.OpenDirectory("db", false).directory;
  directory->Open("manifest-18446744073709551615.ebb", {.create = true});
  for (std::uint64_t id = 1; id < 3; ++id) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(700)));
    for (std::uint64_t key = 0; key < 20; ++key) Must(store.Upsert(key, model[key] = id));
    EXPECT_EQ(Must(store.Checkpoint()).id, id);
    Must(store.Close());
  }
  EXPECT_TRUE(files.Exists("db", "manifest-18446744073709551615.ebb"));
  directory->Open("index-9223372036854775807.ebb", {.create = true});
  auto store = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_TRUE(FailsWith(store.Checkpoint().status(), StatusCode::kResourceExhausted, "ids"));
  EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(700)));
}

TEST(CheckpointerTest, ADirectoryWithTheNameOfAFileIsLeftAlone) {
  const TempDir dir;
  auto store = Must(OpenTiny<U64Store>(dir / "db"));
  ASSERT_EQ(::mkdir((dir / "db/index-77.ebb").c_str(), 0700), 0);
  Must(store.Upsert(1, 1));
  Must(store.Checkpoint());
  Must(store.CleanupCheckpoints(1));
  EXPECT_EQ(::rmdir((dir / "db/index-77.ebb").c_str()), 0);
}

TEST(CheckpointerTest, ADamagedOneIsPassedOverAndReported) {
  SimFileSystem original;
  U64Model model;
  {
    auto store = Must(OpenTiny<U64Store>("db", &original));
    Fill(store, model, 1);
    Must(store.Checkpoint());
    Fill(store, model, 2, 200);
    Must(store.Checkpoint());
    Fill(store, model, 3, 100);
    Must(store.Close());
  }
  struct Case {
    std::vector<std::string> damaged;
    std::uint64_t used;
  };
  for (const Case& c :
       {Case{{ManifestName(2)}, 1}, Case{{ImageName(2)}, 1}, Case{{ManifestName(1)}, 2},
        Case{{ManifestName(1), ImageName(2)}, 0}, Case{{ImageName(1), ImageName(2)}, 0}}) {
    const auto files = original.Crash(kEverythingSurvives);
    for (const std::string& name : c.damaged) Damage(*files, name, 77);
    auto store = Must(OpenTiny<U64Store>("db", files.get()));
    EXPECT_EQ(store.recovery().checkpoint_id, c.used);
    // The older one is not looked at while the newer one is good, except for its manifest.
    ASSERT_EQ(store.recovery().notes.size(), c.damaged.size());
    for (const std::string& name : c.damaged) {
      const auto& notes = store.recovery().notes;
      EXPECT_TRUE(std::any_of(notes.begin(), notes.end(), [&](const std::string& note) {
        return note.find(name + " at offset 0") != std::string::npos;
      })) << name;
    }
    EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(700)));
    Must(store.Upsert(9999, 1));
    EXPECT_EQ(Must(store.Checkpoint()).id, 3U);
  }
}

// The log lost blocks that a checkpoint states to be durable.
TEST(CheckpointerTest, ALogShorterThanACheckpointIsDataLoss) {
  SimFileSystem files;
  U64Model model;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    Fill(store, model, 1, 20000);
    Must(store.Checkpoint());
    Must(store.Close());
  }
  auto directory = files.OpenDirectory("db", false).directory;
  std::vector<std::string> names;
  for (const auto& [name, bytes] : SnapshotOf(files, "db")) {
    // Some have their space only.
    if (name.starts_with("log-") && bytes.size() > 4096) names.push_back(name);
  }
  ASSERT_GT(names.size(), 2U);
  ASSERT_EQ(directory->Unlink(names.back()), 0);
  ASSERT_EQ(directory->Unlink(names[names.size() - 2]), 0);
  const absl::Status status = OpenTiny<U64Store>("db", &files).status();
  EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, "checkpoint"));
  EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, " is missing"));
}

TEST(CheckpointerTest, AFailedOneChangesNothingAndTheNextOneWorks) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Fill(store, model, 1);
  std::uint64_t failures = 0;
  for (const char* part : {"index-", "manifest-"}) {
    for (const CallKind kind :
         {CallKind::kOpen, CallKind::kWrite, CallKind::kSync, CallKind::kRename}) {
      files.Arm({.kind = kind, .name_part = part, .error = ENOSPC});
      EXPECT_FALSE(store.Checkpoint().ok());
      EXPECT_EQ(files.FiredCount(), ++failures);
      files.Disarm();
      Must(store.Upsert(1, model[1] = static_cast<std::uint64_t>(kind)));
    }
  }
  EXPECT_EQ(store.GetCheckpointStats().failed_count, 8U);
  EXPECT_NE(store.GetCheckpointStats().last_error, "");
  EXPECT_TRUE(store.ListCheckpoints().empty());
  const std::uint64_t id = Must(store.Checkpoint()).id;
  EXPECT_EQ(FilesOf(disk), (std::vector{ImageName(id), ManifestName(id)}));
  Must(store.Close());
  auto reopened = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_EQ(reopened.recovery().checkpoint_id, id);
  EXPECT_TRUE(HoldsOnly(reopened, model, KeysUpTo(700)));
}

TEST(CheckpointerTest, AFailedSyncOfTheDirectoryPoisons) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Fill(store, model, 1);
  Must(store.Commit());
  files.Arm({.kind = CallKind::kSyncDirectory});
  EXPECT_TRUE(FailsWith(store.Checkpoint().status(), StatusCode::kUnavailable, "directory"));
  EXPECT_TRUE(FailsWith(store.Upsert(1, 1), StatusCode::kUnavailable, "directory"));
}

TEST(CheckpointerTest, BackgroundCheckpointsComeWhenSomethingHasChanged) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.pool_threads = 1;
  Options options = TinyOptions();
  options.checkpoint_interval_ms = 100;
  options.durability = Durability::kManual;
  auto store = Must(OpenIn<U64Store>("db", environment, options));
  for (std::uint64_t n = 1; n < 3; ++n) {
    Must(store.Upsert(n, n));
    while (store.GetCheckpointStats().completed_count < n) std::this_thread::yield();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(350));
  EXPECT_EQ(store.GetCheckpointStats().completed_count, 2U);
  const auto after = files.Crash(kNothingSurvives);
  auto recovered = Must(OpenTiny<U64Store>("db", after.get()));
  EXPECT_EQ(recovered.recovery().checkpoint_id, 2U);
  EXPECT_EQ(Must(recovered.Read(2)), 2U);
}

TEST(CheckpointerTest, CloseWritesOneIfTheyAreAutomatic) {
  for (const std::uint32_t interval_ms : {0U, 3'600'000U}) {
    SimFileSystem files;
    U64Model model;
    Options options = TinyOptions();
    options.checkpoint_interval_ms = interval_ms;
    {
      auto store = Must(OpenIn<U64Store>("db", TinyEnvironment(&files), options));
      Fill(store, model, 1);
      Must(store.Close());
    }
    auto reopened = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_EQ(reopened.recovery().checkpoint_id, interval_ms == 0 ? 0U : 1U);
    EXPECT_EQ(reopened.recovery().replayed_records == 0, interval_ms != 0);
    EXPECT_TRUE(HoldsOnly(reopened, model, KeysUpTo(700)));
  }
}

TEST(CheckpointerTest, CallersShareAndCloseEndsOne) {
  SimFileSystem disk;
  FaultFileSystem files(disk);
  U64Model model;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  Fill(store, model, 1);
  files.Hold(CallKind::kRename);
  std::thread first([&] { Must(store.Checkpoint()); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kRename, 1));
  EXPECT_TRUE(store.GetCheckpointStats().in_progress);
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) others.emplace_back([&] { Must(store.Checkpoint()); });
  // Operations and commits continue during a checkpoint that hangs.
  Must(store.Upsert(1, model[1] = 5));
  Must(store.Commit());
  EXPECT_EQ(Must(store.Read(1)), 5U);
  files.Release(CallKind::kRename);
  first.join();
  for (std::thread& other : others) other.join();
  EXPECT_LE(store.GetCheckpointStats().completed_count, 3U);

  Must(store.Upsert(1, model[1] = 6));
  files.Hold(CallKind::kRename);
  std::thread last([&] { static_cast<void>(store.Checkpoint()); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kRename, 1));
  std::thread closer([&] { Must(store.Close()); });
  while (store.Read(1).ok()) std::this_thread::yield();
  files.Release(CallKind::kRename);
  last.join();
  closer.join();
  auto reopened = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_TRUE(HoldsOnly(reopened, model, KeysUpTo(700)));
}

// For all work that the parent's threads do, and all locks that they hold, at that moment.
TEST(CheckpointerTest, AForkedChildIsRejectedAtOnce) {
  const TempDir dir;
  FaultFileSystem files(internal::PosixFileSystem());
  auto store = Must(OpenTiny<U64Store>(dir / "db", &files));
  Must(store.Upsert(1, 1));
  files.Hold(CallKind::kRename);
  std::thread running([&] { Must(store.Checkpoint()); });
  ASSERT_TRUE(files.WaitUntilHeld(CallKind::kRename, 1));
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(10);  // a child that hangs is killed
    const bool refused = absl::IsFailedPrecondition(store.Commit()) &&
                         absl::IsFailedPrecondition(store.Checkpoint().status()) &&
                         absl::IsFailedPrecondition(store.CleanupCheckpoints(1).status()) &&
                         absl::IsFailedPrecondition(store.ForgetSession("a")) &&
                         absl::IsFailedPrecondition(store.Close());
    ::_exit(refused ? 0 : 1);
  }
  files.Release(CallKind::kRename);
  running.join();
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// Writers continue while checkpoints and commits follow each other; then the power fails. Each
// thread counts upwards on keys of its own, under a name.
TEST(CheckpointerTest, ACrashDuringCheckpointsLeavesEachSessionItsPrefix) {
  constexpr std::uint64_t kThreads = 3;
  constexpr std::uint64_t kKeys = 40;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    SimFileSystem files;
    internal::Environment environment = TinyEnvironment(&files);
    environment.pool_threads = seed % 2 == 0 ? 1 : 0;
    auto store = Must(OpenIn<U64Store>("db", environment));
    internal::Atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        auto session = Must(store.NewSession("s" + std::to_string(t)));
        while (!done.load(std::memory_order_acquire)) {
          const std::uint64_t next = session.serial() + 1;
          Must(session.Upsert(t * kKeys + next % kKeys, next));
        }
      });
    }
    std::unique_ptr<SimFileSystem> crash;
    std::thread committer([&] {
      while (!done.load(std::memory_order_acquire)) Must(store.Commit());
    });
    for (std::uint64_t i = 0; i < 4; ++i) {
      Must(store.Upsert(1000, i));
      Must(store.Checkpoint());
    }
    Must(store.Upsert(1000, 4));
    EXPECT_TRUE(Verifies(store));
    // In the middle of one.
    std::thread last([&] { Must(store.Checkpoint()); });
    crash = files.Crash(seed);
    last.join();
    done.store(true, std::memory_order_release);
    for (std::thread& thread : threads) thread.join();
    committer.join();

    EXPECT_TRUE(Verifies(*crash, "db"));
    auto recovered = Must(OpenTiny<U64Store>("db", crash.get()));
    EXPECT_TRUE(Verifies(recovered));
    EXPECT_GE(recovered.recovery().checkpoint_id, 3U);
    EXPECT_TRUE(recovered.recovery().notes.empty());
    for (const SessionReport& session : recovered.recovery().sessions) {
      const std::uint64_t t = std::stoull(session.name.substr(1));
      for (std::uint64_t key = 0; key < kKeys; ++key) {
        const std::uint64_t serial = session.serial;
        const std::uint64_t newest = serial - (serial - key) % kKeys;
        const bool ever = serial >= key && newest != 0;
        std::uint64_t value = 0;
        const absl::Status status = recovered.Read(t * kKeys + key, value);
        ASSERT_EQ(status.ok() ? value : 0, ever ? newest : 0)
            << "seed " << seed << ", session " << session.name << " at " << serial << ", key "
            << key << ", checkpoint " << recovered.recovery().checkpoint_id;
      }
    }
  }
}

}  // namespace
}  // namespace ebb::test
