// IndexFiller: puts the records of a log into an index that nobody else knows yet. For recovery.
//
// Records come in the order of the log and are kept until there are some ten thousands of them.
// Then they are put into the index part by part, where a part is a run of its rows: each by whoever
// takes it first, the caller or a thread of the pool that has nothing else to do. So a row is one
// thread's, the records of a chain come in order, and a pool that is busy or has no threads holds
// nothing up. Between two such rounds the index grows if it must.
//
// Thread safety: one thread calls, before the store has others; the pool's threads help.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "ebb/internal/core.h"

namespace ebb::internal {

class IndexFiller {
 public:
  // Links to below `linked_from` are not looked at.
  IndexFiller(Core& core, Address linked_from);
  ~IndexFiller();  // waits for those who help
  IndexFiller(const IndexFiller&) = delete;
  IndexFiller& operator=(const IndexFiller&) = delete;

  struct Item {
    std::uint64_t hash = 0;
    Address address;
    Address prev;  // what the record links to
  };
  // ResourceExhausted: no memory for the index.
  absl::Status Add(const Item& item);
  // Puts what was added so far into the index.
  absl::Status Flush();
  // After Flush: the first record that does not link to what was its chain's newest record when it
  // came, nor to below `linked_from`; null when there is none.
  Address bad_link() const;

 private:
  struct Shared;
  void BeginRound();

  Core& core_;
  const std::unique_ptr<Shared> shared_;
  std::size_t waiting_ = 0;  // records that are not in the index yet
  std::size_t most_waiting_ = 0;
  int part_shift_ = 0;           // a row's number, shifted by it, is its part's
  std::deque<PoolJob> helpers_;  // last: they use the others
};

}  // namespace ebb::internal
