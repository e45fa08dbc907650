// Rejected calls: callers that keep trying while the store cannot accept anything.
//
// A store fills up until its disk is full, or until every write fails, and then 200,000 calls are
// rejected for each size of pages: of one session, of four threads, of reads that want to promote
// the records they have read. However many there were, they must leave nothing behind. The log's
// tail stays where it was, except for a record of each thread; when the cause has gone, the same
// store continues, every key has its value, and commit, close, verification and reopening succeed.
//
// Hazard 52.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

constexpr std::uint64_t kOverheadBytes = 32;               // of a record before its value
constexpr std::uint64_t kStride = std::uint64_t{1} << 32;  // between the keys of two writers

struct Pages {
  int shift;
  std::uint64_t frame_count;

  std::uint64_t payload_bytes() const {
    return internal::Geometry{.page_shift = shift}.payload_bytes();
  }
  std::string Name() const {
    return "Shift" + std::to_string(shift) + "Frames" + std::to_string(frame_count);
  }
};
void PrintTo(const Pages& pages, std::ostream* out) { *out << pages.Name(); }

// The writes of one thread. Records take a page, half of one, or a tenth: all fill it exactly.
class Writer {
 public:
  Writer(U64StringStore& store, std::uint64_t first_key, std::uint64_t payload_bytes)
      : session_(store.NewSession()), first_key_(first_key), payload_bytes_(payload_bytes) {}

  std::string Value(std::uint64_t key) {
    constexpr std::uint64_t kParts[] = {1, 2, 10};
    std::string value(payload_bytes_ / kParts[key % 3] / 8 * 8 - kOverheadBytes,
                      static_cast<char>('a' + ++writes_ % 26));
    const std::string name = std::to_string(key) + "/" + std::to_string(writes_);
    return value.replace(0, name.size(), name);
  }
  // A new key until it is accepted; in between, changes of old keys. The first error, or success.
  absl::Status Try() {
    const std::uint64_t turn = turns_++ % 16;
    const std::uint64_t old_key = first_key_ + turns_ * 7919 % std::max<std::uint64_t>(1, count_);
    if (turn == 13 && count_ != 0) {
      std::string value = Value(old_key);
      const absl::Status status = session_.Upsert(old_key, value);
      if (status.ok()) model_[old_key] = std::move(value);
      return status;
    }
    if (turn == 14 && count_ != 0) {
      const absl::Status status = session_.Delete(old_key);
      if (status.ok()) model_.erase(old_key);
      return absl::IsNotFound(status) ? absl::OkStatus() : status;
    }
    if (turn == 15 && model_.contains(old_key)) {
      const absl::Status status = session_.Rmw(
          old_key, [](std::string& value) { value.back() = '!'; }, "");
      if (status.ok()) model_[old_key].back() = '!';
      return status;
    }
    std::string value = Value(first_key_ + count_);
    const absl::Status status = session_.Upsert(first_key_ + count_, value);
    if (status.ok()) model_[first_key_ + count_++] = std::move(value);
    return status;
  }
  // Until so many tries have been rejected, each for the reason that there is.
  void TryUntilRejected(std::uint64_t rejections, absl::StatusCode code) {
    while (rejections != 0) {
      const absl::Status status = Try();
      rejections -= status.ok() ? 0 : 1;
      wrong_codes_ += !status.ok() && status.code() != code ? 1 : 0;
    }
  }
  // Reads its writes; returns the number of wrong values.
  std::uint64_t ReadAll(std::uint64_t reads) {
    std::uint64_t wrong = 0;
    while (reads != 0) {
      for (const auto& [key, value] : model_) {
        if (reads == 0) break;
        --reads;
        const absl::StatusOr<std::string> read = session_.Read(key);
        wrong += read.ok() && *read == value ? 0 : 1;
      }
    }
    return wrong;
  }

  const Model<std::uint64_t, std::string>& model() const { return model_; }
  std::uint64_t wrong_codes() const { return wrong_codes_; }

 private:
  U64StringStore::Session session_;
  const std::uint64_t first_key_;
  const std::uint64_t payload_bytes_;
  Model<std::uint64_t, std::string> model_;
  std::uint64_t count_ = 0;  // keys so far, deleted ones too
  std::uint64_t turns_ = 0;
  std::uint64_t writes_ = 0;
  std::uint64_t wrong_codes_ = 0;
};

// Why nothing is accepted.
enum class Cause { kFullDisk, kFailingWrites };

class RejectedCallsTest : public ::testing::TestWithParam<Pages> {
 protected:
  static std::uint64_t Scaled(std::uint64_t count) {
    return static_cast<std::uint64_t>(static_cast<double>(count) * std::min(1.0, Scale())) + 100;
  }
  absl::StatusOr<U64StringStore> Open(bool promote_reads = false) {
    internal::Environment environment = TinyEnvironment(&files_);
    environment.page_shift = GetParam().shift;
    environment.frame_count = GetParam().frame_count;
    environment.segment_blocks = 4096;
    Options options = TinyOptions();
    options.preallocate_bytes = 4096;
    options.promote_reads = promote_reads;
    return OpenIn<U64StringStore>("db", environment, options);
  }
  std::vector<Writer> MakeWriters(U64StringStore& store, std::size_t count) const {
    std::vector<Writer> writers;
    for (std::size_t i = 0; i < count; ++i) {
      writers.emplace_back(store, i * kStride, GetParam().payload_bytes());
    }
    return writers;
  }
  absl::StatusCode Begin(Cause cause) {
    if (cause == Cause::kFullDisk) {
      disk_.SetCapacityBytes(disk_.UsedBytes() + 20 * (std::uint64_t{1} << GetParam().shift));
      return absl::StatusCode::kResourceExhausted;
    }
    files_.Arm({.kind = CallKind::kWrite, .sticky = true});
    return absl::StatusCode::kUnavailable;
  }
  void End() {
    disk_.SetCapacityBytes(SimFileSystem::kNoLimit);
    files_.Disarm();
  }
  // The tail has overshot its page by a record of each thread at most.
  void ExpectNoTrace(U64StringStore& store, std::size_t threads) const {
    const internal::HybridLog& log = CoreOf(store).log;
    EXPECT_LE(log.overshoot_bytes(), threads * GetParam().payload_bytes());
    log.CheckBoundaries();
  }
  // The cause has gone.
  void ExpectGoesOn(U64StringStore& store, std::vector<Writer>& writers) {
    for (Writer& writer : writers) {
      for (int i = 0; i < 40; ++i) EXPECT_TRUE(writer.Try().ok());
      EXPECT_TRUE(Holds(store, writer.model()));
      EXPECT_EQ(writer.wrong_codes(), 0U);
    }
    Must(Commit(store));
    const VerifyReport report = Must(store.Verify());
    EXPECT_TRUE(report.ok()) << report.problems.front();
  }
  void ExpectReopens(U64StringStore store, const std::vector<Writer>& writers) {
    Must(store.Close());
    auto again = Must(Open());
    for (const Writer& writer : writers) EXPECT_TRUE(Holds(again, writer.model()));
    const VerifyReport report = Must(again.Verify());
    EXPECT_TRUE(report.ok()) << report.problems.front();
    Must(again.Close());
  }
  void Run(Cause cause, std::size_t threads, std::uint64_t rejections);

  SimFileSystem disk_{false};
  FaultFileSystem files_{disk_};
};

void RejectedCallsTest::Run(Cause cause, std::size_t threads, std::uint64_t rejections) {
  auto store = Must(Open());
  std::vector<Writer> writers = MakeWriters(store, threads);
  for (Writer& writer : writers) {
    for (int i = 0; i < 30; ++i) EXPECT_TRUE(writer.Try().ok());
  }
  for (int round = 0; round < 2; ++round) {
    const absl::StatusCode code = Begin(cause);
    std::vector<std::thread> running;
    for (Writer& writer : writers) {
      running.emplace_back(
          [&, each = rejections / threads / 2] { writer.TryUntilRejected(each, code); });
    }
    for (std::thread& thread : running) thread.join();
    ExpectNoTrace(store, threads);
    for (const Writer& writer : writers) EXPECT_TRUE(Holds(store, writer.model()));
    // A full disk has space for a commit; failing writes reject it as often as it is tried.
    for (int i = 0; i < 100; ++i) EXPECT_EQ(Commit(store).ok(), cause == Cause::kFullDisk);
    ExpectNoTrace(store, threads);
    End();
    ExpectGoesOn(store, writers);
  }
  ExpectReopens(std::move(store), writers);
}

INSTANTIATE_TEST_SUITE_P(Pages, RejectedCallsTest,
                         ::testing::Values(Pages{12, 9}, Pages{13, 11}, Pages{16, 8}),
                         [](const auto& parameter) { return parameter.param.Name(); });

TEST_P(RejectedCallsTest, OneThreadOnAFullDisk) { Run(Cause::kFullDisk, 1, Scaled(80000)); }
TEST_P(RejectedCallsTest, FourThreadsOnAFullDisk) { Run(Cause::kFullDisk, 4, Scaled(60000)); }
TEST_P(RejectedCallsTest, OneThreadWhileWritesFail) {
  Run(Cause::kFailingWrites, 1, Scaled(20000));
}
TEST_P(RejectedCallsTest, FourThreadsWhileWritesFail) {
  Run(Cause::kFailingWrites, 4, Scaled(20000));
}

// A read whose copy is rejected still has its value.
TEST_P(RejectedCallsTest, ReadsThatCannotPromote) {
  auto store = Must(Open(true));
  std::vector<Writer> writers = MakeWriters(store, 2);
  for (Writer& writer : writers) {
    for (int i = 0; i < 60; ++i) EXPECT_TRUE(writer.Try().ok());
  }
  const absl::StatusCode code = Begin(Cause::kFullDisk);
  for (Writer& writer : writers) writer.TryUntilRejected(100, code);
  const std::uint64_t reads = Scaled(20000);
  std::vector<std::uint64_t> wrong(writers.size());
  std::vector<std::thread> running;
  for (std::size_t i = 0; i < writers.size(); ++i) {
    running.emplace_back([&, i] { wrong[i] = writers[i].ReadAll(reads / writers.size()); });
  }
  for (std::thread& thread : running) thread.join();
  EXPECT_EQ(wrong, std::vector<std::uint64_t>(writers.size(), 0));
  EXPECT_GT(store.Metrics().device_reads, reads / 4);
  ExpectNoTrace(store, writers.size());
  End();
  ExpectGoesOn(store, writers);
  ExpectReopens(std::move(store), writers);
}

// The image of the index is written before the commit that fails.
TEST_P(RejectedCallsTest, FailedCheckpointsLeaveNoFiles) {
  auto store = Must(Open());
  std::vector<Writer> writers = MakeWriters(store, 1);
  for (int i = 0; i < 30; ++i) EXPECT_TRUE(writers[0].Try().ok());
  Must(store.Checkpoint().status());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(writers[0].Try().ok());
  const std::size_t file_count = SnapshotOf(disk_, "db").size();
  files_.Arm({.kind = CallKind::kWrite, .name_part = "log-", .sticky = true});
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(absl::IsUnavailable(store.Checkpoint().status()));
  EXPECT_EQ(SnapshotOf(disk_, "db").size(), file_count);
  End();
  Must(store.Checkpoint().status());
  ExpectGoesOn(store, writers);
  ExpectReopens(std::move(store), writers);
}

// A poisoned store rejects everything until it is opened again.
TEST_P(RejectedCallsTest, CallsOfAPoisonedStore) {
  auto store = Must(Open(true));
  std::vector<Writer> writers = MakeWriters(store, 1);
  for (int i = 0; i < 60; ++i) EXPECT_TRUE(writers[0].Try().ok());
  disk_.FailNextSync(5, kEverythingSurvives);
  EXPECT_FALSE(Commit(store).ok());
  writers[0].TryUntilRejected(Scaled(20000), absl::StatusCode::kUnavailable);
  EXPECT_EQ(writers[0].ReadAll(Scaled(1000)), 0U);
  EXPECT_EQ(writers[0].wrong_codes(), 0U);
  ExpectNoTrace(store, 1);
  EXPECT_FALSE(store.Close().ok());
  auto again = Must(Open());
  EXPECT_TRUE(Holds(again, writers[0].model()));
}

}  // namespace
}  // namespace ebb::test
