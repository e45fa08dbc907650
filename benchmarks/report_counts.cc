// Figures that do not depend on the machine's mood: instructions and compile time. See report.h.
//
// Both come from scripts beside this file, which print lines of a name and a number.
#include <fmt/core.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "report.h"

namespace ebb::bench {
namespace {

// Lines "name number" of a command's output; empty when it failed.
std::map<std::string, double> RunScript(const std::string& command) {
  fmt::print(stderr, "ebb_report: counts: {}\n", command);
  std::map<std::string, double> numbers;
  FILE* const output = popen(command.c_str(), "r");
  if (output == nullptr) return numbers;
  char name[64];
  double number = 0.0;
  while (std::fscanf(output, "%63s %lf", name, &number) == 2) numbers[name] = number;
  if (pclose(output) != 0) numbers.clear();
  return numbers;
}

std::string FolderOf(const std::string& program) {
  const std::size_t slash = program.rfind('/');
  return slash == std::string::npos ? "." : program.substr(0, slash);
}

void AddInstructionRows(const std::string& folder, Table& table) {
  const auto counts = RunScript(
      fmt::format("sh '{}/instructions.sh' '{}/ebb_instructions'", EBB_BENCH_SOURCE_DIR, folder));
  constexpr std::pair<const char*, double> kTargets[] = {
      {"read", 65.0},         {"upsert", 65.0},         {"rmw", 70.0},
      {"batched_read", 75.0}, {"batched_upsert", 75.0}, {"batched_rmw", 75.0}};
  for (const auto& [verb, target] : kTargets) {
    const auto found = counts.find(verb);
    if (found == counts.end()) continue;
    table.Add({.name = fmt::format("instructions, {}, 8-byte", verb),
               .figure = fmt::format("{:.1f}", found->second),
               .reference = "",
               .judged = {found->second},
               .unit = "",
               .aim = Row::Aim::kAtMost,
               .target = target});
  }
  if (counts.empty()) table.AddNote("instructions were not counted (is valgrind installed?)");
}

void AddCompileTimeRow(Table& table) {
  const auto seconds = RunScript(
      fmt::format("sh '{}/compile_time.sh' '{}'", EBB_BENCH_SOURCE_DIR, EBB_BENCH_COMPILER));
  const auto store = seconds.find("store");
  const auto headers = seconds.find("headers");
  if (store == seconds.end() || headers == seconds.end()) {
    table.AddNote("compile time was not measured");
    return;
  }
  table.Add({.name = "compile time of two stores over the same headers, -O2",
             .figure = fmt::format("{:.2f} s", store->second),
             .reference = fmt::format("headers alone: {:.2f} s", headers->second),
             .judged = {store->second - headers->second},
             .unit = " s",
             .aim = Row::Aim::kAtMost,
             .target = 1.5});
}

}  // namespace

void AddCountRows(const Settings&, const std::string& program, Table& table) {
  AddInstructionRows(FolderOf(program), table);
  AddCompileTimeRow(table);
}

}  // namespace ebb::bench
