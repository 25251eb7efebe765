#pragma once

// Which blocks are where, and in which state: the only owner of block state. A fixed number of
// entries over shards, each with its lock, hash chains and LRU order of what DRAM holds.
//
// It is not the policy (EvictionPolicy judges) and moves no bytes.
// Threads: any. No I/O under a shard's lock. Lock order: shard, then slab or NVMe queue.
// Ownership: an entry holds its SlotBlock; bytes given to readers hold it too, so a block that is
// replaced or removed stays where it is until its last reader has gone.

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "common/block_ops.h"
#include "storage/eviction_policy.h"
#include "storage/nvme_tier.h"
#include "storage/slot_tier.h"

namespace hadal {

// A lease's share in one entry. `birth` tells the entry from a later one of the same key.
struct PinRef {
  BlockKey key;
  uint64_t birth = 0;
  uint64_t pinned_bytes = 0;  // of the slab, now or once read; 0 where another pinned it before
};

// What a read found. At most one of the two is set.
struct IndexRead {
  std::shared_ptr<SlotBlock> block;
  StoredBlock answer;  // of `block`, held
  NvmeRecord record;   // ordinal 0: none
  uint64_t layout_hash = 0;
  uint64_t other_digest = 0;  // of what is stored, where the reader asks for other tokens; else 0
};

struct IndexPublish {
  BlockKey key;
  uint64_t generation = 0;
  uint64_t layout_hash = 0;
  uint64_t raw_bytes = 0;  // of the header
  uint32_t flags = 0;      // of the header
  BlockOrigin origin;
  std::shared_ptr<SlotBlock> block;
};

struct IndexRemoved {
  bool removed = false;
  uint64_t nvme_ordinal = 0;  // of the copy to erase; 0: none
};

struct IndexCounts {
  uint64_t dram_blocks = 0, dram_bytes = 0, dram_raw_bytes = 0;
  uint64_t nvme_blocks = 0, nvme_bytes = 0, nvme_raw_bytes = 0;
  uint64_t persisted_blocks = 0;
  uint64_t pinned_bytes = 0;  // of the slab, now or once read
};

// A DRAM copy to be written to NVMe.
struct IndexDemotion {
  NvmeRecord record;
  absl::Span<const std::byte> bytes;
  std::shared_ptr<const void> hold;
};

class BlockIndex {
 public:
  // Offers a block to NVMe; false where there is no room. Called under a shard's lock.
  using Demote = std::function<bool(IndexDemotion)>;

  // What an index of so many blocks allocates when it is made.
  static uint64_t memory_bytes(uint64_t max_blocks);

  // Throws std::bad_alloc where there is no such memory.
  explicit BlockIndex(uint64_t max_blocks);
  ~BlockIndex();

  // Answers and touches. Pins where `pin` is not null and the key is present, and fills it.
  KeyAnswer lookup(const BlockKey& key, PinRef* pin);
  void unpin(const PinRef& pin);

  // Makes the key "being written". AlreadyExists, Aborted, FailedPrecondition as
  // TieredStore::reserve; ResourceExhausted where the index is full and nothing may leave it.
  absl::Status begin_put(const PutOffer& offer);
  // Ends the put: readers see the new block at once. Answers the NVMe copy that it replaces, 0 for
  // none. A null block gives the put up, and leaves what was stored before.
  uint64_t end_put(IndexPublish publish);

  // Finds, holds and touches; not where the stored tokens are known to be others.
  IndexRead read(const ReadRequest& request);

  // False where the entry is gone or of another generation.
  bool attach_dram(const BlockKey& key, uint64_t generation, std::shared_ptr<SlotBlock> block);
  bool attach_nvme(const NvmeRecord& record);
  // What a restart found: adds the entry, unless there is a newer one or the shard is full.
  bool recover(const NvmeRecord& record);
  // The copy `ordinal` is gone. False where the entry's copy is another.
  bool detach_nvme(const BlockKey& key, uint64_t ordinal);
  void mark_persisted(const BlockKey& key, uint64_t ordinal);

  struct Evicted {
    bool any = false;
    uint64_t bytes = 0;  // of the slab
  };
  // Looks at the block whose turn it is and does as the policy judges.
  Evicted evict_next(const EvictionPolicy& policy, const Demote& demote);

  // What is asked of an entry under its shard's lock, by callers that decide.
  struct View {
    const BlockKey& key;
    const KeyAnswer answer;
    uint64_t generation;
    SlotBlock* dram;  // null: not in DRAM
    bool on_nvme;
    bool persisted;
    bool pinned;
    uint32_t pins;
    const BlockOrigin& origin;
  };
  // Under the lock, where the key is present. False where it is not. `visit` may shrink a block
  // that is not in use.
  bool visit(const BlockKey& key, const std::function<void(const View&)>& visit);
  // Shard by shard until `visit` answers false. Keys that are only being written are left out.
  void visit_all(const std::function<bool(const View&)>& visit) const;

  // Takes the entry out of every tier, unless pinned where `unless_pinned`. A generation of 0
  // matches any.
  IndexRemoved remove(const BlockKey& key, uint64_t generation, bool unless_pinned);

  // A hold and a record of a block that DRAM holds and NVMe does not; hold is null otherwise.
  IndexDemotion demotion(const BlockKey& key, uint64_t generation);

  IndexCounts counts() const;

 private:
  struct Entry;
  struct Shard;

  Shard& shard_of(const BlockKey& key) const;

  uint64_t shard_count_ = 1;
  std::unique_ptr<Shard[]> shards_;
  mutable std::atomic<uint64_t> tick_{1};
  std::atomic<uint64_t> next_birth_{1};
};

}  // namespace hadal
