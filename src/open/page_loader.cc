#include "ebb/internal/open/page_loader.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "ebb/internal/base/no_memory.h"
#include "ebb/internal/device/block_io.h"
#include "ebb/internal/format/block.h"

namespace ebb::internal {

struct LoadedPage {
  absl::Status status;
  std::vector<std::uint64_t> incarnations;
};

namespace {

// Loads blocks [first, end) of one page into its frame, up to the first that does not verify.
LoadedPage LoadBlocks(Core& core, std::uint64_t first, std::uint64_t end) {
  LoadedPage loaded;
  const Geometry& geometry = core.log.geometry();
  const AlignedBuffer buffer = AllocateAligned(std::min(kReadBlocks, end - first) * kBlockBytes);
  if (buffer == nullptr) {
    loaded.status = NoMemory();
    return loaded;
  }
  const std::uint64_t page = first / geometry.blocks_per_page();
  const std::uint64_t page_first = page * geometry.blocks_per_page();
  const std::span<std::byte> frame = core.log.Frame(page);
  for (std::uint64_t block = first; block < end;) {
    const std::uint64_t wanted = std::min(kReadBlocks, end - block);
    const auto count = ReadBlocks(*core.files.device, block, {buffer.get(), wanted * kBlockBytes});
    if (!count.ok()) {
      loaded.status = count.status();
      return loaded;
    }
    for (std::uint64_t i = 0; i < *count; ++i, ++block) {
      const std::span<const std::byte> bytes(buffer.get() + i * kBlockBytes, kBlockBytes);
      const auto incarnation = VerifyBlock(bytes, core.config.log.store_id, block);
      // The end of the log, or damage: LogReplay decides.
      if (!incarnation.has_value()) return loaded;
      std::memcpy(frame.data() + (block - page_first) * kBlockPayloadBytes, bytes.data(),
                  kBlockPayloadBytes);
      loaded.incarnations.push_back(*incarnation);
    }
    if (*count < wanted) return loaded;
  }
  return loaded;
}

}  // namespace

struct PageLoader::Shared {
  enum class State { kWaiting, kRunning, kDone };
  struct Page {
    State state = State::kWaiting;
    std::uint64_t first_block = 0;
    std::uint64_t end_block = 0;
    LoadedPage loaded;
  };

  Mutex mu;
  CondVar done;
  std::map<std::uint64_t, Page> pages ABSL_GUARDED_BY(mu);

  // Loads the page unless another thread does or has done so, or it is no longer needed.
  void Work(Core& core, std::uint64_t number) {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    {
      MutexLock lock(mu);
      // Either the scan has loaded this page itself, or another job of the pool has.
      const auto page = pages.find(number);
      if (page == pages.end() || page->second.state != State::kWaiting) return;
      page->second.state = State::kRunning;
      first = page->second.first_block;
      end = page->second.end_block;
    }
    LoadedPage loaded;
    // An exception that left this function would leave a page whose loading never ends, for which
    // the destructor waits.
    loaded.status = CatchNoMemory([&] {
      loaded = LoadBlocks(core, first, end);
      return loaded.status;
    });
    MutexLock lock(mu);
    // The page is still there: only Load erases it, after it is done.
    Page& page = pages.find(number)->second;
    page.loaded = std::move(loaded);
    page.state = State::kDone;
    done.NotifyAll();
  }

  // Loads pages, in ascending order, until none waits.
  void WorkAhead(Core& core) {
    for (;;) {  // ends: few pages are requested at a time
      std::uint64_t number = 0;
      {
        MutexLock lock(mu);
        const auto page = std::find_if(pages.begin(), pages.end(), [](const auto& candidate) {
          return candidate.second.state == State::kWaiting;
        });
        if (page == pages.end()) return;
        number = page->first;
      }
      Work(core, number);
    }
  }
};

PageLoader::PageLoader(Core& core, PageRange range)
    : range_(range),
      blocks_per_page_(core.log.geometry().blocks_per_page()),
      core_(core),
      shared_(std::make_unique<Shared>()),
      requested_end_(range.first_block / blocks_per_page_) {
  const auto count = std::min<std::uint64_t>(core.config.pool_threads, kMaxAhead);
  for (std::uint64_t i = 0; i < count; ++i) {
    helpers_.emplace_back(core.pool, [this] { shared_->WorkAhead(core_); });
  }
}

PageLoader::~PageLoader() {
  MutexLock lock(shared_->mu);
  auto& pages = shared_->pages;
  // Running jobs write into frames and into the shared state, so their end is awaited; waiting
  // pages are dropped.
  for (;;) {
    std::erase_if(pages,
                  [](const auto& page) { return page.second.state != Shared::State::kRunning; });
    if (pages.empty()) return;
    shared_->done.Wait(shared_->mu);
  }
}

void PageLoader::LoadAhead(std::uint64_t page) {
  const std::uint64_t first = std::max(range_.first_block, page * blocks_per_page_);
  const std::uint64_t end = std::min(range_.end_block, (page + 1) * blocks_per_page_);
  if (first >= end) return;
  {
    MutexLock lock(shared_->mu);
    Shared::Page& slot = shared_->pages[page];
    slot.first_block = first;
    slot.end_block = end;
  }
  for (PoolJob& helper : helpers_) helper.Post();
}

absl::StatusOr<std::vector<std::uint64_t>> PageLoader::Load(std::uint64_t page) {
  const std::uint64_t ahead = core_.config.pool_threads == 0 ? 0 : kMaxAhead;
  // Pages are requested in order, each once. Their frames are free: at most kMaxAhead pages are
  // ahead.
  for (; requested_end_ <= page + ahead; ++requested_end_) LoadAhead(requested_end_);
  // If no job has begun this page, the caller loads it, so the scan progresses without a pool.
  shared_->Work(core_, page);
  MutexLock lock(shared_->mu);
  const auto slot = shared_->pages.find(page);
  if (slot == shared_->pages.end()) return std::vector<std::uint64_t>();  // beyond the range
  while (slot->second.state != Shared::State::kDone) shared_->done.Wait(shared_->mu);
  LoadedPage loaded = std::move(slot->second.loaded);
  shared_->pages.erase(slot);
  if (!loaded.status.ok()) return loaded.status;
  return std::move(loaded.incarnations);
}

}  // namespace ebb::internal
