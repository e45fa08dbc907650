// Ceiling: the least memory traffic that a point operation needs, and nothing else.
//
// A store of this design loads a bucket line and then the record line that it names: two dependent
// cache misses. The ceiling does exactly that for the same key stream, in huge-page memory of the
// store's own sizes: hash the key, load a line of an array of 64-byte buckets, take the one of its
// eight words that the hash chooses, and load (read), store to (upsert) or compare-and-swap (rmw)
// the record line that the word names. It compares no key and checks nothing, so no store can
// reach it. How much of the two misses overlaps between keys depends on how far ahead prefetches
// run, and the best way depends on the machine: all of them are run, and the best counts.
//
// Thread safety: Run may be called by any number of threads at once.
#pragma once

#include <cstdint>
#include <span>

#include "memory.h"

namespace ebb::bench {

enum class Verb { kRead, kUpsert, kRmw };
inline constexpr Verb kVerbs[] = {Verb::kRead, Verb::kUpsert, Verb::kRmw};
const char* NameOf(Verb verb);   // "read"
const char* TitleOf(Verb verb);  // "Read", for benchmark names

class Ceiling {
 public:
  struct Sizes {
    std::uint64_t bucket_count = 0;  // a power of two: the store's
    std::uint64_t record_count = 0;
  };
  static constexpr std::uint64_t kRecordBytes = 24;  // header, key and value of 8 bytes each

  // The ways to run: no prefetch, groups of 16, 32 and 64, a ring of 32, the last four with the
  // default hint and with the T1 hint.
  struct Way;
  static std::span<const Way> Ways();

  explicit Ceiling(const Sizes& sizes);

  // Does `verb` on each key in one way; returns a sum, so that no load can be left out.
  std::uint64_t Run(const Way& way, Verb verb, std::span<const std::uint64_t> keys) const;

 private:
  HugeBuffer buckets_;
  HugeBuffer records_;
  std::uint64_t bucket_mask_;
};

// What a loop needs, by value, so that the compiler keeps it in registers.
struct CeilingView {
  const std::uint64_t* bucket_words;
  std::byte* records;
  std::uint64_t bucket_mask;
};

struct Ceiling::Way {
  using Loop = std::uint64_t (*)(CeilingView, std::span<const std::uint64_t>);
  const char* name;  // usable in a benchmark's name
  Loop loops[3];     // by Verb
};

}  // namespace ebb::bench
