// Crashes: every short workload, a power loss at every call of it, and each set of writes that may
// survive.
//
// A workload is a sequence of up to three steps, then a Close or not; all sequences are run. Each
// runs once on the simulated disk (sim_file_system.h), in a store of one-block pages, eight frames
// and files of four blocks. Each call that its last step made is a crash point; those before belong
// to a shorter workload. At each point a crash can keep or drop the unsynced names, sizes and
// sectors: all combinations where they are few; otherwise nothing, everything, single ones dropped
// or kept, and random ones. So sectors are torn, reordered and lost in any mixture.
//
// The surviving disk is opened and compared with an exact oracle. It is the state that some commit,
// checkpoint or close covers: not older than the last one that had returned, not newer than the one
// in progress; and the serials of two named sessions are exactly those of that state. Opening
// reports no damage, since there is none. Then it is written, closed and opened again. One crash in
// sixteen is also verified: the directory before it is opened, the store, and the directory after
// each Close. So is each store when its workload ends.
//
// Some of the openings are recorded in their turn, and interrupted at each of their calls: by a
// power loss, and as the second crash after a process died with unsynced data in the page cache.
// The next opening finds the same state. A second test does this after crashes that keep or drop
// whole blocks, names and sizes: all combinations where they are few. An opening depends on which
// blocks have survived, and less on how the others are torn.
//
// The step from a process's death to a power loss, that a reopened store is durable, is a step of
// workloads too (kKill). Counts are printed, and their minimums asserted.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using internal::Environment;
using Random = std::mt19937_64;
using Picks = std::vector<std::size_t>;

enum class Step {
  kUpserts,
  kRmws,
  kDeletes,
  kCommit,
  kCheckpoint,
  kCollect,
  kCollectAutomatically,
  kGrow,
  kReopen,
  kKill,
  kClose
};
constexpr Step kSteps[] = {
    Step::kUpserts,    Step::kRmws,    Step::kDeletes, Step::kCommit,
    Step::kCheckpoint, Step::kCollect, Step::kReopen,  Step::kCollectAutomatically,
    Step::kGrow,       Step::kKill};

const char* NameOf(Step step) {
  switch (step) {
    case Step::kUpserts:
      return "upserts ";
    case Step::kRmws:
      return "rmws ";
    case Step::kDeletes:
      return "deletes ";
    case Step::kCommit:
      return "commit ";
    case Step::kCheckpoint:
      return "checkpoint ";
    case Step::kCollect:
      return "collect ";
    case Step::kCollectAutomatically:
      return "collect-by-itself ";
    case Step::kGrow:
      return "grow ";
    case Step::kReopen:
      return "reopen ";
    case Step::kKill:
      return "kill ";
    case Step::kClose:
      return "close ";
  }
  return "?";
}

absl::StatusOr<LedgerStore> Open(SimFileSystem& files) {
  Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = 4;
  environment.open_files = 2;  // so that most segments are closed
  Options options = TinyOptions();
  options.preallocate_bytes = 0;  // or most calls would create files that stay empty
  return OpenIn<LedgerStore>("db", environment, options);
}

// ---- one run of a workload ----

class Run {
 public:
  // Opens a new store.
  Run() : files_(std::make_unique<SimFileSystem>()), store_(Must(Open(*files_))) {}

  void Do(Step step) {
    name_ += NameOf(step);
    switch (step) {
      case Step::kUpserts: {
        auto session = Must(ledger_.OpenSession(*store_, 0));
        return Must(ledger_.Upserts(session, 11));
      }
      case Step::kRmws: {
        auto session = Must(ledger_.OpenSession(*store_, 0));
        return Must(ledger_.Rmws(session, 3));
      }
      case Step::kDeletes: {
        auto session = Must(ledger_.OpenSession(*store_, 1));
        return Must(ledger_.Deletes(session, 2));
      }
      case Step::kCommit:
        return Promise([&] { return store_->Commit(); });
      case Step::kCheckpoint:
        return Promise([&] { return store_->Checkpoint().status(); });
      case Step::kCollect:
        return Collect();
      case Step::kCollectAutomatically:
        return CollectByItself();
      case Step::kGrow:
        return Must(store_->GrowIndex());
      case Step::kReopen:
        Promise([&] { return store_->Close(); });
        store_.reset();
        store_.emplace(Must(Open(*files_)));
        return;
      case Step::kKill:
        return Kill();
      case Step::kClose:
        return Promise([&] { return store_->Close(); });
    }
  }

  // The store as it is now, open or closed.
  void Verify() {
    const absl::StatusOr<VerifyReport> open = store_->Verify();
    const bool is_closed = absl::IsFailedPrecondition(open.status());
    EXPECT_TRUE(is_closed ? Verifies(*files_->Kill(), "db") : IsWhole(open)) << name_;
  }

  const SimFileSystem& files() const { return *files_; }
  const Ledger& ledger() const { return ledger_; }
  const std::string& name() const { return name_; }
  // Passes of collections that left it to others to commit.
  std::uint64_t shared_passes() const { return shared_passes_; }

  // After so many operations there was a commit that a crash after `calls` calls must, or can, have
  // kept; ascending.
  std::vector<std::size_t> Allowed(std::size_t calls) const {
    std::vector<std::size_t> allowed;
    for (const Promised& promised : promises_) {
      const bool returned = promised.returned <= calls;
      if (returned) allowed.clear();
      if (returned || promised.begun < calls) allowed.push_back(promised.operations);
    }
    return allowed;
  }

 private:
  // A commit of the first `operations` operations.
  struct Promised {
    std::size_t begun = 0;  // after so many calls
    std::size_t returned = 0;
    std::size_t operations = 0;
  };

  template <typename Call>
  void Promise(Call call) {
    const std::size_t begun = files_->CallCount();
    Must(call());
    promises_.push_back({begun, files_->CallCount(), ledger_.size()});
  }

  // Goes once through all of the log, some blocks at a time, each with a commit and a truncation.
  void Collect() {
    const std::size_t begun = files_->CallCount();
    const GcStats stats = Must(store_->CollectGarbage(
        {.min_reclaim_bytes = 0, .target_utilization = 1, .pass_bytes = 4 * 4096}));
    // With nothing in the log there is no commit.
    if (stats.pass_count != 0) promises_.push_back({begun, files_->CallCount(), ledger_.size()});
  }

  // As a background job does: the next commit states the collected part, and the next collection
  // releases it; unless the log is too long, which requires a commit.
  void CollectByItself() {
    const std::size_t begun = files_->CallCount();
    const std::uint64_t commits = store_->Metrics().commits;
    GcOptions options{.min_reclaim_bytes = 0, .target_utilization = 0.9, .pass_bytes = 4 * 4096};
    const GcStats stats = Must(internal::StoreAccess::GetCoordinator(*store_).CollectGarbage(
        options, internal::GarbageCollector::Pace::kAutomatic));
    if (store_->Metrics().commits != commits) {
      promises_.push_back({begun, files_->CallCount(), ledger_.size()});
    } else {
      shared_passes_ += stats.pass_count;
    }
  }

  // Uncommitted updates are undone, in the ledger too, when it is next written.
  void Kill() {
    std::unique_ptr<SimFileSystem> left = files_->Kill();
    store_.reset();
    files_ = std::move(left);
    promises_ = {{0, 0, promises_.back().operations}};
    ledger_.UndoTo(promises_.back().operations);
    store_.emplace(Must(Open(*files_)));
  }

  std::unique_ptr<SimFileSystem> files_;
  std::optional<LedgerStore> store_;
  Ledger ledger_;
  std::vector<Promised> promises_ = {{}};
  std::string name_;
  std::uint64_t shared_passes_ = 0;
};

// ---- the choices of a crash ----

// At most about `limit` crashes; every one if there are no more.
std::vector<Picks> ChooseCrashes(const std::vector<SimChange>& changes, std::size_t limit,
                                 Random& random) {
  const std::size_t count = changes.size();
  std::size_t combinations = 1;
  for (const SimChange& change : changes) {
    combinations = std::min(limit + 1, combinations * (change.count + 1));
  }
  std::vector<Picks> crashes;
  Picks nothing(count, 0);
  if (combinations <= limit) {
    for (std::size_t n = 0; n < combinations; ++n) {
      Picks picks = nothing;
      for (std::size_t i = 0, rest = n; i < count; rest /= changes[i].count + 1, ++i) {
        picks[i] = rest % (changes[i].count + 1);
      }
      crashes.push_back(std::move(picks));
    }
    return crashes;
  }
  Picks everything;
  for (const SimChange& change : changes) everything.push_back(change.count);
  crashes = {nothing, everything};

  // Single ones dropped and kept: names and sizes first, then random sectors.
  std::vector<std::size_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::stable_partition(order.begin(), order.end(),
                        [&](std::size_t i) { return changes[i].kind != SimChange::Kind::kSector; });
  for (const std::size_t i : order) {
    if (crashes.size() + 1 >= limit / 2) break;
    crashes.push_back(nothing);
    crashes.back()[i] = everything[i];
    crashes.push_back(everything);
    crashes.back()[i] = random() % everything[i];
  }
  while (crashes.size() < limit) {
    const std::uint64_t survival_percent = random() % 101;
    crashes.push_back(nothing);
    for (std::size_t i = 0; i < count; ++i) {
      if (random() % 100 < survival_percent) crashes.back()[i] = 1 + random() % everything[i];
    }
  }
  return crashes;
}

// About `limit` of the crashes that drop blocks, names and sizes, keep them, or, if `tears` is set,
// keep random sectors of a block.
std::vector<Picks> ChooseBlockCrashes(const std::vector<SimChange>& changes, std::size_t limit,
                                      bool tears, Random& random) {
  constexpr std::uint64_t kSectors = internal::kBlockBytes / kSectorBytes;
  const auto is_same_block = [](const SimChange& a, const SimChange& b) {
    return a.kind == SimChange::Kind::kSector && b.kind == a.kind && b.file == a.file &&
           b.sector / kSectors == a.sector / kSectors;
  };
  std::vector<SimChange> blocks;  // one choice each: 0 drops it, `count` keeps it
  std::vector<std::size_t> block_of;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    if (i == 0 || !is_same_block(changes[i - 1], changes[i])) {
      const bool can_tear = tears && changes[i].kind == SimChange::Kind::kSector;
      blocks.push_back({.kind = changes[i].kind, .count = can_tear ? 2u : 1u});
    }
    block_of.push_back(blocks.size() - 1);
  }
  std::vector<Picks> crashes;
  for (const Picks& choice : ChooseCrashes(blocks, limit, random)) {
    crashes.emplace_back();
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const std::size_t kept = choice[block_of[i]];
      const bool is_torn = kept != 0 && kept != blocks[block_of[i]].count;
      const bool drops = kept == 0 || (is_torn && random() % 2 == 0);
      crashes.back().push_back(drops ? 0 : changes[i].count);
    }
  }
  return crashes;
}

// ---- the recovered state ----

struct Counts {
  std::uint64_t workloads = 0;
  std::uint64_t shared_passes = 0;
  std::uint64_t points = 0;
  std::uint64_t crashes = 0;   // chosen
  std::uint64_t distinct = 0;  // of other contents than all before; opened and checked
  std::uint64_t newer = 0;     // that had the commit in progress
  std::uint64_t verified = 0;
  std::uint64_t recoveries = 0;
  std::uint64_t in_recovery = 0;  // crashes inside them
};

// Verifies the directory, in which there is no store yet if the crash came that early.
absl::Status StatusOfFiles(SimFileSystem& files) {
  const absl::StatusOr<VerifyReport> report = internal::VerifyFiles(files, "db", {});
  return absl::IsInvalidArgument(report.status()) ? absl::OkStatus() : StatusOf(report);
}

// The state found after so many operations, or a description of the error.
using Found = absl::StatusOr<std::size_t>;

// The state that the store is in, which must be one of `allowed`.
Found StateOf(LedgerStore& store, const Ledger& ledger, const std::vector<std::size_t>& allowed) {
  auto session = store.NewSession();
  const absl::StatusOr<Ledger::State> state = ReadLedger(session);
  if (!state.ok()) return state.status();
  std::string what = "none of the states that may come back";
  for (const std::size_t operations : allowed) {
    if (*state != ledger.After(operations)) continue;
    const testing::AssertionResult is = ledger.SerialsAre(store.recovery(), operations);
    if (is) return operations;
    what = is.message();
  }
  return absl::InternalError(what);
}

// Opens `disk`, checks it, and writes, closes, opens and checks it again; and verifies it in each
// of these states if `verifies` is set.
Found OpenAndGoOn(SimDisk disk, const Ledger& ledger, const std::vector<std::size_t>& allowed,
                  bool verifies) {
  SimFileSystem files(std::move(disk));
  const auto verify_files = [&] { return verifies ? StatusOfFiles(files) : absl::OkStatus(); };
  const auto verify = [&](LedgerStore& store) {
    return verifies ? StatusOf(store.Verify()) : absl::OkStatus();
  };
  if (absl::Status status = verify_files(); !status.ok()) return status;
  Found found(0);
  Ledger longer = ledger;
  {
    absl::StatusOr<LedgerStore> store = Open(files);
    if (!store.ok()) return store.status();
    found = StateOf(*store, ledger, allowed);
    if (!found.ok()) return found;
    if (absl::Status status = verify(*store); !status.ok()) return status;
    longer.UndoTo(*found);
    {
      auto session = longer.OpenSession(*store, 0);
      if (!session.ok()) return session.status();
      if (absl::Status status = longer.Rmws(*session, 2); !status.ok()) return status;
      if (absl::Status status = longer.Deletes(*session, 1); !status.ok()) return status;
    }
    if (absl::Status status = store->Close(); !status.ok()) return status;
  }
  if (absl::Status status = verify_files(); !status.ok()) return status;
  absl::StatusOr<LedgerStore> store = Open(files);
  if (!store.ok()) return store.status();
  if (Found again = StateOf(*store, longer, {longer.size()}); !again.ok()) return again;
  if (absl::Status status = verify(*store); !status.ok()) return status;
  if (absl::Status status = store->Close(); !status.ok()) return status;
  return found;
}

// Opens and checks.
Found OpenOnly(SimFileSystem& files, const Ledger& ledger,
               const std::vector<std::size_t>& allowed) {
  absl::StatusOr<LedgerStore> store = Open(files);
  if (!store.ok()) return store.status();
  return StateOf(*store, ledger, allowed);
}

class Explorer {
 public:
  Explorer(double scale, std::uint64_t seed)
      : crash_limit_(std::max<std::size_t>(4, static_cast<std::size_t>(kCrashesAPoint * scale))),
        verified_turn_(seed % kVerifyEvery),
        random_(seed) {}

  // Every point after `first_call` calls of the run.
  void Explore(const Run& run, std::size_t first_call) {
    ++counts_.workloads;
    counts_.shared_passes += run.shared_passes();
    ForEachPoint(run, first_call, [&](const SimDisk& disk, std::size_t call) {
      ++counts_.points;
      ExplorePoint(run, disk, call);
    });
  }

  // The recovery from each crash of whole blocks at each of these points.
  void ExploreRecoveries(const Run& run, std::size_t first_call) {
    ++counts_.workloads;
    ForEachPoint(run, first_call, [&](const SimDisk& disk, std::size_t call) {
      ++counts_.points;
      for (const Picks& picks : ChooseBlockCrashes(disk.UnsyncedChanges(), 32, false, random_)) {
        const SimDisk crashed = disk.Crash(picks);
        ++counts_.crashes;
        if (!seen_.insert(crashed.Hash()).second) continue;
        ++counts_.distinct;
        ExploreRecovery(run, crashed, call, [&](const std::vector<SimChange>& changes) {
          return ChooseBlockCrashes(changes, 12, true, random_);
        });
      }
    });
  }

  const Counts& counts() const { return counts_; }
  bool failed() const { return failures_ >= 5; }

 private:
  static constexpr double kCrashesAPoint = 330;
  static constexpr std::uint64_t kRecoveryEvery = 150;
  static constexpr std::uint64_t kVerifyEvery = 16;

  using Choose = std::function<std::vector<Picks>(const std::vector<SimChange>&)>;

  // Calls `explore` with the disk as it was after so many calls.
  template <typename Explore>
  void ForEachPoint(const Run& run, std::size_t first_call, Explore explore) {
    SimDisk disk = run.files().DiskAt(first_call);
    for (std::size_t call = first_call; call <= run.files().CallCount(); ++call) {
      // Nothing has changed since the end of the workload that is shorter by the last step.
      if (call == first_call && call != 0) continue;
      if (call > 0) disk.Apply(run.files().Call(call - 1));
      explore(disk, call);
      if (failures_ >= 5) return;
    }
  }

  void ExplorePoint(const Run& run, const SimDisk& disk, std::size_t call) {
    const std::vector<std::size_t> allowed = run.Allowed(call);
    const auto choose = [&](const std::vector<SimChange>& changes) {
      return ChooseCrashes(changes, 5, random_);
    };
    for (const Picks& picks : ChooseCrashes(disk.UnsyncedChanges(), crash_limit_, random_)) {
      SimDisk crashed = disk.Crash(picks);
      ++counts_.crashes;
      if (!seen_.insert(crashed.Hash()).second) continue;
      ++counts_.distinct;
      if (counts_.distinct % kRecoveryEvery == 0) {
        ExploreRecovery(run, crashed, call, choose);
      }
      // Which ones depends on the seed.
      const bool verifies = counts_.distinct % kVerifyEvery == verified_turn_;
      counts_.verified += verifies ? 1 : 0;
      const Found found = OpenAndGoOn(std::move(crashed), run.ledger(), allowed, verifies);
      if (!found.ok()) {
        Fail(run, call, picks, found.status());
      } else if (*found != allowed.front()) {
        ++counts_.newer;
      }
    }
    if (counts_.points % 12 == 0) ExploreRecovery(run, disk, call, choose);
  }

  // Opens `disk`, with its unsynced data, and crashes at each call that this makes.
  void ExploreRecovery(const Run& run, const SimDisk& disk, std::size_t call,
                       const Choose& choose) {
    ++counts_.recoveries;
    SimFileSystem files(disk);
    const std::vector<std::size_t> allowed = run.Allowed(call);
    Found opened(0);
    std::size_t call_count = 0;
    {
      absl::StatusOr<LedgerStore> store = Open(files);
      call_count = files.CallCount();
      opened = store.ok() ? StateOf(*store, run.ledger(), allowed) : Found(store.status());
    }
    if (!opened.ok()) return Fail(run, call, {}, opened.status());
    // Once an opening has returned, the state that it shows is durable. Before, data that was in
    // the cache only can still get lost.
    const std::vector<std::size_t> shown = {*opened};
    const bool was_durable = disk.UnsyncedChanges().empty();
    SimDisk now = disk;
    for (std::size_t i = 1; i <= call_count; ++i) {
      now.Apply(files.Call(i - 1));
      for (const Picks& picks : choose(now.UnsyncedChanges())) {
        SimFileSystem crashed(now.Crash(picks));
        ++counts_.in_recovery;
        const Found found =
            OpenOnly(crashed, run.ledger(), was_durable || i == call_count ? shown : allowed);
        if (!found.ok()) return Fail(run, call, picks, found.status(), static_cast<int>(i));
      }
    }
  }

  void Fail(const Run& run, std::size_t call, const Picks& picks, const absl::Status& status,
            int recovery_call = 0) {
    ++failures_;
    ADD_FAILURE() << status << "\n  workload: " << run.name() << "\n  crash after call " << call
                  << (recovery_call == 0 ? std::string()
                                         : ", then after call " + std::to_string(recovery_call) +
                                               " of the recovery")
                  << ", survivors " << testing::PrintToString(picks);
  }

  const std::size_t crash_limit_;
  const std::uint64_t verified_turn_;
  Random random_;
  Counts counts_;
  std::unordered_set<std::uint64_t> seen_;
  int failures_ = 0;
};

// All sequences of at most three steps.
std::vector<std::vector<Step>> Workloads() {
  std::vector<std::vector<Step>> workloads = {{}};
  for (std::size_t i = 0; i < workloads.size() && workloads[i].size() < 3; ++i) {
    for (const Step step : kSteps) {
      workloads.push_back(workloads[i]);
      workloads.back().push_back(step);
    }
  }
  return workloads;
}

// Calls `explore` with the run, and the number of its calls before the last step.
template <typename Explore>
void RunWorkload(const std::vector<Step>& steps, bool closes, Explore explore) {
  Run run;
  std::size_t first_call = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    first_call = run.files().CallCount();
    run.Do(steps[i]);
    // The calls of a recovery after a kill are counted from zero again.
    if (steps[i] == Step::kKill) first_call = 0;
  }
  if (closes) {
    first_call = run.files().CallCount();
    run.Do(Step::kClose);
  }
  run.Verify();
  explore(run, first_call);
}

TEST(CrashTest, APowerLossAtAnyCallOfAnyShortWorkloadLeavesACommittedState) {
  const auto start = std::chrono::steady_clock::now();
  Explorer explorer(Scale(), Seed());
  // Under sanitizers, a part of the workloads: they take minutes without crashes.
  const double share = Scale() < kShortScale ? 2 * Scale() : 1;
  std::mt19937_64 random(Seed());
  const std::vector<std::vector<Step>> workloads = Workloads();
  for (const std::vector<Step>& steps : workloads) {
    for (const bool closes : {false, true}) {
      const bool is_chosen = static_cast<double>(random() % 1000) < 1000 * share;
      if (!is_chosen || explorer.failed()) continue;
      RunWorkload(steps, closes, [&](const auto& run, std::size_t first_call) {
        explorer.Explore(run, first_call);
      });
    }
  }
  const Counts& counts = explorer.counts();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "%llu workloads, %llu crash points, %llu crashes, %llu distinct ones opened (%llu with the "
      "commit under way, %llu verified), %llu recoveries interrupted by %llu crashes, %llu passes "
      "without a "
      "commit of their own, %.1f s\n",
      static_cast<unsigned long long>(counts.workloads),
      static_cast<unsigned long long>(counts.points),
      static_cast<unsigned long long>(counts.crashes),
      static_cast<unsigned long long>(counts.distinct),
      static_cast<unsigned long long>(counts.newer),
      static_cast<unsigned long long>(counts.verified),
      static_cast<unsigned long long>(counts.recoveries),
      static_cast<unsigned long long>(counts.in_recovery),
      static_cast<unsigned long long>(counts.shared_passes), seconds.count());
  const auto scaled = [&](double least) {
    return static_cast<std::uint64_t>(least * share * std::min(1.0, Scale()));
  };
  EXPECT_GE(counts.distinct, scaled(150000));
  EXPECT_GE(counts.newer, scaled(500));
  EXPECT_GE(counts.in_recovery, scaled(50000));
  EXPECT_GE(counts.shared_passes, share < 1 ? 0U : 50U);
}

TEST(CrashTest, AnotherPowerLossInsideAnyRecoveryChangesNothing) {
  Explorer explorer(1, Seed());
  const double share = std::min(1.0, (Scale() < kShortScale ? 1 : 2) * Scale());
  std::mt19937_64 random(Seed());
  for (const std::vector<Step>& steps : Workloads()) {
    const bool is_chosen = static_cast<double>(random() % 1000) < 1000 * share;
    if (!is_chosen || explorer.failed()) continue;
    RunWorkload(steps, false, [&](const auto& run, std::size_t first_call) {
      explorer.ExploreRecoveries(run, first_call);
    });
  }
  const Counts& counts = explorer.counts();
  std::printf("%llu workloads, %llu points, %llu recoveries interrupted by %llu crashes\n",
              static_cast<unsigned long long>(counts.workloads),
              static_cast<unsigned long long>(counts.points),
              static_cast<unsigned long long>(counts.recoveries),
              static_cast<unsigned long long>(counts.in_recovery));
  // Workloads differ much: twenty of them, as under sanitizers, may have few recoveries.
  const double least = Scale() < kShortScale ? 0 : share;
  EXPECT_GT(counts.recoveries, static_cast<std::uint64_t>(3000 * least));
  EXPECT_GT(counts.in_recovery, static_cast<std::uint64_t>(60000 * least));
}

}  // namespace
}  // namespace ebb::test
