// checkpoint_and_recover: a demo. A bank that is killed again and again, and never loses a cent.
//
//   checkpoint_and_recover [seconds=5] [directory without a bank.ebb]
//
// A child process opens the bank and moves money between accounts, on several threads, while
// automatic commits and checkpoints run in the background. At a random moment it is killed with
// SIGKILL. Then this process opens the bank and checks it, and the next child continues.
//
// A transfer is two updates, a withdrawal and a deposit, and a crash may fall between them. So each
// thread has a named session, its teller. The store reports the serial of the last recovered update
// of each teller: every update up to it is in the store, and none after it. Update 2t + 1 of a
// teller is the withdrawal of its transfer t, and update 2t + 2 is the deposit. Accounts and amount
// of a transfer follow from the teller and t. So if the serial is odd, exactly one known amount has
// been withdrawn and not yet deposited, and the next child begins with its deposit.
//
// Exit status: 0 right; 1 money was lost or created, or a store failed; 2 bad usage.
#include <signal.h>
#include <stdlib.h>  // mkdtemp
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ebb/ebb.h"

namespace {

using Bank = ebb::Store<std::uint64_t, std::int64_t>;  // account -> balance
constexpr std::uint64_t kAccounts = 10000;
constexpr std::int64_t kOpeningBalance = 1000;
constexpr std::uint64_t kTellers = 3;

struct Transfer {
  std::uint64_t from;
  std::uint64_t to;
  std::int64_t amount;
};

Transfer TransferOf(std::uint64_t teller, std::uint64_t number) {
  std::mt19937_64 random(number * kTellers + teller);
  const std::uint64_t from = random() % kAccounts;
  return {from, (from + 1 + random() % (kAccounts - 1)) % kAccounts,
          static_cast<std::int64_t>(1 + random() % 100)};
}

ebb::Options BankOptions() {
  ebb::Options options;
  options.log_memory_bytes = 2 << 20;  // most of the log is on the device soon
  options.preallocate_bytes = 1 << 20;
  options.commit_interval_ms = 5;
  options.checkpoint_interval_ms = 100;
  return options;
}

std::string NameOf(std::uint64_t teller) { return "teller " + std::to_string(teller); }

void Work(Bank& bank, std::uint64_t teller) {
  Bank::Session session = ebb::Must(bank.NewSession(NameOf(teller)));
  for (;;) {  // until this process is killed
    const Transfer transfer = TransferOf(teller, session.serial() / 2);
    const bool deposit = session.serial() % 2 != 0;
    const std::int64_t change = deposit ? transfer.amount : -transfer.amount;
    ebb::Must(session.Rmw(deposit ? transfer.to : transfer.from,
                          [change](std::int64_t& balance) { balance += change; }));
  }
}

// The child. Never returns. Reports on `ready` that the tellers work.
[[noreturn]] void RunBank(const std::string& path, int ready) {
  alarm(60);  // should the parent be gone
  Bank bank = ebb::Must(Bank::Open(path, BankOptions()));
  std::vector<std::thread> tellers;
  for (std::uint64_t teller = 0; teller < kTellers; ++teller) {
    tellers.emplace_back([&bank, teller] { Work(bank, teller); });
  }
  const char byte = 0;
  if (write(ready, &byte, 1) != 1) std::abort();
  for (;;) pause();
}

// Lets a child work, and kills it at a random moment. Returns false if it ended before.
bool WorkAndDie(const std::string& path, std::mt19937_64& random) {
  int ready[2];
  if (pipe(ready) != 0) return false;
  const pid_t child = fork();
  if (child == 0) RunBank(path, ready[1]);
  close(ready[1]);
  char byte;
  const bool works = child > 0 && read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  if (works) std::this_thread::sleep_for(std::chrono::microseconds(random() % 300'000));
  if (child <= 0) return false;
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return works && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

struct Audit {
  bool right = false;
  std::uint64_t updates = 0;
  std::uint64_t checkpoint = 0;
  std::uint64_t replayed = 0;
};

// Opens the bank after a crash and counts the money. `known` are the serials of the last audit.
Audit CountMoney(const std::string& path, std::map<std::string, std::uint64_t>& known) {
  Bank bank = ebb::Must(Bank::Open(path, BankOptions()));
  Audit audit{.checkpoint = bank.recovery().checkpoint_id,
              .replayed = bank.recovery().replayed_records};
  std::int64_t on_its_way = 0;
  bool forwards = true;
  for (const ebb::SessionReport& session : bank.recovery().sessions) {
    const std::uint64_t teller = std::stoull(session.name.substr(sizeof("teller ") - 1));
    if (session.serial % 2 != 0) on_its_way += TransferOf(teller, session.serial / 2).amount;
    forwards = forwards && session.serial >= known[session.name];
    known[session.name] = session.serial;
    audit.updates += session.serial;
  }
  std::int64_t total = on_its_way;
  for (std::uint64_t account = 0; account < kAccounts; ++account) {
    total += ebb::Must(bank.Read(account));
  }
  audit.right = forwards && total == static_cast<std::int64_t>(kAccounts) * kOpeningBalance;
  ebb::Must(bank.Close());
  return audit;
}

void OpenAccounts(const std::string& path) {
  Bank bank = ebb::Must(Bank::Open(path, BankOptions()));
  for (std::uint64_t account = 0; account < kAccounts; ++account) {
    ebb::Must(bank.Upsert(account, kOpeningBalance));
  }
  ebb::Must(bank.Close());
}

}  // namespace

int main(int argc, char** argv) {
  char* end = nullptr;
  const double seconds = argc > 1 ? std::strtod(argv[1], &end) : 5;
  if (argc > 3 || (end != nullptr && *end != '\0') || seconds < 0) {
    std::fprintf(stderr, "usage: checkpoint_and_recover [seconds] [directory]\n");
    return 2;
  }
  std::string temporary = (std::filesystem::temp_directory_path() / "ebb-bank-XXXXXX").string();
  if (argc <= 2 && mkdtemp(temporary.data()) == nullptr) return 1;
  const std::string path = (argc > 2 ? std::string(argv[2]) : temporary) + "/bank.ebb";
  if (std::filesystem::exists(path)) {
    std::fprintf(stderr, "%s exists already; this example begins with a bank of its own\n",
                 path.c_str());
    return 2;
  }
  OpenAccounts(path);

  const std::uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  std::map<std::string, std::uint64_t> serials;
  Audit audit;
  std::uint64_t kills = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  do {
    if (!WorkAndDie(path, random)) {
      std::fprintf(stderr, "the bank stopped by itself (seed %llu)\n",
                   static_cast<unsigned long long>(seed));
      return 1;
    }
    audit = CountMoney(path, serials);
    std::printf("kill %llu: %llu updates, checkpoint %llu and %llu records after it: %s\n",
                static_cast<unsigned long long>(++kills),
                static_cast<unsigned long long>(audit.updates),
                static_cast<unsigned long long>(audit.checkpoint),
                static_cast<unsigned long long>(audit.replayed),
                audit.right ? "every cent is there" : "MONEY WAS LOST OR MADE");
    std::fflush(stdout);
  } while (audit.right && std::chrono::steady_clock::now() < until);
  if (audit.right && argc <= 2) std::filesystem::remove_all(temporary);
  if (audit.updates == 0) std::printf("no update ever became durable\n");
  return audit.right && audit.updates > 0 ? 0 : 1;
}
