#pragma once

// A store over a RocksDB directory of its own, which tests close, edit and open again.

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "storage/nvme_tier.h"
#include "tests/storage/test_blocks.h"

namespace hadal::test {

inline constexpr uint64_t kMiB = 1u << 20;

// For an NvmeTier that no store owns.
class QuietListener final : public NvmeListener {
 public:
  bool on_wanted(const NvmeRecord&) override { return true; }
  bool on_written(const NvmeRecord&) override { return true; }
  void on_persisted(const BlockKey&, uint64_t) override {}
  bool on_dropped(const BlockKey&, uint64_t) override { return true; }
  void on_lost(const BlockKey&, uint64_t) override {}
};

class NvmeStoreTest : public ::testing::Test {
 protected:
  NvmeStoreTest() {
    config_.nvme.path = dir_.path() + "/nvme";
    config_.nvme.capacity_bytes = 256 * kMiB;
    config_.nvme.memtable_bytes = 8 * kMiB;
    config_.nvme.flush_interval = absl::Milliseconds(100);
    config_.nvme.free_space_min_fraction = 0.0;
  }

  std::unique_ptr<TieredStore> open() {
    absl::StatusOr<std::unique_ptr<TieredStore>> store =
        TieredStore::open(config_, slab_.span(), clock_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  std::unique_ptr<TieredStore> open_again(std::unique_ptr<TieredStore> store) {
    store.reset();
    return open();
  }

  static NvmeRecord record_of(const TestBlock& block) {
    NvmeRecord record;
    record.key = block.offer.key;
    record.generation = 1;
    record.layout_hash = block.offer.layout_hash;
    record.bytes = static_cast<uint32_t>(block.bytes.size());
    record.precision = block.offer.precision;
    return record;
  }

  // A directory with these bytes under these keys, whatever they are.
  void write_directory(const std::vector<TestBlock>& blocks) {
    NvmeTier::Recovery recovery;
    const auto tier = NvmeTier::open(config_.nvme, clock_, recovery).value();
    QuietListener listener;
    tier->start(listener);
    for (const TestBlock& block : blocks) {
      ASSERT_TRUE(tier->offer({record_of(block), block.bytes, nullptr, clock_.now()}));
    }
    ASSERT_TRUE(tier->flush(absl::Seconds(20)).ok());
    tier->stop();
  }

  // Reads from NVMe, since nothing is in DRAM after a restart.
  void expect_whole(TieredStore& store, uint64_t number) {
    const absl::StatusOr<StoredBlock> block = read(store, number);
    ASSERT_TRUE(block.ok()) << number << ": " << block.status();
    EXPECT_TRUE(same_bytes(block->bytes, make_block(number).bytes)) << number;
  }

  TempDir dir_;
  SystemClock clock_;
  Slab slab_{16 * kMiB};
  TieredStoreConfig config_;
};

}  // namespace hadal::test
