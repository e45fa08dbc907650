// Surroundings: actions of the rest of the system on a program that has a store open. A filter
// forbids a system call, the standard descriptors are closed, someone removes the files or the lock
// file, a process dies while its child lives. The store reports it, or is not affected; it never
// aborts, hangs, or acknowledges an update that is lost.
//
// Hazard 56.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/verify.h"
#include "tests/support/child_process.h"
#include "tests/support/fallback.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

Options QuietOptions() {
  Options options;
  options.log_memory_bytes = 1 << 20;
  options.page_bytes = 64 << 10;
  options.segment_bytes = 1 << 20;
  options.index_bucket_count = 1024;
  options.durability = Durability::kManual;
  options.gc_interval_ms = 0;
  options.preallocate_bytes = 0;
  options.huge_pages = false;
  return options;
}

// Keys that each store holds: more than its memory, so some are on the device.
constexpr std::uint64_t kCommitted = 60'000;

// The report of a child: a line to the descriptor `log` for each error.
class Findings {
 public:
  explicit Findings(int log = STDERR_FILENO) : log_(log) {}
  void Expect(bool right, const char* what, const absl::Status& status = absl::OkStatus()) {
    if (right) return;
    ++count_;
    const std::string line = std::string("in the child: ") + what + ": " + status.ToString() + "\n";
    static_cast<void>(!::write(log_, line.data(), line.size()));
  }
  void ExpectCode(const absl::Status& status, StatusCode code, const char* what) {
    Expect(status.code() == code, what, status);
  }
  int count() const { return count_; }

 private:
  const int log_;
  int count_ = 0;
};

constexpr int kNothingToTest = 77;

// ---- a filter of system calls ----

// From now on membarrier fails with `error`, in the calling thread or in all. False: the kernel has
// no such filters, or this process may not install one.
bool ForbidMembarrier(int error, bool in_all_threads) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
  const unsigned long flags = in_all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0;
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) != 0) return false;
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) == -1 && errno == error;
}

struct FilteredCall {
  const char* name;
  std::function<absl::Status(U64Store&)> run;
};

absl::Status UpdateUntilItFails(U64Store& store) {
  for (std::uint64_t key = 1'000'000; key < 2'000'000; ++key) {
    if (absl::Status status = store.Upsert(key, key); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Each needs a drain.
std::vector<FilteredCall> CallsThatDrain(const std::string& backup_path) {
  return {
      {"Commit", [](U64Store& store) { return store.Commit(); }},
      {"Checkpoint", [](U64Store& store) { return store.Checkpoint().status(); }},
      {"CollectGarbage",
       [](U64Store& store) {
         return store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).status();
       }},
      {"GrowIndex", [](U64Store& store) { return store.GrowIndex(); }},
      {"Scan", [](U64Store& store) { return store.Scan([](std::uint64_t, std::uint64_t) {}); }},
      {"updates", UpdateUntilItFails},
      {"Backup", [backup_path](U64Store& store) { return store.Backup(backup_path).status(); }},
      {"WaitDurable",
       [](U64Store& store) {
         auto session = store.NewSession();
         return session.WaitDurable();
       }},
  };
}

// A child opens a store, commits, installs the filter, and then makes the calls, beginning with
// number `first`; beyond the last one it closes the store at once. Another thread reads all the
// time.
int UseUnderFilter(const std::string& path, int error, bool in_all_threads, std::size_t first) {
  Findings findings;
  std::optional<U64Store> store(Must(U64Store::Open(path, QuietOptions())));
  for (std::uint64_t key = 0; key < kCommitted; ++key) Must(store->Upsert(key, key * 3));
  Must(store->Commit());
  if (!store->Stats().membarrier) return kNothingToTest;
  std::thread reader([&store, &findings] {
    for (std::uint64_t n = 0;; n += 7919) {
      const auto value = store->Read(n % kCommitted);
      if (absl::IsFailedPrecondition(value.status())) return;  // closed
      if (!value.ok() || *value != n % kCommitted * 3) {
        return findings.Expect(false, "a read by another thread", value.status());
      }
    }
  });
  if (!ForbidMembarrier(error, in_all_threads)) ::_exit(kNothingToTest);
  Must(store->Upsert(kCommitted, 1));  // in memory, so that there is something to commit
  const std::vector<FilteredCall> calls = CallsThatDrain(path + ".backup");
  for (std::size_t i = 0; i < calls.size() && first < calls.size(); ++i) {
    const FilteredCall& call = calls[(first + i) % calls.size()];
    const absl::Status status = call.run(*store);
    findings.ExpectCode(status, StatusCode::kUnavailable, call.name);
    findings.Expect(status.message().find("membarrier") != absl::string_view::npos, call.name,
                    status);
    const auto value = store->Read(5);
    findings.Expect(value.ok() && *value == 15, "Read", value.status());
  }
  const absl::Status closed = store->Close();
  findings.ExpectCode(closed, StatusCode::kUnavailable, "Close");
  findings.Expect(store->Close() == closed, "Close again", closed);
  reader.join();
  findings.ExpectCode(store->Upsert(1, 1), StatusCode::kFailedPrecondition, "after Close");
  store.reset();
  // The lock is free. A store that is opened now knows better.
  auto again = U64Store::Open(path, QuietOptions());
  findings.Expect(again.ok(), "Open", again.status());
  if (again.ok()) {
    findings.Expect(!again->Stats().membarrier, "a new store uses membarrier");
    const auto value = again->Read(kCommitted - 1);
    findings.Expect(value.ok() && *value == (kCommitted - 1) * 3, "Read again", value.status());
    findings.ExpectCode(again->Read(kCommitted).status(), StatusCode::kNotFound, "uncommitted");
    findings.ExpectCode(again->Commit(), StatusCode::kOk, "Commit again");
    findings.ExpectCode(again->Close(), StatusCode::kOk, "Close of the new store");
  }
  return findings.count() == 0 ? 0 : 1;
}

class FilterTest : public testing::TestWithParam<std::size_t> {};

// Hazard: errno of membarrier ended the process.
TEST_P(FilterTest, AForbiddenBarrierPoisonsTheStoreAndNothingHangs) {
  const TempDir dir;
  const int error = GetParam() % 4 < 2 ? EPERM : ENOSYS;
  const bool in_all_threads = GetParam() % 2 == 0;
  const int result =
      InChild([&] { return UseUnderFilter(dir / "db", error, in_all_threads, GetParam()); });
  if (result == kNothingToTest) GTEST_SKIP() << "no membarrier, or no filters";
  EXPECT_EQ(result, 0);
  auto store = Must(U64Store::Open(dir / "db", QuietOptions()));
  for (std::uint64_t key = 0; key < kCommitted; key += 97) {
    ASSERT_EQ(Must(store.Read(key)), key * 3);
  }
  Must(store.Close());
  const VerifyReport report = Must(VerifyDirectory(dir / "db"));
  EXPECT_TRUE(report.ok()) << testing::PrintToString(report.problems);
  // The backup had not begun to copy, and has left nothing.
  const std::string backup = dir / "db.backup";
  EXPECT_TRUE(!std::filesystem::exists(backup) || std::filesystem::is_empty(backup));
}

INSTANTIATE_TEST_SUITE_P(BeginningWith, FilterTest,
                         testing::Range<std::size_t>(0, CallsThatDrain("").size() + 1));

TEST(FallbackUnderFilterTest, NeedsNoMembarrier) {
  const TempDir dir;
  const int result = InChild([&] {
    Findings findings;
    internal::Environment environment;
    environment.force_fallback = true;
    auto store = Must(OpenIn<U64Store>(dir / "db", environment, QuietOptions()));
    if (!ForbidMembarrier(EPERM, true)) return kNothingToTest;
    for (std::uint64_t key = 0; key < kCommitted; ++key) Must(store.Upsert(key, key * 3));
    for (const FilteredCall& call : CallsThatDrain(dir / "backup")) {
      if (call.run != nullptr && std::string(call.name) != "updates") {
        findings.ExpectCode(call.run(store), StatusCode::kOk, call.name);
      }
    }
    findings.ExpectCode(store.Close(), StatusCode::kOk, "Close");
    return findings.count() == 0 ? 0 : 1;
  });
  if (result == kNothingToTest) GTEST_SKIP() << "no filters";
  EXPECT_EQ(result, 0);
  EXPECT_EQ(*Must(U64Store::Open(dir / "db", QuietOptions())).Read(7), 21U);
  EXPECT_EQ(*Must(U64Store::Open(dir / "backup", QuietOptions())).Read(7), 21U);
}

// ---- closed standard descriptors ----

bool StandardDescriptorsAreClosed() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1) return false;
  }
  return true;
}

int UseWithoutStandardDescriptors(const std::string& path, const std::string& log_name) {
  const int log = ::open(log_name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const int high_log = ::fcntl(log, F_DUPFD_CLOEXEC, 100);
  for (const int fd : {0, 1, 2, log}) static_cast<void>(::close(fd));
  Findings findings(high_log);
  const auto check = [&](const char* what) {
    findings.Expect(StandardDescriptorsAreClosed(), what);
  };
  auto store = Must(U64Store::Open(path, QuietOptions()));
  check("Open");
  for (std::uint64_t key = 0; key < kCommitted; ++key) Must(store.Upsert(key, key * 3));
  check("segments");
  Must(store.Checkpoint());
  check("Checkpoint");
  static_cast<void>(store.Stats());  // reads /proc
  check("Stats");
  {
    auto session = store.NewSession();
    std::vector<std::uint64_t> keys;
    for (std::uint64_t key = 0; key < 256; ++key) keys.push_back(key * 100);
    std::uint64_t right = 0;
    for (const std::uint64_t key : keys) {
      session.ReadAsync(key, [&right, key](absl::StatusOr<std::uint64_t> value) {
        right += value.ok() && *value == key * 3 ? 1 : 0;
      });
    }
    check("the ring");
    static_cast<void>(session.CompletePending(true));
    findings.Expect(right == keys.size(), "asynchronous reads");
  }
  Must(store.Scan([](std::uint64_t, std::uint64_t) {}));
  Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}));
  Must(store.Backup(path + ".backup"));
  check("jobs");
  // A line on a closed stderr goes nowhere.
  findings.Expect(::write(STDERR_FILENO, "line\n", 5) == -1 && errno == EBADF, "stderr");
  const absl::Status closed = store.Close();
  findings.Expect(closed.ok(), "Close", closed);
  check("Close");
  return findings.count() == 0 ? 0 : 1;
}

TEST(ClosedDescriptorsTest, NoneOfThemBecomesAFileOfTheStore) {
  const TempDir dir;
  EXPECT_EQ(InChild([&] { return UseWithoutStandardDescriptors(dir / "db", dir / "findings"); }),
            0);
  const Snapshot snapshot = SnapshotOf(dir.path());
  EXPECT_EQ(snapshot.at("findings"), "");
  for (const char* name : {"db", "db.backup"}) {
    const VerifyReport report = Must(VerifyDirectory(dir / name));
    EXPECT_TRUE(report.ok()) << testing::PrintToString(report.problems);
    auto store = Must(U64Store::Open(dir / name, QuietOptions()));
    for (std::uint64_t key = 0; key < kCommitted; key += 97) {
      ASSERT_EQ(Must(store.Read(key)), key * 3);
    }
  }
}

// ---- removed files ----

class RemovedFilesTest : public testing::Test {
 protected:
  // Several segments, all committed.
  void Open(Durability durability = Durability::kManual) {
    Options options = QuietOptions();
    options.durability = durability;
    if (durability == Durability::kAlways) options.segment_bytes = std::uint64_t{1} << 30;
    store_.emplace(Must(U64Store::Open(dir_ / "db", options)));
    if (durability == Durability::kAlways) return;
    for (std::uint64_t key = 0; key < 2 * kCommitted; ++key) Must(store_->Upsert(key, key));
    Must(store_->Commit());
  }
  void RemoveAll() { std::filesystem::remove_all(dir_ / "db"); }
  void Remove(const std::string& name) {
    ASSERT_TRUE(std::filesystem::remove(dir_ / "db/" + name)) << name;
  }
  std::string NewestSegment() const {
    std::string newest;
    for (const auto& [name, bytes] : SnapshotOf(dir_ / "db")) {
      if (name.starts_with("log-")) newest = name;
    }
    return newest;
  }
  // From now on every call that would make anything durable fails, and reads continue.
  void ExpectPoisoned(const std::string& file) {
    const auto fails = [&](const absl::Status& status) {
      return FailsWith(status, StatusCode::kDataLoss,
                       file + " was removed while the store was open");
    };
    EXPECT_TRUE(fails(store_->Commit()));
    EXPECT_TRUE(fails(store_->Upsert(1, 2)));
    EXPECT_TRUE(fails(store_->Upsert(1'000'000, 2)));
    EXPECT_TRUE(fails(store_->Delete(1)));
    EXPECT_TRUE(fails(store_->Checkpoint().status()));
    EXPECT_TRUE(fails(store_->CollectGarbage({.min_reclaim_bytes = 0}).status()));
    EXPECT_FALSE(IsRecoverable(store_->Commit()));
    EXPECT_EQ(Must(store_->Read(3)), 3U);
    EXPECT_TRUE(fails(store_->Close()));
    EXPECT_TRUE(fails(store_->Close()));
  }

  const TempDir dir_;
  std::optional<U64Store> store_;
};

TEST_F(RemovedFilesTest, CommitReportsARemovedDirectory) {
  Open();
  RemoveAll();
  Must(store_->Upsert(2, 3));
  ExpectPoisoned("");  // the segment or the lock file, which were removed together
}

TEST_F(RemovedFilesTest, CommitWithNothingToWriteReportsItToo) {
  Open();
  RemoveAll();
  ExpectPoisoned("lock file");
}

TEST_F(RemovedFilesTest, EveryOtherCallThatWritesReportsIt) {
  const std::function<absl::Status(U64Store&)> calls[] = {
      [](U64Store& store) { return store.Checkpoint().status(); },
      [](U64Store& store) {
        return store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).status();
      },
      [this](U64Store& store) { return store.Backup(dir_ / "backup").status(); },
      [](U64Store& store) { return store.Close(); },
      [](U64Store& store) {
        Must(store.Upsert(2, 3));
        return store.Close();
      },
      [](U64Store& store) { return UpdateUntilItFails(store); },
  };
  for (const auto& call : calls) {
    Open();
    RemoveAll();
    const absl::Status status = call(*store_);
    EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, "was removed"));
    EXPECT_TRUE(FailsWith(store_->Close(), StatusCode::kDataLoss, "was removed"));
    store_.reset();
  }
}

TEST_F(RemovedFilesTest, AnUpdateThatIsDurableWhenItReturnsReportsIt) {
  Open(Durability::kAlways);
  Must(store_->Upsert(3, 3));
  RemoveAll();
  EXPECT_TRUE(FailsWith(store_->Upsert(1, 1), StatusCode::kDataLoss, "was removed"));
  ExpectPoisoned("");
}

TEST_F(RemovedFilesTest, CommitReportsTheSegmentThatItHasWritten) {
  Open();
  const std::string segment = NewestSegment();
  Remove(segment);
  Must(store_->Upsert(2, 3));
  ExpectPoisoned(segment);
}

TEST_F(RemovedFilesTest, CheckpointAndCloseReportEverySegment) {
  for (const bool close : {false, true}) {
    Open();
    Remove(SegmentFile(0));
    Must(store_->Commit());  // has not touched that file
    const absl::Status status = close ? store_->Close() : store_->Checkpoint().status();
    EXPECT_TRUE(FailsWith(status, StatusCode::kDataLoss, SegmentFile(0) + " was removed"));
    store_.reset();
    RemoveAll();
  }
}

TEST_F(RemovedFilesTest, CommitReportsARemovedLock) {
  Open();
  Remove("LOCK");
  ExpectPoisoned("lock file");
}

TEST_F(RemovedFilesTest, ARenamedDirectoryIsStillTheStore) {
  Open();
  std::filesystem::rename(dir_ / "db", dir_ / "elsewhere");
  Must(store_->Upsert(2, 3));
  Must(store_->Commit());
  Must(store_->Checkpoint());
  Must(store_->Close());
  store_.emplace(Must(U64Store::Open(dir_ / "elsewhere", QuietOptions())));
  EXPECT_EQ(Must(store_->Read(2)), 3U);
}

// Collections remove segments of their own while commits sync others.
TEST_F(RemovedFilesTest, TheStoresOwnRemovalsAreNotReported) {
  Open();
  std::atomic<bool> stop{false};
  std::thread committer([&] {
    for (std::uint64_t n = 0; !stop.load(std::memory_order_relaxed); ++n) {
      Must(store_->Upsert(n % 100, n));
      Must(store_->Commit());
    }
  });
  std::uint64_t freed = 0;
  for (int round = 0; round < 5; ++round) {
    for (std::uint64_t key = 0; key < kCommitted; ++key) Must(store_->Upsert(key + 100, key));
    freed +=
        Must(store_->CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1})).freed_bytes;
    Must(store_->Checkpoint());
  }
  stop.store(true, std::memory_order_relaxed);
  committer.join();
  EXPECT_GT(freed, 4U << 20);
  Must(store_->Close());
}

// ---- locks ----

constexpr std::uint64_t kLockedKey = 77;

// A store that holds one committed key. It has no threads, so that a forked child can continue
// under the sanitizers too.
U64Store OpenWithOneKey(const std::string& path) {
  auto store = Must(OpenTiny<U64Store>(path));
  Must(store.Upsert(kLockedKey, 1));
  Must(store.Commit());
  return store;
}

bool IsLocked(const std::string& path) {
  return FailsWith(OpenTiny<U64Store>(path).status(), StatusCode::kFailedPrecondition,
                   "open already");
}

// Hazard: the lock was on a name alone.
TEST(LockTest, WithoutItsLockFileAStoreStillHasOneWriter) {
  const TempDir dir;
  auto store = OpenWithOneKey(dir / "db");
  ASSERT_TRUE(std::filesystem::remove(dir / "db/LOCK"));
  EXPECT_TRUE(IsLocked(dir / "db"));
  EXPECT_TRUE(FailsWith(VerifyDirectory(dir / "db").status(), StatusCode::kFailedPrecondition,
                        "open already, here or in another process, for writing"));
  EXPECT_EQ(InChild([&] { return IsLocked(dir / "db") ? 0 : 1; }), 0);
  EXPECT_FALSE(std::filesystem::exists(dir / "db/LOCK"));
  // The store itself reports that its lock file has gone, because not every file system can lock a
  // directory.
  EXPECT_TRUE(FailsWith(store.Close(), StatusCode::kDataLoss, "lock file"));
  EXPECT_EQ(Must(Must(OpenTiny<U64Store>(dir / "db")).Read(kLockedKey)), 1U);
}

// Verifications of one directory run at the same time; a writer has to wait for them, and they for
// a writer.
TEST(LockTest, VerificationsShareTheDirectory) {
  const TempDir dir;
  OpenWithOneKey(dir / "db");
  // The other process is forked while this one has no threads: ThreadSanitizer allows no threads in
  // the child of a process that had some, and a verification has them.
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = StartChild([&] {
    char byte;
    static_cast<void>(!::read(go[0], &byte, 1));
    return VerifyDirectory(dir / "db").ok() ? 0 : 1;
  });
  int calls = 0;
  VerifyOptions options;
  options.progress = [&](const VerifyProgress&) {
    if (calls++ != 0) return;
    EXPECT_TRUE(Must(VerifyDirectory(dir / "db")).ok());
    EXPECT_EQ(::write(go[1], "x", 1), 1);
    EXPECT_EQ(ResultOf(child), 0);
    EXPECT_TRUE(IsLocked(dir / "db"));
  };
  EXPECT_TRUE(Must(VerifyDirectory(dir / "db", options)).ok());
  EXPECT_GT(calls, 0);
  EXPECT_FALSE(IsLocked(dir / "db"));
}

// A supervisor kills a program and starts it again, while a child of the first one still runs.
TEST(LockTest, AKilledProcessLeavesTheStoreToItsSuccessor) {
  const TempDir dir;
  int ready[2];
  int end[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(end), 0);
  std::fflush(nullptr);
  const pid_t owner = ::fork();
  if (owner == 0) {
    ::alarm(60);
    auto store = OpenWithOneKey(dir / "db");
    if (::fork() == 0) {
      ::close(end[1]);
      char byte = 'x';
      static_cast<void>(!::write(ready[1], &byte, 1));
      static_cast<void>(!::read(end[0], &byte, 1));  // until the test closes its end
      ::_exit(0);
    }
    ::pause();
    ::_exit(1);
  }
  ::close(end[0]);
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_TRUE(IsLocked(dir / "db"));
  ASSERT_EQ(::kill(owner, SIGKILL), 0);
  ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
  EXPECT_EQ(Must(Must(OpenTiny<U64Store>(dir / "db")).Read(kLockedKey)), 1U);
  ::close(end[1]);
}

// daemon() ends the process that opened the store and continues in a child. The child's store is of
// no use, but the child can open it again.
TEST(LockTest, ADaemonOpensItsStoreAgain) {
  const TempDir dir;
  int result[2];
  ASSERT_EQ(::pipe(result), 0);
  std::fflush(nullptr);
  const pid_t owner = ::fork();
  if (owner == 0) {
    ::alarm(60);
    auto store = OpenWithOneKey(dir / "db");
    if (::daemon(1, 1) != 0) ::_exit(1);
    Findings findings;
    findings.ExpectCode(store.Upsert(1, 1), StatusCode::kFailedPrecondition, "Upsert");
    auto again = OpenTiny<U64Store>(dir / "db");
    while (absl::IsFailedPrecondition(again.status())) {  // ends: the parent is about to exit
      std::this_thread::yield();
      again = OpenTiny<U64Store>(dir / "db");
    }
    findings.Expect(again.ok(), "Open", again.status());
    if (again.ok()) {
      findings.Expect(again->Read(kLockedKey).ok(), "Read");
      findings.ExpectCode(again->Upsert(1, 1), StatusCode::kOk, "Upsert again");
      findings.ExpectCode(again->Close(), StatusCode::kOk, "Close");
    }
    const char report = findings.count() == 0 ? 'y' : 'n';
    static_cast<void>(!::write(result[1], &report, 1));
    ::_exit(0);
  }
  ::close(result[1]);
  char report = 0;
  EXPECT_EQ(::read(result[0], &report, 1), 1);  // also when the daemon has died
  EXPECT_EQ(report, 'y');
  ASSERT_EQ(::waitpid(owner, nullptr, 0), owner);
  EXPECT_EQ(Must(Must(OpenTiny<U64Store>(dir / "db")).Read(1)), 1U);
}

}  // namespace
}  // namespace ebb::test
