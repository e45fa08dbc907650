#include "table.h"

#include <fmt/core.h>

#include <chrono>
#include <cstdio>

namespace ebb::bench {
namespace {

std::string Aimed(const Row& row) {
  if (row.aim == Row::Aim::kNone) return "";
  return fmt::format("{} {:.4g}{}", row.aim == Row::Aim::kAtLeast ? ">=" : "<=", row.target,
                     row.unit);
}

const char* Verdict(const Row& row) {
  if (row.aim == Row::Aim::kNone) return "";
  const double median = Median(row.judged);
  const bool met = row.aim == Row::Aim::kAtLeast ? median >= row.target : median <= row.target;
  return met ? "met" : "MISSED";
}

}  // namespace

std::vector<Samples> RunInTurn(const std::string& what, int rounds,
                               const std::vector<Contender>& contenders) {
  std::vector<Samples> series(contenders.size());
  double told_at = -1.0;
  const auto begin = std::chrono::steady_clock::now();
  for (int round = 0; round <= rounds; ++round) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (told_at < 0.0 || passed.count() > told_at + 2.0) {
      fmt::print(stderr, "ebb_report: {}: {}\n", what,
                 round == 0 ? "warm-up" : fmt::format("round {} of {}", round, rounds));
      told_at = passed.count();
    }
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const double figure = contenders[i].run(round);
      if (round > 0) series[i].push_back(figure);
    }
  }
  return series;
}

void Table::Add(const Row& row) {
  if (!begun_) {
    fmt::print("| row | ebb | compared with | median (least to most) | target | |\n");
    fmt::print("|---|---|---|---|---|---|\n");
    begun_ = true;
  }
  fmt::print("| {} | {} | {} | {:.3g}{} ({:.3g} to {:.3g}) | {} | {} |\n", row.name, row.figure,
             row.reference, Median(row.judged), row.unit, Least(row.judged), Most(row.judged),
             Aimed(row), Verdict(row));
  std::fflush(stdout);
}

void Table::PrintNotes() const {
  fmt::print("\n");
  for (const std::string& note : notes_) fmt::print("* {}\n", note);
  std::fflush(stdout);
}

std::string Millions(double per_second) { return fmt::format("{:.3g} M/s", per_second / 1e6); }

}  // namespace ebb::bench
