#include "ebb/internal/device/uring.h"

#ifdef EBB_HAS_URING

#include <liburing.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "ebb/internal/base/platform.h"

namespace ebb::internal {
namespace {

// Moves the ring's descriptor, which belongs to the library, above 2. Returns false, and ends the
// ring, if it cannot be moved. A template, because older versions of liburing have only one of the
// fields.
template <typename Ring>
bool MoveAboveStandard(Ring& ring) {
  if (ring.ring_fd > STDERR_FILENO) return true;
  const int moved = AboveStandard(ring.ring_fd);
  ring.ring_fd = moved;
  if constexpr (requires { ring.enter_ring_fd; }) ring.enter_ring_fd = moved;
  if (moved < 0) io_uring_queue_exit(&ring);
  return moved >= 0;
}

class Uring final : public ReadRing {
  // One system call for so many reads costs nearly as much as for one.
  static constexpr std::size_t kTogether = 8;

 public:
  explicit Uring(unsigned depth) : depth_(depth) {
    unsubmitted_.reserve(depth);  // may throw, so before there is a ring
    open_ = io_uring_queue_init(depth, &ring_, 0) == 0;
    if (open_) open_ = MoveAboveStandard(ring_);
  }
  ~Uring() override {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;
  bool open() const { return open_; }

  bool Start(File& file, std::uint64_t offset, std::byte* bytes, std::size_t count,
             void* tag) override {
    // A simulated file has no descriptor. A full ring rejects the read: the caller takes an
    // ended one out first.
    if (broken_ != 0 || file.descriptor() < 0 || submitted_ + unsubmitted_.size() >= depth_) {
      return false;
    }
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) return false;
    io_uring_prep_read(entry, file.descriptor(), bytes, static_cast<unsigned>(count), offset);
    io_uring_sqe_set_data(entry, tag);
    unsubmitted_.push_back(tag);
    if (unsubmitted_.size() == kTogether) Submit();
    return true;
  }

  // The kernel accepts entries in their order, so the first ones of unsubmitted_. If it rejects
  // some while others are in flight, it may accept them when those have ended.
  void Submit() override {
    constexpr int kAttempts = 100;
    for (int attempt = 0; broken_ == 0 && !unsubmitted_.empty(); ++attempt) {
      const int taken = io_uring_submit(&ring_);
      if (taken > 0) {
        unsubmitted_.erase(unsubmitted_.begin(), unsubmitted_.begin() + taken);
        submitted_ += static_cast<unsigned>(taken);
      } else if (submitted_ != 0) {
        // Reads in flight will end, so the next call tries again.
        return;
      } else if (attempt == kAttempts) {
        // Nothing is in flight and the kernel still rejects everything: the ring is given up.
        broken_ = taken < 0 ? -taken : EAGAIN;
      } else {
        Yield();
      }
    }
  }

  std::optional<Ended> Take(bool wait) override {
    Submit();
    // Reads that were never submitted end with the error; the caller reads their blocks itself.
    if (broken_ != 0 && !unsubmitted_.empty()) {
      void* const tag = unsubmitted_.back();
      unsubmitted_.pop_back();
      return Ended{tag, {0, broken_}};
    }
    if (submitted_ == 0) return std::nullopt;
    io_uring_cqe* done = nullptr;
    // Ends: a read in flight ends, even if the wait is interrupted.
    while ((wait ? io_uring_wait_cqe(&ring_, &done) : io_uring_peek_cqe(&ring_, &done)) != 0) {
      if (!wait) return std::nullopt;
    }
    const Ended ended{
        io_uring_cqe_get_data(done),
        done->res < 0 ? Transfer{0, -done->res} : Transfer{static_cast<std::size_t>(done->res), 0}};
    io_uring_cqe_seen(&ring_, done);
    --submitted_;
    return ended;
  }

 private:
  const unsigned depth_;
  io_uring ring_;
  bool open_ = false;
  int broken_ = 0;                  // an errno value: the kernel accepts no more
  unsigned submitted_ = 0;          // and not ended
  std::vector<void*> unsubmitted_;  // tags
};

}  // namespace

std::unique_ptr<ReadRing> OpenUring(unsigned depth) {
  auto ring = std::make_unique<Uring>(depth);
  if (!ring->open()) return nullptr;
  return ring;
}

}  // namespace ebb::internal

#else

namespace ebb::internal {
std::unique_ptr<ReadRing> OpenUring(unsigned /*depth*/) { return nullptr; }
}  // namespace ebb::internal

#endif
