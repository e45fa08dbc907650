#include "ebb/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ebb/store.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGiB = 1024 * kMiB;

// A field of Options by name, so that one test can walk through all limits.
struct Limit {
  const char* field;
  void (*set)(Options&, std::uint64_t);
  std::uint64_t value;
};

void SetLogMemory(Options& options, std::uint64_t value) { options.log_memory_bytes = value; }
void SetPage(Options& options, std::uint64_t value) { options.page_bytes = value; }
void SetSegment(Options& options, std::uint64_t value) { options.segment_bytes = value; }
void SetBuckets(Options& options, std::uint64_t value) { options.index_bucket_count = value; }
void SetThreads(Options& options, std::uint64_t value) {
  options.background_threads = static_cast<std::uint32_t>(value);
}
void SetBatch(Options& options, std::uint64_t value) { options.write_batch_bytes = value; }
void SetScanAhead(Options& options, std::uint64_t value) { options.scan_ahead_bytes = value; }
void SetMaxKey(Options& options, std::uint64_t value) { options.max_key_bytes = value; }
void SetMaxValue(Options& options, std::uint64_t value) { options.max_value_bytes = value; }

constexpr std::uint64_t kHuge = ~std::uint64_t{0};
// Of the default page, 16 MiB: 4,096 blocks of 4,080 bytes, less the largest header.
constexpr std::uint64_t kMaxFieldBytes = 4096 * 4080 - 24;

absl::Status ValidateWith(const Limit& limit) {
  Options options;
  limit.set(options, limit.value);
  return Validate(options);
}

void ExpectRefused(const Limit& limit) {
  const absl::Status status = ValidateWith(limit);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
      << limit.field << " = " << limit.value;
  // The message names the field and the value, before anything else.
  EXPECT_THAT(status.ToString(), HasSubstr(std::string(limit.field) + " is " +
                                           std::to_string(limit.value) + ": must be"));
}

void ExpectTaken(const Limit& limit) {
  EXPECT_TRUE(ValidateWith(limit).ok())
      << limit.field << " = " << limit.value << ": " << ValidateWith(limit);
}

TEST(OptionsTest, DefaultsAreValid) { EXPECT_TRUE(Validate(Options{}).ok()); }

TEST(OptionsTest, EveryFieldRejectsValuesThatAreTooSmall) {
  for (const Limit& limit : std::vector<Limit>{
           {"log_memory_bytes", SetLogMemory, 0},
           {"log_memory_bytes", SetLogMemory, kMiB - 1},
           {"page_bytes", SetPage, 1},
           {"page_bytes", SetPage, 32 * kKiB},
           {"segment_bytes", SetSegment, 0},
           {"segment_bytes", SetSegment, kMiB / 2},
           {"index_bucket_count", SetBuckets, 0},
           {"index_bucket_count", SetBuckets, 512},
           {"background_threads", SetThreads, 0},
           {"write_batch_bytes", SetBatch, 0},
           {"write_batch_bytes", SetBatch, 4 * kKiB - 1},
       }) {
    ExpectRefused(limit);
  }
}

TEST(OptionsTest, EveryFieldRejectsValuesThatAreTooLarge) {
  for (const Limit& limit : std::vector<Limit>{
           {"log_memory_bytes", SetLogMemory, std::uint64_t{1} << 60},
           {"log_memory_bytes", SetLogMemory, kHuge},
           {"page_bytes", SetPage, 128 * kMiB},
           {"page_bytes", SetPage, kHuge},
           {"segment_bytes", SetSegment, 2048 * kGiB},
           {"segment_bytes", SetSegment, kHuge},
           {"index_bucket_count", SetBuckets, std::uint64_t{1} << 32},
           {"index_bucket_count", SetBuckets, kHuge},
           {"background_threads", SetThreads, 33},
           {"background_threads", SetThreads, 0xffffffff},
           {"write_batch_bytes", SetBatch, 64 * kMiB + 4 * kKiB},
           {"scan_ahead_bytes", SetScanAhead, 64 * kMiB + 4 * kKiB},
           {"scan_ahead_bytes", SetScanAhead, 4 * kKiB + 1},
           {"write_batch_bytes", SetBatch, kHuge},
           {"max_key_bytes", SetMaxKey, kMaxFieldBytes + 1},
           {"max_key_bytes", SetMaxKey, kHuge},
           {"max_value_bytes", SetMaxValue, kMaxFieldBytes + 1},
           {"max_value_bytes", SetMaxValue, kHuge},
       }) {
    ExpectRefused(limit);
  }
}

TEST(OptionsTest, SizesThatMustBePowersOfTwoRejectOthers) {
  for (const Limit& limit : std::vector<Limit>{
           {"page_bytes", SetPage, 96 * kKiB},
           {"page_bytes", SetPage, 64 * kKiB + 1},
           {"segment_bytes", SetSegment, kGiB + 4 * kKiB},
           {"segment_bytes", SetSegment, 3 * kGiB},
           {"index_bucket_count", SetBuckets, 1025},
           {"index_bucket_count", SetBuckets, 3 << 16},
       }) {
    ExpectRefused(limit);
    EXPECT_THAT(ValidateWith(limit).ToString(), HasSubstr("must be a power of two"));
  }
}

TEST(OptionsTest, WriteBatchesAreWholeBlocks) {
  for (const std::uint64_t bytes : {4 * kKiB + 1, 6 * kKiB, kMiB - 512}) {
    ExpectRefused({"write_batch_bytes", SetBatch, bytes});
  }
}

TEST(OptionsTest, LimitsThemselvesAreTaken) {
  for (const Limit& limit : std::vector<Limit>{
           {"log_memory_bytes", SetLogMemory, kMiB},
           {"log_memory_bytes", SetLogMemory, kMiB + 1},
           {"page_bytes", SetPage, 0},
           {"page_bytes", SetPage, 64 * kKiB},
           {"page_bytes", SetPage, 32 * kMiB},
           {"segment_bytes", SetSegment, 16 * kMiB},
           {"segment_bytes", SetSegment, 1024 * kGiB},
           {"index_bucket_count", SetBuckets, 1024},
           {"index_bucket_count", SetBuckets, std::uint64_t{1} << 31},
           {"background_threads", SetThreads, 1},
           {"background_threads", SetThreads, 32},
           {"write_batch_bytes", SetBatch, 4 * kKiB},
           {"write_batch_bytes", SetBatch, 64 * kMiB},
           {"max_key_bytes", SetMaxKey, 0},
           {"max_key_bytes", SetMaxKey, 1},
           {"max_key_bytes", SetMaxKey, kMaxFieldBytes},
           {"max_value_bytes", SetMaxValue, kMaxFieldBytes},
       }) {
    ExpectTaken(limit);
  }
}

TEST(OptionsTest, MemoryForFewerThanEightPagesIsRejectedNamingTheMinimum) {
  Options options;
  options.log_memory_bytes = 8 * kMiB - 1;
  options.page_bytes = kMiB;
  EXPECT_EQ(Validate(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Validate(options).ToString(),
              AllOf(HasSubstr("log_memory_bytes is 8388607"), HasSubstr("at least 8388608"),
                    HasSubstr("page_bytes 1048576")));
  options.log_memory_bytes = 8 * kMiB;
  EXPECT_TRUE(Validate(options).ok());
}

TEST(OptionsTest, SegmentSmallerThanAPageIsRejected) {
  Options options;
  options.log_memory_bytes = 64 * kMiB;
  options.page_bytes = 4 * kMiB;
  options.segment_bytes = 2 * kMiB;
  EXPECT_EQ(Validate(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Validate(options).ToString(),
              AllOf(HasSubstr("segment_bytes is 2097152"), HasSubstr("page_bytes, 4194304")));
  options.segment_bytes = 4 * kMiB;
  EXPECT_TRUE(Validate(options).ok());
}

TEST(OptionsTest, SegmentSmallerThanTheAutomaticPageIsRejectedToo) {
  Options options;  // 256 MiB of memory lead to pages of 16 MiB
  options.segment_bytes = 8 * kMiB;
  EXPECT_EQ(Validate(options).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Validate(options).ToString(), HasSubstr("segment_bytes is 8388608"));
}

TEST(OptionsTest, LongestKeyMustFitASmallPage) {
  Options options;
  options.page_bytes = 64 * kKiB;
  options.max_key_bytes = 16 * 4080 - 24;
  EXPECT_TRUE(Validate(options).ok());
  ++options.max_key_bytes;
  EXPECT_THAT(Validate(options).ToString(), HasSubstr("max_key_bytes is 65257"));
}

TEST(OptionsTest, AutomaticPageIsASixteenthOfTheMemoryWithinItsLimits) {
  const auto page_for = [](std::uint64_t memory_bytes) {
    Options options;
    options.log_memory_bytes = memory_bytes;
    return EffectivePageBytes(options);
  };
  EXPECT_EQ(page_for(256 * kMiB), 16 * kMiB);
  EXPECT_EQ(page_for(256 * kMiB - 1), 8 * kMiB);
  EXPECT_EQ(page_for(300 * kMiB), 16 * kMiB);
  EXPECT_EQ(page_for(kMiB), 64 * kKiB);
  EXPECT_EQ(page_for(kMiB + kMiB / 2), 64 * kKiB);
  EXPECT_EQ(page_for(1024 * kGiB), 64 * kMiB);
  EXPECT_EQ(page_for(0), 64 * kKiB);
}

TEST(OptionsTest, ExplicitPageIsKept) {
  Options options;
  options.page_bytes = 2 * kMiB;
  EXPECT_EQ(EffectivePageBytes(options), 2 * kMiB);
}

// ---- presets ----

// Options that validate must open; memory is only mapped until it is used.
// ThreadSanitizer writes to its shadow of each byte of a store's memory, several times.
#ifdef EBB_TSAN
constexpr bool kLargeStoresAreQuick = false;
#else
constexpr bool kLargeStoresAreQuick = true;
#endif

void ExpectOpens(const Options& options) {
  ASSERT_TRUE(Validate(options).ok()) << Validate(options);
  const TempDir dir;
  auto store = Store<>::Open(dir / "db", options);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(store->Upsert("key", "value").ok());
  EXPECT_TRUE(store->Close().ok());
  auto again = Store<>::Open(dir / "db", options);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again->Read("key"), "value");
}

TEST(OptionsTest, PresetsOpen) {
  ExpectOpens(Options());
  if (kLargeStoresAreQuick) ExpectOpens(Options::HighPerformance());
  ExpectOpens(Options::LowMemory());
}

TEST(OptionsTest, PresetsHaveTheirDocumentedValues) {
  const Options fast = Options::HighPerformance();
  EXPECT_LE(fast.log_memory_bytes + fast.index_bucket_count * 64, 4 * kGiB);
  EXPECT_GT(fast.log_memory_bytes, Options().log_memory_bytes);
  EXPECT_EQ(fast.background_threads, 8U);
  EXPECT_EQ(fast.checkpoint_interval_ms, 30000U);
  const Options small = Options::LowMemory();
  EXPECT_EQ(small.log_memory_bytes, 64 * kMiB);
  EXPECT_EQ(small.page_bytes, 4 * kMiB);
  EXPECT_EQ(small.index_bucket_count, 1024U);
  EXPECT_EQ(small.background_threads, 2U);
  EXPECT_EQ(small.checkpoint_interval_ms, 2000U);
}

TEST(OptionsTest, WithMemoryDividesItBetweenLogAndIndex) {
  for (std::uint64_t bytes = 2 * kMiB; bytes <= 16 * kGiB; bytes = bytes * 3 / 2 + 12345) {
    const Options options = Options::WithMemory(bytes);
    EXPECT_EQ(options.log_memory_bytes + options.index_bucket_count * 64, bytes);
    EXPECT_LE(options.index_bucket_count * 64, bytes / 4);
    EXPECT_GT(options.index_bucket_count * 64, bytes / 8 - 1);
    EXPECT_TRUE(Validate(options).ok()) << bytes << ": " << Validate(options);
  }
  for (const std::uint64_t bytes : {2 * kMiB, 3 * kMiB + 1, 100 * kMiB, kGiB}) {
    if (bytes == kGiB && !kLargeStoresAreQuick) continue;
    ExpectOpens(Options::WithMemory(bytes));
  }
}

TEST(OptionsTest, WithTooLittleOrTooMuchMemoryIsRejectedByTheFieldThatItLeadsTo) {
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, kMiB, kHuge}) {
    const absl::Status status = Validate(Options::WithMemory(bytes));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bytes;
    EXPECT_THAT(status.ToString(), HasSubstr("log_memory_bytes is "));
  }
}

// ---- the machine's memory ----

// A root with the files of /proc and /sys that name control groups.
class ControlGroups {
 public:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  std::uint64_t Limit() const { return internal::PhysicalMemoryBytes(root_.path()); }

 private:
  TempDir root_;
};

TEST(OptionsTest, LimitsOfControlGroupsCountAsTheMachinesMemory) {
  const std::uint64_t physical = ControlGroups().Limit();
  EXPECT_GT(physical, 64 * kMiB);
  {  // version 2, nested: the lowest limit on the way to the root counts
    ControlGroups groups;
    groups.Write("proc/self/cgroup", "0::/user/app/worker");
    EXPECT_EQ(groups.Limit(), physical);
    groups.Write("sys/fs/cgroup/user/app/worker/memory.max", "max");
    EXPECT_EQ(groups.Limit(), physical);
    groups.Write("sys/fs/cgroup/user/app/memory.max", "8388608");
    groups.Write("sys/fs/cgroup/user/memory.max", "16777216");
    EXPECT_EQ(groups.Limit(), 8 * kMiB);
    groups.Write("sys/fs/cgroup/user/app/worker/memory.max", "4194304");
    EXPECT_EQ(groups.Limit(), 4 * kMiB);
    groups.Write("sys/fs/cgroup/memory.max", "2097152");
    EXPECT_EQ(groups.Limit(), 2 * kMiB);
    groups.Write("sys/fs/cgroup/memory.max", "9223372036854771712");
    groups.Write("sys/fs/cgroup/other/memory.max", "1");
    EXPECT_EQ(groups.Limit(), 4 * kMiB);
  }
  {  // version 1, among other controllers
    ControlGroups groups;
    groups.Write("proc/self/cgroup", "12:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n1:name=systemd:/c");
    groups.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    EXPECT_EQ(groups.Limit(), physical);
    groups.Write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4194304");
    groups.Write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "8388608");
    EXPECT_EQ(groups.Limit(), 4 * kMiB);
  }
  {  // a container that shows only its own group, under the path that the host sees
    ControlGroups groups;
    groups.Write("proc/self/cgroup", "3:memory:/docker/0123\n0::/../outside");
    groups.Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "8388608");
    EXPECT_EQ(groups.Limit(), 8 * kMiB);
    groups.Write("sys/fs/cgroup/unified/memory.max", "4194304");
    EXPECT_EQ(groups.Limit(), 4 * kMiB);
  }
  {  // nonsense
    ControlGroups groups;
    groups.Write("proc/self/cgroup", "\n:\n::\nx\n0::");
    groups.Write("sys/fs/cgroup/memory.max", "");
    EXPECT_EQ(groups.Limit(), physical);
  }
}

TEST(OptionsTest, TooLittleMemoryIsNamedByANumberThatTheCallerKnows) {
  EXPECT_THAT(Validate(Options::WithMemory(1000)).message(),
              AllOf(HasSubstr("log_memory_bytes is 1000: must be from 1048576"),
                    HasSubstr("WithMemory needs at least 2 MiB")));
  EXPECT_EQ(Validate(Options::WithMemory(kMiB + 1000)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Validate(Options::WithMemory(2 * kMiB)).ok());
}

TEST(OptionsTest, TheIndexFitsItsLimit) {
  Options options;
  options.max_index_bytes = 65535;
  EXPECT_THAT(Validate(options).message(),
              HasSubstr("max_index_bytes is 65535: must be from 65536"));
  options.max_index_bytes = 4 * kMiB;
  EXPECT_TRUE(Validate(options).ok());
  options.max_index_bytes = 4 * kMiB - 1;
  EXPECT_THAT(Validate(options).message(),
              AllOf(HasSubstr("index_bucket_count is 65536"), HasSubstr("max_index_bytes")));
}

}  // namespace
}  // namespace ebb::test
