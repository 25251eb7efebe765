#pragma once

// The store's face: a DRAM tier over a slab given by the caller, over an NVMe tier. Bytes are
// opaque but for the block header, which says where planes may be dropped. The store never decodes.
//
// Threads: any. lookup, reserve, commit and a read from DRAM never block on I/O; a read from NVMe
// is answered by a storage thread. Threads owned: "hadal-nvme-w" (write-behind), "hadal-nvme-r<n>".
// Errors: a miss is NotFound. Counters are in stats().

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/block_ops.h"
#include "common/clock.h"

namespace hadal {

// RocksDB ends the process where it finds less room while it opens its files.
inline constexpr uint64_t kNvmeOpenSpaceMinBytes = 8u << 20;

struct NvmeConfig {
  std::string path;             // empty: no NVMe tier
  uint64_t capacity_bytes = 0;  // hard bound of what the directory holds
  uint64_t memtable_bytes = 256u << 20;
  absl::Duration flush_interval = absl::Seconds(2);
  // Write-behind; beyond it demotions are dropped and counted. Half of the slab at most is used,
  // since a queued block stays in DRAM.
  uint64_t queue_max_bytes = 512u << 20;
  int reader_threads = 2;
  double free_space_min_fraction = 0.05;  // of the file system: below it nothing is offloaded
};

struct TieredStoreConfig {
  double high_watermark = 0.95;  // of the slab: eviction starts above
  double low_watermark = 0.85;   // and goes down to
  double pinned_max_fraction =
      0.5;  // of the slab that leases may pin; a lookup beyond pins nothing
  uint64_t index_max_blocks = 1u << 20;  // fixed capacity of the index
  NvmeConfig nvme;
};

struct TierStats {
  Tier tier = Tier::none;
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;     // slab bytes handed out, or file bytes
  uint64_t encoded_bytes = 0;  // of blocks, without rounding
  uint64_t raw_bytes = 0;      // that those blocks encode
  uint64_t blocks = 0;
  uint64_t hits = 0;
  uint64_t evicted_blocks = 0;
};

struct StoreStats {
  std::vector<TierStats> tiers;
  uint64_t lookups = 0, lookup_keys = 0, lookup_hits = 0;
  uint64_t puts_stored = 0, puts_duplicate = 0, puts_refused = 0;
  uint64_t reads = 0, read_misses = 0;
  uint64_t bad_blocks = 0;        // found damaged and dropped
  uint64_t token_collisions = 0;  // puts and reads of a key that holds other tokens
  uint64_t stored_raw_blocks_non_finite = 0;
  uint64_t raw_bytes = 0;      // what the blocks put so far encode
  uint64_t encoded_bytes = 0;  // what they were encoded to
  uint64_t pinned_bytes = 0;
  uint64_t nvme_queue_bytes = 0, nvme_dropped_blocks = 0, nvme_write_errors = 0;
  uint64_t nvme_lost_blocks = 0;   // copies that damage or a failing disk took since the start
  uint64_t nvme_repairs = 0;       // times that the directory was damaged since and made good
  uint64_t nvme_db_reads = 0;      // reads that reached RocksDB: a miss adds none
  uint64_t persisted_blocks = 0;   // survive kill -9
  uint64_t recovered_blocks = 0;   // found at start
  uint64_t recovery_repaired = 0;  // 1 where the directory was damaged at start and made good
  uint64_t recovery_lost = 0;      // 1 where blocks were lost by that damage
  absl::Duration oldest_unpersisted_age;  // 0 where all is persisted
};

// Blocks in DRAM that would be lost with the process, each counted once.
struct UnpersistedBlocks {
  uint64_t too_large = 0;  // for the NVMe tier, whose memtable must hold a block
  uint64_t in_use = 0;     // held by a reader, or queued for NVMe
  uint64_t waiting = 0;    // written and not yet flushed, or not yet written

  uint64_t all() const { return too_large + in_use + waiting; }
};

// What a store takes beside its slab.
struct StoreMemory {
  uint64_t index_bytes = 0;     // at start
  uint64_t memtable_bytes = 0;  // under a load of puts
};

// What the put of a block said beside its bytes, as in PutOffer: kept in the index and on NVMe. All
// zero, and an index of UINT64_MAX, where it said nothing.
struct BlockOrigin {
  BlockKey parent;
  BlockKey route;
  uint64_t first_token_index = UINT64_MAX;
  uint64_t token_digest = 0;
};

// One block for people: hadalctl blocks.
struct BlockListing {
  BlockKey key;
  KeyAnswer answer;
  BlockOrigin origin;
  bool persisted = false;
  uint32_t pins = 0;
};

class TieredStore {
 public:
  // `slab` is borrowed, registered by the caller and outlives the store. Recovers the NVMe tier's
  // index. Errors say what, where and what to do: InvalidArgument (config), PermissionDenied or
  // NotFound (directory), FailedPrecondition (directory of another format version). Throws
  // std::bad_alloc where memory_of() is not to be had.
  static absl::StatusOr<std::unique_ptr<TieredStore>> open(const TieredStoreConfig& config,
                                                           absl::Span<std::byte> slab,
                                                           const Clock& clock);
  static StoreMemory memory_of(const TieredStoreConfig& config);
  virtual ~TieredStore() = default;

  // See BlockHandler (transport/block_server.h) for the meaning of these six. A lease lasts at most
  // 10 minutes. A read's max_bytes of 0 is no bound. Where put and stored block have a token digest
  // each, and they differ, reserve answers FailedPrecondition and a read misses. report_bad answers
  // false for a bad block that only NVMe holds: it goes a moment later, when a storage thread has
  // checked it. A block in DRAM it checks on the caller's thread, as fast as that reads memory.
  virtual LookupAnswer lookup(absl::Span<const BlockKey> keys, const LookupOptions& options) = 0;
  virtual void release(uint64_t lease) = 0;
  virtual absl::StatusOr<PutSlot> reserve(const PutOffer& offer) = 0;
  virtual absl::Status commit(uint64_t ticket) = 0;
  virtual void read(const ReadRequest& request,
                    std::function<void(absl::StatusOr<StoredBlock>)> reply) = 0;
  virtual bool report_bad(const BlockKey& key, uint64_t generation) = 0;

  // Drops blocks from every tier unless pinned; answers how many went. Empty span: all.
  virtual uint64_t evict(absl::Span<const BlockKey> keys) = 0;

  // Drops the next planes of a block in DRAM down to `least`, freeing their extents.
  // FailedPrecondition below the block's floor or while it is read.
  virtual absl::Status drop_planes(const BlockKey& key, const Precision& least) = 0;

  virtual std::vector<BlockListing> list(size_t at_most) const = 0;
  // One for every key, in the order asked; absent where it is not stored. Touches nothing.
  virtual std::vector<BlockListing> describe(absl::Span<const BlockKey> keys) const = 0;

  // Writes what DRAM holds and NVMe does not, and flushes, until done or the time is up. Answers
  // the blocks that are persisted afterwards. A block that NVMe refuses, or that is held, keeps no
  // other from being written: unpersisted() tells what was left.
  virtual absl::StatusOr<uint64_t> flush(absl::Duration at_most) = 0;

  // Looks at every block: for the end of a flush, not for each scrape.
  virtual UnpersistedBlocks unpersisted() const = 0;

  virtual StoreStats stats() const = 0;
};

}  // namespace hadal
