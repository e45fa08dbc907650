// Plan: what the fibers of a life do, chosen by a seed. A life is a few openings of one store, each
// of which ends with a crash or a Close.
//
// Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "ebb/options.h"

namespace ebb::test {

inline constexpr std::size_t kSimKeys = 8;
inline constexpr std::size_t kMaxBatch = 4;

// The steps of fibers. Each public call of a store or a session belongs to one; `tidy` checks that.
enum class Do {
  // calls of a session
  kRead,
  kContains,
  kUpsert,
  kRmw,
  kDelete,
  kInsertIfAbsent,
  kCompareExchange,
  kReadBatch,
  kUpsertBatch,
  kRmwBatch,
  kDeleteBatch,
  kReadAsync,
  kRmwAsync,
  kDeleteAsync,
  kInsertIfAbsentAsync,
  kCompareExchangeAsync,
  kAwait,
  kCompletePending,
  kWaitDurable,
  // calls of the store
  kStoreCall,  // that a session has too
  kForgetSession,
  kScan,
  kCommit,
  kCheckpoint,
  kCleanupCheckpoints,
  kCollectGarbage,
  kEstimateGarbage,
  kGrowIndex,
  kBackup,
  kVerify,
  kSize,
  kIsEmpty,
  kStats,
  kStopBackground,
  kStartBackground,
  // the world
  kSleep,
  kSnapshot,  // of the disk after a power loss now; it is opened later
  kJump,      // of the clock
  kFailCalls,
  kFillDisk,
  kLoseMemory,
  kLoseThreads,
  kLoseDescriptors,
  kSlowDevice,
  kHeal,
};
const char* NameOf(Do what);

struct Action {
  Do what = Do::kRead;
  std::size_t place = 0;     // in the life: the name under which it is kept or dropped
  std::uint64_t random = 0;  // for its choices, so that they do not depend on other actions
};

// One opening. The last fiber is the world's.
struct Opening {
  std::vector<std::vector<Action>> fibers;
  std::uint64_t seed = 0;
  int failing = 0;      // what fails while the store is opened first; 0: nothing
  bool closes = false;  // and continues with the files that Close left; otherwise after a crash
  bool snaps = false;   // a power loss while it is opened is tried too
};

struct Plan {
  std::uint64_t seed = 0;
  Options options;
  std::uint64_t frame_count = 8;
  std::uint64_t segment_blocks = 16;
  int index_exponent = 1;
  int pool_threads = 1;
  bool direct = false;
  bool can_reserve = true;
  bool can_punch = true;
  bool string_keys = false;
  bool fixed_values = false;
  std::size_t action_count = 0;
  std::vector<Opening> openings;
};

// `keep`: null for all actions.
Plan MakePlan(std::uint64_t seed, const std::set<std::size_t>* keep);

std::string Describe(const Plan& plan);

}  // namespace ebb::test
