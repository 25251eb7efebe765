#include "storage/dram_tier.h"

#include <utility>

namespace hadal {

// Counted apart from the pointer: the count is read with acquire, so that whoever finds a block
// unused may reuse its bytes.
struct DramBlock::Hold {
  explicit Hold(std::shared_ptr<DramBlock> held) : block(std::move(held)) {
    block->holds_.fetch_add(1, std::memory_order_relaxed);
  }
  ~Hold() { block->holds_.fetch_sub(1, std::memory_order_release); }

  std::shared_ptr<DramBlock> block;
};

std::shared_ptr<const void> DramBlock::hold(std::shared_ptr<DramBlock> block) {
  return std::make_shared<Hold>(std::move(block));
}

DramBlock::~DramBlock() {
  const std::lock_guard lock(tier_->mutex_);
  tier_->allocator_.free(offset_);
}

absl::Span<std::byte> DramBlock::bytes() { return tier_->slab_.subspan(offset_, size_bytes_); }

uint64_t DramBlock::slab_bytes() const {
  constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;
  return (uint64_t{size_bytes_} + kGranule - 1) / kGranule * kGranule;
}

void DramBlock::shrink(uint32_t bytes) {
  const std::lock_guard lock(tier_->mutex_);
  tier_->allocator_.shrink(offset_, bytes);
  size_bytes_ = bytes;
}

std::shared_ptr<DramBlock> DramTier::reserve(uint32_t bytes) {
  std::optional<uint64_t> offset;
  {
    const std::lock_guard lock(mutex_);
    offset = allocator_.allocate(bytes);
  }
  if (!offset.has_value()) return nullptr;
  return std::make_shared<DramBlock>(shared_from_this(), *offset, bytes);
}

uint64_t DramTier::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return allocator_.used_bytes();
}

}  // namespace hadal
