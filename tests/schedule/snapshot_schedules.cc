// Scans, checkpoints and backups under schedules: sessions that act on two keys of one chain while
// a scan goes to its end, or a checkpoint or a backup is made, during commits, collections and
// power losses. Some stores have a frame count that is no power of two.
//
// Oracles. A scan shows each key at most once, with a value that it had while NewScan ran. A crash
// leaves a prefix of each session, with all updates covered by a commit, checkpoint or backup that
// had returned; so does a backup. All of it verifies.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>

#include "tests/schedule/store_program.h"

namespace ebb::test {
namespace {

using Kind = HistoryOp::Kind;

std::uint64_t SnapshotFrames(Random& random) {
  return random.Below(2) == 0 ? 8 : 9 + random.Below(4);
}

// Collects all of the log, once or twice, in one pass or about a page at a time.
void AddSnapshotCollector(Schedule& schedule, StoreProgram<std::string>& program) {
  Random& random = schedule.random();
  const std::uint64_t rounds = 1 + random.Below(2);
  const std::uint64_t pass_bytes = random.Below(2) == 0 ? 4096 : std::uint64_t{1} << 20;
  schedule.Add([&schedule, &program, rounds, pass_bytes] {
    for (std::uint64_t i = 0; i < rounds; ++i) {
      const absl::StatusOr<GcStats> stats = program.store().CollectGarbage(
          {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = pass_bytes});
      if (!stats.ok()) return schedule.Fail("no collection: " + stats.status().ToString());
      schedule.Count("passes", stats->pass_count);
      schedule.Count("entries removed", stats->removed_entries);
    }
  });
}

// Both keys exist, on the device; or each perhaps, in memory.
std::unique_ptr<SimFileSystem> SnapshotStore(bool on_device) {
  static const std::unique_ptr<SimFileSystem> empty = [] {
    auto files = std::make_unique<SimFileSystem>(false);
    Must(Must(OpenForSchedule<Store<std::uint64_t, std::string>>(files.get())).Close());
    return files->Kill();
  }();
  return on_device ? StoreWithKeysOnDevice() : empty->Kill();
}

void PrepareKeys(Schedule& schedule, StoreProgram<std::string>& program, bool on_device) {
  if (on_device) return AddKeysOnDevice(program);
  auto caller = program.NewCaller();
  for (std::size_t key = 0; key < kHistoryKeys; ++key) {
    if (schedule.random().Below(3) != 0) program.Do(caller, Kind::kUpsert, key);
  }
}

void ExpectVerified(StoreProgram<std::string>& program, Schedule& schedule) {
  if (schedule.failure().empty() && schedule.random().Below(4) == 0) {
    program.Verified(program.store().Verify());
  }
}

// ---- scans ----

void ScanBesideEverything(Schedule& schedule) {
  Random& random = schedule.random();
  const bool on_device = random.Below(3) == 0;
  StoreProgram<std::string> program(schedule, SnapshotStore(on_device), false, false,
                                    SnapshotFrames(random));
  if (!schedule.failure().empty()) return;
  PrepareKeys(schedule, program, on_device);
  // Half of them without updates: short, so that more of them meet between two given steps.
  const bool updates = random.Below(2) == 0;
  if (updates) AddSessions(schedule, program, 2, 1 + random.Below(2));
  AddSnapshotCollector(schedule, program);
  schedule.Add([&program, scans = updates ? 1 + random.Below(2) : 1] {
    auto caller = program.NewCaller();
    for (std::uint64_t i = 0; i < scans; ++i) program.Scan(caller);
  });
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  ExpectVerified(program, schedule);
}
TEST(SnapshotSchedules, AScanShowsEachKeyOnceAsItWasWhenItBegan) {
  Explored explored = Explore(4000, ScanBesideEverything);
  explored.ExpectPerSchedule("keys scanned", 1.0);
  explored.ExpectPerSchedule("passes", 1.0);
}

// ---- checkpoints ----

void CheckpointsBesideEverything(Schedule& schedule) {
  Random& random = schedule.random();
  const bool on_device = random.Below(3) == 0;
  StoreProgram<std::string> program(schedule, SnapshotStore(on_device),
                                    !on_device && random.Below(2) == 0, false,
                                    SnapshotFrames(random));
  if (!schedule.failure().empty()) return;
  PrepareKeys(schedule, program, on_device);
  if (on_device) program.CommitAll();
  AddSessions(schedule, program, 2, 2);
  schedule.Add([&program, &schedule, rounds = 1 + random.Below(2)] {
    for (std::uint64_t i = 0; i < rounds; ++i) {
      if (program.CheckpointAll()) program.Crash();
    }
    schedule.Count("checkpoints", program.store().ListCheckpoints().size());
  });
  switch (random.Below(3)) {
    case 0:
      AddSnapshotCollector(schedule, program);
      break;
    case 1:
      schedule.Add([&program] { program.CommitAndCrash(); });
      break;
    default:
      schedule.Add([&program] { program.Crash(); });
      break;
  }
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  ExpectVerified(program, schedule);
}
TEST(SnapshotSchedules, ACrashAfterACheckpointLeavesAPrefixOfEachSession) {
  Explored explored = Explore(800, CheckpointsBesideEverything);
  explored.ExpectPerSchedule("checkpoints", 1.0);
  explored.ExpectPerSchedule("crashes", 1.0);
}

// ---- backups ----

void BackupsBesideEverything(Schedule& schedule) {
  Random& random = schedule.random();
  const bool on_device = random.Below(3) == 0;
  StoreProgram<std::string> program(schedule, SnapshotStore(on_device),
                                    !on_device && random.Below(2) == 0, false,
                                    SnapshotFrames(random));
  if (!schedule.failure().empty()) return;
  PrepareKeys(schedule, program, on_device);
  if (on_device) program.CommitAll();
  AddSessions(schedule, program, 2, 2);
  schedule.Add([&program] { program.BackUp(); });
  if (random.Below(2) == 0) {
    AddSnapshotCollector(schedule, program);
  } else {
    schedule.Add([&program] { program.CommitAndCrash(); });
  }
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  ExpectVerified(program, schedule);
}
TEST(SnapshotSchedules, ABackupHoldsAPrefixOfEachSession) {
  Explored explored = Explore(500, BackupsBesideEverything);
  explored.ExpectPerSchedule("backups", 1.0);
}

// ---- frames ----

// Pages turn while keys are updated and commits follow each other, in fewer frames than places.
void TurningPagesInFewFrames(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<std::string> program(schedule, StoreWithKeysOnDevice(), false, false,
                                    9 + random.Below(4));
  if (!schedule.failure().empty()) return;
  AddKeysOnDevice(program);
  AddSessions(schedule, program, 2);
  schedule.Add([&, pages = 4 + random.Below(12)] {
    auto session = program.store().NewSession();
    for (std::uint64_t i = 0; i < pages; ++i) {
      schedule.Check(session.Upsert(kFirstFillKey, std::string(kFillBytes, ',')).ok(), "no fill");
      schedule.Check(session.Upsert(kFirstFillKey + 1, std::string(8, ',')).ok(), "no fill");
    }
  });
  schedule.Add([&program] { program.CommitAndCrash(); });
  if (random.Below(2) == 0) AddSnapshotCollector(schedule, program);
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  ExpectVerified(program, schedule);
}
TEST(SnapshotSchedules, KeysAreRegistersInFramesThatAreNoPowerOfTwo) {
  Explored explored = Explore(600, TurningPagesInFewFrames);
  explored.ExpectPerSchedule("crashes", 1.0);
}

}  // namespace
}  // namespace ebb::test
