#include "tests/simulation/life.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <coroutine>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "ebb/internal/open/offline_verifier.h"
#include "ebb/store.h"
#include "tests/schedule/scheduler.h"
#include "tests/simulation/register.h"
#include "tests/support/allocation_scope.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/test_hash.h"

namespace ebb::test {
namespace {

using Kind = Call::Kind;
using Result = Call::Result;

constexpr std::size_t kSessions = 6;  // of clients, and the director's
constexpr std::size_t kDirector = kSessions - 1;
using States = std::array<std::uint64_t, kSimKeys>;

// Keys that share chains in an index of two buckets, the first three even their tags.
const std::array<std::uint64_t, kSimKeys>& Keys() {
  static const std::array<std::uint64_t, kSimKeys> keys = [] {
    std::array<std::uint64_t, kSimKeys> found{};
    std::uint64_t next = 1;
    for (std::size_t i = 1; i < kSimKeys; ++i, ++next) {
      while (i < 3 && ((TestHash(next) ^ TestHash(0)) & 0xffff) != 0) ++next;
      found[i] = next;
    }
    return found;
  }();
  return keys;
}

// The key of this place in Keys(), or after them the one whose values are not followed.
template <typename Key>
const Key& IdOf(std::size_t place) {
  static const std::array<Key, kSimKeys + 1> ids = [] {
    std::array<Key, kSimKeys + 1> made{};
    for (std::size_t i = 0; i <= kSimKeys; ++i) {
      const std::uint64_t key = i < kSimKeys ? Keys()[i] : 1000000007;
      if constexpr (std::is_same_v<Key, std::string>) {
        made[i] = (i % 2 == 0 ? "even" : "odd") + std::string(i * i, '-') + std::to_string(key);
      } else {
        made[i] = key;
      }
    }
    return made;
  }();
  return ids[place];
}

// ---- values ----

constexpr std::uint64_t kWrong = kNoTime - 1;  // the number of a value that no call has written

template <typename Value>
struct Numbered;
template <>
struct Numbered<std::uint64_t> {
  static std::uint64_t Make(std::size_t, std::uint64_t number, std::uint64_t) { return number; }
  static std::uint64_t Number(std::size_t, std::uint64_t value) { return value; }
};
template <>
struct Numbered<std::string> {
  static std::string Make(std::size_t key, std::uint64_t number, std::uint64_t random) {
    char head[48];
    std::snprintf(head, sizeof head, "%llu.%zu:", static_cast<unsigned long long>(number), key);
    static constexpr std::uint64_t kSizes[] = {0, 0, 9, 40, 40, 200, 900, 3900};
    std::uint64_t size = kSizes[random % 8];
    size -= size == 0 ? 0 : random / 8 % (size / 2);
    return head + std::string(size, Fill(number));
  }
  static std::uint64_t Number(std::size_t key, std::string_view value) {
    if (value.empty()) return 0;  // that an Rmw begins with
    const std::string text(value);
    unsigned long long number = 0;
    std::size_t of_key = 0;
    int head = 0;
    if (std::sscanf(text.c_str(), "%llu.%zu:%n", &number, &of_key, &head) != 2 || head == 0 ||
        of_key != key ||
        text.find_first_not_of(Fill(number), static_cast<std::size_t>(head)) != text.npos) {
      return kWrong;
    }
    return number;
  }
  static char Fill(std::uint64_t number) { return static_cast<char>('a' + number % 26); }
};

// ---- memory that cannot be had ----

std::uint64_t g_memory_fails_of_64 = 0;
Random g_memory_coins(1);
bool MemoryFails() { return g_memory_coins.Below(64) < g_memory_fails_of_64; }

// ---- a life ----

// The state that a power loss left, and the states that it may leave.
struct Snapshot {
  std::unique_ptr<SimFileSystem> files;
  std::string path = "db";
  const char* by = "a power loss";
  std::uint64_t time = kNoTime;            // of the history
  std::vector<std::uint64_t> floors = {};  // that were durable, of each session
};
// What an opening found.
struct Found {
  States states{};
  std::vector<std::uint64_t> serials;
};

// A coroutine that no one waits for.
struct Detached {
  struct promise_type {
    static void* operator new(std::size_t bytes) {
      const OutsideLibrary outside;
      return ::operator new(bytes);
    }
    static void operator delete(void* frame) { ::operator delete(frame); }
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::abort(); }
  };
};

template <typename Key, typename Value>
class Life {
 public:
  using StoreType = Store<Key, Value>;
  using Session = typename StoreType::Session;
  using Values = Numbered<Value>;

  Life(const Plan& plan, std::uint64_t order, LifeResult& result)
      : plan_(plan), order_(order), result_(result), disk_(std::make_unique<SimFileSystem>()) {
    found_.serials.assign(kSessions, 0);
  }

  void Run() {
    for (const Opening& opening : plan_.openings) {
      if (!RunOpening(opening)) return;
    }
  }

 private:
  // ---- schedules ----

  // Runs `director` and the fibers that it starts.
  bool InSchedule(std::uint64_t seed, Schedule::Kind kind, const std::function<void()>& director) {
    Schedule schedule(seed, /*expected_steps=*/20000, kind);
    schedule_ = &schedule;
    schedule.Add([&] {
      const OutsideLibrary outside;
      director();
    });
    schedule.Run();
    schedule_ = nullptr;
    result_.steps += schedule.steps();
    result_.virtual_ns += VirtualNs();
    result_.trace = result_.trace * 31 + schedule.trace();
    for (const auto& [what, count] : schedule.counts()) result_.counts[what] += count;
    if (result_.failure.empty()) result_.failure = schedule.failure();
    return result_.failure.empty();
  }
  void Fail(const std::string& what) { schedule_->Fail(what); }
  static const Key& Id(std::size_t key) { return IdOf<Key>(key); }

  absl::StatusOr<StoreType> Open(internal::FileSystem& files, const std::string& path) {
    internal::Environment environment;
    environment.file_system = &files;
    environment.page_shift = 12;
    environment.frame_count = plan_.frame_count;
    environment.segment_blocks = plan_.segment_blocks;
    environment.index_exponent = plan_.index_exponent;
    environment.pool_threads = plan_.pool_threads;
    environment.hash_seed = internal::HashSeed{};
    return Inside(
        [&] { return internal::StoreAccess::Open<StoreType>(path, plan_.options, environment); });
  }

  // ---- one opening ----

  bool RunOpening(const Opening& opening) {
    calls_.clear();
    snapshots_.clear();
    disturbed_ = false;
    jumped_ns_ = 0;
    SimFileSystem& base = *disk_;
    base.SetSpaceRules(SpaceRules());
    FaultFileSystem files(base);
    files.OnCall([this](CallKind) {
      if (slow_us_ != 0)
        internal::SleepFor(std::chrono::microseconds(schedule_->random().Below(slow_us_)));
    });
    base_ = &base;
    faults_ = &files;
    const bool fine =
        InSchedule(opening.seed + order_, Schedule::Kind::kWalk, [&] { Direct(opening, files); });
    g_memory_fails_of_64 = 0;
    slow_us_ = 0;
    return fine && CheckHistory() && CheckSnapshots(opening);
  }

  void Direct(const Opening& opening, FaultFileSystem& files) {
    if (opening.failing != 0 && !TryOpen(opening, files)) return;
    const void* snapper = nullptr;
    std::vector<Snapshot> inside;
    bool opened_now = false;
    if (opening.snaps) {
      snapper = schedule_->Add([&, opening] {
        const OutsideLibrary outside;
        for (std::uint64_t waits = opening.seed % 60; waits > 0 && !opened_now; --waits) {
          internal::Yield();
        }
        inside.push_back({.files = base_->Crash(opening.seed), .by = "a power loss in an opening"});
      });
    }
    absl::StatusOr<StoreType> opened = Open(files, "db");
    opened_now = true;
    if (snapper != nullptr) JoinFiber(snapper);
    if (!opened.ok()) return Fail("no store: " + opened.status().ToString());
    store_ = &*opened;
    CheckFound();
    for (Snapshot& snapshot : inside) {
      snapshot.floors = found_.serials;
      snapshot.time = 0;
      snapshots_.push_back(std::move(snapshot));
    }
    std::vector<const void*> fibers;
    for (std::size_t i = 0; i < opening.fibers.size(); ++i) {
      const bool is_world = i + 1 == opening.fibers.size();
      fibers.push_back(schedule_->Add([this, i, is_world, &opening] {
        const OutsideLibrary outside;
        if (is_world) {
          for (const Action& action : opening.fibers[i]) Act(action);
        } else {
          RunClient(i, opening.fibers[i]);
        }
      }));
    }
    for (const void* fiber : fibers) JoinFiber(fiber);
    Heal();
    schedule_->Calm();
    // A sync may have failed before, without its fiber having reported that. Time moves only when
    // all fibers wait.
    internal::SleepFor(std::chrono::milliseconds(1));
    const bool poisoned = internal::StoreAccess::GetCore(*store_).health.poisoned();
    if (poisoned && !disturbed_) Fail("poisoned without a cause");
    if (!poisoned) CheckLiveness();
    if (!opening.closes || poisoned) Snap(opening.seed >> 3, "a power loss at the end");
    TakeStates(poisoned);
    CloseStore(poisoned);
    if (opening.closes && !poisoned) Snap(opening.seed >> 3, "a power loss after Close");
    store_ = nullptr;
    opened = absl::CancelledError();
    if (files.OpenFileCount() != 0) Fail("files are open after Close");
  }

  // The store is opened while something fails; it may be opened or not. Then all is well again.
  bool TryOpen(const Opening& opening, FaultFileSystem& files) {
    if (opening.failing == 1) {
      g_memory_fails_of_64 = 1 + opening.seed % 8;
    } else if (opening.failing == 2) {
      ThreadsFail(opening.seed % 3);
    } else {
      files.Arm({.skip = opening.seed % 40, .sticky = opening.seed % 3 == 0, .error = EIO});
    }
    disturbed_ = true;
    {
      absl::StatusOr<StoreType> opened = Open(files, "db");
      Heal();
      if (opened.ok()) {
        Allow(Inside([&] { return opened->Close(); }), "Close of a first opening");
      } else {
        Allow(opened.status(), "Open");
      }
      schedule_->Count(opened.ok() ? "openings in spite of faults" : "openings that fail", 1);
    }
    if (files.OpenFileCount() != 0) Fail("files are open after an opening that failed");
    return schedule_->failure().empty();
  }

  // The contents of the store, found_, are those that it must hold.
  void CheckFound() {
    const Found now = Look(*store_);
    if (now.states != found_.states) Fail("an opening finds another state" + DescribeBoth(now));
    if (now.serials != found_.serials) Fail("an opening finds other serials" + DescribeBoth(now));
    taken_ = floors_ = found_.serials;
  }
  std::string DescribeBoth(const Found& now) const {
    return ":\n  expected " + DescribeFound(found_) + "\n  found    " + DescribeFound(now);
  }
  static std::string DescribeFound(const Found& found) {
    std::string text = "values";
    for (const std::uint64_t state : found.states) text += " " + std::to_string(state);
    text += ", serials";
    for (const std::uint64_t serial : found.serials) text += " " + std::to_string(serial);
    return text;
  }

  static std::string NameOfSession(std::size_t session) { return "s" + std::to_string(session); }

  Found Look(StoreType& store) {
    Found found;
    Session session = store.NewSession();
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      Value value{};
      const absl::Status status = session.Read(Id(key), value);
      if (status.ok()) found.states[key] = Values::Number(key, value);
      if (found.states[key] == kWrong) Fail("a value that no one wrote");
      if (!status.ok() && !absl::IsNotFound(status)) Fail("no read: " + status.ToString());
    }
    for (std::size_t i = 0; i < kSessions; ++i) {
      std::uint64_t serial = 0;
      for (const SessionReport& report : store.recovery().sessions) {
        if (report.name == NameOfSession(i)) serial = report.serial;
      }
      found.serials.push_back(serial);
    }
    return found;
  }

  void Verified(const absl::StatusOr<VerifyReport>& report, const char* where) {
    if (!report.ok()) {
      return Fail(std::string("no verification of ") + where + ": " + report.status().ToString());
    }
    const auto is_unread = [](const std::string& problem) {
      return problem.find("cannot be read") != problem.npos ||
             problem.find(" failed: ") != problem.npos;
    };
    // While calls fail, an unreadable file counts as a problem, and leads to others.
    const std::vector<std::string>& problems = report->problems;
    if (disturbed_ && std::any_of(problems.begin(), problems.end(), is_unread)) return;
    for (const std::string& problem : problems) {
      Fail(std::string("verification of ") + where + " finds: " + problem);
    }
  }

  // ---- the end of an opening ----

  void CheckLiveness() {
    absl::StatusOr<Session> session = store_->NewSession(NameOfSession(kDirector));
    if (!session.ok()) return Fail("no session at the end: " + session.status().ToString());
    const std::uint64_t begun = VirtualNs();
    absl::Status status;
    for (int tries = 0; tries < 64; ++tries) {
      status = Update(*session, kDirector, Do::kUpsert, 0, 2);
      if (status.ok()) break;
      if (VirtualNs() - begun > kSecond) break;
      internal::SleepFor(std::chrono::milliseconds(1));
    }
    if (!status.ok() || VirtualNs() - begun > 2 * kSecond) {
      return Fail("updates do not succeed after the faults: " + status.ToString());
    }
    disturbed_ = false;
    const std::uint64_t commit_begun = VirtualNs();
    if (!CommitAll(Do::kCommit).ok()) return Fail("no commit after the faults");
    if (VirtualNs() - commit_begun > 2 * kSecond) Fail("a commit takes too long");
    Verified(store_->Verify(), "the store");
    if (plan_.options.durability != Durability::kPeriodic) return;
    // A periodic commit makes it durable within twice its interval.
    if (!Update(*session, kDirector, Do::kUpsert, 1, 2).ok()) return Fail("no update at the end");
    const std::uint64_t serial = taken_[kDirector];
    internal::SleepFor(std::chrono::milliseconds(2 * plan_.options.commit_interval_ms));
    floors_[kDirector] = std::max(floors_[kDirector], serial);
    Snap(serial, "a power loss after twice the interval of commits");
  }

  // The values of the keys at the end, as last calls.
  void TakeStates(bool poisoned) {
    last_states_.reset();
    Session session = store_->NewSession();
    States states{};
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      Value value{};
      const absl::Status status = session.Read(Id(key), value);
      if (status.ok()) states[key] = Values::Number(key, value);
      if (!status.ok() && !absl::IsNotFound(status)) {
        if (!poisoned) Fail("no read at the end: " + status.ToString());
        return;
      }
    }
    last_states_ = states;
  }

  void CloseStore(bool poisoned) {
    const std::vector<std::uint64_t> taken = taken_;
    const absl::Status status = Inside([&] { return store_->Close(); });
    if (status.ok()) {
      floors_ = taken;
    } else if (!poisoned) {
      Fail("no Close after the faults: " + status.ToString());
    }
  }

  // ---- checks after an opening ----

  bool CheckHistory() {
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      Register keyed(CallsOn(key));
      const std::uint64_t last = last_states_.has_value() ? (*last_states_)[key] : kNoTime;
      if (!keyed.Explains(found_.states[key], last, nullptr)) {
        result_.failure = "key " + std::to_string(key) + " is no register: from " +
                          std::to_string(found_.states[key]) + " to " + std::to_string(last) +
                          DescribeCalls(key);
        return false;
      }
    }
    return true;
  }

  std::vector<Call> CallsOn(std::size_t key) const {
    std::vector<Call> calls;
    for (const Call& call : calls_) {
      if (call.key == key) calls.push_back(call);
    }
    return calls;
  }

  std::string DescribeCalls(std::size_t key) const {
    static constexpr const char* kKinds[] = {"read",   "contains", "upsert", "rmw",
                                             "delete", "insert",   "compare"};
    static constexpr const char* kResults[] = {"ok",      "not found", "exists",
                                               "aborted", "refused",   "?"};
    std::string text;
    for (const Call& call : CallsOn(key)) {
      char line[160];
      std::snprintf(
          line, sizeof line, "\n    [%llu, %lld] s%zu %s writes %llu saw %llu %s serial %llu",
          static_cast<unsigned long long>(call.begin), static_cast<long long>(call.end),
          call.session, kKinds[static_cast<std::size_t>(call.kind)],
          static_cast<unsigned long long>(call.number), static_cast<unsigned long long>(call.saw),
          kResults[static_cast<std::size_t>(call.result)],
          static_cast<unsigned long long>(call.serial));
      text += line;
    }
    return text;
  }

  std::string DescribeAllCalls() const {
    std::string text;
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      if (!CallsOn(key).empty()) text += "\n  key " + std::to_string(key) + DescribeCalls(key);
    }
    return text;
  }

  SimFileSystem::SpaceRules SpaceRules() const {
    return {.can_reserve = plan_.can_reserve, .can_punch = plan_.can_punch};
  }

  // Opens each snapshot; the life continues with the last one.
  bool CheckSnapshots(const Opening& opening) {
    Found next;
    std::unique_ptr<SimFileSystem> next_disk;
    for (Snapshot& snapshot : snapshots_) {
      std::unique_ptr<SimFileSystem> copy = snapshot.files->Kill();
      Found found;
      const auto inspect = [&] {
        // A power loss in the first opening may leave no store.
        if (opening.seed % 4 == 0 && snapshot.time != 0) {
          Verified(internal::VerifyFiles(*copy, snapshot.path, {}), snapshot.by);
        }
        absl::StatusOr<StoreType> opened = Open(*copy, snapshot.path);
        if (!opened.ok()) {
          return Fail(std::string("no store after ") + snapshot.by + ": " +
                      opened.status().ToString());
        }
        found = Look(*opened);
        if (opening.seed % 4 == 1) Verified(opened->Verify(), snapshot.by);
        const absl::Status status = opened->Close();
        if (!status.ok())
          Fail(std::string("no Close after ") + snapshot.by + ": " + status.ToString());
      };
      if (!InSchedule(1, Schedule::Kind::kStraight, inspect)) return false;
      if (!CheckSnapshot(snapshot, found)) return false;
      ++result_.counts["snapshots"];
      next = std::move(found);
      next_disk = std::move(snapshot.files);
    }
    if (next_disk != nullptr) {
      disk_ = std::move(next_disk);
      found_ = std::move(next);
    }
    return true;
  }

  bool CheckSnapshot(const Snapshot& snapshot, const Found& found) {
    for (std::size_t session = 0; session < kSessions; ++session) {
      if (found.serials[session] < snapshot.floors[session]) {
        result_.failure = std::string(snapshot.by) + " loses durable updates of s" +
                          std::to_string(session) + ": serial " +
                          std::to_string(found.serials[session]) + ", durable " +
                          std::to_string(snapshot.floors[session]) + "; " + DescribeFound(found) +
                          DescribeAllCalls();
        return false;
      }
    }
    for (const Call& call : calls_) {
      if (call.serial != 0 && call.serial <= found.serials[call.session] &&
          call.begin >= snapshot.time) {
        result_.failure = std::string(snapshot.by) + " holds an update that had not begun";
        return false;
      }
    }
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      Register keyed(CallsOn(key));
      const Register::Crash crash{found.serials, found.states[key]};
      if (keyed.Explains(found_.states[key], kNoTime, &crash)) continue;
      result_.failure = std::string(snapshot.by) + " at " + std::to_string(snapshot.time) +
                        " leaves no prefix: key " + std::to_string(key) + " from " +
                        std::to_string(found_.states[key]) + "; " + DescribeFound(found) +
                        DescribeCalls(key);
      return false;
    }
    return true;
  }

  // ---- calls ----

  static constexpr std::uint64_t kSecond = 1000000000;
  static constexpr std::uint64_t kMaxSteps = 30000;  // of an opening; then clients end

  // An error that a call may return.
  void Allow(const absl::Status& status, const char* by) {
    if (status.ok()) return;
    const bool expected = absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
    if (!disturbed_ || !expected) Fail(std::string(by) + " fails: " + status.ToString());
    schedule_->Count("refused calls", 1);
  }

  std::size_t Begin(std::size_t session, Kind kind, std::size_t key) {
    Call call;
    call.kind = kind;
    call.key = key;
    call.session = session;
    const bool writes = kind != Kind::kRead && kind != Kind::kContains && kind != Kind::kDelete;
    call.number = writes ? ++last_number_ : 0;
    call.begin = ++time_;
    calls_.push_back(call);
    return calls_.size() - 1;
  }
  // `serial`: of the update if it took one.
  void End(std::size_t place, const absl::Status& status, std::uint64_t serial, const char* by) {
    Call& call = calls_[place];
    call.end = ++time_;
    call.serial = serial;
    if (call.saw == kWrong) Fail(std::string(by) + " sees a value that no one wrote");
    switch (status.code()) {
      case absl::StatusCode::kOk:
        call.result = Result::kOk;
        break;
      case absl::StatusCode::kNotFound:
        call.result = Result::kNotFound;
        break;
      case absl::StatusCode::kAlreadyExists:
        call.result = Result::kAlreadyExists;
        break;
      case absl::StatusCode::kAborted:
        call.result = Result::kAborted;
        break;
      default:
        Allow(status, by);
        call.result = serial == 0 ? Result::kRefused : Result::kUnknown;
        break;
    }
    if (serial != 0) {
      taken_[call.session] = std::max(taken_[call.session], serial);
      if (status.ok() && plan_.options.durability == Durability::kAlways) {
        floors_[call.session] = std::max(floors_[call.session], serial);
      }
    }
  }

  absl::Status ReadOne(Session& session, std::size_t number, std::size_t key, Value* out) {
    const std::size_t place = Begin(number, Kind::kRead, key);
    Value value{};
    const absl::Status status = Inside([&] { return session.Read(Id(key), value); });
    if (status.ok()) calls_[place].saw = Values::Number(key, value);
    End(place, status, 0, "Read");
    if (out != nullptr) *out = std::move(value);
    return status;
  }

  absl::Status Update(Session& session, std::size_t number, Do what, std::size_t key,
                      std::uint64_t random) {
    const Key& id = Id(key);
    Value expected{};
    if (what == Do::kCompareExchange) {
      const absl::Status status = ReadOne(session, number, key, &expected);
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
    const std::uint64_t before = session.serial();
    const std::size_t place = Begin(number, KindOf(what), key);
    const Value value = Values::Make(key, calls_[place].number, random);
    absl::Status status;
    switch (what) {
      case Do::kUpsert:
        status = Inside([&] { return session.Upsert(id, value); });
        break;
      case Do::kRmw:
        status = Inside([&] {
          return session.Rmw(id, [&](Value& edited) {
            const OutsideLibrary outside;
            calls_[place].saw = Values::Number(key, edited);
            edited = value;
          });
        });
        break;
      case Do::kDelete:
        status = Inside([&] { return session.Delete(id); });
        break;
      case Do::kInsertIfAbsent:
        status = Inside([&] { return session.InsertIfAbsent(id, value); });
        break;
      default:
        calls_[place].saw = Values::Number(key, expected);
        status = Inside([&] { return session.CompareExchange(id, expected, value); });
        break;
    }
    const std::uint64_t after = session.serial();
    if (after > before + 1) Fail("one update takes several serials");
    End(place, status, after != before ? after : 0, NameOf(what));
    return status;
  }

  static Kind KindOf(Do what) {
    switch (what) {
      case Do::kUpsert:
      case Do::kUpsertBatch:
        return Kind::kUpsert;
      case Do::kRmw:
      case Do::kRmwBatch:
      case Do::kRmwAsync:
        return Kind::kRmw;
      case Do::kDelete:
      case Do::kDeleteBatch:
      case Do::kDeleteAsync:
        return Kind::kDelete;
      case Do::kInsertIfAbsent:
      case Do::kInsertIfAbsentAsync:
        return Kind::kInsert;
      case Do::kCompareExchange:
      case Do::kCompareExchangeAsync:
        return Kind::kCompareExchange;
      default:
        return Kind::kRead;
    }
  }

  void Batch(Session& session, std::size_t number, Do what, std::uint64_t random) {
    const std::uint64_t before = session.serial();
    const std::size_t count = 1 + random % kMaxBatch;
    std::vector<std::size_t> places;
    std::vector<typename Session::BatchKey> ids;
    std::vector<Value> values;
    for (std::size_t i = 0; i < count; ++i) {
      // Reads on different keys, since their order is open.
      const std::size_t key =
          what == Do::kReadBatch ? (random / 8 + i) % kSimKeys : (random >> (8 + 3 * i)) % kSimKeys;
      places.push_back(Begin(number, KindOf(what), key));
      ids.push_back(Id(key));
      values.push_back(Values::Make(key, calls_[places[i]].number, random >> 20));
    }
    std::vector<absl::Status> results(count);
    if (what == Do::kReadBatch) {
      Inside([&] { return session.ReadBatch(ids, values, results); });
      for (std::size_t i = 0; i < count; ++i) {
        if (results[i].ok())
          calls_[places[i]].saw = Values::Number(calls_[places[i]].key, values[i]);
      }
    } else if (what == Do::kUpsertBatch) {
      const std::vector<typename Session::BatchValue> views(values.begin(), values.end());
      Inside([&] { return session.UpsertBatch(ids, views, results); });
    } else if (what == Do::kDeleteBatch) {
      Inside([&] { return session.DeleteBatch(ids, results); });
    } else {
      Inside([&] {
        return session.RmwBatch(
            ids,
            [&](std::size_t i, Value& edited) {
              const OutsideLibrary outside;
              calls_[places[i]].saw = Values::Number(calls_[places[i]].key, edited);
              edited = values[i];
            },
            results);
      });
    }
    const std::uint64_t taken = session.serial() - before;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t serial = what != Do::kReadBatch && i < taken ? before + i + 1 : 0;
      End(places[i], results[i], serial, NameOf(what));
    }
  }

  void Async(Session& session, std::size_t number, Do what, std::size_t key, std::uint64_t random) {
    const Key& id = Id(key);
    Value expected{};
    if (what == Do::kCompareExchangeAsync) {
      const absl::Status status = ReadOne(session, number, key, &expected);
      if (!status.ok() && !absl::IsNotFound(status)) return;
    }
    const std::size_t place = Begin(number, KindOf(what), key);
    calls_[place].overlaps = true;
    calls_[place].saw = Values::Number(key, expected);
    const Value value = Values::Make(key, calls_[place].number, random);
    const auto done = [this, place, what](const absl::Status& status, std::uint64_t serial) {
      const OutsideLibrary outside;
      End(place, status, serial, NameOf(what));
    };
    const auto read = [this, place, key](const absl::StatusOr<Value>& found) {
      const OutsideLibrary outside;
      if (found.ok()) calls_[place].saw = Values::Number(key, *found);
      End(place, found.status(), 0, "ReadAsync");
    };
    auto edit = [this, place, key, value = Value(value)](Value& edited) {
      const OutsideLibrary outside;
      calls_[place].saw = Values::Number(key, edited);
      edited = value;
    };
    const InLibrary in_library;
    if (what == Do::kReadAsync) {
      session.ReadAsync(id, read);
    } else if (what == Do::kRmwAsync) {
      session.RmwAsync(id, std::move(edit), done);
    } else if (what == Do::kDeleteAsync) {
      session.DeleteAsync(id, done);
    } else if (what == Do::kCompareExchangeAsync) {
      session.CompareExchangeAsync(id, expected, value, done);
    } else {
      session.InsertIfAbsentAsync(id, value, done);
    }
  }

  // Reads a key, and then changes the one that is not followed. Resumed in the library, in whose
  // scope it stays.
  Detached Await(Session& session, std::size_t number, std::size_t key, std::uint64_t random) {
    std::size_t place = 0;
    {
      const OutsideLibrary outside;
      place = Begin(number, Kind::kRead, key);
      calls_[place].overlaps = true;
    }
    const absl::StatusOr<Value> found = co_await session.ReadAwait(Id(key));
    Value initial{};
    {
      const OutsideLibrary outside;
      if (found.ok()) calls_[place].saw = Values::Number(key, *found);
      End(place, found.status(), 0, "ReadAwait");
      initial = Values::Make(kSimKeys, ++last_number_, random);
    }
    absl::Status status;
    if (random % 2 == 0) {
      status = co_await session.DeleteAwait(Id(kSimKeys));
    } else {
      const auto edit = [this, random](Value& edited) {
        const OutsideLibrary outside;
        EditOther(edited, random);
      };
      status = co_await session.RmwAwait(Id(kSimKeys), edit, initial);
    }
    const OutsideLibrary outside;
    AllowOutcome(status, "DeleteAwait or RmwAwait");
  }

  // ---- the key that is not followed ----

  // No oracle follows its updates, so they may be those of sessions without names.
  void EditOther(Value& edited, std::uint64_t random) {
    if (Values::Number(kSimKeys, edited) == kWrong) Fail("a value that no one wrote");
    edited = Values::Make(kSimKeys, ++last_number_, random);
  }
  void AllowOutcome(const absl::Status& status, const char* by) {
    if (absl::IsNotFound(status) || absl::IsAlreadyExists(status) || absl::IsAborted(status)) {
      return;
    }
    Allow(status, by);
  }

  void CallStore(std::uint64_t random) {
    const Key& id = Id(kSimKeys);
    const Value value = Values::Make(kSimKeys, ++last_number_, random / 16);
    Value read{};
    absl::Status status;
    switch (random % 9) {
      case 0:
        status = Inside([&] { return store_->Read(id, read); });
        break;
      case 1:
        status = Inside([&] { return store_->Read(id).status(); });
        break;
      case 2:
        status = Inside([&] {
          return store_->Read(id, [&](const auto& seen) {
            const OutsideLibrary outside;
            read = Value(seen);
          });
        });
        break;
      case 3:
        status = Inside([&] { return store_->Contains(id).status(); });
        break;
      case 4:
        status = Inside([&] { return store_->Upsert(id, value); });
        break;
      case 5:
        status = Inside([&] {
          return store_->Rmw(id, [&](Value& edited) {
            const OutsideLibrary outside;
            EditOther(edited, random / 16);
          });
        });
        break;
      case 6:
        status = Inside([&] { return store_->Delete(id); });
        break;
      case 7:
        status = Inside([&] { return store_->InsertIfAbsent(id, value); });
        break;
      default:
        status = Inside([&] { return store_->CompareExchange(id, value, value); });
        break;
    }
    if (Values::Number(kSimKeys, read) == kWrong) Fail("a value that no one wrote");
    AllowOutcome(status, "a call without a session");
  }

  // Commit or Checkpoint.
  absl::Status CommitAll(Do what) {
    const std::vector<std::uint64_t> taken = taken_;
    const absl::Status status = Inside(
        [&] { return what == Do::kCommit ? store_->Commit() : store_->Checkpoint().status(); });
    Allow(status, NameOf(what));
    if (status.ok()) RaiseFloors(taken);
    return status;
  }
  void RaiseFloors(const std::vector<std::uint64_t>& taken) {
    for (std::size_t i = 0; i < kSessions; ++i) floors_[i] = std::max(floors_[i], taken[i]);
  }

  // All keys, or those with a prefix, in one of the ways to ask for them.
  void Scan(std::size_t number, std::uint64_t random) {
    std::array<std::size_t, kSimKeys> places{};
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      places[key] = Begin(number, Kind::kRead, key);
      calls_[places[key]].overlaps = true;
    }
    std::uint64_t end = 0;
    std::array<bool, kSimKeys> shown{};
    const auto show = [&](const auto& id, const auto& value) {
      const OutsideLibrary outside;
      std::size_t key = 0;
      while (key < kSimKeys && Id(key) != id) ++key;
      if (key == kSimKeys) {
        if (id != Id(kSimKeys)) Fail("a scan shows an unknown key");
        return;
      }
      if (std::exchange(shown[key], true)) Fail("a scan shows a key twice");
      calls_[places[key]].saw = Values::Number(key, Value(value));
    };
    bool only_even = false;
    const absl::Status status = Inside([&]() -> absl::Status {
      if constexpr (std::is_same_v<Key, std::string>) {
        only_even = random / 4 % 4 == 0;
        if (only_even && random % 2 == 0) {
          return store_->ScanPrefix("even", show);
        }
        if (only_even) {
          auto scan = store_->NewScan("even");
          end = ++time_;
          while (scan.Next()) show(scan.key(), scan.value());
          return scan.status();
        }
      }
      if (random % 4 == 0) return store_->Scan(show);
      if (random % 4 == 1) {
        auto all = store_->ScanAll();
        if (!all.ok()) return all.status();
        for (const auto& [id, value] : *all) show(id, value);
        return absl::OkStatus();
      }
      auto scan = store_->NewScan();
      end = ++time_;
      while (scan.Next()) show(scan.key(), scan.value());
      return scan.status();
    });
    for (std::size_t key = 0; key < kSimKeys; ++key) {
      if (only_even && key % 2 != 0) {
        if (shown[key]) Fail("a scan of a prefix shows another key");
        calls_[places[key]].end = end == 0 ? ++time_ : end;
        calls_[places[key]].result = Result::kRefused;
        continue;
      }
      const absl::Status missing = status.ok() ? absl::NotFoundError("") : status;
      End(places[key], shown[key] ? absl::OkStatus() : missing, 0, "Scan");
      if (end != 0) calls_[places[key]].end = end;
    }
  }

  void Backup(std::uint64_t random) {
    const std::string path = "copy" + std::to_string(++backups_);
    const std::vector<std::uint64_t> taken = taken_;
    const absl::Status status = Inside([&] { return store_->Backup(path).status(); });
    Allow(status, "Backup");
    if (!status.ok()) return;
    RaiseFloors(taken);
    snapshots_.push_back({.files = base_->Crash(random),
                          .path = path,
                          .by = "a backup",
                          .time = time_ + 1,
                          .floors = taken});
  }

  void Snap(std::uint64_t seed, const char* by) {
    std::vector<std::uint64_t> floors = floors_;
    std::unique_ptr<SimFileSystem> files = base_->Crash(seed % 8 < 2 ? seed % 8 : seed);
    snapshots_.push_back(
        {.files = std::move(files), .by = by, .time = time_ + 1, .floors = floors});
  }

  // ---- actions ----

  void RunClient(std::size_t number, const std::vector<Action>& actions) {
    if (actions.empty()) return;
    std::optional<Session> session;
    for (const Action& action : actions) {
      if (!schedule_->failure().empty() || schedule_->steps() > kMaxSteps) break;
      if (!session.has_value()) {
        absl::StatusOr<Session> named =
            Inside([&] { return store_->NewSession(NameOfSession(number)); });
        Allow(named.status(), "NewSession");
        if (!named.ok()) continue;
        session.emplace(*std::move(named));
      }
      const std::uint64_t begun = VirtualNs() - jumped_ns_;
      schedule_->Count("calls", 1);
      CallSession(*session, number, action);
      if (!disturbed_ && VirtualNs() - jumped_ns_ - begun > 60 * kSecond) {
        Fail(std::string(NameOf(action.what)) + " takes more than a minute");
      }
    }
    const InLibrary in_library;
    session.reset();
  }

  void CallSession(Session& session, std::size_t number, const Action& action) {
    const std::size_t key = action.random % kSimKeys;
    const std::uint64_t random = action.random >> 8;
    switch (action.what) {
      case Do::kRead:
        static_cast<void>(ReadOne(session, number, key, nullptr));
        return;
      case Do::kContains: {
        const std::size_t place = Begin(number, Kind::kContains, key);
        const absl::StatusOr<bool> present = Inside([&] { return session.Contains(Id(key)); });
        const absl::Status absent = absl::NotFoundError("");
        End(place, present.ok() && !*present ? absent : present.status(), 0, "Contains");
        return;
      }
      case Do::kUpsert:
      case Do::kRmw:
      case Do::kDelete:
      case Do::kInsertIfAbsent:
      case Do::kCompareExchange:
        static_cast<void>(Update(session, number, action.what, key, random));
        return;
      case Do::kReadBatch:
      case Do::kUpsertBatch:
      case Do::kRmwBatch:
      case Do::kDeleteBatch:
        return Batch(session, number, action.what, random);
      case Do::kReadAsync:
      case Do::kRmwAsync:
      case Do::kDeleteAsync:
      case Do::kInsertIfAbsentAsync:
      case Do::kCompareExchangeAsync:
        return Async(session, number, action.what, key, random);
      case Do::kAwait: {
        const InLibrary in_library;
        Await(session, number, key, random);
        return;
      }
      case Do::kCompletePending: {
        const InLibrary in_library;
        session.CompletePending(/*wait=*/random % 2 == 0);
        if (session.pending_count() == 0 && session.name() != NameOfSession(number)) {
          Fail("a session has another name");
        }
        return;
      }
      case Do::kWaitDurable: {
        const std::uint64_t serial = taken_[number];
        const absl::Status status = Inside([&] { return session.WaitDurable(); });
        Allow(status, "WaitDurable");
        if (status.ok()) floors_[number] = std::max(floors_[number], serial);
        return;
      }
      case Do::kScan:
        return Scan(number, random);
      default:
        return Act(action);
    }
  }

  void Act(const Action& action) {
    const std::uint64_t random = action.random >> 8;
    switch (action.what) {
      case Do::kStoreCall:
        return CallStore(random);
      case Do::kForgetSession: {
        const absl::Status status = Inside([&] { return store_->ForgetSession("no one"); });
        if (!absl::IsNotFound(status)) Allow(status, "ForgetSession");
        if (status.ok()) Fail("a session that never was is forgotten");
        return;
      }
      case Do::kCommit:
      case Do::kCheckpoint:
        static_cast<void>(CommitAll(action.what));
        return;
      case Do::kCleanupCheckpoints:
        return Allow(Inside([&] { return store_->CleanupCheckpoints(1); }).status(),
                     "CleanupCheckpoints");
      case Do::kCollectGarbage: {
        GcOptions options;
        options.min_reclaim_bytes = 0;
        options.target_utilization = random % 2 == 0 ? 1 : 0.5;
        options.pass_bytes = random / 2 % 4 == 0 ? 4096 : std::uint64_t{1} << 16;
        const absl::StatusOr<GcStats> stats =
            Inside([&] { return store_->CollectGarbage(options); });
        if (stats.ok()) schedule_->Count("passes", stats->pass_count);
        return Allow(stats.status(), "CollectGarbage");
      }
      case Do::kEstimateGarbage:
        Allow(Inside([&] { return store_->ShouldCollect(); }).status(), "ShouldCollect");
        return Allow(Inside([&] { return store_->EstimateGarbage(); }).status(), "EstimateGarbage");
      case Do::kGrowIndex: {
        const absl::Status status = Inside([&] { return store_->GrowIndex(); });
        if (!absl::IsResourceExhausted(status)) Allow(status, "GrowIndex");
        return;
      }
      case Do::kBackup:
        return Backup(random);
      case Do::kVerify: {
        const absl::StatusOr<VerifyReport> report = Inside([&] { return store_->Verify(); });
        Allow(report.status(), "Verify");
        if (report.ok()) Verified(report, "the store");
        return;
      }
      case Do::kSize:
        return Allow(Inside([&] { return store_->Size(); }).status(), "Size");
      case Do::kIsEmpty:
        return Allow(Inside([&] { return store_->IsEmpty(); }).status(), "IsEmpty");
      case Do::kStats: {
        const InLibrary in_library;
        static_cast<void>(store_->Stats());
        static_cast<void>(store_->Metrics());
        static_cast<void>(store_->GetBackgroundStats());
        static_cast<void>(store_->GetCheckpointStats());
        static_cast<void>(store_->ListCheckpoints());
        static_cast<void>(store_->ApproximateSize());
        if (random % 4 == 0) store_->ResetMetrics();
        return;
      }
      case Do::kStopBackground:
        return Allow(Inside([&] { return store_->StopBackground(); }), "StopBackground");
      case Do::kStartBackground:
        return Allow(Inside([&] { return store_->StartBackground(); }), "StartBackground");
      default:
        return ActAsWorld(action.what, random);
    }
  }

  void ActAsWorld(Do what, std::uint64_t random) {
    if (what > Do::kJump) disturbed_ = true;
    switch (what) {
      case Do::kSleep: {
        static constexpr std::uint64_t kTimes[] = {1, 20, 300, 5000, 100000, 2000000};
        return internal::SleepFor(std::chrono::microseconds(kTimes[random % 6]));
      }
      case Do::kSnapshot:
        if (snapshots_.size() < 4) Snap(random, "a power loss");
        return;
      case Do::kJump:
        jumped_ns_ += kSecond << random % 12;
        return schedule_->JumpTime(kSecond << random % 12);
      case Do::kFailCalls: {
        static constexpr CallKind kKinds[] = {
            CallKind::kRead,   CallKind::kRead,   CallKind::kWrite,         CallKind::kWrite,
            CallKind::kSync,   CallKind::kOpen,   CallKind::kTruncate,      CallKind::kReserve,
            CallKind::kRename, CallKind::kUnlink, CallKind::kSyncDirectory, CallKind::kPunchHole};
        static constexpr int kErrors[] = {EIO, ENOSPC, EINTR, EMFILE};
        const CallKind kind = kKinds[random % 12];
        faults_->Arm({.kind = kind,
                      .skip = random / 16 % 8,
                      .sticky = random / 128 % 4 == 0,
                      .error = kErrors[random / 512 % 4]});
        return;
      }
      case Do::kFillDisk: {
        SimFileSystem::SpaceRules rules = SpaceRules();
        rules.error = random / 8 % 4 == 0 ? EDQUOT : ENOSPC;
        rules.is_raced = random / 32 % 8 == 0;
        if (random / 256 % 8 == 0) rules.max_file_bytes = 4096 * (random / 2048 % 20);
        base_->SetSpaceRules(rules);
        return base_->SetCapacityBytes(base_->UsedBytes() + random % 5 * 16384);
      }
      case Do::kLoseMemory: {
        static constexpr std::uint64_t kShares[] = {1, 8, 64};
        g_memory_fails_of_64 = kShares[random % 3];
        g_memory_coins = Random(random);
        return;
      }
      case Do::kLoseThreads:
        return ThreadsFail(random % 2);
      case Do::kLoseDescriptors:
        return faults_->Arm({.kind = CallKind::kOpen, .sticky = true, .error = EMFILE});
      case Do::kSlowDevice:
        slow_us_ = std::uint64_t{10} << random % 10;
        return;
      case Do::kHeal:
        return Heal();
      default:
        return Fail(std::string("an action without code: ") + NameOf(what));
    }
  }

  void Heal() {
    faults_->Disarm();
    base_->SetSpaceRules(SpaceRules());
    base_->SetCapacityBytes(SimFileSystem::kNoLimit);
    g_memory_fails_of_64 = 0;
    slow_us_ = 0;
    ThreadsFail(kNoTime);
  }

  const Plan& plan_;
  const std::uint64_t order_;
  LifeResult& result_;
  std::unique_ptr<SimFileSystem> disk_;  // of the next opening
  Found found_;                          // what it must find

  // Of an opening.
  Schedule* schedule_ = nullptr;
  SimFileSystem* base_ = nullptr;
  FaultFileSystem* faults_ = nullptr;
  StoreType* store_ = nullptr;
  std::vector<Call> calls_;
  std::vector<std::uint64_t> taken_;   // the last serial of each session
  std::vector<std::uint64_t> floors_;  // the last one that is durable
  std::vector<Snapshot> snapshots_;
  std::optional<States> last_states_;
  bool disturbed_ = false;  // errors are allowed
  std::uint64_t slow_us_ = 0;
  std::uint64_t jumped_ns_ = 0;
  std::uint64_t time_ = 0;
  std::uint64_t last_number_ = 0;
  std::uint64_t backups_ = 0;
};

}  // namespace

namespace {

void LiveOnce(const Plan& plan, std::uint64_t order, LifeResult& result) {
  SetAllocationFaults(&MemoryFails);
  if (plan.fixed_values) {
    Life<std::uint64_t, std::uint64_t>(plan, order, result).Run();
  } else if (plan.string_keys) {
    Life<std::string, std::string>(plan, order, result).Run();
  } else {
    Life<std::uint64_t, std::string>(plan, order, result).Run();
  }
  SetAllocationFaults(nullptr);
}

}  // namespace

LifeResult Live(const Plan& plan, std::uint64_t order) {
  LifeResult result;
  // The first life of a process leaves statics behind, so one that leaves something is repeated.
  for (int repeated = 0; repeated < 2; ++repeated) {
    result = LifeResult();
    const std::int64_t before = LiveAllocations();
    LiveOnce(plan, order, result);
    const auto counts = static_cast<std::int64_t>(result.counts.size());
    const std::int64_t left = LiveAllocations() - before - counts;
    if (!result.failure.empty() || left == 0) return result;
    if (repeated == 1) result.failure = std::to_string(left) + " allocations are not freed";
  }
  return result;
}

}  // namespace ebb::test
