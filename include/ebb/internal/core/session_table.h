// SessionTable: the named sessions of a store and their serials.
//
// Every update that was not rejected takes the next serial of its session, inside the guard in
// which it took effect, and so in the version of its effect. A session keeps its last serial for
// each parity of the version. After the drain of v no thread writes the word of v's parity until v
// + 2 begins, which is after the commit of v. So the committer reads there the last serial of
// every session in v, and writes it before v's control record. So the recovered state contains, for
// each session, exactly the updates up to its recorded serial (Concurrent Prefix Recovery; Prasaad
// et al., SIGMOD 2019).
//
// Edges
//   [serial]  Take: word store, relaxed, in the guard -> Last: word load, relaxed. Ordered by the
//             end of the guard, which the drain has seen, or by Leave under mu_.
//
// Thread safety: any thread may call all methods; only the session's user calls
// SessionSerials::Take. Progress: Take is wait-free, the others acquire mu_.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/base/tally.h"
#include "ebb/internal/format/block.h"
#include "ebb/internal/values/check.h"
#include "ebb/stats.h"

namespace ebb::internal {

class SessionSerials {
 public:
  // Numbers an update that has just taken effect, or found that it has none, in the version of the
  // guard that is still held; or many of them.
  EBB_INLINE void Take(unsigned version_bits) {
    taken_.AddOne();
    Publish(version_bits);
  }
  EBB_INLINE void TakeMany(unsigned version_bits, std::uint64_t count) {
    taken_.Add(count);
    Publish(version_bits);
  }
  std::uint64_t taken() const { return taken_.Load(); }

 private:
  friend class SessionTable;
  EBB_INLINE void Publish(unsigned version_bits) {
    last_[version_bits & 1].store(taken_.Load(), std::memory_order_relaxed);  // [serial]
  }
  AtomicWord last_[2] = {};
  Counter taken_;
};

class SessionTable {
 public:
  static constexpr std::size_t kMaxNameBytes = kMaxSessionNameBytes;

  // Registers the live session of this name; its serials continue where the last one's ended.
  // Errors: InvalidArgument (a bad name), FailedPrecondition (a session of the name is alive).
  absl::Status Enter(std::string_view name, SessionSerials& serials);
  void Leave(std::string_view name);
  // Forgets the name, as if it had never been used. Errors: FailedPrecondition (alive), NotFound
  // (unknown).
  absl::Status Forget(std::string_view name);

  // ---- for commits and recovery ----

  static constexpr std::uint64_t kForgotten = ~std::uint64_t{0};
  // Returns the sessions whose serial at the end of this version is not yet in the log, in order of
  // name; kForgotten for those to be forgotten. To be called between the drain of the version and
  // the bump to the one after the next. `all`: also those whose serial is in the log.
  std::vector<SessionReport> Changes(unsigned version_bits, bool all = false) const;
  bool HasChanges() const;
  // Returns the size of a record of all sessions, and of one named `name` unless that is empty.
  std::uint64_t ListBytesWith(std::string_view name) const;
  // `changes` are in the log now.
  void SetRecorded(const std::vector<SessionReport>& changes);
  // Returns all sessions with their serials in the log.
  std::vector<SessionReport> Recorded() const;
  // Sets the sessions found by recovery; before any other call.
  void Restore(const std::vector<SessionReport>& sessions);

 private:
  struct Entry {
    std::uint64_t through = 0;            // at the end of the last version that was recorded
    std::uint64_t recorded = kForgotten;  // the serial in the log
    std::uint64_t last[2] = {};           // by parity; a live session has its own words
    SessionSerials* live = nullptr;
    bool forgotten = false;
    std::uint64_t Last(unsigned parity) const;
    // Returns whether `serial` is not yet in the log.
    bool Differs(std::uint64_t serial) const;
  };

  mutable Mutex mu_;
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::internal
