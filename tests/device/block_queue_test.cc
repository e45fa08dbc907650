// BlockQueue: every read that was started ends once, with the bytes of the device or with the
// device's own error, for each reader and each result of the ring.
#include "ebb/internal/device/block_queue.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "ebb/internal/device/file_device.h"
#include "ebb/status.h"
#include "gtest/gtest.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using internal::AlignedBuffer;
using internal::BlockQueue;
using internal::BlockRead;
using internal::Device;
using internal::File;
using internal::FileDevice;
using internal::kBlockBytes;
using internal::ReadRing;
using internal::Transfer;

// A ring that reads correctly, unless it is set to do something else.
class ScriptedRing final : public ReadRing {
 public:
  enum class Trick { kNone, kRefuse, kError, kShort, kNothing };
  explicit ScriptedRing(Trick& trick) : trick_(trick) {}
  bool Start(File& file, std::uint64_t offset, std::byte* bytes, std::size_t count,
             void* tag) override {
    if (trick_ == Trick::kRefuse) return false;
    Transfer transfer;
    switch (trick_) {
      case Trick::kError:
        transfer.error = EAGAIN;
        break;
      case Trick::kShort:
        transfer = file.ReadAt(offset, bytes, count - 512);
        break;
      case Trick::kNothing:
        break;
      default:
        transfer = file.ReadAt(offset, bytes, count);
    }
    ended_.push_front({tag, transfer});
    return true;
  }
  void Submit() override {}
  std::optional<Ended> Take(bool) override {
    if (ended_.empty()) return std::nullopt;
    const Ended ended = ended_.back();
    ended_.pop_back();
    return ended;
  }

 private:
  Trick& trick_;
  std::deque<Ended> ended_;
};

enum class Way { kTaker, kPool, kScripted, kUring };

class BlockQueueTest : public testing::TestWithParam<Way> {
 protected:
  static constexpr std::uint64_t kBlocks = 100;  // in segments of 16

  BlockQueueTest() : pool_(GetParam() == Way::kPool ? 2 : 0) {
    directory_ = internal::PosixFileSystem().OpenDirectory(temp_ / "log", true).directory;
    device_ = Must(
        FileDevice::Open(*directory_, [](auto...) {}, {.segment_blocks = 16, .direct_io = false}));
    AlignedBuffer buffer = internal::AllocateAligned(kBlocks * kBlockBytes);
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      std::memset(buffer.get() + block * kBlockBytes, static_cast<int>(block + 1), kBlockBytes);
    }
    Must(device_->Write(0, {buffer.get(), kBlocks * kBlockBytes}));
  }
  std::unique_ptr<ReadRing> MakeRing() {
    switch (GetParam()) {
      case Way::kScripted:
        return std::make_unique<ScriptedRing>(trick_);
      case Way::kUring:
        return internal::PosixFileSystem().OpenReadRing(BlockQueue::kDepth);
      default:
        return nullptr;
    }
  }
  void SetUp() override {
    if (GetParam() == Way::kUring && MakeRing() == nullptr) GTEST_SKIP() << "no io_uring here";
    queue_ =
        std::make_unique<BlockQueue>(*device_, pool_, GetParam() == Way::kPool ? 2 : 0, MakeRing());
  }

  struct Wanted {
    explicit Wanted(std::uint64_t block, std::uint64_t count)
        : buffer(internal::AllocateAligned(count * kBlockBytes)) {
      read.block = block;
      read.bytes = {buffer.get(), count * kBlockBytes};
      read.owner = this;
      std::memset(buffer.get(), 0, count * kBlockBytes);
    }
    AlignedBuffer buffer;
    BlockRead read;
  };
  // A completed read returns the bytes of the device, or an error if it has fewer.
  static void Check(const BlockRead& read) {
    const std::uint64_t count = read.bytes.size() / kBlockBytes;
    if (read.block + count > kBlocks) {
      EXPECT_TRUE(absl::IsOutOfRange(read.status)) << read.status;
      return;
    }
    Must(read.status);
    for (std::size_t i = 0; i < read.bytes.size(); ++i) {
      ASSERT_EQ(read.bytes[i], static_cast<std::byte>(read.block + i / kBlockBytes + 1)) << i;
    }
  }
  // Starts many, some of more than a block, some across segments or behind the end.
  void StartAndTakeAll(std::size_t count) {
    std::mt19937_64 random(count);
    std::deque<Wanted> wanted;
    std::set<const BlockRead*> open;
    const auto take = [&](bool wait) {
      BlockRead* const read = queue_->Take(wait);
      if (read == nullptr) return false;
      EXPECT_EQ(open.erase(read), 1U) << "ended twice, or never begun";
      EXPECT_EQ(read->owner, static_cast<void*>(&*std::find_if(
                                 wanted.begin(), wanted.end(),
                                 [&](const Wanted& each) { return &each.read == read; })));
      Check(*read);
      return true;
    };
    for (std::size_t i = 0; i < count; ++i) {
      wanted.emplace_back(random() % (kBlocks + 3), 1 + random() % 4);
      open.insert(&wanted.back().read);
      queue_->Start(wanted.back().read);
      if (random() % 4 == 0) take(false);
    }
    while (take(true)) {
    }
    EXPECT_TRUE(open.empty());
    EXPECT_EQ(queue_->Take(false), nullptr);
  }

  TempDir temp_;
  std::unique_ptr<internal::Directory> directory_;
  std::unique_ptr<FileDevice> device_;
  internal::ThreadPool pool_;
  ScriptedRing::Trick trick_ = ScriptedRing::Trick::kNone;
  std::unique_ptr<BlockQueue> queue_;
};

TEST_P(BlockQueueTest, EachReadEndsOnceWithTheBytesOfTheDevice) {
  for (const std::size_t count : {1U, 2U, 17U, 250U, 1500U}) StartAndTakeAll(count);
}

TEST_P(BlockQueueTest, FailedReadsOfTheRingAreRepeatedByTheDevice) {
  if (GetParam() != Way::kScripted) return;  // the others know no tricks
  for (const auto trick : {ScriptedRing::Trick::kRefuse, ScriptedRing::Trick::kError,
                           ScriptedRing::Trick::kShort, ScriptedRing::Trick::kNothing}) {
    trick_ = trick;
    StartAndTakeAll(300);
  }
}

TEST_P(BlockQueueTest, ReadsInFlightHaveEndedWhenTheQueueIsDestroyed) {
  for (int turn = 0; turn < 20; ++turn) {
    std::deque<Wanted> wanted;
    for (std::uint64_t block = 0; block < 40; ++block) {
      wanted.emplace_back(block, 1);
      queue_->Start(wanted.back().read);
    }
    queue_.reset();
    // Nothing writes to the buffers from here on: the sanitizers would see it.
    wanted.clear();
    SetUp();
  }
}

TEST_P(BlockQueueTest, ASegmentThatIsFreedInTheMeantimeIsReadOrMissed) {
  std::deque<Wanted> wanted;
  for (std::uint64_t block = 0; block < 32; ++block) {
    wanted.emplace_back(block, 1);
    queue_->Start(wanted.back().read);
  }
  Must(device_->TruncateFront(32).status());
  while (BlockRead* const read = queue_->Take(true)) {
    if (read->status.ok()) {
      Check(*read);
    } else {
      EXPECT_TRUE(absl::IsOutOfRange(read->status)) << read->status;
    }
  }
}

std::string NameOfWay(const testing::TestParamInfo<Way>& info) {
  constexpr const char* kNames[] = {"Taker", "Pool", "Scripted", "Uring"};
  return kNames[static_cast<int>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Ways, BlockQueueTest,
                         testing::Values(Way::kTaker, Way::kPool, Way::kScripted, Way::kUring),
                         NameOfWay);

}  // namespace
}  // namespace ebb::test
