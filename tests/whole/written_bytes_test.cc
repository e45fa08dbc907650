// Written bytes: every byte in a store's files was written for the place where it is.
//
// The log writes frames that have held other pages. So a tombstone, a filler or a padding that
// leaves a byte as it was would carry values of other keys, perhaps deleted long ago, to the device
// and into backups. Here marked keys and values are written, deleted and collected. Then the
// frames, which still hold them, are used for records that leave much of a page empty, for
// deletions and for commits. No mark may be in any file of the store or of its backup.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "tests/support/collection_kit.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

constexpr char kMark[] = "#SECRET#";  // of eight bytes

std::uint64_t MarkWord() {
  std::uint64_t word = 0;
  std::memcpy(&word, kMark, 8);
  return word;
}

// Strings that are marked take a third of a page.
template <typename T>
T Marked(std::uint64_t i) {
  if constexpr (std::is_same_v<T, std::string>) {
    std::string text = std::to_string(i);
    for (std::uint64_t parts = 150 + i % 40; parts != 0; --parts) text += kMark;
    return text;
  } else if constexpr (std::is_same_v<T, Triple>) {
    return {MarkWord(), MarkWord(), MarkWord()};
  } else {
    return MarkWord();
  }
}
template <typename T>
T Plain(std::uint64_t i) {
  if constexpr (std::is_same_v<T, std::string>) {
    return std::to_string(i) + std::string(i % 3 == 2 ? 1000 : i % 9, 'x');
  } else if constexpr (std::is_same_v<T, Triple>) {
    return {i, i, i};
  } else {
    return i;
  }
}

struct CountMarks {
  explicit CountMarks(const Snapshot& files) {
    for (const auto& [name, bytes] : files) {
      for (std::size_t at = 0; (at = bytes.find(kMark, at)) != std::string::npos; ++at) ++count;
    }
  }
  std::uint64_t count = 0;
};

template <typename StoreType>
class WrittenBytesTest : public testing::Test {};
using Stores = ::testing::Types<U64Store, U64TripleStore, U64StringStore, StringU64Store>;
TYPED_TEST_SUITE(WrittenBytesTest, Stores);

template <typename Key, typename Value>
void Run(Store<Key, Value>*) {
  // As many as fill the frames; with large values fewer, so that tombstones do not cover the marks.
  constexpr bool kStrings = std::is_same_v<Key, std::string> || std::is_same_v<Value, std::string>;
  constexpr std::uint64_t kCount = kStrings ? 100 : 2000;
  const auto marked_key = [](std::uint64_t i) {
    if constexpr (std::is_same_v<Key, std::string>) {
      return Marked<std::string>(i);
    } else {
      return i;
    }
  };
  const auto plain_key = [](std::uint64_t i) { return Plain<Key>(kCount + i); };
  SimFileSystem files;
  auto store = Must((OpenTiny<Store<Key, Value>>("db", &files)));
  for (std::uint64_t i = 0; i < kCount; ++i) {
    Must(store.Upsert(marked_key(i), Marked<Value>(i)));
  }
  Must(Commit(store));
  EXPECT_GE(CountMarks(SnapshotOf(files, "db")).count, kCount);
  for (std::uint64_t i = 0; i < kCount; ++i) Must(store.Delete(marked_key(i)));
  const auto write_plain = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) Must(store.Upsert(plain_key(i), Plain<Value>(i)));
    Must(Commit(store));
  };
  // A commit ends its block, so the first block that is kept has nothing that was marked.
  write_plain(20);
  Must(store.CollectGarbage(kCollectEverything).status());
  EXPECT_EQ(CountMarks(SnapshotOf(files, "db")).count, 0U);
  // Records that leave fillers, tombstones, commits; many of them over frames with marks.
  constexpr std::uint64_t kPlainCount = kStrings ? 400 : 60;
  for (std::uint64_t round = 0; round < 3; ++round) {
    write_plain(kPlainCount);
    for (std::uint64_t i = round; i < kPlainCount; i += 3) Must(store.Delete(plain_key(i)));
    Must(Commit(store));
  }
  Must(store.Backup("backup").status());
  Must(store.Close());
  EXPECT_EQ(CountMarks(SnapshotOf(files, "db")).count, 0U);
  EXPECT_EQ(CountMarks(SnapshotOf(files, "backup")).count, 0U);
}

TYPED_TEST(WrittenBytesTest, NothingOfADeletedRecordIsInAnyFile) {
  Run(static_cast<TypeParam*>(nullptr));
}

}  // namespace
}  // namespace ebb::test
