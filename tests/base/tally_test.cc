// Tallies: counters of one writer, and latency histograms.
#include "ebb/internal/base/tally.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace ebb::test {
namespace {

using internal::Count;
using internal::Counter;
using internal::LatencyBuckets;
using internal::LatencyHistogram;
using internal::LatencyHistograms;
using internal::LatencyRecorder;
using internal::OpTimer;
using internal::Tally;
using internal::TallySums;

TallySums SumsOf(const Tally& tally) {
  TallySums sums{};
  tally.AddTo(sums);
  return sums;
}

TEST(TallyTest, EveryPlaceCountsForItself) {
  Tally tally;
  for (std::size_t place = 0; place < Count::kCount; ++place) tally.Add(place, place + 1);
  const TallySums sums = SumsOf(tally);
  for (std::size_t place = 0; place < Count::kCount; ++place) EXPECT_EQ(sums[place], place + 1);
}

TEST(TallyTest, BeginCountsAndReturnsWhetherToTime) {
  Tally tally;
  EXPECT_FALSE(tally.Begin(OpKind::kRmw));
  EXPECT_FALSE(tally.Begin(OpKind::kRmw));
  EXPECT_EQ(tally.recorder(), nullptr);
  tally.StartTiming();
  EXPECT_NE(tally.recorder(), nullptr);
  for (std::size_t kind = 0; kind < kOpKindCount; ++kind) {
    EXPECT_TRUE(tally.Begin(static_cast<OpKind>(kind)));
  }
  const TallySums sums = SumsOf(tally);
  EXPECT_EQ(sums[Count::kBegun + static_cast<std::size_t>(OpKind::kRmw)], 3U);
  EXPECT_EQ(sums[Count::kBegun + static_cast<std::size_t>(OpKind::kRead)], 1U);
  const internal::LatencyRecorder* const recorder = tally.recorder();
  tally.StartTiming();
  EXPECT_EQ(tally.recorder(), recorder) << "what is there goes on";
}

TEST(TallyTest, OpTimerRecordsOnlyOnRequest) {
  Tally tally;
  { const OpTimer timer(tally, OpKind::kRead, tally.Begin(OpKind::kRead)); }
  tally.StartTiming();
  for (int i = 0; i < 3; ++i) {
    const OpTimer timer(tally, OpKind::kDelete, tally.Begin(OpKind::kDelete));
  }
  auto sums = std::make_unique<LatencyHistograms>();
  tally.recorder()->AddTo(*sums);
  EXPECT_EQ((*sums)[static_cast<std::size_t>(OpKind::kRead)].Summarize().count, 0U);
  EXPECT_EQ((*sums)[static_cast<std::size_t>(OpKind::kDelete)].Summarize().count, 3U);
}

// Under ThreadSanitizer a plain word would be a race.
TEST(TallyTest, AReaderDuringWritesSeesNothingGoBack) {
  Tally tally;
  constexpr std::uint64_t kTurns = 200000;
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < kTurns; ++i) tally.Begin(OpKind::kUpsert);
  });
  const std::size_t place = Count::kBegun + static_cast<std::size_t>(OpKind::kUpsert);
  for (std::uint64_t last = 0; last < kTurns;) {
    const std::uint64_t now = SumsOf(tally)[place];
    ASSERT_GE(now, last);
    last = now;
  }
  writer.join();
  EXPECT_EQ(SumsOf(tally)[place], kTurns);
}

// ---- histograms ----

TEST(TallyTest, BucketsFollowEachOtherWithoutGapAndAreNarrow) {
  EXPECT_EQ(LatencyBuckets::IndexOf(0), 0U);
  std::uint64_t begin = 0;  // of the bucket
  for (std::size_t i = 0; i < LatencyBuckets::kCount; ++i) {
    const std::uint64_t end = LatencyBuckets::UpperEnd(i);
    ASSERT_GE(end, begin);
    ASSERT_EQ(LatencyBuckets::IndexOf(begin), i);
    ASSERT_EQ(LatencyBuckets::IndexOf(end), i);
    ASSERT_LE((end - begin) * 16, begin) << "bucket " << i;
    begin = end + 1;
  }
  EXPECT_EQ(begin, std::uint64_t{1} << LatencyBuckets::kMaxBits);
  EXPECT_EQ(LatencyBuckets::IndexOf(begin), LatencyBuckets::kCount - 1);
  EXPECT_EQ(LatencyBuckets::IndexOf(~std::uint64_t{0}), LatencyBuckets::kCount - 1);
}

LatencyHistogram HistogramOf(const std::vector<std::uint64_t>& latencies) {
  const auto recorder = std::make_unique<LatencyRecorder>();
  for (const std::uint64_t ns : latencies) recorder->Record(OpKind::kScan, ns);
  const auto sums = std::make_unique<LatencyHistograms>();
  recorder->AddTo(*sums);
  return (*sums)[static_cast<std::size_t>(OpKind::kScan)];
}

TEST(TallyTest, PercentilesAreThoseOfTheSortedLatenciesOrASixteenthMore) {
  std::mt19937_64 random(7);
  for (const std::size_t count : {1U, 2U, 10U, 999U, 1000U, 1001U, 50000U}) {
    std::vector<std::uint64_t> latencies;
    for (std::size_t i = 0; i < count; ++i) latencies.push_back(random() >> (30 + random() % 34));
    const LatencySummary summary = HistogramOf(latencies).Summarize();
    std::sort(latencies.begin(), latencies.end());
    EXPECT_EQ(summary.count, count);
    EXPECT_EQ(summary.max_ns, latencies.back());
    const auto expect_near = [&](std::uint64_t ns, std::size_t per_mille) {
      const std::uint64_t exact = latencies[(count * per_mille + 999) / 1000 - 1];
      EXPECT_GE(ns, exact) << count << " latencies, " << per_mille;
      EXPECT_LE(ns, exact + exact / 16) << count << " latencies, " << per_mille;
    };
    expect_near(summary.p50_ns, 500);
    expect_near(summary.p95_ns, 950);
    expect_near(summary.p99_ns, 990);
    expect_near(summary.p999_ns, 999);
  }
}

TEST(TallyTest, SubtractedSamplesAreInNoPercentile) {
  const LatencyHistogram before = HistogramOf({1000000, 2000000});
  LatencyHistogram now = HistogramOf({1000000, 2000000, 10, 20, 30});
  now.Subtract(before);
  const LatencySummary summary = now.Summarize();
  EXPECT_EQ(summary.count, 3U);
  EXPECT_EQ(summary.sum_ns, 60U);
  EXPECT_EQ(summary.p50_ns, 20U);
  EXPECT_EQ(summary.max_ns, 30U);
  now.Subtract(now);
  EXPECT_EQ(now.Summarize().count, 0U);
  EXPECT_EQ(now.Summarize().max_ns, 0U);
}

}  // namespace
}  // namespace ebb::test
