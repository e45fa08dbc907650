// Text with very many distinct words, and the check that they were counted rightly.
//
//   ebb_zipf_words write FILE WORDS REPEATS     writes the text
//   ebb_zipf_words check DUMP WORDS REPEATS     compares lines of "count word" with that text
//
// The text has WORDS distinct words of 44 to 60 letters and digits, each once and in the order of
// their numbers, and between them REPEATS words drawn by a zipfian distribution (exponent 0.99)
// from all of them. A word is a function of its number and begins with it, so the check
// needs no sorting: it draws the same words again and compares every byte and every count. Both
// print the number of words and the bytes their records take in a Store<std::string, uint64_t>.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
constexpr std::size_t kNumberDigits = 6;  // 36^6 words at most
constexpr std::uint64_t kSeed = 20240229;

// One step of SplitMix64: the state advances by a constant, the result is its mixed value.
std::uint64_t NextRandom(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t mixed = state;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return mixed ^ (mixed >> 31);
}

void MakeWord(std::uint64_t number, std::string& word) {
  word.clear();
  for (std::uint64_t rest = number; word.size() < kNumberDigits; rest /= kDigits.size()) {
    word.push_back(kDigits[rest % kDigits.size()]);
  }
  std::uint64_t state = number;
  const std::size_t size = 44 + NextRandom(state) % 17;
  while (word.size() < size) word.push_back(kDigits[NextRandom(state) % kDigits.size()]);
}

// The number at the beginning of a word, or one too large if there is none.
std::uint64_t NumberOf(std::string_view word) {
  std::uint64_t number = 0;
  for (std::size_t i = kNumberDigits; i-- > 0;) {
    const std::size_t digit = i < word.size() ? kDigits.find(word[i]) : std::string_view::npos;
    if (digit == std::string_view::npos) return UINT64_MAX;
    number = number * kDigits.size() + digit;
  }
  return number;
}

// Draws numbers below `count` so that the k-th most frequent has a share of about 1 / k^0.99, by
// the formula of Gray et al., "Quickly generating billion-record synthetic databases" (1994).
class Zipf {
 public:
  explicit Zipf(std::uint64_t count) : count_(static_cast<double>(count)) {
    for (std::uint64_t k = 1; k <= count; ++k) zeta_ += std::pow(static_cast<double>(k), -kTheta);
    const double zeta_of_2 = 1 + std::pow(2.0, -kTheta);
    eta_ = (1 - std::pow(2 / count_, 1 - kTheta)) / (1 - zeta_of_2 / zeta_);
  }

  std::uint64_t Draw(std::uint64_t& state) const {
    const double uniform = static_cast<double>(NextRandom(state) >> 11) * 0x1p-53;
    const double scaled = uniform * zeta_;
    if (scaled < 1) return 0;
    if (scaled < 1 + std::pow(0.5, kTheta)) return 1;
    const double rank = count_ * std::pow(eta_ * uniform - eta_ + 1, 1 / (1 - kTheta));
    return static_cast<std::uint64_t>(std::fmin(rank, count_ - 1));
  }

 private:
  static constexpr double kTheta = 0.99;
  double count_;
  double zeta_ = 0;
  double eta_ = 0;
};

// Calls use(number) for every word of the text, in its order.
template <typename Use>
void ForEachNumber(std::uint64_t words, std::uint64_t repeats, Use use) {
  const Zipf zipf(words);
  std::uint64_t state = kSeed;
  std::uint64_t repeated = 0;
  for (std::uint64_t number = 0; number < words; ++number) {
    use(number);
    for (; repeated * words < repeats * (number + 1); ++repeated) {
      // The factor, a prime, spreads the frequent words over all numbers.
      use(zipf.Draw(state) * 1000003 % words);
    }
  }
}

void PrintSizes(std::uint64_t words, std::uint64_t repeats) {
  std::uint64_t bytes = 0;
  std::string word;
  for (std::uint64_t number = 0; number < words; ++number) {
    MakeWord(number, word);
    bytes += 8 + 8 + (word.size() + 7) / 8 * 8 + 8;  // header, lengths, key, value
  }
  std::cout << "words: " << words + repeats << "\ndistinct words: " << words
            << "\nlive bytes: " << bytes << "\n";
}

int Write(const char* path, std::uint64_t words, std::uint64_t repeats) {
  constexpr std::string_view kSeparators[] = {" ", "\n", ", ", "\r\n", "\t", "_", "\xc3\xa9"};
  std::ofstream file(path, std::ios::binary);
  std::string word;
  std::uint64_t written = 0;
  ForEachNumber(words, repeats, [&](std::uint64_t number) {
    MakeWord(number, word);
    if (written % 16 == 0) {
      for (char& c : word) c = c >= 'a' ? static_cast<char>(c - 'a' + 'A') : c;
    }
    file << word << kSeparators[written % std::size(kSeparators)];
    ++written;
  });
  file.close();
  if (file.good()) return 0;
  std::cerr << "error: cannot write " << path << ": " << std::strerror(errno) << "\n";
  return 1;
}

int Check(const char* path, std::uint64_t words, std::uint64_t repeats) {
  std::vector<std::uint64_t> expected(words);
  ForEachNumber(words, repeats, [&](std::uint64_t number) { ++expected[number]; });
  std::ifstream file(path, std::ios::binary);
  std::uint64_t errors = 0;
  std::uint64_t count = 0;
  std::uint64_t seen = 0;
  std::string word;
  std::string right_word;
  while (file >> count >> word) {
    ++seen;
    const std::uint64_t number = NumberOf(word);
    if (number < words) MakeWord(number, right_word);
    if (number >= words || word != right_word) {
      if (++errors <= 10) std::cerr << "error: " << word << " is not a word of the text\n";
    } else if (count == 0 || count != expected[number]) {
      if (++errors <= 10) {
        std::cerr << "error: " << word << ": count " << count << ", expected " << expected[number]
                  << " (0: it came before)\n";
      }
    } else {
      expected[number] = 0;
    }
  }
  if (!file.eof() || seen != words) {
    std::cerr << "error: " << path << ": " << seen << " lines, expected " << words << "\n";
    ++errors;
  }
  return errors == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view mode = argc == 5 ? argv[1] : "";
  const std::uint64_t words = argc == 5 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const std::uint64_t repeats = argc == 5 ? std::strtoull(argv[4], nullptr, 10) : 0;
  if ((mode != "write" && mode != "check") || words < 10 || words % 1000003 == 0) {
    std::cerr << "usage: ebb_zipf_words write|check FILE WORDS REPEATS\n";
    return 2;
  }
  PrintSizes(words, repeats);
  return mode == "write" ? Write(argv[2], words, repeats) : Check(argv[2], words, repeats);
}
