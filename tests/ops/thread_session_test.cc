// The sessions behind calls on a store itself: one for each thread and store, found again, dropped
// when the store is closed, released when the thread ends.
#include "ebb/internal/ops/thread_session.h"

#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using internal::Core;
using internal::FindThreadSession;
using internal::KeepThreadSession;
using internal::LastSession;
using internal::OpenedStore;
using internal::SessionState;

// The core lives as long as its coordinator, whose end would close it.
std::shared_ptr<Core> OpenCore() {
  internal::Environment environment = TinyEnvironment();
  environment.in_memory = true;
  auto opened = std::make_shared<OpenedStore>(
      Must(internal::OpenStore("", TinyOptions(), internal::StoredTypes{}, environment)));
  return {opened, opened->core.get()};
}

// A session as the store keeps it.
std::shared_ptr<SessionState> Keep(const std::shared_ptr<Core>& core) {
  auto session = std::make_shared<SessionState>(*core);
  KeepThreadSession(core, session, *session);
  return session;
}

TEST(ThreadSessionTest, EachStoreHasItsOwnAndTheLastOneIsRemembered) {
  const auto first = OpenCore();
  const auto second = OpenCore();
  EXPECT_EQ(FindThreadSession(*first), nullptr);
  const auto of_first = Keep(first);
  EXPECT_EQ(LastSession().core, first.get());
  const auto of_second = Keep(second);
  EXPECT_EQ(LastSession().core, second.get());
  EXPECT_EQ(LastSession().session, of_second.get());
  EXPECT_EQ(FindThreadSession(*first), of_first.get());
  EXPECT_EQ(LastSession().core, first.get());
  EXPECT_EQ(LastSession().session, of_first.get());
  EXPECT_EQ(FindThreadSession(*second), of_second.get());
  first->epochs.BumpClosed();
  second->epochs.BumpClosed();
}

TEST(ThreadSessionTest, EachThreadHasItsOwnAndItEndsWithTheThread) {
  const auto core = OpenCore();
  std::weak_ptr<SessionState> session;
  std::thread([&] {
    EXPECT_EQ(FindThreadSession(*core), nullptr);
    session = Keep(core);
    EXPECT_NE(FindThreadSession(*core), nullptr);
    EXPECT_FALSE(session.expired());
  }).join();
  EXPECT_TRUE(session.expired());
  EXPECT_EQ(FindThreadSession(*core), nullptr);
}

TEST(ThreadSessionTest, SessionsOfClosedStoresAreDroppedWhenOneIsAdded) {
  const auto closed = OpenCore();
  const auto open = OpenCore();
  const auto next = OpenCore();
  std::weak_ptr<SessionState> of_closed = Keep(closed);
  std::weak_ptr<SessionState> of_open = Keep(open);
  closed->epochs.BumpClosed();
  EXPECT_FALSE(of_closed.expired());
  std::weak_ptr<SessionState> of_next = Keep(next);
  EXPECT_TRUE(of_closed.expired());
  EXPECT_FALSE(of_open.expired());
  EXPECT_EQ(closed.use_count(), 1);
  open->epochs.BumpClosed();
  next->epochs.BumpClosed();
}

// A callback may open a store, use it, and so add a session, while the store that runs the callback
// has been closed by another thread (Close waits for the callback). Its session must survive that.
TEST(ThreadSessionTest, ASessionInACallbackIsNotDropped) {
  const auto closing = OpenCore();
  const auto other = OpenCore();
  std::weak_ptr<SessionState> in_callback = Keep(closing);
  {
    const internal::EpochGuard guard(closing->epochs, *in_callback.lock()->slot);
    closing->epochs.BumpClosed();
    Keep(other);
    EXPECT_FALSE(in_callback.expired());
  }
  const auto last = OpenCore();
  Keep(last);
  EXPECT_TRUE(in_callback.expired());
  other->epochs.BumpClosed();
  last->epochs.BumpClosed();
}

// Hazard 49. The last reference to a closed store may be its session of a thread. Then the objects
// that its options have captured end when that session is dropped; their destructors may use other
// stores, and so add sessions.
TEST(ThreadSessionTest, DestructorsOfADroppedSessionMayAddSessions) {
  constexpr std::uint64_t kOthers = 20;
  std::vector<U64Store> others;
  for (std::uint64_t i = 0; i < kOthers; ++i) {
    others.push_back(Must(OpenTinyInMemory<U64Store>()));
  }
  auto last = Must(OpenTinyInMemory<U64Store>());
  struct UsesStoresAtItsEnd {
    UsesStoresAtItsEnd(std::vector<U64Store>& its_stores, int& count)
        : stores(its_stores), ended(count) {}
    std::vector<U64Store>& stores;
    int& ended;
    ~UsesStoresAtItsEnd() {
      for (U64Store& store : stores) Must(store.Upsert(1, 10));
      ++ended;
    }
  };
  int ended = 0;
  std::thread([&] {
    for (int round = 0; round < 3; ++round) {
      auto captured = std::make_shared<UsesStoresAtItsEnd>(others, ended);
      Options options = TinyOptions();
      options.gc.progress = [captured = std::move(captured)](const GcStats&) { return true; };
      internal::Environment environment = TinyEnvironment();
      environment.in_memory = true;
      auto closed = Must(OpenIn<U64Store>("", environment, options));
      Must(closed.Upsert(1, 1));
      Must(closed.Close());
    }
    EXPECT_LT(ended, 3);
    Must(last.Upsert(1, 20));
    EXPECT_EQ(ended, 3);
    for (U64Store& store : others) {
      EXPECT_NE(FindThreadSession(CoreOf(store)), nullptr);
      EXPECT_EQ(Must(store.Read(1)), 10U);
    }
    EXPECT_EQ(Must(last.Read(1)), 20U);
  }).join();
}

// The destructor of a thread-local object of the program may run after the list of sessions is
// gone. Its calls still work, with a session that is never freed.
struct CallsAtTheEnd {
  U64Store* store = nullptr;
  absl::Status* status = nullptr;
  std::uint64_t* value = nullptr;
  ~CallsAtTheEnd() {
    if (store == nullptr) return;
    *status = store->Rmw(1, [](std::uint64_t& n) { n += 10; });
    status->Update(store->Rmw(1, [](std::uint64_t& n) { n += 100; }));
    status->Update(store->Read(1, *value));
  }
};

TEST(ThreadSessionTest, CallsFromTheLastDestructorsOfAThreadWork) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  absl::Status status = absl::UnknownError("not run");
  std::uint64_t value = 0;
  std::thread([&] {
    static thread_local CallsAtTheEnd calls;  // made first, so destroyed last
    calls.status = &status;
    calls.value = &value;
    calls.store = &store;
    Must(store.Rmw(1, [](std::uint64_t& n) { n += 1; }));
  }).join();
  Must(status);
  EXPECT_EQ(value, 111U);
  EXPECT_EQ(Must(store.Read(1)), 111U);
  Must(store.Close());
}

}  // namespace
}  // namespace ebb::test
