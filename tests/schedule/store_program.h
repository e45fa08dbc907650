// Programs over whole stores: sessions that act at random on two keys of one chain, a history of
// their results, and power losses.
//
// Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ebb/internal/open/offline_verifier.h"
#include "ebb/store.h"
#include "tests/schedule/explore.h"
#include "tests/schedule/history.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/test_hash.h"

namespace ebb::test {

// Numbers of a history as values. As a string each digit is a character, so that an Rmw outgrows
// its record and an Upsert does not.
template <typename Value>
struct NumberAs;
template <>
struct NumberAs<std::uint64_t> {
  static std::uint64_t Make(std::uint64_t number) { return number; }
  static std::uint64_t Read(std::uint64_t value) { return value; }
  static void Append(std::uint64_t& value, std::uint64_t digit) { value = value << 4 | digit; }
};
template <>
struct NumberAs<std::string> {
  static std::string Make(std::uint64_t number) {
    char text[32];
    std::snprintf(text, sizeof text, "%llx", static_cast<unsigned long long>(number));
    return text;
  }
  static std::uint64_t Read(const std::string& value) {
    // Torn between its length and its bytes: the number of no operation.
    if (value.size() != std::strlen(value.c_str())) return ~std::uint64_t{0};
    return std::strtoull(value.c_str(), nullptr, 16);
  }
  static void Append(std::string& value, std::uint64_t digit) { value += Make(digit); }
};

// Key 0, whose bytes are all zero, and another whose hash agrees with its in the low 16 bits: they
// share a chain.
inline const std::array<std::uint64_t, kHistoryKeys>& ChainKeys() {
  static const std::array<std::uint64_t, kHistoryKeys> keys = [] {
    std::uint64_t other = 1;
    while (((TestHash(other) ^ TestHash(0)) & 0xffff) != 0) ++other;
    return std::array<std::uint64_t, kHistoryKeys>{0, other};
  }();
  return keys;
}

template <typename StoreType>
absl::StatusOr<StoreType> OpenForSchedule(internal::FileSystem* files, bool promotes = false,
                                          std::uint64_t frame_count = 8,
                                          const std::string& path = "db") {
  internal::Environment environment;
  environment.file_system = files;
  environment.in_memory = files == nullptr;
  environment.page_shift = 12;
  environment.frame_count = frame_count;
  environment.segment_blocks = 16;
  environment.index_exponent = 1;
  environment.pool_threads = 0;
  environment.hash_seed = internal::HashSeed{};
  Options options;
  options.write_batch_bytes = 4096;
  options.direct_io = false;
  options.huge_pages = false;
  options.index_auto_grow = false;
  options.promote_reads = promotes;
  return internal::StoreAccess::Open<StoreType>(path, options, environment);
}

template <typename Value>
class StoreProgram {
 public:
  using StoreType = Store<std::uint64_t, Value>;
  using Session = typename StoreType::Session;
  using Number = NumberAs<Value>;
  using Kind = HistoryOp::Kind;
  using Result = HistoryOp::Result;

  // `files`: null for a store in memory. `names`: whether sessions have names, so that the store
  // reports after a crash how far each had come.
  StoreProgram(Schedule& schedule, std::unique_ptr<SimFileSystem> files, bool names,
               bool promotes = false, std::uint64_t frame_count = 8)
      : schedule_(schedule), files_(std::move(files)), names_(names) {
    absl::StatusOr<StoreType> opened =
        OpenForSchedule<StoreType>(files_.get(), promotes, frame_count);
    if (opened.ok()) {
      store_.emplace(*std::move(opened));
    } else {
      schedule.Fail("no store: " + opened.status().ToString());
    }
  }

  // A session, and its number in the history.
  struct Caller {
    Session session;
    std::size_t number;
  };
  Caller NewCaller() {
    const std::size_t number = callers_++;
    if (!names_) return {store_->NewSession(), number};
    return {Must(store_->NewSession("caller" + std::to_string(number))), number};
  }

  StoreType& store() { return *store_; }
  History& history() { return history_; }
  SimFileSystem& files() { return *files_; }

  Kind RandomKind() {
    static constexpr Kind kKinds[] = {Kind::kRead,   Kind::kUpsert,         Kind::kRmw,
                                      Kind::kDelete, Kind::kInsert,         Kind::kUpsert,
                                      Kind::kRmw,    Kind::kCompareExchange};
    return kKinds[schedule_.random().Below(8)];
  }

  // Returns the operation's place in the history.
  std::size_t Do(Caller& caller, Kind kind, std::size_t key) {
    Session& session = caller.session;
    const std::uint64_t id = ChainKeys()[key];
    Value expected{};
    if (kind == Kind::kCompareExchange) static_cast<void>(session.Read(id, expected));
    const std::size_t place = history_.Begin(caller.number, kind, key);
    const std::uint64_t digit = history_.op(place).number;
    absl::Status status;
    std::uint64_t read = 0;
    switch (kind) {
      case Kind::kRead: {
        Value value{};
        status = session.Read(id, value);
        if (status.ok()) read = Number::Read(value);
        break;
      }
      case Kind::kUpsert:
        status = session.Upsert(id, Number::Make(digit));
        break;
      case Kind::kRmw:
        status = session.Rmw(id, [digit](Value& value) { Number::Append(value, digit); });
        break;
      case Kind::kDelete:
        status = session.Delete(id);
        break;
      case Kind::kInsert:
        status = session.InsertIfAbsent(id, Number::Make(digit));
        break;
      case Kind::kCompareExchange:
        read = Number::Read(expected);
        // As a string it outgrows a record made by Upsert.
        status = session.CompareExchange(id, expected, Number::Make(digit << 4 | digit));
        break;
    }
    history_.End(place, ResultOf(status), read);
    return place;
  }

  // A batch of updates of one kind, on these keys.
  void DoBatch(Caller& caller, Kind kind, const std::vector<std::size_t>& keys) {
    Session& session = caller.session;
    const std::uint64_t serial = session.serial();
    ++batches_;
    std::vector<std::size_t> places;
    std::vector<std::uint64_t> ids;
    std::vector<Value> values;
    for (const std::size_t key : keys) {
      places.push_back(history_.Begin(caller.number, kind, key));
      history_.SetBatch(places.back(), batches_);
      ids.push_back(ChainKeys()[key]);
      values.push_back(Number::Make(history_.op(places.back()).number));
    }
    std::vector<absl::Status> results(keys.size());
    if (kind == Kind::kUpsert) {
      const std::vector<typename Session::BatchValue> views(values.begin(), values.end());
      session.UpsertBatch(ids, views, results);
    } else if (kind == Kind::kDelete) {
      session.DeleteBatch(ids, results);
    } else {
      session.RmwBatch(
          ids,
          [&](std::size_t i, Value& value) {
            Number::Append(value, history_.op(places[i]).number);
          },
          results);
    }
    for (std::size_t i = 0; i < keys.size(); ++i) history_.End(places[i], ResultOf(results[i]));
    schedule_.Check(session.serial() == serial + keys.size(), "a batch took other serials");
  }

  // Begins an asynchronous update; the caller must make no other calls but CompletePending.
  void DoAsync(Caller& caller, Kind kind, std::size_t key) {
    Session& session = caller.session;
    const std::uint64_t id = ChainKeys()[key];
    const std::size_t place = history_.Begin(caller.number, kind, key);
    const std::uint64_t digit = history_.op(place).number;
    const auto done = [this, place](const absl::Status& status, std::uint64_t serial) {
      history_.End(place, ResultOf(status));
      history_.SetSerial(place, serial);
    };
    if (kind == Kind::kDelete) {
      session.DeleteAsync(id, done);
    } else if (kind == Kind::kInsert) {
      session.InsertIfAbsentAsync(id, Number::Make(digit), done);
    } else {
      session.RmwAsync(
          id, [digit](Value& value) { Number::Append(value, digit); }, done);
    }
    schedule_.Count("pending updates", session.pending_count());
  }

  absl::Status Commit() {
    if constexpr (requires(StoreType & store) { store.Commit(); }) {
      return store_->Commit();
    } else {
      return internal::StoreAccess::GetCoordinator(*store_).Commit();
    }
  }
  // A commit: operations that had ended before it survive any later power loss.
  bool CommitAll() {
    const History::Mask survives = history_.Ended();
    const absl::Status status = Commit();
    if (status.ok()) {
      survives_ |= survives;
    } else {
      schedule_.Fail("no commit: " + status.ToString());
    }
    return status.ok();
  }
  // A checkpoint, which is also a commit.
  bool CheckpointAll() {
    const History::Mask survives = history_.Ended();
    const absl::Status status = store_->Checkpoint().status();
    if (status.ok()) {
      survives_ |= survives;
    } else {
      schedule_.Fail("no checkpoint: " + status.ToString());
    }
    return status.ok();
  }
  // A backup: it holds the operations that had ended before, and none that began after it returned.
  void BackUp() {
    const History::Mask survives = history_.Ended();
    const std::string path = "copy" + std::to_string(crashes_.size());
    const absl::Status status = store_->Backup(path).status();
    if (!status.ok()) return schedule_.Fail("no backup: " + status.ToString());
    survives_ |= survives;
    const History::Mask begun = history_.Begun();
    std::unique_ptr<SimFileSystem> files = files_->Crash(schedule_.random().Next());
    crashes_.push_back(
        {.survives = survives, .begun = begun, .files = std::move(files), .path = path});
    schedule_.Count("backups", 1);
  }
  // A scan to its end. For the history it reads each key between the call of NewScan and its
  // return.
  void Scan(Caller& caller) {
    std::array<std::size_t, kHistoryKeys> places{};
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      places[key] = history_.Begin(caller.number, Kind::kRead, key);
    }
    auto scan = store_->NewScan();
    for (const std::size_t place : places) history_.End(place, Result::kNotFound);
    std::set<std::uint64_t> shown;
    while (scan.Next()) {
      if (!shown.insert(scan.key()).second) schedule_.Fail("a scan shows a key twice");
      for (std::size_t key = 0; key < kHistoryKeys; ++key) {
        if (scan.key() != ChainKeys()[key]) continue;
        history_.Amend(places[key], Result::kOk, Number::Read(Value(scan.value())));
        schedule_.Count("keys scanned", 1);
      }
    }
    if (!scan.status().ok()) schedule_.Fail("no scan: " + scan.status().ToString());
  }
  // A commit, and a power loss right after it.
  void CommitAndCrash() {
    if (CommitAll()) Crash();
  }
  // The state that a power loss now leaves behind is checked at the end.
  void Crash() {
    const History::Mask survives = survives_;
    // Others may act before this returns.
    std::unique_ptr<SimFileSystem> files = files_->Crash(schedule_.random().Next());
    crashes_.push_back(
        {.survives = survives, .begun = history_.Begun(), .files = std::move(files)});
  }

  KeyStates States(StoreType& store) {
    KeyStates states;
    Session session = store.NewSession();
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      Value value{};
      const absl::Status status = session.Read(ChainKeys()[key], value);
      if (status.ok()) states[key] = Number::Read(value);
      if (!status.ok() && !absl::IsNotFound(status)) schedule_.Fail(status.ToString());
    }
    return states;
  }
  // The state of the store after it was opened again from `files`.
  struct Reopened {
    KeyStates states;
    std::vector<std::uint64_t> serials;
  };
  std::optional<Reopened> Reopen(SimFileSystem& files, const std::string& path = "db") {
    if (schedule_.random().Below(8) == 0) {
      Schedule alone(1, 1, Schedule::Kind::kStraight);  // a verification has threads of its own
      alone.Add([&] { Verified(internal::VerifyFiles(files, path, {})); });
      alone.Run();
    }
    absl::StatusOr<StoreType> opened =
        OpenForSchedule<StoreType>(&files, /*promotes=*/false, /*frame_count=*/8, path);
    if (!opened.ok()) {
      schedule_.Fail("no store after a crash: " + opened.status().ToString());
      return std::nullopt;
    }
    Reopened reopened{.states = States(*opened), .serials = {}};
    for (std::size_t i = 0; names_ && i < history_.session_count(); ++i) {
      reopened.serials.push_back(Must(opened->NewSession("caller" + std::to_string(i))).serial());
    }
    return reopened;
  }

  // The store, or a directory, is as healthy as it should be.
  void Verified(const absl::StatusOr<VerifyReport>& report) {
    if (!report.ok()) return schedule_.Fail("no verification: " + report.status().ToString());
    for (const std::string& problem : report->problems) {
      schedule_.Fail("verification finds: " + problem);
    }
  }

  // The events that operations met.
  void Count() {
    const internal::Core& core = internal::StoreAccess::GetCore(*store_);
    const auto count = [&](const char* what, const internal::AtomicWord& word) {
      schedule_.Count(what, word.load(std::memory_order_relaxed));
    };
    count("waits for a record to freeze", core.counters.fuzzy_waits);
    count("lost publications", core.counters.failed_cas);
    count("reads of the device", core.reader.counters().device_reads);
  }

  // After the fibers have ended: the history explains the values of the keys now, and the state
  // that each crash left.
  void CheckHistory(const std::optional<KeyStates>& last) {
    if (!schedule_.failure().empty()) return;
    if (!history_.Explains(last)) {
      schedule_.Fail("no order explains" + history_.Describe() +
                     (last.has_value() ? "\nand" + DescribeStates(*last) : ""));
    }
    schedule_.Count("crashes", crashes_.size());
    for (const Crashed& crash : crashes_) {
      const std::optional<Reopened> after = Reopen(*crash.files, crash.path);
      if (!after.has_value()) return;
      if (after->states != last) schedule_.Count("crashes that took something", 1);
      const History::Crash left{.survives = crash.survives,
                                .begun = crash.begun,
                                .states = after->states,
                                .serials = after->serials};
      if (!history_.ExplainsCrash(last, left)) {
        char masks[64];
        std::snprintf(masks, sizeof masks, " (durable %x, begun %x), serials", crash.survives,
                      crash.begun);
        std::string serials;
        for (const std::uint64_t serial : after->serials) serials += " " + std::to_string(serial);
        return schedule_.Fail("no prefix explains a crash in" + history_.Describe() +
                              "\nthat left" + DescribeStates(after->states) + masks + serials);
      }
    }
  }

 private:
  struct Crashed {
    History::Mask survives;
    History::Mask begun;
    std::unique_ptr<SimFileSystem> files;
    std::string path = "db";
  };

  Result ResultOf(const absl::Status& status) {
    switch (status.code()) {
      case absl::StatusCode::kOk:
        return Result::kOk;
      case absl::StatusCode::kNotFound:
        return Result::kNotFound;
      case absl::StatusCode::kAlreadyExists:
        return Result::kAlreadyExists;
      case absl::StatusCode::kAborted:
        schedule_.Count("lost comparisons", 1);
        return Result::kAborted;
      case absl::StatusCode::kFailedPrecondition:
        return Result::kRefused;
      default:
        schedule_.Fail("an operation fails: " + status.ToString());
        return Result::kRefused;
    }
  }

  Schedule& schedule_;
  std::unique_ptr<SimFileSystem> files_;
  const bool names_;
  std::optional<StoreType> store_;
  History history_;
  std::size_t callers_ = 0;
  std::size_t batches_ = 0;
  History::Mask survives_ = 0;  // the operations made durable by the last commit
  std::vector<Crashed> crashes_;
};

// Sessions of `ops` operations on the first `keys` keys chosen at random, in fibers of their own.
template <typename Value>
void AddSessions(Schedule& schedule, StoreProgram<Value>& program, std::uint64_t ops,
                 std::uint64_t sessions = 2, std::size_t keys = kHistoryKeys) {
  for (std::uint64_t i = 0; i < sessions; ++i) {
    std::vector<std::pair<HistoryOp::Kind, std::size_t>> plan;
    for (std::uint64_t op = 0; op < ops; ++op) {
      const HistoryOp::Kind kind = program.RandomKind();
      plan.push_back({kind, schedule.random().Below(keys)});
    }
    schedule.Add([&program, plan] {
      auto caller = program.NewCaller();
      for (const auto& [kind, key] : plan) program.Do(caller, kind, key);
    });
  }
}

// A closed store whose keys are on the device alone: records of a page each lie above theirs.
inline constexpr std::uint64_t kFirstFillKey = 1000003;
inline constexpr std::size_t kFillBytes = 4000;
inline std::unique_ptr<SimFileSystem> StoreWithKeysOnDevice() {
  static const std::unique_ptr<SimFileSystem> closed = [] {
    auto files = std::make_unique<SimFileSystem>(false);
    auto store = Must(OpenForSchedule<Store<std::uint64_t, std::string>>(files.get()));
    auto session = Must(store.NewSession("caller0"));  // see AddKeysOnDevice
    for (std::size_t key = 0; key < kHistoryKeys; ++key) {
      Must(session.Upsert(ChainKeys()[key], NumberAs<std::string>::Make(key + 1)));
    }
    for (std::uint64_t i = 0; i < 10; ++i) {
      Must(store.Upsert(kFirstFillKey + i, std::string(kFillBytes, '.')));
    }
    Must(store.Close());
    return files->Kill();
  }();
  return closed->Kill();
}
// How its keys came there, for the history.
inline void AddKeysOnDevice(StoreProgram<std::string>& program) {
  const auto caller = program.NewCaller();
  for (std::size_t key = 0; key < kHistoryKeys; ++key) {
    History& history = program.history();
    history.End(history.Begin(caller.number, HistoryOp::Kind::kUpsert, key),
                HistoryOp::Result::kOk);
  }
}

}  // namespace ebb::test
