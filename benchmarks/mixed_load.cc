#include "mixed_load.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "team.h"

namespace ebb::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

// Windows slide by a tenth of their length.
constexpr Seconds kStep{0.01};
constexpr std::size_t kStepsPerWindow = 10;

constexpr std::size_t kChunk = 64;  // calls between two looks at the clock

// Calls `work` from a thread of its own until Stop. A call that comes late is not made up for.
class Beside {
 public:
  Beside(Seconds period, const std::function<void()>& work)
      : thread_([this, period, &work] {
          const auto step = std::chrono::duration_cast<Clock::duration>(period);
          for (Clock::time_point next = Clock::now(); !stopped_.load(std::memory_order_relaxed);) {
            work();
            next = std::max(next + step, Clock::now());
            std::this_thread::sleep_until(next);
          }
        }) {}
  void Stop() {
    stopped_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  std::atomic<bool> stopped_{false};
  std::thread thread_;  // last: uses the other
};

// What one thread did; on cache lines of its own while it runs.
struct alignas(128) Worker {
  std::vector<std::uint64_t> steps;  // calls that ended in each
  Latencies latencies;
};

void Work(IntegerSubject& store, int thread, std::span<const std::uint64_t> stream,
          const MixedLoadSpec& spec, Worker& worker) {
  Random random(static_cast<std::uint64_t>(spec.round * 64 + thread));
  std::size_t at = random.Below(stream.size() - kChunk + 1);
  const Clock::time_point begin = Clock::now();
  for (;;) {
    const auto keys = stream.subspan(at, kChunk);
    RequireAll(store.Mix(thread, keys, random.Next(), spec.timed ? &worker.latencies : nullptr),
               kChunk, "mixed load");
    at = at + 2 * kChunk <= stream.size() ? at + kChunk : 0;
    const auto step = static_cast<std::size_t>(Seconds(Clock::now() - begin) / kStep);
    if (step >= worker.steps.size()) return;
    worker.steps[step] += kChunk;
  }
}

double WorstWindow(const std::vector<std::uint64_t>& steps) {
  const auto total = std::accumulate(steps.begin(), steps.end(), std::uint64_t{0});
  const double mean = static_cast<double>(total) / static_cast<double>(steps.size());
  double worst = 1.0;
  for (std::size_t first = 0; first + kStepsPerWindow <= steps.size(); ++first) {
    const auto begin = steps.begin() + static_cast<std::ptrdiff_t>(first);
    const auto window = std::accumulate(begin, begin + kStepsPerWindow, std::uint64_t{0});
    worst = std::min(worst, static_cast<double>(window) / (mean * kStepsPerWindow));
  }
  return worst;
}

}  // namespace

MixedLoadResult RunMixedLoad(IntegerSubject& store,
                             const std::vector<std::vector<std::uint64_t>>& streams,
                             const MixedLoadSpec& spec) {
  std::vector<std::uint64_t> steps(static_cast<std::size_t>(spec.time / kStep));
  std::vector<Worker> workers(streams.size());
  for (Worker& worker : workers) worker.steps.resize(steps.size());
  Beside beside(spec.period, spec.beside);
  RunTeam(static_cast<int>(streams.size()), [&](int thread) {
    const auto index = static_cast<std::size_t>(thread);
    Work(store, thread, streams[index], spec, workers[index]);
  });
  beside.Stop();

  MixedLoadResult result;
  for (const Worker& worker : workers) {
    for (std::size_t i = 0; i < steps.size(); ++i) steps[i] += worker.steps[i];
    result.latencies.Merge(worker.latencies);
  }
  const auto total = std::accumulate(steps.begin(), steps.end(), std::uint64_t{0});
  result.per_second = static_cast<double>(total) / spec.time.count();
  result.worst_window = WorstWindow(steps);
  return result;
}

SmallFile::SmallFile(const std::string& path)
    : descriptor_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  if (descriptor_ >= 0) return;
  std::perror(path.c_str());
  std::abort();
}

SmallFile::~SmallFile() { close(descriptor_); }

void SmallFile::WriteAndSync() {
  ++block_[0];  // so that there is something to write
  const auto bytes = static_cast<ssize_t>(block_.size());
  if (pwrite(descriptor_, block_.data(), block_.size(), 0) == bytes && fdatasync(descriptor_) == 0)
    return;
  std::perror("a small file");
  std::abort();
}

}  // namespace ebb::bench
