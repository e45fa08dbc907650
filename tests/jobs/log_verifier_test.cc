// Verify of a live store: an intact store is found intact during all operations, and each kind of
// damage is reported with its place. Damage is made in the files without the store's knowledge,
// with checksums made right again where the damage is meant to lie deeper.
//
// features.md: Verify() on line.
#include "ebb/internal/jobs/log_verifier.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ebb/internal/checkpoint/manifest.h"
#include "ebb/internal/format/block.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/test_hash.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;
using internal::Address;
using internal::HashIndex;
using internal::IndexEntry;
using internal::RecordHeader;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSegmentBlocks = 16;

// Blocks of a store's log in its files, read, changed and put back.
class Files {
 public:
  explicit Files(SimFileSystem& files) : files_(files) {}

  static std::string NameOf(std::uint64_t block) { return SegmentFile(block / kSegmentBlocks); }
  static std::uint64_t OffsetOf(std::uint64_t block) {
    return (1 + block % kSegmentBlocks) * kBlock;
  }
  static std::string Place(std::uint64_t block) {
    return NameOf(block) + " at offset " + std::to_string(OffsetOf(block));
  }
  std::string Read(std::uint64_t block) const {
    const SimBytes bytes = files_.Contents("db", NameOf(block));
    return {reinterpret_cast<const char*>(bytes.data()) + OffsetOf(block), kBlock};
  }
  void Write(std::uint64_t block, const std::string& bytes) const {
    Overwrite(files_, "db", NameOf(block), OffsetOf(block), bytes);
  }
  void Flip(std::uint64_t block) const {
    std::string bytes = Read(block);
    bytes[100] = static_cast<char>(bytes[100] ^ 4);
    Write(block, bytes);
  }
  // Changes a block and makes its checksum right.
  void Change(internal::Core& core, std::uint64_t block, std::uint64_t incarnation,
              const std::function<void(char*)>& change) const {
    std::string bytes = Read(block);
    change(bytes.data());
    internal::SealBlock(std::as_writable_bytes(std::span(bytes)), core.config.log.store_id, block,
                        incarnation);
    Write(block, bytes);
  }

 private:
  SimFileSystem& files_;
};

// Keys 0 to 2999 over several files, in order, all but the last on the device.
U64Store Filled(SimFileSystem& files) {
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i, i));
  Must(store.Commit());
  return store;
}

// ---- whole stores ----

// Each call in turn. Two files are open at a time, so nearly every read opens one.
TEST(LogVerifierTest, LackOfDescriptorsIsNoProblemOfTheStore) {
  SimFileSystem sim;
  FaultFileSystem files(sim);
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = kSegmentBlocks;
  environment.open_files = 2;
  Options options = TinyOptions();
  options.preallocate_bytes = 0;
  auto store = Must(OpenIn<U64Store>("db", environment, options));
  for (std::uint64_t key = 0; key < 3000; ++key) Must(store.Upsert(key, key));
  Must(store.Checkpoint());
  for (std::uint64_t call = 0;; ++call) {
    files.Disarm();
    files.Arm({.skip = call, .error = EMFILE});
    const absl::StatusOr<VerifyReport> report = store.Verify();
    if (files.FiredCount() <= call) {
      EXPECT_GT(call, 20U);
      break;
    }
    if (report.ok()) {
      EXPECT_THAT(report->problems, testing::IsEmpty()) << call;
    } else {
      EXPECT_EQ(report.status().code(), StatusCode::kResourceExhausted) << report.status();
    }
  }
}

TEST(LogVerifierTest, AWholeStoreHasNoProblems) {
  SimFileSystem files;
  for (int life = 0; life < 4; ++life) {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    EXPECT_TRUE(IsWhole(store.Verify()));
    for (std::uint64_t i = 0; i < 3000; i += static_cast<std::uint64_t>(life + 1)) {
      Must(store.Upsert(i, i));
      if (i % 5 == 0) Must(store.Delete(i));
      if (i % 700 == 0) EXPECT_TRUE(IsWhole(store.Verify())) << i;
    }
    Must(store.Checkpoint());
    std::vector<VerifyProgress> steps;
    const VerifyReport report = Must(
        store.Verify({.progress = [&](const VerifyProgress& step) { steps.push_back(step); }}));
    EXPECT_TRUE(IsWhole(report));
    const StoreStats stats = store.Stats();
    EXPECT_EQ(report.block_count, stats.flushed_until_address / kBlock);
    EXPECT_GE(report.record_count, 3000U);
    EXPECT_EQ(report.entry_count, stats.index_entry_estimate) << "two buckets, all looked at";
    EXPECT_EQ(report.checkpoint_count, store.ListCheckpoints().size());
    ASSERT_FALSE(steps.empty());
    EXPECT_EQ(steps.back().checked_bytes, report.block_count * kBlock);
    EXPECT_EQ(steps.back().checked_bytes, steps.back().total_bytes);
    Must(store.Close());
  }
}

TEST(LogVerifierTest, StringsThatCrossBlocksAndPagesToo) {
  SimFileSystem files;
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 14;
  auto store = Must(OpenIn<StringStore>("db", environment));
  for (int i = 0; i < 500; ++i) {
    Must(store.Upsert("key" + std::to_string(i % 200),
                      std::string(static_cast<std::size_t>(i * 37 % 6000), 'x')));
    if (i % 50 == 0) {
      Must(store.Commit());
      EXPECT_TRUE(IsWhole(store.Verify()));
    }
  }
  EXPECT_TRUE(IsWhole(store.Verify()));
  auto in_memory = Must(OpenTinyInMemory<U64StringStore>());
  for (std::uint64_t i = 0; i < 3000; ++i) Must(in_memory.Upsert(i, std::string(i % 90, 'x')));
  EXPECT_TRUE(IsWhole(in_memory.Verify()));
}

// Records that no commit covers stay in the log behind a later control record or are cut; chains
// pass over them.
TEST(LogVerifierTest, RecordsThatACrashMadeVoidAreNoProblem) {
  auto files = std::make_unique<SimFileSystem>();
  for (std::uint64_t life = 0; life < 6; ++life) {
    std::unique_ptr<SimFileSystem> crashed;
    {
      auto store = Must(OpenTiny<U64Store>("db", files.get()));
      EXPECT_TRUE(IsWhole(store.Verify()));
      std::thread committer([&] {
        for (int i = 0; i < 20; ++i) Must(store.Commit());
      });
      for (std::uint64_t i = 0; i < 4000; ++i) Must(store.Upsert(i % 500, i));
      committer.join();
      for (std::uint64_t i = 0; i < 3000; ++i) Must(store.Upsert(i % 700, i));
      EXPECT_TRUE(IsWhole(store.Verify()));
      crashed = files->Crash(life % 2 == 0 ? kEverythingSurvives : life + 1);
    }
    files = std::move(crashed);
  }
}

TEST(LogVerifierTest, PassesDuringOperationsCommitsAndPageTurns) {
  SimFileSystem files;
  auto store = Filled(files);
  internal::Atomic<std::uint64_t> running{2};
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    threads.emplace_back([&, seed] {
      auto session = store.NewSession();
      for (std::uint64_t i = seed; i < 20000; i += 7) {
        Must(session.Upsert(i % 5000, i));
        Must(session.Rmw(i % 11, [](std::uint64_t& n) { ++n; }));
        if (i % 5 == 0) static_cast<void>(session.Delete(i % 3000));
        if (i % 1000 == seed) Must(store.Commit());
      }
      running.fetch_sub(1, std::memory_order_release);
    });
  }
  do {
    EXPECT_TRUE(IsWhole(store.Verify()));
  } while (running.load(std::memory_order_acquire) != 0);
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(IsWhole(store.Verify()));
}

TEST(LogVerifierTest, CloseEndsIt) {
  SimFileSystem files;
  auto store = Filled(files);
  std::thread closer;
  const absl::Status status = store
                                  .Verify({.progress =
                                               [&](const VerifyProgress&) {
                                                 if (closer.joinable()) return;
                                                 closer = std::thread([&] { Must(store.Close()); });
                                                 while (!CoreOf(store).epochs.closed())
                                                   std::this_thread::yield();
                                               }})
                                  .status();
  closer.join();
  EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition, "closed"));
  EXPECT_TRUE(FailsWith(store.Verify().status(), StatusCode::kFailedPrecondition, "closed"));
}

// ---- blocks ----

TEST(LogVerifierTest, EveryBadBlockIsReportedOnceWithItsPlace) {
  SimFileSystem files;
  auto store = Filled(files);
  const Files log(files);
  for (const std::uint64_t block : {0, 3, 15, 16, 17}) log.Flip(block);
  const VerifyReport report = Must(store.Verify());
  EXPECT_THAT(report.problems, ElementsAre(Files::Place(0) + ": block 0 fails its checksum",
                                           Files::Place(3) + ": block 3 fails its checksum",
                                           Files::Place(15) + ": block 15 fails its checksum",
                                           Files::Place(16) + ": block 16 fails its checksum",
                                           Files::Place(17) + ": block 17 fails its checksum"));
  const VerifyReport few = Must(store.Verify({.max_problems = 2}));
  EXPECT_EQ(few.problem_count, 5U);
  EXPECT_EQ(few.problems.size(), 2U);
  EXPECT_EQ(few.block_count, report.block_count);
}

TEST(LogVerifierTest, BlocksOfAnotherIncarnationOrPlaceAreReported) {
  SimFileSystem files;
  auto store = Filled(files);
  const Files log(files);
  log.Change(CoreOf(store), 2, 12345, [](char*) {});
  log.Write(5, log.Read(6));
  {
    const internal::OpenedDirectory directory = files.OpenDirectory("db", false);
    internal::OpenedFile file = directory.directory->Open(SegmentFile(0), {.write = true});
    ASSERT_EQ(file.file->Truncate(Files::OffsetOf(15)), 0);
  }
  EXPECT_THAT(Must(store.Verify()).problems,
              ElementsAre(Files::Place(2) + ": block 2 is left over from an earlier incarnation "
                                            "of the store",
                          Files::Place(5) + ": block 5 fails its checksum",
                          Files::Place(15) + ": block 15 is missing"));
}

// ---- records and chains ----

// Where record `index` of a block of 24-byte records begins in it.
std::size_t RecordAt(std::size_t index) { return index * 24; }
std::uint64_t& WordOf(char* block, std::size_t at) {
  return *reinterpret_cast<std::uint64_t*>(block + at);
}

TEST(LogVerifierTest, LinksThatLeadElsewhereAreReported) {
  SimFileSystem files;
  auto store = Filled(files);
  internal::Core& core = CoreOf(store);
  const Files log(files);
  const auto change_prev = [&](std::uint64_t block, std::size_t index, std::uint64_t prev) {
    log.Change(core, block, core.log.incarnation(), [&](char* bytes) {
      std::uint64_t& word = WordOf(bytes, RecordAt(index));
      word = (word & ~RecordHeader::kPrevMask) | prev;
    });
  };
  change_prev(2, 0, 2 * kBlock + 480);  // above itself
  change_prev(3, 1, kBlock + 24);       // a record of another chain
  change_prev(4, 2, 3 * kBlock + 8);    // inside a record
  const VerifyReport report = Must(store.Verify());
  EXPECT_EQ(report.problem_count, 3U) << testing::PrintToString(report.problems);
  EXPECT_EQ(report.problems[0], Files::Place(2) + ": the record at 8192 links to a later record");
  EXPECT_EQ(
      report.problems[1],
      Files::Place(3) + ": the record at 12312 links to an address without a record of its chain");
  EXPECT_EQ(
      report.problems[2],
      Files::Place(4) + ": the record at 16432 links to an address without a record of its chain");
}

TEST(LogVerifierTest, ARecordThatItsChainPassesOverIsReported) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64Store>("db", &files));
  for (int round = 0; round < 4; ++round) {
    for (std::uint64_t i = 0; i < 170; ++i) Must(store.Upsert(i, i));
    Must(store.Commit());
  }
  PushOut(store, [&](std::uint64_t i) { Must(store.Upsert(1000 + i, i)); });
  EXPECT_TRUE(IsWhole(store.Verify()));
  // The third record of key 0 leads to the first.
  internal::Core& core = CoreOf(store);
  const Files log(files);
  std::vector<Address> chain;
  for (std::uint64_t block = 1; block < 10; ++block) {
    std::string bytes = log.Read(block);
    const RecordHeader header(WordOf(bytes.data(), 0));
    if (header.kind() == internal::RecordKind::kRecord && WordOf(bytes.data(), 8) == 0) {
      chain.push_back(core.log.geometry().BlockStart(block));
    }
  }
  ASSERT_GE(chain.size(), 3U);
  log.Change(core, core.log.geometry().BlockOf(chain[2]), core.log.incarnation(), [&](char* bytes) {
    std::uint64_t& word = WordOf(bytes, 0);
    ASSERT_EQ(word & RecordHeader::kPrevMask, chain[1].value());
    word = (word & ~RecordHeader::kPrevMask) | chain[0].value();
  });
  const VerifyReport report = Must(store.Verify());
  ASSERT_EQ(report.problem_count, 1U) << testing::PrintToString(report.problems);
  EXPECT_THAT(report.problems[0], HasSubstr("skips a record of its chain"));
}

TEST(LogVerifierTest, MalformedRecordsAreReportedAndTheNextPageIsReadOn) {
  SimFileSystem files;
  auto store = Must(OpenTiny<U64StringStore>("db", &files));
  for (std::uint64_t i = 0; i < 1000; ++i) Must(store.Upsert(i, std::string(56, 'v')));
  Must(store.Commit());
  internal::Core& core = CoreOf(store);
  const Files log(files);
  const auto set_word = [&](std::uint64_t block, std::size_t at, std::uint64_t value) {
    log.Change(core, block, core.log.incarnation(),
               [&](char* bytes) { WordOf(bytes, at) = value; });
  };
  set_word(2, 8, std::uint64_t{9000} << 32);  // capacity
  set_word(4, 16, std::uint64_t{57});         // more value bytes than capacity
  set_word(6, 0, 0);                          // no kind
  const VerifyReport report = Must(store.Verify());
  std::string all;
  for (const std::string& problem : report.problems) all += problem + "\n";
  EXPECT_THAT(all, HasSubstr(Files::Place(2) + ": the record at 8192 does not fit its page"));
  EXPECT_THAT(all, HasSubstr(Files::Place(4) + ": the record at 16384 is malformed"));
  EXPECT_THAT(all, HasSubstr(Files::Place(6) + ": the record at 24576 does not fit its page"));
}

TEST(LogVerifierTest, EntriesOfTheIndexThatLeadElsewhereAreReported) {
  SimFileSystem files;
  auto store = Filled(files);
  for (std::uint64_t i = 0; i < 300; ++i) Must(store.Upsert(i, i));  // second records of chains
  HashIndex& index = CoreOf(store).index;
  const auto entry_of = [&](std::uint64_t key) { return index.Find(TestHash(key)); };
  const auto with_address = [&](std::uint64_t key, Address address, const char* what) {
    const HashIndex::EntrySlot slot = entry_of(key);
    slot.word->store(slot.entry.WithAddress(address).word(), std::memory_order_release);
    const VerifyReport report = Must(store.Verify());
    EXPECT_EQ(report.problem_count, 1U) << what << testing::PrintToString(report.problems);
    EXPECT_THAT(report.problems[0], HasSubstr(what));
    slot.word->store(slot.entry.word(), std::memory_order_release);
  };
  // Key 7's newest record is in memory, key 2000's on the device.
  with_address(7, entry_of(8).entry.address(), "belongs to another chain");
  with_address(7, entry_of(7).entry.address() + 8, "a chain leads to it");
  with_address(2000, entry_of(2001).entry.address(),
               "does not belong to the chain that leads to it");
  with_address(2000, internal::kNoRecord + 4088, "is in no chain");
  EXPECT_TRUE(IsWhole(store.Verify()));
}

// ---- checkpoints ----

TEST(LogVerifierTest, DamagedCheckpointsAreReported) {
  SimFileSystem files;
  auto store = Filled(files);
  const std::uint64_t first = Must(store.Checkpoint()).id;
  Must(store.Upsert(1, 2));
  const std::uint64_t second = Must(store.Checkpoint()).id;
  EXPECT_EQ(Must(store.Verify()).checkpoint_count, 2U);
  Overwrite(files, "db", internal::ManifestName(first), 40, "xyz");
  Overwrite(files, "db", internal::ImageName(second), kBlock + 77, "xyz");
  EXPECT_THAT(Must(store.Verify()).problems,
              ElementsAre(HasSubstr(internal::ManifestName(first) + " at offset 0"),
                          HasSubstr(internal::ImageName(second) + " at offset 4096")));
}

}  // namespace
}  // namespace ebb::test
