// Callbacks: which calls they may make, from every callback; objects destroyed inside one; and the
// effect of a throw. The tables in ebb/session.h and ebb/options.h state the expected results.
//
// Hazard: 49 (a callback throws or calls back).
#include "ebb/internal/core/callback_scope.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/verify.h"
#include "gtest/gtest.h"
#include "tests/support/collection_kit.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/watchdog.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::CallbackKind;
using internal::CallbackScope;
using internal::FindCallback;
using internal::HitCallback;
using internal::InCallback;

// ---- the word ----

struct alignas(64) SomeStore {};

TEST(CallbackScopeTest, NestedCallbacksOfSeveralStoresAreAllFound) {
  const SomeStore a;
  const SomeStore b;
  EXPECT_FALSE(InCallback());
  {
    const HitCallback hit(&a, CallbackKind::kUpdate);
    EXPECT_TRUE(InCallback());
    EXPECT_EQ(FindCallback(&a), CallbackKind::kUpdate);
    EXPECT_EQ(FindCallback(&b), CallbackKind::kNone);
    {
      const CallbackScope scope(&b, CallbackKind::kBackup);
      const CallbackScope inner(&b, CallbackKind::kRead);
      EXPECT_EQ(FindCallback(&a), CallbackKind::kUpdate);
      EXPECT_EQ(FindCallback(&b), CallbackKind::kRead) << "the innermost";
      std::thread([&] { EXPECT_FALSE(InCallback()); }).join();
    }
    EXPECT_EQ(FindCallback(&a), CallbackKind::kUpdate);
    EXPECT_EQ(FindCallback(&b), CallbackKind::kNone);
  }
  EXPECT_FALSE(InCallback());
}

TEST(CallbackScopeTest, AThrowLeavesNoMark) {
  const SomeStore a;
  EXPECT_ANY_THROW({
    const HitCallback hit(&a, CallbackKind::kRead);
    const CallbackScope scope(&a, CallbackKind::kRead);
    throw 1;
  });
  EXPECT_FALSE(InCallback());
}

TEST(CallbackScopeTest, AnExceptionBecomesAStatusThatNamesTheCallback) {
  const auto error = [](auto thrown) {
    return internal::ThrownError(CallbackKind::kCollection, std::make_exception_ptr(thrown));
  };
  EXPECT_TRUE(FailsWith(error(std::runtime_error("boom")), StatusCode::kUnknown,
                        "GcOptions::progress threw: boom"));
  EXPECT_TRUE(FailsWith(error(1), StatusCode::kUnknown, "GcOptions::progress threw"));
}

// ---- every call from every callback ----

constexpr std::uint64_t kHot = 1;         // in memory, mutable
constexpr std::uint64_t kHotToo = 2;      // likewise
constexpr std::uint64_t kCold = 3;        // on the device
constexpr std::uint64_t kColdToo = 4;     // likewise
constexpr std::uint64_t kNew = 5;         // absent
constexpr std::uint64_t kFillers = 1000;  // from here on

template <typename Value>
Value Make(std::uint64_t n) {
  if constexpr (std::is_same_v<Value, std::string>) {
    return std::to_string(n) + std::string(800, 'v');
  } else if constexpr (std::is_same_v<Value, Triple>) {
    return {n, n, n};
  } else {
    return n;
  }
}

template <typename Value>
struct Rig {
  using Db = Store<std::uint64_t, Value>;
  using Session = typename Db::Session;

  Rig() : store(Must(OpenIn<Db>("db", SmallFiles(&files)))), session(store.NewSession()) {
    Must(store.NewSession("known").status());
    // The cold keys are far behind the first page, so that the first step of a collection does not
    // reach them.
    for (std::uint64_t i = 0; i < 250; ++i) Must(store.Upsert(kFillers + i, Make<Value>(i)));
    for (const std::uint64_t key : {kCold, kColdToo}) Must(store.Upsert(key, Make<Value>(key)));
    PushOut(store,
            [&](std::uint64_t i) { Must(store.Upsert(kFillers + 250 + i, Make<Value>(i))); });
    for (const std::uint64_t key : {kHot, kHotToo}) Must(store.Upsert(key, Make<Value>(key)));
    other.emplace(store.NewSession());
    other->ReadAsync(kColdToo, [this](const auto&) { ++told; });
    it.emplace(store.NewScan());
    for (const std::uint64_t key : {kHot, kHotToo}) Must(store.Upsert(key, Make<Value>(key)));
  }
  void ExpectUnharmed() {
    for (const std::uint64_t key : {kHot, kHotToo, kCold, kColdToo}) {
      EXPECT_EQ(Must(store.Read(key)), Make<Value>(key)) << key;
    }
    EXPECT_FALSE(Must(store.Contains(kNew)));
    EXPECT_EQ(other->CompletePending(), 1U);
    EXPECT_EQ(told, 1);
    Must(store.Commit());
    Must(store.Close());
  }

  SimFileSystem files;
  Db store;
  Session session;               // whose calls run callbacks
  std::optional<Session> other;  // which callbacks call; has a pending operation
  int told = 0;
  std::optional<ScanIterator<std::uint64_t, Value>> it;
};

template <typename R>
struct Call {
  std::string name;
  std::function<absl::Status(R&)> run;
};

template <typename Value, typename Calls>
std::vector<Call<Rig<Value>>> OperationsOf(const std::string& on,
                                           std::function<Calls&(Rig<Value>&)> get) {
  using R = Rig<Value>;
  const auto edit = [](Value&) { FAIL() << "a rejected function ran"; };
  const auto visit = [](const auto&) { FAIL() << "a rejected visitor ran"; };
  return {
      {on + "Read", [=](R& r) { return get(r).Read(kCold).status(); }},
      {on + "Read into",
       [=](R& r) {
         Value value{};
         return get(r).Read(kCold, value);
       }},
      {on + "Read visitor", [=](R& r) { return get(r).Read(kHot, visit); }},
      {on + "Read cold visitor", [=](R& r) { return get(r).Read(kCold, visit); }},
      {on + "Contains", [=](R& r) { return get(r).Contains(kCold).status(); }},
      {on + "Upsert", [=](R& r) { return get(r).Upsert(kNew, Make<Value>(0)); }},
      {on + "Rmw", [=](R& r) { return get(r).Rmw(kHotToo, edit); }},
      {on + "Rmw new", [=](R& r) { return get(r).Rmw(kNew, edit); }},
      {on + "Delete", [=](R& r) { return get(r).Delete(kHotToo); }},
      {on + "InsertIfAbsent", [=](R& r) { return get(r).InsertIfAbsent(kNew, Make<Value>(0)); }},
      {on + "CompareExchange",
       [=](R& r) { return get(r).CompareExchange(kCold, Make<Value>(kCold), Make<Value>(0)); }},
  };
}

// Begins an asynchronous operation and returns the outcome, which comes at once.
template <typename Begin>
absl::Status OutcomeOf(Begin begin) {
  std::optional<absl::Status> outcome;
  begin([&](const auto& result) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(result)>, absl::Status>) {
      outcome = result;
    } else {
      outcome = result.status();
    }
  });
  return outcome.value_or(absl::UnknownError("not told"));
}

template <typename Value>
std::vector<Call<Rig<Value>>> SessionCalls() {
  using R = Rig<Value>;
  using Key = std::uint64_t;
  using View = std::conditional_t<std::is_same_v<Value, std::string>, std::string_view, Value>;
  const auto edit = [](Value&) { FAIL() << "a rejected function ran"; };
  const auto first = [](auto&& batch) {
    std::array<absl::Status, 1> results;
    EXPECT_EQ(batch(results), 0U);
    return results[0];
  };
  return {
      {"WaitDurable", [](R& r) { return r.other->WaitDurable(); }},
      {"ReadAsync",
       [](R& r) { return OutcomeOf([&](auto done) { r.other->ReadAsync(kCold, done); }); }},
      {"RmwAsync",
       [=](R& r) { return OutcomeOf([&](auto done) { r.other->RmwAsync(kHotToo, edit, done); }); }},
      {"DeleteAsync",
       [](R& r) { return OutcomeOf([&](auto done) { r.other->DeleteAsync(kHotToo, done); }); }},
      {"InsertIfAbsentAsync",
       [](R& r) {
         return OutcomeOf(
             [&](auto done) { r.other->InsertIfAbsentAsync(kNew, Make<Value>(0), done); });
       }},
      {"CompareExchangeAsync",
       [](R& r) {
         return OutcomeOf([&](auto done) {
           r.other->CompareExchangeAsync(kCold, Make<Value>(kCold), Make<Value>(0), done);
         });
       }},
      {"ReadBatch",
       [=](R& r) {
         const std::array<Key, 1> keys{kCold};
         std::array<Value, 1> values;
         return first([&](auto& results) { return r.other->ReadBatch(keys, values, results); });
       }},
      {"UpsertBatch",
       [=](R& r) {
         const std::array<Key, 1> keys{kNew};
         const Value value = Make<Value>(0);
         const std::array<View, 1> values{View(value)};
         return first([&](auto& results) { return r.other->UpsertBatch(keys, values, results); });
       }},
      {"RmwBatch",
       [=](R& r) {
         const std::array<Key, 1> keys{kHotToo};
         return first([&](auto& results) {
           return r.other->RmwBatch(
               keys, [=](std::size_t, Value& value) { edit(value); }, results);
         });
       }},
      {"DeleteBatch",
       [=](R& r) {
         const std::array<Key, 1> keys{kHotToo};
         return first([&](auto& results) { return r.other->DeleteBatch(keys, results); });
       }},
  };
}

template <typename Value>
std::vector<Call<Rig<Value>>> StoreCalls() {
  using R = Rig<Value>;
  const auto never = [](const auto&, const auto&) { FAIL() << "a rejected scan showed a key"; };
  return {
      {"NewSession(name)", [](R& r) { return r.store.NewSession("name").status(); }},
      {"ForgetSession", [](R& r) { return r.store.ForgetSession("known"); }},
      {"NewScan", [](R& r) { return r.store.NewScan().status(); }},
      {"Scan", [=](R& r) { return r.store.Scan(never); }},
      {"ScanAll", [](R& r) { return r.store.ScanAll().status(); }},
      {"ScanIterator::Next",
       [](R& r) {
         EXPECT_FALSE(r.it->Next());
         return r.it->status();
       }},
      {"Commit", [](R& r) { return r.store.Commit(); }},
      {"Checkpoint", [](R& r) { return r.store.Checkpoint().status(); }},
      {"CleanupCheckpoints", [](R& r) { return r.store.CleanupCheckpoints(1).status(); }},
      {"GrowIndex", [](R& r) { return r.store.GrowIndex(); }},
      {"CollectGarbage", [](R& r) { return r.store.CollectGarbage(kCollectEverything).status(); }},
      {"ShouldCollect", [](R& r) { return r.store.ShouldCollect().status(); }},
      {"EstimateGarbage", [](R& r) { return r.store.EstimateGarbage().status(); }},
      {"StartBackground", [](R& r) { return r.store.StartBackground(); }},
      {"StopBackground", [](R& r) { return r.store.StopBackground(); }},
      {"Backup", [](R& r) { return r.store.Backup("inner").status(); }},
      {"Verify", [](R& r) { return r.store.Verify().status(); }},
      {"Close", [](R& r) { return r.store.Close(); }},
  };
}

// Calls that every callback may make.
template <typename Value>
void MakeAllowedCalls(Rig<Value>& r) {
  static_cast<void>(r.store.ListCheckpoints());
  static_cast<void>(r.store.GetCheckpointStats());
  static_cast<void>(r.store.GetBackgroundStats());
  static_cast<void>(r.store.recovery());
  static_cast<void>(r.store.ApproximateSize());
  static_cast<void>(r.store.Stats());
  static_cast<void>(r.store.Metrics());
  r.store.ResetMetrics();
  auto made = r.store.NewSession();
  EXPECT_EQ(made.serial(), 0U);
  EXPECT_TRUE(made.name().empty());
  EXPECT_EQ(made.pending_count(), 0U);
  EXPECT_EQ(r.other->CompletePending(), 0U);
  EXPECT_EQ(r.session.CompletePending(), 0U);
  EXPECT_LE(r.session.pending_count(), 1U);
  // Fast paths of another session wait for nothing: they work or are rejected.
  Value value{};
  for (const absl::Status& status :
       {made.Read(kHotToo, value), made.Upsert(kHotToo, Make<Value>(kHotToo)),
        made.Contains(kHotToo).status()}) {
    EXPECT_TRUE(status.ok() || FailsWith(status, StatusCode::kFailedPrecondition, "callback"));
  }
}

// All calls of a program on another store, also inside a callback of that one.
void UseAnotherStore(const std::function<void()>& inside) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
  EXPECT_EQ(Must(store.Read(1)), 1U) << "on the device";
  Must(store.Read(2999, [&](std::uint64_t) { inside(); }));
  Must(store.Rmw(2999, [&](std::uint64_t&) { inside(); }));
  EXPECT_EQ(Must(store.ScanAll()).size(), 3000U);
  Must(store.CollectGarbage(kCollectEverything).status());
  Must(store.Close());
}

// Makes all calls that are rejected.
template <typename Value>
void MakeRejectedCalls(Rig<Value>& r, const std::string& callback) {
  using R = Rig<Value>;
  using Db = typename R::Db;
  using Session = typename R::Session;
  std::vector<Call<R>> calls =
      OperationsOf<Value, Db>("Store::", [](R& rig) -> Db& { return rig.store; });
  for (auto& more :
       {OperationsOf<Value, Session>("Session::", [](R& rig) -> Session& { return *rig.other; }),
        SessionCalls<Value>(), StoreCalls<Value>()}) {
    calls.insert(calls.end(), more.begin(), more.end());
  }
  Watchdog watchdog("a call inside " + callback);
  for (const Call<R>& call : calls) {
    watchdog.Next(call.name + " inside " + callback);
    EXPECT_TRUE(FailsWith(call.run(r), StatusCode::kFailedPrecondition, callback))
        << call.name << " inside " << callback;
    EXPECT_TRUE(InCallback());
  }
}

template <typename Value>
void MakeAllCalls(Rig<Value>& r, const std::string& callback) {
  MakeRejectedCalls(r, callback);
  const Watchdog watchdog("an allowed call inside " + callback);
  MakeAllowedCalls(r);
  UseAnotherStore([&] { MakeRejectedCalls(r, callback); });
  std::thread([&] { EXPECT_EQ(Must(r.store.Read(kHot)), Make<Value>(kHot)); }).join();
}

const std::string kVisitorName = "the visitor of a Read";
const std::string kFunctionName = "the function of an Rmw";

template <typename Value>
class OperationCallbackTest : public testing::Test {};
using Values = testing::Types<std::uint64_t, Triple, std::string>;
TYPED_TEST_SUITE(OperationCallbackTest, Values);

TYPED_TEST(OperationCallbackTest, AVisitorMayNotCallItsStore) {
  for (const std::uint64_t key : {kHot, kCold}) {
    for (const bool of_store : {false, true}) {
      Rig<TypeParam> r;
      int runs = 0;
      const auto visit = [&](const auto& value) {
        ++runs;
        EXPECT_EQ(TypeParam(value), Make<TypeParam>(key));
        MakeAllCalls(r, kVisitorName);
        EXPECT_EQ(TypeParam(value), Make<TypeParam>(key));
      };
      Must(of_store ? r.store.Read(key, visit) : r.session.Read(key, visit));
      EXPECT_EQ(runs, 1);
      EXPECT_FALSE(InCallback());
      r.ExpectUnharmed();
    }
  }
}

TYPED_TEST(OperationCallbackTest, TheFunctionOfAnRmwMayNotCallItsStore) {
  for (const std::uint64_t key : {kHot, kCold, kNew}) {
    for (const std::string form : {"single", "batch", "asynchronous", "store"}) {
      SCOPED_TRACE(form + " of key " + std::to_string(key));
      Rig<TypeParam> r;
      int runs = 0;
      const auto edit = [&](TypeParam& value) {
        if (runs++ == 0) MakeAllCalls(r, kFunctionName);
        EXPECT_EQ(value, key == kNew ? TypeParam{} : Make<TypeParam>(key));
      };
      if (form == "single") {
        Must(r.session.Rmw(key, edit));
      } else if (form == "store") {
        Must(r.store.Rmw(key, edit));
      } else if (form == "batch") {
        const std::array<std::uint64_t, 1> keys{key};
        std::array<absl::Status, 1> results;
        EXPECT_EQ(r.session.RmwBatch(
                      keys, [&](std::size_t, TypeParam& value) { edit(value); }, results),
                  1U);
      } else {
        absl::Status outcome = absl::UnknownError("not told");
        r.session.RmwAsync(key, edit, [&](const absl::Status& status) { outcome = status; });
        r.session.CompletePending();
        Must(outcome);
      }
      EXPECT_GE(runs, 1);
      EXPECT_FALSE(InCallback());
      if (key == kNew) Must(r.store.Delete(kNew));
      r.ExpectUnharmed();
    }
  }
}

using StringRig = Rig<std::string>;

TEST(ProgressTest, OfACollectionMayNotCallItsStore) {
  StringRig r;
  GcOptions options = kCollectEverything;
  int runs = 0;
  options.progress = [&](const GcStats&) {
    if (runs++ == 0) MakeAllCalls(r, "GcOptions::progress");
    return true;
  };
  Must(r.store.CollectGarbage(options).status());
  EXPECT_GE(runs, 2);
  r.ExpectUnharmed();
}

// The collection of Close runs while Close holds its own lock.
TEST(ProgressTest, OfTheCollectionOfCloseMayNotCallItsStore) {
  SimFileSystem files;
  Options options = Collecting();
  int runs = 0;
  std::optional<U64StringStore> store;
  options.gc.progress = [&](const GcStats&) {
    ++runs;
    const Watchdog watchdog("a call inside the collection of Close");
    for (const absl::Status& status : {store->Close(), store->Commit(), store->StopBackground()}) {
      EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition, "GcOptions::progress"));
    }
    return true;
  };
  store.emplace(Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options)));
  GarbageModel model;
  for (std::uint64_t i = 0; i < 3000; ++i) Write(*store, model, i % 300, i);
  Must(store->Close());
  EXPECT_GE(runs, 1);
}

// As a background job in the pool.
TEST(ProgressTest, OfABackgroundCollectionMayNotStopIt) {
  SimFileSystem files;
  Options options = Collecting();
  int runs = 0;
  std::optional<U64StringStore> store;
  options.gc.progress = [&](const GcStats&) {
    ++runs;
    const Watchdog watchdog("a call inside a background collection");
    for (const absl::Status& status : {store->StopBackground(), store->Commit(), store->Close(),
                                       store->EstimateGarbage().status()}) {
      EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition, "GcOptions::progress"));
    }
    return true;
  };
  store.emplace(Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options)));
  GarbageModel model;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Write(*store, model, i % 300, i);
    while (CoreOf(*store).pool.RunOne()) {
    }
  }
  EXPECT_GE(runs, 1);
  Must(store->StopBackground());
  ExpectHolds(*store, model, 310);
}

TEST(ProgressTest, OfABackupMayNotCallItsStore) {
  StringRig r;
  int runs = 0;
  Must(r.store
           .Backup("copy",
                   [&](const BackupProgress&) {
                     if (runs++ == 0) MakeAllCalls(r, "the progress function of a Backup");
                   })
           .status());
  EXPECT_GE(runs, 2);
  r.ExpectUnharmed();
}

TEST(ProgressTest, OfAVerificationMayNotCallItsStore) {
  StringRig r;
  int runs = 0;
  const auto progress = [&](const VerifyProgress&) {
    if (runs++ == 0) MakeAllCalls(r, "VerifyOptions::progress");
  };
  EXPECT_TRUE(Must(r.store.Verify({.progress = progress})).ok());
  EXPECT_GE(runs, 2);
  r.ExpectUnharmed();
}

// ---- completion callbacks ----

// `done` of an operation that its session completes may make every call.
TEST(CompletionTest, ACallbackMayUseTheSessionAndTheStore) {
  const Watchdog watchdog("a call inside a completion callback");
  StringRig r;
  int told = 0;
  r.session.ReadAsync(kCold, [&](const absl::StatusOr<std::string>& value) {
    EXPECT_EQ(Must(value), Make<std::string>(kCold));
    Must(r.session.Upsert(kNew, "new"));
    Must(r.session.Read(kColdToo).status());
    r.session.ReadAsync(kFillers, [&](const auto& filler) {
      Must(filler.status());
      ++told;
    });
    EXPECT_EQ(r.session.pending_count(), 1U);
    r.session.CompletePending();
    Must(r.session.WaitDurable());
    Must(r.store.Commit());
    Must(r.store.Checkpoint().status());
    Must(r.store.CollectGarbage(kCollectEverything).status());
    Must(r.store.GrowIndex());
    Must(r.store.Backup("copy").status());
    Must(r.store.Verify().status());
    Must(r.store.ScanAll().status());
    Must(r.store.StopBackground());
    Must(r.store.StartBackground());
    Must(r.store.Delete(kNew));
    ++told;
  });
  EXPECT_EQ(r.session.CompletePending(), 1U);
  EXPECT_EQ(told, 2);
  r.ExpectUnharmed();
}

TEST(CompletionTest, ACallbackMayCloseTheStore) {
  const Watchdog watchdog("Close inside a completion callback");
  StringRig r;
  int told = 0;
  r.session.ReadAsync(kCold, [&](const auto& value) {
    Must(value.status());
    Must(r.store.Close());
    ++told;
  });
  r.session.ReadAsync(kFillers, [&](const auto& value) {
    EXPECT_TRUE(value.ok() || FailsWith(value.status(), StatusCode::kFailedPrecondition));
    ++told;
  });
  r.session.CompletePending();
  EXPECT_EQ(told, 2);
  EXPECT_EQ(r.told, 1) << "of the other session, by Close";
}

// One that Close ends runs inside Close.
TEST(CompletionTest, ACallbackOfCloseMayNotCallTheStore) {
  StringRig r;
  int told = 0;
  r.session.ReadAsync(kCold, [&](const auto& value) {
    EXPECT_TRUE(FailsWith(value.status(), StatusCode::kFailedPrecondition, "closed"));
    MakeRejectedCalls(r, "that Close has ended");
    UseAnotherStore([&] { MakeRejectedCalls(r, "that Close has ended"); });
    ++told;
  });
  Must(r.store.Close());
  EXPECT_EQ(told, 1);
  EXPECT_EQ(r.told, 1);
}

// ---- objects destroyed inside a callback ----

TEST(DestructionTest, ASessionLeaksInsideItsOwnCallback) {
  const Watchdog watchdog("the destruction of a session inside its callback");
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  for (std::uint64_t i = 0; i < 100; ++i) Must(store.Upsert(i, Make<std::string>(i)));
  for (const std::uint64_t key : {0, 99}) {  // on the device, in memory
    std::optional<U64StringStore::Session> session(store.NewSession());
    auto& calls = *session;
    Must(calls.Read(key, [&](std::string_view value) {
      session.reset();
      EXPECT_EQ(value, Make<std::string>(key));
    }));
    session.emplace(store.NewSession());
    Must(session->Rmw(key, [&](std::string&) { session.reset(); }));
  }
  std::optional<U64StringStore::Session> session(store.NewSession());
  int told = 0;
  for (const std::uint64_t key : {10, 11, 12}) {  // on the device
    session->ReadAsync(key, [&](const auto& value) {
      Must(value.status());
      session.reset();
      ++told;
    });
  }
  session->CompletePending();
  EXPECT_EQ(told, 3);
  // On the fast path nothing of the session is needed after its callback.
  session.emplace(store.NewSession());
  session->ReadAsync(99, [&](const auto& value) {
    Must(value.status());
    session.reset();
    ++told;
  });
  EXPECT_EQ(told, 4);
  Must(store.Close());
}

// Inside a callback nothing may wait: pending operations end without effect, and are reported.
TEST(DestructionTest, AnotherSessionEndsInsideACallback) {
  const Watchdog watchdog("the destruction of a session inside another's callback");
  StringRig r;
  absl::Status told;
  r.session.RmwAsync(
      kCold, [](std::string&) { FAIL() << "without effect"; },
      [&](const absl::Status& status) { told = status; });
  EXPECT_EQ(r.session.pending_count(), 1U);
  Must(r.store.Read(kHot, [&](std::string_view) { const auto ended = std::move(r.session); }));
  EXPECT_TRUE(FailsWith(told, StatusCode::kFailedPrecondition, kVisitorName));
  Must(r.store.Rmw(kHot, [&](std::string&) { static_cast<void>(r.store.NewSession()); }));
  r.ExpectUnharmed();
}

TEST(DestructionTest, AStoreLeaksInsideItsCallback) {
  const Watchdog watchdog("the destruction of a store inside its callback");
  auto store = std::make_unique<U64Store>(Must(OpenTinyInMemory<U64Store>()));
  Must(store->Upsert(1, 10));
  auto session = store->NewSession();
  Must(session.Rmw(1, [&](std::uint64_t& value) {
    store.reset();
    ++value;
  }));
  EXPECT_EQ(Must(session.Read(1)), 11U);
}

// exit() runs the destructors of the thread's sessions and of static stores.
class ExitTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  static U64Store& StaticStore(const Options& options = TinyOptions()) {
    internal::Environment environment = TinyEnvironment();
    environment.in_memory = true;
    environment.pool_threads = 1;
    static U64Store store = Must(OpenIn<U64Store>("", environment, options));
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
    return store;
  }
};

TEST_F(ExitTest, InsideAVisitorNeitherHangsNorAborts) {
  EXPECT_EXIT(Must(StaticStore().Read(2999, [](std::uint64_t) { std::exit(3); })),
              testing::ExitedWithCode(3), "the store .* was destroyed inside a callback");
}

TEST_F(ExitTest, InsideAnRmwNeitherHangsNorAborts) {
  EXPECT_EXIT(Must(StaticStore().Rmw(1, [](std::uint64_t&) { std::exit(3); })),
              testing::ExitedWithCode(3), "the store .* was destroyed inside a callback");
}

TEST_F(ExitTest, InsideProgressNeitherHangsNorAborts) {
  GcOptions options = kCollectEverything;
  options.progress = [](const GcStats&) -> bool { std::exit(3); };
  EXPECT_EXIT(Must(StaticStore().CollectGarbage(options).status()), testing::ExitedWithCode(3),
              "the store .* was destroyed inside a callback");
}

// ---- throws ----

TEST(ThrowTest, OfACollectionEndsItAndComesThrough) {
  StringRig r;
  GcOptions options = kCollectEverything;
  int runs = 0;
  options.progress = [&](const GcStats&) -> bool {
    if (++runs == 2) throw std::runtime_error("boom");
    return true;
  };
  r.it.reset();
  const std::uint64_t begin = r.store.Stats().begin_address;
  EXPECT_THROW(static_cast<void>(r.store.CollectGarbage(options)), std::runtime_error);
  EXPECT_EQ(runs, 2);
  EXPECT_FALSE(InCallback());
  EXPECT_EQ(r.store.Metrics().failed_collections, 1U);
  EXPECT_GT(r.store.Stats().begin_address, begin) << "what was copied before it is made use of";
  Must(r.store.CollectGarbage(kCollectEverything).status());
  EXPECT_TRUE(Must(r.store.Verify()).ok());
  r.ExpectUnharmed();
}

TEST(ThrowTest, OfABackgroundCollectionIsCounted) {
  SimFileSystem files;
  Options options = Collecting();
  options.gc.progress = [](const GcStats&) -> bool { throw std::runtime_error("boom"); };
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&files), options));
  GarbageModel model;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Write(store, model, i % 300, i);
    while (CoreOf(store).pool.RunOne()) {
    }
  }
  const BackgroundJobStats gc = store.GetBackgroundStats().gc;
  EXPECT_GE(gc.failure_count, 1U);
  EXPECT_NE(gc.last_error.find("GcOptions::progress threw: boom"), std::string::npos)
      << gc.last_error;
  EXPECT_GE(store.Metrics().failed_collections, 1U);
  ExpectHolds(store, model, 310);
  Must(store.Close());  // whose own collection throws, too
}

TEST(ThrowTest, OfABackupTakesItAwayAndComesThrough) {
  StringRig r;
  int runs = 0;
  const auto progress = [&](const BackupProgress&) {
    if (++runs == 2) throw std::runtime_error("boom");
  };
  EXPECT_THROW(static_cast<void>(r.store.Backup("copy", progress)), std::runtime_error);
  Snapshot left = SnapshotOf(r.files, "copy");
  left.erase("LOCK");
  EXPECT_TRUE(left.empty());
  Must(r.store.Backup("copy").status());
  r.ExpectUnharmed();
}

TEST(ThrowTest, OfAVerificationComesThrough) {
  const TempDir dir;
  auto store = Must(OpenTiny<U64Store>(dir / "db"));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
  VerifyOptions options;
  options.progress = [](const VerifyProgress&) { throw std::runtime_error("boom"); };
  EXPECT_THROW(static_cast<void>(store.Verify(options)), std::runtime_error);
  EXPECT_TRUE(Must(store.Verify()).ok());
  Must(store.Close());
  EXPECT_THROW(static_cast<void>(VerifyDirectory(dir / "db", options)), std::runtime_error);
  EXPECT_TRUE(Must(VerifyDirectory(dir / "db")).ok());
}

TEST(ThrowTest, OfARecoveryReleasesEverythingAndLeavesTheCall) {
  for (const unsigned threads : {0U, 2U}) {
    SimFileSystem files;
    internal::Environment environment = TinyEnvironment(&files);
    environment.pool_threads = threads;
    {
      auto store = Must(OpenIn<U64Store>("db", environment));
      for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
      Must(store.Close());
    }
    const Snapshot before = SnapshotOf(files, "db");
    Options options = TinyOptions();
    int runs = 0;
    options.recovery_progress = [&](const RecoveryProgress&) {
      // The store has no name yet by which it could be called.
      EXPECT_EQ(OpenIn<U64Store>("db", environment).status().code(),
                StatusCode::kFailedPrecondition);
      if (++runs == 3) throw std::runtime_error("boom");
    };
    EXPECT_THROW(static_cast<void>(OpenIn<U64Store>("db", environment, options)),
                 std::runtime_error);
    EXPECT_EQ(SnapshotOf(files, "db"), before);
    auto store = Must(OpenIn<U64Store>("db", environment));
    EXPECT_EQ(Must(store.Read(2999)), 2999U);
  }
}

// An exception of a completion callback leaves the call that ran it. All others still run.
TEST(ThrowTest, OfACompletionLeavesCloseWhichCanBeCalledAgain) {
  StringRig r;
  int told = 0;
  for (const std::uint64_t key : {kCold, kFillers}) {
    r.session.ReadAsync(key, [&](const auto&) {
      ++told;
      throw std::runtime_error("boom");
    });
  }
  EXPECT_THROW(static_cast<void>(r.store.Close()), std::runtime_error);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(r.told, 1);
  Must(r.store.Close());
  auto store = Must(OpenIn<U64StringStore>("db", SmallFiles(&r.files)));
  EXPECT_EQ(Must(store.Read(kHot)), Make<std::string>(kHot));
}

TEST(ThrowTest, OfACompletionInDestructorsIsPrinted) {
  int told = 0;
  const auto done = [&](const auto&) {
    ++told;
    throw std::runtime_error("boom");
  };
  SimFileSystem files;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
    std::optional<U64Store::Session> session(store.NewSession());
    for (const std::uint64_t key : {1, 700}) session->ReadAsync(key, done);
    session.reset();
    EXPECT_EQ(told, 2);
    session.emplace(store.NewSession());
    session->ReadAsync(1, done);
    auto closing = std::move(store);  // its destructor closes first
    static_cast<void>(closing);
  }
  EXPECT_EQ(told, 3);
  auto store = Must(OpenTiny<U64Store>("db", &files));
  EXPECT_EQ(Must(store.Read(2999)), 2999U);
}

}  // namespace
}  // namespace ebb::test
