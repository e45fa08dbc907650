// Stress: random operations, with an exact oracle.
//
// Threads do everything that sessions can do, on few keys and little memory, while another thread
// commits and lets the index grow, one scans, and one collects garbage. There are four kinds of
// keys, each with its own invariant:
//
//   counters   all threads Rmw them, or read and CompareExchange until that succeeds; half of them
//              are in chains that several keys share. The value is the sum of the additions, never
//              less than a thread has seen or added itself.
//   owned      one thread writes, deletes and inserts each; it knows the exact value. The others
//              read: never a value older than the write acknowledged when they began, never one
//              newer than the write begun when they ended, never a deleted value.
//   contested  all threads insert and delete them; successful inserts less successful deletes is
//              the number of values left, 0 or 1.
//   every value carries a proof of its number and key (stamp.h), so nothing torn passes.
//
// Each phase ends with Close, a new Open and a check of every key. The store is verified now and
// then while all threads work, at the end, closed, and reopened. The phases of a run: one mostly
// in memory, for the count of operations, and two with 8 and 12 frames, in which page turns, waits
// for records to freeze, lost publications and reads of the device happen all the time. A phase
// continues until its time is over and its minimums are met; those are asserted.
//
// The scale multiplies times, operations and minimums. EBB_STRESS_SEED repeats a run's choices,
// though not its interleaving.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ebb/ebb.h"
#include "tests/support/scale.h"
#include "tests/support/stamp.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using Clock = std::chrono::steady_clock;

// The first failures of any thread; the first one ends the phase.
class Failures {
 public:
  void Add(std::string what) {
    std::lock_guard lock(mu_);
    if (texts_.size() < 10) texts_.push_back(std::move(what));
    any_.store(true, std::memory_order_release);
  }
  bool any() const { return any_.load(std::memory_order_acquire); }
  std::string Text() const {
    std::lock_guard lock(mu_);
    std::string text;
    for (const std::string& one : texts_) text += one + "\n";
    return text;
  }

 private:
  mutable std::mutex mu_;
  std::vector<std::string> texts_;
  std::atomic<bool> any_{false};
};

// The counts of events, and their minimums.
struct Events {
  std::uint64_t operations = 0;
  std::uint64_t page_turns = 0;
  std::uint64_t fuzzy_waits = 0;
  std::uint64_t failed_cas = 0;
  std::uint64_t device_reads = 0;
  std::uint64_t scans = 0;

  bool Reaches(const Events& least) const {
    return operations >= least.operations && page_turns >= least.page_turns &&
           fuzzy_waits >= least.fuzzy_waits && failed_cas >= least.failed_cas &&
           device_reads >= least.device_reads && scans >= least.scans;
  }
  void Add(const Events& more) {
    operations += more.operations;
    page_turns += more.page_turns;
    fuzzy_waits += more.fuzzy_waits;
    failed_cas += more.failed_cas;
    device_reads += more.device_reads;
    scans += more.scans;
  }
};

struct Phase {
  const char* name;
  int page_shift;
  std::uint64_t frame_count;
  int index_exponent;
  unsigned thread_count;
  std::uint64_t owned_count;
  unsigned string_room;         // strings have up to so many bytes behind their stamp
  unsigned commit_interval_us;  // between two commits
  unsigned yield_one_in;        // callbacks give the processor away so often: 0 is never
  double seconds;
  Events least;  // this phase continues until it has seen these
};

// The state of one owned key, as its owner announces it: the number of the last write (deletes
// count) and whether it left a value.
struct alignas(64) Owned {
  static std::uint64_t Pack(std::uint64_t number, bool present) {
    return number << 1 | (present ? 1 : 0);
  }
  std::atomic<std::uint64_t> begun{0};  // number
  std::atomic<std::uint64_t> acked{0};  // Pack
};

template <typename Value>
class Run {
  using Db = Store<std::uint64_t, Value>;
  using S = Stamp<Value>;
  static constexpr std::size_t kChains = 3;
  static constexpr std::size_t kKeysOfChain = 5;
  static constexpr std::size_t kCounters = 2 * kChains * kKeysOfChain;
  static constexpr std::size_t kContested = 16;

 public:
  Run(const Phase& phase, std::uint64_t seed)
      : phase_(phase), seed_(seed), owned_(phase.owned_count) {
    // Counters: some with chains of their own, some in chains that they share.
    for (std::size_t i = 0; i < kCounters / 2; ++i) counter_keys_.push_back(1'000'000 + i);
    for (std::size_t chain = 0; chain < kChains; ++chain) {
      const auto keys = KeysOfOneChain(kKeysOfChain, 2'000'000 + chain * 1'000'000);
      counter_keys_.insert(counter_keys_.end(), keys.begin(), keys.end());
    }
  }

  Events Go() {
    Db db = Must(OpenIn<Db>(path(), Geometry(), StressOptions()));
    Prepare(db);
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < phase_.thread_count; ++id) {
      threads.emplace_back([&, id] { Worker(*this, db, id).Work(); });
    }
    threads.emplace_back([&] { CommitInALoop(db); });
    threads.emplace_back([&] { ScanInALoop(db); });
    threads.emplace_back([&] { CollectInALoop(db); });
    Watch(db);
    stop_.store(true, std::memory_order_release);
    for (std::thread& thread : threads) thread.join();
    const Events events = EventsOf(db);
    CheckEverything(db, "before Close");
    if (const absl::Status status = db.Close(); !status.ok()) Fail("Close: " + status.ToString());
    VerifyNow("VerifyDirectory", VerifyDirectory(path()));
    if (failures_.any()) return events;
    Db again = Must(OpenIn<Db>(path(), Geometry(), StressOptions()));
    CheckEverything(again, "after reopening");
    Must(again.Close());
    return events;
  }
  std::string FailureText() const { return failures_.Text(); }

 private:
  // One thread's session, random numbers and knowledge.
  class Worker {
   public:
    Worker(Run& run, Db& db, unsigned id)
        : run_(run),
          db_(db),
          session_(db.NewSession()),
          id_(id),
          random_(Mix(run.seed_, id)),
          seen_(kCounters) {}

    void Work() {
      while (!run_.stop_.load(std::memory_order_acquire) && !run_.failures_.any()) {
        for (int i = 0; i < 256; ++i) Step();
        run_.operations_.fetch_add(256, std::memory_order_relaxed);
        if (Random(64) == 0) session_ = db_.NewSession();  // the old slot is released
      }
      session_.CompletePending();
    }

   private:
    std::uint64_t Random(std::uint64_t below) { return (random_() >> 32) * below >> 32; }
    std::size_t Room() { return Random(4) == 0 ? Random(run_.phase_.string_room + 1) : Random(32); }

    void Step() {
      const std::uint64_t dice = Random(100);
      if (dice < 25) {
        AddToCounter(Random(kCounters));
      } else if (dice < 32) {
        ReadCounter(Random(kCounters));
      } else if (dice < 60) {
        WriteOwned(OwnIndex());
      } else if (dice < 66) {
        DeleteOwned(OwnIndex());
      } else if (dice < 72) {
        InsertOwned(OwnIndex());
      } else if (dice < 96) {
        ReadOwned(Random(run_.owned_.size()));
      } else {
        Contest(Random(kContested));
      }
    }

    void AddToCounter(std::size_t i) {
      const std::uint64_t key = run_.counter_keys_[i];
      const std::uint64_t by = 1 + Random(3);
      const std::size_t room = Room();
      const unsigned one_in = run_.phase_.yield_one_in;
      const bool yields = one_in != 0 && Random(one_in) == 0;
      if (Random(4) == 0) return ExchangeCounter(i, by, room);
      if (Random(4) == 0) return AddToCounters(by, room);
      if (Random(4) == 0) return AddLater(i, by, room);
      const absl::Status status = session_.Rmw(key, [&](Value& value) {
        if (yields) std::this_thread::yield();
        S::Add(key, by, room, value);
      });
      if (!status.ok()) return Fail("Rmw of a counter: " + status.ToString());
      run_.added_[i].fetch_add(by, std::memory_order_relaxed);
    }

    // Some of them more than once.
    void AddToCounters(std::uint64_t by, std::size_t room) {
      std::array<std::size_t, 5> which;
      std::array<std::uint64_t, 5> keys;
      std::array<absl::Status, 5> results;
      for (std::size_t i = 0; i < which.size(); ++i) {
        which[i] = Random(kCounters);
        keys[i] = run_.counter_keys_[which[i]];
      }
      session_.RmwBatch(
          keys, [&](std::size_t i, Value& value) { S::Add(keys[i], by, room, value); }, results);
      for (std::size_t i = 0; i < which.size(); ++i) {
        if (!results[i].ok()) return Fail("RmwBatch of counters: " + results[i].ToString());
        run_.added_[which[i]].fetch_add(by, std::memory_order_relaxed);
      }
    }

    void AddLater(std::size_t i, std::uint64_t by, std::size_t room) {
      const std::uint64_t key = run_.counter_keys_[i];
      session_.RmwAsync(
          key, [key, by, room](Value& value) { S::Add(key, by, room, value); },
          [this, i, by](const absl::Status& status) {
            if (!status.ok()) return Fail("RmwAsync of a counter: " + status.ToString());
            run_.added_[i].fetch_add(by, std::memory_order_relaxed);
          });
    }

    void ExchangeCounter(std::size_t i, std::uint64_t by, std::size_t room) {
      const std::uint64_t key = run_.counter_keys_[i];
      for (;;) {  // ends: each turn means that another thread has added something
        absl::Status status = session_.Read(key, value_);
        if (status.ok()) {
          Value next = value_;
          S::Add(key, by, room, next);
          status = session_.CompareExchange(key, value_, next);
        }
        if (absl::IsAborted(status)) continue;
        if (!status.ok()) return Fail("CompareExchange of a counter: " + status.ToString());
        run_.added_[i].fetch_add(by, std::memory_order_relaxed);
        return;
      }
    }

    void ReadCounter(std::size_t i) {
      const std::uint64_t key = run_.counter_keys_[i];
      // The sum of the additions that have returned; later updates may be seen too.
      const std::uint64_t least = run_.added_[i].load(std::memory_order_relaxed);
      const absl::Status status = session_.Read(key, value_);
      if (!status.ok()) return Fail("Read of a counter: " + status.ToString());
      const auto number = S::Number(key, value_);
      if (!number.has_value()) return Fail("a counter is torn");
      if (*number < std::max(seen_[i], least)) {
        return Fail("counter " + std::to_string(i) + " shows " + std::to_string(*number) +
                    " after " + std::to_string(std::max(seen_[i], least)));
      }
      seen_[i] = *number;
    }

    std::size_t OwnIndex() {
      const std::size_t count = run_.owned_.size() / run_.phase_.thread_count;
      return Random(count) * run_.phase_.thread_count + id_;
    }
    // The owner's next write of key i is about to begin; its number.
    std::uint64_t Begin(std::size_t i) {
      const std::uint64_t number = run_.owned_[i].begun.load(std::memory_order_relaxed) + 1;
      run_.owned_[i].begun.store(number, std::memory_order_release);
      return number;
    }
    void Acknowledge(std::size_t i, std::uint64_t number, bool present) {
      run_.owned_[i].acked.store(Owned::Pack(number, present), std::memory_order_release);
    }
    bool Holds(std::size_t i) const {
      return (run_.owned_[i].acked.load(std::memory_order_relaxed) & 1) != 0;
    }

    void WriteOwned(std::size_t i) {
      const std::uint64_t number = Begin(i);
      const Value value = S::Make(i, number, Room());
      absl::Status status;
      if (Random(4) == 0) {
        status = session_.Rmw(i, [&](Value& edited) { edited = value; });
      } else if (Random(8) == 0 && Holds(i)) {
        status = session_.Read(i, value_);
        if (status.ok()) status = session_.CompareExchange(i, value_, value);
      } else {
        status = session_.Upsert(i, value);
      }
      if (!status.ok()) return Fail("write of an owned key: " + status.ToString());
      Acknowledge(i, number, true);
    }
    void DeleteOwned(std::size_t i) {
      const std::uint64_t number = Begin(i);
      const absl::Status status = session_.Delete(i);
      if (status.code() != (Holds(i) ? absl::StatusCode::kOk : absl::StatusCode::kNotFound)) {
        return Fail("Delete of key " + std::to_string(i) + ": " + status.ToString());
      }
      Acknowledge(i, number, false);
    }
    void InsertOwned(std::size_t i) {
      const bool held = Holds(i);
      const std::uint64_t number = Begin(i);
      const absl::Status status = session_.InsertIfAbsent(i, S::Make(i, number, Room()));
      if (status.code() != (held ? absl::StatusCode::kAlreadyExists : absl::StatusCode::kOk)) {
        return Fail("InsertIfAbsent of key " + std::to_string(i) + ": " + status.ToString());
      }
      if (held) {
        run_.owned_[i].begun.store(number - 1, std::memory_order_release);  // it has no effect
      } else {
        Acknowledge(i, number, true);
      }
    }
    void ReadOwned(std::size_t i) {
      if (Random(4) == 0) return ReadOwnedBatch();
      if (Random(4) == 0) return ReadOwnedLater(i);
      const std::uint64_t acked = run_.owned_[i].acked.load(std::memory_order_acquire);
      CheckOwned(i, acked, session_.Read(i, value_), value_);
    }
    void ReadOwnedBatch() {
      std::array<std::uint64_t, 6> keys;
      std::array<std::uint64_t, 6> acked;
      std::array<Value, 6> values;
      std::array<absl::Status, 6> results;
      for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = Random(run_.owned_.size());
        acked[i] = run_.owned_[keys[i]].acked.load(std::memory_order_acquire);
      }
      session_.ReadBatch(keys, values, results);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        CheckOwned(keys[i], acked[i], results[i], values[i]);
      }
    }
    void ReadOwnedLater(std::size_t i) {
      const std::uint64_t acked = run_.owned_[i].acked.load(std::memory_order_acquire);
      session_.ReadAsync(i, [this, i, acked](absl::StatusOr<Value> value) {
        CheckOwned(i, acked, value.status(), value.ok() ? *value : Value{});
      });
      if (Random(16) == 0) session_.CompletePending(Random(2) == 0);
    }
    // The result of a read that began when `acked` was acknowledged.
    void CheckOwned(std::size_t i, std::uint64_t acked, const absl::Status& status,
                    const Value& value) {
      const std::uint64_t begun = run_.owned_[i].begun.load(std::memory_order_acquire);
      const std::string key = "owned key " + std::to_string(i);
      if (absl::IsNotFound(status)) {
        if ((acked & 1) != 0 && begun == acked >> 1) Fail(key + " has got lost");
        return;
      }
      if (!status.ok()) return Fail("Read of " + key + ": " + status.ToString());
      const auto number = S::Number(i, value);
      if (!number.has_value()) return Fail(key + " is torn");
      const bool deleted = (acked & 1) == 0 && *number == acked >> 1;
      if (*number < acked >> 1 || *number > begun || deleted) {
        Fail(key + " shows " + std::to_string(*number) + ", acknowledged " +
             std::to_string(acked >> 1) + (deleted ? " (deleted)" : "") + ", begun " +
             std::to_string(begun));
      }
    }

    void Contest(std::size_t i) {
      const std::uint64_t key = ContestedKey(i);
      const bool inserts = Random(2) == 0;
      const absl::Status status = inserts
                                      ? session_.InsertIfAbsent(key, S::Make(key, id_ + 1, Room()))
                                      : session_.Delete(key);
      if (status.ok()) {
        run_.present_[i].fetch_add(inserts ? 1 : -1, std::memory_order_relaxed);
      } else if (inserts ? !absl::IsAlreadyExists(status) : !absl::IsNotFound(status)) {
        Fail("contest: " + status.ToString());
      }
    }

    void Fail(std::string what) { run_.Fail("thread " + std::to_string(id_) + ": " + what); }

    Run& run_;
    Db& db_;
    typename Db::Session session_;
    const unsigned id_;
    std::mt19937_64 random_;
    std::vector<std::uint64_t> seen_;
    Value value_{};
  };

  static std::uint64_t ContestedKey(std::size_t i) { return 900'000 + i; }
  std::string path() const { return dir_ / "db"; }
  void Fail(std::string what) { failures_.Add(std::move(what)); }
  void VerifyNow(const std::string& when, const absl::StatusOr<VerifyReport>& report) {
    if (const absl::Status status = StatusOf(report); !status.ok()) {
      Fail(when + ": " + status.ToString());
    }
  }

  internal::Environment Geometry() const {
    internal::Environment environment = TinyEnvironment();
    environment.page_shift = phase_.page_shift;
    environment.frame_count = phase_.frame_count;
    environment.index_exponent = phase_.index_exponent;
    environment.segment_blocks = 4096;
    environment.pool_threads = 1;
    return environment;
  }

  Options StressOptions() const {
    Options options = TinyOptions();
    options.promote_reads = seed_ % 2 == 1;
    options.scan_ahead_bytes = 1 << 20;  // scans are to keep up with the log
    return options;
  }

  // Every key gets a record, so that no search runs down a whole shared chain for nothing.
  void Prepare(Db& db) {
    auto session = db.NewSession();
    for (std::size_t i = 0; i < kCounters; ++i) {
      Must(session.Upsert(counter_keys_[i], S::Make(counter_keys_[i], 0, 8)));
    }
    for (std::size_t i = 0; i < kContested; ++i) {
      Must(session.Upsert(ContestedKey(i), S::Make(ContestedKey(i), 1, 8)));
      present_[i].store(1, std::memory_order_relaxed);
    }
    for (std::size_t i = 0; i < owned_.size(); ++i) {
      Must(session.Upsert(i, S::Make(i, 1, 8)));
      owned_[i].begun.store(1, std::memory_order_relaxed);
      owned_[i].acked.store(Owned::Pack(1, true), std::memory_order_relaxed);
    }
  }

  // And now and then the index doubles, while it can.
  void CommitInALoop(Db& db) {
    for (int round = 1; !stop_.load(std::memory_order_acquire) && !failures_.any(); ++round) {
      if (round % 32 == 0) {
        const absl::Status status = db.GrowIndex();
        if (!status.ok() && !absl::IsResourceExhausted(status)) Fail("Grow: " + status.ToString());
      }
      if (const absl::Status status = Commit(db); !status.ok()) {
        Fail("Commit: " + status.ToString());
      }
      std::this_thread::sleep_for(std::chrono::microseconds(phase_.commit_interval_us));
    }
  }

  void CollectInALoop(Db& db) {
    for (int round = 0; !stop_.load(std::memory_order_acquire) && !failures_.any(); ++round) {
      if (round % 4 == 3) VerifyNow("Verify", db.Verify());
      const auto stats = db.CollectGarbage(
          {.min_reclaim_bytes = 0, .target_utilization = 0.7, .pass_bytes = 1 << 20});
      if (!stats.ok()) Fail("Collect: " + stats.status().ToString());
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
  }

  void ScanInALoop(Db& db) {
    while (!stop_.load(std::memory_order_acquire) && !failures_.any()) {
      ScanOnce(db);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  // Every key once, none older than the write acknowledged before the scan was created, none newer
  // than the write begun afterwards.
  void ScanOnce(Db& db) {
    std::vector<std::uint64_t> least;
    std::vector<std::uint64_t> acked;
    std::vector<std::uint64_t> begun;
    for (const auto& added : added_) least.push_back(added.load(std::memory_order_relaxed));
    for (const Owned& owned : owned_) acked.push_back(owned.acked.load(std::memory_order_acquire));
    auto it = db.NewScan();
    for (const Owned& owned : owned_) begun.push_back(owned.begun.load(std::memory_order_acquire));
    std::map<std::uint64_t, std::uint64_t> shown;
    while (it.Next()) {
      if (stop_.load(std::memory_order_acquire)) return;
      const auto number = S::Number(it.key(), it.value());
      const std::string key = "scanned key " + std::to_string(it.key());
      if (!number.has_value()) return Fail(key + " is torn");
      if (!shown.emplace(it.key(), *number).second) return Fail(key + " is there twice");
    }
    if (!it.status().ok()) return Fail("scan: " + it.status().ToString());
    for (std::size_t i = 0; i < kCounters; ++i) {
      const auto found = shown.find(counter_keys_[i]);
      if (found == shown.end() || found->second < least[i]) Fail("a scan shows an old counter");
    }
    for (std::size_t i = 0; i < owned_.size(); ++i) {
      const auto found = shown.find(i);
      const std::uint64_t last = acked[i] >> 1;
      const bool quiet = begun[i] == last;  // no thread wrote it in between
      const bool present = found != shown.end();
      if (quiet && present != ((acked[i] & 1) != 0))
        Fail("a scan shows a deleted key, or lacks one");
      if (!present) continue;
      if (found->second < last || found->second > begun[i])
        Fail("a scan shows another time's value");
    }
    scans_.fetch_add(1, std::memory_order_relaxed);
  }

  Events EventsOf(Db& db) const {
    const MetricsSnapshot metrics = db.Metrics();
    return {operations_.load(std::memory_order_relaxed),
            metrics.page_turns,
            metrics.fuzzy_waits,
            metrics.lost_publications,
            metrics.device_reads,
            scans_.load(std::memory_order_relaxed)};
  }

  // Until the time is over and everything has happened often enough, or hope is lost.
  void Watch(Db& db) const {
    const auto start = Clock::now();
    for (;;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (failures_.any() || seconds > 20 * phase_.seconds + 30) return;
      if (seconds >= phase_.seconds && EventsOf(db).Reaches(phase_.least)) return;
    }
  }

  // No thread works: each key has exactly the value in the oracle.
  void CheckEverything(Db& db, const std::string& when) {
    VerifyNow(when, db.Verify());
    auto session = db.NewSession();
    const auto check = [&](std::uint64_t key, bool present, std::uint64_t number, bool exactly) {
      const absl::StatusOr<Value> value = session.Read(key);
      const std::string which = when + ": key " + std::to_string(key);
      if (!present) {
        if (!absl::IsNotFound(value.status())) Fail(which + " should be absent");
      } else if (!value.ok()) {
        Fail(which + ": " + value.status().ToString());
      } else if (const auto found = S::Number(key, *value); !found.has_value()) {
        Fail(which + " is torn");
      } else if (exactly && *found != number) {
        Fail(which + " has " + std::to_string(*found) + ", not " + std::to_string(number));
      }
    };
    for (std::size_t i = 0; i < kCounters; ++i) {
      check(counter_keys_[i], true, added_[i].load(std::memory_order_relaxed), true);
    }
    for (std::size_t i = 0; i < kContested; ++i) {
      const std::int64_t present = present_[i].load(std::memory_order_relaxed);
      if (present != 0 && present != 1) Fail("contested key: " + std::to_string(present) + " left");
      check(ContestedKey(i), present == 1, 0, false);
    }
    for (std::size_t i = 0; i < owned_.size(); ++i) {
      const std::uint64_t acked = owned_[i].acked.load(std::memory_order_relaxed);
      check(i, (acked & 1) != 0, acked >> 1, true);
    }
  }

  const Phase phase_;
  const std::uint64_t seed_;
  const TempDir dir_;
  std::vector<std::uint64_t> counter_keys_;
  Failures failures_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> operations_{0};
  std::atomic<std::uint64_t> scans_{0};
  // Sums of operations that have returned.
  std::array<std::atomic<std::uint64_t>, kCounters> added_{};
  std::array<std::atomic<std::int64_t>, kContested> present_{};
  std::vector<Owned> owned_;
};

// ---- phases ----

// For each type of value, a third of twenty million operations and all of the rest.
Events Least() {
  const double scale = Scale();
  const auto scaled = [&](double count) { return static_cast<std::uint64_t>(count * scale); };
  return {scaled(7e6), scaled(1e4), scaled(1e3), scaled(1e3), scaled(1e4), scaled(20)};
}

std::vector<Phase> Phases() {
  const double scale = Scale();
  const Events least = Least();
  const Events rare{0, least.page_turns, least.fuzzy_waits, least.failed_cas, least.device_reads,
                    0};
  const Events frequent{least.operations, 0, 0, 0, 0, least.scans};
  return {
      {.name = "shared chains, 8 pages of a block",
       .page_shift = 12,
       .frame_count = 8,
       .index_exponent = 1,
       .thread_count = 8,
       .owned_count = 2000,
       .string_room = 600,
       .commit_interval_us = 1000,
       .yield_one_in = 16,
       .seconds = 7 * scale,
       .least = rare},
      {.name = "12 pages of four blocks",
       .page_shift = 14,
       .frame_count = 12,
       .index_exponent = 3,
       .thread_count = 6,
       .owned_count = 9000,
       .string_room = 2000,
       .commit_interval_us = 5000,
       .yield_one_in = 32,
       .seconds = 4 * scale,
       .least = {}},
      {.name = "in memory",
       .page_shift = 16,
       .frame_count = 128,
       .index_exponent = 8,
       .thread_count = 4,
       .owned_count = 2000,
       .string_room = 64,
       .commit_interval_us = 30000,
       .yield_one_in = 0,
       .seconds = 5 * scale,
       .least = frequent},
  };
}

template <typename Value>
class StressTest : public testing::Test {};
using Values = testing::Types<std::uint64_t, Triple, std::string>;
TYPED_TEST_SUITE(StressTest, Values);

// Hazards 8, 11, 13, 15, 19, 20, 21, 24, 27 and 50 are all in here, at random.
TYPED_TEST(StressTest, EveryKeyHasAValueOfItsWriters) {
  const std::uint64_t seed = Seed();
  Events total;
  for (const Phase& phase : Phases()) {
    Run<TypeParam> run(phase, seed);
    const auto start = Clock::now();
    const Events events = run.Go();
    std::printf(
        "%-34s %5.1f s: %9llu operations, %7llu page turns, %6llu fuzzy waits, %6llu failed "
        "CASes, %8llu device reads, %4llu scans\n",
        phase.name, std::chrono::duration<double>(Clock::now() - start).count(),
        static_cast<unsigned long long>(events.operations),
        static_cast<unsigned long long>(events.page_turns),
        static_cast<unsigned long long>(events.fuzzy_waits),
        static_cast<unsigned long long>(events.failed_cas),
        static_cast<unsigned long long>(events.device_reads),
        static_cast<unsigned long long>(events.scans));
    std::fflush(stdout);
    ASSERT_EQ(run.FailureText(), "") << phase.name << ", EBB_STRESS_SEED=" << seed;
    total.Add(events);
  }
  const Events least = Least();
  EXPECT_GE(total.operations, least.operations);
  EXPECT_GE(total.page_turns, least.page_turns);
  EXPECT_GE(total.fuzzy_waits, least.fuzzy_waits);
  EXPECT_GE(total.failed_cas, least.failed_cas);
  EXPECT_GE(total.device_reads, least.device_reads);
  EXPECT_GE(total.scans, least.scans);
}

}  // namespace
}  // namespace ebb::test
