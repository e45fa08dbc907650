#include "ebb/internal/hash_index.h"

namespace ebb::internal {
namespace {
constexpr std::size_t kChunkBuckets = 4096;
}

HashIndex::HashIndex(int exponent, int creation_exponent, bool huge_pages)
    : mask_((std::uint64_t{1} << exponent) - 1),
      creation_exponent_(creation_exponent),
      exponent_(exponent),
      huge_pages_(huge_pages),
      region_((std::size_t{1} << exponent) * sizeof(IndexBucket), huge_pages) {
  // Zeroed memory is a table of empty buckets: all words 0.
  buckets_ = reinterpret_cast<IndexBucket*>(region_.data());
}

HashIndex::~HashIndex() = default;

void HashIndex::Clear() {
  region_.Release(0, region_.bytes());
  MutexLock lock(mu_);
  overflow_chunks_.clear();
  overflow_free_.clear();
  overflow_used_ = 0;
  overflow_count_.store(0, std::memory_order_relaxed);  // alone here
}

// Nothing was ever taken out, so the first empty word is the end of the chain's entries.
std::optional<Address> HashIndex::PutAlone(std::uint64_t hash, Address address) {
  const std::uint32_t tag = TagOf(hash);
  for (IndexBucket* bucket = BucketOf(hash);;) {
    for (AtomicWord& word : bucket->entries) {
      const IndexEntry entry(word.load(std::memory_order_relaxed));  // alone here
      if (!entry.is_empty() && entry.tag() != tag) continue;
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

HashIndex::Slot HashIndex::FindSlow(IndexBucket* bucket, std::uint32_t tag) const {
  for (; bucket != nullptr; bucket = Next(*bucket)) {
    for (AtomicWord& word : bucket->entries) {
      const IndexEntry entry(word.load(std::memory_order_acquire));  // [publish]
      if (entry.tag() == tag && !entry.is_empty() && !entry.tentative()) return {&word, entry};
    }
  }
  return {};
}

HashIndex::CreateResult HashIndex::FindOrCreate(std::uint64_t hash, Slot& slot) {
  IndexBucket* const first = BucketOf(hash);
  const std::uint32_t tag = TagOf(hash);
  const IndexEntry final_entry = IndexEntry::Make(tag, kNoRecord);
  const IndexEntry claim(final_entry.word() | IndexEntry::kTentative);
  // Ends: each turn after the first means that another thread took the slot or linked a bucket.
  for (;;) {
    slot = Find(hash);
    if (slot.word != nullptr) return CreateResult::kFound;

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
    if (empty == nullptr) {
      IndexBucket* const fresh = TakeOverflowBucket();
      if (fresh == nullptr) return CreateResult::kNoMemory;
      std::uint64_t none = 0;
      if (!last->overflow.compare_exchange_strong(none, reinterpret_cast<std::uint64_t>(fresh),
                                                  std::memory_order_seq_cst)) {  // [claim]
        ReturnOverflowBucket(fresh);
      }
      continue;
    }
    std::uint64_t none = 0;
    if (!empty->compare_exchange_strong(none, claim.word(),
                                        std::memory_order_seq_cst)) {  // [claim]
      continue;
    }
    if (OtherEntryHasTag(first, tag, empty)) {
      empty->store(0, std::memory_order_seq_cst);  // [claim]
      return CreateResult::kContended;
    }
    empty->store(final_entry.word(), std::memory_order_seq_cst);  // [claim]
    slot = {empty, final_entry};
    return CreateResult::kFound;
  }
}

bool HashIndex::OtherEntryHasTag(IndexBucket* first, std::uint32_t tag,
                                 const AtomicWord* own) const {
  for (const IndexBucket* bucket = first; bucket != nullptr; bucket = Next(*bucket)) {
    for (const AtomicWord& word : bucket->entries) {
      if (&word == own) continue;
      const IndexEntry entry(word.load(std::memory_order_seq_cst));  // [claim]
      if (!entry.is_empty() && entry.tag() == tag) return true;
    }
  }
  return false;
}

IndexBucket* HashIndex::TakeOverflowBucket() {
  MutexLock lock(mu_);
  overflow_count_.fetch_add(1, std::memory_order_relaxed);  // statistics
  if (!overflow_free_.empty()) {
    IndexBucket* const bucket = overflow_free_.back();
    overflow_free_.pop_back();
    return bucket;
  }
  if (overflow_chunks_.empty() || overflow_used_ == kChunkBuckets) {
    MappedRegion chunk(kChunkBuckets * sizeof(IndexBucket), huge_pages_);
    if (chunk.data() == nullptr) {
      overflow_count_.fetch_sub(1, std::memory_order_relaxed);  // statistics
      return nullptr;
    }
    overflow_chunks_.push_back(std::move(chunk));
    overflow_used_ = 0;
  }
  return reinterpret_cast<IndexBucket*>(overflow_chunks_.back().data()) + overflow_used_++;
}

void HashIndex::ReturnOverflowBucket(IndexBucket* bucket) {
  MutexLock lock(mu_);
  overflow_free_.push_back(bucket);
  overflow_count_.fetch_sub(1, std::memory_order_relaxed);  // statistics
}

}  // namespace ebb::internal
