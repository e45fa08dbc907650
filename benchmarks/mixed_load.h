// MixedLoad: threads that read and upsert for a stated time while one more thread does something
// else at a steady rate, and how evenly they got on.
//
// Time is the wall's: what the other thread and the store's own threads take from the processors
// is what is to be seen. (RunTeam's account, which leaves out the wait for a processor, would hide
// it.)
//
// Thread safety: one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "subjects.h"

namespace ebb::bench {

struct MixedLoadSpec {
  std::chrono::duration<double> time{};
  std::chrono::duration<double> period{};  // from one start of `beside` to the next; 0: at once
  std::function<void()> beside;
  bool timed = false;  // every call; costs the loop some tens of nanoseconds each
  int round = 0;       // chooses where in the streams it begins
};

struct MixedLoadResult {
  double per_second = 0.0;    // operations of all threads
  double worst_window = 0.0;  // of any 100 ms, as a share of the mean
  Latencies latencies;
};

// One thread for each stream, half reads and half upserts.
MixedLoadResult RunMixedLoad(IntegerSubject& store,
                             const std::vector<std::vector<std::uint64_t>>& streams,
                             const MixedLoadSpec& spec);

// A file of one block that is written and synced: what the disk alone takes of the processors.
class SmallFile {
 public:
  explicit SmallFile(const std::string& path);  // aborts when it cannot be made
  ~SmallFile();
  SmallFile(const SmallFile&) = delete;
  SmallFile& operator=(const SmallFile&) = delete;
  void WriteAndSync();

 private:
  int descriptor_;
  std::vector<char> block_ = std::vector<char>(4096);
};

}  // namespace ebb::bench
