// A store of fixed size, overwritten at random for twenty times its size, that collects its garbage
// beside that, against the same without: with the log's memory as by default, which holds all that
// is live, and with half as much as is live. See report.h.
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "ebb/store.h"
#include "report.h"
#include "team.h"

namespace ebb::bench {
namespace {

using Value = std::array<std::byte, 100>;
using Db = Store<std::uint64_t, Value>;

constexpr int kThreads = 2;
constexpr std::uint64_t kOverwrites = 20;  // of all keys
constexpr std::uint64_t kRecordBytes = 120;

Value ValueOf(std::uint64_t key, std::uint32_t turn) {
  Value value{};
  std::memcpy(value.data(), &key, 8);
  std::memcpy(value.data() + 8, &turn, 4);
  std::memset(value.data() + 12, static_cast<int>(key + turn), 88);
  return value;
}

// What the folder takes on the disk.
std::uint64_t DiskBytes(const std::string& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    struct stat status {};
    if (::stat(entry.path().c_str(), &status) == 0) {
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  }
  return bytes;
}

// What keeps the log below two and a half times what is live: it is 1.4 times live / target at
// most, and some pages.
struct Case {
  std::uint64_t log_memory_bytes;
  double target_utilization;
};

struct Result {
  double per_second = 0.0;
  std::uint64_t max_disk_bytes = 0;
  std::uint64_t wrong = 0;  // keys, at the end and after reopening
  BackgroundJobStats gc;
};

// Each thread owns every kThreads-th key, and knows what it has written last.
class Overwriting {
 public:
  Overwriting(const Settings& settings, const Case& measured, bool collects)
      : key_count_(std::min<std::uint64_t>(settings.key_count, 1'000'000)),
        folder_(settings, collects ? "collected" : "uncollected"),
        turns_(key_count_) {
    options_.log_memory_bytes = measured.log_memory_bytes;
    options_.page_bytes = std::uint64_t{4} << 20;  // the log's length is looked at for each
    options_.index_bucket_count = BucketCountFor(key_count_);
    options_.gc_interval_ms = collects ? 1000 : 0;
    options_.gc.min_reclaim_bytes = std::uint64_t{16} << 20;
    options_.gc.target_utilization = measured.target_utilization;
    options_.preallocate_bytes = std::uint64_t{4} << 20;
    options_.background_threads = 2;
  }

  Result Run() {
    Result result;
    {
      Db db = Must(Db::Open(folder_.path(), options_));
      RunTeam(kThreads, [&](int thread) { Write(db, thread, 1, /*in_order=*/true); });
      Must(db.Commit());
      std::atomic<bool> done{false};
      std::thread watcher([&] {
        while (!done.load()) {
          result.max_disk_bytes = std::max(result.max_disk_bytes, DiskBytes(folder_.path()));
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
      });
      const auto begun = std::chrono::steady_clock::now();
      {
        std::vector<std::jthread> threads;
        for (int id = 0; id < kThreads; ++id) {
          threads.emplace_back([&, id] { Write(db, id, kOverwrites, /*in_order=*/false); });
        }
      }
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begun;
      result.per_second = static_cast<double>(key_count_ * kOverwrites) / taken.count();
      done = true;
      watcher.join();
      result.wrong += CountWrong(db);
      result.gc = db.GetBackgroundStats().gc;
      Must(db.Close());
    }
    Db db = Must(Db::Open(folder_.path(), options_));
    result.wrong += CountWrong(db);
    Must(db.Close());
    return result;
  }

  std::uint64_t live_bytes() const { return key_count_ * kRecordBytes; }

 private:
  void Write(Db& db, int thread, std::uint64_t times, bool in_order) {
    auto session = db.NewSession();
    const std::uint64_t own = key_count_ / kThreads;
    std::mt19937_64 random(static_cast<std::uint64_t>(thread) + 1);
    for (std::uint64_t i = 0; i < own * times; ++i) {
      const std::uint64_t key =
          (in_order ? i : random() % own) * kThreads + static_cast<std::uint64_t>(thread);
      Must(session.Upsert(key, ValueOf(key, ++turns_[key])));
    }
  }
  // By a scan, since reading a million keys from the device one by one takes a minute.
  std::uint64_t CountWrong(Db& db) {
    std::uint64_t right = 0;
    std::uint64_t shown = 0;
    Must(db.Scan([&](const std::uint64_t& key, const Value& value) {
      ++shown;
      right += key < key_count_ && value == ValueOf(key, turns_[key]) ? 1 : 0;
    }));
    const auto written = static_cast<std::uint64_t>(
        std::count_if(turns_.begin(), turns_.end(), [](std::uint32_t turn) { return turn != 0; }));
    return (shown - right) + (written - std::min(written, right));
  }

  const std::uint64_t key_count_;
  const ScratchFolder folder_;
  Options options_;
  std::vector<std::uint32_t> turns_;
};

void AddRowsFor(const Settings& settings, const Case& measured, Table& table) {
  const std::uint64_t log_mib = measured.log_memory_bytes >> 20;
  std::uint64_t wrong = 0;
  std::uint64_t most = 0;
  std::uint64_t live = 0;
  BackgroundJobStats gc;
  const auto run = [&](bool collects) {
    Overwriting overwriting(settings, measured, collects);
    const Result result = overwriting.Run();
    wrong += result.wrong;
    live = overwriting.live_bytes();
    if (collects) {
      most = std::max(most, result.max_disk_bytes);
      gc = result.gc;
    }
    return result.per_second;
  };
  const auto series = RunInTurn("garbage", settings.rounds,
                                {{"collected", [&](int) { return run(true); }},
                                 {"not collected", [&](int) { return run(false); }}});
  table.Add({.name = fmt::format("upsert uniform, 100-byte values, {} threads, {} times over, "
                                 "{} MiB of log memory, garbage collected beside it",
                                 kThreads, kOverwrites, log_mib),
             .figure = Millions(Median(series[0])),
             .reference = "not collected: " + Millions(Median(series[1])),
             .judged = PairedRatios(series[0], series[1]),
             .aim = Row::Aim::kAtLeast,
             .target = 0.7});
  const double ratio = static_cast<double>(most) / static_cast<double>(live);
  table.Add({.name = "the same, most disk space over live records",
             .figure = fmt::format("{} MB", most / 1'000'000),
             .reference = fmt::format("live: {} MB", live / 1'000'000),
             .judged = {ratio},
             .aim = Row::Aim::kAtMost,
             .target = 2.5});
  table.Add({.name = "the same, keys with another value than the last, also after reopening",
             .figure = fmt::format("{}", wrong),
             .reference = "",
             .judged = {static_cast<double>(wrong)},
             .unit = " keys",
             .aim = Row::Aim::kAtMost,
             .target = 0.0});
  table.AddNote(
      fmt::format("garbage, {} MiB: {} collections in the last run, {} failed, the last took {} ms",
                  log_mib, gc.run_count, gc.failure_count, gc.last_duration_ms));
}

}  // namespace

void AddGarbageRows(const Settings& settings, Table& table) {
  AddRowsFor(settings, {Options().log_memory_bytes, 0.6}, table);
  AddRowsFor(settings, {std::uint64_t{64} << 20, 0.68}, table);
}

}  // namespace ebb::bench
