// The hash index under schedules: inserters of one tag, concurrent with others in the same bucket;
// and sessions that insert, change and look up entries while the index grows, or is swept.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "ebb/internal/epoch/epoch.h"
#include "ebb/internal/index/hash_index.h"
#include "tests/schedule/explore.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::AtomicWord;
using internal::EpochGuard;
using internal::EpochManager;
using internal::HashIndex;
using internal::IndexEntry;
using internal::kNoRecord;

constexpr int kExponent = 1;

// In the first bucket.
std::uint64_t HashOf(std::uint32_t tag) { return std::uint64_t{tag} << kExponent; }

// The result of one inserter.
struct Inserted {
  std::uint32_t tag = 0;
  const AtomicWord* entry = nullptr;
  Address address;
  std::uint64_t contended = 0;  // times that another inserter of the tag was met
  Address above;                // the newest of the chain before
};

void Insert(HashIndex& index, Inserted& inserted) {
  HashIndex::EntrySlot slot;
  while (index.FindOrCreate(HashOf(inserted.tag), slot) == HashIndex::CreateResult::kContended) {
    ++inserted.contended;
    internal::Yield();
  }
  while (!HashIndex::Publish(slot, inserted.address)) static_cast<void>(HashIndex::Reload(slot));
  inserted.entry = slot.word;
  inserted.above = slot.entry.address();
}

// Three inserters, two or three of them of one tag, into a bucket with room for three, two, one or
// none of the seven; so an overflow bucket is linked in the meantime, or just not.
void Inserters(Schedule& schedule) {
  HashIndex index(kExponent, kExponent, false);
  const auto before = static_cast<std::uint32_t>(4 + schedule.random().Below(4));
  HashIndex::EntrySlot slot;
  for (std::uint32_t tag = 100; tag < 100 + before; ++tag) {
    schedule.Check(index.FindOrCreate(HashOf(tag), slot) == HashIndex::CreateResult::kFound,
                   "no entry");
  }
  std::array<Inserted, 3> all;
  for (std::size_t i = 0; i < all.size(); ++i) {
    // Tag 0 is the tag that empty entries seem to have.
    all[i].tag = static_cast<std::uint32_t>(i < 2 ? 0 : schedule.random().Below(2));
    all[i].address = Address(4096 + 8 * i);
    schedule.Add([&, i] {
      Insert(index, all[i]);
      const IndexEntry found = index.Find(HashOf(all[i].tag)).entry;
      schedule.Check(!found.is_empty() && !found.tentative(), "an entry is not found again");
      schedule.Check(found.address() > kNoRecord, "a published address is not found");
    });
  }
  schedule.Run();

  std::map<Address, Address> above;
  for (const Inserted& one : all) {
    above[one.address] = one.above;
    schedule.Check(index.Find(HashOf(one.tag)).word == one.entry, "one tag has two entries");
  }
  // The chains hold every address once.
  std::size_t found = 0;
  for (const std::uint32_t tag : {0u, 1u}) {
    for (Address at = index.Find(HashOf(tag)).entry.address(); at > kNoRecord; at = above[at]) {
      if (++found > all.size()) break;
    }
  }
  schedule.Check(found == all.size(), "a published address is lost");
  schedule.Count("inserters that met", all[0].contended + all[1].contended + all[2].contended);
  schedule.Count("overflow buckets", index.overflow_count());
}
TEST(IndexSchedules, InsertersOfOneTagMakeOneEntry) {
  Explored explored = Explore(100000, Inserters);
  explored.ExpectPerSchedule("inserters that met", 0.02);
  explored.ExpectPerSchedule("overflow buckets", 0.2);
}

// Chains of an index of two rows. The records published in each are known, and so are the possible
// results of a search.
class Chains {
 public:
  static constexpr std::size_t kCount = 4;

  // Two chains in each row, of which one goes up when it splits; `crowd` other entries are in their
  // way in row 0, and half as many in row 1.
  Chains(Schedule& schedule, std::uint32_t crowd) : schedule_(schedule) {
    HashIndex::EntrySlot slot;
    for (std::uint32_t i = 0; i < crowd + crowd / 2; ++i) {
      const std::uint64_t hash = i < crowd ? HashOf(100 + i) : HashOf(100 + i) | 1;
      schedule.Check(index_.FindOrCreate(hash, slot) == CreateResult::kFound, "no entry");
      schedule.Check(HashIndex::Publish(slot, Take(kCount)), "not published");
    }
    crowd_ = crowd;
  }

  // Makes a new record the newest of a chain: inserted, or only if the chain has one.
  void Put(std::size_t chain, bool create) {
    internal::EpochSlot& session = *epochs_.AcquireSlot();
    for (Step step = Step::kAgain; step == Step::kAgain;) {
      {
        EpochGuard guard(epochs_, session);
        step = TryPut(chain, create);
      }
      if (step == Step::kAgain) {
        schedule_.Count("updates that left", 1);
        internal::Yield();
      }
    }
    epochs_.ReleaseSlot(&session);
  }
  // The record that a search finds is not older than the newest one when it began.
  void Get(std::size_t chain) {
    internal::EpochSlot& session = *epochs_.AcquireSlot();
    for (bool again = true; again;) {
      {
        EpochGuard guard(epochs_, session);
        const Address least = newest_[chain];
        const Address begin = begin_;
        const Address found = index_.Find(Hash(chain)).entry.address();
        again = found == internal::kBeingMoved;
        if (!again && least >= begin && least >= begin_) {
          schedule_.Check(found >= least, "a record that was published before is not found");
        }
        schedule_.Check(again || found <= kNoRecord || OwnerOf(found) == chain,
                        "a record of another chain is found");
      }
      if (again) {
        schedule_.Count("reads that left", 1);
        internal::Yield();
      }
    }
    epochs_.ReleaseSlot(&session);
  }
  void Grow() {
    if (index_.BeginGrowth() != HashIndex::GrowthStart::kStarted)
      return schedule_.Fail("no growth");
    do {
      Drain();
      index_.BeginSplit();
    } while (index_.FinishSplit());
    Drain();
    index_.EndGrowth();
  }
  // Everything published so far is dead.
  void Sweep() {
    begin_ = Address(kFirst + 8 * owners_.size());
    Drain();
    for (std::uint64_t row = 0; row < index_.bucket_count(); ++row) {
      schedule_.Count("swept", index_.SweepBucket(row, begin_));
    }
  }

  // After the fibers have ended.
  void Check() {
    const std::uint64_t mask = index_.bucket_count() - 1;
    std::set<std::uint64_t> hashes;
    for (std::uint64_t row = 0; row <= mask; ++row) {
      index_.ForEachEntry(row, [&](IndexEntry entry) {
        const std::uint64_t hash = HashOf(entry.tag()) | (row & 1);
        if (!hashes.insert(hash).second) schedule_.Fail("one tag has two entries");
        schedule_.Check((hash & mask) == row, "an entry is in another row");
      });
    }
    for (std::size_t chain = 0; chain < kCount; ++chain) {
      const Address found = index_.Find(Hash(chain)).entry.address();
      if (newest_[chain] >= begin_) {
        schedule_.Check(found == newest_[chain], "the newest record is not found");
      } else {
        schedule_.Check(found < begin_, "a record is found that nobody has made");
      }
    }
    for (std::uint32_t tag = 100; begin_.is_null() && tag < 100 + crowd_; ++tag) {
      schedule_.Check(index_.Find(HashOf(tag)).entry.address() > kNoRecord, "an entry is lost");
    }
  }

 private:
  using CreateResult = HashIndex::CreateResult;
  enum class Step { kDone, kAgain };

  // Row 0 or 1 and tag 0 or 1, which decides the row that they are in after one doubling.
  static std::uint64_t Hash(std::size_t chain) { return chain; }
  Address Take(std::size_t chain) {
    owners_.push_back(chain);
    return Address(kFirst + 8 * (owners_.size() - 1));
  }
  std::size_t OwnerOf(Address address) const { return owners_[(address - Address(kFirst)) / 8]; }

  Step TryPut(std::size_t chain, bool create) {
    HashIndex::EntrySlot slot;
    const Address least = newest_[chain];
    const CreateResult result =
        create ? index_.FindOrCreate(Hash(chain), slot) : index_.FindForUpdate(Hash(chain), slot);
    if (result != CreateResult::kFound) return Step::kAgain;
    for (;;) {
      if (slot.entry.address() < least && least >= begin_) {
        schedule_.Fail("an update does not find what was published before");
      }
      if (slot.word == nullptr || (!create && slot.entry.address() < begin_)) return Step::kDone;
      const Address own = Take(chain);
      if (HashIndex::Publish(slot, own)) {
        // Of two that publish one after the other the second may come here first.
        newest_[chain] = std::max(newest_[chain], own);
        return Step::kDone;
      }
      schedule_.Count("lost publications", 1);
      if (!HashIndex::Reload(slot)) return Step::kAgain;
    }
  }
  void Drain() {
    const std::uint64_t epoch = epochs_.Bump();
    while (!epochs_.Drained(epoch)) internal::Yield();
  }

  Schedule& schedule_;
  EpochManager epochs_{0};
  HashIndex index_{kExponent, kExponent, false};
  std::uint32_t crowd_ = 0;
  static constexpr std::uint64_t kFirst = 4096;
  std::vector<std::size_t> owners_;  // of each address, the chain
  Address begin_;
  std::array<Address, kCount> newest_;
};

// Sessions on few chains; `job` is the one that runs concurrently.
void SessionsBeside(Schedule& schedule, void (Chains::*job)()) {
  Random& random = schedule.random();
  Chains chains(schedule, static_cast<std::uint32_t>(random.Below(16)));
  for (std::size_t chain = 0; chain < Chains::kCount; ++chain) {
    if (random.Below(2) == 0) chains.Put(chain, true);
  }
  const std::uint64_t sessions = 1 + random.Below(3);
  for (std::uint64_t i = 0; i < sessions; ++i) {
    std::array<std::uint64_t, 4> plan;
    for (std::uint64_t& one : plan) one = random.Next();
    schedule.Add([&, plan] {
      for (const std::uint64_t one : plan) {
        const std::size_t chain = one / 4 % Chains::kCount;
        one % 4 < 2 ? chains.Get(chain) : chains.Put(chain, one % 4 == 2);
      }
    });
  }
  const std::uint64_t times = 1 + random.Below(2);
  schedule.Add([&, times] {
    for (std::uint64_t i = 0; i < times; ++i) (chains.*job)();
  });
  schedule.Run();
  chains.Check();
}
TEST(IndexSchedules, AGrowthHidesNoEntryAndLosesNone) {
  Explored explored =
      Explore(100000, [](Schedule& schedule) { SessionsBeside(schedule, &Chains::Grow); });
  explored.ExpectPerSchedule("updates that left", 0.05);
  explored.ExpectPerSchedule("reads that left", 0.005);
}
TEST(IndexSchedules, ASweepTakesNothingThatIsAlive) {
  Explored explored =
      Explore(100000, [](Schedule& schedule) { SessionsBeside(schedule, &Chains::Sweep); });
  explored.ExpectPerSchedule("swept", 1.0);
  explored.ExpectPerSchedule("updates that left", 0.01);
}

}  // namespace
}  // namespace ebb::test
