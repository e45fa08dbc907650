// StoreStats: what a store says about itself.
#pragma once

#include <cstdint>

namespace ebb {

// Addresses are byte positions in the log; they only grow. Counters run since Open. Boundaries are
// read one after the other, each monotone, so that begin <= head <= flushed_until <=
// safe_read_only <= read_only <= tail holds in every result.
struct StoreStats {
  std::uint64_t begin_address = 0;          // oldest record that still counts
  std::uint64_t head_address = 0;           // below: on the device only
  std::uint64_t flushed_until_address = 0;  // below: written to the device (not necessarily synced)
  std::uint64_t safe_read_only_address = 0;  // below: nobody can still change a byte
  std::uint64_t read_only_address = 0;       // below: copied when updated; above: updated in place
  std::uint64_t tail_address = 0;            // where the next record goes

  std::uint64_t page_bytes = 0;
  std::uint64_t log_memory_bytes = 0;    // frames the log may keep resident
  std::uint64_t index_memory_bytes = 0;  // buckets and overflow buckets
  std::uint64_t huge_page_bytes = 0;     // of log and index memory, backed by huge pages now
  std::uint64_t index_bucket_count = 0;
  std::uint64_t index_overflow_count = 0;  // overflow buckets in use

  std::uint64_t flushed_bytes = 0;      // written to the device by flushes, whole blocks
  std::uint64_t device_read_count = 0;  // reads of the device made for operations
  std::uint64_t device_read_bytes = 0;
  std::uint64_t page_turn_count = 0;
  std::uint64_t fuzzy_wait_count = 0;  // operations that left because a record was not frozen
  std::uint64_t page_wait_count = 0;   // operations that left because their page was full
  std::uint64_t failed_cas_count = 0;  // publications that lost a race and were taken again
  bool direct_io = false;              // the log files bypass the page cache
  bool membarrier = false;             // guards use membarrier; false: atomic exchange
};

}  // namespace ebb
