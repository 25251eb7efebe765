#pragma once

// Registered memory for blocks in flight, cut into slots on demand.
//
// A slot goes back to the pool only when the last copy of its hold is dropped. The network keeps a
// copy for as long as it may touch the bytes, so the slot of an expired operation stays out of use
// until the transport has let go of it. Threads: any. Ownership: a hold keeps the pool alive.

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "transport/transport.h"

namespace hadal {

enum class StagingUse : uint8_t { put = 0, get = 1 };

struct StagingSlot {
  absl::Span<std::byte> bytes;  // exactly as many as asked
  std::shared_ptr<void> hold;
};

class StagingPool : public std::enable_shared_from_this<StagingPool> {
 public:
  // Errors as Transport::allocate.
  static absl::StatusOr<std::shared_ptr<StagingPool>> create(Transport& transport,
                                                             size_t capacity_bytes);

  // Nothing where no run is long enough now. Puts together take at most half of the pool, unless
  // one block alone needs more, so that offloading never keeps a get from starting.
  std::optional<StagingSlot> acquire(size_t bytes, StagingUse use);

  size_t capacity_bytes() const { return memory_->bytes().size(); }
  // All of it: for a GPU that shall read and write it too.
  absl::Span<std::byte> memory() const { return memory_->bytes(); }
  size_t used_bytes() const;

  // Called, under the pool's lock, each time a slot comes back; nullptr ends it.
  void set_on_free(std::function<void()> on_free);

  // True where every slot came back in time.
  bool wait_idle(absl::Duration at_most);

 private:
  explicit StagingPool(std::shared_ptr<RegisteredMemory> memory);
  struct Run {
    size_t offset;
    size_t bytes;
    StagingUse use;
  };
  void give_back(const Run& run);

  const std::shared_ptr<RegisteredMemory> memory_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::map<size_t, size_t> free_;  // offset -> bytes, neighbours always merged
  size_t used_by_[2] = {0, 0};     // by StagingUse
  std::function<void()> on_free_;
};

}  // namespace hadal
