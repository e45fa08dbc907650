#include "ebb/internal/index/hash_index.h"

#include <new>
#include <utility>

#include "ebb/internal/format/lifetime.h"
#include "ebb/options.h"

namespace ebb::internal {
namespace {

constexpr std::size_t kChunkBuckets = 4096;

constexpr std::size_t RegionBytes(int exponent) {
  return (std::size_t{1} << exponent) * sizeof(IndexBucket);
}

// Returns the largest size that the index may ever have: each doubling uses a bit of the tag.
int MaxExponent(int exponent, int creation_exponent, std::uint64_t max_bytes) {
  if (max_bytes == 0) max_bytes = std::bit_ceil(PhysicalMemoryBytes());
  const std::uint64_t fit = max_bytes / sizeof(IndexBucket);
  return std::max(exponent, std::min(creation_exponent + IndexEntry::kTagBits,
                                     static_cast<int>(std::bit_width(fit)) - 1));
}

}  // namespace

HashIndex::HashIndex(int exponent, int creation_exponent, bool huge_pages, HashSeed seed,
                     std::uint64_t max_bytes)
    : tag_shift_{static_cast<std::uint64_t>(64 - IndexEntry::kTagBits - creation_exponent), 0},
      creation_exponent_(creation_exponent),
      max_exponent_(MaxExponent(exponent, creation_exponent, max_bytes)),
      key_hash_(seed),
      huge_pages_(huge_pages) {
  // Address space for the largest size is reserved now, so that buckets never move. Where address
  // space is limited, the largest size is smaller.
  for (;; --max_exponent_) {
    region_ = MappedRegion::Reserve(RegionBytes(max_exponent_), huge_pages);
    if (region_.data() != nullptr) break;
    if (max_exponent_ == exponent) return;
  }
  if (!region_.GrowTo(RegionBytes(exponent))) return;
  // Zeroed memory is a table of empty buckets: all words 0.
  buckets_ = reinterpret_cast<IndexBucket*>(region_.data());
  mask_.store((std::uint64_t{1} << exponent) - 1, std::memory_order_relaxed);  // alone here
}

HashIndex::~HashIndex() = default;

void HashIndex::Clear() {
  region_.Release(0, region_.bytes());
  retired_ = nullptr;
  MutexLock lock(mu_);
  overflow_chunks_.clear();
  overflow_free_ = nullptr;
  overflow_used_ = 0;
  overflow_count_.store(0, std::memory_order_relaxed);  // alone here
}

// ---- alone ----

// Nothing has been swept yet, and a bucket chain that was split has no holes. So the first empty
// word is the end of the bucket chain's entries.
std::optional<Address> HashIndex::PutExclusive(std::uint64_t hash, Address address) {
  const std::uint32_t tag = TagOf(hash);
  for (IndexBucket* bucket = buckets_ + (hash & (bucket_count() - 1));;) {
    for (AtomicWord& word : bucket->entries) {
      const IndexEntry entry(word.load(std::memory_order_relaxed));  // alone here
      if (!entry.is_empty() && entry.tag() != tag) continue;
      // The order of the calls does not matter: the higher address wins.
      if (entry.is_empty() || entry.address() < address) {
        word.store(IndexEntry::Make(tag, address).word(), std::memory_order_relaxed);  // alone here
      }
      return entry.is_empty() ? kNoRecord : entry.address();
    }
    IndexBucket* next = Next(*bucket);
    if (next == nullptr) {
      next = TakeOverflowBucket();
      if (next == nullptr) return std::nullopt;
      bucket->overflow.store(reinterpret_cast<std::uint64_t>(next),
                             std::memory_order_relaxed);  // alone here
    }
    bucket = next;
  }
}

bool HashIndex::ResizeExclusive(int exponent) {
  if (exponent > max_exponent_ || !region_.GrowTo(RegionBytes(exponent))) return false;
  mask_.store((std::uint64_t{1} << exponent) - 1, std::memory_order_relaxed);  // alone here
  return true;
}

// The ordinary growth, chunk by chunk. No drain is needed, because there is no other thread.
void HashIndex::GrowExclusiveIfCrowded() {
  while (crowded() && BeginGrowth() == GrowthStart::kStarted) {
    do BeginSplit();
    while (FinishSplit());
    EndGrowth();
  }
}

// ---- concurrently with other threads ----

// The mask of a chunk follows from the growth word alone: mask_ still has the old size until all
// chunks are split.
HashIndex::RowPlace HashIndex::WhereIs(std::uint64_t hash) const {
  const GrowthWord growth(growth_.load(std::memory_order_acquire));  // [grow]
  if (!growth.active())
    return {mask_.load(std::memory_order_acquire), RowState::kSettled};  // [grow]
  const std::uint64_t bucket = hash & growth.old_mask();
  if (bucket < growth.first_bucket()) return {growth.new_mask(), RowState::kSettled};
  if (bucket >= growth.end_bucket()) return {growth.old_mask(), RowState::kSettled};
  return {growth.old_mask(), growth.moving() ? RowState::kMoving : RowState::kDraining};
}

// Walk of a Read, 6: the exact search. A hit needs no check (see "Readers, entry found" in the
// header).
HashIndex::EntrySlot HashIndex::FindSlow(std::uint64_t hash) const {
  const std::uint32_t tag = TagOf(hash);
  // Ends: each turn after the first means that the bucket chain was split in the meantime, once per
  // size.
  for (;;) {
    const RowPlace place = WhereIs(hash);
    for (IndexBucket* bucket = buckets_ + (hash & place.mask); bucket != nullptr;
         bucket = Next(*bucket)) {
      for (AtomicWord& word : bucket->entries) {
        const IndexEntry entry(word.load(std::memory_order_acquire));  // [publish] [move]
        if (entry.tag() == tag && !entry.is_empty() && !entry.tentative()) return {&word, entry};
      }
    }
    // The entry may have been moved past this search. If the place is the same as before, nothing
    // was moved, and the miss is true.
    const RowPlace now = WhereIs(hash);
    if (now.state == RowState::kMoving) return {nullptr, IndexEntry::Make(tag, kBeingMoved)};
    if (now.mask == place.mask) return {};
  }
}

HashIndex::CreateResult HashIndex::FindOrCreate(std::uint64_t hash, EntrySlot& slot) {
  // Checked after the caller has entered its guard: if the chunk is not yet draining, its drain
  // waits for that guard, so the bucket chain stays in place for as long as the slot is used
  // ([announce] in epoch.h).
  const RowPlace place = WhereIs(hash);
  if (place.state != RowState::kSettled) return CreateResult::kContended;
  IndexBucket* const first = buckets_ + (hash & place.mask);
  const std::uint32_t tag = TagOf(hash);
  const IndexEntry final_entry = IndexEntry::Make(tag, kNoRecord);
  const IndexEntry claim(final_entry.word() | IndexEntry::kTentative);
  // Ends: each turn after the first means that another thread took the word or linked a bucket.
  for (;;) {
    // Phase 0: most calls find the entry and write nothing.
    slot = Find(hash);
    if (slot.word != nullptr) return CreateResult::kFound;

    // Look for an empty word; `last` is the place for a link if there is none.
    AtomicWord* empty = nullptr;
    IndexBucket* last = first;
    for (IndexBucket* bucket = first; bucket != nullptr && empty == nullptr;
         bucket = Next(*bucket)) {
      last = bucket;
      for (AtomicWord& word : bucket->entries) {
        if (word.load(std::memory_order_relaxed) == 0) {  // the claiming CAS rechecks
          empty = &word;
          break;
        }
      }
    }
    // The bucket chain is full. If another thread links a bucket first, its bucket is used and the
    // fresh one returned.
    if (empty == nullptr) {
      IndexBucket* const fresh = TakeOverflowBucket();
      if (fresh == nullptr) return CreateResult::kNoMemory;
      std::uint64_t none = 0;
      if (!last->overflow.compare_exchange_strong(none, reinterpret_cast<std::uint64_t>(fresh),
                                                  std::memory_order_seq_cst)) {  // [claim]
        ReturnOverflowBucket(fresh);
      }
      // Search again from the start, since another thread may have inserted the same tag.
      continue;
    }
    // Phase 1: claim the word with a tentative entry, which no exact search returns.
    std::uint64_t none = 0;
    if (!empty->compare_exchange_strong(none, claim.word(),
                                        std::memory_order_seq_cst)) {  // [claim]
      continue;
    }
    // Phase 2: scan the whole bucket chain again. Of two inserters of the same tag at least one
    // sees the other's claim, because claims and scans are in one order ([claim]). It withdraws, so
    // there are never two final entries.
    if (OtherEntryHasTag(first, tag, empty)) {
      empty->store(0, std::memory_order_seq_cst);  // [claim]
      return CreateResult::kContended;
    }
    // Final, but without a record until the first Publish: a search treats it as an absent key.
    empty->store(final_entry.word(), std::memory_order_seq_cst);  // [claim]
    slot = {empty, final_entry};
    return CreateResult::kFound;
  }
}

bool HashIndex::OtherEntryHasTag(IndexBucket* first, std::uint32_t tag,
                                 const AtomicWord* own) const {
  for (const IndexBucket* bucket = first; bucket != nullptr; bucket = Next(*bucket)) {
    for (const AtomicWord& word : bucket->entries) {
      // Tentative entries count too, so at least one of two inserters withdraws.
      if (&word == own) continue;
      const IndexEntry entry(word.load(std::memory_order_seq_cst));  // [claim]
      if (!entry.is_empty() && entry.tag() == tag) return true;
    }
  }
  return false;
}

// Walk of a garbage collection, 5.
std::uint64_t HashIndex::SweepBucket(std::uint64_t bucket_number, Address begin) {
  // A bucket chain that is being moved has copies of its entries, of which one would stay.
  EBB_DCHECK(!IsGrowing());
  std::uint64_t swept = 0;
  for (IndexBucket* bucket = buckets_ + bucket_number; bucket != nullptr; bucket = Next(*bucket)) {
    for (AtomicWord& word : bucket->entries) {
      std::uint64_t seen = word.load(std::memory_order_relaxed);  // the CAS rechecks
      const IndexEntry entry(seen);
      if (entry.is_empty() || entry.tentative() || !IsDead(entry.address(), begin)) continue;
      // A failure means that the entry leads to a record again.
      swept += word.compare_exchange_strong(seen, 0, std::memory_order_seq_cst);  // [claim]
    }
  }
  return swept;
}

IndexBucket* HashIndex::TakeOverflowBucket() {
  // Taken by inserters only when a bucket chain is full, so a mutex is cheap enough.
  MutexLock lock(mu_);
  IndexBucket* bucket = overflow_free_;
  if (bucket != nullptr) {
    overflow_free_ = Next(*bucket);
    bucket->overflow.store(0, std::memory_order_relaxed);  // published with the link to it
  } else {
    // New buckets come in chunks of zeroed memory, and a chunk is never freed while the index
    // lives: a search may still be in it.
    if (overflow_chunks_.empty() || overflow_used_ == kChunkBuckets) {
      MappedRegion chunk(kChunkBuckets * sizeof(IndexBucket), huge_pages_);
      if (chunk.data() == nullptr) return nullptr;
      overflow_chunks_.push_back(std::move(chunk));
      overflow_used_ = 0;
    }
    bucket = reinterpret_cast<IndexBucket*>(overflow_chunks_.back().data()) + overflow_used_++;
  }
  overflow_count_.fetch_add(1, std::memory_order_relaxed);  // statistics
  // Under the caller's guard and mu_, so the callback only posts a job. While the index grows, the
  // bucket chains are being shortened already.
  if (on_crowded_ && crowded() && !IsGrowing()) on_crowded_();
  return bucket;
}

void HashIndex::ReturnOverflowBucket(IndexBucket* bucket) {
  MutexLock lock(mu_);
  // Never linked, or reclaimed after a drain: no search can be in this bucket, so its link may be
  // reused.
  bucket->overflow.store(reinterpret_cast<std::uint64_t>(overflow_free_),
                         std::memory_order_relaxed);  // under mu_
  overflow_free_ = bucket;
  overflow_count_.fetch_sub(1, std::memory_order_relaxed);  // statistics
}

// ---- growth ----

void HashIndex::OnCrowded(std::function<void()> ask) {
  MutexLock lock(mu_);
  on_crowded_ = std::move(ask);
}

HashIndex::GrowthStart HashIndex::BeginGrowth() {
  EBB_CHECK(!IsGrowing());
  const int exponent = this->exponent();
  if (exponent >= max_exponent_) return GrowthStart::kAtLimit;
  // The maximum number of entries of a bucket chain: as many as there are tags for one bucket.
  scratch_size_ = std::size_t{1} << (creation_exponent_ + IndexEntry::kTagBits - exponent);
  scratch_.reset(new (std::nothrow) IndexEntry[scratch_size_]);
  // The second half of the buckets becomes accessible now; it is zeroed.
  if (scratch_ == nullptr || !region_.GrowTo(RegionBytes(exponent + 1))) {
    return GrowthStart::kNoMemory;
  }
  tolerated_overflow_.store(0, std::memory_order_relaxed);  // a hint
  // Walk of a growth, 2. From this store on FindOrCreate and FindForUpdate reject the first chunk.
  growth_.store(GrowthWord::Draining(exponent, 0).word(), std::memory_order_release);  // [grow]
  return GrowthStart::kStarted;
}

// Walk of a growth, 3. The caller has waited for the drain: no guard is left that holds a slot of
// this chunk, or that walks through buckets retired with an earlier chunk.
void HashIndex::BeginSplit() {
  ReclaimOverflow();
  const GrowthWord growth(growth_.load(std::memory_order_relaxed));  // our own word
  // From here on a search in this chunk that finds nothing returns kBeingMoved.
  growth_.store(growth.Moving().word(), std::memory_order_release);  // [grow]
}

// Walk of a growth, 4.
bool HashIndex::FinishSplit() {
  const GrowthWord growth(growth_.load(std::memory_order_relaxed));  // our own word
  EBB_CHECK(growth.moving());
  for (std::uint64_t bucket = growth.first_bucket(); bucket < growth.end_bucket(); ++bucket) {
    SplitRow(bucket, growth.exponent());
  }
  // One store ends the move of this chunk and begins the drain of the next. Release: a search that
  // loads it sees everything that was moved.
  growth_.store(GrowthWord::Draining(growth.exponent(), growth.chunk() + 1).word(),
                std::memory_order_release);  // [grow]
  // The chunk after the last one "drains" until EndGrowth: the growth word stays nonzero, so that a
  // miss of the fast path is still checked.
  if (growth.end_bucket() <= growth.old_mask()) return true;
  // All chunks are split, so the new mask leads to every entry.
  mask_.store(growth.new_mask(), std::memory_order_release);  // [grow]
  return false;
}

// To be called after one more drain: no guard is left that searches with the old mask, so a miss
// needs no check again.
void HashIndex::EndGrowth() {
  ReclaimOverflow();
  scratch_.reset();
  growth_.store(0, std::memory_order_release);  // [grow]
}

// Rewrites both bucket chains from copies of their entries. The buckets of the old bucket chain
// serve both. That allocates no memory, since two bucket chains without holes need no more overflow
// buckets than one did.
void HashIndex::SplitRow(std::uint64_t bucket_number, int exponent) {
  IndexBucket* const lower = buckets_ + bucket_number;
  IndexBucket* const upper = lower + (std::size_t{1} << exponent);
  // The bit of the hash that becomes part of the bucket's number. It is a bit of the tag, so no
  // record is read.
  const std::uint32_t upper_bit = std::uint32_t{1} << (exponent - creation_exponent_);
  std::size_t lower_end = 0;
  std::size_t upper_begin = scratch_size_;
  for (const IndexBucket* bucket = lower; bucket != nullptr; bucket = Next(*bucket)) {
    for (const AtomicWord& word : bucket->entries) {
      const IndexEntry entry(word.load(std::memory_order_relaxed));  // alone here, after a drain
      // Swept words, and entries whose inserter never published, are dropped.
      if (entry.address() <= kNoRecord) continue;
      EBB_CHECK(!entry.tentative() && lower_end < upper_begin);
      // Lower entries fill the scratch memory from the front, upper ones from the back.
      ((entry.tag() & upper_bit) != 0 ? scratch_[--upper_begin] : scratch_[lower_end++]) = entry;
    }
  }
  const std::span<const IndexEntry> all(scratch_.get(), scratch_size_);
  // The lower bucket chain is overwritten in place. Concurrent searches may miss an entry, but not
  // find a wrong one: copies of an entry have the same address.
  IndexBucket* spare = FillRow(lower, all.first(lower_end), Next(*lower));
  spare = FillRow(upper, all.subspan(upper_begin), spare);
  while (spare != nullptr) Retire(std::exchange(spare, Next(*spare)));
}

// Makes a bucket chain of exactly these entries, in the first bucket and as many of the linked
// `spare` buckets as they need. Returns the rest of these.
IndexBucket* HashIndex::FillRow(IndexBucket* first, std::span<const IndexEntry> entries,
                                IndexBucket* spare) {
  for (IndexBucket* bucket = first;;) {
    const std::size_t count = std::min<std::size_t>(entries.size(), IndexBucket::kEntries);
    // All seven words are written, so that no old copy of an entry stays behind in the chain.
    for (std::size_t i = 0; i < IndexBucket::kEntries; ++i) {
      bucket->entries[i].store(i < count ? entries[i].word() : 0,
                               std::memory_order_release);  // [move]
    }
    entries = entries.subspan(count);
    // The next link is loaded before the bucket is reused, which happens in the next turn.
    IndexBucket* const next = entries.empty() ? nullptr : spare;
    if (next != nullptr) spare = Next(*next);
    bucket->overflow.store(reinterpret_cast<std::uint64_t>(next),
                           std::memory_order_release);  // [move]
    if (next == nullptr) {
      EBB_CHECK(entries.empty());
      return spare;
    }
    bucket = next;
  }
}

// Retires a bucket. Readers that are still in it continue through empty buckets.
void HashIndex::Retire(IndexBucket* bucket) {
  for (AtomicWord& word : bucket->entries) word.store(0, std::memory_order_release);  // [move]
  bucket->overflow.store(reinterpret_cast<std::uint64_t>(retired_),
                         std::memory_order_release);  // [move]
  retired_ = bucket;
}

void HashIndex::ReclaimOverflow() {
  // To be called after a drain: then no reader is in a retired bucket.
  while (retired_ != nullptr) ReturnOverflowBucket(std::exchange(retired_, Next(*retired_)));
}

}  // namespace ebb::internal
