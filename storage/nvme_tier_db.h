#pragma once

// The RocksDB directory of the NVMe tier: opening, its format, its metadata rows. Private to
// nvme_tier*.
//
// Column families: "data" maps a write ordinal (8 bytes, big endian) to the bytes of a block, FIFO;
// "meta" maps a key to a MetaRow, levelled, flushed atomically with "data".
// Threads: as RocksDB. Ownership: NvmeDb owns handles and database, and closes them in that order.

#include <rocksdb/db.h>
#include <rocksdb/listener.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "storage/nvme_tier.h"

namespace hadal {

inline constexpr uint32_t kNvmeFormatVersion = 2;

inline constexpr int kDataMemtablesMax = 3;

// Sizes that follow from NvmeConfig. capacity >= data limit + memtables on their way + metadata.
struct NvmeSizes {
  uint64_t capacity_bytes = 0;
  uint64_t memtable_bytes = 0;
  uint64_t data_limit_bytes = 0;  // FIFO drops the oldest file above it

  // InvalidArgument where the capacity is too small to be useful.
  static absl::StatusOr<NvmeSizes> make(const NvmeConfig& config);
};

struct NvmeDb {
  NvmeDb() = default;
  ~NvmeDb();
  NvmeDb(const NvmeDb&) = delete;
  NvmeDb& operator=(const NvmeDb&) = delete;

  NvmeSizes sizes;
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* unused = nullptr;  // "default" must exist
  rocksdb::ColumnFamilyHandle* data = nullptr;
  rocksdb::ColumnFamilyHandle* meta = nullptr;
};

// A damaged directory of ours is repaired, or started empty; `damage` then says so. Small files are
// not merged until set_merging. Errors as TieredStore::open.
absl::StatusOr<std::unique_ptr<NvmeDb>> open_nvme_db(
    const NvmeConfig& config, const std::shared_ptr<rocksdb::EventListener>& listener,
    NvmeDamage& damage);

// Every metadata row whose ordinal a live data file covers, oldest first; reads no values. Rows of
// others are deleted. `recovery.damage` says where rows or their data were damaged. Answers the
// ordinal after the last that was ever used; Unavailable where damaged metadata cannot be replaced.
absl::StatusOr<uint64_t> recover_records(NvmeDb& db, NvmeTier::Recovery& recovery);

// Whether small files of a slow trickle are merged; otherwise their number has no bound. A merge
// takes the newest files, of at most a memtable together.
rocksdb::Status set_merging(NvmeDb& db, bool merging);

// The smallest ordinal that a live data file covers, UINT64_MAX where there is no such file.
uint64_t oldest_live_ordinal(rocksdb::DB& db);

std::string ordinal_key(uint64_t ordinal);
rocksdb::Slice meta_key(const BlockKey& key);
std::string meta_row(const NvmeRecord& record);
// Of a row; 0 where it is damaged.
uint64_t row_ordinal(const rocksdb::Slice& row);

}  // namespace hadal
