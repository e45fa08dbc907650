// word_count: a demo. Counts the words of files and folders in a store whose memory may be far
// smaller than the words.
//
//   word_count [--log_memory_mib=64] [--index_buckets=65536] [--threads=N] [--direct_io=1]
//              [--top=10] [--store=DIRECTORY] [--dump=FILE] [file or folder]...
//
// A word is a maximal run of ASCII letters and digits, in lower case. Folders are walked without
// following symbolic links; unreadable files are noted, counted and skipped. Without a file or
// folder it reads the licences and headers that the system has, and ebb's own sources, with log
// memory of only 1 MiB, so that words leave memory.
//
// How it works. Several threads, a session each, take pieces of the files and add one to the count
// of each word: one Rmw. Then the store is closed and opened again, and the input is read again.
// This time each occurrence of a word adds one to the upper half of its value. So the upper half is
// the count of the second pass, and the lower half that of the first. At the end, both must be
// equal for every word. The first Rmw of a word in the second pass sees an upper half of 0, and its
// thread reports the word. This yields the most frequent words and the dump without a scan of the
// store. The memory used does not grow with the number of words.
//
// --store keeps the store in that directory, which must be empty or absent; without it the store
// is in a temporary directory that is removed. --dump writes "count word" for every word, in no
// particular order. Exit status: 0 right, 1 wrong or failed, 2 bad usage.
#include <stdlib.h>  // mkdtemp

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ebb/store.h"
#include "text_input.h"

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using WordStore = ebb::Store<std::string, std::uint64_t>;

constexpr std::uint64_t kMetAgain = std::uint64_t{1} << 32;  // one, in the upper half of a value
constexpr std::uint64_t kMismatchesShown = 10;

std::atomic<bool> interrupted{false};  // by SIGINT or SIGTERM; then the temporary store goes, too

struct Settings {
  std::optional<std::uint64_t> log_memory_mib;
  std::uint64_t index_buckets = 65536;
  // At least 8, because a thread waits for each of its reads from the device.
  std::uint64_t threads = std::max(8u, std::thread::hardware_concurrency());
  std::uint64_t top = 10;
  bool direct_io = true;
  std::string store;
  std::string dump;
  std::vector<std::string> inputs;
};

// The words that one thread, or all of them, found in a pass over the input.
struct Tally {
  TextTally text;
  std::uint64_t distinct = 0;    // words met for the first time in this pass
  std::uint64_t agreed = 0;      // words whose two halves became equal
  std::uint64_t mismatches = 0;  // words that are in the input more often than in the store
  std::uint64_t changed = 0;     // pieces that were not the same in both passes

  void Add(const Tally& other) {
    text.Add(other.text);
    distinct += other.distinct;
    agreed += other.agreed;
    mismatches += other.mismatches;
    changed += other.changed;
  }
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

unsigned long long Printable(std::uint64_t number) { return number; }

// Hands out the pieces of one pass, and prints the progress to stderr every second. Any thread.
class Pass {
 public:
  Pass(const char* name, Input& input) : name_(name), input_(input) {
    reporter_ = std::jthread([this](std::stop_token stop) { Report(stop); });
  }

  // Returns the next piece, or null if there is none, or if the program is to end.
  Piece* Next() {
    if (failed_.load(std::memory_order_relaxed)) return nullptr;
    const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
    return index < input_.pieces.size() ? &input_.pieces[index] : nullptr;
  }

  // Adds the work since the last call to the totals. Returns an error if the program is to end.
  absl::Status Advance(std::uint64_t files, std::uint64_t bytes, std::uint64_t words) {
    files_.fetch_add(files, std::memory_order_relaxed);
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
    words_.fetch_add(words, std::memory_order_relaxed);
    if (interrupted.load(std::memory_order_relaxed)) return absl::CancelledError("interrupted");
    return absl::OkStatus();
  }

  // The first failure is kept; the other threads stop at their next piece.
  void Fail(const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = status;
    failed_.store(true, std::memory_order_relaxed);
  }

  absl::Status status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  void Report(std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; });
      if (stop.stop_requested()) return;
      const std::uint64_t words = words_.load(std::memory_order_relaxed);
      std::fprintf(stderr, "%s: %llu of %zu files, %.1f MB, %llu words, %.0f words/s\n", name_,
                   Printable(files_.load(std::memory_order_relaxed)), input_.files.size(),
                   static_cast<double>(bytes_.load(std::memory_order_relaxed)) / 1e6,
                   Printable(words), static_cast<double>(words) / SecondsSince(start_));
    }
  }

  const char* const name_;
  Input& input_;
  const Clock::time_point start_ = Clock::now();
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> files_{0};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> words_{0};
  std::mutex mutex_;
  std::condition_variable_any wake_;
  absl::Status status_;    // guarded by mutex_
  std::jthread reporter_;  // last, so that it ends before the members it reads
};

// The n most frequent of the words that were added. Among equally frequent words, the first in the
// alphabet win.
class TopWords {
 public:
  explicit TopWords(std::uint64_t limit) : limit_(limit) {}

  void Add(std::uint64_t count, std::string_view word) {
    if (limit_ == 0 || (words_.size() == limit_ && count < words_.rbegin()->count)) return;
    words_.insert({count, std::string(word)});
    if (words_.size() > limit_) words_.erase(std::prev(words_.end()));
  }
  void Merge(const TopWords& other) {
    for (const Ranked& ranked : other.words_) Add(ranked.count, ranked.word);
  }
  void Print() const {
    for (const Ranked& ranked : words_) {
      std::printf("%12llu %s\n", Printable(ranked.count), ranked.word.c_str());
    }
  }

 private:
  struct Ranked {
    std::uint64_t count;
    std::string word;
    bool operator<(const Ranked& other) const {
      return count != other.count ? count > other.count : word < other.word;
    }
  };
  std::uint64_t limit_;
  std::set<Ranked> words_;
};

// The file of --dump, or none. Any thread; lines are collected by each thread in `lines`.
class Dump {
 public:
  absl::Status Open(const std::string& path) {
    if (path.empty()) return absl::OkStatus();
    path_ = path;
    file_.reset(std::fopen(path.c_str(), "wb"));
    return file_ == nullptr ? Error() : absl::OkStatus();
  }
  void Add(std::uint64_t count, std::string_view word, std::string& lines) {
    if (file_ == nullptr) return;
    lines.append(std::to_string(count)).append(1, ' ').append(word).append(1, '\n');
    if (lines.size() >= kChunkBytes) Flush(lines);
  }
  void Flush(std::string& lines) {
    const std::lock_guard lock(mutex_);
    if (file_ == nullptr || lines.empty()) return;
    good_ = std::fwrite(lines.data(), 1, lines.size(), file_.get()) == lines.size() && good_;
    lines.clear();
  }
  absl::Status Close() {
    if (file_ == nullptr) return absl::OkStatus();
    good_ = std::fclose(file_.release()) == 0 && good_;
    return good_ ? absl::OkStatus() : Error();
  }

 private:
  absl::Status Error() const {
    return absl::UnavailableError("cannot write " + path_ + ": " + std::strerror(errno));
  }
  std::string path_;
  std::mutex mutex_;
  File file_;
  bool good_ = true;
};

// Reads all pieces with the requested number of threads. Runs work(pass, tally) once in each.
absl::Status RunPass(const char* name, const Settings& settings, Input& input, Tally& total,
                     const std::function<void(Pass&, Tally&)>& work) {
  Pass pass(name, input);
  std::vector<Tally> tallies(settings.threads);
  {
    std::vector<std::jthread> threads;
    for (Tally& tally : tallies) threads.emplace_back([&] { work(pass, tally); });
  }
  for (const Tally& tally : tallies) total.Add(tally);
  return pass.status();
}

// One thread's share of a pass: on_word for every word of the pieces it gets, then on_piece with
// the piece and its number of words.
template <typename OnWord, typename OnPiece>
void ReadPieces(Pass& pass, Tally& tally, OnWord on_word, OnPiece on_piece) {
  PieceReader reader;
  TextTally told;  // the words reported in this pass
  auto tell = [&](std::uint64_t files) {
    const std::uint64_t bytes = tally.text.bytes - told.bytes;
    const std::uint64_t words = tally.text.words - told.words;
    told = tally.text;
    return pass.Advance(files, bytes, words);
  };
  auto take_word = [&](std::string_view word) {
    const absl::Status status = on_word(word);
    return status.ok() && tally.text.words % 1024 == 0 ? tell(0) : status;
  };
  while (Piece* piece = pass.Next()) {
    const std::uint64_t words_before = tally.text.words;
    absl::Status status = reader.Read(*piece, tally.text, take_word);
    if (status.ok()) status = tell(piece->last ? 1 : 0);
    if (!status.ok()) return pass.Fail(status);
    on_piece(*piece, tally.text.words - words_before);
  }
}

// The first pass: adds one to the count of every word.
absl::Status CountWords(const Settings& settings, WordStore& store, Input& input, Tally& total) {
  return RunPass("counting", settings, input, total, [&](Pass& pass, Tally& tally) {
    auto session = store.NewSession();
    auto count_word = [&](std::string_view word) {
      std::uint64_t before = 0;  // set by the lambda's last run, which is the one that counts
      const absl::Status status =
          session.Rmw(word, [&before](std::uint64_t& count) { before = count++; });
      if (before == 0) ++tally.distinct;
      if (before + 1 == kMetAgain) return absl::OutOfRangeError("a word is there 2^32 times");
      return status;
    };
    ReadPieces(pass, tally, count_word,
               [](Piece& piece, std::uint64_t words) { piece.words = words; });
  });
}

void PrintMismatch(std::uint64_t number, std::string_view word, std::uint64_t value) {
  if (number > kMismatchesShown) return;
  std::fprintf(stderr, "error: \"%.*s\" was counted %llu times and met again %llu times%s\n",
               static_cast<int>(std::min(word.size(), std::size_t{100})), word.data(),
               Printable(value % kMetAgain), Printable(value / kMetAgain),
               number == kMismatchesShown ? "; and so on" : "");
}

// The second pass: counts every word again, reports it the first time, and compares the counts.
absl::Status MeetWordsAgain(const Settings& settings, WordStore& store, Input& input, Tally& total,
                            TopWords& top, Dump& dump) {
  std::mutex mutex;  // guards top
  std::atomic<std::uint64_t> mismatches{0};
  return RunPass("verifying", settings, input, total, [&](Pass& pass, Tally& tally) {
    auto session = store.NewSession();
    TopWords own_top(settings.top);
    std::string lines;
    auto meet_word = [&](std::string_view word) {
      std::uint64_t after = 0;
      const absl::Status status =
          session.Rmw(word, [&after](std::uint64_t& value) { after = value += kMetAgain; });
      const std::uint64_t count = after % kMetAgain;
      const std::uint64_t met = after / kMetAgain;
      if (met == 1) {
        ++tally.distinct;
        own_top.Add(count, word);
        dump.Add(count, word, lines);
      }
      if (met == count) ++tally.agreed;
      if (met == count + 1) {
        ++tally.mismatches;
        PrintMismatch(mismatches.fetch_add(1, std::memory_order_relaxed) + 1, word, after);
      }
      return status;
    };
    ReadPieces(pass, tally, meet_word, [&](const Piece& piece, std::uint64_t words) {
      if (words == piece.words) return;
      ++tally.changed;
      std::fprintf(stderr, "error: %s, from byte %llu: %llu words, at the second reading %llu\n",
                   piece.file->c_str(), Printable(piece.begin), Printable(piece.words),
                   Printable(words));
    });
    dump.Flush(lines);
    const std::lock_guard lock(mutex);
    top.Merge(own_top);
  });
}

// Only after a mismatch: names words that the store counted more often than they occur.
absl::Status NameWordsCountedTooOften(const Settings& settings, WordStore& store, Input& input) {
  std::mutex mutex;             // guards named
  std::set<std::string> named;  // at most as many as are shown
  Tally unused;
  return RunPass("comparing", settings, input, unused, [&](Pass& pass, Tally& tally) {
    auto session = store.NewSession();
    auto compare = [&](std::string_view word) {
      const absl::StatusOr<std::uint64_t> value = session.Read(word);
      if (value.ok() && *value / kMetAgain < *value % kMetAgain) {
        const std::lock_guard lock(mutex);
        if (named.size() < kMismatchesShown && named.emplace(word).second) {
          PrintMismatch(named.size(), word, *value);
        }
      }
      return value.status();
    };
    ReadPieces(pass, tally, compare, [](const Piece&, std::uint64_t) {});
  });
}

// The directory of the store. A temporary one is removed with this object.
class StoreDirectory {
 public:
  StoreDirectory() = default;
  StoreDirectory(const StoreDirectory&) = delete;
  StoreDirectory& operator=(const StoreDirectory&) = delete;
  ~StoreDirectory() {
    std::error_code ignored;
    if (temporary_) fs::remove_all(path_, ignored);
  }

  absl::Status Make(const std::string& wanted) {
    std::error_code error;
    if (!wanted.empty()) {
      path_ = wanted;
      if (!fs::exists(path_, error) || fs::is_empty(path_, error)) return absl::OkStatus();
      return absl::InvalidArgumentError("--store: " + path_ + " is not empty");
    }
    path_ = fs::temp_directory_path(error) / "word_count.XXXXXX";
    temporary_ = mkdtemp(path_.data()) != nullptr;
    if (temporary_) return absl::OkStatus();
    return absl::UnavailableError("cannot make " + path_ + ": " + std::strerror(errno));
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool temporary_ = false;
};

// Returns a field of /proc/self/status in MiB, or 0 if there is none.
double MemoryMib(std::string_view field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(field)) return std::strtod(line.c_str() + field.size(), nullptr) / 1024;
  }
  return 0;
}

void PrintPass(const char* name, const Tally& tally, const ebb::MetricsSnapshot& metrics,
               double seconds) {
  std::printf("%s: %.2f s, %.0f words/s\n", name, seconds,
              static_cast<double>(tally.text.words) / seconds);
  std::printf("%s, flushed bytes: %llu\n", name, Printable(metrics.log_written_bytes));
  std::printf("%s, device reads: %llu\n", name, Printable(metrics.device_reads));
}

void PrintInput(const Input& input, const Tally& tally) {
  std::printf("files: %zu\n", input.files.size());
  std::printf("unreadable pieces: %llu\n", Printable(tally.text.unreadable));
  std::printf("bytes: %llu\n", Printable(tally.text.bytes));
  std::printf("words: %llu\n", Printable(tally.text.words));
  std::printf("distinct words: %llu\n", Printable(tally.distinct));
  std::printf("words over %zu bytes, not counted: %llu\n", kWordBytesMax,
              Printable(tally.text.too_long));
}

// Returns whether the second pass found the counts of the first. Prints the differences.
bool Agree(const Tally& counted, const Tally& verified) {
  struct Equality {
    const char* what;
    std::uint64_t counted;
    std::uint64_t verified;
  };
  bool agree = true;
  for (const Equality& equality : {
           Equality{"words", counted.text.words, verified.text.words},
           Equality{"bytes", counted.text.bytes, verified.text.bytes},
           Equality{"distinct words", counted.distinct, verified.distinct},
           Equality{"words with the right count", counted.distinct, verified.agreed},
           Equality{"words counted too seldom", 0, verified.mismatches},
       }) {
    if (equality.counted == equality.verified) continue;
    agree = false;
    std::fprintf(stderr, "error: %s: expected %llu, found %llu after reopening\n", equality.what,
                 Printable(equality.counted), Printable(equality.verified));
  }
  return agree;
}

// Counts, closes, reopens, verifies and prints. Returns OK if everything was right.
absl::Status Run(const Settings& settings) {
  absl::StatusOr<Input> input = ListInput(settings.inputs);
  if (!input.ok()) return input.status();
  Dump dump;
  if (absl::Status status = dump.Open(settings.dump); !status.ok()) return status;
  StoreDirectory directory;
  if (absl::Status status = directory.Make(settings.store); !status.ok()) return status;
  const ebb::Options options{.log_memory_bytes = *settings.log_memory_mib << 20,
                             .index_bucket_count = settings.index_buckets,
                             .direct_io = settings.direct_io};

  Tally counted;
  {
    const Clock::time_point start = Clock::now();
    absl::StatusOr<WordStore> store = WordStore::Open(directory.path(), options);
    if (!store.ok()) return store.status();
    absl::Status status = CountWords(settings, *store, *input, counted);
    if (!status.ok()) return status;
    if (status = store->Close(); !status.ok()) return status;
    PrintInput(*input, counted);
    PrintPass("counting", counted, store->Metrics(), SecondsSince(start));
  }
  Tally verified;
  TopWords top(settings.top);
  const Clock::time_point start = Clock::now();
  absl::StatusOr<WordStore> store = WordStore::Open(directory.path(), options);
  if (!store.ok()) return store.status();
  absl::Status status = MeetWordsAgain(settings, *store, *input, verified, top, dump);
  if (!status.ok()) return status;
  if (verified.changed != 0) return absl::AbortedError("files changed while they were read");
  const bool agree = Agree(counted, verified);
  if (!agree) NameWordsCountedTooOften(settings, *store, *input).IgnoreError();
  const ebb::StoreStats stats = store->Stats();
  if (status = store->Close(); !status.ok()) return status;
  if (status = dump.Close(); !status.ok()) return status;
  PrintPass("verifying", verified, store->Metrics(), SecondsSince(start));
  std::printf("log and index: %.1f MiB\n",
              static_cast<double>(stats.log_memory_bytes + stats.index_memory_bytes) / (1 << 20));
  std::printf("resident now: %.1f MiB\n", MemoryMib("VmRSS:"));
  std::printf("resident at most: %.1f MiB\n", MemoryMib("VmHWM:"));
  std::printf("most frequent words:\n");
  top.Print();
  if (!agree) return absl::DataLossError("the reopened store differs from the input");
  std::printf("verified: every count is right after closing and reopening\n");
  return absl::OkStatus();
}

std::optional<std::uint64_t> ParseNumber(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Returns false, and prints the reason, if an argument is not understood.
bool ParseArgument(std::string_view argument, Settings& settings) {
  if (!argument.starts_with("--")) {
    settings.inputs.emplace_back(argument);
    return true;
  }
  const std::size_t equals = std::min(argument.find('='), argument.size());
  const std::string_view name = argument.substr(0, equals);
  const std::string_view text = argument.substr(std::min(equals + 1, argument.size()));
  const std::optional<std::uint64_t> number = ParseNumber(text);
  if (name == "--store" && !text.empty()) {
    settings.store = text;
  } else if (name == "--dump" && !text.empty()) {
    settings.dump = text;
  } else if (name == "--log_memory_mib" && number && *number <= 1 << 24) {
    settings.log_memory_mib = *number;
  } else if (name == "--index_buckets" && number) {
    settings.index_buckets = *number;
  } else if (name == "--threads" && number && *number >= 1 && *number <= 1024) {
    settings.threads = *number;
  } else if (name == "--top" && number) {
    settings.top = *number;
  } else if (name == "--direct_io" && number && *number <= 1) {
    settings.direct_io = *number == 1;
  } else {
    std::fprintf(stderr, "word_count: %.*s is not understood; see the head of word_count.cc\n",
                 static_cast<int>(argument.size()), argument.data());
    return false;
  }
  return true;
}

void Interrupt(int) { interrupted.store(true, std::memory_order_relaxed); }

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    if (!ParseArgument(argv[i], settings)) return 2;
  }
  if (!settings.log_memory_mib) settings.log_memory_mib = settings.inputs.empty() ? 1 : 64;
  if (settings.inputs.empty()) settings.inputs = DefaultInputs();
  std::signal(SIGINT, Interrupt);
  std::signal(SIGTERM, Interrupt);
  const absl::Status status = Run(settings);
  if (status.ok()) return 0;
  std::fprintf(stderr, "word_count: %s\n", status.ToString().c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}
