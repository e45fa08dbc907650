// Register: whether the calls on one key, of any number of fibers, are those of one register.
//
// Each write has a number of its own, which reads return, so a history of hundreds of calls is
// decided in about as many steps: calls of one lane follow each other, so a state of the search is
// how many calls of each lane have been placed, and the register's number (after G. Lowe, "Testing
// for linearizability", 2017). History (tests/schedule/history.h) has short histories and records
// in each value all that it has seen; here, an Rmw records what it saw.
//
// After a crash some updates are kept: see ExplainsCrash there for the rule, which is the same.
//
// Thread safety: one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

namespace ebb::test {

inline constexpr std::uint64_t kNoTime = ~std::uint64_t{0};

struct Call {
  enum class Kind { kRead, kContains, kUpsert, kRmw, kDelete, kInsert, kCompareExchange };
  // kUnknown: it had an effect or not, and returned nothing that tells.
  enum class Result { kOk, kNotFound, kAlreadyExists, kAborted, kRefused, kUnknown };
  Kind kind = Kind::kRead;
  std::size_t key = 0;
  std::size_t session = 0;
  std::uint64_t number = 0;  // that it writes; 0 is an absent key
  std::uint64_t saw = 0;  // the number that a read returned, an Rmw edited or a comparison expected
  std::uint64_t begin = 0;
  std::uint64_t end = kNoTime;
  Result result = Result::kUnknown;
  std::uint64_t serial = 0;  // 0: it took none
  bool overlaps = false;     // with later calls of its session: an asynchronous one
};

class Register {
 public:
  // The calls on one key. Those of a session that do not overlap are in their order.
  explicit Register(const std::vector<Call>& calls) {
    for (const Call& call : calls) {
      if (call.result == Call::Result::kRefused) continue;
      LaneFor(call).push_back(call);
    }
  }

  struct Crash {
    const std::vector<std::uint64_t>& serials;  // the last kept one of each session
    std::uint64_t state;                        // that the crash left
  };
  // `last`: the number at the end; kNoTime: unknown. `crash`: may be null.
  bool Explains(std::uint64_t first, std::uint64_t last, const Crash* crash) {
    seen_.clear();
    places_.assign(lanes_.size(), 0);
    last_ = last;
    crash_ = crash;
    return Go(first, /*crashed=*/false);
  }

 private:
  using Lane = std::vector<Call>;

  Lane& LaneFor(const Call& call) {
    for (Lane& lane : lanes_) {
      const Call& last = lane.back();
      if (!call.overlaps && !last.overlaps ? last.session == call.session : last.end < call.begin) {
        return lane;
      }
    }
    return lanes_.emplace_back();
  }

  bool Kept(const Call& call) const {
    return call.serial != 0 && call.serial <= crash_->serials[call.session];
  }

  bool Go(std::uint64_t state, bool crashed) {
    if (!seen_.insert(Name(state, crashed)).second) return false;
    // A call may be next if no other one had ended when it began.
    std::uint64_t first_end = kNoTime;
    bool all = true;
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
      if (places_[lane] == lanes_[lane].size()) continue;
      all = false;
      first_end = std::min(first_end, lanes_[lane][places_[lane]].end);
    }
    if (all) {
      if (crash_ != nullptr && !crashed && state != crash_->state) return false;
      return last_ == kNoTime || state == last_;
    }
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
      if (places_[lane] == lanes_[lane].size()) continue;
      const Call& call = lanes_[lane][places_[lane]];
      if (call.begin > first_end) continue;
      ++places_[lane];
      const bool found = Place(call, state, crashed);
      --places_[lane];
      if (found) return true;
    }
    return false;
  }

  bool Place(const Call& call, std::uint64_t state, bool crashed) {
    if (call.result == Call::Result::kUnknown && Step(call, state, state, crashed)) return true;
    std::uint64_t after = state;
    return Apply(call, after) && Step(call, state, after, crashed);
  }
  bool Step(const Call& call, std::uint64_t state, std::uint64_t after, bool crashed) {
    if (crash_ != nullptr) {
      const bool kept = Kept(call);
      if (kept && crashed) return false;
      if (!kept && !crashed && after != state) {
        if (state != crash_->state) return false;
        crashed = true;
      }
    }
    return Go(after, crashed);
  }

  // False when the call cannot have had its result here.
  static bool Apply(const Call& call, std::uint64_t& state) {
    using Kind = Call::Kind;
    using Result = Call::Result;
    const bool present = state != 0;
    if (call.result == Result::kUnknown) {
      if (call.kind == Kind::kInsert && present) return false;
      if (call.kind == Kind::kCompareExchange && state != call.saw) return false;
      if (call.kind == Kind::kDelete) {
        state = 0;
      } else if (call.number != 0) {
        state = call.number;
      }
      return true;
    }
    if (call.result == Result::kNotFound) return !present && call.kind != Kind::kRmw;
    switch (call.kind) {
      case Kind::kRead:
        return present && state == call.saw;
      case Kind::kContains:
        return present;
      case Kind::kUpsert:
        state = call.number;
        return true;
      case Kind::kRmw:
        if (state != call.saw) return false;
        state = call.number;
        return true;
      case Kind::kDelete:
        state = 0;
        return present;
      case Kind::kInsert:
        if (call.result == Result::kAlreadyExists) return present;
        if (present) return false;
        state = call.number;
        return true;
      case Kind::kCompareExchange:
        if (call.result == Result::kAborted) return present && state != call.saw;
        if (!present || state != call.saw) return false;
        state = call.number;
        return true;
    }
    return false;
  }

  std::string Name(std::uint64_t state, bool crashed) const {
    std::string name;
    const auto add = [&](std::uint64_t number) {
      name.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    for (const std::uint16_t place : places_) {
      name.append(reinterpret_cast<const char*>(&place), sizeof place);
    }
    add(state << 1 | (crashed ? 1 : 0));
    return name;
  }

  std::vector<Lane> lanes_;
  std::vector<std::uint16_t> places_;
  std::unordered_set<std::string> seen_;  // that led nowhere
  std::uint64_t last_ = kNoTime;
  const Crash* crash_ = nullptr;
};

}  // namespace ebb::test
