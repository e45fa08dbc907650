// Engines: the stores that the comparison runs, behind one small interface.
//
// An engine is loaded once and then runs steps for a time, in any number of threads. Every value
// names its key, and every read copies the value out and checks it.
//
// Thread safety: Run with different thread numbers at once; everything else one at a time. Any
// failed call of an engine ends the program with its message.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "keys.h"
#include "latency.h"

namespace ebb::bench {

enum class Kind : std::uint8_t { kRead, kUpdate, kRmw };
struct Step {
  std::uint64_t key = 0;
  Kind kind = Kind::kRead;
};

// Where an engine has its data, and with how much memory.
struct EngineShape {
  std::uint64_t key_count = 0;
  std::uint64_t value_bytes = 0;
  int thread_count = 1;
  std::string directory{};         // empty: no files, for those that can do without
  std::uint64_t memory_bytes = 0;  // for records; 0: as much as they need
};

struct RunResult {
  std::uint64_t steps = 0;
  std::uint64_t wrong = 0;  // reads that found nothing, or something else
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string Describe() const = 0;
  virtual void Load(std::span<const std::uint64_t> keys) = 0;
  // Runs steps from `first` on, round and round, until `until` has passed. Each call of the engine
  // is timed into `latencies`, if there are any.
  using Clock = std::chrono::steady_clock;
  virtual RunResult Run(int thread, std::span<const Step> steps, std::size_t first,
                        Clock::time_point until, Latencies* latencies) = 0;
};

// ---- values of 8 and of 100 bytes ----

using Value8 = std::uint64_t;
using Value100 = std::array<std::byte, 100>;

inline Value8 MakeValue(std::uint64_t key, const Value8*) { return ValueOf(key); }
inline Value100 MakeValue(std::uint64_t key, const Value100*) {
  Value100 value;
  for (std::size_t at = 0; at + 8 <= value.size(); at += 8) std::memcpy(&value[at], &key, 8);
  std::memcpy(&value[96], &key, 4);
  return value;
}
inline bool IsValue(std::uint64_t key, const Value8& value) { return IsValueOf(key, value); }
// Both ends; what lies between is counted by rmws.
inline bool IsValue(std::uint64_t key, const Value100& value) {
  return std::memcmp(value.data(), &key, 8) == 0 && std::memcmp(&value[96], &key, 4) == 0;
}
inline void Increment(Value8& value) { value += kCountOne; }
inline void Increment(Value100& value) {
  std::uint64_t count;
  std::memcpy(&count, &value[48], 8);
  ++count;
  std::memcpy(&value[48], &count, 8);
}

// Runs steps one by one on a client with Read(key, value), Put(key, value) and Rmw(key).
template <typename Value, typename Client>
RunResult RunSteps(Client& client, std::span<const Step> steps, std::size_t first,
                   Engine::Clock::time_point until, Latencies* latencies) {
  constexpr std::size_t kBetweenLooks = 64;  // at the clock
  RunResult result;
  Value value{};
  const auto run = [&](const Step& step) {
    switch (step.kind) {
      case Kind::kRead:
        if (!client.Read(step.key, value) || !IsValue(step.key, value)) ++result.wrong;
        break;
      case Kind::kUpdate:
        client.Put(step.key, MakeValue(step.key, &value));
        break;
      case Kind::kRmw:
        client.Rmw(step.key);
        break;
    }
  };
  for (std::size_t at = first % steps.size();; at = (at + kBetweenLooks) % steps.size()) {
    for (std::size_t i = at; i < std::min(at + kBetweenLooks, steps.size()); ++i) {
      if (latencies == nullptr) {
        run(steps[i]);
      } else {
        const auto begun = Engine::Clock::now();
        run(steps[i]);
        const auto taken = std::chrono::nanoseconds(Engine::Clock::now() - begun);
        latencies->Add(static_cast<std::uint64_t>(taken.count()));
      }
      ++result.steps;
    }
    if (Engine::Clock::now() >= until) return result;
  }
}

// ---- which there are; null: not installed, or not for this shape ----

std::unique_ptr<Engine> MakeEbb(const EngineShape& shape);
std::unique_ptr<Engine> MakeEbbBatched(const EngineShape& shape);
std::unique_ptr<Engine> MakeEbbPromoting(const EngineShape& shape);
std::unique_ptr<Engine> MakeShardedMaps(const EngineShape& shape);
std::unique_ptr<Engine> MakeTbb(const EngineShape& shape);
std::unique_ptr<Engine> MakeRocksDb(const EngineShape& shape);
std::unique_ptr<Engine> MakeLevelDb(const EngineShape& shape);
std::unique_ptr<Engine> MakeLmdb(const EngineShape& shape);

// The engine for the shape's size of values.
template <template <typename> typename EngineOf>
std::unique_ptr<Engine> MakeFor(const EngineShape& shape) {
  if (shape.value_bytes == sizeof(Value8)) return std::make_unique<EngineOf<Value8>>(shape);
  return std::make_unique<EngineOf<Value100>>(shape);
}

[[noreturn]] inline void Abort(const std::string& engine, const std::string& why) {
  std::fprintf(stderr, "%s: %s\n", engine.c_str(), why.c_str());
  std::abort();
}

}  // namespace ebb::bench
