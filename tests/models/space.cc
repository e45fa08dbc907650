// The space of a log on a disk that is full, as hybrid_log.h, garbage_collector.h, committer.cc
// and recovery.cc use it: every interleaving of one store, its crashes and openings, and another
// program that takes free blocks.
//
//   space NAME=NUMBER... RULE...     see Config and Rules below; `-v` shows the trace of a failure
//
// A log is a row of cells, config.cells to a block, config.page blocks to a page. A record takes
// config.record cells, a tombstone one, a commit's control record from its place to the end of a
// block. A cell is dead (garbage, tombstones, commits, fillers), or part of a record that is live
// now, or that only the last durable commit still has. Everything is relative to the log's front,
// so a state that comes back with other addresses is the same state.
//
// Checked in every state that can be reached (breadth first, so a trace is a shortest one):
//   I1     A commit that settles records, and Close's, can be written; an opening has the block of
//          its open record.
//   I2     If the live records, one page, and the waste of a collection fit below the ordinary
//          limit, and no scan pins the front, then repeated CollectGarbage reaches a state in which
//          an update succeeds. (During these the other program is quiet.)
//   REST   Collections that a pin makes useless come to rest and leave themselves a slice.
//   LOST   No block that holds a committed record is released.
//   CLASS  An ordinary record lies in a page that is ordinary.
//   SPIN   A call that finds no place ends.
// Two more scripts, too long for a search, are run once with the sizes that the library uses, on
// logs of thousands of blocks:
//   run=1  A long live prefix, garbage at the end of the log: I2.
//   run=2  A disk full of live records is emptied by deletions and collections.
//
// Exit status 0: holds; 1: fails; 2: did not finish, or a wrong argument.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

struct Config {
  int cells = 2;  // of a block
  int disk = 24;  // blocks
  int page = 2;   // blocks
  int segment = 8;
  int record = 1;   // cells
  int keys = 2;     // at most so many live records
  int commits = 8;  // the slices, in blocks
  int collection = 4;
  int deletions = 4;
  int waste = 3;      // blocks, of one pass
  int reclaim = 2;    // min_reclaim_bytes, in blocks; while no update has been rejected
  int image = 0;      // blocks of a checkpoint; 0: there are none
  int pins = 0;       // 1: scans come and go
  int rival = 0;      // 1: another program takes and gives blocks; 2: during an opening, too
  int inflight = 0;   // 1: an update may stop between its look at the page and its fetch_add
  int serials = 0;    // 1: calls without effect consume serials
  int reopen = 1;     // 1: crashes, Close, openings
  int room = 1;       // 0: I2 is not checked: the slices are too small for it
  int run = 0;        // see above
  int blocks = 2000;  // of live records, in a run
  int most = 4'000'000;
};

// The rules that are left out, or applied wrongly.
struct Rules {
  bool one_reserve = false;   // the three slices are one
  bool half_commits = false;  // slices of half the size
  bool half_collection = false;
  bool half_deletions = false;
  bool constant_slice = false;      // of collections, however long the log is
  bool idle_serials = false;        // commits of serials alone belong to no class
  bool stale_blocks_count = false;  // an open record with stale blocks behind it is not replaced
  bool close_states_begin = false;  // Close commits for a new begin alone
  bool close_serials = false;       // Close commits for serials alone, at any cost
  bool open_each = false;           // each opening takes a block
  bool pinned_garbage = false;      // pinned space counts as garbage that a pass would free
  bool free_early = false;          // blocks are released before a commit states the begin
  bool turn_above = false;          // a page is full when its offset is above its end
  bool no_drain = false;            // a page of a higher class is turned to without a drain
  bool truncate_first = false;      // an opening cuts the log before its record is durable
  bool whole_slices = false;        // a slice that there is no space for is not taken in part
  bool checkpoint_kept = false;     // although its successor has no space
};

Config g_config;
Rules g_rules;

enum class Space { kOrdinary, kDeletion, kCollection, kCommit };
enum Mode { kRunning, kEnded, kCut, kOpened };

struct State {
  std::string cells;     // '.', 'L': live, 'K': live for the last commit only, 'r': rest of one
  int phase = 0;         // of the front, in blocks, within a segment
  int durable = 0;       // cells below the end of the last commit
  int begin = 0;         // the last commit's, in cells
  int collected = 0;     // everything below is dead or copied
  int space_end = 0;     // blocks that this process knows to have space
  int held = 0;          // blocks that have it
  int ordinary_end = 0;  // cells
  int other = 0;         // blocks of the other program
  int scan_from = -1;    // of the checkpoint, in cells
  int stale_end = 0;     // blocks up to here, behind the last commit, are on the disk
  int mode = kRunning;
  bool turned = false;  // at a page's start, not at the end of the one before
  bool is_short = false;
  bool inflight = false;
  bool pinned = false;
  bool serial = false;     // moved since the last commit
  bool unsettled = false;  // a record of the next version lies below the control record
  bool last_open = false;  // the last block is an open record
  bool has_checkpoint = false;

  std::string Key() const {
    std::string key;
    key.reserve(24 + cells.size() / 4);
    for (const int number : {phase, durable, begin, collected, space_end, held, ordinary_end, other,
                             scan_from + 1, stale_end, static_cast<int>(cells.size())}) {
      key.push_back(static_cast<char>(number));
      if (g_config.run != 0) key.push_back(static_cast<char>(number >> 8));
    }
    const bool bits[] = {turned, is_short,  inflight,  pinned,
                         serial, unsettled, last_open, has_checkpoint};
    int flags = mode;
    for (const bool bit : bits) flags = flags * 2 + (bit ? 1 : 0);
    key.push_back(static_cast<char>(flags));
    key.push_back(static_cast<char>(flags >> 8));
    unsigned char packed = 0;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const int code = cells[i] == '.' ? 0 : cells[i] == 'L' ? 1 : cells[i] == 'K' ? 2 : 3;
      packed = static_cast<unsigned char>(packed << 2 | code);
      if (i % 4 == 3 || i + 1 == cells.size()) {
        key.push_back(static_cast<char>(packed));
        packed = 0;
      }
    }
    return key;
  }
};

std::string g_error;
void Fail(const std::string& error) {
  if (g_error.empty()) g_error = error;
}

int BlocksUp(int cells) { return (cells + g_config.cells - 1) / g_config.cells; }

// The store, one call at a time, in the words of the library.
class Store {
 public:
  explicit Store(State& state) : s_(state) { SizeSlices(); }

  int tail() const { return static_cast<int>(s_.cells.size()); }
  int free_blocks() const {
    return g_config.disk - s_.held - s_.other - (s_.has_checkpoint ? g_config.image : 0);
  }
  int live() const { return static_cast<int>(std::count(s_.cells.begin(), s_.cells.end(), 'L')); }
  int behind(Space space) const { return behind_[static_cast<std::size_t>(space)]; }

  // ---- hybrid_log.cc ----

  void SizeSlices() {
    int commits = g_config.commits;
    int collection = g_config.collection;
    int deletions = g_config.deletions;
    if (g_config.run != 0) {
      const int log = BlocksUp(tail()) - s_.begin / g_config.cells;
      const int base = std::min(2 * g_config.page, 512) + 2 * g_config.waste;
      const int root = static_cast<int>(std::sqrt(static_cast<double>(g_config.waste) * log));
      commits = 16;
      collection = base + (g_rules.constant_slice ? 0 : root * 5 / 2);
      deletions = std::max(base + root / 2, log / 128);
    }
    if (g_rules.half_commits) commits /= 2;
    if (g_rules.half_collection) collection /= 2;
    if (g_rules.half_deletions) deletions /= 2;
    behind_[static_cast<int>(Space::kCollection)] = commits;
    behind_[static_cast<int>(Space::kDeletion)] = commits + collection;
    behind_[static_cast<int>(Space::kOrdinary)] = commits + collection + deletions;
    if (g_rules.one_reserve) {
      behind_[static_cast<int>(Space::kCollection)] = 0;
      behind_[static_cast<int>(Space::kDeletion)] = 0;
    }
  }

  int PageCells() const { return g_config.page * g_config.cells; }
  int PageRest(int at) const {
    return PageCells() - (s_.phase * g_config.cells + at) % PageCells();
  }
  bool IsFull() const { return PageRest(tail()) == PageCells() && !s_.turned; }

  int EndBlock(int at, int extent) const {
    return BlocksUp(at + std::min(std::max(extent, 1), PageRest(at)));
  }
  bool HasSpace(int at, int extent, Space space) const {
    if (at < s_.ordinary_end) return true;
    return space != Space::kOrdinary && EndBlock(at, extent) + behind(space) <= s_.space_end;
  }
  bool ReserveTo(int end) {
    if (end <= s_.space_end) return true;
    if (end - s_.held > free_blocks()) return false;
    s_.held = std::max(s_.held, end);
    s_.space_end = end;
    return true;
  }
  bool TakeSpace(int at, int extent, Space space) {
    SizeSlices();
    if (HasSpace(at, extent, space)) return true;
    const int page_end = at + PageRest(at);
    if (ReserveTo(page_end / g_config.cells + behind(Space::kOrdinary))) {
      s_.is_short = false;
      s_.ordinary_end = page_end;
      return true;
    }
    const int end = EndBlock(at, extent);
    for (const Space slice :
         {Space::kCommit, Space::kCollection, Space::kDeletion, Space::kOrdinary}) {
      if (ReserveTo(end + behind(slice))) continue;
      // As much of this one as there is.
      if (!g_rules.whole_slices) ReserveTo(s_.held + std::max(0, free_blocks()));
      break;
    }
    return HasSpace(at, extent, space);
  }
  void TakeSpaceAhead() { static_cast<void>(TakeSpace(tail(), 1, Space::kOrdinary)); }

  void Put(int cells, char head) {
    s_.cells.push_back(head);
    s_.cells.append(static_cast<std::size_t>(cells - 1), head == '.' ? '.' : 'r');
    s_.turned = false;
  }
  // A fetch_add on the tail word, or a CAS after the checks: where, or -1.
  int Add(int extent, char head) {
    if (IsFull()) return -1;
    const int at = tail();
    if (extent > PageRest(at)) {
      Put(PageRest(at), '.');
      return -1;
    }
    Put(extent, head);
    return at;
  }
  int Allocate(int extent, char head, Space space) {
    if (IsFull()) return -1;
    if (tail() >= s_.ordinary_end &&
        (space == Space::kOrdinary || !HasSpace(tail(), extent, space))) {
      return -1;
    }
    return Add(extent, head);
  }
  int ReserveToBlockEnd() {
    if (IsFull() || !HasSpace(tail(), 1, Space::kCommit)) return -1;
    const int at = tail();
    Put(g_config.cells - at % g_config.cells, '.');
    return at;
  }
  bool WaitForPage(int extent, Space space) {
    for (;;) {
      const bool full = IsFull();
      if (!HasSpace(tail(), extent, space)) {
        if (TakeSpace(tail(), extent, space)) continue;
        if (space <= Space::kDeletion) s_.is_short = true;
        return false;
      }
      if (!full || g_rules.turn_above) return true;
      if (tail() >= s_.ordinary_end && s_.inflight && !g_rules.no_drain) {
        is_waiting = true;  // for the drain: the update in progress comes first
        return false;
      }
      s_.turned = true;
      return true;
    }
  }
  template <typename Try>
  int Append(int extent, Space space, const Try& attempt) {
    for (int i = 0; i < 8; ++i) {
      if (const int at = attempt(); at >= 0) return at;
      if (!WaitForPage(extent, space)) return -1;
    }
    Fail("SPIN: an append goes round and round at the end of a page");
    return -1;
  }
  int AppendRecord(int extent, char head, Space space) {
    return Append(extent, space, [&] { return Allocate(extent, head, space); });
  }

  bool CheckIdleCommit(bool is_needed) {
    SizeSlices();
    if (tail() < s_.ordinary_end) return true;
    const int kept = is_needed ? behind(Space::kCollection) / 2
                               : (behind(Space::kDeletion) + behind(Space::kOrdinary)) / 2;
    return ReserveTo(tail() / g_config.cells + 2 + kept);
  }
  int CollectionSpace() {
    SizeSlices();
    return std::max(0, s_.space_end - tail() / g_config.cells - behind(Space::kCollection));
  }

  // ---- operations ----

  void Kill(int at) {
    if (at < s_.durable) {
      s_.cells[static_cast<std::size_t>(at)] = 'K';
      return;
    }
    Clear(at);
  }
  bool Upsert(int old) {
    if (AppendRecord(g_config.record, 'L', Space::kOrdinary) < 0) return false;
    if (old >= 0) Kill(old);
    return true;
  }
  bool Delete(int old) {
    if (AppendRecord(1, '.', Space::kDeletion) < 0) return false;
    Kill(old);
    return true;
  }

  // ---- committer.cc ----

  int BeginToState(bool of_checkpoint) const {
    return of_checkpoint || !s_.has_checkpoint
               ? s_.collected
               : std::max(s_.begin, std::min(s_.collected, s_.scan_from));
  }
  bool NothingToCommit() const {
    return tail() == s_.durable && !s_.unsettled && !s_.serial && s_.begin == BeginToState(false);
  }
  // Begin alone is no reason for Close's commit. Without space for serials alone Close fails, and
  // then the process ends.
  void Close() {
    const bool is_idle = tail() == s_.durable && !s_.unsettled;
    bool commits = !is_idle;
    if (is_idle && s_.serial) commits = g_rules.close_serials || CheckIdleCommit(false);
    if (is_idle && s_.begin != BeginToState(false)) commits |= g_rules.close_states_begin;
    if (!commits || Commit(false, true)) End(0);
  }
  // False: it can wait, or a drain comes first.
  bool Commit(bool of_checkpoint, bool of_close, bool beside_update = false) {
    if (tail() == s_.durable && !of_close) {
      const bool is_needed = s_.unsettled || s_.begin != BeginToState(false);
      const bool is_exempt = g_rules.idle_serials && !of_checkpoint && !is_needed;
      if (!is_exempt && !CheckIdleCommit(!of_checkpoint && is_needed)) {
        if (s_.unsettled && !of_checkpoint) Fail("I1: no space for a commit that settles a record");
        return false;
      }
    }
    const int begin = BeginToState(of_checkpoint);
    if (beside_update && !Upsert(-1)) return false;
    if (Append(1, Space::kCommit, [&] { return ReserveToBlockEnd(); }) < 0) {
      if (!is_waiting) {
        Fail(of_close ? "I1: no space for Close's commit" : "I1: no space for a commit");
      }
      return false;
    }
    s_.begin = begin;
    s_.unsettled = beside_update;
    s_.serial = s_.last_open = false;
    s_.durable = tail();
    for (int i = 0; i < tail(); ++i) {
      if (s_.cells[static_cast<std::size_t>(i)] == 'K') Clear(i);
    }
    return true;
  }
  // False: there is no space for its files, or its commit could wait. The manifest takes a block.
  bool Checkpoint() {
    const int from = tail();
    if (free_blocks() < g_config.image - 1) return false;
    s_.other += g_config.image - 1;  // the new image
    const bool ok = Commit(true, false);
    s_.other -= g_config.image - 1;
    if (!ok || free_blocks() < g_config.image) return false;
    s_.has_checkpoint = true;
    s_.scan_from = from;
    return true;
  }
  bool MoveBegin() {
    if (s_.collected <= s_.begin && !NeedsCheckpoint()) return true;
    if (!NeedsCheckpoint()) return Commit(false, false);
    if (Checkpoint()) return true;
    if (!g_error.empty() || is_waiting || !s_.is_short || g_rules.checkpoint_kept) return false;
    s_.has_checkpoint = false;
    s_.scan_from = -1;
    return s_.begin >= s_.collected || Commit(false, false);
  }
  bool NeedsCheckpoint() const { return s_.has_checkpoint && s_.scan_from < s_.collected; }
  // The space that a commit has stated is released, as far as no pin holds it.
  void GiveBack() {
    int limit = g_rules.free_early ? s_.collected : s_.begin;
    if (s_.has_checkpoint) limit = std::min(limit, s_.scan_from);
    const int blocks = s_.pinned ? 0 : limit / g_config.cells;
    const auto front = static_cast<std::size_t>(blocks * g_config.cells);
    if (s_.cells.find_first_of("LK") < front) {
      Fail("LOST: the blocks of a committed record are given back");
    }
    s_.cells.erase(0, front);
    s_.phase = (s_.phase + blocks) % g_config.segment;
    for (int* cells : {&s_.durable, &s_.begin, &s_.collected, &s_.ordinary_end}) {
      *cells = std::max(0, *cells - blocks * g_config.cells);
    }
    if (s_.scan_from >= 0) s_.scan_from -= blocks * g_config.cells;
    s_.space_end -= blocks;
    s_.held -= blocks;
    s_.stale_end = std::max(0, s_.stale_end - blocks);
    if (s_.is_short) TakeSpaceAhead();
  }

  // ---- garbage_collector.cc ----

  bool IsDue() {
    const int from = g_rules.pinned_garbage ? 0 : s_.collected;
    const auto begin = s_.cells.begin() + from;
    const int live_cells =
        static_cast<int>(std::count(begin, s_.cells.end(), 'L')) * g_config.record;
    const int garbage = tail() - from - live_cells;
    if (!s_.is_short) return garbage >= g_config.reclaim * g_config.cells;
    if (g_rules.pinned_garbage) return garbage > 0;
    const int pass = std::max(CollectionSpace() / 2, 1);
    return garbage >
           g_config.waste * (BlocksUp(live_cells) * g_config.cells / pass + 2 * g_config.cells);
  }
  // True when it has gone through something.
  bool Pass() {
    const int from = s_.collected;
    const int end = tail();
    const int most = s_.is_short ? std::max(CollectionSpace() / 2, 1) * g_config.cells
                                 : 64 * g_config.page * g_config.cells;
    int at = from;
    for (; at < end && at < from + most; ++at) {
      if (s_.cells[static_cast<std::size_t>(at)] != 'L') continue;
      if (AppendRecord(g_config.record, 'L', Space::kCollection) < 0) break;
      Kill(at);
    }
    while (at < end && s_.cells[static_cast<std::size_t>(at)] == 'r') ++at;
    s_.collected = at;
    if (g_rules.free_early) GiveBack();
    return at != from;
  }
  // CollectGarbage: false when it cannot continue.
  bool Collect() {
    if (!MoveBegin()) return false;
    GiveBack();
    const int page_cells = PageCells();
    int unfreed = 0;
    for (int end = tail() - s_.collected; g_error.empty() && end > 0 && IsDue();) {
      const int before = s_.collected;
      const int tail_before = tail();
      if (!Pass()) return false;
      end -= s_.collected - before;
      unfreed += tail() - tail_before;
      if (!MoveBegin()) return false;
      const int held = tail();
      GiveBack();
      const int freed = held - tail();
      if (s_.is_short && unfreed > freed + 2 * g_config.waste * g_config.cells &&
          !g_rules.pinned_garbage) {
        break;
      }
      if (freed != 0) unfreed = 0;
      if (tail() > 4 * (g_config.disk + page_cells) * g_config.cells) break;
    }
    return true;
  }

  // ---- recovery.cc ----

  void End(int stale_end) {
    s_.cells.resize(static_cast<std::size_t>(s_.durable));
    for (char& cell : s_.cells) {
      if (cell == 'K') cell = 'L';
    }
    s_.collected = s_.begin;
    s_.turned = s_.is_short = s_.inflight = s_.pinned = s_.serial = s_.unsettled = false;
    s_.space_end = s_.ordinary_end = 0;
    s_.stale_end = stale_end;
    s_.mode = kEnded;
    if (s_.scan_from >= 0 && s_.scan_from < s_.begin) {  // its manifest is dead
      s_.has_checkpoint = false;
      s_.scan_from = -1;
    }
  }
  // Everything behind the cut goes, with the space that was taken there, if the file is longer than
  // that; also the files that begin behind it.
  void Truncate(bool is_cut) {
    const int end = tail() / g_config.cells;
    const int segment = g_config.segment;
    const bool is_longer = s_.stale_end > end || is_cut;
    const int file_end = ((s_.phase + end + segment - 1) / segment) * segment - s_.phase;
    s_.held = std::min(s_.held, is_longer ? end : file_end);
    s_.stale_end = 0;
  }
  bool WriteOpenRecord() {
    const int end = tail() / g_config.cells + 1;
    if (end > s_.held) {
      if (free_blocks() < 1) {
        Fail("I1: no block for an open record");
        return false;
      }
      s_.held = end;
    }
    s_.turned = false;
    Put(g_config.cells, '.');
    s_.durable = tail();
    s_.last_open = true;
    return true;
  }
  bool replaces_record() const {
    const bool follows = g_rules.stale_blocks_count && s_.stale_end > tail() / g_config.cells;
    return s_.last_open && !follows && !g_rules.open_each;
  }
  void Open() {
    if (s_.mode == kEnded && g_rules.truncate_first) {
      const bool replaces = replaces_record();
      if (replaces) s_.cells.resize(static_cast<std::size_t>(tail() - g_config.cells));
      s_.durable = tail();
      s_.last_open = false;
      Truncate(replaces);
      s_.mode = kCut;
    } else if (s_.mode == kEnded) {
      if (!replaces_record() && !WriteOpenRecord()) return;
      s_.mode = kCut;
    } else if (s_.mode == kCut) {
      if (g_rules.truncate_first) {
        if (!WriteOpenRecord()) return;
      } else {
        Truncate(false);
      }
      s_.mode = kOpened;
    } else {
      s_.mode = kRunning;
      s_.space_end = tail() / g_config.cells;
      TakeSpaceAhead();
      GiveBack();
    }
  }

  bool is_waiting = false;

 private:
  void Clear(int at) {
    auto i = static_cast<std::size_t>(at);
    s_.cells[i] = '.';
    while (++i < s_.cells.size() && s_.cells[i] == 'r') s_.cells[i] = '.';
  }

  State& s_;
  int behind_[4] = {};
};

// ---- the checks of a state ----

int OrdinaryLimit(const State& s) {
  return g_config.disk - s.other - g_config.image - g_config.commits - g_config.collection -
         g_config.deletions;
}

bool RoomIsPromised(const State& s) {
  const int live = static_cast<int>(std::count(s.cells.begin(), s.cells.end(), 'L'));
  const int blocks = BlocksUp(live * g_config.record);
  const int pass = std::max(g_config.collection / 2, 1);
  return blocks + g_config.page + g_config.waste * (blocks / pass + 2) <= OrdinaryLimit(s);
}

bool UpdateSucceeds(State& s) {
  Store store(s);
  const auto old = s.cells.find('L');
  return store.Upsert(old == std::string::npos ? -1 : static_cast<int>(old));
}

std::uint64_t g_rescues = 0;

void CheckRoom(const State& state) {
  if (g_config.room == 0 || !state.is_short || state.pinned || state.inflight ||
      !RoomIsPromised(state))
    return;
  State s = state;
  for (int round = 0; g_error.empty(); ++round) {
    if (State trial = s; UpdateSucceeds(trial)) {
      g_rescues += round != 0 ? 1 : 0;
      return;
    }
    s.is_short = true;
    const std::string before = s.Key();
    Store(s).Collect();
    if (round == 200 || s.Key() == before) Fail("I2: collections make no room for an update");
  }
}

void CheckRest(const State& state) {
  if (g_config.room == 0 || !state.is_short || !state.pinned || state.inflight) return;
  State s = state;
  const int slice = Store(s).CollectionSpace();
  std::string before;
  for (int round = 0; g_error.empty() && s.Key() != before; ++round) {
    before = s.Key();
    Store(s).Collect();
    if (round == 100) Fail("REST: collections beside a pin go on for ever");
  }
  if (slice >= 2 * g_config.waste && Store(s).CollectionSpace() < g_config.waste) {
    Fail("REST: collections beside a pin use up their slice");
  }
}

// ---- the search ----

std::uint64_t Hash(std::string_view key) {
  std::uint64_t hash = 0x9e3779b97f4a7c15;
  for (std::size_t i = 0; i < key.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, key.data() + i, std::min<std::size_t>(8, key.size() - i));
    hash = (hash ^ word) * 0xff51afd7ed558ccd;
    hash ^= hash >> 32;
    hash *= 0xc4ceb9fe1a85ec53;
    hash ^= hash >> 29;
  }
  return hash;
}

class Search {
 public:
  int Run(bool shows_trace) {
    State first;
    first.cells.assign(g_config.cells, '.');
    first.durable = g_config.cells;
    first.held = 1;
    first.last_open = true;
    first.mode = kOpened;
    Add(first, "opened");
    for (; now_ < states_.size(); ++now_) {
      if (states_.size() > static_cast<std::size_t>(g_config.most)) break;
      const State s = states_[now_];
      if (s.mode == kRunning) {
        CheckRoom(s);
        CheckRest(s);
        if (g_error.empty()) Running(s);
      } else {
        Opening(s);
      }
      if (!g_error.empty()) break;
      states_[now_].cells = std::string();
    }
    const bool is_complete = now_ == states_.size();
    if (shows_trace && !g_error.empty()) ShowTrace();
    std::printf("%zu states, %llu times room was made: %s\n", states_.size(),
                static_cast<unsigned long long>(g_rescues),
                !g_error.empty() ? ("fails: " + g_error).c_str()
                : is_complete    ? "holds"
                                 : "did not finish");
    return !g_error.empty() ? 1 : is_complete ? 0 : 2;
  }

 private:
  void Add(const State& s, const char* label) {
    if (!seen_.insert(Hash(s.Key())).second) return;
    states_.push_back(s);
    parents_.push_back({static_cast<std::uint32_t>(now_), label});
  }
  // A call that had to wait for a drain comes after the update in progress.
  template <typename Call>
  void Try(const State& s, const char* label, const Call& call) {
    if (!g_error.empty()) return;
    State next = s;
    Store store(next);
    call(store, next);
    if (!g_error.empty()) {
      last_ = label;
      shown_ = next;
    }
    if (!store.is_waiting && g_error.empty()) Add(next, label);
  }

  void Running(const State& s) {
    const int live = static_cast<int>(std::count(s.cells.begin(), s.cells.end(), 'L'));
    const int tail = static_cast<int>(s.cells.size());
    if (live < g_config.keys) {
      Try(s, "insert", [](Store& store, State&) { store.Upsert(-1); });
    }
    for (int at = 0; at < tail; ++at) {
      if (s.cells[static_cast<std::size_t>(at)] != 'L') continue;
      Try(s, "update", [at](Store& store, State&) { store.Upsert(at); });
      Try(s, "delete", [at](Store& store, State&) { store.Delete(at); });
    }
    if (g_config.inflight != 0) InFlight(s, live);
    if (g_config.serials != 0 && !s.serial) {
      Try(s, "serial", [](Store&, State& next) { next.serial = true; });
    }
    Committing(s, live);
    Collecting(s);
    Others(s);
  }
  void InFlight(const State& s, int live) {
    if (s.inflight) {
      Try(s, "add", [](Store& store, State& next) {
        const bool is_ordinary = store.tail() < next.ordinary_end;
        if (store.Add(g_config.record, 'L') >= 0 && !is_ordinary) {
          Fail("CLASS: an ordinary record lies in the space of a later class");
        }
        next.inflight = false;
      });
    } else if (live < g_config.keys) {
      Try(s, "look", [](Store& store, State& next) {
        next.inflight = !store.IsFull() && store.tail() < next.ordinary_end;
      });
    }
  }
  void Committing(const State& s, int live) {
    State copy = s;
    if (!Store(copy).NothingToCommit()) {
      Try(s, "commit", [](Store& store, State&) { store.Commit(false, false); });
      if (live < g_config.keys) {
        Try(s, "commit beside an update",
            [](Store& store, State&) { store.Commit(false, false, true); });
      }
    }
    if (g_config.image != 0) {
      Try(s, "checkpoint", [](Store& store, State&) { store.Checkpoint(); });
    }
    if (g_config.reopen == 0 || s.inflight) return;
    Try(s, "close", [](Store& store, State&) { store.Close(); });
    Try(s, "crash", [](Store& store, State&) { store.End(0); });
    if (s.cells.size() / g_config.cells > static_cast<std::size_t>(s.durable / g_config.cells)) {
      Try(s, "crash after a flush",
          [](Store& store, State&) { store.End(store.tail() / g_config.cells); });
    }
  }
  static bool IsDueAfterGivingBack(State s) {
    Store store(s);
    store.GiveBack();
    return store.IsDue();
  }
  void Collecting(const State& s) {
    if (s.collected > s.begin || (s.has_checkpoint && s.collected > s.scan_from)) {
      Try(s, "move begin", [](Store& store, State&) { store.MoveBegin(); });
    } else if (IsDueAfterGivingBack(s)) {
      Try(s, "pass", [](Store& store, State&) {
        store.GiveBack();
        store.Pass();
      });
    }
    Try(s, "give back", [](Store& store, State&) { store.GiveBack(); });
  }
  void Others(const State& s) {
    if (g_config.pins != 0) {
      Try(s, s.pinned ? "unpin" : "pin", [](Store&, State& next) { next.pinned = !next.pinned; });
    }
    if (g_config.rival != 0) Rival(s);
  }
  void Rival(const State& s) {
    Try(s, "another program takes what is free",
        [](Store& store, State& next) { next.other += std::max(0, store.free_blocks()); });
    if (s.other != 0) {
      Try(s, "another program gives back", [](Store&, State& next) { next.other = 0; });
    }
  }
  void Opening(const State& s) {
    static constexpr const char* kSteps[] = {"", "open", "open, then", "opened"};
    Try(s, kSteps[s.mode], [](Store& store, State&) { store.Open(); });
    if (s.mode != kEnded) {
      Try(s, "crash of the opening", [](Store& store, State& next) { store.End(next.stale_end); });
    }
    if (g_config.rival == 2) Rival(s);
  }

  void ShowTrace() const {
    std::vector<const char*> labels;
    if (last_ != nullptr) labels.push_back(last_);
    for (std::size_t i = now_; i != 0; i = parents_[i].first) labels.push_back(parents_[i].second);
    for (std::size_t i = labels.size(); i-- != 0;) std::printf("  %s\n", labels[i]);
    const State& s = last_ != nullptr ? shown_ : states_[now_];
    std::printf(
        "  [%s] durable %d begin %d collected %d held %d space_end %d other %d checkpoint %d %s\n",
        s.cells.c_str(), s.durable, s.begin, s.collected, s.held, s.space_end, s.other, s.scan_from,
        s.is_short ? "short" : "");
  }

  std::unordered_set<std::uint64_t> seen_;
  std::vector<State> states_;
  std::vector<std::pair<std::uint32_t, const char*>> parents_;
  std::size_t now_ = 0;
  const char* last_ = nullptr;
  State shown_;
};

// ---- the runs ----

// Fills the disk with live records.
State FullDisk() {
  State s;
  s.cells.assign(g_config.cells, '.');
  s.durable = g_config.cells;
  s.held = 1;
  s.mode = kOpened;
  g_config.disk = g_config.blocks;
  Store(s).Open();
  for (int i = 0; g_error.empty(); ++i) {
    Store store(s);
    if (!store.Upsert(-1)) break;
    if (i % 1000 == 999) store.Commit(false, false);
  }
  Store(s).Commit(false, false);
  return s;
}

int RunLongPrefix() {
  State s = FullDisk();
  // So much of the newest is garbage as the library asks for, with its slices.
  const int log = BlocksUp(static_cast<int>(s.cells.size()));
  const double slice =
      2 * g_config.page + 2 * g_config.waste + 2.5 * std::sqrt(g_config.waste * log);
  const int garbage = static_cast<int>(g_config.waste * (log / (slice / 2) + 3)) + g_config.page;
  int killed = 0;
  for (std::size_t i = s.cells.size(); i-- != 0 && killed < garbage * g_config.cells;) {
    if (s.cells[i] != 'L') continue;
    s.cells[i] = '.';
    for (std::size_t j = i + 1; j < s.cells.size() && s.cells[j] == 'r'; ++j) s.cells[j] = '.';
    killed += g_config.record;
  }
  for (int round = 0; round < 20 && g_error.empty(); ++round) {
    if (State trial = s; UpdateSucceeds(trial)) {
      std::printf("%d blocks, %d of them garbage, %d collections: holds\n", log, garbage, round);
      return 0;
    }
    s.is_short = true;
    Store(s).Collect();
  }
  Fail("I2: collections make no room for an update");
  std::printf("%d blocks, %d of them garbage: fails: %s\n", log, garbage, g_error.c_str());
  return 1;
}

int RunEmptying() {
  State s = FullDisk();
  const int records = static_cast<int>(std::count(s.cells.begin(), s.cells.end(), 'L'));
  int rounds = 0;
  for (; rounds < 150 && g_error.empty(); ++rounds) {
    std::size_t at = 0;
    while ((at = s.cells.find('L', at)) != std::string::npos) {
      if (!Store(s).Delete(static_cast<int>(at))) break;
    }
    if (at == std::string::npos) break;
    Store(s).Commit(false, false);
    Store(s).Collect();
  }
  const auto left = std::count(s.cells.begin(), s.cells.end(), 'L');
  if (left != 0) Fail("deletions and collections do not empty a full disk");
  std::printf("%d records, %d rounds, %d left: %s\n", records, rounds, static_cast<int>(left),
              g_error.empty() ? "holds" : ("fails: " + g_error).c_str());
  return g_error.empty() ? 0 : 1;
}

bool Parse(std::string_view argument) {
  const std::map<std::string_view, bool*> rules = {
      {"one_reserve", &g_rules.one_reserve},
      {"half_commits", &g_rules.half_commits},
      {"half_collection", &g_rules.half_collection},
      {"half_deletions", &g_rules.half_deletions},
      {"constant_slice", &g_rules.constant_slice},
      {"idle_serials", &g_rules.idle_serials},
      {"open_each", &g_rules.open_each},
      {"pinned_garbage", &g_rules.pinned_garbage},
      {"free_early", &g_rules.free_early},
      {"turn_above", &g_rules.turn_above},
      {"no_drain", &g_rules.no_drain},
      {"truncate_first", &g_rules.truncate_first},
      {"whole_slices", &g_rules.whole_slices},
      {"stale_blocks_count", &g_rules.stale_blocks_count},
      {"close_states_begin", &g_rules.close_states_begin},
      {"close_serials", &g_rules.close_serials},
      {"checkpoint_kept", &g_rules.checkpoint_kept},
  };
  const std::map<std::string_view, int*> numbers = {
      {"disk", &g_config.disk},
      {"page", &g_config.page},
      {"segment", &g_config.segment},
      {"record", &g_config.record},
      {"keys", &g_config.keys},
      {"commits", &g_config.commits},
      {"collection", &g_config.collection},
      {"deletions", &g_config.deletions},
      {"waste", &g_config.waste},
      {"reclaim", &g_config.reclaim},
      {"image", &g_config.image},
      {"pins", &g_config.pins},
      {"rival", &g_config.rival},
      {"inflight", &g_config.inflight},
      {"serials", &g_config.serials},
      {"reopen", &g_config.reopen},
      {"room", &g_config.room},
      {"cells", &g_config.cells},
      {"run", &g_config.run},
      {"blocks", &g_config.blocks},
      {"most", &g_config.most},
  };
  const std::size_t equals = argument.find('=');
  if (equals == std::string_view::npos) {
    const auto rule = rules.find(argument);
    if (rule == rules.end()) return false;
    *rule->second = true;
    return true;
  }
  const auto number = numbers.find(argument.substr(0, equals));
  if (number == numbers.end()) return false;
  *number->second = std::atoi(argument.data() + equals + 1);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  bool shows_trace = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "-v") == 0) {
      shows_trace = true;
    } else if (!Parse(argv[i])) {
      std::fprintf(stderr, "space: what is %s?\n", argv[i]);
      return 2;
    }
  }
  const auto begun = std::chrono::steady_clock::now();
  const int result = g_config.run == 1   ? RunLongPrefix()
                     : g_config.run == 2 ? RunEmptying()
                                         : Search().Run(shows_trace);
  std::printf("%.1f seconds\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
  return result;
}
