// Life: one store, from its creation through crashes and reopenings, in fibers on one thread.
//
// Each opening of a life runs the fibers of its plan: clients, each with a named session, and the
// world, which lets calls fail, fills the disk, takes memory away, lets the clock jump, and takes
// snapshots of the disk after a power loss. Then the faults end and the schedule becomes calm.
//
// Oracles:
//   - Each call returns what it may return: errors only while or after something fails, and never
//     DataLoss, Internal or InvalidArgument. No value is torn, or of another key.
//   - The calls on each key are those of a register (register.h), during all jobs.
//   - Each snapshot, and each backup, opens, verifies, and holds a prefix of each session: exactly
//     the updates up to the serial that it reports; among them each that a commit covered, or that
//     returned OK with kAlways; and none that had not begun.
//   - A power loss during an opening leaves the same state as before.
//   - Once the faults have ended, an update succeeds within 64 calls and a second, and so does a
//     commit; the store verifies; Close succeeds, and leaves every update and no open file. Unless
//     the store is poisoned: then its files are opened again.
//   - With periodic commits, an update survives a power loss after twice their interval.
//   - A life frees all of its memory.
//   - Fibers that all wait, without a timer, end the program (scheduler.h); and so does a call that
//     never returns.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "tests/simulation/plan.h"

namespace ebb::test {

struct LifeResult {
  std::string failure;  // empty: none
  std::uint64_t steps = 0;
  std::uint64_t virtual_ns = 0;
  std::uint64_t trace = 0;
  std::map<std::string_view, std::uint64_t> counts;
};

// `order`: another interleaving of the same plan.
LifeResult Live(const Plan& plan, std::uint64_t order);

}  // namespace ebb::test
