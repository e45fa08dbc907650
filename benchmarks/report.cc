// ebb_report: every figure with a target, as a ratio of two things measured in turn in one run.
//
//   ebb_report [--keys=N] [--rounds=N] [--dir=FOLDER] [--only=GROUPS]
//
// Groups are memory, strings, load, growth, garbage, device, durability, recovery and counts, with
// commas between.
//
// Prints a table in Markdown: the store's figure, what it is compared with, the median of the
// paired rounds with their spread, and whether the target is met; each row as soon as it has been
// measured. Some ten minutes with the defaults; a line on stderr tells what runs.
#include "report.h"

#include <fmt/core.h>

#include "team.h"

int main(int argc, char** argv) {
  using namespace ebb::bench;
  const Settings settings = SettingsFromArguments(argc, argv);
  const auto wanted = [&settings](const char* group) {
    return settings.only.empty() || settings.only.find(group) != std::string::npos;
  };
  Table table;
  table.AddNote(fmt::format("{} 8-byte keys, {} string keys, {} buckets, {} rounds, {} processors",
                            settings.key_count, settings.string_key_count(),
                            BucketCountFor(settings.key_count), settings.rounds, ProcessorCount()));
  if (wanted("counts")) AddCountRows(settings, argv[0], table);
  if (wanted("memory")) AddMemoryRows(settings, table);
  if (wanted("strings")) AddStringRows(settings, table);
  if (wanted("load")) AddLoadRows(settings, table);
  if (wanted("growth")) AddGrowthRows(settings, table);
  if (wanted("garbage")) AddGarbageRows(settings, table);
  if (wanted("device")) AddDeviceRows(settings, table);
  if (wanted("durability")) AddDurabilityRows(settings, table);
  if (wanted("recovery")) AddRecoveryRows(settings, table);
  table.PrintNotes();
  return 0;
}
