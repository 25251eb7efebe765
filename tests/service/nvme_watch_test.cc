// What the log says where blocks do not reach NVMe, and how often.

#include "service/nvme_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hadal {
namespace {

using ::testing::HasSubstr;

Config config_with(double free_space_min_fraction) {
  Config config = default_config();
  config.store.nvme.path = "/";
  config.store.nvme.free_space_min_fraction = free_space_min_fraction;
  return config;
}

TEST(NvmeWatchTest, TellsAtOnceAndThenOnceInAPause) {
  NvmeWatch watch(config_with(0), absl::Minutes(1));
  const absl::Time start = absl::UnixEpoch();
  StoreStats stats;
  EXPECT_FALSE(watch.look(stats, start).has_value());
  stats.nvme_dropped_blocks = 3;
  auto trouble = watch.look(stats, start);
  ASSERT_TRUE(trouble.has_value());
  EXPECT_EQ(trouble->dropped_blocks, 3u);
  EXPECT_THAT(trouble->reason, HasSubstr("raise nvme.queue_max"));

  EXPECT_FALSE(watch.look(stats, start + absl::Hours(1)).has_value());
  stats.nvme_dropped_blocks = 5;
  stats.nvme_write_errors = 1;
  ASSERT_TRUE(watch.look(stats, start + absl::Hours(2)).has_value());
  stats.nvme_dropped_blocks = 9;
  EXPECT_FALSE(watch.look(stats, start + absl::Hours(2) + absl::Seconds(59)).has_value());
  trouble = watch.look(stats, start + absl::Hours(2) + absl::Seconds(60));
  ASSERT_TRUE(trouble.has_value());
  EXPECT_EQ(trouble->dropped_blocks, 4u);
  EXPECT_EQ(trouble->write_errors, 0u);
}

TEST(NvmeWatchTest, TellsOfDamageOnce) {
  NvmeWatch watch(config_with(1.0), absl::Minutes(1));
  StoreStats stats;
  stats.nvme_repairs = 1;
  stats.nvme_lost_blocks = 7;
  const auto trouble = watch.look(stats, absl::UnixEpoch());
  ASSERT_TRUE(trouble.has_value());
  EXPECT_EQ(trouble->repairs, 1u);
  EXPECT_EQ(trouble->lost_blocks, 7u);
  EXPECT_THAT(trouble->reason, HasSubstr("test the disk"));
  EXPECT_FALSE(watch.look(stats, absl::UnixEpoch() + absl::Hours(1)).has_value());
}

TEST(NvmeWatchTest, SaysWhatIsWrong) {
  StoreStats stats;
  stats.nvme_write_errors = 1;
  EXPECT_THAT(NvmeWatch(config_with(0)).look(stats, absl::Now())->reason,
              HasSubstr("writing failed"));
  EXPECT_THAT(NvmeWatch(config_with(1.0)).look(stats, absl::Now())->reason,
              HasSubstr("% free, nvme.free_space_min_fraction is 1; free space"));
}

}  // namespace
}  // namespace hadal
