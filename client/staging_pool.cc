#include "client/staging_pool.h"

#include <chrono>
#include <utility>

namespace hadal {
namespace {

constexpr size_t kSlotAlignBytes = 4096;  // a page: neighbours never share a cache line or a page

}  // namespace

absl::StatusOr<std::shared_ptr<StagingPool>> StagingPool::create(Transport& transport,
                                                                 size_t capacity_bytes) {
  absl::StatusOr<std::shared_ptr<RegisteredMemory>> memory = transport.allocate(capacity_bytes);
  if (!memory.ok()) return memory.status();
  return std::shared_ptr<StagingPool>(new StagingPool(*std::move(memory)));
}

StagingPool::StagingPool(std::shared_ptr<RegisteredMemory> memory) : memory_(std::move(memory)) {
  free_.emplace(0, capacity_bytes());
}

std::optional<StagingSlot> StagingPool::acquire(size_t bytes, StagingUse use) {
  const size_t rounded = (bytes + kSlotAlignBytes - 1) / kSlotAlignBytes * kSlotAlignBytes;
  Run run = {0, rounded, use};
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t used_by_puts = used_by_[static_cast<size_t>(StagingUse::put)];
    if (use == StagingUse::put && used_by_puts > 0 &&
        used_by_puts + rounded > capacity_bytes() / 2) {
      return std::nullopt;
    }
    auto it = free_.begin();
    while (it != free_.end() && it->second < rounded) ++it;
    if (it == free_.end()) return std::nullopt;
    run.offset = it->first;
    if (it->second > rounded) free_.emplace(run.offset + rounded, it->second - rounded);
    free_.erase(it);
    used_by_[static_cast<size_t>(use)] += rounded;
  }
  std::byte* const start = memory_->bytes().data() + run.offset;
  std::shared_ptr<void> hold(start,
                             [pool = shared_from_this(), run](void*) { pool->give_back(run); });
  return StagingSlot{{start, bytes}, std::move(hold)};
}

void StagingPool::give_back(const Run& run) {
  std::lock_guard<std::mutex> lock(mutex_);
  used_by_[static_cast<size_t>(run.use)] -= run.bytes;
  auto here = free_.emplace(run.offset, run.bytes).first;
  const auto next = std::next(here);
  if (next != free_.end() && here->first + here->second == next->first) {
    here->second += next->second;
    free_.erase(next);
  }
  if (here != free_.begin()) {
    const auto before = std::prev(here);
    if (before->first + before->second == here->first) {
      before->second += here->second;
      free_.erase(here);
    }
  }
  if (on_free_) on_free_();
  if (used_by_[0] + used_by_[1] == 0) idle_.notify_all();
}

size_t StagingPool::used_bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return used_by_[0] + used_by_[1];
}

void StagingPool::set_on_free(std::function<void()> on_free) {
  std::lock_guard<std::mutex> lock(mutex_);
  on_free_ = std::move(on_free);
}

bool StagingPool::wait_idle(absl::Duration at_most) {
  std::unique_lock<std::mutex> lock(mutex_);
  return idle_.wait_for(lock, absl::ToChronoNanoseconds(at_most),
                        [this] { return used_by_[0] + used_by_[1] == 0; });
}

}  // namespace hadal
