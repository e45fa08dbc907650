// Compaction under schedules: sessions that act on two keys of one chain while the front of the log
// is copied to its tail and released, during commits, and power losses at any time.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>

#include "tests/schedule/store_program.h"

namespace ebb::test {
namespace {

using Kind = HistoryOp::Kind;

// Everything in the log is collected once or twice, in one pass or about a page at a time.
template <typename Value>
void AddCollector(Schedule& schedule, StoreProgram<Value>& program) {
  Random& random = schedule.random();
  const std::uint64_t rounds = 1 + random.Below(2);
  const std::uint64_t pass_bytes = random.Below(2) == 0 ? 4096 : std::uint64_t{1} << 20;
  schedule.Add([&schedule, &program, rounds, pass_bytes] {
    for (std::uint64_t i = 0; i < rounds; ++i) {
      const absl::StatusOr<GcStats> stats = program.store().CollectGarbage(
          {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = pass_bytes});
      if (!stats.ok()) return schedule.Fail("no collection: " + stats.status().ToString());
      schedule.Count("passes", stats->pass_count);
      schedule.Count("records copied", stats->copied_records);
      schedule.Count("records dropped", stats->dropped_records);
      schedule.Count("entries removed", stats->removed_entries);
    }
  });
}
// A commit and a crash during it, or a crash at any time, or neither.
template <typename Value>
void AddCrashes(Schedule& schedule, StoreProgram<Value>& program) {
  switch (schedule.random().Below(4)) {
    case 0:
      schedule.Add([&program] { program.CommitAndCrash(); });
      break;
    case 1:
      schedule.Add([&program] { program.Crash(); });
      break;
    default:
      break;
  }
}

// ---- records in memory ----

template <typename Value>
std::unique_ptr<SimFileSystem> EmptyStore() {
  static const std::unique_ptr<SimFileSystem> closed = [] {
    auto files = std::make_unique<SimFileSystem>(false);
    Must(Must(OpenForSchedule<Store<std::uint64_t, Value>>(files.get())).Close());
    return files->Kill();
  }();
  return closed->Kill();
}

template <typename Value>
void CollectInMemory(Schedule& schedule) {
  Random& random = schedule.random();
  const bool on_files = random.Below(2) == 0;
  StoreProgram<Value> program(schedule, on_files ? EmptyStore<Value>() : nullptr,
                              on_files && random.Below(2) == 0);
  if (!schedule.failure().empty()) return;
  // Ends a block: less than one is not collected.
  const auto commit = [&] {
    if (on_files) {
      program.CommitAll();
    } else {
      Must(internal::StoreAccess::GetCoordinator(program.store()).Commit());
    }
  };
  {
    auto caller = program.NewCaller();
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      if (random.Below(4) != 0) program.Do(caller, Kind::kUpsert, key);
    }
    commit();
    if (random.Below(2) == 0) program.Do(caller, Kind::kDelete, random.Below(kHistoryKeys));
    if (random.Below(2) == 0) commit();
  }
  AddSessions(schedule, program, 2 + random.Below(2), 2 + random.Below(2));
  AddCollector(schedule, program);
  if (on_files) AddCrashes(schedule, program);
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  program.Count();
}
void ExpectThatCollectionsMeetUpdates(Explored explored) {
  explored.ExpectPerSchedule("passes", 0.5);
  explored.ExpectPerSchedule("records copied", 0.5);
  explored.ExpectPerSchedule("lost publications", 0.002);
}
TEST(CompactionSchedules, UnlockedValuesAreRegisters) {
  ExpectThatCollectionsMeetUpdates(Explore(20000, CollectInMemory<std::uint64_t>));
}
TEST(CompactionSchedules, LockedValuesAreRegisters) {
  ExpectThatCollectionsMeetUpdates(Explore(20000, CollectInMemory<std::string>));
}

// ---- records on the device ----

// The updates of the keys of a closed store: both were set, and those of `deleted` deleted.
std::unique_ptr<SimFileSystem> StoreOfGarbage(std::uint64_t deleted) {
  static std::array<std::unique_ptr<SimFileSystem>, 4> all;
  std::unique_ptr<SimFileSystem>& closed = all[deleted];
  if (closed == nullptr) {
    SimFileSystem files(false);
    auto store = Must(OpenForSchedule<Store<std::uint64_t, std::string>>(&files));
    const auto fill = [&](int pages) {
      for (int i = 0; i < pages; ++i) {
        Must(store.Upsert(kFirstFillKey, std::string(kFillBytes - i, '.')));
        Must(store.Commit());  // so that the next one is another record
      }
    };
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      Must(store.Upsert(ChainKeys()[key], NumberAs<std::string>::Make(key + 1)));
    }
    fill(2);
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      if ((deleted >> key & 1) != 0) Must(store.Delete(ChainKeys()[key]));
    }
    fill(8);
    Must(store.Upsert(kFirstFillKey, "."));
    Must(store.Close());
    closed = files.Kill();
  }
  return closed->Kill();
}

template <bool kPromotes>
void CollectFromDevice(Schedule& schedule) {
  Random& random = schedule.random();
  const std::uint64_t deleted = random.Below(4);
  StoreProgram<std::string> program(schedule, StoreOfGarbage(deleted), false, kPromotes);
  if (!schedule.failure().empty()) return;
  AddKeysOnDevice(program);
  const auto caller = program.NewCaller();
  for (std::size_t key = 0; key < kHistoryKeys; ++key) {
    if ((deleted >> key & 1) == 0) continue;
    History& history = program.history();
    history.End(history.Begin(caller.number, Kind::kDelete, key), HistoryOp::Result::kOk);
  }
  program.CommitAll();  // there is nothing to commit: it survives
  AddSessions(schedule, program, 2, 2 + random.Below(2));
  AddCollector(schedule, program);
  AddCrashes(schedule, program);
  schedule.Run();
  schedule.Count("records promoted", program.store().Metrics().promoted_records);
  program.CheckHistory(program.States(program.store()));
  program.Count();
}
// Reads append the records that they fetch from the device, during updates of the same keys, the
// collection of the records' old place, and crashes (hazard 48).
TEST(CompactionSchedules, KeysThatReadsPromoteAreRegisters) {
  Explored explored = Explore(20000, CollectFromDevice<true>);
  explored.ExpectPerSchedule("records promoted", 0.15);
  explored.ExpectPerSchedule("passes", 1.0);
}
TEST(CompactionSchedules, KeysOnTheDeviceAreRegisters) {
  Explored explored = Explore(20000, CollectFromDevice<false>);
  explored.ExpectPerSchedule("passes", 1.0);
  explored.ExpectPerSchedule("records copied", 0.5);
  explored.ExpectPerSchedule("reads of the device", 1.0);
  explored.ExpectPerSchedule("crashes", 0.2);
}

// A collection, or an estimate of the garbage, during Close: it ends before or is rejected.
void CollectBesideClose(Schedule& schedule) {
  StoreProgram<std::string> program(schedule, StoreOfGarbage(0), false);
  if (!schedule.failure().empty()) return;
  const auto check = [&schedule](const absl::Status& status) {
    schedule.Check(status.ok() || absl::IsFailedPrecondition(status),
                   "a collection beside Close fails");
    schedule.Count("collections refused", status.ok() ? 0 : 1);
  };
  const double target = schedule.random().Below(2) == 0 ? 1 : 0.01;
  schedule.Add([&, target] {
    check(program.store()
              .CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = target})
              .status());
  });
  schedule.Add([&] { check(program.store().EstimateGarbage().status()); });
  schedule.Add([&] { schedule.Check(program.store().Close().ok(), "no close"); });
  schedule.Run();
}
TEST(CompactionSchedules, CloseEndsACollection) {
  Explored explored = Explore(10000, CollectBesideClose);
  explored.ExpectPerSchedule("collections refused", 0.2);
}

}  // namespace
}  // namespace ebb::test
