#include "tests/schedule/scheduler.h"

#include <cxxabi.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <system_error>
#include <utility>

#include "ebb/internal/base/platform.h"
#include "ebb/internal/core/callback_scope.h"
#include "tests/support/allocation_scope.h"

namespace ebb::test {

constinit RunningFiber g_running;

namespace {

constexpr std::size_t kStackBytes = std::size_t{256} << 10;
// Far beyond the steps of any program, and the waits of any within so much virtual time.
constexpr std::uint64_t kMaxWaits = 200000;
constexpr std::uint64_t kMaxWaitsNs = 300000000;  // more than so many yields take
constexpr std::uint64_t kMaxSteps = 50000000;

constexpr std::uint64_t kUnixNs = std::uint64_t{1800000000} * 1000000000;  // at time 0

Schedule* g_schedule = nullptr;  // whose fibers run
std::uint64_t g_now_ns = 0;
std::uint64_t g_startable_threads = kNeverNs;
bool (*g_allocation_fails)() = nullptr;
std::int64_t g_live_allocations = 0;

// The output of a crash; no memory is allocated then.
const char* g_crash_program = "no program";
const char* g_crash_variable = "";
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

bool InFiber() { return g_schedule != nullptr; }

[[noreturn]] void EndWithoutProgress() {
  std::fprintf(stderr, "the fibers wait for each other, or for ever\n");
  if (InFiber()) g_schedule->DescribeWaits();
  std::abort();
}

}  // namespace

void StopSlow() {
  if (InFiber()) g_schedule->Stop();
}

std::uint64_t VirtualNs() { return g_now_ns; }
std::uint64_t VirtualUnixNs() { return kUnixNs + g_now_ns; }

void Block(const void* object, Waits waits, std::uint64_t until_ns) {
  if (InFiber()) return g_schedule->Block(object, waits, until_ns);
  if (until_ns == kNeverNs) EndWithoutProgress();
  g_now_ns = std::max(g_now_ns, until_ns);
}
void WakeOne(const void* object) {
  if (InFiber()) g_schedule->Wake(object, /*all=*/false);
}
void WakeAll(const void* object) {
  if (InFiber()) g_schedule->Wake(object, /*all=*/true);
}
const void* StartFiber(std::function<void()> body) {
  if (!InFiber()) EndWithoutProgress();
  if (g_startable_threads == 0) {
    throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
  }
  --g_startable_threads;
  return g_schedule->Add(std::move(body));
}
void ThreadsFail(std::uint64_t startable) { g_startable_threads = startable; }
void SetAllocationFaults(bool (*fails)()) { g_allocation_fails = fails; }
std::int64_t LiveAllocations() { return g_live_allocations; }
void JoinFiber(const void* fiber) { g_schedule->Join(fiber); }

void* FindSlot(const void* key, void* (*make)(), void (*destroy)(void*), bool trivial) {
  const OutsideLibrary outside;
  static auto* const of_no_fiber = new std::vector<Schedule::Slot>;
  std::vector<Schedule::Slot>& slots = InFiber() ? g_schedule->slots() : *of_no_fiber;
  for (const Schedule::Slot& slot : slots) {
    if (slot.key == key) return slot.object;
  }
  void* const object = make();
  slots.push_back({key, object, destroy, trivial});
  return object;
}

// ---- Schedule ----

Schedule::Schedule(std::uint64_t seed, std::uint64_t expected_steps, Kind kind)
    : choices_(seed), order_(~seed) {
  g_now_ns = 0;
  if (kind == Kind::kStraight) return;
  holds_stores_ = order_.Below(2) == 0;
  wakes_for_no_reason_ = order_.Below(2) == 0;
  walks_ = kind == Kind::kWalk || order_.Below(4) == 0;
  if (walks_) {
    walk_steps_ = std::uint64_t{2} << 2 * order_.Below(kind == Kind::kWalk ? 6 : 3);
    return;
  }
  for (std::uint64_t count = 1 + order_.Below(5); count > 0; --count) {
    stops_.push_back(1 + order_.Below(expected_steps));
  }
  std::sort(stops_.begin(), stops_.end(), std::greater<>());
}

Schedule::~Schedule() = default;

void Schedule::Calm() {
  walks_ = wakes_for_no_reason_ = false;
  is_calm_ = true;
  stops_.clear();
  PlanNextStop();
}
void Schedule::JumpTime(std::uint64_t ns) { g_now_ns += ns; }

const void* Schedule::Add(std::function<void()> body) {
  const OutsideLibrary outside;  // and so nothing below allocates in a library's call
  Fiber& fiber = fibers_.emplace_back();
  fiber.body = std::move(body);
  if (free_stacks_.empty()) {
    fiber.stack = stacks_++;
  } else {
    fiber.stack = free_stacks_.back();
    free_stacks_.pop_back();
  }
  fiber.stack_pointer = FreshStack(StackTop(fiber.stack));
  live_.push_back(fibers_.size() - 1);
  candidates_.reserve(live_.size());
  free_stacks_.reserve(stacks_);
  return &fiber;
}

void Schedule::Run() {
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
  Fiber& fiber = fibers_[current_];
  fiber.body();
  DestroySlots();
  ReleaseHeldStore();
  fiber.has_ended = true;
  Wake(&fiber, /*all=*/true);
  std::erase(live_, current_);
  free_stacks_.push_back(fiber.stack);  // nobody else runs before this one has left it
  if (live_.empty()) {
    void* ended;
    ebb_schedule_switch(&ended, main_stack_pointer_);
  }
  SwitchTo(PickOther());
  std::abort();  // no fiber continues here
}

// In the order of a thread's end: objects without a destructor exist until the last one has run.
void Schedule::DestroySlots() {
  for (const bool trivial : {false, true}) {
    for (std::size_t i = slots().size(); i-- > 0;) {
      const Slot slot = slots()[i];
      if (slot.trivial == trivial) slot.destroy(slot.object);
    }
  }
}

void Schedule::PlanNextStop() {
  if (walks_) {
    g_running.stop_at = g_running.step + 1 + order_.Below(2 * walk_steps_);
    return;
  }
  while (!stops_.empty() && stops_.back() <= g_running.step) stops_.pop_back();
  g_running.stop_at = stops_.empty() ? kMaxSteps : stops_.back();
}

bool Schedule::MayRun(const Fiber& fiber) {
  return fiber.waits == Waits::kNothing || fiber.until_ns <= g_now_ns ||
         (wakes_for_no_reason_ && fiber.waits == Waits::kCondition && order_.Below(16) == 0);
}

// A fiber that may run, and the current one only if it is the only one.
std::size_t Schedule::PickOther() {
  for (;;) {  // ends: after the time has moved, a fiber may run
    candidates_.clear();
    for (const std::size_t fiber : live_) {
      if (fiber != current_ && MayRun(fibers_[fiber])) candidates_.push_back(fiber);
    }
    if (!candidates_.empty()) {
      if (!is_calm_) return candidates_[order_.Below(candidates_.size())];
      const auto next = std::find_if(candidates_.begin(), candidates_.end(),
                                     [&](std::size_t fiber) { return fiber > current_; });
      return next == candidates_.end() ? candidates_[0] : *next;
    }
    if (current_ != kNone && !fibers_[current_].has_ended && MayRun(fibers_[current_])) {
      return current_;
    }
    MoveTime();
  }
}

// All fibers wait.
void Schedule::MoveTime() {
  std::uint64_t first = kNeverNs;
  for (const std::size_t fiber : live_) first = std::min(first, fibers_[fiber].until_ns);
  if (first == kNeverNs) EndWithoutProgress();
  g_now_ns = std::max(g_now_ns, first);
}

void Schedule::DescribeWaits() const {
  static constexpr const char* kWaits[] = {"nothing", "a lock", "a condition", "an end", "a time"};
  std::fprintf(stderr, "at %llu ns, after %llu steps and %llu waits\n",
               static_cast<unsigned long long>(g_now_ns),
               static_cast<unsigned long long>(g_running.step),
               static_cast<unsigned long long>(waits_));
  for (const std::size_t fiber : live_) {
    std::fprintf(stderr, "fiber %zu%s waits for %s\n", fiber, fiber == current_ ? " (running)" : "",
                 kWaits[static_cast<std::size_t>(fibers_[fiber].waits)]);
  }
}

void Schedule::Stop() {
  if (g_running.step >= kMaxSteps) EndWithoutProgress();
  PlanNextStop();
  SwitchTo(PickOther());
}

void Schedule::CountWait() {
  ReleaseHeldStore();
  ++g_running.step;
  if (g_now_ns >= waits_from_ns_ + kMaxWaitsNs) {
    waits_from_ns_ = g_now_ns;
    waits_ = 0;
  }
  if (++waits_ > kMaxWaits) EndWithoutProgress();
}

void Schedule::Yield() {
  CountWait();
  g_now_ns += 1000;
  SwitchTo(PickOther());
}

void Schedule::Block(const void* object, Waits waits, std::uint64_t until_ns) {
  CountWait();
  Fiber& self = fibers_[current_];
  self.waits = waits;
  self.object = object;
  self.until_ns = until_ns;
  SwitchTo(PickOther());
  self.waits = Waits::kNothing;
  self.until_ns = kNeverNs;
}

void Schedule::Wake(const void* object, bool all) {
  candidates_.clear();
  for (const std::size_t fiber : live_) {
    if (fibers_[fiber].waits != Waits::kNothing && fibers_[fiber].object == object) {
      candidates_.push_back(fiber);
    }
  }
  if (candidates_.empty()) return;
  const std::size_t one = all ? 0 : order_.Below(candidates_.size());
  for (std::size_t i = 0; i < candidates_.size(); ++i) {
    if (all || i == one) fibers_[candidates_[i]].waits = Waits::kNothing;
  }
}

void Schedule::Join(const void* fiber) {
  while (!static_cast<const Fiber*>(fiber)->has_ended) Block(fiber, Waits::kEnd, kNeverNs);
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
  // The thread's objects are the fiber's here, and so are the exceptions that it handles.
  struct Exceptions {
    void* caught = nullptr;
    unsigned uncaught = 0;
  };
  auto& exceptions = *reinterpret_cast<Exceptions*>(abi::__cxa_get_globals());
  const std::uintptr_t callbacks = std::exchange(internal::t_callbacks, 0);
  const AllocationScope scope = std::exchange(t_allocation_scope, AllocationScope::kLibraryThread);
  const Exceptions handled = std::exchange(exceptions, {});
  ebb_schedule_switch(&from.stack_pointer, fibers_[next].stack_pointer);
  exceptions = handled;
  t_allocation_scope = scope;
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
                    "%s=%llu replays it\n",
                    g_crash_program, signal, static_cast<unsigned long long>(g_crash_seed),
                    g_crash_variable, static_cast<unsigned long long>(g_crash_seed));
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

void NoteForCrashes(const char* program, std::uint64_t seed, const char* variable) {
  [[maybe_unused]] static const bool caught = CatchCrashes();
  g_crash_program = program;
  g_crash_seed = seed;
  g_crash_variable = variable;
}

}  // namespace ebb::test

// ---- the functions of platform.h ----

namespace ebb::internal {

void Yield() {
  if (test::InFiber()) test::g_schedule->Yield();
}
void SleepFor(std::chrono::microseconds time) {
  const auto ns = static_cast<std::uint64_t>(time.count()) * 1000;
  test::Block(nullptr, test::Waits::kTime, test::VirtualNs() + ns);
}

int Membarrier(int) {
  if (test::InFiber()) {
    test::AccessPoint(nullptr);
    test::g_schedule->ReleaseAllHeldStores();
  }
  return 0;
}

int RandomBytes(std::span<std::byte> bytes) {
  static test::Random of_no_fiber(1);
  test::Random& random = test::InFiber() ? test::g_schedule->order() : of_no_fiber;
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next());
  return 0;
}

void* MapMemory(std::size_t bytes) {
  if (test::g_allocation_fails != nullptr && test::g_allocation_fails()) return nullptr;
  void* const memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}
void UnmapMemory(void* memory, std::size_t bytes) {
  test::ReleaseHeldStore();  // to this memory, perhaps
  munmap(memory, bytes);
}
bool AllowAccess(void* memory, std::size_t bytes) {
  if (test::g_allocation_fails != nullptr && test::g_allocation_fails()) return false;
  return mprotect(memory, bytes, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace ebb::internal

// ---- freed memory ----

namespace {
void* Allocate(std::size_t bytes, std::size_t alignment) {
  using ebb::test::g_allocation_fails;
  if (g_allocation_fails != nullptr &&
      ebb::test::t_allocation_scope != ebb::test::AllocationScope::kTest && g_allocation_fails()) {
    throw std::bad_alloc();
  }
  const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, padded == 0 ? alignment : padded);
  if (memory == nullptr) throw std::bad_alloc();
  ++ebb::test::g_live_allocations;
  return memory;
}
void Free(void* memory) {
  if (memory == nullptr) return;
  --ebb::test::g_live_allocations;
  ebb::test::ReleaseHeldStore();  // to this memory, perhaps
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
