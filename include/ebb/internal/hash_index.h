// HashIndex: from the hash of a key to the newest record of its chain. Knows neither log nor keys.
//
// 2^b buckets of one cache line: seven entries and a link to an overflow bucket.
//
//   entry:   bits 0..47 address | bits 48..62 tag | bit 63 tentative
//   bucket of a hash: its low b bits.   tag of a hash: its bits [b0, b0 + 15)
//
// b0 is the size exponent at the store's creation and never changes, so the records of one chain
// agree in their low b0 + 15 bits of hash at every size of the index.
//
// Invariants
//   In the buckets of one chain of overflow links, at most one entry without the tentative bit has
//   a given tag.
//   An entry that is neither empty nor tentative stays for the life of the index; only its
//   address changes, and only by the CAS in Publish. Its address is kNoRecord until then.
//   A link, once set, stays.
//
// Argument for the first (two-phase insert, as in FASTER; Chandramouli et al., SIGMOD 2018): an
//   inserter claims an empty slot with a tentative entry, then scans the whole chain again, and
//   makes its entry final only if no other entry, tentative or not, has the tag; else it clears
//   its own and starts again. Claims and second scans are sequentially consistent: of two
//   inserters whose claims are both in place, the one whose claim is later in that order sees the
//   other's. Bucket links are part of the same order, so a bucket linked meanwhile is scanned too.
//   Two that see each other both back off, outside their guards and for different times.
//
// Edges
//   [publish]  Publish: entry CAS, acq_rel -> Find: entry load, acquire. Record bytes before the
//              address; and, through acquire, everything older in the chain.
//   [claim]    two-phase insert: claim CAS, link CAS and second scan, all seq_cst, among
//   themselves.
//
// Thread safety: all methods, any thread. Progress: Find is wait-free but for the length of the
// overflow chain; Publish is wait-free; FindOrCreate is lock-free but for a mutex held for a moment
// when an overflow bucket is taken. Cost: Find is one cache line while chains fit a bucket.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "ebb/internal/address.h"
#include "ebb/internal/atomic.h"
#include "ebb/internal/check.h"
#include "ebb/internal/mapped_region.h"
#include "ebb/internal/mutex.h"

namespace ebb::internal {

class IndexEntry {
 public:
  static constexpr int kTagBits = 15;
  static constexpr std::uint64_t kTentative = std::uint64_t{1} << 63;

  constexpr IndexEntry() = default;
  constexpr explicit IndexEntry(std::uint64_t word) : word_(word) {}
  static constexpr IndexEntry Make(std::uint32_t tag, Address address) {
    return IndexEntry(std::uint64_t{tag} << Address::kBits | address.value());
  }
  constexpr std::uint64_t word() const { return word_; }
  constexpr Address address() const { return Address(word_ & Address::kMask); }
  constexpr std::uint32_t tag() const {
    return static_cast<std::uint32_t>(word_ >> Address::kBits) & ((1u << kTagBits) - 1);
  }
  constexpr bool tentative() const { return (word_ & kTentative) != 0; }
  constexpr bool is_empty() const { return word_ == 0; }
  constexpr IndexEntry WithAddress(Address address) const {
    return IndexEntry((word_ & ~Address::kMask) | address.value());
  }
  constexpr bool operator==(const IndexEntry&) const = default;

 private:
  std::uint64_t word_ = 0;
};

struct alignas(64) IndexBucket {
  static constexpr int kEntries = 7;
  std::array<AtomicWord, kEntries> entries;
  AtomicWord overflow;  // address of the next bucket, or 0
};
static_assert(sizeof(IndexBucket) == 64, "a bucket is one cache line");

class HashIndex {
 public:
  // Where an entry stands, and what it was when it was found.
  struct Slot {
    AtomicWord* word = nullptr;  // null: no entry
    IndexEntry entry;
  };
  enum class CreateResult : std::uint8_t {
    kFound,      // slot is set
    kContended,  // another thread inserts the same tag: leave the guard, yield, try again
    kNoMemory,
  };

  // 2^exponent buckets, tags above creation_exponent <= exponent. Check ok().
  HashIndex(int exponent, int creation_exponent, bool huge_pages);
  ~HashIndex();
  bool ok() const { return buckets_ != nullptr; }
  // Empties the index. Alone: before any other thread knows it.
  void Clear();
  // Makes `address` the newest record of the hash's chain unless it has a newer one. Alone, too,
  // and so without any of the care below. What was its newest record, kNoRecord when there was
  // none; nothing: no memory.
  std::optional<Address> PutAlone(std::uint64_t hash, Address address);

  // The entry of the hash's tag; an empty entry when there is none.
  EBB_INLINE Slot Find(std::uint64_t hash) const {
    IndexBucket* bucket = BucketOf(hash);
    const std::uint32_t tag = TagOf(hash);
#if defined(__SSE2__) && !defined(EBB_TSAN)
    unsigned matches = MatchTag(*bucket, tag);
    if (matches != 0) [[likely]] {
      AtomicWord& word = bucket->entries[static_cast<std::size_t>(std::countr_zero(matches)) / 2];
      const IndexEntry entry(word.load(std::memory_order_acquire));  // [publish]
      // Only this load counts, the comparison was a hint. The top 16 bits are the tag and a clear
      // tentative bit; and tag 0 matches empty slots too.
      if (entry.word() >> Address::kBits == tag && !entry.is_empty()) [[likely]] {
        return {&word, entry};
      }
    } else if (bucket->overflow.load(std::memory_order_relaxed) == 0) [[likely]] {
      return {};  // an entry or link set meanwhile was not there when this call began
    }
#endif
    return FindSlow(bucket, tag);
  }

  // Asks the cache for the hash's bucket.
  void Prefetch(std::uint64_t hash) const { __builtin_prefetch(BucketOf(hash)); }

  // The entry of the hash's tag, made with address kNoRecord when there was none.
  CreateResult FindOrCreate(std::uint64_t hash, Slot& slot);

  // Makes `address` the newest record of the slot's chain if the entry is still slot.entry. The
  // only publication of the store.
  static bool Publish(const Slot& slot, Address address) {
    std::uint64_t expected = slot.entry.word();
    return slot.word->compare_exchange_strong(expected, slot.entry.WithAddress(address).word(),
                                              std::memory_order_acq_rel,  // [publish]
                                              std::memory_order_relaxed);
  }
  static IndexEntry Reload(const Slot& slot) {
    return IndexEntry(slot.word->load(std::memory_order_acquire));  // [publish]
  }

  // Shows each entry that is neither empty nor tentative of a bucket and those linked to it, as
  // they come.
  template <typename Show>
  void ForEachEntry(std::uint64_t bucket_number, Show&& show) const {
    for (const IndexBucket* bucket = buckets_ + bucket_number; bucket != nullptr;
         bucket = Next(*bucket)) {
      for (const AtomicWord& word : bucket->entries) {
        const IndexEntry entry(word.load(std::memory_order_acquire));  // [publish]
        if (!entry.is_empty() && !entry.tentative()) show(entry);
      }
    }
  }

  int exponent() const { return exponent_; }
  int creation_exponent() const { return creation_exponent_; }
  std::uint64_t bucket_count() const { return mask_ + 1; }
  std::uint64_t overflow_count() const {
    return overflow_count_.load(std::memory_order_relaxed);  // statistics
  }
  std::uint64_t memory_bytes() const { return (bucket_count() + overflow_count()) * 64; }
  std::uint64_t huge_page_bytes() const { return region_.huge_page_bytes(); }

 private:
  IndexBucket* BucketOf(std::uint64_t hash) const { return buckets_ + (hash & mask_); }
  std::uint32_t TagOf(std::uint64_t hash) const {
    return static_cast<std::uint32_t>(hash >> creation_exponent_) &
           ((1u << IndexEntry::kTagBits) - 1);
  }
  static IndexBucket* Next(const IndexBucket& bucket) {
    return reinterpret_cast<IndexBucket*>(
        bucket.overflow.load(std::memory_order_seq_cst));  // [claim]
  }
#if defined(__SSE2__) && !defined(EBB_TSAN)
  // Two bits for each of the seven entries whose top 16 bits are `tag`. The loads are plain vector
  // loads, each eight-byte half of which the machine does at once; they are a hint, see Find.
  static unsigned MatchTag(const IndexBucket& bucket, std::uint32_t tag) {
    const auto* words = reinterpret_cast<const __m128i*>(&bucket);
    const auto high = [&](int i) {
      return _mm_srai_epi32(
          _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(_mm_load_si128(words + i)),
                                          _mm_castsi128_ps(_mm_load_si128(words + i + 1)), 0xDD)),
          16);
    };
    const __m128i tags = _mm_packs_epi32(high(0), high(2));
    const __m128i equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(static_cast<short>(tag)));
    return static_cast<unsigned>(_mm_movemask_epi8(equal)) & 0x3fffu;
  }
#endif
  Slot FindSlow(IndexBucket* bucket, std::uint32_t tag) const;
  bool OtherEntryHasTag(IndexBucket* first, std::uint32_t tag, const AtomicWord* own) const;
  IndexBucket* TakeOverflowBucket();
  void ReturnOverflowBucket(IndexBucket* bucket);

  // Immutable after construction.
  IndexBucket* buckets_ = nullptr;
  std::uint64_t mask_ = 0;
  int creation_exponent_ = 0;
  int exponent_ = 0;
  bool huge_pages_ = false;
  MappedRegion region_;

  // Cold.
  alignas(64) AtomicWord overflow_count_{0};
  Mutex mu_;
  std::vector<MappedRegion> overflow_chunks_ ABSL_GUARDED_BY(mu_);
  std::size_t overflow_used_ ABSL_GUARDED_BY(mu_) = 0;  // buckets taken of the last chunk
  std::vector<IndexBucket*> overflow_free_ ABSL_GUARDED_BY(mu_);
};

}  // namespace ebb::internal
