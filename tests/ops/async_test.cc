// Asynchronous operations: the outcomes of the synchronous calls, for all kinds of types, in memory
// and on the device, by callback and by coroutine.
#include "ebb/internal/ops/async.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#if defined(__cpp_impl_coroutine)
#include <coroutine>
#endif

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/allocation_count.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/words.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

// A store on the device, and a model of the acknowledged updates. At most one operation of a key is
// pending, so that its outcome is known when it is begun.
template <typename Types>
class AsyncTypesTest : public testing::Test {
 protected:
  using K = typename Types::KeyType;
  using V = typename Types::ValueType;
  AsyncTypesTest()
      : store_(Must(OpenTiny<Store<K, V>>("db", &files_))), session_(store_.NewSession()) {}

  std::uint64_t Random(std::uint64_t below) { return random_() % below; }
  auto Expect(std::uint64_t id, StatusCode code) {
    ++open_[id];
    return [this, id, code](const absl::Status& status) {
      EXPECT_EQ(status.code(), code) << status;
      --open_[id];
      ++told_;
    };
  }
  void Step() {
    const std::uint64_t id = Random(8) == 0 ? Random(4) : Random(1500);
    if (open_[id] != 0) session_.CompletePending();
    ASSERT_EQ(open_[id], 0);
    const auto found = model_.find(id);
    const std::optional<V> held =
        found == model_.end() ? std::nullopt : std::optional<V>(found->second);
    if (Random(3) == 0) {
      Read(id, held);
    } else if (Random(2) == 0) {
      Change(id, held);
    } else {
      Set(id, held);
    }
    max_pending_ = std::max<std::uint64_t>(max_pending_, session_.pending_count());
    if (Random(100) == 0) session_.CompletePending(Random(2) == 0);
  }
  void Read(std::uint64_t id, const std::optional<V>& held) {
    const auto tell = Expect(id, held.has_value() ? StatusCode::kOk : StatusCode::kNotFound);
    session_.ReadAsync(Make<K>::From(id), [tell, held](absl::StatusOr<V> read) {
      tell(read.status());
      if (read.ok() && held.has_value()) {
        EXPECT_TRUE(*read == *held);
      }
    });
  }
  void Change(std::uint64_t id, const std::optional<V>& held) {
    const std::uint64_t n = Random(1000);
    if (Random(2) == 0) {
      const auto tell = Expect(id, held.has_value() ? StatusCode::kOk : StatusCode::kNotFound);
      session_.DeleteAsync(Make<K>::From(id), tell);
      model_.erase(id);
      return;
    }
    V value = held.has_value() ? *held : Make<V>::From(7);
    Make<V>::Edit(value, n);
    model_[id] = value;
    session_.RmwAsync(
        Make<K>::From(id), [n](V& edited) { Make<V>::Edit(edited, n); },
        Expect(id, StatusCode::kOk), Make<V>::From(7));
  }
  void Set(std::uint64_t id, const std::optional<V>& held) {
    const V value = Make<V>::From(Random(1000));
    switch (Random(3)) {
      case 0:
        Must(session_.Upsert(Make<K>::From(id), value));
        model_[id] = value;
        break;
      case 1:
        session_.InsertIfAbsentAsync(
            Make<K>::From(id), value,
            Expect(id, held.has_value() ? StatusCode::kAlreadyExists : StatusCode::kOk));
        model_.try_emplace(id, value);
        break;
      default: {
        const bool right = held.has_value() && Random(2) == 0;
        session_.CompareExchangeAsync(Make<K>::From(id), right ? *held : Make<V>::From(1000000),
                                      value,
                                      Expect(id, !held.has_value() ? StatusCode::kNotFound
                                                 : right           ? StatusCode::kOk
                                                                   : StatusCode::kAborted));
        if (right) model_[id] = value;
      }
    }
  }

  SimFileSystem files_;
  Store<K, V> store_;
  typename Store<K, V>::Session session_;
  std::map<std::uint64_t, V> model_;
  std::map<std::uint64_t, int> open_;  // pending ones of a key
  std::uint64_t told_ = 0;
  std::uint64_t max_pending_ = 0;
  std::mt19937_64 random_{5};
};
TYPED_TEST_SUITE(AsyncTypesTest, KeyValuePairs);

TYPED_TEST(AsyncTypesTest, OutcomesAreThoseOfTheSynchronousCalls) {
  using KeyType = typename TypeParam::KeyType;
  for (int step = 0; step < 12000; ++step) this->Step();
  this->session_.CompletePending();
  for (const auto& [id, count] : this->open_) EXPECT_EQ(count, 0) << id;
  EXPECT_GT(this->told_, 8000U);
  EXPECT_GT(this->max_pending_, 10U) << "nothing has waited for the device";
  for (const auto& [id, value] : this->model_) {
    EXPECT_TRUE(Must(this->session_.Read(Make<KeyType>::From(id))) == value) << id;
  }
}

TEST(AsyncTest, OperationsInMemoryEndWithinTheCall) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  Must(session.Upsert("a", "1"));
  int told = 0;
  session.ReadAsync("a", [&](absl::StatusOr<std::string> value) {
    EXPECT_EQ(Must(value), "1");
    ++told;
  });
  auto owned = std::make_unique<int>(2);  // a move-only type
  session.RmwAsync(
      "a", [owned = std::move(owned)](std::string& value) { value += std::to_string(*owned); },
      [&, more = std::make_unique<int>(1)](const absl::Status& status) {
        Must(status);
        told += *more;
      });
  session.DeleteAsync("b", [&](const absl::Status& status) { told += IsNotFound(status) ? 1 : 0; });
  EXPECT_EQ(told, 3);
  EXPECT_EQ(session.pending_count(), 0U);
  EXPECT_EQ(Must(session.Read("a")), "12");
  EXPECT_EQ(session.serial(), 3U);
}

TEST(AsyncTest, BadInputIsRejectedAsByTheSynchronousCalls) {
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  Options options = TinyOptions();
  options.max_key_bytes = 10;
  options.max_value_bytes = 20;
  auto store = Must(OpenIn<StringStore>("", environment, options));
  auto session = store.NewSession();
  Must(session.Upsert("a", "1"));
  const std::string long_key(11, 'k');
  const std::string long_value(21, 'v');
  int refused = 0;
  const auto count = [&](const absl::Status& status) {
    EXPECT_TRUE(FailsWith(status, StatusCode::kInvalidArgument, "max_")) << status;
    ++refused;
  };
  session.InsertIfAbsentAsync(long_key, "1", count);
  session.InsertIfAbsentAsync("a", long_value, count);
  session.CompareExchangeAsync("a", "0", long_value, count);
  session.RmwAsync(
      "a", [&](std::string& value) { value = long_value; }, count);
  session.RmwAsync(
      long_key, [](std::string&) {}, count);
  EXPECT_EQ(refused, 5);
  EXPECT_EQ(Must(session.Read("a")), "1");
}

// The real ring under a real store, when there is one; else the pool.
TEST(AsyncTest, AStoreOnFilesReadsThroughTheRing) {
  for (const bool wants_ring : {true, false}) {
    TempDir temp;
    Options options;
    options.log_memory_bytes = std::uint64_t{1} << 20;
    options.index_bucket_count = 1024;
    options.io_uring = wants_ring;
    auto store = Must(StringStore::Open(temp / "db", options));
    if (!wants_ring) EXPECT_FALSE(store.Stats().io_uring);
    auto session = store.NewSession();
    constexpr int kCount = 30000;
    for (int i = 0; i < kCount; ++i) {
      Must(session.Upsert(std::to_string(i), std::string(100, static_cast<char>('a' + i % 26))));
    }
    int right = 0;
    for (int i = 0; i < kCount; ++i) {
      session.ReadAsync(std::to_string(i), [&, i](absl::StatusOr<std::string> value) {
        right += value.ok() && *value == std::string(100, static_cast<char>('a' + i % 26)) ? 1 : 0;
      });
    }
    session.CompletePending();
    EXPECT_EQ(right, kCount);
    Must(store.Close());
  }
}

// ---- serials ----

TEST(AsyncTest, AnUpdateCallsBackWithTheSerialThatItTook) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  auto session = store.NewSession();
  for (std::uint64_t key = 0; key < 3; ++key) Must(session.Upsert(key, key));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  Must(session.Upsert(3, 3));
  std::map<std::string, std::uint64_t> serials;
  const auto note = [&](const char* what, StatusCode code) {
    return [&, what, code](const absl::Status& status, std::uint64_t serial) {
      EXPECT_EQ(status.code(), code) << what << ": " << status;
      EXPECT_TRUE(serials.emplace(what, serial).second) << what;
    };
  };
  const auto add = [](std::uint64_t& value) { ++value; };
  // These wait for the device.
  session.RmwAsync(0, add, note("pending rmw", StatusCode::kOk));
  session.DeleteAsync(1, note("pending delete", StatusCode::kOk));
  session.InsertIfAbsentAsync(2, 7, note("pending insert", StatusCode::kAlreadyExists));
  ASSERT_EQ(session.pending_count(), 3U);
  // These do not.
  session.RmwAsync(3, add, note("rmw", StatusCode::kOk));
  session.DeleteAsync(500, note("delete", StatusCode::kNotFound));
  session.InsertIfAbsentAsync(4, 7, note("insert", StatusCode::kOk));
  session.CompareExchangeAsync(3, 3, 8, note("comparison", StatusCode::kAborted));
  Must(session.Upsert(5, 5));
  EXPECT_EQ(serials, (std::map<std::string, std::uint64_t>{
                         {"rmw", 5}, {"delete", 6}, {"insert", 7}, {"comparison", 8}}));
  session.CompletePending();
  EXPECT_EQ(session.serial(), 12U);
  std::vector<std::uint64_t> pending;
  for (const char* what : {"pending rmw", "pending delete", "pending insert"}) {
    pending.push_back(serials.at(what));
  }
  std::sort(pending.begin(), pending.end());
  EXPECT_EQ(pending, (std::vector<std::uint64_t>{10, 11, 12}));

  Must(store.Close());
  session.RmwAsync(0, add, note("closed rmw", StatusCode::kFailedPrecondition));
  session.DeleteAsync(0, note("closed delete", StatusCode::kFailedPrecondition));
  EXPECT_EQ(serials.at("closed rmw"), 0U);
  EXPECT_EQ(serials.at("closed delete"), 0U);
}

TEST(AsyncTest, ARejectedUpdateCallsBackWithoutASerial) {
  SimFileSystem files;
  Options options = TinyOptions();
  options.max_value_bytes = 20;
  auto store = Must(OpenIn<StringStore>("db", TinyEnvironment(&files), options));
  auto session = store.NewSession();
  Must(session.Upsert("a", "1"));
  Must(session.Upsert("b", "1"));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert("fill " + std::to_string(i), "2")); });
  const std::string long_value(21, 'v');
  int told = 0;
  const auto rejected = [&](StatusCode code) {
    return [&, code](const absl::Status& status, std::uint64_t serial) {
      EXPECT_EQ(status.code(), code) << status;
      EXPECT_EQ(serial, 0U);
      ++told;
    };
  };
  session.InsertIfAbsentAsync("a", long_value, rejected(StatusCode::kInvalidArgument));
  session.CompareExchangeAsync("a", "1", long_value, rejected(StatusCode::kInvalidArgument));
  session.RmwAsync(
      "a", [&](std::string& value) { value = long_value; }, rejected(StatusCode::kInvalidArgument));
  EXPECT_EQ(told, 2);
  session.CompletePending();
  EXPECT_EQ(told, 3);
  EXPECT_EQ(session.serial(), 2U);
  session.DeleteAsync("b", rejected(StatusCode::kFailedPrecondition));
  ASSERT_EQ(session.pending_count(), 1U);
  Must(store.Close());
  EXPECT_EQ(told, 4);
  EXPECT_EQ(session.serial(), 2U);
}

// A callback commits, and the power fails. The surviving updates are those whose serials are not
// above the reported one, whenever they were begun.
TEST(AsyncTest, ACrashLeavesTheUpdatesUpToTheRecoveredSerial) {
  constexpr std::uint64_t kKeys = 200;
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  for (std::uint64_t key = 0; key < kKeys; key += 3) Must(store.Upsert(key, key));
  auto session = Must(store.NewSession("async"));
  std::vector<std::uint64_t> serials(kKeys);
  std::vector<std::unique_ptr<SimFileSystem>> crashed;
  std::vector<std::uint64_t> recovered;
  std::uint64_t told = 0;
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    const auto done = [&, key](const absl::Status& status, std::uint64_t serial) {
      Must(status);
      serials[key] = serial;
      if (++told % 20 != 10) return;
      recovered.push_back(session.serial());
      Must(Commit(store));
      crashed.push_back(files.Crash(kNothingSurvives));
    };
    if (key % 2 == 0) {
      session.RmwAsync(
          key, [](std::uint64_t& value) { value += 5000; }, done);
    } else {
      session.DeleteAsync(key, done);
    }
  }
  EXPECT_LT(told, kKeys) << "nothing has waited";
  session.CompletePending();
  EXPECT_FALSE(std::is_sorted(serials.begin(), serials.end()));
  ASSERT_EQ(crashed.size(), 10U);
  for (std::size_t i = 0; i < crashed.size(); ++i) {
    auto left = Must(OpenTiny<U64Store>("db", crashed[i].get()));
    ASSERT_EQ(left.recovery().sessions.size(), 1U);
    ASSERT_EQ(left.recovery().sessions[0].serial, recovered[i]);
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      const absl::StatusOr<std::uint64_t> value = left.Read(key);
      const bool included = serials[key] <= recovered[i];
      if (key % 2 == 0) {
        EXPECT_EQ(Must(value), key + (included ? 5000 : 0)) << key;
      } else {
        EXPECT_EQ(value.ok(), !included) << key;
      }
    }
  }
}

// The callbacks that the destructor of a session runs may call it, as those of CompletePending.
TEST(AsyncTest, CallbacksOfTheDestructorMayCallTheSession) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  constexpr std::uint64_t kKeys = 20;
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, key));
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  std::uint64_t called = 0;
  {
    U64Store::Session session = Must(store.NewSession("ends"));
    for (std::uint64_t key = 0; key + 1 < kKeys; ++key) {
      session.ReadAsync(key, [&, key](const absl::StatusOr<std::uint64_t>& found) {
        EXPECT_EQ(Must(found), key);
        Must(session.Upsert(key, 100 + key));
        session.RmwAsync(
            key + 1, [](std::uint64_t& value) { value += 1000; },
            [&](const absl::Status& status) {
              Must(status);
              ++called;
              EXPECT_EQ(session.name(), "ends");
            });
      });
    }
    EXPECT_GT(session.pending_count(), 0U) << "nothing has waited";
  }
  EXPECT_EQ(called, kKeys - 1);
  EXPECT_EQ(Must(store.Read(kKeys - 1)), kKeys - 1 + 1000);
  EXPECT_GE(Must(store.NewSession("ends")).serial(), 2 * (kKeys - 1));
}

#if defined(__cpp_impl_coroutine)

// The smallest type of a coroutine: begins at once, is gone at its end.
struct Job {
  struct promise_type {
    Job get_return_object() { return {}; }
    std::suspend_never initial_suspend() { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { ADD_FAILURE(); }
  };
};

Job Transfer(U64Store::Session& session, std::uint64_t from, std::uint64_t to, int& done) {
  const absl::StatusOr<std::uint64_t> amount = co_await session.ReadAwait(from);
  EXPECT_EQ(Must(amount), from);
  Must(co_await session.DeleteAwait(from));
  Must(co_await session.RmwAwait(to, [amount](std::uint64_t& value) { value += *amount; }));
  EXPECT_TRUE(absl::IsNotFound((co_await session.ReadAwait(from)).status()));
  ++done;
}

TEST(AsyncTest, CoroutinesAwaitTheOutcome) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  auto session = store.NewSession();
  for (std::uint64_t i = 0; i < 400; ++i) Must(session.Upsert(i, i));
  PushOut(store, [&](std::uint64_t i) { Must(session.Upsert(1000 + i, i)); });
  int done = 0;
  for (std::uint64_t i = 0; i < 200; ++i) Transfer(session, i, i + 200, done);
  EXPECT_LT(done, 200);
  while (session.CompletePending() != 0) {
  }
  EXPECT_EQ(done, 200);
  Must(session.Upsert(5, 5));
  Transfer(session, 5, 2005, done);  // all in memory: to its end at once
  session.CompletePending();
  EXPECT_EQ(done, 201);
  for (std::uint64_t i = 0; i < 200; ++i) EXPECT_EQ(Must(session.Read(i + 200)), 2 * i + 200);
}

TEST(AsyncTest, ACoroutineIsToldOfLackOfMemory) {
  if (!kAllocationsCanFail) GTEST_SKIP() << "sanitizers have allocators of their own";
  auto store = Must(OpenTinyInMemory<U64StringStore>());
  U64StringStore::Session session = store.NewSession();
  const std::string initial(1000, 'x');
  absl::Status status;
  const auto edit = [&]() -> Job {
    status = co_await session.RmwAwait(
        1, [](std::string&) {}, initial);
  };
  std::uint64_t refused = 0;
  for (std::uint64_t number = 1;; ++number) {
    status = absl::UnknownError("");
    FailAllocation(number + 1);  // the first one is the coroutine's own
    edit();
    if (!FailAllocation(0)) break;
    ++refused;
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
  }
  Must(status);
  EXPECT_GE(refused, 2U);
  EXPECT_EQ(Must(session.Read(1)), initial);
}

TEST(AsyncTest, CloseResumesCoroutinesWithTheReason) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  auto session = store.NewSession();
  Must(session.Upsert(1, 1));
  PushOut(store, [&](std::uint64_t i) { Must(session.Upsert(1000 + i, i)); });
  std::optional<absl::Status> status;
  const auto wait = [&]() -> Job { status = (co_await session.ReadAwait(1)).status(); };
  wait();
  EXPECT_FALSE(status.has_value());
  Must(store.Close());
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(absl::IsFailedPrecondition(*status));
}

#endif

}  // namespace
}  // namespace ebb::test
