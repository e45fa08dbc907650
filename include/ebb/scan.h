/// @file
/// Declares ebb::ScanIterator, which iterates over the keys of a store.
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
#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/ops/typed_record.h"
#include "ebb/internal/scan/key_scan.h"

namespace ebb {

/// The type of a scan's function: takes a key and a value, and returns nothing, or whether to
/// continue.
template <typename F, typename KeyView, typename ValueView>
concept ScanVisitor = std::invocable<F&, KeyView, ValueView> &&
    (std::is_void_v<std::invoke_result_t<F&, KeyView, ValueView>> ||
     std::convertible_to<std::invoke_result_t<F&, KeyView, ValueView>, bool>);

template <KeyType Key, ValueType Value>
class Store;

template <KeyType Key, ValueType Value>
/// Iterates over the keys of a store. Each key appears once, in no particular order. Created by
/// Store::NewScan.
///
///     auto it = db.NewScan();
///     while (it.Next()) use(it.key(), it.value());
///     ebb::Must(it.status());  // an error if the scan ended early
///
/// The iterator shows the state below one address of the log, which is fixed when it is created. It
/// shows every key whose newest update returned before that, with that value, and no update that
/// began afterwards. Of the updates that ran at that moment, it may show some and not others. Later
/// updates do not change the result.
///
/// The iterator holds no lock, and operations continue while it exists. But it keeps the log files
/// from its position on, even if their garbage has been collected. Do not keep an iterator longer
/// than needed. A store has at most 64 at a time; StoreStats reports their number and age.
///
/// Cost: creating an iterator makes all records in memory read-only, so the next update of each
/// copies it. A full scan reads the whole log once. For each superseded record it also searches for
/// the newer record of its key. Memory: a few MiB, whatever the size of the store; a record larger
/// than that is held twice.
///
/// Thread safety: one thread at a time. The iterator may outlive the store, and then ends with
/// FailedPrecondition. It ends with the same error if the store is closed or was moved from, or if
/// the iterator is created or advanced in a callback that may not call the store (ebb/session.h).
class ScanIterator {
 public:
  /// The type of key(): std::string_view for strings (see ebb::ViewOf).
  using KeyView = ViewOf<Key>;
  /// The type of value(): std::string_view for strings (see ebb::ViewOf).
  using ValueView = ViewOf<Value>;

  /// Advances to the next key. Must be called before the first key, too. Returns false at the end
  /// and after an error; status() distinguishes them. Progress: usually a few instructions;
  /// sometimes waits for the device.
  bool Next() {
    if (scan_ == nullptr || !scan_->Next()) return false;
    EBB_TRY { return Copy(); }
    EBB_CATCH_NO_MEMORY { return scan_->Fail(internal::NoMemory()); }
  }
  /// Returns the current key. Valid until the next call of Next.
  KeyView key() const { return key_; }
  /// Returns the value of the current key. Valid until the next call of Next.
  ValueView value() const { return value_; }
  /// Returns OK while the iterator continues and after it has shown all keys; otherwise the error
  /// that ended it. Errors: DataLoss and Unavailable (from the device); ResourceExhausted (out of
  /// memory, or too many iterators); FailedPrecondition (the store is closed, or see above).
  const absl::Status& status() const {
    if (scan_ != nullptr) return scan_->status();
    return lacks_memory_ ? internal::NoMemory() : internal::Fixed().moved_from;
  }

 private:
  friend class Store<Key, Value>;
  // `core` is null if the store was moved from.
  explicit ScanIterator(std::shared_ptr<internal::Core> core, std::string_view prefix = {}) {
    if (core == nullptr) return;
    EBB_TRY { scan_ = std::make_unique<internal::KeyScan>(std::move(core), std::string(prefix)); }
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

  std::unique_ptr<internal::KeyScan> scan_;  // null: out of memory, or moved from
  bool lacks_memory_ = false;
  std::string bytes_;  // for codecs
  Key key_{};
  Value value_{};
};

}  // namespace ebb
