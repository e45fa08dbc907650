// Surroundings: what the rest of the system may do to a program that has a store open. A filter
// forbids a system call, the standard descriptors are closed, someone removes the files. The store
// reports it, or is not affected; it never aborts, hangs, or acknowledges anything that is lost.
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

// What a child reports: a line to the descriptor `log` for everything that is wrong.
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

// Runs `body` in a forked child and returns its result. One that hangs is killed.
template <typename Body>
int InChild(Body body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    ::_exit(body());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "the child was ended by signal " << WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
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

}  // namespace
}  // namespace ebb::test
