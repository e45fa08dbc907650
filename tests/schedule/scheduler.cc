#include "tests/schedule/scheduler.h"

#include <linux/membarrier.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <new>
#include <utility>

#include "ebb/internal/core/callback_scope.h"

namespace ebb::test {

constinit RunningFiber g_running;

namespace {

constexpr std::size_t kStackBytes = std::size_t{256} << 10;
// Far beyond the steps of any program.
constexpr std::uint64_t kMaxWaits = 200000;
constexpr std::uint64_t kMaxSteps = 50000000;

Schedule* g_schedule = nullptr;  // whose fibers run

// The output of a crash; no memory is allocated then.
const char* g_crash_program = "no program";
std::uint64_t g_crash_seed = 0;

// Stacks are used again by later schedules. Below each lies a page that cannot be touched.
std::byte* StackTop(std::size_t index) {
  static std::vector<std::byte*> stacks;
  while (stacks.size() <= index) {
    const auto guard_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* const memory = mmap(nullptr, guard_bytes + kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) std::abort();
    stacks.push_back(static_cast<std::byte*>(memory) + guard_bytes + kStackBytes);
  }
  return stacks[index];
}

extern "C" {
// Saves the registers that a call must preserve and the stack pointer to `*from`; resumes at `to`.
void ebb_schedule_switch(void** from, void* to);
[[noreturn]] void ebb_schedule_fiber_main() { g_schedule->FiberMain(); }
}

#if defined(__x86_64__)
asm(R"(
  .text
  .globl ebb_schedule_switch
  .type ebb_schedule_switch, @function
ebb_schedule_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size ebb_schedule_switch, .-ebb_schedule_switch
)");
// Six registers, the address to return to, and one word so that the stack is aligned as after a
// call.
void* FreshStack(std::byte* top) {
  auto** words = reinterpret_cast<void**>(top - 64);
  std::fill(words, words + 8, nullptr);
  words[6] = reinterpret_cast<void*>(&ebb_schedule_fiber_main);
  return words;
}
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl ebb_schedule_switch
  .type ebb_schedule_switch, %function
ebb_schedule_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size ebb_schedule_switch, .-ebb_schedule_switch
)");
void* FreshStack(std::byte* top) {
  auto** words = reinterpret_cast<void**>(top - 160);
  std::fill(words, words + 20, nullptr);
  words[11] = reinterpret_cast<void*>(&ebb_schedule_fiber_main);  // x30
  return words;
}
#else
#error "the schedule explorer has no switch for this processor"
#endif

[[noreturn]] void EndWithoutProgress() {
  std::fprintf(stderr, "the fibers wait for each other, or for ever\n");
  std::abort();
}

bool InFiber() { return g_schedule != nullptr; }

}  // namespace

void StopSlow() {
  if (InFiber()) g_schedule->Stop();
}

void WaitSlow() {
  if (InFiber()) g_schedule->Wait();
}

// ---- Schedule ----

Schedule::Schedule(std::uint64_t seed, std::uint64_t expected_steps, Kind kind)
    : choices_(seed), order_(~seed) {
  if (kind == Kind::kStraight) return;
  holds_stores_ = order_.Below(2) == 0;
  walks_ = order_.Below(4) == 0;
  if (walks_) {
    walk_steps_ = std::uint64_t{2} << 2 * order_.Below(3);
    return;
  }
  for (std::uint64_t count = 1 + order_.Below(5); count > 0; --count) {
    stops_.push_back(1 + order_.Below(expected_steps));
  }
  std::sort(stops_.begin(), stops_.end(), std::greater<>());
}

Schedule::~Schedule() = default;

void Schedule::Add(std::function<void()> body) { fibers_.push_back({.body = std::move(body)}); }

void Schedule::Run() {
  for (std::size_t i = 0; i < fibers_.size(); ++i) {
    fibers_[i].stack_pointer = FreshStack(StackTop(i));
    live_.push_back(i);
  }
  if (live_.empty()) return;
  g_running = RunningFiber();
  g_running.holds_stores = holds_stores_;
  g_running.coins = order_.Next();
  g_schedule = this;
  PlanNextStop();
  current_ = PickOther();
  Load(current_);
  ebb_schedule_switch(&main_stack_pointer_, fibers_[current_].stack_pointer);
  g_schedule = nullptr;
  g_running.stop_at = RunningFiber::kNever;
  g_running.holds_stores = false;
}

void Schedule::FiberMain() {
  fibers_[current_].body();
  ReleaseHeldStore();
  std::erase(live_, current_);
  if (live_.empty()) {
    void* ended;
    ebb_schedule_switch(&ended, main_stack_pointer_);
  }
  SwitchTo(PickOther());
  std::abort();  // no fiber continues here
}

void Schedule::PlanNextStop() {
  if (walks_) {
    g_running.stop_at = g_running.step + 1 + order_.Below(2 * walk_steps_);
    return;
  }
  while (!stops_.empty() && stops_.back() <= g_running.step) stops_.pop_back();
  g_running.stop_at = stops_.empty() ? kMaxSteps : stops_.back();
}

std::size_t Schedule::PickOther() {
  std::size_t at = order_.Below(live_.size());
  if (live_[at] == current_) {
    if (live_.size() == 1) return current_;
    at = (at + 1 + order_.Below(live_.size() - 1)) % live_.size();
  }
  return live_[at];
}

void Schedule::Stop() {
  if (g_running.step >= kMaxSteps) EndWithoutProgress();
  PlanNextStop();
  SwitchTo(PickOther());
}

void Schedule::Wait() {
  ReleaseHeldStore();
  ++g_running.step;
  if (++waits_ > kMaxWaits) EndWithoutProgress();
  SwitchTo(PickOther());
}

void Schedule::Load(std::size_t next) {
  Fiber& fiber = fibers_[next];
  g_running.held_word = std::exchange(fiber.held_word, nullptr);
  g_running.held_value = fiber.held_value;
  g_running.held_bytes = fiber.held_bytes;
  g_running.last_word = 0;
  g_running.run_length = 0;
}

void Schedule::SwitchTo(std::size_t next) {
  if (next == current_) return;
  Fiber& from = fibers_[current_];
  from.held_word = g_running.held_word;
  from.held_value = g_running.held_value;
  from.held_bytes = g_running.held_bytes;
  Load(next);
  ++switches_;
  trace_ = (trace_ ^ (g_running.step << 4 | next)) * 0x9e3779b97f4a7c15u;
  trace_ ^= trace_ >> 32;
  current_ = next;
  // The thread's word is for us the fiber's.
  const std::uintptr_t callbacks = std::exchange(internal::t_callbacks, 0);
  ebb_schedule_switch(&from.stack_pointer, fibers_[next].stack_pointer);
  internal::t_callbacks = callbacks;
}

void Schedule::ReleaseAllHeldStores() {
  ReleaseHeldStore();
  for (Fiber& fiber : fibers_) {
    if (fiber.held_word == nullptr) continue;
    std::memcpy(fiber.held_word, &fiber.held_value, fiber.held_bytes);
    fiber.held_word = nullptr;
  }
}

// ---- crashes ----

namespace {

extern "C" void TellCrash(int signal) {
  char line[256];
  const int count =
      std::snprintf(line, sizeof line,
                    "%s: signal %d in the schedule of seed %llu; "
                    "EBB_SCHEDULE_SEED=%llu replays it\n",
                    g_crash_program, signal, static_cast<unsigned long long>(g_crash_seed),
                    static_cast<unsigned long long>(g_crash_seed));
  static_cast<void>(!write(STDERR_FILENO, line, static_cast<std::size_t>(count)));
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// On a stack of its own, since it may be a fiber's stack that has run out.
bool CatchCrashes() {
  static std::array<std::byte, 65536> stack;
  stack_t alternate = {};
  alternate.ss_sp = stack.data();
  alternate.ss_size = stack.size();
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_handler = &TellCrash;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    sigaction(signal, &action, nullptr);
  }
  return true;
}

}  // namespace

void NoteForCrashes(const char* program, std::uint64_t seed) {
  [[maybe_unused]] static const bool caught = CatchCrashes();
  g_crash_program = program;
  g_crash_seed = seed;
}

}  // namespace ebb::test

// ---- the functions that the linker puts in the place of the C library's calls ----

using ebb::test::AccessPoint;
using ebb::test::g_schedule;
using ebb::test::InFiber;
using ebb::test::ReleaseHeldStore;
using ebb::test::WaitSlow;

extern "C" {

int __real_pthread_mutex_lock(pthread_mutex_t* mutex);
int __real_pthread_mutex_trylock(pthread_mutex_t* mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t* mutex);
int __real_sched_yield();
int __real_usleep(useconds_t microseconds);
long __real_syscall(long number, ...);

int __wrap_pthread_mutex_trylock(pthread_mutex_t* mutex) {
  if (!InFiber()) return __real_pthread_mutex_trylock(mutex);
  AccessPoint(mutex);
  ReleaseHeldStore();
  return __real_pthread_mutex_trylock(mutex);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t* mutex) {
  if (!InFiber()) return __real_pthread_mutex_lock(mutex);
  while (__wrap_pthread_mutex_trylock(mutex) != 0) WaitSlow();
  return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t* mutex) {
  if (InFiber()) ReleaseHeldStore();
  return __real_pthread_mutex_unlock(mutex);
}

int __wrap_sched_yield() {
  if (!InFiber()) return __real_sched_yield();
  WaitSlow();
  return 0;
}

int __wrap_usleep(useconds_t microseconds) {
  if (!InFiber()) return __real_usleep(microseconds);
  WaitSlow();
  return 0;
}

long __wrap_syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  if (number == SYS_membarrier) {
    if (InFiber()) {
      AccessPoint(nullptr);
      g_schedule->ReleaseAllHeldStores();
    }
    return 0;
  }
  return __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
                        arguments[4], arguments[5]);
}

// The function that std::condition_variable::wait_until calls.
int __real_pthread_cond_clockwait(pthread_cond_t* changed, pthread_mutex_t* mutex, clockid_t clock,
                                  const timespec* until);
int __wrap_pthread_cond_clockwait(pthread_cond_t* changed, pthread_mutex_t* mutex, clockid_t clock,
                                  const timespec* until) {
  if (!InFiber()) return __real_pthread_cond_clockwait(changed, mutex, clock, until);
  __wrap_pthread_mutex_unlock(mutex);
  WaitSlow();
  return __wrap_pthread_mutex_lock(mutex);
}

// std::condition_variable::wait(std::unique_lock<std::mutex>&)
void __real__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
    std::condition_variable* self, std::unique_lock<std::mutex>& lock);
void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
    std::condition_variable* self, std::unique_lock<std::mutex>& lock) {
  if (!InFiber()) {
    return __real__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(self, lock);
  }
  lock.unlock();
  WaitSlow();
  lock.lock();
}

}  // extern "C"

// ---- freed memory ----

namespace {
void* Allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, padded == 0 ? alignment : padded);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void Free(void* memory) {
  if (memory == nullptr) return;
  std::memset(memory, 0xdd, malloc_usable_size(memory));
  // Without this the compiler knows that no code reads the memory.
  asm volatile("" : : "r"(memory) : "memory");
  std::free(memory);
}
}  // namespace

void* operator new(std::size_t bytes) { return Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { Free(memory); }
