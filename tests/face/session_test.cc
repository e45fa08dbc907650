// Sessions: handles that share one store, cost nothing while idle, and move.
//
// Hazard: 6 (an idle session blocks every thread).
#include "ebb/session.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

TEST(SessionTest, AllSessionsSeeOneStore) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto writer = store.NewSession();
  auto reader = store.NewSession();
  for (int i = 0; i < 100; ++i) {
    const std::string value(static_cast<std::size_t>(i * 31 % 200), 'v');
    Must(writer.Upsert("key", value));
    EXPECT_EQ(Must(reader.Read("key")), value);
    EXPECT_EQ(Must(store.Read("key")), value);
    Must(reader.Delete("key"));
    EXPECT_FALSE(Must(writer.Contains("key")));
    Must(store.InsertIfAbsent("key", value));
    EXPECT_EQ(writer.InsertIfAbsent("key", "x").code(), StatusCode::kAlreadyExists);
  }
}

// Hazard 6. Neither a commit nor pages that must leave memory wait for a session that does
// nothing. (With a guard that outlives its call, this test would not end.)
TEST(SessionTest, AnIdleSessionDelaysNoThread) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto idle = store.NewSession();
  auto unused = store.NewSession();
  Must(idle.Upsert(1, 1));
  Must(Commit(store));
  for (std::uint64_t i = 2; i < 5000; ++i) Must(store.Upsert(i, i));
  EXPECT_GT(store.Stats().head_address, 4 * kTinyMemoryBytes / 2);
  Must(Commit(store));
  EXPECT_EQ(Must(idle.Read(1)), 1U);
  Must(store.Close());
}

TEST(SessionTest, ThousandsOfSessionsAreFine) {
  constexpr std::size_t kSessionCount = 5000;
  auto store = Must(OpenTinyInMemory<U64Store>());
  std::vector<U64Store::Session> sessions;
  for (std::size_t i = 0; i < kSessionCount; ++i) sessions.push_back(store.NewSession());
  for (auto& session : sessions) Must(session.Rmw(7, [](std::uint64_t& n) { ++n; }));
  Must(Commit(store));
  for (auto& session : sessions) Must(session.Rmw(7, [](std::uint64_t& n) { ++n; }));
  EXPECT_EQ(Must(sessions.back().Read(7)), 2 * kSessionCount);
  Must(store.Close());
  EXPECT_EQ(sessions.front().Read(7).status().code(), StatusCode::kFailedPrecondition);
}

TEST(SessionTest, AnEndedSessionLeavesItsPlaceToTheNext) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  internal::EpochManager& epochs = CoreOf(store).epochs;
  std::set<internal::EpochSlot*> free_slots;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    auto session = store.NewSession();
    Must(session.Upsert(i, i));
    internal::EpochSlot* const slot = epochs.AcquireSlot();
    free_slots.insert(slot);
    epochs.ReleaseSlot(slot);
  }
  EXPECT_LE(free_slots.size(), 2U);
}

TEST(SessionTest, OutcomesHaveNoMessageAndErrorsDo) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  EXPECT_EQ(session.Read("key").status(), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(session.Delete("key"), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(session.InsertIfAbsent("key", "value"), absl::OkStatus());
  EXPECT_EQ(session.InsertIfAbsent("key", "value"), absl::Status(StatusCode::kAlreadyExists, ""));
  EXPECT_EQ(session.CompareExchange("key", "other", "x"), absl::Status(StatusCode::kAborted, ""));
  EXPECT_EQ(session.CompareExchange("none", "value", "x"), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(session.CompareExchange("key", "value", "x"), absl::OkStatus());
  const absl::Status refused = session.Upsert("key", std::string(5000, 'x'));
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(refused.message().empty());
  // A rejection leaves nothing behind that a later call could return.
  EXPECT_EQ(session.Read("absent").status(), absl::Status(StatusCode::kNotFound, ""));
  EXPECT_EQ(session.Upsert("key", "next"), absl::OkStatus());
  EXPECT_EQ(Must(session.Read("key")), "next");
}

// Below the fast path a function is a reference, or a copy of a small temporary. So each function
// runs once on an absent key (the slow path) and once on a present one (the fast path, if the value
// has a fixed size), and both runs must have the same function.
struct CountsItsCalls {
  template <typename Value>
  void operator()(Value& value) {
    ++calls;
    value.resize(1);
    value[0] = static_cast<char>('0' + calls);
  }
  int calls = 0;
};
void AppendX(std::string& value) { value += 'x'; }
void AddOne(std::uint64_t& value) { ++value; }

TEST(SessionTest, AnRmwCallsTheFunctionOfTheCallerItself) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto session = store.NewSession();
  CountsItsCalls counter;
  Must(session.Rmw("key", counter));
  EXPECT_EQ(Must(session.Read("key")), "1");
  Must(session.Rmw("key", std::ref(counter)));
  EXPECT_EQ(Must(session.Read("key")), "2");
  EXPECT_EQ(counter.calls, 2);
  Must(session.Rmw("key", AppendX));
  Must(session.Rmw("key", &AppendX, "unused"));
  EXPECT_EQ(Must(session.Read("key")), "2xx");
  Must(session.Rmw("new", AppendX, "initial"));
  EXPECT_EQ(Must(session.Read("new")), "initialx");
}

TEST(SessionTest, AnRmwTakesFunctionsOfEveryKind) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  auto session = store.NewSession();
  std::uint64_t key = 0;
  const auto twice = [&](auto&& rmw, std::uint64_t first, std::uint64_t second) {
    ++key;
    Must(rmw());
    EXPECT_EQ(Must(session.Read(key)), first) << key;
    Must(rmw());
    EXPECT_EQ(Must(session.Read(key)), second) << key;
  };
  twice([&] { return session.Rmw(key, AddOne); }, 1, 2);
  twice([&] { return session.Rmw(key, &AddOne, 40); }, 41, 42);
  const auto add_two = [](std::uint64_t& value) { value += 2; };
  twice([&] { return session.Rmw(key, add_two); }, 2, 4);
  std::uint64_t step = 3;
  twice([&] { return session.Rmw(key, [&](std::uint64_t& value) { value += step++; }); }, 3, 7);
  EXPECT_EQ(step, 5U);
  auto mutable_step = [own = std::uint64_t{1}](std::uint64_t& value) mutable { value += own++; };
  twice([&] { return session.Rmw(key, mutable_step, 10); }, 11, 13);
  auto owner = [owned = std::make_unique<std::uint64_t>(4)](std::uint64_t& value) {
    value += (*owned)++;
  };
  twice([&] { return session.Rmw(key, owner); }, 4, 9);
  const std::array<std::uint64_t, 8> large{1, 2, 3, 4, 5, 6, 7, 8};
  twice([&] { return session.Rmw(key, [large](std::uint64_t& value) { value += large[7]; }); }, 8,
        16);
  std::function<bool(std::uint64_t&)> erased = [](std::uint64_t& value) { return ++value > 100; };
  twice([&] { return session.Rmw(key, erased); }, 1, 2);
  EXPECT_EQ(session.serial(), 16U);
}

TEST(SessionTest, AssignedSessionsKeepToTheirStores) {
  auto first = Must(OpenTinyInMemory<U64Store>());
  std::optional<U64Store> second(Must(OpenTinyInMemory<U64Store>()));
  Must(first.Upsert(1, 100));
  Must(second->Upsert(1, 200));
  auto session = first.NewSession();
  auto other = second->NewSession();
  EXPECT_EQ(Must(session.Read(1)), 100U);
  session = std::move(other);
  EXPECT_EQ(Must(session.Read(1)), 200U);
  session = first.NewSession();
  EXPECT_EQ(Must(session.Read(1)), 100U);
  second.reset();
  EXPECT_EQ(Must(session.Read(1)), 100U);
}

TEST(SessionTest, ASessionMayEndInAnotherThreadAndAfterItsStore) {
  std::optional<U64Store::Session> session;
  {
    auto store = Must(OpenTinyInMemory<U64Store>());
    session.emplace(store.NewSession());
    Must(session->Upsert(1, 1));
    auto early = store.NewSession();
    std::thread([moved = std::move(early)]() mutable { Must(moved.Upsert(2, 2)); }).join();
    EXPECT_EQ(Must(store.Read(2)), 2U);
  }
  std::thread([&] { session.reset(); }).join();
}

// The visitor is shown a copy of a value that may change, so a later write (by another session,
// from inside the visitor) does not change it under the visitor's eyes.
TEST(SessionTest, AVisitorsViewStaysWhileOthersWrite) {
  auto store = Must(OpenTinyInMemory<StringStore>());
  auto reader = store.NewSession();
  auto writer = store.NewSession();
  const std::string before(100, 'b');
  const std::string after(100, 'a');
  Must(writer.Upsert("key", before));
  Must(reader.Read("key", [&](std::string_view value) {
    EXPECT_EQ(value, before);
    Must(writer.Upsert("key", after));
    EXPECT_EQ(value, before);
  }));
  EXPECT_EQ(Must(reader.Read("key")), after);
}

}  // namespace
}  // namespace ebb::test
