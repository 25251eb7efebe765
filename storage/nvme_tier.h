#pragma once

// The NVMe tier: a directory of encoded blocks that survives the process. RocksDB by write ordinal,
// FIFO, with a small metadata column family so that a restart knows what is there without reading
// values (docs/storage.md). It keeps no index: the owner of block state is BlockIndex.
//
// Threads: any may call. Owned: one writer "hadal-nvme-w", readers "hadal-nvme-r<n>". Listener and
// load callbacks run on them and on no caller's thread, with no lock of this class held.
// Errors: a write that cannot be done is dropped and counted; nothing blocks a caller.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/block_key.h"
#include "common/clock.h"
#include "common/codec_spec.h"
#include "storage/tiered_store.h"

namespace hadal {

// One block as NVMe holds it. `ordinal` is its locator: unique, ascending in the order of writes.
struct NvmeRecord {
  BlockKey key;
  uint64_t ordinal = 0;  // 0: none
  uint64_t generation = 0;
  uint64_t layout_hash = 0;
  uint64_t raw_bytes = 0;  // that it encodes
  uint32_t bytes = 0;
  uint32_t flags = 0;  // BlockFlags of its header
  uint8_t dropped_planes = 0;
  Precision precision;
  BlockOrigin origin;
};

// What opening a directory had to make good.
struct NvmeDamage {
  bool repaired = false;
  bool lost = false;  // and blocks were lost by it; false where nothing but the manifest was bad
};

struct NvmeWrite {
  NvmeRecord record;  // ordinal is assigned when written
  absl::Span<const std::byte> bytes;
  std::shared_ptr<const void> hold;  // keeps `bytes`
  absl::Time since;                  // when the block was put
};

// Told what became of blocks. Calls for one key come in the order of its writes.
class NvmeListener {
 public:
  virtual ~NvmeListener() = default;
  // False where the block was replaced or evicted while it waited: it is not written.
  virtual bool on_wanted(const NvmeRecord& record) = 0;
  // Written, readable, not yet safe from kill -9. False where it is not wanted any more.
  virtual bool on_written(const NvmeRecord& record) = 0;
  virtual void on_persisted(const BlockKey& key, uint64_t ordinal) = 0;
  // The file that held it is gone. True where `ordinal` was the newest copy of the key.
  virtual bool on_dropped(const BlockKey& key, uint64_t ordinal) = 0;
  // Damage or a failing disk took this copy while the tier was open.
  virtual void on_lost(const BlockKey& key, uint64_t ordinal) = 0;
};

struct NvmeStats {
  uint64_t capacity_bytes = 0;
  uint64_t file_bytes = 0;
  uint64_t queue_bytes = 0;
  uint64_t dropped_blocks = 0;  // never written: queue full, disk full or write error
  uint64_t write_errors = 0;
  uint64_t repairs = 0;    // of a directory found damaged while it was open
  uint64_t db_reads = 0;   // lookups that reached RocksDB
  bool suspended = false;  // disk full or failing: nothing is offloaded
  absl::Duration oldest_unpersisted_age;
};

class NvmeTier {
 public:
  struct Recovery {
    std::vector<NvmeRecord> records;  // oldest first
    NvmeDamage damage;
  };
  // Bytes on success; NotFound: the block is gone; DataLoss: damaged.
  using LoadDone = std::function<void(absl::StatusOr<absl::Span<const std::byte>>)>;

  // Creates the directory where its parent exists. `clock` outlives the tier. Threads start with
  // start(), so that the owner can index what was recovered first. Errors as TieredStore::open.
  static absl::StatusOr<std::unique_ptr<NvmeTier>> open(const NvmeConfig& config,
                                                        const Clock& clock, Recovery& recovery);
  // Of memtables when all are full; 0 without an NVMe tier.
  static uint64_t memtable_bytes(const NvmeConfig& config);
  virtual ~NvmeTier() = default;

  // Once. `listener` outlives the tier.
  virtual void start(NvmeListener& listener) = 0;

  // Ends the threads and answers waiting reads with Unavailable. The listener is not called after.
  virtual void stop() = 0;

  // Queues a write. False where the queue is full or the tier is suspended; counted.
  virtual bool offer(NvmeWrite write) = 0;

  // True where a write of this many bytes would be queued now.
  virtual bool has_room(uint32_t bytes) const = 0;

  // Larger blocks are refused: a memtable must hold one.
  virtual uint64_t block_max_bytes() const = 0;

  // Queues a read; `done` comes on a reader thread. False where the queue is full; `done` is then
  // not called.
  virtual bool load(const NvmeRecord& record, LoadDone done) = 0;

  // Forgets a copy, so that a restart does not find it. Its space comes back with its file.
  virtual void erase(const BlockKey& key, uint64_t ordinal) = 0;

  // Writes the queue, flushes, and waits until all is persisted. DeadlineExceeded, or Unavailable
  // where the tier is suspended.
  virtual absl::Status flush(absl::Duration at_most) = 0;

  virtual NvmeStats stats() const = 0;
};

}  // namespace hadal
