// The loops that are measured: one call per key, every result checked.
//
// Loops are templates over the session so that this file needs no store, and never inlined, so
// that benchmark, report and instruction count run the same code.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "keys.h"

namespace ebb::bench {

// What a loop did: calls that succeeded, and those of them whose value was not the key's.
struct Tally {
  std::uint64_t ok_count = 0;
  std::uint64_t wrong_count = 0;
};

// A miss is never counted as a read: anything but one right result per key ends the program.
inline void RequireAll(const Tally& tally, std::size_t key_count, const char* what) {
  if (tally.ok_count == key_count && tally.wrong_count == 0) return;
  std::fprintf(stderr, "%s: %zu keys, %llu succeeded, %llu wrong values\n", what, key_count,
               static_cast<unsigned long long>(tally.ok_count),
               static_cast<unsigned long long>(tally.wrong_count));
  std::abort();
}

// Makes the compiler believe that the value is used.
inline void Keep(std::uint64_t value) { asm volatile("" ::"r"(value)); }

template <typename Session>
[[gnu::noinline]] Tally ReadLoop(Session& session, std::span<const std::uint64_t> keys) {
  Tally tally;
  for (const std::uint64_t key : keys) {
    std::uint64_t value = 0;
    if (session.Read(key, value).ok()) ++tally.ok_count;
    if (!IsValueOf(key, value)) ++tally.wrong_count;
  }
  return tally;
}

template <typename Session>
[[gnu::noinline]] Tally ReadStatusOrLoop(Session& session, std::span<const std::uint64_t> keys) {
  Tally tally;
  for (const std::uint64_t key : keys) {
    const auto value = session.Read(key);
    if (!value.ok()) continue;
    ++tally.ok_count;
    if (!IsValueOf(key, *value)) ++tally.wrong_count;
  }
  return tally;
}

template <typename Session>
[[gnu::noinline]] Tally UpsertLoop(Session& session, std::span<const std::uint64_t> keys) {
  Tally tally;
  for (const std::uint64_t key : keys) {
    if (session.Upsert(key, ValueOf(key)).ok()) ++tally.ok_count;
  }
  return tally;
}

template <typename Session>
[[gnu::noinline]] Tally RmwLoop(Session& session, std::span<const std::uint64_t> keys) {
  Tally tally;
  for (const std::uint64_t key : keys) {
    const auto add = [](std::uint64_t& value) { value += kCountOne; };
    if (session.Rmw(key, add).ok()) ++tally.ok_count;
  }
  return tally;
}

// The same in batches, each of as many keys as a user would have at hand at once.
inline constexpr std::size_t kBatchKeys = 64;

// `run(keys, values)` is one batch's call, over the next keys.
template <typename RunBatch>
[[gnu::always_inline]] inline Tally BatchLoop(std::span<const std::uint64_t> keys, RunBatch run) {
  Tally tally;
  std::array<std::uint64_t, kBatchKeys> values;
  for (std::size_t first = 0; first < keys.size(); first += kBatchKeys) {
    const auto batch = keys.subspan(first, std::min(kBatchKeys, keys.size() - first));
    run(batch, std::span(values).first(batch.size()), tally);
  }
  return tally;
}

template <typename Session, typename Status>
[[gnu::noinline]] Tally ReadBatchLoop(Session& session, std::span<const std::uint64_t> keys,
                                      std::array<Status, kBatchKeys>& results) {
  return BatchLoop(keys, [&](auto batch, auto values, Tally& tally) {
    tally.ok_count += session.ReadBatch(batch, values, std::span(results).first(batch.size()));
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (!IsValueOf(batch[i], values[i])) ++tally.wrong_count;
    }
  });
}

template <typename Session, typename Status>
[[gnu::noinline]] Tally UpsertBatchLoop(Session& session, std::span<const std::uint64_t> keys,
                                        std::array<Status, kBatchKeys>& results) {
  return BatchLoop(keys, [&](auto batch, auto values, Tally& tally) {
    for (std::size_t i = 0; i < batch.size(); ++i) values[i] = ValueOf(batch[i]);
    tally.ok_count += session.UpsertBatch(batch, values, std::span(results).first(batch.size()));
  });
}

template <typename Session, typename Status>
[[gnu::noinline]] Tally RmwBatchLoop(Session& session, std::span<const std::uint64_t> keys,
                                     std::array<Status, kBatchKeys>& results) {
  return BatchLoop(keys, [&](auto batch, auto, Tally& tally) {
    const auto add = [](std::size_t, std::uint64_t& value) { value += kCountOne; };
    tally.ok_count += session.RmwBatch(batch, add, std::span(results).first(batch.size()));
  });
}

// Reads and upserts in any order: a set bit of `choices` makes an upsert of the key in its place.
// At most 64 keys. `after_each` is called after each.
template <typename Session, typename F>
[[gnu::noinline]] Tally MixLoop(Session& session, std::span<const std::uint64_t> keys,
                                std::uint64_t choices, F&& after_each) {
  Tally tally;
  for (const std::uint64_t key : keys) {
    if ((choices & 1) != 0) {
      if (session.Upsert(key, ValueOf(key)).ok()) ++tally.ok_count;
    } else {
      std::uint64_t value = 0;
      if (session.Read(key, value).ok()) ++tally.ok_count;
      if (!IsValueOf(key, value)) ++tally.wrong_count;
    }
    choices >>= 1;
    after_each();
  }
  return tally;
}

// The operations behind functions of their own, as most programs call them: not inlined into the
// loop.
template <typename Session>
struct OutOfLine {
  Session& session;
  [[gnu::noinline]] auto Read(std::uint64_t key, std::uint64_t& value) {
    return session.Read(key, value);
  }
  [[gnu::noinline]] auto Upsert(std::uint64_t key, std::uint64_t value) {
    return session.Upsert(key, value);
  }
  template <typename F>
  [[gnu::noinline]] auto Rmw(std::uint64_t key, F&& fn) {
    return session.Rmw(key, fn);
  }
};

// What the loops above cost without a store: subtracted from counts of instructions. Values are as
// unknown to the compiler as a store's.
struct NoSession {
  struct Ok {
    bool ok() const { return true; }
  };
  Ok Read(std::uint64_t key, std::uint64_t& value) {
    value = key;
    asm volatile("" : "+r"(value));
    return {};
  }
  Ok Upsert(std::uint64_t key, std::uint64_t value) {
    asm volatile("" ::"r"(key), "r"(value));
    return {};
  }
  template <typename F>
  Ok Rmw(std::uint64_t key, F&& fn) {
    asm volatile("" : "+r"(key));
    fn(key);
    asm volatile("" ::"r"(key));
    return {};
  }
  std::size_t ReadBatch(std::span<const std::uint64_t> keys, std::span<std::uint64_t> values,
                        std::span<Ok>) {
    for (std::size_t i = 0; i < keys.size(); ++i) Read(keys[i], values[i]);
    return keys.size();
  }
  std::size_t UpsertBatch(std::span<const std::uint64_t> keys,
                          std::span<const std::uint64_t> values, std::span<Ok>) {
    for (std::size_t i = 0; i < keys.size(); ++i) Upsert(keys[i], values[i]);
    return keys.size();
  }
  template <typename F>
  std::size_t RmwBatch(std::span<const std::uint64_t> keys, F&& fn, std::span<Ok>) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      Rmw(keys[i], [&](std::uint64_t& value) { fn(i, value); });
    }
    return keys.size();
  }
};

// The visitor sees the bytes where they are; the others copy them out.
enum class StringRead { kStatusOr, kReused, kVisitor };
inline constexpr StringRead kStringReads[] = {StringRead::kStatusOr, StringRead::kReused,
                                              StringRead::kVisitor};
inline const char* NameOf(StringRead way) {
  return way == StringRead::kStatusOr ? "status_or"
         : way == StringRead::kReused ? "reused"
                                      : "visitor";
}

template <StringRead way, typename Session>
[[gnu::noinline]] Tally StringReadLoop(Session& session, std::span<const StringKey> keys) {
  Tally tally;
  std::string reused;
  const auto check = [&tally](const StringKey& key, std::string_view value) {
    ++tally.ok_count;
    if (!IsStringValueOf(key, value)) ++tally.wrong_count;
  };
  for (const StringKey& key : keys) {
    if constexpr (way == StringRead::kStatusOr) {
      const auto value = session.Read(key.view());
      if (value.ok()) check(key, *value);
    } else if constexpr (way == StringRead::kReused) {
      if (session.Read(key.view(), reused).ok()) check(key, reused);
    } else {
      (void)session.Read(key.view(), [&](std::string_view value) { check(key, value); });
    }
  }
  return tally;
}

// Into reused strings, `batch_keys` at a time.
template <typename Session>
[[gnu::noinline]] Tally StringReadBatchLoop(Session& session, std::span<const StringKey> keys,
                                            std::size_t batch_keys) {
  Tally tally;
  std::vector<std::string_view> views(batch_keys);
  std::vector<std::string> values(batch_keys);
  std::vector<absl::Status> results(batch_keys);
  for (std::size_t first = 0; first < keys.size(); first += batch_keys) {
    const auto batch = keys.subspan(first, std::min(batch_keys, keys.size() - first));
    for (std::size_t i = 0; i < batch.size(); ++i) views[i] = batch[i].view();
    tally.ok_count += session.ReadBatch(std::span(views).first(batch.size()),
                                        std::span(values).first(batch.size()),
                                        std::span(results).first(batch.size()));
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (!IsStringValueOf(batch[i], values[i])) ++tally.wrong_count;
    }
  }
  return tally;
}

template <typename Session>
[[gnu::noinline]] Tally StringUpsertLoop(Session& session, std::span<const StringKey> keys) {
  Tally tally;
  for (const StringKey& key : keys) {
    const StringValue value = StringValueOf(key);
    if (session.Upsert(key.view(), value.view()).ok()) ++tally.ok_count;
  }
  return tally;
}

template <typename Session>
[[gnu::noinline]] Tally StringUpsertBatchLoop(Session& session, std::span<const StringKey> keys) {
  Tally tally;
  std::array<std::string_view, kBatchKeys> views;
  std::array<StringValue, kBatchKeys> values;
  std::array<std::string_view, kBatchKeys> value_views;
  std::array<absl::Status, kBatchKeys> results;
  for (std::size_t first = 0; first < keys.size(); first += kBatchKeys) {
    const auto batch = keys.subspan(first, std::min(kBatchKeys, keys.size() - first));
    for (std::size_t i = 0; i < batch.size(); ++i) {
      views[i] = batch[i].view();
      values[i] = StringValueOf(batch[i]);
      value_views[i] = values[i].view();
    }
    tally.ok_count += session.UpsertBatch(std::span(views).first(batch.size()),
                                          std::span(value_views).first(batch.size()),
                                          std::span(results).first(batch.size()));
  }
  return tally;
}

}  // namespace ebb::bench
