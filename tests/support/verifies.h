// Verifies: whether a store that should be healthy passes its verification. Suites call it after
// their steps, so that verifiers never complain about a healthy store (lifetime.h).
//
//   EXPECT_TRUE(Verifies(store));           // an open store: Store::Verify
//   Must(store.Close());
//   EXPECT_TRUE(Verifies(files, "db"));     // a directory: VerifyDirectory
//
// Both read the whole log. A suite of very many steps calls them for a sample.
//
// Thread safety: functions without state.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "ebb/internal/open/offline_verifier.h"
#include "ebb/verify.h"
#include "gtest/gtest.h"

namespace ebb::test {

// The problems as a status, for suites that collect statuses.
inline absl::Status StatusOf(const absl::StatusOr<VerifyReport>& report) {
  if (!report.ok()) return report.status();
  if (report->ok() && report->problems.empty()) return absl::OkStatus();
  return absl::DataLossError("verification finds " + std::to_string(report->problem_count) +
                             " problems: " + testing::PrintToString(report->problems));
}

inline testing::AssertionResult IsWhole(const absl::StatusOr<VerifyReport>& report) {
  const absl::Status status = StatusOf(report);
  if (status.ok()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << status;
}

template <typename StoreType>
testing::AssertionResult Verifies(StoreType& store) {
  return IsWhole(store.Verify());
}
inline testing::AssertionResult Verifies(internal::FileSystem& files, const std::string& path) {
  return IsWhole(internal::VerifyFiles(files, path, {}));
}

}  // namespace ebb::test
