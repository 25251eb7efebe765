#include "storage/hbm_tier.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace hadal {
namespace {

constexpr uint64_t kGranule = SlabAllocator::kGranuleBytes;

BlockKey key_of(int number) {
  BlockKey key;
  key.bytes[0] = static_cast<uint8_t>(number);
  key.bytes[1] = static_cast<uint8_t>(number >> 8);
  return key;
}

class HbmTierTest : public ::testing::Test {
 protected:
  HbmTierTest() : slab_(8 * kGranule), tier_(absl::MakeSpan(slab_)) {}

  // False where there is no room.
  bool put(int number, Precision precision = {5, 4}, uint32_t bytes = kGranule) {
    HbmBlock block;
    block.slot = tier_.reserve(bytes, tier_.now());
    if (!block.slot) return false;
    block.precision = precision;
    tier_.commit(key_of(number), std::move(block));
    return true;
  }
  std::optional<HbmBlock> find(int number, Precision least = {}, uint64_t digest = 0) {
    return tier_.find(key_of(number), least, digest);
  }

  std::vector<std::byte> slab_;
  HbmTier tier_;
};

TEST_F(HbmTierTest, FindsWhatWasCommittedAndNothingElse) {
  EXPECT_FALSE(find(1).has_value());
  std::shared_ptr<SlotBlock> slot = tier_.reserve(100, tier_.now());
  ASSERT_NE(slot, nullptr);
  EXPECT_FALSE(find(1).has_value());
  HbmBlock block;
  block.slot = slot;
  block.token_count = 7;
  block.token_digest = 5;
  block.precision = {4, 3};
  tier_.commit(key_of(1), block);
  const auto found = find(1);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->slot, slot);
  EXPECT_EQ(found->token_count, 7u);
  EXPECT_TRUE(find(1, {4, 3}, 5).has_value());
  EXPECT_FALSE(find(1, {5, 3}, 0).has_value());
  EXPECT_FALSE(find(1, {}, 6).has_value()) << "of other tokens";
  EXPECT_FALSE(find(2).has_value());
  EXPECT_EQ(tier_.stats().hits, 2u);
}

TEST_F(HbmTierTest, TokensThatAreNotKnownAreTheNodesBusiness) {
  ASSERT_TRUE(put(1));
  EXPECT_TRUE(find(1).has_value());
  EXPECT_FALSE(find(1, {}, 5).has_value());
  HbmBlock known;
  known.slot = tier_.reserve(kGranule, tier_.now());
  known.precision = {5, 4};
  known.token_digest = 5;
  tier_.commit(key_of(1), std::move(known));
  EXPECT_TRUE(find(1, {}, 5).has_value());
  EXPECT_FALSE(find(1, {}, 6).has_value());
}

TEST_F(HbmTierTest, TheLeastRecentlyUsedGoesFirst) {
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(put(i));
  EXPECT_EQ(tier_.stats().evicted_blocks, 0u);
  EXPECT_TRUE(find(0).has_value());
  ASSERT_TRUE(put(8));
  ASSERT_TRUE(put(9, {}, 2 * kGranule));  // needs two that lie side by side
  EXPECT_TRUE(find(0).has_value());
  EXPECT_FALSE(find(1).has_value());
  EXPECT_FALSE(find(2).has_value());
  EXPECT_FALSE(find(3).has_value());
  EXPECT_TRUE(find(4).has_value());
  EXPECT_EQ(tier_.stats().blocks, 7u);
  EXPECT_EQ(tier_.stats().evicted_blocks, 3u);
  EXPECT_EQ(tier_.stats().used_bytes, 8 * kGranule);
}

TEST_F(HbmTierTest, HeldBlocksStayAndMakeNoRoom) {
  std::vector<HbmBlock> held;
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(put(i));
    held.push_back(*find(i));
  }
  EXPECT_FALSE(put(8));
  EXPECT_EQ(tier_.stats().blocks, 8u);
  held.erase(held.begin() + 5);
  EXPECT_TRUE(put(8));
  EXPECT_FALSE(find(5).has_value());
  EXPECT_FALSE(put(9, {}, 9 * kGranule)) << "larger than the slab";
  // One that is removed while it is held keeps its room until it is let go.
  tier_.remove(key_of(0));
  EXPECT_FALSE(find(0).has_value());
  EXPECT_EQ(tier_.stats().used_bytes, 8 * kGranule);
  held.clear();
  EXPECT_EQ(tier_.stats().used_bytes, 7 * kGranule);
}

TEST_F(HbmTierTest, ARequestDoesNotPushOutItsOwnBlocks) {
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(put(i));
  const uint64_t began = tier_.now();
  EXPECT_TRUE(find(1).has_value());
  EXPECT_TRUE(find(3).has_value());
  for (int i = 0; i < 6; ++i) {
    HbmBlock block;
    block.slot = tier_.reserve(kGranule, began);
    ASSERT_NE(block.slot, nullptr) << i;
    tier_.commit(key_of(10 + i), std::move(block));
  }
  EXPECT_EQ(tier_.reserve(kGranule, began), nullptr);
  EXPECT_TRUE(find(1).has_value());
  EXPECT_TRUE(find(3).has_value());
  EXPECT_NE(tier_.reserve(kGranule, tier_.now()), nullptr);
}

TEST_F(HbmTierTest, AMorePreciseBlockReplacesALessPreciseOne) {
  ASSERT_TRUE(put(1, {3, 3}));
  const auto first = find(1);
  ASSERT_TRUE(put(1, {5, 4}));
  EXPECT_EQ(find(1)->precision, (Precision{5, 4}));
  ASSERT_TRUE(put(1, {4, 4}));
  EXPECT_EQ(find(1)->precision, (Precision{5, 4}));
  EXPECT_EQ(tier_.stats().blocks, 1u);
  HbmBlock dropped;  // as precise, though it lacks a plane that the other never had
  dropped.slot = tier_.reserve(kGranule, tier_.now());
  dropped.precision = {5, 3};
  dropped.dropped_planes = 1;
  tier_.commit(key_of(1), std::move(dropped));
  EXPECT_EQ(find(1)->precision, (Precision{5, 4}));
  // A reader of the first one finds it damaged: the one that took its place stays.
  tier_.remove(key_of(1), first->slot);
  EXPECT_TRUE(find(1).has_value());
  tier_.remove(key_of(1), find(1)->slot);
  EXPECT_FALSE(find(1).has_value());
}

// Against a model: whatever is done, blocks do not overlap, and room is neither lost nor made up.
TEST_F(HbmTierTest, RandomUseKeepsBlocksApart) {
  std::mt19937 random(1);
  std::vector<std::shared_ptr<SlotBlock>> held;
  for (int step = 0; step < 20000; ++step) {
    const int number = static_cast<int>(random() % 12);
    switch (random() % 4) {
      case 0:
      case 1:
        put(number, {static_cast<uint8_t>(1 + random() % 8), 4},
            static_cast<uint32_t>(1 + random() % (3 * kGranule)));
        break;
      case 2:
        if (const auto found = find(number); found.has_value()) held.push_back(found->slot);
        break;
      default:
        if (random() % 2 == 0) {
          tier_.remove(key_of(number));
        } else if (!held.empty()) {
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(random() % held.size()));
        }
    }
    if (held.size() > 4) held.erase(held.begin());
    std::vector<std::shared_ptr<SlotBlock>> all = held;
    for (int i = 0; i < 12; ++i) {
      if (const auto found = find(i); found.has_value()) all.push_back(found->slot);
    }
    std::vector<const SlotBlock*> owners(8, nullptr);
    uint64_t used = 0;
    for (const auto& slot : all) {
      const auto first = static_cast<size_t>(slot->bytes().data() - slab_.data()) / kGranule;
      const size_t count = slot->slab_bytes() / kGranule;
      for (size_t i = first; i < first + count; ++i) {
        used += owners[i] == nullptr ? kGranule : 0;
        ASSERT_TRUE(owners[i] == nullptr || owners[i] == slot.get());
        owners[i] = slot.get();
      }
    }
    ASSERT_EQ(tier_.stats().used_bytes, used);
  }
}

}  // namespace
}  // namespace hadal
