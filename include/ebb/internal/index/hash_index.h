// HashIndex: maps the hash of a key to the newest record of its chain. It knows neither log nor
// keys.
//
// There are 2^b buckets of one cache line: seven entries and a link to an overflow bucket. A bucket
// and the overflow buckets linked to it are a bucket chain (in names: a row). "Chain" alone means
// the records reached from one entry.
//
//   entry:   bits 0..47 address | bits 48..62 tag | bit 63 tentative
//   bucket of a hash: its low b bits.   tag of a hash: its bits [b0, b0 + 15)
//
// b0 is the size exponent at the store's creation and never changes. So the records of one chain
// agree in their low b0 + 15 bits of hash at every size of the index.
//
// Growth doubles the index in place: address space for the largest size is reserved from the start,
// so buckets never move. Bucket chain i of 2^b splits into i and i + 2^b by bit b of the hash. That
// is a bit of the tag, so no record is read. One thread does it, one chunk of buckets after the
// other. The growth word states its progress, and mask_ remains that of the old size until all
// chunks are split:
//
//   0         stable: mask_ leads to every entry
//   draining  chunks below this one are split. In this chunk no thread begins to change the index
//             any more; the grower waits until the guards that may have begun before are gone
//   moving    the grower is alone in this chunk, except for readers
//   (the chunk after the last)  all are split and mask_ is the new one; one more wait, and then 0
//
// Invariants
//   In a bucket chain, at most one entry without the tentative bit has a given tag. Only while a
//     bucket chain is moved may there be copies of it, in this bucket chain or the one into which
//     it splits, all with the same address. The bits of a tag that do not come from the bucket's
//     number at the old size distinguish the chains. So an entry found by its tag in either of the
//     two bucket chains belongs to the right chain.
//   The address of an entry that is neither empty nor tentative (a final entry) is changed only by
//     the CAS in Publish. A final entry disappears only by the CAS in SweepBucket, or when its
//     bucket chain is moved. Its address is kNoRecord until the first Publish.
//   A link, once set, stays until its bucket chain is moved. Buckets that are then unused are
//     empty. They are used again only when no guard is left that may have reached them through
//     their old bucket chain.
//   The sizes, the chunks of each, and the states of each chunk come one after the other and never
//     return. So if mask_ and growth word have the same value for a bucket chain before and after a
//     search of it, nothing was moved in it in between.
//   A slot is valid for Publish under the guard under which it was obtained, and only from
//     FindOrCreate or FindForUpdate.
//
// Argument for the first (two-phase insert, as in FASTER; Chandramouli et al., SIGMOD 2018): an
//   inserter claims an empty slot with a tentative entry, and then scans the whole bucket chain
//   again. It makes its entry final only if no other entry, tentative or not, has the tag;
//   otherwise it clears its own entry and starts again. Claims and second scans are sequentially
//   consistent. Of two inserters whose claims are both in place, the one whose claim is later in
//   that order sees the other's. Bucket links are part of the same order, so a bucket linked in
//   between is scanned too. Two inserters that see each other both back off, outside their guards
//   and for different times.
//
// Argument for growth.
//   Writers. A thread that will publish or insert reads the growth word after it has entered its
//     guard (FindOrCreate, FindForUpdate), and leaves if its chunk is draining or moving. If the
//     chunk is not yet draining, then by [announce] (epoch.h) the drain that follows waits for this
//     guard; so the bucket chain stays in place for the length of the guard. If the chunk is split,
//     the bucket chain stays until the next growth, whose drains wait as well. So no thread holds a
//     slot in a moving chunk, and no entry there is tentative. An entry there that has no record
//     yet has no inserter that would publish one: it is dropped.
//   Readers, entry found. The entry was the newest of its chain when it was loaded: while a bucket
//     chain is moved no thread publishes in it, so its copies agree. Before the grower leaves the
//     chunk, it has overwritten every other word of the entry's old places. So a search that finds
//     its entry checks nothing.
//   Readers, entry not found. The entry may have been moved past the search. A reader that missed a
//     word of the bucket chain because it was moved has read a store of the grower ([move]). It
//     therefore reads a growth word or mask afterwards that is at least as far. If that is
//     unchanged, the miss is true. If the chunk is moving, the result is unknown: the search
//     returns an entry with the address kBeingMoved, below every record, and the reader leaves its
//     guard and starts again.
//   The hot Find searches by mask_ alone, and after a miss checks only whether the growth word is
//     0. Then nothing was moved during the search, and the mask was right. For after each move, and
//     after the store of mask_, there is a drain before the word is 0 again. A guard that saw
//     anything of a move delays that drain, and finds the word nonzero. A guard that begins after
//     the last drain sees the new mask. A growth that begins later than a guard waits for it before
//     it moves anything.
//   An unknown result is rare, so it costs little. The alternative would be to keep bucket chains
//     searchable while their entries are repacked as densely as in an index that was always of this
//     size.
//
// Argument for sweeping. An entry whose address is below the log's begin leads to no live record,
//   and so means the same as no entry. Removing it frees its word for another tag, or for the same
//   tag again. A thread that has it in a slot fails to publish, because addresses do not return.
//   Reload then reports that the word no longer has the tag. An entry without a record is swept
//   too: its inserter fails in the same way and starts again. If the same tag has returned to the
//   same word without a record, its chain is as empty as when the inserter decided.
//   Tentative entries are left alone, so claims are cleared by their inserters only, and the
//   argument for inserts holds: a second scan may miss an entry that is being swept, which then is
//   none. A search concurrent with a sweep and the next insert may miss the new entry, in a word
//   that it has passed. Then that insert was not published when the search began, and absent was
//   the right result at that time.
//
// Edges
//   [publish]  Publish: entry CAS, acq_rel -> Find: entry load, acquire. Record bytes before the
//              address; and, through acquire, everything older in the chain.
//   [claim]    two-phase insert: claim CAS, link CAS and second scan, all seq_cst, among
//              themselves. A swept word is cleared in the same order.
//   [grow]     grower: growth word and mask stores, release -> Find and others: loads, acquire.
//              Everything that was moved before; and memory for the new size.
//   [move]     grower: entry and link stores, release -> Find: entry and link loads, acquire. The
//              growth word that says moving; and the record behind an address.
//
// Thread safety: any thread may call all methods, except those marked as alone or grower (one at a
// time). Those that follow links run under a guard if the index may grow concurrently. Progress:
// Find is wait-free, except for the length of the bucket chain and for bucket chains that are moved
// during the search. Publish is wait-free. FindOrCreate is lock-free, except for a mutex held
// briefly when an overflow bucket is allocated, and for a chunk being split. Cost: Find reads one
// cache line while bucket chains fit in a bucket.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "ebb/internal/base/atomic.h"
#include "ebb/internal/base/hash.h"
#include "ebb/internal/base/mutex.h"
#include "ebb/internal/device/mapped_region.h"
#include "ebb/internal/format/address.h"
#include "ebb/internal/values/check.h"

namespace ebb::internal {

// The address in the result of a search that must be repeated, see above. Below every begin, like
// kNoRecord.
inline constexpr Address kBeingMoved{16};
static_assert(kNoRecord < kBeingMoved);
// Result of a hint: call FindHint. Below every begin, too.
inline constexpr Address kFurther{24};

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

// The progress of a growth; 0: there is none.
//
//   bit 0 active | bit 1 moving | bits 2..7 size exponent before | bits 8..63 chunk
class GrowthWord {
 public:
  constexpr explicit GrowthWord(std::uint64_t word) : word_(word) {}
  static constexpr GrowthWord Draining(int exponent, std::uint64_t chunk) {
    return GrowthWord(chunk << 8 | static_cast<std::uint64_t>(exponent) << 2 | 1);
  }
  constexpr GrowthWord Moving() const { return GrowthWord(word_ | 2); }
  constexpr std::uint64_t word() const { return word_; }
  constexpr bool active() const { return (word_ & 1) != 0; }
  constexpr bool moving() const { return (word_ & 2) != 0; }
  constexpr int exponent() const { return static_cast<int>(word_ >> 2 & 63); }
  constexpr std::uint64_t old_mask() const { return (std::uint64_t{1} << exponent()) - 1; }
  constexpr std::uint64_t new_mask() const { return old_mask() << 1 | 1; }
  constexpr std::uint64_t chunk() const { return word_ >> 8; }
  // A chunk is 4,096 buckets, which are split at once and whose split touches 512 KiB; it is
  // smaller if there would be fewer than 16 chunks.
  constexpr int chunk_shift() const { return std::clamp(exponent() - 4, 0, 12); }
  constexpr std::uint64_t first_bucket() const { return chunk() << chunk_shift(); }
  constexpr std::uint64_t end_bucket() const { return (chunk() + 1) << chunk_shift(); }

 private:
  std::uint64_t word_;
};

class HashIndex {
 public:
  // The place of an entry, and its value when it was found.
  struct EntrySlot {
    AtomicWord* word = nullptr;  // null: no entry
    IndexEntry entry;
  };
  enum class CreateResult : std::uint8_t {
    kFound,  // slot is set
    // another thread inserts the same tag, or the bucket chain is about to be split: leave the
    // guard, yield, try again
    kContended,
    kNoMemory,
  };

  // Creates 2^exponent buckets, with tags above creation_exponent <= exponent. They may grow to
  // max_bytes; 0: to the size that the machine's memory could hold. Check ok() afterwards.
  HashIndex(int exponent, int creation_exponent, bool huge_pages, HashSeed seed = {},
            std::uint64_t max_bytes = 0);
  ~HashIndex();
  bool ok() const { return buckets_ != nullptr; }
  // Empties the index. Alone: before any other thread knows it.
  void Clear();
  // Makes `address` the newest record of the hash's chain unless the chain has a newer one. Alone
  // in its bucket chain, while other threads put into other ones; so it needs none of the care
  // below. Returns the newest record before, kNoRecord if there was none; nothing: out of memory.
  std::optional<Address> PutExclusive(std::uint64_t hash, Address address);
  // Replaces the index by an empty one of another size. Alone. Returns false if there is no memory;
  // then it is unchanged.
  bool ResizeExclusive(int exponent);
  // Doubles the index until it is at most at its maximum load factor, if there is memory. Alone.
  void GrowExclusiveIfCrowded();

  // Returns the entry of the hash's tag, or an empty entry if there is none. kBeingMoved: unknown
  // now; leave the guard, yield, try again.
  EBB_INLINE EntrySlot Find(std::uint64_t hash) const {
#if defined(__SSE2__) && !defined(EBB_TSAN)
    const std::uint64_t mask = mask_.load(std::memory_order_acquire);  // [grow]
    IndexBucket* bucket = buckets_ + (hash & mask);
    const std::uint32_t tag = TagOf(hash);
    const unsigned matches = MatchTag(*bucket, hash);
    if (matches != 0) [[likely]] {
      AtomicWord& word = bucket->entries[static_cast<std::size_t>(std::countr_zero(matches)) / 2];
      const IndexEntry entry(word.load(std::memory_order_acquire));  // [publish]
      // Only this load counts; the comparison was a hint. The top 16 bits are the tag and a clear
      // tentative bit; and tag 0 matches empty slots too.
      if (entry.word() >> Address::kBits == tag && !entry.is_empty()) [[likely]] {
        return {&word, entry};
      }
    } else if (bucket->overflow.load(std::memory_order_relaxed) == 0 && !IsGrowing()) [[likely]] {
      return {};  // an entry or link set in the meantime was not there when this call began
    }
#endif
    return FindSlow(hash);
  }

  // Returns the likely newest record of the hash's chain, a few instructions cheaper than Find. The
  // hint counts only if a record of the key is met from there on. Because a chain holds no record
  // of another tag, this proves that it is the key's chain; a claim leads to no record. Any other
  // result proves nothing.
  EBB_INLINE Address FindHint(std::uint64_t hash) const {
#if defined(__SSE2__) && !defined(EBB_TSAN)
    const std::uint64_t mask = mask_.load(std::memory_order_acquire);  // [grow]
    const IndexBucket* bucket = buckets_ + (hash & mask);
    unsigned matches = MatchTag(*bucket, hash);
    while (matches == 0) [[unlikely]] {  // ends: a bucket chain does
        bucket = Next(*bucket);
        if (bucket == nullptr) return {};
        matches = MatchTag(*bucket, hash);
      }
    return AddressAt(*bucket, matches);
#else
    return FindSlow(hash).entry.address();
#endif
  }

  // Does the same. But if the hash's bucket chain continues after its first bucket, and that bucket
  // does not have the tag, it only prefetches the next bucket and returns kFurther.
  EBB_INLINE Address FindHintNear(std::uint64_t hash) const {
#if defined(__SSE2__) && !defined(EBB_TSAN)
    const std::uint64_t mask = mask_.load(std::memory_order_acquire);  // [grow]
    const IndexBucket* bucket = buckets_ + (hash & mask);
    const unsigned matches = MatchTag(*bucket, hash);
    if (matches != 0) [[likely]]
      return AddressAt(*bucket, matches);
    const IndexBucket* next = Next(*bucket);
    if (next == nullptr) return {};
    __builtin_prefetch(next);
    return kFurther;
#else
    return FindHint(hash);
#endif
  }

  // Prefetches the hash's bucket.
  void Prefetch(std::uint64_t hash) const {
    __builtin_prefetch(buckets_ + (hash & mask_.load(std::memory_order_relaxed)));  // only a hint
  }

  // Returns the slot of the hash's tag, for a caller that will publish to it: kFound (the entry may
  // be empty), or kContended.
  CreateResult FindForUpdate(std::uint64_t hash, EntrySlot& slot) const {
    if (WhereIs(hash).state != RowState::kSettled) return CreateResult::kContended;
    slot = Find(hash);
    return CreateResult::kFound;
  }
  // Does the same, but creates the entry, with the address kNoRecord, if there is none.
  CreateResult FindOrCreate(std::uint64_t hash, EntrySlot& slot);

  // Makes `address` the newest record of the slot's chain if the entry is still slot.entry. This is
  // the only publication of the store.
  static bool Publish(const EntrySlot& slot, Address address) {
    std::uint64_t expected = slot.entry.word();
    return slot.word->compare_exchange_strong(expected, slot.entry.WithAddress(address).word(),
                                              std::memory_order_acq_rel,  // [publish]
                                              std::memory_order_relaxed);
  }
  // Loads the entry again after a failed publication. Returns false if it no longer has the tag: it
  // was swept; start again.
  [[nodiscard]] static bool Reload(EntrySlot& slot) {
    const IndexEntry now(slot.word->load(std::memory_order_acquire));  // [publish]
    const bool same = now.tag() == slot.entry.tag() && !now.is_empty() && !now.tentative();
    slot.entry = now;
    return same;
  }

  // Removes the entries of a bucket chain whose address is below `begin`, and returns their number.
  // May run concurrently with operations, but not with a growth. No record below `begin` counts any
  // more, and a thread that loads the log's begin from now on gets this value or a higher one.
  std::uint64_t SweepBucket(std::uint64_t bucket_number, Address begin);

  // Calls `show` with each entry of a bucket chain that is neither empty nor tentative.
  // Concurrently with a growth, for estimates only.
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

  // ---- growth: the grower's calls, in this order ----

  enum class GrowthStart : std::uint8_t { kStarted, kAtLimit, kNoMemory };
  // Begins to drain the first chunk. At the limit: 15 doublings since creation, or the size that
  // the machine's memory could hold.
  GrowthStart BeginGrowth();
  // Moves the chunk that drains. To be called when no guard is left from before it began to drain.
  void BeginSplit();
  // Ends the split of the chunk and begins to drain the next one. Returns false if it was the last.
  bool FinishSplit();
  // Ends the growth. To be called when no guard is left from before the end of the last split.
  void EndGrowth();

  // Whether the index is above its maximum load factor: more than one overflow bucket per eight
  // buckets, as with about 5 keys in each. Then it should grow, unless entries can be freed.
  bool crowded() const {
    return overflow_count() > std::max(bucket_count() / 8, tolerated_overflow_.load(
                                                               std::memory_order_relaxed));  // hint
  }
  // To be called when entries have been freed. Overflow buckets stay until the next growth, so the
  // existing ones and a few more no longer count as above the maximum.
  void TolerateOverflow() {
    tolerated_overflow_.store(overflow_count() + bucket_count() / 64 + 1,
                              std::memory_order_relaxed);  // a hint
  }
  // `ask` is called when an overflow bucket is allocated and the index is above its maximum load
  // factor. It is called under a guard and a mutex of the index, so it must neither wait nor throw.
  void OnCrowded(std::function<void()> ask);

  // The hash function of the keys. It is here because the hot path loads this cache line anyway.
  const KeyHash& key_hash() const { return key_hash_; }
  bool growing() const { return growth_.load(std::memory_order_acquire) != 0; }  // [grow]
  int exponent() const { return std::countr_zero(bucket_count()); }
  int creation_exponent() const { return creation_exponent_; }
  // While the index grows: the number before.
  std::uint64_t bucket_count() const {
    return mask_.load(std::memory_order_acquire) + 1;  // [grow]
  }
  // The number of bucket chains that may have entries: while the index grows, that of the new size.
  // An entry that is being moved may be in two of them or in none, so during a growth they are for
  // estimates only.
  std::uint64_t row_count() const {
    const GrowthWord growth(growth_.load(std::memory_order_acquire));  // [grow]
    return growth.active() ? growth.new_mask() + 1 : bucket_count();
  }
  std::uint64_t overflow_count() const {
    return overflow_count_.load(std::memory_order_relaxed);  // statistics
  }
  std::uint64_t memory_bytes() const { return (bucket_count() + overflow_count()) * 64; }
  std::uint64_t huge_page_bytes() const {
    return std::min(region_.huge_page_bytes(), bucket_count() * sizeof(IndexBucket));
  }

 private:
  enum class RowState : std::uint8_t { kSettled, kDraining, kMoving };
  // The present place of a hash's bucket chain, by the mask that leads to it.
  struct RowPlace {
    std::uint64_t mask = 0;
    RowState state = RowState::kSettled;
  };
  RowPlace WhereIs(std::uint64_t hash) const;
  // To be called after a search.
  bool IsGrowing() const {
    asm volatile("" ::: "memory");                        // the search's vector loads stay above
    return growth_.load(std::memory_order_acquire) != 0;  // [grow]
  }
  std::uint32_t TagOf(std::uint64_t hash) const {
    return static_cast<std::uint32_t>(hash >> creation_exponent_) &
           ((1u << IndexEntry::kTagBits) - 1);
  }
  static IndexBucket* Next(const IndexBucket& bucket) {
    return reinterpret_cast<IndexBucket*>(
        bucket.overflow.load(std::memory_order_seq_cst));  // [claim] [move]
  }
#if defined(__SSE2__) && !defined(EBB_TSAN)
  // Returns bit 2 i + 1 for each entry i of the seven whose top 16 bits are the hash's tag. The
  // loads are plain vector loads. The machine does each eight-byte half at once. They are a hint,
  // see Find.
  EBB_INLINE unsigned MatchTag(const IndexBucket& bucket, std::uint64_t hash) const {
    BeforePlainLoads(bucket);
    // Shifted to the top, then below the tentative bit. The bits under the tag are compared too,
    // and ignored.
    const __m128i shift = _mm_load_si128(reinterpret_cast<const __m128i*>(tag_shift_.data()));
    const __m128i top = _mm_sll_epi64(_mm_cvtsi64_si128(static_cast<std::int64_t>(hash)), shift);
    const __m128i tag = _mm_shuffle_epi32(_mm_srli_epi64(top, 1), 0x55);
    const auto* words = reinterpret_cast<const __m128i*>(&bucket);
    // The upper halves of four entries; of these, only the upper halves count.
    const auto equal = [&](int i) {
      return _mm_cmpeq_epi16(
          _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(_mm_load_si128(words + i)),
                                          _mm_castsi128_ps(_mm_load_si128(words + i + 1)), 0xDD)),
          tag);
    };
    return static_cast<unsigned>(_mm_movemask_epi8(_mm_packs_epi16(equal(0), equal(2)))) & 0x2aaau;
  }
  // `word` is not 0. To get a 64-bit index from the int of std::countr_zero, compilers need one
  // more instruction.
  static EBB_INLINE std::size_t LowestBit(std::uint64_t word) {
    std::size_t bit;
    asm("rep bsfq %1, %0" : "=r"(bit) : "r"(word) : "cc");
    return bit;
  }
  // Returns the address of the first entry that matches.
  static EBB_INLINE Address AddressAt(const IndexBucket& bucket, unsigned matches) {
    const auto* const first = reinterpret_cast<const std::byte*>(bucket.entries.data());
    const std::size_t bit = LowestBit(matches);                                     // 2 i + 1
    return IndexEntry(WordAt(first + bit * 4 - 4).load(std::memory_order_acquire))  // [publish]
        .address();
  }
#endif
  EntrySlot FindSlow(std::uint64_t hash) const;
  bool OtherEntryHasTag(IndexBucket* first, std::uint32_t tag, const AtomicWord* own) const;
  IndexBucket* TakeOverflowBucket();
  void ReturnOverflowBucket(IndexBucket* bucket);

  void SplitRow(std::uint64_t bucket_number, int exponent);
  static IndexBucket* FillRow(IndexBucket* first, std::span<const IndexEntry> entries,
                              IndexBucket* spare);
  void Retire(IndexBucket* bucket);
  void ReclaimOverflow();

  // One cache line with everything that a search needs. Immutable after construction, except the
  // two words that only the grower writes. The distance of a hash's tag from the top, as a vector
  // for the shift count.
  alignas(64) std::array<std::uint64_t, 2> tag_shift_{};
  IndexBucket* buckets_ = nullptr;
  AtomicWord mask_{0};
  AtomicWord growth_{0};
  int creation_exponent_ = 0;
  int max_exponent_ = 0;    // for which there is address space
  const KeyHash key_hash_;  // two words in this line, and a secret that only long keys need
  bool huge_pages_ = false;
  // Used by the grower only.
  MappedRegion region_;
  std::unique_ptr<IndexEntry[]> scratch_;  // the entries of a bucket chain
  std::size_t scratch_size_ = 0;
  IndexBucket* retired_ = nullptr;  // linked; readers may still be there

  // Rarely used.
  alignas(64) AtomicWord overflow_count_{0};
  Mutex mu_;
  std::function<void()> on_crowded_ ABSL_GUARDED_BY(mu_);
  AtomicWord tolerated_overflow_{0};  // since the last growth
  std::vector<MappedRegion> overflow_chunks_ ABSL_GUARDED_BY(mu_);
  std::size_t overflow_used_ ABSL_GUARDED_BY(mu_) = 0;  // buckets allocated from the last chunk
  IndexBucket* overflow_free_ ABSL_GUARDED_BY(mu_) = nullptr;  // linked
};

}  // namespace ebb::internal
