#include "storage/eviction_policy.h"

#include <gtest/gtest.h>

namespace hadal {
namespace {

EvictionPolicy make(bool has_nvme) {
  return EvictionPolicy({.high_watermark = 0.9,
                         .low_watermark = 0.5,
                         .pinned_max_fraction = 0.25,
                         .capacity_bytes = 1000,
                         .has_nvme = has_nvme});
}

TEST(EvictionPolicy, FreesFromHighToLowWatermark) {
  const EvictionPolicy policy = make(false);
  EXPECT_EQ(policy.bytes_to_free(800, 100, false), 0);
  EXPECT_EQ(policy.bytes_to_free(801, 100, false), 401);
  // Once begun, it goes on below the high watermark.
  EXPECT_EQ(policy.bytes_to_free(600, 100, true), 200);
  EXPECT_EQ(policy.bytes_to_free(400, 100, true), 0);
}

TEST(EvictionPolicy, KeepsWhatIsHeld) {
  const EvictionPolicy policy = make(false);
  EXPECT_EQ(policy.judge({.pinned = true}), EvictionVerdict::keep);
  EXPECT_EQ(policy.judge({.in_use = true}), EvictionVerdict::keep);
  EXPECT_EQ(policy.judge({.replaced = true}), EvictionVerdict::keep);
  EXPECT_EQ(policy.judge({}), EvictionVerdict::evict);
}

TEST(EvictionPolicy, DemotesOnceBeforeItEvicts) {
  const EvictionPolicy policy = make(true);
  EXPECT_EQ(policy.judge({}), EvictionVerdict::demote);
  EXPECT_EQ(policy.judge({.offered = true}), EvictionVerdict::evict);
  EXPECT_EQ(policy.judge({.on_nvme = true}), EvictionVerdict::evict);
}

TEST(EvictionPolicy, CapsPins) {
  const EvictionPolicy policy = make(false);
  EXPECT_TRUE(policy.may_pin(200, 50));
  EXPECT_FALSE(policy.may_pin(200, 51));
}

TEST(EvictionPolicy, TouchesFromLeafToRoot) {
  EXPECT_EQ(EvictionPolicy::touch_order(0, 3), 2);
  EXPECT_EQ(EvictionPolicy::touch_order(2, 3), 0);
}

}  // namespace
}  // namespace hadal
