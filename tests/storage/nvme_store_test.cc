// The tiered store over real RocksDB directories: write-behind, promotion, restart, bounds, damage.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "tests/storage/test_blocks.h"

namespace hadal::test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1u << 20;

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

TEST_F(NvmeStoreTest, ServesAfterARestart) {
  {
    const std::unique_ptr<TieredStore> store = open();
    for (uint64_t i = 0; i < 50; ++i) ASSERT_TRUE(put(*store, make_block(i)).ok());
    const absl::StatusOr<uint64_t> persisted = store->flush(absl::Seconds(20));
    ASSERT_TRUE(persisted.ok()) << persisted.status();
    EXPECT_EQ(*persisted, 50);
    EXPECT_EQ(store->stats().oldest_unpersisted_age, absl::ZeroDuration());
  }
  const std::unique_ptr<TieredStore> store = open();
  EXPECT_EQ(store->stats().recovered_blocks, 50);
  EXPECT_EQ(store->stats().persisted_blocks, 50);
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(look(*store, i).tier, Tier::nvme);
    expect_whole(*store, i);
    EXPECT_EQ(look(*store, i).tier, Tier::dram);
  }
}

}  // namespace
}  // namespace hadal::test
