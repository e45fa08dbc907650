// ReadAhead: the blocks taken match the device, with any thread as the reader.
#include "ebb/internal/scan/read_ahead.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using internal::kBlockBytes;
using internal::kBlockPayloadBytes;
using internal::ReadAhead;

class ReadAheadTest : public testing::TestWithParam<int> {
 protected:
  ReadAheadTest() : store_(Must(OpenIn<U64Store>("db", MakeEnvironment(files_)))) {
    for (std::uint64_t i = 0; i < 3000; ++i) Must(store_.Upsert(i, i));
    PushOut(store_, [&](std::uint64_t i) { Must(store_.Upsert(3000 + i, i)); });
  }
  static internal::Environment MakeEnvironment(SimFileSystem& files) {
    internal::Environment environment = TinyEnvironment(&files);
    environment.pool_threads = GetParam();
    return environment;
  }
  std::string Expected(ReadAhead::Piece piece) {
    internal::AlignedBuffer bytes =
        internal::AllocateAligned((piece.end - piece.first) * kBlockBytes);
    internal::BlockRead read{.block = piece.first,
                             .bytes = {bytes.get(), (piece.end - piece.first) * kBlockBytes}};
    CoreOf(store_).reader.Read(read);
    Must(CoreOf(store_).reader.Verify(read));
    std::string payloads;
    for (std::uint64_t i = 0; i < piece.end - piece.first; ++i) {
      payloads.append(reinterpret_cast<const char*>(bytes.get()) + i * kBlockBytes,
                      kBlockPayloadBytes);
    }
    return payloads;
  }
  // Takes `piece`; expects `given` with its bytes.
  void ExpectTaken(ReadAhead& ahead, ReadAhead::Piece piece, ReadAhead::Piece given) {
    std::string bytes((given.end - given.first) * kBlockPayloadBytes, 'x');
    const ReadAhead::Piece taken =
        Must(ahead.Take(piece, reinterpret_cast<std::byte*>(bytes.data())));
    EXPECT_EQ(taken.first, given.first);
    EXPECT_EQ(taken.end, given.end);
    EXPECT_EQ(bytes, Expected(given));
  }

  SimFileSystem files_;
  U64Store store_;
};

TEST_P(ReadAheadTest, RequestedPiecesAreTakenFirst) {
  ReadAhead ahead(CoreOf(store_), 9);
  const ReadAhead::Piece a{1, 3};
  const ReadAhead::Piece b{4, 9};
  const ReadAhead::Piece c{2, 6};
  ExpectTaken(ahead, a, a);
  for (int turn = 0; turn < 50; ++turn) {
    EXPECT_TRUE(ahead.Ask(b));
    EXPECT_TRUE(ahead.Ask(c));
    EXPECT_FALSE(ahead.Ask(a)) << "more than nine blocks";
    ExpectTaken(ahead, a, b);
    EXPECT_TRUE(ahead.Ask(a));
    ExpectTaken(ahead, a, c);
    ExpectTaken(ahead, b, a);
    EXPECT_TRUE(ahead.Ask(c));
    ahead.Drop();
    ExpectTaken(ahead, a, a);
  }
  ExpectTaken(ahead, {1, 15}, {1, 15});  // more than may be ahead
  for (std::uint64_t block = 0; block < 9; ++block) EXPECT_TRUE(ahead.Ask({block, block + 1}));
  EXPECT_FALSE(ahead.Ask(a));
  for (std::uint64_t block = 0; block < 9; ++block) ExpectTaken(ahead, a, {block, block + 1});
  EXPECT_TRUE(ahead.Ask(b));  // and no reader takes it
}

TEST_P(ReadAheadTest, AnErrorIsOfItsPieceAlone) {
  ReadAhead ahead(CoreOf(store_), 100);
  std::vector<std::byte> bytes(10 * kBlockPayloadBytes);
  const std::uint64_t block = 5;
  Overwrite(files_, "db", SegmentFile(block / 16), (1 + block % 16) * 4096 + 100, "damage");
  EXPECT_TRUE(ahead.Ask({4, 6}));
  EXPECT_TRUE(ahead.Ask({6, 9}));
  EXPECT_EQ(ahead.Take({4, 6}, bytes.data()).status().code(), absl::StatusCode::kDataLoss);
  ExpectTaken(ahead, {1, 4}, {6, 9});
  ExpectTaken(ahead, {1, 4}, {1, 4});
}

INSTANTIATE_TEST_SUITE_P(PoolThreads, ReadAheadTest, testing::Values(0, 2));

}  // namespace
}  // namespace ebb::test
