#include "tests/simulation/plan.h"

#include <cstdio>

#include "tests/schedule/scheduler.h"

namespace ebb::test {
namespace {

struct Weight {
  Do what;
  unsigned weight;
};

constexpr Weight kCalls[] = {
    {Do::kRead, 14},
    {Do::kContains, 2},
    {Do::kUpsert, 18},
    {Do::kRmw, 14},
    {Do::kDelete, 8},
    {Do::kInsertIfAbsent, 4},
    {Do::kCompareExchange, 4},
    {Do::kReadBatch, 3},
    {Do::kUpsertBatch, 4},
    {Do::kRmwBatch, 3},
    {Do::kDeleteBatch, 2},
    {Do::kReadAsync, 3},
    {Do::kRmwAsync, 3},
    {Do::kDeleteAsync, 1},
    {Do::kInsertIfAbsentAsync, 1},
    {Do::kCompareExchangeAsync, 1},
    {Do::kAwait, 1},
    {Do::kCompletePending, 2},
    {Do::kWaitDurable, 1},
    {Do::kStoreCall, 2},
    {Do::kForgetSession, 1},
    {Do::kScan, 2},
    {Do::kCommit, 5},
    {Do::kCheckpoint, 2},
    {Do::kCleanupCheckpoints, 1},
    {Do::kCollectGarbage, 4},
    {Do::kEstimateGarbage, 1},
    {Do::kGrowIndex, 1},
    {Do::kBackup, 1},
    {Do::kVerify, 1},
    {Do::kSize, 1},
    {Do::kIsEmpty, 1},
    {Do::kStats, 1},
    {Do::kStopBackground, 1},
    {Do::kStartBackground, 1},
    {Do::kSleep, 3},
};
constexpr Weight kWorld[] = {
    {Do::kSleep, 10},     {Do::kSnapshot, 4},   {Do::kJump, 1},        {Do::kFailCalls, 4},
    {Do::kFillDisk, 4},   {Do::kLoseMemory, 3}, {Do::kLoseThreads, 1}, {Do::kLoseDescriptors, 1},
    {Do::kSlowDevice, 2}, {Do::kHeal, 5},
};

// A life uses some of the kinds only, so that some of them meet often (A. Groce et al., "Swarm
// testing", 2012).
class Swarm {
 public:
  template <std::size_t kCount>
  Swarm(Random& random, const Weight (&weights)[kCount], unsigned keep_of_4) {
    for (const Weight& weight : weights) {
      if (random.Below(4) >= keep_of_4) continue;
      chosen_.push_back(weight);
      sum_ += weight.weight;
    }
    if (chosen_.empty()) {
      chosen_.push_back(weights[0]);
      sum_ = weights[0].weight;
    }
  }
  Do Pick(Random& random) const {
    std::uint64_t at = random.Below(sum_);
    for (const Weight& weight : chosen_) {
      if (at < weight.weight) return weight.what;
      at -= weight.weight;
    }
    return chosen_[0].what;
  }

 private:
  std::vector<Weight> chosen_;
  std::uint64_t sum_ = 0;
};

std::uint64_t OneOf(Random& random, std::initializer_list<std::uint64_t> numbers) {
  return numbers.begin()[random.Below(numbers.size())];
}

void ChooseOptions(Random& random, Plan& plan) {
  plan.frame_count = 8 + random.Below(2) * random.Below(9);
  plan.segment_blocks = OneOf(random, {16, 16, 64});
  plan.index_exponent = static_cast<int>(1 + random.Below(2));
  plan.pool_threads = static_cast<int>(1 + random.Below(2));
  plan.direct = random.Below(3) == 0;
  plan.can_reserve = random.Below(4) != 0;
  plan.can_punch = random.Below(4) != 0;
  plan.fixed_values = random.Below(4) == 0;
  plan.string_keys = !plan.fixed_values && random.Below(3) == 0;
  Options& options = plan.options;
  options.direct_io = plan.direct;
  options.huge_pages = false;
  options.durability =
      static_cast<Durability>(OneOf(random, {static_cast<std::uint64_t>(Durability::kManual),
                                             static_cast<std::uint64_t>(Durability::kManual),
                                             static_cast<std::uint64_t>(Durability::kPeriodic),
                                             static_cast<std::uint64_t>(Durability::kPeriodic),
                                             static_cast<std::uint64_t>(Durability::kAlways)}));
  options.commit_interval_ms = static_cast<std::uint32_t>(OneOf(random, {1, 10, 1000}));
  options.checkpoint_interval_ms = static_cast<std::uint32_t>(OneOf(random, {0, 0, 100}));
  options.gc_interval_ms = static_cast<std::uint32_t>(OneOf(random, {0, 1000, 1000}));
  options.gc.min_reclaim_bytes = OneOf(random, {0, 8192, 65536});
  options.gc.pass_bytes = OneOf(random, {4096, 65536});
  options.checkpoints_kept = static_cast<std::uint32_t>(1 + random.Below(2));
  options.preallocate_bytes = OneOf(random, {0, 16384, 1 << 20});
  options.write_batch_bytes = OneOf(random, {4096, 16384, 1 << 20});
  options.scan_ahead_bytes = OneOf(random, {0, 4096, 65536});
  options.index_auto_grow = random.Below(2) == 0;
  options.promote_reads = random.Below(3) == 0;
  options.measure_latency = random.Below(8) == 0;
}

}  // namespace

const char* NameOf(Do what) {
  static constexpr const char* kNames[] = {"Read",
                                           "Contains",
                                           "Upsert",
                                           "Rmw",
                                           "Delete",
                                           "InsertIfAbsent",
                                           "CompareExchange",
                                           "ReadBatch",
                                           "UpsertBatch",
                                           "RmwBatch",
                                           "DeleteBatch",
                                           "ReadAsync",
                                           "RmwAsync",
                                           "DeleteAsync",
                                           "InsertIfAbsentAsync",
                                           "CompareExchangeAsync",
                                           "Await",
                                           "CompletePending",
                                           "WaitDurable",
                                           "StoreCall",
                                           "ForgetSession",
                                           "Scan",
                                           "Commit",
                                           "Checkpoint",
                                           "CleanupCheckpoints",
                                           "CollectGarbage",
                                           "EstimateGarbage",
                                           "GrowIndex",
                                           "Backup",
                                           "Verify",
                                           "Size",
                                           "IsEmpty",
                                           "Stats",
                                           "StopBackground",
                                           "StartBackground",
                                           "(sleep)",
                                           "(snapshot)",
                                           "(clock jumps)",
                                           "(calls fail)",
                                           "(disk is full)",
                                           "(no memory)",
                                           "(no threads)",
                                           "(no descriptors)",
                                           "(slow device)",
                                           "(heal)"};
  return kNames[static_cast<std::size_t>(what)];
}

Plan MakePlan(std::uint64_t seed, const std::set<std::size_t>* keep) {
  Random random(seed);
  Plan plan;
  plan.seed = seed;
  ChooseOptions(random, plan);
  const bool fails = random.Below(3) != 0;
  const std::uint64_t openings = 1 + random.Below(3);
  for (std::uint64_t i = 0; i < openings; ++i) {
    Opening opening;
    opening.seed = random.Next();
    opening.failing = fails && random.Below(4) == 0 ? static_cast<int>(1 + random.Below(3)) : 0;
    opening.closes = random.Below(3) == 0;
    opening.snaps = random.Below(3) == 0;
    const std::uint64_t clients = 1 + random.Below(4);
    const std::uint64_t most = OneOf(random, {4, 12, 40});
    const Swarm calls(random, kCalls, static_cast<unsigned>(1 + random.Below(4)));
    const Swarm world(random, kWorld, static_cast<unsigned>(2 + random.Below(3)));
    bool any = false;
    for (std::uint64_t fiber = 0; fiber <= clients; ++fiber) {
      std::vector<Action> actions;
      const bool is_world = fiber == clients;
      for (std::uint64_t count = random.Below(is_world ? 12 : most); count > 0; --count) {
        Action action;
        action.what = is_world ? world.Pick(random) : calls.Pick(random);
        action.random = random.Next();
        action.place = plan.action_count++;
        if (is_world && !fails && action.what > Do::kJump) continue;
        if (keep == nullptr || keep->count(action.place) != 0) actions.push_back(action);
      }
      any = any || !actions.empty();
      opening.fibers.push_back(std::move(actions));
    }
    if (any || keep == nullptr) plan.openings.push_back(std::move(opening));
  }
  return plan;
}

std::string Describe(const Plan& plan) {
  char line[512];
  const Options& options = plan.options;
  std::snprintf(
      line, sizeof line,
      "%s keys, %s values, %llu frames, segments of %llu blocks, 2^%d buckets%s, %d threads, "
      "durability %d every %u ms, checkpoints every %u ms, collections every %u ms%s\n",
      plan.string_keys ? "string" : "fixed", plan.fixed_values ? "fixed" : "string",
      static_cast<unsigned long long>(plan.frame_count),
      static_cast<unsigned long long>(plan.segment_blocks), plan.index_exponent,
      options.index_auto_grow ? " that grow" : "", plan.pool_threads,
      static_cast<int>(options.durability), options.commit_interval_ms,
      options.checkpoint_interval_ms, options.gc_interval_ms,
      options.promote_reads ? ", reads promote" : "");
  std::string text = line;
  for (const Opening& opening : plan.openings) {
    text += "  opening";
    if (opening.failing != 0) text += " that fails first";
    if (opening.snaps) text += ", with a crash inside";
    text += opening.closes ? ", until Close:\n" : ", until a crash:\n";
    for (std::size_t fiber = 0; fiber < opening.fibers.size(); ++fiber) {
      if (opening.fibers[fiber].empty()) continue;
      const bool is_world = fiber + 1 == opening.fibers.size();
      text += is_world ? "    world:" : "    s" + std::to_string(fiber) + ":";
      for (const Action& action : opening.fibers[fiber]) {
        text += " " + std::to_string(action.place) + "=" + NameOf(action.what);
      }
      text += "\n";
    }
  }
  return text;
}

}  // namespace ebb::test
