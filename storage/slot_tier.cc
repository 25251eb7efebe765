#include "storage/slot_tier.h"

#include <utility>

namespace hadal {

// Counted apart from the pointer: the count is read with acquire, so that whoever finds a block
// unused may reuse its bytes.
struct SlotBlock::Hold {
  explicit Hold(std::shared_ptr<SlotBlock> held) : block(std::move(held)) {
    block->holds_.fetch_add(1, std::memory_order_relaxed);
  }
  ~Hold() { block->holds_.fetch_sub(1, std::memory_order_release); }

  std::shared_ptr<SlotBlock> block;
};

std::shared_ptr<const void> SlotBlock::hold(std::shared_ptr<SlotBlock> block) {
  return std::make_shared<Hold>(std::move(block));
}

SlotBlock::~SlotBlock() {
  const std::lock_guard lock(tier_->mutex_);
  tier_->allocator_.free(offset_);
}

absl::Span<std::byte> SlotBlock::bytes() { return tier_->slab_.subspan(offset_, size_bytes_); }

uint64_t SlotBlock::slab_bytes() const {
  constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;
  return (uint64_t{size_bytes_} + kGranule - 1) / kGranule * kGranule;
}

void SlotBlock::shrink(uint32_t bytes) {
  const std::lock_guard lock(tier_->mutex_);
  tier_->allocator_.shrink(offset_, bytes);
  size_bytes_ = bytes;
}

std::shared_ptr<SlotBlock> SlotTier::reserve(uint32_t bytes) {
  std::optional<uint64_t> offset;
  {
    const std::lock_guard lock(mutex_);
    offset = allocator_.allocate(bytes);
  }
  if (!offset.has_value()) return nullptr;
  return std::make_shared<SlotBlock>(shared_from_this(), *offset, bytes);
}

uint64_t SlotTier::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return allocator_.used_bytes();
}

}  // namespace hadal
