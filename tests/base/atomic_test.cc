#include "ebb/internal/base/atomic.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace ebb::test {
namespace {

using internal::Atomic;
using internal::AtomicWord;
using internal::CopyFromLog;
using internal::CopyToLog;
using internal::WordAt;

constexpr std::size_t kMaxBytes = 217;  // three turns of the unrolled loop, and every rest

std::string Pattern(std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 37 + 5);
  return bytes;
}

TEST(AtomicTest, WordIsTheEightBytesInPlace) {
  alignas(8) std::byte bytes[16] = {};
  WordAt(bytes + 8).store(0x0807060504030201, std::memory_order_relaxed);
  EXPECT_EQ(bytes[7], std::byte{0});
  EXPECT_EQ(bytes[8], std::byte{1});
  EXPECT_EQ(bytes[15], std::byte{8});
  const std::byte* const constant = bytes;
  EXPECT_EQ(WordAt(constant + 8).load(std::memory_order_relaxed), 0x0807060504030201U);
}

TEST(AtomicTest, CopyOfEveryLengthComesBackAtEveryAlignment) {
  for (std::size_t count = 0; count <= kMaxBytes; ++count) {
    for (std::size_t shift = 0; shift < 8; ++shift) {  // of the private memory
      alignas(8) std::byte log[kMaxBytes + 7];
      std::memset(log, 0xee, sizeof(log));
      const std::string from = Pattern(count);
      alignas(8) char memory[kMaxBytes + 8];
      std::memcpy(memory + shift, from.data(), count);
      CopyToLog(memory + shift, count, log);
      std::memset(memory, '!', sizeof(memory));
      CopyFromLog(log, count, memory + shift);
      EXPECT_EQ(std::string(memory + shift, count), from) << count << " " << shift;
    }
  }
}

TEST(AtomicTest, CopyToTheLogPadsWithZerosAndStopsThere) {
  for (std::size_t count = 0; count <= kMaxBytes; ++count) {
    alignas(8) std::byte log[kMaxBytes + 15];
    std::memset(log, 0xee, sizeof(log));
    CopyToLog(Pattern(count).data(), count, log);
    const std::size_t padded = (count + 7) / 8 * 8;
    for (std::size_t i = count; i < sizeof(log); ++i) {
      EXPECT_EQ(log[i], i < padded ? std::byte{0} : std::byte{0xee}) << count << " " << i;
    }
  }
}

// Exactly sized memory, so that AddressSanitizer sees a byte too many on either side.
TEST(AtomicTest, CopyTouchesNothingButItsBytes) {
  for (std::size_t count = 1; count <= kMaxBytes; ++count) {
    const std::size_t padded = (count + 7) / 8 * 8;
    const auto words = std::make_unique<std::uint64_t[]>(padded / 8);
    auto* const log = reinterpret_cast<std::byte*>(words.get());
    const auto bytes = std::make_unique<char[]>(count);
    CopyToLog(bytes.get(), count, log);
    CopyFromLog(log, count, bytes.get());
    EXPECT_EQ(bytes[count - 1], 0);

    std::string guarded(count + 1, '!');
    CopyFromLog(log, count, guarded.data());
    EXPECT_EQ(guarded[count], '!');
  }
}

// A torn copy is made of whole words, each of which some thread wrote; and for ThreadSanitizer it
// is no race.
TEST(AtomicTest, ConcurrentCopiesTearOnlyBetweenWords) {
  constexpr std::size_t kWords = 23;
  alignas(64) std::byte log[kWords * 8] = {};
  Atomic<bool> begun{false};
  Atomic<bool> done{false};
  std::thread writer([&] {
    for (std::uint64_t round = 1; !done.load(std::memory_order_acquire); ++round) {
      const std::vector<std::uint64_t> value(kWords, round % 256 * 0x0101010101010101);
      CopyToLog(value.data(), sizeof(log), log);
      begun.store(true, std::memory_order_release);
    }
  });
  while (!begun.load(std::memory_order_acquire)) std::this_thread::yield();
  std::uint64_t torn_words = 0;
  // Long enough for both to have a core of their own for a while.
  const auto enough = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  while (std::chrono::steady_clock::now() < enough) {
    std::uint64_t seen[kWords];
    CopyFromLog(log, sizeof(seen), seen);
    // The writer's words are eight equal bytes; a mixture of two words is not.
    for (const std::uint64_t word : seen) torn_words += word != (word & 0xff) * 0x0101010101010101;
  }
  done.store(true, std::memory_order_release);
  writer.join();
  EXPECT_EQ(torn_words, 0U);
}

}  // namespace
}  // namespace ebb::test
