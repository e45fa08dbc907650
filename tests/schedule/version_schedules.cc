// Versions under schedules: sessions that act on two keys of one chain while the store commits, and
// while it closes.
#include <gtest/gtest.h>

#include "tests/schedule/store_program.h"

namespace ebb::test {
namespace {

using Kind = HistoryOp::Kind;

// A store that was made and closed, so that a schedule need not make one.
template <typename Value>
std::unique_ptr<SimFileSystem> ClosedStore() {
  static const std::unique_ptr<SimFileSystem> closed = [] {
    auto files = std::make_unique<SimFileSystem>(false);
    Must(Must(OpenForSchedule<Store<std::uint64_t, Value>>(files.get())).Close());
    return files->Kill();
  }();
  return closed->Kill();
}

// Two or three sessions, two to four operations each, and a committer of one or two commits.
template <typename Value>
void Commits(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<Value> program(schedule, ClosedStore<Value>(), random.Below(4) != 0);
  if (!schedule.failure().empty()) return;
  {
    auto caller = program.NewCaller();
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      if (random.Below(2) == 0) program.Do(caller, Kind::kUpsert, key);
    }
  }
  const std::uint64_t sessions = 2 + random.Below(2);
  const std::uint64_t ops = sessions == 2 ? 2 + random.Below(3) : 2;
  AddSessions(schedule, program, ops, sessions);
  const std::uint64_t commits = 1 + random.Below(2);
  schedule.Add([&program, commits] {
    for (std::uint64_t i = 0; i < commits; ++i) program.CommitAndCrash();
  });
  if (random.Below(4) == 0) schedule.Add([&program] { program.Crash(); });  // at any time
  schedule.Run();

  const KeyStates last = program.States(program.store());
  program.CheckHistory(last);
  program.Count();
  if (random.Below(4) != 0 || !schedule.failure().empty()) return;
  schedule.Check(program.store().Close().ok(), "no close");
  const std::unique_ptr<SimFileSystem> files = program.files().Crash(kNothingSurvives);
  const auto after = program.Reopen(*files);
  schedule.Check(after.has_value() && after->states == last, "closing has not kept everything");
}
void ExpectThatCommitsMeetUpdates(Explored explored) {
  explored.ExpectPerSchedule("crashes", 1.0);
  explored.ExpectPerSchedule("crashes that took something", 0.2);
  explored.ExpectPerSchedule("waits for a record to freeze", 0.05);
  explored.ExpectPerSchedule("lost publications", 0.002);
}
TEST(VersionSchedules, CommitsDuringUpdatesInPlace) {
  ExpectThatCommitsMeetUpdates(Explore(60000, Commits<std::uint64_t>));
}
TEST(VersionSchedules, CommitsDuringUpdatesThatOutgrowTheirRecords) {
  ExpectThatCommitsMeetUpdates(Explore(40000, Commits<std::string>));
}

// The same while a third session fills one page after the other: records leave memory, and come
// back from the device.
void CommitsDuringPageTurns(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<std::string> program(schedule, StoreWithKeysOnDevice(), false);
  if (!schedule.failure().empty()) return;
  AddKeysOnDevice(program);
  AddSessions(schedule, program, 1 + random.Below(3));
  const std::uint64_t pages = 2 + random.Below(8);
  schedule.Add([&] {
    auto session = program.store().NewSession();
    for (std::uint64_t i = 0; i < pages; ++i) {
      schedule.Check(session.Upsert(kFirstFillKey, std::string(kFillBytes, ',')).ok(), "no fill");
      schedule.Check(session.Upsert(kFirstFillKey + 1, std::string(8, ',')).ok(), "no fill");
    }
  });
  schedule.Add([&] { program.CommitAndCrash(); });
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  program.Count();
}
TEST(VersionSchedules, CommitsDuringPageTurns) {
  Explored explored = Explore(20000, CommitsDuringPageTurns);
  explored.ExpectPerSchedule("crashes", 1.0);
  explored.ExpectPerSchedule("reads of the device", 1.0);
}

// Batches and asynchronous updates while the store commits. At first both keys are on the device,
// or one is in memory.
void CommitsBesideUpdatesInFlight(Schedule& schedule) {
  Random& random = schedule.random();
  StoreProgram<std::string> program(schedule, StoreWithKeysOnDevice(), /*names=*/true);
  if (!schedule.failure().empty()) return;
  AddKeysOnDevice(program);
  if (random.Below(4) != 0) {
    auto caller = program.NewCaller();
    program.Do(caller, Kind::kUpsert, random.Below(kHistoryKeys));
  }
  const auto random_kind = [&random](Kind other) {
    return random.Below(3) == 0 ? other : random.Below(2) == 0 ? Kind::kDelete : Kind::kRmw;
  };
  std::vector<std::pair<Kind, std::vector<std::size_t>>> batches(1 + random.Below(2));
  for (auto& [kind, keys] : batches) {
    kind = random_kind(Kind::kUpsert);
    keys.resize(2 + random.Below(2));
    for (std::size_t& key : keys) key = random.Below(kHistoryKeys);
  }
  schedule.Add([&program, batches] {
    auto caller = program.NewCaller();
    for (const auto& [kind, keys] : batches) program.DoBatch(caller, kind, keys);
  });
  std::vector<std::pair<Kind, std::size_t>> updates(2 + random.Below(2));
  for (auto& [kind, key] : updates) {
    kind = random_kind(Kind::kInsert);
    key = random.Below(kHistoryKeys);
  }
  schedule.Add([&program, updates] {
    auto caller = program.NewCaller();
    for (const auto& [kind, key] : updates) program.DoAsync(caller, kind, key);
    caller.session.CompletePending();
  });
  const std::uint64_t commits = 1 + random.Below(2);
  schedule.Add([&program, commits] {
    for (std::uint64_t i = 0; i < commits; ++i) program.CommitAndCrash();
  });
  if (random.Below(4) == 0) schedule.Add([&program] { program.Crash(); });
  schedule.Run();
  program.CheckHistory(program.States(program.store()));
  program.Count();
}
TEST(VersionSchedules, CommitsDuringBatchesAndAsynchronousUpdates) {
  Explored explored = Explore(1000, CommitsBesideUpdatesInFlight);
  explored.ExpectPerSchedule("crashes", 1.0);
  explored.ExpectPerSchedule("crashes that took something", 0.05);
  explored.ExpectPerSchedule("pending updates", 0.1);
  explored.ExpectPerSchedule("reads of the device", 0.5);
}

}  // namespace
}  // namespace ebb::test
