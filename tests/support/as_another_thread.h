// AsAnotherThread: lets a callback call its own store, which is rejected otherwise, as if another
// thread made the calls. So an interleaving is the same every time. The calls must not wait for the
// callback.
//
// Thread safety: the calling thread's.
#pragma once

#include <cstdint>
#include <utility>

#include "ebb/internal/core/callback_scope.h"

namespace ebb::test {

class AsAnotherThread {
 public:
  AsAnotherThread() = default;
  ~AsAnotherThread() { internal::t_callbacks = callbacks_; }
  AsAnotherThread(const AsAnotherThread&) = delete;
  AsAnotherThread& operator=(const AsAnotherThread&) = delete;

 private:
  const std::uintptr_t callbacks_ = std::exchange(internal::t_callbacks, 0);
};

}  // namespace ebb::test
