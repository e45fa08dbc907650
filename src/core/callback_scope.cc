#include "ebb/internal/core/callback_scope.h"

#include <fmt/format.h>

namespace ebb::internal {
namespace {

constexpr std::uintptr_t kTagMask = 7;

}  // namespace

static_assert(alignof(CallbackScope) > kTagMask, "a pointer to one has room for a tag");
static_assert(static_cast<std::uintptr_t>(CallbackKind::kClose) < CallbackScope::kScopeTag);

CallbackKind FindCallback(const void* store) {
  // The innermost callback is first. The visitor of a Read and the function of an Rmw are marked by
  // a tagged pointer to the store, because the fast path cannot afford a scope. All other callbacks
  // have a scope.
  std::uintptr_t word = t_callbacks;
  while (word != 0) {  // ends: outer ones were there first
    const std::uintptr_t tag = word & kTagMask;
    if (tag != CallbackScope::kScopeTag) {
      // The tagged word is the end of the list.
      if (word - tag != reinterpret_cast<std::uintptr_t>(store)) return CallbackKind::kNone;
      return tag == 0 ? CallbackKind::kUpdate : static_cast<CallbackKind>(tag);
    }
    const auto& scope = *reinterpret_cast<const CallbackScope*>(word - tag);
    if (scope.store_ == store) return scope.kind_;
    word = scope.outer_;
  }
  return CallbackKind::kNone;
}

const char* NameOf(CallbackKind kind) {
  switch (kind) {
    case CallbackKind::kRead:
      return "the visitor of a Read";
    case CallbackKind::kUpdate:
      return "the function of an Rmw";
    case CallbackKind::kCollection:
      return "GcOptions::progress";
    case CallbackKind::kBackup:
      return "the progress function of a Backup";
    case CallbackKind::kVerify:
      return "VerifyOptions::progress";
    case CallbackKind::kClose:
      return "the completion callback of an operation that Close has ended";
    case CallbackKind::kNone:
      break;
  }
  return "a Read or an Rmw";
}

absl::Status ThrownError(CallbackKind kind, const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    return absl::UnknownError(fmt::format("{} threw: {}", NameOf(kind), error.what()));
  } catch (...) {
    return absl::UnknownError(
        fmt::format("{} threw something that is not a std::exception", NameOf(kind)));
  }
}

}  // namespace ebb::internal
