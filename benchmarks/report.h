// Groups of rows of the report; each adds its rows to the table. One function per group and file.
#pragma once

#include <string>

#include "settings.h"
#include "table.h"

namespace ebb::bench {

// Single operations on 8-byte keys and values against the ceiling; two threads over one.
void AddMemoryRows(const Settings& settings, Table& table);
// Strings against LMDB and RocksDB.
void AddStringRows(const Settings& settings, Table& table);
// Load speed, memory per record at rest, epoch guard.
void AddLoadRows(const Settings& settings, Table& table);
// An index that has grown with its load against one of the right size.
void AddGrowthRows(const Settings& settings, Table& table);
// A store that collects its garbage while it is overwritten against one that does not.
void AddGarbageRows(const Settings& settings, Table& table);
// Reads past memory against pread.
void AddDeviceRows(const Settings& settings, Table& table);
// Operations beside commits and checkpoints against operations without.
void AddDurabilityRows(const Settings& settings, Table& table);
// Opening a store again against reading its files.
void AddRecoveryRows(const Settings& settings, Table& table);
// Instructions per operation and compile time, by the scripts beside this file. `program` is the
// path of the running report: the program that counts lies beside it.
void AddCountRows(const Settings& settings, const std::string& program, Table& table);

}  // namespace ebb::bench
