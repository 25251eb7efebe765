#include "storage/hbm_tier.h"

#include <utility>

#include "common/block_ops.h"

namespace hadal {

// What nobody else holds. Holders come from find() alone, under the mutex, so none can come
// meanwhile; one that goes meanwhile is noticed the next time.
bool HbmTier::evict_one(uint64_t began, int& looked_at) {
  for (auto at = order_.end(); at != order_.begin() && looked_at < kVictimsPerReserveMax;) {
    --at;
    ++looked_at;
    if (at->touched > began) return false;
    if (at->block.slot.use_count() > 1) continue;
    erase(at);
    ++evicted_blocks_;
    return true;
  }
  return false;
}

void HbmTier::erase(Order::iterator entry) {
  index_.erase(entry->key);
  order_.erase(entry);
}

uint64_t HbmTier::now() const {
  const std::lock_guard lock(mutex_);
  return now_;
}

std::shared_ptr<SlotBlock> HbmTier::reserve(uint32_t bytes, uint64_t began) {
  if (bytes > slots_->capacity_bytes()) return nullptr;
  std::shared_ptr<SlotBlock> slot = slots_->reserve(bytes);
  if (slot) return slot;
  const std::lock_guard lock(mutex_);
  for (int looked_at = 0; !slot && evict_one(began, looked_at);) slot = slots_->reserve(bytes);
  return slot;
}

void HbmTier::commit(const BlockKey& key, HbmBlock block) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found != index_.end()) {
    HbmBlock& stored = found->second->block;
    if (stored.precision.satisfies(block.precision) &&
        !are_other_tokens(stored.token_digest, block.token_digest)) {
      if (stored.token_digest == 0) stored.token_digest = block.token_digest;
      return;
    }
    erase(found->second);
  }
  order_.push_front({key, std::move(block), ++now_});
  index_[key] = order_.begin();
}

std::optional<HbmBlock> HbmTier::find(const BlockKey& key, const Precision& least,
                                      uint64_t token_digest) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return std::nullopt;
  const HbmBlock& block = found->second->block;
  if (!block.precision.satisfies(least)) return std::nullopt;
  if (token_digest != 0 && block.token_digest != token_digest) return std::nullopt;
  order_.splice(order_.begin(), order_, found->second);
  found->second->touched = ++now_;
  ++hits_;
  return block;
}

void HbmTier::remove(const BlockKey& key, const std::shared_ptr<SlotBlock>& slot) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end() || found->second->block.slot != slot) return;
  erase(found->second);
}

void HbmTier::remove(const BlockKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = index_.find(key);
  if (found == index_.end()) return;
  erase(found->second);
}

HbmStats HbmTier::stats() const {
  HbmStats stats;
  stats.capacity_bytes = slots_->capacity_bytes();
  stats.used_bytes = slots_->used_bytes();
  const std::lock_guard lock(mutex_);
  stats.blocks = order_.size();
  stats.hits = hits_;
  stats.evicted_blocks = evicted_blocks_;
  return stats;
}

}  // namespace hadal
