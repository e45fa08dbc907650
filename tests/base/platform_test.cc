// Platform: time, the objects of a thread, random bytes and memory.
#include "ebb/internal/base/platform.h"

#include <array>
#include <chrono>
#include <thread>

#include "gtest/gtest.h"

namespace ebb::test {
namespace {

TEST(PlatformTest, BothClocksCountMilliseconds) {
  const std::uint64_t before = internal::UnixMs();
  EXPECT_GT(before, std::uint64_t{1600000000} * 1000);
  EXPECT_LT(before, std::uint64_t{9000000000} * 1000);
  const auto begun = internal::Clock::now() - std::chrono::seconds(5);
  EXPECT_GE(internal::MillisecondsSince(begun), 5000U);
  EXPECT_LT(internal::MillisecondsSince(begun), 3600000U);
  EXPECT_GE(internal::UnixMs(), before);
}

TEST(PlatformTest, AThreadHasOneObjectOfEachTypeUntilItEnds) {
  static int ends = 0;
  struct First {
    ~First() { ends += number; }
    int number = 0;
  };
  struct Second {
    int number = 0;
  };
  internal::ThreadSlot<Second>().number = 1;
  std::thread([] {
    internal::ThreadSlot<First>().number = 7;
    internal::ThreadSlot<Second>().number = 8;
    EXPECT_EQ(internal::ThreadSlot<First>().number, 7);
    EXPECT_EQ(ends, 0);
  }).join();
  EXPECT_EQ(ends, 7);
  EXPECT_EQ(internal::ThreadSlot<Second>().number, 1);
}

TEST(PlatformTest, RandomBytesDiffer) {
  std::array<std::byte, 64> first{};
  std::array<std::byte, 64> second{};
  EXPECT_EQ(internal::RandomBytes(first), 0);
  EXPECT_EQ(internal::RandomBytes(second), 0);
  EXPECT_NE(first, second);
}

TEST(PlatformTest, MappedMemoryIsZeroOnceItIsAccessible) {
  constexpr std::size_t kBytes = 1 << 20;
  void* const memory = internal::MapMemory(kBytes);
  ASSERT_NE(memory, nullptr);
  ASSERT_TRUE(internal::AllowAccess(memory, kBytes / 2));
  auto* const bytes = static_cast<char*>(memory);
  EXPECT_EQ(bytes[kBytes / 2 - 1], 0);
  bytes[0] = 1;
  internal::UnmapMemory(memory, kBytes);
  EXPECT_EQ(internal::MapMemory(~std::size_t{0} >> 1), nullptr);
}

}  // namespace
}  // namespace ebb::test
