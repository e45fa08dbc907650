// Damage: a closed store whose files have changed.
//
// Bits flipped, files cut off, blocks and sectors exchanged, put elsewhere, or taken from an
// earlier life of the same store. Opening it and reading every key returns the values of the store,
// or DataLoss that names file and offset; never a crash, a hang, another value, or an older state:
// a close has recorded everything as durable. Only a log that has lost its end to the last byte
// cannot be told from one that never had it; it comes back as its last intact commit.
//
// Every bit is flipped in blocks of metadata (headers of files and blocks with commit records), one
// random bit in every byte of other blocks. At scale 1 the former are all bits of one block of each
// kind and one bit of every byte of the others; from scale 10 on all bits of all of them. Counts
// are printed, and their minimums asserted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/checkpoint/durable_end.h"
#include "ebb/internal/format/block.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSegmentBlocks = 4;

absl::StatusOr<LedgerStore> Open(SimFileSystem& files) {
  internal::Environment environment = TinyEnvironment(&files);
  environment.segment_blocks = kSegmentBlocks;
  Options options = TinyOptions();
  options.preallocate_bytes = 0;  // or most files would stay empty
  return OpenIn<LedgerStore>("db", environment, options);
}

// A store of several files and incarnations, closed. One crash has left a file of blocks that are
// valid in themselves, and no part of the log any more.
struct Subject {
  SimDisk disk;
  Ledger ledger;
  Ledger::State state{};
  Snapshot stale;  // the files as the crash left them
  Snapshot files;
  struct Place {
    std::string file;
    std::uint64_t offset = 0;
  };
  std::vector<Place> headers;      // of files of the log
  std::vector<Place> spares;       // the same, of files that only have their space yet
  std::vector<Place> commits;      // blocks with commit records
  std::vector<Place> others;       // the log's other blocks
  std::vector<Place> checkpoints;  // blocks of images and manifests
  std::vector<Place> ends;         // of the durable end
};

void Classify(Subject& subject) {
  for (const auto& [name, bytes] : subject.files) {
    if (bytes.empty()) continue;
    for (std::uint64_t offset = 0; offset < bytes.size(); offset += kBlock) {
      // The magic at the end of a block's payload; the store's id is in the header.
      std::uint64_t store_id = 0;
      std::memcpy(&store_id, bytes.data() + 16, 8);
      const auto payload =
          std::as_bytes(std::span(bytes)).subspan(offset, internal::kBlockPayloadBytes);
      const std::uint64_t number =
          name.substr(0, 4) == "log-"
              ? std::stoull(name.substr(4)) * kSegmentBlocks + offset / kBlock - 1
              : 0;
      const bool commit = internal::DecodeCommitRecord(payload, store_id, number).has_value();
      (name == internal::kDurableEndName ? subject.ends
       : name.substr(0, 4) != "log-"     ? subject.checkpoints
       : bytes.size() == kBlock          ? subject.spares
       : offset == 0                     ? subject.headers
       : commit                          ? subject.commits
                                         : subject.others)
          .push_back({name, offset});
    }
  }
}

Subject MakeSubject(bool with_checkpoints) {
  Subject subject;
  auto files = std::make_unique<SimFileSystem>(/*direct=*/false);
  std::unique_ptr<SimFileSystem> left;  // by a process that died
  Ledger& ledger = subject.ledger;
  const auto checkpoint = [&](LedgerStore& store) {
    if (with_checkpoints) Must(store.Checkpoint());
  };
  {
    auto store = Must(Open(*files));
    auto session = store.NewSession();
    Must(ledger.Upserts(session, 10));
    Must(Commit(store));
    Must(ledger.Deletes(session, 2));
    Must(Commit(store));
    const std::size_t kept = ledger.size();
    Must(ledger.Upserts(session, 90));  // flushed in part
    left = files->Kill();
    subject.stale = SnapshotOf(*left, "db");
    ledger.UndoTo(kept);
  }
  files = std::move(left);
  {
    auto store = Must(Open(*files));
    auto session = store.NewSession();
    Must(ledger.Rmws(session, 10));
    Must(Commit(store));
    checkpoint(store);
    Must(ledger.Upserts(session, 20));
    Must(store.Close());
  }
  {
    auto store = Must(Open(*files));
    auto session = store.NewSession();
    Must(ledger.Deletes(session, 2));
    checkpoint(store);
    Must(ledger.Upserts(session, 3));
    Must(store.Close());
  }
  EXPECT_TRUE(Verifies(*files, "db")) << "before any damage";
  subject.files = SnapshotOf(*files, "db");
  subject.disk = files->DiskAt(files->CallCount()).Crash(kEverythingSurvives);
  subject.state = ledger.After(ledger.size());
  Classify(subject);
  return subject;
}

// ---- judging ----

enum class Outcome { kUnharmed, kDetected, kWrong };

struct Counts {
  std::uint64_t unharmed = 0;
  std::uint64_t detected = 0;
  std::uint64_t wrong = 0;
  std::uint64_t total() const { return unharmed + detected + wrong; }
};

bool NamesItsPlace(const absl::Status& status) {
  const std::string message(status.message());
  return absl::IsDataLoss(status) && message.find(".ebb") != std::string::npos &&
         (message.find("offset") != std::string::npos ||
          message.find("missing") != std::string::npos);
}

// The result of opening `disk` and reading all of it; `expected` is right.
Outcome Judge(SimDisk disk, const Ledger::State& expected, std::string& what) {
  SimFileSystem files(std::move(disk), /*direct=*/false);
  absl::StatusOr<LedgerStore> store = Open(files);
  absl::Status status = store.status();
  if (status.ok()) {
    auto session = store->NewSession();
    const absl::StatusOr<Ledger::State> state = ReadLedger(session);
    if (state.ok() && *state == expected) return Outcome::kUnharmed;
    status = state.ok() ? absl::InternalError("another state: " + testing::PrintToString(*state))
                        : state.status();
  }
  if (NamesItsPlace(status)) return Outcome::kDetected;
  what = status.ToString();
  return Outcome::kWrong;
}

class Judgement {
 public:
  explicit Judgement(const Subject& subject) : subject_(subject) {}

  void Expect(const SimDisk& disk, const std::string& name) {
    std::string what;
    switch (Judge(disk, subject_.state, what)) {
      case Outcome::kUnharmed:
        ++counts_.unharmed;
        return;
      case Outcome::kDetected:
        ++counts_.detected;
        return;
      case Outcome::kWrong:
        if (++counts_.wrong <= 5) ADD_FAILURE() << name << ": " << what;
        return;
    }
  }

  const Counts& counts() const { return counts_; }
  void Print(const char* title) const {
    std::printf("%s: %llu cases, %llu detected, %llu without consequence\n", title,
                static_cast<unsigned long long>(counts_.total()),
                static_cast<unsigned long long>(counts_.detected),
                static_cast<unsigned long long>(counts_.unharmed));
  }

 private:
  const Subject& subject_;
  Counts counts_;
};

// ---- changes ----

std::uint64_t FileOf(const SimDisk& disk, const std::string& name) {
  return disk.Find("db", name).value();
}
SimDisk WithBytes(SimDisk disk, const Subject::Place& place, const std::string& bytes) {
  SimBytes copy(bytes.size());
  std::memcpy(copy.data(), bytes.data(), bytes.size());
  disk.Apply({.kind = SimCall::Kind::kWrite,
              .file = FileOf(disk, place.file),
              .offset = place.offset,
              .bytes = std::move(copy)});
  return disk;
}
SimDisk WithFlippedBit(const Subject& subject, const Subject::Place& place, std::uint64_t bit) {
  const Subject::Place byte{place.file, place.offset + bit / 8};
  const char flipped =
      static_cast<char>(subject.files.at(byte.file)[byte.offset] ^ static_cast<char>(1 << bit % 8));
  return WithBytes(subject.disk, byte, std::string(1, flipped));
}
std::string At(const Subject::Place& place) {
  return place.file + " at offset " + std::to_string(place.offset);
}

class DamageTest : public testing::Test {
 protected:
  static const Subject& Plain() {
    static const Subject subject = MakeSubject(/*with_checkpoints=*/false);
    return subject;
  }
  static const Subject& Checkpointed() {
    static const Subject subject = MakeSubject(/*with_checkpoints=*/true);
    return subject;
  }
  explicit DamageTest(const Subject& subject = Plain()) : subject_(subject) {}

  void FlipBits();
  void Truncate();
  void MisplaceBlocks();
  void MisplaceSectors();
  void PutStaleParts();
  void MisplaceFiles();

  static std::uint64_t Scaled(double count) {
    return static_cast<std::uint64_t>(count * std::min(1.0, Scale()));
  }
  const Subject& subject_;
  Judgement judgement_{subject_};
  std::mt19937_64 random_{Seed()};
};
// The same with two checkpoints. Damage to them is repaired from the log.
class DamageWithCheckpointsTest : public DamageTest {
 protected:
  DamageWithCheckpointsTest() : DamageTest(Checkpointed()) {}
};

TEST_F(DamageTest, TheStoreHasAllPartsThatTestsDamage) {
  EXPECT_GE(subject_.headers.size(), 4U);
  EXPECT_GE(subject_.commits.size(), 7U) << "open records and commits";
  EXPECT_EQ(subject_.ends.size(), 2U);
  EXPECT_GE(subject_.others.size(), 4U);
  EXPECT_GE(subject_.stale.size(), 2U);
  judgement_.Expect(subject_.disk, "as it was");
  EXPECT_EQ(judgement_.counts().unharmed, 1U);
}

void DamageTest::FlipBits() {
  const auto flip = [&](const Subject::Place& place, bool every_bit) {
    for (std::uint64_t byte = 0; byte < kBlock; ++byte) {
      if (Scale() < 1 && random_() % 1000 >= static_cast<std::uint64_t>(Scale() * 1000)) continue;
      for (std::uint64_t i = 0; i < (every_bit ? 8 : 1); ++i) {
        const std::uint64_t bit = byte * 8 + (every_bit ? i : random_() % 8);
        judgement_.Expect(WithFlippedBit(subject_, place, bit),
                          "bit " + std::to_string(bit) + " of the block at " + At(place));
      }
    }
  };
  const auto flip_all = [&](const std::vector<Subject::Place>& places) {
    if (places.empty()) return;
    // By turns, so that runs with other seeds take other blocks.
    const std::size_t exhaustive = random_() % places.size();
    for (std::size_t i = 0; i < places.size(); ++i) {
      flip(places[i], i == exhaustive || Scale() >= 10);
    }
  };
  flip_all(subject_.checkpoints);
  flip_all(subject_.spares);
  flip_all(subject_.ends);
  // With checkpoints the log is as it is without, and only less of it is read.
  if (subject_.checkpoints.empty() || Scale() >= 10) {
    flip_all(subject_.headers);
    flip_all(subject_.commits);
  }
  for (const Subject::Place& place : subject_.others) flip(place, false);
  judgement_.Print("flipped bits");
  EXPECT_GE(judgement_.counts().total(), Scaled(50000));
}

// Every length, by sectors; by bytes in the headers and at the ends of blocks.
void DamageTest::Truncate() {
  for (const auto& [name, bytes] : subject_.files) {
    for (std::uint64_t size = 0; size < bytes.size(); ++size) {
      const bool fine = size < 100 || size % kBlock < 2 || size % kBlock > kBlock - 100;
      if ((size % kSectorBytes != 0 && !fine) || !IsInSample(size)) continue;
      SimDisk disk = subject_.disk;
      disk.Apply({.kind = SimCall::Kind::kTruncate, .file = FileOf(disk, name), .offset = size});
      judgement_.Expect(disk, name + " cut to " + std::to_string(size));
    }
  }
  judgement_.Print("truncations");
  EXPECT_GE(judgement_.counts().total(), 1000 / Stride());
}

// All but files that only have their space yet, and those of the durable end last.
std::vector<Subject::Place> PlacesOf(const Subject& subject) {
  std::vector<Subject::Place> places = subject.headers;
  for (const auto& more : {subject.others, subject.checkpoints, subject.commits, subject.ends}) {
    places.insert(places.end(), more.begin(), more.end());
  }
  return places;
}
std::string BytesAt(const Snapshot& files, const Subject::Place& place, std::uint64_t count) {
  return files.at(place.file).substr(place.offset, count);
}

void DamageTest::MisplaceBlocks() {
  const std::vector<Subject::Place> places = PlacesOf(subject_);
  for (const Subject::Place& from : places) {
    for (const Subject::Place& to : places) {
      if (&from == &to) continue;
      const std::string moved = BytesAt(subject_.files, from, kBlock);
      SimDisk disk = WithBytes(subject_.disk, to, moved);
      judgement_.Expect(disk, "block from " + At(from) + " to " + At(to));
      if (&from > &to) continue;
      disk = WithBytes(disk, from, BytesAt(subject_.files, to, kBlock));
      judgement_.Expect(disk, "blocks exchanged: " + At(from) + " and " + At(to));
    }
    for (const char filler : {'\0', '\xff'}) {
      judgement_.Expect(WithBytes(subject_.disk, from, std::string(kBlock, filler)),
                        "block overwritten: " + At(from));
    }
  }
  judgement_.Print("misplaced blocks");
  EXPECT_GE(judgement_.counts().detected, 300U);
}

void DamageTest::MisplaceSectors() {
  const std::vector<Subject::Place> places = PlacesOf(subject_);
  const auto random_sector = [&] {
    Subject::Place place = places[random_() % places.size()];
    place.offset += random_() % (kBlock / kSectorBytes) * kSectorBytes;
    return place;
  };
  for (std::uint64_t i = 0; i < Scaled(10000); ++i) {
    const Subject::Place from = random_sector();
    const Subject::Place to = random_sector();
    SimDisk disk = WithBytes(subject_.disk, to, BytesAt(subject_.files, from, kSectorBytes));
    if (i % 2 == 0) disk = WithBytes(disk, from, BytesAt(subject_.files, to, kSectorBytes));
    judgement_.Expect(disk, "sector from " + At(from) + " to " + At(to));
  }
  judgement_.Print("misplaced sectors");
}

// Data of an earlier life of the store from the same place: whole files, blocks, sectors.
void DamageTest::PutStaleParts() {
  for (const auto& [name, bytes] : subject_.stale) {
    const auto now = subject_.files.find(name);
    if (now == subject_.files.end()) continue;
    const std::uint64_t size = std::min(bytes.size(), now->second.size());
    if (size != 0) {
      judgement_.Expect(WithBytes(subject_.disk, {name, 0}, bytes.substr(0, size)),
                        "stale " + name);
    }
    for (std::uint64_t offset = 0; offset < size; offset += kSectorBytes) {
      const Subject::Place place{name, offset};
      for (const std::uint64_t count : {kSectorBytes, std::size_t{kBlock}}) {
        if (offset % count != 0) continue;
        judgement_.Expect(WithBytes(subject_.disk, place, BytesAt(subject_.stale, place, count)),
                          "stale " + std::to_string(count) + " bytes at " + At(place));
      }
    }
  }
  judgement_.Print("stale parts");
  EXPECT_GE(judgement_.counts().detected, 20U);
}

// Whole files gone, exchanged, or under another name.
void DamageTest::MisplaceFiles() {
  for (const Subject::Place& one : subject_.headers) {
    SimDisk gone = subject_.disk;
    gone.Apply({.kind = SimCall::Kind::kUnlink, .directory = "db", .name = one.file});
    judgement_.Expect(gone, one.file + " is gone");
    for (const Subject::Place& other : subject_.headers) {
      if (one.file == other.file) continue;
      SimDisk disk = subject_.disk;
      disk.Apply({.kind = SimCall::Kind::kRename,
                  .directory = "db",
                  .name = one.file,
                  .new_name = other.file});
      judgement_.Expect(disk, one.file + " in the place of " + other.file);
    }
  }
  judgement_.Print("misplaced files");
  EXPECT_GE(judgement_.counts().detected, 10U);
}

TEST_F(DamageTest, AFlippedBitIsDetectedOrHarmless) { FlipBits(); }
TEST_F(DamageTest, ATruncatedFileIsDetectedOrHarmless) { Truncate(); }
TEST_F(DamageTest, AMisplacedBlockIsDetected) {
  MisplaceBlocks();
  const std::size_t others = PlacesOf(subject_).size() - 1;
  EXPECT_EQ(judgement_.counts().unharmed, 2 * others + 1 + 2 * 2)
      << "into blocks of the durable end, these two exchanged, and overwritten";
}
TEST_F(DamageTest, AMisplacedSectorIsDetectedOrHarmless) { MisplaceSectors(); }
TEST_F(DamageTest, AStalePartIsDetectedOrHarmless) { PutStaleParts(); }
TEST_F(DamageTest, AMisplacedFileIsDetected) {
  MisplaceFiles();
  EXPECT_EQ(judgement_.counts().unharmed, 0U);
}

TEST_F(DamageWithCheckpointsTest, AFlippedBitIsDetectedOrHarmless) { FlipBits(); }
TEST_F(DamageWithCheckpointsTest, ATruncatedFileIsDetectedOrHarmless) { Truncate(); }
TEST_F(DamageWithCheckpointsTest, AMisplacedBlockIsDetectedOrHarmless) { MisplaceBlocks(); }
TEST_F(DamageWithCheckpointsTest, AMisplacedSectorIsDetectedOrHarmless) { MisplaceSectors(); }
TEST_F(DamageWithCheckpointsTest, AStalePartIsDetectedOrHarmless) { PutStaleParts(); }
TEST_F(DamageWithCheckpointsTest, AMisplacedFileIsDetectedOrHarmless) { MisplaceFiles(); }

// Damage to a checkpoint costs nothing but time, and is reported with its place.
TEST_F(DamageWithCheckpointsTest, ADamagedCheckpointIsMadeGoodFromTheLogAndReported) {
  std::string newest;
  {
    SimFileSystem files(subject_.disk, /*direct=*/false);
    auto store = Must(Open(files));
    ASSERT_NE(store.recovery().checkpoint_id, 0U);
    EXPECT_TRUE(store.recovery().notes.empty());
    newest = std::to_string(store.recovery().checkpoint_id) + ".ebb";
  }
  std::uint64_t reported = 0;
  for (const Subject::Place& place : subject_.checkpoints) {
    for (std::uint64_t bit = 0; bit < kBlock * 8; bit += 1 + random_() % 800) {
      SimFileSystem files(WithFlippedBit(subject_, place, bit), /*direct=*/false);
      auto store = Open(files);
      ASSERT_TRUE(store.ok()) << store.status() << ", bit " << bit << " of " << At(place);
      auto session = store->NewSession();
      ASSERT_EQ(Must(ReadLedger(session)), subject_.state) << "bit " << bit << " of " << At(place);
      const bool of_newest = place.file.size() > newest.size() && place.file.ends_with(newest);
      const std::vector<std::string>& notes = store->recovery().notes;
      EXPECT_TRUE(!of_newest || !notes.empty()) << "bit " << bit << " of " << At(place);
      for (const std::string& note : notes) {
        EXPECT_NE(note.find(place.file), std::string::npos) << note;
      }
      reported += notes.empty() ? 0 : 1;
    }
  }
  EXPECT_GE(reported, 100U);
}

// While the store is open: a read of the device finds damage that opening could not have seen.
TEST_F(DamageTest, DamageDoneToAnOpenStoreIsDetectedOrHarmless) {
  SimFileSystem files(subject_.disk, /*direct=*/false);
  auto store = Must(Open(files));
  auto session = store.NewSession();
  Ledger ledger = subject_.ledger;
  // Out of memory: other records than those that are read.
  Must(ledger.Upserts(session, static_cast<int>(Ledger::kKeyCount)));
  const Ledger::State state = ledger.After(ledger.size());
  PushOut(store, [&](std::uint64_t i) { Must(session.Upsert(1000 + i, std::string(1000, 'x'))); });
  ASSERT_EQ(Must(ReadLedger(session)), state);
  ASSERT_TRUE(Verifies(store));
  Counts counts;
  for (const auto& [name, bytes] : SnapshotOf(files, "db")) {
    for (std::uint64_t offset = kBlock; offset < bytes.size(); ++offset) {
      if (random_() % 1000 >= static_cast<std::uint64_t>(Scale() * 100)) continue;  // a tenth
      const char flipped = static_cast<char>(bytes[offset] ^ static_cast<char>(1 << random_() % 8));
      Overwrite(files, "db", name, offset, std::string(1, flipped));
      const absl::StatusOr<Ledger::State> read = ReadLedger(session);
      if (read.ok()) {
        ASSERT_EQ(*read, state) << name << " at offset " << offset;
        ++counts.unharmed;
      } else {
        ASSERT_TRUE(NamesItsPlace(read.status())) << read.status();
        ++counts.detected;
      }
      Overwrite(files, "db", name, offset, bytes.substr(offset, 1));
    }
  }
  EXPECT_EQ(Must(ReadLedger(session)), state) << "a failed read fails for itself only";
  EXPECT_TRUE(Verifies(store));
  std::printf("flipped bits below an open store: %llu, %llu detected\n",
              static_cast<unsigned long long>(counts.total()),
              static_cast<unsigned long long>(counts.detected));
  EXPECT_GE(counts.detected, Scaled(1000));
}

}  // namespace
}  // namespace ebb::test
