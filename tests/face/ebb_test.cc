// The one include that gives everything, and the version it states.
#include "ebb/ebb.h"

#include <cstdint>
#include <string>

#include "gtest/gtest.h"

namespace ebb::test {
namespace {

static_assert(EBB_VERSION_MAJOR == 0 && EBB_VERSION_MINOR == 1 && EBB_VERSION_PATCH == 0,
              "the version of the project in CMakeLists.txt");

// Usable in the preprocessor too.
#if EBB_VERSION_MAJOR * 10000 + EBB_VERSION_MINOR * 100 + EBB_VERSION_PATCH < 100
#error "this version is older than the first"
#endif

TEST(EbbTest, OneIncludeGivesEverything) {
  Options options;
  options.log_memory_bytes = 1 << 20;
  ASSERT_TRUE(Validate(options).ok());
  auto store = Must(Store<std::string, std::uint64_t>::OpenInMemory(options));
  Session<std::string, std::uint64_t> session = store.NewSession();
  Must(session.Rmw("answer", [](std::uint64_t& n) { n += 42; }));
  EXPECT_EQ(Must(store.Read("answer")), 42U);
  const StoreStats stats = store.Stats();
  EXPECT_EQ(stats.page_bytes, EffectivePageBytes(options));
  EXPECT_FALSE(IsRecoverable(absl::OkStatus()));
  EXPECT_TRUE(Codec<std::uint64_t>::kFixed);
  EXPECT_EQ(Compressed<std::string>{"bytes"}.value, "bytes");
}

}  // namespace
}  // namespace ebb::test
