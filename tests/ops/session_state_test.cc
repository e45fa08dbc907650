// SessionState: its name is its own while it lives, its buffers stay small, and stand-ins say why
// they take no call.
#include "ebb/internal/ops/session_state.h"

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Core;
using internal::NameSession;
using internal::NewSessionState;
using internal::OwnedSession;
using internal::SessionState;

TEST(SessionStateTest, ANameBelongsToOneSessionAtATime) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Core& core = CoreOf(store);
  OwnedSession first = NewSessionState(core);
  const OwnedSession second = NewSessionState(core);
  ASSERT_TRUE(NameSession(*first, "a").ok());
  EXPECT_FALSE(NameSession(*second, "a").ok());
  EXPECT_TRUE(second->name.empty());
  first.reset();
  EXPECT_TRUE(NameSession(*second, "a").ok());
  EXPECT_EQ(second->name, "a");
}

TEST(SessionStateTest, StandInsSayWhyTheyTakeNoCall) {
  auto store = Must(OpenTinyInMemory<U64Store>());
  Core& core = CoreOf(store);
  for (int i = 0; i < 2; ++i) {  // the end of its owner does not end a stand-in
    const OwnedSession lacking(core.session_without_memory.get());
    const OwnedSession moved_from(core.session_moved_from.get());
    for (const SessionState* state : {lacking.get(), moved_from.get()}) {
      EXPECT_TRUE(state->is_stand_in());
      EXPECT_FALSE(state->MayCallBack());
      EXPECT_FALSE(state->callable());
    }
    EXPECT_TRUE(FailsWith(lacking->BusyError(), StatusCode::kResourceExhausted, "no memory"));
    EXPECT_TRUE(
        FailsWith(NameSession(*moved_from, "a"), StatusCode::kFailedPrecondition, "moved from"));
  }
}

TEST(SessionStateTest, BuffersAreFreedAboveALimit) {
  std::string buffer(SessionState::kRetainedBytes, 'x');
  SessionState::Trim(buffer);
  EXPECT_EQ(buffer.size(), SessionState::kRetainedBytes);
  buffer.append(1, 'x');
  SessionState::Trim(buffer);
  EXPECT_EQ(buffer.capacity(), std::string().capacity());
}

}  // namespace
}  // namespace ebb::test
