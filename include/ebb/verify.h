// Verification: reads everything that a store has on the device and says what is not as it should
// be: Store::Verify of a store that is open, VerifyDirectory of one that is not.
//
// Every block of the log: its checksum, and that it is of this store, place and history. Every
// record: its lengths, and that its previous address falls and leads to a record of the same chain,
// as the bits of the key's hash tell. Every entry of the index: that its chain leads to the newest
// records of the log; and that no chain of the log is without an entry. Every checkpoint: its
// manifest, each entry of its image, and that no chain is missing there. That the log does not end
// before durable.ebb says, and that this file is there.
//
// Everything below the log's begin is dead, and no damage: a healthy store never has a problem.
//
// Thread safety: plain data; VerifyDirectory any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ebb/internal/check.h"

namespace ebb {

struct VerifyProgress {
  std::uint64_t checked_bytes = 0;
  std::uint64_t total_bytes = 0;  // of the log, as far as is known now
};

struct VerifyOptions {
  // How many problems are told in words; all are counted.
  std::size_t most_problems = 100;
  // Called in the calling thread, for each page of the log. The table in ebb/options.h says what it
  // may do.
  std::function<void(const VerifyProgress&)> progress = {};
};

struct VerifyReport {
  std::uint64_t block_count = 0;       // of the log, 4 KiB each
  std::uint64_t record_count = 0;      // valid ones, of whatever version
  std::uint64_t entry_count = 0;       // of the index, each the head of a chain
  std::uint64_t checkpoint_count = 0;  // looked at
  std::uint64_t problem_count = 0;
  std::vector<std::string> problems;  // the first ones, with file and offset where there is one
  bool ok() const { return problem_count == 0; }
};

// Verifies the store in a directory that no store has open for writing, and changes nothing in it.
// Several can run at the same time; while one runs, Open for writing is FailedPrecondition. Reads
// the whole log; the memory of an index is needed for it. Damage is in the report. Errors:
// InvalidArgument (there is no store), FailedPrecondition (it is open for writing), Unimplemented
// (of a newer version), ResourceExhausted, Unavailable.
absl::StatusOr<VerifyReport> VerifyDirectory(const std::string& path,
                                             const VerifyOptions& options = {});

}  // namespace ebb
