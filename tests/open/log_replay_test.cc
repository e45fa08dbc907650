// LogReplay: the effect of every kind of damage to a log's files.
//
// A small store is closed, and then each byte of its files is changed, blocks are swapped or
// replaced by older ones, files are cut. An opening then shows exactly the values of the store, or
// it returns DataLoss and names the file and the place. It never does anything else, and never
// shows other data. The same holds for damage that happens while the store is open, below the part
// in memory.
//
// That holds for the end of the log too, because the durable end (durable_end.h) states where it
// was.
//
// Hazards: 16 (holes), 23 (checksums of data that still changes), 37 (recovery).
#include "ebb/internal/open/log_replay.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/open/offline_verifier.h"
#include "gtest/gtest.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

constexpr std::uint64_t kBlock = 4096;

internal::Environment ScanEnvironment(SimFileSystem& files) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.page_shift = 13;  // two blocks, so that records lie across their border
  environment.segment_blocks = 8;
  return environment;
}
absl::StatusOr<StringStore> OpenForScan(SimFileSystem& files) {
  Options options = TinyOptions();
  options.preallocate_bytes = 0;  // no file without a block behind the end
  return OpenIn<StringStore>("db", ScanEnvironment(files), options);
}

// Writes some of a hundred keys, the same for the same seed.
void Write(StringStore& store, StringModel& model, std::uint64_t seed, int count) {
  std::mt19937_64 random(seed);
  for (int i = 0; i < count; ++i) {
    const std::string key = "key " + std::to_string(random() % 100);
    if (random() % 6 == 0) {
      EXPECT_EQ(store.Delete(key).ok(), model.erase(key) == 1);
    } else {
      model[key] = std::string(random() % 400, static_cast<char>('a' + random() % 26));
      Must(store.Upsert(key, model[key]));
    }
  }
}

std::vector<std::string> Keys() {
  std::vector<std::string> keys;
  for (int i = 0; i < 100; ++i) keys.push_back("key " + std::to_string(i));
  return keys;
}

// A store that was opened twice, with a commit in between, and closed.
struct Closed {
  std::unique_ptr<SimFileSystem> files = std::make_unique<SimFileSystem>(/*direct=*/false);
  StringModel model;

  Closed() {
    {
      auto store = Must(OpenForScan(*files));
      Write(store, model, 1, 45);
      Must(Commit(store));
      Write(store, model, 2, 25);
      Must(store.Close());
    }
    auto store = Must(OpenForScan(*files));
    Write(store, model, 3, 25);
    Must(store.Close());
  }
};

// The result of opening a damaged store.
enum class Outcome { kRight, kRefused, kWrong };

// Right: it opens and holds exactly the values at its close. Refused: DataLoss that names a file
// and an offset. `why` has the details.
Outcome OutcomeOf(SimFileSystem& files, const StringModel& model, std::string& why) {
  absl::StatusOr<StringStore> store = OpenForScan(files);
  if (!store.ok()) {
    why = store.status().ToString();
    const bool named = why.find("log-0000000") != std::string::npos &&
                       (why.find(" at offset ") != std::string::npos ||
                        why.find(" is missing") != std::string::npos);
    return named && absl::IsDataLoss(store.status()) ? Outcome::kRefused : Outcome::kWrong;
  }
  const testing::AssertionResult holds = HoldsOnly(*store, model, Keys());
  if (holds) return Outcome::kRight;
  why = holds.message();
  return Outcome::kWrong;
}

std::string PlaceOf(const std::string& name, std::uint64_t offset) {
  return name + " at offset " + std::to_string(offset);
}

// ---- single bytes ----

// All bytes from scale 0.5 on, otherwise a part of them.
TEST(LogReplayTest, AnyChangedByteIsHarmlessOrReported) {
  const Closed closed;
  const auto step = static_cast<std::uint64_t>(std::max(1.0, 0.5 / Scale())) * Stride();
  std::uint64_t flip_count = 0;
  std::uint64_t refused_count = 0;
  std::uint64_t durable_end_count = 0;
  for (const auto& [name, bytes] : SnapshotOf(*closed.files, "db")) {
    const bool is_durable_end = name == internal::kDurableEndName;
    for (std::uint64_t offset = Seed() % step; offset < bytes.size(); offset += step) {
      ++flip_count;
      durable_end_count += is_durable_end ? 1 : 0;
      const std::unique_ptr<SimFileSystem> files = closed.files->Kill();
      std::string byte(1, bytes[offset]);
      byte[0] = static_cast<char>(byte[0] ^ (1 << (offset * 5 + offset / 8) % 8));
      Overwrite(*files, "db", name, offset, byte);
      std::string why;
      const Outcome outcome = OutcomeOf(*files, closed.model, why);
      if (outcome == Outcome::kRight) continue;
      ASSERT_EQ(outcome, Outcome::kRefused) << PlaceOf(name, offset) << ": " << why;
      ++refused_count;
      // The message names the block that was changed.
      ASSERT_NE(why.find(PlaceOf(name, offset / kBlock * kBlock)), std::string::npos)
          << PlaceOf(name, offset) << ": " << why;
    }
  }
  std::printf("%llu bytes changed, %llu refused\n", static_cast<unsigned long long>(flip_count),
              static_cast<unsigned long long>(refused_count));
  EXPECT_GE(flip_count, 40000 / step);
  EXPECT_EQ(refused_count, flip_count - durable_end_count);
}

// The same in a store that is open: the damage meets a read, not a scan.
TEST(LogReplayTest, AnyByteChangedUnderAnOpenStoreIsReportedByTheRead) {
  SimFileSystem files(/*direct=*/false);
  auto store = Must(OpenForScan(files));
  StringModel model;
  Write(store, model, 1, 150);
  std::uint64_t filler = 0;
  PushOut(store, [&](std::uint64_t) {
    Must(store.Upsert("filler " + std::to_string(filler++), std::string(900, 'f')));
  });
  // Which keys lie in which block: those that a wrong byte in it makes unreadable.
  const std::uint64_t end = CoreOf(store).files.device->EndBlock();
  std::uint64_t flip_count = 0;
  std::uint64_t block_count = 0;
  std::string value;
  for (std::uint64_t block = 1; block < end; ++block) {
    const std::string name = SegmentFile(block / 8);
    const std::uint64_t start = (1 + block % 8) * kBlock;
    const std::string bytes = SnapshotOf(files, "db").at(name).substr(start, kBlock);
    ASSERT_EQ(bytes.size(), kBlock);
    const auto flip = [&](std::uint64_t at) {
      Overwrite(files, "db", name, start + at,
                std::string(1, static_cast<char>(bytes[at] ^ (1 << at % 8))));
    };
    const auto mend = [&](std::uint64_t at) {
      Overwrite(files, "db", name, start + at, std::string(1, bytes[at]));
    };
    std::vector<std::string> keys;
    flip(0);
    for (const auto& [key, expected] : model) {
      if (!store.Read(key, value).ok()) keys.push_back(key);
    }
    mend(0);
    if (keys.empty()) continue;
    ++block_count;
    for (std::uint64_t at = 0; at < kBlock; ++at, ++flip_count) {
      flip(at);
      const absl::Status status = store.Read(keys[at % keys.size()], value);
      ASSERT_TRUE(FailsWith(status, StatusCode::kDataLoss, PlaceOf(name, start))) << "byte " << at;
      // So says every other call that depends on the record, and has no effect.
      if (at % 64 == 0) {
        const std::string& key = keys[at % keys.size()];
        EXPECT_TRUE(absl::IsDataLoss(store.Contains(key).status()));
        EXPECT_TRUE(absl::IsDataLoss(store.Delete(key)));
        EXPECT_TRUE(absl::IsDataLoss(store.InsertIfAbsent(key, "v")));
        EXPECT_TRUE(absl::IsDataLoss(store.Rmw(key, [](std::string& v) { v = "x"; })));
        EXPECT_TRUE(IsCorruption(status));
      }
      mend(at);
    }
  }
  EXPECT_GE(block_count, 5U);
  EXPECT_GE(flip_count, 20000U);
  EXPECT_TRUE(HoldsOnly(store, model, Keys()));
}

// ---- whole blocks ----

// Calls `damage(files)` on a fresh copy of a closed store, and returns the result.
template <typename Damage>
Outcome DamageOutcome(const Closed& closed, std::string& why, Damage damage) {
  const std::unique_ptr<SimFileSystem> files = closed.files->Kill();
  damage(*files);
  return OutcomeOf(*files, closed.model, why);
}

struct Block {
  std::string name;
  std::uint64_t offset;
  std::string bytes;
};
// All blocks of all files of the log, headers too.
std::vector<Block> BlocksOf(const SimFileSystem& files) {
  std::vector<Block> blocks;
  for (const auto& [name, bytes] : SnapshotOf(files, "db")) {
    if (name == internal::kDurableEndName) continue;
    for (std::uint64_t offset = 0; offset + kBlock <= bytes.size(); offset += kBlock) {
      blocks.push_back({name, offset, bytes.substr(offset, kBlock)});
    }
  }
  return blocks;
}
void Put(SimFileSystem& files, const Block& place, const std::string& bytes) {
  Overwrite(files, "db", place.name, place.offset, bytes);
}

TEST(LogReplayTest, SwappedBlocksAreReported) {
  const Closed closed;
  const std::vector<Block> blocks = BlocksOf(*closed.files);
  ASSERT_GE(blocks.size(), 9U);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (std::size_t j = i + 1; j < blocks.size(); ++j) {
      std::string why;
      const Outcome outcome = DamageOutcome(closed, why, [&](SimFileSystem& files) {
        Put(files, blocks[i], blocks[j].bytes);
        Put(files, blocks[j], blocks[i].bytes);
      });
      ASSERT_EQ(outcome, Outcome::kRefused) << i << " and " << j << ": " << why;
    }
  }
}

TEST(LogReplayTest, CopiedAndErasedBlocksAreReported) {
  const Closed closed;
  const std::vector<Block> blocks = BlocksOf(*closed.files);
  for (std::size_t to = 0; to < blocks.size(); ++to) {
    std::vector<std::string> contents = {
        std::string(kBlock, '\0'), std::string(kBlock, '\xff'),
        blocks[to].bytes.substr(0, 512) + std::string(kBlock - 512, '\0')};
    for (const Block& from : blocks) {
      if (&from != &blocks[to]) contents.push_back(from.bytes);
    }
    for (std::size_t i = 0; i < contents.size(); ++i) {
      std::string why;
      const Outcome outcome = DamageOutcome(
          closed, why, [&](SimFileSystem& files) { Put(files, blocks[to], contents[i]); });
      ASSERT_EQ(outcome, Outcome::kRefused) << "block " << to << ", content " << i << ": " << why;
    }
  }
}

// Two stores continue from the same files. Blocks of the one are older blocks of the other: of the
// same store, at the same place, with a right checksum, and still not the block that was written
// last.
TEST(LogReplayTest, BlocksOfAnotherIncarnationAreReported) {
  Closed sides[2];
  sides[1].files = sides[0].files->Kill();
  for (const int side : {0, 1}) {
    auto store = Must(OpenForScan(*sides[side].files));
    Write(store, sides[side].model, 100 + static_cast<std::uint64_t>(side), 60);
    Must(store.Close());
  }
  const std::vector<Block> now = BlocksOf(*sides[0].files);
  const std::vector<Block> stale = BlocksOf(*sides[1].files);
  std::size_t first = 0;  // the first block that differs: the open record
  while (now[first].bytes == stale[first].bytes) ++first;
  const std::size_t common = std::min(now.size(), stale.size());
  ASSERT_GE(common, first + 4);
  for (std::size_t i = first; i < common; ++i) {
    if (now[i].bytes == stale[i].bytes) continue;          // a header
    for (const std::size_t end : {i + 1, stale.size()}) {  // one block, and the whole rest
      const std::unique_ptr<SimFileSystem> files = sides[0].files->Kill();
      for (std::size_t k = i; k < end; ++k) Put(*files, stale[k], stale[k].bytes);
      std::string why;
      const Outcome outcome = OutcomeOf(*files, sides[0].model, why);
      if (outcome == Outcome::kRefused) continue;
      // All of it: then it is the other store, whole. No check can find that.
      ASSERT_TRUE(i == first && end == stale.size()) << i << " to " << end << ": " << why;
      EXPECT_EQ(OutcomeOf(*files, sides[1].model, why), Outcome::kRight) << why;
    }
  }
}

// ---- ends ----

// A link to something that is no record of its chain, made by an attacker who can compute
// checksums. Once it is in memory it is not verified again, and it could lead a reader anywhere.
TEST(LogReplayTest, AForgedLinkIsReported) {
  SimFileSystem files(/*direct=*/false);
  {
    auto store = Must(OpenForScan(files));
    Must(store.Upsert("first", "1"));
    Must(store.Upsert("forged", "2"));
    Must(store.Close());
  }
  const std::string file = SnapshotOf(files, "db").at(SegmentFile(0));
  const std::size_t key = file.find("forged");
  ASSERT_NE(key, std::string::npos);
  const std::size_t place = key / kBlock * kBlock;
  std::string block = file.substr(place, kBlock);
  const auto word = [&](const std::string& bytes, std::size_t at) {
    std::uint64_t value;
    std::memcpy(&value, bytes.data() + at, 8);
    return value;
  };
  const std::size_t record = key % kBlock - 24;
  const std::uint64_t forged = (word(block, record) & ~internal::RecordHeader::kPrevMask) | 4088;
  std::memcpy(block.data() + record, &forged, 8);
  internal::SealBlock(std::as_writable_bytes(std::span(block)), word(file, 16), place / kBlock - 1,
                      word(block, 4080));
  Overwrite(files, "db", SegmentFile(0), place, block);
  EXPECT_TRUE(FailsWith(OpenForScan(files).status(), StatusCode::kDataLoss, "does not link"));
}

// A bit that is reserved for a later version, set by an attacker who can compute checksums.
TEST(LogReplayTest, AReservedBitOfARecordIsRejected) {
  SimFileSystem files;
  {
    auto store = Must(OpenForScan(files));
    Must(store.Upsert("key", "value"));
    Must(store.Close());
  }
  std::string block = SnapshotOf(files, "db").at(SegmentFile(0)).substr(2 * kBlock, kBlock);
  std::uint64_t store_id = 0;
  std::memcpy(&store_id, SnapshotOf(files, "db").at(SegmentFile(0)).data() + 16, 8);
  std::uint64_t header = 0;
  std::memcpy(&header, block.data(), 8);
  ASSERT_EQ(internal::RecordHeader(header).kind(), internal::RecordKind::kRecord);
  std::uint64_t incarnation = 0;
  std::memcpy(&incarnation, block.data() + 4080, 8);
  for (const std::uint64_t bits : {std::uint64_t{1} << 54, std::uint64_t{1} << 63}) {
    const std::uint64_t forged = header | bits;
    std::memcpy(block.data(), &forged, 8);
    internal::SealBlock(std::as_writable_bytes(std::span(block)), store_id, 1, incarnation);
    Overwrite(files, "db", SegmentFile(0), 2 * kBlock, block);
    EXPECT_TRUE(FailsWith(OpenForScan(files).status(), StatusCode::kDataLoss, "malformed record"));
    const VerifyReport report = Must(internal::VerifyFiles(files, "db", {}));
    EXPECT_EQ(report.problem_count, 1U);
  }
}

// An open record that says that it cuts the log at another block than its own, made by an attacker
// who can compute checksums. It begins no incarnation; commits after it state that it was durable.
TEST(LogReplayTest, AnOpenRecordWithAnotherCutIsReported) {
  const Closed closed;
  const std::vector<Block> blocks = BlocksOf(*closed.files);
  std::uint64_t store_id = 0;
  std::memcpy(&store_id, blocks[0].bytes.data() + 16, 8);
  std::uint64_t number = 0;
  std::uint64_t forged = 0;
  for (const Block& block : blocks) {
    if (block.offset == 0) continue;  // a header
    const auto payload = std::as_bytes(std::span(block.bytes)).first(internal::kBlockPayloadBytes);
    auto record = internal::DecodeCommitRecord(payload, store_id, number);
    if (record.has_value() && record->kind == internal::RecordKind::kOpen) {
      ASSERT_EQ(record->cut_block, number);
      for (const std::uint64_t cut : {number + 1, number - 1, std::uint64_t{0}}) {
        if (cut == number) continue;
        record->cut_block = cut;
        std::string bytes = block.bytes;
        const auto whole = std::as_writable_bytes(std::span(bytes));
        std::uint64_t incarnation = 0;
        std::memcpy(&incarnation, bytes.data() + internal::kBlockPayloadBytes, 8);
        internal::EncodeCommitRecord(*record, store_id, number,
                                     whole.first(internal::kBlockPayloadBytes));
        internal::SealBlock(whole, store_id, number, incarnation);
        const std::unique_ptr<SimFileSystem> files = closed.files->Kill();
        Put(*files, block, bytes);
        std::string why;
        EXPECT_EQ(OutcomeOf(*files, closed.model, why), Outcome::kRefused)
            << "block " << number << " with cut " << cut << ": " << why;
        ++forged;
      }
    }
    ++number;
  }
  EXPECT_GE(forged, 4U) << "two histories";
}

TEST(LogReplayTest, CutFilesAreRejected) {
  const Closed closed;
  std::uint64_t refused = 0;
  const Snapshot whole = SnapshotOf(*closed.files, "db");
  for (const auto& [name, bytes] : whole) {
    for (std::uint64_t size = 0; size < bytes.size(); size += 512) {
      Snapshot cut = whole;
      cut[name].resize(size);
      SimFileSystem files(/*direct=*/false);
      Restore(cut, files, "db");
      std::string why;
      const Outcome outcome = OutcomeOf(files, closed.model, why);
      const bool is_log = name != internal::kDurableEndName;
      ASSERT_EQ(outcome, is_log ? Outcome::kRefused : Outcome::kRight)
          << PlaceOf(name, size) << ": " << why;
      refused += is_log;
    }
  }
  EXPECT_GE(refused, 40U);
}

// Bytes beyond the end belong to no record and are ignored.
TEST(LogReplayTest, BlocksAfterTheEndAreIgnoredOrReported) {
  const Closed closed;
  const Snapshot whole = SnapshotOf(*closed.files, "db");
  std::mt19937_64 random(5);
  for (const std::uint64_t extra : {1U, 511U, 4095U, 4096U, 8192U, 12288U}) {
    for (const bool zeros : {false, true}) {
      Snapshot longer = whole;
      for (std::uint64_t i = 0; i < extra; ++i) {
        longer.rbegin()->second.push_back(zeros ? '\0' : static_cast<char>(random()));
      }
      SimFileSystem files(/*direct=*/false);
      Restore(longer, files, "db");
      std::string why;
      EXPECT_EQ(OutcomeOf(files, closed.model, why), Outcome::kRight) << extra << ": " << why;
    }
  }
}

// Several damages at once, at random.
TEST(LogReplayTest, AnyDamageToTheLogIsRejected) {
  const Closed closed;
  const std::vector<Block> blocks = BlocksOf(*closed.files);
  constexpr std::uint64_t kSeed = 99;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  for (int round = 0; round < 500; ++round) {
    std::string why;
    const Outcome outcome = DamageOutcome(closed, why, [&](SimFileSystem& files) {
      const std::uint64_t count = 1 + random() % 3;
      for (std::uint64_t i = 0; i < count; ++i) {
        const Block& block = blocks[random() % blocks.size()];
        const std::uint64_t bytes = 1 + random() % 64;
        const std::uint64_t at = random() % (kBlock - bytes);
        std::string junk = block.bytes.substr(at, bytes);
        for (char& c : junk) c = static_cast<char>(c ^ static_cast<char>(1 + random() % 255));
        Put(files, {block.name, block.offset + at, ""}, junk);
      }
    });
    ASSERT_EQ(outcome, Outcome::kRefused) << "round " << round << ": " << why;
  }
}

}  // namespace
}  // namespace ebb::test
