// The hash index under schedules: inserters of one tag, beside others in the same bucket.
#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <map>

#include "ebb/internal/hash_index.h"
#include "tests/schedule/explore.h"

namespace ebb::test {
namespace {

using internal::Address;
using internal::AtomicWord;
using internal::HashIndex;
using internal::IndexEntry;
using internal::kNoRecord;

constexpr int kExponent = 1;

// In the first bucket.
std::uint64_t HashOf(std::uint32_t tag) { return std::uint64_t{tag} << kExponent; }

// What one inserter did.
struct Inserted {
  std::uint32_t tag = 0;
  const AtomicWord* entry = nullptr;
  Address address;
  std::uint64_t contended = 0;  // times that another inserter of the tag was met
  Address above;                // what was the newest of the chain before
};

void Insert(HashIndex& index, Inserted& inserted) {
  HashIndex::Slot slot;
  while (index.FindOrCreate(HashOf(inserted.tag), slot) == HashIndex::CreateResult::kContended) {
    ++inserted.contended;
    sched_yield();
  }
  for (; !HashIndex::Publish(slot, inserted.address); slot.entry = HashIndex::Reload(slot)) {
  }
  inserted.entry = slot.word;
  inserted.above = slot.entry.address();
}

// Three inserters, two or three of them of one tag, into a bucket with room for three, two, one or
// none of the seven; so an overflow bucket is linked meanwhile, or just not.
void Inserters(Schedule& schedule) {
  HashIndex index(kExponent, kExponent, false);
  const auto before = static_cast<std::uint32_t>(4 + schedule.random().Below(4));
  HashIndex::Slot slot;
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

}  // namespace
}  // namespace ebb::test
