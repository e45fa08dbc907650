// Kills: a process that writes to real files is killed at any moment, 500 times.
//
// A child process opens a store and writes with four threads, each in a named session and each
// committing now and then. It notes the updates that it has begun, and those that a commit has
// acknowledged, in memory that it shares with its parent, outside the store. The parent kills it
// after a random time (SIGKILL, also while it opens), opens the store itself, sometimes with less
// memory, and checks for every thread:
//   - the acknowledged updates are there;
//   - the state is exactly the thread's updates up to the serial that recovery reports;
//   - the directory verified before it was opened, and the store does afterwards.
// Then the next child continues from there.
//
// Another child does the same with several updates in flight: one thread writes batches of keys in
// memory and on the device, another begins asynchronous updates, and a third commits all the time.
//
// The kernel keeps the writes of a killed process, so these tests are about the death of a process,
// with real threads at real moments. Power losses are simulated in crash_test.cc; and, where root
// may mount an image, real: ext4 is shut down without writing its journal while the child writes,
// as if the power had failed, and mounted again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/ledger.h"
#include "tests/support/scale.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

constexpr unsigned kThreads = 4;
constexpr std::uint64_t kKeys = 10;  // of each thread
constexpr int kKillsOfAStore = 20;   // then a new one, since logs only grow

struct alignas(64) Progress {
  std::atomic<std::uint64_t> begun{0};
  std::atomic<std::uint64_t> acknowledged{0};  // by a commit
};
struct Shared {
  std::array<Progress, kThreads> threads;
  std::atomic<std::uint32_t> opened{0};
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "shared between processes");

// ---- the writes of a thread ----

std::uint64_t KeyOf(unsigned thread, std::uint64_t n) { return thread * 100 + n % kKeys; }
std::string ValueOf(unsigned thread, std::uint64_t n) {
  return LedgerValue(KeyOf(thread, n), static_cast<std::uint32_t>(n)).substr(0, 8 + n * 7 % 120);
}
std::string SessionName(unsigned thread) { return "thread " + std::to_string(thread); }
bool IsDelete(std::uint64_t n) { return n % 5 == 0; }

absl::Status Write(LedgerStore::Session& session, unsigned thread, std::uint64_t n) {
  const std::uint64_t key = KeyOf(thread, n);
  if (IsDelete(n)) {
    const absl::Status status = session.Delete(key);
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }
  if (n % 3 == 0) {
    return session.Rmw(key, [&](std::string& value) { value = ValueOf(thread, n); });
  }
  return session.Upsert(key, ValueOf(thread, n));
}

using Found = std::array<std::string, kKeys>;  // the values of a thread's keys; empty: absent

// The values of a thread's keys after its first `count` writes.
Found After(unsigned thread, std::uint64_t count) {
  Found found;
  for (std::uint64_t n = count; n > 0 && n + kKeys > count; --n) {
    found[n % kKeys] = IsDelete(n) ? std::string() : ValueOf(thread, n);
  }
  return found;
}

// ---- child ----

internal::Environment SmallEnvironment(std::uint64_t frame_count) {
  internal::Environment environment = TinyEnvironment();
  environment.frame_count = frame_count;
  environment.segment_blocks = 64;
  environment.pool_threads = 1;
  return environment;
}

// An error in the child makes it exit, which the parent does not expect.
[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "child: %s\n", status.ToString().c_str());
  ::_exit(2);
}

// Writes on from `first`, until it is killed.
[[noreturn]] void RunChild(const std::string& path, std::uint64_t frame_count, std::uint64_t seed,
                           std::array<std::uint64_t, kThreads> first, Shared& shared) {
  absl::StatusOr<LedgerStore> store = OpenIn<LedgerStore>(path, SmallEnvironment(frame_count));
  if (!store.ok()) Fail(store.status());
  shared.opened.store(1);
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(seed + id);
      auto named = store->NewSession(SessionName(id));
      if (!named.ok()) Fail(named.status());
      LedgerStore::Session session = *std::move(named);
      if (session.serial() + 1 != first[id]) Fail(absl::InternalError("another serial"));
      Progress& progress = shared.threads[id];
      std::uint64_t until_commit = random() % 100;
      for (std::uint64_t n = first[id];; ++n) {
        progress.begun.store(n);
        if (absl::Status status = Write(session, id, n); !status.ok()) Fail(status);
        if (until_commit-- != 0) continue;
        until_commit = random() % (random() % 4 == 0 ? 10000 : 100);
        absl::Status status = n % 2 == 0 ? store->Commit() : session.WaitDurable();
        if (id == 0 && n % 5 == 0) {
          status.Update(
              store
                  ->CollectGarbage(
                      {.min_reclaim_bytes = 0, .target_utilization = 0.5, .pass_bytes = 1 << 17})
                  .status());
        }
        if (id == 1 && n % 50 == 0) static_cast<void>(store->GrowIndex());  // while it can
        if (id == 2 && n % 64 == 0) status.Update(StatusOf(store->Verify()));
        if (!status.ok()) Fail(status);
        progress.acknowledged.store(n);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();  // never ends
  ::_exit(3);
}

// ---- parent ----

class KillTest : public testing::Test {
 protected:
  void SetUp() override {
    void* const memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    shared_ = new (memory) Shared;
  }
  void TearDown() override { ::munmap(shared_, sizeof(Shared)); }

  // One child, struck while it writes, and killed. Its first write is the one after `counts_`.
  void RunAndKill(
      const std::string& path, const std::function<void()>& strike = [] {});
  void Print(const char* what) const;
  // Opens, checks, closes; sets counts_ to the recovered counts.
  void Check(const std::string& path);

  std::uint64_t FrameCount() { return std::array<std::uint64_t, 3>{8, 12, 64}[random_() % 3]; }

  Shared* shared_ = nullptr;
  std::array<std::uint64_t, kThreads> counts_{};
  std::mt19937_64 random_{Seed()};
  bool struck_ = false;  // by more than the kill
  std::uint64_t kills_ = 0;
  std::uint64_t while_opening_ = 0;
  std::uint64_t acknowledged_ = 0;
  std::uint64_t beyond_ = 0;  // there, though not acknowledged
  std::uint64_t begun_ = 0;
};

void KillTest::RunAndKill(const std::string& path, const std::function<void()>& strike) {
  std::array<std::uint64_t, kThreads> first{};
  for (unsigned id = 0; id < kThreads; ++id) {
    first[id] = counts_[id] + 1;
    shared_->threads[id].begun.store(counts_[id]);
    shared_->threads[id].acknowledged.store(counts_[id]);
  }
  shared_->opened.store(0);
  const std::uint64_t seed = random_();
  const std::uint64_t frame_count = FrameCount();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // The strike can be an error for the child before it is killed.
    if (struck_) ::close(STDERR_FILENO);
    RunChild(path, frame_count, seed, first, *shared_);
  }
  // Now and then at once; else some time after it has opened the store.
  if (random_() % 8 != 0) {
    while (shared_->opened.load() == 0 && ::waitpid(child, nullptr, WNOHANG) == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  std::this_thread::sleep_for(std::chrono::microseconds(random_() % 50000));
  while_opening_ += shared_->opened.load() == 0 ? 1 : 0;
  int result = 0;
  ASSERT_EQ(::waitpid(child, &result, WNOHANG), 0) << "the child has failed";
  std::array<std::uint64_t, kThreads> acknowledged{};
  for (unsigned id = 0; id < kThreads; ++id) {
    acknowledged[id] = shared_->threads[id].acknowledged.load();
  }
  strike();
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  const bool killed = WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL;
  ASSERT_TRUE(killed || struck_) << "the child has failed";
  // After a loss of power no process would see a commit end; here the machine continues, and a sync
  // that was in progress when the file system was shut down can return OK.
  for (unsigned id = 0; struck_ && id < kThreads; ++id) {
    shared_->threads[id].acknowledged.store(acknowledged[id]);
  }
  ++kills_;
}

void KillTest::Check(const std::string& path) {
  // A child that was killed while it opened may have left no store.
  const absl::StatusOr<VerifyReport> before = VerifyDirectory(path);
  ASSERT_TRUE(absl::IsInvalidArgument(before.status()) || IsWhole(before)) << StatusOf(before);
  auto opened = OpenIn<LedgerStore>(path, SmallEnvironment(FrameCount()));
  ASSERT_TRUE(opened.ok()) << opened.status();
  LedgerStore store = *std::move(opened);
  auto session = store.NewSession();
  for (unsigned id = 0; id < kThreads; ++id) {
    Found found;
    for (std::uint64_t k = 0; k < kKeys; ++k) {
      const absl::Status status = session.Read(KeyOf(id, k), found[k]);
      ASSERT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
      if (!status.ok()) found[k].clear();
    }
    const std::uint64_t least = shared_->threads[id].acknowledged.load();
    const std::uint64_t most = shared_->threads[id].begun.load();
    const auto report =
        std::find_if(store.recovery().sessions.begin(), store.recovery().sessions.end(),
                     [&](const auto& s) { return s.name == SessionName(id); });
    const std::uint64_t count = report == store.recovery().sessions.end() ? 0 : report->serial;
    ASSERT_GE(count, least) << "thread " << id << ", kill " << kills_;
    ASSERT_LE(count, most) << "thread " << id << ", kill " << kills_;
    ASSERT_EQ(found, After(id, count)) << "thread " << id << ", kill " << kills_;
    acknowledged_ += least - counts_[id];
    beyond_ += count - least;
    begun_ += most - counts_[id];
    counts_[id] = count;
  }
  ASSERT_TRUE(Verifies(store)) << "kill " << kills_;
  const absl::Status closed = store.Close();
  ASSERT_TRUE(closed.ok()) << closed;
}

void KillTest::Print(const char* what) const {
  std::printf(
      "%llu %s, %llu while opening; %llu writes begun, %llu acknowledged and there, %llu more "
      "there\n",
      static_cast<unsigned long long>(kills_), what,
      static_cast<unsigned long long>(while_opening_), static_cast<unsigned long long>(begun_),
      static_cast<unsigned long long>(acknowledged_), static_cast<unsigned long long>(beyond_));
}

TEST_F(KillTest, CommitsOfAKilledProcessSurviveWithAPrefixOfTheRest) {
  const auto kill_count = static_cast<std::uint64_t>(500 * Scale());
  // However slow the machine is, there must have been something to lose.
  const auto enough = [&] { return kills_ >= kill_count && acknowledged_ >= kill_count * 200; };
  while (!enough()) {
    const TempDir dir;
    counts_ = {};
    for (int i = 0; i < kKillsOfAStore && !enough(); ++i) {
      ASSERT_NO_FATAL_FAILURE(RunAndKill(dir / "db"));
      ASSERT_NO_FATAL_FAILURE(Check(dir / "db"));
    }
  }
  Print("kills");
}

// ---- several updates in flight ----

// Update n of the session "batches" is on a key that is mostly on the device, or on one of a few
// others. Its kind is that of its batch, which ends with a chunk of 64 updates, so it depends on n.
constexpr std::uint64_t kBatchKeys = 3000;
constexpr std::uint64_t kHotKeys = 16;
constexpr std::uint64_t kBatchItems = 64;
std::uint64_t BatchKeyOf(std::uint64_t n) {
  return n % 2 == 0 ? n / 2 % kHotKeys : kHotKeys + n * 1009 % (kBatchKeys - kHotKeys);
}
OpKind BatchKindOf(std::uint64_t n) {
  static constexpr OpKind kKinds[] = {OpKind::kRmw, OpKind::kDelete, OpKind::kUpsert,
                                      OpKind::kDelete, OpKind::kRmw};
  return kKinds[(n - 1) / kBatchItems % 5];
}
void EditInBatch(std::uint64_t n, std::uint64_t& value) { value = value * 31 + n; }
// Update m of the session "async" adds one to key kBatchKeys + m, so each has a key of its own.
constexpr std::uint64_t kAsyncUpdates = 3000;

struct InFlight {
  Progress batches;
  Progress async;
  std::atomic<std::uint64_t> committing{0};
  std::array<std::atomic<std::uint64_t>, kAsyncUpdates> serials{};  // that callbacks got
};

class InFlightKillTest : public testing::Test {
 protected:
  void SetUp() override {
    void* const memory = ::mmap(nullptr, sizeof(InFlight), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = memory;
    auto store = Must(OpenIn<U64Store>(dir_ / "first", SmallEnvironment(8)));
    for (std::uint64_t key = 0; key < kBatchKeys + kAsyncUpdates; ++key)
      Must(store.Upsert(key, key));
    Must(store.Close());
  }
  void TearDown() override { ::munmap(memory_, sizeof(InFlight)); }

  [[noreturn]] void RunInFlight(std::uint64_t seed);
  void WriteBatches(U64Store& store, std::uint64_t seed);
  void WriteAsync(U64Store& store, std::uint64_t seed);
  void RunAndKillInFlight();
  void CheckBatches(U64Store& store, std::uint64_t serial);
  void CheckAsync(U64Store& store, std::uint64_t serial);

  TempDir dir_;
  void* memory_ = nullptr;
  InFlight* shared_ = nullptr;
  std::mt19937_64 random_{Seed()};
  std::uint64_t cut_batches_ = 0;
  std::uint64_t unsorted_ = 0;
};

void InFlightKillTest::WriteBatches(U64Store& store, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto session = Must(store.NewSession("batches"));
  for (std::uint64_t n = 1;;) {
    const std::uint64_t left = kBatchItems - (n - 1) % kBatchItems;
    const std::uint64_t count = random() % 4 == 0 ? 1 + random() % left : left;
    std::vector<std::uint64_t> keys(count);
    std::vector<std::uint64_t> values(count);
    std::vector<absl::Status> results(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      keys[i] = BatchKeyOf(n + i);
      values[i] = n + i;
    }
    shared_->batches.begun.store(n + count - 1);
    switch (BatchKindOf(n)) {
      case OpKind::kRmw:
        session.RmwBatch(
            keys, [n](std::size_t i, std::uint64_t& value) { EditInBatch(n + i, value); }, results);
        break;
      case OpKind::kDelete:
        session.DeleteBatch(keys, results);
        break;
      default:
        session.UpsertBatch(keys, values, results);
    }
    for (const absl::Status& result : results) {
      if (!result.ok() && !absl::IsNotFound(result)) Fail(result);
    }
    n += count;
    if (session.serial() != n - 1) Fail(absl::InternalError("another serial"));
    shared_->batches.acknowledged.store(n - 1);
  }
}

void InFlightKillTest::WriteAsync(U64Store& store, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto session = Must(store.NewSession("async"));
  for (std::uint64_t m = 0; m < kAsyncUpdates; ++m) {
    shared_->async.begun.store(m + 1);
    // Half of them find their key in memory, and overtake the others.
    if (random() % 2 == 0) Must(store.Upsert(kBatchKeys + m, kBatchKeys + m));
    session.RmwAsync(
        kBatchKeys + m, [](std::uint64_t& value) { ++value; },
        [this, m](const absl::Status& status, std::uint64_t serial) {
          if (!status.ok()) Fail(status);
          shared_->serials[m].store(serial);
        });
    if (random() % 16 == 0) session.CompletePending(random() % 2 == 0);
  }
  session.CompletePending();
  for (;;) ::pause();
}

void InFlightKillTest::RunInFlight(std::uint64_t seed) {
  absl::StatusOr<U64Store> store = OpenIn<U64Store>(dir_ / "db", SmallEnvironment(8));
  if (!store.ok()) Fail(store.status());
  std::thread batches([&] { WriteBatches(*store, seed); });
  std::thread async([&] { WriteAsync(*store, seed + 1); });
  for (;;) {
    const std::uint64_t done = shared_->batches.acknowledged.load();
    if (absl::Status status = store->Commit(); !status.ok()) Fail(status);
    shared_->committing.store(done);
  }
}

void InFlightKillTest::RunAndKillInFlight() {
  std::filesystem::remove_all(dir_ / "db");
  std::filesystem::copy(dir_ / "first", dir_ / "db");
  shared_ = new (memory_) InFlight;
  const std::uint64_t seed = random_();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) RunInFlight(seed);
  int result = 0;
  while (shared_->committing.load() == 0 && ::waitpid(child, nullptr, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  std::this_thread::sleep_for(std::chrono::microseconds(random_() % 10000));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, &result, 0), child);
  ASSERT_TRUE(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL) << "the child has failed";
}

void InFlightKillTest::CheckBatches(U64Store& store, std::uint64_t serial) {
  ASSERT_GE(serial, shared_->committing.load());
  ASSERT_LE(serial, shared_->batches.begun.load());
  std::vector<std::optional<std::uint64_t>> expected(kBatchKeys);
  for (std::uint64_t key = 0; key < kBatchKeys; ++key) expected[key] = key;
  for (std::uint64_t n = 1; n <= serial; ++n) {
    std::optional<std::uint64_t>& value = expected[BatchKeyOf(n)];
    if (BatchKindOf(n) == OpKind::kDelete) {
      value.reset();
    } else if (BatchKindOf(n) == OpKind::kUpsert) {
      value = n;
    } else {
      value = value.value_or(0);
      EditInBatch(n, *value);
    }
  }
  for (std::uint64_t key = 0; key < kBatchKeys; ++key) {
    const absl::StatusOr<std::uint64_t> value = store.Read(key);
    ASSERT_EQ(value.ok(), expected[key].has_value()) << "key " << key << ", serial " << serial;
    if (value.ok()) ASSERT_EQ(*value, *expected[key]) << "key " << key << ", serial " << serial;
  }
  cut_batches_ += serial % kBatchItems != 0 ? 1 : 0;
}

// As many updates are there as the serial says, and of those whose callbacks were called, those up
// to it.
void InFlightKillTest::CheckAsync(U64Store& store, std::uint64_t serial) {
  std::uint64_t there = 0;
  std::uint64_t last = 0;
  bool sorted = true;
  for (std::uint64_t m = 0; m < kAsyncUpdates; ++m) {
    const std::uint64_t added = Must(store.Read(kBatchKeys + m)) - (kBatchKeys + m);
    ASSERT_LE(added, m < shared_->async.begun.load() ? 1U : 0U);
    there += added;
    const std::uint64_t own = shared_->serials[m].load();
    if (own == 0) continue;
    ASSERT_EQ(added == 1, own <= serial) << "update " << m << ", serial " << own;
    sorted = sorted && own > last;
    last = own;
  }
  ASSERT_EQ(there, serial);
  unsorted_ += sorted ? 0 : 1;
}

TEST_F(InFlightKillTest, EachSessionHasItsUpdatesUpToItsSerial) {
  const auto kill_count = static_cast<std::uint64_t>(200 * Scale());
  std::uint64_t kills = 0;
  for (; kills < kill_count || cut_batches_ < kill_count / 5 || unsorted_ == 0; ++kills) {
    ASSERT_LT(kills, 100 * kill_count + 100) << "no batch was cut";
    ASSERT_NO_FATAL_FAILURE(RunAndKillInFlight());
    auto store = Must(OpenIn<U64Store>(dir_ / "db", SmallEnvironment(64)));
    std::map<std::string, std::uint64_t> serials;
    for (const auto& session : store.recovery().sessions) serials[session.name] = session.serial;
    ASSERT_NO_FATAL_FAILURE(CheckBatches(store, serials["batches"])) << "kill " << kills;
    ASSERT_NO_FATAL_FAILURE(CheckAsync(store, serials["async"])) << "kill " << kills;
  }
  std::printf("%llu kills, %llu inside a batch, %llu with asynchronous updates out of order\n",
              static_cast<unsigned long long>(kills), static_cast<unsigned long long>(cut_batches_),
              static_cast<unsigned long long>(unsorted_));
}

// ---- power ----

// An ext4 file system in a file, mounted for as long as this lives.
class Ext4Image {
 public:
  explicit Ext4Image(const std::string& directory)
      : image_(directory + "/image"), mount_point_(directory + "/mounted") {
    works_ = Run("truncate -s 256M '" + image_ + "'") && Run("mkfs.ext4 -q -F '" + image_ + "'") &&
             Run("mkdir '" + mount_point_ + "'") && Mount();
  }
  ~Ext4Image() {
    if (mounted_) Unmount();
  }
  Ext4Image(const Ext4Image&) = delete;
  Ext4Image& operator=(const Ext4Image&) = delete;

  bool works() const { return works_; }
  const std::string& path() const { return mount_point_; }

  // From now on nothing reaches the image, and the data that the journal has not written is lost.
  bool ShutDown() const {
    constexpr unsigned long kShutDown = _IOR('X', 125, std::uint32_t);
    constexpr std::uint32_t kWithoutLog = 2;
    const int directory = ::open(mount_point_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool done = ::ioctl(directory, kShutDown, &kWithoutLog) == 0;
    ::close(directory);
    return done;
  }
  bool MountAgain() { return Unmount() && Mount(); }

 private:
  static bool Run(const std::string& command) {
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
  }
  bool Mount() {
    mounted_ = Run("mount -t ext4 -o loop '" + image_ + "' '" + mount_point_ + "'");
    return mounted_;
  }
  bool Unmount() {
    mounted_ = !Run("umount '" + mount_point_ + "'");
    return !mounted_;
  }

  const std::string image_;
  const std::string mount_point_;
  bool mounted_ = false;
  bool works_ = false;
};

TEST_F(KillTest, CommitsOnExt4SurviveItsShutdown) {
  const TempDir dir;
  Ext4Image ext4(dir.path());
  if (!ext4.works()) GTEST_SKIP() << "needs root, mkfs.ext4 and a loop device";
  struck_ = true;
  const auto shutdown_count = static_cast<std::uint64_t>(100 * Scale());
  const auto enough = [&] {
    return kills_ >= shutdown_count && acknowledged_ >= shutdown_count * 100;
  };
  while (!enough()) {
    const std::string path = ext4.path() + "/db" + std::to_string(kills_);
    counts_ = {};
    for (int i = 0; i < kKillsOfAStore && !enough(); ++i) {
      bool shut_down = false;
      ASSERT_NO_FATAL_FAILURE(RunAndKill(path, [&] { shut_down = ext4.ShutDown(); }));
      ASSERT_TRUE(shut_down);
      ASSERT_TRUE(ext4.MountAgain());
      ASSERT_NO_FATAL_FAILURE(Check(path));
    }
    std::filesystem::remove_all(path);
  }
  Print("shutdowns of ext4");
}

}  // namespace
}  // namespace ebb::test
