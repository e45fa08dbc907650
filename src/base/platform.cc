#include "ebb/internal/base/platform.h"

#ifndef EBB_PLATFORM_HEADER
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace ebb::internal {

void Yield() { std::this_thread::yield(); }
void SleepFor(std::chrono::microseconds time) { std::this_thread::sleep_for(time); }

int Membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0) == 0 ? 0 : errno; }

int RandomBytes(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    // A signal can interrupt the call, and can make it return fewer bytes than requested.
    const ssize_t count = getrandom(bytes.data(), bytes.size(), 0);
    if (count < 0 && errno != EINTR) return errno;
    if (count > 0) bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return 0;
}

// The kernel does not count addresses without access as memory, even where it does not overcommit.
void* MapMemory(std::size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}
void UnmapMemory(void* memory, std::size_t bytes) { munmap(memory, bytes); }
bool AllowAccess(void* memory, std::size_t bytes) {
  return mprotect(memory, bytes, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace ebb::internal
#endif
