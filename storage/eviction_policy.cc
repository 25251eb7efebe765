#include "storage/eviction_policy.h"

namespace hadal {

uint64_t EvictionPolicy::bytes_to_free(uint64_t used_bytes, uint64_t wanted_bytes,
                                       bool evicting) const {
  const auto capacity = static_cast<double>(limits_.capacity_bytes);
  const auto high = static_cast<uint64_t>(capacity * limits_.high_watermark);
  const auto low = static_cast<uint64_t>(capacity * limits_.low_watermark);
  const uint64_t after = used_bytes + wanted_bytes;
  const uint64_t limit = evicting ? low : high;
  return after > limit ? after - low : 0;
}

EvictionVerdict EvictionPolicy::judge(const EvictionFacts& facts) const {
  if (facts.pinned || facts.in_use || facts.replaced) return EvictionVerdict::keep;
  if (limits_.has_nvme && !facts.on_nvme && !facts.offered) return EvictionVerdict::demote;
  return EvictionVerdict::evict;
}

bool EvictionPolicy::may_pin(uint64_t pinned_bytes, uint64_t wanted_bytes) const {
  const double limit = static_cast<double>(limits_.capacity_bytes) * limits_.pinned_max_fraction;
  return static_cast<double>(pinned_bytes) + static_cast<double>(wanted_bytes) <= limit;
}

}  // namespace hadal
