// IndexFiller: the index is the same as if the records were put there one after the other, by any
// thread.
#include "ebb/internal/open/index_filler.h"

#include <cstdint>
#include <map>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "ebb/internal/core/core.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::Core;
using internal::IndexFiller;
using internal::kNoRecord;
using internal::StoreAccess;

// The index of a store that no session uses.
class IndexFillerTest : public testing::TestWithParam<int> {
 protected:
  IndexFillerTest() {
    internal::Environment environment = TinyEnvironment();
    environment.in_memory = true;
    environment.pool_threads = GetParam();
    environment.index_exponent = 6;
    Options options = TinyOptions();
    options.index_auto_grow = true;
    store_.emplace(Must(OpenIn<U64Store>("", environment, options)));
    core().index.OnCrowded({});  // no other thread grows it
  }
  Core& core() { return StoreAccess::GetCore(*store_); }

  // Adds a record of a chain, which links to `prev`.
  void Add(IndexFiller& filler, std::uint64_t hash, Address prev) {
    next_ = next_ + 24;
    ASSERT_TRUE(filler.Add({hash, next_, prev}).ok());
    newest_[hash] = next_;
  }
  Address NewestOf(std::uint64_t hash) const {
    const auto found = newest_.find(hash);
    return found == newest_.end() ? kNoRecord : found->second;
  }

  // Hashes of fewer bits than name a chain, so that each is one.
  std::uint64_t AnyHash() { return random_() % 100'000; }

  std::optional<U64Store> store_;
  std::mt19937_64 random_{7};
  Address next_{4096};
  std::map<std::uint64_t, Address> newest_;
};

INSTANTIATE_TEST_SUITE_P(PoolThreads, IndexFillerTest, testing::Values(0, 1, 3));

// From 64 buckets up to the number for 60,000 chains, through many rounds and a last one that is
// not full.
TEST_P(IndexFillerTest, EveryChainLeadsToItsNewestRecord) {
  IndexFiller filler(core(), Address(4096));
  for (int i = 0; i < 300'000; ++i) {
    const std::uint64_t hash = AnyHash();
    Add(filler, hash, NewestOf(hash));
  }
  ASSERT_TRUE(filler.Flush().ok());
  EXPECT_TRUE(filler.bad_link().is_null());
  EXPECT_GE(core().index.bucket_count(), 8192U);
  EXPECT_FALSE(core().index.crowded());
  for (const auto& [hash, address] : newest_) {
    ASSERT_EQ(core().index.Find(hash).entry.address(), address) << hash;
  }
  std::uint64_t entries = 0;
  for (std::uint64_t row = 0; row < core().index.row_count(); ++row) {
    core().index.ForEachEntry(row, [&](internal::IndexEntry) { ++entries; });
  }
  EXPECT_EQ(entries, newest_.size());
}

// Several records do not link to their chain's end, in rows far apart and in different rounds.
TEST_P(IndexFillerTest, TheFirstBadLinkIsReported) {
  IndexFiller filler(core(), Address(4096));
  Address first_bad;
  for (int i = 0; i < 200'000; ++i) {
    const std::uint64_t hash = AnyHash();
    const Address newest = NewestOf(hash);
    const bool bad = i > 50'000 && i % 5'000 == 0 && newest != kNoRecord;
    Add(filler, hash, bad ? Address(newest.value() - 8) : newest);
    if (bad && first_bad.is_null()) first_bad = next_;
  }
  ASSERT_FALSE(first_bad.is_null());
  ASSERT_TRUE(filler.Flush().ok());
  EXPECT_EQ(filler.bad_link(), first_bad);
}

TEST_P(IndexFillerTest, LinksBelowTheStartAreNotChecked) {
  IndexFiller filler(core(), Address(4096 + 24 * 1000));
  for (std::uint64_t i = 0; i < 500; ++i) Add(filler, i, Address(4096 + 8 * i));
  ASSERT_TRUE(filler.Flush().ok());
  EXPECT_TRUE(filler.bad_link().is_null());
}

// Rounds that have begun end, and jobs that the pool has not begun do not touch destroyed objects.
TEST_P(IndexFillerTest, CanBeGivenUpAtAnyTime) {
  for (int turn = 0; turn < 50; ++turn) {
    IndexFiller filler(core(), Address(4096));
    for (int i = 0; i < 700 * turn; ++i) Add(filler, AnyHash(), Address(8));
  }
}

}  // namespace
}  // namespace ebb::test
