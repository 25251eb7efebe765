#pragma once

// An addressable medium, host memory or a GPU's: reserves room in a slab, and gives it back when
// the last holder lets go. Mechanism only: it knows no keys, no order of eviction, and never
// touches the slab.
//
// Threads: any. Ownership: the slab is the caller's; a SlotBlock keeps its tier alive, so blocks
// may outlive the store (but not the slab).

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/types/span.h"
#include "common/codec_spec.h"
#include "storage/slab_allocator.h"

namespace hadal {

class SlotTier;

// One contiguous run of the slab with an encoded block in it. Bytes do not change once published;
// planes are dropped only while no reader holds it (BlockIndex sees to that).
class SlotBlock {
 public:
  SlotBlock(std::shared_ptr<SlotTier> tier, uint64_t offset, uint32_t bytes)
      : tier_(std::move(tier)), offset_(offset), size_bytes_(bytes) {}
  ~SlotBlock();
  SlotBlock(const SlotBlock&) = delete;
  SlotBlock& operator=(const SlotBlock&) = delete;

  absl::Span<std::byte> bytes();
  uint32_t size_bytes() const { return size_bytes_; }
  // Of the slab: the size rounded up to whole granules.
  uint64_t slab_bytes() const;

  // Gives the tail beyond `bytes` back to the slab.
  void shrink(uint32_t bytes);

  // True while a hold of this block lives. Seeing false, the caller sees all that holders did.
  bool in_use() const { return holds_.load(std::memory_order_acquire) > 0; }

  // A reference for a reader: the bytes stay until its last copy is destroyed.
  static std::shared_ptr<const void> hold(std::shared_ptr<SlotBlock> block);

  uint8_t dropped_planes = 0;
  Precision precision;

 private:
  struct Hold;

  const std::shared_ptr<SlotTier> tier_;
  const uint64_t offset_;
  uint32_t size_bytes_;
  std::atomic<uint32_t> holds_{0};
};

class SlotTier : public std::enable_shared_from_this<SlotTier> {
 public:
  explicit SlotTier(absl::Span<std::byte> slab) : slab_(slab), allocator_(slab.size()) {}

  // Null where no free run is long enough.
  std::shared_ptr<SlotBlock> reserve(uint32_t bytes);

  uint64_t capacity_bytes() const { return allocator_.capacity_bytes(); }
  uint64_t used_bytes() const;

 private:
  friend class SlotBlock;  // gives its run back

  const absl::Span<std::byte> slab_;
  mutable std::mutex mutex_;
  SlabAllocator allocator_;  // guarded by mutex_
};

}  // namespace hadal
