// ScanIterator<Key, Value>: goes through the keys of a store, each once, in no order that means
// anything.
//
//   auto it = db.NewScan();
//   while (it.Next()) use(it.key(), it.value());
//   if (!it.status().ok()) ...      // it ended early
//
// What it shows is the state below one address of the log, fixed when it is made: every key whose
// newest update returned before that, with that value; nothing that began afterwards. Of updates
// that ran at that moment some may be seen and others not. Nothing that happens later changes what
// is shown.
//
// It holds no lock, and operations go on beside it. While it is there the files of the log are not
// cut in front of what it has yet to read, so do not keep one longer than needed; a store has at
// most 64 at a time, and Stats tells of them. Cost: making one makes all records in memory
// read-only, so that each is copied once when it is updated next; going through reads the whole log
// once, and its dead records need a look at what replaced them. Memory: some megabytes, however
// much the store holds (a record larger than that counts twice).
//
// Thread safety: one thread at a time. It may outlive the store; it then ends with
// FailedPrecondition, as it does when the store has been closed, when it was moved from, or when it
// is created or advanced inside a callback that may not call the store (ebb/session.h).
#pragma once

#include <concepts>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "ebb/codec.h"
#include "ebb/internal/live_scan.h"
#include "ebb/internal/no_memory.h"
#include "ebb/internal/typed_record.h"

namespace ebb {

// What a scan may call: with a key and a value; returns nothing, or whether to go on.
template <typename F, typename KeyView, typename ValueView>
concept ScanVisitor = std::invocable<F&, KeyView, ValueView> &&
    (std::is_void_v<std::invoke_result_t<F&, KeyView, ValueView>> ||
     std::convertible_to<std::invoke_result_t<F&, KeyView, ValueView>, bool>);

template <KeyType Key, ValueType Value>
class Store;

template <KeyType Key, ValueType Value>
class ScanIterator {
 public:
  using KeyView = ViewOf<Key>;
  using ValueView = ViewOf<Value>;

  // Moves to the next key; false when there is none, or after an error, which status() tells.
  // Progress: mostly a few instructions; now and then it waits for the device.
  bool Next() {
    if (scan_ == nullptr || !scan_->Next()) return false;
    EBB_TRY {
      return Copy();
    } EBB_CATCH_NO_MEMORY {
      return scan_->Fail(internal::NoMemory());
    }
  }
  // Of where Next has moved to, until it is called again.
  KeyView key() const { return key_; }
  ValueView value() const { return value_; }
  // OK while it goes on and when it has shown everything. DataLoss, Unavailable: from the device.
  // ResourceExhausted: memory, or too many scans. FailedPrecondition: closed.
  const absl::Status& status() const {
    if (scan_ != nullptr) return scan_->status();
    return lacks_memory_ ? internal::NoMemory() : internal::Fixed().moved_from;
  }

 private:
  friend class Store<Key, Value>;
  // `core` is null when the store was moved from.
  explicit ScanIterator(std::shared_ptr<internal::Core> core, std::string_view prefix = {}) {
    if (core == nullptr) return;
    EBB_TRY { scan_ = std::make_unique<internal::LiveScan>(std::move(core), std::string(prefix)); }
    EBB_CATCH_NO_MEMORY { lacks_memory_ = true; }
  }
  bool Copy() {
    if constexpr (Coded<Key>) {
      internal::KeyOf<std::string>::CopyOut(scan_->record(), bytes_);
      if (!Codec<Key>::Decode(bytes_, key_)) return scan_->Fail("key", bytes_.size());
    } else {
      internal::KeyOf<Key>::CopyOut(scan_->record(), key_);
    }
    if constexpr (Coded<Value>) {
      internal::ValueOf<std::string>::CopyFrozen(scan_->record(), bytes_);
      if (!Codec<Value>::Decode(bytes_, value_)) return scan_->Fail("value", bytes_.size());
    } else {
      internal::ValueOf<Value>::CopyFrozen(scan_->record(), value_);
    }
    return true;
  }

  std::unique_ptr<internal::LiveScan> scan_;  // null: no memory for it, or moved from
  bool lacks_memory_ = false;
  std::string bytes_;                         // for codecs
  Key key_{};
  Value value_{};
};

}  // namespace ebb
