#include "ebb/internal/read_ahead.h"

#include <cstring>
#include <new>

#include "ebb/internal/mutex.h"

namespace ebb::internal {

struct ReadAhead::Job {
  enum class State { kNothing, kWaiting, kRunning, kDone };

  Mutex mu;
  CondVar done;
  State state ABSL_GUARDED_BY(mu) = State::kNothing;
  absl::Status status ABSL_GUARDED_BY(mu);
  // Of whoever has moved the state to where it is.
  Piece piece;
  AlignedBuffer bytes;
  std::uint64_t capacity = 0;  // blocks

  void Work(HybridLog& log) {
    {
      MutexLock lock(mu);
      if (state != State::kWaiting) return;
      state = State::kRunning;
    }
    absl::Status read =
        log.FetchBlocks(piece.first, {bytes.get(), (piece.end - piece.first) * kBlockBytes});
    MutexLock lock(mu);
    status = std::move(read);
    state = State::kDone;
    done.NotifyAll();
  }
};

ReadAhead::ReadAhead(Core& core) : core_(core), job_(std::make_shared<Job>()) {}

ReadAhead::~ReadAhead() { Drop(); }

void ReadAhead::Drop() {
  MutexLock lock(job_->mu);
  while (job_->state == Job::State::kRunning) job_->done.Wait(job_->mu);
  job_->state = Job::State::kNothing;
}

// True when a piece is asked for: an earlier one, or this one now.
bool ReadAhead::Prepare(Piece piece) {
  Job& job = *job_;
  MutexLock lock(job.mu);
  if (job.state != Job::State::kNothing) return true;
  const std::uint64_t blocks = piece.end - piece.first;
  if (job.capacity < blocks) {
    job.bytes = AllocateAligned(blocks * kBlockBytes);
    job.capacity = job.bytes == nullptr ? 0 : blocks;
    if (job.bytes == nullptr) return false;
  }
  job.piece = piece;
  job.state = Job::State::kWaiting;
  return true;
}

void ReadAhead::Ask(Piece piece) {
  if (core_.config.pool_threads == 0 || !Prepare(piece)) return;
  try {
    core_.pool.Post([job = job_, &log = core_.log] { job->Work(log); });
  } catch (const std::bad_alloc&) {  // then it is read when it is needed
  }
}

absl::StatusOr<ReadAhead::Piece> ReadAhead::Take(Piece piece, std::byte* to) {
  Job& job = *job_;
  if (!Prepare(piece)) return absl::ResourceExhaustedError("no memory to read the log");
  job.Work(core_.log);
  {
    MutexLock lock(job.mu);
    while (job.state != Job::State::kDone) job.done.Wait(job.mu);
    job.state = Job::State::kNothing;
    if (!job.status.ok()) return job.status;
  }
  for (std::uint64_t i = 0; i < job.piece.end - job.piece.first; ++i) {
    std::memcpy(to + i * kBlockPayloadBytes, job.bytes.get() + i * kBlockBytes, kBlockPayloadBytes);
  }
  return job.piece;
}

}  // namespace ebb::internal
