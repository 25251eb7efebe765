#pragma once

// Which pins live under which lease, until when. It knows nothing of blocks: whoever takes pins out
// of it gives them back to the index.
//
// Threads: any. Bounds: kLeasesMax leases, each of at most kLeaseMax.

#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"
#include "storage/block_index.h"

namespace hadal {

class LeaseTable {
 public:
  static constexpr size_t kLeasesMax = 1 << 16;

  // The number of the lease, 0 where the table is full; `pins` are then untouched.
  uint64_t add(std::vector<PinRef>& pins, absl::Time expires);

  // The pins of a lease, which is gone then; none where it is unknown.
  std::vector<PinRef> take(uint64_t lease);

  // The pins of every lease that has expired by `now`.
  std::vector<PinRef> take_expired(absl::Time now);

 private:
  struct Lease {
    std::vector<PinRef> pins;
    std::multimap<absl::Time, uint64_t>::iterator expiry;
  };

  std::mutex mutex_;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, Lease> leases_;
  std::multimap<absl::Time, uint64_t> expiries_;
};

}  // namespace hadal
