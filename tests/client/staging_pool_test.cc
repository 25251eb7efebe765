#include "client/staging_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace hadal {
namespace {

class StagingPoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    transport_ = Transport::create_loopback("staging-pool-test", TransportConfig()).value();
    pool_ = StagingPool::create(*transport_, 16 * 4096).value();
  }

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<StagingPool> pool_;
};

TEST_F(StagingPoolTest, SlotComesBackWithTheLastHold) {
  std::optional<StagingSlot> slot = pool_->acquire(16 * 4096, StagingUse::get);
  ASSERT_TRUE(slot.has_value());
  std::shared_ptr<const void> network = slot->hold;
  slot.reset();
  EXPECT_FALSE(pool_->acquire(1, StagingUse::get).has_value());
  int freed = 0;
  pool_->set_on_free([&freed] { ++freed; });
  network.reset();
  EXPECT_EQ(freed, 1);
  EXPECT_TRUE(pool_->acquire(1, StagingUse::get).has_value());
  EXPECT_TRUE(pool_->wait_idle(absl::Seconds(1)));
}

TEST_F(StagingPoolTest, NeighboursMergeInAnyOrder) {
  std::vector<std::optional<StagingSlot>> slots;
  for (int i = 0; i < 16; ++i) slots.push_back(pool_->acquire(4096, StagingUse::get));
  EXPECT_FALSE(pool_->acquire(4096, StagingUse::get).has_value());
  for (const int i : {3, 1, 2, 0, 15, 9, 7, 8, 5, 4, 6, 11, 10, 13, 14, 12}) slots[i].reset();
  EXPECT_EQ(pool_->used_bytes(), 0u);
  EXPECT_TRUE(pool_->acquire(16 * 4096, StagingUse::get).has_value());
}

TEST_F(StagingPoolTest, PutsLeaveHalfForGets) {
  const std::optional<StagingSlot> first = pool_->acquire(8 * 4096, StagingUse::put);
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(pool_->acquire(1, StagingUse::put).has_value());
  EXPECT_TRUE(pool_->acquire(8 * 4096, StagingUse::get).has_value());
}

TEST_F(StagingPoolTest, OneLargeBlockMayTakeMoreThanHalf) {
  EXPECT_TRUE(pool_->acquire(12 * 4096, StagingUse::put).has_value());
}

}  // namespace
}  // namespace hadal
