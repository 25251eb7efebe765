#include "storage/lease_table.h"

#include <utility>

namespace hadal {

uint64_t LeaseTable::add(std::vector<PinRef>& pins, absl::Time expires) {
  const std::lock_guard lock(mutex_);
  if (leases_.size() >= kLeasesMax) return 0;
  const uint64_t number = next_++;
  leases_[number] = {std::move(pins), expiries_.emplace(expires, number)};
  return number;
}

std::vector<PinRef> LeaseTable::take(uint64_t lease) {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return {};
  std::vector<PinRef> pins = std::move(found->second.pins);
  expiries_.erase(found->second.expiry);
  leases_.erase(found);
  return pins;
}

std::vector<PinRef> LeaseTable::take_expired(absl::Time now) {
  std::vector<PinRef> pins;
  const std::lock_guard lock(mutex_);
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    const auto found = leases_.find(expiries_.begin()->second);
    pins.insert(pins.end(), found->second.pins.begin(), found->second.pins.end());
    leases_.erase(found);
    expiries_.erase(expiries_.begin());
  }
  return pins;
}

}  // namespace hadal
