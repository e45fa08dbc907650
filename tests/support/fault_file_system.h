// FaultFileSystem: any file system, with calls that fail when a test requests it.
//
//   FaultFileSystem files(PosixFileSystem());
//   files.Arm({.kind = CallKind::kWrite, .skip = 2, .error = ENOSPC});   // the third write fails
//   files.Arm({.kind = CallKind::kRead, .effect = Effect::kShort, .short_by_bytes = 512});
//   ...
//   EXPECT_EQ(files.FiredCount(), 1);  // otherwise the test has tested nothing
//
// Faults are checked in the order in which they were armed; the first that matches a call decides
// it. Calls can also be held until they are released, to script a slow device:
//
//   files.Hold(CallKind::kWrite);
//   ... some other thread writes ...
//   files.WaitUntilHeld(CallKind::kWrite, 1);
//   files.Release(CallKind::kWrite);
//
// Thread safety: all methods, any thread. The wrapped file system and this object outlive the
// directories and files that they open. The destructor releases held calls.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ebb/internal/device/file_system.h"

namespace ebb::test {

enum class CallKind {
  kOpenDirectory,
  kOpen,
  kRead,
  kWrite,
  kSync,
  kTruncate,
  kReserve,
  kPunchHole,
  kSize,
  kClose,
  kList,
  kRename,
  kUnlink,
  kSyncDirectory,
  kLock,
};
inline constexpr std::size_t kCallKindCount = 15;
const char* NameOf(CallKind kind);

enum class Effect {
  kError,       // fails with `error` and does nothing
  kErrorAfter,  // does its work and then reports `error`
  kShort,       // a transfer of `short_by_bytes` less than requested, down to none at all
  kFlipBit,     // a read with one wrong bit: bit `flip_bit` of the bytes transferred
};

struct Fault {
  std::optional<CallKind> kind = std::nullopt;  // nothing: any
  std::string name_part = {};                   // only files and names that contain this
  std::uint64_t skip = 0;                       // calls that match and are let through first
  bool sticky = false;                          // every call that matches from then on, or just one
  Effect effect = Effect::kError;
  int error = 5;  // EIO
  std::size_t short_by_bytes = 0;
  std::uint64_t flip_bit = 0;
};
// For kShort: no byte at all.
inline constexpr std::size_t kAllBytes = ~std::size_t{0};

class FaultFileSystem final : public internal::FileSystem {
 public:
  explicit FaultFileSystem(internal::FileSystem& base) : base_(base) {}
  ~FaultFileSystem() override;

  internal::OpenedDirectory OpenDirectory(const std::string& path, bool create) override;

  void Arm(Fault fault);
  void Disarm();  // forgets all faults; counts stay
  // Called first in each call.
  void OnCall(std::function<void(CallKind)> hook) { on_call_ = std::move(hook); }
  // The number of times that any fault was applied.
  std::uint64_t FiredCount() const;

  // Calls so far, failed ones included.
  std::uint64_t Count(CallKind kind) const;
  std::uint64_t Count() const;
  void ResetCounts();

  std::size_t OpenFileCount() const { return open_files_; }
  // Files that were closed with a write since their last successful sync.
  std::uint64_t UnsyncedCloseCount() const { return unsynced_closes_; }

  // Calls of `kind` wait before they do anything.
  void Hold(CallKind kind);
  void Release(CallKind kind);
  // Returns once `count` calls of `kind` are waiting; false if that takes more than ten seconds.
  bool WaitUntilHeld(CallKind kind, std::size_t count) const;

 private:
  class FaultDirectory;
  class FaultFile;
  struct Armed {
    Fault fault;
    std::uint64_t seen = 0;
    bool spent = false;
  };
  struct Gate {
    bool closed = false;
    std::size_t waiting = 0;
  };

  // Counts a call, holds it if it must wait, and returns the fault to apply.
  std::optional<Fault> Begin(CallKind kind, const std::string& name);
  // Makes a call that returns 0 or an errno value, with the fault applied.
  template <typename Call>
  int Run(CallKind kind, const std::string& name, Call call);

  internal::FileSystem& base_;
  std::function<void(CallKind)> on_call_;
  std::atomic<std::size_t> open_files_ = 0;
  std::atomic<std::uint64_t> unsynced_closes_ = 0;
  mutable std::mutex mu_;  // everything below
  mutable std::condition_variable gates_changed_;
  std::vector<Armed> faults_;
  std::uint64_t fired_count_ = 0;
  std::array<std::uint64_t, kCallKindCount> counts_{};
  std::array<Gate, kCallKindCount> gates_;
};

}  // namespace ebb::test
