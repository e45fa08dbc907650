// Compressed values in whole stores: right, shorter on the device, and no other store's values.
#include "ebb/compressed.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using CompressedText = Compressed<std::string>;
using TextStore = Store<std::uint64_t, CompressedText>;

struct Grid {
  std::uint32_t cells[200] = {};
  bool operator==(const Grid&) const = default;
};

std::string TextOf(std::uint64_t i) {
  std::string text;
  while (text.size() < 500) text += "number " + std::to_string(i) + " and on, ";
  return text;
}

TEST(CompressedTest, ValuesOfEveryKindAreCompressedKeysAreNot) {
  EXPECT_TRUE(ValueType<CompressedText>);
  EXPECT_TRUE(ValueType<Compressed<Grid>>);
  EXPECT_FALSE(KeyType<CompressedText>);
  EXPECT_FALSE(ComparableValue<CompressedText>);
}

TEST(CompressedTest, ALibraryWithoutItFailsToOpen) {
  const absl::Status built = internal::CompressionIsBuilt();
  if (built.ok()) GTEST_SKIP() << "built with LZ4";
  SimFileSystem files;
  EXPECT_TRUE(FailsWith(OpenTiny<TextStore>("db", &files).status(), StatusCode::kInvalidArgument,
                        "EBB_WITH_LZ4"));
}

class CompressedStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!internal::CompressionIsBuilt().ok()) GTEST_SKIP() << "built without LZ4";
  }
  SimFileSystem files_;
};

TEST_F(CompressedStoreTest, TextsComeBackAndTakeLessRoom) {
  constexpr std::uint64_t kCount = 2000;
  {
    auto store = Must(OpenTiny<TextStore>("db", &files_));
    auto plain = Must(OpenTinyInMemory<U64StringStore>());
    for (std::uint64_t i = 0; i < kCount; ++i) {
      Must(store.Upsert(i, {TextOf(i)}));
      Must(plain.Upsert(i, TextOf(i)));
    }
    const auto grown = [](const StoreStats& stats) {
      return stats.tail_address - stats.begin_address;
    };
    EXPECT_LT(grown(store.Stats()) * 4, grown(plain.Stats()));
    for (std::uint64_t i = 0; i < kCount; i += 3) {
      Must(store.Rmw(i, [](CompressedText& text) { text.value += "!"; }));
    }
    Must(store.Close());
  }
  auto store = Must(OpenTiny<TextStore>("db", &files_));
  for (std::uint64_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(Must(store.Read(i)).value, TextOf(i) + (i % 3 == 0 ? "!" : "")) << i;
  }
  EXPECT_GT(store.Metrics().device_reads, 100U);
  EXPECT_EQ(Must(store.ScanAll()).size(), kCount);
}

TEST_F(CompressedStoreTest, PlainStructsAreCompressedToo) {
  auto store = Must(OpenTinyInMemory<Store<std::uint64_t, Compressed<Grid>>>());
  Grid grid;
  grid.cells[17] = 5;
  Must(store.Upsert(1, {grid}));
  EXPECT_LT(store.Stats().tail_address - store.Stats().begin_address, 200U);
  EXPECT_EQ(Must(store.Read(1)).value, grid);
}

TEST_F(CompressedStoreTest, StoresWithAndWithoutAreNotMixedUp) {
  { Must(Must(OpenTiny<TextStore>("db", &files_)).Close()); }
  { Must(Must(OpenTiny<U64StringStore>("plain", &files_)).Close()); }
  EXPECT_EQ(OpenTiny<U64StringStore>("db", &files_).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenTiny<TextStore>("plain", &files_).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace ebb::test
