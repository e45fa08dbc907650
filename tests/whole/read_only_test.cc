// Read-only opening: a reader sees the state that recovery would show, and nothing on the medium
// changes, whether or not it may be written.
//
// Hazard 60.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "ebb/verify.h"
#include "tests/support/child_process.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/scale.h"
#include "tests/support/store_kit.h"
#include "tests/support/temp_dir.h"
#include "tests/support/verifies.h"

namespace ebb::test {
namespace {

using absl::StatusCode;

using Contents = Model<std::uint64_t, std::uint64_t>;

Options ReaderOptions() {
  Options options = TinyOptions();
  options.read_only = true;
  return options;
}

absl::StatusOr<U64Store> OpenReader(const std::string& path,
                                    internal::FileSystem* files = nullptr) {
  return OpenIn<U64Store>(path, TinyEnvironment(files), ReaderOptions());
}

template <typename StoreType>
Contents ScanOf(StoreType& store) {
  Contents contents;
  Must(store.Scan([&](std::uint64_t key, std::uint64_t value) { contents[key] = value; }));
  return contents;
}

constexpr std::uint64_t kKeys = 3000;

// Several segments, a checkpoint and commits after it, deleted keys, and uncommitted updates, some
// of them on the device. Returns the committed values.
Contents Fill(U64Store& store) {
  Contents contents;
  const auto put = [&](std::uint64_t key, std::uint64_t value) {
    Must(store.Upsert(key, value));
    contents[key] = value;
  };
  for (std::uint64_t key = 0; key < kKeys; ++key) put(key, key * 3);
  {
    auto session = Must(store.NewSession("writer"));
    Must(session.Upsert(1, 1));
    contents[1] = 1;
  }
  Must(store.Checkpoint());
  for (std::uint64_t key = 0; key < kKeys; key += 5) {
    Must(store.Delete(key));
    contents.erase(key);
  }
  for (std::uint64_t key = 2; key < kKeys; key += 7) put(key, key + 1);
  Must(store.Commit());
  return contents;
}
void AddUncommitted(U64Store& store) {
  for (std::uint64_t key = 0; key < kKeys; ++key) Must(store.Upsert(key, 999'999));
}

// Everything that a reader can do.
void UseAll(U64Store& store, const Contents& contents) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 0; key < kKeys + 10; ++key) keys.push_back(key);
  EXPECT_TRUE(HoldsOnly(store, contents, keys));
  EXPECT_EQ(ScanOf(store), contents);
  auto session = store.NewSession();
  std::vector<std::uint64_t> values(keys.size());
  std::vector<absl::Status> results(keys.size());
  EXPECT_EQ(session.ReadBatch(keys, values, results), contents.size());
  std::uint64_t right = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto expected = contents.find(keys[i]);
    right += expected == contents.end() ? absl::IsNotFound(results[i])
                                        : results[i].ok() && values[i] == expected->second;
    session.ReadAsync(keys[i], [&, i](const absl::StatusOr<std::uint64_t>& value) {
      right += value.status() == results[i] && (!value.ok() || *value == values[i]);
    });
  }
  static_cast<void>(session.CompletePending(true));
  EXPECT_EQ(right, 2 * keys.size());
  EXPECT_TRUE(Verifies(store));
  EXPECT_GT(store.Stats().tail_address, 0U);
  EXPECT_EQ(store.recovery().sessions.size(), 1U);
  EXPECT_TRUE(store.EstimateGarbage().ok());
}

// Names, bytes, and when and how they were last changed.
std::vector<std::string> FingerprintOf(const std::string& directory) {
  std::vector<std::string> prints;
  Snapshot snapshot = SnapshotOf(directory);
  snapshot[""] = "";  // the directory itself
  for (const auto& [name, bytes] : snapshot) {
    struct stat status;
    EXPECT_EQ(::stat((directory + "/" + name).c_str(), &status), 0);
    prints.push_back(name + ":" + std::to_string(status.st_ino) + ":" +
                     std::to_string(status.st_mtim.tv_sec) + "." +
                     std::to_string(status.st_mtim.tv_nsec) + ":" +
                     std::to_string(status.st_ctim.tv_nsec) + ":" + bytes);
  }
  return prints;
}

class ReadOnlyTest : public testing::Test {
 protected:
  // Leaves a store as a killed process does, or a closed one.
  Contents Make(bool killed) {
    const std::string at = killed ? dir_ / "writer" : path_;
    auto store = Must(OpenTiny<U64Store>(at));
    Contents contents = Fill(store);
    if (killed) {
      AddUncommitted(store);
      Restore(SnapshotOf(at), path_);
    }
    Must(store.Close());
    return contents;
  }

  const TempDir dir_;
  const std::string path_ = dir_ / "db";
};

TEST_F(ReadOnlyTest, NothingChangesByOpeningReadingAndVerifying) {
  for (const bool killed : {false, true}) {
    for (const bool lock_file : {true, false}) {
      const Contents contents = Make(killed);
      if (!lock_file) ASSERT_TRUE(std::filesystem::remove(path_ + "/LOCK"));
      const std::vector<std::string> before = FingerprintOf(path_);
      EXPECT_TRUE(Must(VerifyDirectory(path_)).ok());
      {
        auto store = Must(OpenReader(path_));
        UseAll(store, contents);
        auto second = Must(OpenReader(path_));
        EXPECT_EQ(ScanOf(second), contents);
        Must(store.Close());
        Must(store.Close());
      }
      EXPECT_TRUE(FingerprintOf(path_) == before) << killed << lock_file;
      // As an opening for writing shows it.
      auto writer = Must(OpenTiny<U64Store>(path_));
      EXPECT_EQ(ScanOf(writer), contents);
      Must(writer.Close());
      std::filesystem::remove_all(path_);
      std::filesystem::remove_all(dir_ / "writer");
    }
  }
}

// With threads, direct transfers, a ring, and every option that would write.
TEST_F(ReadOnlyTest, OptionsThatWouldWriteAreIgnored) {
  Options options;
  options.log_memory_bytes = 1 << 20;
  options.page_bytes = 64 << 10;
  options.segment_bytes = 1 << 20;
  options.index_bucket_count = 1024;
  constexpr std::uint64_t kMany = 60'000;
  {
    auto store = Must(U64Store::Open(path_, options));
    for (std::uint64_t key = 0; key < kMany; ++key) Must(store.Upsert(key, key));
    Must(store.Close());
  }
  const std::vector<std::string> before = FingerprintOf(path_);
  for (const Durability durability : {Durability::kPeriodic, Durability::kAlways}) {
    options.read_only = true;
    options.durability = durability;
    options.commit_interval_ms = 1;
    options.checkpoint_interval_ms = 100;
    options.gc_interval_ms = 1000;
    options.gc.min_reclaim_bytes = 0;
    options.promote_reads = true;
    auto store = Must(U64Store::Open(path_, options));
    for (std::uint64_t key = 0; key < kMany; key += 53) ASSERT_EQ(Must(store.Read(key)), key);
    EXPECT_EQ(store.Metrics().promoted_records, 0U);
    EXPECT_EQ(store.Metrics().commits + store.Metrics().failed_commits, 0U);
    EXPECT_FALSE(store.GetBackgroundStats().checkpoint.enabled);
    EXPECT_TRUE(FailsWith(store.Upsert(1, 2), StatusCode::kFailedPrecondition, "read-only"));
    Must(store.Close());
  }
  EXPECT_TRUE(FingerprintOf(path_) == before);
}

TEST_F(ReadOnlyTest, EveryChangeIsRejectedAndNamesTheCause) {
  const Contents contents = Make(/*killed=*/true);
  auto store = Must(OpenReader(path_));
  auto session = store.NewSession();
  const auto expect = [](const absl::Status& status, const char* call) {
    EXPECT_TRUE(FailsWith(status, StatusCode::kFailedPrecondition, "read_only")) << call;
    EXPECT_TRUE(IsUserError(status)) << call;
    EXPECT_FALSE(IsRecoverable(status)) << call;
  };
  // Keys whose records are in memory, on the device, deleted, and absent.
  for (const std::uint64_t key : {kKeys - 1, std::uint64_t{3}, std::uint64_t{5}, kKeys + 1}) {
    expect(store.Upsert(key, 1), "Upsert");
    expect(store.Rmw(key, [](std::uint64_t& value) { ++value; }), "Rmw");
    expect(store.Delete(key), "Delete");
    expect(store.InsertIfAbsent(key, 1), "InsertIfAbsent");
    expect(store.CompareExchange(key, 1, 2), "CompareExchange");
    absl::Status told;
    const auto keep = [&told](const absl::Status& status) { told = status; };
    session.RmwAsync(
        key, [](std::uint64_t& value) { ++value; }, keep);
    static_cast<void>(session.CompletePending(true));
    expect(told, "RmwAsync");
    const std::vector<std::uint64_t> keys(3, key);
    std::vector<absl::Status> results(3);
    session.UpsertBatch(keys, keys, results);
    for (const absl::Status& status : results) expect(status, "UpsertBatch");
  }
  expect(store.Commit(), "Commit");
  expect(session.WaitDurable(), "WaitDurable");
  expect(store.Checkpoint().status(), "Checkpoint");
  expect(store.CleanupCheckpoints(1).status(), "CleanupCheckpoints");
  expect(store.CollectGarbage({.min_reclaim_bytes = 0}).status(), "CollectGarbage");
  expect(store.GrowIndex(), "GrowIndex");
  expect(store.NewSession("writer").status(), "NewSession");
  expect(store.ForgetSession("writer"), "ForgetSession");
  expect(store.Backup(dir_ / "backup").status(), "Backup");
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "backup"));
  Must(store.StartBackground());
  Must(store.StopBackground());
  EXPECT_TRUE(store.NewSession().Upsert(1, 1).code() == StatusCode::kFailedPrecondition);
  UseAll(store, contents);
  Must(store.Close());
  EXPECT_TRUE(FailsWith(store.Upsert(1, 1), StatusCode::kFailedPrecondition, "closed"));
}

// A backup needs a checkpoint where the log ends. There is one in a backup, for example.
TEST_F(ReadOnlyTest, ABackupIsMadeWhereItNeedsNoCheckpoint) {
  Contents contents;
  {
    auto store = Must(OpenTiny<U64Store>(path_));
    contents = Fill(store);
    Must(store.Backup(dir_ / "first"));
    Must(store.Close());
  }
  const std::vector<std::string> before = FingerprintOf(dir_ / "first");
  {
    auto store = Must(OpenReader(dir_ / "first"));
    Must(store.Backup(dir_ / "second"));
    EXPECT_EQ(Must(store.Checkpoint()).id, store.ListCheckpoints().back().id);
    Must(store.Close());
  }
  EXPECT_TRUE(FingerprintOf(dir_ / "first") == before);
  auto store = Must(OpenReader(dir_ / "second"));
  UseAll(store, contents);
}

TEST_F(ReadOnlyTest, ReadersExcludeWritersAndWritersExcludeReaders) {
  Make(/*killed=*/false);
  const auto fails = [](const absl::Status& status, const std::string& part) {
    return FailsWith(status, StatusCode::kFailedPrecondition, part);
  };
  std::optional<U64Store> writer(Must(OpenTiny<U64Store>(path_)));
  EXPECT_TRUE(fails(OpenReader(path_).status(),
                    "open already, here or in another process, for "
                    "writing"));
  EXPECT_TRUE(fails(VerifyDirectory(path_).status(), "for writing"));
  writer.reset();
  std::optional<U64Store> first(Must(OpenReader(path_)));
  std::optional<U64Store> second(Must(OpenReader(path_)));
  EXPECT_TRUE(Must(VerifyDirectory(path_)).ok());
  EXPECT_TRUE(fails(OpenTiny<U64Store>(path_).status(), "open already"));
  Must(first->Close());
  EXPECT_TRUE(fails(OpenTiny<U64Store>(path_).status(), "open already"));
  Must(second->Close());
  EXPECT_TRUE(OpenTiny<U64Store>(path_).ok());
}

TEST_F(ReadOnlyTest, NothingIsCreatedAndEverythingIsChecked) {
  EXPECT_TRUE(FailsWith(OpenReader(path_).status(), StatusCode::kNotFound, "read_only"));
  EXPECT_FALSE(std::filesystem::exists(path_));
  std::filesystem::create_directory(path_);
  EXPECT_TRUE(FailsWith(OpenReader(path_).status(), StatusCode::kNotFound, "read_only"));
  EXPECT_TRUE(std::filesystem::is_empty(path_));
  std::filesystem::remove(path_);
  Make(/*killed=*/false);
  const Snapshot before = SnapshotOf(path_);
  EXPECT_TRUE(FailsWith(OpenIn<U64TripleStore>(path_, TinyEnvironment(), ReaderOptions()).status(),
                        StatusCode::kFailedPrecondition, "was created with"));
  Options pages = ReaderOptions();
  pages.page_bytes = 64 << 10;
  EXPECT_TRUE(FailsWith(OpenIn<U64Store>(path_, TinyEnvironment(), pages).status(),
                        StatusCode::kFailedPrecondition, "page_bytes"));
  EXPECT_TRUE(FailsWith(U64Store::OpenInMemory(ReaderOptions()).status(),
                        StatusCode::kInvalidArgument, "read_only"));
  EXPECT_EQ(SnapshotOf(path_), before);
  Snapshot damaged = before;
  damaged.at(SegmentFile(0))[10'000] ^= 1;
  for (auto it = damaged.begin(); it != damaged.end();) {  // so that all of the log is read
    it = it->first.starts_with("manifest-") ? damaged.erase(it) : std::next(it);
  }
  Restore(damaged, path_);
  EXPECT_TRUE(FailsWith(OpenReader(path_).status(), StatusCode::kDataLoss, SegmentFile(0)));
  EXPECT_EQ(SnapshotOf(path_), damaged);
  damaged["UNFINISHED-BACKUP"] = "";
  Restore(damaged, path_);
  EXPECT_TRUE(
      FailsWith(OpenReader(path_).status(), StatusCode::kFailedPrecondition, "interrupted"));
}

// After a power loss at any moment of a store's life, a reader sees the state that recovery finds,
// or gets its error, and makes no call that changes anything.
TEST_F(ReadOnlyTest, AReaderSeesTheRecoveredStateAfterAnyCrash) {
  SimFileSystem files;
  {
    auto store = Must(OpenTiny<U64Store>("db", &files));
    for (std::uint64_t round = 0; round < 6; ++round) {
      for (std::uint64_t key = 0; key < 300; ++key) Must(store.Upsert(key * round, round));
      if (round % 3 == 1) Must(store.Checkpoint());
      if (round % 2 == 0) Must(store.Commit());
    }
    Must(store.CollectGarbage({.min_reclaim_bytes = 0, .target_utilization = 1}).status());
    Must(store.Close());
  }
  constexpr CallKind kWrites[] = {CallKind::kWrite,   CallKind::kSync,         CallKind::kTruncate,
                                  CallKind::kReserve, CallKind::kRename,       CallKind::kPunchHole,
                                  CallKind::kUnlink,  CallKind::kSyncDirectory};
  std::uint64_t opened = 0;
  const std::size_t step = files.CallCount() / 60 + 1;
  for (std::size_t calls = 0; calls <= files.CallCount(); calls += calls < 30 ? 1 : step) {
    for (const std::uint64_t seed : {kNothingSurvives, kEverythingSurvives, calls + 2}) {
      if (!IsInSample(calls + seed)) continue;
      const auto crashed = files.CrashAt(calls, seed);
      FaultFileSystem faults(*crashed);
      for (const CallKind kind : kWrites) faults.Arm({.kind = kind, .sticky = true});
      absl::StatusOr<U64Store> reader = OpenReader("db", &faults);
      std::optional<Contents> shown;
      if (reader.ok()) {
        ++opened;
        shown = ScanOf(*reader);
        CoreOf(*reader).log.CheckBoundaries();
        EXPECT_TRUE(Verifies(*reader)) << calls << ' ' << seed;
        Must(reader->Close());
        reader = absl::UnknownError("");
      }
      EXPECT_EQ(crashed->CallCount(), 0U);
      for (const CallKind kind : kWrites) EXPECT_EQ(faults.Count(kind), 0U) << NameOf(kind);
      auto writer = OpenTiny<U64Store>("db", crashed.get());
      if (shown.has_value()) {
        ASSERT_TRUE(writer.ok()) << writer.status();
        EXPECT_EQ(ScanOf(*writer), *shown) << calls << ' ' << seed;
        Must(writer->Close());
      } else if (absl::IsNotFound(reader.status())) {
        EXPECT_TRUE(writer.ok() && writer->recovery().created) << writer.status();
      } else {
        EXPECT_EQ(writer.status(), reader.status());
      }
    }
  }
  EXPECT_GT(opened, 70 / Stride());
}

// ---- surroundings in which nothing can be written ----

constexpr int kNotPossible = 77;

// Runs `body` in a forked child, which prints its error.
int StatusInChild(const std::function<absl::Status()>& body) {
  return InChild([&] {
    const absl::Status status = body();
    if (!status.ok()) std::fprintf(stderr, "in the child: %s\n", status.ToString().c_str());
    return status.ok() ? 0 : absl::IsUnimplemented(status) ? kNotPossible : 1;
  });
}

// Reads all of it, and finds that an opening for writing fails.
absl::Status ReadWhereNothingCanBeWritten(const std::string& path, const Contents& contents) {
  auto report = VerifyDirectory(path);
  if (!report.ok()) return report.status();
  if (!report->ok()) return absl::DataLossError(report->problems.front());
  auto store = OpenReader(path);
  if (!store.ok()) return store.status();
  if (ScanOf(*store) != contents) return absl::DataLossError("another content");
  if (absl::Status status = StatusOf(store->Verify()); !status.ok()) return status;
  if (absl::Status status = store->Close(); !status.ok()) return status;
  // The message states the remedy.
  const absl::Status refused = OpenTiny<U64Store>(path).status();
  if (refused.ok()) return absl::InternalError("opened for writing");
  const bool is_named = refused.message().find("read_only") != absl::string_view::npos;
  return is_named ? absl::OkStatus() : refused;
}

TEST_F(ReadOnlyTest, NeedsNoPermissionToWrite) {
  const Contents contents = Make(/*killed=*/true);
  for (const bool lock_file : {true, false}) {
    if (!lock_file) ASSERT_TRUE(std::filesystem::remove(path_ + "/LOCK"));
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      ASSERT_EQ(::chmod(entry.path().c_str(), 0444), 0);
    }
    ASSERT_EQ(::chmod(path_.c_str(), 0555), 0);
    ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
    const int result = StatusInChild([&] {
      constexpr unsigned kNobody = 65534;
      if (::geteuid() == 0 &&
          (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) {
        return absl::UnimplementedError("root that cannot become another user");
      }
      if (::access(path_.c_str(), R_OK | X_OK) != 0 || ::access(path_.c_str(), W_OK) == 0) {
        return absl::UnimplementedError("no directory that can be read but not written");
      }
      return ReadWhereNothingCanBeWritten(path_, contents);
    });
    ASSERT_EQ(::chmod(path_.c_str(), 0755), 0);
    if (result == kNotPossible) GTEST_SKIP() << "not possible for this user";
    EXPECT_EQ(result, 0);
  }
}

TEST_F(ReadOnlyTest, WorksOnAReadOnlyFileSystem) {
  const Contents contents = Make(/*killed=*/true);
  const int result = StatusInChild([&] {
    // In a namespace of its own, so nothing outside sees the mount, and it ends with the child.
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(path_.c_str(), path_.c_str(), nullptr, MS_BIND, nullptr) != 0 ||
        ::mount("none", path_.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) != 0) {
      return absl::UnimplementedError("no mounts");
    }
    if (::open((path_ + "/new").c_str(), O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS) {
      return absl::UnimplementedError("the mount can be written");
    }
    return ReadWhereNothingCanBeWritten(path_, contents);
  });
  if (result == kNotPossible) GTEST_SKIP() << "this process may not mount";
  EXPECT_EQ(result, 0);
}

}  // namespace
}  // namespace ebb::test
