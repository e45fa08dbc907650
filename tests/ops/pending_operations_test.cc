// PendingOperations: each operation ends once and is reported once, also during Close; a block that
// two operations need is read once.
#include "ebb/internal/ops/pending_operations.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/sim_file_system.h"
#include "tests/support/store_kit.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

constexpr std::uint64_t kKeys = 1000;

// A store whose first keys are on the device, each with its number as value. Its records take some
// 24 bytes, so some 150 of them share a block.
class PendingOperationsTest : public testing::TestWithParam<int> {
 protected:
  PendingOperationsTest() : files_(disk_) {
    internal::Environment environment = TinyEnvironment(&files_);
    environment.pool_threads = GetParam();
    store_ = std::make_unique<U64Store>(Must(OpenIn<U64Store>("db", environment)));
    for (std::uint64_t i = 0; i < kKeys; ++i) Must(store_->Upsert(i, i));
    PushOut(*store_, [&](std::uint64_t i) { Must(store_->Upsert(kKeys + i, i)); });
  }

  SimFileSystem disk_;
  FaultFileSystem files_;
  std::unique_ptr<U64Store> store_;
};

// Completes all that is pending, and says how often that has thrown.
int CompleteCountingThrown(U64Store::Session& session) {
  int thrown = 0;
  while (session.pending_count() != 0) {
    try {
      session.CompletePending();
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  }
  return thrown;
}

TEST_P(PendingOperationsTest, EachIsReportedOnce) {
  auto session = store_->NewSession();
  EXPECT_EQ(session.CompletePending(), 0U);
  std::vector<int> told(kKeys);
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    session.ReadAsync(i, [&, i](absl::StatusOr<std::uint64_t> value) {
      EXPECT_EQ(Must(value), i);
      ++told[i];
    });
    EXPECT_LE(session.pending_count(), internal::PendingOperations::kMax);
    if (i % 50 == 0) session.CompletePending(/*wait=*/false);
  }
  EXPECT_GT(session.pending_count(), 0U);
  session.CompletePending();
  EXPECT_EQ(session.pending_count(), 0U);
  EXPECT_EQ(told, std::vector<int>(kKeys, 1));
}

TEST_P(PendingOperationsTest, ABlockThatManyWantIsReadOnce) {
  auto session = store_->NewSession();
  const auto reads = [&] { return CoreOf(*store_).reader.counters().device_reads.load(); };
  files_.ResetCounts();
  int told = 0;
  for (std::uint64_t i = 0; i < 100; ++i) {
    session.ReadAsync(i, [&](absl::StatusOr<std::uint64_t> value) { told += value.ok() ? 1 : 0; });
  }
  EXPECT_EQ(session.pending_count(), 100U);
  session.CompletePending();
  EXPECT_EQ(told, 100);
  // A chain leads through others: about as many blocks as the store has, far fewer than searches.
  // Reads are shared while they are in flight. Threads may end some before others begin.
  if (GetParam() == 0) EXPECT_LT(files_.Count(CallKind::kRead), 60U);
  EXPECT_GT(reads(), 0U);
}

TEST_P(PendingOperationsTest, ADeviceErrorIsReportedToTheOperationThatReadTheBlock) {
  auto session = store_->NewSession();
  files_.Arm({.kind = CallKind::kRead, .sticky = true});
  int failed = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    session.ReadAsync(i, [&](absl::StatusOr<std::uint64_t> value) {
      EXPECT_EQ(value.status().code(), StatusCode::kUnavailable);
      ++failed;
    });
  }
  EXPECT_EQ(session.CompletePending(), 50U);
  EXPECT_EQ(failed, 50);
  EXPECT_GT(files_.FiredCount(), 0U);
  files_.Disarm();
  files_.Arm({.kind = CallKind::kRead, .sticky = true, .effect = Effect::kFlipBit});
  session.ReadAsync(1, [&](absl::StatusOr<std::uint64_t> value) {
    EXPECT_EQ(value.status().code(), StatusCode::kDataLoss);
    ++failed;
  });
  session.CompletePending();
  EXPECT_EQ(failed, 51);
}

// Hazard 49. The objects that a function owns end with its operation, outside the list's lock: its
// destructor may use the session.
TEST_P(PendingOperationsTest, ObjectsOwnedByAFunctionMayUseTheSessionInTheirDestructors) {
  auto session = store_->NewSession();
  int ended = 0;
  const auto complete = [&](int* owned) {
    session.CompletePending();
    EXPECT_EQ(session.pending_count(), 0U);
    ++ended;
    delete owned;
  };
  for (const bool throws : {false, true}) {
    session.RmwAsync(
        1,
        [owned = std::shared_ptr<int>(new int(0), complete), throws](std::uint64_t&) {
          if (throws) throw std::runtime_error("no");
        },
        [](const absl::Status& status) { EXPECT_TRUE(status.ok()); });
    session.ReadAsync(2, [](const auto& value) { EXPECT_TRUE(value.ok()); });
    EXPECT_EQ(session.pending_count(), 2U);
    EXPECT_EQ(CompleteCountingThrown(session), throws ? 1 : 0);
    PushOut(*store_, [&](std::uint64_t i) { Must(store_->Upsert(kKeys + i, i)); });
  }
  EXPECT_EQ(ended, 2);
}

TEST_P(PendingOperationsTest, CloseEndsPendingOperationsThatNoThreadCompletes) {
  auto driven = store_->NewSession();
  auto left = store_->NewSession();
  std::vector<int> told(200);
  for (std::uint64_t i = 0; i < 100; ++i) {
    for (const bool is_left : {false, true}) {
      (is_left ? left : driven).ReadAsync(i, [&, is_left, i](absl::StatusOr<std::uint64_t> value) {
        EXPECT_TRUE(FailsWith(value.status(), StatusCode::kFailedPrecondition, "closed"));
        ++told[i + (is_left ? 100 : 0)];
      });
    }
  }
  EXPECT_EQ(left.pending_count(), 100U);
  Must(store_->Close());
  EXPECT_EQ(told, std::vector<int>(200, 1));
  EXPECT_EQ(left.CompletePending(), 0U);
  int refused = 0;
  left.ReadAsync(1, [&](absl::StatusOr<std::uint64_t> value) {
    refused += absl::IsFailedPrecondition(value.status()) ? 1 : 0;
  });
  auto late = store_->NewSession();
  late.RmwAsync(
      1, [](std::uint64_t&) {},
      [&](const absl::Status& status) { refused += absl::IsFailedPrecondition(status) ? 1 : 0; });
  EXPECT_EQ(refused, 2);
}

TEST_P(PendingOperationsTest, TheEndOfASessionCompletesThem) {
  int told = 0;
  {
    auto session = store_->NewSession();
    auto other = store_->NewSession();
    for (std::uint64_t i = 0; i < 100; ++i) {
      session.ReadAsync(i,
                        [&](absl::StatusOr<std::uint64_t> value) { told += value.ok() ? 1 : 0; });
    }
    other = std::move(session);  // pending ones move with it
    EXPECT_EQ(told, 0);
    EXPECT_EQ(other.pending_count(), 100U);
  }
  EXPECT_EQ(told, 100);
}

TEST_P(PendingOperationsTest, ACallbackMayUseTheSession) {
  auto session = store_->NewSession();
  std::set<std::uint64_t> seen;
  const std::function<void(std::uint64_t)> follow = [&](std::uint64_t key) {
    session.ReadAsync(key, [&, key](absl::StatusOr<std::uint64_t> value) {
      EXPECT_EQ(Must(value), key);
      EXPECT_EQ(Must(session.Read(key)), key);
      seen.insert(key);
      if (key + 10 < 200) follow(key + 10);
    });
  };
  for (std::uint64_t key = 0; key < 10; ++key) follow(key);
  session.CompletePending();
  EXPECT_EQ(seen.size(), 200U);
}

TEST_P(PendingOperationsTest, ACallbackThatThrowsHarmsNoOther) {
  auto session = store_->NewSession();
  int told = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    session.ReadAsync(i, [&, i](absl::StatusOr<std::uint64_t> value) {
      ++told;
      EXPECT_EQ(Must(value), i);
      if (i % 10 == 3) throw std::runtime_error("of the user");
    });
  }
  EXPECT_EQ(CompleteCountingThrown(session), 5);
  EXPECT_EQ(told, 50);
}

TEST_P(PendingOperationsTest, AFunctionThatThrowsEndsItsOperationAlone) {
  auto session = store_->NewSession();
  int told = 0;
  for (std::uint64_t i = 0; i < 50; ++i) {
    session.RmwAsync(
        i,
        [i](std::uint64_t& value) {
          if (i % 10 == 3) throw std::runtime_error("of the user");
          value += 1000;
        },
        [&](const absl::Status& status) { told += status.ok() ? 1 : 0; });
  }
  EXPECT_EQ(CompleteCountingThrown(session), 5);
  EXPECT_EQ(told, 45);
  for (std::uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(Must(session.Read(i)), i % 10 == 3 ? i : i + 1000);
  }
}

TEST_P(PendingOperationsTest, CloseRunsAllCallbacksEvenIfOneThrows) {
  auto session = store_->NewSession();
  int told = 0;
  for (std::uint64_t i = 0; i < 20; ++i) {
    session.ReadAsync(i, [&, i](const absl::StatusOr<std::uint64_t>&) {
      ++told;
      if (i == 5) throw std::runtime_error("of the user");
    });
  }
  EXPECT_THROW(static_cast<void>(store_->Close()), std::runtime_error);
  EXPECT_EQ(told, 20);
  Must(store_->Close());
}

TEST_P(PendingOperationsTest, InsideACallbackUnderAGuardTheyAreRejected) {
  auto session = store_->NewSession();
  int refused = 0;
  Must(session.Rmw(1, [&](std::uint64_t&) {
    session.ReadAsync(2, [&](absl::StatusOr<std::uint64_t> value) {
      refused += absl::IsFailedPrecondition(value.status()) ? 1 : 0;
    });
    session.DeleteAsync(2, [&](const absl::Status& status) {
      refused += absl::IsFailedPrecondition(status) ? 1 : 0;
    });
  }));
  EXPECT_EQ(refused, 2);
}

// Close while sessions are driven: the thread that gets an operation reports it, and no other.
TEST_P(PendingOperationsTest, CloseWhileSessionsAreInUse) {
  if (GetParam() == 0) return;  // threads need a pool that turns pages
  std::atomic<std::uint64_t> begun{0};
  std::atomic<std::uint64_t> told{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      auto session = store_->NewSession();
      for (auto i = static_cast<std::uint64_t>(t); !stop.load(); ++i) {
        ++begun;
        session.ReadAsync(i % kKeys, [&, key = i % kKeys](absl::StatusOr<std::uint64_t> value) {
          ++told;
          if (value.ok()) {
            EXPECT_EQ(*value, key);
          } else {
            EXPECT_TRUE(absl::IsFailedPrecondition(value.status())) << value.status();
          }
        });
        if (i % 64 == 0) session.CompletePending(i % 128 == 0);
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  Must(store_->Close());
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(told.load(), begun.load());
}

INSTANTIATE_TEST_SUITE_P(PoolThreads, PendingOperationsTest, testing::Values(0, 2));

}  // namespace
}  // namespace ebb::test
