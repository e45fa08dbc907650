// IndexFiller: adds the records of a log to an index that no other thread knows yet. For recovery.
//
// Records come in the order of the log and are collected until there are a few ten thousand. Then
// they are added to the index part by part, where a part is a run of its bucket chains. Each part
// is processed by the thread that takes it first: the caller, or a thread of the pool that has no
// other work. So each bucket chain belongs to one thread, the records of a chain are added in
// order, and a pool that is busy or has no threads delays nothing. Between two such rounds the
// index grows if it must.
//
// Thread safety: one thread calls, before the store has others; the pool's threads help.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "absl/status/status.h"
#include "ebb/internal/core/core.h"

namespace ebb::internal {

class IndexFiller {
 public:
  // Links to below `linked_from` are not checked.
  IndexFiller(Core& core, Address linked_from);
  ~IndexFiller();  // waits for the helping threads
  IndexFiller(const IndexFiller&) = delete;
  IndexFiller& operator=(const IndexFiller&) = delete;

  struct NewEntry {
    std::uint64_t hash = 0;
    Address address;
    Address prev;  // the address that the record links to
  };
  // Errors: ResourceExhausted (no memory for the index).
  absl::Status Add(const NewEntry& item);
  // Adds the records collected so far to the index.
  absl::Status Flush();
  // After Flush: returns the first record that links neither to the newest record of its chain at
  // that time, nor to below `linked_from`; null if there is none.
  Address bad_link() const;

 private:
  struct Shared;
  void BeginRound();

  Core& core_;
  const std::unique_ptr<Shared> shared_;
  std::size_t waiting_ = 0;  // records that are not in the index yet
  std::size_t max_waiting_ = 0;
  int part_shift_ = 0;           // a bucket chain's number, shifted right by it, is its part's
  std::deque<PoolJob> helpers_;  // last: they use the others
};

}  // namespace ebb::internal
