#pragma once

// Decides what leaves which tier, and when. Pure: no locks, no I/O, no clock of its own, no state
// that changes; BlockIndex and TieredStore hold the state and do the work.
//
// The order is LRU with leaves first. A lookup touches a prefix from its leaf to its root, so that
// the root is the most recent of them and a prefix loses its end before its beginning: what is left
// of an evicted prefix is still a prefix.

#include <cstddef>
#include <cstdint>

namespace hadal {

struct EvictionLimits {
  double high_watermark = 0.95;      // of capacity_bytes
  double low_watermark = 0.85;       // of capacity_bytes
  double pinned_max_fraction = 0.5;  // of capacity_bytes
  uint64_t capacity_bytes = 0;       // of the slab
  bool has_nvme = false;
};

// What is known of a block when its turn to go has come.
struct EvictionFacts {
  bool pinned = false;    // by a lease
  bool in_use = false;    // by a read, a send or a queued NVMe write
  bool replaced = false;  // a put of the same key is in flight
  bool on_nvme = false;
  bool offered = false;  // to NVMe, and not stored there since
};

enum class EvictionVerdict : uint8_t {
  keep,    // not now: look at it again after everything else
  demote,  // offer it to NVMe first; evict where NVMe has no room
  evict,
};

class EvictionPolicy {
 public:
  // Blocks that one reserve looks at: beyond it the put is refused rather than kept waiting.
  static constexpr int kVictimsPerReserveMax = 256;

  explicit EvictionPolicy(const EvictionLimits& limits) : limits_(limits) {}

  // Bytes that should leave the slab before `wanted_bytes` come. Above the high watermark, down to
  // the low one; `evicting` says that an earlier call has begun and not reached it.
  uint64_t bytes_to_free(uint64_t used_bytes, uint64_t wanted_bytes, bool evicting) const;

  EvictionVerdict judge(const EvictionFacts& facts) const;

  bool may_pin(uint64_t pinned_bytes, uint64_t wanted_bytes) const;

  // The i-th index to touch of a prefix of `count` keys.
  static size_t touch_order(size_t i, size_t count) { return count - 1 - i; }

 private:
  const EvictionLimits limits_;
};

}  // namespace hadal
