// Backups: a copy of a checkpoint that opens as a store and holds exactly the data of the
// checkpoint, during any other work, and nothing that opens when it was interrupted.
//
// features.md: Backup(directory) from a live store.
#include "ebb/internal/jobs/backup.h"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/open/offline_verifier.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

testing::AssertionResult Opens(const std::string& name, internal::FileSystem* files,
                               const U64Model& model) {
  auto store = OpenTiny<U64Store>(name, files);
  if (!store.ok()) return testing::AssertionFailure() << store.status();
  return HoldsOnly(*store, model, KeysUpTo(5000));
}

// A store over several files and incarnations, some of it only on the device.
U64Store FilledStore(internal::FileSystem& files, U64Model& model) {
  for (int life = 0; life < 3; ++life) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t i = 0; i < 4000; ++i) {
      Must(store.Upsert(i, model[i] = i + static_cast<std::uint64_t>(life)));
    }
    for (std::uint64_t i = 0; i < 4000; i += 7) {
      Must(store.Delete(i));
      model.erase(i);
    }
    Must(store.Close());
  }
  return Must(OpenTiny<U64Store>("db", &files));
}

TEST(BackupTest, OpensAsTheStoreThatItWasMadeOf) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  auto session = Must(store.NewSession("loader"));
  for (std::uint64_t i = 0; i < 10; ++i) Must(session.Upsert(i, model[i] = 77));
  std::vector<BackupProgress> steps;
  const BackupInfo info =
      Must(store.Backup("copy", [&](const BackupProgress& step) { steps.push_back(step); }));
  const U64Model copied = model;
  // Later updates are in the store and not in the copy.
  for (std::uint64_t i = 0; i < 5000; ++i) Must(store.Upsert(i, model[i] = 5));
  Must(store.Commit());

  EXPECT_EQ(info.checkpoint_id, store.ListCheckpoints().back().id);
  EXPECT_EQ(info.durable_address, store.ListCheckpoints().back().durable_address);
  EXPECT_FALSE(files.Exists("copy", internal::kUnfinishedBackupName));
  EXPECT_GT(info.file_count, 3U) << "several segments";
  ASSERT_FALSE(steps.empty());
  for (std::size_t i = 1; i < steps.size(); ++i) {
    EXPECT_GT(steps[i].copied_bytes, steps[i - 1].copied_bytes);
    EXPECT_EQ(steps[i].total_bytes, steps[0].total_bytes);
  }
  EXPECT_EQ(steps.back().copied_bytes, steps.back().total_bytes);
  EXPECT_EQ(steps.back().copied_bytes, info.size_bytes);

  auto copy = Must(OpenTiny<U64Store>("copy", &files));
  EXPECT_EQ(copy.recovery().checkpoint_id, info.checkpoint_id);
  EXPECT_EQ(copy.recovery().replayed_records, 0U) << "the image holds everything";
  EXPECT_TRUE(copy.recovery().notes.empty());
  EXPECT_EQ(copy.recovery().sessions, (std::vector<SessionReport>{{"loader", 10}}));
  EXPECT_TRUE(HoldsOnly(copy, copied, KeysUpTo(5000)));
  EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(5000)));
  // Each goes its own way.
  Must(copy.Upsert(1, 1));
  Must(copy.Checkpoint());
  Must(copy.Close());
  Must(store.Close());
  EXPECT_EQ(Must(Must(OpenTiny<U64Store>("copy", &files)).Read(1)), 1U);
  EXPECT_EQ(Must(Must(OpenTiny<U64Store>("db", &files)).Read(1)), 5U);
}

// The log alone is enough: without its checkpoint the copy is the same store.
TEST(BackupTest, HoldsTheWholeLog) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  Must(store.Upsert(1, model[1] = 9));
  const BackupInfo info = Must(store.Backup("copy"));
  const internal::OpenedDirectory directory = files.OpenDirectory("copy", false);
  ASSERT_EQ(directory.directory->Unlink(internal::ManifestName(info.checkpoint_id)), 0);
  ASSERT_EQ(directory.directory->Unlink(internal::ImageName(info.checkpoint_id)), 0);
  auto copy = Must(OpenTiny<U64Store>("copy", &files));
  EXPECT_EQ(copy.recovery().checkpoint_id, 0U);
  EXPECT_TRUE(HoldsOnly(copy, model, KeysUpTo(5000)));
}

TEST(BackupTest, OfAStoreThatHasNotChangedCopiesTheCheckpointThereIs) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  const CheckpointInfo checkpoint = Must(store.Checkpoint());
  EXPECT_EQ(Must(store.Backup("one")).checkpoint_id, checkpoint.id);
  EXPECT_EQ(Must(store.Backup("two")).checkpoint_id, checkpoint.id);
  const auto without_lock = [&](const std::string& name) {
    Snapshot snapshot = SnapshotOf(files, name);
    snapshot.erase("LOCK");
    return snapshot;
  };
  EXPECT_EQ(without_lock("one"), without_lock("two"));
  EXPECT_TRUE(Opens("two", &files, model));
}

TEST(BackupTest, AnEmptyStoreAndRealFilesToo) {
  const TempDir dir;
  auto store = Must(Store<>::Open(dir / "db", {.log_memory_bytes = 1 << 20}));
  std::filesystem::create_directory(dir / "copy");
  Must(store.Backup(dir / "copy"));
  EXPECT_FALSE(*Must(Store<>::Open(dir / "copy")).Contains("key"));
  Must(store.Upsert("key", "value"));
  Must(store.Backup(dir / "second"));
  EXPECT_EQ(*Must(Store<>::Open(dir / "second")).Read("key"), "value");
}

TEST(BackupTest, DirectoriesThatWillNotDoAreRejectedAndLeftAlone) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  auto other = Must(OpenTiny<U64Store>("other", &files));
  EXPECT_TRUE(FailsWith(store.Backup("").status(), StatusCode::kInvalidArgument));
  EXPECT_TRUE(FailsWith(store.Backup("db").status(), StatusCode::kFailedPrecondition, "open"));
  EXPECT_TRUE(FailsWith(store.Backup("other").status(), StatusCode::kFailedPrecondition, "open"));
  Must(other.Close());
  const Snapshot before = SnapshotOf(files, "other");
  EXPECT_TRUE(
      FailsWith(store.Backup("other").status(), StatusCode::kInvalidArgument, "is not empty"));
  EXPECT_EQ(SnapshotOf(files, "other"), before);
  EXPECT_EQ(store.GetCheckpointStats().completed_count, 0U) << "refused before anything is done";
  Must(store.Close());
  EXPECT_TRUE(FailsWith(store.Backup("copy").status(), StatusCode::kFailedPrecondition, "closed"));
  auto in_memory = Must(OpenTinyInMemory<U64Store>());
  EXPECT_TRUE(FailsWith(in_memory.Backup("copy").status(), StatusCode::kFailedPrecondition));
}

// ---- concurrent with others ----

// Writers commit, checkpoint and turn pages while backups are made. Each session increments its own
// key: its value in a copy is the serial that the copy states.
TEST(BackupTest, CopiesMadeUnderLoadAreWholeStates) {
  constexpr std::uint64_t kWriters = 2;
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> done[kWriters] = {};
  std::vector<std::thread> threads;
  for (std::uint64_t writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      auto session = Must(store.NewSession("writer" + std::to_string(writer)));
      while (!stop.load(std::memory_order_relaxed)) {
        Must(session.Rmw(writer, [](std::uint64_t& n) { ++n; }));
        Must(session.Upsert(100 + session.serial() % 1000, session.serial()));
        done[writer].store(session.serial() / 2, std::memory_order_release);
        if (session.serial() % 512 == 0) Must(store.Commit());
        if (session.serial() % 4096 == 0) Must(store.Checkpoint());
      }
    });
  }
  for (int i = 0; i < 6; ++i) {
    const std::string name = "copy" + std::to_string(i);
    std::uint64_t before[kWriters];
    while (done[0].load(std::memory_order_acquire) < 200U * static_cast<unsigned>(i)) {
      std::this_thread::yield();
    }
    for (std::uint64_t w = 0; w < kWriters; ++w)
      before[w] = done[w].load(std::memory_order_acquire);
    const BackupInfo info = Must(store.Backup(name));
    const VerifyReport report = Must(internal::VerifyFiles(files, name, {}));
    EXPECT_TRUE(report.ok()) << testing::PrintToString(report.problems);
    EXPECT_EQ(report.block_count, info.durable_address / kTinyPageBytes) << "and nothing later";
    auto copy = Must(OpenTiny<U64Store>(name, &files));
    for (const SessionReport& session : copy.recovery().sessions) {
      const std::uint64_t writer = session.name == "writer0" ? 0 : 1;
      EXPECT_EQ(Must(copy.Read(writer)), (session.serial + 1) / 2);
      EXPECT_GE(session.serial / 2, before[writer]);
    }
  }
  stop.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads) thread.join();
}

// While a backup stands still in the middle, commits continue and the checkpoint that it copies
// stays.
TEST(BackupTest, CommitsContinueAndCleanUpWaits) {
  SimFileSystem memory;
  FaultFileSystem files(memory);
  U64Model model;
  auto store = FilledStore(files, model);
  Must(store.Checkpoint());
  bool held = false;
  std::atomic<bool> cleaned{false};
  std::thread cleaner;
  Must(store.Backup("copy", [&](const BackupProgress&) {
    if (std::exchange(held, true)) return;
    cleaner = std::thread([&] {
      Must(store.Checkpoint());
      Must(store.CleanupCheckpoints(1));
      cleaned.store(true);
    });
    // Of another thread, since this one must not call the store.
    std::thread([&] {
      for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, 1));
      Must(store.Commit());
    }).join();
    EXPECT_FALSE(cleaned.load());
  }));
  cleaner.join();
  EXPECT_TRUE(Opens("copy", &files, model));
}

TEST(BackupTest, CloseEndsABackup) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  std::thread closer;
  bool begun = false;
  const absl::Status status = store
                                  .Backup("copy",
                                          [&](const BackupProgress&) {
                                            if (std::exchange(begun, true)) return;
                                            closer = std::thread([&] { Must(store.Close()); });
                                            while (!CoreOf(store).epochs.closed())
                                              std::this_thread::yield();
                                          })
                                  .status();
  closer.join();
  EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition, "closed"));
  EXPECT_TRUE(SnapshotOf(files, "copy").empty());
}

// ---- failures ----

TEST(BackupTest, ADamagedBlockIsNotCopied) {
  SimFileSystem files;
  U64Model model;
  auto store = FilledStore(files, model);
  Must(store.Checkpoint());
  const SimBytes bytes = files.Contents("db", SegmentFile(1));
  Overwrite(files, "db", SegmentFile(1), 5000,
            std::string(1, static_cast<char>(std::to_integer<int>(bytes[5000]) ^ 16)));
  EXPECT_TRUE(FailsWith(store.Backup("copy").status(), StatusCode::kDataLoss,
                        SegmentFile(1) + " at offset 4096"));
  EXPECT_TRUE(SnapshotOf(files, "copy").empty());
}

// A store of some blocks, with a checkpoint, so that all calls that follow are the backup's own.
U64Store SmallStore(internal::FileSystem& files, U64Model& model) {
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 1500; ++i) Must(store.Upsert(i, model[i] = i));
  Must(store.Checkpoint());
  return store;
}

enum class Left { kNothing, kMarked, kWhole };

// The remains of a backup into "copy": nothing at all, the whole copy, or a directory that Open
// rejects with a message that names the marker. Anything else fails the test: above all, a
// directory that opens as a new store.
Left CheckWhatIsLeft(SimFileSystem& files, const U64Model& model) {
  if (SnapshotOf(files, "copy").empty()) return Left::kNothing;
  auto copy = OpenTiny<U64Store>("copy", &files);
  if (!copy.ok()) {
    EXPECT_TRUE(
        FailsWith(copy.status(), StatusCode::kFailedPrecondition, internal::kUnfinishedBackupName));
    return Left::kMarked;
  }
  EXPECT_FALSE(copy->recovery().created) << "a partial copy was taken for a new store";
  EXPECT_TRUE(HoldsOnly(*copy, model, KeysUpTo(2000)));
  return Left::kWhole;
}

// Every call of a backup fails: it alone, or with all that follow; before or after its work. The
// store is none the worse, and a backup into the same directory works afterwards.
TEST(BackupTest, AFailedCallLeavesNothingThatOpens) {
  std::uint64_t fired = 0;
  std::uint64_t left_counts[3] = {};
  for (const bool sticky : {false, true}) {
    for (const Effect effect : {Effect::kError, Effect::kErrorAfter}) {
      for (std::uint64_t skip = 0;; ++skip) {
        if (!IsInSample(skip)) continue;
        SimFileSystem memory;
        FaultFileSystem files(memory);
        U64Model model;
        auto store = SmallStore(files, model);
        files.Arm({.skip = skip, .sticky = sticky, .effect = effect, .error = 28});  // ENOSPC
        const absl::Status status = store.Backup("copy").status();
        files.Disarm();
        if (files.FiredCount() == 0) {
          EXPECT_TRUE(status.ok());
          break;
        }
        ++fired;
        SCOPED_TRACE("call " + std::to_string(skip) + ", sticky " + std::to_string(sticky));
        const Left left = CheckWhatIsLeft(memory, model);
        ++left_counts[static_cast<int>(left)];
        if (left != Left::kWhole) {
          EXPECT_FALSE(status.ok());
          EXPECT_TRUE(store.Backup("copy").ok());
        }
        EXPECT_EQ(CheckWhatIsLeft(memory, model), Left::kWhole);
        Must(store.Backup("second"));
        EXPECT_TRUE(Opens("second", &files, model));
        Must(store.Upsert(3, model[3] = 4));
        Must(store.Commit());
        EXPECT_TRUE(HoldsOnly(store, model, KeysUpTo(2000)));
      }
    }
  }
  EXPECT_GT(fired, 120 / Stride());
  EXPECT_GT(left_counts[static_cast<int>(Left::kNothing)], 30 / Stride());
  EXPECT_GT(left_counts[static_cast<int>(Left::kMarked)], 30 / Stride());
}

// The callback throws at every one of its calls, and then power goes at every call of the removal.
TEST(BackupTest, AnExceptionOfTheCallbackLeavesNothingThatOpens) {
  std::uint64_t marked = 0;
  for (std::uint64_t step = 0;; ++step) {
    SimFileSystem files;
    U64Model model;
    auto store = SmallStore(files, model);
    std::uint64_t steps = 0;
    std::size_t thrown_at = 0;
    bool ok = false;
    try {
      ok = store
               .Backup("copy",
                       [&](const BackupProgress&) {
                         if (steps++ != step) return;
                         thrown_at = files.CallCount();
                         throw std::runtime_error("by the callback");
                       })
               .ok();
    } catch (const std::runtime_error&) {
    }
    if (thrown_at == 0) {
      EXPECT_TRUE(ok);
      EXPECT_GT(step, 2U);
      break;
    }
    EXPECT_FALSE(ok);
    EXPECT_EQ(CheckWhatIsLeft(files, model), Left::kNothing);
    const std::size_t end = files.CallCount();
    for (std::size_t call = thrown_at; call <= end; ++call) {
      for (std::uint64_t seed = 0; seed < 6; ++seed) {
        SCOPED_TRACE("call " + std::to_string(call) + ", seed " + std::to_string(seed));
        const std::unique_ptr<SimFileSystem> crashed = files.CrashAt(call, seed);
        const Left left = CheckWhatIsLeft(*crashed, model);
        EXPECT_NE(left, Left::kWhole);
        marked += left == Left::kMarked ? 1 : 0;
      }
    }
    Must(store.Backup("copy"));
    Must(store.Upsert(1, model[1] = 2));
    Must(store.Close());
  }
  EXPECT_GT(marked, 50U);
}

TEST(BackupTest, TwoBackupsIntoOneDirectoryExcludeEachOther) {
  SimFileSystem files;
  U64Model model;
  auto store = SmallStore(files, model);
  auto other = Must(OpenTiny<U64Store>("other", &files));
  absl::Status second;
  Must(store.Backup("copy", [&](const BackupProgress&) {
    if (second.ok()) second = other.Backup("copy").status();
    EXPECT_FALSE(OpenTiny<U64Store>("copy", &files).ok());
  }));
  EXPECT_TRUE(FailsWith(second, StatusCode::kFailedPrecondition, "in progress"));
  EXPECT_EQ(CheckWhatIsLeft(files, model), Left::kWhole);
}

// Nothing but a backup's own files is removed, marked or not.
TEST(BackupTest, AMarkedDirectoryWithOtherFilesIsLeftAlone) {
  SimFileSystem files;
  U64Model model;
  auto store = SmallStore(files, model);
  {
    const internal::OpenedDirectory directory = files.OpenDirectory("copy", true);
    for (const char* name : {internal::kUnfinishedBackupName, "log-00000000.ebb", "letters.txt"}) {
      EXPECT_EQ(directory.directory->Open(name, {.create = true}).error, 0);
    }
  }
  const Snapshot before = SnapshotOf(files, "copy");
  EXPECT_TRUE(FailsWith(store.Backup("copy").status(), StatusCode::kInvalidArgument,
                        "it holds letters.txt"));
  EXPECT_EQ(SnapshotOf(files, "copy"), before);
  ASSERT_EQ(files.OpenDirectory("copy", false).directory->Unlink("letters.txt"), 0);
  Must(store.Backup("copy"));
  EXPECT_EQ(CheckWhatIsLeft(files, model), Left::kWhole);
}

// Power goes at every call of a backup. Afterwards the copy is whole, or is rejected, or is an
// empty directory. A backup into that directory works.
TEST(BackupTest, APowerLossLeavesTheWholeCopyOrNothingThatOpens) {
  SimFileSystem files;
  U64Model model;
  auto store = SmallStore(files, model);
  const std::size_t first = files.CallCount();
  Must(store.Backup("copy"));
  const std::size_t last = files.CallCount();
  std::uint64_t left_counts[3] = {};
  for (std::size_t call = first; call <= last; ++call) {
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      if (!IsInSample(call * 12 + seed)) continue;
      SCOPED_TRACE("call " + std::to_string(call) + ", seed " + std::to_string(seed));
      const std::unique_ptr<SimFileSystem> crashed = files.CrashAt(call, seed);
      const Left left = CheckWhatIsLeft(*crashed, model);
      ++left_counts[static_cast<int>(left)];
      if (left == Left::kWhole || seed % 4 != 2) continue;
      Restore(SnapshotOf(*crashed, "copy"), files, "again");
      Must(store.Backup("again"));
      EXPECT_TRUE(Opens("again", &files, model));
    }
  }
  EXPECT_GT(left_counts[static_cast<int>(Left::kNothing)], 0U);
  EXPECT_GT(left_counts[static_cast<int>(Left::kMarked)], 100 / Stride());
  EXPECT_GT(left_counts[static_cast<int>(Left::kWhole)], 0U);
  // Once the call has returned it is there permanently.
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const std::unique_ptr<SimFileSystem> crashed = files.Crash(seed);
    EXPECT_TRUE(Opens("copy", crashed.get(), model));
  }
}

}  // namespace
}  // namespace ebb::test
