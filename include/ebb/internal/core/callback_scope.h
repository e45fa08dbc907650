// CallbackScope: records the callbacks of stores inside which the calling thread is.
//
// A callback is a function of the user that runs inside a call of a store: under the guard of the
// call, or while the call holds a lock. A call of the same store from there would wait for itself
// if it waited for a drain or for that lock. So each thread has a word that names its current
// callbacks, and every public call that can wait first checks it (Core::CheckCallable). Calls of
// other stores, and of other threads, are not affected.
//
// The word t_callbacks is
//   0                   outside callbacks;
//   a store, and a tag  inside one callback, which the fast path of a Read or an Rmw runs
//                       (HitCallback): two stores into the word, and no other cost. The slow path
//                       is taken if the word is not 0, so these do not nest. The function of an Rmw
//                       has tag 0, which costs no instruction;
//   a CallbackScope     inside any other callback (tag 7). It names its store, its kind, and the
//                       previous word, so that a callback of store A that calls a callback of
//                       store B still counts as a callback of A.
// Both restore the word if the callback throws.
//
// The checks cost the fast paths nothing: Read into a value, Contains and Upsert do not read the
// word, and their fast paths do not wait. So a callback's call on another session of its store is
// rejected when it would leave the fast path, and always if it is an Rmw or a Read with a visitor.
//
// A program has one such word for each thread, even if several of its shared libraries use ebb;
// hence the visibility. The initial-exec model saves a function call in shared libraries.
//
// Thread safety: everything here belongs to the calling thread. Progress: wait-free.
#pragma once

#include <cstdint>
#include <exception>

#include "absl/status/status.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

enum class CallbackKind : std::uint8_t {
  kNone,
  kRead,        // the visitor of a Read
  kUpdate,      // the function of an Rmw
  kCollection,  // GcOptions::progress
  kBackup,      // the progress function of a Backup
  kVerify,      // VerifyOptions::progress
  kClose,       // `done` of an operation that Close ends
};

[[gnu::visibility("default"),
  gnu::tls_model("initial-exec")]] inline constinit thread_local std::uintptr_t t_callbacks = 0;

inline bool InCallback() { return t_callbacks != 0; }

// For a callback on a fast path; not InCallback(). `store` is aligned to at least 8 bytes.
class HitCallback {
 public:
  EBB_INLINE HitCallback(const void* store, CallbackKind kind) {
    t_callbacks = reinterpret_cast<std::uintptr_t>(store) +
                  (kind == CallbackKind::kUpdate ? 0 : static_cast<std::uintptr_t>(kind));
  }
  EBB_INLINE ~HitCallback() { t_callbacks = 0; }
  HitCallback(const HitCallback&) = delete;
  HitCallback& operator=(const HitCallback&) = delete;
};

class CallbackScope {
 public:
  static constexpr std::uintptr_t kScopeTag = 7;

  CallbackScope(const void* store, CallbackKind kind)
      : store_(store), kind_(kind), outer_(t_callbacks) {
    t_callbacks = reinterpret_cast<std::uintptr_t>(this) + kScopeTag;
  }
  ~CallbackScope() { t_callbacks = outer_; }
  CallbackScope(const CallbackScope&) = delete;
  CallbackScope& operator=(const CallbackScope&) = delete;

 private:
  friend CallbackKind FindCallback(const void* store);

  const void* const store_;
  const CallbackKind kind_;
  const std::uintptr_t outer_;
};

// Returns the innermost callback of `store` inside which the thread is, or kNone.
CallbackKind FindCallback(const void* store);

// Returns the name that the documentation uses.
const char* NameOf(CallbackKind kind);

// For a background job, which has no caller to throw to: Unknown, with the name of the callback and
// the exception's message.
absl::Status ThrownError(CallbackKind kind, const std::exception_ptr& thrown);

}  // namespace ebb::internal
