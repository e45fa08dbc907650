// The report's table: one row per figure, with what it is compared with and what was aimed at.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "samples.h"

namespace ebb::bench {

// Things that are measured in turn, A B A B, in every round.
struct Contender {
  std::string name;
  std::function<double(int round)> run;  // returns its figure, for example operations per second
};
// Runs every contender once without counting it and then `rounds` times; now and then a line
// on stderr tells what runs. Series of one call are paired by round.
std::vector<Samples> RunInTurn(const std::string& what, int rounds,
                               const std::vector<Contender>& contenders);

struct Row {
  enum class Aim { kNone, kAtLeast, kAtMost };
  std::string name;
  std::string figure;     // with its unit
  std::string reference;  // what it is compared with, with its figure; may be empty
  Samples judged;         // ratios by round, or figures where there is no reference
  std::string unit{};     // of `judged`: "" for a ratio
  Aim aim = Aim::kNone;
  double target = 0.0;
};

// Markdown on stdout.
class Table {
 public:
  // Prints it, under the table's head if it is the first.
  void Add(const Row& row);
  // Something that belongs under the table, such as a peer's settings.
  void AddNote(std::string note) { notes_.push_back(std::move(note)); }
  void PrintNotes() const;

 private:
  bool begun_ = false;
  std::vector<std::string> notes_;
};

// "23.4 M/s" of operations per second.
std::string Millions(double per_second);

}  // namespace ebb::bench
