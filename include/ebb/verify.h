/// @file
/// Verification: checks everything that a store has on the device. Store::Verify checks an open
/// store, and VerifyDirectory one that is not open.
///
/// It checks:
///
/// * every block of the log: its checksum, and that it belongs to this store, position and
///   incarnation;
/// * every record: its lengths, and that its previous address is lower and leads to a record of the
///   same chain, according to the bits of the key's hash;
/// * every index entry: that its chain leads to the newest records of the log; and that no chain of
///   the log lacks an entry;
/// * every checkpoint: its manifest, each entry of its image, and that no chain is missing there;
/// * the end of the log: that it is not before the address in durable.ebb, and that this file
///   exists.
///
/// Everything below the log's begin is dead, so damage there is not a problem. A healthy store
/// never has a problem.
///
/// Thread safety: plain data; any thread may call VerifyDirectory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ebb/internal/values/check.h"

namespace ebb {

/// The progress of a verification.
struct VerifyProgress {
  /// Bytes of the log checked so far.
  std::uint64_t checked_bytes = 0;
  /// Bytes of the log to be checked, as far as known now.
  std::uint64_t total_bytes = 0;
};

/// The settings of a verification.
struct VerifyOptions {
  /// The maximum number of problems that are described in VerifyReport::problems. All problems are
  /// counted. Any value; default 100.
  std::size_t max_problems = 100;
  /// Called in the calling thread after each page of the log. The table in ebb/options.h lists the
  /// calls that it may make. Default: none.
  std::function<void(const VerifyProgress&)> progress = {};
};

/// The result of a verification.
struct VerifyReport {
  /// Blocks of the log that were checked, of 4 KiB each.
  std::uint64_t block_count = 0;
  /// Valid records, of all versions.
  std::uint64_t record_count = 0;
  /// Index entries; each is the head of a chain of records.
  std::uint64_t entry_count = 0;
  /// Checkpoints that were checked.
  std::uint64_t checkpoint_count = 0;
  /// Problems found.
  std::uint64_t problem_count = 0;
  /// Descriptions of the first problems, with file and offset where there is one.
  std::vector<std::string> problems;
  /// Returns whether no problem was found.
  bool ok() const { return problem_count == 0; }
};

/// Verifies the store in a directory that is not open for writing, and changes nothing in it.
/// Several verifications can run at the same time. While one runs, opening the store for writing
/// fails with FailedPrecondition.
///
/// The report lists the damage found. Errors: InvalidArgument (there is no store),
/// FailedPrecondition (the store is open for writing, or is an unfinished backup), Unimplemented
/// (the files have another format version), PermissionDenied, ResourceExhausted, Unavailable. Cost:
/// reads the whole log; uses the memory of an index.
absl::StatusOr<VerifyReport> VerifyDirectory(const std::string& path,
                                             const VerifyOptions& options = {});

}  // namespace ebb
