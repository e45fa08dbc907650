#include "ceiling.h"

#include <xmmintrin.h>

#include "keys.h"

namespace ebb::bench {
namespace {

constexpr std::uint64_t kWordsPerBucket = 8;
constexpr std::uint64_t kBucketBytes = kWordsPerBucket * sizeof(std::uint64_t);

enum class Hint { kDefault, kT1 };

template <Hint hint>
void Prefetch(const void* line) {
  if constexpr (hint == Hint::kDefault) {
    _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T0);
  } else {
    _mm_prefetch(static_cast<const char*>(line), _MM_HINT_T1);
  }
}

// A folded multiply, the kind of hash the store uses for integers.
inline std::uint64_t Hash(std::uint64_t key) {
  const WideWord product = WideWord{key ^ 0x2d358dccaa6c78a5} * 0x8bb84b93962eacc9;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// The low bits choose the bucket, the high ones the word in it.
inline const std::uint64_t* WordFor(const CeilingView& view, std::uint64_t key) {
  const std::uint64_t hash = Hash(key);
  return view.bucket_words + (hash & view.bucket_mask) * kWordsPerBucket + (hash >> 61);
}

// The second, dependent access. Shared words are touched by relaxed atomics, as a store would.
template <Verb verb>
inline std::uint64_t Touch(std::uint64_t* record, std::uint64_t key) {
  if constexpr (verb == Verb::kRead) {
    return __atomic_load_n(record, __ATOMIC_RELAXED);
  } else if constexpr (verb == Verb::kUpsert) {
    __atomic_store_n(record, key, __ATOMIC_RELAXED);
    return 1;
  } else {
    std::uint64_t seen = __atomic_load_n(record, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(record, &seen, seen + kCountOne, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return 1;
  }
}

inline std::uint64_t* RecordAt(const CeilingView& view, std::uint64_t word) {
  return reinterpret_cast<std::uint64_t*>(view.records + word);
}

template <Verb verb>
std::uint64_t Plain(CeilingView view, std::span<const std::uint64_t> keys) {
  std::uint64_t sum = 0;
  for (const std::uint64_t key : keys) {
    sum += Touch<verb>(RecordAt(view, *WordFor(view, key)), key);
  }
  return sum;
}

// Three passes over each group: buckets are prefetched, then records, then touched.
template <Verb verb, Hint hint, std::size_t kWidth>
std::uint64_t Groups(CeilingView view, std::span<const std::uint64_t> keys) {
  const std::uint64_t* words[kWidth];
  std::uint64_t* records[kWidth];
  std::uint64_t sum = 0;
  while (keys.size() >= kWidth) {
    const std::span<const std::uint64_t> group = keys.first(kWidth);
    for (std::size_t i = 0; i < kWidth; ++i) Prefetch<hint>(words[i] = WordFor(view, group[i]));
    for (std::size_t i = 0; i < kWidth; ++i) Prefetch<hint>(records[i] = RecordAt(view, *words[i]));
    for (std::size_t i = 0; i < kWidth; ++i) sum += Touch<verb>(records[i], group[i]);
    keys = keys.subspan(kWidth);
  }
  return sum + Plain<verb>(view, keys);
}

// A software pipeline: a key's bucket is prefetched kWidth keys ahead, its record half as far.
template <Verb verb, Hint hint, std::size_t kWidth>
std::uint64_t Ring(CeilingView view, std::span<const std::uint64_t> keys) {
  if (keys.size() < kWidth) return Plain<verb>(view, keys);
  const std::uint64_t* words[kWidth];
  std::uint64_t* records[kWidth];
  std::uint64_t sum = 0;
  const auto start = [&](std::size_t i) {
    Prefetch<hint>(words[i % kWidth] = WordFor(view, keys[i]));
  };
  const auto resolve = [&](std::size_t i) {
    Prefetch<hint>(records[i % kWidth] = RecordAt(view, *words[i % kWidth]));
  };
  const auto finish = [&](std::size_t i) { sum += Touch<verb>(records[i % kWidth], keys[i]); };
  for (std::size_t i = 0; i < kWidth; ++i) start(i);
  for (std::size_t i = 0; i < kWidth / 2; ++i) resolve(i);
  std::size_t done = 0;
  for (; done + kWidth < keys.size(); ++done) {
    resolve(done + kWidth / 2);
    finish(done);
    start(done + kWidth);
  }
  for (std::size_t i = done + kWidth / 2; i < keys.size(); ++i) resolve(i);
  for (; done < keys.size(); ++done) finish(done);
  return sum;
}

template <Hint hint, std::size_t kWidth>
constexpr Ceiling::Way GroupsWay(const char* name) {
  return {name,
          {&Groups<Verb::kRead, hint, kWidth>, &Groups<Verb::kUpsert, hint, kWidth>,
           &Groups<Verb::kRmw, hint, kWidth>}};
}

template <Hint hint, std::size_t kWidth>
constexpr Ceiling::Way RingWay(const char* name) {
  return {name,
          {&Ring<Verb::kRead, hint, kWidth>, &Ring<Verb::kUpsert, hint, kWidth>,
           &Ring<Verb::kRmw, hint, kWidth>}};
}

constexpr Ceiling::Way kWays[] = {
    {"plain", {&Plain<Verb::kRead>, &Plain<Verb::kUpsert>, &Plain<Verb::kRmw>}},
    GroupsWay<Hint::kDefault, 16>("groups16"),
    GroupsWay<Hint::kDefault, 32>("groups32"),
    GroupsWay<Hint::kDefault, 64>("groups64"),
    RingWay<Hint::kDefault, 32>("ring32"),
    GroupsWay<Hint::kT1, 16>("groups16_t1"),
    GroupsWay<Hint::kT1, 32>("groups32_t1"),
    GroupsWay<Hint::kT1, 64>("groups64_t1"),
    RingWay<Hint::kT1, 32>("ring32_t1"),
};

}  // namespace

const char* NameOf(Verb verb) {
  return verb == Verb::kRead ? "read" : verb == Verb::kUpsert ? "upsert" : "rmw";
}

const char* TitleOf(Verb verb) {
  return verb == Verb::kRead ? "Read" : verb == Verb::kUpsert ? "Upsert" : "Rmw";
}

std::span<const Ceiling::Way> Ceiling::Ways() { return kWays; }

// Records lie in the order of their ids, as in a store that was loaded in that order. Where two
// keys choose one word the later one has it: both still load a bucket line and a record line.
Ceiling::Ceiling(const Sizes& sizes)
    : buckets_(sizes.bucket_count * kBucketBytes),
      records_(sizes.record_count * kRecordBytes),
      bucket_mask_(sizes.bucket_count - 1) {
  const CeilingView view{buckets_.As<std::uint64_t>(), records_.As<std::byte>(), bucket_mask_};
  for (std::uint64_t id = 0; id < sizes.record_count; ++id) {
    const std::uint64_t key = KeyOf(id);
    const auto word_index = static_cast<std::size_t>(WordFor(view, key) - view.bucket_words);
    const std::uint64_t value_at = id * kRecordBytes + 16;
    buckets_.As<std::uint64_t>()[word_index] = value_at;
    *RecordAt(view, value_at) = ValueOf(key);
  }
}

std::uint64_t Ceiling::Run(const Way& way, Verb verb, std::span<const std::uint64_t> keys) const {
  const CeilingView view{buckets_.As<std::uint64_t>(), records_.As<std::byte>(), bucket_mask_};
  return way.loops[static_cast<int>(verb)](view, keys);
}

}  // namespace ebb::bench
