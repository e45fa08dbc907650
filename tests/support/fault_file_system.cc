#include "tests/support/fault_file_system.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace ebb::test {

using internal::Transfer;

namespace {

std::size_t IndexOf(CallKind kind) { return static_cast<std::size_t>(kind); }

bool Fits(const Fault& fault, CallKind kind, const std::string& name) {
  return (!fault.kind.has_value() || *fault.kind == kind) &&
         name.find(fault.name_part) != std::string::npos;
}

bool IsError(const Fault& fault) {
  return fault.effect == Effect::kError || fault.effect == Effect::kErrorAfter;
}

}  // namespace

const char* NameOf(CallKind kind) {
  switch (kind) {
    case CallKind::kOpenDirectory:
      return "OpenDirectory";
    case CallKind::kOpen:
      return "Open";
    case CallKind::kRead:
      return "Read";
    case CallKind::kWrite:
      return "Write";
    case CallKind::kSync:
      return "Sync";
    case CallKind::kTruncate:
      return "Truncate";
    case CallKind::kReserve:
      return "Reserve";
    case CallKind::kPunchHole:
      return "PunchHole";
    case CallKind::kSize:
      return "Size";
    case CallKind::kClose:
      return "Close";
    case CallKind::kList:
      return "List";
    case CallKind::kRename:
      return "Rename";
    case CallKind::kUnlink:
      return "Unlink";
    case CallKind::kSyncDirectory:
      return "SyncDirectory";
    case CallKind::kLock:
      return "Lock";
  }
  return "unknown";
}

// ---- Faults ----

template <typename Call>
int FaultFileSystem::Run(CallKind kind, const std::string& name, Call call) {
  const std::optional<Fault> fault = Begin(kind, name);
  if (!fault.has_value() || !IsError(*fault)) return call();
  if (fault->effect == Effect::kErrorAfter) static_cast<void>(call());
  return fault->error;
}

std::optional<Fault> FaultFileSystem::Begin(CallKind kind, const std::string& name) {
  if (on_call_) on_call_(kind);
  std::unique_lock lock(mu_);
  ++counts_[IndexOf(kind)];
  Gate& gate = gates_[IndexOf(kind)];
  if (gate.closed) {
    ++gate.waiting;
    gates_changed_.notify_all();
    gates_changed_.wait(lock, [&] { return !gate.closed; });
    --gate.waiting;
  }
  for (Armed& armed : faults_) {
    if (armed.spent || !Fits(armed.fault, kind, name)) continue;
    if (armed.seen++ < armed.fault.skip) continue;
    armed.spent = !armed.fault.sticky;
    ++fired_count_;
    return armed.fault;
  }
  return std::nullopt;
}

class FaultFileSystem::FaultFile final : public internal::File {
 public:
  FaultFile(FaultFileSystem& owner, std::unique_ptr<internal::File> base, std::string name)
      : owner_(owner), base_(std::move(base)), name_(std::move(name)) {
    ++owner_.open_files_;
  }
  ~FaultFile() override {
    --owner_.open_files_;
    if (writes_ != synced_writes_) ++owner_.unsynced_closes_;
  }

  Transfer ReadAt(std::uint64_t offset, std::byte* bytes, std::size_t count) override {
    const std::optional<Fault> fault = owner_.Begin(CallKind::kRead, name_);
    if (!fault.has_value()) return base_->ReadAt(offset, bytes, count);
    if (fault->effect == Effect::kError) return {0, fault->error};
    // The whole is read, since a direct file may reject the part.
    Transfer transfer = base_->ReadAt(offset, bytes, count);
    if (fault->effect == Effect::kErrorAfter) return {0, fault->error};
    if (transfer.error != 0 || transfer.count == 0) return transfer;
    if (fault->effect == Effect::kShort) {
      transfer.count -= std::min(transfer.count, fault->short_by_bytes);
      // Data that did not arrive must not be relied on.
      std::memset(bytes + transfer.count, 0xee, count - transfer.count);
    } else {
      const std::uint64_t bit = fault->flip_bit % (transfer.count * 8);
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    return transfer;
  }

  Transfer WriteAt(std::uint64_t offset, const std::byte* bytes, std::size_t count) override {
    const std::optional<Fault> fault = owner_.Begin(CallKind::kWrite, name_);
    ++writes_;
    if (!fault.has_value() || fault->effect == Effect::kFlipBit) {
      return base_->WriteAt(offset, bytes, count);
    }
    if (fault->effect == Effect::kError) return {0, fault->error};
    if (fault->effect == Effect::kErrorAfter) {
      static_cast<void>(base_->WriteAt(offset, bytes, count));
      return {0, fault->error};
    }
    const std::size_t reported = count - std::min(count, fault->short_by_bytes);
    // A direct file takes whole blocks only, so less is written than is reported. A caller that
    // continues such a file must start at a whole block anyhow.
    constexpr std::size_t kBlockBytes = 4096;
    const std::size_t written = direct() ? reported - reported % kBlockBytes : reported;
    if (written > 0) {
      const Transfer transfer = base_->WriteAt(offset, bytes, written);
      if (transfer.error != 0 || transfer.count < written) return transfer;
    }
    return {reported, 0};
  }

  int Sync() override {
    const std::uint64_t writes = writes_;
    const int error = owner_.Run(CallKind::kSync, name_, [&] { return base_->Sync(); });
    if (error == 0) synced_writes_ = writes;
    return error;
  }
  int Truncate(std::uint64_t size) override {
    return owner_.Run(CallKind::kTruncate, name_, [&] { return base_->Truncate(size); });
  }
  int Reserve(std::uint64_t offset, std::uint64_t bytes) override {
    return owner_.Run(CallKind::kReserve, name_, [&] { return base_->Reserve(offset, bytes); });
  }
  int PunchHole(std::uint64_t offset, std::uint64_t bytes) override {
    return owner_.Run(CallKind::kPunchHole, name_, [&] { return base_->PunchHole(offset, bytes); });
  }
  int Size(std::uint64_t& size) override {
    return owner_.Run(CallKind::kSize, name_, [&] { return base_->Size(size); });
  }
  // A close that fails has closed: the descriptor is gone.
  int Close() override {
    const std::optional<Fault> fault = owner_.Begin(CallKind::kClose, name_);
    const int error = base_->Close();
    return fault.has_value() && IsError(*fault) ? fault->error : error;
  }
  internal::FileId id() const override { return base_->id(); }
  bool direct() const override { return base_->direct(); }

 private:
  FaultFileSystem& owner_;
  const std::unique_ptr<internal::File> base_;
  const std::string name_;
  std::atomic<std::uint64_t> writes_ = 0;
  std::atomic<std::uint64_t> synced_writes_ = 0;  // that the last good sync covered
};

class FaultFileSystem::FaultDirectory final : public internal::Directory {
 public:
  FaultDirectory(FaultFileSystem& owner, std::unique_ptr<internal::Directory> base)
      : owner_(owner), base_(std::move(base)) {}

  internal::OpenedFile Open(const std::string& name, internal::OpenFlags flags) override {
    internal::OpenedFile opened;
    opened.error = owner_.Run(CallKind::kOpen, name, [&] {
      opened = base_->Open(name, flags);
      return opened.error;
    });
    if (opened.error != 0 || opened.file == nullptr) return {nullptr, opened.error};
    return {std::make_unique<FaultFile>(owner_, std::move(opened.file), name), 0};
  }
  int List(std::vector<std::string>& names) override {
    return owner_.Run(CallKind::kList, "", [&] { return base_->List(names); });
  }
  int Rename(const std::string& from, const std::string& to) override {
    return owner_.Run(CallKind::kRename, from, [&] { return base_->Rename(from, to); });
  }
  int Unlink(const std::string& name) override {
    return owner_.Run(CallKind::kUnlink, name, [&] { return base_->Unlink(name); });
  }
  int Sync() override {
    return owner_.Run(CallKind::kSyncDirectory, "", [&] { return base_->Sync(); });
  }
  int SyncFiles() override {
    return owner_.Run(CallKind::kSync, "", [&] { return base_->SyncFiles(); });
  }
  int Lock(const std::string& name, internal::LockKind kind) override {
    return owner_.Run(CallKind::kLock, name, [&] { return base_->Lock(name, kind); });
  }
  void Unlock() override { base_->Unlock(); }

 private:
  FaultFileSystem& owner_;
  const std::unique_ptr<internal::Directory> base_;
};

// ---- FaultFileSystem ----

FaultFileSystem::~FaultFileSystem() {
  for (std::size_t i = 0; i < kCallKindCount; ++i) Release(static_cast<CallKind>(i));
}

internal::OpenedDirectory FaultFileSystem::OpenDirectory(const std::string& path, bool create) {
  internal::OpenedDirectory opened;
  opened.error = Run(CallKind::kOpenDirectory, path, [&] {
    opened = base_.OpenDirectory(path, create);
    return opened.error;
  });
  if (opened.error != 0 || opened.directory == nullptr) return {nullptr, opened.error};
  return {std::make_unique<FaultDirectory>(*this, std::move(opened.directory)), 0};
}

void FaultFileSystem::Arm(Fault fault) {
  std::lock_guard lock(mu_);
  faults_.push_back({.fault = std::move(fault), .seen = 0, .spent = false});
}

void FaultFileSystem::Disarm() {
  std::lock_guard lock(mu_);
  faults_.clear();
}

std::uint64_t FaultFileSystem::FiredCount() const {
  std::lock_guard lock(mu_);
  return fired_count_;
}

std::uint64_t FaultFileSystem::Count(CallKind kind) const {
  std::lock_guard lock(mu_);
  return counts_[IndexOf(kind)];
}

std::uint64_t FaultFileSystem::Count() const {
  std::lock_guard lock(mu_);
  std::uint64_t sum = 0;
  for (const std::uint64_t count : counts_) sum += count;
  return sum;
}

void FaultFileSystem::ResetCounts() {
  std::lock_guard lock(mu_);
  counts_.fill(0);
}

void FaultFileSystem::Hold(CallKind kind) {
  std::lock_guard lock(mu_);
  gates_[IndexOf(kind)].closed = true;
}

void FaultFileSystem::Release(CallKind kind) {
  std::lock_guard lock(mu_);
  gates_[IndexOf(kind)].closed = false;
  gates_changed_.notify_all();
}

bool FaultFileSystem::WaitUntilHeld(CallKind kind, std::size_t count) const {
  std::unique_lock lock(mu_);
  return gates_changed_.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return gates_[IndexOf(kind)].waiting >= count; });
}

}  // namespace ebb::test
