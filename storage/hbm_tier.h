#pragma once

// Encoded blocks in a GPU's memory: the private first level of one client process (docs/hbm.md).
// An index and an order of its own; no node hears of it. It never touches the slab: whoever has a
// block moves its bytes.
//
// Threads: any. Ownership: the slab is the caller's and outlives all blocks; a block's room is free
// again when it has left the tier and its last holder is gone.

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "common/block_key.h"
#include "common/codec_spec.h"
#include "storage/slot_tier.h"

namespace hadal {

// A block with what its reader must know before it looks at the bytes.
struct HbmBlock {
  std::shared_ptr<SlotBlock> slot;  // without the planes that were dropped
  CodecSpec codec;
  uint8_t dropped_planes = 0;
  Precision precision;
  uint32_t token_count = 0;
  uint64_t first_token_index = UINT64_MAX;
  uint64_t token_digest = 0;  // 0: unknown
};

struct HbmStats {
  uint64_t capacity_bytes = 0, used_bytes = 0;
  uint64_t blocks = 0, hits = 0, evicted_blocks = 0;
};

class HbmTier {
 public:
  // Blocks that one reserve looks at, at most.
  static constexpr int kVictimsPerReserveMax = 256;

  explicit HbmTier(absl::Span<std::byte> slab) : slots_(std::make_shared<SlotTier>(slab)) {}

  // The time of the tier, which every touch moves on.
  uint64_t now() const;

  // Room for a block, made by evicting the least recently used ones that nobody holds and that were
  // not touched since `began`: a request that is larger than the tier keeps what it began with,
  // and does not push its own blocks out. Null where that is not enough.
  std::shared_ptr<SlotBlock> reserve(uint32_t bytes, uint64_t began);

  // From now on it is found. A block of the key that is at least as precise stays instead, and
  // learns of the new one's tokens.
  void commit(const BlockKey& key, HbmBlock block);

  // Holds and touches; nothing where the block is less precise than `least`, or not known to be of
  // these tokens: its node may know.
  std::optional<HbmBlock> find(const BlockKey& key, const Precision& least, uint64_t token_digest);

  // What a reader found damaged: only if the key still has that one.
  void remove(const BlockKey& key, const std::shared_ptr<SlotBlock>& slot);
  void remove(const BlockKey& key);

  HbmStats stats() const;

 private:
  struct Entry {
    BlockKey key;
    HbmBlock block;
    uint64_t touched;
  };
  using Order = std::list<Entry>;  // most recently used first

  // With mutex_ held.
  bool evict_one(uint64_t began, int& looked_at);
  void erase(Order::iterator entry);

  const std::shared_ptr<SlotTier> slots_;
  mutable std::mutex mutex_;
  Order order_;
  absl::flat_hash_map<BlockKey, Order::iterator> index_;
  uint64_t now_ = 0, hits_ = 0, evicted_blocks_ = 0;
};

}  // namespace hadal
